"""What is ended because nobody uses it, or because nothing happens: terminals, bridges, requests about
files; and everything that goes through a bridge, with limits of seconds."""
import contextlib
import http.client
import io
import socket
import tarfile
import unittest

import sandboxd
from sandboxd import Client, SystemCase, wait_for
from terminal_test import Terminal

service = a = b = None
IDLE_S = 2


def setUpModule():
    global service, a, b
    if not sandboxd.REDIS_URL:
        raise AssertionError("SBX_TEST_REDIS_URL is not set: run tests/run")
    service = sandboxd.Service(env={"REDIS_URL": sandboxd.REDIS_URL, "SBX_TERMINAL_IDLE": IDLE_S,
                                    "SBX_BRIDGE_IDLE": 1, "SBX_FILES_STALL": 2})
    unittest.addModuleCleanup(service.close)
    a = Client(service.start(), service.key())
    b = Client(service.start(), a.key)


def state(client, box, exec_id):
    return client.get(f"/sandboxes/{box}/execs/{exec_id}").json


def bridges(box):
    """How many programs carry bytes between a worker and the agent of a sandbox."""
    told = service.engine.call("GET", f"/containers/sbx-{box}/top")
    return sum("sbx-agent connect" in " ".join(process) for process in told["Processes"])


def on(box, path, route="", **query):
    query = "&".join(f"{k}={v}" for k, v in {"path": path, **query}.items())
    return f"/sandboxes/{box}/files{route}?{query}"


class TerminalTest(SystemCase):
    def test_one_that_nobody_views_is_ended_and_a_viewer_on_any_worker_keeps_it(self):
        box = a.create()["id"]
        with Terminal(sandbox=box, client=a) as left:
            left.type(b"echo re''ady\n")
            left.until_text(rb"ready")
        with Terminal("?command=" + "trap+''+HUP;echo+ready;while+:;do+sleep+0.1;done", box, a) as deaf:
            deaf.until_text(rb"ready")
        with Terminal(sandbox=box, client=b, timeout=40) as viewed:  # through a bridge
            viewed.type(b"echo re''ady\n")
            viewed.until_text(rb"ready")
            end = wait_for(lambda: (lambda x: x if x["state"] != "running" else None)(
                state(a, box, left.id)), 10, "the end of the one that was left")
            self.assertEqual((end["signal"], end["error"]), ("HUP", None))
            self.assertGreater(end["durationMs"], IDLE_S * 1000 - 100)
            end = wait_for(lambda: (lambda x: x if x["state"] != "running" else None)(
                state(a, box, deaf.id)), 15, "the end of the one that does not listen")
            self.assertEqual((end["signal"], end["exitCode"]), ("KILL", 137))
            self.assertGreater(end["durationMs"], 2 * IDLE_S * 1000)
            viewed.type(b"echo still$((1+1))\n")  # alone for longer than any of them
            viewed.until_text(rb"still2")
            self.assertEqual(state(a, box, viewed.id)["state"], "running")
        wait_for(lambda: state(a, box, viewed.id)["state"] == "finished", 10, "its end")


