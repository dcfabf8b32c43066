#!/usr/bin/python3
"""Black-box tests of the HTTP and WebSocket server, against tests/fakes/http_probe.c.

Runs alone: `python3 tests/system/http_test.py`. The program is taken from $HTTP_PROBE, or is the
newest build/*/tests/http_probe. Waits are for conditions, with a limit.
"""
import asyncio
import base64
import contextlib
import glob
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import threading
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


class Requests(Shared):
    def test_a_response_has_its_standard_headers(self):
        r = self.probe.get("/hello")
        self.assertEqual((r.status, r.body), (200, b'{"hello":"world"}'))
        self.assertEqual(r.headers["content-type"], "application/json")
        self.assertEqual(r.headers["x-content-type-options"], "nosniff")
        self.assertEqual(r.headers["cache-control"], "no-store")
        self.assertRegex(r.headers["date"], r"^\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT$")
        self.assertNotIn("server", r.headers)
        self.assertNotIn("connection", r.headers)

    def test_request_ids_are_echoed_if_sane_and_made_otherwise(self):
        for sent, sane in (("abc.DEF_1-2", True), ("x" * 64, True), ("x" * 65, False),
                           ("a b", False), ("a\"b", False), ("", False), ("é", False)):
            for target in ("/hello", "/nothing", "/fail", "/hello?x=%zz"):
                r = self.probe.get(target, headers=[("X-Request-Id", sent)])
                got = r.headers["x-request-id"]
                self.assertEqual(got == sent, sane, (sent, target))
                self.assertRegex(got, r"^[A-Za-z0-9._-]{1,64}$")
        r = self.probe.get("/hello", headers=[("Bad Header", "1"), ("X-Request-Id", "mine")])
        self.assertEqual((r.status, r.headers["x-request-id"]), (400, "mine"))

    def test_path_parameters_are_decoded_strictly(self):
        for path, want in (("/echo/plain", "plain"), ("/echo/a%20b", "a b"), ("/echo/a+b", "a+b"),
                           ("/echo/a%2Fb", "a/b"), ("/echo/%C3%A4", "ä"), ("/echo/...", "..."),
                           ("/ech%6f/x", "x")):
            r = self.probe.get(path)
            self.assertEqual((r.status, r.json()["name"]), (200, want), path)
            self.assertEqual(r.json()["target"], path)
        for path, status in (("/echo/%", 400), ("/echo/%1", 400), ("/echo/%zz", 400),
                             ("/echo/a%00b", 400), ("/echo/%ff", 400), ("/echo/%c0%80", 400),
                             ("/echo/%ed%a0%80", 400), ("/echo/", 404), ("/echo//x", 404),
                             ("/echo/.", 404), ("/echo/..", 404), ("/echo/%2e%2e", 404),
                             ("/echo/../hello", 404), ("//hello", 404), ("/hello/", 404),
                             ("/", 404), ("/echo/a/b/c", 404), ("/hello#x", 400),
                             ("/" + "a/" * 50, 404), ("hello", 400), ("*", 400)):
            self.assertEqual(self.probe.get(path).status, status, path)

    def test_queries_are_parsed_strictly(self):
        for query, want in (("", {}), ("?", {}), ("?a=1&b=2", {"a": "1", "b": "2"}),
                            ("?a", {"a": ""}), ("?a=x+y%2Bz", {"a": "x y+z"}),
                            ("?a=b=c&&", {"a": "b=c"}), ("?%C3%A4=1", {"ä": "1"}),
                            ("?a=/?:@", {"a": "/?:@"})):
            r = self.probe.get("/echo/x" + query)
            self.assertEqual((r.status, r.json()["query"]), (200, want), query)
        for query in ("?a=1&a=2", "?a=%", "?a=%00", "?=1", "?a=%ff", "?a=1&%61=2",
                      "?" + "&".join("p%d=1" % i for i in range(33))):
            self.problem(self.probe.get("/echo/x" + query), 400, "invalid_request")
        p = self.probe.get("/echo/x?lim=1&lim=2").json()
        self.assertEqual(p["errors"][0]["field"], "lim")

    def test_methods(self):
        p = self.probe
        with p.connect() as c:
            r = c.request("POST", "/hello")
            self.problem(r, 405, "method_not_allowed")
            self.assertEqual(r.headers["allow"], "GET, HEAD, OPTIONS")
            self.problem(c.request("BREW", "/hello"), 405, "method_not_allowed")
            self.problem(c.request("DELETE", "/none"), 404, "not_found")
            r = c.request("OPTIONS", "/events")
            self.assertEqual((r.status, r.headers["allow"]), (204, "GET, HEAD, POST, OPTIONS"))
            self.assertNotIn("content-length", r.headers)
            self.assertEqual(c.request("OPTIONS", "*").status, 204)
            self.problem(c.request("OPTIONS", "/none"), 404, "not_found")
            r = c.request("HEAD", "/hello")
            self.assertEqual((r.status, r.headers["content-length"], r.body), (200, "17", b""))
            r = c.request("HEAD", "/fail")
            self.assertEqual((r.status, r.body), (500, b""))
            r = c.request("HEAD", "/flood?bytes=100000")
            self.assertEqual((r.status, r.body), (200, b""))
            self.assertEqual(c.request("HEAD", "/echo").status, 405)
            self.assertEqual(c.request("GET", "/hello").status, 200)

    def test_accept(self):
        sse, js = "text/event-stream", "application/json"
        for accept, plain, can in (
                (None, js, js), ("*/*", js, js), (js, js, js), (sse, 406, sse),
                ("text/html", 406, 406), ("text/html, */*;q=0.1", js, js),
                ("application/*", js, js), ("%s;q=0" % js, 406, 406),
                ("%s, %s" % (js, sse), js, js), ("%s, %s" % (sse, js), js, sse),
                ("%s;q=0.5, %s" % (js, sse), js, sse), ("%s;q=0.5, %s" % (sse, js), js, js),
                ("TEXT/Event-Stream", 406, sse), ("%s, */*" % sse, js, sse)):
            headers = [("Accept", accept)] if accept else []
            for target, want in (("/hello", plain), ("/events?ms=1", can)):
                r = self.probe.get(target, headers=headers)
                if want == 406:
                    self.problem(r, 406, "not_acceptable")
                else:
                    self.assertEqual(r.headers["content-type"], want, (accept, target))
        r = self.probe.get("/any", headers=[("Accept", "text/html")])
        self.assertEqual(r.headers["content-type"], "text/plain")

    def test_content_types_of_bodies(self):
        for kind, status in ((None, 200), ("application/json", 200),
                             ("application/json; charset=utf-8", 200), ("Application/JSON", 200),
                             ("text/plain", 415), ("application/jsonp", 415), ("", 415),
                             ("application/x-www-form-urlencoded", 415)):
            headers = [("Content-Type", kind)] if kind is not None else []
            with self.probe.connect() as c:
                self.assertEqual(c.request("POST", "/echo", headers, b"{}").status, status, kind)
        with self.probe.connect() as c:
            r = c.request("POST", "/raw", [("Content-Type", "image/png")], b"\0\1")
            self.assertEqual((r.status, r.body), (200, b"\0\1"))

    def test_problems_carry_what_the_error_knows(self):
        for code, (status, wire) in enumerate((
                (400, "invalid_request"), (401, "unauthorized"), (403, "forbidden"),
                (404, "not_found"), (405, "method_not_allowed"), (406, "not_acceptable"),
                (409, "conflict"), (410, "gone"), (413, "payload_too_large"),
                (414, "uri_too_long"), (415, "unsupported_media_type"), (429, "rate_limited"),
                (429, "quota_exceeded"), (431, "headers_too_large")), 1):
            r = self.probe.get("/fail?code=%d" % code)
            self.problem(r, status, wire)
            if status == 401:
                self.assertEqual(r.headers["www-authenticate"], "Bearer")
        r = self.probe.get("/fail?code=12&after=7&field=limits.cpus&sandbox=abc")
        p = self.problem(r, 429, "rate_limited")
        self.assertEqual(r.headers["retry-after"], "7")
        self.assertEqual(p["errors"], [{"field": "limits.cpus", "message": "as you wished"}])
        self.assertEqual(p["sandboxId"], "abc")
        self.problem(self.probe.get("/forget"), 500, "internal")

    def test_authentication_runs_before_the_handler(self):
        r = self.probe.get("/secret")
        self.problem(r, 401, "unauthorized")
        self.assertEqual(r.headers["www-authenticate"], "Bearer")
        for header in (("X-API-Key", "good"), ("Authorization", "Bearer good")):
            self.assertEqual(self.probe.get("/secret", headers=[header]).status, 200)

    def test_a_forwarded_request_is_marked(self):
        for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP"):
            r = self.probe.get("/echo/x", headers=[(name, "1.2.3.4")]).json()
            self.assertEqual((r["forwarded"], r["client"]), (True, "127.0.0.1"))
        self.assertFalse(self.probe.get("/echo/x").json()["forwarded"])

    def test_malformed_heads_get_400_and_a_close(self):
        for text in ("GET /hello HTTP/1.1\r\n\r\n",  # no Host
                     "GET /hello HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
                     "GET /hello HTTP/1.1\r\nHost: a b\r\n\r\n",
                     "GET /hello HTTP/2.0\r\nHost: x\r\n\r\n",
                     "GET /hello\r\nHost: x\r\n\r\n", "GET  /hello HTTP/1.1\r\nHost: x\r\n\r\n",
                     "G@T /hello HTTP/1.1\r\nHost: x\r\n\r\n",
                     "GET /hello HTTP/1.1\nHost: x\n\n",
                     "GET /hello HTTP/1.1\r\nHost: x\n\r\n",
                     "GET /hello HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n",
                     "GET /hello HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
                     "GET /hello HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n",
                     "GET /hello HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n",
                     "GET /hello HTTP/1.1\r\nHost: x\r\n: b\r\n\r\n",
                     "GET /hello HTTP/1.1\r\nHost: x\r\nnocolon\r\n\r\n",
                     "GET /hé HTTP/1.1\r\nHost: x\r\n\r\n",
                     "GET http:// HTTP/1.1\r\nHost: x\r\n\r\n",
                     "GET /hello HTTP/1.1\r\nHost: x\r\nExpect: magic\r\n\r\n",
                     "GET /hello HTTP/1.1\r\nHost: x\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n",
                     "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01\x02\0\x01\0\x01\xfc\n"):
            with self.probe.connect() as c:
                c.send(text)
                r = c.response()
                self.problem(r, 400, "invalid_request")
                self.assertEqual(r.headers["connection"], "close")
                self.assertTrue(c.closed(), text)

    def test_smuggling_is_refused(self):
        for headers in ("Content-Length: 5\r\nTransfer-Encoding: chunked",
                        "Transfer-Encoding: chunked\r\nContent-Length: 5",
                        "Content-Length: 5\r\nContent-Length: 5",
                        "Content-Length: 5, 5", "Content-Length: +5", "Content-Length: -1",
                        "Content-Length: 0x5", "Content-Length: 5 5", "Content-Length:",
                        "Content-Length: 99999999999999999999", "Transfer-Encoding: gzip",
                        "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: identity",
                        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
                        "Transfer-Encoding : chunked", "Transfer-Encoding: \x0bchunked"):
            with self.probe.connect() as c:
                c.send("POST /echo HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n"
                       "0\r\n\r\nGET /hello HTTP/1.1\r\nHost: x\r\n\r\n" % headers)
                self.problem(c.response(), 400, "invalid_request")
                self.assertTrue(c.closed(), "nothing may follow " + headers)

    def test_http_1_0(self):
        with self.probe.connect() as c:
            c.send("GET /hello HTTP/1.0\r\n\r\n")
            r = c.response()
            self.assertEqual((r.status, r.headers["connection"]), (200, "close"))
            self.assertTrue(c.closed())
        with self.probe.connect() as c:
            c.send("GET /flood?bytes=300000 HTTP/1.0\r\n\r\n")
            r = c.response()
            self.assertNotIn("transfer-encoding", r.headers)
            self.assertEqual(len(r.body), 300000)

    def test_no_other_protocol_is_negotiated(self):
        r = self.probe.get("/hello", headers=[("Connection", "Upgrade, HTTP2-Settings"),
                                              ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABk")])
        self.assertEqual(r.status, 200)
        self.assertNotIn("upgrade", r.headers)
        r = self.probe.get("http://other.example/hello")
        self.assertEqual(r.status, 200)

    def test_long_targets_and_headers(self):
        p = self.probe
        self.assertEqual(p.get("/echo/x?a=" + "b" * 8000).status, 200)
        with p.connect() as c:
            self.problem(c.request("GET", "/echo/x?a=" + "b" * 9000), 414, "uri_too_long")
            self.assertTrue(c.closed())
        self.assertEqual(p.get("/hello", headers=[("A", "b" * 15000)]).status, 200)
        for headers in ([("A", "b" * 30000)], [("A%d" % i, "b" * 1000) for i in range(30)],
                        [("A%d" % i, "b") for i in range(101)]):
            with p.connect() as c:
                self.problem(c.request("GET", "/hello", headers), 431, "headers_too_large")
                self.assertTrue(c.closed())

    def test_an_endless_head_is_cut_off(self):
        with self.probe.connect() as c:
            with contextlib.suppress(ConnectionError):
                for _ in range(200):
                    c.send(b"GET /" + b"a" * 65536)
            with contextlib.suppress(ConnectionError):
                self.assertEqual(c.response().status, 414)

    def test_keep_alive_serves_many(self):
        with self.probe.connect() as c:
            for i in range(500):
                r = c.request("GET", "/echo/%d" % i)
                self.assertEqual(r.json()["name"], str(i))
            r = c.request("GET", "/hello", [("Connection", "close")])
            self.assertEqual(r.headers["connection"], "close")
            self.assertTrue(c.closed())

    def test_blank_lines_before_a_request_are_skipped(self):
        with self.probe.connect() as c:
            c.send("\r\n\r\nGET /hello HTTP/1.1\r\nHost: x\r\n\r\n\r\nGET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
            self.assertEqual([c.response().status, c.response().status], [200, 200])

    def test_a_request_may_come_byte_by_byte(self):
        with self.probe.connect() as c:
            c.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for b in b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc":
                c.send(bytes([b]))
            self.assertEqual(c.response().body, b"abc")

    def test_large_responses_arrive_whole(self):
        for n in (0, 1, 65536, 1000001, 30000000):
            self.assertEqual(len(self.probe.get("/big?bytes=%d" % n).body), n)
        self.problem(self.probe.get("/big?bytes=60000000"), 500, "internal")


class Pipelining(Shared):
    def test_several_requests_in_one_segment_are_answered_in_order(self):
        with self.probe.connect() as c:
            c.send("".join("GET /echo/%d HTTP/1.1\r\nHost: x\r\n\r\n" % i for i in range(300)))
            got = [c.response().json()["name"] for _ in range(300)]
            self.assertEqual(got, [str(i) for i in range(300)])

    def test_order_is_kept_behind_a_parked_request(self):
        with self.probe.connect() as c:
            c.send("GET /park?ms=200 HTTP/1.1\r\nHost: x\r\n\r\n"
                   "GET /echo/a HTTP/1.1\r\nHost: x\r\n\r\n"
                   "GET /none HTTP/1.1\r\nHost: x\r\n\r\n"
                   "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"
                   "GET /park?ms=50 HTTP/1.1\r\nHost: x\r\n\r\n"
                   "GET /flood?bytes=70000 HTTP/1.1\r\nHost: x\r\n\r\n"
                   "GET /echo/b HTTP/1.1\r\nHost: x\r\n\r\n")
            got = [c.response() for _ in range(7)]
            self.assertEqual([r.status for r in got], [200, 200, 404, 200, 200, 200, 200])
            self.assertEqual(got[0].body, b'{"parked":true}')
            self.assertEqual(got[3].body, b"hi")
            self.assertEqual(len(got[5].body), 70000)
            self.assertEqual(got[6].json()["name"], "b")

    def test_thousands_of_errors_in_a_row_do_not_nest(self):
        with self.probe.connect() as c:
            n = 20000
            t = threading.Thread(target=c.send, args=("GET /x HTTP/1.1\r\nHost: x\r\n\r\n" * n,))
            t.start()
            for _ in range(n):
                self.assertEqual(c.response().status, 404)
            t.join()

    def test_much_behind_a_parked_request_waits_in_the_socket(self):
        with self.probe.connect() as c:
            n = 5000
            text = "GET /park?ms=700 HTTP/1.1\r\nHost: x\r\n\r\n" + \
                "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n" * n
            t = threading.Thread(target=c.send, args=(text,))
            t.start()
            before = self.probe.stats()["cpuMs"]
            time.sleep(0.4)
            self.assertLess(self.probe.stats()["cpuMs"] - before, 100, "the loop spins")
            self.assertEqual(c.response().body, b'{"parked":true}')
            for _ in range(n):
                self.assertEqual(c.response().status, 200)
            t.join()

    def test_a_client_that_pipelined_much_and_left_is_noticed(self):
        before = self.probe.stats()
        c = self.probe.connect()
        c.send("GET /park?ms=60000 HTTP/1.1\r\nHost: x\r\n\r\n" + "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n" * 2000)
        c.sock.close()
        wait_for("the reply was told", lambda: self.probe.stats()["closed"] > before["closed"], 5)


class Bodies(Shared):
    CHUNKED = "POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

    def test_chunked_bodies_are_decoded(self):
        for body, want in ((chunked(b"hello"), b"hello"), (chunked(b"a", b"bc", b"d" * 300), b"abc" + b"d" * 300),
                           (chunked(), b""), (b"A\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n", b"0123456789")):
            with self.probe.connect() as c:
                c.send((self.CHUNKED % "/echo").encode() + body)
                r = c.response()
                self.assertEqual((r.status, r.body), (200, want))
                self.assertEqual(r.headers["connection"], "close")
                self.assertTrue(c.closed())

    def test_a_chunked_body_may_come_byte_by_byte(self):
        with self.probe.connect() as c:
            c.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            c.send(self.CHUNKED % "/echo")
            for b in chunked(b"hello", b" ", b"world"):
                c.send(bytes([b]))
            self.assertEqual(c.response().body, b"hello world")

    def test_malformed_chunks_are_refused(self):
        for body in (b"g\r\n", b"\r\n", b"-1\r\n", b"0x1\r\n", b" 1\r\na\r\n", b"1 \r\na\r\n", b"01\r\na\r\n", b"00\r\n\r\n",
                     b"1;ext=1\r\na\r\n", b"1\na\r\n", b"1\r\nab\r\n", b"1\r\na\n", b"1\r\na0\r\n\r\n", b"0\r\n\n",
                     b"0\r\nA\nB: c\r\n\r\n", b"0\r\nA: \x00\r\n\r\n"):
            with self.probe.connect() as c:
                c.send((self.CHUNKED % "/echo").encode() + body)
                self.problem(c.response(), 400, "invalid_request")
                self.assertTrue(c.closed(), body)

    def test_bodies_that_are_too_large_are_refused_unread(self):
        for size in (b"10001\r\n", b"7fffffff\r\n", b"ffffffff\r\n", b"100000000\r\n", b"fffffffffffffffff\r\n"):
            with self.probe.connect() as c:
                c.send((self.CHUNKED % "/echo").encode() + size)
                self.problem(c.response(), 413, "payload_too_large")
        with self.probe.connect() as c:
            c.send((self.CHUNKED % "/echo").encode() + b"8000\r\n" + b"x" * 0x8000 + b"\r\n8001\r\n")
            self.problem(c.response(), 413, "payload_too_large")
        with self.probe.connect() as c:
            c.send((self.CHUNKED % "/echo").encode() + b"0\r\n" + b"A: b\r\n" * 1000)
            self.problem(c.response(), 413, "payload_too_large")
        for target, length in (("/echo", 65537), ("/echo", 12 << 20), ("/hello", 1)):
            method = "POST" if target == "/echo" else "GET"
            with self.probe.connect() as c:
                c.send("%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (method, target, length))
                r = c.response()  # although not a byte of the body was sent
                self.problem(r, 413, "payload_too_large")
                self.assertEqual(r.headers["connection"], "close")

    def test_a_client_that_sends_a_large_body_anyway_reads_the_answer(self):
        with self.probe.connect() as c:
            body = b"x" * 500000
            r = c.request("POST", "/echo", body=body)
            self.problem(r, 413, "payload_too_large")

    def test_limits_are_exact(self):
        with self.probe.connect() as c:
            self.assertEqual(len(c.request("POST", "/echo", body=b"x" * 65536).body), 65536)
        with self.probe.connect() as c:
            c.send((self.CHUNKED % "/echo").encode() + chunked(b"x" * 65535, b"y"))
            self.assertEqual(len(c.response().body), 65536)
        with self.probe.connect() as c:
            body = os.urandom(1 << 20)
            self.assertEqual(c.request("POST", "/raw", body=body).body, body)

    def test_expect_continue(self):
        with self.probe.connect() as c:
            c.send("POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
            self.assertEqual(c.head(), (100, {}))
            c.send("ok")
            self.assertEqual(c.response().body, b"ok")
            c.send("POST /none HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
            self.assertEqual(c.response().status, 404)  # the final status at once
            self.assertTrue(c.closed())

    def test_a_refused_body_is_not_taken_for_a_request(self):
        inner = b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"
        for target in ("/none", "/hello"):
            with self.probe.connect() as c:
                c.send(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (target.encode(), len(inner)) + inner)
                self.assertIn(c.response().status, (404, 405))
                self.assertTrue(c.closed())


class Parked(Shared):
    def test_a_parked_request_outlives_the_librarys_five_seconds(self):
        t0 = time.monotonic()
        self.assertEqual(self.probe.get("/park?ms=6000").body, b'{"parked":true}')
        self.assertGreater(time.monotonic() - t0, 5.9)

    def test_a_client_that_leaves_is_noticed_and_costs_nothing(self):
        before = self.probe.stats()
        clients = [self.probe.connect() for _ in range(20)]
        for c in clients:
            c.send("GET /park?ms=60000 HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for("all are connected", lambda: self.probe.stats()["connections"] >= 21)
        for i, c in enumerate(clients):
            if i % 2:  # a reset, not an orderly end
                c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            c.sock.close()
        t0 = time.monotonic()
        wait_for("all are told", lambda: self.probe.stats()["closed"] == before["closed"] + 20, 5)
        self.assertLess(time.monotonic() - t0, 3)
        cpu = self.probe.stats()["cpuMs"]
        time.sleep(0.5)
        self.assertLess(self.probe.stats()["cpuMs"] - cpu, 50, "the loop spins")

    def test_a_worker_sees_that_the_client_left(self):
        before = self.probe.stats()["cancelled"]
        with self.probe.connect() as c:
            c.send("GET /block?ms=20000 HTTP/1.1\r\nHost: x\r\n\r\n")
            time.sleep(0.1)
        wait_for("the flag rises", lambda: self.probe.stats()["cancelled"] == before + 1, 5)

    def test_five_hundred_wait_without_threads(self):
        clients = [self.probe.connect() for _ in range(500)]
        for c in clients:
            c.send("GET /park?ms=1000 HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual(self.probe.get("/hello").status, 200)
        for c in clients:
            self.assertEqual(c.response().status, 200)
            c.sock.close()

    def test_blocking_requests_run_side_by_side(self):
        t0 = time.monotonic()
        clients = [self.probe.connect() for _ in range(8)]
        for c in clients:
            c.send("GET /block?ms=500 HTTP/1.1\r\nHost: x\r\n\r\n")
        for c in clients:
            self.assertEqual(c.response().status, 200)
            c.sock.close()
        self.assertLess(time.monotonic() - t0, 3)  # one after the other: 4


class Streams(Shared):
    flags = ("--ping=300",)

    def test_sse(self):
        r = self.probe.get("/events?count=5&ms=1", headers=[("Accept", "text/event-stream")])
        self.assertEqual(r.headers["content-type"], "text/event-stream")
        self.assertEqual(r.headers["cache-control"], "no-store")
        self.assertEqual(r.headers["x-accel-buffering"], "no")
        self.assertEqual(r.body.count(b"data: "), 5)
        self.assertEqual(r.body.split(b"\n\n")[4], b'id: 5\ndata: {"n":5}')

    def test_a_stream_keeps_the_connection(self):
        with self.probe.connect() as c:
            for _ in range(3):
                self.assertEqual(c.request("GET", "/events?ms=1", [("Accept", "text/event-stream")]).status, 200)

    def test_an_idle_stream_is_pinged(self):
        with self.probe.connect() as c:
            c.send("GET /events?count=2&ms=60000 HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
            c.head()
            self.assertIn(b"data", c.chunk())
            self.assertEqual(c.chunk(), b": ping\n\n")
            self.assertEqual(c.chunk(), b": ping\n\n")

    def test_a_viewer_that_leaves_is_noticed(self):
        before = self.probe.stats()["closed"]
        with self.probe.connect() as c:
            c.send("GET /events?count=2&ms=60000 HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
            c.head()
        wait_for("the reply was told", lambda: self.probe.stats()["closed"] == before + 1, 5)

    def test_a_slow_reader_pauses_its_source_and_nobody_else(self):
        before = self.probe.stats()
        slow = self.probe.connect()
        slow.send("GET /flood?bytes=300000000 HTTP/1.1\r\nHost: x\r\n\r\n")
        slow.head()
        wait_for("the source pauses", lambda: self.probe.memory() is not None and
                 self._steady(), 10)
        memory = self.probe.memory()
        cpu = self.probe.stats()["cpuMs"]
        # Input of a client that does not read must not make the loop spin either.
        slow.send("GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.5)
        self.assertLess(self.probe.stats()["cpuMs"] - cpu, 60, "the loop spins")
        self.assertLess(self.probe.memory() - memory, 2 << 20)
        self.assertEqual(self.probe.get("/flood?bytes=5000000").headers["transfer-encoding"], "chunked")
        for _ in range(200):  # it goes on when there is room
            slow.take(65536)
        self.assertGreater(self.probe.stats()["ready"], before["ready"])
        slow.sock.close()
        wait_for("the reply was told", lambda: self.probe.stats()["closed"] >= before["closed"] + 2, 5)

    def _steady(self):
        a = self.probe.stats()["ready"]
        time.sleep(0.1)
        return self.probe.stats()["ready"] == a

    def test_a_flood_arrives_whole(self):
        r = self.probe.get("/flood?bytes=20000000")
        self.assertEqual(len(r.body), 20000000)

    def test_a_stream_that_is_dropped_is_seen_to_be_cut(self):
        with self.probe.connect() as c:
            c.send("GET /cut HTTP/1.1\r\nHost: x\r\n\r\n")
            c.head()
            self.assertEqual(c.chunk(), b"half")
            self.assertTrue(c.closed(), "no last chunk")


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


class WebSockets(Shared):
    flags = ("--ping=300",)

    def open(self, target="/wsopen", headers=()):
        c = self.probe.connect()
        lines = ["GET %s HTTP/1.1" % target, "Host: x", "Connection: keep-alive, Upgrade", "Upgrade: websocket",
                 "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
        lines += ["%s: %s" % h for h in headers]
        c.send("\r\n".join(lines) + "\r\n\r\n")
        return c

    def opened(self, *args, **kw):
        c = self.open(*args, **kw)
        status, headers = c.head()
        self.assertEqual(status, 101)
        self.assertEqual(headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        return c

    def read_frame(self, c, pings=False):
        while True:
            a, n = c.take(2)
            self.assertEqual(a & 0x70, 0)
            if n == 126:
                n, = struct.unpack(">H", c.take(2))
            elif n == 127:
                n, = struct.unpack(">Q", c.take(8))
            data = c.take(n)
            if a != 0x89 or pings:
                return a, data

    def closes_with(self, c, code):
        a, data = self.read_frame(c)
        self.assertEqual((a, struct.unpack(">H", data[:2])[0]), (0x88, code))
        self.assertTrue(c.closed())

    def test_messages_are_echoed(self):
        with self.opened() as c:
            for data in (b"", b"x", b"y" * 125, b"z" * 126, b"a" * 65535, b"b" * 65536, "ä€😀".encode()):
                c.send(frame(1, data))
                self.assertEqual(self.read_frame(c), (0x81, data))
                c.send(frame(2, data))
                self.assertEqual(self.read_frame(c), (0x82, data))

    def test_fragments_and_controls_between_them(self):
        with self.opened() as c:
            whole = frame(1, b"one ", fin=False) + frame(9, b"hi") + frame(0, b"\xe2", fin=False) + \
                frame(10, b"") + frame(0, b"\x82\xac")
            for i in range(len(whole)):
                c.send(whole[i:i + 1])
            self.assertEqual(self.read_frame(c), (0x8a, b"hi"))
            self.assertEqual(self.read_frame(c), (0x81, "one €".encode()))

    def test_faults_have_their_codes(self):
        for text, code in ((frame(1, b"x", mask=None), 1002), (frame(1, b"x", rsv=0x40), 1002),
                           (frame(3, b"x"), 1002), (frame(11), 1002), (frame(0, b"x"), 1002),
                           (frame(9, b"x", fin=False), 1002), (frame(9, b"x" * 126), 1002),
                           (frame(1, b"x", fin=False) + frame(1, b"y"), 1002), (frame(1, b"\xff"), 1007),
                           (frame(1, b"\xe2\x82"), 1007), (frame(1, b"x" * 65537), 1009),
                           (frame(2, b"x" * 60000, fin=False) + frame(0, b"x" * 6000), 1009),
                           (b"\x82\xff" + b"\xff" * 8 + b"mask", 1009),
                           (frame(8, b"\x03"), 1002), (frame(8, struct.pack(">H", 1005)), 1002),
                           (frame(8, struct.pack(">H", 999)), 1002), (frame(8, b"\x03\xe8\xff"), 1002),
                           (frame(8, struct.pack(">H", 1000) + b"bye"), 1000), (frame(8, b""), 1000),
                           (frame(8, struct.pack(">H", 4001)), 4001)):
            with self.opened() as c:
                c.send(text)
                self.closes_with(c, code)

    def test_the_server_ends_with_1000(self):
        before = self.probe.stats()["closed"]
        with self.opened() as c:
            c.send(frame(1, b"end"))
            a, data = self.read_frame(c)
            self.assertEqual((a, data), (0x88, struct.pack(">H", 1000)))
            c.send(frame(8, data))
            self.assertTrue(c.closed())
        wait_for("closed", lambda: self.probe.stats()["closed"] == before + 1)

    def test_a_peer_that_ignores_the_close_is_dropped(self):
        with self.opened() as c:
            c.send(frame(1, b"end"))
            self.read_frame(c)
            t0 = time.monotonic()
            self.assertTrue(c.closed())
            self.assertLess(time.monotonic() - t0, 8)

    def test_refusals_are_plain_answers_and_keep_the_connection(self):
        with self.open("/ws") as c:
            self.problem(c.response(), 401, "unauthorized")
            self.assertEqual(c.request("GET", "/hello").status, 200)
        with self.open("/ws?refuse=1", [("X-API-Key", "good")]) as c:
            self.problem(c.response(), 404, "not_found")
        with self.open("/nothing") as c:
            self.problem(c.response(), 404, "not_found")
        with self.open("/hello") as c:  # not a WebSocket route: an ordinary request
            self.assertEqual(c.response().status, 200)

    def test_bad_handshakes(self):
        base = "GET /wsopen HTTP/%s\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n%s\r\n"
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        version = "Sec-WebSocket-Version: 13\r\n"
        for text in (base % ("1.1", version), base % ("1.1", key), base % ("1.0", key + version),
                     base % ("1.1", key + "Sec-WebSocket-Version: 8\r\n"),
                     base % ("1.1", version + "Sec-WebSocket-Key: short\r\n"),
                     base % ("1.1", version + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j ==\r\n"),
                     base % ("1.1", version + key + key)):
            with self.probe.connect() as c:
                c.send(text)
                self.problem(c.response(), 400, "invalid_request")

    def test_the_key_may_be_a_subprotocol(self):
        with self.opened("/ws", [("Sec-WebSocket-Protocol", "sandboxd.v1, bearer.good")]) as c:
            c.send(frame(1, b"x"))
            self.assertEqual(self.read_frame(c)[1], b"x")
        c = self.open("/ws", [("Sec-WebSocket-Protocol", "sandboxd.v1, bearer.good")])
        self.assertEqual(c.head()[1]["sec-websocket-protocol"], "sandboxd.v1")
        c.sock.close()
        c = self.open("/ws", [("Authorization", "Bearer good")])
        self.assertNotIn("sec-websocket-protocol", c.head()[1])
        c.sock.close()
        with self.open("/ws", [("Sec-WebSocket-Protocol", "sandboxd.v1, bearer.bad")]) as c:
            self.problem(c.response(), 401, "unauthorized")

    def test_frames_that_come_with_the_handshake_are_not_lost(self):
        with self.probe.connect() as c:
            c.send(b"GET /wsopen HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                   b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" +
                   frame(1, b"early"))
            self.assertEqual(c.head()[0], 101)
            self.assertEqual(self.read_frame(c), (0x81, b"early"))

    def test_a_fault_that_comes_with_the_handshake_ends_only_its_connection(self):
        with self.probe.connect() as c:
            one = (b"GET /wsopen HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                   b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
            c.send(one * 3)
            self.assertEqual(c.head()[0], 101)
            self.closes_with(c, 1002)
        self.assertEqual(self.probe.get("/hello").status, 200)

    def test_much_input_before_the_upgrade_does_not_mute_the_connection(self):
        with self.probe.connect() as c:
            c.send(b"GET /park?ms=200 HTTP/1.1\r\nHost: x\r\n\r\n"
                   b"GET /wsopen HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                   b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" +
                   frame(2, b"e" * 40000))
            self.assertEqual(c.response().body, b'{"parked":true}')
            self.assertEqual(c.head()[0], 101)
            self.assertEqual(self.read_frame(c), (0x82, b"e" * 40000))
            c.send(frame(1, b"more"))
            self.assertEqual(self.read_frame(c), (0x81, b"more"))

    def test_pings_go_out_and_a_silent_peer_is_dropped(self):
        with self.opened() as c:
            self.assertEqual(self.read_frame(c, pings=True), (0x89, b""))
            t0 = time.monotonic()
            self.assertTrue(c.rest() in (b"", b"\x89\0"))
            self.assertLess(time.monotonic() - t0, 2)
        with self.opened() as c:
            for _ in range(6):
                self.assertEqual(self.read_frame(c, pings=True), (0x89, b""))
                c.send(frame(10, b""))

    def test_a_flood_of_pings_is_bounded(self):
        with self.opened() as c:
            c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            memory = self.probe.memory()
            c.sock.settimeout(1)
            with contextlib.suppress(OSError):
                for _ in range(20000):
                    c.send(frame(9, b"x" * 125))
            self.assertLess(self.probe.memory() - memory, 4 << 20)

    def test_a_client_library_is_served(self):
        try:
            import websockets
        except ImportError:
            self.skipTest("python3-websockets is not installed")

        async def talk():
            url = "ws://127.0.0.1:%d/ws" % self.probe.port
            async with websockets.connect(url, subprotocols=["sandboxd.v1", "bearer.good"]) as ws:
                self.assertEqual(ws.subprotocol, "sandboxd.v1")
                await ws.send("flood 100")
                for _ in range(100):
                    self.assertEqual(len(await ws.recv()), 1024)
                await ws.ping()
                await ws.send("end")
                with self.assertRaises(websockets.ConnectionClosedOK) as e:
                    await ws.recv()
                self.assertEqual(e.exception.code, 1000)

        asyncio.run(asyncio.wait_for(talk(), LIMIT_S))


class Limits(unittest.TestCase):
    def probe(self, *flags, **kw):
        p = Probe(*flags, **kw)
        self.addCleanup(p.stop)
        return p

    def test_time_limits(self):
        p = self.probe("--header=1", "--body=1", "--keepalive=1")
        for name, text, answered in (("nothing sent", "", 0), ("half a head", "GET /hel", 0),
                                     ("half a body", "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc", 0),
                                     ("half a chunk", "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc", 0),
                                     ("idle after a request", "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n", 1)):
            with p.connect() as c:
                c.send(text)
                if answered:
                    c.response()
                t0 = time.monotonic()
                self.assertTrue(c.closed(), name)
                took = time.monotonic() - t0
                self.assertTrue(0.7 < took < 5, (name, took))

    def test_a_slow_head_is_cut_though_it_progresses(self):
        p = self.probe("--header=1")
        with p.connect() as c:
            t0 = time.monotonic()
            with contextlib.suppress(ConnectionError):
                c.send("GET /hello HTTP/1.1\r\n")
                while time.monotonic() - t0 < 5:
                    c.send("A: b\r\n")
                    time.sleep(0.1)
            self.assertLess(time.monotonic() - t0, 3)

    def test_a_slow_body_is_served_while_it_progresses(self):
        p = self.probe("--header=1", "--body=1")
        with p.connect() as c:
            c.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\n")
            for b in b"abcdef":
                time.sleep(0.4)
                c.send(bytes([b]))
            self.assertEqual(c.response().body, b"abcdef")

    def test_too_many_connections_are_told(self):
        p = self.probe("--connections=16")
        clients = [p.connect() for _ in range(16)]
        for c in clients:
            self.assertEqual(c.request("GET", "/hello").status, 200)
        with p.connect() as c:
            c.send("GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
            r = c.response()
            self.assertEqual((r.status, r.json()["code"]), (503, "at_capacity"))
            self.assertTrue(int(r.headers["retry-after"]) >= 1 and r.headers["x-request-id"])
            self.assertTrue(c.closed())
        many = [p.connect() for _ in range(100)]  # beyond what can be told: closed
        for c in many:
            with contextlib.suppress(ConnectionError):
                c.rest()
            c.sock.close()
        for c in clients:
            self.assertEqual(c.request("GET", "/hello").status, 200)
            c.sock.close()
        wait_for("room again", lambda: p.get("/hello").status == 200)

    def test_a_full_queue_is_told_at_once(self):
        p = self.probe("--slow=1", "--queue=2")
        clients = [p.connect() for _ in range(10)]
        for c in clients:
            c.send("GET /block?ms=700 HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual(p.get("/hello").status, 200)
        got = [c.response() for c in clients]
        refused = [r for r in got if r.status == 503]
        self.assertIn(len(refused), (7, 8))
        for r in refused:
            self.assertEqual(r.json()["code"], "at_capacity")
            self.assertGreaterEqual(int(r.headers["retry-after"]), 1)
        for c in clients:
            c.sock.close()

    def test_running_out_of_descriptors_is_survived_without_spinning(self):
        p = self.probe(nofile=64)
        clients = []
        for _ in range(80):
            clients.append(p.connect())
        wait_for("descriptors are used up", lambda: p.fds() >= 63)
        c = clients[0]
        cpu = c.request("GET", "/stats").json()["cpuMs"]
        time.sleep(0.5)
        self.assertLess(c.request("GET", "/stats").json()["cpuMs"] - cpu, 60, "the loop spins")
        for other in clients[1:]:
            other.sock.close()
        wait_for("accepts again", lambda: p.get("/hello").status == 200)
        c.sock.close()

    def test_idle_viewers_are_cheap(self):
        p = self.probe()
        n = 2000
        before = p.memory()
        viewers = []
        for _ in range(n):
            c = p.connect()
            c.send("GET /wsopen HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                   "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
            viewers.append(c)
        for c in viewers:
            self.assertEqual(c.head()[0], 101)
        per_viewer = (p.memory() - before) / n
        self.assertLess(per_viewer, 8192)
        cpu = p.stats()["cpuMs"]
        time.sleep(0.5)
        self.assertLess(p.stats()["cpuMs"] - cpu, 50)
        t0 = time.monotonic()
        with p.connect() as c:
            for _ in range(2000):
                c.request("GET", "/hello")
        self.assertLess(time.monotonic() - t0, 12)
        for c in viewers:
            c.sock.close()
        wait_for("all are gone", lambda: p.stats()["connections"] == 1)

    def test_nothing_grows(self):
        p = self.probe()

        def round_trip():
            for target in ("/hello", "/none", "/park?ms=1", "/flood?bytes=300000", "/cut"):
                with contextlib.suppress(EOFError):
                    p.get(target)
            with p.connect() as c:
                c.send("GET /park?ms=100 HTTP/1.1\r\nHost: x\r\n\r\n")
            with p.connect() as c:
                c.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")

        for _ in range(20):
            round_trip()
        memory, fds = p.memory(), p.fds()
        for _ in range(200):
            round_trip()
        self.assertLess(p.memory() - memory, 2 << 20)
        wait_for("descriptors are closed", lambda: p.fds() <= fds + 1)

    @unittest.skipUnless(os.geteuid() == 0, "needs root to become somebody else")
    def test_another_user_in_another_folder_finds_the_event_library(self):
        path = "/tmp/http_probe.%d" % os.getpid()
        subprocess.check_call(["install", "-m", "755", probe_path(), path])
        self.addCleanup(os.unlink, path)
        old = os.environ.get("HTTP_PROBE")
        os.environ["HTTP_PROBE"] = path
        try:
            p = self.probe(prefix=("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"), cwd="/")
        finally:
            os.environ.pop("HTTP_PROBE")
            if old:
                os.environ["HTTP_PROBE"] = old
        self.assertEqual(p.get("/hello").status, 200)


class Noise(Shared):
    """Mutated requests and frames, the same in each run. The server must go on, and leak nothing
    (the address sanitizer's build tells more)."""
    flags = ("--header=1", "--body=1")
    SEEDS = (
        b"GET /echo/a?b=c HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"GET /events?ms=1 HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n",
        b"GET /flood?bytes=70000 HTTP/1.0\r\n\r\n", b"HEAD /cut HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /park?ms=3 HTTP/1.1\r\nHost: x\r\n\r\nOPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /wsopen HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" +
        frame(1, b"hello") + frame(9, b"p") + frame(2, b"x" * 200, fin=False) + frame(0, b"y") + frame(8, b"\x03\xe8"))

    def mutate(self, rng):
        data = bytearray(rng.choice(self.SEEDS))
        for _ in range(rng.choice((0, 0, 1, 1, 2, 5))):
            at = rng.randrange(len(data))
            kind = rng.randrange(4)
            if kind == 0:
                data[at] = rng.randrange(256)
            elif kind == 1:
                del data[at:at + rng.randrange(1, 8)]
            elif kind == 2:
                data[at:at] = data[:rng.randrange(len(data))]
            else:
                data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9)))
            if not data:
                data = bytearray(b"G")
        return bytes(data)

    def test_mutated_input_does_no_harm(self):
        import random
        rng = random.Random(20240229)
        for i in range(3000):
            with self.probe.connect(0.05) as c, contextlib.suppress(OSError, EOFError):
                for _ in range(rng.choice((1, 1, 3))):
                    data = self.mutate(rng)
                    cut = rng.randrange(len(data) + 1)
                    c.send(data[:cut])
                    c.send(data[cut:])
                if rng.randrange(3):
                    c.fill()
            if i % 500 == 0:
                self.assertEqual(self.probe.get("/hello").status, 200)
        wait_for("all are gone", lambda: self.probe.stats()["connections"] == 1)


class Drain(unittest.TestCase):
    def test_running_requests_finish_and_idle_connections_close(self):
        p = Probe()
        idle, parked, stream = p.connect(), p.connect(), p.connect()
        self.assertEqual(idle.request("GET", "/hello").status, 200)
        parked.send("GET /park?ms=700 HTTP/1.1\r\nHost: x\r\n\r\nGET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
        stream.send("GET /events?count=9&ms=60000 HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
        stream.head()
        ws = p.connect()
        ws.send("GET /wsopen HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        self.assertEqual(ws.head()[0], 101)
        t0 = time.monotonic()
        p.proc.send_signal(signal.SIGTERM)
        self.assertTrue(idle.closed())
        self.assertEqual(ws.take(4), b"\x88\x02" + struct.pack(">H", 1001))
        ws.send(frame(8, struct.pack(">H", 1001)))
        self.assertTrue(ws.closed())
        self.assertIn(b"data", stream.chunk())
        self.assertEqual(stream.chunk(), b"", "a viewer's stream is ended in order")
        with self.assertRaises(ConnectionRefusedError):
            p.connect()
        self.assertEqual(parked.response().body, b'{"parked":true}')
        for c in (idle, parked, stream, ws):
            c.sock.close()
        self.assertEqual(p.stop(), 0)
        self.assertTrue(0.5 < time.monotonic() - t0 < 8)

    def test_a_stream_of_a_running_request_may_finish(self):
        p = Probe()
        with p.connect() as c:
            c.send("POST /events?count=8&ms=100 HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
            c.head()
            p.proc.send_signal(signal.SIGTERM)
            got = b""
            while True:
                piece = c.chunk()
                got += piece
                if not piece:
                    break
            self.assertEqual(got.count(b"data: "), 8)
        self.assertEqual(p.stop(), 0)

    def test_the_time_limit_ends_what_does_not_finish(self):
        p = Probe("--drain=500")
        with p.connect() as c:
            c.send("GET /park?ms=60000 HTTP/1.1\r\nHost: x\r\n\r\n")
            time.sleep(0.1)
            t0 = time.monotonic()
            p.proc.send_signal(signal.SIGTERM)
            self.assertTrue(c.closed())
            self.assertTrue(0.4 < time.monotonic() - t0 < 5)

        p.proc.kill()  # its parked task would hold the program's own end for a minute
        p.proc.wait()
        p.proc.stdout.close()

    def test_a_second_signal_ends_at_once(self):
        p = Probe("--drain=60000")
        with p.connect() as c:
            c.send("GET /block?ms=60000 HTTP/1.1\r\nHost: x\r\n\r\n")
            time.sleep(0.1)
            p.proc.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            self.assertIsNone(p.proc.poll())
            p.proc.send_signal(signal.SIGTERM)
            self.assertTrue(c.closed())
        self.assertEqual(p.stop(signal.SIGTERM, 5), 0)


if __name__ == "__main__":
    unittest.main()
