"""Idempotency-Key: a create that is repeated makes one sandbox, whatever happens in between."""
import json
import secrets
import signal
import threading
import unittest

import sandboxd
from sandboxd import Client, SystemCase, all_at_once, wait_for

TIMEOUT_S = 300

service = api = None


def setUpModule():
    global service, api
    service, api = sandboxd.module_service()


def create(key, body=None, client=None, **more):
    return (client or api).post("/sandboxes", body or {"template": "box"}, timeout=120,
                                headers={"Idempotency-Key": key}, **more)


def new_key():
    return "test-" + secrets.token_hex(8)


def boxes(client=None):
    return {box["id"] for box in (client or api).every()}


def claims(condition="true"):
    return int(service.psql(f"SELECT count(*) FROM idempotency_keys WHERE {condition}"))


class ReplayTest(SystemCase):
    def same(self, again, first):
        self.assertEqual((again.status, again.body), (first.status, first.body))
        self.assertEqual(again.headers["Location"], first.headers["Location"])
        self.assertEqual(again.headers["Content-Type"], first.headers["Content-Type"])
        self.assertEqual(again.headers["Idempotency-Replayed"], "true")
        self.assertIsNone(first.headers["Idempotency-Replayed"])

    def test_a_repeated_create_has_the_first_answer_and_makes_nothing(self):
        key, before = new_key(), boxes()
        first = create(key)
        self.assertEqual(first.status, 201, first)
        self.same(create(key), first)
        self.assertEqual(len(boxes() - before), 1)
        api.delete(first.headers["Location"])
        self.same(create(key), first)  # as it was then
        self.assertEqual(boxes() - before, set())

    def test_also_with_wait_false(self):
        key, before = new_key(), boxes()
        first = create(key, {"template": "box", "wait": False})
        self.assertEqual(first.status, 202, first)
        self.same(create(key, {"template": "box", "wait": False}), first)
        self.assertEqual(boxes() - before, {first.json["id"]})
        wait_for(lambda: api.state(first.json["id"]) == "running", 30, "the sandbox")

    def test_a_refusal_is_repeated_and_another_body_is_a_conflict(self):
        key = new_key()
        first = create(key, {"template": "none-such"})
        self.assert_problem(first, 400, "invalid_request", "template")
        self.same(create(key, {"template": "none-such"}), first)
        self.assert_problem(create(key), 409, "conflict")
        self.assert_problem(create(key, {"template":  "none-such", "name": "x"}), 409, "conflict")

    def test_another_user_may_use_the_same_key(self):
        other, key = Client(api.server, service.key("bob")), new_key()
        mine, his = create(key), create(key, client=other)
        self.assertEqual((mine.status, his.status), (201, 201))
        self.assertNotEqual(mine.json["id"], his.json["id"])

    def test_the_key_has_a_syntax_and_other_requests_ignore_it(self):
        for key in ("", "a b", "x" * 256, "k\u00e9y".encode().decode("latin-1"), "tab\there"):
            with self.subTest(key=key[:20]):
                self.assert_problem(create(key), 400, "invalid_request", "Idempotency-Key")
        self.assertEqual(create("!~" * 127 + "x").status, 201)
        self.assertEqual(api.get("/sandboxes", headers={"Idempotency-Key": "a b"}).status, 200)

    def test_what_was_not_allowed_is_not_remembered(self):
        key, before = new_key(), claims()
        self.assertEqual(create(key, client=Client(api.server)).status, 401)
        narrow = Client(api.server, service.key("alice", "--scopes", "sandbox:read"))
        self.assertEqual(create(key, client=narrow).status, 403)
        self.assertEqual(claims(), before)
        self.assertEqual(create(key).status, 201)

    def test_after_a_day_the_key_is_free(self):
        key = new_key()
        first = create(key)
        service.psql("UPDATE idempotency_keys SET created_at = now() - interval '24 hours'"
                     f" WHERE key = '{key}'")
        again = create(key)
        self.assertEqual(again.status, 201)
        self.assertNotEqual(again.json["id"], first.json["id"])
        self.assertIsNone(again.headers["Idempotency-Replayed"])

    def test_neither_request_nor_answer_can_be_read_in_the_table(self):
        key = new_key()
        got = create(key, {"template": "box", "name": "needle-name", "env": {"A": "needle-env"}})
        self.assertEqual(got.status, 201)
        row = service.psql("SELECT idempotency_keys::text, encode(answer, 'escape')"
                           f" FROM idempotency_keys WHERE key = '{key}'")
        self.assertIn(key, row)
        self.assertNotIn("needle", row)


