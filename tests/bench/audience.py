"""Many viewers of logs in one process of their own, who read and check what they get.

Reads one line of JSON: {"url", "request", "position", "count", "source", "last", "stuck"}. Opens
`count` WebSockets from the address `source`, which begin behind `position` (null: anywhere), prints "ready", and reads until its standard input ends; if
they are `stuck`, only from a line on its standard input on. A line of the log may be "NUMBER", or
"NUMBER SECONDS" as printer() makes them: the time at which it was written. When every viewer has had
the line whose number is `last`, it prints "finished". In the end it prints what it saw, as JSON: see
Audience.told().

The same frame goes to many viewers, so it is decoded once: what a viewer costs here is a read and a
look into a dictionary, and a thousand of them can share a processor with what is measured.
"""

import json
import math
import select
import socket
import sys
import time
import urllib.parse

AT_ONCE = 200  # connections under way: the server's backlog is finite
PONG = bytes([0x8A, 0x80, 0, 0, 0, 0])  # masked with zeros, empty
HEADS = {126: 4, 127: 10}


def printer(lines, pause_s=0.0048):
    """A shell's program that prints so many lines, numbered from 1, with the time."""
    return ["sh", "-c", "mkfifo /tmp/never; exec 3<>/tmp/never; until [ -e /tmp/go ]; do"
            " read -t 0.01 x <&3; done; i=0; while [ $i -lt " + str(lines) + " ]; do i=$((i+1));"
            f" echo $i $EPOCHREALTIME; read -t {pause_s} x <&3; done; read x <&3"]


class Frame:
    """What a text frame says; `arrivals`: when each of its viewers got it."""

    def __init__(self, payload):
        told = json.loads(payload)
        self.kind, self.arrivals, self.stamps = told["type"], [], []
        self.offsets = set()
        self.first, self.last, self.holes, self.number, self.count = 0, 0, 0, 0, 0
        if self.kind == "gap":
            self.first, self.last = told["from"], told["to"]
        elif self.kind == "logs":
            self.entries(told["entries"])

    def entries(self, entries):
        self.first, self.last, self.count = entries[0]["seq"], entries[-1]["seq"], len(entries)
        self.holes = self.last - self.first + 1 - len(entries)
        for entry in entries:
            words = entry["data"].split(" ")
            if not words[0].isdigit() or len(words) > 2:
                continue
            self.number = int(words[0])
            self.offsets.add(entry["seq"] - self.number)
            if len(words) == 2:
                self.stamps.append(float(words[1]))


class Viewer:
    __slots__ = ("sock", "data", "settled", "position", "finished")

    def __init__(self, sock, position):
        self.sock, self.data, self.settled = sock, b"", False
        self.position, self.finished = position, False

    def frames(self):
        """Yields (opcode, payload) of whole frames; False at the front when it was closed."""
        more = self.sock.recv(1 << 20)
        if not more:
            yield 8, b""
            return
        data = self.data + more if self.data else more
        at = 0
        if not self.settled:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self.data = data
                return
            if b" 101 " not in data.split(b"\r\n", 1)[0]:
                raise SystemExit(f"no upgrade: {data[:300]!r}")
            self.settled, at = True, end + 4
        while len(data) - at >= 2:
            size = data[at + 1] & 127
            head = HEADS.get(size, 2)
            if head > 2:
                size = int.from_bytes(data[at + 2:at + head], "big")
            if len(data) - at < head + size:
                break
            yield data[at] & 15, data[at + head:at + head + size]
            at += head + size
        self.data = data[at:]


class Audience:
    def __init__(self, order):
        url = urllib.parse.urlsplit(order["url"])
        self.address, self.source = (url.hostname, url.port), order.get("source")
        self.request, self.last = order["request"].encode(), order.get("last")
        self.stuck, self.position = order.get("stuck", False), order.get("position")
        self.poll, self.viewers, self.seen, self.offsets = select.epoll(), {}, {}, set()
        self.finished = self.lost = self.repeated = self.closed = self.unsettled = 0
        self.gaps = self.missing = self.inexact = self.lines = 0
        for _ in range(order["count"]):
            self.add()
            while self.unsettled >= AT_ONCE:
                self.turn()
        while self.unsettled:
            self.turn()

    def add(self):
        sock = socket.socket()
        sock.settimeout(60)
        if self.stuck:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        if self.source:
            sock.bind((self.source, 0))
        sock.connect(self.address)
        sock.sendall(self.request)
        self.viewers[sock.fileno()] = Viewer(sock, self.position)
        self.poll.register(sock, select.EPOLLIN)
        self.unsettled += 1

    def leave(self, number):
        self.poll.unregister(number)
        self.viewers.pop(number).sock.close()
        self.closed += 1

    def take(self, viewer, payload):
        frame = self.seen.get(payload)
        if not frame:
            frame = self.seen[payload] = Frame(payload)
            self.offsets |= frame.offsets
        if frame.kind not in ("logs", "gap"):
            return
        if viewer.position is not None:
            step = frame.first - viewer.position - 1
            if frame.kind == "gap":
                self.inexact += step != 0
            self.lost += max(step, 0)
            self.repeated += step < 0
        viewer.position = frame.last
        if frame.kind == "gap":
            self.gaps += 1
            self.missing += frame.last - frame.first + 1
            return
        self.lost += frame.holes
        self.lines += frame.count
        frame.arrivals.append(time.time())
        if self.last and frame.number >= self.last and not viewer.finished:
            viewer.finished = True
            self.finished += 1

    def turn(self, stdin=None):
        """Handles what has come; False when `stdin` has ended."""
        for number, _ in self.poll.poll(60):
            if number == stdin:
                return False
            viewer = self.viewers[number]
            was = viewer.settled
            for opcode, payload in viewer.frames():
                if opcode == 1:
                    self.take(viewer, payload)
                elif opcode == 9:
                    viewer.sock.sendall(PONG)
                elif opcode == 8:
                    self.leave(number)
                    break
            self.unsettled -= viewer.settled and not was
        return True

    def stay(self):
        stdin, everybody = sys.stdin.fileno(), len(self.viewers)
        self.poll.register(stdin, select.EPOLLIN | select.EPOLLHUP)
        told = False
        while self.turn(stdin):
            if self.finished == everybody and not told:
                told = True
                print("finished", flush=True)

    def delays(self):
        """{milliseconds: how many lines took so long to a viewer}, rounded up."""
        counts = {}
        for frame in self.seen.values():
            for stamp in frame.stamps:
                for arrival in frame.arrivals:
                    delay = max(0, math.ceil((arrival - stamp) * 1000))
                    counts[delay] = counts.get(delay, 0) + 1
        return counts

    def told(self):
        """`lines`: received by all together; `lost`: not received and not announced; `missing`:
        announced by `gaps` messages, of which `inexact` did not begin behind what was had;
        `offsets`: differences of the numbers of entries and those in their lines."""
        return {"lines": self.lines, "lost": self.lost, "repeated": self.repeated,
                "gaps": self.gaps, "missing": self.missing, "inexact": self.inexact,
                "closed": self.closed, "finished": self.finished, "frames": len(self.seen),
                "offsets": sorted(self.offsets), "delays": sorted(self.delays().items())}


def main():
    audience = Audience(json.loads(sys.stdin.readline()))
    print("ready", flush=True)
    if not audience.stuck or sys.stdin.readline():
        audience.stay()
    print(json.dumps(audience.told()), flush=True)


if __name__ == "__main__":
    main()
