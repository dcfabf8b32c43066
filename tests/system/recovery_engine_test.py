"""The engine dies, is restarted, or stands still, and the whole machine goes down. Everything has
settled within 10 s, what survived is usable, and what did not says why."""
import os
import signal
import threading
import time
import unittest

from recovery_world import RecoveryCase
from sandboxd import wait_for

TIMEOUT_S = 600


class EngineTest(RecoveryCase):
    def ended(self, world, codes):
        """Of what ran nothing is left, and each says so; what was stopped can be started."""
        told = world.states()
        self.assertEqual(told.pop("stopped").split()[0], "stopped")
        for name, state in told.items():
            self.assertIn(state, codes, name)
        job = world.outcome()
        self.assertEqual((job["state"], job["error"]), ("failed", "lost"))
        world.a.move(world.box["stopped"], "start")
        self.assertEqual(world.b.exec(world.box["stopped"], "echo up")["stdout"], "up\n")
        self.assertEqual(world.b.create(size="nano")["state"], "running")

    def test_a_crash_that_takes_its_containers_along(self):
        world = self.world()
        world.amid()
        time.sleep(1)
        world.engine.kill()
        time.sleep(2)
        world.engine.start()
        began = time.monotonic()
        world.settled("engine and containers killed", began)
        self.ended(world, ("failed host_lost", "failed container_ended", "failed engine_error",
                           "failed engine_unavailable"))

    def test_a_restart_in_order(self):
        world = self.world()
        world.amid()
        time.sleep(1)
        world.engine.stop(signal.SIGTERM, 60)
        world.engine.start()
        began = time.monotonic()
        world.settled("engine restarted by SIGTERM", began)
        self.ended(world, ("failed host_lost", "failed container_ended", "failed engine_error",
                           "failed engine_unavailable"))

    def test_a_crash_of_an_engine_that_keeps_its_containers(self):
        world = self.world(engine=("--live-restore",))
        world.amid()
        time.sleep(1)
        world.engine.stop(signal.SIGKILL)
        time.sleep(2)
        world.engine.start()
        began = time.monotonic()
        world.settled("engine killed, live-restore", began)
        world.lines_go_on(began)
        self.lives_on(world)

    def test_the_whole_machine_goes_down(self):
        """The workers are back first, before there is a database or an engine."""
        world = self.world()
        world.amid()
        time.sleep(1)
        for client in world.workers:
            client.server.kill()
        world.postgres.signal(signal.SIGKILL)
        world.postgres.process.wait(20)
        world.redis.stop(signal.SIGKILL)
        world.engine.kill()
        world.over.set()
        manager = threading.Thread(target=world.supervise)
        manager.start()
        try:
            time.sleep(2)
            world.redis.start()
            world.engine.start()
            world.postgres.start()
            began = time.monotonic()
            wait_for(world.ready, 60, "workers that are ready", 0.1)
        finally:
            world.closed = True
            manager.join()
        world.settled("the machine went down", began)
        self.ended(world, ("failed host_lost", "failed interrupted"))

    def test_it_stands_still_for_eight_seconds(self):
        world = self.world()
        world.amid()
        time.sleep(1)
        os.kill(world.engine.process.pid, signal.SIGSTOP)
        try:
            time.sleep(8)
        finally:
            os.kill(world.engine.process.pid, signal.SIGCONT)
        began = time.monotonic()
        world.settled("engine hanging for 8 s", began)
        world.lines_go_on(began)
        self.lives_on(world)


if __name__ == "__main__":
    unittest.main()
