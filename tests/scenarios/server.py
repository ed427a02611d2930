"""The attacker's side of the scenarios: HTTP, names and bare connections, on loopback only.

Port 8000 serves the scripts that scenarios fetch and takes what they post; port 53 answers every name with 127.0.0.1;
the other ports accept and wait. It prints one line when it is ready.
"""

import os
import socket
import socketserver
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FILES = "/mnt/served"


class Http(BaseHTTPRequestHandler):
    """Serves what a scenario has put into its directory; posts are read and forgotten."""

    def do_GET(self):
        path = os.path.join(FILES, os.path.basename(self.path))
        try:
            with open(path, "rb") as file:
                body = file.read()
            self.send_response(200)
        except OSError:
            body = b"{}\n"
            self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_PUT = do_POST

    def log_message(self, *arguments):
        pass


class Names(socketserver.BaseRequestHandler):
    """Answers A with 127.0.0.1 and everything else with no record."""

    def handle(self):
        data, sock = self.request
        if len(data) < 12:
            return
        end = 12
        while end < len(data) and data[end]:
            end += data[end] + 1
        question = data[12 : end + 5]
        is_a = question[-4:-2] == b"\x00\x01"
        header = data[:2] + struct.pack("!HHHHH", 0x8180, 1, int(is_a), 0, 0)
        answer = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + bytes([127, 0, 0, 1]) if is_a else b""
        sock.sendto(header + question + answer, self.client_address)


def hold(port):
    """Accepts connections and reads until they end; answers a shell's first bytes with `exit`."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("0.0.0.0", port))
    listener.listen(64)

    def serve(connection):
        try:
            connection.sendall(b"id\nexit\n")
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
        except OSError:
            pass
        connection.close()

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


def main():
    os.makedirs(FILES, exist_ok=True)
    servers = [ThreadingHTTPServer(("0.0.0.0", port), Http) for port in (80, 8000)]
    servers.append(socketserver.ThreadingUDPServer(("0.0.0.0", 53), Names))
    for server in servers:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
    for port in (443, 3333, 4444, 6443):
        threading.Thread(target=hold, args=(port,), daemon=True).start()
    print("ready", flush=True)
    threading.Event().wait()


main()
