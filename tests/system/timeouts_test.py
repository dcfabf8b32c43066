"""onTimeout and onIdle, and moves that a crash interrupted."""
import datetime
import threading
import time
import unittest

import sandboxd
from sandboxd import SystemCase, engine, wait_for

TIMEOUT_S = 400

service = api = None


def setUpModule():
    global service, api
    service, api = sandboxd.module_service(env={"SBX_SWEEP_SECONDS": 1})


def when(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


class TimeoutTest(SystemCase):
    def reaches(self, box, state, code):
        wait_for(lambda: api.state(box["id"]) == state, 20, f"state {state}", 0.1)
        now = api.sandbox(box["id"])
        self.assertEqual((now["stateReason"] or {}).get("code"), code)
        return now

    def test_a_lifetime_that_ends_pauses_or_stops_within_5_s(self):
        for end, state in (("pause", "paused"), ("stop", "stopped")):
            box = api.create(timeoutSeconds=2, onTimeout=end)
            now = self.reaches(box, state, "expired")
            self.assertLess(time.time() - when(box["expiresAt"]), 5)
            self.assertIsNone(now["expiresAt"])
            verb = {"paused": "resume", "stopped": "start"}[state]
            again = api.move(box["id"], verb)
            self.assertGreater(when(again["expiresAt"]), time.time())

    def test_idleness_pauses_by_default_and_use_resumes(self):
        box = api.create(idleTimeoutSeconds=2)
        now = self.reaches(box, "paused", "idle")
        self.assertEqual(now["expiresAt"], box["expiresAt"])
        self.assertEqual(api.exec(box["id"], "echo back")["stdout"], "back\n")
        stopped = api.create(idleTimeoutSeconds=2, onIdle="stop")
        self.reaches(stopped, "stopped", "idle")

    def test_a_paused_sandbox_that_is_to_be_paused_stays_so_without_an_end(self):
        box = api.create(timeoutSeconds=2, onTimeout="pause")
        api.move(box["id"], "pause")
        wait_for(lambda: api.sandbox(box["id"])["expiresAt"] is None, 10, "no end")
        self.assertEqual(api.state(box["id"]), "paused")
        self.assertIsNone(api.move(box["id"], "keepalive")["expiresAt"])

    def test_a_paused_sandbox_is_deleted_at_the_end_of_its_lifetime(self):
        box = api.create(timeoutSeconds=3)
        api.move(box["id"], "pause")
        self.reaches(box, "deleted", "expired")


class CrashTest(SystemCase):
    """A row in a transitional state whose worker is gone, with each state of its container."""

    def left(self, state, container, want, goal=None):
        box = api.create(command="echo main; sleep 1000")["id"]
        self.server.kill()
        if container in ("paused", "exited"):
            verb = {"paused": "pause", "exited": "kill"}[container]
            engine.call("POST", f"/containers/sbx-{box}/{verb}")
        elif container == "gone":
            service.remove_container(box)
        service.psql(f"UPDATE sandboxes SET state = '{state}', worker = 'w0000000000000000000',"
                     f" goal = {repr(goal) if goal else 'NULL'},"
                     f" deadline_at = now() + interval '1 hour' WHERE id = '{box}'")
        self.again()
        wait_for(lambda: api.state(box) == want, 20, f"{state}, {container} -> {want}", 0.05)
        if want == "running":
            wait_for(lambda: api.post(f"/sandboxes/{box}/exec", {"command": "true"}).status == 200,
                     what="a command")
        api.delete(f"/sandboxes/{box}")

    def again(self):
        global api
        self.server = service.start()
        api = sandboxd.Client(self.server, api.key)

    def setUp(self):
        self.server = api.server

    def test_each_move_is_finished_or_undone(self):
        for case in [("pausing", "running", "running"), ("pausing", "paused", "paused"),
                     ("pausing", "exited", "failed"), ("resuming", "running", "running"),
                     ("resuming", "paused", "paused"), ("stopping", "running", "stopped"),
                     ("stopping", "paused", "stopped"), ("stopping", "exited", "stopped"),
                     ("stopping", "gone", "stopped"), ("stopping", "running", "running", "start"),
                     ("stopping", "exited", "running", "start"),
                     ("stopping", "running", "running", "fresh"),
                     ("starting", "running", "running"), ("starting", "exited", "stopped"),
                     ("starting", "gone", "stopped")]:
            with self.subTest(case=case):
                self.left(*case)

    def test_the_main_process_starts_once(self):
        """A server killed at any moment of a restart leaves neither none nor two of it."""
        for pause in (0.0, 0.05, 0.15, 0.3):
            box = api.create(command="echo main; sleep 1000")["id"]
            api.call("POST", f"/sandboxes/{box}/stop", {"graceSeconds": 0})
            thread = threading.Thread(target=lambda b=box: self.quiet(b))
            thread.start()
            time.sleep(pause)
            self.server.kill()
            thread.join()
            self.again()
            wait_for(lambda: api.state(box) in ("running", "stopped"), 20, "an end", 0.05)
            if api.state(box) == "stopped":
                api.move(box, "start")
            wait_for(lambda: "1" in api.exec(box, "ps | grep -c '[s]leep 1000'")["stdout"], 15,
                     "one main process", 0.2)
            api.delete(f"/sandboxes/{box}")

    @staticmethod
    def quiet(box):
        try:
            api.post(f"/sandboxes/{box}/start")
        except OSError:
            pass


if __name__ == "__main__":
    unittest.main()
