"""Commands in sandboxes, waiting and streamed, on the real engine."""
import base64
import concurrent.futures
import os
import threading
import time
import unittest

import sandboxd
from sandboxd import SystemCase, all_at_once, wait_for

QUICK = True
TIMEOUT_S = 400

service = api = box = None
MB = 1 << 20


def setUpModule():
    global service, api, box
    service, api = sandboxd.module_service()
    box = api.create()["id"]


def processes(sandbox, word):
    """How many processes inside have the word in their command line, as root inside sees it."""
    got = api.exec(sandbox, ["sh", "-c", "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline "
                             "2>/dev/null; echo; done"], user="root")
    return sum(word in line for line in got["stdout"].splitlines())


def stream_all(sandbox, command, **more):
    """(all events, stdout, stderr, the last event)"""
    with api.exec_stream(sandbox, command, **more) as stream:
        assert stream.status == 200, stream.response.read()
        events = list(stream.events())
    out = {"stdout": b"", "stderr": b""}
    for _, event in events:
        if event["type"] in out:
            data = event["data"]
            out[event["type"]] += (base64.b64decode(data) if event.get("encoding") == "base64"
                                   else data.encode())
    return events, out["stdout"], out["stderr"], events[-1][1]


class ResultTest(SystemCase):
    def test_a_result_has_all_fields(self):
        got = api.exec(box, "echo out; echo err >&2; exit 3")
        self.assertRegex(got.pop("execId"), sandboxd.ID)
        self.assertGreaterEqual(got.pop("durationMs"), 0)
        self.assertEqual(got, {"exitCode": 3, "signal": None, "stdout": "out\n", "stderr": "err\n",
                               "timedOut": False, "oomKilled": False, "truncated": False})

    def test_exit_codes_are_those_of_a_shell(self):
        cases = [("exit 0", 0, None), ("exit 255", 255, None), (["true"], 0, None),
                 (["false"], 1, None), (["/no/such/program"], 127, None),
                 (["no-such-program"], 127, None), ("no-such-program", 127, None),
                 (["/etc/passwd"], 126, None), (["/tmp"], 126, None),
                 ("kill -TERM $$", 143, "TERM"), ("kill -KILL $$", 137, "KILL"),
                 ("kill -SEGV $$", 139, "SEGV")]
        for command, code, signal in cases:
            with self.subTest(command=command):
                got = api.exec(box, command)
                self.assertEqual((got["exitCode"], got["signal"]), (code, signal), got)

    def test_arguments_are_not_seen_by_a_shell(self):
        got = api.exec(box, ["echo", "$HOME", "a  b", "*", "", "ü\n"])
        self.assertEqual(got["stdout"], "$HOME a  b *  ü\n\n")
        self.assertEqual(api.exec(box, "echo $((6*7)) | tr 4 5")["stdout"], "52\n")

    def test_the_default_user_is_not_root_and_has_a_home(self):
        got = api.exec(box, "id -u; id -g; pwd; echo $HOME; touch ~/x && echo writable")
        self.assertEqual(got["stdout"], "1000\n1000\n/home/user\n/home/user\nwritable\n")

    def test_the_user_can_be_chosen(self):
        for user, want in (("root", "0 0"), ("0", "0 0"), ("1234", "1234"), ("1234:77", "1234 77"),
                           ("root:99", "0 99")):
            with self.subTest(user=user):
                got = api.exec(box, "echo $(id -u) $(id -g)", user=user)["stdout"].strip()
                self.assertEqual(got if " " in want else got.split()[0], want)

    def test_an_unknown_user_or_folder_is_400_and_names_the_field(self):
        for field, value in (("user", "nobody-here"), ("user", "root:nogroup"), ("user", "-1"),
                             ("user", "99999999999"), ("cwd", "/no/such"), ("cwd", "/etc/passwd")):
            with self.subTest(field=field, value=value):
                got = api.post(f"/sandboxes/{box}/exec", {"command": "true", field: value})
                self.assert_problem(got, 400, "invalid_request", field)
                got = api.post(f"/sandboxes/{box}/exec", {"command": "true", field: value},
                               headers={"Accept": "text/event-stream"})
                self.assert_problem(got, 400, "invalid_request", field)

    def test_the_folder_can_be_chosen(self):
        self.assertEqual(api.exec(box, "pwd", cwd="/tmp")["stdout"], "/tmp\n")
        self.assertEqual(api.exec(box, "pwd", cwd="/")["stdout"], "/\n")

    def test_variables_add_to_and_win_over_those_of_the_sandbox(self):
        other = api.create(env={"A": "sandbox", "B": "sandbox"})["id"]
        got = api.exec(other, "echo $A $B $C", env={"B": "exec", "C": "exec"})
        self.assertEqual(got["stdout"], "sandbox exec exec\n")
        self.assertEqual(api.exec(other, "echo $A $B $C")["stdout"], "sandbox sandbox\n")
        odd = {"X": "a=b\nc'\"$(id)", "PATH": "/bin", "_": "y"}
        got = api.exec(other, ["env"], env=odd)
        self.assertIn("X=a=b\nc'\"$(id)\n", got["stdout"])
        self.assertEqual(api.delete(f"/sandboxes/{other}").status, 204)

    def test_input_is_given_and_ends(self):
        self.assertEqual(api.exec(box, ["cat"], stdin="žlutý\n")["stdout"], "žlutý\n")
        self.assertEqual(api.exec(box, ["wc", "-c"], stdin="x" * MB)["stdout"].strip(), str(MB))
        self.assertEqual(api.exec(box, ["cat"])["stdout"], "")
        self.assertEqual(api.exec(box, ["true"], stdin="x" * 200000)["exitCode"], 0)

    def test_output_over_the_limit_is_dropped_and_told(self):
        got = api.exec(box, "head -c 5000 /dev/zero | tr '\\0' a", maxOutputBytes=1000)
        self.assertEqual((got["stdout"], got["truncated"], got["exitCode"]), ("a" * 1000, True, 0))
        got = api.exec(box, "head -c 1000 /dev/zero | tr '\\0' a", maxOutputBytes=1000)
        self.assertEqual((len(got["stdout"]), got["truncated"]), (1000, False))
        got = api.exec(box, "head -c 3000000 /dev/zero | tr '\\0' a")
        self.assertEqual((len(got["stdout"]), got["truncated"]), (MB, True))

    def test_bytes_that_are_no_text_come_as_base64(self):
        got = api.exec(box, r"printf '\377\000\200ok'; printf err >&2")
        self.assertEqual(got["encoding"], "base64")
        self.assertEqual(base64.b64decode(got["stdout"]), b"\xff\0\x80ok")
        self.assertEqual(base64.b64decode(got["stderr"]), b"err")

    def test_a_zero_byte_is_carried_as_text(self):
        got = api.exec(box, r"printf 'a\000b'")
        self.assertEqual(got["stdout"], "a\0b")
        self.assertNotIn("encoding", got)

    def test_bad_requests_are_refused_by_field(self):
        cases = [({}, "command"), ({"command": ""}, "command"), ({"command": []}, "command"),
                 ({"command": [""]}, "command"), ({"command": 7}, "command"),
                 ({"command": ["a", 7]}, "command"), ({"command": "x" * 200000}, "command"),
                 ({"command": "true", "timeoutMs": -1}, "timeoutMs"),
                 ({"command": "true", "timeoutMs": 86400001}, "timeoutMs"),
                 ({"command": "true", "timeoutMs": "5"}, "timeoutMs"),
                 ({"command": "true", "timeoutMs": 1.5}, "timeoutMs"),
                 ({"command": "true", "maxOutputBytes": 0}, "maxOutputBytes"),
                 ({"command": "true", "maxOutputBytes": 1 << 40}, "maxOutputBytes"),
                 ({"command": "true", "env": {"A=B": "x"}}, "env"),
                 ({"command": "true", "env": {"A": 1}}, "env"),
                 ({"command": "true", "env": {"SBX_AGENT_TOKEN": "x"}}, "env"),
                 ({"command": "true", "comand": 1}, "comand")]
        for body, field in cases:
            with self.subTest(body=str(body)[:80]):
                self.assert_problem(api.post(f"/sandboxes/{box}/exec", body), 400,
                                    "invalid_request", field)

    def test_records_are_kept(self):
        got = api.exec(box, ["sh", "-c", "exit 9"])
        row = wait_for(lambda: service.psql(
            "SELECT exit_code, kind, command, timed_out FROM sandbox_executions"
            f" WHERE id = '{got['execId']}' AND duration_ms IS NOT NULL"), what="the record")
        self.assertEqual(row, '9|exec|["sh","-c","exit 9"]|f')


