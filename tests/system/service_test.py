"""The service itself: health, metrics, the API document, options, logs, drain, two workers."""
import json
import re
import signal
import threading
import time
import unittest

import sandboxd
from sandboxd import Client, SystemCase, wait_for

QUICK = True

service = api = None


def setUpModule():
    global service, api
    service, api = sandboxd.module_service()


class HealthTest(SystemCase):
    def test_health_needs_no_key(self):
        got = Client(api.server).get("/health")
        self.assertEqual(got.status, 200)
        self.assertEqual(got.json["status"], "ok")
        self.assertRegex(got.json["version"], r"^\d+\.\d+\.\d+")

    def test_readiness_has_an_entry_per_dependency(self):
        got = Client(api.server).get("/ready")
        self.assertEqual(got.status, 200)
        for name in ("store", "bus", "engine"):
            self.assertEqual(got.json[name]["status"], "ok", got)
            self.assertGreaterEqual(got.json[name]["latencyMs"], 0)

    def test_without_an_engine_it_serves_and_says_what_is_missing(self):
        other = sandboxd.Service(env={"DOCKER_HOST": "unix:///nonexistent/docker.sock"})
        self.addCleanup(other.close)
        client = Client(other.start(ready=None), other.key())
        got = client.get("/ready")
        self.assertEqual(got.status, 503)
        self.assertEqual((got.json["engine"]["status"], got.json["store"]["status"]),
                         ("unavailable", "ok"))
        self.assertGreaterEqual(int(got.headers["Retry-After"]), 1)
        self.assertEqual(client.get("/health").status, 200)
        told = self.assert_problem(client.post("/sandboxes", {"template": "box"}), 503,
                                   "engine_unavailable")
        self.assertEqual(client.state(told["sandboxId"]), "failed")
        self.assertEqual(client.get("/sandboxes").status, 200)
        self.assertEqual(client.delete(f"/sandboxes/{told['sandboxId']}").status, 503)
        # so that the end of the test need not ask the engine that is not there
        other.psql("UPDATE sandboxes SET state = 'deleted', worker = NULL")


class MetricsTest(SystemCase):
    def page(self):
        got = Client(api.server).get("/metrics")
        self.assertEqual(got.status, 200)
        self.assertTrue(got.headers["Content-Type"].startswith("text/plain; version=0.0.4"))
        return got.body.decode()

    def test_the_page_is_well_formed_and_has_the_promised_names(self):
        box = api.create()["id"]
        api.exec(box, "true")
        page = self.page()
        types, seen = {}, set()
        for line in page.splitlines():
            if line.startswith("# TYPE "):
                _, _, name, kind = line.split()
                self.assertNotIn(name, types, "a family stands twice")
                types[name] = kind
            elif not line.startswith("#"):
                match = re.fullmatch(r'([a-z_:]+)(\{([a-z_]+="[^"]*",?)*\})? (\S+)', line)
                self.assertTrue(match, line)
                float(match.group(4))
                self.assertNotIn(line.rsplit(" ", 1)[0], seen, line)
                seen.add(line.rsplit(" ", 1)[0])
                family = re.sub(r"_(bucket|sum|count)$", "", match.group(1))
                self.assertTrue(match.group(1) in types or types.get(family) == "histogram", line)
        self.assertEqual(types["http_requests_total"], "counter")
        self.assertEqual(types["http_request_duration_seconds"], "histogram")
        self.assertIn("process_resident_memory_bytes", types)
        self.assertIn("process_open_fds", types)
        self.assertIn("process_cpu_seconds_total", types)
        self.assertRegex(page, r'sandboxd_sandboxes\{state="running"\} [1-9]')
        self.assertRegex(page, r'sandboxd_create_duration_seconds_count\{template="box"\} [1-9]')
        self.assertRegex(page, r"sandboxd_exec_duration_seconds_count [1-9]")
        self.assertRegex(page, r'http_requests_total\{route="sandbox_create",method="POST",'
                               r'status="201"\} [1-9]')
        user = service.psql("SELECT id FROM users WHERE name = 'alice'")
        for owner in (user, "alice", box):
            self.assertNotIn(owner, page)
        self.assertEqual(api.delete(f"/sandboxes/{box}").status, 204)

    def test_buckets_rise_and_end_with_the_count(self):
        self.page()
        page = self.page()
        series = re.findall(
            r'http_request_duration_seconds_bucket\{route="metrics",le="([^"]+)"\} (\d+)', page)
        counts = [int(n) for _, n in series]
        self.assertEqual(series[-1][0], "+Inf")
        self.assertEqual(counts, sorted(counts))
        total = re.search(r'http_request_duration_seconds_count\{route="metrics"\} (\d+)', page)
        self.assertEqual(counts[-1], int(total.group(1)))

    def test_a_forwarded_request_is_refused(self):
        for header in ("X-Forwarded-For", "Forwarded"):
            got = Client(api.server).get("/metrics", headers={header: "for=10.0.0.1"})
            self.assert_problem(got, 403, "forbidden")

    def test_a_token_guards_the_page(self):
        other = sandboxd.Service(env={"SBX_METRICS_TOKEN": "tick-tock"})
        self.addCleanup(other.close)
        server = other.start()
        for key in (None, "wrong", "tick-toc", "tick-tock2"):
            self.assert_problem(Client(server, key).get("/metrics"), 403, "forbidden")
        got = Client(server, "tick-tock").get("/metrics", headers={"X-Forwarded-For": "10.0.0.1"})
        self.assertEqual(got.status, 200)
        self.assertNotIn("tick-tock", server.log_text())


