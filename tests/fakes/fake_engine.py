#!/usr/bin/python3
"""A container engine that misbehaves on request.

It speaks just enough of the Docker Engine API for the client's fault tests. The behaviour is chosen
by the container's or image's name in the request's path: inspecting a container named "hang" hangs.

It prints one line when it listens ("ready PORT") and ends when its standard input closes, so that a
test that dies leaves nothing behind.
"""
import argparse
import base64
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import urllib.parse

ID = "0123456789abcdef" * 4
FOREVER = 3600


def frame(stream, data):
    return struct.pack(">B3xI", stream, len(data)) + data


def answer(status, body, headers=(), length=None):
    if isinstance(body, (dict, list)):
        body = json.dumps(body).encode()
    head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body) if length is None else length}"]
    return "\r\n".join(head + list(headers)).encode() + b"\r\n\r\n" + body


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data):
    return b"%x\r\n" % len(data) + data + b"\r\n"


def container(name):
    return {
        "Id": ID,
        "Name": "/" + name,
        "Created": "2026-01-31T10:20:30.123456789Z",
        "State": {"Status": "running", "ExitCode": 0, "OOMKilled": False,
                  "StartedAt": "2026-01-31T11:20:30.5+01:00"},
        "Config": {"Image": "img", "Labels": {"sandboxd.id": "a" * 20, "sandboxd.cluster": "c"}},
    }


def element(number, labels):
    return {"Id": f"{number:064x}", "Names": [f"/n{number}"], "Image": "img", "State": "exited",
            "Status": f"Exited ({number}) 2 minutes ago", "Created": 1000 + number,
            "Labels": dict(labels, **{"sandboxd.id": "a" * 20, "sandboxd.cluster": "c"})}


def hostile_list():
    """Good, NUL in a label, five megabytes of labels, good."""
    items = [element(1, {}), element(2, {"x": "a\u0000b", "quote": "\\\"}{]["}),
             element(3, {"big": "x" * (5 << 20)}), element(4, {})]
    return json.dumps(items).encode()


def event(action, number):
    return json.dumps({"status": action, "id": ID, "Type": "container", "Action": action,
                       "Actor": {"ID": ID, "Attributes": {"sandboxd.id": "a" * 20,
                                                          "sandboxd.cluster": "c",
                                                          "exitCode": str(number)}},
                       "timeNano": 1700000000000000000 + number}).encode() + b"\n"


