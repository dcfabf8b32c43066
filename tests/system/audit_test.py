"""The audit log: what is in it, what is not, who may read it, and what survives.

Requests are told apart by their X-Request-Id.
"""
import json
import secrets
import unittest
import urllib.parse

import sandboxd
from sandboxd import Client, SystemCase, wait_for

QUICK = True


def setUpModule():
    global service, server, alice, admin, admin_key, alice_key
    service, alice = sandboxd.module_service(env={"SBX_AUDIT_DAYS": "30"})
    server = service.servers[0]
    admin_key, alice_key = service.key("root", "--role", "admin"), service.key("alice")
    admin, alice = Client(server, admin_key), Client(server, alice_key)


class AuditCase(SystemCase):
    def ask(self, client, method, path, body=None, headers=None):
        """(the answer, the id of the request)"""
        number = "req-" + secrets.token_hex(8)
        return client.call(method, path, body, {**(headers or {}), "X-Request-Id": number}), number

    def entries(self, **filters):
        query = urllib.parse.urlencode({"limit": 200, **filters})
        got = admin.get(f"/audit?{query}")
        self.assertEqual(got.status, 200, got)
        return got.json["items"]

    def entry(self, number):
        """That of a request, when it is written."""
        def find():
            return [e for e in self.entries() if e["requestId"] == number]
        found = wait_for(find, what=f"the entry of {number}")
        self.assertEqual(len(found), 1, found)
        return found[0]

    def user(self, name):
        return service.psql(f"SELECT id FROM users WHERE name = '{name}'")

    def written(self):
        """Everything that was asked for until now is in the table."""
        _, number = self.ask(alice, "DELETE", "/sandboxes/a" + "0" * 19)
        return self.entry(number)

    def make(self):
        got = alice.post("/sandboxes", {"template": "box"})
        self.assertEqual(got.status, 201, got)
        return got.json["id"]


