"""Groups: named sets of sandboxes, and one command in all of them."""
import json
import time
import unittest

import sandboxd
from sandboxd import Client, SystemCase, all_at_once, engine, wait_for

TIMEOUT_S = 300

service = api = bob = None


def setUpModule():
    global service, api, bob
    service, api = sandboxd.module_service()
    bob = Client(api.server, service.key("bob"))


def group(members=(), client=None, **more):
    got = (client or api).post("/groups", {"name": "g", "sandboxes": list(members), **more})
    if got.status != 201:
        raise AssertionError(got)
    return got.json


def read(made):
    return api.get(f"/groups/{made['id']}").json


class GroupTest(SystemCase):
    @classmethod
    def setUpClass(cls):
        cls.boxes = [b["id"] for b in all_at_once(lambda _: api.create(), range(4), 4)]

    def test_it_is_made_read_changed_and_deleted(self):
        got = api.post("/groups", {"name": "workers", "sandboxes": self.boxes[1:3],
                                   "metadata": {"a": "1", "b": "2"}})
        self.assertEqual(got.status, 201, got)
        made = got.json
        path = f"/groups/{made['id']}"
        self.assertEqual(got.headers["Location"], path)
        self.assertEqual((made["name"], made["metadata"], made["sandboxes"]),
                         ("workers", {"a": "1", "b": "2"}, self.boxes[1:3]))
        told = api.get(path)
        self.assertEqual(told.json, made)
        same = api.get(path, headers={"If-None-Match": told.headers["ETag"]})
        self.assertEqual(same.status, 304)
        got = api.patch(path, {"name": "crew", "metadata": {"a": None, "c": "3"},
                               "add": [self.boxes[0]], "remove": [self.boxes[1]]})
        self.assertEqual(got.status, 200, got)
        self.assertEqual((got.json["name"], got.json["metadata"], got.json["sandboxes"]),
                         ("crew", {"b": "2", "c": "3"}, [self.boxes[2], self.boxes[0]]))
        self.assertGreater(got.json["updatedAt"], made["updatedAt"])
        self.assertNotEqual(api.get(path).headers["ETag"], told.headers["ETag"])
        again = api.patch(path, {"add": [self.boxes[0]], "remove": ["a" * 20]})
        self.assertEqual(again.json["sandboxes"], [self.boxes[2], self.boxes[0]])
        self.assertEqual(api.delete(path).status, 204)
        for got in (api.get(path), api.delete(path), api.patch(path, {"name": "x"}),
                    api.post(f"{path}/exec", {"command": "true"})):
            self.assert_problem(got, 404, "not_found")
        self.assertEqual([api.state(b) for b in self.boxes], ["running"] * 4)

    def test_lists_have_pages_and_filters(self):
        made = [group(name=f"page{i % 2}", metadata={"list": "yes", "n": str(i)})["id"]
                for i in range(5)]
        seen, cursor = [], ""
        while cursor is not None:
            page = api.get(f"/groups?metadata.list=yes&limit=2{cursor}").json
            seen += [g["id"] for g in page["items"]]
            cursor = page["nextCursor"] and f"&cursor={page['nextCursor']}"
        self.assertEqual(seen, made[::-1])
        named = api.get("/groups?name=page1&metadata.list=yes").json["items"]
        self.assertEqual([g["id"] for g in named], [made[3], made[1]])
        self.assertEqual(bob.get("/groups").json["items"], [])
        self.assert_problem(api.get("/groups?limit=0"), 400, "invalid_request", "limit")
        self.assert_problem(api.get("/groups?cursor=x"), 400, "invalid_request", "cursor")

    def test_what_is_another_users_does_not_exist(self):
        made = group(self.boxes[:1])
        path = f"/groups/{made['id']}"
        for got in (bob.get(path), bob.delete(path), bob.patch(path, {"name": "x"}),
                    bob.delete(path + "?sandboxes=true"),
                    bob.post(f"{path}/exec", {"command": "true"})):
            self.assert_problem(got, 404, "not_found")
        self.assert_problem(bob.post("/groups", {"name": "x", "sandboxes": [self.boxes[0]]}), 400,
                            "invalid_request", "sandboxes[0]")
        his = group(client=bob)
        self.assert_problem(bob.patch(f"/groups/{his['id']}", {"add": [self.boxes[0]]}), 400,
                            "invalid_request", "add[0]")
        self.assertEqual(bob.get(f"/groups/{his['id']}").json["sandboxes"], [])
        self.assertEqual(read(made)["sandboxes"], self.boxes[:1])

    def test_what_is_wrong_is_named_and_nothing_is_changed(self):
        made = group(self.boxes[:1])
        path, box = f"/groups/{made['id']}", self.boxes[0]
        for body, field in (({"sandboxes": [box]}, "name"), ({"name": ""}, "name"),
                            ({"name": "a\nb"}, "name"),
                            ({"name": "x", "sandboxes": [box, box]}, "sandboxes[1]"),
                            ({"name": "x", "sandboxes": ["nonsense"]}, "sandboxes[0]"),
                            ({"name": "x", "sandboxes": [box, "a" * 20]}, "sandboxes[1]"),
                            ({"name": "x", "sandboxes": ["a" * 20] * 101}, "sandboxes")):
            self.assert_problem(api.post("/groups", body), 400, "invalid_request", field)
        for body, field in (({"add": ["a" * 20]}, "add[0]"), ({"add": [box], "remove": [box]},
                                                              "remove[0]"),
                            ({"name": None}, "name"), ({"sandboxes": []}, "sandboxes")):
            self.assert_problem(api.patch(path, body), 400, "invalid_request", field)
        self.assertEqual(read(made), made)
        before = len(api.get("/groups?limit=200").json["items"])
        self.assert_problem(api.post("/groups", {"name": "x", "sandboxes": ["a" * 20]}), 400,
                            "invalid_request", "sandboxes[0]")
        self.assertEqual(len(api.get("/groups?limit=200").json["items"]), before)

    def test_metadata_is_bounded_also_when_it_is_merged(self):
        made = group(metadata={f"k{i}": "x" for i in range(30)})
        path = f"/groups/{made['id']}"
        self.assert_problem(api.patch(path, {"metadata": {"a": "1", "b": "2", "c": "3"}}), 400,
                            "invalid_request", "metadata")
        got = api.patch(path, {"metadata": {"a": "1", "b": "2", "c": "3", "k0": None}})
        self.assertEqual((got.status, len(got.json["metadata"])), (200, 32), got)

    def test_a_member_that_is_deleted_leaves_by_itself(self):
        box = api.create()["id"]
        made = group([box, self.boxes[0]])
        other = group([box])
        self.assertEqual(api.delete(f"/sandboxes/{box}").status, 204)
        self.assertEqual(read(made)["sandboxes"], [self.boxes[0]])
        self.assertEqual(read(other)["sandboxes"], [])
        self.assert_problem(api.patch(f"/groups/{other['id']}", {"add": [box]}), 400,
                            "invalid_request", "add[0]")
        service.psql("UPDATE sandboxes SET state_changed_at = now() - interval '2 days'"
                     f" WHERE id = '{box}'; DELETE FROM sandboxes WHERE id = '{box}'")
        self.assertEqual(read(made)["sandboxes"], [self.boxes[0]])

    def test_changes_at_once_are_all_kept(self):
        made = group()
        path = f"/groups/{made['id']}"

        def add(box):
            while (got := api.patch(path, {"add": [box]})).status == 409:
                pass
            return got.status
        self.assertEqual(all_at_once(add, self.boxes), [200] * 4)
        self.assertEqual(sorted(read(made)["sandboxes"]), sorted(self.boxes))

    def test_a_group_is_bounded(self):
        box = api.create()["id"]
        service.psql("INSERT INTO sandboxes SELECT (jsonb_populate_record(NULL::sandboxes, to_jsonb(s)"
                     " || jsonb_build_object('id', 'g' || lpad(i::text, 19, '0'), 'state', 'failed',"
                     " 'container_id', NULL))).* FROM sandboxes s, generate_series(1, 100) i"
                     f" WHERE s.id = '{box}'")
        fake = [f"g{i:019}" for i in range(1, 101)]
        made = group(fake)
        self.assertEqual(made["sandboxes"], fake)
        path = f"/groups/{made['id']}"
        self.assert_problem(api.patch(path, {"add": [box]}), 400, "invalid_request", "add")
        got = api.patch(path, {"add": [box, fake[3]], "remove": [fake[0]]})
        self.assertEqual(got.json["sandboxes"], fake[1:] + [box])

    def test_a_key_makes_it_once(self):
        got = [api.post("/groups", {"name": "once"}, headers={"Idempotency-Key": "group"})
               for _ in range(2)]
        self.assertEqual([g.status for g in got], [201, 201])
        self.assertEqual(got[0].json, got[1].json)
        self.assertEqual(len(api.get("/groups?name=once").json["items"]), 1)

    def test_a_crash_before_the_answer_was_written_down_makes_no_second_one(self):
        first = api.post("/groups", {"name": "crashed"}, headers={"Idempotency-Key": "gone"})
        service.psql("UPDATE idempotency_keys SET status = NULL, answer = NULL, location = NULL,"
                     " worker = 'dead' WHERE key = 'gone'")
        again = api.post("/groups", {"name": "crashed"}, headers={"Idempotency-Key": "gone"})
        self.assertEqual((again.status, again.json), (201, first.json))
        self.assertEqual(len(api.get("/groups?name=crashed").json["items"]), 1)

    def test_it_goes_with_all_its_members(self):
        members = [api.create()["id"] for _ in range(3)]
        made = group(members)
        path = f"/groups/{made['id']}"
        self.assert_problem(api.delete(path + "?sandboxes=maybe"), 400, "invalid_request",
                            "sandboxes")
        got = api.delete(path + "?sandboxes=true")
        self.assertEqual((got.status, got.json),
                         (200, {"deleted": members, "failed": [], "more": False}))
        self.assertEqual([api.state(b) for b in members], ["deleted"] * 3)
        self.assert_problem(api.get(path), 404, "not_found")


