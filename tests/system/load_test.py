"""Lanes under more work than they can do: an early 503 that says when to come back, nothing begun
for those who are refused, and other lanes not concerned."""
import time
import unittest

import sandboxd
from sandboxd import Client, HangingEngine, SystemCase, all_at_once, wait_for

ALONE = True


class LaneTest(SystemCase):
    def serve(self, **env):
        service = sandboxd.Service(env=env)
        self.addCleanup(service.close)
        return service, Client(service.start(ready=None), service.key())

    def timed_create(self, client):
        begin = time.monotonic()
        got = client.post("/sandboxes", {"template": "box", "size": "nano"}, timeout=120)
        return got, time.monotonic() - begin

    def test_creates_beyond_the_pace_are_refused_and_succeed_when_they_come_back(self):
        service, client = self.serve(SBX_SLOW_WORKERS=1, SBX_SLOW_WAIT=1)
        wait_for(lambda: self.timed_create(client)[0].status == 201, 60, "the first create")
        first = all_at_once(lambda _: self.timed_create(client), range(24), 24)
        made = [got for got, _ in first if got.status == 201]
        refused = [(got, took) for got, took in first if got.status != 201]
        self.assertTrue(made)
        self.assertTrue(refused, "one worker made 24 sandboxes in a second")
        for got, took in refused:
            self.assert_problem(got, 503, "at_capacity")
            self.assertLessEqual(int(got.headers["Retry-After"]), 60)
            self.assertNotIn("sandboxId", got.json)
            self.assertLess(took, 5)
        self.assertEqual(int(service.psql("SELECT count(*) FROM sandboxes")), len(made) + 1)

        def retry(_):
            for _ in range(20):
                got, _took = self.timed_create(client)
                if got.status == 201:
                    return True
                time.sleep(int(got.headers["Retry-After"]))
            return False
        self.assertTrue(all(all_at_once(retry, range(4), 4)))
        for box in client.every():  # one after the other: the one worker refuses a crowd
            wait_for(lambda: client.delete(f"/sandboxes/{box['id']}").status == 204, 30)

    def test_a_hundred_creates_at_once_succeed_or_hear_when_to_come_back_and_leave_nothing(self):
        service, client = self.serve()
        wait_for(lambda: self.timed_create(client)[0].status == 201, 60, "the first create")
        answers = [got for got, _ in all_at_once(lambda _: self.timed_create(client),
                                                 range(100), 100)]
        made = [got.json["id"] for got in answers if got.status == 201]
        for got in answers:
            if got.status != 201:
                self.assert_problem(got, 503)
                self.assertGreaterEqual(int(got.headers["Retry-After"]), 1)
        print(f"{len(made)} of 100 made, {100 - len(made)} refused")
        self.assertGreater(len(made), 20)
        ran = all_at_once(lambda box: client.exec(box, ["true"])["exitCode"], made, 100)
        self.assertEqual(set(ran), {0})
        for box in client.every():
            wait_for(lambda: client.delete(f"/sandboxes/{box['id']}").status == 204, 30)
        wait_for(lambda: not service.containers(), 20, "no container left")
        self.assertEqual(service.psql("SELECT count(*) FROM sandboxes WHERE state <> 'deleted'"
                                      " AND state <> 'failed'"), "0")

    def test_reads_go_on_while_the_engine_hangs_and_creates_are_refused_early(self):
        folder = sandboxd.pathlib.Path(sandboxd.tempfile.mkdtemp())
        engine = HangingEngine(folder)
        self.addCleanup(sandboxd.shutil.rmtree, folder)
        self.addCleanup(engine.close)
        service, client = self.serve(DOCKER_HOST=f"unix://{engine.path}", SBX_SLOW_WORKERS=2,
                                     SBX_SLOW_WAIT=1, SBX_ENGINE_TIMEOUT=6)
        begin = time.monotonic()
        with sandboxd.concurrent.futures.ThreadPoolExecutor(12) as pool:
            creates = [pool.submit(self.timed_create, client) for _ in range(12)]
            while not all(c.done() for c in creates):
                asked = time.monotonic()
                self.assertEqual(client.get("/sandboxes").status, 200)
                self.assertLess(time.monotonic() - asked, 3)
        got = [c.result() for c in creates]
        early = [(answer, took) for answer, took in got if answer.status == 503
                 and answer.json["code"] == "at_capacity"]
        self.assertGreaterEqual(len(early), 8, [answer for answer, _ in got])
        for answer, took in early:
            self.assert_problem(answer, 503, "at_capacity")
            self.assertLess(took, 4, "the refusal waited for a worker")
        self.assertTrue({answer.status for answer, _ in got} <= {503, 504})
        self.assertLess(time.monotonic() - begin, 60)
        service.psql("UPDATE sandboxes SET state = 'deleted', worker = NULL")


class ReadyTest(SystemCase):
    def test_many_who_ask_cost_one_look_and_wait_for_no_hanging_engine(self):
        folder = sandboxd.pathlib.Path(sandboxd.tempfile.mkdtemp())
        engine = HangingEngine(folder)
        self.addCleanup(sandboxd.shutil.rmtree, folder)
        self.addCleanup(engine.close)
        service = sandboxd.Service(env={"DOCKER_HOST": f"unix://{engine.path}",
                                        "SBX_ENGINE_TIMEOUT": 3})
        self.addCleanup(service.close)
        client = Client(service.start(ready=None), service.key())
        told = client.get("/ready")
        self.assertEqual((told.status, told.json["engine"]["status"]), (503, "unavailable"))
        self.assertEqual(told.json["store"]["status"], "ok")
        self.assertLess(told.json["engine"]["latencyMs"], 4000)
        before, begin = len(engine.held), time.monotonic()
        got = all_at_once(lambda _: client.get("/ready").status, range(200), 16)
        seconds = time.monotonic() - begin
        self.assertEqual(set(got), {503})
        self.assertLessEqual(len(engine.held) - before, 2 + 2 * seconds)


if __name__ == "__main__":
    unittest.main()
