"""Both workers behind nginx are restarted, one after the other, again and again, under load: no
request fails, no line is lost or told twice, no command's result is lost."""
import signal
import unittest

import nginx
import sandboxd
from load import Load, Viewer
from sandboxd import Client, SystemCase, wait_for

TIMEOUT_S = 900
ROUNDS = 3
DRAIN_WAIT_S = 4  # longer than the keep-alive of deploy/nginx.conf
LINES = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.02; done"


class RollingTest(SystemCase):
    def setUp(self):
        if not sandboxd.REDIS_URL:
            raise AssertionError("SBX_TEST_REDIS_URL is not set: run tests/run")
        self.addCleanup(sandboxd.remove_images)
        self.service = sandboxd.Service(env={
            "REDIS_URL": sandboxd.REDIS_URL, "SBX_TRUSTED_PROXIES": "127.0.0.1",
            "SBX_DRAIN_WAIT": DRAIN_WAIT_S})
        self.addCleanup(self.service.close)
        self.ports = [nginx.free_port(), nginx.free_port()]
        self.workers = [self.start(port) for port in self.ports]
        self.front = nginx.Nginx(self.ports)
        self.addCleanup(self.front.remove)
        self.front.start()
        self.api = Client(self.front, self.service.key())

    def start(self, port):
        return self.service.start(env={"SBX_LISTEN": f"127.0.0.1:{port}"})

    def restart(self, number):
        """As an operator does: one worker, and the next when it is ready again."""
        old = self.workers[number]
        old.signal(signal.SIGTERM)
        got = wait_for(lambda: self.unready(old), 10, "/ready that says so")
        self.assertEqual(got.json["status"], "draining")
        self.assertEqual(old.wait(60), 0)
        self.workers[number] = self.start(self.ports[number])

    @staticmethod
    def unready(worker):
        got = Client(worker).get("/ready")
        return got if got.status == 503 else None

    def test_a_rolling_restart_fails_no_request_and_loses_no_line(self):
        talker = self.api.create(command=["sh", "-c", LINES])["id"]
        boxes = [self.api.create()["id"] for _ in range(4)]
        viewers = [Viewer(self.api, talker, way) for way in ("websocket", "events", "websocket")]
        load = Load(self.api)
        for number in range(2):
            load.go_on(f"create, run, delete {number}", load.lives)
        for number, box in enumerate(boxes):
            load.go_on(f"waiting commands {number}", load.waits(box))
            load.go_on(f"streamed commands {number}", load.streams(box))
        load.go_on("reads", load.reads(boxes[0]))
        load.go_on("files", load.carries(boxes[1]))
        load.go_on("changes", load.changes(boxes[2]))
        try:
            for _ in range(ROUNDS):
                for number in range(2):
                    before = dict(load.done)
                    self.restart(number)
                    wait_for(lambda b=before: all(load.done[name] > b[name] for name in b), 60,
                             "each client to have got on")
            last = max(e["seq"] for e in self.api.logs(talker, "?tail=1"))
            wait_for(lambda: all(v.last() >= last for v in viewers), 30, "viewers that follow")
        finally:
            load.stop()
            for viewer in viewers:
                viewer.stop()
        print(load.done, [v.ends for v in viewers])
        self.assertEqual(load.faults, [])
        for viewer in viewers:
            seqs = [e["seq"] for e in viewer.entries]
            self.assertEqual(seqs, list(range(1, len(seqs) + 1)), viewer.way)
            said = [e["data"] for e in viewer.entries if e["source"] == "main"]
            self.assertEqual(said, [f"line {i}" for i in range(1, len(said) + 1)], viewer.way)
            self.assertEqual(viewer.others, [])
            self.assertTrue(viewer.ends, "no viewer's worker was restarted")
            self.assertLessEqual(set(viewer.ends), {1001, "end"}, viewer.way)

    def test_the_others_take_over_at_once_what_a_worker_leaves(self):
        """With the heartbeat that finds it gone, not only when they look around."""
        first, second = self.workers
        boxes = [Client(first, self.api.key).create()["id"] for _ in range(3)]
        first.stop()
        wait_for(lambda: [line for line in second.log() if "has left" in line["msg"]], 10,
                 "the news")
        holder = wait_for(lambda: self.service.psql("SELECT id FROM workers"), what="the workers")
        wait_for(lambda: self.service.psql("SELECT count(*) FROM sandboxes WHERE state = 'running'"
                                           f" AND worker = '{holder}'") == str(len(boxes)), 10,
                 "what it holds")
        for box in boxes:
            self.assertEqual(self.api.exec(box, "echo on")["stdout"], "on\n")

    def test_a_command_under_way_ends_as_ever(self):
        """Also one that is begun after the signal."""
        box = self.api.create()["id"]
        got = []
        with sandboxd.concurrent.futures.ThreadPoolExecutor(2) as pool:
            first = pool.submit(self.api.exec, box, "echo >/tmp/on; sleep 5; echo first")
            wait_for(lambda: self.api.exec(box, "test -e /tmp/on")["exitCode"] == 0, what="it")
            for worker in self.workers:
                worker.signal(signal.SIGTERM)
            second = pool.submit(self.api.exec, box, "sleep 5; echo second")
            got = [first.result(60), second.result(60)]
        self.assertEqual([(g["stdout"], g["exitCode"]) for g in got],
                         [("first\n", 0), ("second\n", 0)])
        for number, worker in enumerate(self.workers):
            self.assertEqual(worker.wait(60), 0)
            self.workers[number] = self.start(self.ports[number])


if __name__ == "__main__":
    unittest.main()
