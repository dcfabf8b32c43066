"""Measurements with many who wait: commands, viewers. See measure.py, which lists them.

The waiting clients live in a process of their own (crowd.py), and the same request is measured
without them before and after, in the same run.
"""

import json
import pathlib
import subprocess
import sys

from lab import at_once, wait_for
from measure import Row, wrk
from wire import request

CROWD = pathlib.Path(__file__).with_name("crowd.py")


def viewer(lab, sandbox, begin="tail=0"):
    """The request of a WebSocket that watches a log, from now on unless told otherwise."""
    return request("GET", f"/sandboxes/{sandbox}/logs?{begin}", None, {
        **lab.auth, "Upgrade": "websocket", "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}).decode()


def sleeper(lab, sandbox):
    """The request of a command that waits."""
    return request("POST", f"/sandboxes/{sandbox}/exec", {"command": ["sleep", "60"]},
                   lab.auth).decode()


class Crowd:
    """Clients that wait, for as long as the block runs. `closed`: those that the server ended."""

    def __init__(self, lab, groups, worker=0):
        self.order = {"url": lab.workers[worker].url, "groups": groups}
        self.closed = 0

    def __enter__(self):
        self.process = subprocess.Popen([sys.executable, CROWD], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.process.stdin.write(json.dumps(self.order) + "\n")
        self.process.stdin.flush()
        if self.process.stdout.readline() != "ready\n":
            self.process.wait()
            raise RuntimeError("the crowd did not come together")
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.closed = int(self.process.stdout.readline() or -1)
        self.process.stdout.close()
        self.process.wait()


class Sandboxes:
    """Some sandboxes, for as long as the block runs."""

    def __init__(self, bench, count, lab=None, image=None):
        self.lab, self.image, self.count = lab or bench.lab, image or bench.image, count

    def __enter__(self):
        self.wire = self.lab.wire()
        self.ids = [self.lab.create(self.wire, self.image)["id"] for _ in range(self.count)]
        return self

    def __exit__(self, *_):
        wires = [self.lab.wire() for _ in range(self.count)]
        at_once(self.count, lambda i: self.lab.delete(wires[i], self.ids[i]))

    def groups(self, make, total, upgrade):
        return [{"request": make(self.lab, sandbox), "count": total // self.count,
                 "upgrade": upgrade} for sandbox in self.ids]

    def sleeping(self):
        """How many commands wait in them."""
        told = [self.lab.exec(self.wire, sandbox, "ps | grep -c '[s]leep 60$'")["stdout"]
                for sandbox in self.ids]
        return sum(int(n) for n in told)


def with_crowd(bench, boxes, groups, during):
    """wrk's (rate, p50, p99, failures) without a crowd, with it, the mean rate without it before
    and after, the number of its connections that were lost, and during(crowd)'s result."""
    lab, seconds = bench.lab, bench.count(8, 2)

    def measure():
        return wrk(f"{lab.url}/sandboxes/{boxes.ids[0]}", lab.auth, 64, seconds)
    wrk(f"{lab.url}/sandboxes/{boxes.ids[0]}", lab.auth, 64, 1)
    before = measure()
    idle = lab.rss_kb(), lab.threads()
    crowd = Crowd(lab, groups)
    with crowd:
        told = during(*idle)
        there = measure()
    after = measure()
    return before, there, (before[0] + after[0]) / 2, crowd.closed, told


def rate_row(name, there, base, least):
    return Row(f"{name}: rate of GET", 100 * there[0] / base, "%", least, at_least=True,
               note=f"{there[0]:,.0f}/s; without them {base:,.0f}/s")


def waiting(bench):
    """Commands and viewers that wait hold no thread and slow nobody down."""
    lab, execs, viewers = bench.lab, bench.count(500, 40), bench.count(1000, 100)
    with Sandboxes(bench, 20) as boxes:
        groups = boxes.groups(viewer, viewers, True) + boxes.groups(sleeper, execs, False)

        def during(_, threads):
            wait_for(lambda: boxes.sleeping() == execs, "all commands", step=0.5)
            return lab.threads() - threads
        before, there, base, closed, grown = with_crowd(bench, boxes, groups, during)
    name = f"{execs} execs, {viewers} viewers"
    return [
        rate_row(name, there, base, 80),
        Row(f"{name}: p99 of GET", there[2], "ms", 25, note=f"without them {before[2]:.1f} ms"),
        Row(f"{name}: failures", there[3] + closed, "", 0, note="of GET, or connections lost"),
        Row(f"{name}: threads more", grown, "", 0),
    ]


def watching(bench):
    """What a viewer costs who sees nothing happen."""
    viewers = bench.count(10000, 1000)
    with Sandboxes(bench, 20) as boxes:
        def during(rss, _):
            if bench.lab.descriptors() < viewers:
                raise RuntimeError(f"only {bench.lab.descriptors()} connections")
            return bench.lab.rss_kb() - rss
        groups = boxes.groups(viewer, viewers, True)
        before, there, base, closed, grown = with_crowd(bench, boxes, groups, during)
    name = f"{viewers} viewers"
    return [
        Row(f"{name}: memory each", grown / viewers, "KB", 8, note=f"{grown / 1024:.0f} MB more"),
        rate_row(name, there, base, 75),
        Row(f"{name}: p99 of GET", there[2], "ms", note=f"without them {before[2]:.1f} ms"),
        Row(f"{name}: failures", there[3] + closed, "", 0, note="of GET, or connections lost"),
    ]


SCALE = {"waiting": waiting, "watching": watching}