class TimeoutTest(SystemCase):
    def test_the_time_out_kills_the_whole_tree(self):
        script = ("sleep 7771 & setsid sleep 7772 & (setsid sh -c 'sleep 7773 & exec sleep 7774' &) "
                  "; trap '' TERM; sleep 7775; sleep 7776")
        began = time.monotonic()
        got = api.exec(box, script, timeoutMs=700)
        self.assertLess(time.monotonic() - began, 10)
        self.assertTrue(got["timedOut"], got)
        self.assertEqual((got["exitCode"], got["signal"]), (137, "KILL"))
        self.assertEqual(processes(box, "sleep 777"), 0)
        self.assertGreaterEqual(got["durationMs"], 700)

    def test_what_was_printed_before_is_given(self):
        got = api.exec(box, "echo before; sleep 60", timeoutMs=500)
        self.assertEqual((got["stdout"], got["timedOut"]), ("before\n", True))

    def test_a_stream_ends_with_timed_out(self):
        *_, last = stream_all(box, "echo x; sleep 60", timeoutMs=400)
        self.assertEqual((last["type"], last["timedOut"], last["exitCode"]), ("exit", True, 137))


class StreamTest(SystemCase):
    def test_events_come_live_and_are_numbered_from_1(self):
        with api.exec_stream(box, "echo one; sleep 1; echo two >&2; exit 4") as stream:
            self.assertEqual(stream.status, 200)
            self.assertTrue(stream.headers["Content-Type"].startswith("text/event-stream"))
            events = stream.events()
            first = next(events)
            self.assertEqual(first[1]["type"], "start")
            self.assertRegex(first[1]["execId"], sandboxd.ID)
            self.assertGreater(first[1]["pid"], 0)
            second = next(events)
            self.assertEqual(second[1], {"type": "stdout", "data": "one\n"})
            began = time.monotonic()
            rest = list(events)
            self.assertGreater(time.monotonic() - began, 0.5)
        self.assertEqual(rest[0][1], {"type": "stderr", "data": "two\n"})
        self.assertEqual(rest[-1][1]["type"], "exit")
        self.assertEqual(rest[-1][1]["exitCode"], 4)
        self.assertIs(rest[-1][1]["signal"], None)
        numbers = [int(number) for number, _ in [first, second, *rest]]
        self.assertEqual(numbers, list(range(1, len(numbers) + 1)))

    def test_characters_cut_by_chunks_stay_whole(self):
        script = "i=0; while [ $i -lt 20 ]; do printf '\\342'; printf '\\202'; printf '\\254'; " \
                 "i=$((i+1)); done"
        events, out, _, _ = stream_all(box, script)
        self.assertEqual(out.decode(), "€" * 20)
        self.assertFalse([e for _, e in events if "encoding" in e])
        big = "ž€😀" * 40000
        events, out, _, _ = stream_all(box, ["cat"], stdin=big)
        self.assertEqual(out.decode(), big)
        self.assertFalse([e for _, e in events if "encoding" in e])

    def test_a_character_cut_by_the_end_is_carried_without_loss(self):
        _, out, _, last = stream_all(box, r"printf 'ok\342\202'")
        self.assertEqual(out, b"ok\xe2\x82")
        self.assertEqual(last["type"], "exit")

    def test_the_limit_holds_for_streams_that_ask_for_one(self):
        _, out, _, last = stream_all(box, "head -c 5000 /dev/zero | tr '\\0' a",
                                     maxOutputBytes=1000)
        self.assertEqual(len(out), 1000)
        self.assertTrue(last["truncated"])