class AtOnceTest(SystemCase):
    def test_fifty_at_once_make_one_sandbox_and_have_one_answer(self):
        key, before = new_key(), boxes()
        got = all_at_once(lambda _: create(key), range(50), 50)
        self.assertEqual({g.status for g in got}, {201})
        self.assertEqual(len({g.body for g in got}), 1)
        self.assertEqual(sum(g.headers["Idempotency-Replayed"] == "true" for g in got), 49)
        self.assertEqual(len(boxes() - before), 1)

    def test_fifty_at_once_are_refused_alike(self):
        key, before = new_key(), boxes()
        got = all_at_once(lambda _: create(key, {"image": "sbxtest-none-such:1"}), range(50), 50)
        self.assertEqual({g.status for g in got}, {400}, got[0])
        self.assertEqual(len({g.body for g in got}), 1)
        self.assertEqual(len(boxes() - before), 1)  # the failed record

    def test_another_body_is_a_conflict_while_the_first_one_runs(self):
        key = new_key()
        first = []
        thread = threading.Thread(target=lambda: first.append(create(key)))
        thread.start()
        wait_for(lambda: claims(f"key = '{key}'"), 10, "the claim")
        self.assert_problem(create(key, {"template": "box", "name": "b"}), 409, "conflict")
        thread.join(60)
        self.assertEqual(first[0].status, 201)

    def test_a_client_that_leaves_and_comes_again_has_one_sandbox(self):
        before = boxes()
        for moment in ("true", "begun", "begun"):
            key = new_key()
            connection = api.connect()
            connection.request("POST", "/sandboxes", json.dumps({"template": "box"}).encode(),
                               api.headers({"Content-Type": "application/json",
                                            "Idempotency-Key": key}))
            wait_for(lambda k=key, m=moment: claims(f"key = '{k}' AND {m}"), 10, "the claim")
            connection.close()
            got = create(key)
            self.assertEqual(got.status, 201, got)
            mine = {b for b in boxes() - before if api.state(b) != "failed"}
            self.assertEqual(mine, {got.json["id"]})
            before |= boxes()


