"""Users do not reach each other: every route, in every representation, with another user's ids.

The walk follows /openapi.json: a new route is covered by itself, and one with a new kind of id
fails until Hers.objects() says how to come by it. What another one owns is answered as what is not there,
to the letter, and nothing of it changes.
"""
import json
import re
import unittest

import sandboxd
from openapi_contract import Document
from sandboxd import Client, SystemCase, WebSocket, all_at_once, box_image, wait_for

MARK = "alices-own"  # stands in all that she has
NOWHERE = "a" * 20
STREAM = "text/event-stream"

service = document = alice = mallory = admin = None
servers = []


def setUpModule():
    global service, document, alice, mallory, admin
    box = box_image()
    env = {"REDIS_URL": sandboxd.REDIS_URL} if sandboxd.REDIS_URL else {}
    service, alice = sandboxd.module_service(
        templates=f"python={box},node={box},box={box}", env=env)
    servers.append(alice.server)
    if env:  # one that does not hold the sandboxes
        servers.append(service.start())
    mallory = Client(alice.server, service.key("mallory"))
    admin = Client(alice.server, service.key("root", "--role", "admin"))
    document = Document(Client(alice.server).get("/openapi.json").json)


class Hers:
    """What Alice has: a sandbox with a command, files and logs, a paused one, a group."""

    def __init__(self):
        self.labels = {"owner": MARK}
        self.box = alice.create(name=MARK, metadata=self.labels, env={"SECRET": MARK})["id"]
        self.paused = alice.create(name=MARK, metadata=self.labels)["id"]
        alice.exec(self.box, f"echo {MARK}; mkdir -p /tmp/demo; echo {MARK} > /tmp/demo/old")
        self.exec = self.background(self.box)
        self.paused_exec = alice.exec(self.paused, f"echo {MARK}")["execId"]
        alice.move(self.paused, "pause")
        self.group = alice.post("/groups", {"name": MARK, "metadata": self.labels,
                                            "sandboxes": [self.box]}).json["id"]
        self.probe = alice.create()["id"]
        self.key = service.psql("SELECT min(k.id) FROM api_keys k JOIN users u ON u.id = user_id"
                                " WHERE u.name = 'alice'")
        self.user = service.psql("SELECT id FROM users WHERE name = 'alice'")

    @staticmethod
    def background(box):
        body = {"command": ["cat"], "background": True, "stdinOpen": True}
        return alice.post(f"/sandboxes/{box}/exec", body).json["execId"]

    def objects(self, paused=False):
        """How to come by a path parameter, by the path up to it; None: it has no owner."""
        box, command = (self.paused, self.paused_exec) if paused else (self.box, self.exec)
        return {"/sandboxes/{id}": box, "/sandboxes/{id}/execs/{execId}": command,
                "/groups/{id}": self.group, "/keys/{id}": self.key, "/users/{id}": self.user,
                "/tiers/{name}": "free", "/prices/{size}": "small"}

    def state(self):
        """All that could tell of a change, from the database and from inside."""
        self.flush()
        rows = [service.psql(f"SELECT to_jsonb(t) {drop} FROM {table} t WHERE {which}")
                for table, which, drop in (
                    ("sandboxes", f"id = '{self.box}'", "- 'last_active_at' - 'metered_at'"),
                    ("sandboxes", f"id = '{self.paused}'", "- 'metered_at'"),
                    ("groups", f"id = '{self.group}'", ""),
                    ("group_members", f"group_id = '{self.group}'", ""),
                    ("api_keys", f"id = '{self.key}'", "- 'last_used_at'"),
                    ("users", f"id = '{self.user}'", ""))]
        rows += [service.psql(f"SELECT count(*) FROM {table} WHERE owner = '{self.user}'"
                              f" AND sandbox <> '{self.probe}'")
                 for table in ("events", "sandbox_executions")]
        running = {e["execId"]: e["state"]
                   for e in alice.get(f"/sandboxes/{self.box}/execs").json["items"]}
        output = alice.get(f"/sandboxes/{self.box}/execs/{self.exec}/output").json["items"]
        return rows, running, output, alice.logs(self.box, "?limit=200")

    def files(self):
        told = service.engine.call("GET", f"/containers/sbx-{self.box}/changes")
        return sorted((change["Path"], change["Kind"]) for change in told)

    def flush(self):
        """Uses a sandbox of hers until that is in the database: then so is all before."""
        asked = f"SELECT last_active_at FROM sandboxes WHERE id = '{self.probe}'"
        before = service.psql(asked)
        alice.exec(self.probe, "true")
        wait_for(lambda: service.psql(asked) != before, what="a flush")