class LargeOutputTest(SystemCase):
    SCRIPT = "dd if=/dev/zero bs=1048576 count=100 2>/dev/null | tr '\\0' x"

    def test_100_mb_to_a_waiting_request_is_cut_and_the_server_stays_small(self):
        before = api.server.rss_kb()
        got = api.exec(box, self.SCRIPT)
        self.assertEqual((len(got["stdout"]), got["truncated"], got["exitCode"]), (MB, True, 0))
        self.assertLess(api.server.rss_kb() - before, 40 * 1024)

    def test_100_mb_in_a_stream_arrive_whole_and_the_server_stays_small(self):
        peak, before, size = 0, api.server.rss_kb(), 0
        with api.exec_stream(box, self.SCRIPT, timeout=120) as stream:
            for number, (_, event) in enumerate(stream.events()):
                if event["type"] == "stdout":
                    size += len(event["data"])
                last = event
                if number % 50 == 0:
                    peak = max(peak, api.server.rss_kb())
        self.assertEqual((size, last["type"], last["exitCode"]), (100 * MB, "exit", 0))
        self.assertLess(peak - before, 40 * 1024)

    def test_a_slow_reader_slows_the_command_and_not_the_others(self):
        script = ("i=0; while [ $i -lt 100 ]; do dd if=/dev/zero bs=1048576 count=1 2>/dev/null "
                  "| tr '\\0' x; i=$((i+1)); echo $i >/tmp/progress; done")
        before = api.server.rss_kb()
        with api.exec_stream(box, script, timeout=120) as stream:
            events = stream.events()
            next(events)
            seen = []

            def stalled():
                seen.append(api.exec(box, "cat /tmp/progress 2>/dev/null")["stdout"])
                return len(seen) > 25 and len(set(seen[-25:])) == 1 and seen[-1] != ""
            wait_for(stalled, 30, "a command that waits for its reader", pause=0.04)
            self.assertLess(int(seen[-1]), 60)
            self.assertLess(api.server.rss_kb() - before, 40 * 1024)
            self.assertEqual(api.exec(box, "echo fine")["stdout"], "fine\n")
            size = sum(len(e["data"]) for _, e in events if e["type"] == "stdout")
        self.assertEqual(size, 100 * MB)


