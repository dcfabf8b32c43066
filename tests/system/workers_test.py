"""Any of two workers serves any request: what is made through one is used through the other at
once, without a second try, over the whole table of routes."""
import json
import pathlib
import re
import sys
import threading
import time
import unittest
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "bench"))
from taps import EngineTap  # noqa: E402
import sandboxd
from sandboxd import Client, SystemCase, wait_for
from terminal_test import Terminal

TIMEOUT_S = 600
ECHO = "while read -r line; do echo \"got $line\"; done"


class Recorder(Client):
    """Remembers what it was asked, to see that no route was left out."""

    seen = set()

    def connect(self, timeout=60):
        connection = super().connect(timeout)
        request = connection.request

        def recorded(method, path, *rest):
            self.seen.add((method, urllib.parse.urlsplit(path).path))
            return request(method, path, *rest)
        connection.request = recorded
        return connection

    def websocket(self, path, headers=None):
        self.seen.add(("GET", urllib.parse.urlsplit(path).path))
        return super().websocket(path, headers)


class RoutesTest(SystemCase):
    @classmethod
    def setUpClass(cls):
        if not sandboxd.REDIS_URL:
            raise AssertionError("SBX_TEST_REDIS_URL is not set: run tests/run")
        cls.service = sandboxd.Service(env={"REDIS_URL": sandboxd.REDIS_URL, "SBX_POOL": ""})
        cls.addClassCleanup(cls.service.close)
        key = cls.service.key("root", "--role", "admin")
        cls.workers = [Recorder(cls.service.start(), key) for _ in range(2)]

    def ok(self, got, status=200):
        self.assertEqual(got.status, status, got)
        return got.json if got.body else None

    def test_what_one_worker_made_the_other_one_serves_at_once(self):
        parts = [name for name in dir(self) if name.startswith("part_")]
        for a, b in (self.workers, self.workers[::-1]):
            for name in parts:
                with self.subTest(name, made_by=self.workers.index(a)):
                    getattr(self, name)(a, b)
        self.check_nothing_was_left_out()

    def check_nothing_was_left_out(self):
        about_the_server = {"/health", "/ready", "/metrics", "/docs", "/openapi.json"}
        missing = []
        for path, verbs in self.workers[0].get("/openapi.json").json["paths"].items():
            form = re.compile("^" + re.sub(r"\{[^}]*\}", "[^/]+", path) + "$")
            for verb in verbs:
                if path in about_the_server or verb not in ("get", "post", "put", "patch", "delete"):
                    continue
                if not any(m == verb.upper() and form.match(p) for m, p in Recorder.seen):
                    missing.append(f"{verb.upper()} {path}")
        self.assertEqual(missing, [])

    # ---- sandboxes ----

    def part_life_of_a_sandbox(self, a, b):
        box = a.create(name="one", metadata={"who": "a"}, env={"A": "1"})
        path = f"/sandboxes/{box['id']}"
        self.assertEqual(self.ok(b.get(path)), box)
        self.assertIn(box["id"], [s["id"] for s in b.every()])
        self.ok(b.patch(path, {"name": "two", "env": {"A": "2"}, "limits": {"memoryMb": 300}}))
        self.assertEqual(a.exec(box["id"], "echo $A")["stdout"], "2\n")
        self.assertEqual(b.exec(box["id"], "echo $A")["stdout"], "2\n")
        self.assertEqual(a.sandbox(box["id"])["name"], "two")
        for first, second in ((a, b), (b, a)):
            first.move(box["id"], "pause")
            self.assertEqual(second.state(box["id"]), "paused")
            second.move(box["id"], "resume")
            self.assertEqual(first.exec(box["id"], "echo 1")["stdout"], "1\n")
            first.move(box["id"], "pause")
            self.assertEqual(second.exec(box["id"], "echo 2")["stdout"], "2\n")  # resumes it
            first.move(box["id"], "stop")
            second.move(box["id"], "start")
            self.assertEqual(first.exec(box["id"], "echo 3")["stdout"], "3\n")
            second.move(box["id"], "restart")
            self.assertEqual(first.exec(box["id"], "echo 4")["stdout"], "4\n")
            first.move(box["id"], "reset", {"mode": "soft"})
            self.assertEqual(second.exec(box["id"], "echo 5")["stdout"], "5\n")
            second.move(box["id"], "keepalive")
        self.assertGreater(self.ok(b.get(f"{path}/stats"))["memoryBytes"], 0)
        self.assertEqual(b.delete(path).status, 204)
        self.assertEqual(a.state(box["id"]), "deleted")
        self.assert_problem(a.post(f"{path}/exec", {"command": "true"}), 410, "gone")
        self.assertEqual(a.delete(path).status, 204)

    def part_a_create_that_is_not_waited_for(self, a, b):
        box = a.create(wait=False)["id"]
        self.assertEqual(b.exec(box, "echo x")["stdout"], "x\n")
        self.assertEqual(b.delete(f"/sandboxes/{box}").status, 204)

    def part_batches(self, a, b):
        mark = {"batch": f"b{id(a)}"}
        made = self.ok(a.post("/sandboxes/batch", {
            "sandboxes": [{"template": "box", "metadata": mark}] * 2}), 201)
        ids = [s["sandbox"]["id"] for s in made["items"]]
        for box in ids:
            self.assertEqual(b.exec(box, "echo x")["stdout"], "x\n")
        gone = b.delete(f"/sandboxes?metadata.batch={mark['batch']}")
        self.assertIn(gone.status, (200, 204), gone)
        self.assertEqual([a.state(box) for box in ids], ["deleted"] * 2)

    def part_idempotency_keys(self, a, b):
        head = {"Idempotency-Key": f"one-{id(a)}"}
        body = {"template": "box"}
        first = a.post("/sandboxes", body, headers=head)
        again = b.post("/sandboxes", body, headers=head)
        self.assertEqual((first.status, first.json), (201, again.json), again)
        box = first.json["id"]
        self.assert_problem(b.post("/sandboxes", {"template": "box", "name": "x"}, headers=head),
                            409, "conflict")
        # at once: one of them makes it, the other one waits for it
        head = {"Idempotency-Key": f"two-{id(a)}"}
        got = sandboxd.all_at_once(lambda c: c.post("/sandboxes", body, headers=head), [a, b] * 2)
        self.assertEqual({g.status for g in got}, {201}, got)
        self.assertEqual(len({g.json["id"] for g in got}), 1)
        for one in (box, got[0].json["id"]):
            self.assertEqual(b.delete(f"/sandboxes/{one}").status, 204)

    # ---- commands ----

    def part_commands(self, a, b):
        box = a.create()["id"]
        execs = f"/sandboxes/{box}/execs"
        one = self.ok(a.post(f"/sandboxes/{box}/exec", {
            "command": ECHO, "background": True, "stdinOpen": True}), 202)["execId"]
        self.assertIn(one, [e["execId"] for e in self.ok(b.get(execs))["items"]])
        self.assertEqual(self.ok(b.get(f"{execs}/{one}"))["state"], "running")
        with b.stream("GET", f"{execs}/{one}/output") as stream:
            events = stream.events()
            self.assertIn(b.call("POST", f"{execs}/{one}/stdin", b"x\n", headers={
                "Content-Type": "application/octet-stream"}).status, (200, 204))
            told = next(e for _, e in events if e.get("type") == "stdout")
            self.assertEqual(told["data"], "got x\n")
            self.assertIn(b.post(f"{execs}/{one}/signal", {"signal": "TERM"}).status, (200, 204))
            self.assertEqual(next(e for _, e in events if e["type"] == "exit")["signal"], "TERM")
        two = self.ok(b.post(f"/sandboxes/{box}/exec", {
            "command": "echo early; sleep 600", "background": True}), 202)["execId"]
        wait_for(lambda: "early" in a.get(f"{execs}/{two}/output").body.decode(), what="its output")
        self.assertIn(a.delete(f"{execs}/{two}").status, (200, 204))
        wait_for(lambda: a.get(f"{execs}/{two}").json["state"] != "running", what="its end")
        self.assertEqual(b.delete(f"/sandboxes/{box}").status, 204)

    def part_waiting_commands_at_once(self, a, b):
        box = a.create()["id"]
        got = sandboxd.all_at_once(
            lambda n: (a, b)[n % 2].exec(box, f"sleep 0.2; echo {n}")["stdout"], range(8))
        self.assertEqual(got, [f"{n}\n" for n in range(8)])
        self.assertEqual(b.delete(f"/sandboxes/{box}").status, 204)

    def part_terminals(self, a, b):
        box = a.create()["id"]
        one = Terminal(sandbox=box, client=a)
        self.addCleanup(one.close)
        one.type(b"echo $((40 + 2))\n")
        one.until_text(rb"\b42\b")
        b.seen.add(("GET", f"/sandboxes/{box}/terminal"))
        two = Terminal(f"?execId={one.id}", sandbox=box, client=b)
        self.addCleanup(two.close)
        two.type(b"echo $((50 + 5))\n")
        for screen in (one, two):
            screen.until_text(rb"\b55\b")
        self.assertEqual(b.delete(f"/sandboxes/{box}").status, 204)

    def part_files(self, a, b):
        box = a.create()["id"]
        files = f"/sandboxes/{box}/files"
        raw = {"Content-Type": "application/octet-stream"}
        self.ok(a.call("PUT", f"{files}?path=x", b"one", headers=raw), 201)
        self.assertEqual(b.get(f"{files}?path=x").body, b"one")
        self.ok(b.call("PUT", f"{files}?path=x", b"two", headers=raw), 200)
        self.assertEqual(a.get(f"{files}?path=x").body, b"two")
        self.ok(b.post(f"{files}/mkdir", {"path": "d"}), 201)
        self.ok(b.post(f"{files}/copy", {"from": "x", "to": "d/y"}))
        self.ok(b.post(f"{files}/move", {"from": "d/y", "to": "d/z"}))
        self.assertEqual(self.ok(a.get(f"{files}/stat?path=d/z"))["sizeBytes"], 3)
        self.ok(b.post(f"{files}/batch", {"files": {"d/w": "four"}}), 200)
        names = [e["name"] for e in self.ok(a.get(f"{files}/list?path=d"))["items"]]
        self.assertEqual(sorted(names), ["w", "z"])
        packed = b.get(f"{files}/archive?path=d&format=tar.gz")
        self.assertEqual(packed.status, 200)
        self.assertIn(a.call("PUT", f"{files}/archive?path=e", packed.body, headers={
            "Content-Type": "application/gzip"}).status, (200, 201, 204))
        with b.stream("GET", f"{files}/watch?path=d") as stream:
            self.assertEqual(stream.status, 200)
            told = []
            threading.Thread(target=lambda: told.extend([stream.next()]), daemon=True).start()

            def change():
                a.call("PUT", f"{files}?path=d/new", b"1", headers=raw)
                return told
            wait_for(change, 20, "news of the file", 0.2)
        self.assertEqual(b.call("DELETE", f"{files}?path=d&recursive=true").status, 204)
        self.assertEqual(a.get(f"{files}?path=d/w").status, 404)
        self.assertEqual(b.delete(f"/sandboxes/{box}").status, 204)

    # ---- code ----

    def part_code(self, a, b):
        ran = self.ok(b.post("/run", {"runtime": "python", "code": "print(6 * 7)"}, timeout=120))
        self.assertEqual(ran["stdout"], "42\n")
        box = a.create(template="python")["id"]
        path = f"/sandboxes/{box}/contexts"
        context = self.ok(a.post(path, {"runtime": "python"}), 201)["id"]
        self.assertEqual([c["id"] for c in self.ok(b.get(path))["items"]], [context])
        self.assertEqual(self.ok(b.get(f"{path}/{context}"))["id"], context)
        for client, code, told in ((a, "x = 1", ""), (b, "x += 1", ""), (a, "print(x)", "2\n")):
            got = self.ok(client.post(f"/sandboxes/{box}/run", {
                "runtime": "python", "code": code, "contextId": context}))
            self.assertEqual(got["stdout"], told, got)
        self.ok(b.post(f"{path}/{context}/restart"))
        self.assertEqual(b.delete(f"{path}/{context}").status, 204)
        wait_for(lambda: not a.get(path).json["items"], what="an empty list")
        self.assertEqual(b.delete(f"/sandboxes/{box}").status, 204)

    # ---- groups ----

    def part_groups(self, a, b):
        boxes = [a.create()["id"], b.create()["id"]]
        made = self.ok(a.post("/groups", {"name": "g", "sandboxes": boxes}), 201)
        path = f"/groups/{made['id']}"
        self.assertEqual(self.ok(b.get(path)), made)
        self.assertIn(made["id"], [g["id"] for g in self.ok(b.get("/groups"))["items"]])
        got = self.ok(b.post(f"{path}/exec", {"command": "echo x"}))
        self.assertEqual([r["stdout"] for r in got["results"]], ["x\n"] * 2, got)
        self.ok(b.patch(path, {"name": "h"}))
        self.assertEqual(self.ok(a.get(path))["name"], "h")
        self.assertIn(b.delete(path).status, (200, 204))
        self.assertEqual(a.get(path).status, 404)
        for box in boxes:
            b.delete(f"/sandboxes/{box}")

    # ---- users, keys, tickets ----

    def part_users_and_keys(self, a, b):
        ada = self.ok(a.post("/users", {"name": f"ada-{id(a)}", "tier": "enterprise"}), 201)
        self.assertEqual(self.ok(b.get(f"/users/{ada['id']}")), ada)
        self.assertIn(ada["id"], [u["id"] for u in self.ok(b.get("/users?limit=200"))["items"]])
        self.assertEqual(self.ok(b.patch(f"/users/{ada['id']}", {"tier": "pro"}))["tier"], "pro")
        self.ok(b.call("PUT", f"/users/{ada['id']}/spending-limit", {"limitMicros": 10**9}))
        key = self.ok(a.post("/keys", {"userId": ada["id"], "name": "k"}), 201)
        hers = Recorder(b.server, key["key"])
        self.assertEqual(self.ok(hers.get("/me"))["user"]["id"], ada["id"])
        self.assertEqual(self.ok(hers.get(f"/keys/{key['id']}"))["name"], "k")
        self.assertIn(key["id"], [k["id"] for k in self.ok(hers.get("/keys"))["items"]])
        self.assertEqual(self.ok(hers.get("/quotas"))["tier"], "pro")
        self.ok(hers.get("/usage"))
        new = self.ok(b.post(f"/keys/{key['id']}/rotate"), 201)
        self.ok(Recorder(a.server, new["key"]).get("/me"))
        wait_for(lambda: hers.get("/me").status == 401, 5, "the end of the former key")
        self.assertEqual(b.delete(f"/keys/{new['id']}").status, 204)
        self.assertEqual(b.delete(f"/users/{ada['id']}").status, 204)
        self.assertEqual(a.get(f"/users/{ada['id']}").status, 404)
        self.assertTrue(self.ok(b.get("/audit?limit=5"))["items"])

    def part_tickets(self, a, b):
        box = a.create()["id"]
        ticket = self.ok(a.post("/tickets", {"path": f"/sandboxes/{box}/logs"}), 201)["ticket"]
        anonymous = Recorder(b.server)
        self.ok(anonymous.get(f"/sandboxes/{box}/logs?ticket={ticket}"))
        self.assertEqual(Recorder(a.server).get(f"/sandboxes/{box}/logs?ticket={ticket}").status,
                         401, "it is used up")
        self.assertEqual(b.delete(f"/sandboxes/{box}").status, 204)

    def part_settings(self, a, b):
        for path, name, change in (("/tiers", "name", {"concurrentSandboxes": 77}),
                                   ("/prices", "size", {"pausedMicrosPerHour": 5})):
            item = self.ok(a.get(path))["items"][0][name]
            self.ok(a.patch(f"{path}/{item}", change))
            now = next(i for i in self.ok(b.get(path))["items"] if i[name] == item)
            self.assertEqual({k: now[k] for k in change}, change)
        self.ok(a.patch("/pool", {"template": "box", "min": 0, "max": 0}))
        self.ok(b.get("/pool"))

    # ---- streams ----

    def part_events_and_logs(self, a, b):
        with b.websocket("/events?tail=0") as events, a.websocket("/events?tail=0") as at_a:
            box = a.create(command=["sh", "-c", "echo from main; sleep 600"])["id"]
            for socket in (events, at_a):
                frames = socket.frames()
                types = []
                while "sandbox.running" not in types:
                    frame = next(frames)
                    types += [e["type"] for e in frame.get("events", [])
                              if e["sandboxId"] == box]
        with b.websocket(f"/sandboxes/{box}/logs") as viewer:
            told, frames = [], viewer.frames()
            while "from main" not in told:
                told += [e["data"] for e in next(frames).get("entries", [])]
            self.assertEqual(b.exec(box, "echo by exec")["exitCode"], 0)
            while "by exec" not in told:
                told += [e["data"] for e in next(frames).get("entries", [])]
        pages = []
        for client in (a, b):
            wait_for(lambda c=client: "by exec" in [e["data"] for e in c.logs(box)], what="a page")
            pages.append(json.dumps(client.logs(box)))
        self.assertEqual(*pages)
        seen = self.ok(b.get(f"/events?sandboxId={box}"))["items"]
        self.assertEqual(seen, self.ok(a.get(f"/events?sandboxId={box}"))["items"])
        self.assertEqual(b.delete(f"/sandboxes/{box}").status, 204)


class SweepTest(SystemCase):
    def test_one_worker_sweeps_for_all_and_another_one_when_it_is_gone(self):
        tap = EngineTap(sandboxd.DOCKER_HOST)
        self.addCleanup(tap.close)
        service = sandboxd.Service(env={"REDIS_URL": sandboxd.REDIS_URL, "DOCKER_HOST": tap.url,
                                        "SBX_POOL": "", "SBX_SWEEP_SECONDS": 1})
        self.addCleanup(service.close)
        servers = [service.start() for _ in range(2)]
        seen = 0

        def sweeps(number):
            nonlocal seen
            seen = 0

            def enough():
                nonlocal seen
                seen += tap.take().count("GET /containers/json")
                return seen >= number
            wait_for(enough, 60, f"{number} sweeps", 0.05)
        sweeps(5)  # each worker's first, and those that their listening began with
        began = time.monotonic()
        sweeps(6)
        self.assertGreater(time.monotonic() - began, 4.5, "both sweep")
        for _ in range(2):
            servers.pop(0).kill()
            sweeps(5)
            servers.append(service.start())


if __name__ == "__main__":
    unittest.main()
