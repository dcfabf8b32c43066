"""Users, keys and roles over the API; what ends when a key does, on one server and on two."""
import contextlib
import json
import subprocess
import threading
import time
import unittest

import sandboxd
from sandboxd import REDIS_URL, Client, SystemCase, all_at_once, wait_for

service = root = box = None

WITHIN_S = 1.0  # what is revoked over the API
FOUND_S = 2.5   # what ends otherwise is found by asking; half of it for a loaded machine


def setUpModule():
    global service, root, box
    service, api = sandboxd.module_service()
    root = Client(api.server, service.key("root", "--role", "admin"))
    box = root.create()["id"]


def made(path, body, client=None, status=201):
    got = (client or root).post(path, body)
    if got.status != status:
        raise AssertionError(f"{path} {body}: {got}")
    return got.json


numbers = iter(range(1, 10_000))


def user(**more):
    return made("/users", {"name": f"user-{next(numbers)}", "tier": "enterprise", **more})


def client_of(who, server=None, **more):
    key = made("/keys", {"userId": who["id"], "name": "test", **more})
    told = Client(server or root.server, key["key"])
    told.id = key["id"]
    return told


class Users(SystemCase):
    def test_a_user_is_made_read_changed_and_deleted(self):
        ada = user(email="ada@example.com")
        self.assertEqual((ada["role"], ada["tier"], ada["disabled"]), ("user", "enterprise", False))
        self.assertEqual(root.get(f"/users/{ada['id']}").json, ada)
        self.assertIn(ada, root.get("/users?limit=200").json["items"])
        self.assertEqual(root.get(f"/users?name={ada['name']}").json["items"], [ada])
        got = root.patch(f"/users/{ada['id']}", {"tier": "pro", "role": "admin"})
        self.assertEqual((got.status, got.json),
                         (200, {**ada, "tier": "pro", "role": "admin"}))
        got = root.patch(f"/users/{ada['id']}", {"email": None})
        self.assertEqual(got.json["email"], None)
        for _ in range(2):
            self.assertEqual(root.delete(f"/users/{ada['id']}").status, 204)
        self.assert_problem(root.get(f"/users/{ada['id']}"), 404, "not_found")
        again = made("/users", {"name": ada["name"]})
        self.assertNotEqual(again["id"], ada["id"])
        self.assertEqual(again["tier"], "free")

    def test_what_cannot_be_a_user_is_refused_by_field(self):
        there = user()
        for body, field in (({}, "name"), ({"name": ""}, "name"), ({"name": "a\nb"}, "name"),
                            ({"name": "x" * 129}, "name"), ({"name": "n", "email": "x"}, "email"),
                            ({"name": "n", "email": "a@b@c"}, "email"),
                            ({"name": "n", "email": "a b@c"}, "email"),
                            ({"name": "n", "role": "god"}, "role"),
                            ({"name": "n", "tier": "gold"}, "tier"),
                            ({"name": "n", "id": "x"}, "id")):
            with self.subTest(body=body):
                self.assert_problem(root.post("/users", body), 400, "invalid_request", field)
        self.assert_problem(root.post("/users", {"name": there["name"]}), 409, "conflict")
        self.assert_problem(root.patch(f"/users/{there['id']}", {"tier": "gold"}), 400,
                            "invalid_request", "tier")
        for body in ({"tier": "gold"}, {"disabled": True}):
            self.assert_problem(root.patch("/users/" + "a" * 20, body), 404, "not_found")
        self.assert_problem(root.delete("/users/" + "a" * 20), 404, "not_found")

    def test_pages_hold_every_user_once(self):
        for _ in range(5):
            user()
        seen, cursor = [], ""
        while cursor is not None:
            got = root.get("/users?limit=2" + (f"&cursor={cursor}" if cursor else "")).json
            seen += [u["id"] for u in got["items"]]
            cursor = got["nextCursor"]
        self.assertEqual(len(seen), len(set(seen)))
        self.assertEqual(str(len(seen)),
                         service.psql("SELECT count(*) FROM users WHERE deleted_at IS NULL"))

    def test_one_request_with_a_key_makes_one_user(self):
        body, headers = {"name": f"user-{next(numbers)}"}, {"Idempotency-Key": "once"}
        got = [root.post("/users", body, headers=headers) for _ in range(2)]
        self.assertEqual([g.status for g in got], [201, 201])
        self.assertEqual(got[0].json, got[1].json)
        self.assert_problem(root.post("/users", {"name": "another"}, headers=headers), 409,
                            "conflict")

    def test_all_that_is_for_administrators_is_refused_to_others(self):
        ada = user()
        one = client_of(ada)
        for got in (one.get("/users"), one.post("/users", {"name": "x"}),
                    one.get(f"/users/{ada['id']}"), one.delete(f"/users/{ada['id']}"),
                    one.patch(f"/users/{ada['id']}", {"role": "admin"}), one.get("/pool"),
                    one.patch("/pool", {"template": "box", "min": 0}),
                    one.get("/sandboxes?owner=root"), one.get("/keys?owner=root"),
                    one.get("/groups?owner=root"), one.get("/events?owner=root"),
                    one.post("/keys", {"name": "x", "userId": root.get("/me").json["user"]["id"]})):
            self.assert_problem(got, 403, "forbidden")

    def test_an_administrator_cannot_lock_himself_out(self):
        me = root.get("/me").json["user"]["id"]
        for body in ({"disabled": True}, {"role": "user"}):
            self.assert_problem(root.patch(f"/users/{me}", body), 409, "conflict")
        self.assert_problem(root.delete(f"/users/{me}"), 409, "conflict")

    def test_a_user_with_sandboxes_is_not_deleted(self):
        ada = user()
        mine = client_of(ada).create()["id"]
        told = self.assert_problem(root.delete(f"/users/{ada['id']}"), 409, "conflict")
        self.assertIn("1 sandboxes", told["detail"])
        self.assertEqual(root.delete(f"/sandboxes/{mine}").status, 204)
        self.assertEqual(root.delete(f"/users/{ada['id']}").status, 204)