class DisconnectTest(SystemCase):
    def start_and_leave(self, marker, streaming, **more):
        script = f"echo >/tmp/{marker}.on; sleep 2; echo >/tmp/{marker}.done; sleep 6{marker}"
        body = {"command": script, **more}
        if streaming:
            stream = api.stream("POST", f"/sandboxes/{box}/exec", body)
            stream.next()
        else:
            connection = api.connect()
            stream = sandboxd.Stream.__new__(sandboxd.Stream)
            connection.request("POST", f"/sandboxes/{box}/exec", sandboxd.json.dumps(body).encode(),
                               api.headers({"Content-Type": "application/json"}))
        wait_for(lambda: api.exec(box, f"test -e /tmp/{marker}.on")["exitCode"] == 0,
                 what="the command's start")
        if streaming:
            stream.close()
        else:
            connection.close()
        return f"6{marker}"

    def done(self, marker):
        return api.exec(box, f"test -e /tmp/{marker}.done")["exitCode"] == 0

    def test_a_command_outlives_its_client_by_default(self):
        for marker, streaming in (("101", True), ("102", False)):
            with self.subTest(streaming=streaming):
                self.start_and_leave(marker, streaming)
                wait_for(lambda m=marker: self.done(m), what="the command's work")
                self.assertGreaterEqual(processes(box, f"sleep 6{marker}"), 1)
        api.exec(box, ["killall", "sleep"])

    def test_a_command_ends_with_its_client_where_that_was_asked_for(self):
        for marker, streaming in (("201", True), ("202", False)):
            with self.subTest(streaming=streaming):
                self.start_and_leave(marker, streaming, killOnDisconnect=True)
                wait_for(lambda m=marker: not processes(box, f"/tmp/{m}.done"),
                         what="the command's end")
                self.assertFalse(self.done(marker))


