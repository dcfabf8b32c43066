"""The warm pool: what a create takes from it, what it does not, and that nobody can tell."""

import concurrent.futures
import json
import pathlib
import re
import secrets
import signal
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import sandboxd  # noqa: E402
from sandboxd import Client, SystemCase, all_at_once, engine, wait_for  # noqa: E402

TIMEOUT_S = 600
OWNER = "pool0000000000000000"
WAITS = "pool IS NOT NULL AND state NOT IN ('deleted', 'failed')"


class Pools:
    """An installation with pools, a server of it, a user and an administrator."""

    def __init__(self, pool, env=None, **options):
        self.service = sandboxd.Service(env={"SBX_POOL": pool, **(env or {})}, **options)
        self.server = self.service.start()
        self.user_key = self.service.key()
        self.admin_key = self.service.key("root", "--role", "admin")
        self.api, self.admin = self.clients()

    def clients(self, server=None):
        server = server or self.server
        return Client(server, self.user_key), Client(server, self.admin_key)

    def pools(self, admin=None):
        got = (admin or self.admin).get("/pool")
        if got.status != 200:
            raise AssertionError(f"pools: {got}")
        return {(p["template"], p["size"], p["network"]): p for p in got.json["items"]}

    def pool(self, template="box", size="small", network="none", admin=None):
        return self.pools(admin).get((template, size, network))

    def wait_ready(self, count, timeout=60, **which):
        """Until so many wait, by the record and by what this server offers."""
        def ready():
            p = self.pool(**which)
            return p and p["ready"] == count and p["filling"] == 0 and p
        found = wait_for(ready, timeout, f"{count} that wait", pause=0.1)
        wait_for(lambda: self.metric("sandboxd_pool_ready") == self.held(), 20, "slots on offer")
        return found

    def held(self):
        return int(self.service.psql(f"SELECT count(*) FROM sandboxes WHERE {WAITS}"))

    def metric(self, name, labels=""):
        text = self.api.get("/metrics").body.decode()
        found = re.findall(rf"^{name}{{[^}}]*{labels}[^}}]*}} (\d+)", text, re.M)
        return sum(int(n) for n in found)

    def waiting(self):
        """Ids of what waits."""
        told = self.service.psql(f"SELECT id FROM sandboxes WHERE {WAITS} ORDER BY created_at")
        return told.split()

    def resize(self, **body):
        return self.admin.patch("/pool", {"template": "box", **body})

    def close(self):
        self.service.close()


class PoolCase(SystemCase):
    def make(self, pool, **options):
        made = Pools(pool, **options)
        self.addCleanup(made.close)
        return made


class HitTest(PoolCase):
    @classmethod
    def setUpClass(cls):
        cls.addClassCleanup(sandboxd.remove_images)
        cls.p = Pools("box=3")
        cls.addClassCleanup(cls.p.close)

    def setUp(self):
        self.p.wait_ready(3)

    def test_a_create_takes_a_started_sandbox_and_says_so(self):
        slots = self.p.waiting()
        box = self.p.api.create(name="mine", metadata={"a": "b"}, timeoutSeconds=77)
        self.assertTrue(box["warm"])
        self.assertIn(box["id"], slots)
        self.assertEqual((box["state"], box["name"], box["metadata"]),
                         ("running", "mine", {"a": "b"}))
        self.assertEqual(box["timeoutSeconds"], 77)
        self.assertEqual(self.p.api.exec(box["id"], "echo up")["stdout"], "up\n")
        self.p.wait_ready(3)
        self.assertNotIn(box["id"], self.p.waiting())
        self.assertEqual(self.p.api.delete(f"/sandboxes/{box['id']}").status, 204)
        self.assertFalse(self.p.service.container_exists(box["id"]))


if __name__ == "__main__":
    unittest.main()
