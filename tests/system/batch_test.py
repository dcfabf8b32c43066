"""Many sandboxes by one request: made, also across a crash, and deleted by their metadata."""
import http.client
import socket
import struct
import threading
import unittest

import sandboxd
from sandboxd import Client, SystemCase, all_at_once, wait_for

TIMEOUT_S = 400

service = api = None
NO_IMAGE = "registry.invalid/no/such:image"


def setUpModule():
    global service, api
    service, api = sandboxd.module_service()


def batch(client=None, key=None, **body):
    headers = {"Idempotency-Key": key} if key else None
    return (client or api).post("/sandboxes/batch", body, headers=headers, timeout=180)


def boxes(got):
    return [item["sandbox"]["id"] for item in got.json["items"]]


def settled(client):
    """All records, once nothing is on its way."""
    def look():
        rows = client.every()
        return all(r["state"] in ("running", "failed") for r in rows) and rows
    return wait_for(look, 60, "rows that are all settled", 0.2)


def running(client):
    return sorted(r["id"] for r in settled(client) if r["state"] == "running")


class CreateTest(SystemCase):
    def test_so_many_of_the_same(self):
        got = batch(count=6, sandbox={"template": "box", "metadata": {"of": "six"}})
        self.assertEqual(got.status, 201, got)
        made = boxes(got)
        self.assertEqual(len(set(made)), 6)
        self.assertEqual({i["sandbox"]["state"] for i in got.json["items"]}, {"running"})
        told = all_at_once(lambda b: api.exec(b, "hostname")["stdout"].strip(), made)
        self.assertEqual(told, made)
        self.assertEqual(sorted(s["id"] for s in api.pages("metadata.of=six")), sorted(made))

    def test_each_as_it_is_described_in_order(self):
        specs = [{"template": "box", "name": f"n{i}", "env": {"I": str(i)}} for i in range(5)]
        got = batch(sandboxes=specs)
        self.assertEqual(got.status, 201, got)
        self.assertEqual([i["sandbox"]["name"] for i in got.json["items"]],
                         [s["name"] for s in specs])
        self.assertEqual([api.exec(b, "echo $I")["stdout"] for b in boxes(got)],
                         [f"{i}\n" for i in range(5)])

    def test_what_is_wrong_is_named_before_anything_is_made(self):
        before = len(api.every())
        good = {"template": "box"}
        for body, field in (
                ({"sandboxes": [good, good, good, {"limits": {"memoryMb": 1}}]},
                 "sandboxes[3].limits.memoryMb"),
                ({"sandboxes": [good, {"nonsense": 1}]}, "sandboxes[1].nonsense"),
                ({"sandboxes": [good, {"template": "cobol"}]}, "sandboxes[1].template"),
                ({"sandboxes": [good, 7]}, "sandboxes"),
                ({"sandboxes": []}, "sandboxes"), ({"sandboxes": [good] * 101}, "sandboxes"),
                ({"count": 101, "sandbox": good}, "count"), ({"count": 0}, "count"),
                ({"count": 2, "sandbox": {"env": {"A=B": "x"}}}, "sandbox.env"),
                ({"count": 2, "sandbox": {"template": "box", "wait": False}}, "sandbox"),
                ({"count": 2, "atomic": True, "wait": False}, "wait"),
                ({"sandboxes": [good], "sandbox": good}, "sandbox"),
                ({"sandboxes": [good], "count": 1}, "count")):
            with self.subTest(field=field):
                told = self.assert_problem(batch(**body), 400, "invalid_request", field)
                self.assertIn(field, told["detail"])
        self.assertEqual(len(api.every()), before)

    def test_one_that_fails_leaves_the_others(self):
        good = {"template": "box"}
        got = batch(sandboxes=[good, {"image": NO_IMAGE}, good])
        self.assertEqual(got.status, 200, got)
        first, second, third = got.json["items"]
        self.assertEqual([first["sandbox"]["state"], third["sandbox"]["state"]], ["running"] * 2)
        problem = second["problem"]
        self.assertEqual((problem["status"], problem["code"]), (400, "invalid_request"))
        self.assertEqual(problem["errors"][0]["field"], "sandboxes[1].image")
        self.assertEqual(api.sandbox(problem["sandboxId"])["state"], "failed")

    def test_all_or_none(self):
        good = {"template": "box", "metadata": {"all": "none"}}
        got = batch(sandboxes=[good, good, good, {"image": NO_IMAGE, "metadata": {"all": "none"}},
                               good], atomic=True)
        self.assert_problem(got, 400, "invalid_request", "sandboxes[3].image")
        left = api.pages("metadata.all=none")
        self.assertEqual({s["state"] for s in left} - {"failed"}, set(), left)
        for gone in left:
            self.assertFalse(service.container_exists(gone["id"]))
        got = batch(count=3, sandbox=good, atomic=True)
        self.assertEqual(got.status, 201, got)

    def test_without_wait_they_are_answered_at_once_and_come_up_behind(self):
        got = batch(count=12, wait=False,
                    sandbox={"template": "box", "metadata": {"later": "1"}})
        self.assertEqual(got.status, 202, got)
        made = boxes(got)
        self.assertEqual({i["sandbox"]["state"] for i in got.json["items"]}, {"creating"})
        self.assertEqual(len(set(made)), 12)
        self.assertEqual([api.exec(b, "hostname")["stdout"].strip() for b in made], made)
        self.assertEqual({s["state"] for s in api.pages("metadata.later=1")}, {"running"})
        got = batch(wait=False, sandboxes=[{"template": "box"}, {"image": NO_IMAGE}])
        self.assertEqual(got.status, 202, got)
        good, bad = boxes(got)
        wait_for(lambda: (api.state(good), api.state(bad)) == ("running", "failed"), 30)
        all_at_once(lambda b: api.delete(f"/sandboxes/{b}"), [*made, good], 8)

    def test_nobody_waits_on_a_thread_and_others_are_served_meanwhile(self):
        threads, got = api.server.threads(), []
        runner = threading.Thread(target=lambda: got.append(
            batch(count=20, sandbox={"template": "box"})))
        runner.start()
        wait_for(lambda: len(api.pages("state=creating")) > 0, what="creates")
        self.assertEqual(api.create()["state"], "running")
        self.assertEqual(api.server.threads(), threads)
        runner.join(60)
        self.assertEqual(got[0].status, 201)
        all_at_once(lambda b: api.delete(f"/sandboxes/{b}"), boxes(got[0]), 8)


