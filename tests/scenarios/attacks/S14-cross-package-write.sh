#!/bin/bash
# Models event-stream (2018-09): the hook of one package rewrites a file of another.
# must: impact/dependency-changes-another
# gate: warn | fail
mkdir -p /tmp/victim /tmp/pkg
echo '{"name":"victim","version":"1.0.0"}' > /tmp/victim/package.json
echo 'module.exports = 1;' > /tmp/victim/index.js
echo '{"name":"flatmap","version":"0.1.1","scripts":{"postinstall":"node patch.js"}}' > /tmp/pkg/package.json
echo 'require("fs").appendFileSync(process.env.WORKSPACE + "/node_modules/victim/index.js", "// steals\n");' > /tmp/pkg/patch.js
echo '{"name":"app","version":"1.0.0"}' > package.json
npm install --offline --no-audit --no-fund --install-links /tmp/victim
npm install --offline --no-audit --no-fund --install-links --foreground-scripts /tmp/pkg
