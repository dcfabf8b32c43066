"""The contract as served: requests derived from /openapi.json, and every answer held against it.

For each operation: a valid request, each required field missing, each bound crossed, wrong types,
unknown fields and parameters, the wrong content type, no key, a key without the scope, an unknown
id, streams. A new route is covered without a change here, unless its path has a new kind of id:
then FACTORIES wants one line.
"""
import contextlib
import itertools
import json
import re
import unittest
import urllib.parse

import sandboxd
from openapi_contract import Document, media_type
from sandboxd import Client, SystemCase, box_image, wait_for

QUICK = True

STREAM = "text/event-stream"
service = api = document = scopeless = None


def setUpModule():
    global service, api, document, scopeless
    box = box_image()
    service, api = sandboxd.module_service(
        templates=f"python={box},node={box},box={box},real=sandboxd/node:1")
    api = Client(api.server, service.key("root", "--role", "admin"))  # for all routes
    document = Document(Client(api.server).get("/openapi.json").json)
    scopeless = Client(api.server, service.key("alice", "--scopes", "nothing:none"))


class Boxes:
    """Sandboxes for requests: the same one again for as long as it runs."""

    def __init__(self):
        self.current = self.with_interpreters = None

    def running(self):
        if not self.current or api.sandbox(self.current)["state"] != "running":
            self.current = api.create()["id"]
        return self.current

    def fresh(self):
        self.current = api.create()["id"]
        return self.current

    def real(self):
        """One with interpreters, and room for a context."""
        if not self.with_interpreters or api.sandbox(self.with_interpreters)["state"] != "running":
            self.with_interpreters = api.create(template="real")["id"]
        at = f"/sandboxes/{self.with_interpreters}/contexts"
        for context in api.get(at).json["items"]:
            api.delete(f"{at}/{context['id']}")
        return self.with_interpreters


boxes = Boxes()


commands = []  # the last one, which is ended by the next: processes are limited


def command():
    """One that runs, and takes input."""
    for path in commands:
        api.delete(path)
    commands.clear()
    body = {"command": ["cat"], "background": True, "stdinOpen": True}
    exec_id = api.post(f"/sandboxes/{boxes.running()}/exec", body).json["execId"]
    commands.append(f"/sandboxes/{boxes.current}/execs/{exec_id}")
    return exec_id


# Bodies of requests that are not JSON, where an empty one is refused.
BYTES = {"file_unpack": bytes(1024)}  # an empty tar
# What the examples of requests about files expect, and must not find.
FILES = "mkdir -pm 777 /tmp/demo; cd /tmp/demo && rm -rf * && touch old && chmod 666 old"
def context():
    """One that waits for code."""
    at = f"/sandboxes/{boxes.real()}/contexts"
    return api.post(at, {"runtime": "python"}).json["id"]


def group():
    """One with a sandbox that runs."""
    return api.post("/groups", {"name": "g", "sandboxes": [boxes.running()]}).json["id"]


def user():
    return api.post("/users", {"name": f"u{next(numbers)}"}).json["id"]


def key():
    return api.post("/keys", {"name": "k", "scopes": ["nothing:none"]}).json["id"]


numbers = itertools.count()
# How to come by a path parameter: by the path up to it.
FACTORIES = {"/sandboxes/{id}": boxes.running, "/sandboxes/{id}/execs/{execId}": command,
             "/groups/{id}": group, "/users/{id}": user, "/keys/{id}": key, "/prices/{size}": lambda: "nano", "/tiers/{name}": lambda: "pro"}
# Bounds that cost more than they show: the tests of these routes go there.
COSTLY = {("sandbox_batch", ("count",), 100), ("pool_set", ("min",), 1000)}


def answers(operation):
    """Has it an answer that is no stream?"""
    return bool(operation.successes())


FACTORIES["/sandboxes/{id}/contexts/{contextId}"] = context


def path_of(operation, ids=None, pairs=()):
    """The operation's path with real ids, or with the given one everywhere; with the required
    parameters, and `pairs`, in the query."""
    def value(match):
        upto = operation.path[:match.end()]
        if ids is not None:
            return ids
        if upto == "/sandboxes/{id}" and "/contexts" in operation.path:
            return boxes.real()
        if upto not in FACTORIES:
            raise AssertionError(f"{operation}: no factory for {upto}")
        return FACTORIES[upto]()
    path = re.sub(r"{\w+}", value, operation.path)
    if ids is None and "/files" in path:
        api.exec(boxes.current, FILES, user="root")
    given = {name for name, _ in pairs}
    required = [(p["name"], p["example"]) for p in operation.parameters("query")
                if p["required"] and p["name"] not in given]
    return path + query([*required, *pairs])


