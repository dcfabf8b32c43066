"""Idle sandboxes pause by themselves, and resume when they are used: by which use, and by no other."""
import contextlib
import datetime
import os
import random
import re
import statistics
import subprocess
import threading
import time
import unittest

import sandboxd
from parts import Proxy
from sandboxd import Client, SystemCase, all_at_once, engine, wait_for
from terminal_test import Terminal

TIMEOUT_S = 600

service = api = None
IDLE = 300  # seconds, which the tests let pass in the database

FULL = os.environ.get("SBX_TEST_SCOPE") == "full"


def setUpModule():
    global service, api
    service, api = sandboxd.module_service()


def make(client=None, idle=IDLE, **spec):
    return (client or api).create(idleTimeoutSeconds=idle, timeoutSeconds=3600, **spec)["id"]


def let_idle(*boxes, of=None):
    """Nothing happened in them for long."""
    names = ", ".join(f"'{b}'" for b in boxes)
    (of or service).psql("UPDATE sandboxes SET last_active_at = now() - interval '1 hour'"
                         f" WHERE id IN ({names})")


def asleep(box, client=None):
    told = (client or api).sandbox(box)
    return told["state"] == "paused" and told


def put_to_sleep(box, client=None, of=None, seconds=20):
    """What happened just before may be written behind our back: hence again and again."""
    def try_it():
        let_idle(box, of=of)
        return asleep(box, client)
    told = wait_for(try_it, seconds, "the pause", 0.2)
    assert told["stateReason"]["code"] == "idle", told
    return told


def stays_awake(box, client=None, of=None):
    """The look that pauses an idle one, which is older in nothing, leaves this one alone."""
    witness = make(client)
    def try_it():
        let_idle(box, witness, of=of)
        return asleep(witness, client)
    for _ in range(2):
        wait_for(try_it, 20, "the pause of an idle one", 0.2)
        if (client or api).state(box) != "running":
            return False
        (client or api).exec(witness, "true")
    (client or api).delete(f"/sandboxes/{witness}")
    return True


def send(method, path, body=None):
    got = api.call(method, path, body)
    if got.status >= 300:
        raise AssertionError(got)
    return got


RAW = {"Content-Type": "application/octet-stream"}
TAR = bytes(1024)


