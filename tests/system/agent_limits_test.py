#!/usr/bin/python3
"""The limit of CPU time, and samples of what the sandbox uses."""
import os
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import agent_proto as P  # noqa: E402
from agent_harness import AgentCase, wait_for  # noqa: E402

QUICK = True
BURN = "while :; do :; done"


class CpuTest(AgentCase):
    def killed(self, got, limit):
        self.assertEqual((got.exit[P.T_SIGNAL], got.exit[P.T_FLAGS]), (9, P.CPU))
        self.assertTrue(limit * 0.9 <= got.exit[P.T_CPU_MS] < limit + 1000, got.exit[P.T_CPU_MS])
        self.until_quiet()

    def test_a_command_that_burns_is_killed(self):
        self.killed(self.agent.run("echo on; " + BURN, cpu_ms=400), 400)

    def test_one_that_waits_is_not(self):
        got = self.agent.run("sleep 1; echo done", cpu_ms=200)
        self.assertEqual((got.stdout, got.exit[P.T_FLAGS]), (b"done\n", 0))

    def test_the_whole_tree_counts(self):
        self.killed(self.agent.run("(%s) & (%s) & (setsid sh -c '%s' &) ; wait; sleep 1000" %
                                   (BURN, BURN, BURN), cpu_ms=600), 600)

    def test_children_that_have_been_reaped_count(self):
        loop = "while :; do i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done; exit; done"
        got = self.agent.run("while :; do sh -c '%s'; done" % loop, cpu_ms=500)
        self.killed(got, 500)

    def test_what_the_command_left_running_is_killed_too(self):
        got = self.agent.run("(%s) & exit 3" % BURN, cpu_ms=500)
        self.assertEqual((got.exit[P.T_EXIT_CODE], got.exit[P.T_FLAGS]), (3, 0))
        self.until_quiet()

    def test_the_entry_tells_it(self):
        self.agent.run(BURN, cpu_ms=100, exec_id="burnt")
        self.assertEqual(self.agent.list(exec_id="burnt")[0][P.T_EXIT_FLAGS], P.CPU)

    def test_the_time_told_is_that_of_all_that_was_reaped(self):
        got = self.agent.run("sh -c 'i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done'; exit 0")
        self.assertGreater(got.exit[P.T_CPU_MS], 20)


class StatsTest(AgentCase):
    """Without cgroup files: the test's root has none."""

    def test_a_sample_sums_up_the_processes(self):
        a = self.agent
        now = time.time() * 1000
        first = a.stats()
        self.assertLess(abs(first[P.T_STARTED_MS] - now), 10000)
        self.assertEqual(first[P.T_PROCESSES], 0)
        self.assertEqual((first[P.T_NET_RX], first[P.T_NET_TX]), (0, 0))
        self.assertGreater(first[P.T_DISK_FREE], 1 << 20)
        for tag in (P.T_MEMORY_LIMIT, P.T_DISK, P.T_MEMORY_PEAK, P.T_OOM_KILLS):
            self.assertNotIn(tag, first)
        req = a.start("sleep 1000 & sleep 1001 & echo on; %s" % BURN)
        a.until(lambda: a.commands[req].stdout, what="output")
        wait_for(lambda: a.stats()[P.T_PROCESSES] == 3, what="three processes")
        wait_for(lambda: a.stats()[P.T_CPU_US] > first[P.T_CPU_US] + 200000, what="CPU time")
        self.assertGreater(a.stats()[P.T_MEMORY], first[P.T_MEMORY])

    def test_a_sample_is_quick(self):
        a = self.agent
        for _ in range(30):
            a.start("sleep 1000")
        a.run("true")
        times = []
        for _ in range(100):
            begin = time.monotonic()
            a.stats()
            times.append(time.monotonic() - begin)
        times.sort()
        print("a sample over 30 commands, without cgroup files: p50 %.2f ms" % (times[50] * 1000))
        self.assertLess(times[50], 0.05)


class CgroupFilesTest(AgentCase):
    """Files as a kernel with cgroups of version 2 has them, in the agent's root: this machine's kernel may
    have only version 1, whose files are read in agent_container_test."""

    FILES = {"cpu.stat": "usage_usec 7654321\nuser_usec 7000000\nsystem_usec 654321\n",
             "memory.current": "50000000\n", "memory.peak": "60000000\n",
             "memory.max": "268435456\n", "pids.current": "9\n",
             "memory.stat": "anon 1\nfile 2\ninactive_anon 3\nactive_anon 4\ninactive_file 20000000\n",
             "memory.events": "low 0\nhigh 0\nmax 3\noom 0\noom_kill 0\noom_group_kill 0\n"}

    def cgroup(self, name):
        return os.path.join(self.root, "sys/fs/cgroup", name)

    def write(self, name, text):
        with open(self.cgroup(name), "w", encoding="ascii") as file:
            file.write(text)

    def prepare(self):
        os.makedirs(self.cgroup(""))
        for name, text in self.FILES.items():
            self.write(name, text)

    def test_a_sample_tells_what_version_2_counts(self):
        got = self.agent.stats()
        self.assertEqual([got[tag] for tag in (P.T_CPU_US, P.T_MEMORY, P.T_MEMORY_PEAK,
                                               P.T_MEMORY_LIMIT, P.T_OOM_KILLS)],
                         [7654321, 30000000, 60000000, 268435456, 0])
        self.assertLess(got[P.T_PROCESSES], 9)  # without the agent's own

    def test_what_is_not_there_is_not_told_and_no_limit_is_none(self):
        self.write("memory.max", "max\n")
        for name in ("memory.peak", "memory.stat"):  # the first came with Linux 5.19
            os.unlink(self.cgroup(name))
        got = self.agent.stats()
        self.assertNotIn(P.T_MEMORY_LIMIT, got)
        self.assertNotIn(P.T_MEMORY_PEAK, got)
        self.assertEqual(got[P.T_MEMORY], 50000000)
        for name in ("cpu.stat", "memory.current", "pids.current"):
            os.unlink(self.cgroup(name))
        got = self.agent.stats()
        self.assertLess(got[P.T_MEMORY], 50000000)  # of the processes, summed up
        self.assertLess(got[P.T_CPU_US], 7654321)
        self.write("cpu.stat", "nonsense\nusage_usec x\n")
        self.assertLess(self.agent.stats()[P.T_CPU_US], 7654321)

    def test_a_kill_is_told_in_the_log(self):
        a = self.agent
        req = a.start("sleep 1000", exec_id="hog")
        a.until(lambda: a.commands[req].started, what="STARTED")
        self.write("memory.events", self.FILES["memory.events"].replace("oom_kill 0", "oom_kill 1"))
        a.until(lambda: any(b"out of memory" in line for line in a.lines(stream=2)), 5, "the line")
        self.assertIn(b"limit of 256 MB", [x for x in a.lines(stream=2) if b"out of memory" in x][0])
        self.assertEqual(a.stats()[P.T_OOM_KILLS], 1)


if __name__ == "__main__":
    unittest.main(verbosity=2)
