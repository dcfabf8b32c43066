"""The warm pool: what a create takes from it, what it does not, and that nobody can tell."""

import concurrent.futures
import json
import os
import pathlib
import re
import secrets
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import sandboxd  # noqa: E402
from sandboxd import Client, SystemCase, all_at_once, wait_for  # noqa: E402

TIMEOUT_S = 600
OWNER = "pool0000000000000000"
WAITS = "pool IS NOT NULL AND state NOT IN ('deleted', 'failed')"


class Pools:
    """An installation with pools, a server of it, a user and an administrator."""

    def __init__(self, pool, env=None, **options):
        self.service = sandboxd.Service(env={"SBX_POOL": pool, **(env or {})}, **options)
        self.server = self.service.start()
        self.user_key = self.service.key()
        self.admin_key = self.service.key("root", "--role", "admin")
        self.api, self.admin = self.clients()

    def clients(self, server=None):
        server = server or self.server
        return Client(server, self.user_key), Client(server, self.admin_key)

    def pools(self, admin=None):
        got = (admin or self.admin).get("/pool")
        if got.status != 200:
            raise AssertionError(f"pools: {got}")
        return {(p["template"], p["size"], p["network"]): p for p in got.json["items"]}

    def pool(self, template="box", size="small", network="none", admin=None):
        return self.pools(admin).get((template, size, network))

    def wait_ready(self, count, timeout=60, **which):
        """Until so many wait, by the record and by what this server offers."""
        def ready():
            p = self.pool(**which)
            return p and p["ready"] == count and p["filling"] == 0 and p
        found = wait_for(ready, timeout, f"{count} that wait", pause=0.1)
        wait_for(lambda: self.metric("sandboxd_pool_ready") == self.held(), 20, "slots on offer")
        return found

    def held(self):
        return int(self.service.psql(f"SELECT count(*) FROM sandboxes WHERE {WAITS}"))

    def metric(self, name, labels=""):
        text = self.api.get("/metrics").body.decode()
        found = re.findall(rf"^{name}{{[^}}]*{labels}[^}}]*}} (\d+)", text, re.M)
        return sum(int(n) for n in found)

    def waiting(self):
        """Ids of what waits."""
        told = self.service.psql(f"SELECT id FROM sandboxes WHERE {WAITS} ORDER BY created_at")
        return told.split()

    def resize(self, **body):
        return self.admin.patch("/pool", {"template": "box", **body})

    def empty(self):
        self.service.psql("UPDATE pools SET min = 0, max = 0")
        wait_for(lambda: self.held() == 0, 60, "empty pools")

    def close(self):
        if any(server.alive() for server in self.service.servers):
            self.empty()
        self.service.close()


def setUpModule():
    unittest.addModuleCleanup(sandboxd.remove_images)


class PoolCase(SystemCase):
    def make(self, pool, **options):
        made = Pools(pool, **options)
        self.addCleanup(made.close)
        return made


