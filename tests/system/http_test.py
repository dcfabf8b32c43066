#!/usr/bin/python3
"""Requests, pipelining, bodies and limits of the HTTP server, black-box, against the probe.

Runs alone. Waits are for conditions, with a limit.
"""
import contextlib
import os
import socket
import subprocess
import threading
import time
import unittest

from http_harness import LIMIT_S, Probe, Shared, chunked, frame, probe_path, wait_for


class Requests(Shared):
    def test_a_response_has_its_standard_headers(self):
        r = self.probe.get("/hello")
        self.assertEqual((r.status, r.body), (200, b'{"hello":"world"}'))
        self.assertEqual(r.headers["content-type"], "application/json")
        self.assertEqual(r.headers["x-content-type-options"], "nosniff")
        self.assertEqual(r.headers["cache-control"], "private, no-cache")
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
        for target, field in (("/hello?a=1", "a"), ("/big?bytes=1&byte=2", "byte")):
            p = self.problem(self.probe.get(target), 400, "invalid_request")
            self.assertEqual(p["errors"][0]["field"], field)
            self.assertIn(field, p["detail"])

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
                ("TEXT/Event-Stream", 406, sse), ("%s, */*" % sse, js, sse),
                ("%s;q=0, */*" % js, 406, sse), ("%s;q=0, application/*" % js, 406, 406),
                ("application/*;q=0, %s" % js, js, js), ("*/*;q=0", 406, 406),
                ("application/problem+json", 406, 406), ("text/*", 406, sse),
                ("text/*, %s" % js, js, js), ("*/*, %s;q=0" % sse, js, js),
                ("%s;charset=utf-8" % js, js, js), ("*; q=.2, */*; q=.2", js, js),
                ("%s;q=x" % js, 406, 406), ("", js, js)):
            headers = [("Accept", accept)] if accept is not None else []
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
                             ("application/json;charset=\"UTF-8\"", 200), ("application/json; profile=x", 200),
                             ("application/json; charset=latin1", 415),
                             ("application/json; charset", 415), ("application/json, a/b", 415),
                             ("text/plain", 415), ("application/jsonp", 415), ("", 415),
                             ("application/x-www-form-urlencoded", 415)):
            headers = [("Content-Type", kind)] if kind is not None else []
            with self.probe.connect() as c:
                self.assertEqual(c.request("POST", "/echo", headers, b"{}").status, status, kind)
        for coding, status in (("identity", 200), ("gzip", 415), ("br", 415), ("", 415)):
            with self.probe.connect() as c:
                r = c.request("POST", "/echo", [("Content-Encoding", coding)], b"{}")
                self.assertEqual(r.status, status, coding)
        with self.probe.connect() as c:
            r = c.request("POST", "/raw", [("Content-Type", "image/png")], b"\0\1")
            self.assertEqual((r.status, r.body), (200, b"\0\1"))

    def test_problems_carry_what_the_error_knows(self):
        for code, (status, wire) in enumerate((
                (400, "invalid_request"), (401, "unauthorized"), (403, "forbidden"),
                (404, "not_found"), (405, "method_not_allowed"), (406, "not_acceptable"),
                (409, "conflict"), (410, "gone"), (412, "precondition_failed"),
                (413, "payload_too_large"), (414, "uri_too_long"), (415, "unsupported_media_type"),
                (416, "range_not_satisfiable"), (422, "package_failed"), (429, "rate_limited"),
                (429, "quota_exceeded"), (431, "headers_too_large")), 1):
            r = self.probe.get("/fail?code=%d" % code)
            self.problem(r, status, wire)
            if status == 401:
                self.assertEqual(r.headers["www-authenticate"], "Bearer")
        r = self.probe.get("/fail?code=15&after=7&field=limits.cpus&sandbox=abc")
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
        for method, target, length, status, code in (
                ("POST", "/echo", 65537, 413, "payload_too_large"),
                ("POST", "/echo", 12 << 20, 413, "payload_too_large"),
                ("GET", "/hello", 1, 400, "invalid_request"),
                ("HEAD", "/hello", 1, 400, "invalid_request")):
            with self.probe.connect() as c:
                c.send("%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (method, target, length))
                r = c.response(method)  # although not a byte of the body was sent
                self.assertEqual(r.status, status)
                self.assertTrue(method == "HEAD" or r.json()["code"] == code)
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


class Limits(unittest.TestCase):
    def probe(self, *flags, **kw):
        p = Probe(*flags, **kw)
        self.addCleanup(p.stop)
        return p

    def test_a_slow_lane_refuses_early_and_runs_nothing_late(self):
        p = self.probe("--slow=1", "--slow-wait=600")
        busy = p.connect()
        busy.send("GET /block?ms=5000 HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for("it is received", lambda: p.stats()["connections"] == 2)
        t0 = time.monotonic()
        waiting = [p.connect() for _ in range(4)]
        for c, target in zip(waiting, ("/block?ms=1", "/hurry?ms=1", "/block?ms=1", "/hurry")):
            c.send("GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % target)
        got = [c.response() for c in waiting]
        self.assertLess(time.monotonic() - t0, 4, "refused while the worker is busy")
        self.assertEqual([r.status for r in got], [503, 504, 503, 504])
        for r in got:
            p_ = r.json()
            self.assertEqual(p_["code"], "at_capacity" if r.status == 503 else "timeout")
            self.assertIn("waited", p_["detail"])
            if r.status == 503:
                self.assertRegex(r.headers["retry-after"], r"^[1-9][0-9]*$")
        late = p.connect()
        late.send("GET /block?ms=1 HTTP/1.1\r\nHost: x\r\n\r\n")  # one must wait to be the oldest
        t0 = time.monotonic()
        wait_for("a refusal at the door", lambda: p.get("/block?ms=1").status == 503 and
                 time.monotonic() - t0 < 1)
        self.assertEqual(p.get("/hello").status, 200, "the other lane is not concerned")
        self.assertEqual(busy.response().status, 200)
        wait_for("the lane serves again", lambda: p.get("/block?ms=1").status == 200)
        for c in (*waiting, late, busy):
            c.sock.close()

    def test_a_body_by_single_bytes_is_no_progress(self):
        p = self.probe("--body=1")
        head = "POST /echo HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n"
        for kind, piece in (("Content-Length: 60000", b"x"),
                            ("Transfer-Encoding: chunked", b"1\r\nx\r\n"),
                            ("Transfer-Encoding: chunked", b"")):
            with p.connect() as c:
                c.send(head % kind)
                if not piece:
                    c.send("0\r\n")  # trailers count as little
                t0 = time.monotonic()
                with contextlib.suppress(ConnectionError):
                    while time.monotonic() - t0 < LIMIT_S:
                        c.send(piece or b"A: b\r\n")
                        time.sleep(0.05)
                self.assertLess(time.monotonic() - t0, LIMIT_S, kind)
        with p.connect() as c:  # slow, but with progress, for longer than the time-out
            c.send(head % "Content-Length: 65536")
            for _ in range(4):
                c.send(b"x" * 16384)
                time.sleep(0.5)
            self.assertEqual(len(c.response().body), 65536)

    def test_an_answer_that_is_read_by_single_bytes_is_cut(self):
        p = self.probe("--stall=2000")
        for step, want in ((1, False), (65536, True)):
            with socket.socket() as sock:
                if step == 1:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                sock.settimeout(LIMIT_S)
                sock.connect(("127.0.0.1", p.port))
                sock.sendall(b"GET /big?bytes=30000000 HTTP/1.1\r\nHost: x\r\n\r\n")
                wait_for("it is served", lambda: p.stats()["connections"] == 2)
                end, got = time.monotonic() + 4.5, 0
                while time.monotonic() < end:
                    got += len(sock.recv(step))
                    time.sleep(0.02)
                self.assertEqual(p.stats()["connections"] == 2, want, (step, got))

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


if __name__ == "__main__":
    unittest.main()
