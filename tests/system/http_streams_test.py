#!/usr/bin/python3
"""Parked requests, streams and WebSockets of the HTTP server, black-box, against the probe.

Runs alone. Waits are for conditions, with a limit.
"""
import asyncio
import contextlib
import socket
import struct
import time
import unittest

from http_harness import LIMIT_S, Shared, chunked, frame, wait_for


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
                           (b"\x82\xfe\0\x7dmask" + b"x" * 125, 1002),
                           (b"\x82\xff" + b"\0" * 6 + b"\xff\xffmask", 1002),
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
                     base % ("1.1", version + key + "Sec-WebSocket-Protocol: graphql-ws\r\n"),
                     base % ("1.1", version + key + "Sec-WebSocket-Protocol: bearer.good\r\n"),
                     base % ("1.1", version + key + "Sec-WebSocket-Protocol: sandboxd.v1 x\r\n"),
                     base % ("1.1", version + key + version),
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

    def test_no_extension_is_negotiated(self):
        offer = ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")
        with self.open("/wsopen", [offer]) as c:
            status, headers = c.head()
            self.assertEqual(status, 101)
            self.assertNotIn("sec-websocket-extensions", headers)

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


if __name__ == "__main__":
    unittest.main()