class HitTest(PoolCase):
    @classmethod
    def setUpClass(cls):
        cls.p = Pools("box=3")
        cls.addClassCleanup(cls.p.close)

    def setUp(self):
        self.p.wait_ready(3)

    def test_a_create_takes_a_started_sandbox_and_says_so(self):
        slots = self.p.waiting()
        box = self.p.api.create(name="mine", metadata={"a": "b"}, timeoutSeconds=77)
        self.assertTrue(box["warm"])
        self.assertIn(box["id"], slots)
        self.assertEqual((box["state"], box["name"], box["metadata"]),
                         ("running", "mine", {"a": "b"}))
        self.assertEqual(box["timeoutSeconds"], 77)
        self.assertEqual(self.p.api.exec(box["id"], "echo up")["stdout"], "up\n")
        self.p.wait_ready(3)
        self.assertNotIn(box["id"], self.p.waiting())
        self.assertEqual(self.p.api.delete(f"/sandboxes/{box['id']}").status, 204)
        self.assertFalse(self.p.service.container_exists(box["id"]))


    def test_nobody_sees_reaches_or_counts_what_waits(self):
        slot = self.p.waiting()[0]
        for client in (self.p.api, self.p.admin):
            self.assertNotIn(slot, [s["id"] for s in client.every()])
            for got in (client.get(f"/sandboxes/{slot}"), client.delete(f"/sandboxes/{slot}"),
                        client.get(f"/sandboxes/{slot}/logs"), client.get(f"/sandboxes/{slot}/stats"),
                        client.post(f"/sandboxes/{slot}/exec", {"command": "id"}),
                        client.post(f"/sandboxes/{slot}/stop"),
                        client.get(f"/sandboxes/{slot}/files?path=/etc/passwd"),
                        client.patch(f"/sandboxes/{slot}", {"name": "x"}),
                        client.get(f"/events?sandboxId={slot}")):
                self.assert_problem(got, 404, "not_found")
        self.assertEqual(self.p.service.psql(
            f"SELECT count(*) FROM events WHERE owner = '{OWNER}' OR sandbox = '{slot}'"), "0")
        running = re.search(r'sandboxd_sandboxes{state="running"} (\d+)',
                            self.p.api.get("/metrics").body.decode()).group(1)
        self.assertEqual(int(running), len([s for s in self.p.api.every() if s["state"] == "running"]
                                           + [s for s in self.p.admin.every()
                                              if s["state"] == "running"]))
        self.assertIn(slot, self.p.waiting())

    def test_no_key_can_belong_to_the_owner_of_what_waits(self):
        key = self.p.service.key("sandboxd: pools")
        self.assertEqual(Client(self.p.server, key).get("/sandboxes").status, 401)

    def test_pools_are_for_administrators(self):
        self.assert_problem(self.p.api.get("/pool"), 403, "forbidden")
        self.assert_problem(self.p.api.patch("/pool", {"template": "box", "min": 1}), 403,
                            "forbidden")

    def test_what_a_pool_has_not_goes_the_slow_way_and_says_so(self):
        for spec in ({"image": sandboxd.BOX_IMAGE}, {"limits": {"diskMb": 64}}):
            box = self.p.api.create(**spec)
            self.assertFalse(box["warm"], spec)
            self.assertEqual(self.p.api.delete(f"/sandboxes/{box['id']}").status, 204)
        self.assertEqual(self.p.pool()["ready"], 3)

    def test_another_size_and_other_limits_keep_the_hit(self):
        box = self.p.api.create(size="nano", limits={"pids": 50})
        self.addCleanup(self.p.api.delete, f"/sandboxes/{box['id']}")
        self.assertTrue(box["warm"])
        self.assertEqual((box["state"], box["size"], box["limits"]["cpus"],
                          box["limits"]["memoryMb"], box["limits"]["pids"]),
                         ("running", "nano", 0.5, 256, 50))
        host = self.p.service.inspect(box["id"])["HostConfig"]
        self.assertEqual((host["Memory"], host["MemorySwap"], host["CpuQuota"] / host["CpuPeriod"]),
                         (256 << 20, 256 << 20, 0.5))

    def test_wait_false_answers_at_once_and_hits_as_well(self):
        box = self.p.api.create(wait=False)
        self.addCleanup(self.p.api.delete, f"/sandboxes/{box['id']}")
        self.assertTrue(box["warm"])
        self.assertEqual(self.p.api.exec(box["id"], "echo up")["stdout"], "up\n")

    def test_a_readiness_that_fails_undoes_a_taken_sandbox_like_any_other(self):
        got = self.p.api.post("/sandboxes", {"template": "box", "readiness": {
            "command": "false", "intervalMs": 100, "retries": 1}})
        told = self.assert_problem(got, 502, "not_ready")
        self.assertEqual(self.p.api.state(told["sandboxId"]), "failed")
        self.assertTrue(self.p.api.sandbox(told["sandboxId"])["warm"])
        self.assertFalse(self.p.service.container_exists(told["sandboxId"]))

    def test_one_whose_container_was_removed_behind_our_back_is_replaced(self):
        slot = self.p.waiting()[0]
        self.p.service.remove_container(slot)
        wait_for(lambda: slot not in self.p.waiting(), 40, "its end")
        self.p.wait_ready(3)

    def test_one_whose_agent_hangs_is_not_handed_out_and_is_replaced(self):
        slot = self.p.waiting()[0]
        agent = self.p.service.inspect(slot)["State"]["Pid"]
        os.kill(agent, signal.SIGSTOP)
        wait_for(lambda: self.p.metric("sandboxd_pool_ready") < 3, 20, "one that is not offered")
        box = self.p.api.create()
        self.assertNotEqual(box["id"], slot)
        self.assertEqual(self.p.api.exec(box["id"], "echo up")["stdout"], "up\n")
        self.assertEqual(self.p.api.delete(f"/sandboxes/{box['id']}").status, 204)
        wait_for(lambda: slot not in self.p.waiting(), 40, "its end")
        wait_for(lambda: not self.p.service.container_exists(slot), 20, "no container")
        self.p.wait_ready(3)

    def test_one_whose_agent_only_paused_is_offered_again(self):
        slot = self.p.waiting()[0]
        agent = self.p.service.inspect(slot)["State"]["Pid"]
        os.kill(agent, signal.SIGSTOP)
        try:
            wait_for(lambda: self.p.metric("sandboxd_pool_ready") < 3, 20, "one that is not offered")
        finally:
            os.kill(agent, signal.SIGCONT)
        self.p.wait_ready(3)
        self.assertIn(slot, self.p.waiting())

    def test_a_claim_that_meets_dead_sandboxes_makes_its_own(self):
        """Whether the server hears of the ends before the creates come or behind them."""
        bodies = [{"template": "box", "size": "nano"},
                  {"template": "box", "size": "nano", "env": {"E": "kept"},
                   "readiness": {"command": "true"}}]
        os.kill(self.p.server.pid, signal.SIGSTOP)
        try:
            for slot in self.p.waiting():
                self.p.service.remove_container(slot)
            with concurrent.futures.ThreadPoolExecutor(3) as pool:
                got = [pool.submit(self.p.api.post, "/sandboxes", body) for body in bodies]
                os.kill(self.p.server.pid, signal.SIGCONT)
                got = [g.result() for g in got]
        finally:
            os.kill(self.p.server.pid, signal.SIGCONT)
        self.assertEqual([g.status for g in got], [201] * 2, got)
        made = [g.json["id"] for g in got]
        self.assertEqual([self.p.api.exec(b, "echo up $E")["stdout"].strip() for b in made],
                         ["up", "up kept"])
        self.assertEqual(self.p.service.inspect(made[0])["HostConfig"]["Memory"], 256 << 20)
        for box in made:
            self.assertEqual(self.p.api.delete(f"/sandboxes/{box}").status, 204)
        self.p.wait_ready(3)

    def test_a_key_is_answered_by_the_same_sandbox_again(self):
        key = {"Idempotency-Key": secrets.token_hex(8)}
        first = self.p.api.post("/sandboxes", {"template": "box"}, headers=key)
        self.assertEqual((first.status, first.json["warm"]), (201, True))
        self.addCleanup(self.p.api.delete, f"/sandboxes/{first.json['id']}")
        again = self.p.api.post("/sandboxes", {"template": "box"}, headers=key)
        self.assertEqual((again.status, again.headers["Idempotency-Replayed"]), (201, "true"))
        self.assertEqual(again.json["id"], first.json["id"])
        other = self.p.api.post("/sandboxes", {"template": "box", "name": "b"}, headers=key)
        self.assert_problem(other, 409, "conflict")

    def test_a_key_that_is_used_many_times_at_once_takes_one_sandbox(self):
        key = {"Idempotency-Key": secrets.token_hex(8)}
        got = all_at_once(lambda _: self.p.api.post("/sandboxes", {"template": "box"},
                                                    headers=key), range(8), 8)
        self.assertEqual({g.status for g in got}, {201})
        ids = {g.json["id"] for g in got}
        self.assertEqual(len(ids), 1)
        self.assertEqual([s["id"] for s in self.p.api.every() if s["state"] == "running"],
                         list(ids))
        self.p.api.delete(f"/sandboxes/{ids.pop()}")


