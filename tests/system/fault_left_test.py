"""What a fault has left half-way by a worker that lives: it is finished or undone as soon as engine
and database answer again, not at some deadline."""
import os
import signal
import threading
import unittest

import parts
import sandboxd
from sandboxd import Client, SystemCase, wait_for

SOON_S = 20  # after the fault; deadlines of the moves are a minute and more


class EngineTest(parts.BehindProxy):
    """The engine is away."""

    def state(self):
        return self.service.psql(f"SELECT state FROM sandboxes WHERE id = '{self.box}'")

    def test_a_pause_that_failed_in_the_middle_is_settled_soon(self):
        self.proxy.set("reset")
        got = self.client.post(f"/sandboxes/{self.box}/pause", {})
        self.assertIn(got.status, (502, 503), got)
        self.assertEqual(self.state(), "pausing")
        self.proxy.set("pass")
        wait_for(lambda: self.state() in ("running", "paused"), SOON_S, "a sandbox that is settled")
        self.assertEqual(self.client.exec(self.box, "echo up")["stdout"], "up\n")

    def test_a_delete_that_failed_in_the_middle_is_finished_soon(self):
        self.proxy.set("reset")
        self.assertIn(self.client.delete(f"/sandboxes/{self.box}").status, (502, 503))
        self.assertEqual(self.state(), "deleting")
        self.proxy.set("pass")
        wait_for(lambda: self.state() == "deleted", SOON_S, "a sandbox that is deleted")
        self.assertFalse(self.service.container_exists(self.box))

    def test_output_asked_for_while_the_sandbox_turns_out_to_have_ended_is_what_is_recorded(self):
        job = self.client.post(f"/sandboxes/{self.box}/exec",
                               {"command": "echo one; sleep 100", "background": True}).json["execId"]
        agent = self.service.inspect(self.box)["State"]["Pid"]
        wait_for(lambda: self.service.psql(
            f"SELECT count(*) FROM sandbox_executions WHERE id = '{job}'") == "1", 10, "a record")
        self.proxy.set("reset")
        os.kill(agent, signal.SIGKILL)
        got = []
        reader = threading.Thread(target=lambda: got.append(self.client.stream(
            "GET", f"/sandboxes/{self.box}/execs/{job}/output")))
        reader.start()
        self.proxy.set("pass")
        reader.join(60)
        with got[0] as stream:
            self.assertEqual(stream.status, 200)
            last = list(stream.events())[-1][1]
        self.assertEqual(last["type"], "error", last)


class LogTest(SystemCase):
    def test_the_log_of_a_sandbox_that_failed_goes_on_behind_its_last_line(self):
        service = sandboxd.Service()
        self.addCleanup(service.close)
        client = Client(service.start(), service.key())
        box = client.create()["id"]
        client.exec(box, "echo one; echo two; echo three")
        wait_for(lambda: "three" in [e["data"] for e in client.logs(box)], what="three lines")
        last = client.logs(box)[-1]["seq"]
        os.kill(service.inspect(box)["State"]["Pid"], signal.SIGKILL)
        wait_for(lambda: client.state(box) == "failed", what="a failed sandbox")
        client.move(box, "start")
        client.exec(box, "echo four")
        seen = wait_for(lambda: [e["seq"] for e in client.logs(box) if e["data"] == "four"],
                        what="the line of the new start")
        self.assertGreater(seen[0], last)


class StoreTest(SystemCase):
    """The database goes away while a request with an Idempotency-Key is recorded."""

    def setUp(self):
        postgres = parts.PrivatePostgres()
        self.addCleanup(postgres.remove)
        postgres.start()
        self.proxy = parts.Proxy(postgres.folder / ".s.PGSQL.5432", ".s.PGSQL.5432")
        self.addCleanup(self.proxy.close)
        self.service = sandboxd.Service(database_url=postgres.url)
        self.addCleanup(self.service.close)
        self.addCleanup(self.proxy.set, "pass")
        url = self.service.url.replace(str(postgres.folder).replace("/", "%2F"),
                                       str(self.proxy.folder).replace("/", "%2F"))
        self.client = Client(self.service.start(env={"DATABASE_URL": url}), self.service.key())

    def away_at(self, statement):
        """From the moment on in which that statement is sent, nothing passes."""
        def seen(data):
            if statement + b"\0" not in data or data[:1] != b"B":
                return False
            self.proxy.mode = "reset"
            return True
        return seen

    def post(self, path, body, key):
        return self.client.post(path, body, headers={"Idempotency-Key": key}, timeout=SOON_S)

    def made(self, path, body):
        self.proxy.refuse = self.away_at(b"IDEMPOTENCY_DONE")
        first = self.post(path, body, "made")
        self.assertEqual((first.status, self.proxy.mode), (201, "reset"), first)
        self.proxy.refuse = None
        self.proxy.set("pass")
        wait_for(lambda: self.client.get("/ready").status == 200, what="readiness")
        again = self.post(path, body, "made")
        self.assertEqual((again.status, again.json["id"]), (201, first.json["id"]), again)

    def test_the_answer_to_a_create_is_recorded_when_it_is_back(self):
        self.made("/sandboxes", {"template": "box"})

    def test_the_answer_to_what_may_be_run_again_is_recorded_when_it_is_back(self):
        self.made("/groups", {"name": "g"})

    def claimed(self, path, body):
        self.proxy.cut_answer = self.away_at(b"IDEMPOTENCY_CLAIM")
        self.assertIn(self.post(path, body, "claimed").status, (503, 504))
        self.proxy.cut_answer = None
        self.proxy.set("pass")
        wait_for(lambda: self.post(path, body, "claimed").status == 201, 60, "the repetition")

    def test_a_claim_whose_answer_was_lost_holds_up_no_repetition(self):
        self.claimed("/groups", {"name": "g"})


if __name__ == "__main__":
    unittest.main()