def query(pairs):
    told = [(name, str(value).lower() if isinstance(value, bool) else value) for name, value in pairs]
    return "?" + urllib.parse.urlencode(told) if told else ""


class Case(SystemCase):
    def send(self, operation, path, body=None, headers=None, client=None, what=""):
        """An answer that is as declared."""
        if operation.id == "user_create" and isinstance(body, dict) and body.get("name") == "ada":
            body = {**body, "name": f"ada-{next(numbers)}"}  # each name once
        got = (client or api).call(operation.method, path, body, headers)
        self.check(operation, got, what or path)
        return got

    def check(self, operation, got, what):
        problems = operation.problems(got)
        if not got.headers.get("X-Request-Id"):
            problems.append("no X-Request-Id")
        self.assertFalse(problems, f"{operation}, {what}: {got}")

    def refused(self, operation, got, status, field, what):
        self.assertEqual(got.status, status, f"{operation}, {what}: {got}")
        if field:
            told = [e["field"] for e in got.json.get("errors", [])]
            self.assertTrue(len(told) == 1 and (told[0] + ".").startswith(field + "."),
                            f"{operation}, {field} {what}: {got}")

    def each(self, choose=lambda operation: True):
        """The operations that are chosen; there must be one."""
        chosen = [o for o in document.operations if choose(o)]
        self.assertTrue(chosen)
        return chosen

    def valid(self, operation, body=None, path=None):
        """Sends what must succeed. A sandbox that a request before has ended is replaced, once."""
        for last in (False, True):
            if operation.streams_only:
                return self.opened(operation, path or path_of(operation))
            got = self.send(operation, path or path_of(operation), body)
            if got.status in operation.successes() or last:
                break
            boxes.fresh()
        self.assertIn(got.status, operation.successes(), f"{operation}, {body}: {got}")
        return got

    def opened(self, operation, path):
        """A stream that has begun, as far as its head."""
        with api.stream(operation.method, path) as stream:
            self.assertIn(stream.status, operation.successes(), f"{operation}, {path}")
            return sandboxd.Answer(stream.status, stream.headers, b"")

    def body(self, operation):
        return operation.body[1] if operation.body else BYTES.get(operation.id)


class DocumentTest(Case):
    def test_it_is_valid(self):
        self.assertEqual(document.faults(), [])
        self.assertTrue(document.root["openapi"].startswith("3.1."))
        for name in ("title", "version"):
            self.assertTrue(document.root["info"][name])

    def test_every_object_that_is_answered_is_closed(self):
        for name, schema in document.root["components"]["schemas"].items():
            self.assertIs(schema["additionalProperties"], False, name)
            self.assertLessEqual(set(schema["required"]), set(schema["properties"]), name)

    def test_every_schema_is_used(self):
        text = json.dumps({k: v for k, v in document.root.items()})
        for name in document.root["components"]["schemas"]:
            self.assertIn(f'"#/components/schemas/{name}"', text)