class Keys(SystemCase):
    def test_a_key_is_shown_once_and_only_its_hash_is_kept(self):
        ada = user()
        one = client_of(ada)
        key = made("/keys", {"name": "laptop", "scopes": ["sandbox:read"]}, one)
        self.assertTrue(key["key"].startswith(key["prefix"]))
        self.assertEqual((key["userId"], key["scopes"], key["expiresAt"], key["revokedAt"]),
                         (ada["id"], ["sandbox:read"], None, None))
        read = one.get(f"/keys/{key['id']}").json
        self.assertEqual(read, {k: v for k, v in key.items() if k != "key"})
        self.assertIn(read, one.get("/keys").json["items"])
        narrow = Client(root.server, key["key"])
        self.assertEqual(narrow.get("/sandboxes").status, 200)
        self.assert_problem(narrow.post("/sandboxes", {}), 403, "forbidden")
        dump = service.psql("SELECT string_agg(t::text, ' ') FROM api_keys t")
        self.assertNotIn(key["key"][len(key["prefix"]) + 1:], dump)

    def test_me_tells_who_asks_and_with_what(self):
        ada = user(tier="pro")
        one = client_of(ada, scopes=["exec:write", "files:*"])
        told = one.get("/me").json
        self.assertEqual(told["user"], {**ada})
        self.assertEqual((told["role"], told["tier"], told["scopes"]),
                         ("user", "pro", ["exec:write", "files:*"]))
        self.assertEqual(told["key"]["id"], one.id)
        self.assertEqual(root.get("/me").json["role"], "admin")

    def test_a_key_gives_no_more_than_it_has(self):
        narrow = client_of(user(), scopes=["keys:*", "sandbox:*"])
        for scopes in (["*"], ["exec:write"], ["sandbox:read", "files:*"], ["keys:*", "*"]):
            self.assert_problem(narrow.post("/keys", {"name": "x", "scopes": scopes}), 403,
                                "forbidden")
        for scopes in (["sandbox:*"], ["sandbox:read", "keys:write"]):
            self.assertEqual(made("/keys", {"name": "x", "scopes": scopes}, narrow)["scopes"],
                             scopes)
        self.assertEqual(made("/keys", {"name": "x"}, narrow)["scopes"], ["keys:*", "sandbox:*"])

    def test_a_narrow_key_cannot_rotate_itself_into_a_wide_one(self):
        ada = user()
        wide = client_of(ada)
        narrow = client_of(ada, scopes=["keys:*"])
        self.assert_problem(narrow.post(f"/keys/{wide.id}/rotate"), 403, "forbidden")
        self.assertEqual(wide.get("/me").status, 200)

    def test_what_cannot_be_a_key_is_refused_by_field(self):
        for body, field in (({}, "name"), ({"name": ""}, "name"),
                            ({"name": "x", "scopes": []}, "scopes"),
                            ({"name": "x", "scopes": ["a"]}, "scopes"),
                            ({"name": "x", "scopes": ["a:b c:d"]}, "scopes"),
                            ({"name": "x", "scopes": ["a:" + "b" * 63] * 32}, "scopes"),
                            ({"name": "x", "expiresAt": "2001-01-01T00:00:00Z"}, "expiresAt"),
                            ({"name": "x", "expiresAt": "2099-02-30T00:00:00Z"}, "expiresAt"),
                            ({"name": "x", "expiresAt": "tomorrow, at the same time"}, "expiresAt"),
                            ({"name": "x", "userId": "a" * 20}, "userId"),
                            ({"name": "x", "userId": "short"}, "userId")):
            with self.subTest(body=str(body)[:70]):
                self.assert_problem(root.post("/keys", body), 400, "invalid_request", field)

    def test_an_administrator_gives_a_key_its_rates(self):
        who = user()
        made_ = {"name": "x", "userId": who["id"]}
        for rates, told in (({"exec": 7}, {"creates": None, "exec": 7, "reads": None}),
                            ({"creates": 0, "exec": None, "reads": 10_000_000},
                             {"creates": 0, "exec": None, "reads": 10_000_000}),
                            (None, {"creates": None, "exec": None, "reads": None})):
            key = made("/keys", {**made_, "rates": rates})
            self.assertEqual(key["rates"], told)
        one = Client(root.server, made("/keys", {**made_, "rates": {"exec": 7}})["key"])
        got = one.post("/keys", {"name": "y"})
        self.assertEqual(got.headers["RateLimit-Policy"], '"exec";q=7;w=60')
        self.assertEqual(got.json["rates"]["exec"], 7)
        self.assertEqual(made("/keys", {"name": "z"})["rates"],
                         {"creates": 0, "exec": 0, "reads": 0})
        self.assert_problem(one.post("/keys", {"name": "y", "rates": {"exec": 0}}), 403, "forbidden")
        for rates, field in ((7, "rates"), ({"exec": -1}, "rates.exec"), ({"all": 1}, "rates.all"),
                             ({"reads": 10_000_001}, "rates.reads")):
            self.assert_problem(root.post("/keys", {**made_, "rates": rates}), 400,
                                "invalid_request", field)

    def test_a_key_ends_when_it_expires_and_makes_none_that_outlives_it(self):
        soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 4))
        short = client_of(user(), expiresAt=soon)
        self.assertEqual(short.get("/me").status, 200)
        self.assert_problem(short.post("/keys", {"name": "x", "expiresAt": None}), 403, "forbidden")
        self.assert_problem(short.post("/keys", {"name": "x", "expiresAt":
                                                 "2099-01-01T00:00:00Z"}), 403, "forbidden")
        heir = made("/keys", {"name": "x"}, short)
        self.assertEqual(heir["expiresAt"], short.get("/me").json["key"]["expiresAt"])
        wait_for(lambda: short.get("/me").status == 401, 4 + FOUND_S, "the key's end")

    def test_a_repetition_is_told_of_the_key_but_not_the_key(self):
        body, headers = {"name": "once"}, {"Idempotency-Key": "a-key"}
        one = client_of(user())
        first = one.post("/keys", body, headers=headers)
        self.assertEqual(first.status, 201)
        for _ in range(2):
            again = one.post("/keys", body, headers=headers)
            self.assertEqual(again.status, 200, again)
            self.assertEqual(again.json, {k: v for k, v in first.json.items() if k != "key"})
        self.assert_problem(one.post("/keys", {"name": "other"}, headers=headers), 409, "conflict")
        kept = service.psql("SELECT count(*) FROM idempotency_keys WHERE key = 'a-key'"
                            " AND answer IS NOT NULL AND status = 201")
        self.assertEqual(kept, "0")
        got = all_at_once(lambda _: one.post("/keys", body, headers={"Idempotency-Key": "b"}),
                          range(8), 8)
        self.assertEqual(sorted(g.status for g in got), [200] * 7 + [201])
        self.assertEqual(len({g.json["id"] for g in got}), 1)

    def test_of_a_rotated_key_the_old_text_ends_at_once_or_after_the_overlap(self):
        one = client_of(user(), scopes=["keys:*", "sandbox:read"])
        for overlap in (0, 3):
            old = Client(root.server, one.key)
            got = one.post(f"/keys/{one.id}/rotate", {"overlapSeconds": overlap})
            self.assertEqual(got.status, 201, got)
            self.assertEqual(got.json["scopes"], ["keys:*", "sandbox:read"])
            new = Client(root.server, got.json["key"])
            self.assertEqual(new.get("/me").status, 200)
            if overlap:
                self.assertEqual(old.get("/me").status, 200)
            wait_for(lambda o=old: o.get("/me").status == 401, overlap + FOUND_S, "the old one's end")
            one = new
            one.id = got.json["id"]
        self.assert_problem(root.post(f"/keys/{old.id if hasattr(old, 'id') else 'a' * 20}/rotate"),
                            404, "not_found")
        for seconds in (-1, 86401, "x"):
            self.assert_problem(one.post(f"/keys/{one.id}/rotate", {"overlapSeconds": seconds}),
                                400, "invalid_request", "overlapSeconds")

    def test_the_last_use_is_written_in_batches(self):
        one = client_of(user())
        self.assertIsNone(root.get(f"/keys/{one.id}").json["lastUsedAt"])
        one.get("/me")
        wait_for(lambda: root.get(f"/keys/{one.id}").json["lastUsedAt"], 15, "a time")

    def test_a_key_of_others_is_not_there(self):
        mine, other = client_of(user()), client_of(user())
        for got in (other.get(f"/keys/{mine.id}"), other.delete(f"/keys/{mine.id}"),
                    other.post(f"/keys/{mine.id}/rotate")):
            self.assert_problem(got, 404, "not_found")
        self.assertEqual(mine.get("/me").status, 200)
        self.assertEqual(len(other.get("/keys").json["items"]), 1)