def path_of(operation, objects):
    """With the given objects in the place of the parameters."""
    def value(match):
        upto = operation.path[:match.end()]
        if upto.endswith("/contexts/{contextId}"):  # which is a command
            upto = "/sandboxes/{id}/execs/{execId}"
        if upto not in objects:
            raise AssertionError(f"{operation}: say in Hers.objects() how to come by {upto}")
        return objects[upto]
    path = re.sub(r"{\w+}", value, operation.path)
    required = [f"{p['name']}={p['example']}" for p in operation.parameters("query")
                if p["required"]]
    return path + ("?" + "&".join(required) if required else "")


def for_administrators(operation):
    return operation.declared.get("description", "").startswith("For administrators")


def plain(got, objects):
    """Status and text of an answer, without what is new in each, and the ids that were asked for."""
    text = re.sub(rb'"requestId":"\w+"', b"", got.body or b"")
    for value in {NOWHERE, *objects.values()}:
        text = text.replace(value.encode(), b"ID")
    return got.status, got.headers.get("Content-Type"), text


class WalkTest(SystemCase):
    @classmethod
    def setUpClass(cls):
        cls.hers = Hers()

    def tries(self, operation, path, client):
        """(words, answer or status) of each way in which a route can be asked."""
        body = operation.body[1] if operation.body else None
        if operation.body is None and "requestBody" in operation.declared:
            body = b"mallory was here"
        told = [("plain", client.call(operation.method, path, body))]
        if operation.body:
            told.append(("without a body", client.call(operation.method, path)))
        if operation.method == "GET":
            told.append(("HEAD", client.call("HEAD", path)))
        if operation.messages("x-events"):
            got = client.call(operation.method, path, body, {"Accept": STREAM})
            told.append(("event stream", got))
        if "101" in operation.declared["responses"]:
            with WebSocket(client.server.port, path, client.headers()) as ws:
                told.append(("WebSocket", sandboxd.Answer(ws.status, ws.headers, b"")))
        return told

    def walk(self, client, paused=False):
        objects = self.hers.objects(paused)
        nothing = {upto: NOWHERE for upto in objects}
        walked = 0
        for operation in document.operations:
            if "{" not in operation.path:
                continue
            path = path_of(operation, objects)
            pairs = zip(self.tries(operation, path, client),
                        self.tries(operation, path_of(operation, nothing), client))
            for (what, got), (_, other) in pairs:
                with self.subTest(operation=repr(operation), what=what):
                    walked += 1
                    if for_administrators(operation):
                        self.assertEqual(got.status, 403, got)
                        continue
                    if what != "without a body":
                        self.assertEqual(got.status, 404, got)
                    self.assertEqual(plain(got, objects), plain(other, objects),
                                     "told from what does not exist")
                    self.assertNotIn(MARK.encode(), got.body)
        return walked

    def test_every_route_with_an_id_is_not_found_and_changes_nothing(self):
        before, files = self.hers.state(), self.hers.files()
        for server in servers:
            client = Client(server, mallory.key)
            self.assertGreater(self.walk(client),
                               len([o for o in document.operations if "{" in o.path]))
            self.walk(client, paused=True)
        self.assertEqual(self.hers.state(), before)
        self.assertEqual(self.hers.files(), files)

    def test_a_run_in_a_sandbox_of_another_one_leaves_no_record_there(self):
        count = f"SELECT count(*) FROM sandbox_executions WHERE sandbox = '{self.hers.paused}'"
        self.hers.flush()
        before = service.psql(count)
        body = {"runtime": "python", "code": "print(1)"}
        for accept in ("application/json", STREAM):
            got = mallory.post(f"/sandboxes/{self.hers.paused}/run", body,
                               headers={"Accept": accept})
            self.assertEqual(got.status, 404, got)
        mallory.exec(mallory.create()["id"], "true")
        self.hers.flush()
        self.assertEqual(service.psql(count), before)

    def test_the_walk_finds_what_is_not_isolated(self):
        """With her own key every one of these answers is another: the walk can fail."""
        objects = self.hers.objects()
        reached = 0
        for operation in document.operations:
            if operation.method == "GET" and operation.path.startswith(("/sandboxes/{id}", "/groups/")):
                got = alice.call("HEAD", path_of(operation, objects))
                reached += got.status != 404
        self.assertGreaterEqual(reached, 8)

    def test_a_ticket_of_mallory_opens_nothing_of_hers(self):
        for operation in document.operations:
            if operation.method != "GET" or "{" not in operation.path or for_administrators(operation):
                continue
            whole = path_of(operation, self.hers.objects())
            path, _, query = whole.partition("?")
            made = mallory.post("/tickets", {"path": path})
            self.assertEqual(made.status, 201, made)
            with self.subTest(operation=repr(operation)):
                got = Client(mallory.server).get(
                    f"{path}?{query + '&' if query else ''}ticket={made.json['ticket']}")
                self.assertEqual(got.status, 404, got)

    def test_her_ticket_is_no_use_beside_another_key_or_for_another_path(self):
        ticket = alice.post("/tickets", {"path": f"/sandboxes/{self.hers.box}"}).json["ticket"]
        self.assert_problem(mallory.get(f"/sandboxes/{self.hers.box}?ticket={ticket}"), 400,
                            "invalid_request")
        stranger = Client(mallory.server)
        for path in (f"/sandboxes/{self.hers.paused}", "/sandboxes", f"/groups/{self.hers.group}"):
            self.assert_problem(stranger.get(f"{path}?ticket={ticket}"), 401, "unauthorized")

    def test_routes_for_administrators_are_forbidden_to_her_too(self):
        found = [o for o in document.operations if for_administrators(o)]
        self.assertTrue(found)
        for operation in found:
            path = path_of(operation, self.hers.objects())
            for client in (alice, mallory):
                with self.subTest(operation=repr(operation)):
                    body = operation.body[1] if operation.body else None
                    self.assert_problem(client.call(operation.method, path, body), 403, "forbidden")

    def test_what_waits_in_a_pool_is_nobodys(self):
        self.addCleanup(admin.patch, "/pool", {"template": "box", "network": "none", "min": 0})
        self.assertEqual(admin.patch("/pool", {"template": "box", "network": "none",
                                               "min": 1}).status, 200)
        waiting = wait_for(lambda: service.psql("SELECT id FROM sandboxes WHERE pool IS NOT NULL"
                                                " AND state = 'running'"), 60, "a pool")
        for client in (alice, mallory):
            for path in ("", "/logs", "/execs", "/files?path=/etc/passwd", "/stats"):
                self.assertEqual(client.get(f"/sandboxes/{waiting}{path}").status, 404)
            self.assertEqual(client.delete(f"/sandboxes/{waiting}").status, 404)
            self.assertEqual(client.post(f"/sandboxes/{waiting}/exec", {"command": "id"}).status, 404)
            self.assertNotIn(waiting, [s["id"] for s in client.every()])
        self.assertEqual(service.psql(f"SELECT state FROM sandboxes WHERE id = '{waiting}'"), "running")


