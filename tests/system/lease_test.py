"""The log of a sandbox goes on, without gap or repeat, when the worker that holds it dies or stands
still: for viewers elsewhere, for those that come back, and in pages."""
import os
import signal
import socket
import threading
import time
import unittest

import sandboxd
from parts import PrivateRedis
from sandboxd import Client, SystemCase, wait_for

TIMEOUT_S = 400
LIMIT_S = 10  # from the crash until another worker publishes
PRINTER = "i=0; while :; do i=$((i+1)); echo line$i; usleep 50000; done"


class Viewer:
    """Follows a log over a WebSocket from another thread, and keeps what it is told."""

    def __init__(self, client, sandbox, query=""):
        self.seqs, self.lines, self.others = [], [], []
        self.socket = sandboxd.WebSocket(client.server.port, f"/sandboxes/{sandbox}/logs{query}",
                                         client.headers(), timeout=90)
        if self.socket.status != 101:
            raise AssertionError(self.socket.status)
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        try:
            for frame in self.socket.frames():
                if frame["type"] != "logs":
                    self.others.append(frame)
                for entry in frame.get("entries", []):
                    self.seqs.append(entry["seq"])
                    if entry["source"] == "main":
                        self.lines.append(entry["data"])
        except (OSError, ValueError):
            pass

    def last(self):
        return self.seqs[-1] if self.seqs else 0

    def wait_more(self, count, timeout, what):
        end = self.last() + count
        wait_for(lambda: self.last() >= end, timeout, what)

    def close(self):
        if self.thread.is_alive():
            self.socket.sock.shutdown(socket.SHUT_RDWR)
        self.thread.join(20)
        self.socket.close()


class LogCase(SystemCase):
    """Workers over one Redis, and what is expected of their logs."""

    @classmethod
    def serve(cls, redis_url):
        cls.service = sandboxd.Service(env={"REDIS_URL": redis_url})
        cls.addClassCleanup(cls.service.close)
        cls.key = cls.service.key()
        cls.b = cls.worker()

    @classmethod
    def worker(cls):
        return Client(cls.service.start(), cls.key)

    def view(self, client, sandbox, query=""):
        viewer = Viewer(client, sandbox, query)
        self.addCleanup(viewer.close)
        return viewer

    def holder(self, sandbox):
        return self.service.psql(f"SELECT worker FROM sandboxes WHERE id = '{sandbox}'")

    def assert_whole(self, viewer):
        """No gap was told, and there is none; nothing came twice."""
        self.assertEqual([f for f in viewer.others if f["type"] == "gap"], [])
        seqs = list(viewer.seqs)
        self.assertEqual(seqs, list(range(seqs[0], seqs[0] + len(seqs))))
        numbers = [int(line.removeprefix("line")) for line in list(viewer.lines)]
        self.assertEqual(numbers, list(range(numbers[0], numbers[0] + len(numbers))))

    def assert_page(self, client, sandbox, upto):
        """The page has all numbers, up to one that a viewer has seen."""
        seqs = [e["seq"] for e in client.logs(sandbox, f"?tail=1000&until={upto}")]
        self.assertEqual(seqs, list(range(seqs[0], upto + 1)))