class Roles(SystemCase):
    def test_an_administrator_reaches_what_others_own_by_its_id_and_lists_his_own(self):
        ada = user()
        one = client_of(ada)
        mine = one.create(name="hers")["id"]
        group = made("/groups", {"name": "g", "sandboxes": [mine]}, one)["id"]
        self.assertEqual(root.get(f"/sandboxes/{mine}").json["name"], "hers")
        self.assertEqual(root.exec(mine, "echo hi")["stdout"], "hi\n")
        self.assertEqual(root.patch(f"/sandboxes/{mine}", {"name": "seen"}).status, 200)
        self.assertEqual(root.get(f"/groups/{group}").json["sandboxes"], [mine])
        self.assertEqual(root.get(f"/keys/{one.id}").json["userId"], ada["id"])
        for below in ("execs", "contexts", "stats"):
            self.assertEqual(root.get(f"/sandboxes/{mine}/{below}").status, 200, below)
        with root.stream("GET", f"/sandboxes/{mine}/logs?tail=1") as stream:
            self.assertEqual(stream.status, 200)
        self.assertNotIn(mine, [s["id"] for s in root.every()])
        for owner in (ada["id"], ada["name"]):
            listed = [s["id"] for s in root.pages(f"owner={owner}")]
            self.assertEqual(listed, [mine])
            self.assertEqual([g["id"] for g in root.get(f"/groups?owner={owner}").json["items"]],
                             [group])
            self.assertEqual([k["id"] for k in root.get(f"/keys?owner={owner}").json["items"]],
                             [one.id])
            self.assertEqual({e["sandboxId"] for e in
                              root.get(f"/events?owner={owner}").json["items"]}, {mine})
        self.assert_problem(root.get("/sandboxes?owner=nobody"), 400, "invalid_request", "owner")
        self.assert_problem(root.get("/sandboxes/" + "a" * 20), 404, "not_found")
        self.assertEqual(root.delete(f"/sandboxes/{mine}").status, 204)

    def test_who_is_no_administrator_any_more_reaches_nothing(self):
        boss = user(role="admin")
        one = client_of(boss)
        self.assertEqual(one.get(f"/sandboxes/{box}").status, 200)
        self.assertEqual(root.patch(f"/users/{boss['id']}", {"role": "user"}).status, 200)
        self.assert_problem(one.get(f"/sandboxes/{box}"), 404, "not_found")
        self.assert_problem(one.get("/users"), 403, "forbidden")


