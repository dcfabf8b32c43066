#!/usr/bin/python3
"""The real sbx-agent, as PID 1 of a PID namespace, driven over pipes.

Nothing here limits how many processes a command makes, so nothing here may fork without an end:
fork bombs belong to agent_container_test.py, behind the engine's limit of processes."""
import os
import re
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import agent_proto as P  # noqa: E402
from agent_harness import BINARY, AgentCase, descendants, proc_stat, wait_for  # noqa: E402


class ProgramTest(unittest.TestCase):
    def test_version_is_printed(self):
        got = subprocess.run([BINARY, "--version"], capture_output=True, text=True)
        self.assertRegex(got.stdout, r"^sbx-agent \d+\.\d+\.\d+\n$")
        self.assertEqual(got.returncode, 0)

    def test_without_a_token_it_refuses_to_start(self):
        for token in ({}, {"SBX_AGENT_TOKEN": "12"}, {"SBX_AGENT_TOKEN": "g" * 32}):
            got = subprocess.run([BINARY], env=token, capture_output=True, text=True, timeout=5)
            self.assertEqual(got.returncode, 2)
            self.assertIn("SBX_AGENT_TOKEN", got.stderr)

    def test_it_is_small_and_static(self):
        self.assertLess(os.path.getsize(BINARY), 1024 * 1024)
        with open(BINARY, "rb") as f:
            self.assertNotIn(b"ld-linux", f.read())


class ChannelTest(AgentCase):
    greet = False

    def test_nothing_is_sent_before_a_greeting(self):
        self.agent.write(P.frame(P.PING, 0, 0, b"x") + os.urandom(5000) + P.MAGIC + b"w" * 16 +
                         P.frame(P.HELLO, 1, 0, P.field(P.T_EPOCH, 1)))
        self.agent.greet(epoch=5)
        self.assertEqual(bytes(self.agent.raw_before_sync), b"")

    def test_welcome_tells_version_epoch_and_numbers(self):
        got = dict(self.agent.greet(epoch=77))
        self.assertEqual(got, {P.T_VERSION: 3, P.T_EPOCH: 77, P.T_NEXT_SEQ: 1, P.T_OLDEST_SEQ: 1,
                               P.T_MAIN: 0})

    def test_a_greeting_is_found_behind_half_a_frame(self):
        self.agent.greet()
        self.agent.greet(prefix=P.frame(P.STDIN, 1, 1, b"z" * 500000)[:300000])
        self.assertEqual(self.agent.run(["echo", "x"]).stdout, b"x\n")

    def test_a_greeting_is_found_behind_part_of_a_marker(self):
        for cut in range(1, 24):
            self.agent.greet(prefix=(P.MAGIC + self.token)[:cut])
        for piece in (1, 7, 23):
            self.agent.epoch += 1
            self.agent.reset()
            data = (P.MAGIC + self.token +
                    P.frame(P.HELLO, 0, 0, P.field(P.T_EPOCH, self.agent.epoch)))
            for at in range(0, len(data), piece):
                self.agent.write(data[at:at + piece])
                time.sleep(0.001)
            self.agent.until(lambda: self.agent.welcome is not None, what="WELCOME")

    def test_bytes_that_are_no_frame_end_the_channel_until_the_next_greeting(self):
        bad = [
            ("payload too large", b"\xff\xff\xff\xff" + bytes(8)),
            ("reserved byte", b"\0\0\0\0\x09\1\0\0\0\0\0\0"),
            ("unknown type", None),
            ("field cut short", None),
            ("number of wrong length", None),
            ("HELLO without a marker", None),
            ("ping too long", None),
        ]
        for name, data in bad:
            with self.subTest(name):
                self.agent.greet()
                epoch = self.agent.epoch
                data = data or {
                    "unknown type": P.frame(63, epoch, 0),
                    "field cut short": P.frame(P.EXEC, epoch, 9, b"\7\0\xff\0\0\0x"),
                    "number of wrong length":
                        P.frame(P.WINDOW, epoch, 9, P.field(P.T_WINDOW, b"1234")),
                    "HELLO without a marker":
                        P.frame(P.HELLO, epoch, 0, P.field(P.T_EPOCH, epoch)),
                    "ping too long": P.frame(P.PING, epoch, 0, b"x" * 65),
                }[name]
                self.agent.write(data)
                self.agent.send(P.PING, 0, b"unheard")
                self.agent.greet()
                self.agent.send(P.PING, 0, b"heard")
                self.agent.until(lambda: self.agent.pongs, what="PONG")
                self.assertEqual(self.agent.pongs, [b"heard"])
                self.assertNotIn(b"unheard", self.agent.raw_before_sync)

    def test_garbage_of_every_kind_is_survived(self):
        for seed in range(20):
            noise = os.urandom(20000) if seed % 2 else bytes([seed]) * 20000
            self.agent.greet(prefix=noise)
            self.agent.write(P.frame(P.EXEC, self.agent.epoch, 5, os.urandom(200)))
        self.agent.greet()
        self.assertEqual(self.agent.run(["echo", "fine"]).stdout, b"fine\n")

    def test_frames_of_another_epoch_are_dropped(self):
        self.agent.greet(epoch=3)
        self.agent.send(P.PING, 0, b"stale", epoch=2)
        self.agent.send(P.PING, 0, b"own")
        self.agent.until(lambda: self.agent.pongs, what="PONG")
        self.assertEqual(self.agent.pongs, [b"own"])

    def test_a_greeting_of_an_older_epoch_is_ignored(self):
        self.agent.greet(epoch=9)
        self.agent.write(P.MAGIC + self.token +
                         P.frame(P.HELLO, 8, 0, P.field(P.T_EPOCH, 8)))
        self.agent.send(P.PING, 0, b"still")
        self.agent.until(lambda: self.agent.pongs, what="PONG")

    def test_ping_is_answered_with_its_bytes(self):
        self.agent.greet()
        for payload in (b"", b"x", os.urandom(64)):
            self.agent.send(P.PING, 3, payload)
        self.agent.until(lambda: len(self.agent.pongs) == 3, what="PONG")

    def test_after_the_end_of_input_it_lives_and_rests(self):
        self.agent.greet()
        req = self.agent.start("sleep 2; echo late >/tmp/late")
        self.agent.until(lambda: self.agent.commands[req].started, what="STARTED")
        os.close(self.to_fd)
        wait_for(lambda: os.path.exists(os.path.join(self.root, "tmp/late")), what="the command")
        with open("/proc/%d/stat" % self.pid) as f:
            ticks = sum(map(int, f.read().rsplit(")", 1)[1].split()[11:13]))
        self.assertLess(ticks, 20)
        self.assertTrue(self.alive())
        self.agent.wait(req)


