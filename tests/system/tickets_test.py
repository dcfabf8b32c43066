"""Tickets: what a browser presents where it cannot send a header, used as browsers use it."""
import unittest

import sandboxd
from sandboxd import Client, SystemCase, WebSocket, all_at_once, wait_for

service = api = box = None


def setUpModule():
    global service, api, box
    service, api = sandboxd.module_service(env={"SBX_LOG_LEVEL": "debug"})
    box = api.create()["id"]
    api.exec(box, "echo one; echo two")


def logs_path():
    return f"/sandboxes/{box}/logs"


def ticket(path=None, client=None, **more):
    got = (client or api).post("/tickets", {"path": path or logs_path(), **more})
    if got.status != 201:
        raise AssertionError(f"ticket: {got}")
    return got.json["ticket"]


def anonymous():
    return Client(api.server)


class EventSource:
    """As a browser's: one URL, reconnects to it with the last id that it saw."""

    def __init__(self, url):
        self.url, self.last, self.stream = url, None, None

    def connect(self):
        headers = {"Last-Event-ID": self.last} if self.last else {}
        self.stream = anonymous().stream("GET", self.url, headers=headers)
        return self.stream.status

    def data(self, count):
        lines = []
        for event_id, entry in self.stream.events():
            if event_id and "data" in entry:
                self.last = event_id
                lines.append(entry["data"])
            if len(lines) == count:
                return lines
        raise AssertionError(f"the stream ended after {lines}")

    def close(self):
        self.stream.close()


class MakingTest(SystemCase):
    def test_a_ticket_says_what_it_is_for_and_how_long(self):
        got = api.post("/tickets", {"method": "GET", "path": logs_path()})
        self.assertEqual(got.status, 201, got)
        self.assertEqual(set(got.json), {"ticket", "method", "path", "expiresAt"})
        self.assertRegex(got.json["ticket"], r"^tkt_[0-9a-f]{64}$")
        self.assertEqual((got.json["method"], got.json["path"]), ("GET", logs_path()))
        self.assertNotEqual(got.json["ticket"], ticket())
        self.assertEqual(got.headers["Cache-Control"], "no-store")
        left = service.psql(f"SELECT '{got.json['expiresAt']}'::timestamptz - now()"
                            " BETWEEN interval '50 s' AND interval '60 s'")
        self.assertEqual(left, "t")

    def test_what_cannot_be_a_ticket_is_refused_by_field(self):
        for body, field in (({}, "path"), ({"path": ""}, "path"), ({"path": 1}, "path"),
                            ({"path": "sandboxes"}, "path"), ({"path": "/"}, "path"),
                            ({"path": logs_path() + "/"}, "path"), ({"path": "//x/logs"}, "path"),
                            ({"path": logs_path() + "?tail=1"}, "path"),
                            ({"path": "/sandboxes/\u00e4/logs"}, "path"), ({"path": "/health"}, "path"),
                            ({"path": "/sandboxes//logs"}, "path"),
                            ({"path": "/" + "x" * 9000}, "path"), ({"path": "/a b"}, "path"),
                            ({"path": logs_path(), "method": "POST"}, "method"),
                            ({"path": logs_path(), "method": "get"}, "method"),
                            ({"path": logs_path(), "ttl": 5}, "ttl")):
            with self.subTest(body=str(body)[:60]):
                self.assert_problem(api.post("/tickets", body), 400, "invalid_request", field)

    def test_a_ticket_is_made_by_a_key_and_never_by_a_ticket(self):
        self.assert_problem(anonymous().post("/tickets", {"path": logs_path()}), 401,
                            "unauthorized")
        self.assert_problem(anonymous().post(f"/tickets?ticket={ticket()}", {"path": logs_path()}),
                            401, "unauthorized")

    def test_a_key_without_the_scope_learns_it_when_it_makes_the_ticket(self):
        narrow = Client(api.server, service.key("alice", "--scopes", "exec:write"))
        self.assert_problem(narrow.post("/tickets", {"path": logs_path()}), 403, "forbidden")

    def test_too_many_unused_tickets_are_refused_with_a_time(self):
        hoarder = Client(api.server, service.key("hoarder"))
        ticket(client=hoarder)
        service.psql("INSERT INTO tickets (hash, key, method, path, expires_at)"
                     " SELECT sha256(i::text::bytea), k.id, 'GET', '/', now() + interval '20 s'"
                     " FROM generate_series(2, 1000) i, api_keys k JOIN users u ON u.id = k.user_id"
                     " WHERE u.name = 'hoarder'")
        got = hoarder.post("/tickets", {"path": logs_path()})
        self.assert_problem(got, 429, "rate_limited")
        self.assertIn(int(got.headers["Retry-After"]), range(1, 21))
        ticket()  # others are not concerned


