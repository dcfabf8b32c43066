"""What must hold whenever everything has settled, whatever was killed before.

    Invariants(clients, database_url, engine).check(given, execs) -> sentences, none if all is well

It looks at the three places where the truth is: the API (through every worker), the database and
the engine. Each violation is one sentence that names what it is about. Nothing is changed by it,
but for usable(), which runs a command in every sandbox that should bear one.
"""
import concurrent.futures
import http.client
import json
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "deploy/lib"))
from engine import EngineError  # noqa: E402

ENDED = ("stopped", "failed", "deleted")
# By the state of a row, what the engine may say of its container; None: there is none.
CONTAINER = {"running": {"running"}, "paused": {"paused"},
             "stopped": {"exited", "created", "dead", None},
             "failed": {None}, "deleted": {None}}

ROWS = """
SELECT coalesce(json_agg(json_build_object('id', s.id, 'state', s.state, 'pool', s.pool,
  'reason', s.reason, 'deadline', s.deadline_at, 'late', coalesce(s.deadline_at <= now(), true),
  'limits_late', coalesce(s.limits_due_at <= now(), false),
  'metered', s.metered_at IS NOT NULL, 'worker', s.worker,
  'held', EXISTS (SELECT 1 FROM workers w WHERE w.id = s.worker AND {ALIVE}),
  'run_left', s.run_worker IS NOT NULL AND NOT EXISTS
    (SELECT 1 FROM workers w WHERE w.id = s.run_worker AND {ALIVE}),
  'lost', (SELECT count(*) FROM sandbox_executions x
    WHERE x.sandbox = s.id AND x.duration_ms IS NULL))), '[]') FROM sandboxes s"""
# Its session ends with it, long before its heartbeat is old; who stands still keeps the session.
ALIVE = """w.heartbeat_at > now() - interval '10 seconds' AND EXISTS (SELECT 1 FROM
  pg_stat_activity p WHERE p.application_name = 'sandboxd worker ' || w.id)"""
DEAD = f"NOT EXISTS (SELECT 1 FROM workers w WHERE w.id = r.worker AND {ALIVE})"

# Each row is a violation by itself: a sentence made by the database.
SENTENCES = (
    """SELECT format('the pool %s has %s sandboxes, at most %s are allowed', p.key,
        count(*), p.max) FROM pools p JOIN sandboxes s ON substr(s.pool, 18) = p.key
        WHERE s.state NOT IN ('deleting', 'deleted', 'failed')
        GROUP BY p.key, p.max HAVING count(*) > p.max""",
    f"""SELECT format('the packages %s are %s, and nobody is at it', r.id, r.state)
        FROM package_sets r WHERE r.state = 'removing'
        OR (r.state = 'installing' AND (r.deadline_at <= now() OR {DEAD}))""",
    f"""SELECT format('the run %s in %s is reserved by nobody alive', r.id, r.sandbox)
        FROM usage_runs r WHERE NOT r.done AND ({DEAD} OR NOT EXISTS (SELECT 1 FROM sandboxes s
        WHERE s.id = r.sandbox AND s.state NOT IN ('deleted', 'failed', 'stopped')))
        AND NOT EXISTS (SELECT 1 FROM sandbox_executions x JOIN sandboxes s ON s.id = x.sandbox
        WHERE x.id = r.id AND x.duration_ms IS NULL AND s.state IN ('running', 'paused'))""",
    """SELECT format('the events of %s are not numbered in order: %s of %s to %s', owner,
        count(*), min(seq), max(last)) FROM events JOIN event_counters USING (owner)
        GROUP BY owner HAVING count(*) <> max(seq) - min(seq) + 1 OR max(seq) <> max(last)""",
)


