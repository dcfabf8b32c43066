"""Events: the life of a sandbox as a page, server-sent events and WebSocket; across two workers."""
import threading
import time
import unittest

import sandboxd
from sandboxd import Client, SystemCase, all_at_once, wait_for

QUICK = True
LIFE = ["creating", "running", "deleting", "deleted"]

service = api = None


def setUpModule():
    global service, api
    service, api = sandboxd.module_service()


def states(events, box):
    return [e["data"]["to"] for e in events
            if e["sandboxId"] == box and e["type"] != "sandbox.pulling"]


def every(client, query=""):
    """All events that the page has, followed by its cursor."""
    items, cursor = [], None
    while True:
        got = client.get(f"/events?limit=200{query}{'&cursor=' + cursor if cursor else ''}")
        if got.status != 200:
            raise AssertionError(f"events: {got}")
        items += got.json["items"]
        cursor = got.json["nextCursor"]
        if not cursor:
            return items


def newest(client):
    return (client.get("/events?tail=1").json["items"] or [{"seq": 0}])[-1]["seq"]


def collect(client, until, since=None, last_id=None, query=""):
    """Events of a stream until until(events) is true; their ids are their numbers."""
    query += f"&since={since}" if since is not None else ""
    headers = {"Last-Event-ID": str(last_id)} if last_id is not None else None
    got = []
    with client.stream("GET", f"/events?{query.lstrip('&')}", headers=headers) as stream:
        if stream.status != 200:
            raise AssertionError(f"stream: {stream.status}")
        for number, event in stream.events():
            if "seq" not in event:
                raise AssertionError(f"unexpected {event}")
            if int(number) != event["seq"]:
                raise AssertionError(f"id {number} of {event}")
            got.append(event)
            if until(got):
                return got
    raise AssertionError("the stream ended")


