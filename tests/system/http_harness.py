"""What the tests of the HTTP server share: the probe (tests/fakes/http_probe.c), a client on bare
sockets, and WebSocket frames.

The program is taken from $HTTP_PROBE, or is the newest build/*/tests/http_probe.
"""
import glob
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
LIMIT_S = 10


def probe_path():
    if os.environ.get("HTTP_PROBE"):
        return os.environ["HTTP_PROBE"]
    found = glob.glob(os.path.join(ROOT, "build", "*", "tests", "http_probe"))
    found += glob.glob(os.path.join(ROOT, "build", "tests", "http_probe"))
    if not found:
        raise unittest.SkipTest("http_probe is not built")
    return max(found, key=os.path.getmtime)


def wait_for(what, condition, limit=LIMIT_S):
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("not within %s s: %s" % (limit, what))


class Probe:
    def __init__(self, *flags, nofile=None, prefix=(), cwd=None):
        def limit():
            if nofile:
                resource.setrlimit(resource.RLIMIT_NOFILE, (nofile, nofile))

        self.proc = subprocess.Popen([*prefix, os.path.abspath(probe_path()), "--quiet=1", *flags],
                                     stdout=subprocess.PIPE, cwd=cwd, preexec_fn=limit)
        line = self.proc.stdout.readline().split()
        if not line:
            raise AssertionError("http_probe did not start")
        self.port = int(line[1])

    def stop(self, sig=signal.SIGTERM, limit=LIMIT_S):
        if self.proc.poll() is None:
            self.proc.send_signal(sig)
        try:
            code = self.proc.wait(limit)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
            raise
        finally:
            self.proc.stdout.close()
        return code

    def connect(self, timeout=LIMIT_S):
        return Client(socket.create_connection(("127.0.0.1", self.port), timeout))

    def get(self, target, **kw):
        with self.connect() as c:
            return c.request("GET", target, **kw)

    def stats(self):
        return json.loads(self.get("/stats").body)

    def memory(self):
        """Resident bytes; always 0 where the address sanitizer makes them meaningless."""
        with open(probe_path(), "rb") as f:
            if b"__asan_init" in f.read():
                return 0
        with open("/proc/%d/status" % self.proc.pid) as f:
            for line in f:
                if line.startswith("VmRSS"):
                    return int(line.split()[1]) * 1024

    def fds(self):
        return len(os.listdir("/proc/%d/fd" % self.proc.pid))


class Response:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)


class Client:
    """A connection that shows every byte."""

    def __init__(self, sock):
        self.sock, self.buf = sock, b""

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data if isinstance(data, bytes) else data.encode())

    def fill(self):
        data = self.sock.recv(65536)
        self.buf += data
        return bool(data)

    def until(self, mark):
        while mark not in self.buf:
            if not self.fill():
                raise EOFError("closed after %r" % self.buf[:200])
        part, self.buf = self.buf.split(mark, 1)
        return part

    def take(self, n):
        while len(self.buf) < n:
            if not self.fill():
                raise EOFError("closed after %d of %d bytes" % (len(self.buf), n))
        part, self.buf = self.buf[:n], self.buf[n:]
        return part

    def rest(self):
        while self.fill():
            pass
        part, self.buf = self.buf, b""
        return part

    def closed(self):
        try:
            return self.rest() == b""
        except ConnectionResetError:
            return True

    def head(self):
        lines = self.until(b"\r\n\r\n").decode().split("\r\n")
        headers = {}
        for line in lines[1:]:
            name, value = line.split(": ", 1)
            assert name not in headers, "header twice: " + name
            headers[name] = value
        return int(lines[0].split()[1]), headers

    def chunk(self):
        n = int(self.until(b"\r\n"), 16)
        data = self.take(n)
        assert self.take(2) == b"\r\n"
        return data

    def response(self, method="GET"):
        status, headers = self.head()
        body = b""
        if method != "HEAD" and status not in (101, 204, 304) and status >= 200:
            if headers.get("transfer-encoding") == "chunked":
                while True:
                    piece = self.chunk()
                    if not piece:
                        break
                    body += piece
            elif "content-length" in headers:
                body = self.take(int(headers["content-length"]))
            else:
                body = self.rest()
        return Response(status, headers, body)

    def request(self, method, target, headers=(), body=b"", version="1.1"):
        lines = ["%s %s HTTP/%s" % (method, target, version), "Host: x"]
        lines += ["%s: %s" % h for h in headers]
        if body:
            lines.append("Content-Length: %d" % len(body))
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return self.response(method)


def chunked(*parts):
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"


class Shared(unittest.TestCase):
    """Tests that can use one server of default settings."""
    flags = ()

    @classmethod
    def setUpClass(cls):
        cls.probe = Probe(*cls.flags)

    @classmethod
    def tearDownClass(cls):
        assert cls.probe.stop() == 0, "the server did not end well"

    def problem(self, r, status, code):
        self.assertEqual(r.status, status, r.body)
        self.assertEqual(r.headers["content-type"], "application/problem+json")
        p = r.json()
        self.assertEqual(p["code"], code)
        self.assertEqual(p["status"], status)
        for name in ("type", "title", "detail"):
            self.assertTrue(p[name], name)
        self.assertEqual(p["requestId"], r.headers["x-request-id"])
        if status in (429, 503):
            self.assertGreaterEqual(int(r.headers["retry-after"]), 1)
        return p


def frame(opcode, data=b"", fin=True, mask=b"\1\2\3\4", rsv=0):
    head = bytes([(0x80 if fin else 0) | rsv | opcode])
    bit = 0x80 if mask else 0
    if len(data) < 126:
        head += bytes([bit | len(data)])
    elif len(data) < 65536:
        head += bytes([bit | 126]) + struct.pack(">H", len(data))
    else:
        head += bytes([bit | 127]) + struct.pack(">Q", len(data))
    if mask:
        data = bytes(b ^ mask[i & 3] for i, b in enumerate(data))
    return head + (mask or b"") + data
