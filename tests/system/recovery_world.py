"""Two workers with a database, a Redis and an engine of their own, and sandboxes in every state, so
that a test has one of them die and says how long it takes until all has settled.

What is measured is the time from the end of the fault, with the options as they are by default, but
for the grace of containers without a row."""
import http.client
import threading
import time

import parts
import sandboxd
from invariants import Invariants
from sandboxd import Client, SystemCase, wait_for

LIMIT_S = 10  # for everything, from the end of a fault
SLOWNESS = 4  # of the machine: what is waited for at most, in these limits
GRACE_S = 3
# A run needs a program by this name; that of the tiny image takes its code for a script.
PYTHON = b"#!/bin/sh\nexec sh \"$2\"\n"
TICKING = "i=0; while true; do i=$((i+1)); echo n$i; sleep 0.2; done"

GONE = (OSError, http.client.HTTPException)


class Viewer:
    """Follows the log of a sandbox through one worker as the guide says: it comes back behind the
    last number that it has."""

    def __init__(self, client, box):
        self.client, self.box = client, box
        self.seen, self.problems, self.over = [], [], False
        self.thread = threading.Thread(target=self.follow, daemon=True)
        self.thread.start()

    def last(self):
        return self.seen[-1] if self.seen else 0

    def take(self, first, last, what):
        if self.seen and first != self.last() + 1:
            self.problems.append(f"{what} {first} behind {self.last()} of {self.box}")
        self.seen += range(first, last + 1)

    def follow(self):
        while not self.over:
            try:
                since = f"?since={self.last()}" if self.seen else ""
                with self.client.websocket(f"/sandboxes/{self.box}/logs{since}") as ws:
                    for frame in ws.frames() if ws.status == 101 else ():
                        if frame["type"] == "gap":
                            self.take(frame["from"], frame["to"], "gap")
                        for entry in frame.get("entries", ()):
                            self.take(entry["seq"], entry["seq"], "line")
                        if frame["type"] == "end" or self.over:
                            return
            except (*GONE, ValueError, IndexError, AttributeError):
                pass
            time.sleep(0.1)