class FifoTest(AgentCase):
    greet = False

    def pipes(self):
        self.fifo = os.path.join(self.root, "in")
        os.mkfifo(self.fifo)
        out_r, out_w = os.pipe()
        in_r = os.open(self.fifo, os.O_RDONLY | os.O_NONBLOCK)
        return in_r, out_w, os.open(self.fifo, os.O_WRONLY), out_r

    def test_a_new_writer_after_the_end_of_input_is_heard(self):
        self.agent.greet()
        os.close(self.to_fd)
        time.sleep(0.1)
        self.agent.to_fd = self.to_fd = os.open(self.fifo, os.O_WRONLY)
        self.agent.greet()
        self.assertEqual(self.agent.run(["echo", "again"]).stdout, b"again\n")


class CommandTest(AgentCase):
    def test_output_and_exit_code_arrive(self):
        got = self.agent.run("echo out; echo err >&2; exit 3")
        self.assertEqual((got.stdout, got.stderr), (b"out\n", b"err\n"))
        self.assertEqual(got.exit[P.T_EXIT_CODE], 3)
        self.assertEqual(got.exit[P.T_SIGNAL], 0)
        self.assertEqual(got.exit[P.T_FLAGS], 0)
        self.assertEqual(got.frames, [P.STARTED, P.EXIT])

    def test_a_signal_is_told_with_128_plus_its_number(self):
        got = self.agent.run("kill -TERM $$")
        self.assertEqual((got.exit[P.T_EXIT_CODE], got.exit[P.T_SIGNAL]), (143, 15))

    def test_a_missing_command_is_127_and_one_that_may_not_run_126(self):
        cases = [
            (["nope"], 127, b"nope: command not found\n"),
            (["/nope/x"], 127, b"/nope/x: "),
            (["/etc/passwd"], 126, b"/etc/passwd: "),
            (["/tmp"], 126, b"/tmp: "),
            ([""], 127, b": command not found\n"),
            (["/etc/passwd/x"], 127, b"/etc/passwd/x: "),
        ]
        for argv, code, text in cases:
            with self.subTest(argv):
                got = self.agent.run(argv)
                self.assertEqual(got.exit[P.T_EXIT_CODE], code)
                self.assertTrue(got.stderr.startswith(text), got.stderr)
                self.assertIsNotNone(got.started)

    def test_a_script_without_an_interpreter_line_runs_in_the_shell(self):
        self.agent.run("echo 'echo script $1' >/tmp/s; chmod +x /tmp/s")
        self.assertEqual(self.agent.run(["/tmp/s", "arg"]).stdout, b"script arg\n")

    def test_path_of_the_request_is_searched(self):
        self.agent.run("mkdir /tmp/p; printf '#!/bin/sh\\necho mine' >/tmp/p/ls; chmod +x /tmp/p/ls")
        got = self.agent.run(["ls"], env=["PATH=/root:/tmp/p:/bin"])
        self.assertEqual(got.stdout, b"mine\n")

    def test_large_arguments_and_environment_arrive(self):
        got = self.agent.run(["sh", "-c", "echo ${#1} ${#2} ${#BIG}", "x", "a" * 100000,
                              "b" * 120000], env=["BIG=" + "c" * 100000])
        self.assertEqual(got.stdout, b"100000 120000 100000\n")
        got = self.agent.run(["true", "x" * 140000])
        self.assertEqual(got.exit[P.T_EXIT_CODE], 126)

    def test_duration_cpu_and_memory_are_told(self):
        got = self.agent.run("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 0.2")
        self.assertGreaterEqual(got.exit[P.T_DURATION_MS], 200)
        self.assertGreater(got.exit[P.T_CPU_MS], 10)
        self.assertGreater(got.exit[P.T_PEAK_KB], 100)

    def test_cwd_is_the_home_or_what_was_asked_for(self):
        for cwd, want in (("", b"/home/user\n"), ("/tmp", b"/tmp\n"), ("..", b"/home\n")):
            self.assertEqual(self.agent.run(["pwd"], cwd=cwd).stdout, want)

    def test_a_bad_cwd_fails(self):
        for cwd in ("/nope", "/etc/passwd", "/closed/secret", "nope"):
            os.makedirs(os.path.join(self.root, "closed/secret"), exist_ok=True)
            os.chmod(os.path.join(self.root, "closed"), 0o700)
            got = self.agent.run(["true"], cwd=cwd)
            self.assertEqual(got.fail[P.T_CODE], P.BAD_CWD, cwd)
            self.assertIsNone(got.started)
        self.until_quiet()

    def test_bad_requests_fail_and_say_why(self):
        a = self.agent
        a.start("sleep 9", exec_id="one", req=100)
        cases = [
            dict(argv=[], req=101), dict(argv=["a\0b"], req=102),
            dict(argv=["true"], env=["NOEQ"], req=103), dict(argv=["true"], env=["=x"], req=104),
            dict(argv=["true"], exec_id="x" * 33, req=105),
            dict(argv=["true"], exec_id="one", req=106), dict(argv=["true"], cwd="/" * 5000, req=107),
            dict(argv=["true"], user="u" * 200, req=108), dict(argv=["true"], req=0),
            dict(argv=["true"] * 20000, req=109),
            dict(argv=["true"], env=["A=1"] * 2000, req=110),
        ]
        for case in cases:
            with self.subTest(case["req"]):
                a.start(**case)
                got = a.wait(case["req"])
                self.assertEqual(got.fail[P.T_CODE], P.BAD_REQUEST)
                self.assertTrue(got.fail[P.T_MESSAGE])
        a.start(["true"], req=100)
        self.assertEqual(a.wait(100).fail[P.T_CODE], P.BAD_REQUEST)

    def test_stdin_is_empty_unless_asked_for(self):
        self.assertEqual(self.agent.run("cat; readlink /proc/self/fd/0").stdout, b"/dev/null\n")

    def test_many_commands_at_once_keep_apart(self):
        reqs = [self.agent.start("echo %d; sleep 0.1; echo %d >&2; exit %d" % (i, i, i % 50))
                for i in range(60)]
        for i, req in enumerate(reqs):
            got = self.agent.wait(req)
            self.assertEqual((got.stdout, got.stderr, got.exit[P.T_EXIT_CODE]),
                             (b"%d\n" % i, b"%d\n" % i, i % 50))
        self.until_quiet()

    def test_the_limit_of_commands_is_busy(self):
        a = self.agent
        reqs = [a.start(["sleep", "100"]) for _ in range(512)]
        for req in reqs:
            a.until(lambda: a.commands[req].started or a.commands[req].fail, 60, "STARTED")
        self.assertEqual([a.commands[r].fail for r in reqs if a.commands[r].fail], [])
        self.assertEqual(a.run(["true"]).fail[P.T_CODE], P.BUSY)
        for req in reqs:
            a.send(P.SIGNAL, req, P.field(P.T_SIGNAL, 9))
        for req in reqs:
            self.assertEqual(a.wait(req, 60).exit[P.T_SIGNAL], 9)
        self.until_quiet(20)
        self.assertEqual(a.run(["echo", "ok"]).stdout, b"ok\n")