class SharedNamesTest(SystemCase):
    """Both have things of the same name, and each finds, lists and changes the own alone."""

    @classmethod
    def setUpClass(cls):
        spec = {"name": "same", "metadata": {"job": "7"}}
        cls.own = {client: client.create(**spec)["id"] for client in (alice, mallory)}
        cls.groups = {client: client.post("/groups", {"name": "same", "metadata": {"job": "7"},
                                                      "sandboxes": [cls.own[client]]}).json["id"]
                      for client in (alice, mallory)}
        for client in (alice, mallory):
            client.exec(cls.own[client], f"echo said by {cls.own[client]}")

    def other(self, client):
        return mallory if client is alice else alice

    def test_lists_and_filters_show_the_own_alone(self):
        for client in (alice, mallory):
            hers = self.own[self.other(client)]
            for query in ("", "?limit=200", "?name=same", "?metadata.job=7", "?state=running",
                          "?template=box", "?name=same&metadata.job=7&state=running&template=box"):
                with self.subTest(query=query):
                    got = client.get(f"/sandboxes{query}")
                    ids = [s["id"] for s in got.json["items"]]
                    self.assertIn(self.own[client], ids)
                    self.assertNotIn(hers, got.body.decode())
            for query in ("", "?name=same", "?metadata.job=7"):
                got = client.get(f"/groups{query}")
                self.assertEqual([g["id"] for g in got.json["items"] if g["name"] == "same"],
                                 [self.groups[client]])
                self.assertNotIn(hers, got.body.decode())

    def test_a_cursor_of_hers_leads_to_the_own(self):
        more = [alice.create()["id"] for _ in range(2)]
        cursor = alice.get("/sandboxes?limit=1").json["nextCursor"]
        got = mallory.get(f"/sandboxes?cursor={cursor}")
        self.assertEqual(got.status, 200, got)
        for sandbox in [*more, self.own[alice]]:
            self.assertNotIn(sandbox, got.body.decode())

    def test_events_as_page_and_stream_are_the_own(self):
        for client in (alice, mallory):
            hers = self.own[self.other(client)]
            for query in ("?limit=200", "?tail=200", "?type=sandbox.running&limit=200"):
                self.assertNotIn(hers, client.get(f"/events{query}").body.decode())
            self.assertEqual(client.get(f"/events?sandboxId={hers}").status, 404)
            with client.stream("GET", f"/events?sandboxId={hers}") as stream:
                self.assertEqual(stream.status, 404)
        with mallory.stream("GET", "/events?since=0") as stream, \
                mallory.websocket("/events?since=0") as ws:
            made = alice.create(name=MARK)["id"]
            last = mallory.create()["id"]
            for what in (stream.events(), ws.frames()):
                for told in what:
                    text = json.dumps(told)
                    self.assertNotIn(made, text)
                    self.assertNotIn(self.own[alice], text)
                    if last in text:
                        break

    def test_the_same_idempotency_key_is_two_keys(self):
        headers = {"Idempotency-Key": "the-same"}
        body = {"template": "box", "name": MARK}
        got = all_at_once(lambda c: c.post("/sandboxes", body, headers=headers), [alice, mallory] * 2)
        self.assertEqual([g.status for g in got], [201] * 4)
        ids = [g.json["id"] for g in got]
        self.assertEqual((ids[0], ids[1]), (ids[2], ids[3]))
        self.assertNotEqual(ids[0], ids[1])
        self.assertEqual(mallory.get(f"/sandboxes/{ids[0]}").status, 404)
        # Another body under her key is no conflict with what is mine.
        other = mallory.post("/groups", {"name": "g"}, headers={"Idempotency-Key": "hers-alone"})
        mine = alice.post("/groups", {"name": "h"}, headers={"Idempotency-Key": "hers-alone"})
        self.assertEqual((other.status, mine.status), (201, 201))

    def test_a_delete_by_metadata_deletes_the_own(self):
        both = {c: c.create(metadata={"doomed": "yes"})["id"] for c in (alice, mallory)}
        got = mallory.delete("/sandboxes?metadata.doomed=yes")
        self.assertEqual(got.status, 200)
        self.assertIn(both[mallory], got.body.decode())
        self.assertNotIn(both[alice], got.body.decode())
        self.assertEqual(alice.state(both[alice]), "running")

    def test_another_ones_sandbox_joins_no_group(self):
        hers = self.own[alice]
        for sandbox in (hers, NOWHERE):
            got = mallory.post("/groups", {"name": "g", "sandboxes": [sandbox]})
            self.assertIn(got.status, (400, 404, 409), got)
            changed = mallory.patch(f"/groups/{self.groups[mallory]}", {"add": [sandbox]})
            self.assertEqual(changed.status, got.status, changed)
            told = [re.sub(r'"requestId":"\w+"', "", g.body.decode().replace(sandbox, "ID"))
                    for g in (got, changed)]
            if sandbox == hers:
                first = told
        self.assertEqual(told, first, "told from what does not exist")
        self.assertEqual(mallory.get(f"/groups/{self.groups[mallory]}").json["sandboxes"],
                         [self.own[mallory]])
        got = mallory.post(f"/groups/{self.groups[mallory]}/exec", {"command": "hostname"})
        self.assertEqual([r["sandboxId"] for r in got.json["results"]], [self.own[mallory]])

    def test_a_batch_answers_and_takes_the_own(self):
        got = mallory.post("/sandboxes/batch", {"count": 2, "sandbox": {"template": "box"}})
        self.assertEqual(got.status, 201, got)
        for item in got.json["items"]:
            self.assertEqual(alice.get(f"/sandboxes/{item['sandbox']['id']}").status, 404)

    def test_a_run_and_its_record_are_of_who_asked(self):
        got = mallory.post("/sandboxes/" + self.own[mallory] + "/exec",
                           {"command": "sleep 1000", "background": True})
        path = f"/sandboxes/{self.own[mallory]}/execs/{got.json['execId']}"
        self.assertEqual(mallory.get(path).status, 200)
        self.assertEqual(alice.get(path).status, 404)
        # Not by way of a sandbox of one's own either.
        crossed = f"/sandboxes/{self.own[alice]}/execs/{got.json['execId']}"
        for verb, tail, body in (("GET", "", None), ("GET", "/output", None), ("DELETE", "", None),
                                 ("POST", "/signal", {"signal": "KILL"}), ("POST", "/stdin", b"x")):
            self.assertEqual(alice.call(verb, crossed + tail, body).status, 404, (verb, tail))
        self.assertEqual(mallory.get(path).json["state"], "running")

    def test_metrics_name_nobody(self):
        page = Client(alice.server).get("/metrics").body.decode()
        known = [*self.own.values(), *self.groups.values(), "alice", "mallory", "same", MARK]
        known += service.psql("SELECT id FROM users UNION SELECT id FROM api_keys").split()
        for word in known:
            self.assertNotIn(word, page)


if __name__ == "__main__":
    unittest.main()