class ValidTest(Case):
    def test_each_operation_succeeds_with_its_example(self):
        for operation in self.each(answers):
            with self.subTest(operation=repr(operation)):
                got = self.valid(operation, self.body(operation))
                for name in ("Location",):
                    if got.headers.get(name):
                        self.assertEqual(api.get(got.headers[name]).status, 200)

    def test_bodies_may_be_left_out_where_nothing_is_required(self):
        for operation in self.each(lambda o: o.body and not o.body[0].get("required")):
            with self.subTest(operation=repr(operation)):
                self.valid(operation)

    def within(self, operation, body, path):
        """Taken; or refused for the object around the field, of which the rule is of several."""
        got = self.send(operation, path_of(operation), body)
        around = ".".join(path[:-1])
        if got.status == 400 and around:
            self.assertEqual([e["field"] for e in got.json["errors"]], [around], got)
        elif got.status not in operation.successes():
            self.valid(operation, body)

    def test_bounds_are_within(self):
        """The first bounds of all fields of an object at once, then the second ones, and so on; one
        by one where together they are refused. An object that is part of two requests is read by
        the same table: once is enough."""
        self.addCleanup(empty_pools)
        seen = set()
        for operation in self.each(lambda o: o.body):
            with self.subTest(operation=repr(operation)):
                schema, good = operation.body
                if "wait" in schema["properties"]:
                    good = {**good, "wait": False}
                for edges in document.edges_by_object(schema):
                    edges = {path: [v for v in values if (operation.id, path, v) not in COSTLY]
                             for path, values in edges.items()}
                    fields = json.dumps(sorted([path[-1], repr(v)] for path, v in edges.items()))
                    if fields in seen:
                        continue
                    seen.add(fields)
                    for turn in range(max(map(len, edges.values()))):
                        chosen = {path: values[turn % len(values)]
                                  for path, values in edges.items()}
                        self.together(operation, good, chosen)

    def together(self, operation, good, chosen):
        schema, together = operation.body[0], good
        for path, value in chosen.items():
            together = document.put(schema, together, path, value)
        if self.send(operation, path_of(operation), together).status in operation.successes():
            return
        for path, value in chosen.items():
            self.within(operation, document.put(schema, good, path, value), path)

    def test_query_parameters_at_their_bounds(self):
        for operation in self.each(lambda o: o.parameters("query") and answers(o)):
            with self.subTest(operation=repr(operation)):
                for parameter in operation.parameters("query"):
                    values = document.edges(parameter["schema"])
                    values += [parameter["example"]] if "example" in parameter else []
                    for value in values:
                        path = path_of(operation, pairs=[(parameter["name"], value)])
                        self.valid(operation, self.body(operation), path=path)

    def test_what_has_not_changed_is_not_sent_again(self):
        unchanged = []
        for operation in self.each(lambda o: o.method == "GET" and o.response(304)):
            with self.subTest(operation=repr(operation)):
                path = path_of(operation)
                tags = [self.valid(operation, path=path).headers["ETag"] for _ in range(2)]
                if tags[0] == tags[1]:  # metrics change with every look
                    got = self.send(operation, path, headers={"If-None-Match": tags[0]})
                    if got.headers.get("ETag") != tags[0]:
                        continue  # nor does what is told of a sandbox in use stay
                    self.assertEqual((got.status, got.body), (304, b""), operation)
                    unchanged.append(operation)
        self.assertGreater(len(unchanged), 3)

    def test_head_tells_what_get_would_and_sends_no_body(self):
        for operation in self.each(lambda o: o.method == "GET" and answers(o)
                                   and not o.streams_only):
            with self.subTest(operation=repr(operation)):
                path = path_of(operation)
                got = api.call("HEAD", path)
                self.assertIn(got.status, operation.successes(), got)
                self.assertEqual(got.body, b"")
                self.assertEqual(got.headers["Content-Type"], api.get(path).headers["Content-Type"])


def empty_pools():
    """Large ones were asked for."""
    service.psql("DELETE FROM pools")
    wait_for(lambda: service.psql("SELECT count(*) FROM sandboxes WHERE pool IS NOT NULL AND state "
                                  "NOT IN ('deleted', 'failed')") == "0", 60, "empty pools")