class UsingTest(SystemCase):
    def test_a_websocket_is_opened_once(self):
        mine = ticket()
        url = f"{logs_path()}?tail=2&ticket={mine}"
        with WebSocket(api.server.port, url, {}) as ws:
            self.assertEqual(ws.status, 101)
            frame = next(f for f in ws.frames() if f["type"] == "logs")
            self.assertEqual([e["data"] for e in frame["entries"]][:2], ["one", "two"])
        with WebSocket(api.server.port, url, {}) as ws:
            self.assertEqual(ws.status, 401)
        self.assert_problem(anonymous().get(url), 401, "unauthorized")

    def test_a_plain_read_is_answered_once(self):
        mine = ticket(f"/sandboxes/{box}")
        got = anonymous().get(f"/sandboxes/{box}?ticket={mine}")
        self.assertEqual((got.status, got.json["id"]), (200, box))
        self.assert_problem(anonymous().get(f"/sandboxes/{box}?ticket={mine}"), 401, "unauthorized")

    def test_an_event_source_reconnects_with_the_same_ticket(self):
        mine = ticket()
        source = EventSource(f"{logs_path()}?tail=2&ticket={mine}")
        self.assertEqual(source.connect(), 200)
        self.assertEqual(source.data(2), ["one", "two"])
        source.close()
        api.exec(box, "echo three")
        self.addCleanup(api.exec, box, "echo one; echo two")  # the last two, for the others
        self.assertEqual(source.connect(), 200)
        self.assertEqual(source.data(1), ["three"])
        source.close()
        self.assert_problem(anonymous().get(source.url), 401, "unauthorized")  # not a stream

    def test_the_ticket_of_a_stream_lives_with_it_and_a_minute_longer(self):
        mine = ticket()
        source = EventSource(f"{logs_path()}?ticket={mine}")
        self.assertEqual(source.connect(), 200)
        one = "(SELECT hash FROM tickets WHERE used = 'stream' ORDER BY expires_at DESC LIMIT 1)"
        row = service.psql(f"SELECT encode(hash, 'hex') FROM tickets WHERE hash = {one}")

        def expire():
            service.psql("UPDATE tickets SET expires_at = now() - interval '1 s'"
                         f" WHERE hash = '\\x{row}'")

        def left():
            return float(service.psql("SELECT extract(epoch FROM expires_at - now()) FROM tickets"
                                      f" WHERE hash = '\\x{row}'"))
        expire()
        wait_for(lambda: left() > 50, 15, "a renewal while it is connected")
        source.close()
        expire()
        wait_for(lambda: left() > 50, 15, "a renewal after it left")
        self.assertLessEqual(left(), 60)
        self.assertEqual(source.connect(), 200)
        source.close()
        expire()
        wait_for(lambda: left() > 50, 15, "a renewal after it left again")
        expire()
        self.assertEqual(source.connect(), 401)
        source.close()

    def test_after_a_crash_the_next_server_takes_the_ticket_of_a_stream(self):
        mine = ticket()
        source = EventSource(f"{logs_path()}?ticket={mine}")
        self.assertEqual(source.connect(), 200)
        api.server.kill()
        api.server = service.start()
        api.server.wait_ready()
        self.assertEqual(source.connect(), 200)
        source.close()

    def test_it_is_good_for_its_path_and_method_alone(self):
        mine = ticket()
        for method, path in (("GET", f"/sandboxes/{box}"), ("HEAD", logs_path()),
                             ("POST", f"/sandboxes/{box}/exec"), ("DELETE", f"/sandboxes/{box}"),
                             ("GET", "/sandboxes"), ("GET", f"/sandboxes/%{ord(box[0]):x}{box[1:]}/logs")):
            with self.subTest(method=method, path=path):
                got = anonymous().call(method, f"{path}?ticket={mine}",
                                       {"command": "true"} if method == "POST" else None)
                self.assertEqual(got.status, 401, got)
        self.assertEqual(anonymous().get(f"{logs_path()}?ticket={mine}").status, 200)

    def test_it_allows_what_its_key_may_see_and_no_more(self):
        other = Client(api.server, service.key("mallory"))
        mine = ticket(client=other)
        self.assert_problem(anonymous().get(f"{logs_path()}?ticket={mine}"), 404, "not_found")

    def test_a_revoked_key_and_a_disabled_user_end_their_tickets_at_once(self):
        for spoil in ("UPDATE api_keys SET revoked_at = now() WHERE user_id ="
                      " (SELECT id FROM users WHERE name = 'leaver')",
                      "UPDATE users SET disabled_at = now() WHERE name = 'leaver'"):
            leaver = Client(api.server, service.key("leaver"))
            once, stream = (ticket(client=leaver, path="/sandboxes"),
                            ticket(client=leaver, path=logs_path()))
            service.psql(spoil)
            for url in (f"/sandboxes?ticket={once}", f"{logs_path()}?ticket={stream}"):
                self.assert_problem(anonymous().get(url), 401, "unauthorized")

    def test_an_expired_or_false_ticket_is_refused(self):
        mine = ticket()
        service.psql("UPDATE tickets SET expires_at = now() WHERE used = ''")
        for text in (mine, "tkt_" + "0" * 64, "x", "", "a%20b", mine + "0"):
            with self.subTest(text=text):
                self.assert_problem(anonymous().get(f"{logs_path()}?ticket={text}"), 401,
                                    "unauthorized")

    def test_a_key_and_a_ticket_together_are_refused(self):
        mine = ticket()
        self.assert_problem(api.get(f"{logs_path()}?ticket={mine}"), 400, "invalid_request",
                            "ticket")
        with WebSocket(api.server.port, f"{logs_path()}?ticket={mine}",
                       {"Sec-WebSocket-Protocol": f"sandboxd.v1, bearer.{api.key}"}) as ws:
            self.assertEqual(ws.status, 400)
        self.assertEqual(anonymous().get(f"{logs_path()}?ticket={mine}").status, 200)

    def test_a_ticket_where_none_is_needed_is_not_looked_at(self):
        self.assertEqual(anonymous().get("/health?ticket=whatever").status, 200)

    def test_of_many_uses_at_once_one_is_answered(self):
        mine = ticket(f"/sandboxes/{box}")
        got = all_at_once(lambda _: anonymous().get(f"/sandboxes/{box}?ticket={mine}").status,
                          range(16), 16)
        self.assertEqual(sorted(got), [200] + [401] * 15)


