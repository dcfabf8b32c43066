"""`sandboxd doctor` with each part broken in turn, and `sandboxd migrate --dry-run`."""
import hashlib
import json
import os
import resource
import shutil
import socket
import subprocess
import time
import unittest

import sandboxd
from sandboxd import SystemCase

QUICK = True

service = None


def setUpModule():
    global service
    service = sandboxd.Service()
    unittest.addModuleCleanup(service.close)


def doctor(env=None, *arguments):
    return sandboxd.sandboxd("doctor", *arguments, env={**service.env, **(env or {})})


class DoctorTest(SystemCase):
    def findings(self, env=None, status=None):
        """By name: (status, value, todo); and the exit status and the sum are checked."""
        got = doctor(env, "--json")
        told = json.loads(got.stdout)
        found = {c["name"]: (c["status"], c["value"], c["todo"]) for c in told["checks"]}
        self.assertEqual(len(found), len(told["checks"]))
        worst = "fail" if any(c[0] == "fail" for c in found.values()) else told["status"]
        self.assertEqual(told["status"], worst)
        self.assertEqual(got.returncode, int(worst == "fail"), got)
        for name, (level, value, todo) in found.items():
            self.assertTrue(value, name)
            self.assertEqual(todo is None, level == "ok", name)
        if status:
            self.assertEqual(told["status"], status, found)
        return found

    def broken(self, name, env, level="fail", text=""):
        """Only `name` is not ok, and its value contains `text`."""
        found = self.findings(env, level)
        self.assertEqual(found[name][0], level, found)
        self.assertIn(text, found[name][1])
        return found

    def test_a_sound_installation(self):
        found = self.findings()
        for name in ("listen", "cors", "secret", "descriptors", "store", "store-clock",
                     "store-connections", "migrations", "pooler", "bus", "engine-access", "engine",
                     "engine-limits", "engine-seccomp", "runtime", "engine-disk", "image python",
                     "image node", "image box", "agent"):
            self.assertIn(name, found)
            self.assertNotEqual(found[name][0], "fail", found[name])
        self.assertRegex(found["store"][1], r"^PostgreSQL \d+")
        self.assertRegex(found["engine"][1], r"^Docker Engine \S+, API 1\.\d+, \w+, \d+ cpus")
        self.assertRegex(found["engine-limits"][1], r"cgroup version [12]")

    def test_the_text_has_a_line_for_each_finding_and_what_to_do(self):
        got = doctor({"SBX_LISTEN": "0.0.0.0:7070"})
        self.assertRegex(got.stdout, r"(?m)^ok +secret +/")
        self.assertRegex(got.stdout, r"(?m)^warn +listen +0\.0\.0\.0:7070")
        self.assertRegex(got.stdout, r"(?m)^ +-> set --metrics-token")
        self.assertRegex(got.stdout.splitlines()[-1], r"^\d+ ok, \d+ to look at, 0 failed$")

    def test_the_guard_of_the_network(self):
        none = {"SBX_NETWORK": "open", "SBX_GUARD_IMAGE": "sandboxd-test/no-guard:1"}
        self.broken("network", none, text="no-guard")
        self.assertEqual(self.findings({"SBX_NETWORK": "open"})["network"][0], "ok")

    def test_addresses(self):
        found = self.findings({"SBX_LISTEN": "0.0.0.0:1", "SBX_METRICS_TOKEN": "x" * 20})
        self.assertEqual(found["listen"][0], "warn")
        self.assertNotIn("x" * 20, str(found))
        found = self.findings({"SBX_CORS_ORIGINS": "https://app.example"})
        self.assertEqual(found["cors"], ("ok", "https://app.example", None))

    def test_secret(self):
        self.broken("secret", {"SBX_SECRET_FILE": ""})
        self.broken("secret", {"SBX_SECRET_FILE": "/no/such/file"}, text="No such file")
        path = service.folder / "open-secret"
        shutil.copy(service.env["SBX_SECRET_FILE"], path)
        path.chmod(0o644)
        self.broken("secret", {"SBX_SECRET_FILE": path}, text="0644")
        path.chmod(0o600)
        os.chown(path, 12345, -1)
        self.assertEqual(self.findings({"SBX_SECRET_FILE": path})["secret"][0], "warn")

    def test_store(self):
        found = self.broken("store", {"DATABASE_URL": "postgresql://nobody:pw@127.0.0.1:1/x"})
        self.assertNotIn("pw@", str(found))
        self.assertNotIn("migrations", found)
        self.broken("store", {"DATABASE_URL": ""})
        self.broken("pooler", {"DATABASE_DIRECT_URL": "postgresql://127.0.0.1:1/x"})
        found = self.findings({"DATABASE_DIRECT_URL": service.url})
        self.assertEqual(found["pooler"][0], "ok")

    def test_connections_are_counted_against_what_all_lanes_may_open(self):
        lanes = {"SBX_FAST_WORKERS": "128", "SBX_SLOW_WORKERS": "128", "SBX_REAP_WORKERS": "32"}
        room = int(service.psql("SELECT current_setting('max_connections')::int - "
                                "current_setting('superuser_reserved_connections')::int"))
        need, used = 128 + 128 + 32 + 4, "SELECT sum(numbackends) FROM pg_stat_database"
        if room < need:
            self.broken("store-connections", lanes, text=f"needs {need}")
            return
        sleepers = [subprocess.Popen(["psql", "-XAtq", "-d", service.url, "-c",
                                      "SELECT pg_sleep(60)"], stdout=subprocess.DEVNULL)
                    for _ in range(room - need + 1)]
        try:
            sandboxd.wait_for(lambda: int(service.psql(used)) > room - need, what="connections")
            found = self.broken("store-connections", lanes, "warn", f"needs {need}")
            self.assertIn(f"{room} are allowed", found["store-connections"][1])
        finally:
            for sleeper in sleepers:
                sleeper.terminate()
                sleeper.wait(10)

    def test_migrations(self):
        service.psql("UPDATE schema_migrations SET checksum = 'x' WHERE version = 1")
        try:
            self.broken("migrations", {}, text="0001_base")
        finally:
            restore = sandboxd.sandboxd("migrate", "--dry-run", env=service.env).stdout
            text = (sandboxd.REPO / "migrations/0001_base.sql").read_bytes()
            service.psql("UPDATE schema_migrations SET checksum = "
                         f"'{hashlib.sha256(text).hexdigest()}' WHERE version = 1")
            self.assertIn("differs  0001_base", restore)

    def test_bus(self):
        self.broken("bus", {"REDIS_URL": "redis://:secretword@127.0.0.1:1"})
        self.broken("bus", {"REDIS_URL": "nonsense"})
        found = self.findings({"REDIS_URL": sandboxd.REDIS_URL})
        self.assertEqual(found["bus"][0], "ok")
        self.assertRegex(found["bus"][1], r"^Redis \d+\.\d+")

    def test_engine(self):
        found = self.findings({"DOCKER_HOST": "unix:///no/such.sock"}, "fail")
        self.assertEqual((found["engine"][0], found["engine-access"][0]), ("fail", "fail"))
        self.assertNotIn("image python", found)
        found = self.findings({"DOCKER_HOST": "tcp://127.0.0.1:1"}, "fail")
        self.assertEqual((found["engine"][0], found["engine-access"][0]), ("fail", "warn"))
        self.broken("runtime", {"SBX_RUNTIME": "nosuch"}, text="nosuch")
        self.assertEqual(self.findings({"SBX_RUNTIME": "runc"})["runtime"], ("ok", "runc", None))
        found = self.findings({"SBX_TEMPLATES": "odd=sbxtest-no-such:1"})
        self.assertEqual(found["image odd"][0], "warn")
        self.broken("images", {"SBX_TEMPLATES": "odd"})

    def test_agent(self):
        self.broken("agent", {"SBX_AGENT_PATH": "/no/such/agent"}, text="No such file")
        self.broken("agent", {"SBX_AGENT_PATH": sandboxd.BIN / "sandboxd"},
                    text="is linked dynamically")
        path = service.folder / "foreign-agent"
        program = bytearray((sandboxd.BIN / "sbx-agent").read_bytes())
        program[18:20] = b"\xf3\x00"  # e_machine: RISC-V
        path.write_bytes(program)
        path.chmod(0o755)
        self.broken("agent", {"SBX_AGENT_PATH": path}, text="riscv64")
        path.write_text("#!/bin/sh\n")
        self.broken("agent", {"SBX_AGENT_PATH": path}, text="no 64-bit program")
        self.broken("files", {"SBX_FILES_PATH": "/no/such/files"}, text="No such file")

    def test_descriptors(self):
        found = self.findings({"SBX_MAX_CONNECTIONS": "100000"})
        limit = found["descriptors"]
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        self.assertEqual(limit[0], "warn" if 0 <= hard < 100512 else "ok")

    def test_parts_that_hang_cost_seconds(self):
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen(16)
            port = silent.getsockname()[1]
            began = time.monotonic()
            found = self.findings({"DATABASE_URL": f"postgresql://127.0.0.1:{port}/x",
                                   "REDIS_URL": f"redis://127.0.0.1:{port}",
                                   "DOCKER_HOST": f"tcp://127.0.0.1:{port}"}, "fail")
            self.assertLess(time.monotonic() - began, 20)
        self.assertEqual([found[n][0] for n in ("store", "bus", "engine")], ["fail"] * 3)


