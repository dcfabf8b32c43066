"""A sandbox that was started by an older release, whose agent speaks version 1 of the protocol, under this
one's server: what it can do goes on, all else says what to do."""
import os
import unittest

import sandboxd
from sandboxd import Client, SystemCase, wait_for
from terminal_test import Terminal

# A real one of that release, if somebody has it; else one that was written from its protocol.
OLD_AGENT = os.environ.get("SBX_TEST_OLD_AGENT") or sandboxd.REPO / "tests/fakes/old_agent.py"
HINT = "made by an older version: make a new one, or reset it hard"


@unittest.skipUnless(os.environ.get("SBX_TEST_IMAGES") == "1", "needs the python template's image")
class OldAgentTest(SystemCase):
    @classmethod
    def setUpClass(cls):
        cls.service = sandboxd.Service()
        cls.addClassCleanup(cls.service.close)
        none = cls.service.folder / "no-files"  # that release had no program for files
        none.write_text("#!/bin/sh\nexit 127\n")
        before = cls.service.start({"SBX_AGENT_PATH": OLD_AGENT, "SBX_FILES_PATH": none})
        old = Client(before, cls.service.key())
        cls.box = old.create(template="python")["id"]
        assert old.exec(cls.box, "echo before")["stdout"] == "before\n"
        wait_for(lambda: any(e["data"] == "before" for e in old.logs(cls.box)), what="its log")
        before.stop()
        cls.api = Client(cls.service.start(), old.key)
        wait_for(lambda: cls.api.post(f"/sandboxes/{cls.box}/exec", {"command": "true"}).status == 200,
                 20, "the adoption")

    def test_a_command_is_waited_for(self):
        got = self.api.exec(self.box, "echo out; echo err >&2; echo $A; exit 3", env={"A": "b"})
        self.assertEqual((got["stdout"], got["stderr"], got["exitCode"]), ("out\nb\n", "err\n", 3))
        got = self.api.exec(self.box, "sleep 60", timeoutMs=300)
        self.assertEqual((got["timedOut"], got["signal"]), (True, "KILL"))
        self.assertEqual(self.api.exec(self.box, "cat", stdin="given")["stdout"], "given")
        row = wait_for(lambda: self.service.psql(
            f"SELECT exit_code FROM sandbox_executions WHERE id = '{got['execId']}'"
            " AND duration_ms IS NOT NULL"), what="the record")
        self.assertEqual(row, "137")

    def test_much_output_comes_whole_also_where_characters_are_cut(self):
        got = self.api.exec(self.box, "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo \u00fc$i; done")
        self.assertEqual(got["stdout"], "".join(f"\u00fc{i}\n" for i in range(1, 20001)))

    def test_a_command_is_streamed(self):
        with self.api.exec_stream(self.box, "for i in 1 2 3; do echo $i; sleep 0.1; done; exit 4") as s:
            events = list(s.events())
        self.assertEqual("".join(e.get("data", "") for _, e in events), "1\n2\n3\n")
        self.assertEqual([int(n) for n, _ in events], list(range(1, len(events) + 1)))
        self.assertEqual((events[0][1]["type"], events[-1][1]["exitCode"]), ("start", 4))

    def test_its_log_goes_on(self):
        self.api.exec(self.box, "echo to-the-log")
        wait_for(lambda: any(e["data"] == "to-the-log" for e in self.api.logs(self.box)), what="it")
        seqs = [e["seq"] for e in self.api.logs(self.box, "?tail=1000")]
        self.assertEqual(seqs, list(range(seqs[0], seqs[0] + len(seqs))))

    def test_all_else_says_what_to_do(self):
        done = self.api.exec(self.box, "true")["execId"]
        at = f"/sandboxes/{self.box}"
        for got in (self.api.post(f"{at}/exec", {"command": "true", "background": True}),
                    self.api.post(f"{at}/exec", {"command": "cat", "stdinOpen": True}),
                    self.api.post(f"{at}/exec", {"command": "true", "cpuTimeMs": 100}),
                    self.api.get(f"{at}/execs"), self.api.get(f"{at}/execs/{done}/output")):
            told = self.assert_problem(got, 409, "conflict")
            self.assertIn(HINT, told["detail"])
        terminal = Terminal(sandbox=self.box, client=self.api)
        self.addCleanup(terminal.close)
        self.assertEqual(terminal.ws.status, 409)
        told = self.assert_problem(self.api.get(f"{at}/files?path=/etc/passwd"), 409, "conflict")
        self.assertIn("older version", told["detail"])

    def test_that_it_is_restarted_changes_nothing_and_reset_hard_it_has_the_new_one(self):
        box = self.box
        self.api.exec(box, "echo kept >/tmp/kept")
        self.api.move(box, "restart")
        self.assertEqual(self.api.exec(box, "cat /tmp/kept")["stdout"], "kept\n")
        self.api.move(box, "reset", {"mode": "hard"})
        got = self.api.post(f"/sandboxes/{box}/exec", {"command": "true", "background": True})
        self.assertEqual(got.status, 202, got)
        self.assertEqual(self.api.get(f"/sandboxes/{box}/files?path=/tmp/kept").status, 404)


if __name__ == "__main__":
    unittest.main()
