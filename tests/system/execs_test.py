"""Commands that outlive their requests: in the background, listed, followed, fed, signalled, killed."""
import base64
import hashlib
import signal
import threading
import time
import unittest

import sandboxd
from sandboxd import Client, SystemCase, wait_for

QUICK = True
TIMEOUT_S = 400

service = api = box = None
KEEP = 16 << 20


def setUpModule():
    global service, api, box
    service, api = sandboxd.module_service()
    box = api.create()["id"]


def begin(command, sandbox=None, client=None, **more):
    """A command in the background; its object."""
    got = (client or api).post(f"/sandboxes/{sandbox or box}/exec",
                               {"command": command, "background": True, **more})
    if got.status != 202:
        raise AssertionError(f"exec {command!r}: {got}")
    assert got.headers["Location"] == f"/sandboxes/{sandbox or box}/execs/{got.json['execId']}"
    return got.json


def path(exec_id, more="", sandbox=None):
    return f"/sandboxes/{sandbox or box}/execs/{exec_id}{more}"


def state(exec_id, sandbox=None, client=None):
    got = (client or api).get(path(exec_id, sandbox=sandbox))
    if got.status != 200:
        raise AssertionError(f"get: {got}")
    return got.json


def over(exec_id, sandbox=None, client=None):
    return wait_for(lambda: (lambda x: x if x["state"] != "running" else None)(
        state(exec_id, sandbox, client)), what="the command's end")


def data(event):
    return (base64.b64decode(event["data"]) if event.get("encoding") == "base64"
            else event["data"].encode())


def follow(exec_id, since=None, sandbox=None, client=None, headers=None):
    """All events of the stream to its end: [(id, event)]."""
    query = "" if since is None else f"?since={since}"
    with (client or api).stream("GET", path(exec_id, "/output" + query, sandbox),
                                headers=headers) as stream:
        if stream.status != 200:
            raise AssertionError(stream.response.read())
        return [(int(number), event) for number, event in stream.events()]


def output(events, kind="stdout"):
    return b"".join(data(e) for _, e in events if e["type"] == kind)


def pages(exec_id, limit=200):
    """All events by pages, until there is nothing more."""
    items, cursor = [], None
    while True:
        more = f"&cursor={cursor}" if cursor else ""
        got = api.get(path(exec_id, f"/output?limit={limit}{more}"))
        if got.status != 200:
            raise AssertionError(got)
        items += got.json["items"]
        if got.json["nextCursor"] is None:
            return items
        if cursor == got.json["nextCursor"]:
            time.sleep(0.02)
        cursor = got.json["nextCursor"]


class ObjectTest(SystemCase):
    def test_a_background_command_is_answered_at_once_and_has_all_fields(self):
        began = time.monotonic()
        got = begin("echo out; sleep 1; exit 3")
        self.assertLess(time.monotonic() - began, 0.9)
        self.assertGreater(got["pid"], 0)
        self.assertEqual(got["command"], ["/bin/sh", "-c", "echo out; sleep 1; exit 3"])
        self.assertEqual((got["state"], got["background"], got["terminal"]), ("running", True, False))
        self.assertEqual(state(got["execId"])["state"], "running")
        end = over(got["execId"])
        self.assertEqual(set(end), {
            "execId", "kind", "state", "command", "background", "terminal", "pid", "startedAt",
            "finishedAt", "durationMs", "exitCode", "signal", "timedOut", "oomKilled", "cpuLimitExceeded",
            "truncated", "cpuTimeMs", "peakMemoryBytes", "error"})
        self.assertEqual((end["state"], end["exitCode"], end["signal"], end["error"], end["pid"]),
                         ("finished", 3, None, None, None))
        self.assertGreaterEqual(end["durationMs"], 900)
        self.assertGreaterEqual(end["cpuTimeMs"], 0)
        self.assertGreater(end["peakMemoryBytes"], 0)

    def test_the_record_says_the_same_as_the_agent(self):
        one = begin("exit 4")["execId"]
        told = over(one)
        wait_for(lambda: service.psql(
            f"SELECT count(*) FROM sandbox_executions WHERE id = '{one}'") == "1", what="the record")
        self.assertEqual(state(one), told)

    def test_it_has_no_time_limit_unless_one_is_asked_for(self):
        one = begin("sleep 60", timeoutMs=300)["execId"]
        end = over(one)
        self.assertEqual((end["timedOut"], end["signal"], end["exitCode"]), (True, "KILL", 137))

    def test_a_command_that_cannot_start_is_recorded_as_failed(self):
        got = api.post(f"/sandboxes/{box}/exec", {"command": ["true"], "cwd": "/no/such/place",
                                                  "background": True})
        self.assert_problem(got, 400, "invalid_request", "cwd")

        def failed():
            items = api.get(f"/sandboxes/{box}/execs").json["items"]
            return [x for x in items if x["state"] == "failed"]
        self.assertEqual(wait_for(failed, what="the record")[0]["error"], "invalid_request")

    def test_cpu_time_is_limited(self):
        got = api.exec(box, "while :; do :; done", cpuTimeMs=300, timeoutMs=20000)
        self.assertTrue(got["cpuLimitExceeded"], got)
        self.assertIn("CPU", got["message"])
        self.assertEqual(got["exitCode"], 137)

    def test_what_is_unknown_is_404(self):
        for method, more in (("GET", ""), ("GET", "/output"), ("DELETE", ""), ("POST", "/stdin"),
                             ("POST", "/signal")):
            body = {"signal": "TERM"} if more == "/signal" else None
            got = api.call(method, path("a" * 20, more), body)
            self.assert_problem(got, 404, "not_found")
        other = Client(api.server, service.key("bob"))
        one = begin("true")["execId"]
        self.assertEqual(other.get(path(one)).status, 404)
        self.assertEqual(other.get(path(one, "/output")).status, 404)
        self.assertEqual(other.get(f"/sandboxes/{box}/execs").status, 404)