class What(AuditCase):
    def test_a_create_names_who_from_where_what_and_the_result(self):
        got, number = self.ask(alice, "POST", "/sandboxes", {"template": "box"})
        self.assertEqual(got.status, 201, got)
        told = self.entry(number)
        key = service.psql(f"SELECT id FROM api_keys WHERE prefix = '{alice_key[:12]}'")
        self.assertRegex(told.pop("id"), sandboxd.ID)
        self.assertRegex(told.pop("at"), r"^20\d\d-\d\d-\d\dT[\d:.]+Z$")
        self.assertEqual(told, {
            "requestId": number, "userId": self.user("alice"), "userName": "alice", "keyId": key,
            "address": "127.0.0.1", "method": "POST", "action": "sandbox_create",
            "object": got.json["id"], "part": None, "status": 201, "code": None, "count": 1})

    def test_a_command_is_recorded_by_its_ids_and_not_by_its_text(self):
        box = self.make()
        got, number = self.ask(alice, "POST", f"/sandboxes/{box}/exec", {"command": ["true"]})
        told = self.entry(number)
        self.assertEqual((told["action"], told["object"], told["part"], told["status"]),
                         ("exec", box, got.json["execId"], 200))
        got, number = self.ask(alice, "POST", f"/sandboxes/{box}/exec",
                               {"command": ["true"], "background": True})
        told = self.entry(number)
        self.assertEqual((told["part"], told["status"]), (got.json["execId"], 202))

    def test_a_stream_counts_once_when_it_begins(self):
        box = self.make()
        number = "req-" + secrets.token_hex(8)
        stream = alice.stream("POST", f"/sandboxes/{box}/exec",
                              {"command": ["sh", "-c", "echo 1; sleep 300"]},
                              headers={"X-Request-Id": number})
        self.addCleanup(stream.close)
        told = self.entry(number)
        self.assertEqual((told["status"], told["object"], told["count"]), (200, box, 1))
        self.assertRegex(told["part"], sandboxd.ID)

    def test_refusals_are_recorded_also_of_reads_and_without_a_user(self):
        nobody = Client(server, "sbx_AAAAAAAA_" + "b" * 40)
        _, number = self.ask(nobody, "GET", "/sandboxes")
        told = self.entry(number)
        self.assertEqual((told["status"], told["code"], told["action"], told["userId"],
                          told["keyId"], told["address"]),
                         (401, "unauthorized", "sandbox_list", None, None, "127.0.0.1"))
        reader = Client(server, service.key("alice", "--scopes", "events:read"))
        _, number = self.ask(reader, "GET", "/sandboxes")
        told = self.entry(number)
        self.assertEqual((told["status"], told["code"], told["userName"]),
                         (403, "forbidden", "alice"))
        _, number = self.ask(alice, "GET", "/pool")
        self.assertEqual(self.entry(number)["status"], 403)

    def test_a_write_to_what_is_not_there_or_wrong_is_recorded(self):
        missing = "a" + "0" * 19
        _, number = self.ask(alice, "DELETE", f"/sandboxes/{missing}")
        told = self.entry(number)
        self.assertEqual((told["status"], told["code"], told["object"]),
                         (404, "not_found", missing))
        _, number = self.ask(alice, "POST", "/sandboxes", {"template": "none"})
        told = self.entry(number)
        self.assertEqual((told["status"], told["code"]), (400, "invalid_request"))

    def test_reads_of_ones_own_are_not_recorded(self):
        box = self.make()
        numbers = [self.ask(who, "GET", path)[1]
                   for who in (alice, admin)
                   for path in ("/sandboxes", f"/sandboxes/{'a' + '1' * 19}", "/events")]
        numbers += [self.ask(alice, "GET", f"/sandboxes/{box}")[1]]
        self.written()
        self.assertEqual([e for e in self.entries() if e["requestId"] in numbers], [])

    def test_reading_the_log_is_recorded(self):
        _, number = self.ask(admin, "GET", "/audit")
        self.assertEqual(self.entry(number)["action"], "audit_list")

    def test_a_change_of_a_pool_is_in_the_log_before_its_answer(self):
        got, number = self.ask(admin, "PATCH", "/pool",
                               {"template": "box", "network": "none", "min": 0})
        self.assertEqual(got.status, 200, got)
        self.assertEqual(service.psql(
            f"SELECT action, status FROM audit WHERE request_id = '{number}'"), "pool_set|200")

    def test_changes_of_users_and_keys_are_in_the_log_before_their_answers(self):
        told = []

        def change(method, path, body=None):
            got, number = self.ask(admin, method, path, body)
            self.assertIn(got.status, (200, 201, 204), got)
            told.append(service.psql("SELECT action || '|' || coalesce(object, '') || '|' ||"
                                     f" coalesce(part, '') FROM audit WHERE request_id = '{number}'"))
            return got
        user = change("POST", "/users", {"name": "eve-" + secrets.token_hex(4)}).json["id"]
        key = change("POST", "/keys", {"userId": user, "name": "k"}).json["id"]
        new = change("POST", f"/keys/{key}/rotate", {}).json["id"]
        change("DELETE", f"/keys/{new}")
        change("PATCH", f"/users/{user}", {"disabled": True})
        self.assertEqual(told, [f"user_create|{user}|", f"key_create|{key}|",
                                f"key_rotate|{key}|{new}", f"key_revoke|{new}|",
                                f"user_patch|{user}|"])

    def test_an_administrator_who_reaches_for_what_others_own_is_recorded(self):
        box = self.make()
        for path, at in ((f"/sandboxes/{box}", box), ("/sandboxes?owner=alice", "alice")):
            got, number = self.ask(admin, "GET", path)
            self.assertEqual(got.status, 200, got)
            told = self.entry(number)
            self.assertEqual((told["userName"], told["object"]), ("root", at))
        own, number = self.ask(admin, "POST", "/sandboxes", {"template": "box"})
        self.assertEqual(own.status, 201, own)
        _, number = self.ask(admin, "GET", f"/sandboxes/{own.json['id']}")
        self.written()
        self.assertEqual([e for e in self.entries() if e["requestId"] == number], [])

    def test_a_repetition_by_idempotency_key_is_recorded_with_the_same_object(self):
        key = {"Idempotency-Key": secrets.token_hex(8)}
        first, one = self.ask(alice, "POST", "/sandboxes", {"template": "box"}, key)
        again, two = self.ask(alice, "POST", "/sandboxes", {"template": "box"}, key)
        self.assertEqual(first.json["id"], again.json["id"])
        self.assertEqual([self.entry(n)["object"] for n in (one, two)], [first.json["id"]] * 2)

    def test_text_of_clients_does_not_get_in(self):
        canary = "hunter2" + secrets.token_hex(8)
        box = self.make()
        for method, path, body in (
                ("POST", f"/sandboxes/{box}/exec", {"command": ["echo", canary],
                                                    "env": {"A": canary}}),
                ("POST", "/sandboxes", {"template": canary, "env": {"A": canary}}),
                ("DELETE", f"/sandboxes/{canary}", None),
                ("DELETE", f"/sandboxes/{box}/files?path=/{canary}", None),
                ("PUT", f"/sandboxes/{box}/files?path=/tmp/{canary}", {"x": canary})):
            _, number = self.ask(alice, method, path, body)
            self.assertNotIn(canary, json.dumps(self.entry(number)))

    def test_a_flood_of_bad_keys_is_few_rows(self):
        bad = Client(server, "sbx_CCCCCCCC_" + "d" * 40)
        before = int(service.psql("SELECT coalesce(sum(count), 0) FROM audit WHERE status = 401"
                                  " AND action = 'group_list'"))
        sandboxd.all_at_once(lambda _: bad.get("/groups"), range(300), 8)

        def counted():
            return int(service.psql("SELECT coalesce(sum(count), 0) FROM audit WHERE status IN"
                                    " (401, 429) AND action = 'group_list'")) - before == 300
        wait_for(counted, what="all of them")
        self.assertLess(int(service.psql("SELECT count(*) FROM audit WHERE status IN (401, 429)"
                                         " AND action = 'group_list'")), 100)