class Engine:
    def __init__(self, args):
        self.args = args
        self.requests = 0
        self.connections = 0
        self.stored = None
        self.removed = []

    # --- connections ---

    def serve(self, conn):
        self.connections += 1
        try:
            if self.args.tls:
                conn = self.args.context.wrap_socket(conn, server_side=True)
            stream = conn.makefile("rb")
            while self.one(conn, stream):
                pass
        except (OSError, ValueError):
            pass
        finally:
            try:
                conn.close()
            except OSError:
                pass

    def one(self, conn, stream):
        line = stream.readline(65536).decode()
        if not line:
            return False
        method, target, _ = line.split(" ", 2)
        length = 0
        while True:
            header = stream.readline(65536).decode().strip()
            if not header:
                break
            name, value = header.split(":", 1)
            if name.lower() == "content-length":
                length = int(value)
        body = stream.read(length)
        self.requests += 1
        url = urllib.parse.urlsplit(target)
        if url.path == "/version":
            conn.sendall(answer(200, {"Version": "99.1\x1b[31m", "ApiVersion": self.args.api,
                                      "MinAPIVersion": self.args.min_api}))
            return True
        if url.path == "/_ping":
            conn.sendall(answer(200, b"OK", ["Api-Version: " + self.args.api]))
            return True
        parts = url.path.split("/")
        if int(parts[1][3:]) < int(self.args.min_api[2:]):
            conn.sendall(answer(400, {"message": f"client version {parts[1][1:]} is too old. Minimum "
                                                 f"supported API version is {self.args.min_api}"}))
            return True
        if parts[2] == "volumes":
            conn.sendall(answer(201, {}))
            return True
        name = parts[3] if len(parts) > 3 else ""
        query = urllib.parse.parse_qs(url.query)
        if url.path.endswith("/containers/json"):
            name = "seeds" if "sandboxd.role=seed" in query["filters"][0] else "list"
        elif parts[2] == "images" and parts[3] == "sandboxd":
            conn.sendall(answer(200, {"Id": "sha256:1", "Config": {}}))
            return True
        elif query.get("name", [""])[0].startswith("sandboxd-seed-"):
            self.stored = None
            self.torn = query["name"][0].endswith("torn")
            conn.sendall(answer(201, {"Id": ID}))
            return True
        elif len(parts) > 4 and parts[4] == "archive":
            return self.archive(conn, method, body)
        elif method == "DELETE":
            self.removed.append(name[-2:])
            conn.sendall(answer(204, b""))
            return True
        elif parts[2] == "events":
            name = "events"
        elif url.path.endswith("/images/create"):
            name = "pull_" + query["fromImage"][0].split(":")[0]
        elif url.path.endswith("/containers/create"):
            name = "create_" + query["name"][0]
        elif len(parts) > 4 and parts[4] == "attach":
            name = "attach_" + name
        return getattr(self, "do_" + name, self.do_normal)(conn, parts, body)

    # --- behaviours: return True to keep the connection ---

    def do_normal(self, conn, parts, body):
        conn.sendall(answer(200, container(parts[1] + "-" + parts[3])))
        return True

    def do_count(self, conn, parts, body):
        conn.sendall(answer(200, dict(container("x"), Created="1970-01-01T00:00:%02dZ"
                                      % self.connections)))
        return True

    def do_stale(self, conn, parts, body):
        """Promise to keep the connection, then close it."""
        conn.sendall(answer(200, container("stale")))
        return False

    def do_removed(self, conn, parts, body):
        conn.sendall(answer(200, container(",".join(self.removed))))
        return True

    def do_seeds(self, conn, parts, body):
        mine = dict(element(7, {}), Id=ID, Created=1000000)
        recent = dict(element(8, {}), Created=1000000 - 500)
        old = dict(element(9, {}), Created=1000000 - 700)
        conn.sendall(answer(200, [old, mine, recent]))
        return True

    def archive(self, conn, method, body):
        """Keep what is put; tell its size, mode and time as the engine does."""
        if method == "PUT":
            self.stored = body
            conn.sendall(answer(200, b""))
            return True
        if self.stored is None:
            conn.sendall(answer(404, b"", length=0))
            return True
        stat = {"name": "tool", "size": int(self.stored[124:135], 8) - self.torn,
                "mode": int(self.stored[100:107], 8), "mtime": "1980-01-01T00:00:00Z",
                "linkTarget": ""}
        text = base64.b64encode(json.dumps(stat).encode()).decode()
        conn.sendall(answer(200, b"", ["X-Docker-Container-Path-Stat: " + text]))
        return True

    def do_hang(self, conn, parts, body):
        time.sleep(FOREVER)

    def do_half(self, conn, parts, body):
        conn.sendall(answer(200, b'{"Id": "0123', length=1000))
        return False

    def do_half_hang(self, conn, parts, body):
        conn.sendall(answer(200, b'{"Id": "0123', length=1000))
        time.sleep(FOREVER)

    def do_nothing(self, conn, parts, body):
        return False

    def do_trickle(self, conn, parts, body):
        """A byte every 50 ms: never idle, never done."""
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            conn.sendall(b" ")
            time.sleep(0.05)

    def do_e500(self, conn, parts, body):
        conn.sendall(answer(500, {"message": "boom\x07\x1b[2J\u00e9" + "x" * 5000}))
        return True

    def do_busy_freezer(self, conn, parts, body):
        """Cannot freeze, but at the third time."""
        self.freezes = getattr(self, "freezes", 0) + 1
        conn.sendall(answer(204, b"") if self.freezes == 3 else answer(500, {
            "message": "Cannot pause container x: OCI runtime pause failed: unable to freeze: unknown"}))
        return True

    def do_e503(self, conn, parts, body):
        conn.sendall(answer(503, b"<html>starting</html>"))
        return True

    def do_e400(self, conn, parts, body):
        conn.sendall(answer(400, {"message": "bad parameter"}))
        return True

    def do_e418(self, conn, parts, body):
        conn.sendall(answer(418, b"x" * (1 << 20)))
        return True

    def do_redirect(self, conn, parts, body):
        conn.sendall(answer(301, b"", ["Location: http://127.0.0.1:1/"]))
        return True

    def do_garbage(self, conn, parts, body):
        conn.sendall(os.urandom(100).replace(b"\n", b"x") + b"\r\n\r\n")
        return False

    def do_not_json(self, conn, parts, body):
        conn.sendall(answer(200, b"<html>hello</html>"))
        return True

    def do_wrong_json(self, conn, parts, body):
        conn.sendall(answer(200, {"Id": 7, "State": "running", "Config": [1, 2], "Name": None}))
        return True

    def do_endless(self, conn, parts, body):
        conn.sendall(CHUNKED)
        while True:
            conn.sendall(chunk(b"x" * 65536))

    def do_headers(self, conn, parts, body):
        conn.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            conn.sendall(b"X-Filler: " + b"y" * 1000 + b"\r\n")

    def do_create_bad_id(self, conn, parts, body):
        conn.sendall(answer(201, {"Id": "../../etc"}))
        return True

    def do_create_late(self, conn, parts, body):
        time.sleep(0.4)
        conn.sendall(answer(201, {"Id": "%064x" % (self.connections)}))
        return True

    def do_list(self, conn, parts, body):
        data = hostile_list()
        conn.sendall(CHUNKED)
        for at in range(0, len(data), 100003):
            conn.sendall(chunk(data[at:at + 100003]))
        conn.sendall(b"0\r\n\r\n")
        return True

    def do_events(self, conn, parts, body):
        data = event("die", 137) + b"not json\n" + event("oom", 0) + event("destroy", 3)
        conn.sendall(CHUNKED)
        for at in range(0, len(data), 7):
            conn.sendall(chunk(data[at:at + 7]))
        time.sleep(FOREVER if self.args.events_stay else 0)
        return False

    def pull(self, conn, lines):
        conn.sendall(CHUNKED)
        for line in lines:
            conn.sendall(chunk(json.dumps(line).encode() + b"\r\n"))
        conn.sendall(b"0\r\n\r\n")
        return True

    def do_pull_good(self, conn, parts, body):
        return self.pull(conn, [
            {"status": "Pulling from good"},
            {"status": "Downloading", "progressDetail": {"current": 5, "total": 10}, "id": "l"},
            {"status": "Status: Downloaded newer image"}])

    def do_pull_unknown(self, conn, parts, body):
        return self.pull(conn, [
            {"status": "Pulling from unknown"},
            {"errorDetail": {"message": "manifest for unknown:1 not found: manifest unknown"},
             "error": "x"}])

    def do_pull_denied(self, conn, parts, body):
        conn.sendall(answer(404, {"message": "pull access denied for denied, repository does not "
                                             "exist or may require 'docker login'"}))
        return True

    def do_pull_broken(self, conn, parts, body):
        return self.pull(conn, [{"status": "Pulling"}, {"error": "unexpected EOF"}])

    def do_pull_full(self, conn, parts, body):
        return self.pull(conn, [{"errorDetail": {"message": "failed to register layer: write /x: "
                                                            "no space left on device"}}])

    def do_pull_noise(self, conn, parts, body):
        """No JSON, wrong JSON, a value of two megabytes: decoration all the same."""
        conn.sendall(CHUNKED)
        for data in (b"}}{{ nonsense", b'{"errorDetail": 7}{"error": []}\r\n',
                     b'{"status": "' + b"x" * (2 << 20) + b'"}'):
            conn.sendall(chunk(data))
        conn.sendall(b"0\r\n\r\n")
        return True

    def do_pull_hang(self, conn, parts, body):
        time.sleep(FOREVER)

    def do_pull_cut(self, conn, parts, body):
        conn.sendall(CHUNKED + chunk(b'{"status":"Pulling"}\r\n'))
        return False

    def do_pull_slow(self, conn, parts, body):
        conn.sendall(CHUNKED)
        while True:
            conn.sendall(chunk(b'{"status":"Waiting"}\r\n'))
            time.sleep(0.02)

    UPGRADE = (b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n"
               b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n")

    def do_attach_frames(self, conn, parts, body):
        """The head and the frames arrive in pieces of one byte."""
        data = (self.UPGRADE + frame(1, b"out1") + frame(1, b"") + frame(2, b"err") +
                frame(1, b"out2") + frame(1, b"out3"))
        for at in range(len(data)):
            conn.sendall(data[at:at + 1])
        return False

    def do_attach_early(self, conn, parts, body):
        """Everything in one write, then silence."""
        conn.sendall(self.UPGRADE + frame(1, b"early") + frame(2, b"bird"))
        time.sleep(FOREVER)

    def do_attach_plain200(self, conn, parts, body):
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: x\r\n\r\n" + frame(1, b"ok"))
        return False

    def do_attach_echo(self, conn, parts, body):
        conn.sendall(self.UPGRADE)
        while True:
            data = conn.recv(65536)
            if not data:
                return False
            conn.sendall(frame(1, data))

    def do_attach_bad_frame(self, conn, parts, body):
        conn.sendall(self.UPGRADE + frame(1, b"good") + b"\x07bad bad bad")
        time.sleep(FOREVER)

    def do_attach_huge_frame(self, conn, parts, body):
        conn.sendall(self.UPGRADE + struct.pack(">B3xI", 1, 1 << 31))
        time.sleep(FOREVER)

    def do_attach_chunked(self, conn, parts, body):
        conn.sendall(CHUNKED)
        time.sleep(FOREVER)

    def do_attach_garbage(self, conn, parts, body):
        conn.sendall(b"SSH-2.0-OpenSSH\r\n")
        time.sleep(FOREVER)

    def do_attach_long_head(self, conn, parts, body):
        conn.sendall(b"HTTP/1.1 101 UPGRADED\r\n" + b"X: y\r\n" * 10000)
        time.sleep(FOREVER)

    def do_attach_conflict(self, conn, parts, body):
        conn.sendall(answer(409, {"message": "container is paused"}))
        return True

    def do_attach_hang(self, conn, parts, body):
        time.sleep(FOREVER)

    def do_attach_flood(self, conn, parts, body):
        """As fast as it goes, for measuring."""
        data = frame(1, b"z" * 32768) * 8
        conn.sendall(self.UPGRADE)
        for _ in range(4096):
            conn.sendall(data)
        return False


def make_certificates(folder):
    """A CA, a server certificate for 127.0.0.1 and a client certificate, by the openssl program."""
    def run(*command):
        subprocess.run(("openssl",) + command, check=True, cwd=folder, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    run("req", "-x509", *key, "-keyout", "ca-key.pem", "-out", "ca.pem", "-subj", "/CN=ca",
        "-days", "2")
    for name, subject in (("server", "IP:127.0.0.1"), ("client", "DNS:client")):
        with open(os.path.join(folder, name + ".ext"), "w", encoding="ascii") as f:
            f.write("subjectAltName=" + subject)
        run("req", *key, "-keyout", name + "-key.pem", "-out", name + ".csr", "-subj",
            "/CN=" + name)
        run("x509", "-req", "-in", name + ".csr", "-CA", "ca.pem", "-CAkey", "ca-key.pem",
            "-CAcreateserial", "-days", "2", "-extfile", name + ".ext", "-out", name + ".pem")
    os.replace(os.path.join(folder, "client.pem"), os.path.join(folder, "cert.pem"))
    os.replace(os.path.join(folder, "client-key.pem"), os.path.join(folder, "key.pem"))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", help="path of the unix socket; else TCP on 127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tls", help="folder for the certificates, which are made there")
    parser.add_argument("--api", default="1.41")
    parser.add_argument("--min-api", default="1.12")
    parser.add_argument("--events-stay", action="store_true")
    args = parser.parse_args()
    if args.tls:
        make_certificates(args.tls)
        args.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        args.context.load_cert_chain(os.path.join(args.tls, "server.pem"),
                                     os.path.join(args.tls, "server-key.pem"))
        args.context.load_verify_locations(os.path.join(args.tls, "ca.pem"))
        args.context.verify_mode = ssl.CERT_REQUIRED
    if args.socket:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(args.socket)
    else:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", args.port))
    listener.listen(64)
    engine = Engine(args)

    def accept():
        while True:
            conn, _ = listener.accept()
            threading.Thread(target=engine.serve, args=(conn,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    print("ready", 0 if args.socket else listener.getsockname()[1], flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
