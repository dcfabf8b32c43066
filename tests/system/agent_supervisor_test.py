"""Supervisors of sbx-agent that serve one command after the other, and owners that are patient."""

import os
import signal

import agent_proto as P
from agent_harness import AgentCase, descendants, proc_stat, wait_for


class SupervisorTest(AgentCase):
    def supervisors(self):
        return {p for p in descendants(self.pid) if (proc_stat(p) or (0, 0))[1] == self.pid}

    def supervisors_of_30_commands(self):
        seen = self.supervisors()
        for i in range(30):
            self.assertEqual(self.agent.run(["echo", str(i)]).stdout, b"%d\n" % i)
            self.until_quiet()
            seen |= self.supervisors()
        return len(seen)

    def test_a_supervisor_serves_one_command_after_the_other(self):
        wait_for(lambda: self.others() == 0, what="the spare")
        # Where the machine is busy some are late, and are not waited for.
        self.assertLess(min(self.supervisors_of_30_commands() for _ in range(3)), 25)

    def test_a_burst_leaves_two_spare_pairs(self):
        for _ in range(3):
            for req in [self.agent.start(["echo", "x"]) for _ in range(12)]:
                self.assertEqual(self.agent.wait(req).stdout, b"x\n")
        self.until_quiet()
        self.assertEqual(len(self.supervisors()), 2)

    def test_what_a_command_used_is_not_told_of_the_next_one(self):
        big = self.agent.run("x=$(head -c 30000000 /dev/zero | tr '\\0' x); i=0; "
                             "while [ $i -lt 100000 ]; do i=$((i+1)); done")
        small = self.agent.run(["true"])
        self.assertGreater(big.exit[P.T_PEAK_KB], 25000)
        self.assertLess(small.exit[P.T_PEAK_KB], 10000)
        self.assertGreater(big.exit[P.T_CPU_MS], small.exit[P.T_CPU_MS] + 20)

    def test_a_kill_that_comes_too_late_does_not_hit_the_next_command(self):
        for i in range(300):
            req = self.agent.start(["true"])
            if i % 3:
                self.agent.wait(req)
            self.agent.send(P.KILL, req)
            got = self.agent.run(["echo", "ok"])
            self.assertEqual((got.exit[P.T_EXIT_CODE], got.stdout), (0, b"ok\n"), i)

    def test_a_killed_idle_supervisor_is_replaced(self):
        for i in range(10):
            self.agent.run(["true"])
            for pid in self.supervisors():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            wait_for(lambda: self.others() == 0, what="a new spare")
            self.assertEqual(self.agent.run(["echo", "ok"]).stdout, b"ok\n", i)

    def test_what_was_stopped_from_inside_goes_on_and_its_time_out_holds(self):
        wait_for(lambda: self.others() == 0, what="the spare")
        for victim in (*self.supervisors(), *descendants(min(self.supervisors()))):
            os.kill(victim, signal.SIGSTOP)
        self.assertEqual(self.agent.run(["echo", "ok"]).stdout, b"ok\n")
        req = self.agent.start(["sleep", "1000"], timeout_ms=1000)
        self.agent.until(lambda: self.agent.commands[req].started, what="STARTED")
        for victim in self.supervisors():
            os.kill(victim, signal.SIGSTOP)
        got = self.agent.wait(req)
        self.assertEqual((got.exit[P.T_SIGNAL], got.exit[P.T_FLAGS]), (9, P.TIMED_OUT))
        req = self.agent.start("kill -STOP $$; echo on")  # what stops itself stays
        wait_for(lambda: "T" in descendants(self.pid).values(), what="the stop")
        self.agent.send(P.KILL, req)
        self.assertEqual(self.agent.wait(req).stdout, b"")

    def test_a_patient_owner_is_told_of_start_and_end(self):
        short = self.agent.run(["true"], flags=P.EXEC_PATIENT)
        self.assertTrue(short.started)
        self.assertEqual(short.exit[P.T_EXIT_CODE], 0)
        long = self.agent.start(["sleep", "1000"], flags=P.EXEC_PATIENT)
        self.agent.until(lambda: self.agent.commands[long].started, what="STARTED")
        self.agent.send(P.KILL, long)
        self.agent.wait(long)
