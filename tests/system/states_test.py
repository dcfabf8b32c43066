"""Start, stop, restart, pause, resume, reset and keepalive on the real engine."""
import threading
import time
import unittest

import sandboxd
from sandboxd import SystemCase, all_at_once, engine, wait_for

TIMEOUT_S = 400

service = api = None


def setUpModule():
    global service, api
    service, api = sandboxd.module_service()


def in_background(function):
    """A thread and the list that gets its one result."""
    got = []
    thread = threading.Thread(target=lambda: got.append(function()))
    thread.start()
    return thread, got


def container(box):
    return service.inspect(box)["State"]["Status"]


class StopTest(SystemCase):
    def test_a_stopped_sandbox_keeps_its_files_and_its_log_and_starts_again(self):
        box = api.create(command="echo main >&2; sleep 1000")["id"]
        api.exec(box, "echo kept >/home/user/file; echo one")
        wait_for(lambda: len(api.logs(box)) >= 2, what="two lines")
        stopped = api.move(box, "stop", {"graceSeconds": 1})
        self.assertEqual((stopped["state"], stopped["expiresAt"]), ("stopped", None))
        self.assertEqual(container(box), "exited")
        before = api.logs(box)
        self.assert_problem(api.post(f"/sandboxes/{box}/exec", {"command": "true"}), 409,
                            "conflict")
        started = api.move(box, "start")
        self.assertEqual(started["state"], "running")
        self.assertGreater(started["startedAt"], stopped["startedAt"])
        self.assertIsNotNone(started["expiresAt"])
        self.assertEqual(api.exec(box, "cat /home/user/file")["stdout"], "kept\n")
        wait_for(lambda: [e["data"] for e in api.logs(box)].count("main") == 2,
                 what="the main process' second line")
        seqs = [e["seq"] for e in api.logs(box)]
        self.assertEqual(seqs, list(range(1, len(seqs) + 1)))
        self.assertEqual(api.logs(box)[:len(before)], before)

    def test_a_stop_asks_first_and_kills_after_the_grace(self):
        box = api.create()["id"]
        polite, told = in_background(lambda: api.exec(
            box, "trap 'echo bye; exit 3' TERM; echo >/tmp/a; while :; do sleep 0.1; done"))
        rude, killed = in_background(lambda: api.exec(
            box, "trap '' TERM; echo >/tmp/b; while :; do sleep 0.1; done"))
        wait_for(lambda: api.exec(box, "test -e /tmp/a -a -e /tmp/b")["exitCode"] == 0,
                 what="both commands")
        began = time.monotonic()
        api.move(box, "stop", {"graceSeconds": 2})
        self.assertGreater(time.monotonic() - began, 1.9)
        polite.join(10)
        rude.join(10)
        self.assertEqual((told[0]["stdout"], told[0]["exitCode"]), ("bye\n", 3))
        self.assertEqual((killed[0]["exitCode"], killed[0]["signal"]), (137, "KILL"))
        wait_for(lambda: service.psql("SELECT count(*) FROM sandbox_executions WHERE sandbox ="
                                      f" '{box}' AND exit_code IN (3, 137)") == "2",
                 what="both records")

    def test_a_stop_of_an_idle_sandbox_does_not_wait_for_its_grace(self):
        box = api.create()["id"]
        began = time.monotonic()
        api.move(box, "stop", {"graceSeconds": 30})
        self.assertLess(time.monotonic() - began, 10)

    def test_a_paused_sandbox_stops(self):
        box = api.create()["id"]
        api.move(box, "pause")
        self.assertEqual(api.move(box, "stop")["state"], "stopped")
        self.assertEqual(api.move(box, "stop")["state"], "stopped")

    def test_many_stops_at_once_are_one(self):
        box = api.create()["id"]
        got = all_at_once(lambda _: api.move(box, "stop"), range(8), 8)
        self.assertEqual({b["state"] for b in got}, {"stopped"})
        self.assertEqual(service.psql("SELECT count(*) FROM events WHERE type ="
                                      f" 'sandbox.stopping' AND sandbox = '{box}'"), "1")

    def test_a_stopped_sandbox_whose_container_is_lost_starts_in_a_new_one(self):
        box = api.create()["id"]
        api.move(box, "stop")
        service.remove_container(box)
        self.assertEqual(api.move(box, "start")["state"], "running")
        self.assertEqual(api.exec(box, "echo ok")["stdout"], "ok\n")


