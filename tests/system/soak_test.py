"""Nothing grows: many sandboxes come and go, then clients of all kinds go on for long. What is held is
looked at when both workers behind nginx are at rest: before, in the middle, and after.

SBX_SOAK_CYCLES and SBX_SOAK_SECONDS say how many and how long; `tests/run --full` 2,000 and 1,800.
"""
import glob
import json
import os
import re
import subprocess
import time
import unittest

import nginx
import parts
import sandboxd
from load import Load, Viewer
from sandboxd import Client, SystemCase, all_at_once, wait_for

TIMEOUT_S = 10800
FULL = os.environ.get("SBX_TEST_SCOPE") == "full"
CYCLES = int(os.environ.get("SBX_SOAK_CYCLES", "2000" if FULL else "80"))
SECONDS = int(os.environ.get("SBX_SOAK_SECONDS", "1800" if FULL else "40"))
LINES = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.1; done"
LINGER_S = 11  # a closed log, connections that are kept, bridges

# The allocator keeps what a thread freed for that thread: off, every byte in use is in use.
TCACHE_OFF = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}

# What may be more after the second half than after the first; what is not named: nothing. Of each
# worker. Threads open their connection to the database, or to the engine, with their first need.
MAY_GROW = {"heap KB": 256, "resident KB": 4096, "descriptors": 8,
            "nginx resident KB": 2048, "nginx descriptors": 2}
# By a sandbox that came and went: its record stays for a day, its events for a week.
DATABASE_KB_A_SANDBOX = 32


class World:
    """An installation with a Redis of its own, and what is counted of it."""

    def __init__(self, case):
        redis = parts.PrivateRedis()
        redis.start()
        case.addCleanup(redis.remove)
        self.redis = redis
        self.service = sandboxd.Service(env={
            "REDIS_URL": redis.url, "SBX_TRUSTED_PROXIES": "127.0.0.1", "SBX_BRIDGE_IDLE": 2,
            **TCACHE_OFF})
        case.addCleanup(self.service.close)
        self.workers = []
        for _ in range(2):
            port = nginx.free_port()
            self.workers.append(self.service.start(env={"SBX_LISTEN": f"127.0.0.1:{port}"}))
        self.front = nginx.Nginx([w.port for w in self.workers])
        case.addCleanup(self.front.remove)
        self.front.start()
        self.api = Client(self.front, self.service.key())

    def heap_kb(self, worker):
        text = Client(worker).get("/metrics").body.decode()
        return int(float(text.split("\nprocess_heap_bytes ")[1].split()[0])) // 1024

    def redis_keys(self):
        got = subprocess.run(["redis-cli", "-s", f"{self.redis.folder}/socket", "DBSIZE"],
                                   capture_output=True, text=True, check=True)
        return int(re.search(r"\d+", got.stdout).group())

    def left(self):
        """Of the containers that ever were: cgroups, and folders on the disk."""
        ids = set(self.service.psql("SELECT container_id FROM sandboxes WHERE container_id <> ''")
                  .split())
        groups = {name.split("docker-")[-1].removesuffix(".scope")
                  for pattern in ("*/docker/*", "docker/*", "system.slice/docker-*.scope")
                  for name in map(os.path.basename, glob.glob(f"/sys/fs/cgroup/{pattern}"))}
        root = self.service.engine.call("GET", "/info")["DockerRootDir"]
        return len(ids & groups), len(ids & set(os.listdir(f"{root}/containers")))

    def labelled(self, what):
        told = self.service.engine.call("GET", f"/{what}", {"filters": json.dumps(
            {"label": [f"sandboxd.cluster={self.service.cluster}"]})})
        return told["Volumes"] or [] if what == "volumes" else told

    def ports(self):
        """Of the bridges of our networks, on this host."""
        return sum(len(glob.glob(f"/sys/class/net/sbx{n['Id'][:12]}/brif/*"))
                   for n in self.labelled("networks"))

    def rows(self):
        """Of what should be gone, or be over."""
        told = self.service.psql(
            "SELECT (SELECT count(*) FROM sandboxes WHERE state NOT IN ('deleted', 'failed')),"
            " (SELECT count(*) FROM sandboxes WHERE state = 'failed'),"
            " (SELECT count(*) FROM sandbox_executions WHERE duration_ms IS NULL),"
            " (SELECT count(*) FROM usage_runs WHERE NOT done), (SELECT count(*) FROM groups)")
        return dict(zip(("rows of sandboxes", "failed sandboxes", "open records of commands",
                         "runs under way", "rows of groups"),
                        map(int, told.split("|"))))

    def counts(self):
        """What must be the same whenever all is at rest."""
        groups, folders = self.left()
        return {"containers": len(self.service.containers()), "cgroups": groups,
                "folders of containers": folders, "volumes": len(self.labelled("volumes")),
                "networks": len(self.labelled("networks")), "ports of bridges": self.ports(),
                "keys in Redis": self.redis_keys(), **self.rows(),
                "temporary files of nginx": len(self.front.temp_files()),
                **{f"worker {i}: threads": w.threads() for i, w in enumerate(self.workers)}}

    def sizes(self):
        told = {}
        for i, worker in enumerate(self.workers):
            told[f"worker {i}: heap KB"] = self.heap_kb(worker)
            told[f"worker {i}: resident KB"] = worker.rss_kb()
            told[f"worker {i}: descriptors"] = worker.descriptors()
        told["nginx resident KB"] = self.front.rss_kb()
        told["nginx descriptors"] = self.front.descriptors()
        told["database KB"] = int(self.service.psql(
            "SELECT pg_database_size(current_database()) / 1024"))
        return told

    def at_rest(self, want=None):
        """The least of each size, and the counts, which become `want` if that can be."""
        least, end = {}, time.monotonic() + LINGER_S
        while time.monotonic() < end:
            for name, value in self.sizes().items():
                least[name] = min(value, least.get(name, value))
            time.sleep(0.5)
        try:
            wait_for(lambda: want is None or self.counts() == want, 30, "the counts", 0.5)
        except AssertionError:
            pass  # told by whoever compares
        return {**self.counts(), **least}


