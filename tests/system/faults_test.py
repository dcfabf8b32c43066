"""Bad input and faults at the level of the API: a clear error, nothing leaked, the server stays."""
import json
import secrets
import socket
import struct
import time
import unittest

import parts
import sandboxd
from sandboxd import Client, SystemCase, all_at_once, wait_for

TIMEOUT_S = 300

service = api = None


def setUpModule():
    global service, api
    service, api = sandboxd.module_service(env={"SBX_SWEEP_SECONDS": 1, "SBX_BODY_TIMEOUT": 2,
                                                "SBX_HEADER_TIMEOUT": 2})


class BodyTest(SystemCase):
    def test_malformed_json_is_refused(self):
        for body in (b"{", b"[]", b'"x"', b"nul", b'{"name":}', b"{'a':1}", b'{"a":1,}', b"\xff",
                     b'{"name":"\xff"}', b'{"name":"a\x01"}', b'{"name":"\\ud800"}', b"{}{}",
                     b'{"timeoutSeconds":01}', b'{"timeoutSeconds":1e999}', b"[" * 100000,
                     b'{"metadata":' * 40 + b"1" + b"}" * 40, b"\0", b" ", b'{"a":NaN}'):
            with self.subTest(body=body[:40]):
                self.assert_problem(api.call("POST", "/sandboxes", body), 400, "invalid_request")

    def test_unknown_fields_are_refused_by_name_at_every_depth(self):
        for body, field in (({"colour": "red"}, "colour"), ({"Name": "x"}, "Name"),
                            ({"limits": {"ram": 1}}, "limits.ram"),
                            ({"network": {"mode": "none", "dns": []}}, "network.dns")):
            with self.subTest(field=field):
                self.assert_problem(api.post("/sandboxes", body), 400, "invalid_request", field)

    def test_values_out_of_range_are_refused_by_field(self):
        cases = [
            ("timeoutSeconds", 0), ("timeoutSeconds", 86401), ("timeoutSeconds", -1),
            ("timeoutSeconds", 1.5), ("timeoutSeconds", "60"), ("timeoutSeconds", None),
            ("timeoutSeconds", 1e30), ("idleTimeoutSeconds", 0), ("idleTimeoutSeconds", 86401),
            ("size", "huge"), ("size", 3), ("name", ""), ("name", "x" * 129), ("name", 7),
            ("name", "a\nb"), ("metadata", {"k": 1}), ("metadata", {"k": "v" * 1025}),
            ("metadata", {str(i): "" for i in range(33)}), ("metadata", []), ("metadata", {"": "x"}),
            ("env", {"1A": "x"}), ("env", {"A B": "x"}), ("env", {"": "x"}), ("env", {"A": None}),
            ("env", {"SBX_AGENT_TOKEN": "x"}), ("env", {"A": "x" * 40000}),
            ("env", {f"V{i}": "" for i in range(129)}),
            ("env", {f"V{i}": "x" * 30000 for i in range(6)}), ("command", ""), ("command", []),
            ("command", [1]), ("command", ["x"] * 257), ("wait", "yes"), ("wait", 1),
            ("image", ""), ("image", "x" * 256), ("image", "-rm"), ("image", "a b"),
            ("image", "../../x?y=z"), ("template", ""), ("template", 5), ("limits", 5),
        ]
        for field, value in cases:
            with self.subTest(field=field, value=str(value)[:40]):
                self.assert_problem(api.post("/sandboxes", {"template": "box", field: value}
                                             if field != "template" else {field: value}), 400,
                                    "invalid_request", field)
        for name, values in (("cpus", (0, 0.4, 4.1, -1, "1", 1.00001)),
                             ("memoryMb", (0, 255, 4097, 256.5, "1g")),
                             ("pids", (0, 9, 4097, -5, 1 << 70))):
            for value in values:
                with self.subTest(limit=name, value=value):
                    got = api.post("/sandboxes", {"template": "box", "limits": {name: value}})
                    self.assert_problem(got, 400, "invalid_request", f"limits.{name}")

    def test_a_name_that_stands_twice_is_refused(self):
        for body, field in ((b'{"name":"a","name":"b"}', "name"),
                            (b'{"limits":{"pids":20,"pids":30}}', "pids"),
                            (b'{"metadata":{"k":"1","k":"2"}}', "k"),
                            (b'{"name":"a","n\\u0061me":"b"}', "name")):
            with self.subTest(body=body):
                told = self.assert_problem(api.call("POST", "/sandboxes", body), 400,
                                           "invalid_request")
                self.assertIn(field, told["errors"][0]["field"])

    def test_bodies_of_12_mb_are_413(self):
        body = json.dumps({"name": "x" * (12 << 20)}).encode()
        for path in ("/sandboxes", f"/sandboxes/{'a' * 20}/exec"):
            self.assert_problem(self.sent(path, body), 413, "payload_too_large")
        self.assertEqual(api.get("/health").status, 200)

    def sent(self, path, body):
        """The answer may come while the body is still on its way, which http.client dislikes."""
        with socket.create_connection(("127.0.0.1", api.server.port), 20) as sock:
            sock.sendall((f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\n"
                          f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                          ).encode())
            try:
                sock.sendall(body)
            except OSError:
                pass
            response = sandboxd.http.client.HTTPResponse(sock)
            response.begin()
            return sandboxd.Answer(response.status, response.headers, response.read())

    def test_another_media_type_is_415(self):
        for kind in ("text/plain", "application/xml", "application/x-www-form-urlencoded"):
            got = api.call("POST", "/sandboxes", b"{}", headers={"Content-Type": kind})
            self.assert_problem(got, 415, "unsupported_media_type")
        for kind in ("application/json", "application/json; charset=utf-8", "Application/JSON"):
            got = api.call("POST", "/sandboxes", b'{"x":1}', headers={"Content-Type": kind})
            self.assert_problem(got, 400, "invalid_request", "x")