class RepeatTest(SystemCase):
    """With an Idempotency-Key, and without one."""

    def setUp(self):
        self.service = sandboxd.Service()
        self.addCleanup(self.service.close)
        self.api = Client(self.service.start(), self.service.key())

    def test_the_same_key_has_the_same_answer(self):
        spec = {"template": "box"}
        first, again = (batch(self.api, "k", count=3, sandbox=spec) for _ in range(2))
        self.assertEqual((first.status, again.status), (201, 201))
        self.assertEqual(first.json, again.json)
        self.assertEqual(again.headers["Idempotency-Replayed"], "true")
        self.assertEqual(running(self.api), sorted(boxes(first)))
        self.assert_problem(batch(self.api, "k", count=4, sandbox=spec), 409, "conflict")

    def test_two_at_once_make_it_once(self):
        got = all_at_once(lambda _: batch(self.api, "both", count=5, sandbox={"template": "box"}),
                          range(2))
        self.assertEqual(got[0].json, got[1].json)
        self.assertEqual(running(self.api), sorted(boxes(got[0])))

    def test_a_crash_in_the_middle_is_completed_by_the_repetition(self):
        body = {"count": 12, "sandbox": {"template": "box", "metadata": {"b": "1"}}}

        def first():
            try:
                batch(self.api, "crash", **body)
            except (OSError, http.client.HTTPException):
                pass
        runner = threading.Thread(target=first)
        runner.start()
        wait_for(lambda: int(self.service.psql(
            "SELECT count(*) FROM sandboxes WHERE state = 'running'")) >= 3, 30, "some of them")
        self.api.server.kill()
        runner.join(30)
        before = set(self.service.psql(
            "SELECT id FROM sandboxes WHERE state = 'running'").split())
        self.assertLess(len(before), 12)
        self.api = Client(self.service.start(), self.api.key)
        got = batch(self.api, "crash", **body)
        self.assertEqual(got.status, 201, got)
        made = boxes(got)
        self.assertEqual(len(set(made)), 12)
        self.assertLessEqual(before, set(made))
        self.assertEqual(running(self.api), sorted(made))
        self.assertEqual([self.api.exec(b, "echo up")["stdout"] for b in made], ["up\n"] * 12)
        self.assertEqual(batch(self.api, "crash", **body).json, got.json)

    def test_without_wait_a_repetition_has_the_same_answer_and_makes_nothing(self):
        first, again = (batch(self.api, "later", count=3, wait=False, sandbox={"template": "box"})
                        for _ in range(2))
        self.assertEqual((first.status, again.status), (202, 202))
        self.assertEqual(boxes(first), boxes(again))
        self.assertEqual(running(self.api), sorted(boxes(first)))

    def atomic_until(self, some):
        """A server that is killed in the middle of a batch that is all or none; then the next."""
        body = {"count": 12, "atomic": True,
                "sandbox": {"template": "box", "metadata": {"a": "1"}}}

        def first():
            try:
                batch(self.api, **body)
            except (OSError, http.client.HTTPException):
                pass
        runner = threading.Thread(target=first)
        runner.start()
        wait_for(lambda: int(self.service.psql(
            "SELECT count(*) FROM sandboxes WHERE state = 'running' AND pool IS NULL"
            " AND metadata ? 'a'")) >= some, 30, "some of them", 0.02)
        self.api.server.kill()
        runner.join(30)
        before = self.service.psql("SELECT id FROM sandboxes WHERE state = 'running'"
                                   " AND pool IS NULL AND metadata ? 'a'").split()
        self.assertTrue(some <= len(before) < 12, before)
        self.api = Client(self.service.start(), self.api.key)

    def test_all_or_none_holds_over_a_kill(self):
        bystander = self.api.create()["id"]
        self.atomic_until(3)
        wait_for(lambda: {s["state"] for s in self.api.every()
                          if s["metadata"] == {"a": "1"}} <= {"failed"}, 60, "none")
        self.assertEqual(self.api.state(bystander), "running")
        wait_for(lambda: len(self.service.containers()) == 1, 30, "one container")
        got = batch(self.api, count=3, atomic=True, sandbox={"template": "box"})
        self.assertEqual(got.status, 201, got)
        self.api.server.kill()
        self.api = Client(self.service.start(), self.api.key)
        self.assertEqual([self.api.exec(b, "echo up")["stdout"] for b in boxes(got)], ["up\n"] * 3)

    def leave(self, headers):
        """Sends a batch, and goes away when some of it runs."""
        connection = self.api.connect()
        connection.request("POST", "/sandboxes/batch",
                           b'{"count":12,"sandbox":{"template":"box"}}',
                           {**self.api.headers(), "Content-Type": "application/json", **headers})
        wait_for(lambda: int(self.service.psql(
            "SELECT count(*) FROM sandboxes WHERE state = 'running'")) >= 2, 30, "some of them")
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    def test_a_client_that_leaves_leaves_nothing_half_made(self):
        self.leave({})
        wait_for(lambda: any(line.get("route") == "sandbox_batch" for line in self.api.server.log()),
                 what="the end of the request")

        def alone():
            up = running(self.api)
            made = {c["Labels"]["sandboxd.id"] for c in self.service.containers()}
            return made == set(up) and up
        up = wait_for(alone, 30, "containers of those that run alone", 0.2)
        self.assertTrue(2 <= len(up) < 12, up)
        self.assertEqual([self.api.exec(b, "echo up")["stdout"] for b in up], ["up\n"] * len(up))

    def test_with_a_key_it_goes_on_and_the_repetition_is_told(self):
        self.leave({"Idempotency-Key": "left"})
        got = batch(self.api, "left", count=12, sandbox={"template": "box"})
        self.assertEqual(got.status, 409, "the body differs by its spelling")
        got = self.api.post("/sandboxes/batch", b'{"count":12,"sandbox":{"template":"box"}}',
                            headers={"Idempotency-Key": "left"}, timeout=120)
        self.assertEqual(got.status, 201, got)
        self.assertEqual(running(self.api), sorted(boxes(got)))

    def test_failures_of_the_server_are_made_good_by_the_repetition(self):
        """A name of which the engine refuses the first container, for one place of the batch."""
        self.service.psql(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF NEW.name = 'second' THEN RAISE 'no'; END IF; RETURN NEW; END $$;"
            "CREATE TRIGGER refuse BEFORE INSERT ON sandboxes FOR EACH ROW EXECUTE FUNCTION refuse()")
        body = {"sandboxes": [{"template": "box", "name": n} for n in ("first", "second", "third")]}
        got = batch(self.api, "again", **body)
        self.assertEqual(got.status, 200, got)
        self.assertEqual(got.json["items"][1]["problem"]["status"], 500)
        self.assertNotIn("RAISE", got.body.decode())
        self.service.psql("DROP TRIGGER refuse ON sandboxes")
        again = batch(self.api, "again", **body)
        self.assertEqual(again.status, 201, again)
        for i in (0, 2):
            self.assertEqual(again.json["items"][i]["sandbox"]["id"],
                             got.json["items"][i]["sandbox"]["id"])
        self.assertEqual(running(self.api), sorted(boxes(again)))


