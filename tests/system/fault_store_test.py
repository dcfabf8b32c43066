"""PostgreSQL restarts, and connections are lost at every statement, amid creates, commands and
deletes: clear errors, everything settled within 10 s afterwards, nothing leaked."""
import concurrent.futures
import re
import signal
import threading
import unittest

import parts
import sandboxd
from sandboxd import Client, SystemCase, all_at_once, wait_for

TIMEOUT_S = 300


class StoreCase(SystemCase):
    def service(self, url, **env):
        service = sandboxd.Service(database_url=url, env={"SBX_SWEEP_SECONDS": 1,
                                                          "SBX_ORPHAN_GRACE": 2, **env})
        self.addCleanup(service.close)
        return service, Client(service.start(), service.key())

    def assert_settled(self, client, service, within=10):
        wait_for(lambda: client.get("/ready").status == 200, within, "readiness", 0.1)
        wait_for(lambda: {s["state"] for s in client.every()} <= {"running", "failed"}, within,
                 "rows that are settled", 0.1)
        running = sorted(s["id"] for s in client.every() if s["state"] == "running")
        wait_for(lambda: sorted(c["Labels"]["sandboxd.id"] for c in service.containers()
                                if "sandboxd.id" in c["Labels"]) == running, 12,
                 "the right containers", 0.1)
        for box in running:
            wait_for(lambda b=box: client.post(f"/sandboxes/{b}/exec", {"command": "true"}
                                               ).status == 200, 10, "a command", 0.1)
        return set(running)


class RestartTest(StoreCase):
    def setUp(self):
        self.postgres = parts.PrivatePostgres()
        self.addCleanup(self.postgres.remove)
        self.postgres.start()

    def restart_amid(self, how):
        service, client = self.service(self.postgres.url)
        boxes = [client.create(size="nano")["id"] for _ in range(6)]
        descriptors, threads = client.server.descriptors(), client.server.threads()
        done = threading.Event()
        got = {"create": [], "exec": [], "delete": []}

        def creating(_):
            while not done.is_set():
                got["create"].append(client.post("/sandboxes", {"template": "box", "size": "nano"}))

        def running(_):
            while not done.is_set():
                got["exec"].append(client.post(f"/sandboxes/{boxes[0]}/exec", {"command": "true"}))

        def deleting(box):
            while not done.is_set():
                answer = client.delete(f"/sandboxes/{box}")
                got["delete"].append(answer)
                if answer.status == 204:
                    return

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            work = [pool.submit(f, a) for f, a in [(creating, 0), (running, 0),
                                                   *((deleting, b) for b in boxes[1:])]]
            try:
                for _ in range(2):
                    count = len(got["create"])
                    wait_for(lambda c=count: len(got["create"]) > c + 1, 30, "creates")
                    self.postgres.stop(how)
                    wait_for(lambda: got["create"][-1].status == 503, 20, "refusals")
                    self.postgres.start()
                wait_for(lambda: got["create"][-1].status == 201, 10, "a create that succeeds")
            finally:
                done.set()
            for w in work:
                w.result()
        for kind, answers in got.items():
            for answer in answers:
                if answer.status not in (200, 201, 204):
                    self.assert_problem(answer, 503, "store_unavailable"
                                        if kind != "exec" or answer.json["code"] != "at_capacity"
                                        else "at_capacity")
        alive = self.assert_settled(client, service)
        self.assertLessEqual({a.json["id"] for a in got["create"] if a.status == 201}, alive)
        wait_for(lambda: client.server.descriptors() <= descriptors + len(alive) + 24, 10,
                 "closed descriptors")
        self.assertEqual(client.server.threads(), threads)

    def test_a_fast_restart_amid_everything(self):
        self.restart_amid(signal.SIGINT)

    def test_an_immediate_restart_amid_everything(self):
        self.restart_amid(signal.SIGQUIT)

    def test_requests_fail_at_once_while_it_is_away(self):
        _, client = self.service(self.postgres.url)
        self.postgres.stop()
        wait_for(lambda: re.search(r'^sandboxd_breaker_open{dependency="store"} 1',
                                   client.get("/metrics").body.decode(), re.M), 10,
                 "an open breaker")
        got = all_at_once(lambda _: client.post("/sandboxes", {"template": "box"}), range(40), 40)
        for answer in got:
            self.assert_problem(answer, 503, "store_unavailable")
        ready = client.get("/ready")
        self.assertEqual((ready.status, ready.json["store"]["breaker"]), (503, "open"))
        self.postgres.start()
        wait_for(lambda: client.post("/sandboxes", {"template": "box"}).status == 201, 10,
                 "a create that succeeds")


class LostAnswerTest(StoreCase):
    """The database does what it is told, and its answer never arrives."""

    def test_a_connection_lost_at_any_statement_of_a_create_and_a_delete(self):
        postgres = parts.PrivatePostgres()
        self.addCleanup(postgres.remove)
        postgres.start()
        proxy = parts.Proxy(postgres.folder / ".s.PGSQL.5432", ".s.PGSQL.5432")
        self.addCleanup(proxy.close)
        service, client = self.service(postgres.url)
        client.server.stop()
        client = Client(service.start(env={"DATABASE_URL": service.url.replace(
            str(postgres.folder).replace("/", "%2F"), str(proxy.folder).replace("/", "%2F"))}),
            client.key)
        cuts = []
        for statement in (b"SANDBOX_INSERT", b"SANDBOX_SET_STATE", b"KEY_BY_HASH",
                          b"SANDBOX_GET_OWNED"):
            for verb in ("create", "delete"):
                box = client.create(size="nano")["id"] if verb == "delete" else None
                proxy.cut_answer = self.once(statement, cuts)
                if verb == "create":
                    got = client.post("/sandboxes", {"template": "box", "size": "nano"})
                else:
                    got = client.delete(f"/sandboxes/{box}")
                proxy.cut_answer = None
                if got.status not in (201, 204):
                    self.assert_problem(got, 503, "store_unavailable")
        self.assertGreaterEqual(len(cuts), 4)
        self.assert_settled(client, service)
        # what the database did, it did once
        twice = service.psql("SELECT count(*) FROM (SELECT sandbox, type, count(*) FROM events"
                             " WHERE type IN ('sandbox.running', 'sandbox.deleted')"
                             " GROUP BY 1, 2 HAVING count(*) > 1) t")
        self.assertEqual(twice, "0")

    @staticmethod
    def once(statement, cuts):
        """Decides for the first message that executes the statement, prepared before or not."""
        lock = threading.Lock()
        left = [1]

        def decide(data):
            with lock:
                if left[0] and statement + b"\0" in data and b"B" in data[:1]:
                    left[0] = 0
                    cuts.append(statement)
                    return True
            return False
        return decide


if __name__ == "__main__":
    unittest.main()