class AccessTest(SystemCase):
    def test_missing_and_wrong_keys_are_401(self):
        good = api.key
        cases = [{}, {"Authorization": "Bearer"}, {"Authorization": f"Basic {good}"},
                 {"Authorization": f"Bearer {good}x"}, {"Authorization": f"Bearer {good[:-1]}"},
                 {"Authorization": "Bearer " + "x" * 5000}, {"X-API-Key": "nope"},
                 {"X-API-Key": ""}, {"Authorization": f"Bearer {good[:-1]}\xe9"},
                 {"Authorization": good}]
        nobody = Client(api.server)
        for headers in cases:
            for method, path in (("GET", "/sandboxes"), ("POST", "/sandboxes"),
                                 ("GET", f"/sandboxes/{'a' * 20}"),
                                 ("POST", f"/sandboxes/{'a' * 20}/exec")):
                with self.subTest(headers=str(headers)[:60], path=path):
                    got = nobody.call(method, path, {} if method == "POST" else None,
                                      headers=headers)
                    self.assert_problem(got, 401, "unauthorized")
        for headers in ({"Authorization": f"Bearer {good}"}, {"X-API-Key": good},
                        {"Authorization": f"bearer {good}"}):
            self.assertEqual(nobody.get("/sandboxes", headers=headers).status, 200)

    def test_a_key_reaches_only_what_its_scopes_say(self):
        reader = Client(api.server, service.key("alice", "--scopes", "sandbox:read"))
        box = api.create()["id"]
        for method, path, body in (("POST", "/sandboxes", {}), ("DELETE", f"/sandboxes/{box}", None),
                                   ("POST", f"/sandboxes/{box}/exec", {"command": "true"})):
            self.assert_problem(reader.call(method, path, body), 403, "forbidden")
        self.assertEqual(reader.get(f"/sandboxes/{box}").status, 200)
        self.assertEqual(reader.get(f"/sandboxes/{box}/logs").status, 200)
        runner = Client(api.server, service.key("alice", "--scopes", "exec:write"))
        self.assertEqual(runner.exec(box, "echo x")["stdout"], "x\n")
        self.assert_problem(runner.get("/sandboxes"), 403, "forbidden")

    def test_a_revoked_or_expired_key_is_401(self):
        for column in ("revoked_at", "expires_at"):
            key = service.key("carol")
            client = Client(api.server, key)
            self.assertEqual(client.get("/sandboxes").status, 200)
            service.psql(f"UPDATE api_keys SET {column} = now() - interval '1 s' WHERE user_id ="
                         " (SELECT id FROM users WHERE name = 'carol')")
            wait_for(lambda c=client: c.get("/sandboxes").status == 401, 70, "a 401", 0.2)

    def test_only_a_hash_of_a_key_is_stored(self):
        rows = service.psql("SELECT row_to_json(k) FROM api_keys k")
        self.assertNotIn(api.key, rows)
        self.assertNotIn(api.key.encode().hex(), rows)