class World:
    def __init__(self, case, engine=(), env=None):
        self.case = case
        self.engine = parts.PrivateEngine(arguments=engine)
        self.postgres, self.redis = parts.PrivatePostgres(), parts.PrivateRedis()
        for part in (self.postgres, self.redis, self.engine):
            case.addCleanup(part.remove)
            part.start()
        python = sandboxd.make_image("sbxtest-python:1", {
            **sandboxd.box_files(), "bin/python3": PYTHON}, into=self.engine.api)
        self.service = sandboxd.Service(
            database_url=self.postgres.url, engine_=self.engine.api, env={
                "DOCKER_HOST": self.engine.host, "REDIS_URL": self.redis.url,
                "SBX_ORPHAN_GRACE": GRACE_S, "SBX_POOL": "box=2/nano", **(env or {})},
            templates=f"python={python},box={sandboxd.box_image(self.engine.api)}")
        case.addCleanup(self.service.close)
        self.key = self.service.key("root", "--role", "admin")
        self.workers = [Client(None, self.key), Client(None, self.key)]
        self.given, self.execs, self.viewers, self.threads = set(), set(), [], []
        self.box = {}
        self.over, self.closed, self.ports = threading.Event(), False, [0, 0]
        case.addCleanup(self.end)
        for i in (0, 1):
            self.start(i)
        self.look = Invariants(self.workers, self.service.url, self.engine.api, alone=True)

    @property
    def a(self):
        return self.workers[0]

    @property
    def b(self):
        return self.workers[1]

    def start(self, i, env=None, ready=True):
        """The i-th worker, again at the same port."""
        server = self.service.start({"SBX_LISTEN": f"127.0.0.1:{self.ports[i]}", **(env or {})},
                                    ready=ready)
        server.port = self.ports[i] = server.port or self.ports[i]
        self.workers[i].server = server

    def supervise(self):
        """As the service manager does: a worker that ends is started again a second later."""
        while not self.closed:
            for i, client in enumerate(self.workers):
                if not client.server.alive():
                    self.start(i, ready=False)
            time.sleep(1)

    def ready(self):
        try:
            return all(client.get("/ready").status == 200 for client in self.workers)
        except GONE:
            return False

    # ---- what there is when the fault comes ----

    def run(self, box, client, **more):
        """A command that runs on; a request of which nobody hears the end, or one behind it."""
        got = client.post(f"/sandboxes/{box}/exec", {"command": "sleep 1000", "background": True,
                                                     **more})
        self.case.assertEqual(got.status, 202, got)
        self.execs.add((box, got.json["execId"]))
        return got.json["execId"]

    def populate(self):
        """Sandboxes in every state that lasts, and in those that last while something waits."""
        names = ("runs", "busy", "paused", "stopped", "idle")
        made = sandboxd.all_at_once(lambda i: self.workers[i % 2].create(
            size="nano", name=names[i], **({"command": TICKING} if i == 0 else {}))["id"],
            range(len(names)), 3)
        self.box = dict(zip(names, made))
        self.given |= set(made)
        self.box["job"] = self.run(self.box["busy"], self.b)
        self.ended = self.a.exec(self.box["busy"], "echo done; exit 3")["execId"]
        self.execs.add((self.box["busy"], self.ended))
        self.a.move(self.box["paused"], "pause")
        self.b.move(self.box["stopped"], "stop")
        slow = {"command": "test -e /ready", "intervalMs": 100, "timeoutMs": 1000,
                "retries": 200}
        waiting = self.b.create(size="nano", wait=False, readiness=slow)["id"]
        self.box["waits"] = waiting
        self.given.add(waiting)
        wait_for(lambda: self.service.container_runs(waiting), 30, "a container to be ready")
        threading.Thread(target=self.one_shot, daemon=True).start()
        wait_for(lambda: self.service.psql(
            "SELECT 1 FROM sandboxes WHERE run IS NOT NULL AND state = 'running'"), 30, "a run")
        self.viewers = [Viewer(client, self.box["runs"]) for client in self.workers]
        wait_for(lambda: all(len(v.seen) > 3 for v in self.viewers), 30, "viewers")
        wait_for(lambda: int(self.service.psql(
            "SELECT count(*) FROM sandboxes WHERE pool IS NOT NULL AND state = 'running'")) == 2,
            40, "a full pool")

    def one_shot(self):
        try:
            self.a.post("/run", {"runtime": "python", "code": "sleep 300"}, timeout=120)
        except GONE:
            pass

    def amid(self):
        """Creates, commands, moves and deletes, through both workers, until the fault is over."""
        self.threads = [threading.Thread(target=self.churn, args=(i,)) for i in range(4)]
        for thread in self.threads:
            thread.start()

    def churn(self, i):
        n = 0
        while not self.over.is_set():
            client = self.workers[(i + n) % 2]
            n += 1
            try:
                got = client.post("/sandboxes", {"template": "box", "size": "nano"}, timeout=60)
                box = got.json.get("id") or got.json.get("sandboxId")
                if got.status != 201:
                    time.sleep(0.1)
                if not box:
                    continue
                self.given.add(box)
                client.post(f"/sandboxes/{box}/exec", {"command": "echo x"})
                for verb in ("pause", "resume", "stop")[:i]:
                    client.post(f"/sandboxes/{box}/{verb}")
                client.delete(f"/sandboxes/{box}")
            except (*GONE, ValueError):
                time.sleep(0.1)

    # ---- afterwards ----

    def settled(self, what, began):
        """All is well within LIMIT_S of `began`; prints how long it took. A container without a row
        has its grace besides."""
        self.over.set()
        for thread in self.threads:
            thread.join(60)
        answered = time.monotonic() - began
        limit = LIMIT_S * SLOWNESS + GRACE_S
        _, told = self.look.settle(limit, self.given, self.execs)
        wait_for(lambda: not self.between(), limit, "no row between two states", 0.1)
        after = time.monotonic() - began
        print(f"recovery: {what}: all requests answered after {answered:.1f} s,"
              f" settled after {after:.1f} s", flush=True)
        self.case.assertEqual(told, [])
        for viewer in self.viewers:
            self.case.assertEqual(viewer.problems, [])
        return after

    def between(self):
        """Rows between two states that nobody waits for."""
        return self.service.psql("SELECT id FROM sandboxes WHERE state IN ('creating', 'pausing',"
                                 " 'resuming', 'stopping', 'starting', 'deleting')"
                                 f" AND pool IS NULL AND id <> '{self.box['waits']}'").split()

    def lines_go_on(self, began):
        """Each viewer sees a line that is newer than anything now."""
        marks = [v.last() for v in self.viewers]
        for viewer, mark in zip(self.viewers, marks):
            wait_for(lambda v=viewer, m=mark: v.last() > m, LIMIT_S * SLOWNESS, "newer lines")
        print(f"recovery: viewers go on {time.monotonic() - began:.1f} s after the fault",
              flush=True)

    def states(self):
        rows = self.service.psql("SELECT id || ' ' || state || ' ' || coalesce(reason->>'code', '')"
                                 " FROM sandboxes WHERE pool IS NULL").splitlines()
        told = dict((r.split(" ", 1)) for r in rows)
        return {name: told.get(box, "").strip() for name, box in self.box.items() if name != "job"}

    def outcome(self):
        return self.a.get(f"/sandboxes/{self.box['busy']}/execs/{self.box['job']}").json

    def end(self):
        """Before the installation goes: what fills a pool at that moment would stay."""
        self.closed = True
        self.over.set()
        for viewer in self.viewers:
            viewer.over = True
        self.service.psql("UPDATE pools SET min = 0, max = 0")
        wait_for(lambda: not self.service.psql(
            "SELECT 1 FROM sandboxes WHERE pool IS NOT NULL AND state NOT IN ('deleted', 'failed')"),
            60, "an empty pool", 0.2)


# What ends with containers alone.
SURVIVES = {"runs": "running", "busy": "running", "paused": "paused", "stopped": "stopped",
            "idle": "running"}


class RecoveryCase(SystemCase):
    def lives_on(self, world):
        told = world.states()
        self.assertEqual({k: v.split()[0] for k, v in told.items() if k != "waits"}, SURVIVES)
        self.assertEqual(world.outcome()["state"], "running")

    def world(self, **more):
        world = World(self, **more)
        world.populate()
        return world