class PauseTest(SystemCase):
    def test_a_paused_sandbox_keeps_its_processes_and_goes_on(self):
        box = api.create(command="i=0; while :; do i=$((i+1)); echo n$i; sleep 0.05; done")["id"]
        wait_for(lambda: len(api.logs(box)) > 2, what="lines")
        paused = api.move(box, "pause")
        self.assertEqual((paused["state"], container(box)), ("paused", "paused"))
        self.assertIsNotNone(paused["expiresAt"])
        seen = api.logs(box, "?limit=200")
        self.assertIn("paused", [e["data"] for e in seen if e["source"] == "system"])
        self.assertEqual(api.move(box, "pause")["state"], "paused")
        resumed = api.move(box, "resume")
        self.assertEqual((resumed["state"], container(box)), ("running", "running"))
        self.assertEqual(resumed["expiresAt"], paused["expiresAt"])
        wait_for(lambda: len(api.logs(box, "?limit=200")) > len(seen) + 3, what="more lines")
        seqs = [e["seq"] for e in api.logs(box, "?limit=200")]
        self.assertEqual(seqs, list(range(seqs[0], seqs[0] + len(seqs))))

    def test_a_command_that_was_paused_goes_on_and_is_answered(self):
        box = api.create()["id"]
        thread, got = in_background(lambda: api.exec(box, "echo >/tmp/on; sleep 1; echo done"))
        wait_for(lambda: api.exec(box, "test -e /tmp/on")["exitCode"] == 0, what="the command")
        api.move(box, "pause")
        api.move(box, "resume")
        thread.join(20)
        self.assertEqual(got[0]["stdout"], "done\n")

    def test_use_resumes_once_and_reading_never_does(self):
        box = api.create()["id"]
        api.move(box, "pause")
        api.sandbox(box)
        api.logs(box)
        api.every()
        self.assertEqual(api.state(box), "paused")
        got = all_at_once(lambda n: api.exec(box, f"echo {n}"), range(8), 8)
        self.assertEqual([g["stdout"] for g in got], [f"{n}\n" for n in range(8)])
        self.assertEqual(service.psql("SELECT count(*) FROM events WHERE type ="
                                      f" 'sandbox.resuming' AND sandbox = '{box}'"), "1")


class RestartTest(SystemCase):
    def test_a_restart_keeps_files_and_begins_the_main_process_and_the_lifetime_anew(self):
        box = api.create(command="echo $V; sleep 1000", env={"V": "one", "GONE": "x"})
        api.exec(box["id"], "echo kept >/tmp/file")
        again = api.move(box["id"], "restart", {"graceSeconds": 0,
                                                "env": {"V": "two", "GONE": None}})
        self.assertEqual((again["state"], again["envNames"]), ("running", ["V"]))
        self.assertGreater(again["startedAt"], box["startedAt"])
        self.assertGreater(again["expiresAt"], box["expiresAt"])
        got = api.exec(box["id"], "cat /tmp/file; echo $V-$GONE")
        self.assertEqual(got["stdout"], "kept\ntwo-\n")
        wait_for(lambda: "two" in [e["data"] for e in api.logs(box["id"])], what="the new value")

    def test_another_template_means_a_new_container(self):
        box = api.create()["id"]
        api.exec(box, "echo lost >/tmp/file")
        self.assert_problem(api.post(f"/sandboxes/{box}/restart", {"template": "cobol"}), 400,
                            "invalid_request", "template")
        self.assertEqual(api.state(box), "running")
        again = api.move(box, "restart", {"graceSeconds": 0, "template": "python"})
        self.assertEqual((again["template"], again["image"]), ("python", "sandboxd/python:1"))
        got = api.exec(box, ["python3", "-c", "import os; print(os.path.exists('/tmp/file'))"])
        self.assertEqual(got["stdout"], "False\n")

    def test_a_soft_reset_ends_processes_and_a_hard_one_files_too(self):
        box = api.create(command="echo main; sleep 1000")["id"]
        api.exec(box, "echo kept >/tmp/file; (sleep 1234 >/dev/null 2>&1 &)")
        self.assertEqual(api.move(box, "reset")["state"], "running")
        got = api.exec(box, "cat /tmp/file; ps | grep -c 'sleep 123[4]'")
        self.assertEqual(got["stdout"], "kept\n0\n")
        self.assertEqual(api.move(box, "reset", {"mode": "hard"})["state"], "running")
        self.assertEqual(api.exec(box, "test -e /tmp/file")["exitCode"], 1)
        wait_for(lambda: [e["data"] for e in api.logs(box)].count("main") == 3, what="three starts")

    def test_restart_starts_what_was_stopped_or_paused(self):
        box = api.create()["id"]
        api.move(box, "stop")
        self.assertEqual(api.move(box, "restart")["state"], "running")
        api.move(box, "pause")
        self.assertEqual(api.move(box, "restart")["state"], "running")
        self.assertEqual(api.exec(box, "echo ok")["stdout"], "ok\n")