# ---- nobody can tell --------------------------------------------------------------------------

LOOK = r"""
echo "## env"; env | sort
echo "## hostname"; hostname; cat /etc/hostname
echo "## processes"; ls /proc | grep -E '^[0-9]+$' | sort -n | while read p; do
  line=$(tr '\0' ' ' < /proc/$p/cmdline 2>/dev/null); case "$p $line" in
  "1 "*|*sbx-agent*|*"## env"*|*" tr "*|*" sort "*|*" ls "*|*" grep "*|*" ") ;; *) echo $line ;; esac; done
echo "## process 1" $(tr '\0' ' ' < /proc/1/cmdline)
echo "## mounts"; awk '{ for (i = 7; $i != "-"; i++); print $5, $6, $(i + 1) }' /proc/self/mountinfo
echo "## limits"; cat /proc/self/limits
echo "## cgroup"; for f in memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes   pids/pids.max cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us memory.max memory.swap.max pids.max   cpu.max; do [ ! -e /sys/fs/cgroup/$f ] || echo $f $(cat /sys/fs/cgroup/$f); done
echo "## rights"; grep -E '^(Cap|NoNewPrivs|Seccomp|Uid|Gid|Groups)' /proc/self/status
echo "## files"; ls -la /etc | awk '{ print $1, $3, $4, $NF }'; ls -la / /tmp | awk '{ print $1, $NF }'
echo "## network"; ls /sys/class/net; cat /proc/net/route /etc/resolv.conf
"""
SPEC = {"template": "box", "name": "same", "metadata": {"a": "1"}, "env": {"GREETING": "hi"},
        "limits": {"cpus": 0.5, "memoryMb": 300, "pids": 64}, "timeoutSeconds": 500,
        "idleTimeoutSeconds": 400, "onTimeout": "stop", "onIdle": "pause",
        "command": ["sh", "-c", "echo main $GREETING; sleep 1000"],
        "readiness": {"file": "/etc/passwd", "intervalMs": 100, "retries": 20},
        "health": {"command": "true", "intervalSeconds": 3600}}
