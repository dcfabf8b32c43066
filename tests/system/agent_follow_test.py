#!/usr/bin/python3
"""Followers of commands and the output that is kept for them; LIST and news."""
import hashlib
import os
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import agent_proto as P  # noqa: E402
from agent_harness import AgentCase, wait_for  # noqa: E402

QUICK = True
SLOW_LINES = "i=0; while [ $i -lt %d ]; do echo line-$i; i=$((i+1)); sleep 0.01; done"


class FollowCase(AgentCase):
    def c(self, req):
        return self.agent.commands[req]

    def started(self, *args, **kw):
        req = self.agent.start(*args, **kw)
        self.agent.until(lambda: self.c(req).started, what="STARTED")
        return req

    def told(self):
        """All that was asked for before has been answered."""
        n = len(self.agent.pongs)
        self.agent.send(P.PING, 0, b"told")
        self.agent.until(lambda: len(self.agent.pongs) > n, what="PONG")


class FollowTest(FollowCase):
    def test_two_followers_get_the_same_chunks(self):
        a = self.agent
        first = self.started(SLOW_LINES % 100 + "; exit 4", exec_id="two")
        second = a.attach("two")
        for req in (first, second):
            self.assertEqual(a.wait(req).exit[P.T_EXIT_CODE], 4)
        self.assertEqual(self.c(first).chunks, self.c(second).chunks)
        self.assertEqual(self.c(first).chunks[0][0], 1)
        self.assertEqual(self.c(first).stdout,
                         b"".join(b"line-%d\n" % i for i in range(100)))
        self.assertEqual(self.c(first).exit, self.c(second).exit)
        self.assertEqual(self.c(first).exit[P.T_SEQ], self.c(first).next)

    def test_a_follower_that_joins_late_gets_all_from_the_beginning(self):
        a = self.agent
        first = self.started(SLOW_LINES % 60, exec_id="late")
        a.until(lambda: len(self.c(first).chunks) > 20, what="output")
        second = a.attach("late")
        a.wait(first), a.wait(second)
        self.assertEqual(self.c(first).chunks, self.c(second).chunks)
        self.assertIn(P.T_PID, self.c(second).started)
        self.assertEqual(self.c(second).started, self.c(first).started)

    def test_a_follower_gets_what_it_asks_for_from_any_number(self):
        a = self.agent
        first = a.start(SLOW_LINES % 20, exec_id="from")
        whole = a.wait(first).chunks
        for seq in (0, 1, 2, len(whole), len(whole) + 1, len(whole) + 100, 1 << 40):
            got = a.wait(a.attach("from", seq=seq))
            self.assertEqual(got.chunks, whole[max(seq, 1) - 1:])
            self.assertEqual(got.exit, self.c(first).exit)
            self.assertEqual(got.gaps, [])

    def test_a_number_that_is_yet_to_come_is_waited_for(self):
        a = self.agent
        first = self.started("for i in 1 2 3 4 5 6; do read x; echo $x; done", exec_id="coming",
                             flags=P.EXEC_STDIN)
        second = a.attach("coming", seq=4)
        for i in range(1, 7):
            a.send(P.STDIN, first, b"%d\n" % i)
            a.until(lambda: self.c(first).stdout.endswith(b"%d\n" % i), what="the echo")
        self.assertEqual(a.wait(second).stdout, b"4\n5\n6\n")
        self.assertEqual(self.c(second).chunks, self.c(first).chunks[3:])

    def test_a_chunk_before_the_one_that_is_asked_for_does_not_grow(self):
        a = self.agent
        self.started("echo one; read x; echo two", exec_id="grow", window=0, flags=P.EXEC_STDIN)
        wait_for(lambda: a.list(exec_id="grow")[0][P.T_NEXT_SEQ] == 2, what="the first line")
        late = a.attach("grow", seq=2)
        a.send(P.STDIN, late, b"\n")
        a.until(lambda: self.c(late).chunks, what="the second line")
        self.assertEqual(self.c(late).chunks, [(2, 1, b"two\n")])

    def test_stdout_and_stderr_stand_in_one_row(self):
        got = self.agent.run("for i in 1 2 3; do echo o$i; sleep 0.05; echo e$i >&2; sleep 0.05; done")
        self.assertEqual([(s, d) for _, s, d in got.chunks],
                         [(1, b"o1\n"), (2, b"e1\n"), (1, b"o2\n"), (2, b"e2\n"), (1, b"o3\n"),
                          (2, b"e3\n")])
        self.assertEqual([n for n, _, _ in got.chunks], [1, 2, 3, 4, 5, 6])

    def test_a_finished_command_can_be_followed_until_it_is_dropped(self):
        a = self.agent
        whole = a.run("echo out; echo err >&2; exit 3", exec_id="over")
        self.until_quiet()
        for _ in range(3):
            got = a.wait(a.attach("over"))
            self.assertEqual((got.chunks, got.exit), (whole.chunks, whole.exit))
        a.greet()
        got = a.wait(a.attach("over"))
        self.assertEqual((got.chunks, got.exit), (whole.chunks, whole.exit))

    def test_a_slow_follower_does_not_slow_a_free_running_command(self):
        a = self.agent
        slow = self.started("head -c 3000000 /dev/zero; echo done >/tmp/done", window=1,
                            exec_id="free")
        wait_for(lambda: os.path.exists(os.path.join(self.root, "tmp/done")), what="the command")
        self.assertLessEqual(self.c(slow).count[1], P.CHUNK_BYTES)
        quick = a.wait(a.attach("free"))
        self.assertEqual(quick.count[1], 3000000)
        self.assertFalse(self.c(slow).over)
        a.send(P.WINDOW, slow, P.field(P.T_WINDOW, P.MUCH))
        self.assertEqual(a.wait(slow).chunks, quick.chunks)

    def test_a_follower_that_fell_too_far_behind_is_told_the_gap(self):
        a = self.agent
        a.keep_output = False
        slow = self.started("head -c 24000000 /dev/zero; echo end", window=1, exec_id="gap")
        a.until(lambda: self.c(slow).chunks, what="the first chunk")
        wait_for(lambda: P.T_EXIT_CODE in a.list(exec_id="gap")[0], 20, "the end of the command")
        a.send(P.WINDOW, slow, P.field(P.T_WINDOW, P.MUCH))
        late = a.wait(a.attach("gap"))
        a.wait(slow)
        for got in (self.c(slow), late):
            (first, last), = got.gaps
            kept = sum(len(d) for n, _, d in got.chunks if n > last)
            self.assertTrue(P.KEEP_BYTES * 9 // 10 < kept <= P.KEEP_BYTES, kept)
            self.assertEqual(got.chunks[-1][2][-4:], b"end\n")
            self.assertEqual(got.exit[P.T_SEQ], got.next)
        self.assertEqual(late.gaps[0][0], 1)
        self.assertEqual(self.c(slow).chunks[1:], late.chunks)

    def test_the_oldest_chunks_of_all_commands_go_first(self):
        a = self.agent
        a.run("echo old", exec_id="old")
        running = self.started("echo also old; read x; echo new", exec_id="running",
                               flags=P.EXEC_STDIN)
        a.until(lambda: self.c(running).stdout, what="output")
        a.run("head -c 20000000 /dev/zero", exec_id="much", flags=P.EXEC_DETACHED)
        a.send(P.STDIN, running, b"\n")
        a.wait(running)
        got = a.wait(a.attach("old"))
        self.assertEqual((got.gaps, got.chunks), ([(1, 1)], []))
        got = a.wait(a.attach("running"))
        self.assertEqual((got.gaps, got.stdout), ([(1, 1)], b"new\n"))
        self.assertEqual(self.c(running).gaps, [])
        entry, = a.list(exec_id="running")
        self.assertEqual((entry[P.T_OLDEST_SEQ], entry[P.T_NEXT_SEQ]), (2, 3))

    def test_a_command_that_writes_forever_keeps_the_agent_small(self):
        a = self.agent
        a.auto_ack = False
        self.started("yes abcdefgh", exec_id="yes", flags=P.EXEC_DETACHED)
        wait_for(lambda: a.list(exec_id="yes")[0][P.T_OLDEST_SEQ] > 3000, 30, "much output")
        self.assertLess(self.rss_kb(), (2 << 10) + (P.KEEP_BYTES >> 10) + (9 << 10))
        a.send(P.KILL, a.attach("yes", flags=P.EXEC_DETACHED))

    def test_a_million_single_bytes_are_few_chunks(self):
        a = self.agent
        req = a.start(["dd", "if=/dev/zero", "bs=1", "count=1000000"], exec_id="bytes",
                      flags=P.EXEC_DETACHED)
        a.wait(req, 60)
        got = a.wait(a.attach("bytes"))
        self.assertEqual(got.count[1], 1000000)
        self.assertLess(len(got.chunks), 60)
        self.assertLess(self.rss_kb(), 4096)

    def test_single_bytes_of_many_commands_are_few_chunks(self):
        a = self.agent
        reqs = [a.start(["dd", "if=/dev/zero", "bs=1", "count=100000"], exec_id="b%d" % i,
                        flags=P.EXEC_DETACHED) for i in range(6)]
        for req in reqs:
            a.wait(req, 60)
        for i in range(6):
            got = a.wait(a.attach("b%d" % i))
            self.assertEqual(got.count[1], 100000)
            self.assertLess(len(got.chunks), 12)

    def test_characters_are_never_divided(self):
        a = self.agent
        text = "aä€𝄞".encode() * 30000
        with open(os.path.join(self.root, "tmp/text"), "wb") as f:
            f.write(text)
        for command in (["dd", "if=/tmp/text", "bs=1"], ["dd", "if=/tmp/text", "bs=70000"],
                        ["cat", "/tmp/text"]):
            got = a.run(command, wait=60)
            self.assertEqual(got.stdout, text)
            for _, _, data in got.chunks:
                data.decode()
        got = a.run(["cat", "/tmp/text"], max_output=100001)
        self.assertEqual(got.exit[P.T_FLAGS], P.TRUNCATED)
        self.assertEqual(got.stdout.decode(), text[:100001].decode(errors="ignore"))

    def test_what_is_no_character_comes_through(self):
        cases = [b"\xff\xfe", b"\xc3", b"\xe2\x82", b"\xf0\x9d\x84", b"\x80" * 9, b"x\xf0\x28\x8c"]
        for data in cases:
            octal = "".join("\\%03o" % b for b in data)
            got = self.agent.run("printf '%s'; exec >&-; sleep 0.05" % octal)
            self.assertEqual(got.stdout, data)
            got = self.agent.run("sleep 0.3 & printf '%s'" % octal)  # the pipe stays open
            self.assertEqual(got.stdout, data)
        noise = os.urandom(300000)
        with open(os.path.join(self.root, "tmp/noise"), "wb") as f:
            f.write(noise)
        got = self.agent.run(["cat", "/tmp/noise"])
        self.assertEqual(hashlib.md5(got.stdout).digest(), hashlib.md5(noise).digest())

    def test_half_a_character_waits_for_its_rest(self):
        a = self.agent
        req = self.started("printf 'a\\342'; read x; printf '\\202\\254b'", flags=P.EXEC_STDIN)
        a.until(lambda: self.c(req).stdout == b"a", what="the first byte")
        a.send(P.STDIN, req, b"\n")
        a.wait(req)
        self.assertEqual([d for _, _, d in self.c(req).chunks], [b"a", "€b".encode()])

    def test_leave_frees_the_number_and_nothing_else(self):
        a = self.agent
        req = self.started("read x; echo got $x; exit 5", exec_id="left", flags=P.EXEC_STDIN)
        other = a.attach("left")
        a.until(lambda: self.c(other).started, what="STARTED")
        a.send(P.LEAVE, req)
        a.send(P.STDIN, req, b"nobody\n")
        a.send(P.KILL, req)
        a.send(P.LEAVE, req)
        a.send(P.LEAVE, 4711)
        a.send(P.STDIN, other, b"me\n")
        self.assertEqual(a.wait(other).stdout, b"got me\n")
        self.assertFalse(self.c(req).over)
        self.assertEqual(a.run("echo again", req=req).stdout, b"again\n")

    def test_a_number_in_use_cannot_be_bound_again(self):
        a = self.agent
        req = self.started("sleep 100", exec_id="busy")
        a.attach("busy", req=req)
        a.until(lambda: self.c(req).fail, what="FAIL")
        self.assertEqual(self.c(req).fail[P.T_CODE], P.BAD_REQUEST)
        for bad in (0,):
            a.attach("busy", req=bad)
            self.assertEqual(a.wait(bad).fail[P.T_CODE], P.BAD_REQUEST)

    def test_any_follower_feeds_signals_and_kills(self):
        a = self.agent
        first = self.started("trap 'echo usr; exit 6' USR1; read x; echo $x; while :; do sleep 0.05; done",
                             exec_id="any", flags=P.EXEC_STDIN)
        second = a.attach("any")
        a.send(P.STDIN, second, b"fed\n")
        a.until(lambda: self.c(first).stdout == b"fed\n", what="output")
        a.send(P.SIGNAL, second, P.field(P.T_SIGNAL, 10))
        self.assertEqual(a.wait(first).exit[P.T_EXIT_CODE], 6)
        self.assertEqual(a.wait(second).stdout, b"fed\nusr\n")

    def test_a_thousand_followers_and_no_more(self):
        a = self.agent
        self.started("read x; echo $x", exec_id="crowd", flags=P.EXEC_STDIN, req=1)
        a.req = 1
        reqs = [a.attach("crowd") for _ in range(1023)]
        refused = a.attach("crowd")
        self.assertEqual(a.wait(refused).fail[P.T_CODE], P.BUSY)
        a.send(P.LEAVE, reqs.pop())
        reqs.append(a.attach("crowd"))
        a.send(P.STDIN, 1, b"all\n")
        for req in reqs:
            self.assertEqual(a.wait(req).stdout, b"all\n")
        self.assertEqual(a.run(["echo", "ok"]).stdout, b"ok\n")

    def test_a_detached_follower_hears_the_exit_alone(self):
        a = self.agent
        first = self.started("read x; echo $x; exit 9", exec_id="quiet", flags=P.EXEC_STDIN)
        quiet = a.attach("quiet", flags=P.EXEC_DETACHED)
        a.send(P.STDIN, quiet, b"x\n")
        self.assertEqual(a.wait(quiet).exit[P.T_EXIT_CODE], 9)
        self.assertEqual(self.c(quiet).chunks, [])
        self.assertEqual(a.wait(first).stdout, b"x\n")


class PacedTest(FollowCase):
    SCRIPT = "head -c 4000000 /dev/zero; echo done >/tmp/done"

    def waits(self, **kw):
        """A paced command that has filled what may wait for its follower."""
        req = self.started(self.SCRIPT, flags=P.EXEC_PACED, window=1, **kw)
        self.agent.until(lambda: self.c(req).chunks, what="output")
        entry = None
        while entry != (entry := self.agent.list()[0][P.T_NEXT_SEQ]):
            time.sleep(0.2)
        return req

    def goes_on(self):
        wait_for(lambda: os.path.exists(os.path.join(self.root, "tmp/done")), what="the command")

    def test_it_waits_for_the_follower_that_began_it(self):
        a = self.agent
        req = self.waits(exec_id="paced")
        free = a.attach("paced")
        self.told()
        self.assertLess(self.c(free).count[1], 3 * P.PACE_BYTES)
        self.assertFalse(os.path.exists(os.path.join(self.root, "tmp/done")))
        a.auto_window = True
        a.send(P.WINDOW, req, P.field(P.T_WINDOW, P.CHUNK_BYTES))
        self.assertEqual(a.wait(req).count[1], 4000000)
        self.assertEqual(a.wait(free).chunks, self.c(req).chunks)
        self.assertEqual(self.c(req).gaps, [])

    def test_it_goes_on_when_that_follower_detaches(self):
        req = self.waits()
        self.agent.send(P.DETACH, req)
        self.goes_on()
        self.assertEqual(self.agent.wait(req).exit[P.T_EXIT_CODE], 0)

    def test_it_goes_on_when_that_follower_leaves(self):
        self.agent.send(P.LEAVE, self.waits())
        self.goes_on()

    def test_it_goes_on_when_its_peer_greets_anew(self):
        self.waits(exec_id="left")
        self.agent.greet()
        self.goes_on()
        self.assertEqual(self.agent.wait(self.agent.attach("left")).count[1], 4000000)

    def test_it_goes_on_when_its_peer_breaks_the_protocol(self):
        self.waits()
        self.agent.send(63, 0)
        self.goes_on()

    def test_what_is_lost_to_others_does_not_hold_it_for_ever(self):
        a = self.agent
        req = self.waits(exec_id="robbed")
        a.keep_output = False
        a.run("head -c 20000000 /dev/zero", flags=P.EXEC_DETACHED)
        a.send(P.WINDOW, req, P.field(P.T_WINDOW, P.MUCH))
        a.wait(req)
        self.goes_on()
        self.assertEqual(len(self.c(req).gaps), 1)


class CheckTest(FollowCase):
    def test_its_output_is_as_exact_as_its_window_and_moves_fast(self):
        a = self.agent
        req = a.start("head -c 300000 /dev/zero; echo end >&2", window=1000, flags=P.EXEC_CHECK)
        a.until(lambda: self.c(req).count[1] == 1000, what="1000 bytes")
        a.send(P.WINDOW, req, P.field(P.T_WINDOW, 70000))
        a.until(lambda: self.c(req).count[1] == 71000, what="71000 bytes")
        a.send(P.WINDOW, req, P.field(P.T_WINDOW, P.MUCH))
        self.assertEqual((a.wait(req).count[1], self.c(req).stderr), (300000, b"end\n"))
        a.keep_output = False
        size = 256 << 20
        begin = time.monotonic()
        got = a.run(["head", "-c", str(size), "/dev/zero"], wait=60, flags=P.EXEC_CHECK)
        self.assertEqual(got.count[1], size)
        print("%.0f MB/s with a Python reader" % (size / (time.monotonic() - begin) / 1e6))
        wait_for(lambda: self.rss_kb() < 2048, 5, "memory to be given back")

    def test_it_is_not_kept_listed_or_told_of(self):
        a = self.agent
        req = self.started("sleep 100", exec_id="chk", flags=P.EXEC_CHECK)
        self.assertEqual(a.list(), [])
        self.assertEqual(a.wait(a.attach("chk")).fail[P.T_CODE], P.NOT_FOUND)
        a.send(P.KILL, req)
        a.wait(req)
        self.until_quiet()
        self.assertEqual((a.list(), a.news, a.lines()), ([], [], []))

    def test_its_tree_ends_with_its_follower_and_with_a_greeting(self):
        a = self.agent
        req = self.started("(setsid sleep 1000 &) ; sleep 1001", flags=P.EXEC_CHECK)
        wait_for(lambda: self.others() >= 3, what="the tree")
        a.send(P.LEAVE, req)
        self.until_quiet()
        self.started("(setsid sleep 1000 &) ; sleep 1001", flags=P.EXEC_CHECK)
        a.greet()
        self.until_quiet()


class StdinTest(FollowCase):
    def test_every_follower_hears_of_its_own_bytes(self):
        a = self.agent
        first = self.started("sleep 0.5; wc -c", exec_id="shared", flags=P.EXEC_STDIN)
        second = a.attach("shared")
        a.until(lambda: self.c(second).started, what="STARTED")
        for _ in range(20):
            a.send(P.STDIN, first, b"a" * 10000)
            a.send(P.STDIN, second, b"b" * 5000)
        a.until(lambda: (self.c(first).taken, self.c(second).taken) == (200000, 100000),
                what="TAKEN")
        a.send(P.STDIN, second)
        self.assertEqual(int(a.wait(first).stdout), 300000)
        self.assertEqual((self.c(first).dropped, self.c(second).dropped), (0, 0))

    def test_what_nobody_reads_is_told_as_dropped(self):
        a = self.agent
        req = self.started("exec <&-; echo closed; sleep 0.5", flags=P.EXEC_STDIN)
        a.until(lambda: self.c(req).stdout, what="output")
        a.send(P.STDIN, req, b"x" * 1000)
        a.until(lambda: self.c(req).taken + self.c(req).dropped == 1000, what="TAKEN")
        none = self.started("sleep 0.5", flags=0)
        a.send(P.STDIN, none, b"x" * 1000)
        a.until(lambda: self.c(none).dropped == 1000, what="TAKEN")
        held = self.started("sleep 0.5", flags=P.EXEC_STDIN)
        a.send(P.STDIN, held, b"x" * 200000)
        got = a.wait(held)
        self.assertEqual(got.taken + got.dropped, 200000)
        self.assertGreater(got.dropped, 0)
        self.assertEqual(got.frames[-2:], [P.TAKEN, P.EXIT])
        closed = self.started("read x; cat; sleep 0.3", flags=P.EXEC_STDIN)
        a.send(P.STDIN, closed, b"one\n")
        a.send(P.STDIN, closed)
        a.send(P.STDIN, closed, b"behind")
        got = a.wait(closed)
        self.assertEqual((got.taken, got.dropped), (4, 6))

    def test_bytes_of_one_that_left_are_still_read(self):
        a = self.agent
        first = self.started("sleep 0.5; wc -c", exec_id="stay", flags=P.EXEC_STDIN)
        second = a.attach("stay")
        a.until(lambda: self.c(second).started, what="STARTED")
        a.send(P.STDIN, first, b"a" * 150000)
        a.send(P.LEAVE, first)
        a.send(P.STDIN, second, b"b" * 1000)
        a.send(P.STDIN, second)
        self.assertEqual(int(a.wait(second).stdout), 151000)
        self.assertEqual(self.c(second).taken, 1000)

    def test_turns_of_two_followers_are_bounded(self):
        a = self.agent
        first = self.started("sleep 100", exec_id="turns", flags=P.EXEC_STDIN)
        second = a.attach("turns")
        a.until(lambda: self.c(second).started, what="STARTED")
        a.send(P.STDIN, first, b"x" * 65536)
        for _ in range(2000):
            a.send(P.STDIN, first, b"a")
            a.send(P.STDIN, second, b"b")
        a.until(lambda: self.c(first).dropped + self.c(second).dropped > 1000, what="TAKEN")
        a.send(P.KILL, first)
        self.assertEqual(a.wait(first).taken + self.c(first).dropped, 65536 + 2000)
        self.assertEqual(a.wait(second).taken + self.c(second).dropped, 2000)


class ListTest(FollowCase):
    def ids(self, entries):
        return [e[P.T_EXEC_ID].decode() for e in entries]

    def test_an_entry_says_what_is_known_of_a_command(self):
        a = self.agent
        now = time.time() * 1000
        req = self.started(["sh", "-c", "echo x; read y; exit 7", "ä"], exec_id="job",
                           flags=P.EXEC_STDIN | P.EXEC_PACED)
        a.until(lambda: self.c(req).stdout, what="output")
        running, = a.list()
        self.assertEqual(running[P.T_EXEC_ID], b"job")
        self.assertEqual(running[P.T_ARG], [b"sh", b"-c", b"echo x; read y; exit 7", "ä".encode()])
        self.assertEqual(running[P.T_PID], self.c(req).started[P.T_PID])
        self.assertEqual(running[P.T_FLAGS], P.EXEC_STDIN | P.EXEC_PACED)
        self.assertEqual(self.c(req).started[P.T_FLAGS], P.EXEC_STDIN | P.EXEC_PACED)
        self.assertEqual((running[P.T_OLDEST_SEQ], running[P.T_NEXT_SEQ]), (1, 2))
        self.assertLess(abs(running[P.T_STARTED_MS] - now), 10000)
        self.assertNotIn(P.T_EXIT_CODE, running)
        a.send(P.STDIN, req, b"\n")
        exit = a.wait(req).exit
        over, = a.list()
        for tag in (P.T_EXIT_CODE, P.T_SIGNAL, P.T_DURATION_MS, P.T_CPU_MS, P.T_PEAK_KB, P.T_SEQ):
            self.assertEqual(over[tag], exit[tag])
        self.assertEqual((over[P.T_EXIT_FLAGS], over[P.T_FLAGS]), (exit[P.T_FLAGS],
                                                                  running[P.T_FLAGS]))

    def test_an_entry_counts_who_gets_the_output(self):
        a = self.agent
        def count():
            return a.list(exec_id="seen")[0][P.T_COUNT]
        first = self.started("read x", exec_id="seen", flags=P.EXEC_STDIN)
        self.assertEqual(count(), 1)
        second = a.attach("seen")
        a.attach("seen", flags=P.EXEC_DETACHED)
        self.assertEqual(count(), 2)
        a.send(P.DETACH, first)
        self.assertEqual(count(), 1)
        a.send(P.LEAVE, second)
        self.assertEqual(count(), 0)
        a.send(P.STDIN, first, b"\n")
        a.wait(first)
        self.assertEqual(count(), 0)

    def test_the_last_started_comes_first_and_a_limit_holds(self):
        a = self.agent
        names = ["l%d" % i for i in range(30)]
        for name in names:
            a.run(["true"], exec_id=name)
        self.started("sleep 100", exec_id="runs")
        want = ["runs"] + names[::-1]
        self.assertEqual(self.ids(a.list()), want)
        self.assertEqual(self.ids(a.list(count=1)), want[:1])
        self.assertEqual(self.ids(a.list(count=12)), want[:12])
        self.assertEqual(self.ids(a.list(count=1000)), want)
        self.assertEqual(self.ids(a.list(exec_id="l7")), ["l7"])
        self.assertEqual(a.list(exec_id="none"), [])

    def test_what_did_not_start_is_not_listed(self):
        a = self.agent
        self.assertTrue(a.run("true", exec_id="bad", cwd="/nope").fail)
        self.until_quiet()
        self.assertEqual((a.list(), a.news), ([], []))
        self.assertEqual(a.wait(a.attach("bad")).fail[P.T_CODE], P.NOT_FOUND)
        # its number is free when its process was reaped
        wait_for(lambda: (a.run("true", exec_id="bad").exit or {}).get(P.T_EXIT_CODE) == 0,
                 10, "the number")

    def test_arguments_are_cut(self):
        a = self.agent
        a.run(["true", "x", "ä" * 20000], exec_id="long")
        a.run(["true"] + ["y"] * 3000, exec_id="many")
        many, long = a.list()
        self.assertEqual(long[P.T_ARG][:2], [b"true", b"x"])
        self.assertEqual(set(long[P.T_ARG][2].decode()), {"ä"})
        self.assertTrue(3900 < len(long[P.T_ARG][2]) <= 4096)
        self.assertTrue(500 < len(many[P.T_ARG]) <= 4096 // 7)

    def test_a_thousand_finished_commands_are_kept(self):
        a = self.agent
        self.started("sleep 1000", exec_id="long")
        left = a.run("sleep 1001 & exit 0", exec_id="left")
        self.assertTrue(left.exit)
        for i in range(1002):
            a.run(["echo", "%d" % i], exec_id="n%d" % i)
        wait_for(lambda: self.others() == 4, what="the last ones to settle")
        entries = a.list()
        self.assertEqual(self.ids(entries),
                         ["n%d" % i for i in range(1001, 1, -1)] + ["left", "long"])
        self.assertEqual(a.wait(a.attach("n1")).fail[P.T_CODE], P.NOT_FOUND)
        self.assertEqual(a.wait(a.attach("n2")).stdout, b"2\n")
        self.assertEqual(a.wait(a.attach("n1001")).stdout, b"1001\n")
        wait_for(lambda: self.rss_kb() < 2048, 5, "rest")
        print("agent with 1,000 finished commands: %d KB" % self.rss_kb())

    def test_lists_do_not_mix(self):
        a = self.agent
        for i in range(200):
            a.run(["true", "z" * 3000], exec_id="m%d" % i)
        reqs = list(range(5000, 5060))
        for req in reqs:
            a.send(P.LIST, req, P.field(P.T_COUNT, 0))
        for req in reqs:
            a.until(lambda: self.c(req).listed, what="LISTED")
            self.assertEqual(self.ids(self.c(req).entries), ["m%d" % i for i in range(199, -1, -1)])

    def test_too_many_lists_at_once_are_refused(self):
        a = self.agent
        for i in range(200):
            a.run(["true", "z" * 3000], exec_id="m%d" % i)
        reqs = list(range(5000, 5100))
        a.write(b"".join(P.frame(P.LIST, a.epoch, req) for req in reqs))
        for req in reqs:
            a.until(lambda: self.c(req).listed or self.c(req).fail, what="an answer")
        codes = {self.c(req).fail[P.T_CODE] for req in reqs if self.c(req).fail}
        self.assertEqual(codes, {P.BUSY})

    def test_what_a_finished_command_left_running_can_be_reached(self):
        a = self.agent
        a.run("(trap 'echo hit >/tmp/hit; exit' USR1; while :; do sleep 0.05; done) & exit 0",
              exec_id="left")
        a.greet()
        self.assertEqual(self.ids(a.list()), ["left"])
        req = a.attach("left", flags=P.EXEC_DETACHED)
        a.send(P.SIGNAL, req, P.field(P.T_SIGNAL, 10) + P.field(P.T_FLAGS, P.SIG_TREE))
        wait_for(lambda: os.path.exists(os.path.join(self.root, "tmp/hit")), what="the signal")
        self.until_quiet()
        a.run("setsid sleep 1000 & exit 0", exec_id="more")
        req = a.attach("more")
        a.wait(req)
        a.send(P.KILL, req)
        self.until_quiet()
        self.assertEqual(self.ids(a.list()), ["more", "left"])


class NewsTest(FollowCase):
    def test_the_owner_hears_of_every_start_and_end(self):
        a = self.agent
        req = self.started("read x; exit 3", exec_id="one", flags=P.EXEC_STDIN)
        a.until(lambda: a.news, what="news")
        self.assertEqual(a.news[0][P.T_EXEC_ID], b"one")
        self.assertNotIn(P.T_EXIT_CODE, a.news[0])
        a.send(P.LEAVE, req)
        other = a.attach("one")
        a.send(P.STDIN, other, b"\n")
        a.until(lambda: len(a.news) == 2, what="more news")
        self.assertEqual((a.news[1][P.T_EXEC_ID], a.news[1][P.T_EXIT_CODE]), (b"one", 3))
        self.assertEqual(a.news[1][P.T_SEQ], 1)

    def test_news_come_without_any_follower(self):
        a = self.agent
        a.send(P.LEAVE, self.started("sleep 0.2; echo x; exit 2", exec_id="alone"))
        a.until(lambda: a.news and P.T_EXIT_CODE in a.news[-1], what="the end")
        self.assertEqual(a.news[-1][P.T_NEXT_SEQ], 2)

    def test_a_new_owner_hears_only_what_happens_from_now_on(self):
        a = self.agent
        a.run(["true"], exec_id="past")
        self.started("read x", exec_id="present", flags=P.EXEC_STDIN)
        a.greet()
        self.told()
        self.assertEqual(a.news, [])
        req = a.attach("present")
        a.send(P.STDIN, req, b"\n")
        a.wait(req)
        a.until(lambda: a.news, what="news")
        self.assertEqual([e[P.T_EXEC_ID] for e in a.news], [b"present"])

    def test_each_command_of_many_is_told(self):
        a = self.agent
        reqs = [a.start(["true", "q" * 4000], exec_id="n%d" % i) for i in range(100)]
        for req in reqs:
            a.wait(req)
        a.until(lambda: sum(P.T_EXIT_CODE in e for e in a.news) == 100, what="all news")
        over = {e[P.T_EXEC_ID] for e in a.news if P.T_EXIT_CODE in e}
        self.assertEqual(over, {b"n%d" % i for i in range(100)})


if __name__ == "__main__":
    unittest.main(verbosity=2)
