#!/usr/bin/python3
"""The form of answers, black-box, against the probe: entity tags, gzip, HEAD, CORS, and what every
response carries whoever made it.
"""
import contextlib
import gzip
import json
import pathlib
import re
import unittest

from http_harness import Probe, Shared, wait_for

ERRORS = pathlib.Path(__file__).parents[2] / "include/sbx/core/error.h"


def code(name):
    """The number of an error, as the probe takes it."""
    return re.findall(r"^    X\((\w+),", ERRORS.read_text(encoding="utf-8"), re.M).index(name) + 1


GZIP = ("Accept-Encoding", "gzip")
BODY_HEADERS = ("content-length", "content-type", "content-encoding", "etag", "vary",
                "cache-control")


class EntityTags(Shared):
    def test_reads_carry_a_strong_tag_and_are_revalidated(self):
        first = self.probe.get("/hello")
        tag = first.headers["etag"]
        self.assertRegex(tag, r'^"[0-9a-f]{32}"$')
        self.assertEqual(first.headers["cache-control"], "private, no-cache")
        self.assertEqual(self.probe.get("/hello").headers["etag"], tag)
        self.assertNotEqual(self.probe.get("/echo/x").headers["etag"], tag)
        for text in (tag, "W/" + tag, '"x", ' + tag, tag + ',"y"', "*", '"a,b", W/%s' % tag):
            with self.probe.connect() as c:
                c.send("GET /hello HTTP/1.1\r\nHost: x\r\nIf-None-Match: %s\r\n\r\n"
                       "GET /echo/next HTTP/1.1\r\nHost: x\r\n\r\n" % text)
                r = c.response()
                self.assertEqual((r.status, r.headers["etag"]), (304, tag), text)
                self.assertEqual(r.headers["vary"], first.headers["vary"])
                self.assertEqual(r.headers["cache-control"], first.headers["cache-control"])
                self.assertTrue(r.headers["x-request-id"])
                self.assertNotIn("content-type", r.headers)
                self.assertNotIn("content-length", r.headers)
                self.assertEqual(c.response().json()["name"], "next", "a 304 has no body")
        for text in ('"x"', tag[1:-1], tag.upper(), tag[:-1], "", '"%s' % tag):
            self.assertEqual(self.probe.get("/hello", headers=[("If-None-Match", text)]).status,
                             200, text)
        lines = [("If-None-Match", '"x"'), ("If-None-Match", tag)]
        self.assertEqual(self.probe.get("/hello", headers=lines).status, 304)
        self.assertEqual(self.probe.get("/hello", headers=[("If-None-Match", '"x"')] * 9).status,
                         400)

    def test_only_successful_reads_are_tagged(self):
        star = [("If-None-Match", "*")]
        for method, target, status in (("GET", "/fail", 500), ("GET", "/none", 404),
                                       ("GET", "/secret", 401), ("POST", "/echo", 200)):
            with self.probe.connect() as c:
                r = c.request(method, target, star, b"{}" if method == "POST" else b"")
                self.assertEqual(r.status, status)
                self.assertNotIn("etag", r.headers)
                self.assertEqual(r.headers["cache-control"], "no-store")
        r = self.probe.get("/events?ms=1", headers=[("Accept", "text/event-stream"), *star])
        self.assertEqual((r.status, r.headers["vary"]), (200, "accept"))
        self.assertNotIn("etag", r.headers)

    def test_a_parked_read_is_tagged_too(self):
        r = self.probe.get("/park?ms=20")
        again = self.probe.get("/park?ms=20", headers=[("If-None-Match", r.headers["etag"])])
        self.assertEqual((again.status, again.body), (304, b""))

    def test_what_a_handler_says_itself_is_kept(self):
        r = self.probe.get("/own", headers=[GZIP])
        self.assertEqual((r.headers["etag"], r.headers["cache-control"]),
                         ('"mine"', "public, max-age=60"))
        self.assertEqual(r.headers["content-security-policy"], "default-src 'none'")
        self.assertEqual(r.headers["x-injected"], "a  x-evil: 1")
        self.assertNotIn("content-encoding", r.headers)
        r = self.probe.get("/own", headers=[("If-None-Match", 'W/"mine"')])
        self.assertEqual((r.status, r.headers["etag"]), (304, '"mine"'))
        self.assertEqual(r.headers["content-security-policy"], "default-src 'none'")


