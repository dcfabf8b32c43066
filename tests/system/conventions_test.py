"""The conventions of the API against the real server: representations, CORS, strict requests, and
every problem code that can be produced."""
import gzip
import http.client
import json
import re
import socket
import unittest

import sandboxd
from sandboxd import Client, SystemCase, wait_for

QUICK = True
APP = "https://app.example"

service = api = box = None


def setUpModule():
    global service, api, box
    service, api = sandboxd.module_service(env={"SBX_CORS_ORIGINS": APP})
    box = api.create(command=["sh", "-c", "for i in $(seq 100); do echo line $i; done; sleep 1000"])["id"]
    wait_for(lambda: len(api.logs(box, "?limit=200")) >= 100, what="the lines")


def operations():
    """(method, path with a real sandbox) of every operation in the document."""
    document = api.get("/openapi.json").json
    return [(verb.upper(), path.replace("{id}", box))
            for path, verbs in document["paths"].items()
            for verb in verbs if verb in ("get", "post", "put", "patch", "delete")]


def reads():
    return [path for method, path in operations() if method == "GET" and "{" not in path]


class RepresentationTest(SystemCase):
    """`/ready`, `/health` and `/metrics` change with each call: their tags are not compared."""
    STABLE = ("/sandboxes", "/openapi.json")

    def read(self, method, path, **headers):
        return api.call(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})

    def test_every_read_has_a_tag_and_head_says_the_same(self):
        for path in reads():
            for coding in ("identity", "gzip"):
                with self.subTest(path=path, coding=coding):
                    got = self.read("GET", path, Accept_Encoding=coding)
                    if got.status != 200:
                        continue
                    self.assertRegex(got.headers["ETag"], r'^"[0-9a-f]{32}(-gzip)?"$')
                    self.assertIn("accept-encoding", got.headers["Vary"])
                    head = self.read("HEAD", path, Accept_Encoding=coding)
                    self.assertEqual((head.status, head.body), (200, b""))
                    self.assertEqual(head.headers["Content-Type"], got.headers["Content-Type"])
                    if path.startswith(self.STABLE) and not path.endswith("/stats"):
                        for name in ("ETag", "Content-Length", "Content-Encoding", "Vary"):
                            self.assertEqual(head.headers[name], got.headers[name], name)

    def test_what_did_not_change_is_304(self):
        for path in (f"/sandboxes/{box}", "/sandboxes", f"/sandboxes/{box}/logs", "/openapi.json"):
            for coding in ("identity", "gzip"):
                with self.subTest(path=path, coding=coding):
                    tag = self.read("GET", path, Accept_Encoding=coding).headers["ETag"]
                    for method in ("GET", "HEAD"):
                        got = self.read(method, path, Accept_Encoding=coding, If_None_Match=tag)
                        self.assertEqual((got.status, got.body, got.headers["ETag"]),
                                         (304, b"", tag))
                        self.assertTrue(got.headers["X-Request-Id"])
        tag = self.read("GET", f"/sandboxes/{box}").headers["ETag"]
        nobody = Client(api.server).get(f"/sandboxes/{box}", headers={"If-None-Match": tag})
        self.assert_problem(nobody, 401, "unauthorized")
        stranger = Client(api.server, service.key("mallory"))
        got = stranger.get(f"/sandboxes/{box}", headers={"If-None-Match": tag})
        self.assert_problem(got, 404, "not_found")

    def test_a_change_changes_the_tag(self):
        other = api.create()["id"]
        tag = self.read("GET", f"/sandboxes/{other}").headers["ETag"]
        self.assertEqual(api.delete(f"/sandboxes/{other}").status, 204)
        got = self.read("GET", f"/sandboxes/{other}", If_None_Match=tag)
        self.assertEqual((got.status, got.json["state"]), (200, "deleted"))

    def test_large_answers_are_compressed_also_those_of_commands(self):
        for path in ("/openapi.json", f"/sandboxes/{box}/logs"):
            plain = self.read("GET", path)
            coded = self.read("GET", path, Accept_Encoding="br, gzip;q=0.8")
            self.assertEqual(coded.headers["Content-Encoding"], "gzip")
            self.assertLess(len(coded.body), len(plain.body) // 2)
            self.assertEqual(gzip.decompress(coded.body), plain.body)
        for size, coding in ((100, None), (5000, "gzip"), (2000000, "gzip")):
            command = {"command": f"head -c {size} /dev/zero | tr '\\0' y",
                       "maxOutputBytes": 4000000}
            got = api.post(f"/sandboxes/{box}/exec", command, headers={"Accept-Encoding": "gzip"})
            self.assertEqual((got.status, got.headers["Content-Encoding"]), (200, coding), got)
            body = gzip.decompress(got.body) if coding else got.body
            self.assertEqual(json.loads(body)["stdout"], "y" * size)
            self.assertIsNone(got.headers["ETag"])

    def test_a_stream_is_neither_compressed_nor_started_by_head(self):
        with api.stream("GET", f"/sandboxes/{box}/logs?tail=1",
                        headers={"Accept-Encoding": "gzip"}) as stream:
            self.assertIsNone(stream.headers["Content-Encoding"])
            self.assertIsNone(stream.headers["ETag"])
            stream.next()
        got = self.read("HEAD", f"/sandboxes/{box}/logs", Accept="text/event-stream")
        self.assertEqual((got.status, got.headers["Content-Type"]), (200, "text/event-stream"))


class MethodTest(SystemCase):
    def test_each_path_names_its_methods(self):
        methods = {}
        for method, path in operations():
            methods.setdefault(path, set()).add(method)
        for path, has in methods.items():
            allow = has | {"OPTIONS"} | ({"HEAD"} if "GET" in has else set())
            with self.subTest(path=path):
                got = Client(api.server).call("OPTIONS", path)
                self.assertEqual((got.status, got.body), (204, b""))
                self.assertEqual(set(got.headers["Allow"].split(", ")), allow)
                for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "BREW"} - allow:
                    got = api.call(method, path)
                    self.assertEqual(got.status, 405, method)
                    self.assertEqual(set(got.headers["Allow"].split(", ")), allow)
        self.assert_problem(api.call("OPTIONS", "/nothing"), 404, "not_found")
        self.assert_problem(api.call("BREW", "/nothing"), 404, "not_found")

    def test_no_operation_takes_an_unknown_query_parameter(self):
        for method, path in operations():
            with self.subTest(method=method, path=path):
                got = api.call(method, path + "?colour=red", {} if method == "POST" else None)
                told = self.assert_problem(got, 400, "invalid_request", "colour")
                self.assertIn("colour", told["detail"])
        self.assertEqual(api.sandbox(box)["state"], "running", "a refused request does nothing")

    def test_no_read_takes_a_body(self):
        for path in reads():
            got = api.call("GET", path, b"{}")
            self.assert_problem(got, 400, "invalid_request")


