"""The agent's end on order, its one main process, and its word that the log was sent."""
import unittest

import agent_proto as P
from agent_harness import AgentCase, wait_for

QUICK = True


class LeaveTest(AgentCase):
    def stop(self, grace_ms):
        self.agent.send(P.STOP, 0, P.field(P.T_TIMEOUT_MS, grace_ms))

    def running(self, script):
        req = self.agent.start(f"{script}; echo on; while :; do sleep 0.1; done")
        self.agent.until(lambda: b"on" in self.agent.commands[req].stdout, what="the command")
        return req

    def ended(self):
        wait_for(lambda: self.process.poll() is not None, what="the agent's end")

    def test_it_asks_then_kills_and_tells_every_exit_before_it_ends(self):
        polite = self.running("trap 'echo bye; exit 3' TERM")
        rude = self.running("trap '' TERM")
        self.stop(1000)
        self.assertEqual(self.agent.wait(polite).exit[P.T_EXIT_CODE], 3)
        self.assertIn(b"bye", self.agent.commands[polite].stdout)
        self.assertEqual(self.agent.wait(rude).exit[P.T_SIGNAL], 9)
        self.ended()
        self.assertIn(b"bye", self.agent.lines())

    def test_no_grace_means_a_kill_at_once(self):
        polite = self.running("trap 'exit 3' TERM")
        self.stop(0)
        self.assertEqual(self.agent.wait(polite).exit[P.T_SIGNAL], 9)
        self.ended()

    def test_it_takes_no_new_command_meanwhile(self):
        rude = self.running("trap '' TERM")
        self.stop(1500)
        self.assertEqual(self.agent.run(["true"]).fail[P.T_CODE], P.BUSY)
        self.agent.wait(rude)
        self.ended()

    def test_a_log_that_nobody_acknowledges_holds_it_up_for_a_moment_only(self):
        self.agent.auto_ack = False
        self.running("echo line")
        self.stop(0)
        self.ended()

    def test_a_second_main_process_is_refused_and_a_new_owner_hears_of_the_first(self):
        self.assertEqual(dict(self.agent.greet())[P.T_MAIN], 0)
        self.agent.start("sleep 1000", exec_id="main", flags=P.EXEC_MAIN | P.EXEC_DETACHED)
        other = self.agent.start("sleep 1000", exec_id="other")
        self.agent.until(lambda: self.agent.commands[other].started, what="both")
        refused = self.agent.run("true", flags=P.EXEC_MAIN)
        self.assertEqual(refused.fail[P.T_CODE], P.BAD_REQUEST)
        told = self.agent.greet()
        self.assertEqual(dict(told)[P.T_MAIN], 1)
        at = told.index((P.T_EXEC_ID, b"main"))
        self.assertEqual(told[at + 1], (P.T_FLAGS, P.EXEC_MAIN))
        at = told.index((P.T_EXEC_ID, b"other"))
        self.assertNotIn((P.T_FLAGS, P.EXEC_MAIN), told[at + 1:at + 2])

    def test_a_system_line_with_a_number_is_answered_behind_the_log(self):
        self.agent.send(P.SYSLOG, 77, b"paused")
        self.agent.until(lambda: self.agent.pongs, what="PONG")
        self.assertIn(b"paused", self.agent.lines())


if __name__ == "__main__":
    unittest.main()
