"""How the HTTP server ends, black-box, against the probe."""
import signal
import struct
import threading
import time
import unittest

from http_harness import Probe, frame, wait_for


class Drain(unittest.TestCase):
    def test_running_requests_finish_and_idle_connections_close(self):
        p = Probe()
        idle, parked, stream = p.connect(), p.connect(), p.connect()
        self.assertEqual(idle.request("GET", "/hello").status, 200)
        parked.send("GET /park?ms=700 HTTP/1.1\r\nHost: x\r\n\r\nGET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
        stream.send("GET /events?count=9&ms=60000 HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
        stream.head()
        self.assertIn(b"data", stream.chunk())
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

    def test_for_a_while_all_goes_on_and_each_answer_is_the_last_of_its_connection(self):
        p = Probe("--drain_wait=2000")
        idle, parked, stream = p.connect(), p.connect(), p.connect()
        self.assertEqual(idle.request("GET", "/hello").status, 200)
        parked.send("GET /park?ms=500 HTTP/1.1\r\nHost: x\r\n\r\n")
        stream.send("GET /events?count=900&ms=50 HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
        stream.head()
        self.assertIn(b"data", stream.chunk())
        t0 = time.monotonic()
        p.proc.send_signal(signal.SIGTERM)
        for c in (idle, p.connect()):
            got = c.request("GET", "/hello")
            self.assertEqual((got.status, got.headers.get("connection")), (200, "close"))
            self.assertTrue(c.closed())
        got = parked.response()
        self.assertEqual((got.body, got.headers.get("connection")), (b'{"parked":true}', "close"))
        while stream.chunk():  # viewers go on as long as others could come
            pass
        self.assertGreater(time.monotonic() - t0, 1.9)
        with self.assertRaises(ConnectionRefusedError):
            p.connect()
        for c in (idle, parked, stream):
            c.sock.close()
        self.assertEqual(p.stop(), 0)

    def test_a_connection_that_was_not_told_is_left_to_its_client_for_that_while(self):
        """One who closes what he has not used for a shorter time never meets a closed one."""
        p = Probe("--drain_wait=1000")
        with p.connect() as c:
            c.send("POST /events?count=20&ms=100 HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
            self.assertNotIn("connection", c.head()[1])
            p.proc.send_signal(signal.SIGTERM)
            while c.chunk():
                pass
            with self.assertRaises(ConnectionRefusedError):
                p.connect()
            got = c.request("GET", "/hello")
            self.assertEqual((got.status, got.headers.get("connection")), (200, "close"))
        self.assertEqual(p.stop(), 0)

    def test_connections_that_wait_to_be_taken_are_answered_before_the_listener_closes(self):
        p = Probe("--drain_wait=600")
        p.proc.send_signal(signal.SIGTERM)
        wait_for("the drain", lambda: p.get("/hello").headers.get("connection") == "close")
        p.proc.send_signal(signal.SIGSTOP)
        waiting = [p.connect() for _ in range(100)]
        for c in waiting:
            c.send("GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.8)  # until the wait is over
        p.proc.send_signal(signal.SIGCONT)
        for c in waiting:
            self.assertEqual(c.response().status, 200)
            c.sock.close()
        self.assertEqual(p.stop(), 0)

    def test_no_connection_that_was_made_is_reset_when_no_more_are_taken(self):
        p = Probe("--drain_wait=1000")
        stop, faults, counts = threading.Event(), [], [0, 0]

        def ask():
            while not stop.is_set():
                try:
                    c = p.connect()
                except ConnectionRefusedError:
                    counts[1] += 1
                    stop.wait(0.02)
                    continue
                try:
                    with c:
                        c.request("POST", "/echo", [("Content-Type", "application/json")], b"{}")
                        counts[0] += 1
                except (OSError, EOFError) as e:
                    faults.append(repr(e))
        threads = [threading.Thread(target=ask) for _ in range(8)]
        for t in threads:
            t.start()
        wait_for("requests", lambda: counts[0] > 100)
        p.proc.send_signal(signal.SIGTERM)
        wait_for("refusals by all", lambda: counts[1] > 50, 20)
        stop.set()
        for t in threads:
            t.join()
        self.assertEqual(faults, [])
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