class UseTest(SystemCase):
    """Each use of a paused sandbox resumes it and counts; each read does neither."""

    @classmethod
    def setUpClass(cls):
        cls.box = make()

    def wakes(self, use, what):
        before = put_to_sleep(self.box)
        use()
        wait_for(lambda: api.state(self.box) == "running", 10, f"a sandbox that runs after {what}")
        wait_for(lambda: api.sandbox(self.box)["lastActiveAt"] > before["lastActiveAt"], 5,
                 "activity")

    def test_commands_resume(self):
        box = f"/sandboxes/{self.box}"
        self.wakes(lambda: self.assertEqual(api.exec(self.box, "echo up")["stdout"], "up\n"), "exec")
        self.wakes(lambda: send("POST", f"{box}/exec", {"command": "true", "background": True}),
                   "exec in the background")
        with contextlib.ExitStack() as stack:
            self.wakes(lambda: self.assertEqual(
                stack.enter_context(api.exec_stream(self.box, "echo x")).next()[1]["type"],
                "start"), "a streamed exec")

    def test_a_terminal_resumes_also_when_it_is_joined_again(self):
        terminals = []
        self.wakes(lambda: terminals.append(Terminal("?command=sh", self.box, api)), "a terminal")
        terminals[0].close()
        api.move(self.box, "pause")
        again = Terminal(f"?execId={terminals[0].id}", self.box, api)
        self.assertEqual(api.state(self.box), "running")
        again.type(b"exit\n")
        again.until_control("exit")
        again.close()

    def test_input_resumes(self):
        job = send("POST", f"/sandboxes/{self.box}/exec", {
            "command": ["cat"], "background": True, "stdinOpen": True}).json["execId"]
        api.move(self.box, "pause")
        path = f"/sandboxes/{self.box}/execs/{job}"
        self.assertEqual(api.call("POST", f"{path}/stdin?close=true", b"x", RAW).status, 204)
        self.assertEqual(api.state(self.box), "running")
        wait_for(lambda: send("GET", path).json["state"] == "finished", 10, "the end of cat")

    def test_files_resume(self):
        at = f"/sandboxes/{self.box}/files"
        uses = [("PUT", "?path=/tmp/a", b"x", RAW), ("GET", "?path=/tmp/a", None, None),
                ("GET", "/stat?path=/tmp/a", None, None), ("GET", "/list?path=/tmp", None, None),
                ("POST", "/mkdir", {"path": "/tmp/d"}, None),
                ("POST", "/copy", {"from": "/tmp/a", "to": "/tmp/b"}, None),
                ("POST", "/move", {"from": "/tmp/b", "to": "/tmp/c"}, None),
                ("POST", "/batch", {"files": {"/tmp/e": "1"}}, None),
                ("GET", "/archive?path=/tmp/d", None, None),
                ("PUT", "/archive?path=/tmp/d", TAR, RAW),
                ("DELETE", "?path=/tmp/c", None, None)]
        for method, path, body, headers in uses:
            with self.subTest(f"{method} {path}"):
                def use(call=(method, at + path, body, headers)):
                    got = api.call(*call)
                    self.assertLess(got.status, 300, got)
                self.wakes(use, f"{method} {path}")

    def test_opening_a_watch_resumes(self):
        with contextlib.ExitStack() as stack:
            self.wakes(lambda: self.assertEqual(stack.enter_context(api.stream(
                "GET", f"/sandboxes/{self.box}/files/watch?path=/tmp")).next()[1]["type"], "ready"),
                "a watch")

    def test_reads_neither_resume_nor_count(self):
        api.exec(self.box, "echo logged")
        done = send("POST", f"/sandboxes/{self.box}/exec",
                    {"command": "echo out", "background": True}).json["execId"]
        wait_for(lambda: send("GET", f"/sandboxes/{self.box}/execs/{done}").json["state"] ==
                 "finished", 10, "a command that is over")
        wait_for(lambda: service.psql("SELECT count(*) FROM sandbox_executions"
                                      f" WHERE id = '{done}'") == "1", what="its record")
        before = put_to_sleep(self.box)
        box = f"/sandboxes/{self.box}"
        for path in (box, "/sandboxes", f"{box}/logs", f"{box}/logs?tail=5", "/events",
                     f"/events?sandboxId={self.box}", f"{box}/execs", f"{box}/execs/{done}",
                     f"{box}/stats"):
            with self.subTest(path):
                self.assertEqual(api.get(path).status, 200)
        self.assert_problem(api.get(f"{box}/execs/{done}/output"), 409, "conflict")
        self.assert_problem(api.post(f"{box}/execs/{done}/signal", {"signal": "TERM"}), 409,
                            "conflict")
        with api.stream("GET", f"{box}/logs?tail=1") as logs, \
                api.stream("GET", "/events?tail=1") as events, \
                api.stream("GET", f"{box}/stats?intervalMs=500") as stats, \
                api.websocket(f"{box}/logs?tail=1") as ws:
            logs.next()
            events.next()
            stats.next()
            stats.next()
            next(ws.frames())
        self.assertEqual(api.patch(box, {"metadata": {"a": "b"}}).status, 200)
        api.move(self.box, "keepalive")
        after = api.sandbox(self.box)
        for name in ("state", "lastActiveAt", "stateChangedAt", "stateReason"):
            self.assertEqual(after[name], before[name])

    def test_a_resume_takes_milliseconds(self):
        took = []
        for _ in range(15 if FULL else 5):
            put_to_sleep(self.box)
            began = time.monotonic()
            api.exec(self.box, ["true"])
            took.append(1000 * (time.monotonic() - began))
        print(f"a command in a paused sandbox: p50 {statistics.median(took):.1f} ms,"
              f" slowest {max(took):.1f} ms")


