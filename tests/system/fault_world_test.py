"""What else goes wrong around a server: the clock is set back, clients send halves of requests in
numbers, Redis restarts under viewers."""
import email.utils
import socket
import time
import unittest

import parts
import sandboxd
from sandboxd import Client, SystemCase, all_at_once, wait_for

TIMEOUT_S = 300


class ClockTest(SystemCase):
    """The server's wall clock alone jumps; that of the database, the engine and the test stays."""

    def setUp(self):
        self.clock = parts.WrongClock()
        self.addCleanup(self.clock.remove)
        self.service = sandboxd.Service(env={"SBX_SWEEP_SECONDS": 1, "SBX_ORPHAN_GRACE": 2})
        self.addCleanup(self.service.close)
        self.client = Client(self.service.start(env=self.clock.env), self.service.key())

    def server_ahead_s(self):
        """Of this test's clock, by the Date of an answer."""
        told = self.client.get("/health").headers["Date"]
        return email.utils.parsedate_to_datetime(told).timestamp() - time.time()

    def jump(self, seconds):
        self.clock.set(seconds)
        wait_for(lambda: abs(self.server_ahead_s() - seconds) < 60, 10, "the jump")

    def check_deadlines(self):
        box = self.client.create()["id"]
        got = self.client.exec(box, "sleep 100", timeoutMs=300)
        self.assertTrue(got["timedOut"])
        self.assertLess(got["durationMs"], 20000)
        self.assertEqual(self.client.exec(box, "echo x")["stdout"], "x\n")
        short = self.client.create(timeoutSeconds=1)["id"]
        wait_for(lambda: self.client.state(short) == "deleted", 10, "an expiry")
        # a container without a row goes, whatever the server's clock says of its age
        orphan = self.client.create()["id"]
        self.service.psql(f"DELETE FROM sandboxes WHERE id = '{orphan}'")
        wait_for(lambda: not self.service.container_exists(orphan), 12, "a removed orphan")
        self.assertTrue(self.service.container_exists(box))
        self.assertEqual(self.client.get("/ready").status, 200)

    def test_a_clock_that_is_set_back_two_hours(self):
        before = self.client.create()["id"]
        self.jump(-7200)
        self.check_deadlines()
        self.assertEqual(self.client.exec(before, "echo y")["stdout"], "y\n")


class SlowlorisTest(SystemCase):
    def test_500_half_requests_hold_up_nobody_and_go(self):
        service = sandboxd.Service(env={"SBX_HEADER_TIMEOUT": 12, "SBX_BODY_TIMEOUT": 12})
        self.addCleanup(service.close)
        client = Client(service.start(), service.key())
        box = client.create()["id"]
        descriptors, threads = client.server.descriptors(), client.server.threads()
        body = (f"POST /sandboxes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {client.key}\r\n"
                "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{").encode()
        halves = [b"GET /sandboxes HT", b"GET / HTTP/1.1\r\nX: ", body, b"P"]
        socks = []
        self.addCleanup(lambda: [s.close() for s in socks])
        for i in range(500):
            sock = socket.create_connection(("127.0.0.1", client.server.port), 20)
            sock.sendall(halves[i % len(halves)])
            socks.append(sock)
        wait_for(lambda: client.server.descriptors() >= descriptors + 450, 10, "500 connections")
        got = all_at_once(lambda _: client.post(f"/sandboxes/{box}/exec", {"command": "true"}),
                          range(50), 10)
        self.assertEqual([g.status for g in got], [200] * 50)
        self.assertEqual(client.create()["state"], "running")
        wait_for(lambda: client.server.descriptors() <= descriptors + 12, 40, "closed connections")
        self.assertEqual(client.server.threads(), threads)


class RedisTest(SystemCase):
    def test_a_restart_under_viewers(self):
        redis = parts.PrivateRedis()
        self.addCleanup(redis.remove)
        redis.start()
        service = sandboxd.Service(env={"REDIS_URL": redis.url})
        self.addCleanup(service.close)
        client = Client(service.start(), service.key())
        box = client.create()["id"]
        client.exec(box, "echo before")
        viewers = [client.websocket(f"/sandboxes/{box}/logs") for _ in range(20)]
        frames = [v.frames() for v in viewers]
        descriptors, threads = client.server.descriptors(), client.server.threads()
        for f in frames:
            self.read_until(f, "before")
        redis.stop()
        wait_for(lambda: client.get("/ready").json["bus"]["status"] == "unavailable", 10,
                 "a bus that is missed")
        self.assertEqual(client.exec(box, "echo amid")["stdout"], "amid\n")
        redis.start()
        wait_for(lambda: client.get("/ready").status == 200, 10, "readiness")
        client.exec(box, "echo after")
        for f, viewer in zip(frames, viewers):
            seen = self.read_until(f, "after")
            self.assertEqual(seen, sorted(seen))
            viewer.close()
        wait_for(lambda: client.server.descriptors() <= descriptors, 10, "closed descriptors")
        self.assertEqual(client.server.threads(), threads)

    @staticmethod
    def read_until(frames, text):
        """The numbers of the entries up to the one that is waited for."""
        seen = []
        for frame in frames:
            for entry in frame.get("entries", []):
                seen.append(entry["seq"])
                if entry["data"] == text:
                    return seen
        raise AssertionError(f"the stream ended without {text!r}")


if __name__ == "__main__":
    unittest.main()
