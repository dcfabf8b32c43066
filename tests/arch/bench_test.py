"""The bench's own arithmetic, and the proxies that count: what they see and what they must not."""

import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "bench"))
import bench  # noqa: E402
from measure import Row, median, rank  # noqa: E402
from taps import DatabaseTap, EngineTap  # noqa: E402
from wire import request  # noqa: E402


def seen_by(kind, pieces):
    """What a tap of that kind notes of these pieces of bytes; without any socket."""
    tap = kind.__new__(kind)
    seen = []
    tap.note = seen.append
    reader = tap.reader()
    next(reader)
    for piece in pieces:
        reader.send(piece)
    return seen


def message(kind, body):
    return kind + (len(body) + 4).to_bytes(4, "big") + body


class Arithmetic(unittest.TestCase):
    def test_a_percentile_is_a_value_that_was_measured(self):
        for values, percent, expected in (([5], 50, 5), ([4, 1], 50, 1), ([3, 1, 2], 50, 2),
                                          (range(1, 101), 99, 99), (range(1, 101), 100, 100),
                                          (range(1, 11), 99, 10)):
            with self.subTest(values=values, percent=percent):
                self.assertEqual(rank(values, percent), expected)
        self.assertEqual(median([9, 7, 8]), 8)

    def test_a_number_at_its_limit_is_kept_and_one_beyond_is_missed(self):
        for measured, at_least, ok in ((3, False, True), (3.01, False, False), (2, False, True),
                                       (3, True, True), (2.99, True, False), (4, True, True)):
            with self.subTest(measured=measured, at_least=at_least):
                self.assertIs(Row("x", measured, "ms", 3, at_least).ok, ok)
        self.assertIsNone(Row("x", 1, "ms").ok)

    def test_a_measurement_that_fails_is_a_number_that_is_missed(self):
        def broken(_):
            raise RuntimeError("no server")
        bench.MEASUREMENTS["broken"] = broken
        self.addCleanup(bench.MEASUREMENTS.pop, "broken")
        bench.traceback.print_exc, kept = lambda: None, bench.traceback.print_exc
        self.addCleanup(setattr, bench.traceback, "print_exc", kept)
        rows = bench.measured("broken", None)
        self.assertEqual([(r.ok, "no server" in r.note) for r in rows], [(False, True)])


class EngineCalls(unittest.TestCase):
    CALLS = (request("GET", "/v1.41/images/a/b:1/json") +
             request("POST", "/v1.41/containers/create?name=sbx-a", {"Image": "GET /x HTTP/1.1\r\n\r\n"}) +
             request("DELETE", "/v1.41/containers/sbx-a?force=1"))
    NAMES = ["GET /images/{name}/json", "POST /containers/create", "DELETE /containers/{id}"]

    def test_calls_on_one_connection_are_counted_however_they_are_cut(self):
        for size in (1, 7, 100, 10000):
            with self.subTest(size):
                pieces = [self.CALLS[i:i + size] for i in range(0, len(self.CALLS), size)]
                self.assertEqual(seen_by(EngineTap, pieces), self.NAMES)

    def test_a_stream_is_one_call_whatever_goes_through_it(self):
        attach = request("POST", "/v1.41/containers/abc/attach?stream=1",
                         headers={"Connection": "Upgrade", "Upgrade": "tcp"})
        self.assertEqual(seen_by(EngineTap, [attach, self.CALLS]), ["POST /containers/{id}/attach"])


class Statements(unittest.TestCase):
    BIND = message(b"B", b"\0SANDBOX_GET\0\0\0")

    def test_statements_are_counted_by_name_or_text_however_they_are_cut(self):
        data = (message(b"", b"\0\3\0\0user\0x\0\0") + message(b"P", b"NAMED\0SELECT 1\0\0\0") +
                self.BIND + message(b"E", b"\0\0\0\0\0") + message(b"P", b"\0SELECT 2\0\0\0") +
                message(b"B", b"\0\0\0\0") + message(b"Q", b"SELECT 3\0"))
        for size in (1, 5, 1000):
            with self.subTest(size):
                pieces = [data[i:i + size] for i in range(0, len(data), size)]
                self.assertEqual(seen_by(DatabaseTap, pieces),
                                 ["SANDBOX_GET", "SELECT 2", "SELECT 3"])


if __name__ == "__main__":
    unittest.main()
