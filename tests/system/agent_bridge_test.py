#!/usr/bin/python3
"""Other workers' way to the agent: its socket, and `sbx-agent connect`."""
import os
import secrets
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import agent_proto as P  # noqa: E402
from agent_harness import BINARY, AgentCase, wait_for  # noqa: E402

QUICK = True

# Connects from inside again and again, four at once.
FLOOD = ("mkfifo -m 666 /tmp/quiet; sleep 1000 >/tmp/quiet & "
         "for i in 1 2 3 4; do while :; do /.sbx/sbx-agent connect <%s; echo x; done & done; wait")


class BridgeCase(AgentCase):
    def setUp(self):
        super().setUp()
        self.bridges = []
        self.addCleanup(lambda: [self.close(b) for b in list(self.bridges)])

    def inside(self, *argv, **kw):
        return subprocess.Popen(["nsenter", "-t", str(self.pid), "-n", *argv], **kw)

    def bridge(self, token=None, greet=True):
        process = self.inside(BINARY, "connect", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        b = P.Agent(process.stdin.fileno(), process.stdout.fileno(), token or self.token)
        b.process = process
        self.bridges.append(b)
        self.epoch = getattr(self, "epoch", 6) + 1  # for names of commands that differ
        if greet:
            b.greet(epoch=self.epoch)
        return b

    def close(self, b):
        self.bridges.remove(b)
        b.process.stdin.close()
        b.process.wait(10)
        b.thread.join(10)
        b.process.stdout.close()



class BridgeTest(BridgeCase):
    def test_it_runs_commands_of_its_own(self):
        b = self.bridge()
        self.assertEqual(dict(b.welcome)[P.T_VERSION], 3)
        self.assertEqual(dict(b.welcome)[P.T_EPOCH], 7)
        got = b.run("echo out; echo err >&2; exit 3")
        self.assertEqual((got.stdout, got.stderr, got.exit[P.T_EXIT_CODE]), (b"out\n", b"err\n", 3))
        self.assertEqual(b.run("id -u").stdout, b"1000\n")

    def test_it_sees_and_feeds_the_owners_commands(self):
        a, b = self.agent, self.bridge()
        req = a.start("echo first; read x; echo got $x; exit 5", exec_id="shared",
                      flags=P.EXEC_STDIN)
        a.until(lambda: a.commands[req].stdout, what="output")
        self.assertEqual([e[P.T_EXEC_ID] for e in b.list()], [b"shared"])
        on = b.attach("shared")
        b.until(lambda: b.commands[on].stdout, what="output")
        b.send(P.STDIN, on, b"bridge\n")
        self.assertEqual(a.wait(req).stdout, b"first\ngot bridge\n")
        self.assertEqual(b.wait(on).chunks, a.commands[req].chunks)
        self.assertEqual(b.commands[on].exit, a.commands[req].exit)

    def test_numbers_of_peers_do_not_meet(self):
        a, b = self.agent, self.bridge()
        a.start("sleep 1000", req=1, exec_id="a")
        a.until(lambda: a.commands[1].started, what="STARTED")
        b.send(P.KILL, 1)
        self.assertEqual(b.run("echo b", req=1).stdout, b"b\n")
        self.assertFalse(a.commands[1].over)

    def test_it_gets_no_log_and_no_news(self):
        a, b = self.agent, self.bridge()
        b.run("echo line", exec_id="x")
        a.until(lambda: a.lines() == [b"line"] and len(a.news) >= 1 and
                P.T_EXIT_CODE in a.news[-1], what="log and news of the owner")
        b.send(P.PING, 0, b"all")
        b.until(lambda: b.pongs, what="PONG")
        self.assertEqual((b.log, b.news), ([], []))

    def test_what_only_the_owner_may_do_ends_it(self):
        main = (P.EXEC, P.field(P.T_ARG, "true") + P.field(P.T_EXEC_ID, "m") +
                P.field(P.T_FLAGS, P.EXEC_MAIN))
        for kind, body in ((P.LOG_ACK, P.field(P.T_SEQ, 1)), (P.SYSLOG, b"x"),
                           (P.STOP, P.field(P.T_TIMEOUT_MS, 1)), main, (63, b"")):
            b = self.bridge()
            b.send(kind, 1, body)
            b.until(lambda: b.closed, what="the end of the bridge")
            self.close(b)
        self.assertEqual(self.agent.run("echo ok").stdout, b"ok\n")
        self.assertEqual(self.agent.lines(), [b"ok"])

    def test_its_commands_go_on_without_it_and_its_checks_do_not(self):
        b = self.bridge()
        job = b.start("sleep 0.5; echo done; exit 4", exec_id="job")
        check = b.start("sleep 1000", flags=P.EXEC_CHECK)
        b.until(lambda: b.commands[job].started and b.commands[check].started, what="STARTED")
        self.close(b)
        got = self.agent.wait(self.agent.attach("job"))
        self.assertEqual((got.stdout, got.exit[P.T_EXIT_CODE]), (b"done\n", 4))
        self.until_quiet()

    def test_a_paced_command_of_a_bridge_goes_on_when_it_is_killed(self):
        b = self.bridge()
        req = b.start("head -c 3000000 /dev/zero; echo done >/tmp/done", flags=P.EXEC_PACED, window=1)
        b.until(lambda: b.commands[req].chunks, what="output")
        b.process.kill()
        wait_for(lambda: os.path.exists(os.path.join(self.root, "tmp/done")), what="the command")

    def test_it_follows_on_when_the_owner_is_lost(self):
        a, b = self.agent, self.bridge()
        req = a.start("echo one; read x; echo two", exec_id="on", flags=P.EXEC_STDIN | P.EXEC_PACED)
        a.until(lambda: a.commands[req].stdout, what="output")
        on = b.attach("on")
        b.until(lambda: b.commands[on].stdout, what="output")
        os.close(self.to_fd)
        self.to_fd = os.open(os.devnull, os.O_WRONLY)
        b.send(P.STDIN, on, b"\n")
        self.assertEqual(b.wait(on).stdout, b"one\ntwo\n")
        self.assertTrue(self.alive())

    def test_a_greeting_again_unbinds_what_it_followed(self):
        b = self.bridge()
        b.start("read x; echo $x", exec_id="job", flags=P.EXEC_STDIN, req=5)
        b.until(lambda: b.commands[5].started, what="STARTED")
        b.greet(epoch=8)
        b.send(P.KILL, 5)
        b.attach("job", req=6)
        b.send(P.STDIN, 6, b"x\n")
        self.assertEqual(b.wait(6).stdout, b"x\n")

    def test_much_output_goes_through_at_once_in_both_ways(self):
        b = self.bridge()
        b.keep_output = False
        size = 64 << 20
        begin = time.monotonic()
        self.assertEqual(b.run(["head", "-c", str(size), "/dev/zero"], flags=P.EXEC_CHECK,
                               wait=60).count[1], size)
        print("through a bridge: %.0f MB/s" % (size / (time.monotonic() - begin) / 1e6))
        req = b.start("md5sum", flags=P.EXEC_STDIN | P.EXEC_CHECK)
        c, sent = b.commands[req], 0
        b.keep_output = True
        while sent < 8 << 20:
            b.until(lambda: sent - c.taken < 256 * 1024, what="TAKEN")
            b.send(P.STDIN, req, b"q" * 65536)
            sent += 65536
        b.send(P.STDIN, req)
        import hashlib
        self.assertEqual(b.wait(req).stdout.split()[0].decode(), hashlib.md5(b"q" * sent).hexdigest())

    def test_a_slow_bridge_costs_the_owner_nothing(self):
        a, b = self.agent, self.bridge()
        req = a.start("head -c 5000000 /dev/zero", exec_id="much", flags=P.EXEC_PACED)
        b.reading.clear()
        b.attach("much")
        self.assertEqual(a.wait(req).count[1], 5000000)
        b.reading.set()

    def test_a_round_trip_through_it_is_quick(self):
        b = self.bridge()
        times = []
        for _ in range(100):
            begin = time.monotonic()
            b.run(["true"])
            times.append(time.monotonic() - begin)
        times.sort()
        print("exec through a bridge: p50 %.2f ms" % (times[50] * 1000))
        self.assertLess(times[50], 0.05)


class StrangerTest(BridgeCase):
    def test_a_bad_token_is_turned_away_within_two_seconds(self):
        b = self.bridge(token=secrets.token_bytes(16), greet=False)
        begin = time.monotonic()
        b.greet(epoch=1, wait=0)
        b.until(lambda: b.closed, what="the end")
        self.assertTrue(1 < time.monotonic() - begin < 5)
        self.assertEqual(bytes(b.buf), b"")
        b.process.wait(5)

    def test_a_greeting_in_time_stays(self):
        b = self.bridge()
        time.sleep(2.5)
        self.assertEqual(b.run("echo still").stdout, b"still\n")

    def test_there_are_eight_bridges_at_most(self):
        bridges = [self.bridge() for _ in range(8)]
        ninth = self.bridge(greet=False)
        ninth.greet(epoch=1, wait=0)
        ninth.until(lambda: ninth.closed, what="its end")
        for b in bridges:
            self.assertEqual(b.run("echo x").stdout, b"x\n")
        self.close(bridges[0])

        def again():
            b = self.bridge(greet=False)
            b.greet(epoch=1, wait=0)
            b.until(lambda: b.closed or b.welcome, what="an answer")
            return b.welcome is not None
        wait_for(again, what="a free place")

    def test_who_is_not_root_is_turned_away_at_once(self):
        begin = time.monotonic()
        with self.inside("-S", "1000", "-G", "1000", BINARY, "connect", stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE) as process:
            self.assertEqual(process.stdout.read(), b"")
            self.assertLess(time.monotonic() - begin, 1)
            process.stdin.close()

    def test_root_of_the_sandbox_is_turned_away_at_once(self):
        got = self.agent.run("mkfifo /tmp/quiet; sleep 30 >/tmp/quiet & "
                             "/.sbx/sbx-agent connect </tmp/quiet | wc -c; kill %1", user="root", wait=5)
        self.assertEqual(got.stdout, b"0\n")

    def test_connect_ends_with_its_input_and_with_the_agent(self):
        b = self.bridge()
        b.process.stdin.close()
        self.assertEqual(b.process.wait(5), 0)
        b = self.bridge()
        self.signal_agent(signal.SIGTERM)
        self.assertEqual(b.process.wait(10), 0)

    def test_connect_says_when_there_is_no_agent(self):
        got = subprocess.run(["unshare", "-n", BINARY, "connect"], capture_output=True, text=True)
        self.assertEqual(got.returncode, 1)
        self.assertIn("cannot reach the agent", got.stderr)

    def test_floods_do_not_disturb_the_owner_or_a_bridge(self):
        b = self.bridge()
        a = self.agent
        fds = len(os.listdir("/proc/%d/fd" % self.pid))
        for user, source in (("", "/dev/null"), ("root", "/dev/null"), ("root", "/tmp/quiet"),
                             ("root", "/dev/zero")):
            flood = a.start(FLOOD % source, user=user)
            a.until(lambda: a.commands[flood].count[1] > 100, what="the flood")
            times = []
            for i in range(60):
                begin = time.monotonic()
                self.assertEqual((a, b)[i % 2].run(["echo", "x"]).stdout, b"x\n")
                times.append(time.monotonic() - begin)
            late = self.bridge()
            self.assertEqual(late.run("echo late").stdout, b"late\n")
            self.close(late)
            a.send(P.KILL, flood)
            a.wait(flood)
            self.until_quiet()
            times.sort()
            print("flood: %d connections, exec p50 %.2f ms" % (a.commands[flood].count[1] / 2,
                                                              times[30] * 1000))
            self.assertLess(times[30], 0.1)
        wait_for(lambda: len(os.listdir("/proc/%d/fd" % self.pid)) <= fds, 5, "closed descriptors")
        wait_for(lambda: self.rss_kb() < 3072, 5, "memory to be given back")


if __name__ == "__main__":
    unittest.main(verbosity=2)