class DeleteTest(SystemCase):
    def test_those_with_the_metadata_and_no_others(self):
        mine = [api.create(metadata={"team": "red", "n": str(i)})["id"] for i in range(3)]
        blue = api.create(metadata={"team": "blue"})["id"]
        bob = Client(api.server, service.key("bob"))
        his = bob.create(metadata={"team": "red"})["id"]
        got = api.delete("/sandboxes?metadata.team=red&metadata.n=1")
        self.assertEqual((got.status, got.json),
                         (200, {"deleted": [mine[1]], "failed": [], "more": False}))
        api.move(mine[0], "stop", {"graceSeconds": 0})
        got = api.delete("/sandboxes?metadata.team=red&state=stopped")
        self.assertEqual(got.json["deleted"], [mine[0]])
        self.assertEqual(api.delete("/sandboxes?metadata.team=red&template=no").json["deleted"], [])
        got = api.delete("/sandboxes?metadata.team=red")
        self.assertEqual(got.json["deleted"], [mine[2]])
        self.assertEqual([api.state(b) for b in mine], ["deleted"] * 3)
        self.assertFalse(any(service.container_exists(b) for b in mine))
        self.assertEqual((api.state(blue), bob.state(his)), ("running", "running"))
        self.assertEqual(api.delete("/sandboxes?metadata.team=red&state=deleted").json["deleted"],
                         [])

    def test_without_metadata_nothing_is_deleted(self):
        box = api.create()["id"]
        for query in ("", "?state=running", "?template=box", "?name=x"):
            self.assert_problem(api.delete("/sandboxes" + query), 400, "invalid_request",
                                "metadata.*")
        self.assert_problem(api.delete("/sandboxes?metadata.a=b&state=nonsense"), 400,
                            "invalid_request", "state")
        self.assertEqual(api.state(box), "running")

    def test_a_request_is_bounded_and_tells_that_there_are_more(self):
        box = api.create(metadata={"many": "yes"})["id"]
        service.psql("INSERT INTO sandboxes SELECT (jsonb_populate_record(NULL::sandboxes, to_jsonb(s)"
                     " || jsonb_build_object('id', 'm' || lpad(i::text, 19, '0'), 'state', 'failed',"
                     " 'container_id', NULL))).* FROM sandboxes s, generate_series(1, 204) i"
                     f" WHERE s.id = '{box}'")
        first, second = (api.delete("/sandboxes?metadata.many=yes", timeout=120) for _ in range(2))
        self.assertEqual((len(first.json["deleted"]), first.json["more"]), (200, True))
        self.assertEqual((len(second.json["deleted"]), second.json["more"]), (5, False))
        self.assertEqual(first.json["failed"] + second.json["failed"], [])
        self.assertEqual(api.pages("metadata.many=yes"), [])


if __name__ == "__main__":
    unittest.main()