class Open:
    """All kinds of what stays open, by one key, and how each must end."""

    def __init__(self, client, stack):
        self.client, self.stack, self.ends = client, stack, []
        box_ = self.box = client.create()["id"]
        ticket = made("/tickets", {"path": f"/sandboxes/{box_}/logs"}, client)["ticket"]
        anonymous = Client(client.server)
        for stream in (client.stream("GET", "/events"),
                       client.stream("GET", f"/sandboxes/{box_}/logs"),
                       anonymous.stream("GET", f"/sandboxes/{box_}/logs?ticket={ticket}"),
                       client.stream("GET", f"/sandboxes/{box_}/stats"),
                       client.stream("GET", f"/sandboxes/{box_}/files/watch?path=/tmp"),
                       client.exec_stream(box_, "echo begun; sleep 600")):
            stack.enter_context(stream)
            assert stream.status == 200
            self.ends.append(lambda s=stream: self.of_stream(s))
        for path in ("/events", f"/sandboxes/{box_}/logs", f"/sandboxes/{box_}/terminal",
                     f"/sandboxes/{box_}/files/watch?path=/tmp"):
            socket = stack.enter_context(client.websocket(path))
            assert socket.status == 101
            self.ends.append(lambda w=socket: self.of_websocket(w))
        waiting = client.connect()
        stack.callback(waiting.close)
        waiting.request("POST", f"/sandboxes/{box_}/exec",
                        b'{"command": "sleep 600", "timeoutMs": 600000}',
                        client.headers({"Content-Type": "application/json"}))
        self.ends.append(lambda: self.of_request(waiting))

    @staticmethod
    def of_stream(stream):
        last = [data for _, data in stream.events()][-1]
        assert (last["type"], last["code"]) == ("error", "unauthorized"), last

    @staticmethod
    def of_websocket(socket):
        last = list(socket.frames())[-1]
        assert (last["type"], last["code"]) == ("error", "unauthorized"), last
        assert socket.close_code == 4401, socket.close_code

    @staticmethod
    def of_request(connection):
        assert connection.getresponse().status == 401

    def assert_ended(self, case, within):
        began = time.monotonic()
        all_at_once(lambda end: end(), self.ends)
        case.assertLess(time.monotonic() - began, within)


