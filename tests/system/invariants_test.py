"""The checks that say whether all has settled (tests/lib/invariants.py) find what is wrong."""
import unittest

import sandboxd
from invariants import Invariants
from sandboxd import Client, SystemCase


class PlantedTest(SystemCase):
    """One worker whose sandboxes are fine; it is killed, and then things go wrong."""

    @classmethod
    def setUpClass(cls):
        cls.service = sandboxd.Service()
        cls.addClassCleanup(cls.service.close)
        cls.client = Client(cls.service.start(), cls.service.key("root", "--role", "admin"))
        cls.boxes = [cls.client.create(size="nano")["id"] for _ in range(4)]
        cls.gone, cls.paused, cls.box, cls.other = cls.boxes
        cls.exec_id = cls.client.exec(cls.box, "echo one; echo two")["execId"]
        cls.client.move(cls.paused, "pause")
        assert cls.client.delete(f"/sandboxes/{cls.gone}").status == 204
        cls.look = Invariants([cls.client], cls.service.url, cls.service.engine)
        cls.before = cls.look.settle(20, cls.boxes, [(cls.box, cls.exec_id)])[1]
        cls.unknown = cls.look.check(["a" * 20], [(cls.box, "b" * 20)])
        cls.client.server.kill()
        cls.look.clients = []

    def planted(self, sql, words, undo):
        self.service.psql(sql)
        try:
            told = self.look.check()
        finally:
            self.service.psql(undo)
        self.assertIn(words, "\n".join(told))

    def test_nothing_is_found_where_all_is_well(self):
        self.assertEqual(self.before, [])

    def test_ids_and_commands_that_nobody_knows(self):
        told = "\n".join(self.unknown)
        self.assertIn("a" * 20 + " was given to a client, and is answered <404", told)
        self.assertIn("the command " + "b" * 20, told)

    def test_rows_that_are_stuck_or_say_nothing(self):
        back = f"UPDATE sandboxes SET state = 'paused', deadline_at = NULL WHERE id = '{self.paused}'"
        self.planted("UPDATE sandboxes SET state = 'resuming', deadline_at = now() - interval '1 s'"
                     f" WHERE id = '{self.paused}'", f"{self.paused} is resuming past its", back)
        self.planted(f"UPDATE sandboxes SET state = 'resuming' WHERE id = '{self.paused}'",
                     f"{self.paused} is resuming past its", back)
        self.planted(f"UPDATE sandboxes SET state = 'running' WHERE id = '{self.paused}'",
                     f"{self.paused} is running, and its container paused", back)
        self.planted(f"UPDATE sandboxes SET worker = 'nobody' WHERE id = '{self.other}'",
                     f"{self.other} runs, and its worker nobody is dead",
                     f"UPDATE sandboxes SET worker = (SELECT worker FROM sandboxes"
                     f" WHERE id = '{self.box}') WHERE id = '{self.other}'")
        self.planted(f"UPDATE sandboxes SET reason = NULL WHERE id = '{self.gone}'",
                     f"{self.gone} is deleted without a reason",
                     "UPDATE sandboxes SET reason = '{\"code\": \"deleted\", \"message\": \"so\"}'"
                     f" WHERE id = '{self.gone}'")

    def test_commands_runs_packages_pools_and_events(self):
        self.planted(f"UPDATE sandbox_executions SET duration_ms = NULL, sandbox = '{self.gone}'"
                     f" WHERE id = '{self.exec_id}'", "1 of its commands have no end",
                     f"UPDATE sandbox_executions SET duration_ms = 1, sandbox = '{self.box}'"
                     f" WHERE id = '{self.exec_id}'")
        self.planted("INSERT INTO usage_runs (id, owner, sandbox, day, worker, done) VALUES"
                     f" ('r', 'o', '{self.box}', now(), 'dead', false)",
                     f"the run r in {self.box} is reserved by nobody alive",
                     "DELETE FROM usage_runs WHERE id = 'r'")
        self.planted("INSERT INTO package_sets (id, owner, installer, state, worker, deadline_at)"
                     f" VALUES ('{'p' * 20}', 'o', 'pip', 'installing', 'dead', now() + '1 h')",
                     "p are installing, and nobody is at it", "DELETE FROM package_sets")
        self.planted("INSERT INTO pools (key, template, size, network, min, max) VALUES ('k', 'box',"
                     " 'nano', 'none', 0, 0); UPDATE sandboxes SET pool = '1234567890123456/k'"
                     f" WHERE id = '{self.other}'", "the pool k has 1 sandboxes, at most 0",
                     f"UPDATE sandboxes SET pool = NULL WHERE id = '{self.other}';"
                     " DELETE FROM pools")
        self.planted("UPDATE event_counters SET last = last + 1", "are not numbered in order",
                     "UPDATE event_counters SET last = last - 1")

    def test_what_the_engine_has_and_nobody_knows(self):
        alone = "SET session_replication_role = replica; "  # without a look at foreign keys
        self.planted(alone + f"UPDATE sandboxes SET id = '{'z' * 20}' WHERE id = '{self.other}'",
                     f"the container of {self.other} (running) has no row",
                     alone + f"UPDATE sandboxes SET id = '{self.other}' WHERE id = '{'z' * 20}'")
        labels = {"Labels": {"sandboxd.cluster": self.service.cluster}}
        api = self.service.engine
        volume = api.call("POST", "/volumes/create", json_body=labels)["Name"]
        network = "sbxtest-" + self.service.cluster
        api.call("POST", "/networks/create", json_body={**labels, "Name": network, "Internal": True})
        try:
            told = self.look.check()
        finally:
            api.call("DELETE", f"/volumes/{volume}")
            api.call("DELETE", f"/networks/{network}")
        self.assertIn(f"the volume {volume} has no row", told)
        self.assertIn(f"the network {network} is nobody's", told)

    def test_a_hole_of_a_log_that_is_not_announced_and_lines_that_differ(self):
        class Said:
            """A worker whose log has these numbers, and whose stream tells these events."""

            def __init__(self, numbers, events, text="x"):
                self.items = [{"seq": n, "data": text} for n in numbers]
                self.events = lambda: iter([(None, e) for e in events])

            def get(self, _):
                return sandboxd.Answer(200, {}, sandboxd.json.dumps(
                    {"items": self.items, "nextCursor": None}).encode())

            def stream(self, *_):
                return self

            def __enter__(self):
                return self

            def __exit__(self, *_):
                pass

        def told(*clients):
            self.look.clients = clients
            try:
                return self.look.logs([self.box], {})
            finally:
                self.look.clients = []
        self.assertEqual(told(Said([1, 2, 5], [{"from": 3, "to": 4}])), [])
        self.assertIn("lacks 3 to 4", told(Said([1, 2, 5], [{"seq": 5}]))[0])
        self.assertIn("lacks 3 to 4", told(Said([1, 2, 5], [{"from": 4, "to": 4}]))[0])
        self.assertIn("out of order", told(Said([1, 2, 2, 3], []))[0])
        self.assertIn("line 1 of the log of " + self.box,
                      told(Said([1], []), Said([1], [], "y"))[0])


if __name__ == "__main__":
    unittest.main()
