#!/usr/bin/python3
"""Commands on a terminal."""
import os
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import agent_proto as P  # noqa: E402
from agent_harness import AgentCase, wait_for  # noqa: E402

QUICK = True


class TerminalTest(AgentCase):
    def term(self, argv, cols=0, rows=0, flags=0, wait="", **kw):
        """A command on a terminal, once it has said `wait`."""
        a = self.agent
        a.req += 1
        req = a.req
        if isinstance(argv, str):
            argv = ["sh", "-c", argv]
        body = P.field(P.T_EXEC_ID, "t%d" % req)
        body += b"".join(P.field(P.T_ARG, x) for x in argv)
        body += b"".join(P.field(P.T_ENV, x) for x in kw.get("env", ()))
        body += P.field(P.T_USER, kw.get("user", "")) + P.field(P.T_WINDOW, P.MUCH)
        body += P.field(P.T_COLS, cols) + P.field(P.T_ROWS, rows)
        body += P.field(P.T_FLAGS, P.EXEC_PTY | flags)
        a.send(P.EXEC, req, body)
        if wait:
            self.says(req, wait)
        return req

    def says(self, req, text):
        c = self.agent.commands[req]
        self.agent.until(lambda: text.encode() in c.stdout or c.over, what=repr(text))
        self.assertIn(text.encode(), c.stdout)

    def type(self, req, text):
        self.agent.send(P.STDIN, req, text if isinstance(text, bytes) else text.encode())

    def run_on(self, argv, **kw):
        return self.agent.wait(self.term(argv, **kw))

    def test_all_three_descriptors_are_the_users_terminal(self):
        got = self.run_on("tty; test -t 0 && test -t 1 && test -t 2 && echo yes; "
                          "stat -c '%U %F' $(tty); echo controlling >/dev/tty; echo err >&2")
        lines = got.stdout.decode().split("\r\n")
        self.assertRegex(lines[0], r"^/dev/pts/[0-9]+$")
        self.assertEqual(lines[1:], ["yes", "user character special file", "controlling", "err", ""])
        self.assertEqual({s for _, s, _ in got.chunks}, {1})
        self.assertEqual(got.exit[P.T_EXIT_CODE], 0)
        self.assertEqual(self.run_on("stat -c %U $(tty)", user="root").stdout, b"root\r\n")

    def test_its_size_is_what_was_asked_for_or_80_by_24(self):
        self.assertEqual(self.run_on("stty size").stdout, b"24 80\r\n")
        self.assertEqual(self.run_on("stty size", cols=132, rows=50).stdout, b"50 132\r\n")
        self.assertEqual(self.run_on("stty size", cols=1000, rows=1000).stdout, b"1000 1000\r\n")
        for cols, rows in ((1001, 1), (1, 1001), (1 << 40, 5)):
            self.assertEqual(self.run_on("true", cols=cols, rows=rows).fail[P.T_CODE], P.BAD_REQUEST)

    def test_a_resize_reaches_the_foreground(self):
        req = self.term("trap 'stty size; exit' WINCH; echo up; while :; do sleep 0.02; done",
                        wait="up")
        for cols, rows in ((0, 5), (5, 0), (1001, 5), (1 << 33, 5)):
            self.agent.send(P.RESIZE, req, P.field(P.T_COLS, cols) + P.field(P.T_ROWS, rows))
        self.agent.send(P.RESIZE, req, P.field(P.T_COLS, 91) + P.field(P.T_ROWS, 31))
        self.assertEqual(self.agent.wait(req).stdout, b"up\r\n31 91\r\n")
        self.agent.send(P.RESIZE, req, P.field(P.T_COLS, 91) + P.field(P.T_ROWS, 31))
        self.agent.send(P.RESIZE, 999, P.field(P.T_COLS, 91) + P.field(P.T_ROWS, 31))
        self.assertEqual(self.agent.run(["echo", "ok"]).stdout, b"ok\n")

    def test_term_is_set_unless_given(self):
        self.assertEqual(self.run_on("echo $TERM").stdout, b"xterm-256color\r\n")
        self.assertEqual(self.run_on("echo $TERM", env=["TERM=dumb"]).stdout, b"dumb\r\n")
        self.assertEqual(self.agent.run("echo $TERM").stdout, b"\n")

    def test_what_is_typed_is_echoed_and_read(self):
        req = self.term("read x; echo got $x", wait="")
        self.agent.until(lambda: self.agent.commands[req].started, what="STARTED")
        self.type(req, "hello\n")
        self.assertEqual(self.agent.wait(req).stdout, b"hello\r\ngot hello\r\n")
        self.assertEqual((self.agent.commands[req].taken, self.agent.commands[req].dropped), (6, 0))

    def test_an_interrupt_is_typed(self):
        req = self.term("trap 'echo int; exit 9' INT; echo up; while :; do sleep 0.02; done", wait="up")
        self.type(req, b"\x03")
        got = self.agent.wait(req)
        self.assertEqual(got.exit[P.T_EXIT_CODE], 9)
        self.assertIn(b"int\r\n", got.stdout)
        req = self.term("echo up; sleep 1000", wait="up")
        self.type(req, b"\x03")
        self.assertEqual(self.agent.wait(req).exit[P.T_SIGNAL], 2)

    def test_the_end_of_file_is_typed(self):
        req = self.term("cat; echo end")
        self.type(req, "one\n")
        self.agent.send(P.STDIN, req)
        self.assertIn(b"one\r\none\r\nend\r\n", self.agent.wait(req).stdout.replace(b"^D\b\b", b""))

    def test_the_end_of_file_behind_half_a_line(self):
        req = self.term("stty -echo; echo up; cat; echo end", wait="up")
        self.type(req, "half")
        self.agent.send(P.STDIN, req)
        self.assertEqual(self.agent.wait(req).stdout, b"up\r\nhalfend\r\n")

    def test_more_may_be_typed_behind_an_end_of_file(self):
        req = self.term("stty -echo; echo up; cat; echo between; cat; echo end", wait="up")
        self.agent.send(P.STDIN, req)
        self.says(req, "between")
        self.type(req, "more\n")
        self.agent.send(P.STDIN, req)
        self.assertEqual(self.agent.wait(req).stdout, b"up\r\nbetween\r\nmore\r\nend\r\n")

    def test_raw_mode_passes_every_byte(self):
        req = self.term("stty raw -echo; echo up; dd bs=1 count=256 2>/dev/null | od -An -tx1 -v", wait="up")
        self.type(req, bytes(range(256)))
        got = self.agent.wait(req).stdout.split(b"up", 1)[1]
        self.assertEqual(bytes.fromhex(got.decode()), bytes(range(256)))

    def test_a_long_paste_arrives(self):
        req = self.term("stty raw -echo; echo up; head -c 300000 | md5sum", wait="up")
        text = os.urandom(300000)
        for at in range(0, len(text), 30000):
            self.type(req, text[at:at + 30000])
        import hashlib
        self.says(req, hashlib.md5(text).hexdigest())
        self.agent.wait(req)
        self.assertEqual(self.agent.commands[req].dropped, 0)

    def test_characters_are_never_divided(self):
        text = "ä€𝄞-" * 5000
        with open(os.path.join(self.root, "tmp/text"), "w") as f:
            f.write(text)
        got = self.run_on("stty -opost; cat /tmp/text")
        self.assertEqual(got.stdout.decode(), text)
        for _, _, data in got.chunks:
            data.decode()

    def test_it_hangs_up_when_its_main_process_ends(self):
        req = self.term("sh -c 'trap \"echo hup >/tmp/hup; exit\" HUP; echo up; "
                        "while :; do sleep 0.02; done' & read x", wait="up")
        self.type(req, "\n")
        self.agent.wait(req)
        wait_for(lambda: os.path.exists(os.path.join(self.root, "tmp/hup")), what="SIGHUP")
        self.until_quiet()

    def test_what_keeps_it_open_does_not_hold_the_exit(self):
        req = self.term("(trap '' HUP; echo up; exec setsid sleep 1000) & read x; exit 4", wait="up")
        begin = time.monotonic()
        self.type(req, "\n")
        self.assertEqual(self.agent.wait(req).exit[P.T_EXIT_CODE], 4)
        self.assertLess(time.monotonic() - begin, 2)
        self.assertEqual(self.others(), 2)
        self.agent.send(P.KILL, req)
        self.until_quiet()

    def test_a_kill_takes_the_whole_tree(self):
        req = self.term("trap '' HUP; sleep 1000 & setsid sleep 1001 & echo up; sleep 1002", wait="up")
        wait_for(lambda: self.others() >= 4, what="the tree")
        self.agent.send(P.KILL, req)
        self.assertEqual(self.agent.wait(req).exit[P.T_SIGNAL], 9)
        self.until_quiet()

    def test_it_is_kept_but_not_journalled(self):
        req = self.term("echo seen; exit 3", wait="seen")
        self.agent.wait(req)
        self.assertEqual(self.agent.wait(self.agent.attach("t%d" % req)).stdout, b"seen\r\n")
        self.agent.run("echo line")
        self.agent.until(lambda: self.agent.log, what="the log")
        self.assertEqual(self.agent.lines(), [b"line"])
        entry, = self.agent.list(exec_id="t%d" % req)
        self.assertEqual(entry[P.T_FLAGS], P.EXEC_PTY)

    def test_several_viewers_type_and_see(self):
        a = self.agent
        first = self.term("stty -echo; echo up; while read x; do echo \"<$x>\"; done", wait="up")
        second = a.attach("t%d" % first)
        self.says(second, "up")
        self.type(first, "one\n")
        self.says(second, "<one>")
        self.type(second, "two\n")
        self.says(first, "<two>")
        a.send(P.STDIN, second)
        a.wait(first), a.wait(second)
        self.assertEqual(a.commands[first].chunks, a.commands[second].chunks)

    def test_a_shell_with_job_control(self):
        req = self.term(["sh", "-i"], wait="$ ")
        self.type(req, "sleep 1000\n")
        wait_for(lambda: self.others() == 3, what="the job")
        self.type(req, b"\x1a")
        self.says(req, "Stopped")
        self.type(req, "fg\n")
        self.says(req, "fg\r\nsleep 1000")
        # The shell says so before it gives the terminal to the job: the first may be its own.
        wait_for(lambda: self.type(req, b"\x03") or self.others() == 2, what="the end of the job")
        self.type(req, "exit 5\n")
        self.assertEqual(self.agent.wait(req).exit[P.T_EXIT_CODE], 5)

    def until_shell_alone(self):
        wait_for(lambda: self.others() == 2, what="the end of the job")

    def test_terminals_leave_nothing_behind(self):
        before = len(os.listdir("/proc/%d/fd" % self.pid))
        for _ in range(30):
            self.run_on("echo x")
        self.run_on(["true"], user="nobody")
        self.until_quiet()
        wait_for(lambda: len(os.listdir("/proc/%d/fd" % self.pid)) == before, what="the descriptors")

    def test_what_was_written_last_is_not_lost_to_a_hang_up_that_is_told_early(self):
        for _ in range(600):
            got = self.run_on("tty; : $(tty); echo one >/dev/tty; echo two >&2")
            self.assertTrue(got.stdout.endswith(b"\r\none\r\ntwo\r\n"), got.stdout)

    def test_the_echo_of_a_key_is_quick(self):
        req = self.term("stty raw; echo up; exec cat >/dev/null", wait="up")
        c = self.agent.commands[req]
        times = []
        for i in range(200):
            size = c.count[1]
            begin = time.monotonic()
            self.type(req, "k")
            self.agent.until(lambda: c.count[1] > size, what="the echo")
            times.append(time.monotonic() - begin)
        times.sort()
        print("key echo: p50 %.2f ms, p99 %.2f ms" % (times[100] * 1000, times[198] * 1000))
        self.assertLess(times[100], 0.02)


class NoTerminalTest(AgentCase):
    def prepare(self):
        os.unlink(os.path.join(self.root, "dev/ptmx"))

    def test_without_the_device_the_command_fails_and_says_why(self):
        got = self.agent.run(["true"], flags=P.EXEC_PTY)
        self.assertEqual(got.fail[P.T_CODE], P.SPAWN)
        self.assertIn(b"terminal", got.fail[P.T_MESSAGE])
        self.assertEqual(self.agent.run(["echo", "ok"]).stdout, b"ok\n")
        self.until_quiet()


if __name__ == "__main__":
    unittest.main(verbosity=2)