class RightsTest(AgentCase):
    image_env = {"IMAGE": "set", "HOME": "/root"}

    def test_the_default_user_is_made(self):
        got = self.agent.run("id -u; id -g; id -G; id -un; echo $HOME $USER $LOGNAME; umask")
        self.assertEqual(got.stdout.split(b"\n")[:6],
                         [b"1000", b"1000", b"1000 50", b"user", b"/home/user user user", b"0022"])
        self.assertEqual(self.read("etc/passwd").splitlines()[1],
                         "user:x:1000:1000::/home/user:/bin/sh")
        self.assertIn("user:x:1000:\n", self.read("etc/group"))
        st = os.stat(os.path.join(self.root, "home/user"))
        self.assertEqual((st.st_uid, st.st_gid), (1000, 1000))

    def test_users_and_groups_of_every_form(self):
        with open(os.path.join(self.root, "etc/passwd"), "a") as f:
            f.write("web:x:33:34::/var/www:/bin/sh\nbad line\nshort:x\n:x:1:1::/:\n")
        with open(os.path.join(self.root, "etc/group"), "a") as f:
            f.write("staff:x:60:web,root\n")
        cases = [
            ("root", b"0", b"0", b"0 60", b"/root"), ("web", b"33", b"34", b"34 60", b"/var/www"),
            ("33", b"33", b"34", b"34 60", b"/var/www"), ("web:staff", b"33", b"60", b"60", b"/var/www"),
            ("web:7", b"33", b"7", b"7", b"/var/www"), ("4242", b"4242", b"0", b"0", b"/"),
            ("4242:4343", b"4242", b"4343", b"4343", b"/"),
        ]
        for user, uid, gid, groups, home in cases:
            with self.subTest(user):
                got = self.agent.run("id -u; id -g; id -G; echo $HOME", user=user)
                self.assertEqual(got.stdout.split(b"\n")[:4], [uid, gid, groups, home])
        for user in ("nobody", "web:none", "short", ":", "-1", "4294967295", "1:", ":0", "a\nb"):
            with self.subTest(user):
                self.assertEqual(self.agent.run(["true"], user=user).fail[P.T_CODE], P.BAD_USER)

    def test_the_images_user_is_the_default_unless_it_is_root(self):
        with open(os.path.join(self.root, "etc/passwd"), "a") as f:
            f.write("app:x:77:77::/:/bin/sh\ntoor:x:0:0::/root:/bin/sh\n")
        for user, want in (("app", b"77\n"), ("root", b"1000\n"), ("0:0", b"1000\n"),
                           ("toor", b"1000\n"), ("", b"1000\n"), ("88:99", b"88\n")):
            self.agent.greet(user=user)
            self.assertEqual(self.agent.run(["id", "-u"]).stdout, want, user)
        self.agent.greet(user="unknown")
        self.assertEqual(self.agent.run(["id", "-u"]).fail[P.T_CODE], P.BAD_USER)

    def test_a_user_that_holds_id_1000_is_taken(self):
        with open(os.path.join(self.root, "etc/passwd"), "w") as f:
            f.write("root:x:0:0::/root:/bin/sh\nnode:x:1000:1001::/home/node:/bin/sh")
        self.agent.greet()
        got = self.agent.run("id -u; id -g; echo $USER; pwd")
        self.assertEqual(got.stdout, b"1000\n1001\nnode\n/home/node\n")

    def test_a_passwd_that_is_no_file_does_not_block(self):
        path = os.path.join(self.root, "etc/passwd")
        os.unlink(path)
        os.mkfifo(path)
        self.agent.greet()
        show = ["grep", "^Uid", "/proc/self/status"]
        self.assertEqual(self.agent.run(show).stdout.split()[1], b"1000")
        self.assertEqual(self.agent.run(["true"], user="root").fail[P.T_CODE], P.BAD_USER)
        self.assertEqual(self.agent.run(show, user="0").stdout.split()[1], b"0")

    def test_environment_is_the_images_then_the_users_then_the_requests(self):
        env = dict(l.split("=", 1) for l in
                   self.agent.run(["env"], env=["A=1", "IMAGE=mine"]).stdout.decode().splitlines())
        self.assertEqual(env.pop("PATH"), "/usr/sbin:/usr/bin:/sbin:/bin")
        env.pop("PWD", None)
        self.assertEqual(env, {"HOME": "/home/user", "USER": "user", "LOGNAME": "user", "A": "1",
                               "IMAGE": "mine"})
        got = self.agent.run(["env"], env=["HOME=/x", "USER=y", "SBX_AGENT_TOKEN=z"]).stdout
        self.assertIn(b"HOME=/x\n", got)
        self.assertIn(b"USER=y\n", got)
        self.assertNotIn(b"TOKEN", got)
        self.assertEqual(got.count(b"HOME="), 1)

    def test_the_secret_cannot_be_read(self):
        for path in ("environ", "mem", "fd/0"):
            got = self.agent.run(["cat", "/proc/1/" + path], user="root")
            self.assertNotEqual(got.exit[P.T_EXIT_CODE], 0)
            self.assertEqual(got.stdout, b"")
        with open("/proc/%d/environ" % self.pid, "rb") as f:
            text = f.read()
        self.assertNotIn(self.token.hex().encode(), text)
        self.assertNotIn(b"SBX_AGENT_TOKEN", text)
        self.assertIn(b"IMAGE=set", text)

    def test_no_command_has_rights_or_leftovers(self):
        for user in ("", "root"):
            got = self.agent.run("cat /proc/self/status; ls /proc/self/fd | wc -l; "
                                 "cat /proc/self/oom_score_adj; cut -d' ' -f5,6 /proc/$$/stat; echo $$",
                                 user=user).stdout.decode()
            for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "SigBlk", "SigIgn"):
                self.assertRegex(got, name + r":\s+0000000000000000")
            self.assertRegex(got, r"NoNewPrivs:\s+1")
            fds, oom, group, pid = got.split("\n")[-5:-1]
            self.assertEqual((fds.strip(), oom), ("4", "1000"))
            self.assertEqual(group, "%s %s" % (pid, pid))
        self.assertNotEqual(self.agent.run("kill -9 1; echo x >/etc/passwd").exit[P.T_EXIT_CODE], 0)
        self.assertNotEqual(self.agent.run(["chown", "1:1", "/etc"], user="root").exit[P.T_EXIT_CODE], 0)


