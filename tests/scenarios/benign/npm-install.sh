#!/bin/bash
# Packages with life-cycle scripts as they are usual, installed, listed, rebuilt and run.
mkdir -p /tmp/packages/native/src /tmp/packages/plain
cat > /tmp/packages/native/package.json <<'JSON'
{"name":"native","version":"2.0.0","scripts":{"preinstall":"node -e 'process.exit(0)'","install":"make -s -C src || echo fallback","postinstall":"node check.js"}}
JSON
printf 'all:\n\tgcc -shared -fPIC -o native.so native.c\n' > /tmp/packages/native/src/Makefile
echo 'int answer(void) { return 42; }' > /tmp/packages/native/src/native.c
echo 'require("fs").accessSync("src/native.so"); console.log(process.platform, process.arch);' > /tmp/packages/native/check.js
echo 'module.exports = () => "native";' > /tmp/packages/native/index.js
echo '{"name":"plain","version":"1.0.0","dependencies":{}}' > /tmp/packages/plain/package.json
echo 'module.exports = () => "plain";' > /tmp/packages/plain/index.js
cat > package.json <<'JSON'
{"name":"app","version":"1.0.0","scripts":{"test":"node test.js","build":"node -e \"require('fs').writeFileSync('out.js', '1')\""}}
JSON
npm install --offline --no-audit --no-fund --install-links --foreground-scripts /tmp/packages/plain /tmp/packages/native
echo 'console.log(require("native")(), require("plain")());' > test.js
npm test
npm run build
npm ls
npm pack --dry-run
npm ci --offline --no-audit --no-fund --install-links