class ClientTest(SystemCase):
    def half(self, data, reset=True):
        sock = socket.create_connection(("127.0.0.1", api.server.port), 10)
        sock.sendall(data)
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        return sock

    def request(self, body, length=None):
        return (f"POST /sandboxes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {length or len(body)}\r\n\r\n"
                ).encode() + body

    def test_clients_that_vanish_amid_a_create_leave_nothing_behind(self):
        mark = secrets.token_hex(4)
        body = json.dumps({"template": "box", "metadata": {"mark": mark}}).encode()
        socks = [self.half(self.request(body), reset=False) for _ in range(5)]
        count = f"SELECT count(*) FROM sandboxes WHERE metadata->>'mark' = '{mark}'"
        wait_for(lambda: service.psql(count) == "5", what="five records")
        for sock in socks:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        wait_for(lambda: {r["state"] for r in api.pages(f"metadata.mark={mark}")}
                 <= {"running", "failed"}, 40, "records that are settled", 0.2)
        running = [r["id"] for r in api.pages(f"metadata.mark={mark}&state=running")]
        for box in running:
            self.assertTrue(service.container_exists(box))
            self.assertEqual(api.exec(box, "echo x")["stdout"], "x\n")

    def test_half_requests_do_nothing_and_hold_nothing(self):
        before = api.server.descriptors()
        for data in (b"", b"G", b"POST /sandboxes HTTP/1.1\r\nHos", self.request(b"{", 100),
                     b"\x16\x03\x01\x02\x00\x01\x00", b"\0" * 100):
            for _ in range(10):
                self.half(data)
        wait_for(lambda: api.server.descriptors() <= before + 2, 10, "closed connections")
        self.assertEqual(api.get("/health").status, 200)

    def test_slow_clients_are_cut_off(self):
        for data, limit in ((b"GET /health HT", 6), (self.request(b"{", 100), 8)):
            began = time.monotonic()
            sock = self.half(data, reset=False)
            sock.settimeout(20)
            answer = b""
            while chunk := sock.recv(4096):
                answer += chunk
            sock.close()
            self.assertLess(time.monotonic() - began, limit)
            self.assertIn(answer[:12], (b"", b"HTTP/1.1 408"))

    def test_descriptors_and_memory_do_not_grow(self):
        box = api.create()["id"]
        for round_ in range(3):
            all_at_once(lambda i: api.exec(box, "true"), range(100), 16)
            if round_ == 0:
                fds, rss = api.server.descriptors(), api.server.rss_kb()
        wait_for(lambda: api.server.descriptors() <= fds + 5, 10, "closed descriptors")
        self.assertLess(api.server.rss_kb() - rss, 4 * 1024)


class ImageTest(SystemCase):
    def assert_cannot_run(self, image, status=502, code="engine_error", **more):
        got = api.post("/sandboxes", {"image": image, **more}, timeout=120)
        told = self.assert_problem(got, status, code)
        record = api.sandbox(told["sandboxId"])
        self.assertEqual(record["state"], "failed")
        self.assertTrue(record["stateReason"]["message"])
        self.assertFalse(service.container_exists(record["id"]))
        return told

    def test_an_image_where_the_agents_folder_is_a_file(self):
        files = {**sandboxd.box_files(), ".sbx": b"not a folder"}
        self.assert_cannot_run(sandboxd.make_image("sbxtest-blocked:1", files))

    def test_an_image_of_another_processor_or_without_anything_still_runs_the_agent_or_says_why(self):
        empty = sandboxd.make_image("sbxtest-empty:1", {"x": b""})
        got = api.post("/sandboxes", {"image": empty}, timeout=60)
        self.assertEqual(got.status, 201, got)
        self.assertEqual(api.exec(got.json["id"], ["/bin/true"])["exitCode"], 127)
        self.assertEqual(api.delete(f"/sandboxes/{got.json['id']}").status, 204)

    def test_an_image_with_hostile_users_runs_as_nobody_special(self):
        files = {**sandboxd.box_files(), "etc/passwd": b"\xff:::\nroot:x:0\n" + b"a" * 50000,
                 "etc/group": b"\0"}
        box = api.create(image=sandboxd.make_image("sbxtest-badusers:1", files))["id"]
        self.assertNotEqual(api.exec(box, ["id", "-u"])["stdout"].strip(), "0")

    def test_a_main_process_that_exits_at_once_is_logged_and_the_sandbox_stays(self):
        box = api.create(command=["sh", "-c", "echo bye; exit 3"])["id"]
        lines = wait_for(lambda: [e for e in api.logs(box) if "exit code 3" in e["data"]],
                         what="the entry")
        self.assertEqual(lines[0]["source"], "system")
        self.assertEqual([e["data"] for e in api.logs(box, "?source=main")], ["bye"])
        self.assertEqual(api.state(box), "running")
        self.assertEqual(api.exec(box, "echo x")["stdout"], "x\n")

    def test_a_main_process_that_does_not_exist_is_logged_and_the_sandbox_stays(self):
        box = api.create(command=["/no/such"])["id"]
        wait_for(lambda: [e for e in api.logs(box) if e["source"] == "system"
                          and ("127" in e["data"] or "not" in e["data"])], what="the entry")
        self.assertEqual(api.state(box), "running")


    def test_a_main_process_that_ended_with_its_sandbox_did_start(self):
        box = api.create(command=["sleep", "1000"])["id"]
        wait_for(lambda: "sleep" in api.exec(box, "ps")["stdout"], what="the main process")
        self.assertEqual(api.delete(f"/sandboxes/{box}").status, 204)
        told = wait_for(lambda: service.psql(
            f"SELECT error FROM sandbox_executions WHERE sandbox = '{box}' AND kind = 'main'"
            " AND duration_ms IS NOT NULL AND error <> 'lost'"),
            what="the record")
        self.assertEqual(told, "gone")