class OutputTest(AgentCase):
    def test_output_exceeds_the_window_by_a_chunk_at_most(self):
        a = self.agent
        req = a.start("head -c 300000 /dev/zero; echo end >&2", window=1000)
        c = a.commands[req]
        for granted in (1000, 71000, 71001):
            a.until(lambda: c.count[1] >= granted, what="%d bytes" % granted)
            time.sleep(0.1)
            self.assertTrue(granted <= c.count[1] < granted + P.CHUNK_BYTES, c.count[1])
            self.assertFalse(c.over)
            a.send(P.WINDOW, req, P.field(P.T_WINDOW, {1000: 70000}.get(granted, 1)))
        a.send(P.WINDOW, req, P.field(P.T_WINDOW, P.MUCH))
        a.wait(req)
        self.assertEqual((c.count[1], c.stderr), (300000, b"end\n"))

    def test_exit_waits_for_output_that_has_no_window(self):
        a = self.agent
        req = a.start("echo four", window=0)
        time.sleep(0.4)
        self.assertFalse(a.commands[req].over)
        a.send(P.WINDOW, req, P.field(P.T_WINDOW, 5))
        self.assertEqual(a.wait(req).stdout, b"four\n")

    def test_output_beyond_the_maximum_is_dropped_and_told(self):
        got = self.agent.run("head -c 200000 /dev/zero; head -c 200000 /dev/zero >&2; exit 4",
                             max_output=250000)
        self.assertEqual((got.count[1], got.count[2]), (200000, 50000))
        self.assertEqual((got.exit[P.T_FLAGS], got.exit[P.T_EXIT_CODE]), (P.TRUNCATED, 4))
        got = self.agent.run("printf 12345", max_output=5)
        self.assertEqual((got.stdout, got.exit[P.T_FLAGS]), (b"12345", 0))

    def test_a_detached_command_is_journalled_only(self):
        got = self.agent.run("echo quiet", flags=P.EXEC_DETACHED, window=0, exec_id="det")
        self.assertEqual((got.stdout, got.exit[P.T_EXIT_CODE]), (b"", 0))
        self.agent.until(lambda: b"quiet" in self.agent.lines(execId="det"), what="the log")

    def test_detach_lets_a_waiting_command_go_on(self):
        req = self.agent.start("head -c 500000 /dev/zero; echo done >/tmp/done", window=10,
                               flags=P.EXEC_PACED)
        self.agent.until(lambda: self.agent.commands[req].count[1] >= 10, what="output")
        self.agent.send(P.DETACH, req)
        self.assertLess(self.agent.wait(req).count[1], 10 + P.CHUNK_BYTES)
        self.assertEqual(self.read("tmp/done"), "done\n")

    def test_a_grandchild_that_holds_the_pipe_does_not_hold_the_exit(self):
        begin = time.monotonic()
        got = self.agent.run("(sleep 1; echo late; echo late >/tmp/late) & echo early")
        self.assertLess(time.monotonic() - begin, 0.9)
        self.assertEqual(got.stdout, b"early\n")
        wait_for(lambda: os.path.exists(os.path.join(self.root, "tmp/late")), what="the grandchild")
        self.agent.until(lambda: b"late" in self.agent.lines(), what="the log")
        self.until_quiet()

    def test_a_grandchild_that_never_stops_writing_does_not_hold_the_exit(self):
        got = self.agent.run("yes & echo early", wait=10)
        self.assertIn(b"early\n", got.stdout)
        self.agent.send(P.KILL, self.agent.req)
        self.until_quiet()

    def test_output_written_just_before_the_exit_is_complete(self):
        for _ in range(30):
            got = self.agent.run("head -c 150000 /dev/zero; echo z >&2")
            self.assertEqual((got.count[1], got.stderr), (150000, b"z\n"))

    def test_much_output_moves_and_leaves_no_more_than_is_kept(self):
        a = self.agent
        a.keep_output = False
        begin = time.monotonic()
        size = 256 << 20
        got = a.run(["head", "-c", str(size), "/dev/zero"], wait=60, flags=P.EXEC_PACED)
        rate = size / (time.monotonic() - begin) / 1e6
        self.assertEqual(got.count[1], size)
        wait_for(lambda: self.rss_kb() < 2048 + P.KEEP_BYTES // 1024, 5, "memory to be given back")
        print("%.0f MB/s with a Python reader" % rate)

    def test_an_owner_that_does_not_read_stops_the_command_not_the_agent(self):
        a = self.agent
        a.reading.clear()
        req = a.start(["yes"])
        for _ in range(500):
            a.send(P.PING, 0, b"p" * 64)
        time.sleep(0.3)
        self.assertLess(self.rss_kb(), 12 * 1024 + P.KEEP_BYTES // 1024)
        a.reading.set()
        a.until(lambda: len(a.pongs) == 500, 20, "all PONGs")
        a.send(P.KILL, req)
        self.assertEqual(a.wait(req, 30).exit[P.T_SIGNAL], 9)


class StdinTest(AgentCase):
    def test_stdin_goes_to_the_command_and_closes(self):
        a = self.agent
        req = a.start(["cat"], flags=P.EXEC_STDIN)
        a.send(P.STDIN, req, b"one ")
        a.send(P.STDIN, req, b"two")
        a.send(P.STDIN, req)
        self.assertEqual(a.wait(req).stdout, b"one two")
        self.assertEqual((a.commands[req].taken, a.commands[req].dropped), (7, 0))

    def test_a_mebibyte_is_held_and_what_exceeds_it_is_told(self):
        a = self.agent
        req = a.start("sleep 1; wc -c", flags=P.EXEC_STDIN)
        c = a.commands[req]
        a.until(lambda: c.started, what="STARTED")
        for _ in range(3):
            a.send(P.STDIN, req, b"x" * (512 * 1024))
        a.send(P.STDIN, req)
        a.send(P.PING, 0, b"not blocked")
        a.until(lambda: a.pongs, what="PONG")
        self.assertFalse(c.over)
        a.until(lambda: c.dropped, what="TAKEN")
        a.wait(req)
        self.assertEqual(int(c.stdout) + c.dropped, 3 * 512 * 1024)
        self.assertGreaterEqual(int(c.stdout), 1024 * 1024)

    def test_taken_lets_an_owner_write_any_amount(self):
        a = self.agent
        req = a.start("md5sum", flags=P.EXEC_STDIN)
        c = a.commands[req]
        sent = 0
        while sent < 8 << 20:
            a.until(lambda: sent - c.taken <= 512 * 1024, what="TAKEN")
            a.send(P.STDIN, req, b"q" * (256 * 1024))
            sent += 256 * 1024
        a.send(P.STDIN, req)
        import hashlib
        self.assertEqual(a.wait(req).stdout.split()[0].decode(),
                         hashlib.md5(b"q" * sent).hexdigest())
        self.assertEqual(c.dropped, 0)

    def test_a_command_that_does_not_read_is_no_trouble(self):
        a = self.agent
        req = a.start("exec <&-; echo closed; sleep 0.3", flags=P.EXEC_STDIN)
        a.until(lambda: a.commands[req].stdout == b"closed\n", what="output")
        for _ in range(5):
            a.send(P.STDIN, req, b"x" * 100000)
        self.assertEqual(a.wait(req).exit[P.T_EXIT_CODE], 0)
        a.send(P.STDIN, req, b"after the end")
        self.assertEqual(a.run(["echo", "ok"]).stdout, b"ok\n")


HARD_TO_KILL = ("trap '' TERM INT HUP; setsid sh -c 'sleep 1000 & sleep 1001' & "
                "(setsid setsid sleep 1002 &) ; (sleep 1003 & exec sleep 1004) & "
                "echo up; sleep 1005")


class KillTest(AgentCase):
    def hard(self, **kw):
        req = self.agent.start(HARD_TO_KILL, **kw)
        wait_for(lambda: self.others() >= 7, what="the tree")
        return req

    def test_a_timeout_kills_the_whole_tree(self):
        req = self.agent.start(HARD_TO_KILL, timeout_ms=500)
        got = self.agent.wait(req)
        self.assertEqual((got.exit[P.T_EXIT_CODE], got.exit[P.T_SIGNAL], got.exit[P.T_FLAGS]),
                         (137, 9, P.TIMED_OUT))
        self.assertEqual(got.stdout, b"up\n")
        self.assertGreaterEqual(got.exit[P.T_DURATION_MS], 499)
        self.until_quiet()

    def test_kill_ends_double_forks_and_sessions(self):
        req = self.hard()
        self.agent.send(P.KILL, req)
        got = self.agent.wait(req)
        self.assertEqual((got.exit[P.T_EXIT_CODE], got.exit[P.T_SIGNAL], got.exit[P.T_FLAGS]),
                         (137, 9, 0))
        self.until_quiet()

    def test_kill_after_the_exit_ends_what_was_left(self):
        got = self.agent.run("(setsid sleep 1000 &) ; sleep 1001 & exit 0")
        self.assertEqual(got.exit[P.T_EXIT_CODE], 0)
        self.assertEqual(self.others(), 3)
        self.agent.send(P.KILL, self.agent.req)
        self.until_quiet()

    def test_other_commands_are_not_hit(self):
        other = self.agent.start(["sleep", "1000"])
        req = self.hard()
        self.agent.send(P.KILL, req)
        self.agent.wait(req)
        wait_for(lambda: self.others() == 2, what="only the other one")
        self.assertFalse(self.agent.commands[other].over)

    def test_a_kill_right_after_the_exec_is_an_exit(self):
        for _ in range(30):
            req = self.agent.start(["sleep", "1000"])
            self.agent.send(P.KILL, req)
            got = self.agent.wait(req)
            self.assertIsNone(got.fail)
            self.assertEqual(got.exit[P.T_SIGNAL], 9)
            self.assertEqual(got.frames, [P.STARTED, P.EXIT])
        self.until_quiet()

    def test_a_signal_reaches_the_process_or_the_tree(self):
        a = self.agent
        script = "trap 'echo got; exit 7' USR1; sh -c 'trap \"echo child; exit\" USR1; " \
                 "echo up; while :; do sleep 0.05; done' & while :; do sleep 0.05; done"
        for flags, want in ((0, {b"up", b"got"}), (P.SIG_TREE, {b"up", b"got", b"child"})):
            req = a.start(script)
            a.until(lambda: b"up" in a.commands[req].stdout, what="the child")
            a.send(P.SIGNAL, req, P.field(P.T_SIGNAL, 10) + P.field(P.T_FLAGS, flags))
            got = a.wait(req)
            self.assertEqual(got.exit[P.T_EXIT_CODE], 7)
            self.assertEqual(set(got.stdout.split()), want)
            a.send(P.KILL, req)
            self.until_quiet()
        for number in (0, 65, 1 << 40):
            a.send(P.SIGNAL, req, P.field(P.T_SIGNAL, number))
        self.assertEqual(a.run(["echo", "ok"]).stdout, b"ok\n")

    def test_sigterm_ends_everything_with_0(self):
        self.hard()
        pids = list(descendants(self.pid))
        self.signal_agent(signal.SIGTERM)
        self.assertEqual(self.process.wait(10), 0)
        self.assertEqual([p for p in pids if proc_stat(p)], [])

    def test_the_dead_mans_switch_ends_everything(self):
        self.agent.greet(lifetime_s=1)
        self.hard()
        for _ in range(15):
            self.agent.send(P.PING, 0)
            time.sleep(0.1)
        self.assertTrue(self.alive())
        begin = time.monotonic()
        self.assertEqual(self.process.wait(10), 0)
        self.assertGreater(time.monotonic() - begin, 0.7)

    def test_a_killed_supervisor_costs_its_command_and_nothing_else(self):
        other = self.agent.start(["sleep", "1000"])
        self.agent.until(lambda: self.agent.commands[other].started, what="STARTED")
        req = self.hard()
        victim = [p for p in descendants(self.pid)
                  if (proc_stat(p) or (0, 0))[1] == self.pid and len(descendants(p)) > 2]
        self.assertEqual(len(victim), 1)
        os.kill(victim[0], signal.SIGKILL)
        got = self.agent.wait(req)
        self.assertEqual((got.exit[P.T_EXIT_CODE], got.exit[P.T_SIGNAL]), (137, 9))
        wait_for(lambda: self.others() == 2, what="only the other one")
        self.assertFalse(self.agent.commands[other].over)

    def test_a_killed_spare_is_replaced(self):
        for which in (0, 1):
            wait_for(lambda: self.others() == 0, what="the spare")
            supervisor = [p for p in descendants(self.pid)
                          if (proc_stat(p) or (0, 0))[1] == self.pid][0]
            child = list(descendants(supervisor))[0]
            os.kill((supervisor, child)[which], signal.SIGKILL)
            wait_for(lambda: self.others() == 0 and not proc_stat((supervisor, child)[which]),
                     what="a new spare")
            self.assertEqual(self.agent.run(["echo", "ok"]).stdout, b"ok\n")

    def test_orphans_are_reaped(self):
        for _ in range(20):
            self.agent.run("for i in 1 2 3 4 5; do (sleep 0.0$i &) ; done")
        self.until_quiet()
        self.assertNotIn("Z", descendants(self.pid).values())


class LogTest(AgentCase):
    def test_lines_are_numbered_with_their_origin(self):
        a = self.agent
        now = time.time() * 1000
        a.run("echo one; echo two; printf part", exec_id="first")
        a.run("echo err >&2; echo", exec_id="second", flags=P.EXEC_MAIN)
        a.send(P.SYSLOG, 0, b"system says")
        a.until(lambda: len(a.log) == 6, what="six entries")
        self.assertEqual([e["seq"] for e in a.log], [1, 2, 3, 4, 5, 6])
        got = {(e["data"], e["stream"], e["source"], e["execId"]) for e in a.log}
        self.assertEqual(got, {(b"one", 0, 1, "first"), (b"two", 0, 1, "first"),
                               (b"part", 0, 1, "first"), (b"err", 1, 0, "second"),
                               (b"", 0, 0, "second"), (b"system says", 2, 3, "")})
        for e in a.log:
            self.assertLess(abs(e["ts"] - now), 10000)

    def test_a_line_comes_when_it_is_complete(self):
        a = self.agent
        req = a.start("printf half; read x; echo ' whole'; read y", flags=P.EXEC_STDIN)
        a.until(lambda: a.commands[req].stdout == b"half", what="output")
        time.sleep(0.1)
        self.assertEqual(a.log, [])
        a.send(P.STDIN, req, b"\n")
        a.until(lambda: a.lines() == [b"half whole"], what="the line")

    def test_long_lines_are_split(self):
        a = self.agent
        a.run("head -c 40000 /dev/zero; echo; head -c 16384 /dev/zero; echo; echo x")
        a.until(lambda: a.lines() and a.lines()[-1] == b"x", what="the last line")
        self.assertEqual([len(l) for l in a.lines()], [16384, 16384, 40000 - 32768, 16384, 1])

    def test_what_is_not_acknowledged_is_limited_and_resumed(self):
        a = self.agent
        a.auto_ack = False
        a.run("i=0; while [ $i -lt 4000 ]; do echo $i-%s; i=$((i+1)); done" % ("x" * 200))
        size = sum(len(e["data"]) + 23 + len(e["execId"]) for e in a.log)
        time.sleep(0.1)
        self.assertLessEqual(size, 256 * 1024)
        self.assertGreater(size, 200 * 1024)
        seen = a.log[-1]["seq"]
        a.send(P.LOG_ACK, 0, P.field(P.T_SEQ, seen - 10))
        a.until(lambda: a.log[-1]["seq"] > seen, what="more")
        a.auto_ack = True
        before = len(a.log)
        got = dict(a.greet(log_from=seen - 500))
        self.assertEqual((got[P.T_NEXT_SEQ], got[P.T_OLDEST_SEQ]), (4001, seen - 10 - 999))
        a.until(lambda: a.log[-1]["seq"] == 4000, what="the last entry")
        self.assertEqual([e["seq"] for e in a.log[-(4001 - seen + 500):]],
                         list(range(seen - 500, 4001)))
        self.assertLessEqual(before, len(a.log) - (4001 - seen + 500))

    def test_acknowledged_entries_are_kept_for_a_new_owner(self):
        a = self.agent
        a.run("i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done")
        a.until(lambda: a.log and a.log[-1]["seq"] == 3000, what="the log")
        a.send(P.PING, 0)
        a.until(lambda: a.pongs, what="PONG")
        a.log = []
        got = dict(a.greet(log_from=0))
        self.assertEqual((got[P.T_NEXT_SEQ], got[P.T_OLDEST_SEQ]), (3001, 2001))
        a.until(lambda: a.log and a.log[-1]["seq"] == 3000, what="the kept entries")
        self.assertEqual([e["seq"] for e in a.log], list(range(2001, 3001)))

    def test_an_overflow_drops_the_oldest_and_shows_in_the_numbers(self):
        a = self.agent
        a.auto_ack = False
        got = a.run("yes 0123456789abcdef0123456789abcdef | head -n 400000", flags=P.EXEC_DETACHED,
                    wait=60)
        self.assertEqual(got.exit[P.T_EXIT_CODE], 0)
        self.assertLess(self.rss_kb(), 14 * 1024 + P.KEEP_BYTES // 1024)
        a.auto_ack = True
        before = len(a.log)
        got = dict(a.greet(log_from=a.log[-1]["seq"] + 1))
        self.assertEqual(got[P.T_NEXT_SEQ], 400001)
        kept = 400001 - got[P.T_OLDEST_SEQ]
        self.assertTrue(7 << 20 < kept * (33 + 23 + 4) <= 9 << 20, kept)
        a.until(lambda: a.log[-1]["seq"] == 400000, 30, "the last entry")
        seqs = [e["seq"] for e in a.log[before:]]
        self.assertEqual(seqs, list(range(got[P.T_OLDEST_SEQ], 400001)))

    def test_the_owner_may_hand_over_the_next_number(self):
        a = self.agent
        self.assertEqual(dict(a.greet(log_from=5000))[P.T_NEXT_SEQ], 5000)
        a.run(["echo", "x"])
        a.until(lambda: a.log, what="the entry")
        self.assertEqual(a.log[0]["seq"], 5000)


class OwnerTest(AgentCase):
    def test_a_new_owner_attaches_and_loses_nothing(self):
        a = self.agent
        req = a.start("echo first; read x; echo $x; head -c 200000 /dev/zero; exit 6",
                      exec_id="job", flags=P.EXEC_STDIN)
        a.until(lambda: a.commands[req].stdout, what="output")
        ids = [v for t, v in a.greet() if t == P.T_EXEC_ID]
        self.assertEqual(ids, [b"job"])
        a.send(P.STDIN, req, b"to nobody\n")
        a.send(P.ATTACH, 40, P.field(P.T_EXEC_ID, "job") + P.field(P.T_WINDOW, P.MUCH))
        a.until(lambda: a.commands[40].started, what="STARTED")
        a.send(P.STDIN, 40, b"hello\n")
        got = a.wait(40)
        self.assertEqual((got.stdout[:6], got.count[1], got.exit[P.T_EXIT_CODE]),
                         (b"first\n", 200012, 6))
        self.assertIn(b"first\nhello\n", got.stdout)

    def test_a_command_that_ended_unattended_can_be_attached(self):
        a = self.agent
        req = a.start("sleep 0.1; echo over; exit 5", exec_id="gone")
        a.until(lambda: a.commands[req].started, what="STARTED")
        a.greet()
        a.until(lambda: a.lines() == [b"over"], what="its line")
        self.until_quiet()
        got = a.greet()
        self.assertEqual([v for t, v in got if t == P.T_EXEC_ID], [])
        got = a.wait(a.attach("gone"))
        self.assertEqual((got.stdout, got.exit[P.T_EXIT_CODE]), (b"over\n", 5))

    def test_attach_to_what_is_not_there_fails(self):
        a = self.agent
        a.send(P.ATTACH, 7, P.field(P.T_EXEC_ID, "none"))
        self.assertEqual(a.wait(7).fail[P.T_CODE], P.NOT_FOUND)
        a.send(P.ATTACH, 8)
        self.assertEqual(a.wait(8).fail[P.T_CODE], P.NOT_FOUND)

    def test_numbers_of_an_old_owner_mean_nothing_to_a_new_one(self):
        a = self.agent
        a.start(["sleep", "1000"], exec_id="old", req=1)
        a.until(lambda: a.commands[1].started, what="STARTED")
        a.greet()
        a.send(P.KILL, 1)
        a.start("echo new", exec_id="new", req=1)
        self.assertEqual(a.wait(1).stdout, b"new\n")
        self.assertEqual([v for t, v in a.greet() if t == P.T_EXEC_ID], [b"old"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
