"""PATCH of a sandbox: merged, all or nothing, live limits."""
import unittest

import sandboxd
from sandboxd import SystemCase, all_at_once, wait_for

service = api = None


def setUpModule():
    global service, api
    service, api = sandboxd.module_service(env={"SBX_SWEEP_SECONDS": 1})


def patch(box, **fields):
    got = api.patch(f"/sandboxes/{box}", fields)
    if got.status != 200:
        raise AssertionError(got)
    return got.json


class PatchTest(SystemCase):
    def test_names_that_are_not_given_stay_and_null_removes(self):
        box = api.create(name="old", metadata={"a": "1", "b": "2"}, env={"A": "1", "B": "2"})["id"]
        got = patch(box, name="new", metadata={"b": None, "c": "3"}, env={"A": None, "C": "3"})
        self.assertEqual((got["name"], got["metadata"]), ("new", {"a": "1", "c": "3"}))
        self.assertEqual(sorted(got["envNames"]), ["B", "C"])
        self.assertEqual(api.exec(box, "echo $A-$B-$C")["stdout"], "-2-3\n")
        self.assertEqual(patch(box)["name"], "new")
        self.assertIsNone(patch(box, name=None)["name"])

    def test_concurrent_changes_do_not_lose_each_others_fields(self):
        box = api.create()["id"]
        all_at_once(lambda n: patch(box, metadata={f"k{n}": str(n)}, env={f"E{n}": str(n)}),
                    range(6), 6)
        got = api.sandbox(box)
        self.assertEqual(got["metadata"], {f"k{n}": str(n) for n in range(6)})
        self.assertEqual(sorted(got["envNames"]), [f"E{n}" for n in range(6)])

    def test_env_reaches_commands_also_after_a_restart_of_the_server(self):
        other = sandboxd.Service()
        self.addCleanup(other.close)
        server = other.start()
        client = sandboxd.Client(server, other.key())
        box = client.create(env={"V": "one"})["id"]
        self.assertEqual(client.exec(box, "echo $V")["stdout"], "one\n")
        self.assertEqual(client.patch(f"/sandboxes/{box}", {"env": {"V": "two"}}).status, 200)
        server.kill()
        client = sandboxd.Client(other.start(), client.key)
        wait_for(lambda: client.post(f"/sandboxes/{box}/exec", {"command": "true"}).status == 200,
                 what="the channel")
        self.assertEqual(client.exec(box, "echo $V")["stdout"], "two\n")

    def test_limits_change_live_and_each_alone(self):
        box = api.create()["id"]
        for fields, key, want in [({"cpus": 0.5}, "CpuQuota", 50000),
                                  ({"memoryMb": 300}, "Memory", 300 << 20),
                                  ({"pids": 50}, "PidsLimit", 66)]:
            before = api.sandbox(box)["limits"]
            got = patch(box, limits=fields)["limits"]
            self.assertEqual(got, {**before, **fields})
            self.assertEqual(service.inspect(box)["HostConfig"][key], want)
        self.assertEqual(service.inspect(box)["HostConfig"]["MemorySwap"], 300 << 20)
        self.assertEqual(patch(box, size="medium")["limits"]["memoryMb"], 1024)
        self.assertEqual(service.inspect(box)["HostConfig"]["Memory"], 1024 << 20)
        for verb in ("pause", "stop"):
            api.move(box, verb)
            pids = {"pause": 70, "stop": 80}[verb]
            self.assertEqual(patch(box, limits={"pids": pids})["limits"]["pids"], pids)
            self.assertEqual(service.inspect(box)["HostConfig"]["PidsLimit"], pids + 16)

    def test_memory_below_what_is_used_is_409_and_changes_nothing(self):
        use = "x = b'x' * (400 << 20); open('/tmp/on', 'w'); import time; time.sleep(99)"
        box = api.create(template="python", size="medium", name="same",
                         command=["python3", "-c", use])["id"]
        wait_for(lambda: api.exec(box, "test -e /tmp/on")["exitCode"] == 0, what="the use")
        got = api.patch(f"/sandboxes/{box}", {"name": "other", "limits": {"memoryMb": 256}})
        told = self.assert_problem(got, 409, "conflict")
        self.assertIn("in use", told["detail"])
        now = api.sandbox(box)
        self.assertEqual((now["name"], now["limits"]["memoryMb"]), ("same", 1024))
        self.assertEqual(service.inspect(box)["HostConfig"]["Memory"], 1024 << 20)
        self.assertEqual(patch(box, limits={"memoryMb": 600})["limits"]["memoryMb"], 600)

    def test_limits_that_a_crash_left_apart_are_made_the_same(self):
        box = api.create()["id"]
        service.psql(f"UPDATE sandboxes SET pids = 60, limits_due_at = now() WHERE id = '{box}'")
        wait_for(lambda: service.inspect(box)["HostConfig"]["PidsLimit"] == 76, what="the limit")
        wait_for(lambda: service.psql("SELECT count(*) FROM sandboxes WHERE limits_due_at"
                                      " IS NOT NULL") == "0", what="the end of the mark")

    def test_refusals(self):
        box = api.create()["id"]
        for body, field in [({"state": "running"}, "state"), ({"name": ""}, "name"),
                            ({"limits": {"diskMb": 5}}, "limits.diskMb"),
                            ({"limits": {"cpus": 99}}, "limits.cpus"),
                            ({"env": {"SBX_AGENT_X": "1"}}, "env"), ({"onIdle": "x"}, "onIdle"),
                            ({"metadata": {f"k{n}": "" for n in range(33)}}, "metadata")]:
            with self.subTest(body=str(body)[:40]):
                self.assert_problem(api.patch(f"/sandboxes/{box}", body), 400, "invalid_request",
                                    field)
        api.delete(f"/sandboxes/{box}")
        self.assert_problem(api.patch(f"/sandboxes/{box}", {"name": "x"}), 410, "gone")


if __name__ == "__main__":
    unittest.main()
