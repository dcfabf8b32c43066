"""Both workers behind nginx are restarted, one after the other, again and again, under load: no
request fails, no line is lost or told twice, no command's result is lost."""
import http.client
import itertools
import signal
import threading
import time
import unittest

import nginx
import sandboxd
from sandboxd import Client, SystemCase, wait_for

TIMEOUT_S = 900
ROUNDS = 3
DRAIN_WAIT_S = 4  # longer than the keep-alive of deploy/nginx.conf
LINES = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.02; done"


class Load:
    """Clients, each a thread that does one thing again and again, without a second try."""

    def __init__(self, api):
        self.api, self.over = api, threading.Event()
        self.done, self.faults, self.threads = {}, [], []

    def go_on(self, name, work):
        self.done[name] = 0

        def run():
            for n in itertools.count():
                if self.over.is_set():
                    return
                try:
                    work(n)
                    self.done[name] += 1
                except (AssertionError, OSError, http.client.HTTPException, ValueError,
                        StopIteration) as fault:
                    self.faults.append(f"{time.strftime('%X')} {name} {n}: {fault!r}"[:600])
                    self.over.wait(0.1)
        thread = threading.Thread(target=run, name=name)
        thread.start()
        self.threads.append(thread)

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join(60)

    # what clients do

    def lives(self, _):
        box = self.api.create()["id"]
        assert self.api.exec(box, "echo alive")["stdout"] == "alive\n"
        got = self.api.delete(f"/sandboxes/{box}")
        assert got.status == 204, got

    def waits(self, box):
        def work(n):
            got = self.api.exec(box, f"sleep 0.3; echo {n}; exit 3")
            assert (got["stdout"], got["exitCode"]) == (f"{n}\n", 3), got
        return work

    def streams(self, box):
        def work(n):
            with self.api.exec_stream(box, f"for i in 1 2 3 4 5 6 7 8; do echo {n} $i; sleep 0.2;"
                                           " done; exit 5") as stream:
                assert stream.status == 200, stream.status
                events = [event for _, event in stream.events()]
            text = "".join(e["data"] for e in events if e["type"] == "stdout")
            assert text == "".join(f"{n} {i}\n" for i in range(1, 9)), text
            assert (events[-1]["type"], events[-1]["exitCode"]) == ("exit", 5), events[-1]
        return work

    def reads(self, box):
        def work(_):
            assert self.api.sandbox(box)["id"] == box
            assert self.api.get("/sandboxes?limit=5").status == 200
            self.over.wait(0.02)
        return work

    def carries(self, box):
        def work(n):
            content = f"{n:08}".encode() * 65536
            path = f"/sandboxes/{box}/files?path=/tmp/carried"
            got = self.api.call("PUT", path, content, {"Content-Type": "application/octet-stream"})
            assert got.status in (200, 201), got
            got = self.api.get(path)
            assert (got.status, got.body == content) == (200, True), got.status
        return work

    def changes(self, box):
        def work(n):
            got = self.api.patch(f"/sandboxes/{box}", {"metadata": {"n": str(n)}})
            assert got.status == 200, got
            self.over.wait(0.1)
        return work


class Viewer:
    """Follows a log as clients are told to: behind what it has whenever it is cut."""

    def __init__(self, api, box, way):
        self.api, self.path, self.way = api, f"/sandboxes/{box}/logs", way
        self.entries, self.ends, self.others = [], [], []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.follow, name=way)
        self.thread.start()

    def last(self):
        return self.entries[-1]["seq"] if self.entries else 0

    def take(self, told):
        if told.get("type") == "logs":
            self.entries += told["entries"]
        elif "seq" in told:
            self.entries.append(told)
        elif told.get("type") != "state":
            self.others.append(told)

    def over_websocket(self):
        with self.api.websocket(f"{self.path}?since={self.last()}") as socket:
            if socket.status != 101:
                raise AssertionError(f"upgrade: {socket.status}")
            for frame in socket.frames():
                self.take(frame)
                if self.over.is_set():
                    return
            self.ends.append(socket.close_code)

    def over_events(self):
        with self.api.stream("GET", self.path + ("" if self.entries else "?since=0"), headers={
                "Last-Event-ID": str(self.last())} if self.entries else {}) as stream:
            if stream.status != 200:
                raise AssertionError(f"stream: {stream.status}")
            for _, event in stream.events():
                self.take(event)
                if self.over.is_set():
                    return
            self.ends.append("end")

    def follow(self):
        while not self.over.is_set():
            try:
                (self.over_websocket if self.way == "websocket" else self.over_events)()
            except (OSError, AssertionError, http.client.HTTPException, ValueError) as fault:
                self.ends.append(repr(fault))
                self.over.wait(0.1)

    def stop(self):
        self.over.set()
        self.thread.join(60)


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