class ListTest(SystemCase):
    def test_lists_are_newest_first_page_by_page_without_doubles(self):
        mine = api.create()["id"]
        ids = []
        for i in range(7):
            ids.append(api.exec(mine, ["echo", str(i)])["execId"])
        running = begin("sleep 100", mine)["execId"]
        ids.append(running)
        wait_for(lambda: service.psql("SELECT count(*) FROM sandbox_executions WHERE sandbox ="
                                      f" '{mine}' AND duration_ms IS NOT NULL") == "7",
                 what="the records")
        seen, cursor = [], None
        while True:
            more = f"&cursor={cursor}" if cursor else ""
            got = api.get(f"/sandboxes/{mine}/execs?limit=3{more}").json
            self.assertLessEqual(len(got["items"]), 3)
            seen += got["items"]
            cursor = got["nextCursor"]
            if not cursor:
                break
        self.assertEqual([x["execId"] for x in seen], ids[::-1])
        self.assertEqual([x["state"] for x in seen], ["running"] + ["finished"] * 7)
        self.assertEqual(seen[-1]["command"], ["echo", "0"])
        self.assertEqual(api.delete(path(running, sandbox=mine)).status, 204)

    def test_a_paused_sandbox_and_a_stopped_one_answer_from_the_records(self):
        mine = api.create()["id"]
        one = api.exec(mine, "echo kept")["execId"]
        wait_for(lambda: service.psql(
            f"SELECT count(*) FROM sandbox_executions WHERE id = '{one}'") == "1", what="the record")
        for verb, status in (("pause", 409), ("stop", 200)):
            api.move(mine, verb)
            items = api.get(f"/sandboxes/{mine}/execs").json["items"]
            self.assertEqual([x["execId"] for x in items], [one])
            self.assertEqual(state(one, mine)["exitCode"], 0)
            got = api.get(path(one, "/output", mine))
            self.assertEqual(got.status, status, got)
            if status == 409:
                self.assertIn("paused", got.json["detail"])
        self.assertEqual([(x["type"], x["seq"]) for x in got.json["items"]], [("gap", 2), ("exit", 3)])
        self.assertEqual([e["type"] for _, e in follow(one, sandbox=mine)], ["gap", "exit"])
        self.assertEqual(api.sandbox(mine)["state"], "stopped")
        api.move(mine, "start")
        self.assertEqual([e["type"] for _, e in follow(one, sandbox=mine)], ["gap", "exit"])


