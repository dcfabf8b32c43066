"""One part dies, and comes back: a worker, both, the database, Redis. Everything has settled within
10 s, what survived is usable, and what did not says why."""
import signal
import time
import unittest

from recovery_world import RecoveryCase

TIMEOUT_S = 600

class SurvivalCase(RecoveryCase):
    def survived(self, world, waits):
        self.assertIn(world.states()["waits"], waits)
        self.lives_on(world)
        got = world.b.get(f"/sandboxes/{world.box['busy']}/execs/{world.ended}").json
        self.assertEqual((got["state"], got["exitCode"]), ("finished", 3))


class WorkerTest(SurvivalCase):
    def test_one_is_killed_and_the_other_takes_over(self):
        world = self.world()
        world.amid()
        time.sleep(1)
        world.a.server.kill()
        began = time.monotonic()
        world.over.set()
        world.workers[0].server, dead = world.b.server, world.a.server
        world.settled("one of two workers killed", began)
        world.lines_go_on(began)
        self.survived(world, ("creating", "failed interrupted"))
        self.assertFalse(dead.alive())

    def test_both_are_killed_and_one_comes_back(self):
        world = self.world()
        world.amid()
        time.sleep(1)
        for client in world.workers:
            client.server.kill()
        world.over.set()
        world.start(1)
        began = time.monotonic()
        world.workers[0].server = world.b.server
        world.settled("both workers killed, one started", began)
        world.lines_go_on(began)
        self.survived(world, ("failed interrupted",))


class DatabaseTest(SurvivalCase):
    def test_it_crashes_and_is_back_after_three_seconds(self):
        world = self.world()
        world.amid()
        time.sleep(1)
        world.postgres.stop(signal.SIGQUIT)
        time.sleep(3)
        world.postgres.start()
        began = time.monotonic()
        world.settled("PostgreSQL killed for 3 s", began)
        world.lines_go_on(began)
        self.survived(world, ("creating",))

    def test_it_stands_still_for_eight_seconds(self):
        world = self.world()
        world.amid()
        time.sleep(1)
        world.postgres.signal(signal.SIGSTOP)
        try:
            time.sleep(8)
        finally:
            world.postgres.signal(signal.SIGCONT)
        began = time.monotonic()
        world.settled("PostgreSQL hanging for 8 s", began)
        world.lines_go_on(began)
        self.survived(world, ("creating",))


class RedisTest(SurvivalCase):
    def test_it_is_killed_and_comes_back_empty(self):
        world = self.world()
        world.amid()
        time.sleep(1)
        world.redis.stop(signal.SIGKILL)
        time.sleep(3)
        world.redis.start()
        began = time.monotonic()
        world.settled("Redis killed for 3 s, empty", began)
        world.lines_go_on(began)
        self.survived(world, ("creating",))


if __name__ == "__main__":
    unittest.main()