class Gzip(Shared):
    def test_text_over_the_threshold_is_compressed_for_those_who_take_it(self):
        for accept, coded in (("gzip", True), ("GZIP;q=0.5", True), ("*", True),
                              ("deflate, gzip;q=1.0, *;q=0", True), ("br", False), ("", False),
                              ("gzip;q=0", False), ("gzip;q=0, *", False), ("*;q=0", False),
                              ("identity", False), ("identity, gzip;q=0.9", False)):
            r = self.probe.get("/big?bytes=5000", headers=[("Accept-Encoding", accept)])
            self.assertEqual(r.headers.get("content-encoding"), "gzip" if coded else None, accept)
            self.assertEqual(gzip.decompress(r.body) if coded else r.body, b"x" * 5000)
            self.assertEqual(r.headers["vary"], "accept-encoding")
        self.assertNotIn("content-encoding", self.probe.get("/big?bytes=5000").headers)

    def test_small_and_binary_bodies_and_problems_are_not(self):
        for target in ("/big?bytes=1024", "/hello", "/fail", "/flood?bytes=9000"):
            r = self.probe.get(target, headers=[GZIP])
            self.assertNotIn("content-encoding", r.headers, target)
        self.assertEqual(self.probe.get("/big?bytes=1025", headers=[GZIP])
                         .headers["content-encoding"], "gzip")
        with self.probe.connect() as c:
            r = c.request("POST", "/raw", [GZIP], b"x" * 5000)
            self.assertEqual(r.body, b"x" * 5000)
            self.assertNotIn("vary", r.headers)

    def test_each_coding_has_its_own_tag(self):
        plain = self.probe.get("/big?bytes=3000").headers["etag"]
        coded = self.probe.get("/big?bytes=3000", headers=[GZIP]).headers["etag"]
        self.assertNotEqual(plain, coded)
        for tag, encoding, status in ((plain, "identity", 304), (coded, "gzip", 304),
                                      (plain, "gzip", 200), (coded, "identity", 200)):
            r = self.probe.get("/big?bytes=3000", headers=[("Accept-Encoding", encoding),
                                                           ("If-None-Match", tag)])
            self.assertEqual(r.status, status, (tag, encoding))
            if status == 304:
                self.assertEqual(r.headers["etag"], tag)

    def test_large_bodies_arrive_whole(self):
        for n in (100000, 30000000):
            r = self.probe.get("/big?bytes=%d" % n, headers=[GZIP])
            self.assertLess(len(r.body), n // 50)
            self.assertEqual(gzip.decompress(r.body), b"x" * n)
        self.problem(self.probe.get("/big?bytes=60000000", headers=[GZIP]), 500, "internal")

    def test_what_another_thread_finishes_is_compressed_by_a_worker(self):
        r = self.probe.get("/park?ms=10&bytes=50000", headers=[GZIP])
        self.assertEqual(r.headers["content-encoding"], "gzip")
        told = json.loads(gzip.decompress(r.body))
        self.assertEqual((told["parked"], len(told["filler"])), (True, 50000))
        again = self.probe.get("/park?ms=10&bytes=50000",
                               headers=[GZIP, ("If-None-Match", r.headers["etag"])])
        self.assertEqual(again.status, 304)

    def test_with_no_room_for_that_it_is_sent_as_it_is(self):
        p = Probe("--fast=1", "--queue=3")
        self.addCleanup(p.stop)
        parked = p.connect()
        parked.send("GET /park?ms=1500&bytes=5000 HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n")
        wait_for("it is parked", lambda: p.stats()["parked"] == 1)
        held, refused = [], 0
        while refused < 3:  # one runs, three wait, and all others are refused
            c = p.connect(timeout=0.1)
            c.send("GET /hold?ms=2000 HTTP/1.1\r\nHost: x\r\n\r\n")
            held.append(c)
            with contextlib.suppress(TimeoutError):
                refused += c.response().status == 503
        r = parked.response()
        self.assertEqual(r.status, 200)
        self.assertNotIn("content-encoding", r.headers)
        self.assertEqual(len(r.json()["filler"]), 5000)
        for c in held:
            c.sock.close()


class Heads(Shared):
    def test_head_says_what_get_says_without_content(self):
        for target, headers in (("/hello", ()), ("/big?bytes=5000", ()), ("/own", ()),
                                ("/big?bytes=5000", (GZIP,)), ("/park?ms=1&bytes=2000", (GZIP,)),
                                ("/echo/x", ()), ("/none", ()), ("/secret", ()),
                                ("/flood?bytes=1000", ())):
            with self.probe.connect() as c:
                get = c.request("GET", target, headers)
                head = c.request("HEAD", target, headers)
                self.assertEqual((head.status, head.body), (get.status, b""))
                if get.status == 200:
                    for name in BODY_HEADERS:
                        self.assertEqual(head.headers.get(name), get.headers.get(name),
                                         (target, name))
                tag = get.headers.get("etag")
                if tag:
                    r = c.request("HEAD", target, [*headers, ("If-None-Match", tag)])
                    self.assertEqual((r.status, r.headers["etag"]), (304, tag))
                self.assertEqual(c.request("GET", "/hello").body, b'{"hello":"world"}')

    def test_head_never_starts_a_stream(self):
        before = self.probe.stats()["closed"]
        with self.probe.connect() as c:
            r = c.request("HEAD", "/events?count=1000&ms=60000", [("Accept", "text/event-stream")])
            self.assertEqual((r.status, r.headers["content-type"]), (200, "text/event-stream"))
            wait_for("the stream's source was told",
                     lambda: self.probe.stats()["closed"] == before + 1, 5)
            self.assertEqual(c.request("GET", "/hello").status, 200)
        with self.probe.connect() as c:
            c.send("HEAD /wsopen HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                   "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
            self.assertEqual(c.response("HEAD").status, 400)


APP = "https://app.example"


class Cors(Shared):
    flags = ("--cors=%s, http://localhost:3000" % APP,)

    def preflight(self, target="/events", origin=APP, method="POST"):
        with self.probe.connect() as c:
            return c.request("OPTIONS", target, [("Origin", origin),
                                                 ("Access-Control-Request-Method", method),
                                                 ("Access-Control-Request-Headers", "x-api-key")])

    def test_a_preflight_of_a_listed_origin(self):
        for origin in (APP, "http://localhost:3000"):
            r = self.preflight(origin=origin)
            self.assertEqual((r.status, r.body), (204, b""))
            self.assertEqual(r.headers["access-control-allow-origin"], origin)
            self.assertEqual(r.headers["vary"], "origin")
            self.assertEqual(r.headers["access-control-allow-methods"], "GET, HEAD, POST, OPTIONS")
            allowed = r.headers["access-control-allow-headers"].lower().split(", ")
            self.assertEqual(set(allowed), {"authorization", "x-api-key", "content-type",
                                            "idempotency-key", "if-none-match", "last-event-id",
                                            "x-request-id"})
            self.assertGreater(int(r.headers["access-control-max-age"]), 0)
            self.assertEqual(r.headers["allow"], "GET, HEAD, POST, OPTIONS")
            self.assertTrue(r.headers["x-request-id"])
        self.assertEqual(self.preflight("/hello", method="DELETE")
                         .headers["access-control-allow-methods"], "GET, HEAD, OPTIONS")
        r = self.preflight("/none")
        self.problem(r, 404, "not_found")
        self.assertEqual(r.headers["access-control-allow-origin"], APP)

    def test_other_origins_get_no_headers(self):
        for origin in ("https://evil.example", "null", "http://app.example", APP + ":443",
                       APP + ".evil.example", APP + "/", "*", "HTTPS://APP.EXAMPLE", "",
                       "https://app.exampl"):
            for r in (self.preflight(origin=origin),
                      self.probe.get("/hello", headers=[("Origin", origin)]),
                      self.probe.get("/none", headers=[("Origin", origin)])):
                self.assertFalse([n for n in r.headers if n.startswith("access-control")], origin)
                self.assertIn("origin", r.headers["vary"])
        r = self.probe.get("/hello")
        self.assertEqual(r.headers["vary"], "accept-encoding, origin")

    def test_every_kind_of_answer_may_be_read(self):
        origin = ("Origin", APP)
        tag = self.probe.get("/hello").headers["etag"]
        for target, headers, status in (
                ("/hello", (), 200), ("/fail", (), 500), ("/none", (), 404), ("/secret", (), 401),
                ("/hello", [("If-None-Match", tag)], 304), ("/hello?x=1", (), 400),
                ("/events?ms=1", [("Accept", "text/event-stream")], 200),
                ("/flood?bytes=10", (), 200), ("/park?ms=1&bytes=2000", (GZIP,), 200),
                ("/hello", [("Bad Header", "1")], 400), ("/forget", (), 500)):
            r = self.probe.get(target, headers=[origin, *headers])
            self.assertEqual(r.status, status)
            self.assertEqual(r.headers["access-control-allow-origin"], APP, target)
            exposed = r.headers["access-control-expose-headers"].lower().split(", ")
            for name in ("x-request-id", "etag", "location", "retry-after", "link"):
                self.assertIn(name, exposed)
            self.assertIn("origin", r.headers["vary"])
            self.assertNotIn("access-control-allow-credentials", r.headers)

    def test_an_origin_is_not_remembered_for_the_next_request(self):
        with self.probe.connect() as c:
            self.assertIn("access-control-allow-origin",
                          c.request("GET", "/hello", [("Origin", APP)]).headers)
            self.assertNotIn("access-control-allow-origin", c.request("GET", "/hello").headers)
            c.send("GET /" + "x" * 9000 + " HTTP/1.1\r\n\r\n")
            r = c.response()
            self.assertEqual(r.status, 414)
            self.assertNotIn("access-control-allow-origin", r.headers)

    def test_two_origins_are_refused(self):
        r = self.probe.get("/hello", headers=[("Origin", APP), ("Origin", APP)])
        self.assertEqual(r.status, 400)

    def test_a_websocket_is_not_judged_by_its_origin(self):
        for origin in (APP, "https://evil.example", "null"):
            for key, status in (("good", 101), ("bad", 401)):
                with self.probe.connect() as c:
                    c.send("GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                           "Origin: %s\r\nSec-WebSocket-Protocol: sandboxd.v1, bearer.%s\r\n"
                           "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
                           % (origin, key))
                    self.assertEqual(c.head()[0], status)


class CorsOfAll(Shared):
    flags = ("--cors=*",)

    def test_any_origin_may_read(self):
        for origin in ("https://a.example", "null", "file://"):
            r = self.probe.get("/hello", headers=[("Origin", origin)])
            self.assertEqual(r.headers["access-control-allow-origin"], "*")
            self.assertEqual(r.headers["vary"], "accept-encoding")
        self.assertNotIn("access-control-allow-origin", self.probe.get("/hello").headers)


class NoCors(Shared):
    def test_without_the_option_there_is_none(self):
        with self.probe.connect() as c:
            for method in ("GET", "OPTIONS"):
                r = c.request(method, "/hello", [("Origin", APP),
                                                 ("Access-Control-Request-Method", "GET")])
                self.assertFalse([n for n in r.headers if n.startswith("access-control")])
                self.assertNotIn("origin", r.headers.get("vary", ""))


class Standard(Shared):
    def test_every_response_has_a_request_id_and_refusals_say_when_to_retry(self):
        tag = self.probe.get("/hello").headers["etag"]
        for head, status in (("GET /hello HTTP/1.1\r\nHost: x\r\nIf-None-Match: %s" % tag, 304),
                             ("OPTIONS /hello HTTP/1.1\r\nHost: x", 204),
                             ("OPTIONS * HTTP/1.1\r\nHost: x", 204),
                             ("GET /fail?code=%d HTTP/1.1\r\nHost: x" % code("RATE_LIMITED"), 429),
                             ("GET /fail?code=%d HTTP/1.1\r\nHost: x" % code("CAPACITY"), 503),
                             ("BREW /hello HTTP/1.1\r\nHost: x", 405),
                             ("junk", 400), ("GET /hello HTTP/9.9\r\nHost: x", 400),
                             ("GET /%s HTTP/1.1\r\nHost: x" % ("x" * 9000), 414),
                             ("GET /hello HTTP/1.1\r\nHost: x\r\nA: %s" % ("x" * 30000), 431)):
            with self.probe.connect() as c:
                c.send(head + "\r\n\r\n")
                r = c.response()
                self.assertEqual(r.status, status, head[:40])
                self.assertRegex(r.headers["x-request-id"], r"^[A-Za-z0-9._-]{1,64}$")
                if status in (429, 503):
                    self.assertRegex(r.headers["retry-after"], r"^[1-9][0-9]*$")
                else:
                    self.assertNotIn("retry-after", r.headers)
                if status == 405:
                    self.assertEqual(r.headers["allow"], "GET, HEAD, OPTIONS")

    def test_unknown_methods_are_405_where_there_is_something_and_404_elsewhere(self):
        for method in ("TRACE", "CONNECT", "PROPFIND", "get", "LINK"):
            with self.probe.connect() as c:
                r = c.request(method, "/events")
                self.problem(r, 405, "method_not_allowed")
                self.assertEqual(r.headers["allow"], "GET, HEAD, POST, OPTIONS")
                self.problem(c.request(method, "/none"), 404, "not_found")


if __name__ == "__main__":
    unittest.main()
