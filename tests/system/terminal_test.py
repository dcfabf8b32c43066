"""Terminals over WebSocket, in sandboxes of the real engine."""
import contextlib
import hashlib
import json
import re
import struct
import time
import unittest

import sandboxd
from sandboxd import Client, SystemCase, wait_for

QUICK = True

service = api = box = None


def setUpModule():
    global service, api, box
    service, api = sandboxd.module_service()
    box = api.create()["id"]


class Terminal:
    """A viewer: what it has seen on the screen, and the control frames."""

    def __init__(self, query="", sandbox=None, client=None, timeout=20):
        client = client or api
        path = f"/sandboxes/{sandbox or box}/terminal{query}"
        self.ws = sandboxd.WebSocket(client.server.port, path, client.headers(), timeout)
        self.screen, self.control, self.closed = b"", [], False
        if self.ws.status == 101:
            self.until_control("started")
            self.id = self.control[0]["execId"]

    def frame(self):
        """Takes one frame."""
        file = self.ws.file
        head = file.read(2)
        if len(head) < 2:
            self.closed = True
            return
        opcode, length = head[0] & 15, head[1] & 127
        if length == 126:
            length = struct.unpack(">H", file.read(2))[0]
        elif length == 127:
            length = struct.unpack(">Q", file.read(8))[0]
        payload = file.read(length)
        if opcode == 8:
            self.closed, self.ws.close_code = True, struct.unpack(">H", payload[:2])[0]
        elif opcode == 9:
            self.ws.send(10, payload)
        elif opcode == 2:
            self.screen += payload
        elif opcode == 1:
            self.control.append(json.loads(payload))

    def until(self, check, what):
        while not check():
            if self.closed:
                raise AssertionError(f"closed before {what}: {self.screen[-500:]!r} {self.control}")
            self.frame()

    def until_control(self, kind):
        self.until(lambda: any(c["type"] == kind for c in self.control), kind)
        return [c for c in self.control if c["type"] == kind][-1]

    def until_text(self, pattern):
        self.until(lambda: re.search(pattern, self.screen), pattern)
        return re.search(pattern, self.screen)

    def type(self, text):
        for at in range(0, len(text), 100):
            self.ws.send(2, text[at:at + 100])

    def say(self, **control):
        self.ws.send(1, json.dumps(control).encode())

    def close(self):
        self.ws.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def state(exec_id, sandbox=None):
    return api.get(f"/sandboxes/{sandbox or box}/execs/{exec_id}").json