class CorsTest(SystemCase):
    def test_a_page_of_a_listed_origin_may_call_every_operation(self):
        for method, path in operations():
            with self.subTest(method=method, path=path):
                got = Client(api.server).call("OPTIONS", path, headers={
                    "Origin": APP, "Access-Control-Request-Method": method,
                    "Access-Control-Request-Headers": "authorization,content-type"})
                self.assertEqual((got.status, got.body), (204, b""))
                self.assertEqual(got.headers["Access-Control-Allow-Origin"], APP)
                self.assertIn(method, got.headers["Access-Control-Allow-Methods"].split(", "))
                self.assertIn("Authorization", got.headers["Access-Control-Allow-Headers"])

    def test_answers_problems_and_streams_may_be_read_by_it_and_by_no_other(self):
        for origin, want in ((APP, APP), ("https://evil.example", None), ("null", None)):
            headers = {"Origin": origin}
            with api.stream("GET", f"/sandboxes/{box}/logs?tail=1", headers=headers) as stream:
                got = [stream, api.get(f"/sandboxes/{box}", headers=headers),
                       api.get("/sandboxes/x", headers=headers),
                       Client(api.server).get("/sandboxes", headers=headers),
                       api.post("/sandboxes", {"colour": 1}, headers=headers)]
            for answer in got:
                self.assertEqual(answer.headers["Access-Control-Allow-Origin"], want)
                self.assertIn("origin", answer.headers["Vary"])
                self.assertEqual("ETag" in (answer.headers["Access-Control-Expose-Headers"] or ""),
                                 bool(want))

    def test_a_websocket_is_protected_by_its_key_whatever_the_origin(self):
        path = f"/sandboxes/{box}/logs"
        for key, status in ((api.key, 101), ("wrong", 401)):
            with sandboxd.WebSocket(api.server.port, path, {
                    "Origin": "https://evil.example",
                    "Sec-WebSocket-Protocol": f"sandboxd.v1, bearer.{key}"}) as socket_:
                self.assertEqual(socket_.status, status)

    def test_a_bad_origin_is_refused_at_the_start(self):
        idle = sandboxd.Service()
        self.addCleanup(idle.close)
        for origins in ("app.example", "https://app.example/", "https://App.example", "null",
                        "https://a.example;https://b.example"):
            got = sandboxd.sandboxd("serve", env={**idle.env, "SBX_CORS_ORIGINS": origins})
            self.assertEqual(got.returncode, 1, origins)
            self.assertIn("cors-origins: ", got.stderr)