class Revocation(SystemCase):
    def ends(self, spoil, within=WITHIN_S, server=None):
        who = user()
        one = client_of(who, server)
        with contextlib.ExitStack() as stack:
            opened = Open(one, stack)
            self.assertEqual(one.get("/me").status, 200)
            spoil(who, one)
            opened.assert_ended(self, within)
            wait_for(lambda: one.get("/me").status == 401, within, "a refusal")
        return who, opened

    def test_a_revoked_key_ends_all_that_it_opened(self):
        _, opened = self.ends(lambda _, one: self.assertEqual(
            root.delete(f"/keys/{one.id}").status, 204))
        self.assertEqual(root.state(opened.box), "running")
        for _ in range(2):
            self.assertEqual(root.delete(f"/keys/{opened.client.id}").status, 204)
        told = root.get(f"/keys/{opened.client.id}").json
        self.assertTrue(told["revokedAt"])

    def test_a_disabled_user_loses_all_that_is_open_until_it_is_enabled(self):
        who, opened = self.ends(lambda who, _: self.assertEqual(
            root.patch(f"/users/{who['id']}", {"disabled": True}).status, 200))
        self.assertEqual(root.patch(f"/users/{who['id']}", {"disabled": False}).status, 200)
        wait_for(lambda: opened.client.get("/me").status == 200, WITHIN_S, "the key again")

    def test_an_expired_key_ends_all_that_it_opened(self):
        self.ends(lambda _, one: service.psql(
            f"UPDATE api_keys SET expires_at = now() WHERE id = '{one.id}'"), FOUND_S)

    def test_a_rotated_key_ends_what_its_old_text_opened(self):
        self.ends(lambda _, one: self.assertEqual(
            one.post(f"/keys/{one.id}/rotate").status, 201))

    def test_a_request_that_waits_for_the_first_with_its_idempotency_key_ends(self):
        who = user()
        first, second = client_of(who), client_of(who)
        body, answers = {"template": "box", "readiness": {"command": "false", "retries": 200}}, {}

        def ask(name, client):
            answers[name] = client.post("/sandboxes", body, headers={"Idempotency-Key": "kept"})
        threads = {name: threading.Thread(target=ask, args=(name, client))
                   for name, client in (("first", first), ("second", second))}
        threads["first"].start()
        wait_for(lambda: answers or first.every(), 20, "a row of the first create")
        self.assertEqual(answers, {})
        threads["second"].start()
        wait_for(lambda: root.get(f"/keys/{second.id}").json["lastUsedAt"], 15,
                 "a second request that waits")
        self.assertEqual(answers, {})
        began = time.monotonic()
        self.assertEqual(root.delete(f"/keys/{second.id}").status, 204)
        threads["second"].join(10)
        self.assertLess(time.monotonic() - began, WITHIN_S)
        self.assert_problem(answers["second"], 401, "unauthorized")
        self.assertNotIn("first", answers)
        self.assertEqual(first.delete(f"/sandboxes/{first.every()[0]['id']}").status, 204)
        threads["first"].join(20)
        self.assertIn("first", answers)

    def test_a_key_may_revoke_itself_and_is_told_so(self):
        one = client_of(user())
        self.assertEqual(one.delete(f"/keys/{one.id}").status, 204)
        self.assert_problem(one.get("/me"), 401, "unauthorized")

    def test_what_others_have_open_stays(self):
        who = user()
        gone, stays = client_of(who), client_of(who)
        with stays.stream("GET", "/events") as stream, stays.websocket("/events") as socket:
            self.assertEqual(root.delete(f"/keys/{gone.id}").status, 204)
            wait_for(lambda: gone.get("/me").status == 401, WITHIN_S, "a refusal")
            time_of_check = service.psql("SELECT now()")
            self.assertTrue(time_of_check)
            mine = stays.create()["id"]
            self.assertEqual(stream.next()[1]["sandboxId"], mine)
            self.assertEqual(next(socket.frames())["type"], "events")

    def test_an_outage_of_the_database_ends_nothing(self):
        one = client_of(user())
        name = service.name
        with one.stream("GET", "/events") as stream:
            service.psql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false", service.admin_url)
            try:
                service.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                             f" WHERE datname = '{name}'", service.admin_url)
                wait_for(lambda: root.get("/ready").status == 503, 10, "an outage")
            finally:
                service.psql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true", service.admin_url)
            wait_for(lambda: root.get("/ready").status == 200, 20, "the database")
            mine = wait_for(lambda: one.post("/sandboxes", {"template": "box"}), 20, "a create")
            self.assertEqual(stream.next()[1]["sandboxId"], mine.json["id"])