class Invariants:
    """`api_clients` are of different workers and may see all ids that check() is asked about; each
    has get(path), post(path, body) and stream(method, path, headers=) as sandboxd.Client has.
    `alone`: nobody else uses the engine, so what has no label is left over as well."""

    def __init__(self, api_clients, database_url, engine, alone=False):
        self.clients, self.url, self.engine = list(api_clients), database_url, engine
        self.alone = alone
        self.cluster = self.sql("SELECT value FROM meta WHERE key = 'cluster'").strip()

    def check(self, given=(), execs=()):
        """`given`: ids of sandboxes that clients were told; `execs`: pairs of sandbox and execId."""
        rows = {row["id"]: row for row in json.loads(self.sql(ROWS.replace("{ALIVE}", ALIVE)))}
        told = []
        for part in (lambda: self.rows(rows), lambda: self.containers(rows), self.volumes,
                     self.networks, self.sentences, lambda: self.answers(given, rows),
                     lambda: self.outcomes(execs), lambda: self.logs(given, rows)):
            try:
                told += part()
            except (EngineError, OSError, http.client.HTTPException, AssertionError) as error:
                told.append(f"it could not be looked at: {error!r}")
        return told

    def settle(self, within, given=(), execs=(), usable=True):
        """Checks until nothing is wrong, for `within` seconds at most, and prints what was wrong
        last. @return the seconds that it took, and what is still wrong."""
        began, last = time.monotonic(), []
        while True:
            told = self.check(given, execs) or (self.usable() if usable else [])
            passed = time.monotonic() - began
            if not told or passed > within:
                print(f"invariants: {passed:.1f} s; the last of it:", *last[:4], sep="\n    ",
                      flush=True)
                return passed, told
            last = told
            time.sleep(0.1)

    def sql(self, statement):
        got = subprocess.run(["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", self.url, "-c",
                              statement], capture_output=True, text=True, timeout=30, check=False)
        if got.returncode:
            raise AssertionError(f"psql: {got.stderr}")
        return got.stdout

    # ---- the database ----

    @staticmethod
    def rows(rows):
        told = []
        for box, row in rows.items():
            state, reason = row["state"], row["reason"] or {}
            if state not in CONTAINER and row["late"]:
                told.append(f"{box} is {state} past its deadline, {row['deadline']}")
            elif state not in CONTAINER and not row["held"]:
                told.append(f"{box} is {state}, and its worker {row['worker']} is dead")
            if state == "running" and not row["held"]:
                told.append(f"{box} runs, and its worker {row['worker']} is dead")
            if state in ("failed", "deleted") and not (reason.get("code") and
                                                       reason.get("message")):
                told.append(f"{box} is {state} without a reason: {reason}")
            if row["limits_late"] and state != "deleted":
                told.append(f"{box} waits for its new limits past their deadline")
            if row["run_left"] and state not in ("deleting", "deleted"):
                told.append(f"{box} is {state} for the request of a dead worker")
            if row["lost"] and state in ENDED:
                told.append(f"{box} is {state}, and {row['lost']} of its commands have no end")
            uses = state in ("running", "pausing", "paused", "resuming", "stopping")
            if not row["pool"] and row["metered"] != uses:
                told.append(f"{box} is {state}, and is {'' if uses else 'still '}"
                            f"{'not ' if uses else ''}metered")
        return told

    def sentences(self):
        return self.sql(" UNION ALL ".join(f"({s})" for s in SENTENCES)).splitlines()

    # ---- the engine ----

    def _mine(self, thing):
        return (thing.get("Labels") or {}).get("sandboxd.cluster") == self.cluster

    def containers(self, rows):
        told, seen = [], {}
        for c in self.engine.containers():
            labels = c["Labels"] or {}
            if not self._mine(c):
                if self.alone:
                    told.append(f"the container {c['Names']} is nobody's")
                continue
            if labels.get("sandboxd.role") == "guard":
                continue
            box = labels.get("sandboxd.id", "")
            if box in seen:
                told.append(f"{box} has two containers")
            seen[box] = c["State"]
            if box not in rows:
                told.append(f"the container of {box} ({c['State']}) has no row")
        for box, row in rows.items():
            allowed = CONTAINER.get(row["state"])
            if allowed and seen.get(box) not in allowed:
                told.append(f"{box} is {row['state']}, and its container {seen.get(box, 'gone')}")
        return told

    def volumes(self):
        """The one with the agent, which stays, and those of sealed packages."""
        told, sealed = [], self.sql("SELECT 'sandboxd-packages-' || id FROM package_sets"
                                    " WHERE state IN ('sealed', 'installing')").split()
        for volume in self.engine.call("GET", "/volumes")["Volumes"] or []:
            name = volume["Name"]
            mine = self._mine(volume) or name.endswith("-" + self.cluster)
            if (mine or self.alone) and not name.startswith("sandboxd-agent-") and \
                    name not in sealed:
                told.append(f"the volume {name} has no row")
        return told

    def networks(self):
        built_in = ("bridge", "host", "none")
        return [f"the network {n['Name']} is nobody's" for n in self.engine.call("GET", "/networks")
                if (self._mine(n) or (self.alone and n["Name"] not in built_in))
                and n["Name"] != f"sandboxd-{self.cluster}"]

    # ---- the API ----

    def _everywhere(self, function, things):
        """All results of function(client, thing), which are lists, joined."""
        work = [(client, thing) for thing in things for client in self.clients]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            return [line for lines in pool.map(lambda w: function(*w), work) for line in lines]

    def answers(self, given, rows):
        def one(client, box):
            got = client.get(f"/sandboxes/{box}")
            if got.status != 200:
                return [f"{box} was given to a client, and is answered {got}"]
            state, reason = got.json["state"], got.json["stateReason"] or {}
            if state in ("failed", "deleted") and not reason.get("message"):
                return [f"{box} is told as {state} without a reason"]
            if box in rows and rows[box]["state"] in CONTAINER and state != rows[box]["state"]:
                now = self.sql(f"SELECT state FROM sandboxes WHERE id = '{box}'").strip()
                if now != state:
                    return [f"{box} is told as {state}, and is {now}"]
            return []
        return self._everywhere(one, sorted(set(given)))

    def outcomes(self, execs):
        def one(client, pair):
            box, exec_id = pair
            got = client.get(f"/sandboxes/{box}/execs/{exec_id}")
            if got.status != 200:
                return [f"the command {exec_id} in {box} is answered {got}"]
            told = got.json
            if told["state"] == "running":
                state = client.get(f"/sandboxes/{box}").json["state"]
                return [f"the command {exec_id} runs in {box}, which is {state}"] \
                    if state in ENDED else []
            if told["exitCode"] is None and not told["error"]:
                return [f"the command {exec_id} in {box} ended without an outcome: {told}"]
            return []
        return self._everywhere(one, sorted(set(execs)))

    def usable(self):
        """A command in every sandbox that runs, through every worker."""
        def one(client, box):
            got = client.post(f"/sandboxes/{box}/exec", {"command": "true"})
            if got.status == 200 and got.json["exitCode"] == 0:
                return []
            now = self.sql(f"SELECT state FROM sandboxes WHERE id = '{box}'").strip()
            return [f"{box} runs and cannot be used: {got}"] if now == "running" else []
        boxes = self.sql("SELECT s.id FROM sandboxes s JOIN users u ON u.id = s.owner"
                         " WHERE s.state = 'running' AND s.pool IS NULL AND s.run IS NULL"
                         " AND u.disabled_at IS NULL")
        return self._everywhere(one, boxes.split())

    # ---- logs ----

    def logs(self, given, rows):
        """Numbers in order, holes announced, and the same lines through every worker."""
        told = []
        for box in sorted(set(given)):
            if rows.get(box, {}).get("state") == "deleted":
                continue
            pages = [self.log(client, box) for client in self.clients]
            first = pages[0]
            for client, page in zip(self.clients, pages):
                numbers = [e["seq"] for e in page]
                if sorted(set(numbers)) != numbers:
                    told.append(f"the log of {box} is out of order: {numbers}")
                for a, b in zip(numbers, numbers[1:]):
                    if b > a + 1 and not self.announced(client, box, a, b):
                        told.append(f"the log of {box} lacks {a + 1} to {b - 1} without a word")
                known = {e["seq"]: e["data"] for e in first}
                told += [f"line {e['seq']} of the log of {box} differs between workers"
                         for e in page if known.get(e["seq"], e["data"]) != e["data"]]
        return told

    @staticmethod
    def log(client, box):
        items, cursor = [], "0"
        while cursor is not None:
            got = client.get(f"/sandboxes/{box}/logs?limit=200&cursor={cursor}")
            if got.status in (404, 410):
                return []
            if got.status != 200:
                raise AssertionError(f"the log of {box} is answered {got}")
            items += got.json["items"]
            cursor = got.json["nextCursor"]
        return items

    @staticmethod
    def announced(client, box, before, behind):
        """Whether a stream that begins behind `before` tells a gap up to `behind`."""
        with client.stream("GET", f"/sandboxes/{box}/logs?since={before}") as stream:
            for _, told in stream.events():
                if "from" in told and "to" in told:
                    return told["from"] <= before + 1 and told["to"] >= behind - 1
                if told.get("seq", 0) >= behind:
                    return False
        return False