def allowed(name):
    return MAY_GROW.get(name.split(": ")[-1], 0)


class SoakTest(SystemCase):
    def setUp(self):
        self.addCleanup(sandboxd.remove_images)
        self.world = World(self)
        self.api = self.world.api

    def compare(self, seen, sandboxes):
        """Prints the table, and fails with what has grown from the middle to the end."""
        grown, width = [], max(map(len, seen[0]))
        print(f"\n{'':{width}} {'before':>10} {'middle':>10} {'after':>10} {'may grow':>10}")
        for name in seen[0]:
            before, middle, after = (s[name] for s in seen)
            may = (DATABASE_KB_A_SANDBOX * sandboxes if name == "database KB" else allowed(name))
            print(f"{name:{width}} {before:>10} {middle:>10} {after:>10} {may:>10}")
            if after - middle > may:
                grown.append(f"{name}: {before}, {middle}, {after}, may grow by {may}")
        self.assertEqual(grown, [])

    def cycle(self, number):
        box = self.api.create(env={"A": "b"}, metadata={"n": str(number)})["id"]
        assert self.api.exec(box, "echo out; echo err >&2")["stdout"] == "out\n"
        got = self.api.delete(f"/sandboxes/{box}")
        assert got.status == 204, got

    def test_sandboxes_that_come_and_go(self):
        all_at_once(self.cycle, range(20), 4)
        seen = [self.world.at_rest()]
        want = {name: seen[0][name] for name in self.world.counts()}
        for _ in range(2):
            began = time.monotonic()
            all_at_once(self.cycle, range(CYCLES // 2), 4)
            print(f"{CYCLES // 2} cycles in {time.monotonic() - began:.0f} s")
            seen.append(self.world.at_rest(want))
        self.compare(seen, CYCLES // 2)

    def begin(self, boxes, talker, coder):
        load = Load(self.api)
        for name, work in (("lives", load.lives), ("repeatable", load.keeps), ("runs", load.runs),
                           ("waits", load.waits(boxes[0])), ("streams", load.streams(boxes[1])),
                           ("reads", load.reads(boxes[0])), ("files", load.carries(boxes[1])),
                           ("changes", load.changes(boxes[0])), ("moves", load.rests(boxes[2])),
                           ("contexts", load.remembers(coder)), ("groups", load.groups(boxes[:2])),
                           ("viewers", load.looks(talker))):
            load.go_on(name, work)
        return load

    def gapless(self, viewer):
        """From where the history begins on, what is older being told as a gap."""
        seqs = [e["seq"] for e in viewer.entries]
        self.assertEqual(seqs, list(range(seqs[0], seqs[0] + len(seqs))))
        gap = [{"type": "gap", "from": 1, "to": seqs[0] - 1}] if seqs[0] > 1 else []
        self.assertEqual(viewer.others, gap)

    def test_all_kinds_of_clients_for_long(self):
        boxes = [self.api.create()["id"] for _ in range(3)]
        coder = self.api.create(template="python")["id"]
        talker = self.api.create(command=["sh", "-c", LINES])["id"]
        done, seen, want = {}, [], None
        for seconds in (min(30, SECONDS / 2), SECONDS / 2, SECONDS / 2):
            load = self.begin(boxes, talker, coder)
            viewer = Viewer(self.api, talker, "websocket")
            load.over.wait(seconds)
            load.stop()
            viewer.stop()
            self.assertEqual(load.faults, [])
            self.gapless(viewer)
            done = {name: done.get(name, 0) + n for name, n in load.done.items()}
            seen.append(self.world.at_rest(want))
            want = {name: seen[0][name] for name in self.world.counts()}
        print(done)
        self.assertTrue(all(done.values()), done)
        self.compare(seen, 2 * sum(done[n] for n in ("lives", "repeatable", "runs", "files")))


if __name__ == "__main__":
    unittest.main()