class ConcurrencyTest(SystemCase):
    def test_200_waiting_commands_starve_nobody(self):
        wide = api.create(limits={"pids": 1000, "memoryMb": 1024})["id"]
        threads = len(os.listdir(f"/proc/{api.server.pid}/task"))
        with concurrent.futures.ThreadPoolExecutor(200) as pool:
            waiting = [pool.submit(api.exec, wide, ["sleep", "8880"], timeoutMs=90000)
                       for _ in range(200)]
            try:
                wait_for(lambda: processes(wide, "sleep 8880") == 200, 40, "200 commands", 0.2)
                slowest = 0
                for _ in range(30):
                    began = time.monotonic()
                    self.assertEqual(api.get(f"/sandboxes/{wide}").status, 200)
                    slowest = max(slowest, time.monotonic() - began)
                self.assertLess(slowest, 2)
                self.assertEqual(api.exec(box, "echo hi")["stdout"], "hi\n")
                self.assertLessEqual(len(os.listdir(f"/proc/{api.server.pid}/task")), threads + 2)
            finally:
                api.exec(wide, ["killall", "sleep"])
            got = [w.result() for w in waiting]
        self.assertEqual({(g["exitCode"], g["signal"]) for g in got}, {(143, "TERM")})
        self.assertEqual(api.delete(f"/sandboxes/{wide}").status, 204)

    def test_many_short_commands_at_once_all_have_their_own_output(self):
        wide = api.create(limits={"pids": 400})["id"]
        got = all_at_once(lambda i: api.exec(wide, f"echo {i}; echo e{i} >&2"), range(150), 50)
        self.assertEqual([(g["stdout"], g["stderr"]) for g in got],
                         [(f"{i}\n", f"e{i}\n") for i in range(150)])

    def test_ends_and_starts_that_cross_do_not_harm_the_agent(self):
        # What has just ended is still a process for a moment, and what replaces it is two.
        wide = api.create(limits={"pids": 400})["id"]
        for _ in range(4):
            got = all_at_once(lambda i: api.exec(wide, ["echo", str(i)]), range(250), 50)
            self.assertEqual([g["stdout"] for g in got], [f"{i}\n" for i in range(250)])

    def test_commands_over_one_kept_connection(self):
        connection = api.connect()
        for i in range(20):
            got = api.call("POST", f"/sandboxes/{box}/exec", {"command": ["echo", str(i)]},
                           connection=connection)
            self.assertEqual(got.json["stdout"], f"{i}\n")
        connection.close()


class IsolationTest(SystemCase):
    def test_no_command_has_a_capability_not_even_as_root(self):
        for user in ("root", None):
            got = api.exec(box, "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status",
                           **({"user": user} if user else {}))["stdout"]
            caps = dict(line.split(":\t") for line in got.splitlines())
            for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
                self.assertEqual(int(caps[name], 16), 0, (user, caps))
            self.assertEqual((caps["NoNewPrivs"], caps["Seccomp"]), ("1", "2"))

    def test_the_agents_secret_cannot_be_read_inside(self):
        token = dict(v.split("=", 1) for v in service.inspect(box)["Config"]["Env"])
        token = token["SBX_AGENT_TOKEN"]
        self.assertEqual(len(token), 32)
        for user in ("root", "1000"):
            with self.subTest(user=user):
                self.assertNotIn("SBX_AGENT", api.exec(box, ["env"], user=user)["stdout"])
                got = api.exec(box, "cat /proc/1/environ /proc/1/mem | head -c 1000; "
                                    "ls /proc/1/root; for f in /proc/1/fd/*; do readlink $f; "
                                    "echo x >$f; done; kill -9 1; kill -STOP 1", user=user)
                self.assertEqual(got["stdout"], "", got)
        found = api.exec(box, f"grep -l {token[:16]}[{token[16]}] /proc/*/environ /proc/*/cmdline "
                              "2>/dev/null", user="root")["stdout"]
        self.assertEqual(found.replace("/proc/self", "").count("environ"), 0, found)
        self.assertEqual(api.exec(box, "echo alive")["stdout"], "alive\n")

    def test_root_that_kills_everything_hurts_its_commands_alone(self):
        with api.exec_stream(box, ["sleep", "100"], user="root") as stream:
            events = stream.events()
            next(events)
            got = api.exec(box, "kill -9 -1; echo unreached; sleep 1; echo", user="root")
            self.assertIn(got["exitCode"], (0, 137), got)
            last = next(events)[1]
        self.assertEqual((last["type"], last["signal"]), ("exit", "KILL"))
        for _ in range(3):
            self.assertEqual(api.exec(box, "echo alive")["stdout"], "alive\n")

    def test_the_agents_folder_cannot_be_written(self):
        got = api.exec(box, "touch /.sbx/x; rm -f /.sbx/sbx-agent; ls /.sbx", user="root")
        self.assertEqual(got["stdout"], "sbx-agent\nsbx-files\n")

    def test_a_sandbox_sees_only_its_own_processes_and_no_network(self):
        other = api.create()["id"]
        with api.exec_stream(other, ["sleep", "9991"]) as stream:
            stream.next()
            self.assertEqual(processes(box, "sleep 9991"), 0)
            self.assertEqual(processes(other, "sleep 9991"), 1)
        self.assertNotEqual(api.exec(box, "wget -T 2 -q -O- http://1.1.1.1/")["exitCode"], 0)
        self.assertEqual(api.exec(other, "hostname")["stdout"].strip(), other)
        self.assertEqual(api.delete(f"/sandboxes/{other}").status, 204)

    def test_nothing_that_ended_stays_as_a_zombie(self):
        api.exec(box, "(sleep 0.2 &) ; (sh -c 'sleep 0.1 & sleep 0.1' &)")
        wait_for(lambda: not api.exec(box, "grep -l '^State:.Z' /proc/[0-9]*/status",
                                      user="root")["stdout"], what="no zombies")