class Who(AuditCase):
    def test_only_administrators_read_it(self):
        self.assert_problem(alice.get("/audit"), 403, "forbidden")
        self.assert_problem(Client(server).get("/audit"), 401, "unauthorized")
        narrow = Client(server, service.key("root", "--role", "admin", "--scopes", "sandbox:*"))
        self.assert_problem(narrow.get("/audit"), 403, "forbidden")

    def test_filters(self):
        box = self.make()
        self.ask(alice, "POST", f"/sandboxes/{box}/pause", {})
        self.ask(alice, "POST", f"/sandboxes/{box}/start", {})  # 409
        self.written()
        mine = self.entries(object=box)
        self.assertEqual([(e["action"], e["status"]) for e in mine],
                         [("sandbox_start", 409), ("sandbox_pause", 200), ("sandbox_create", 201)])
        self.assertEqual([e["action"] for e in self.entries(object=box, result="refused")],
                         ["sandbox_start"])
        self.assertEqual([e["action"] for e in self.entries(object=box, result="success",
                                                            action="sandbox_pause")],
                         ["sandbox_pause"])
        self.assertEqual(self.entries(object=box, user=self.user("root")), [])
        self.assertEqual(len(self.entries(object=box, user=self.user("alice"),
                                          key=mine[0]["keyId"])), 3)
        self.assertEqual(len(self.entries(object=box, since=mine[0]["at"])), 1)
        self.assertEqual(len(self.entries(object=box, until=mine[0]["at"])), 2)

    def test_pages(self):
        for _ in range(5):
            self.ask(alice, "DELETE", "/sandboxes/b" + "0" * 19)
        self.written()
        seen, cursor = [], None
        while True:
            got = admin.get("/audit?action=sandbox_delete&limit=2"
                            + (f"&cursor={cursor}" if cursor else ""))
            seen += got.json["items"]
            self.assertLessEqual(len(got.json["items"]), 2)
            cursor = got.json["nextCursor"]
            if not cursor:
                break
        self.assertGreaterEqual(len(seen), 6)
        self.assertEqual(len({e["id"] for e in seen}), len(seen))
        self.assertEqual([e["at"] for e in seen], sorted((e["at"] for e in seen), reverse=True))

    def test_bad_filters_are_named(self):
        for query, field in (("user=x", "user"), ("key=%00", None), ("since=yesterday", "since"),
                             ("until=2026-02-30T00:00:00Z", "until"), ("result=good", "result"),
                             ("limit=0", "limit"), ("cursor=1", "cursor"), ("who=me", "who")):
            self.assert_problem(admin.get("/audit?" + query), 400, "invalid_request", field)


class Kept(AuditCase):
    def test_old_rows_are_removed_at_the_start_and_nothing_else_ever(self):
        service.psql("INSERT INTO audit (id, at, action) SELECT 'o' || lpad(i::text, 19, '0'),"
                     " now() - make_interval(days => i), 'old' FROM generate_series(25, 35) i")
        for statement in ("DELETE FROM audit", "UPDATE audit SET status = 1", "TRUNCATE audit"):
            with self.assertRaisesRegex(AssertionError, "append-only"):
                service.psql(statement)
        restart()
        wait_for(lambda: service.psql("SELECT count(*) FROM audit WHERE action = 'old'") == "5",
                 what="the removal of those older than 30 days")

    def test_a_kill_loses_no_more_than_a_batch(self):
        _, first = self.ask(alice, "DELETE", "/sandboxes/c" + "0" * 19)
        self.entry(first)
        _, pool = self.ask(admin, "PATCH", "/pool",
                           {"template": "box", "network": "none", "min": 0})
        server.kill()
        self.assertEqual(service.psql(
            f"SELECT count(*) FROM audit WHERE request_id IN ('{first}', '{pool}')"), "2")
        restart()

    def test_a_graceful_end_loses_nothing(self):
        numbers = [self.ask(alice, "DELETE", "/sandboxes/d" + "0" * 19)[1] for _ in range(20)]
        self.assertEqual(server.stop(), 0)
        listed = ",".join(f"'{n}'" for n in numbers)
        self.assertEqual(service.psql(
            f"SELECT count(*) FROM audit WHERE request_id IN ({listed})"), "20")
        restart()


def restart():
    global server, alice, admin
    server.stop()
    server = service.start()
    alice, admin = Client(server, alice_key), Client(server, admin_key)
    return server


if __name__ == "__main__":
    unittest.main()