class SubprotocolTest(SystemCase):
    def test_only_our_protocol_is_selected_and_others_are_refused(self):
        path = f"/sandboxes/{box}/logs"
        for offer, status in ((f"sandboxd.v1, bearer.{api.key}", 101),
                              (f"bearer.{api.key}, other, sandboxd.v1", 101),
                              (f"bearer.{api.key}", 400), ("graphql-ws", 400),
                              (f"sandboxd.v2, bearer.{api.key}", 400), ("a b, sandboxd.v1", 400)):
            with sandboxd.WebSocket(api.server.port, path,
                                    {"Sec-WebSocket-Protocol": offer}) as got:
                self.assertEqual(got.status, status, offer)
                self.assertEqual(got.headers["Sec-WebSocket-Protocol"],
                                 "sandboxd.v1" if status == 101 else None)
        self.assertNotIn(api.key, api.server.log_text())


class ProblemTest(SystemCase):
    """One row per code: how it is produced, with status and title."""

    def raw(self, method, path, headers=(), server=None):
        connection = http.client.HTTPConnection("127.0.0.1", (server or api.server).port,
                                                timeout=30)
        self.addCleanup(connection.close)
        connection.putrequest(method, path)
        for name, value in {"Authorization": f"Bearer {api.key}", **dict(headers)}.items():
            connection.putheader(name, value)
        connection.endheaders()
        got = connection.getresponse()
        return sandboxd.Answer(got.status, got.headers, got.read())

    def failed_sandbox(self):
        got = api.post("/sandboxes", {"image": "localhost:1/none:none"}, timeout=60)
        return got.json["sandboxId"]

    def deleted_sandbox(self):
        gone = api.create()["id"]
        api.delete(f"/sandboxes/{gone}")
        return gone

    def without_engine(self, path, seconds=1):
        other = sandboxd.Service(env={"DOCKER_HOST": f"unix://{path}",
                                      "SBX_ENGINE_TIMEOUT": seconds})
        self.addCleanup(other.close)
        got = Client(other.start(ready=None), other.key()).post("/sandboxes", {"template": "box"})
        other.psql("UPDATE sandboxes SET state = 'deleted', worker = NULL")
        return got

    def with_hanging_engine(self):
        engine = sandboxd.HangingEngine(service.folder)
        self.addCleanup(engine.close)
        return self.without_engine(engine.path)

    def without_store(self):
        other = sandboxd.Service()
        self.addCleanup(other.close)
        client = Client(other.start(), other.key())
        other.psql(f"ALTER DATABASE {other.name} ALLOW_CONNECTIONS false; SELECT "
                   f"pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{other.name}'",
                   other.admin_url)
        try:
            return client.get("/sandboxes")
        finally:
            other.psql(f"ALTER DATABASE {other.name} ALLOW_CONNECTIONS true", other.admin_url)
            wait_for(lambda: client.get("/sandboxes").status == 200, what="recovery")

    def without_room(self):
        other = sandboxd.Service(env={"SBX_MAX_CONNECTIONS": 16})
        self.addCleanup(other.close)
        server = other.start()
        held = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(16)]
        try:
            return wait_for(lambda: next((g for g in [self.raw("GET", "/health", server=server)]
                                          if g.status != 200), None), what="a refusal")
        finally:
            for connection in held:
                connection.close()

    def hostile_image(self):
        files = {**sandboxd.box_files(), ".sbx": b"not a folder"}
        return api.post("/sandboxes", {"image": sandboxd.make_image("sbxtest-shut:1", files)},
                        timeout=60)

    def produce(self):
        reader = Client(api.server, service.key("alice", "--scopes", "sandbox:read"))
        none = "a" * 20
        return (
            ("invalid_request", 400, "The request is not valid", lambda: api.get("/sandboxes?x=1")),
            ("unauthorized", 401, "Authentication is required",
             lambda: Client(api.server).get("/sandboxes")),
            ("forbidden", 403, "The key does not allow this",
             lambda: reader.post("/sandboxes", {})),
            ("not_found", 404, "Not found", lambda: api.get(f"/sandboxes/{none}")),
            ("method_not_allowed", 405, "The resource has no such method",
             lambda: api.call("PUT", "/sandboxes", {})),
            ("not_acceptable", 406, "No representation of that type",
             lambda: api.get("/sandboxes", headers={"Accept": "image/png, application/json;q=0"})),
            ("conflict", 409, "The state of the resource does not allow this",
             lambda: api.post(f"/sandboxes/{self.failed_sandbox()}/exec", {"command": "true"})),
            ("gone", 410, "The resource was deleted",
             lambda: api.post(f"/sandboxes/{self.deleted_sandbox()}/exec", {"command": "true"})),
            ("payload_too_large", 413, "The request body is too large",
             lambda: self.raw("POST", "/sandboxes", {"Content-Length": 1 << 30})),
            ("uri_too_long", 414, "The request target is too long",
             lambda: self.raw("GET", "/sandboxes?name=" + "x" * 9000)),
            ("unsupported_media_type", 415, "The request body has another type",
             lambda: api.post("/sandboxes", {}, headers={"Content-Type": "text/plain"})),
            ("headers_too_large", 431, "The request headers are too large",
             lambda: self.raw("GET", "/sandboxes", {"X-Large": "x" * 30000})),
            ("engine_error", 502, "The container engine refused", self.hostile_image),
            ("engine_unavailable", 503, "The container engine cannot be reached",
             lambda: self.without_engine("/nonexistent/docker.sock")),
            ("store_unavailable", 503, "The database cannot be reached", self.without_store),
            ("at_capacity", 503, "The server is at capacity", self.without_room),
            ("timeout", 504, "The time limit was reached", self.with_hanging_engine),
        )

    def test_every_code_is_produced_in_full(self):
        for code, status, title, produce in self.produce():
            with self.subTest(code=code):
                got = produce()
                told = self.assert_problem(got, status, code)
                self.assertEqual((told["type"], told["title"]),
                                 (f"urn:sandboxd:problem:{code}", title))
                self.assertRegex(told["requestId"], r"^[A-Za-z0-9._-]{1,64}$")
                self.assertLessEqual(set(told), {"type", "title", "status", "detail", "code",
                                                 "requestId", "errors", "sandboxId"})
                self.assertEqual("Allow" in got.headers, status == 405)
                self.assertEqual("WWW-Authenticate" in got.headers, status == 401)
                self.assertEqual(bool(re.fullmatch(r"[1-9][0-9]*", got.headers["Retry-After"] or "")),
                                 status in (429, 503))

    def test_readiness_says_when_to_ask_again(self):
        other = sandboxd.Service(env={"DOCKER_HOST": "unix:///nonexistent/docker.sock"})
        self.addCleanup(other.close)
        got = Client(other.start(ready=None)).get("/ready")
        self.assertEqual(got.status, 503)
        self.assertRegex(got.headers["Retry-After"], r"^[1-9][0-9]*$")


if __name__ == "__main__":
    unittest.main()
