"""An old backup of the database is restored: what it knows and the engine has is usable, what is
gone says so, and what it does not know is not removed behind the operator's back."""
import re
import subprocess
import unittest

import sandboxd
from invariants import Invariants
from sandboxd import Client, SystemCase, all_at_once, wait_for

TIMEOUT_S = 300
LIMIT_S = 40  # 10, on a machine that may be four times slower


class BackupTest(SystemCase):
    @classmethod
    def setUpClass(cls):
        """Sandboxes that stay, sandboxes that go after the backup, and sandboxes made after it."""
        cls.service = service = sandboxd.Service(env={"SBX_ORPHAN_GRACE": 1})
        cls.addClassCleanup(service.close)
        cls.client = client = Client(service.start(), service.key("root", "--role", "admin"))
        cls.box = {name: client.create(size="nano")["id"] for name in
                   ("runs", "paused", "stopped", "gone", "gone_paused", "gone_stopped")}
        for name, verb in (("paused", "pause"), ("stopped", "stop"), ("gone_paused", "pause"),
                           ("gone_stopped", "stop")):
            client.move(cls.box[name], verb)
        dump = service.folder / "dump"
        cls.tool("pg_dump", "--format=custom", f"--file={dump}", service.url)
        for _ in range(3):  # each worker has the channels anew
            client.server.stop()
            client.server = service.start()
            wait_for(lambda: client.exec(cls.box["runs"], "true")["exitCode"] == 0, LIMIT_S,
                     "an adopted sandbox")
        for name in ("gone", "gone_paused", "gone_stopped"):
            assert client.delete(f"/sandboxes/{cls.box[name]}").status == 204
        cls.late = set(all_at_once(lambda _: client.create(size="nano")["id"], range(12), 4))
        cls.epoch = cls.epoch_now()
        client.server.stop()
        cls.tool("pg_restore", "--clean", "--if-exists", f"--dbname={service.url}", dump)
        client.server = service.start()

    @staticmethod
    def tool(*command):
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    @classmethod
    def epoch_now(cls):
        """What the agent has seen; it drops what an earlier owner sends."""
        return int(cls.service.psql(f"SELECT epoch FROM sandboxes WHERE id = '{cls.box['runs']}'"))

    def refusals(self):
        text = Client(self.client.server).get("/metrics").body.decode()
        found = re.search(r'^sandboxd_reaped_total{reason="refused"} (\d+)', text, re.M)
        return int(found.group(1)) if found else 0

    def sweep(self, *arguments):
        got = sandboxd.sandboxd("sweep", *arguments, env=self.service.env)
        ids = {line.split()[0] for line in got.stdout.splitlines() if " made " in line}
        return got.returncode, ids, got.stdout

    def test_a_backup_that_is_older_than_many_sandboxes(self):
        client, box = self.client, self.box
        # what is there can be used at once, though its agent has seen later owners
        wait_for(lambda: client.post(f"/sandboxes/{box['runs']}/exec", {"command": "true"}
                                     ).status == 200, LIMIT_S, "a sandbox that can be used")
        self.assertGreater(self.epoch_now(), self.epoch)
        client.move(box["paused"], "resume")
        client.move(box["stopped"], "start")
        for name in ("paused", "stopped"):
            self.assertEqual(client.exec(box[name], "echo up")["stdout"], "up\n")
        # what was deleted since ends with a reason, or can be started as after any loss of files
        for name in ("gone", "gone_paused"):
            wait_for(lambda n=name: client.state(box[n]) == "failed", LIMIT_S, "an end")
            self.assertEqual(client.sandbox(box[name])["stateReason"]["code"], "container_lost")
        self.assertEqual(client.state(box["gone_stopped"]), "stopped")
        # what was made since is not removed, and that is told
        wait_for(self.refusals, LIMIT_S, "a sweep that refuses")
        wait_for(lambda: "sweep refused" in client.server.log_text(), LIMIT_S, "a line of the log")
        status, listed, text = self.sweep()
        self.assertEqual((status, listed), (3, self.late), text)
        self.assertIn("12 containers without a record; --confirm removes", text)
        self.assertTrue(all(self.service.container_exists(b) for b in self.late))
        status, listed, text = self.sweep("--confirm")
        self.assertEqual((status, listed), (0, self.late), text)
        self.assertFalse(any(self.service.container_exists(b) for b in self.late))
        self.assertEqual(self.sweep()[:2], (0, set()))
        look = Invariants([client], self.service.url, self.service.engine)
        self.assertEqual(look.settle(LIMIT_S, box.values())[1], [])


if __name__ == "__main__":
    unittest.main()