class ExecTest(SystemCase):
    @classmethod
    def setUpClass(cls):
        cls.boxes = [b["id"] for b in all_at_once(
            lambda i: api.create(env={"I": str(i)}), range(4), 4)]
        cls.path = f"/groups/{group(cls.boxes)['id']}/exec"

    def run_in(self, members, command, **more):
        made = group(members)
        return api.post(f"/groups/{made['id']}/exec", {"command": command, **more}, timeout=120)

    def test_results_come_in_the_order_of_the_members(self):
        got = api.post(self.path, {"command": "echo out$I; echo err >&2; exit $I"})
        self.assertEqual(got.status, 200, got)
        results = got.json["results"]
        self.assertEqual([r["sandboxId"] for r in results], self.boxes)
        self.assertEqual([r["stdout"] for r in results], [f"out{i}\n" for i in range(4)])
        self.assertEqual([(r["exitCode"], r["stderr"]) for r in results],
                         [(i, "err\n") for i in range(4)])
        for r in results:
            self.assertEqual(api.get(f"/sandboxes/{r['sandboxId']}/execs/{r['execId']}").status, 200)

    def test_they_run_at_the_same_time(self):
        took = time.monotonic()
        got = api.post(self.path, {"command": "sleep 2"})
        took = time.monotonic() - took
        self.assertEqual([r["exitCode"] for r in got.json["results"]], [0] * 4)
        self.assertLess(took, 6)

    def test_one_that_hangs_holds_the_others_no_longer_than_its_time_out(self):
        got = api.post(self.path, {"command": "[ $I != 2 ] || sleep 1000", "timeoutMs": 1500})
        results = got.json["results"]
        self.assertEqual([r["timedOut"] for r in results], [False, False, True, False])

    def test_one_whose_agent_is_silent_is_a_problem_of_its_own(self):
        box = api.create()["id"]
        engine.call("POST", f"/containers/sbx-{box}/pause")  # behind the server's back
        try:
            began = time.monotonic()
            got = self.run_in([self.boxes[0], box], "echo hi", timeoutMs=1000)
            self.assertLess(time.monotonic() - began, 30)
        finally:
            engine.call("POST", f"/containers/sbx-{box}/unpause")
        first, second = got.json["results"]
        self.assertEqual(first["stdout"], "hi\n")
        self.assertEqual((second["sandboxId"], second["problem"]["code"]), (box, "timeout"))

    def test_paused_members_resume_and_others_that_cannot_run_are_told(self):
        paused, stopped = api.create()["id"], api.create()["id"]
        api.move(paused, "pause")
        api.move(stopped, "stop", {"graceSeconds": 0})
        got = self.run_in([stopped, paused, self.boxes[0]], "echo up")
        told = got.json["results"]
        self.assertEqual([r.get("stdout") for r in told], [None, "up\n", "up\n"])
        self.assertEqual(told[0]["problem"]["code"], "conflict")
        self.assertIn("stopped", told[0]["problem"]["detail"])
        self.assertEqual(api.state(paused), "running")

    def test_a_wrong_field_is_a_problem_of_the_request_or_of_each(self):
        self.assert_problem(api.post(self.path, {"command": []}), 400, "invalid_request", "command")
        self.assert_problem(api.post(self.path, {"command": "x", "env": {"A=": "b"}}), 400,
                            "invalid_request", "env")
        got = api.post(self.path, {"command": "true", "cwd": "/no/such"})
        self.assertEqual({r["problem"]["errors"][0]["field"] for r in got.json["results"]}, {"cwd"})

    def test_output_is_bounded_for_all_together(self):
        self.assert_problem(api.post(self.path, {"command": "true", "maxOutputBytes": 5000000}), 400,
                            "invalid_request", "maxOutputBytes")
        got = api.post(self.path, {"command": "head -c 3000000 /dev/zero", "maxOutputBytes": 2000000},
                       timeout=120)
        self.assertEqual(got.status, 200)
        self.assertEqual([r["truncated"] for r in got.json["results"]], [True] * 4)

    def test_bytes_that_are_no_text(self):
        got = api.post(self.path, {"command": "printf '\\377'"})
        self.assertEqual({(r["stdout"], r["encoding"]) for r in got.json["results"]},
                         {("/w==", "base64")})

    def test_in_the_background(self):
        got = api.post(self.path, {"command": "sleep 1000", "background": True})
        self.assertEqual(got.status, 202, got)
        results = got.json["results"]
        self.assertEqual([(r["sandboxId"], r["state"]) for r in results],
                         [(b, "running") for b in self.boxes])
        for r in results:
            self.assertEqual(
                api.delete(f"/sandboxes/{r['sandboxId']}/execs/{r['execId']}").status, 204)

    def test_a_stream_has_the_events_of_all_as_they_happen(self):
        with api.stream("POST", self.path, {"command": "echo a; sleep 0.$I; echo b"}) as stream:
            self.assertEqual(stream.status, 200)
            events = list(stream.events())
        for i, box in enumerate(self.boxes):
            mine = [(number, e) for number, e in events if e["sandboxId"] == box]
            self.assertEqual([e["seq"] for _, e in mine], list(range(1, len(mine) + 1)))
            self.assertEqual([n for n, _ in mine], [f"{box}:{e['seq']}" for _, e in mine])
            self.assertEqual((mine[0][1]["type"], mine[-1][1]["type"]), ("start", "exit"))
            self.assertEqual("".join(e["data"] for _, e in mine if e["type"] == "stdout"), "a\nb\n")
            page = api.get(f"/sandboxes/{box}/execs/{mine[0][1]['execId']}/output").json["items"]
            self.assertEqual([{"sandboxId": box, **e} for e in page], [e for _, e in mine], i)

    def test_a_stream_tells_of_those_that_cannot_run(self):
        stopped = api.create()["id"]
        api.move(stopped, "stop", {"graceSeconds": 0})
        made = group([stopped, self.boxes[0]])
        with api.stream("POST", f"/groups/{made['id']}/exec", {"command": "echo x"}) as stream:
            events = [e for _, e in stream.events()]
        self.assertEqual([(e["type"], e["code"]) for e in events if e["sandboxId"] == stopped],
                         [("error", "conflict")])
        self.assertEqual(events[-1]["type"] in ("exit", "error"), True)
        self.assertIn("exit", [e["type"] for e in events if e["sandboxId"] == self.boxes[0]])

    def test_a_slow_reader_of_much_output_gets_all_of_it(self):
        with api.stream("POST", self.path, {"command": "seq 1 60000"}, timeout=120) as stream:
            time.sleep(2)  # the server's box is full by now, and the commands wait
            got = {box: "" for box in self.boxes}
            for _, e in stream.events():
                if e["type"] == "stdout":
                    got[e["sandboxId"]] += e["data"]
        want = "".join(f"{i}\n" for i in range(1, 60001))
        self.assertEqual([got[b] == want for b in self.boxes], [True] * 4)

    def test_a_client_that_leaves_ends_them_where_that_was_asked_for(self):
        for kill in (True, False):
            stream = api.stream("POST", self.path, {"command": f"exec sleep 77{int(kill)}",
                                                    "killOnDisconnect": kill})
            started = stream.events()
            for _ in self.boxes:
                next(started)
            stream.close()
        ps = "ps | grep -c '[s]leep 77%d' || true"
        wait_for(lambda: [api.exec(b, ps % 1)["stdout"] for b in self.boxes] == ["0\n"] * 4, 15,
                 "the end of those")
        self.assertEqual([api.exec(b, ps % 0)["stdout"] for b in self.boxes], ["1\n"] * 4)
        api.post(self.path, {"command": "pkill sleep", "user": "root"})

    def test_an_empty_group_has_no_results(self):
        got = self.run_in([], "true")
        self.assertEqual((got.status, got.json), (200, {"results": []}))
        made = group()
        with api.stream("POST", f"/groups/{made['id']}/exec", {"command": "true"}) as stream:
            self.assertEqual((stream.status, list(stream.events())), (200, []))

    def test_nobody_waits_on_a_thread(self):
        threads = api.server.threads()
        streams = [api.stream("POST", self.path, {"command": "echo; sleep 3"}) for _ in range(10)]
        for stream in streams:
            stream.next()
        self.assertEqual(api.server.threads(), threads)
        self.assertEqual(json.loads(api.get("/health").body)["status"], "ok")
        for stream in streams:
            self.assertEqual(sum(e["type"] == "exit" for _, e in stream.events()), 4)


if __name__ == "__main__":
    unittest.main()