class RefusalTest(Case):
    def test_bodies_out_of_bounds_name_the_field(self):
        for operation in self.each(lambda o: o.body):
            with self.subTest(operation=repr(operation)):
                schema, good = operation.body
                path, tried = path_of(operation), 0
                for what, field, body in document.bad_bodies(schema, good):
                    got = self.send(operation, path, body, what=f"{field} {what}")
                    self.refused(operation, got, 400, field, what)
                    tried += 1
                self.assertGreater(tried, 0)

    def test_bodies_that_are_no_object(self):
        for operation in self.each(lambda o: o.body):
            with self.subTest(operation=repr(operation)):
                path = path_of(operation)
                for body in (b"[]", b"7", b"null", b"{", b'{"a":1}}', b'{"a":1,"a":2}', b"\xff"):
                    self.refused(operation, self.send(operation, path, body), 400, None, body)

    def test_query_parameters_out_of_bounds_name_the_parameter(self):
        for operation in self.each():
            with self.subTest(operation=repr(operation)):
                path = path_of(operation, pairs=[("noSuchParameter", 1)])
                got = self.send(operation, path, self.body(operation))
                self.refused(operation, got, 400, "noSuchParameter", "an unknown parameter")
                for parameter in operation.parameters("query"):
                    name, schema = parameter["name"], parameter["schema"]
                    bad = [v for _, v in document.bad_values(schema) if isinstance(v, (str, int, float))
                           and not isinstance(v, bool)] if schema.get("type") != "string" else []
                    for value in bad:
                        path = path_of(operation, pairs=[(name, value)])
                        got = self.send(operation, path, self.body(operation))
                        self.refused(operation, got, 400, name, f"{name}={value}")
                    twice = path_of(operation, pairs=[(name, document.example(schema))] * 2)
                    got = self.send(operation, twice, self.body(operation))
                    self.refused(operation, got, 400, None, twice)

    def test_the_wrong_content_type(self):
        for operation in self.each(lambda o: o.body):
            with self.subTest(operation=repr(operation)):
                for kind in ("text/plain", "application/xml", "application/json; charset=latin1"):
                    got = self.send(operation, path_of(operation), b"{}", {"Content-Type": kind})
                    self.refused(operation, got, 415, None, kind)

    def test_a_body_that_is_too_large(self):
        for operation in self.each(lambda o: o.body):
            with self.subTest(operation=repr(operation)):
                most = operation.declared["requestBody"]["x-maxBytes"]
                head = {"Content-Length": str(most + 1), "Content-Type": "application/json",
                        **api.headers()}
                with contextlib.closing(api.connect()) as connection:
                    connection.putrequest(operation.method, path_of(operation))
                    for name, value in head.items():
                        connection.putheader(name, value)
                    connection.endheaders()
                    response = connection.getresponse()
                    got = sandboxd.Answer(response.status, response.headers, response.read())
                self.check(operation, got, "a body that is too large")
                self.refused(operation, got, 413, None, most)

    def test_a_body_where_none_belongs(self):
        for operation in self.each(lambda o: not o.body and "requestBody" not in o.declared):
            with self.subTest(operation=repr(operation)):
                got = self.send(operation, path_of(operation), b"{}")
                self.refused(operation, got, 400, None, "a body")

    def test_an_unacceptable_type(self):
        for operation in self.each(lambda o: o.response(406)):
            with self.subTest(operation=repr(operation)):
                got = self.send(operation, path_of(operation), self.body(operation),
                                {"Accept": "image/png"})
                self.refused(operation, got, 406, None, "image/png")

    def test_a_target_and_headers_that_are_too_long(self):
        for operation in self.each():
            with self.subTest(operation=repr(operation)):
                got = self.send(operation, path_of(operation, pairs=[("x", "a" * 9000)]))
                self.refused(operation, got, 414, None, "a long target")
                got = self.send(operation, path_of(operation), headers={"X-Long": "a" * 40000})
                self.refused(operation, got, 431, None, "long headers")

    def test_without_a_key_or_with_a_wrong_one(self):
        for operation in self.each(lambda o: o.secured):
            with self.subTest(operation=repr(operation)):
                for client in (Client(api.server), Client(api.server, "sbx_" + "a" * 40)):
                    got = self.send(operation, path_of(operation), self.body(operation), client=client)
                    self.refused(operation, got, 401, None, "no key")
                    self.assertTrue(got.headers["WWW-Authenticate"])

    def test_a_key_without_the_scope(self):
        for operation in self.each(lambda o: o.declared.get("x-scope")):
            with self.subTest(operation=repr(operation)):
                got = self.send(operation, path_of(operation), self.body(operation), client=scopeless)
                self.refused(operation, got, 403, None, "no scope")

    def test_an_unknown_id(self):
        for operation in self.each(lambda o: o.parameters("path")):
            with self.subTest(operation=repr(operation)):
                for unknown in ("a" * 20, "x", "A" * 20, "%00", "..%2f"):
                    got = self.send(operation, path_of(operation, unknown), self.body(operation))
                    self.assertIn(got.status, (400, 404) if "%" in unknown else (404,), got)

    def test_a_sandbox_that_is_deleted(self):
        box = api.create()["id"]
        self.assertEqual(api.delete(f"/sandboxes/{box}").status, 204)
        for operation in self.each(lambda o: o.path.startswith("/sandboxes/{id}")):
            with self.subTest(operation=repr(operation)):
                if operation.path.count("{") > 1:
                    continue
                got = self.send(operation, path_of(operation, box), self.body(operation))
                reads = operation.path == "/sandboxes/{id}" and operation.method != "PATCH"
                if not reads and got.status not in operation.successes():
                    self.refused(operation, got, 410, None, "deleted")
        self.assertEqual(api.sandbox(box)["state"], "deleted")

    def test_other_methods_are_refused_with_those_that_there_are(self):
        for path in document.root["paths"]:
            there = {o.method for o in document.operations if o.path == path}
            for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - there:
                with self.subTest(path=path, method=method):
                    got = api.call(method, re.sub(r"{\w+}", "a" * 20, path))
                    self.assert_problem(got, 405, "method_not_allowed")
                    allowed = set(got.headers["Allow"].split(", "))
                    self.assertEqual(allowed - {"HEAD", "OPTIONS"}, there)