class ActivityTest(SystemCase):
    """What goes on in a sandbox keeps it awake, or does not."""

    def test_a_background_command_does(self):
        box = make()
        job = send("POST", f"/sandboxes/{box}/exec",
                   {"command": "sleep 1000", "background": True}).json["execId"]
        self.assertTrue(stays_awake(box))
        self.assertEqual(api.delete(f"/sandboxes/{box}/execs/{job}").status, 204)
        put_to_sleep(box)

    def test_a_waiting_and_a_followed_command_do(self):
        box = make()
        with api.exec_stream(box, "echo begun; sleep 1000", killOnDisconnect=True) as stream:
            self.assertEqual(stream.next()[1]["type"], "start")
            self.assertTrue(stays_awake(box))
            stream.close()
        put_to_sleep(box)

    def test_an_open_terminal_does_without_a_key(self):
        box = make()
        terminal = Terminal("?command=cat", box, api)
        self.assertTrue(stays_awake(box))
        self.assertEqual(api.delete(f"/sandboxes/{box}/execs/{terminal.id}").status, 204)
        terminal.close()
        put_to_sleep(box)

    def test_an_upload_does_while_it_goes_on(self):
        box = make()
        with contextlib.closing(api.connect()) as connection:
            connection.putrequest("PUT", f"/sandboxes/{box}/files?path=/tmp/big")
            for name, value in {**api.headers(), **RAW, "Content-Length": "200000"}.items():
                connection.putheader(name, value)
            connection.endheaders()
            connection.send(b"x" * 100000)
            wait_for(lambda: api.exec(box, "ls -A /tmp | wc -l")["exitCode"] == 0, what="a command")
            self.assertTrue(stays_awake(box))
            connection.send(b"x" * 100000)
            self.assertEqual(connection.getresponse().status, 201)
        self.assertEqual(api.exec(box, "wc -c </tmp/big")["stdout"].strip(), "200000")
        put_to_sleep(box)

    def test_followers_of_output_that_ended_and_watches_and_logs_do_not(self):
        box = make()
        job = send("POST", f"/sandboxes/{box}/exec",
                   {"command": "echo x; sleep 0.2", "background": True}).json["execId"]
        base = f"/sandboxes/{box}"
        with api.stream("GET", f"{base}/files/watch?path=/tmp") as watch, \
                api.stream("GET", f"{base}/logs") as logs, \
                api.stream("GET", f"{base}/execs/{job}/output") as output:
            self.assertEqual(watch.next()[1]["type"], "ready")
            self.assertEqual([e[1]["type"] for e in output.events()][-1], "exit")
            put_to_sleep(box)
            del logs
            api.exec(box, "echo 1 >/tmp/new")  # the watch goes on behind the pause
            changes = watch.events()
            self.assertTrue(any(change.get("path") == "/tmp/new" for _, change in changes))

    def test_the_main_process_does_not_and_uses_no_processor_while_it_is_paused(self):
        box = make(command="while :; do :; done")
        put_to_sleep(box)
        first, second = (send("GET", f"/sandboxes/{box}/stats").json["cpuTimeMs"]
                         for _ in range(2))
        self.assertEqual(first, second)
        api.exec(box, "true")
        wait_for(lambda: send("GET", f"/sandboxes/{box}/stats").json["cpuTimeMs"] > second, 10,
                 "a main process that goes on")


class Ageing:
    """Sandboxes that look idle all the time, until it is over."""

    def __init__(self, of):
        self.process = subprocess.Popen(["psql", "-XAtq", "-d", of.url], stdin=subprocess.PIPE,
                                        stdout=subprocess.DEVNULL, text=True)
        self.process.stdin.write("UPDATE sandboxes SET last_active_at = now() - interval '1 hour'"
                                 " WHERE state = 'running' \\watch 0.03\n")
        self.process.stdin.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.process.stdin.close()