class FaultTest(SystemCase):
    def setUp(self):
        self.service = sandboxd.Service(env={"SBX_SWEEP_SECONDS": 1})
        self.addCleanup(self.service.close)
        self.key = self.service.key()

    def start(self, **more):
        return Client(self.service.start(**more), self.key)

    def claim(self, condition):
        return self.service.psql(f"SELECT count(*) FROM idempotency_keys k LEFT JOIN sandboxes s"
                                 f" ON s.id = k.resource WHERE {condition}") == "1"

    def assert_one(self, client, got):
        wait_for(lambda: {b["state"] for b in client.every()} <= {"running", "failed"}, 20,
                 "rows that are settled")
        running = {b["id"] for b in client.every() if b["state"] == "running"}
        self.assertEqual(running, {got.json["id"]})
        wait_for(lambda: {c["Labels"].get("sandboxd.id") for c in self.service.containers()}
                 == running, 20, "containers of the running one alone")

    def killed(self, condition, body=None):
        """The answer to a retry after a SIGKILL of the server once the condition is true."""
        client, key = self.start(), new_key()
        client.delete("/sandboxes/" + client.create()["id"])  # the agent's volume is there now

        def first():
            try:
                create(key, body, client)
            except (OSError, sandboxd.http.client.HTTPException):
                pass
        thread = threading.Thread(target=first)
        thread.start()
        wait_for(lambda: self.claim(condition), 20, condition, pause=0)
        client.server.signal(signal.SIGKILL)
        client.server.wait()
        thread.join(30)
        client = self.start()
        got = create(key, body, client)
        self.assertEqual(got.status, 202 if body else 201, got)
        if body:
            wait_for(lambda: client.state(got.json["id"]) == "running", 30, "a running sandbox")
        self.assert_one(client, got)
        again = create(key, body, client)
        self.assertEqual((again.status, again.body), (got.status, got.body))

    def test_killed_after_the_claim(self):
        self.killed("true")

    def test_killed_while_it_creates(self):
        self.killed("s.state = 'creating' AND k.begun")

    def test_killed_after_the_sandbox_runs(self):
        self.killed("s.state = 'running'")

    def test_killed_after_an_answer_that_did_not_wait(self):
        self.killed("k.status = 202", {"template": "box", "wait": False})

    def test_what_was_made_but_not_answered_for_is_answered_by_the_retry(self):
        client, key = self.start(), new_key()
        first = create(key, None, client)
        self.service.psql("UPDATE idempotency_keys SET status = NULL, answer = NULL,"
                          " worker = 'gone'")
        again = create(key, None, client)
        self.assertEqual((again.status, again.json["id"]), (201, first.json["id"]))
        self.assertEqual(again.headers["Idempotency-Replayed"], "true")
        self.assertEqual(again.headers["Location"], first.headers["Location"])
        self.assertEqual(create(key, None, client).body, again.body)

    def test_a_failure_of_the_engine_is_not_remembered(self):
        client, key = self.start(env={"DOCKER_HOST": "unix:///nonexistent.sock"}, ready=None), \
            new_key()
        got = create(key, None, client)
        self.assert_problem(got, 503, "engine_unavailable")
        self.assertEqual(self.service.psql("SELECT count(*) FROM idempotency_keys"), "0")
        client.server.stop()
        client = self.start()
        got = create(key, None, client)
        self.assertEqual(got.status, 201, got)
        self.assert_one(client, got)


def run(key, code, sandbox=None, client=None, headers=None, **more):
    path = f"/sandboxes/{sandbox}/run" if sandbox else "/run"
    return (client or api).post(path, {"runtime": "python", "code": code, **more}, timeout=120,
                                headers={"Idempotency-Key": key, **(headers or {})})


COUNT = "open('count', 'a').write('x')\n"