class PageTest(SystemCase):
    def test_a_life_is_told_with_its_reasons(self):
        start = newest(api)
        box = api.create()["id"]
        self.assertEqual(api.delete(f"/sandboxes/{box}").status, 204)
        got = every(api, f"&sandboxId={box}")
        self.assertEqual(states(got, box), LIFE)
        for event, before in zip(got, [None] + LIFE):
            self.assertEqual(set(event), {"seq", "ts", "type", "sandboxId", "data"})
            self.assertRegex(event["ts"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
            self.assertEqual(event["type"], "sandbox." + event["data"]["to"])
            self.assertEqual(event["data"]["from"], before)
            self.assertEqual(set(event["data"]), {"from", "to", "reason"})
        self.assertEqual(got[2]["data"]["reason"]["code"], "deleted")
        self.assertEqual([e["seq"] for e in every(api, f"&since={start}")],
                         list(range(start + 1, newest(api) + 1)))

    def test_what_failed_says_why_as_the_record_does(self):
        got = api.post("/sandboxes", {"image": "sbxtest-missing:1"})
        box = got.json.get("sandboxId")
        events = every(api, f"&sandboxId={box}")
        self.assertEqual(states(events, box), ["creating", "failed"])
        self.assertEqual(events[-1]["data"]["reason"], api.sandbox(box)["stateReason"])
        self.assertTrue(events[-1]["data"]["reason"]["message"])

        ended = api.create()["id"]
        service.remove_container(ended)
        wait_for(lambda: api.state(ended) == "failed", 20, "the loss is noticed")
        last = every(api, f"&sandboxId={ended}")[-1]
        self.assertEqual(last["type"], "sandbox.failed")
        self.assertEqual(last["data"]["reason"], api.sandbox(ended)["stateReason"])
        self.assertEqual(last["ts"], api.sandbox(ended)["stateChangedAt"])

    def test_pages_select_and_go_on(self):
        boxes = [api.create()["id"] for _ in range(2)]
        self.assertEqual(states(every(api, f"&sandboxId={boxes[0]}"), boxes[1]), [])
        running = every(api, "&type=sandbox.running")
        self.assertEqual({e["type"] for e in running}, {"sandbox.running"})
        self.assertEqual([e["sandboxId"] for e in running][-2:], boxes)
        page = api.get("/events?limit=1").json
        self.assertEqual(len(page["items"]), 1)
        self.assertEqual(page["nextCursor"], str(page["items"][0]["seq"]))
        tail = api.get("/events?tail=2").json
        self.assertEqual([e["seq"] for e in tail["items"]], [newest(api) - 1, newest(api)])
        self.assertIsNone(tail["nextCursor"])
        for query, field in (("since=x", "since"), ("limit=0", "limit"), ("tail=201", "tail"),
                             ("sandboxId=x", "sandboxId"), ("type=moon", "type")):
            self.assert_problem(api.get(f"/events?{query}"), 400, "invalid_request", field)

    def test_only_the_owner_sees_them(self):
        box = api.create()["id"]
        bob = Client(api.server, service.key("bob"))
        self.assertEqual([e for e in every(bob) if e["sandboxId"] == box], [])
        for path in (f"/events?sandboxId={box}", f"/events?sandboxId={'a' * 20}"):
            self.assert_problem(bob.get(path), 404, "not_found")
            with bob.stream("GET", path) as stream:
                self.assertEqual(stream.status, 404)
            self.assertEqual(bob.websocket(path).status, 404)
        self.assertEqual(Client(api.server).get("/events").status, 401)
        theirs = bob.create()["id"]
        self.assertEqual(states(every(bob), theirs), ["creating", "running"])
        self.assertEqual(every(bob)[0]["seq"], 1)  # numbers are the owner's

    def test_they_outlive_the_record(self):
        box = api.create()["id"]
        api.delete(f"/sandboxes/{box}")
        service.psql("UPDATE sandboxes SET state_changed_at = now() - interval '25 hours'"
                     f" WHERE id = '{box}'")
        self.assertEqual(api.get(f"/sandboxes/{box}").status, 404)
        self.assertEqual(states(every(api, f"&sandboxId={box}"), box), LIFE)


class StreamTest(SystemCase):
    def test_a_stream_tells_what_comes_and_resumes_in_the_middle(self):
        start = newest(api)
        result = []

        def watch():
            result.extend(collect(api, lambda got: states(got, got[0]["sandboxId"]) == LIFE))
        watcher = threading.Thread(target=watch)
        watcher.start()
        wait_for(lambda: self.viewers() == 1, what="the viewer")
        box = api.create()["id"]
        api.delete(f"/sandboxes/{box}")
        watcher.join(20)
        self.assertEqual(states(result, box), LIFE)
        self.assertEqual([e["seq"] for e in result], list(range(start + 1, start + 5)))
        for known in range(4):
            rest = collect(api, lambda got, k=known: len(got) == 4 - k, last_id=start + known)
            self.assertEqual(rest, result[known:])
        self.assertEqual(collect(api, lambda got: len(got) == 2, query="&tail=2"), result[2:])

    def viewers(self, client=None):
        client = client or api
        for line in client.get("/metrics").body.decode().splitlines():
            if line.startswith("sandboxd_event_viewers"):
                return int(float(line.split()[-1]))
        return 0

    def test_the_stream_of_a_sandbox_ends_with_it(self):
        box = api.create()["id"]
        with api.websocket(f"/events?sandboxId={box}&since=0") as socket:
            self.assertEqual(socket.status, 101)
            frames = socket.frames()
            first = next(frames)
            self.assertEqual(first["type"], "events")
            self.assertEqual(states(first["events"], box), ["creating", "running"])
            api.delete(f"/sandboxes/{box}")
            rest = list(frames)
        self.assertEqual(states([e for f in rest for e in f.get("events", [])], box),
                         ["deleting", "deleted"])
        self.assertEqual(rest[-1], {"type": "end"})
        self.assertEqual(socket.close_code, 1000)

    def test_a_storm_of_reconnects_gets_everything_once(self):
        start = newest(api)
        boxes = all_at_once(lambda _: api.create()["id"], range(6), 6)
        total = 4 * len(boxes)
        seen = []

        def storm(_):
            got = []
            while len(got) < total:
                more = len(got) + 3
                got += collect(api, lambda g, m=more, k=len(got): k + len(g) >= min(m, total),
                               since=start + len(got))
            seen.append(got)
        storms = [threading.Thread(target=storm, args=(i,)) for i in range(12)]
        for thread in storms:
            thread.start()
        for box in boxes:
            api.delete(f"/sandboxes/{box}")
        for thread in storms:
            thread.join(60)
        self.assertEqual(len(seen), len(storms))
        for got in seen:
            self.assertEqual([e["seq"] for e in got], list(range(start + 1, start + total + 1)))
            for box in boxes:
                self.assertEqual(states(got, box), LIFE)

    def test_a_viewer_that_does_not_read_holds_up_nobody(self):
        start = newest(api)
        # More than its socket and outbox hold.
        service.psql("WITH o AS (SELECT id AS who FROM users WHERE name = 'alice'), n AS (UPDATE"
                     " event_counters SET last = last + 30000 FROM o WHERE owner = who RETURNING"
                     " owner, last) INSERT INTO events (owner, seq, sandbox, type, data) SELECT"
                     " owner, last - 30000 + i, 'none', 'sandbox.running', json_build_object("
                     "'from', null, 'to', 'running', 'reason', json_build_object('code', 'x',"
                     " 'message', repeat('m', 400))) FROM n, generate_series(1, 30000) i")
        before = api.server.rss_kb()
        with api.stream("GET", f"/events?since={start}") as stuck:
            self.assertEqual(stuck.status, 200)
            result = []
            watcher = threading.Thread(target=lambda: result.extend(
                collect(api, lambda got: "deleted" in states(got, got[0]["sandboxId"]))))
            watcher.start()
            wait_for(lambda: self.viewers() == 2, what="both viewers")
            begun = time.monotonic()
            box = api.create()["id"]
            api.delete(f"/sandboxes/{box}")
            watcher.join(20)
            self.assertEqual(states(result, box), LIFE)
            self.assertLess(time.monotonic() - begun, 10)
            self.assertLess(api.server.rss_kb() - before, 20 * 1024)
            got = []
            for _, event in stuck.events():
                got.append(event["seq"])
                if event["seq"] == result[-1]["seq"]:
                    break
        self.assertEqual(got, list(range(start + 1, result[-1]["seq"] + 1)))

    def test_a_drain_ends_streams_that_can_be_taken_up_again(self):
        second = sandboxd.Service()
        self.addCleanup(second.close)
        client = Client(second.start(), second.key())
        socket = client.websocket("/events?since=0")
        self.addCleanup(socket.close)
        box = client.create()["id"]
        frames = socket.frames()
        got = []
        while states(got, box) != LIFE[:2]:
            got += next(frames)["events"]
        client.server.signal(15)
        self.assertEqual(list(frames), [])
        self.assertEqual(socket.close_code, 1001)
        self.assertEqual(client.server.wait(), 0)
        client = Client(second.start(), client.key)
        client.delete(f"/sandboxes/{box}")
        rest = collect(client, lambda g: states(g, box)[-1:] == ["deleted"], since=got[-1]["seq"])
        self.assertEqual(states(got + rest, box), LIFE)


class RedisTest(SystemCase):
    @classmethod
    def setUpClass(cls):
        if not sandboxd.REDIS_URL:
            raise AssertionError("SBX_TEST_REDIS_URL is not set: run tests/run")
        cls.service = sandboxd.Service(env={"REDIS_URL": sandboxd.REDIS_URL})
        cls.addClassCleanup(cls.service.close)
        cls.a = Client(cls.service.start(), cls.service.key())
        cls.b = Client(cls.service.start(), cls.a.key)

    def test_a_viewer_hears_what_another_worker_does(self):
        with self.b.websocket("/events") as socket:
            self.assertEqual(socket.status, 101)
            box = self.a.create()["id"]
            other = self.b.create()["id"]
            frames, got = socket.frames(), []
            while states(got, box)[-1:] != ["running"] or states(got, other)[-1:] != ["running"]:
                got += next(frames)["events"]
            begun = time.monotonic()
            self.assertEqual(self.a.delete(f"/sandboxes/{box}").status, 204)
            while states(got, box) != LIFE:
                got += next(frames)["events"]
            self.assertLess(time.monotonic() - begun, 10)
        self.assertEqual([e["seq"] for e in got],
                         list(range(got[0]["seq"], got[0]["seq"] + len(got))))
        self.assertEqual(every(self.a), every(self.b))

    def test_a_log_viewer_elsewhere_is_told_of_states(self):
        box = self.a.create()["id"]
        with self.b.websocket(f"/sandboxes/{box}/logs") as socket:
            frames = socket.frames()
            self.a.exec(box, "echo here")
            while "here" not in [e["data"] for e in next(frames).get("entries", [])]:
                pass
            self.assertEqual(self.a.delete(f"/sandboxes/{box}").status, 204)
            rest = list(frames)
        told = [f["sandbox"] for f in rest if f["type"] == "state"]
        self.assertEqual(told[-1]["state"], "deleted")
        self.assertEqual(told[-1]["id"], box)
        self.assertEqual(rest[-1], {"type": "end"})


if __name__ == "__main__":
    unittest.main()
