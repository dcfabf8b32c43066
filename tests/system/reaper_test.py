"""What the reaper and the reconciler do with what ended, got lost or was interrupted."""
import datetime
import fcntl
import os
import pathlib
import secrets
import signal
import struct
import termios
import threading
import time
import unittest

import sandboxd
from sandboxd import SystemCase, all_at_once, engine, wait_for

TIMEOUT_S = 400

QUICK_SWEEPS = {"SBX_SWEEP_SECONDS": 1, "SBX_ORPHAN_GRACE": 1}
service = api = None


def setUpModule():
    global service, api
    service, api = sandboxd.module_service(env=QUICK_SWEEPS)


def bare_container(labels, name=None, start=False):
    """A container that looks like one of a sandbox and was not made by a server."""
    got = engine.call("POST", "/containers/create", {"name": name} if name else None, json_body={
        "Image": sandboxd.box_image(), "Cmd": ["sleep", "1000"], "Labels": labels,
        "HostConfig": {"NetworkMode": "none"}})
    if start:
        engine.call("POST", f"/containers/{got['Id']}/start")
    return got["Id"]


def unread(agent):
    """The bytes that wait in the pipes of the agent, whose process on this machine is given."""
    waiting = 0
    for fd in pathlib.Path(f"/proc/{agent}/fd").iterdir():
        if os.readlink(fd).startswith("pipe:"):
            pipe = os.open(fd, os.O_RDONLY | os.O_NONBLOCK)
            waiting += struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0]
            os.close(pipe)
    return waiting


def exists(container):
    try:
        return bool(engine.call("GET", f"/containers/{container}/json"))
    except sandboxd.EngineError as error:
        if error.status != 404:
            raise
        return False


def random_id():
    return "x" + secrets.token_hex(10)[:19]


class LifetimeTest(SystemCase):
    def test_an_expired_sandbox_is_deleted_within_5_s_of_its_time(self):
        boxes = [api.create(timeoutSeconds=2) for _ in range(3)]
        for box in boxes:
            expires = datetime.datetime.fromisoformat(box["expiresAt"].replace("Z", "+00:00"))
            wait_for(lambda b=box: api.state(b["id"]) == "deleted", 20, "state deleted", 0.1)
            self.assertLess(time.time() - expires.timestamp(), 5)
            told = api.sandbox(box["id"])
            self.assertEqual(told["stateReason"]["code"], "expired")
            self.assertFalse(service.container_exists(box["id"]))

    def test_an_idle_sandbox_is_deleted(self):
        box = api.create(idleTimeoutSeconds=2, onIdle="delete")["id"]
        wait_for(lambda: api.state(box) == "deleted", 15, "state deleted", 0.1)
        self.assertEqual(api.sandbox(box)["stateReason"]["code"], "idle")

    def test_commands_keep_a_sandbox_alive_and_reads_do_not(self):
        box, busy = (api.create(idleTimeoutSeconds=2, onIdle="delete")["id"] for _ in range(2))
        got = []
        runner = threading.Thread(target=lambda: got.append(api.exec(busy, "sleep 7; echo done")))
        runner.start()
        began = time.monotonic()
        while api.state(box) not in ("deleting", "deleted"):
            api.logs(box)
            self.assertLess(time.monotonic() - began, 15)
            time.sleep(0.1)
        runner.join(30)
        self.assertEqual(got[0]["stdout"], "done\n")
        wait_for(lambda: api.state(busy) == "deleted", 15, "state deleted", 0.1)


