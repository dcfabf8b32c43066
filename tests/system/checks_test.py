"""Readiness and health checks: what they see, what they cost, and what they must not do."""
import time
import unittest

import sandboxd
from sandboxd import SystemCase, all_at_once, wait_for

service = api = None

HTTPD = "exec httpd -f -p 8080 -h /tmp"


def setUpModule():
    global service, api
    # With Redis there may be a second server, which some tests stop or kill.
    service, api = sandboxd.module_service(env={"REDIS_URL": sandboxd.REDIS_URL})


def health(box):
    return api.sandbox(box["id"])["health"]


def wait_health(box, status, timeout=15):
    return wait_for(lambda: (now := health(box))["status"] == status and now, timeout,
                    f"health {status}")


def events(box):
    """Types of the sandbox's events, in their order."""
    rows = service.psql(f"SELECT type FROM events WHERE sandbox = '{box['id']}' ORDER BY seq")
    return [row.removeprefix("sandbox.") for row in rows.split()]


def processes(box, name):
    text = api.exec(box["id"], "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '")["stdout"]
    return text.count(name)


class SpecTest(SystemCase):
    def test_without_checks_both_are_null(self):
        box = api.create()
        self.assertIsNone(box["readiness"])
        self.assertIsNone(box["health"])

    def test_the_sandbox_shows_what_was_asked_for(self):
        box = api.create(health={"command": "true", "intervalSeconds": 3600,
                                 "startPeriodSeconds": 5})
        self.assertEqual(
            {**box["health"], "status": None, "checkedAt": None},
            {"command": "true", "intervalSeconds": 3600, "timeoutMs": 2000, "retries": 3,
             "startPeriodSeconds": 5, "status": None, "failures": 0, "checkedAt": None,
             "message": None})

    def test_two_kinds_or_none_are_refused_by_field(self):
        for field in ("readiness", "health"):
            for check in ({}, {"port": 80, "file": "/x"}, {"file": "x"}):
                self.assert_problem(api.post("/sandboxes", {field: check}), 400, "invalid_request",
                                    field)
            self.assert_problem(api.post("/sandboxes", {field: {"port": 0}}), 400,
                                "invalid_request", f"{field}.port")
            self.assert_problem(api.post("/sandboxes", {field: {"port": 1, "url": "/"}}), 400,
                                "invalid_request", f"{field}.url")