class RunTest(SystemCase):
    def count(self, box, client=None):
        return (client or api).exec(box, "cat count 2>/dev/null || true")["stdout"]

    def test_a_repeated_run_has_the_first_result_and_runs_nothing(self):
        key, code = new_key(), "import os\nprint(os.urandom(8).hex())\nraise SystemExit(3)"
        first = run(key, code)
        self.assertEqual((first.status, first.json["exitCode"]), (200, 3), first)
        again = run(key, code)
        self.assertEqual((again.status, again.body), (200, first.body))
        self.assertEqual(again.headers["Idempotency-Replayed"], "true")
        self.assert_problem(run(key, "print(1)"), 409, "conflict")

    def test_a_repetition_waits_for_the_first_one(self):
        box, key = api.create(template="python")["id"], new_key()
        code = COUNT + "import time, os\ntime.sleep(0.7)\nprint(os.urandom(8).hex())"
        got = all_at_once(lambda _: run(key, code, box).json["stdout"], range(5), 5)
        self.assertEqual(len(set(got)), 1)
        self.assertEqual(self.count(box), "x")

    def test_a_run_with_a_key_outlives_its_client(self):
        box, key = api.create(template="python")["id"], new_key()
        body = {"runtime": "python", "code": COUNT + "import time\ntime.sleep(1)\nprint('whole')"}
        connection = api.connect()
        connection.request("POST", f"/sandboxes/{box}/run", json.dumps(body).encode(), api.headers(
            {"Content-Type": "application/json", "Idempotency-Key": key}))
        wait_for(lambda: self.count(box), what="the code's start")
        connection.close()
        got = run(key, body["code"], box)
        self.assertEqual((got.json["stdout"], self.count(box)), ("whole\n", "x"))

    def test_what_a_crash_cut_off_is_run_again(self):
        mine = sandboxd.Service()
        self.addCleanup(mine.close)
        client = Client(mine.start(), mine.key())
        box, key = client.create(template="python")["id"], new_key()
        code = COUNT + "import os, time\ntime.sleep(os.path.getsize('count') == 1 and 3)\nprint(2)"

        def lost():
            try:
                run(key, code, box, client)
            except (OSError, sandboxd.http.client.HTTPException):
                pass

        thread = threading.Thread(target=lost)
        thread.start()
        wait_for(lambda: self.count(box, client), what="the code's start")
        mine.servers[-1].kill()
        thread.join()
        client = Client(mine.start(), client.key)
        got = run(key, code, box, client)
        self.assertEqual((got.status, got.json["stdout"]), (200, "2\n"))
        self.assertEqual(self.count(box, client), "xx")
        self.assertEqual(run(key, code, box, client).body, got.body)

    def stream(self, key, code, box=None, **more):
        path = f"/sandboxes/{box}/run" if box else "/run"
        return api.stream("POST", path, {"runtime": "python", "code": code, **more},
                          {"Idempotency-Key": key}, timeout=120)

    def test_the_repetition_of_a_streamed_run_gets_the_same_events(self):
        box, key = api.create(template="python")["id"], new_key()
        code = COUNT + ("import os, time\nprint(os.urandom(8).hex())\n"
                        "while not os.path.exists('go'): time.sleep(0.02)\nraise SystemExit(3)")
        with self.stream(key, code, box) as first:
            self.assertIsNone(first.headers["Idempotency-Replayed"])
            events = first.events()
            told = [next(events), next(events)]
            self.assertEqual([e["type"] for _, e in told], ["start", "stdout"])
            api.exec(box, "touch go")
            told += list(events)
        self.assertEqual((told[-1][1]["type"], told[-1][1]["exitCode"]), ("exit", 3))
        for accept in ("text/event-stream", "application/json"):
            again = run(key, code, box, headers={"Accept": accept})
            self.assertEqual((again.status, again.headers["Content-Type"],
                              again.headers["Idempotency-Replayed"]),
                             (200, "text/event-stream", "true"))
            parts = [part.split("\n") for part in again.body.decode().strip().split("\n\n")]
            self.assertEqual([(a[4:], json.loads(b[6:])) for a, b in parts], told)
        self.assertEqual(self.count(box), "x")

    def test_a_streamed_run_with_a_key_outlives_its_client(self):
        box, key = api.create(template="python")["id"], new_key()
        code = COUNT + ("import os, time\nwhile not os.path.exists('go'): time.sleep(0.02)\n"
                        "print('y' * 3000000)")
        first = self.stream(key, code, box)
        self.assertEqual(first.next()[1]["type"], "start")
        first.close()
        api.exec(box, "touch go")
        with self.stream(key, code, box) as again:
            told = [e for _, e in again.events()]
        self.assertEqual(again.headers["Idempotency-Replayed"], "true")
        self.assertEqual(sum(len(e["data"]) for e in told if e["type"] == "stdout"), 3000001)
        self.assertEqual((told[-1]["type"], told[-1]["exitCode"]), ("exit", 0))
        self.assertEqual(self.count(box), "x")

    def test_large_answers_are_not_kept_and_say_so(self):
        code = "print('x' * 9000000)"
        for streaming in (False, True):
            key = new_key()
            more = {"maxOutputBytes": 10000000, "streaming": streaming}
            first = run(key, code, **more)
            self.assertEqual(first.status, 200)
            self.assertGreater(len(first.body), 9000000)
            again = run(key, code, **more)
            self.assertEqual((again.status, again.json["code"]), (410, "gone"))


if __name__ == "__main__":
    unittest.main()
