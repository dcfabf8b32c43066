"""One log for many viewers on two workers: what it costs by counts, what comes and goes, who is slow,
and a sandbox that floods its log.

Proxies between the servers and Redis and PostgreSQL count. The viewers are processes of the bench,
which check every number that they get.
"""

import contextlib
import json
import pathlib
import subprocess
import sys
import threading
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "bench"))
from audience import printer  # noqa: E402
from fanout import Audience  # noqa: E402
from lab import Lab, wait_for  # noqa: E402
from taps import DatabaseTap, RedisTap  # noqa: E402
import sandboxd  # noqa: E402
from sandboxd import Client, REDIS_URL  # noqa: E402

READS = ("XRANGE", "XREVRANGE")
GO = "touch /tmp/go"


class FanOut(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.redis, taps = RedisTap(REDIS_URL), []
        cls.addClassCleanup(cls.redis.close)

        def wrap(url):
            taps.append(DatabaseTap(url))
            cls.addClassCleanup(taps[0].close)
            return taps[0].url
        # A busy machine answers late, and is not to refuse for it.
        cls.lab = Lab(workers=2, wrap_database=wrap, variables={
            "REDIS_URL": cls.redis.url, "SBX_FAST_WAIT": "60", "SBX_SLOW_WAIT": "60"})
        cls.addClassCleanup(cls.lab.close)
        cls.database = taps[0]
        cls.image = cls.lab.image()
        cls.wire = cls.lab.wire()
        cls.clients = [Client(worker, cls.lab.key) for worker in cls.lab.workers]

    def box(self, **more):
        made = self.lab.create(self.wire, self.image, **more)["id"]
        self.addCleanup(self.lab.delete, self.wire, made)
        return made

    def audiences(self, stack, box, count, **more):
        """Viewers on both workers, together `count` or one more."""
        return [stack.enter_context(Audience(self.lab, worker, box, (count + 1 - worker) // 2, **more))
                for worker in range(min(count, 2))]

    def assert_whole(self, told):
        self.assertEqual([told[what] for what in ("lost", "repeated", "gaps", "inexact", "closed")],
                         [0] * 5)

    def redis_calls(self, *names):
        """Commands about logs since the last call, by name."""
        seen = [s.split(" ")[0] for s in self.redis.take() if "logs:" in s]
        return {name: seen.count(name) for name in names or sorted(set(seen))}

    # ---- what it costs ----------------------------------------------------------------------

    def cost_of_lines(self, viewers, lines=5):
        """Commands of Redis and statements while `lines` come one by one, and those of joining."""
        box = self.box()
        self.redis.take()
        self.database.take()
        began = time.monotonic()
        with contextlib.ExitStack() as stack:
            crowd = self.audiences(stack, box, viewers, last=lines + 1)
            watch = stack.enter_context(self.clients[1].websocket(f"/sandboxes/{box}/logs?tail=0"))
            frames = watch.frames()
            seconds = time.monotonic() - began

            def line(number):
                self.lab.exec(self.wire, box, f"echo {number}")
                for frame in frames:
                    if any(e["data"] == str(number) for e in frame.get("entries", [])):
                        return
                self.fail("the log ended")
            line(1)
            joining = self.redis_calls(), self.database.take()
            for number in range(lines):
                line(number + 2)
            for audience in crowd:
                audience.expect("finished")
            flow = self.redis_calls(), self.database.take()
        for audience in crowd:
            self.assert_whole(audience.told)
            self.assertEqual(audience.told["offsets"], [0])
        return joining, flow, seconds

    def test_a_hundred_viewers_of_a_log_cost_redis_and_the_database_what_one_costs(self):
        lines = 5
        for viewers in (1, 100):
            joining, (calls, statements), seconds = self.cost_of_lines(viewers, lines)
            # Each line came alone, so each is a message of its own.
            wanted = {"EVAL": lines}
            self.assertEqual({k: n for k, n in calls.items() if k not in READS}, wanted)
            self.assertEqual(statements.count("SANDBOX_GET_OWNED"), lines)  # of the commands
            # Each worker subscribes once. What joins within 100 ms shares a read, of two commands;
            # one more repairs what was missed until the subscription held.
            self.assertEqual(joining[0]["SUBSCRIBE"], 2, joining)
            reads = sum(told.get(name, 0) for told in (joining[0], calls) for name in READS)
            self.assertLessEqual(reads, 2 * 2 * (3 + seconds / 0.1))
            self.assertLess(reads, 80)
            self.assertEqual(joining[1].count("SANDBOX_GET_OWNED"), viewers + 2)

    def test_a_history_is_read_as_far_as_it_is_wanted(self):
        box = self.box()
        self.lab.exec(self.wire, box, "seq 1 900")
        wait_for(lambda: self.clients[1].logs(box, "?tail=1")[-1:] and
                 self.clients[1].logs(box, "?tail=1")[-1]["data"] == "900", "the last line")
        for tail, most in ((10, 4), (1000, 12)):
            self.redis.take()
            with self.clients[1].websocket(f"/sandboxes/{box}/logs?tail={tail}") as socket:
                entries = next(f for f in socket.frames() if f["type"] == "logs")["entries"]
            self.assertEqual([e["data"] for e in entries], [str(n) for n in range(
                901 - min(tail, 900), 901)])
            calls = self.redis_calls(*READS)
            self.assertTrue(1 <= sum(calls.values()) <= most, calls)

    # ---- who comes and goes -----------------------------------------------------------------

    def test_both_workers_show_the_same_entries(self):
        box, seen = self.box(command=printer(100, 0.01)), {}

        def view(number):
            client = self.clients[number % 2]
            with client.websocket(f"/sandboxes/{box}/logs?since=0") as socket:
                entries = []
                for frame in socket.frames():
                    entries += frame.get("entries", [])
                    if entries and entries[-1]["data"].startswith("100 "):
                        break
            seen[number] = entries
        threads = [threading.Thread(target=view, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        self.lab.exec(self.wire, box, GO)
        for thread in threads:
            thread.join(60)
        self.assertEqual(len(seen), 4)
        self.assertEqual(len(seen[0]), seen[0][-1]["seq"])
        for number in range(1, 4):
            self.assertEqual(seen[number], seen[0])

    def test_viewers_that_come_and_go_miss_nothing_and_disturb_nobody(self):
        lines = 600
        box, chains = self.box(command=printer(lines)), {}

        def wander(number):
            """Resumes on one worker and the other until the last line."""
            entries, turn = [], number
            while not entries or not entries[-1]["data"].startswith(f"{lines} "):
                turn += 1
                since = entries[-1]["seq"] if entries else 0
                with self.clients[turn % 2].websocket(
                        f"/sandboxes/{box}/logs?since={since}") as socket:
                    for frame in socket.frames():
                        if frame["type"] == "gap":
                            return
                        entries += frame.get("entries", [])
                        if frame["type"] == "logs":
                            break
            chains[number] = [e["seq"] for e in entries]
        with contextlib.ExitStack() as stack:
            crowd = self.audiences(stack, box, 100, last=lines)
            threads = [threading.Thread(target=wander, args=(n,)) for n in range(6)]
            for thread in threads:
                thread.start()
            self.lab.exec(self.wire, box, GO)
            for audience in crowd:
                audience.expect("finished")
            for thread in threads:
                thread.join(60)
        self.assertEqual(sorted(chains), list(range(6)))
        for chain in chains.values():
            self.assertEqual(chain, list(range(1, chain[-1] + 1)))
        for audience in crowd:
            self.assert_whole(audience.told)
            self.assertEqual(audience.told["lines"], 50 * lines)
        wait_for(lambda: sum(w.metric("sandboxd_log_viewers") for w in self.lab.workers) == 0,
                 "everybody's leaving")

    # ---- who is slow, and who floods --------------------------------------------------------

    def test_a_flood_and_viewers_that_do_not_read_are_told_exact_gaps_and_slow_nobody(self):
        last, lines = 500000, 400
        flood = self.box(command=["sh", "-c", f"until [ -e /tmp/go ]; do usleep 10000; done;"
                                              f" seq 1 {last}; exec sleep 1000"])
        other = self.box(command=printer(lines))
        rss = self.lab.rss_kb()
        with contextlib.ExitStack() as stack:
            crowd = self.audiences(stack, flood, 10, last=last, whole=True)
            stuck = self.audiences(stack, flood, 10, last=last, stuck=True, whole=True)
            neighbours = self.audiences(stack, other, 2, last=lines)
            for box in (flood, other):
                self.lab.exec(self.wire, box, GO)
            for audience in (*neighbours, *crowd):
                audience.expect("finished")
            grown = self.lab.rss_kb() - rss
            for audience in stuck:
                audience.read()
            for audience in stuck:
                audience.expect("finished")
        for audience in neighbours:
            self.assert_whole(audience.told)
            self.assertEqual(audience.told["lines"], lines)
        for audience in (*crowd, *stuck):
            told = audience.told
            self.assertEqual([told[what] for what in ("lost", "repeated", "inexact", "closed")], [0] * 4)
            self.assertGreater(told["gaps"], 0)
            # A line has the same number everywhere, and what is missing was announced, exactly.
            self.assertEqual(told["offsets"], [0])
            self.assertEqual(told["lines"] + told["missing"], 5 * last, told["gaps"])
        self.assertLess(grown / 1024, 64)

    def test_a_flood_costs_redis_no_more_than_its_pace(self):
        box = self.box(command=["sh", "-c", "until [ -e /tmp/go ]; do usleep 10000; done; yes"])
        began, lines = time.monotonic(), 150000
        self.lab.exec(self.wire, box, GO)

        def added():
            told = subprocess.run(["redis-cli", "-u", REDIS_URL, "--json", "XINFO", "STREAM",
                                   f"sbx:logs:{box}"], capture_output=True, text=True, check=True)
            return json.loads(told.stdout)["entries-added"] if told.stdout[:1] == "{" else 0
        wait_for(lambda: added() >= lines, "the flood", timeout=120)
        # 4 MiB a second of entries that have 100 bytes at least, as much at once, and what the agent
        # had under way in the end.
        self.assertGreater(time.monotonic() - began, lines * 100 / (4 << 20) - 1 - 0.5)

    def test_the_end_of_a_log_comes_when_a_flood_is_stopped(self):
        box = self.box(command=["sh", "-c", "until [ -e /tmp/go ]; do usleep 10000; done; yes"])
        with self.clients[1].websocket(f"/sandboxes/{box}/logs?since=0") as socket:
            self.lab.exec(self.wire, box, GO)
            stop = threading.Timer(1.5, self.clients[0].move, (box, "stop", {"graceSeconds": 0}))
            stop.start()
            position, gaps, words = 0, 0, ""
            for frame in socket.frames():
                if frame["type"] == "gap":
                    self.assertEqual(frame["from"], position + 1)
                    position, gaps = frame["to"], gaps + 1
                elif frame["type"] == "logs":
                    numbers = [e["seq"] for e in frame["entries"]]
                    self.assertEqual(numbers, list(range(position + 1, position + 1 + len(numbers))))
                    position, words = numbers[-1], frame["entries"][-1]["data"]
                if words.startswith("main process ended"):
                    break
            stop.join(60)
        self.assertGreater(gaps, 0)


if __name__ == "__main__":
    unittest.main()
