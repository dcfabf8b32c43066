"""The log of a sandbox goes on, without gap or repeat, when the worker that holds it dies or stands
still: for viewers elsewhere, for those that come back, and in pages."""
import os
import signal
import socket
import threading
import time
import unittest

import sandboxd
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
                    if entry["source"] != "system":
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


class LeaseTest(SystemCase):
    @classmethod
    def setUpClass(cls):
        if not sandboxd.REDIS_URL:
            raise AssertionError("SBX_TEST_REDIS_URL is not set: run tests/run")
        cls.service = sandboxd.Service(env={"REDIS_URL": sandboxd.REDIS_URL})
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


if __name__ == "__main__":
    unittest.main()