class StreamTest(Case):
    """Each stream, with something happening while it is read."""

    def happenings(self, box):
        """Output, and the end of the sandbox: what streams tell of."""
        api.exec(box, "echo out; echo err >&2; printf '\\377\\n'")
        self.assertEqual(api.delete(f"/sandboxes/{box}").status, 204)

    def open_events(self, operation):
        """Reads a stream of events raw: yields (event, id, data)."""
        stream = api.stream(operation.method, path_of(operation), self.body(operation), timeout=20)
        self.assertEqual(stream.status, 200, operation)
        self.assertEqual(media_type(stream.headers["Content-Type"]), STREAM)
        self.assertTrue(stream.headers["X-Request-Id"])
        return stream

    @staticmethod
    def events(stream):
        event, number, data = None, None, []
        for raw in stream.response:
            line = raw.decode().rstrip("\n")
            name, _, value = line.partition(": ")
            if name == "event":
                event = value
            elif name == "id":
                number = value
            elif name == "data":
                data.append(value)
            elif not line and data:
                yield event, number, json.loads("\n".join(data))
                event, number, data = None, None, []

    def judge(self, operation, declared, event, data):
        self.assertIn(event, declared, f"{operation}: undeclared event {event}: {data}")
        self.assertEqual(document.mismatches(data, declared[event]), [], f"{operation}: {data}")

    def test_server_sent_events(self):
        for operation in self.each(lambda o: o.messages("x-events")):
            with self.subTest(operation=repr(operation)):
                declared, seen = operation.messages("x-events"), set()
                if operation.method == "GET":
                    box = boxes.fresh()
                with self.open_events(operation) as stream:
                    if operation.method == "GET":
                        self.happenings(box)
                    for event, number, data in self.events(stream):
                        self.judge(operation, declared, event, data)
                        if event is None:
                            self.assertTrue(number, f"{operation}: a message without an id")
                        seen.add(event)
                        if operation.method == "GET" and "{" not in operation.path:
                            break  # it is about more than the sandbox that ends
                self.assertIn(None, seen, operation)
                ends = "end" in declared and "{" in operation.path
                self.assertTrue(not ends or "end" in seen, operation)

    def test_websockets(self):
        for operation in self.each(lambda o: o.messages("x-frames")):
            with self.subTest(operation=repr(operation)):
                declared, seen = operation.messages("x-frames"), []
                box = boxes.fresh()
                with api.websocket(path_of(operation)) as ws:
                    self.assertEqual(ws.status, 101, operation)
                    self.assertTrue(ws.headers["X-Request-Id"])
                    self.happenings(box)
                    for frame in ws.frames():
                        self.judge(operation, declared, None, frame)
                        seen.append(frame["type"])
                        if "{" not in operation.path:
                            break  # it is about more than the sandbox that ends
                self.assertTrue(seen, operation)
                if seen[-1] == "end":
                    self.assertEqual(ws.close_code, 1000)

    def test_an_upgrade_that_is_refused_is_a_problem_as_declared(self):
        for operation in self.each(lambda o: o.messages("x-frames")):
            with self.subTest(operation=repr(operation)):
                path = path_of(operation)
                for headers in ({"Upgrade": "websocket", "Connection": "Upgrade"},
                                {"Upgrade": "websocket", "Connection": "Upgrade",
                                 "Sec-WebSocket-Version": "12"}):
                    got = self.send(operation, path, headers=headers)
                    self.assertEqual(got.status, 400, got)
                with Client(api.server).websocket(path) as ws:
                    self.assertEqual(ws.status, 401)


if __name__ == "__main__":
    unittest.main()
