"""The engine restarts, hangs, refuses, answers nonsense, and has no room: clear errors while it
does, everything right within 10 s afterwards, nothing leaked."""
import concurrent.futures
import os
import re
import secrets
import signal
import subprocess
import time
import unittest

import parts
import sandboxd
from parts import Registry
from sandboxd import Client, SystemCase, all_at_once, engine, wait_for

TIMEOUT_S = 300

# What a request may be answered while the engine cannot be used, and with which code.
UNAVAILABLE = {503: "engine_unavailable", 504: "timeout", 502: "engine_error"}


class FaultCase(SystemCase):
    def assert_refused(self, got, statuses=(503,)):
        self.assertIn(got.status, statuses, got)
        return self.assert_problem(got, got.status, UNAVAILABLE[got.status])

    @staticmethod
    def breaker(client, dependency="engine"):
        text = Client(client.server).get("/metrics").body.decode()
        return int(re.search(rf'^sandboxd_breaker_open{{dependency="{dependency}"}} (\d)', text,
                             re.M).group(1))

    def assert_works_again(self, client, within=10):
        """Creates, execs and deletes within so many seconds from now."""
        end = time.monotonic() + within
        got = wait_for(lambda: (a := client.post("/sandboxes", {"template": "box"})).status == 201
                       and a, within, "a create that succeeds", 0.1)
        box = got.json["id"]
        self.assertEqual(client.exec(box, "echo up")["stdout"], "up\n")
        self.assertEqual(client.delete(f"/sandboxes/{box}").status, 204)
        wait_for(lambda: client.get("/ready").status == 200, max(end - time.monotonic(), 0.1),
                 "readiness")
        self.assertEqual(self.breaker(client), 0)

    def assert_settled(self, client, service, within=10):
        """No row between two states, and no container but those of running sandboxes."""
        wait_for(lambda: {s["state"] for s in client.every()} <= {"running", "failed"}, within,
                 "rows that are settled", 0.1)
        running = sorted(s["id"] for s in client.every() if s["state"] == "running")
        wait_for(lambda: sorted(c["Labels"]["sandboxd.id"] for c in service.containers()
                                if "sandboxd.id" in c["Labels"]) == running, within,
                 "the right containers", 0.1)


class RestartTest(FaultCase):
    def restart(self, how, codes):
        own = parts.PrivateEngine()
        self.addCleanup(own.remove)
        own.start()
        service = sandboxd.Service(engine_=own.api, env={
            "DOCKER_HOST": own.host, "SBX_SWEEP_SECONDS": 2, "SBX_ORPHAN_GRACE": 1})
        self.addCleanup(service.close)
        client = Client(service.start(), service.key())
        boxes = [client.create()["id"] for _ in range(3)]
        for got in all_at_once(lambda _: client.create()["id"], range(8), 8):
            self.assertEqual(client.delete(f"/sandboxes/{got}").status, 204)
        descriptors, threads = client.server.descriptors(), client.server.threads()
        streams = [client.exec_stream(box, "sleep 100") for box in boxes]
        events = [s.events() for s in streams]
        for e in events:
            next(e)
        job = client.post(f"/sandboxes/{boxes[0]}/exec", {"command": "sleep 100",
                                                          "background": True}).json["execId"]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            amid = [pool.submit(client.post, "/sandboxes", {"template": "box"}) for _ in range(4)]
            how(own)
            amid = [a.result() for a in amid]
        for answer in amid:
            if answer.status != 201:
                self.assert_refused(answer, (502, 503))
        self.assert_refused(client.post("/sandboxes", {"template": "box"}))
        ready = client.get("/ready")
        self.assertEqual((ready.status, ready.json["engine"]["status"]), (503, "unavailable"))
        own.start()
        began = time.monotonic()
        wait_for(lambda: all(client.state(b) == "failed" for b in boxes), 10, "failed sandboxes")
        for box, stream, told in zip(boxes, streams, events):
            why = client.sandbox(box)["stateReason"]
            self.assertIn(why["code"], codes, why)
            self.assertTrue(why["message"])
            self.assertEqual([e["type"] for _, e in told][-1], "error")
            stream.close()
        told = client.get(f"/sandboxes/{boxes[0]}/execs/{job}").json
        self.assertEqual((told["state"], told["error"]), ("failed", "lost"))
        self.assert_works_again(client, 10 - (time.monotonic() - began))
        self.assert_settled(client, service, 15)
        wait_for(lambda: client.server.descriptors() <= descriptors + 12, 10, "closed descriptors")
        self.assertEqual(client.server.threads(), threads)

    def test_an_engine_that_is_restarted(self):
        self.restart(lambda own: own.stop(signal.SIGTERM, 60), ("container_ended",))

    def test_an_engine_that_crashes_with_all_its_containers(self):
        self.restart(lambda own: own.kill(), ("host_lost",))