class ReadinessTest(SystemCase):
    def test_create_answers_when_the_port_is_open(self):
        began = time.monotonic()
        box = api.create(readiness={"port": 8080, "intervalMs": 100},
                         command=f"sleep 1.5; touch /tmp/opened; {HTTPD}")
        self.assertGreaterEqual(time.monotonic() - began, 1.5)
        self.assertEqual((box["state"], box["readiness"]["status"]), ("running", "ready"))
        self.assertEqual(box["readiness"]["port"], 8080)
        self.assertEqual(api.exec(box["id"], "ls /tmp/opened")["exitCode"], 0)
        self.assertEqual(events(box), ["creating", "running"])

    def test_it_stays_creating_until_ready_and_a_command_waits_for_it(self):
        got = api.post("/sandboxes", {
            "template": "box", "wait": False, "readiness": {"file": "/tmp/go", "intervalMs": 100},
            "command": "while [ ! -e /tmp/stop ]; do sleep 0.1; done"})
        self.assertEqual(got.status, 202, got)
        box = got.json
        self.assertEqual(box["readiness"]["status"], "waiting")
        wait_for(lambda: service.container_exists(box["id"]), what="the container")
        time.sleep(1)  # long enough for a create that does not wait
        self.assertEqual(api.state(box["id"]), "creating")
        with sandboxd.concurrent.futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(api.exec, box["id"], "cat /tmp/go")
            service.in_container(box["id"], "echo went > /tmp/go")
            self.assertEqual(waiting.result(30)["stdout"], "went\n")
        self.assertEqual(api.sandbox(box["id"])["readiness"]["status"], "ready")

    def test_a_restart_answers_when_it_is_ready_again(self):
        box = api.create(readiness={"port": 8080, "intervalMs": 100},
                         command=f"sleep 1; {HTTPD}")
        began = time.monotonic()
        again = api.move(box["id"], "restart", {"graceSeconds": 0})
        self.assertGreaterEqual(time.monotonic() - began, 1)
        self.assertEqual((again["state"], again["readiness"]["status"]), ("running", "ready"))
        self.assertEqual(events(box), ["creating", "running", "stopping", "starting", "running"])

    def test_a_start_that_is_never_ready_is_stopped_again_and_says_why(self):
        box = api.create(readiness={"command": "test ! -e /home/user/broken", "intervalMs": 100,
                                    "retries": 3})
        api.exec(box["id"], "touch /home/user/broken")
        api.move(box["id"], "stop", {"graceSeconds": 0})
        got = api.post(f"/sandboxes/{box['id']}/start")
        self.assertEqual(got.status, 502, got)
        self.assertIn("after 3 tries", got.json["detail"])
        now = api.sandbox(box["id"])
        self.assertEqual((now["state"], now["stateReason"]["code"]), ("stopped", "not_ready"))

    def test_one_that_never_is_ready_fails_and_leaves_nothing(self):
        got = api.post("/sandboxes", {
            "template": "box", "readiness": {"command": "echo no db; exit 4", "intervalMs": 100,
                                             "retries": 3}})
        told = self.assert_problem(got, 502, "not_ready")
        self.assertIn("after 3 tries: exit code 4: no db", told["detail"])
        box = api.sandbox(told["sandboxId"])
        self.assertEqual((box["state"], box["readiness"]["status"]), ("failed", "failed"))
        self.assertEqual(box["stateReason"]["code"], "not_ready")
        self.assertIn("exit code 4: no db", box["stateReason"]["message"])
        self.assertFalse(service.container_exists(box["id"]))

    def test_a_try_that_hangs_is_one_of_the_tries(self):
        began = time.monotonic()
        got = api.post("/sandboxes", {"template": "box", "readiness": {
            "command": "sleep 999", "timeoutMs": 300, "intervalMs": 100, "retries": 2}})
        told = self.assert_problem(got, 502, "not_ready")
        self.assertIn("not done within 300 ms", told["detail"])
        self.assertLess(time.monotonic() - began, 10)

    def test_a_sandbox_that_ends_meanwhile_is_told_at_once(self):
        got = api.post("/sandboxes", {"template": "box", "wait": False, "readiness": {
            "file": "/never", "intervalMs": 60000, "retries": 10}})
        box = got.json
        wait_for(lambda: service.container_runs(box["id"]), what="the container")
        sandboxd.engine.call("POST", f"/containers/sbx-{box['id']}/kill")
        wait_for(lambda: api.state(box["id"]) == "failed", 10, "failure")
        self.assertIn("ended", api.sandbox(box["id"])["stateReason"]["message"])
        wait_for(lambda: not service.container_exists(box["id"]), what="removal")

    def test_a_delete_ends_the_wait(self):
        with sandboxd.concurrent.futures.ThreadPoolExecutor(1) as pool:
            create = pool.submit(api.post, "/sandboxes", {
                "template": "box", "name": "unready", "readiness": {
                    "file": "/never", "intervalMs": 60000, "retries": 10}})
            box = wait_for(lambda: api.pages("name=unready"), what="the record")[0]
            wait_for(lambda: service.container_runs(box["id"]), what="the container")
            self.assertEqual(api.delete(f"/sandboxes/{box['id']}").status, 204)
            self.assert_problem(create.result(10), 409, "conflict")
        self.assertEqual(api.state(box["id"]), "deleted")
        self.assertFalse(service.container_exists(box["id"]))

    def test_a_client_that_leaves_ends_the_wait(self):
        connection = api.connect()
        body = sandboxd.json.dumps({"template": "box", "name": "left", "readiness": {
            "file": "/never", "intervalMs": 60000, "retries": 10}})
        connection.request("POST", "/sandboxes", body,
                           api.headers({"Content-Type": "application/json"}))
        box = wait_for(lambda: api.pages("name=left"), what="the record")[0]
        wait_for(lambda: service.container_runs(box["id"]), what="the container")
        connection.close()
        wait_for(lambda: api.state(box["id"]) == "failed", 10, "the undoing")
        wait_for(lambda: not service.container_exists(box["id"]), what="removal")

    def test_many_that_wait_hold_no_worker(self):
        bodies = [{"template": "box", "name": f"slow{i}", "readiness": {
            "file": "/tmp/go", "intervalMs": 500, "retries": 200}} for i in range(12)]
        with sandboxd.concurrent.futures.ThreadPoolExecutor(12) as pool:
            creates = [pool.submit(api.post, "/sandboxes", body) for body in bodies]
            wait_for(lambda: sum(service.container_runs(b["id"]) for b in api.every()
                                 if b["state"] == "creating") == 12, 60, "12 that wait")
            box = api.create()  # there are 8 slow workers
            self.assertEqual(box["state"], "running")
            for waiting in [b for b in api.every() if b["state"] == "creating"]:
                service.in_container(waiting["id"], "touch /tmp/go")
            self.assertEqual([c.result(30).status for c in creates], [201] * 12)

    def test_a_stop_of_the_server_undoes_what_waits(self):
        server = service.start()
        other = sandboxd.Client(server, api.key)
        with sandboxd.concurrent.futures.ThreadPoolExecutor(1) as pool:
            create = pool.submit(other.post, "/sandboxes", {
                "template": "box", "name": "interrupted", "readiness": {
                    "file": "/never", "intervalMs": 60000, "retries": 10}})
            box = wait_for(lambda: api.pages("name=interrupted"), what="the record")[0]
            wait_for(lambda: service.container_runs(box["id"]), what="the container")
            began = time.monotonic()
            self.assertEqual(server.stop(), 0)
            self.assertLess(time.monotonic() - began, 10)
            self.assert_problem(create.result(10), 503, "at_capacity")
        self.assertEqual(api.sandbox(box["id"])["stateReason"]["code"], "interrupted")
        self.assertFalse(service.container_exists(box["id"]))

    def test_a_crash_of_the_server_undoes_what_waits(self):
        server = service.start()
        other = sandboxd.Client(server, api.key)
        box = other.post("/sandboxes", {"template": "box", "wait": False, "readiness": {
            "file": "/never", "intervalMs": 60000, "retries": 10}}).json
        wait_for(lambda: service.container_runs(box["id"]), what="the container")
        server.kill()
        wait_for(lambda: api.state(box["id"]) == "failed", 30, "settling")
        self.assertEqual(api.sandbox(box["id"])["stateReason"]["code"], "interrupted")
        wait_for(lambda: not service.container_exists(box["id"]), what="removal")