class LossTest(SystemCase):
    def assert_fails(self, box, seconds=10):
        wait_for(lambda: api.state(box) == "failed", seconds, "state failed", 0.05)
        reason = api.sandbox(box)["stateReason"]
        self.assertTrue(reason["code"])
        self.assertTrue(reason["message"])
        self.assert_problem(api.post(f"/sandboxes/{box}/exec", {"command": "true"}), 409,
                            "conflict")
        wait_for(lambda: not service.container_exists(box), what="the container's end")
        self.assertEqual(api.delete(f"/sandboxes/{box}").status, 204)
        return reason

    def test_a_container_removed_behind_its_back_fails_the_sandbox_with_a_reason(self):
        box = api.create()["id"]
        with api.exec_stream(box, ["sleep", "100"]) as stream:
            events = stream.events()
            next(events)
            service.remove_container(box)
            last = list(events)[-1][1]
        self.assertEqual(last["type"], "error", last)
        reason = self.assert_fails(box)
        self.assertEqual(reason["code"], "container_lost")

    def test_a_container_killed_behind_its_back_fails_the_sandbox_with_its_exit_code(self):
        box = api.create()["id"]
        engine.call("POST", f"/containers/sbx-{box}/kill", {"signal": "KILL"})
        reason = self.assert_fails(box)
        self.assertEqual((reason["exitCode"], reason["signal"]), (137, "KILL"))

    def test_a_waiting_command_is_answered_when_its_container_dies(self):
        box = api.create()["id"]
        got = []
        runner = threading.Thread(target=lambda: got.append(
            api.post(f"/sandboxes/{box}/exec", {"command": "echo >/tmp/on; sleep 100"})))
        runner.start()
        wait_for(lambda: api.exec(box, "test -e /tmp/on")["exitCode"] == 0, what="the command")
        engine.call("POST", f"/containers/sbx-{box}/kill")
        runner.join(15)
        self.assertFalse(runner.is_alive())
        self.assert_problem(got[0], 502, "engine_error")
        self.assert_fails(box)

    def test_a_command_whose_start_was_never_told_is_not_called_a_lack_of_capacity(self):
        box = api.create()["id"]
        agent = service.inspect(box)["State"]["Pid"]
        os.kill(agent, signal.SIGSTOP)
        command = "true #" + "x" * 4096
        got = []
        runner = threading.Thread(target=lambda: got.append(
            api.post(f"/sandboxes/{box}/exec", {"command": command})))
        runner.start()
        wait_for(lambda: unread(agent) > len(command), what="the command in the agent's pipe")
        engine.call("POST", f"/containers/sbx-{box}/kill")
        runner.join(15)
        self.assertFalse(runner.is_alive())
        self.assert_problem(got[0], 502, "engine_error")
        self.assertIn("unknown", got[0].json["detail"])
        self.assert_fails(box)

    def test_a_container_stopped_by_the_engine_is_told(self):
        box = api.create()["id"]
        engine.call("POST", f"/containers/sbx-{box}/stop", {"t": "0"})
        self.assert_fails(box)


class OrphanTest(SystemCase):
    def test_a_container_without_a_row_is_removed_after_the_grace(self):
        name = random_id()
        orphan = bare_container({"sandboxd.id": name, "sandboxd.cluster": service.cluster},
                                f"sbx-{name}", start=True)
        wait_for(lambda: not exists(orphan), 15, "the orphan's end", 0.1)

    def test_containers_of_others_are_left_alone(self):
        foreign = [bare_container({"sandboxd.id": random_id(), "sandboxd.cluster": "c" + "0" * 19}),
                   bare_container({"sandboxd.id": random_id()}),
                   bare_container({"app": "unrelated"})]
        for container in foreign:
            self.addCleanup(engine.remove_container, container)
        name = random_id()
        orphan = bare_container({"sandboxd.id": name, "sandboxd.cluster": service.cluster})
        wait_for(lambda: not exists(orphan), 15, "the orphan's end", 0.1)
        time.sleep(2.1)  # what must not happen has no condition: two more sweeps
        self.assertEqual([exists(c) for c in foreign], [True] * 3)

    def test_a_sweep_that_would_remove_too_many_refuses_and_says_so(self):
        other = sandboxd.Service(env=QUICK_SWEEPS)
        self.addCleanup(other.close)
        orphans = [bare_container({"sandboxd.id": random_id(), "sandboxd.cluster": other.cluster})
                   for _ in range(11)]
        try:
            time.sleep(1.1)  # all of them are over the grace before the first sweep
            server = other.start()
            wait_for(lambda: "sweep refused" in server.log_text(), 15, "the refusal", 0.1)
            refusal = [line for line in server.log() if line["msg"].startswith("sweep refused")][0]
            self.assertEqual((refusal["level"], refusal["orphans"]), ("error", "11"))
            self.assertTrue(all(exists(c) for c in orphans))
            self.assertIn('sandboxd_reaped_total{reason="refused"}',
                          sandboxd.Client(server).get("/metrics").body.decode())
            engine.remove_container(orphans[0])
            wait_for(lambda: not any(exists(c) for c in orphans), 30, "the end of ten", 0.2)
        finally:
            for container in orphans:
                engine.remove_container(container)


class LeftOverTest(SystemCase):
    def test_containers_of_many_failed_sandboxes_are_removed(self):
        """They counted as containers without a row, and a sweep refuses to remove many of those."""
        other = sandboxd.Service(env=QUICK_SWEEPS)
        self.addCleanup(other.close)
        server = other.start()
        client = sandboxd.Client(server, other.key())
        boxes = [b["id"] for b in all_at_once(lambda _: client.create(), range(12), 6)]
        server.kill()
        other.psql("UPDATE sandboxes SET state = 'failed', worker = NULL,"
                   " state_changed_at = now() - interval '1 minute'")
        server = other.start()
        wait_for(lambda: not any(other.container_exists(b) for b in boxes), 30, "their end", 0.2)
        self.assertNotIn("sweep refused", server.log_text())