class ProxyTest(parts.BehindProxy, FaultCase):
    """The shared engine, behind a proxy that misbehaves."""

    env = {"SBX_SWEEP_SECONDS": 1, "SBX_ORPHAN_GRACE": 2}

    def setUp(self):
        super().setUp()
        for got in self.creates(12):  # every worker has its connections now, which it keeps
            self.assertEqual(self.client.delete(f"/sandboxes/{got.json['id']}").status, 204)
        self.descriptors = self.client.server.descriptors()

    def assert_recovered(self):
        self.proxy.set("pass")
        self.assert_works_again(self.client)
        self.assert_settled(self.client, self.service, 12)
        wait_for(lambda: self.client.server.descriptors() <= self.descriptors + 12, 10,
                 "closed descriptors")
        wait_for(lambda: self.client.post(f"/sandboxes/{self.box}/exec", {"command": "true"}
                                          ).status == 200, 10, "the sandbox that was there")

    def creates(self, n=6):
        return all_at_once(lambda _: self.client.post("/sandboxes", {"template": "box"},
                                                      timeout=100), range(n), n)

    def test_a_slow_one_is_waited_for(self):
        self.proxy.set("pass", 0.4)
        self.assertEqual([g.status for g in self.creates()], [201] * 6)
        self.assertEqual(self.breaker(self.client), 0)
        self.assert_recovered()

    def test_one_that_refuses(self):
        self.proxy.set("reset")
        for got in self.creates():
            self.assert_refused(got)
        wait_for(lambda: self.breaker(self.client) == 1, 10, "an open breaker")
        began = time.monotonic()
        for got in self.creates(30):
            told = self.assert_refused(got)
            self.assertIn("not reached", told["detail"])
        self.assertLess(time.monotonic() - began, 5)
        self.assertEqual(self.client.get("/ready").json["engine"]["breaker"], "open")
        self.assertEqual(self.client.get("/health").status, 200)
        self.assert_recovered()

    def test_one_that_hangs(self):
        self.proxy.set("hold")
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            waiting = [pool.submit(self.client.post, "/sandboxes", {"template": "box"}, timeout=100)
                       for _ in range(12)]
            wait_for(lambda: self.breaker(self.client) == 1, 25, "an open breaker")
            for w in waiting:  # far sooner than the time-out of a call, 60 s
                self.assert_refused(w.result(20), (503, 504))
            self.assert_refused(self.client.post("/sandboxes", {"template": "box"}))
            self.assertEqual(self.client.get(f"/sandboxes/{self.box}").status, 200)
        self.assert_recovered()

    def test_one_that_answers_500(self):
        self.proxy.set("500")
        for got in self.creates():
            self.assertIn("boom", self.assert_refused(got, (502,))["detail"])
        self.assert_recovered()

    def test_one_whose_answers_are_torn(self):
        self.proxy.set("torn")
        for got in self.creates():
            self.assert_refused(got, (502, 503))
        self.assert_recovered()

    def test_one_that_breaks_at_every_moment_of_creates_and_deletes(self):
        boxes = [self.client.create(size="nano")["id"] for _ in range(6)]
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            work = [pool.submit(self.client.delete, f"/sandboxes/{b}") for b in boxes]
            work += [pool.submit(self.client.post, "/sandboxes", {"template": "box"})
                     for _ in range(6)]
            for _ in range(8):
                time.sleep(0.05)
                self.proxy.set("reset")
                self.proxy.set("pass")
            got = [w.result() for w in work]
        for answer in got:
            if answer.status not in (201, 204):
                self.assert_refused(answer, (502, 503))
        self.assert_recovered()


@unittest.skipUnless(os.getuid() == 0, "mounting a small disk needs root")
class DiskTest(FaultCase):
    def test_a_pull_that_fills_the_disk_says_so_and_leaves_nothing(self):
        own = parts.PrivateEngine()
        self.addCleanup(own.remove)
        own.data.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", own.data], check=True)
        own.start()
        registry = Registry()
        self.addCleanup(registry.close)
        made = sandboxd.make_image("sbxtest-huge:1", {**sandboxd.box_files(),
                                                      "etc/big": os.urandom(40 << 20)})
        image = f"{registry.name}/{registry.push(made, 'huge-' + secrets.token_hex(4))}"
        engine.remove_image(made)
        service = sandboxd.Service(engine_=own.api, env={"DOCKER_HOST": own.host})
        self.addCleanup(service.close)
        client = Client(service.start(), service.key())
        got = client.post("/sandboxes", {"image": image})
        told = self.assert_refused(got, (502,))
        self.assertIn("the disk of the engine's host is full", told["detail"])
        self.assertEqual(client.state(told["sandboxId"]), "failed")
        self.assertEqual(service.containers(), [])
        self.assertIsNone(own.api.image(image))
        self.assert_works_again(client)


if __name__ == "__main__":
    unittest.main()
