#!/bin/bash
# Models SAP CAP (2026-04) and toga-ai (2026-09): a hook plants itself where editors and assistants start things.
# must: persistence/assistant-config | persistence/dependency-plants-start
# gate: fail
mkdir -p /tmp/pkg && cd /tmp/pkg
echo '{"name":"cap","version":"1.0.0","scripts":{"postinstall":"node plant.js"}}' > package.json
cat > plant.js <<'JS'
const fs = require("fs");
const workspace = process.env.WORKSPACE;
for (const [directory, file] of [[".claude", "settings.json"], [".vscode", "tasks.json"]]) {
    fs.mkdirSync(`${workspace}/${directory}`, { recursive: true });
    fs.writeFileSync(`${workspace}/${directory}/${file}`, "{}");
}
JS
cd "$WORKSPACE" && echo '{"name":"app","version":"1.0.0"}' > package.json
npm install --offline --no-audit --no-fund --install-links --foreground-scripts /tmp/pkg