PLAIN = {"template": "box"}


class DeathTest(PoolCase):
    def at_lock(self, p, count):
        wait_for(lambda: p.service.psql(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock'") >= str(count), what=f"{count} at the lock")

    def test_one_that_dies_while_it_is_claimed_is_never_the_answer(self):
        p = self.make("box=1")
        p.wait_ready(1)
        slot, = p.waiting()
        with subprocess.Popen(["psql", "-XAtq", "-d", p.service.url], text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE) as locker, \
                concurrent.futures.ThreadPoolExecutor(1) as pool:
            locker.stdin.write(f"BEGIN; SELECT id FROM sandboxes WHERE {WAITS} FOR UPDATE;\n")
            locker.stdin.flush()
            self.assertEqual(locker.stdout.readline().strip(), slot)
            got = pool.submit(p.api.post, "/sandboxes", {"template": "box"})
            self.at_lock(p, 1)  # the claim
            p.service.remove_container(slot)
            self.at_lock(p, 2)  # whoever heard of the end
            locker.stdin.write("COMMIT;\n")
            locker.stdin.close()
            got = got.result()
        self.assertEqual(got.status, 201, got)
        self.assertNotEqual(got.json["id"], slot)
        self.assertEqual(p.api.exec(got.json["id"], "echo up")["stdout"], "up\n")
        self.assertEqual([s["id"] for s in p.api.every()], [got.json["id"]])
        self.assertEqual(p.api.delete(f"/sandboxes/{got.json['id']}").status, 204)


class SameTest(PoolCase):
    @classmethod
    def setUpClass(cls):
        cls.p = Pools("box=1")
        cls.addClassCleanup(cls.p.close)

    def both(self, spec):
        """A sandbox from the pool, and one that was made for the request."""
        api = self.p.api
        self.assertEqual(self.p.resize(network="none", min=1).status, 200)
        self.p.wait_ready(1)
        time.sleep(1.2)  # so that what waits is older than what is told of it
        warm = api.post("/sandboxes", spec).json
        self.p.empty()
        cold = api.post("/sandboxes", spec).json
        self.assertEqual((warm["warm"], cold["warm"]), (True, False))
        for box in (warm, cold):
            self.addCleanup(api.delete, f"/sandboxes/{box['id']}")
        return warm, cold

    def inside(self, box):
        told = self.p.api.exec(box["id"], LOOK)
        self.assertEqual(told["exitCode"], 0, told)
        return told["stdout"].replace(box["id"], "ID")

    def events(self, box):
        got = self.p.api.get(f"/events?sandboxId={box['id']}&limit=50").json["items"]
        seqs = [e["seq"] for e in got]
        self.assertEqual(seqs, list(range(seqs[0], seqs[0] + len(seqs))))
        return [(e["type"], e["data"]) for e in got]

    def log(self, box, least):
        lines = wait_for(lambda: (x := self.p.api.logs(box["id"])) and len(x) >= least and x, 10,
                         "the log")
        self.assertEqual([line["seq"] for line in lines], list(range(1, len(lines) + 1)))
        self.assertGreaterEqual(lines[0]["ts"], box["createdAt"])
        return [(line["source"], line["stream"], line["data"]) for line in lines
                if line["source"] == "main"]

    def engine_view(self, box):
        told = self.p.service.inspect(box["id"])
        config = {k: v for k, v in told["Config"].items() if k != "Env"}
        config["Env"] = sorted(e.split("=")[0] for e in told["Config"]["Env"])
        host = told["HostConfig"]
        return json.loads(json.dumps([config, host]).replace(box["id"], "ID"))

    def check(self, spec, log_lines):
        warm, cold = self.both(spec)
        own = ("id", "warm", "createdAt", "startedAt", "lastActiveAt", "expiresAt",
               "stateChangedAt")
        self.assertEqual({k: v for k, v in warm.items() if k not in own},
                         {k: v for k, v in cold.items() if k not in own})
        for box in (warm, cold):
            self.assertLessEqual(box["createdAt"], box["startedAt"])
            self.assertEqual(box["startedAt"], box["stateChangedAt"])
            age = self.p.service.psql(f"SELECT extract(epoch FROM expires_at - started_at)::int = "
                                      f"timeout_s AND now() - created_at < '60 s' "
                                      f"FROM sandboxes WHERE id = '{box['id']}'")
            self.assertEqual(age, "t")
        self.assertEqual(self.events(warm), self.events(cold))
        self.assertEqual([t for t, _ in self.events(warm)], ["sandbox.creating", "sandbox.running"])
        self.assertEqual(self.engine_view(warm), self.engine_view(cold))
        if log_lines:
            self.assertEqual(self.log(warm, log_lines), self.log(cold, log_lines))
        else:
            self.assertEqual(self.p.api.logs(warm["id"]), [])
        self.assertEqual(self.inside(warm), self.inside(cold))
        up = self.p.api.get(f"/sandboxes/{warm['id']}/stats").json["uptimeMs"]
        age_ms = float(self.p.service.psql("SELECT 1000 * extract(epoch FROM now() - started_at) "
                                           f"FROM sandboxes WHERE id = '{warm['id']}'"))
        self.assertLessEqual(up, age_ms + 100)
        return warm, cold

    def test_a_plain_create_is_the_same_from_the_pool(self):
        warm, cold = self.check(PLAIN, 0)
        ids = [self.p.api.exec(box["id"], "cat /etc/machine-id")["stdout"] for box in (warm, cold)]
        for machine in ids:
            self.assertRegex(machine, r"\A[0-9a-f]{32}\n\Z")
        self.assertNotEqual(*ids)

    def test_a_create_with_all_that_can_be_given_is_the_same_from_the_pool(self):
        warm, cold = self.check(SPEC, 1)
        for box in (warm, cold):
            got = self.p.api.exec(box["id"], "echo $GREETING; hostname")["stdout"]
            self.assertEqual(got, f"hi\n{box['id']}\n")

    def test_the_machine_id_stays_over_a_restart(self):
        box = self.p.api.create()["id"]
        self.addCleanup(self.p.api.delete, f"/sandboxes/{box}")
        before = self.p.api.exec(box, "cat /etc/machine-id")["stdout"]
        self.p.api.move(box, "restart")
        self.assertEqual(self.p.api.exec(box, "cat /etc/machine-id")["stdout"], before)


# ---- many, crashes, several servers -----------------------------------------------------------


class RaceTest(PoolCase):
    def test_many_creates_at_once_take_each_slot_once_and_the_rest_is_made(self):
        p = self.make("box=10/nano")
        p.wait_ready(10, size="nano")
        slots = set(p.waiting())
        got = all_at_once(lambda _: p.api.post("/sandboxes", {"template": "box", "size": "nano"},
                                               timeout=120), range(30), 30)
        self.assertEqual({g.status for g in got}, {201})
        ids = [g.json["id"] for g in got]
        self.assertEqual(len(set(ids)), 30)
        warm = {g.json["id"] for g in got if g.json["warm"]}
        self.assertLessEqual(slots, warm)
        self.assertEqual(p.metric("sandboxd_pool_creates_total", 'result="hit"'), len(warm))
        mine = {s["id"] for s in p.api.every()}
        self.assertEqual(mine, set(ids))
        told = wait_for(lambda: (x := p.pool(size="nano"))["hits"] + x["misses"] == 30 and x, 20,
                        "counts")
        self.assertEqual(told["hits"], len(warm))
        self.assertGreater(told["claimsPerMinute"], 10)

    def test_a_pool_grows_with_demand_up_to_its_maximum(self):
        p = self.make("box=1:3/nano")
        p.wait_ready(1, size="nano")
        for _ in range(4):
            box = p.api.create(size="nano")["id"]
            self.assertEqual(p.api.delete(f"/sandboxes/{box}").status, 204)
        found = p.wait_ready(3, size="nano")
        self.assertEqual((found["target"], found["min"], found["max"]), (3, 1, 3))
        p.service.psql("UPDATE pools SET recent = 0")
        p.wait_ready(1, size="nano")


class CrashTest(PoolCase):
    def settled(self, p, count):
        """Rows and containers agree, nothing is under way, and the pool is full again."""
        def agree():
            rows = p.service.psql("SELECT string_agg(id, ',') FROM sandboxes WHERE state NOT IN "
                                  "('deleted', 'failed') AND state = 'running'").split(",")
            busy = p.service.psql("SELECT count(*) FROM sandboxes WHERE state IN "
                                  "('creating', 'deleting')")
            # one without an id fills the agent's volume, and goes
            there = {c["Labels"].get("sandboxd.id") for c in p.service.containers()}
            return busy == "0" and there == {r for r in rows if r}
        wait_for(agree, 90, "rows and containers that agree", pause=0.3)
        p.wait_ready(count, size="nano")
        wait_for(agree, 30, "rows and containers that agree", pause=0.3)

    def test_kills_during_claims_and_starts_leave_nothing(self):
        p = self.make("box=3/nano")
        for pause in (0.15, 0.4, 0.9):
            p.wait_ready(3, size="nano")
            client = p.api
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                def create(i, client=client):
                    try:
                        return client.post("/sandboxes", {"template": "box", "size": "nano"},
                                           headers={"Idempotency-Key": f"k{pause}-{i}"},
                                           timeout=30)
                    except OSError:
                        return None
                asked = [pool.submit(create, i) for i in range(6)]
                time.sleep(pause)
                p.server.kill()
                [a.result() for a in asked]  # pylint: disable=W0106
            p.server = p.service.start()
            p.api, p.admin = p.clients()
            # the same keys again: each one has exactly one sandbox in the end
            told = all_at_once(lambda i: p.api.post(
                "/sandboxes", {"template": "box", "size": "nano"}, timeout=120,
                headers={"Idempotency-Key": f"k{pause}-{i}"}), range(6), 6)
            self.assertEqual({t.status for t in told}, {201}, told)
            mine = {t.json["id"] for t in told}
            self.assertEqual(len(mine), 6)
            self.settled(p, 3)
            have = {s["id"] for s in p.api.every() if s["state"] == "running"}
            self.assertEqual(have, mine)
            gone = all_at_once(lambda b: p.api.delete(f"/sandboxes/{b}").status, list(mine), 3)
            self.assertEqual(set(gone), {204})

    def test_a_server_that_ends_leaves_what_waits_to_the_next(self):
        p = self.make("box=2/nano")
        p.wait_ready(2, size="nano")
        slots = set(p.waiting())
        self.assertEqual(p.server.stop(), 0)
        self.assertEqual({c["Labels"]["sandboxd.id"] for c in p.service.containers()}, slots)
        p.server = p.service.start()
        p.api, p.admin = p.clients()
        p.wait_ready(2, size="nano")
        self.assertEqual(set(p.waiting()), slots)
        box = p.api.create(size="nano")
        self.assertTrue(box["warm"])
        self.assertIn(box["id"], slots)

    @unittest.skipUnless(sandboxd.REDIS_URL, "SBX_TEST_REDIS_URL is not set: run tests/run")
    def test_two_workers_share_and_one_takes_over_from_the_other(self):
        p = self.make("box=4/nano", env={"REDIS_URL": sandboxd.REDIS_URL})
        other = p.service.start()

        def shares():
            told = p.service.psql(f"SELECT count(*) FROM sandboxes WHERE {WAITS} AND state = "
                                  "'running' GROUP BY worker ORDER BY 1").split()
            return told == ["2", "2"]
        wait_for(shares, 60, "two each", pause=0.2)
        second, _ = p.clients(other)

        def offers(client):
            text = client.get("/metrics").body.decode()
            return re.search(r"^sandboxd_pool_ready{.*} 2$", text, re.M)
        for client in (p.api, second):
            wait_for(lambda c=client: offers(c), 20, "slots on offer")
            box = client.create(size="nano")
            self.assertTrue(box["warm"])
            self.assertEqual(p.api.exec(box["id"], "echo up")["stdout"], "up\n")
        wait_for(shares, 60, "two each", pause=0.2)
        other.kill()
        wait_for(lambda: p.metric("sandboxd_pool_ready") == 4, 60, "all here", pause=0.2)
        wait_for(lambda: p.held() == 4, 60, "no more than is wanted", pause=0.2)


# ---- the operator -----------------------------------------------------------------------------


class OperatorTest(PoolCase):
    def test_a_resize_holds_at_once_and_over_a_restart(self):
        p = self.make("box=1/nano")
        p.wait_ready(1, size="nano")
        got = p.resize(size="nano", network="none", min=3, max=5)
        self.assertEqual((got.status, got.json["min"], got.json["max"]), (200, 3, 5))
        p.wait_ready(3, size="nano")
        self.assertEqual(p.server.stop(), 0)
        p.server = p.service.start()
        p.api, p.admin = p.clients()
        self.assertEqual(p.wait_ready(3, size="nano")["max"], 5)
        self.assertEqual(p.resize(size="nano", network="none", min=1).json["max"], 1)
        p.wait_ready(1, size="nano")
        self.assertEqual(len(p.service.containers()), 1)
        self.assertEqual(p.server.stop(), 0)
        # another option than before: that holds now
        p.server = p.service.start(env={"SBX_POOL": "box=2/nano"})
        p.api, p.admin = p.clients()
        p.wait_ready(2, size="nano")
        self.assertEqual(p.server.stop(), 0)
        p.server = p.service.start(env={"SBX_POOL": ""})
        p.api, p.admin = p.clients()
        wait_for(lambda: p.held() == 0 and not p.pools(), 60, "no pool")

    def test_bad_sizes_are_refused_by_name(self):
        p = self.make("")
        for body, field in (({"template": "none", "min": 1}, "template"),
                            ({"template": "box", "min": 2, "max": 1}, "max"),
                            ({"template": "box", "min": -1}, "min"),
                            ({"template": "box", "min": 1001}, "min"),
                            ({"template": "box"}, "min"), ({"min": 1}, "template"),
                            ({"template": "box", "min": 1, "size": "huge"}, "size"),
                            ({"template": "box", "min": 1, "network": "host"}, "network")):
            self.assert_problem(p.admin.patch("/pool", body), 400, "invalid_request", field)
        self.assertEqual(p.server.stop(), 0)
        for option in ("box", "box=", "box=x", "box=2:1", "box=1001", "box=1/huge", "nope=1",
                       "box=1,box=2", "=1"):
            with self.subTest(option):
                got = sandboxd.sandboxd("serve", env={**p.service.env, "SBX_POOL": option})
                self.assertEqual(got.returncode, 1)
                self.assertIn("--pool", got.stderr)

    def test_a_pool_whose_image_is_missing_says_why_and_creates_get_their_error(self):
        p = self.make("gone=2/nano,box=1/nano", templates=f"box={sandboxd.box_image()},"
                      "gone=127.0.0.1:1/sbxtest-gone:1")
        p.wait_ready(1, size="nano")
        told = wait_for(lambda: (x := p.pool("gone", "nano"))["lastError"] and x, 20, "the reason")
        self.assertIn("sbxtest-gone:1", told["lastError"])
        self.assertEqual(told["ready"], 0)
        got = p.api.post("/sandboxes", {"template": "gone", "size": "nano"}, timeout=60)
        self.assert_problem(got, 502, "engine_error")
        self.assertTrue(p.api.create(size="nano")["warm"])
        before = p.metric("sandboxd_pool_failures_total")
        time.sleep(3)
        self.assertLessEqual(p.metric("sandboxd_pool_failures_total") - before, 3)

    def test_a_template_that_changes_rolls_the_pool(self):
        name = "sbxtest-rolled:1"
        sandboxd.make_image(name, {**sandboxd.box_files(), "etc/edition": b"one\n"})
        p = self.make("rolled=2/nano", templates=f"box={sandboxd.box_image()},rolled={name}")
        p.wait_ready(2, size="nano", template="rolled")
        old = set(p.waiting())
        sandboxd.make_image(name, {**sandboxd.box_files(), "etc/edition": b"two\n"})
        wait_for(lambda: len(p.waiting()) == 2 and not old & set(p.waiting()), 60, "new ones")
        p.wait_ready(2, size="nano", template="rolled")
        box = p.api.create(template="rolled", size="nano")
        self.assertTrue(box["warm"])
        self.assertEqual(p.api.exec(box["id"], "cat /etc/edition")["stdout"], "two\n")
        for slot in old:
            self.assertFalse(p.service.container_exists(slot))


if __name__ == "__main__":
    unittest.main()
