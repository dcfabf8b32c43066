"""Request bodies that are streamed to a handler, and streams with a Content-Length."""
import socket
import struct
import time
import unittest

from http_harness import Shared, chunked, wait_for

QUICK = True
MIB = 1 << 20


def told(body):
    """What the probe answers for these bytes."""
    total = 0
    for byte in body:
        total = (total * 31 + byte) & (1 << 64) - 1
    return {"bytes": len(body), "sum": total}


def pattern(n):
    return bytes(i * 7 & 255 for i in range(n))


def head(target, *more, length=None):
    lines = [f"PUT {target} HTTP/1.1", "Host: x", *more]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Bodies(Shared):
    def upload(self, target, body, headers=()):
        with self.probe.connect() as c:
            return c.request("PUT", target, headers=headers, body=body)

    def test_every_size_arrives_as_it_was_sent(self):
        for n in (0, 1, 1000, 65535, 65536, 65537, 262143, 262144, 262145, 3 * MIB + 5):
            with self.subTest(n):
                body = pattern(n)
                got = self.upload("/upload", body)
                self.assertEqual((got.status, got.json()), (200, told(body)))

    def test_chunks_of_every_size_arrive_as_they_were_sent(self):
        body = pattern(700001)
        for sizes in ((1, 2, 3, 700001 - 6), (65536,) * 10 + (700001 - 655360,), (300000, 400001)):
            parts, at = [], 0
            for n in sizes:
                parts.append(body[at:at + n])
                at += n
            with self.subTest(sizes[:3]), self.probe.connect() as c:
                c.send(head("/upload", "Transfer-Encoding: chunked") + chunked(*parts))
                self.assertEqual(c.response().json(), told(body))

    def test_a_request_behind_the_body_is_answered_next(self):
        body = pattern(400000)
        with self.probe.connect() as c:
            c.send(head("/upload", length=len(body)) + body + b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
            self.assertEqual(c.response().json(), told(body))
            self.assertEqual(c.response().json(), {"hello": "world"})

    def test_the_taker_runs_before_the_body_is_whole(self):
        with self.probe.connect() as c:
            c.send(head("/upload?stop=1000", length=MIB) + bytes(1000))
            self.assertEqual(c.response().json()["bytes"], 1000)

    def test_expect_is_answered_when_the_body_is_wanted_and_not_before(self):
        with self.probe.connect() as c:
            c.send(head("/upload?wait=400", "Expect: 100-continue", length=3))
            began = time.monotonic()
            self.assertEqual(c.until(b"\r\n\r\n"), b"HTTP/1.1 100 Continue")
            self.assertGreater(time.monotonic() - began, 0.3)
            c.send(b"abc")
            self.assertEqual(c.response().json(), told(b"abc"))

    def test_expect_is_not_answered_where_the_body_is_refused(self):
        with self.probe.connect() as c:
            c.send(head("/upload?refuse=1", "Expect: 100-continue", length=3))
            got = c.response()
            self.assertEqual((got.status, got.headers["connection"]), (403, "close"))
            self.assertTrue(c.closed())

    def test_a_slow_taker_holds_its_client_up_and_the_memory_stays(self):
        before = self.probe.memory()
        with self.probe.connect() as c:
            c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            c.send(head("/upload?wait=600000", length=200 * MIB))
            c.sock.settimeout(0.5)
            sent = 0
            with self.assertRaises(TimeoutError):
                while sent < 200 * MIB:
                    sent += c.sock.send(bytes(MIB))
            self.assertLess(sent, 16 * MIB)
            if before:
                self.assertLess(self.probe.memory() - before, 4 * MIB)

    def test_a_large_body_passes_a_taker_that_pauses(self):
        body = pattern(5 * MIB)
        got = self.upload("/upload?pause=3", body)
        self.assertEqual(got.json(), told(body))

    def test_a_client_that_vanishes_in_the_body_is_noticed(self):
        for reset in (False, True):
            for more in ("", "?wait=600000"):  # read from, and not
                with self.subTest(reset=reset, target=more):
                    before = self.probe.stats()
                    with self.probe.connect() as c:
                        c.send(head("/upload" + more, length=10 * MIB) + bytes(300000 if more else 10))
                        wait_for("the handler has run", lambda was=before:
                                 self.probe.stats()["parked"] > was["parked"])
                        if reset:
                            c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                              struct.pack("ii", 1, 0))
                    wait_for("the taker is told",
                             lambda was=before: self.probe.stats()["closed"] > was["closed"], 2)

    def test_the_limit_counts_what_arrives(self):
        limit = 300 * 1024
        self.assertEqual(self.upload("/upload/small", bytes(limit)).status, 200)
        self.assertEqual(self.upload("/upload/small", bytes(limit + 1)).status, 413)
        parts = [bytes(100000)] * 3 + [bytes(7201)]
        for last, status in ((bytes(7200), 200), (bytes(7201), 413)):
            with self.probe.connect() as c:
                c.send(head("/upload/small", "Transfer-Encoding: chunked") + chunked(*parts[:3], last))
                got = c.response()
                self.assertEqual(got.status, status)
                if status == 413:
                    self.assertIn("307200 bytes", got.json()["detail"])
                    self.assertTrue(c.closed())

    def test_malformed_chunks_in_the_middle_are_told(self):
        with self.probe.connect() as c:
            c.send(head("/upload", "Transfer-Encoding: chunked") + b"3\r\nabc\r\nzz\r\n")
            got = c.response()
            self.assertEqual((got.status, got.headers["connection"]), (400, "close"))

    def test_an_answer_before_the_end_of_the_body_reaches_a_client_that_goes_on_sending(self):
        for target, status in (("/upload?stop=100000", 200), ("/upload?refuse=1", 403),
                               ("/nowhere", 404), ("/upload/small", 413)):
            with self.subTest(target), self.probe.connect() as c:
                c.send(head(target, length=60 * MIB))
                try:
                    for _ in range(60):
                        c.send(bytes(MIB))
                except ConnectionError:
                    self.fail("reset while the body was sent")
                got = c.response("PUT")
                self.assertEqual((got.status, got.headers["connection"]), (status, "close"))

    def test_no_body_is_an_empty_one(self):
        with self.probe.connect() as c:
            c.send(head("/upload"))
            self.assertEqual(c.response().json(), told(b""))
            c.send(head("/upload", length=0))
            self.assertEqual(c.response().json(), told(b""))

    def test_many_at_once(self):
        body = pattern(2 * MIB)
        clients = [self.probe.connect() for _ in range(16)]
        for c in clients:
            c.send(head("/upload?pause=1", length=len(body)))
        for at in range(0, len(body), 65536):
            for c in clients:
                c.send(body[at:at + 65536])
        for c in clients:
            self.assertEqual(c.response().json(), told(body))
            c.sock.close()