def hammer(boxes, clients, seconds, least=0.0, most=1.6):
    """Uses all sandboxes at odd moments; returns how long each use took."""
    took, end = [], time.monotonic() + seconds
    dice = random.Random(5)
    pauses = [[dice.uniform(least, most) for _ in range(200)] for _ in boxes]

    def use(i):
        for n, pause in enumerate(pauses[i]):
            if time.monotonic() > end:
                return
            time.sleep(pause)
            began = time.monotonic()
            got = clients[n % len(clients)].exec(boxes[i], f"echo {n}", timeoutMs=20000)
            assert (got["exitCode"], got["stdout"]) == (0, f"{n}\n"), got
            took.append(time.monotonic() - began)
    all_at_once(use, range(len(boxes)))
    return took


class RaceTest(SystemCase):
    def pauses(self, of):
        return int(of.psql("SELECT count(*) FROM events WHERE type = 'sandbox.paused'"))

    def test_no_use_is_lost_that_comes_in_the_moment_of_the_pause(self):
        boxes = [make() for _ in range(8)]
        before = self.pauses(service)
        with Ageing(service):
            took = hammer(boxes, [api], 25 if FULL else 8)
        paused = self.pauses(service) - before
        print(f"{len(took)} uses, {paused} pauses; slowest use {max(took):.2f} s")
        self.assertGreater(paused, 20 if FULL else 5)
        self.assertLess(max(took), 5)
        all_at_once(lambda b: api.delete(f"/sandboxes/{b}"), boxes)

    def test_what_is_in_use_is_neither_stopped_nor_deleted_as_idle(self):
        """A use is refused, or comes to its end: none is cut off in the middle."""
        last, served, refused = time.monotonic() + 60, [], []

        def enough():
            return (len(served) >= (40 if FULL else 10) and set(refused) == {"stop", "delete"}
                    or time.monotonic() > last)

        def use(on_idle):
            dice = random.Random(on_idle)
            box = make(onIdle=on_idle)
            while not enough():
                time.sleep(dice.uniform(0, 1.6))
                got = api.post(f"/sandboxes/{box}/exec", {"command": "sleep 0.3; echo whole"})
                if got.status == 200:
                    self.assertEqual((got.json["exitCode"], got.json["stdout"]), (0, "whole\n"))
                    served.append(box)
                    continue
                self.assertIn(got.status, (409, 410), got)
                reason = api.sandbox(box)["stateReason"]
                self.assertEqual(reason["code"], "idle")
                refused.append(on_idle)
                if on_idle == "stop":
                    wait_for(lambda: api.state(box) == "stopped", 20, "the end of the stop")
                    api.move(box, "start")
                else:
                    box = make(onIdle=on_idle)
            api.delete(f"/sandboxes/{box}")
        with Ageing(service):
            all_at_once(use, ["stop", "delete"] * 3)
        print(f"{len(served)} uses, {len(refused)} came too late")
        self.assertGreaterEqual(len(served), 10)
        self.assertEqual(set(refused), {"stop", "delete"})

    def test_a_use_that_is_frozen_all_the_same_is_thawed(self):
        """As when another worker let it in: the row was read just before."""
        box, got = make(), []
        runner = threading.Thread(target=lambda: got.append(
            api.exec(box, "echo >/tmp/on; sleep 1; echo done")))
        runner.start()
        wait_for(lambda: api.exec(box, "test -e /tmp/on")["exitCode"] == 0, what="the command")
        engine.call("POST", f"/containers/sbx-{box}/pause")
        service.psql("UPDATE sandboxes SET state = 'paused', reason = "
                     "'{\"code\":\"idle\",\"message\":\"x\"}', change = 7"
                     f" WHERE id = '{box}'")
        runner.join(15)
        self.assertEqual(got[0]["stdout"], "done\n")
        self.assertEqual(api.state(box), "running")

    def test_what_the_owner_paused_stays_paused_while_a_command_runs(self):
        box = make()
        job = send("POST", f"/sandboxes/{box}/exec",
                   {"command": "sleep 1000", "background": True}).json["execId"]
        paused = api.move(box, "pause")
        put_to_sleep(make())  # some looks later
        self.assertEqual(api.sandbox(box)["stateChangedAt"], paused["stateChangedAt"])
        self.assertEqual(send("GET", f"/sandboxes/{box}").json["state"], "paused")
        self.assert_problem(api.delete(f"/sandboxes/{box}/execs/{job}"), 409, "conflict")

    def test_one_that_was_just_used_is_not_paused(self):
        """Its time of use is written twice a second, and the look at idle ones could come first."""
        box = make()
        with Ageing(service):
            for _ in range(30):
                api.exec(box, "true")
                self.assertEqual(api.state(box), "running")