class DocumentTest(SystemCase):
    def test_the_document_lists_exactly_what_answers(self):
        got = Client(api.server).get("/openapi.json")
        self.assertEqual(got.status, 200)
        document = got.json
        self.assertEqual(document["openapi"], "3.1.0")
        listed = {(method.upper(), path) for path, verbs in document["paths"].items()
                  for method in verbs}
        for want in (("POST", "/sandboxes"), ("GET", "/sandboxes"), ("GET", "/sandboxes/{id}"),
                     ("DELETE", "/sandboxes/{id}"), ("POST", "/sandboxes/{id}/exec"),
                     ("GET", "/sandboxes/{id}/logs"), ("GET", "/health"), ("GET", "/ready"),
                     ("GET", "/metrics"), ("GET", "/openapi.json")):
            self.assertIn(want, listed)
        nobody = Client(api.server)
        for path in document["paths"]:
            for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
                with self.subTest(method=method, path=path):
                    got = nobody.call(method, path.replace("{id}", "a" * 20),
                                      None if method in ("GET", "DELETE") else {})
                    if (method, path) in listed:
                        self.assertNotIn(got.status, (404, 405), got)
                    else:
                        self.assert_problem(got, 405, "method_not_allowed")
                        allowed = {m.strip() for m in got.headers["Allow"].split(",")}
                        self.assertEqual(allowed - {"HEAD", "OPTIONS"},
                                         {m for m, p in listed if p == path})
        for path in ("/nope", "/sandboxes/x/y", "/sandboxes/", "//", "/sandbox"):
            self.assertEqual(api.get(path).status, 404, path)


class LogTest(SystemCase):
    def test_each_line_is_json_and_names_the_request(self):
        got = api.post("/sandboxes", {"template": "nope"}, headers={"X-Request-Id": "my-id.42"})
        self.assertEqual(got.headers["X-Request-Id"], "my-id.42")
        self.assertEqual(got.json["requestId"], "my-id.42")
        line = wait_for(lambda: [entry for entry in api.server.log()
                                 if entry.get("req_id") == "my-id.42"], what="the line")[0]
        self.assertEqual((line["route"], line["status"]), ("sandbox_create", "400"))
        for text in api.server.log_text().splitlines():
            entry = json.loads(text)
            for name in ("ts", "level", "msg"):
                self.assertIn(name, entry)

    def test_a_request_without_an_id_or_with_a_bad_one_is_given_one(self):
        first, second = (api.get("/health").headers["X-Request-Id"] for _ in range(2))
        self.assertTrue(first and second and first != second)
        for bad in ("x" * 200, "a b", 'a"b', "ä"):
            told = api.get("/health", headers={"X-Request-Id": bad.encode("latin-1")})
            self.assertNotEqual(told.headers["X-Request-Id"], bad)

    def test_no_key_is_written(self):
        api.get("/sandboxes")
        Client(api.server, "sbx_wrong-key-0123456789").get("/sandboxes")
        text = api.server.log_text()
        self.assertNotIn(api.key, text)
        self.assertNotIn("wrong-key-0123456789", text)