class Stalls(Shared):
    flags = ("--body=1",)

    def test_a_client_that_stops_sending_is_cut_off(self):
        closed = self.probe.stats()["closed"]
        with self.probe.connect() as c:
            c.send(head("/upload", length=MIB) + bytes(1000))
            self.assertTrue(c.closed())
        wait_for("the taker is told", lambda: self.probe.stats()["closed"] > closed)

    def test_a_body_may_take_longer_than_the_time_out_as_long_as_it_moves(self):
        with self.probe.connect() as c:
            c.send(head("/upload", length=8 * 20000))
            for _ in range(8):
                time.sleep(0.3)
                c.send(bytes(20000))
            self.assertEqual(c.response().json()["bytes"], 160000)

    def test_a_client_is_not_blamed_for_a_taker_that_pauses(self):
        body = pattern(MIB)
        with self.probe.connect() as c:
            c.send(head("/upload?wait=2500", length=len(body)))
            c.send(body)
            self.assertEqual(c.response().json(), told(body))

    def test_nor_for_one_that_has_not_asked_for_the_body(self):
        with self.probe.connect() as c:
            c.send(head("/upload?wait=2500", "Expect: 100-continue", length=3))
            self.assertEqual(c.until(b"\r\n\r\n"), b"HTTP/1.1 100 Continue")
            c.send(b"abc")
            self.assertEqual(c.response().json(), told(b"abc"))


class Counted(Shared):
    def test_a_stream_with_a_length_is_sent_plain_and_the_connection_stays(self):
        with self.probe.connect() as c:
            for n in (0, 1, 65536, 2 * MIB + 1):
                got = c.request("GET", f"/counted?bytes={n}")
                self.assertEqual((got.status, len(got.body)), (206, n))
                self.assertEqual(got.headers["content-length"], str(n))
                self.assertNotIn("transfer-encoding", got.headers)
                self.assertEqual(got.headers["accept-ranges"], "bytes")
            self.assertEqual(c.request("GET", "/hello").status, 200)

    def test_to_http_1_0_as_well(self):
        with self.probe.connect() as c:
            got = c.request("GET", "/counted?bytes=70000", version="1.0")
            self.assertEqual((len(got.body), got.headers["content-length"]), (70000, "70000"))

    def test_head_has_the_length_alone(self):
        with self.probe.connect() as c:
            got = c.request("HEAD", "/counted?bytes=70000")
            self.assertEqual((got.headers["content-length"], got.body), ("70000", b""))
            self.assertEqual(c.request("GET", "/hello").status, 200)

    def test_what_the_client_has_is_not_sent(self):
        got = self.probe.get("/counted", headers=[("If-None-Match", '"counted"')])
        self.assertEqual((got.status, got.body), (304, b""))

    def test_too_few_and_too_many_bytes_are_seen_as_a_cut(self):
        for target in ("/counted?bytes=1000&say=2000", "/counted?bytes=40000&say=20000"):
            with self.subTest(target), self.assertRaises((EOFError, ConnectionError)):
                self.probe.get(target)

    def test_a_gigabyte_passes_without_growth(self):
        before, n = self.probe.memory(), 1 << 30
        with self.probe.connect(60) as c:
            c.send(f"GET /counted?bytes={n} HTTP/1.1\r\nHost: x\r\n\r\n")
            self.assertEqual(int(c.head()[1]["content-length"]), n)
            left, most = n - len(c.buf), 0
            space = bytearray(MIB)
            while left:
                got = c.sock.recv_into(space)
                self.assertTrue(got)
                left -= got
                if left >> 27 != (left + got) >> 27:
                    most = max(most, self.probe.memory())
        if before:
            self.assertLess(most - before, 4 * MIB)


if __name__ == "__main__":
    unittest.main()