class LoadTest(SystemCase):
    def test_50_creates_at_once_all_succeed(self):
        got = all_at_once(lambda i: api.post("/sandboxes", {"template": "box", "size": "nano"},
                                             timeout=120), range(50), 50)
        self.assertEqual([g.status for g in got], [201] * 50)
        ids = [g.json["id"] for g in got]
        self.assertEqual(len(set(ids)), 50)
        out = all_at_once(lambda box: api.exec(box, ["hostname"])["stdout"].strip(), ids, 16)
        self.assertEqual(out, ids)
        gone = all_at_once(lambda box: api.delete(f"/sandboxes/{box}", timeout=120).status, ids, 50)
        self.assertEqual(gone, [204] * 50)


class StoreTest(SystemCase):
    def test_the_store_goes_and_comes_back(self):
        postgres = parts.PrivatePostgres()
        self.addCleanup(postgres.remove)
        postgres.start()
        other = sandboxd.Service(database_url=postgres.url)
        self.addCleanup(other.close)
        client = Client(other.start(), other.key())
        box = client.create()["id"]
        stream = client.exec_stream(box, "sleep 4; echo survived")
        events = stream.events()
        next(events)
        postgres.stop()
        self.assert_problem(client.get(f"/sandboxes/{box}"), 503, "store_unavailable")
        self.assert_problem(client.post("/sandboxes", {"template": "box"}), 503,
                            "store_unavailable")
        self.assert_problem(client.post(f"/sandboxes/{box}/exec", {"command": "true"}), 503,
                            "store_unavailable")
        ready = wait_for(lambda: next((r for r in [client.get("/ready")] if r.status == 503), None))
        self.assertEqual(ready.json["store"]["status"], "unavailable")
        self.assertEqual(client.get("/health").status, 200)
        self.assertIn("survived\n", [e.get("data") for _, e in events])
        stream.close()
        postgres.start()
        wait_for(lambda: client.get(f"/sandboxes/{box}").status == 200, 15, "recovery")
        self.assertEqual(client.exec(box, "echo back")["stdout"], "back\n")
        self.assertTrue(other.servers[0].alive())

    def test_a_restart_amid_requests_breaks_nothing(self):
        postgres = parts.PrivatePostgres()
        self.addCleanup(postgres.remove)
        postgres.start()
        other = sandboxd.Service(database_url=postgres.url)
        self.addCleanup(other.close)
        client = Client(other.start(), other.key())
        got = []
        with sandboxd.concurrent.futures.ThreadPoolExecutor(8) as pool:
            busy = [pool.submit(client.post, "/sandboxes", {"template": "box"}) for _ in range(8)]
            wait_for(lambda: int(other.psql("SELECT count(*) FROM sandboxes")) >= 4, what="rows")
            postgres.stop()
            postgres.start()
            got = [b.result() for b in busy]
        for answer in got:
            if answer.status != 201:
                self.assert_problem(answer, 503, "store_unavailable")
        wait_for(lambda: client.get("/ready").status == 200, 15, "recovery")
        wait_for(lambda: all(s["state"] in ("running", "failed") for s in client.every()), 60,
                 "rows that are settled", 0.3)
        running = {s["id"] for s in client.every() if s["state"] == "running"}
        self.assertLessEqual({a.json["id"] for a in got if a.status == 201}, running)
        for box in running:
            self.assertEqual(client.exec(box, "echo up")["stdout"], "up\n")


if __name__ == "__main__":
    unittest.main()