class RestartTest(SystemCase):
    def setUp(self):
        self.service = sandboxd.Service(env=QUICK_SWEEPS)
        self.addCleanup(self.service.close)
        self.server = self.service.start()
        self.api = sandboxd.Client(self.server, self.service.key())

    def again(self):
        self.server = self.service.start()
        self.api = sandboxd.Client(self.server, self.api.key)

    def lines(self, box):
        return [(e["seq"], e["data"]) for e in self.api.logs(box, "?limit=200")
                if e["source"] != "system"]

    def test_running_sandboxes_survive_a_restart(self):
        box = self.api.create(command="i=0; while true; do i=$((i+1)); echo n$i; sleep 0.1; done",
                              env={"KEPT": "yes"})["id"]
        wait_for(lambda: len(self.lines(box)) > 3, what="lines")
        before = self.lines(box)
        self.assertEqual(self.server.stop(), 0)
        self.assertTrue(self.service.container_exists(box))
        self.again()
        self.assertEqual(self.api.exec(box, "echo $KEPT")["stdout"], "yes\n")
        self.assertEqual(self.api.state(box), "running")
        wait_for(lambda: len(self.lines(box)) > len(before) + 3, what="later lines")
        numbers = [seq for seq, _ in self.lines(box)]
        self.assertEqual(sorted(set(numbers)), numbers)
        self.assertGreater(numbers[-1], before[-1][0])
        later = dict(self.lines(box))
        for seq, data in before:
            self.assertEqual(later.get(seq, data), data)

    def test_running_sandboxes_survive_sigkill_and_their_commands_too(self):
        box = self.api.create()["id"]
        stream = self.api.exec_stream(box, "sleep 3; echo >/tmp/finished")
        stream.next()
        self.server.kill()
        self.again()
        wait_for(lambda: self.api.exec(box, "test -e /tmp/finished")["exitCode"] == 0,
                 what="the command's work")
        self.assertEqual(self.api.state(box), "running")

    def test_what_ended_while_no_server_ran_is_found_at_the_start(self):
        box, gone = self.api.create()["id"], self.api.create()["id"]
        self.server.kill()
        self.service.remove_container(gone)
        engine.call("POST", f"/containers/sbx-{box}/kill")
        self.again()
        for name, code in ((gone, "container_lost"), (box, "container_ended")):
            wait_for(lambda n=name: self.api.state(n) == "failed", 15, "state failed")
            self.assertEqual(self.api.sandbox(name)["stateReason"]["code"], code)

    def test_sigkill_amid_20_creates_leaves_nothing_stuck_or_leaked(self):
        ids = []

        def create(i):
            try:
                return self.api.post("/sandboxes", {"template": "box", "metadata": {"n": str(i)}})
            except OSError:
                return None
            except sandboxd.http.client.HTTPException:
                return None

        workers = threading.Thread(target=lambda: ids.extend(all_at_once(create, range(20))))
        workers.start()
        wait_for(lambda: int(self.service.psql(
            "SELECT count(*) FROM sandboxes WHERE state = 'running'")) >= 2, 30, "two sandboxes")
        self.server.signal(signal.SIGKILL)
        self.server.wait()
        workers.join(30)
        self.again()
        began = time.monotonic()
        done = ("running", "failed", "deleted")
        rows = wait_for(lambda: (lambda all_: all(s["state"] in done for s in all_) and all_)(
            self.api.every()), 15, "rows that are all settled", 0.2)
        print(f"settled {len(rows)} rows after {time.monotonic() - began:.1f} s")
        running = {s["id"] for s in rows if s["state"] == "running"}
        answered = {got.json["id"] for got in ids if got is not None and got.status == 201}
        self.assertLessEqual(answered, running)
        wait_for(lambda: {c["Labels"]["sandboxd.id"] for c in self.service.containers()} == running,
                 15, "containers of the running ones alone", 0.2)
        for box in running:
            self.assertEqual(self.api.exec(box, "echo up")["stdout"], "up\n")
        for row in rows:
            if row["state"] == "failed":
                self.assertTrue(row["stateReason"]["message"], row)

    def test_sigkill_amid_deletes_finishes_them(self):
        boxes = [self.api.create()["id"] for _ in range(6)]

        def delete(box):
            try:
                return self.api.delete(f"/sandboxes/{box}").status
            except (OSError, sandboxd.http.client.HTTPException):
                return None

        workers = threading.Thread(target=lambda: all_at_once(delete, boxes))
        workers.start()
        wait_for(lambda: int(self.service.psql(
            "SELECT count(*) FROM sandboxes WHERE state IN ('deleting', 'deleted')")) >= 3, 30,
                 "deletes")
        self.server.kill()
        workers.join(30)
        touched = self.service.psql("SELECT id FROM sandboxes WHERE state = 'deleting'").split()
        self.again()
        for box in touched:
            wait_for(lambda b=box: self.api.state(b) == "deleted", 20, "state deleted", 0.1)
            self.assertFalse(self.service.container_exists(box))


if __name__ == "__main__":
    unittest.main()