class TwoWorkersTest(SystemCase):
    @classmethod
    def setUpClass(cls):
        if not sandboxd.REDIS_URL:
            raise AssertionError("SBX_TEST_REDIS_URL is not set: run tests/run")
        cls.service = sandboxd.Service(env={"REDIS_URL": sandboxd.REDIS_URL})
        cls.addClassCleanup(cls.service.close)
        cls.a = Client(cls.service.start(), cls.service.key())
        cls.b = Client(cls.service.start(), cls.a.key)

    def test_use_through_the_other_worker_resumes(self):
        box = make(self.a)
        for client in (self.b, self.a, self.b):
            put_to_sleep(box, self.a, self.service)
            self.assertEqual(client.exec(box, "echo up")["stdout"], "up\n")
        put_to_sleep(box, self.b, self.service)
        got = self.a.call("PUT", f"/sandboxes/{box}/files?path=/tmp/x", b"x", RAW)
        self.assertEqual(got.status, 201, got)

    def test_reads_through_the_other_worker_do_not(self):
        box = make(self.a)
        put_to_sleep(box, self.a, self.service)
        for path in ("", "/logs", "/execs", "/stats"):
            self.assertEqual(self.b.get(f"/sandboxes/{box}{path}").status, 200)
        self.assertEqual(self.a.state(box), "paused")

    def test_what_the_other_worker_began_keeps_it_awake(self):
        box = make(self.a)
        job = self.b.post(f"/sandboxes/{box}/exec", {"command": "sleep 1000", "background": True})
        self.assertEqual(job.status, 202, job)
        self.assertTrue(stays_awake(box, self.a, self.service))

    def test_no_use_is_lost_in_the_moment_of_the_pause(self):
        """With a second of idleness, about which the uses come."""
        boxes = [make(self.a, idle=1) for _ in range(6)]
        took = hammer(boxes, [self.a, self.b], 30 if FULL else 10, 0.7, 2.2)
        print(f"{len(took)} uses through two workers; slowest {max(took):.2f} s")
        paused = int(self.service.psql("SELECT count(*) FROM events WHERE type = 'sandbox.paused'"))
        self.assertGreater(paused, 20 if FULL else 5)
        self.assertLess(max(took), 10)


def is_move(verb):
    return re.compile(rb"POST [^ ]*/containers/[^ ]*/" + verb + b" ").match