class DryRunTest(SystemCase):
    def setUp(self):
        self.name = service.name + "_dry"
        service.psql(f"CREATE DATABASE {self.name}", service.admin_url)
        self.addCleanup(service.psql, f"DROP DATABASE {self.name} WITH (FORCE)", service.admin_url)
        self.url = service.url.replace(service.name, self.name)
        self.names = sorted(p.stem for p in (sandboxd.REPO / "migrations").glob("*.sql"))

    def dry(self):
        return sandboxd.sandboxd("migrate", "--dry-run", env={"DATABASE_URL": self.url})

    def lines(self, got):
        return [tuple(line.split()[:2]) for line in got.stdout.splitlines()[:-1]]

    def test_an_empty_database_lists_all_and_stays_empty(self):
        got = self.dry()
        self.assertEqual(got.returncode, 3, got)
        self.assertEqual(self.lines(got), [("pending", name) for name in self.names])
        self.assertIn(f"{len(self.names)} migration", got.stdout.splitlines()[-1])
        self.assertEqual(service.psql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'",
                                      self.url), "0")

    def test_a_complete_database_has_nothing_pending(self):
        self.assertEqual(sandboxd.sandboxd("migrate", env={"DATABASE_URL": self.url}).returncode, 0)
        got = self.dry()
        self.assertEqual(got.returncode, 0, got)
        self.assertEqual(self.lines(got), [("applied", name) for name in self.names])

    def test_what_differs_or_is_unknown_is_an_error_that_names_it(self):
        sandboxd.sandboxd("migrate", env={"DATABASE_URL": self.url})
        service.psql("INSERT INTO schema_migrations VALUES (9999, '9999_future', 'abc')", self.url)
        got = self.dry()
        self.assertEqual(got.returncode, 1, got)
        self.assertIn(("unknown", "9999_future"), [tuple(line.split()[:2])
                                                   for line in got.stdout.splitlines()])
        self.assertIn("newer", got.stderr)
        service.psql("DELETE FROM schema_migrations WHERE version = 9999; "
                     "UPDATE schema_migrations SET checksum = 'x' WHERE version = 1", self.url)
        got = self.dry()
        self.assertEqual(got.returncode, 1, got)
        self.assertIn("differs  0001_base", got.stdout)


if __name__ == "__main__":
    unittest.main()