class OutputTest(SystemCase):
    SCRIPT = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo line$i; [ $((i%10)) = 0 ] && echo e$i >&2;" \
             " [ $((i%100)) = 0 ] && sleep 0.2; done; exit 7"

    def test_everybody_sees_the_same_events_whenever_they_come(self):
        one = begin(self.SCRIPT)["execId"]
        seen = [None] * 3

        def read(i):
            time.sleep(0.15 * i)
            seen[i] = follow(one)
        threads = [threading.Thread(target=read, args=(i,)) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        late = follow(one)
        self.assertEqual(output(late).decode().split(), [f"line{i}" for i in range(1, 301)])
        self.assertEqual(output(late, "stderr").decode().split(),
                         [f"e{i}" for i in range(10, 301, 10)])
        self.assertEqual([number for number, _ in late], list(range(1, len(late) + 1)))
        self.assertEqual((late[0][1]["type"], late[-1][1]["type"], late[-1][1]["exitCode"]),
                         ("start", "exit", 7))
        for other in seen:
            self.assertEqual(other, late)
        for since in (1, 2, len(late) // 2, len(late) - 1, len(late)):
            self.assertEqual(follow(one, since), late[since:])
            self.assertEqual(follow(one, 0, headers={"Last-Event-ID": str(since)}), late[since:])
        items = pages(one, 7)
        self.assertEqual([(x["seq"], {k: v for k, v in x.items() if k != "seq"}) for x in items], late)
        with api.websocket(path(one, "/output")) as ws:
            frames = list(ws.frames())
        self.assertEqual(frames, items)
        self.assertEqual(ws.close_code, 1000)

    def test_a_page_of_a_running_command_says_where_to_go_on(self):
        one = begin("echo a; sleep 100")["execId"]
        got = wait_for(lambda: (lambda p: p if len(p["items"]) == 2 else None)(
            api.get(path(one, "/output")).json), what="its output")
        self.assertEqual([x["type"] for x in got["items"]], ["start", "stdout"])
        self.assertEqual(got["nextCursor"], "2")
        again = api.get(path(one, "/output?since=2")).json
        self.assertEqual((again["items"], again["nextCursor"]), ([], "2"))
        api.delete(path(one))
        self.assertEqual([x["type"] for x in pages(one)][-1], "exit")

    def test_a_streamed_command_can_be_taken_up_by_its_number(self):
        with api.exec_stream(box, "for i in 1 2 3 4 5; do echo $i; sleep 0.2; done") as stream:
            events = stream.events()
            first = next(events)
            one = first[1]["execId"]
            second = next(events)
        rest = follow(one, second[0])
        self.assertEqual((data(second[1]) + output(rest)).decode().split(), list("12345"))
        self.assertEqual(rest[-1][1]["exitCode"], 0)

    def test_output_that_is_gone_is_a_gap(self):
        mine = api.create()["id"]
        one = begin(f"head -c {KEEP + (4 << 20)} /dev/zero | tr '\\0' x; echo end", mine)["execId"]
        over(one, mine)
        events = follow(one, sandbox=mine)
        self.assertEqual([e["type"] for _, e in events[:2]], ["start", "gap"])
        gap = events[1][1]
        self.assertEqual((gap["from"], events[1][0]), (2, gap["to"]))
        self.assertEqual(events[2][0], gap["to"] + 1)
        kept = output(events)
        self.assertGreater(len(kept), KEEP - (2 << 20))
        self.assertTrue(kept.endswith(b"xend\n"))
        api.delete(f"/sandboxes/{mine}")

    def test_a_follower_that_stands_still_slows_nobody(self):
        script = "i=0; while [ $i -lt 64 ]; do head -c 1048576 /dev/zero; i=$((i+1)); done"
        mine = api.create()["id"]
        before = api.server.rss_kb()
        one = begin("sleep 0.5; " + script, mine)["execId"]
        with api.stream("GET", path(one, "/output", mine)) as stream:
            stream.next()
            end = over(one, mine)
            self.assertLess(end["durationMs"], 20000)
            self.assertLess(api.server.rss_kb() - before, 40 * 1024)
            last = [e for _, e in stream.events()][-1]
        self.assertEqual(last["type"], "exit")
        api.delete(f"/sandboxes/{mine}")


class StdinTest(SystemCase):
    def give(self, one, text, close=False):
        return api.call("POST", path(one, "/stdin" + ("?close=true" if close else "")), text,
                        {"Content-Type": "application/octet-stream"})

    def test_input_is_given_in_parts_and_closed(self):
        one = begin(["cat"], stdinOpen=True, stdin="zero ")["execId"]
        for text in (b"one ", b"two ", bytes(range(256))):
            self.assertEqual(self.give(one, text).status, 204)
        self.assertEqual(self.give(one, b"end", close=True).status, 204)
        events = follow(one)
        self.assertEqual(output(events), b"zero one two " + bytes(range(256)) + b"end")
        self.assertEqual(events[-1][1]["exitCode"], 0)
        self.assert_problem(self.give(one, b"more"), 409, "conflict")

    def test_large_input_waits_for_its_reader(self):
        text = bytes(range(256)) * 16384  # 4 MiB
        one = begin("sleep 1; md5sum", stdinOpen=True)["execId"]
        began = time.monotonic()
        self.assertEqual(self.give(one, text, close=True).status, 204)
        self.assertGreater(time.monotonic() - began, 0.5)
        self.assertIn(hashlib.md5(text).hexdigest().encode(), output(follow(one)))

    def test_input_that_is_not_open_is_409(self):
        one = begin("sleep 100")["execId"]
        self.assert_problem(self.give(one, b"x"), 409, "conflict")
        api.delete(path(one))
        one = begin("exec <&-; sleep 100", stdinOpen=True)["execId"]
        wait_for(lambda: self.give(one, b"x").status == 409, what="a reader that has gone")
        api.delete(path(one))
        self.assertEqual(api.call("POST", path(one, "/stdin?close=maybe"), b"x").status, 400)

    def test_long_input_of_a_start_arrives_whole(self):
        text = "x" * 1000000
        self.assertEqual(api.exec(box, "sleep 0.3; wc -c", stdin=text)["stdout"].strip(), "1000000")


class SignalTest(SystemCase):
    def signal(self, one, name, **more):
        return api.post(path(one, "/signal"), {"signal": name, **more})

    def test_signals_reach_the_command(self):
        for name in ("TERM", "SIGUSR1", "10", "HUP"):
            with self.subTest(name=name):
                one = begin("trap 'echo got; exit 9' TERM USR1 HUP; echo ready; while :; do sleep 0.1;"
                            " done")["execId"]
                wait_for(lambda o=one: output([(0, e) for e in pages_now(o)]) == b"ready\n",
                         what="its trap")
                self.assertEqual(self.signal(one, name, tree=False).status, 204)
                self.assertEqual(over(one)["exitCode"], 9)
                self.assert_problem(self.signal(one, name), 409, "conflict")
        self.assert_problem(self.signal(one, "NOPE"), 400, "invalid_request", "signal")

    def test_a_kill_takes_the_whole_tree_also_what_daemonised(self):
        one = begin("setsid sh -c 'sleep 5551 & sleep 5551' & sleep 5551")["execId"]

        def sleepers():
            got = api.exec(box, ["sh", "-c", "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline "
                                 "2>/dev/null; echo; done"], user="root")["stdout"]
            return sum(line.startswith("sleep 5551") for line in got.splitlines())
        wait_for(lambda: sleepers() == 3, what="its tree")
        self.assertEqual(api.delete(path(one)).status, 204)
        end = over(one)
        self.assertEqual((end["exitCode"], end["signal"]), (137, "KILL"))
        wait_for(lambda: sleepers() == 0, what="the tree's end")
        self.assertEqual(api.delete(path(one)).status, 204)

    def test_a_kill_reaches_what_a_command_left_behind(self):
        one = begin("setsid sleep 5552 >/dev/null 2>&1 &")["execId"]
        over(one)
        count = lambda: int(api.exec(box, "ps | grep -c '[s]leep 5552'")["stdout"])
        wait_for(lambda: count() == 1, what="what it left")
        self.assertEqual(api.delete(path(one)).status, 204)
        wait_for(lambda: count() == 0, what="its end")


def pages_now(one):
    return api.get(path(one, "/output?limit=200")).json["items"]


class RestartTest(SystemCase):
    """A server that is killed while a command prints loses nothing of it."""

    def setUp(self):
        self.mine = sandboxd.Service()
        self.addCleanup(self.mine.close)
        self.client = Client(self.mine.start(), self.mine.key())
        self.box = self.client.create()["id"]

    def restart(self):
        self.client.server.signal(signal.SIGKILL)
        self.client.server.wait()
        self.client = Client(self.mine.start(), self.client.key)

    def test_the_list_and_the_output_are_whole_and_records_are_written_once(self):
        done = self.client.exec(self.box, "echo done")["execId"]
        one = begin("i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo line$i; sleep 0.01; done; exit 5",
                    self.box, self.client)["execId"]
        quick = begin("sleep 1; exit 6", self.box, self.client)["execId"]
        with self.client.stream("GET", path(one, "/output", self.box)) as stream:
            events = stream.events()
            seen = [next(events) for _ in range(20)]
            self.restart()
        last = int(seen[-1][0])
        wait_for(lambda: self.client.get(path(one, sandbox=self.box)).status == 200, what="the adoption")
        rest = follow(one, last, self.box, self.client)
        text = b"".join(data(e) for _, e in seen if e["type"] == "stdout") + output(rest)
        self.assertEqual(text.decode().split(), [f"line{i}" for i in range(1, 401)])
        self.assertEqual(rest[-1][1]["exitCode"], 5)
        self.assertEqual(rest[0][0], last + 1)
        self.assertEqual(over(quick, self.box, self.client)["exitCode"], 6)
        items = self.client.get(f"/sandboxes/{self.box}/execs").json["items"]
        self.assertEqual([x["execId"] for x in items], [quick, one, done])
        rows = wait_for(lambda: (lambda r: r if len(r) == 3 else None)(self.mine.psql(
            "SELECT id || ' ' || exit_code FROM sandbox_executions"
            " WHERE duration_ms IS NOT NULL ORDER BY started_at").split("\n")),
            what="the records")
        self.assertEqual(rows, [f"{done} 0", f"{one} 5", f"{quick} 6"])

    def test_a_running_command_keeps_the_sandbox_busy_behind_a_restart(self):
        self.client.patch(f"/sandboxes/{self.box}", {"idleTimeoutSeconds": 2, "onIdle": "stop"})
        one = begin("sleep 5", self.box, self.client)["execId"]
        self.restart()
        self.assertEqual(over(one, self.box, self.client)["exitCode"], 0)
        wait_for(lambda: self.client.state(self.box) == "stopped", 60, "idleness")


class TwoWorkersTest(SystemCase):
    """A worker that does not hold the sandbox reaches its agent through the engine."""

    @classmethod
    def setUpClass(cls):
        if not sandboxd.REDIS_URL:
            raise AssertionError("SBX_TEST_REDIS_URL is not set: run tests/run")
        cls.service = sandboxd.Service(env={"REDIS_URL": sandboxd.REDIS_URL})
        cls.addClassCleanup(cls.service.close)
        cls.a = Client(cls.service.start(), cls.service.key())
        cls.b = Client(cls.service.start(), cls.a.key)
        cls.box = cls.a.create(env={"COLOUR": "blue"})["id"]

    def test_everything_can_be_done_through_the_other_worker(self):
        self.assertEqual(self.b.exec(self.box, "echo $COLOUR")["stdout"], "blue\n")
        one = begin(["cat"], self.box, self.b, stdinOpen=True)["execId"]
        two = begin("echo first; sleep 1; echo second; exit 4", self.box, self.a)["execId"]
        seen = []
        reader = threading.Thread(target=lambda: seen.append(follow(two, sandbox=self.box,
                                                                    client=self.b)))
        reader.start()
        self.assertEqual(follow(two, sandbox=self.box, client=self.a)[-1][1]["exitCode"], 4)
        reader.join()
        self.assertEqual(seen[0], follow(two, sandbox=self.box, client=self.a))
        lists = [c.get(f"/sandboxes/{self.box}/execs").json["items"] for c in (self.a, self.b)]
        self.assertEqual([x["execId"] for x in lists[0]], [x["execId"] for x in lists[1]])
        for client in (self.a, self.b):
            got = client.call("POST", path(one, "/stdin", self.box), b"x\n",
                              {"Content-Type": "application/octet-stream"})
            self.assertEqual(got.status, 204, got)
        self.assertEqual(self.b.delete(path(one, sandbox=self.box)).status, 204)
        self.assertEqual(over(one, self.box, self.a)["signal"], "KILL")
        wait_for(lambda: self.service.psql("SELECT count(*) FROM sandbox_executions WHERE sandbox ="
                                           f" '{self.box}'") == "3",
                 what="one record of each")

    def test_a_follower_here_outlives_the_holder_there(self):
        third = Client(self.service.start(), self.a.key)
        mine = third.create()["id"]
        one = begin("i=0; while [ $i -lt 80 ]; do i=$((i+1)); echo line$i; sleep 0.1; done", mine,
                    third)["execId"]
        with self.a.stream("GET", path(one, "/output", mine), timeout=60) as stream:
            events = stream.events()
            seen = [next(events) for _ in range(5)]
            third.server.kill()
            seen += list(events)
        self.assertEqual(output(seen).decode().split(), [f"line{i}" for i in range(1, 81)])
        self.assertEqual([int(n) for n, _ in seen], list(range(1, len(seen) + 1)))
        wait_for(lambda: self.service.psql(
            f"SELECT count(*) FROM sandbox_executions WHERE id = '{one}'") == "1", 30, "its record")


if __name__ == "__main__":
    unittest.main()
