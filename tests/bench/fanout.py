"""Measurements with two workers on one database and one Redis: what a log costs that many watch,
what many viewers cost, whom a chatty sandbox slows, and what a request costs beside one worker.

The machine is the same for all, so what is promised about cost is counted (processor time of the
server processes, commands of Redis) besides being clocked.
"""

import contextlib
import json
import pathlib
import re
import socket
import subprocess
import sys
import time
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from audience import printer
from lab import Lab, at_once, cpu_ms
from measure import Row, clocked, median, rank, settle, wrk
from nginx import Nginx
from scale import Crowd, Sandboxes, viewer
from wire import request

AUDIENCE = pathlib.Path(__file__).with_name("audience.py")


class Audience:
    """Viewers of one sandbox's log on one worker, for as long as the block runs; then `told`. They
    begin somewhere behind their coming, or, if `whole`, with its first line."""

    def __init__(self, lab, worker, sandbox, count, last=None, stuck=False, whole=False):
        self.order = {"url": lab.workers[worker].url,
                      "request": viewer(lab, sandbox, "since=0" if whole else "tail=0"),
                      "position": 0 if whole else None, "count": count, "source": f"127.0.0.{2 + worker}", "last": last,
                      "stuck": stuck}
        self.told = None

    def __enter__(self):
        self.process = subprocess.Popen([sys.executable, AUDIENCE], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.process.stdin.write(json.dumps(self.order) + "\n")
        self.process.stdin.flush()
        self.expect("ready")
        return self

    def read(self):
        """The end of being stuck."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def expect(self, word):
        if self.process.stdout.readline() != word + "\n":
            self.process.wait()
            raise RuntimeError(f"an audience was not {word}")

    def __exit__(self, *_):
        self.process.stdin.close()
        self.told = json.loads(self.process.stdout.readline() or "null")
        self.process.stdout.close()
        self.process.wait()


def redis_calls(url):
    """Commands that Redis has run so far."""
    parts = urllib.parse.urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), 10) as sock:
        sock.sendall(b"INFO commandstats\r\n")
        with sock.makefile("rb") as answer:
            text = answer.read(int(answer.readline()[1:])).decode()
    return sum(int(n) for name, n in re.findall(r"^cmdstat_(\w+):calls=(\d+)", text, re.M)
               if name != "info")


def delay(told, percent):
    """The percentile of the delays that audiences saw, in ms."""
    counts = {}
    for one in told:
        for ms, n in one["delays"]:
            counts[ms] = counts.get(ms, 0) + n
    left = percent / 100 * sum(counts.values())
    for ms in sorted(counts):
        left -= counts[ms]
        if left <= 0:
            return ms
    return 0


# ---- one log, many viewers --------------------------------------------------------------------


def shown(lab, image, viewers, lines):
    """What the audiences of both workers tell, and processor time and commands of Redis of it."""
    redis = lab.environment["REDIS_URL"]
    wire = lab.wire()
    box = lab.create(wire, image, command=printer(lines))["id"]
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(Audience(lab, worker, box, viewers // 2, lines))
                 for worker in range(2)]
        cpu, calls, began = lab.cpu_ms(), redis_calls(redis), time.monotonic()
        lab.exec(wire, box, "touch /tmp/go")
        for audience in crowd:
            audience.expect("finished")
        seconds = time.monotonic() - began
        cost = (lab.cpu_ms() - cpu) / seconds, (redis_calls(redis) - calls) / seconds
    lab.delete(wire, box)
    return [audience.told for audience in crowd], lines / seconds, *cost


def shared_log(bench):
    """One log at 200 lines/s to a thousand viewers, half of them on each worker."""
    viewers, lines = bench.count(1000, 100), bench.count(4000, 600)
    with contextlib.closing(Lab(workers=2)) as lab:
        image = lab.image()
        _, _, cpu_one, calls_one = shown(lab, image, 2, lines // 4)
        told, rate, cpu, calls = shown(lab, image, viewers, lines)
    name = f"a log, {viewers} viewers"
    bad = sum(t["lost"] + t["repeated"] + t["gaps"] + t["closed"] for t in told)
    return [
        Row(f"{name}: lost", bad, "", 0,
            note=f"of {sum(t['lines'] for t in told):,} lines, at {rate:.0f} lines/s"),
        Row(f"{name}: p99 to receipt", delay(told, 99), "ms", 200,
            note=f"p50 {delay(told, 50)} ms, slowest {delay(told, 100)} ms"),
        Row(f"{name}: servers' CPU", cpu / 10, "%", note=f"of one processor; 2 viewers {cpu_one / 10:.1f} %"),
        Row(f"{name}: Redis commands", calls, "/s", note=f"2 viewers {calls_one:.0f}/s"),
    ]


# ---- a sandbox that floods its log ------------------------------------------------------------

FLOOD_BYTES = 5_000_000  # ten times a second


def flooder(target):
    """A program that, once /tmp/go is there, writes 50 MB a second of lines of 80 bytes."""
    return ["sh", "-c", "mkfifo /tmp/never; exec 3<>/tmp/never; yes " + "x" * 79 +
            f" | head -c {FLOOD_BYTES} >/tmp/lines; until [ -e /tmp/go ]; do read -t 0.02 x <&3;"
            f" done; while :; do cat /tmp/lines {target}; echo; read -t 0.1 x <&3; done"]


class Neighbours:
    """Sandboxes beside it: two whose commands and reads are clocked, and one that is watched."""

    def __init__(self, bench, lab, image):
        self.bench, self.lab, self.image = bench, lab, image
        self.wires = [lab.wire(worker) for worker in range(2)]
        self.boxes = [lab.create(self.wires[0], image)["id"] for _ in range(2)]

    def speeds(self, box):
        run = request("POST", f"/sandboxes/{box}/exec", {"command": ["true"]}, self.lab.auth)
        read = request("GET", f"/sandboxes/{box}", None, self.lab.auth)
        times = {"exec": [], "read": []}
        for _ in range(self.bench.count(600, 100)):
            for what, data in (("exec", run), ("read", read)):
                took, (status, text) = clocked(lambda d=data: self.wires[0].exchange(d))
                if status != 200:
                    raise RuntimeError(f"{what}: {status} {text[:200]!r}")
                times[what].append(took)
        return {f"{what} p{n}": rank(times[what], n) for what in times for n in (50, 99)}

    def measured(self):
        """Milliseconds by name: of commands and reads, and until a line of a log is seen."""
        lines = self.bench.count(2000, 400)
        box = self.lab.create(self.wires[0], self.image, command=printer(lines))["id"]
        with Audience(self.lab, 1, box, 1, lines) as audience:
            self.lab.exec(self.wires[0], box, "touch /tmp/go")
            speeds = self.speeds(self.boxes[0])
            audience.expect("finished")
        self.lab.delete(self.wires[0], box)
        if audience.told["lost"] or audience.told["gaps"]:
            raise RuntimeError(f"lines of a neighbour are lost: {audience.told}")
        return speeds | {f"line p{n}": delay([audience.told], n) for n in (50, 99)}


def flooded(bench, lab, image, neighbours, target):
    """What the neighbours measure beside a flood, what its viewers tell, and (MB of memory more,
    server CPU in % of a processor, MB/s that it wrote)."""
    wire = lab.wire()
    box = lab.create(wire, image, command=flooder(target))["id"]
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(Audience(lab, worker, box, 5)) for worker in range(2)]
        lab.exec(wire, box, "until [ -s /tmp/lines ]; do usleep 10000; done; touch /tmp/go")
        time.sleep(bench.count(5, 2))  # until everything that can fill is full
        cpu, began, rss = lab.cpu_ms(), time.monotonic(), lab.rss_kb()
        told = neighbours.measured()
        seconds = time.monotonic() - began
        cpu, rss = (lab.cpu_ms() - cpu) / seconds / 10, lab.rss_kb() - rss
    lab.delete(wire, box)
    return told, [audience.told for audience in crowd], cpu, rss / 1024


def chatty(bench):
    """A sandbox that writes 50 MB/s to its log, and the same written to nobody, in turns."""
    with contextlib.closing(Lab(workers=2)) as lab:
        image = lab.image()
        neighbours = Neighbours(bench, lab, image)
        neighbours.measured()
        alone = neighbours.measured()
        control, *_ = flooded(bench, lab, image, neighbours, "| cat >/dev/null")
        beside, told, cpu, rss = flooded(bench, lab, image, neighbours, "")
    rows = [Row("beside a chatty sandbox: " + what, 100 * beside[what] / alone[what], "%",
                125 if what.endswith("p50") else None,
                note=f"{beside[what]:.2f} ms; without {alone[what]:.2f}; beside one that writes"
                     f" to nobody {control[what]:.2f}") for what in beside]
    gaps, lines = (sum(t[what] for t in told) for what in ("missing", "lines"))
    return rows + [
        Row("chatty sandbox: lines lost unannounced", sum(t["lost"] + t["repeated"] + t["inexact"] +
                                                          t["closed"] for t in told), "", 0,
            note=f"{lines:,} seen, {gaps:,} announced as gaps"),
        Row("chatty sandbox: servers' CPU", cpu, "%", note="of one processor"),
        Row("chatty sandbox: servers' VmRSS grown", rss, "MB", 16),
    ]


# ---- many quiet viewers -----------------------------------------------------------------------


def use(bench, lab, sandbox):
    """What a read costs under load (requests/s of wrk, milliseconds of the servers' processor time
    each), failures, and the median of a command in ms."""
    seconds, wire = bench.count(6, 2), lab.wire()
    run = request("POST", f"/sandboxes/{sandbox}/exec", {"command": ["true"]}, lab.auth)
    times = [clocked(lambda: wire.exchange(run)) for _ in range(bench.count(600, 60))]
    cpu = lab.cpu_ms()
    rate, _, _, failed = wrk(f"{lab.url}/sandboxes/{sandbox}", lab.auth, 64, seconds)
    cpu = (lab.cpu_ms() - cpu) / (rate * seconds)
    failed += sum(status != 200 for _, (status, _) in times)
    return rate, cpu, failed, median([took for took, _ in times])


def crowds(bench):
    """Ten thousand viewers to whom nothing happens, half of them on each worker."""
    viewers = bench.count(10000, 1000)
    with contextlib.closing(Lab(workers=2)) as lab, contextlib.ExitStack() as stack:
        boxes = stack.enter_context(Sandboxes(bench, 20, lab, lab.image()))
        use(bench, lab, boxes.ids[0])
        before, rss = use(bench, lab, boxes.ids[0]), lab.rss_kb()
        groups = boxes.groups(viewer, viewers // 2, True)
        with Crowd(lab, groups, 0) as one, Crowd(lab, groups, 1) as other:
            if lab.descriptors() < viewers:
                raise RuntimeError(f"only {lab.descriptors()} connections")
            grown = lab.rss_kb() - rss
            there = use(bench, lab, boxes.ids[0])
        after = use(bench, lab, boxes.ids[0])
    name = f"{viewers} viewers, 2 workers"
    base = [(a + b) / 2 for a, b in zip(before, after)]
    return [
        Row(f"{name}: memory each", grown / viewers, "KB", 8, note=f"{grown / 1024:.0f} MB more"),
        Row(f"{name}: rate of GET", 100 * there[0] / base[0], "%", 80, at_least=True,
            note=f"{there[0]:,.0f}/s; without them {base[0]:,.0f}/s"),
        Row(f"{name}: servers' CPU of a GET", 100 * there[1] / base[1], "%", 125,
            note=f"{1000 * there[1]:.0f} us; without them {1000 * base[1]:.0f} us"),
        Row(f"{name}: exec p50", 100 * there[3] / base[3], "%", 125,
            note=f"{there[3]:.2f} ms; without them {base[3]:.2f} ms"),
        Row(f"{name}: failures", there[2] + max(one.closed, 0) + max(other.closed, 0), "", 0,
            note="of GET and exec, or connections lost"),
    ]


# ---- two workers and one ----------------------------------------------------------------------


def cost_of_reads(lab, sandbox, seconds):
    """Microseconds of the servers' processor time of a GET, with all workers under load."""
    count = len(lab.workers)
    cpu = lab.cpu_ms()
    told = at_once(count, lambda i: wrk(f"{lab.workers[i].url}/sandboxes/{sandbox}", lab.auth,
                                        64 // count, seconds))
    for failure in (t for t in told if isinstance(t, Exception)):
        raise failure
    if sum(t[3] for t in told):
        raise RuntimeError(f"reads failed: {told}")
    return 1000 * (lab.cpu_ms() - cpu) / sum(t[0] * seconds for t in told)


def through_nginx(lab, sandbox, seconds):
    """Microseconds of processor time of a GET: the servers', and nginx's."""
    with Nginx([worker.port for worker in lab.workers]) as nginx:
        url = f"http://127.0.0.1:{nginx.port}/sandboxes/{sandbox}"
        wrk(url, lab.auth, 64, 1)
        servers, proxy = lab.cpu_ms(), sum(map(cpu_ms, nginx.pids()))
        rate, _, _, failed = wrk(url, lab.auth, 64, seconds)
        servers, proxy = lab.cpu_ms() - servers, sum(map(cpu_ms, nginx.pids())) - proxy
    if failed:
        raise RuntimeError(f"{failed} reads through nginx failed")
    return [1000 * cost / (rate * seconds) for cost in (servers, proxy)]


def cost_of_create(lab, image, turn):
    """(milliseconds, the servers' processor time in ms) of a create by one worker after the other."""
    wire, cpu = lab.wire(turn % len(lab.workers)), lab.cpu_ms()
    took, made = clocked(lambda: lab.create(wire, image))
    cpu = lab.cpu_ms() - cpu
    lab.delete(wire, made["id"])
    settle(lab)
    return took, cpu


def workers(bench):
    """What two workers cost, of what one costs; in turns."""
    reads, creates, seconds = [[], []], [[], []], bench.count(4, 1)
    with contextlib.closing(Lab()) as alone, contextlib.closing(Lab(workers=2)) as both:
        labs = [(lab, lab.image()) for lab in (alone, both)]
        boxes = [lab.create(lab.wire(), image)["id"] for lab, image in labs]
        for lab, box in zip((alone, both), boxes):
            cost_of_reads(lab, box, 1)
        for turn in range(bench.count(6, 2)):
            for i in sorted((0, 1), reverse=turn % 2):
                reads[i].append(cost_of_reads(labs[i][0], boxes[i], seconds))
        for turn in range(bench.count(30, 4)):
            for i in sorted((0, 1), reverse=turn % 2):
                creates[i].append(cost_of_create(*labs[i], turn))
        servers, proxy = through_nginx(both, boxes[1], seconds)
        for (lab, _), box in zip(labs, boxes):
            lab.delete(lab.wire(), box)
    took, cpu = ([median([c[k] for c in side]) if k == 0 else
                  sum(c[k] for c in side) / len(side) for side in creates] for k in (0, 1))
    read = [median(side) for side in reads]
    return [
        Row("two workers, of one: servers' CPU of a GET", read[1] / read[0], "times", 1.15,
            note=f"{read[1]:.1f} us and {read[0]:.1f} us"),
        Row("the same behind nginx", (servers + proxy) / read[0], "times",
            note=f"{servers:.1f} us, and nginx {proxy:.1f} us"),
        Row("two workers, of one: create p50", took[1] / took[0], "times", 1.05,
            note=f"{took[1]:.0f} ms and {took[0]:.0f} ms; CPU {cpu[1]:.1f} ms and {cpu[0]:.1f} ms"),
    ]


FANOUT = {"shared-log": shared_log, "chatty": chatty, "crowds": crowds, "workers": workers}