class HealthTest(SystemCase):
    def test_a_file_that_comes_and_goes(self):
        box = api.create(health={"file": "/tmp/ok", "intervalSeconds": 1, "retries": 2})
        self.assertEqual(box["health"]["status"], "starting")
        self.assertIsNone(box["health"]["checkedAt"])
        now = wait_health(box, "unhealthy")
        self.assertGreaterEqual(now["failures"], 2)
        self.assertEqual(now["message"], "exit code 1: /tmp/ok: No such file or directory")
        self.assertTrue(now["checkedAt"])
        api.exec(box["id"], "touch /tmp/ok")
        now = wait_health(box, "healthy")
        self.assertEqual((now["failures"], now["message"]), (0, None))
        api.exec(box["id"], "rm /tmp/ok")
        wait_health(box, "unhealthy")
        self.assertEqual(api.state(box["id"]), "running")
        self.assertEqual(events(box), ["creating", "running", "unhealthy", "healthy", "unhealthy"])
        lines = [e["data"] for e in api.logs(box["id"], "?source=system")]
        self.assertEqual([line.split(":")[1].split(",")[0].strip() for line in lines
                          if line.startswith("health:")], ["unhealthy", "healthy", "unhealthy"])

    def test_a_port_that_opens(self):
        box = api.create(health={"port": 8080, "intervalSeconds": 1, "retries": 1},
                         command=f"while [ ! -e /tmp/go ]; do sleep 0.1; done; {HTTPD}")
        self.assertEqual(wait_health(box, "unhealthy")["message"],
                         "exit code 1: port 8080: Connection refused")
        api.exec(box["id"], "touch /tmp/go")
        wait_health(box, "healthy")

    def test_a_command_runs_as_the_default_user_with_the_environment(self):
        box = api.create(env={"WANT": "x y"}, health={
            "command": "id -u; pwd; test \"$WANT\" = 'x y'; echo $?; false", "intervalSeconds": 1,
            "retries": 1})
        self.assertEqual(wait_health(box, "unhealthy")["message"],
                         "exit code 1: 1000 /home/user 0")

    def test_an_argument_vector_that_does_not_exist(self):
        box = api.create(health={"command": ["/no/such/program"], "intervalSeconds": 1,
                                 "retries": 1})
        self.assertTrue(wait_health(box, "unhealthy")["message"])

    def test_failures_of_the_start_period_do_not_count(self):
        box = api.create(health={"file": "/tmp/ok", "intervalSeconds": 1, "retries": 1,
                                 "startPeriodSeconds": 3600})
        wait_for(lambda: health(box)["checkedAt"], what="a check")
        api.exec(box["id"], "touch /tmp/ok")
        wait_health(box, "healthy")
        self.assertEqual(events(box), ["creating", "running", "healthy"])

    def test_hostile_output_becomes_a_short_clean_message(self):
        box = api.create(health={
            "command": "printf '\\033[2J\\377\\303\\000'; yes AAAAAAAAAAAAAAA | head -c 50000000; "
                       "exit 3", "intervalSeconds": 1, "timeoutMs": 20000, "retries": 1})
        message = wait_health(box, "unhealthy", 40)["message"]
        self.assertTrue(message.startswith("exit code 3:  [2J?? AAAAA"), message)
        self.assertLessEqual(len(message.encode()), 200)
        self.assertNotRegex(message, r"[\x00-\x1f\x7f]")
        self.assertEqual(api.exec(box["id"], "echo alive")["stdout"], "alive\n")

    def test_a_check_that_hangs_is_killed_with_its_tree(self):
        box = api.create(health={"command": "setsid sleep 7777 & sleep 7777", "timeoutMs": 300,
                                 "intervalSeconds": 1, "retries": 3})
        self.assertEqual(wait_health(box, "unhealthy")["message"], "not done within 300 ms")
        self.assertLessEqual(processes(box, "sleep 7777"), 2 + 1)  # the shell names it as well

    def test_what_a_check_leaves_behind_is_killed(self):
        box = api.create(health={"command": "setsid sleep 8888 >/dev/null 2>&1 & exit 0",
                                 "intervalSeconds": 1})
        wait_health(box, "healthy")
        first = health(box)["checkedAt"]
        self.assertTrue(first)
        wait_for(lambda: processes(box, "sleep 8888") == 0, what="an end of what was left")

    def test_checks_are_no_activity_no_record_and_no_log(self):
        box = api.create(health={"command": "echo spam; echo spam >&2", "intervalSeconds": 1},
                         idleTimeoutSeconds=4)
        wait_health(box, "healthy")
        self.assertEqual(api.sandbox(box["id"])["lastActiveAt"], box["startedAt"])
        self.assertEqual([e for e in api.logs(box["id"]) if e["source"] != "system"], [])
        wait_for(lambda: api.state(box["id"]) != "running", 12, "the idle time-out")
        self.assertEqual(service.psql(
            f"SELECT count(*) FROM sandbox_executions WHERE sandbox = '{box['id']}'"), "0")

    def test_the_end_of_the_sandbox_ends_its_checks(self):
        box = api.create(health={"command": "true", "intervalSeconds": 1})
        wait_health(box, "healthy")
        sandboxd.engine.call("POST", f"/containers/sbx-{box['id']}/kill")
        wait_for(lambda: api.state(box["id"]) == "failed", what="failure")
        before = events(box)
        self.assertEqual(before, ["creating", "running", "healthy", "failed"])
        self.assertEqual(api.delete(f"/sandboxes/{box['id']}").status, 204)
        self.assertEqual(events(box), before + ["deleting", "deleted"])

    def test_unchanged_health_writes_nothing(self):
        boxes = all_at_once(lambda _: api.create(health={"command": "true", "intervalSeconds": 1}),
                            range(4), 4)
        for box in boxes:
            wait_health(box, "healthy")
        before = [service.psql(f"SELECT xmin FROM sandboxes WHERE id = '{b['id']}'") for b in boxes]
        runs = "echo >>/tmp/runs"
        seen = api.create(health={"command": runs, "intervalSeconds": 1})
        wait_for(lambda: len(api.exec(seen["id"], "cat /tmp/runs 2>/dev/null || true")["stdout"])
                 >= 4, what="four more checks")
        after = [service.psql(f"SELECT xmin FROM sandboxes WHERE id = '{b['id']}'") for b in boxes]
        self.assertEqual(before, after)

    def test_checks_go_on_after_a_restart_without_a_false_change(self):
        box = api.create(health={"file": "/tmp/ok", "intervalSeconds": 1, "retries": 1})
        wait_health(box, "unhealthy")
        service.servers[-1].kill()
        restarted = service.start()
        api.server = restarted
        time_of = health(box)["checkedAt"]
        wait_for(lambda: health(box)["checkedAt"] != time_of, 40, "a check after the restart")
        self.assertEqual(events(box), ["creating", "running", "unhealthy"])
        api.exec(box["id"], "touch /tmp/ok")
        wait_health(box, "healthy")


if __name__ == "__main__":
    unittest.main()