class FailureTest(SystemCase):
    """The engine cannot do it."""

    @classmethod
    def setUpClass(cls):
        cls.proxy = Proxy(sandboxd.DOCKER_HOST.removeprefix("unix://"))
        cls.addClassCleanup(cls.proxy.close)
        cls.service = sandboxd.Service(env={"DOCKER_HOST": f"unix://{cls.proxy.path}",
                                            "SBX_PAUSE_RETRY": "1"})
        cls.addClassCleanup(cls.service.close)
        cls.api = Client(cls.service.start(), cls.service.key())

    def tearDown(self):
        self.proxy.refuse = None

    def refuse(self, verb):
        """From now on; returns the list of the times of such calls."""
        calls, is_it = [], is_move(verb)

        def look(data):
            if is_it(data):
                calls.append(time.monotonic())
                return True
            return False
        self.proxy.refuse = look
        return calls

    def alerts(self, box):
        return [e["data"] for e in self.api.get(f"/events?sandboxId={box}&limit=200").json["items"]
                if e["type"] == "sandbox.alert"]

    def counted(self, labels):
        text = self.api.get("/metrics").body.decode()
        found = re.search(rf"^sandboxd_hibernation_total{{{labels}}} (\d+)", text, re.M)
        return int(found.group(1)) if found else 0

    def test_a_pause_that_fails_is_tried_again_ever_later_and_told_of(self):
        box, calls = make(self.api), self.refuse(b"pause")
        let_idle(box, of=self.service)
        told = wait_for(lambda: self.alerts(box), 60, "an alert", 0.2)
        self.assertEqual(len(calls), 3)
        self.assertGreater(calls[1] - calls[0], 0.9)
        self.assertGreater(calls[2] - calls[1], 1.9)
        self.assertEqual(told[0]["reason"]["code"], "pause_failed")
        self.assertIn("3 times", told[0]["reason"]["message"])
        self.assertEqual(self.api.exec(box, "echo fine")["stdout"], "fine\n")
        self.assertEqual(self.api.state(box), "running")
        self.assertGreaterEqual(self.counted('move="pause",outcome="failed"'), 3)
        self.assertIn("pause_failed", self.service.servers[0].log_text())
        self.proxy.refuse = None
        put_to_sleep(box, self.api, self.service, 40)
        self.assertEqual(len(self.alerts(box)), 1)
        self.assertGreaterEqual(self.counted('move="pause",outcome="ok"'), 1)

    def test_a_resume_that_fails_is_told_to_the_caller_and_tried_by_the_next_use(self):
        box = make(self.api)
        put_to_sleep(box, self.api, self.service)
        calls = self.refuse(b"unpause")
        for _ in range(2):
            told = self.assert_problem(self.api.post(f"/sandboxes/{box}/exec",
                                                     {"command": "true"}), 502, "engine_error")
            self.assertIn("could not be resumed", told["detail"])
            self.assertEqual(self.api.state(box), "paused")
        self.assertEqual(len(calls), 2)
        told = self.alerts(box)
        self.assertEqual([t["reason"]["code"] for t in told], ["resume_failed"])
        self.assertGreaterEqual(self.counted('move="resume",outcome="failed"'), 2)
        self.proxy.refuse = None
        self.assertEqual(self.api.exec(box, "echo up")["stdout"], "up\n")
        self.assertGreaterEqual(self.counted('move="resume",outcome="ok"'), 1)


class RestartTest(SystemCase):
    def setUp(self):
        self.service = sandboxd.Service()
        self.addCleanup(self.service.close)
        self.api = Client(self.service.start(), self.service.key())

    def test_paused_sandboxes_survive_a_restart_and_resume(self):
        boxes = [make(self.api) for _ in range(3)]
        for box in boxes:
            self.api.exec(box, "echo kept >/tmp/kept")
            put_to_sleep(box, self.api, self.service)
        self.api.server.kill()
        self.api = Client(self.service.start(), self.api.key)
        self.assertEqual([self.api.state(b) for b in boxes], ["paused"] * 3)
        self.assertEqual(self.api.exec(boxes[0], "cat /tmp/kept")["stdout"], "kept\n")
        put_to_sleep(boxes[0], self.api, self.service)
        self.assertEqual(self.api.server.stop(), 0)
        self.api = Client(self.service.start(), self.api.key)
        self.assertEqual([self.api.state(b) for b in boxes], ["paused"] * 3)

    def test_a_lifetime_runs_on_while_it_is_paused(self):
        box = make(self.api)
        put_to_sleep(box, self.api, self.service)
        left = datetime.datetime.fromisoformat(
            self.api.sandbox(box)["expiresAt"].replace("Z", "+00:00")).timestamp() - time.time()
        self.assertTrue(3000 < left < 3600, left)
        self.service.psql(f"UPDATE sandboxes SET expires_at = now() WHERE id = '{box}'")
        wait_for(lambda: self.api.state(box) == "deleted", 20, "the end")
        self.assertEqual(self.api.sandbox(box)["stateReason"]["code"], "expired")
        self.assertFalse(self.service.container_exists(box))


if __name__ == "__main__":
    unittest.main()