@unittest.skipUnless(REDIS_URL, "SBX_TEST_REDIS_URL is not set")
class TwoServers(SystemCase):
    """The same over Redis: revoked on one, ended on the other."""

    @classmethod
    def setUpClass(cls):
        cls.service = sandboxd.Service(env={"REDIS_URL": REDIS_URL})
        cls.addClassCleanup(cls.service.close)
        cls.servers = [cls.service.start() for _ in range(2)]
        key = cls.service.key("root", "--role", "admin")
        cls.roots = [Client(server, key) for server in cls.servers]

    def far(self, name):
        """A user and a client of the other server with a key of his."""
        here, there = self.roots
        who = made("/users", {"name": name, "tier": "enterprise"}, here)
        key = made("/keys", {"userId": who["id"], "name": "k"}, here)
        one = Client(there.server, key["key"])
        one.id = key["id"]
        return who, one

    def assert_ends(self, one, spoil):
        with contextlib.ExitStack() as stack:
            opened = Open(one, stack)
            self.assertEqual(one.get("/me").status, 200)
            self.assertLess(spoil().status, 300)
            began = time.monotonic()
            opened.assert_ended(self, WITHIN_S)
            wait_for(lambda: one.get("/me").status == 401, 10, "a refusal", pause=0.01)
            self.assertLess(time.monotonic() - began, WITHIN_S)

    def test_what_was_opened_on_the_other_server_ends_within_a_second(self):
        _, one = self.far("far")
        self.assert_ends(one, lambda: self.roots[0].delete(f"/keys/{one.id}"))

    def test_a_user_who_is_disabled_on_one_server_loses_what_is_open_on_the_other(self):
        who, one = self.far("farther")
        self.assert_ends(one, lambda: self.roots[0].patch(f"/users/{who['id']}",
                                                          {"disabled": True}))
        self.assertEqual(self.roots[0].patch(f"/users/{who['id']}", {"disabled": False}).status,
                         200)
        wait_for(lambda: one.get("/me").status == 200, WITHIN_S, "the key again")

    def test_what_the_bus_tells_of_a_key_ends_it_without_asking(self):
        """The key is good: so only the message can have ended its stream."""
        _, one = self.far("farthest")
        cluster = self.service.psql("SELECT value FROM meta WHERE key = 'cluster'")
        told = json.dumps({"id": one.id, "worker": "another", "ended": True})
        with one.stream("GET", "/events") as stream:
            for data in ("no JSON", "{}", told):
                subprocess.run(["redis-cli", "-u", REDIS_URL, "PUBLISH", f"rights:{cluster}",
                                f"0 {len(data)}\n{data}\n"], check=True, capture_output=True)
            Open.of_stream(stream)
        self.assertEqual(one.get("/me").status, 200)


if __name__ == "__main__":
    unittest.main()