class BridgeTest(SystemCase):
    def setUp(self):
        self.box = a.create()["id"]

    def test_files_go_through_a_bridge(self):
        content = bytes(range(256)) * 12000
        self.assertEqual(b.call("PUT", on(self.box, "/tmp/x"), content,
                                {"Content-Type": "application/octet-stream"}).status, 201)
        for client in (a, b):
            self.assertEqual(client.get(on(self.box, "/tmp/x")).body, content)
        self.assertEqual(b.get(on(self.box, "/tmp/x"), headers={"Range": "bytes=5-9"}).body,
                         content[5:10])
        got = b.post(f"/sandboxes/{self.box}/files/batch", {"files": {"/tmp/d/one": "1"}})
        self.assertEqual(got.status, 200, got)
        packed = b.get(on(self.box, "/tmp/d", "/archive"))
        self.assertEqual(b.call("PUT", on(self.box, "/tmp/again", "/archive"), packed.body,
                                {"Content-Type": "application/gzip"}).status, 200)
        with tarfile.open(fileobj=io.BytesIO(a.get(on(self.box, "/tmp/again", "/archive")).body)) as t:
            self.assertTrue(any(name.endswith("one") for name in t.getnames()))
        with b.stream("GET", on(self.box, "/tmp/d", "/watch")) as stream:
            events = stream.events()
            a.call("PUT", on(self.box, "/tmp/d/two"), b"2")
            self.assertTrue(any(e.get("path", "").endswith("two") for _, e in events))
        self.assert_problem(b.get(on(self.box, "/tmp/none")), 404, "not_found", "path")

    def test_a_terminal_goes_through_a_bridge_and_is_seen_on_both_workers(self):
        with Terminal("?cols=81&rows=25", self.box, b) as here:
            here.type(b"stty size; x=1\n")
            here.until_text(rb"25 81")
            with Terminal(f"?execId={here.id}", self.box, a) as there:
                there.type(b"echo x=$x\n")
                for one in (here, there):
                    one.until_text(rb"x=1\r")
            here.say(type="resize", cols=70, rows=20)
            here.type(b"stty size; exit 4\n")
            here.until_text(rb"20 70")
            self.assertEqual(here.until_control("exit")["exitCode"], 4)

    def test_one_that_is_not_used_is_closed_and_one_that_waits_is_not(self):
        self.assertEqual(bridges(self.box), 0)
        self.assertEqual(b.exec(self.box, "sleep 3; echo late")["stdout"], "late\n")
        self.assertEqual(bridges(self.box), 1)
        wait_for(lambda: bridges(self.box) == 0, 10, "its end")
        self.assertEqual(b.exec(self.box, "echo again")["stdout"], "again\n")

    def test_one_is_made_anew_when_the_container_was_started_again(self):
        self.assertEqual(b.exec(self.box, "echo first; touch /tmp/kept")["stdout"], "first\n")
        a.move(self.box, "restart")
        self.assertEqual(b.exec(self.box, "ls /tmp/kept")["stdout"], "/tmp/kept\n")
        service.engine.call("POST", f"/containers/sbx-{self.box}/kill")
        wait_for(lambda: b.state(self.box) == "failed", 10, "the failure")
        self.assert_problem(b.post(f"/sandboxes/{self.box}/exec", {"command": "true"}), 409,
                            "conflict")
        a.move(self.box, "start")
        self.assertEqual(b.exec(self.box, "echo third")["stdout"], "third\n")


class StallTest(SystemCase):
    def test_a_tool_that_hangs_is_given_up_and_leaves_nothing(self):
        box = a.create()["id"]
        script = ("for p in /proc/[0-9]*; do [ \"$(cat $p/comm)\" = sbx-files ] && kill -STOP "
                  "${p#/proc/} && echo stopped; done 2>/dev/null; true")
        head = (f"PUT {on(box, '/tmp/hung')} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {a.key}\r\n"
                "Content-Length: 20\r\n\r\n").encode()
        with contextlib.closing(socket.create_connection(("127.0.0.1", a.server.port), 30)) as sock:
            sock.sendall(head + b"0123456789")
            wait_for(lambda: "stopped" in a.exec(box, script)["stdout"], what="the tool")
            sock.sendall(b"0123456789")
            response = http.client.HTTPResponse(sock, method="PUT")
            response.begin()
            got = sandboxd.Answer(response.status, response.headers, response.read())
        told = self.assert_problem(got, 504, "timeout")
        self.assertIn("2 s", told["detail"])
        self.assertEqual(a.get(on(box, "/tmp/hung")).status, 404)
        wait_for(lambda: a.exec(box, "ls -A /tmp; ps | grep '[s]bx-files'")["stdout"] == "", 10,
                 "the end of the tool")


if __name__ == "__main__":
    unittest.main()