class TerminalTest(SystemCase):
    def test_a_shell_has_a_terminal_of_the_size_that_was_asked_for(self):
        with Terminal("?cols=101&rows=33") as t:
            t.type(b"stty size; tty; echo $TERM; echo id=$(id -u)\n")
            t.until_text(rb"33 101\r\n/dev/pts/\d+\r\nxterm-256color\r\nid=1000")
            t.say(type="resize", cols=77, rows=22)
            t.type(b"stty size\n")
            t.until_text(rb"22 77")
            told = state(t.id)
            self.assertEqual((told["state"], told["terminal"]), ("running", True))
            t.type(b"exit 5\n")
            self.assertEqual(t.until_control("exit"), {"type": "exit", "exitCode": 5, "signal": None})
            t.until(lambda: t.closed, "the close")
            self.assertEqual(t.ws.close_code, 1000)

    def test_a_command_of_its_own_and_keys_that_are_signals(self):
        with Terminal("?command=" + "trap+'echo+INT;exit+3'+INT;echo+ready;while+:;do+sleep+0.1;done") as t:
            t.until_text(rb"ready")
            t.type(b"\x03")
            self.assertEqual(t.until_control("exit")["exitCode"], 3)
            self.assertIn(b"INT", t.screen)

    def test_a_terminal_is_joined_again_with_its_last_output(self):
        with Terminal() as t:
            t.type(b"x=kept; echo begin$((1+1))\n")
            t.until_text(rb"begin2")
            one = t.id
        self.assertEqual(state(one)["state"], "running")
        with Terminal(f"?execId={one}&cols=90&rows=20") as t:
            self.assertEqual(t.id, one)
            t.until_text(rb"begin2")
            t.type(b"echo $x-$((2+3)); stty size\n")
            t.until_text(rb"kept-5\r\n20 90")
            with Terminal(f"?execId={one}") as second:
                second.until_text(rb"kept-5")
                second.type(b"echo both$((4+4))\n")
                second.until_text(rb"both8\r")
                t.until_text(rb"both8\r")
            t.type(b"echo still$((1+2))\n")
            t.until_text(rb"still3\r")
        self.assertEqual(api.delete(f"/sandboxes/{box}/execs/{one}").status, 204)
        wait_for(lambda: state(one)["state"] == "finished", what="its end")
        with Terminal(f"?execId={one}") as t:  # over, and what it said last can be seen
            t.until_control("exit")
            self.assertIn(b"still3", t.screen)

    def test_much_output_is_joined_at_its_end(self):
        with Terminal("?command=" + "head+-c+3000000+/dev/zero|tr+'\\0'+x;echo+END;sleep+100") as t:
            t.until_text(rb"END")
            self.assertGreaterEqual(t.screen.count(b"x"), 3000000)
            with Terminal(f"?execId={t.id}") as late:
                late.until_text(rb"END")
                self.assertLessEqual(len(late.screen), 66000)
                self.assertGreater(len(late.screen), 60000)
            api.delete(f"/sandboxes/{box}/execs/{t.id}")
            self.assertEqual(t.until_control("exit")["signal"], "KILL")

    def test_a_viewer_that_does_not_read_skips_and_slows_nobody(self):
        before = api.server.rss_kb()
        command = "read+x;i=0;while+[+$i+-lt+40+];do+head+-c+1048576+/dev/zero|tr+'\\0'+y;i=$((i%2B1));done;echo+END;sleep+100"
        with Terminal(f"?command={command}") as slow, Terminal(f"?execId={slow.id}", timeout=60) as quick:
            began = time.monotonic()
            quick.type(b"go\n")
            quick.until(lambda: b"END" in quick.screen[-20:], "the end")
            self.assertLess(time.monotonic() - began, 30)
            self.assertLess(api.server.rss_kb() - before, 40 * 1024)
            slow.until(lambda: b"END" in slow.screen[-20:], "the end")
            self.assertIn({"type": "gap"}, slow.control)
            self.assertLess(len(slow.screen), 30 << 20)
            api.delete(f"/sandboxes/{box}/execs/{slow.id}")

    def test_a_paste_arrives_whole(self):
        with Terminal("?command=" + "stty+raw+-echo;echo+ready;head+-c+100000|md5sum") as t:
            t.until_text(rb"ready")
            t.type(b"0123456789" * 10000)
            t.until_text(rb"[0-9a-f]{32}")
            self.assertIn(hashlib.md5(b"0123456789" * 10000).hexdigest().encode(), t.screen)
            t.until_control("exit")

    def test_wrong_control_frames_are_told_and_harm_nothing(self):
        with Terminal() as t:
            for frame in (b'{"type":"nope"}', b"{", b'{"type":"resize","cols":0,"rows":5}',
                          b'{"type":"resize"}', b'{"type":"resize","cols":5,"rows":5,"x":1}'):
                t.control.clear()
                t.ws.send(1, frame)
                told = t.until_control("error")
                self.assertEqual(told["code"], "invalid_request")
                self.assertTrue(told["message"])
            t.type(b"exit\n")
            t.until_control("exit")

    def test_what_cannot_be_is_refused_before_the_upgrade(self):
        plain = api.exec(box, "true")["execId"]
        for query, status, code in (("?cols=0", 400, "invalid_request"),
                                    ("?rows=1001", 400, "invalid_request"),
                                    ("?execId=x", 400, "invalid_request"),
                                    ("?execId=" + "a" * 20, 404, "not_found"),
                                    (f"?execId={plain}", 409, "conflict"),
                                    (f"?execId={plain}&command=x", 400, "invalid_request")):
            with self.subTest(query=query), contextlib.closing(Terminal(query)) as t:
                self.assertEqual(t.ws.status, status)
                self.assertEqual(json.loads(t.ws.file.read(int(t.ws.headers["Content-Length"])))["code"], code)
        self.assert_problem(api.get(f"/sandboxes/{box}/terminal"), 400, "invalid_request")
        other = Client(api.server, service.key("bob"))
        with contextlib.closing(Terminal(client=other)) as t:
            self.assertEqual(t.ws.status, 404)

    def test_a_paused_sandbox_is_resumed(self):
        mine = api.create()["id"]
        with Terminal(sandbox=mine) as t:
            one = t.id
            t.type(b"x=there\n")
            t.until_text(rb"there")
        api.move(mine, "pause")
        with Terminal(f"?execId={one}", sandbox=mine) as t:
            t.type(b"echo $x$((3+4))\n")
            t.until_text(rb"there7")
            self.assertEqual(api.delete(f"/sandboxes/{mine}").status, 204)
            t.until(lambda: t.closed, "the close")

    def test_keys_come_back_at_once(self):
        with Terminal("?command=cat") as t:
            times = []
            for i in range(200):
                seen = len(t.screen)
                began = time.monotonic()
                t.type(b"k")
                t.until(lambda s=seen: len(t.screen) > s, "the echo")
                times.append(time.monotonic() - began)
            times.sort()
            print(f"key echo p50 {times[100] * 1000:.2f} ms, p99 {times[197] * 1000:.2f} ms")
            t.type(b"\x03")
            t.until_control("exit")


if __name__ == "__main__":
    unittest.main()