class MovesTest(SystemCase):
    def test_a_failed_sandbox_starts_in_a_new_container(self):
        box = api.create()["id"]
        service.remove_container(box)
        wait_for(lambda: api.state(box) == "failed", what="state failed")
        self.assertEqual(api.move(box, "start")["state"], "running")
        self.assertEqual(api.exec(box, "echo ok")["stdout"], "ok\n")

    def test_a_start_that_fails_says_why(self):
        box = api.post("/sandboxes", {"image": "127.0.0.1:1/no/such:image"}).json["sandboxId"]
        told = api.post(f"/sandboxes/{box}/start", timeout=120)
        self.assert_problem(told, 502, "engine_error")
        self.assertEqual(api.state(box), "failed")
        reason = api.sandbox(box)["stateReason"]
        self.assertEqual(reason["code"], "engine_error")
        self.assertIn("no/such", reason["message"])

    def test_moves_that_the_state_does_not_allow_name_it(self):
        box = api.create()["id"]
        self.assertEqual(api.move(box, "start")["state"], "running")
        self.assertEqual(api.move(box, "resume")["state"], "running")
        api.move(box, "pause")
        for verb in ("start", "reset"):
            told = self.assert_problem(api.post(f"/sandboxes/{box}/{verb}"), 409, "conflict")
            self.assertIn("paused", told["detail"])
        api.move(box, "stop")
        for verb in ("pause", "resume", "reset", "keepalive"):
            told = self.assert_problem(api.post(f"/sandboxes/{box}/{verb}"), 409, "conflict")
            self.assertIn("stopped", told["detail"])
        api.delete(f"/sandboxes/{box}")
        for verb in ("start", "stop", "restart", "pause", "resume", "reset", "keepalive"):
            self.assert_problem(api.post(f"/sandboxes/{box}/{verb}"), 410, "gone")
            self.assert_problem(api.post(f"/sandboxes/{'x' * 20}/{verb}"), 404, "not_found")
        other = sandboxd.Client(service.servers[0], service.key("bob"))
        mine = api.create()["id"]
        self.assert_problem(other.post(f"/sandboxes/{mine}/stop"), 404, "not_found")

    def test_bodies_are_strict(self):
        box = api.create()["id"]
        for verb, body, field in [("stop", {"graceSeconds": 301}, "graceSeconds"),
                                  ("stop", {"force": True}, "force"), ("start", {"x": 1}, "x"),
                                  ("reset", {"mode": "wild"}, "mode"),
                                  ("restart", {"env": {"A B": "x"}}, "env"),
                                  ("pause", {"graceSeconds": 1}, "graceSeconds")]:
            with self.subTest(verb=verb, body=body):
                self.assert_problem(api.post(f"/sandboxes/{box}/{verb}", body), 400,
                                    "invalid_request", field)
        self.assertEqual(api.state(box), "running")

    def test_keepalive_begins_the_lifetime_anew(self):
        box = api.create(timeoutSeconds=100)
        again = api.move(box["id"], "keepalive")
        self.assertGreater(again["expiresAt"], box["expiresAt"])
        api.move(box["id"], "pause")
        self.assertGreater(api.move(box["id"], "keepalive")["expiresAt"], again["expiresAt"])

    def test_a_delete_during_a_restart_wins(self):
        box = api.create()["id"]
        thread, got = in_background(lambda: api.post(f"/sandboxes/{box}/restart"))
        wait_for(lambda: api.state(box) != "running", what="the restart")
        self.assertEqual(api.delete(f"/sandboxes/{box}").status, 204)
        thread.join(30)
        self.assertIn(got[0].status, (409, 410, 404, 502))
        self.assertEqual(api.state(box), "deleted")
        wait_for(lambda: not service.container_exists(box), what="the container's end")


if __name__ == "__main__":
    unittest.main()