class LeaseTest(LogCase):
    @classmethod
    def setUpClass(cls):
        if not sandboxd.REDIS_URL:
            raise AssertionError("SBX_TEST_REDIS_URL is not set: run tests/run")
        cls.serve(sandboxd.REDIS_URL)

    def loss(self, how):
        """A holder that is lost; times from then until it was replaced, and until lines came."""
        a = self.worker()
        box = a.create(command=["sh", "-c", PRINTER])["id"]
        stays, leaves = self.view(self.b, box), self.view(self.b, box)
        stays.wait_more(20, 30, "lines on the other worker")
        was = self.holder(box)
        leaves.close()
        lost_at = time.monotonic()
        how(a)
        wait_for(lambda: self.holder(box) not in ("", was), LIMIT_S, "another holder")
        held = time.monotonic() - lost_at
        stays.wait_more(20, LIMIT_S, "lines of the new holder")
        print(f"held again after {held:.1f} s, lines after {time.monotonic() - lost_at:.1f} s")
        self.assertLess(time.monotonic() - lost_at, LIMIT_S + 2)
        back = self.view(self.b, box, f"?since={leaves.last()}")
        wait_for(lambda: back.last() >= stays.last(), 20, "the lines in between")
        self.assertEqual(back.seqs[0], leaves.last() + 1)
        for viewer in (stays, leaves, back):
            self.assert_whole(viewer)
        self.assert_page(self.b, box, stays.last())
        return a, box, stays

    def test_after_sigkill_another_worker_goes_on(self):
        _, box, _ = self.loss(lambda a: a.server.kill())
        self.assertEqual(self.b.exec(box, "echo x")["stdout"], "x\n")
        self.assertEqual(self.b.delete(f"/sandboxes/{box}").status, 204)

    def test_after_sigstop_another_worker_goes_on_and_the_old_one_disturbs_nobody(self):
        seen = []

        def stop(a):
            box = self.service.psql("SELECT id FROM sandboxes WHERE state = 'running'")
            seen.append(self.view(a, box))
            seen[0].wait_more(5, 20, "lines on the holder")
            os.kill(a.server.pid, signal.SIGSTOP)
        a, box, stays = self.loss(stop)
        os.kill(a.server.pid, signal.SIGCONT)
        wait_for(lambda: "heartbeat was late" in a.server.log_text(), 20, "the worker's own doubt")
        stays.wait_more(40, 20, "lines after the old holder woke up")
        wait_for(lambda: seen[0].last() >= stays.last(), 20, "the lines of its own viewer")
        for viewer in (stays, seen[0]):
            self.assert_whole(viewer)
        for client in (a, self.b):
            self.assert_page(client, box, stays.last())
            self.assertEqual(client.exec(box, "echo x")["stdout"], "x\n")
        self.assertEqual(a.delete(f"/sandboxes/{box}").status, 204)
        self.assertEqual(a.server.stop(), 0)


class RedisTest(LogCase):
    @classmethod
    def setUpClass(cls):
        cls.redis = PrivateRedis()
        cls.addClassCleanup(cls.redis.remove)
        cls.redis.start()
        cls.serve(cls.redis.url)
        cls.a = cls.worker()

    def test_without_redis_all_goes_on_and_afterwards_nothing_is_missing(self):
        box = self.a.create(command=["sh", "-c", PRINTER])["id"]
        here, there = self.view(self.a, box), self.view(self.b, box)
        for viewer in (here, there):
            viewer.wait_more(20, 40, "lines")
        early = there.seqs[0]
        self.redis.stop(signal.SIGKILL)
        wait_for(lambda: {"type": "delayed"} in there.others, 40, "the word that lines are late")
        here.wait_more(40, 40, "lines on the worker that holds the sandbox")
        for client in (self.a, self.b):
            self.assertEqual(client.exec(box, "echo x")["stdout"], "x\n")
            other = client.create()["id"]
            self.assertEqual(client.exec(other, "echo y")["stdout"], "y\n")
            self.assertEqual(client.delete(f"/sandboxes/{other}").status, 204)
        self.redis.start()  # it has forgotten everything
        seen = here.last()
        wait_for(lambda: there.last() >= seen, 40, "the lines of the outage")
        back = self.view(self.b, box, f"?since={early}")
        wait_for(lambda: back.last() >= seen, 40, "the lines again")
        self.assertEqual(back.seqs[0], early + 1)
        for viewer in (here, there, back):
            self.assert_whole(viewer)
        for client in (self.a, self.b):
            self.assert_page(client, box, seen)
        self.assertEqual(self.b.delete(f"/sandboxes/{box}").status, 204)


if __name__ == "__main__":
    unittest.main()