class AttackTest(SystemCase):
    # A shell ends when it cannot fork; awk goes on trying.
    BOMB = ["awk", 'BEGIN { while (1) system("sleep 7779 & sleep 7779 &") }']

    def wait_full(self, sandbox):
        wait_for(lambda: len(sandboxd.engine.call(
            "GET", f"/containers/sbx-{sandbox}/top")["Processes"]) > 50, 8, "a full sandbox")

    def test_a_memory_hog_is_killed_and_told_and_the_sandbox_works_on(self):
        small = api.create(limits={"memoryMb": 256})["id"]
        for streaming in (False, True):
            with self.subTest(streaming=streaming):
                hog = ["sh", "-c", "tail /dev/zero; exit $?"]
                got = stream_all(small, hog)[3] if streaming else api.exec(small, hog)
                self.assertTrue(got["oomKilled"], got)
                self.assertEqual(got["exitCode"], 137)
        got = api.exec(small, "echo still here")
        self.assertEqual((got["stdout"], got["oomKilled"]), ("still here\n", False))
        self.assertEqual(api.sandbox(small)["state"], "running")
        self.assertEqual(api.delete(f"/sandboxes/{small}").status, 204)

    def test_a_fork_bomb_harms_nobody_else_and_its_time_out_ends_it(self):
        victim = api.create(size="nano", limits={"pids": 60})["id"]
        got = []
        bomb = threading.Thread(target=lambda: got.append(
            api.exec(victim, self.BOMB, timeoutMs=4000)))
        bomb.start()
        self.wait_full(victim)
        began = time.monotonic()
        self.assertEqual(api.exec(box, "echo calm")["stdout"], "calm\n")
        self.assertLess(time.monotonic() - began, 5)
        told = api.exec(victim, ["echo", "usable"], timeoutMs=20000)
        self.assertEqual(told["stdout"], "usable\n")
        bomb.join(40)
        self.assertTrue(got[0]["timedOut"], got)
        self.assertEqual(processes(victim, "sleep 7779"), 0)
        self.assertEqual(api.delete(f"/sandboxes/{victim}").status, 204)

    def test_a_sandbox_with_a_fork_bomb_can_be_deleted(self):
        victim = api.create(size="nano", limits={"pids": 60})["id"]
        with api.exec_stream(victim, self.BOMB) as stream:
            stream.next()
            self.wait_full(victim)
            self.assertEqual(api.delete(f"/sandboxes/{victim}").status, 204)
        self.assertFalse(service.container_exists(victim))


if __name__ == "__main__":
    unittest.main()
