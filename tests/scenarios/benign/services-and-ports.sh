#!/bin/bash
# Daemons of an integration test: listeners on odd ports, a worker that outlives its starter, clients, timers, a load.
python3 -m http.server 18080 --bind 127.0.0.1 > /dev/null 2>&1 & server=$!
sleep 1
curl -s http://127.0.0.1:18080/ > /dev/null
python3 - <<'PY'
import socket, threading, urllib.request
listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(20)]
for listener in listeners:
    threading.Thread(target=lambda listener=listener: listener.accept(), daemon=True).start()
    socket.create_connection(listener.getsockname()).close()
datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagram.bind(("127.0.0.1", 0))
datagram.sendto(b"x", datagram.getsockname())
unix = socket.socket(socket.AF_UNIX)
unix.bind("/tmp/test.sock")
print(socket.gethostbyname("registry.example"), socket.gethostbyname("localhost"))
urllib.request.urlopen("http://127.0.0.1:8000/status").read()
PY
setsid sleep 1 & disown
nohup sleep 1 > /dev/null 2>&1 &
timeout 1 sh -c 'while :; do :; done'
curl -s -X POST -d '{"status":"ok"}' http://127.0.0.1:8000/report > /dev/null
curl -s -o /tmp/fixture.json https://127.0.0.1:443/ --max-time 1 || true
kill $server