class OptionTest(SystemCase):
    @classmethod
    def setUpClass(cls):
        cls.idle = sandboxd.Service()  # nobody serves on it, so all else is looked at
        cls.addClassCleanup(cls.idle.close)

    def refused(self, *arguments, env=None):
        got = sandboxd.sandboxd("serve", *arguments, env={**self.idle.env, **(env or {})})
        self.assertEqual(got.returncode, 1)
        return got.stderr

    def test_a_bad_value_names_option_source_and_range(self):
        for text in (self.refused("--fast-workers", "0"), self.refused("--fast-workers=x"),
                     self.refused(env={"SBX_FAST_WORKERS": "129"})):
            self.assertIn("fast-workers", text)
            self.assertIn("SBX_FAST_WORKERS", text)
            self.assertIn("from 1 to 128", text)

    def test_unknown_options_arguments_and_commands_are_refused(self):
        self.assertIn("--colour", self.refused("--colour", "red"))
        self.assertIn("surplus", self.refused("surplus"))
        self.assertIn("listen", self.refused("--listen"))
        got = sandboxd.sandboxd("dance")
        self.assertEqual(got.returncode, 1)
        self.assertIn("dance", got.stderr)

    def test_bad_texts_are_refused_before_anything_starts(self):
        for name, value in (("listen", "nonsense"), ("listen", "127.0.0.1:99999"),
                            ("templates", "python"), ("log-level", "loud"),
                            ("docker-host", "ftp://x"), ("redis-url", "http://x")):
            with self.subTest(name=name, value=value):
                self.assertIn(name.split("-")[0], self.refused(f"--{name}", value).lower())

    def test_a_missing_or_loose_secret_is_refused(self):
        loose = self.idle.folder / "loose"
        loose.write_text("0" * 64)
        loose.chmod(0o644)
        short = self.idle.folder / "short"
        short.write_text("abc")
        short.chmod(0o600)
        for path in (loose, short, self.idle.folder / "missing"):
            with self.subTest(path=path.name):
                self.assertIn(path.name, self.refused("--secret-file", str(path)))

    def test_a_database_that_is_not_there_or_not_migrated_is_told(self):
        text = self.refused(env={"DATABASE_URL": "postgresql://nobody@/x?host=%2Fnonexistent"})
        self.assertTrue(text.strip())
        self.assertNotIn("password", text)
        self.idle.psql(f"CREATE DATABASE {self.idle.name}_empty", self.idle.admin_url)
        self.addCleanup(self.idle.psql, f"DROP DATABASE {self.idle.name}_empty", self.idle.admin_url)
        empty = self.idle.url.replace(self.idle.name, self.idle.name + "_empty")
        self.assertIn("migrate", self.refused(env={"DATABASE_URL": empty}))

    def test_the_file_is_weaker_than_the_environment_and_that_than_a_flag(self):
        path = self.idle.folder / "config"
        path.write_text("# a comment\n\nSBX_QUEUE=1\n")
        self.assertIn(str(path), self.refused("--config", str(path)))
        path.write_text("SBX_LOG_LEVEL=loud\nSBX_QUEUE=16\n")
        got = sandboxd.sandboxd("serve", "--config", str(path), "--log-level", "loud2",
                                env={**self.idle.env, "SBX_LOG_LEVEL": "info"})
        self.assertEqual(got.returncode, 1)
        for text in ("COLOUR=red\n", "just words\n"):
            path.write_text(text)
            self.assertIn("line 1", self.refused("--config", str(path)))
        self.assertIn("/no/such", self.refused("--config", "/no/such"))

    def test_help_lists_every_option_with_environment_and_default(self):
        got = sandboxd.sandboxd("--help")
        self.assertEqual(got.returncode, 0)
        header = (sandboxd.REPO / "include/sbx/core/options.h").read_text()
        rows = re.findall(r'X\(\w+, (?:STR|INT), "([a-z-]+)", "([A-Z_]+)"', header)
        self.assertGreater(len(rows), 20)
        for flag, env in rows:
            self.assertRegex(got.stdout, rf"--{flag} +{env} ")
        self.assertIn("(1-128, default 4)", got.stdout)
        for command in ("serve", "migrate", "key", "doctor", "version"):
            self.assertIn(command, got.stdout)


class WorkerTest(SystemCase):
    def test_a_second_worker_without_redis_is_refused(self):
        got = sandboxd.sandboxd("serve", env=service.env)
        self.assertEqual(got.returncode, 1)
        self.assertIn("Redis", got.stderr)
        self.assertEqual(Client(api.server).get("/ready").status, 200)

    def test_a_worker_that_was_killed_does_not_block_the_next(self):
        other = sandboxd.Service()
        self.addCleanup(other.close)
        other.start().kill()
        began = time.monotonic()
        other.start()
        self.assertLess(time.monotonic() - began, 10)


class DrainTest(SystemCase):
    def test_sigterm_lets_a_running_request_finish_and_takes_no_more(self):
        other = sandboxd.Service()
        self.addCleanup(other.close)
        server = other.start()
        client = Client(server, other.key())
        box = client.create()["id"]
        got = []
        runner = threading.Thread(target=lambda: got.append(
            client.post(f"/sandboxes/{box}/exec", {"command": "echo >/tmp/on; sleep 3; echo ok"})))
        runner.start()
        wait_for(lambda: client.exec(box, "test -e /tmp/on")["exitCode"] == 0, what="the command")
        server.signal(signal.SIGTERM)

        def refused():
            try:
                return client.get("/health", timeout=5).status == 503
            except OSError:
                return True
            except sandboxd.http.client.HTTPException:
                return True
        wait_for(refused, 5, "a server that takes no more")
        runner.join(20)
        self.assertEqual(got[0].status, 200, got)
        self.assertEqual(got[0].json["stdout"], "ok\n")
        self.assertEqual(server.wait(20), 0)
        other.start()

    def test_sigterm_ends_in_time_although_a_request_waits_for_long(self):
        other = sandboxd.Service(env={"SBX_DRAIN_SECONDS": 1})
        self.addCleanup(other.close)
        server = other.start()
        client = Client(server, other.key())
        box = client.create()["id"]
        stream = client.exec_stream(box, "sleep 600")
        stream.next()
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        self.assertEqual(server.wait(20), 0)
        self.assertLess(time.monotonic() - began, 10)
        stream.close()
        other.start()


if __name__ == "__main__":
    unittest.main()
