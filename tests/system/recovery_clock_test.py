"""Clocks are wrong: that of a worker, whose database knows better, and that of the database, by
which time is measured."""
import email.utils
import time
import unittest

import parts
import sandboxd
from sandboxd import Client, SystemCase, wait_for

TIMEOUT_S = 300
HOUR = 3600
LIMIT_S = 40


class WorkerTest(SystemCase):
    """One of two workers is an hour ahead, or behind; what is made at one is used at the other."""

    def wrong(self, seconds):
        clock = parts.WrongClock()
        self.addCleanup(clock.remove)
        clock.set(seconds)
        redis = parts.PrivateRedis()
        self.addCleanup(redis.remove)
        redis.start()
        service = sandboxd.Service(env={"REDIS_URL": redis.url, "SBX_SWEEP_SECONDS": 1,
                                        "SBX_ORPHAN_GRACE": 2})
        self.addCleanup(service.close)
        right = Client(service.start(), service.key())
        wrong = Client(service.start(env=clock.env), right.key)
        told = email.utils.parsedate_to_datetime(wrong.get("/health").headers["Date"])
        self.assertLess(abs(told.timestamp() - time.time() - seconds), 60)
        box = right.create()["id"]
        self.assertEqual(wrong.exec(box, "echo x")["stdout"], "x\n")
        for maker, user in ((right, wrong), (wrong, right)):
            self.tickets(maker, user, box)
            self.repetitions(maker, user)
            self.expiry(maker, user)
        self.keys(right, wrong)
        self.assertEqual(wrong.state(box), "running")
        self.assertEqual(service.psql("SELECT count(*) FROM workers"), "2")

    def tickets(self, maker, user, box):
        got = maker.post("/tickets", {"method": "GET", "path": f"/sandboxes/{box}"})
        self.assertEqual(got.status, 201, got)
        path = f"/sandboxes/{box}?ticket={got.json['ticket']}"
        self.assertEqual(Client(user.server).get(path).status, 200)
        self.assertEqual(Client(maker.server).get(path).status, 401)

    def repetitions(self, maker, user):
        key = {"Idempotency-Key": f"k{maker.server.port}"}
        first = maker.post("/sandboxes", {"template": "box"}, headers=key)
        again = user.post("/sandboxes", {"template": "box"}, headers=key)
        self.assertEqual((first.status, again.status), (201, 201), (first, again))
        self.assertEqual(first.json["id"], again.json["id"])

    def expiry(self, maker, user):
        short = maker.create(timeoutSeconds=2)["id"]
        long = maker.create(timeoutSeconds=600)["id"]
        wait_for(lambda: user.state(short) == "deleted", LIMIT_S, "an expiry")
        self.assertEqual(user.sandbox(short)["stateReason"]["code"], "expired")
        self.assertEqual(user.state(long), "running")

    def keys(self, right, wrong):
        """One that is good for half an hour is good everywhere, also when it was just asked."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(time.time() + HOUR / 2))
        made = right.post("/keys", {"name": "short", "expiresAt": at})
        self.assertEqual(made.status, 201, made)
        client = Client(wrong.server, made.json["key"])
        self.assertEqual([client.get("/sandboxes").status for _ in range(5)], [200] * 5)

    def test_an_hour_ahead(self):
        self.wrong(HOUR)

    def test_an_hour_behind(self):
        self.wrong(-HOUR)


class DatabaseTest(SystemCase):
    def test_its_clock_jumps_an_hour_ahead(self):
        """What ends within that hour ends, and says so; all else goes on."""
        clock = parts.WrongClock()
        self.addCleanup(clock.remove)
        postgres, redis = parts.PrivatePostgres(), parts.PrivateRedis()
        for part, more in ((postgres, {"env": clock.env}), (redis, {})):
            self.addCleanup(part.remove)
            part.start(**more)
        service = sandboxd.Service(database_url=postgres.url, env={"REDIS_URL": redis.url})
        self.addCleanup(service.close)
        a = Client(service.start(), service.key("root", "--role", "admin"))
        b = Client(service.start(), a.key)
        long = {"timeoutSeconds": 86400, "idleTimeoutSeconds": 86400}
        stays, job = a.create(**long)["id"], None
        idle = b.create(timeoutSeconds=86400, idleTimeoutSeconds=900)["id"]
        ends = b.create(timeoutSeconds=1800)["id"]
        job = a.post(f"/sandboxes/{stays}/exec", {"command": "sleep 1000", "background": True}
                     ).json["execId"]
        clock.set(HOUR)
        began = time.monotonic()
        wait_for(lambda: a.state(ends) == "deleted", LIMIT_S, "an expiry")
        self.assertEqual(a.sandbox(ends)["stateReason"]["code"], "expired")
        wait_for(lambda: b.state(idle) == "paused", LIMIT_S, "a pause")
        self.assertEqual(b.sandbox(idle)["stateReason"]["code"], "idle")
        for client in (a, b):
            wait_for(lambda c=client: c.post(f"/sandboxes/{stays}/exec", {"command": "true"}
                                             ).status == 200, LIMIT_S, "a command")
        print(f"recovery: the database's clock an hour ahead: settled after "
              f"{time.monotonic() - began:.1f} s", flush=True)
        self.assertEqual(b.get(f"/sandboxes/{stays}/execs/{job}").json["state"], "running")
        wait_for(lambda: service.psql("SELECT count(*) FROM workers") == "2", LIMIT_S,
                 "both workers")
        self.assertTrue(a.server.alive() and b.server.alive())


if __name__ == "__main__":
    unittest.main()