class SecrecyTest(SystemCase):
    def test_a_ticket_is_in_no_log_no_problem_and_no_row(self):
        mine, given = ticket(), []
        url = f"{logs_path()}?ticket={mine}"
        for headers in ({}, {"Accept": "text/event-stream"}, {"Accept": "image/png"},
                        {"X-Request-Id": "seen"}):
            if "event-stream" in headers.get("Accept", ""):
                with anonymous().stream("GET", url, headers=headers) as stream:
                    self.assertEqual(stream.status, 401)
                    continue
            given.append(anonymous().get(url, headers=headers))
        for bad in (f"{url}&ticket={mine}", f"{url}&limit=x", f"{url}&colour=1", f"{url}&a=%zz",
                    f"/nowhere?ticket={mine}", f"/sandboxes/zzz/logs?ticket={mine}",
                    f"{url}&" + "x" * 9000):
            given.append(anonymous().get(bad))
        self.assertEqual([g.status for g in given if g.status < 400], [200])
        wait_for(lambda: "GET" in api.server.log_text(), 5, "requests in the log")
        secret = mine.removeprefix("tkt_")
        for got in given:
            self.assertNotIn(secret, got.body.decode() + str(got.headers), got)
        for server in service.servers:
            self.assertNotIn(secret, server.log_text())
        self.assertNotIn("ticket=", api.server.log_text())
        dump = service.psql("SELECT string_agg(t::text, ' ') FROM tickets t")
        self.assertNotIn(secret, dump)


if __name__ == "__main__":
    unittest.main()
