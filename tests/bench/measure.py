"""The measurements. Each is a function of a Bench and returns rows of the table.

A row with a limit is a promise of the project; one without is told for orientation. Percentiles
are by nearest rank: a value that has really been measured, never one in between.

Two things that are compared are measured in turns, in one run, so that both see the same machine;
which of them goes first changes from pair to pair.
"""

import contextlib
import dataclasses
import math
import re
import subprocess
import threading
import time

from lab import BENCH_LABEL, TCACHE_OFF, Lab, at_once, wait_for
from wire import Wire, request


def rank(values, percent):
    """The percentile by nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def median(values):
    return rank(values, 50)


@dataclasses.dataclass
class Row:
    name: str
    measured: float
    unit: str
    limit: float = None
    at_least: bool = False
    note: str = ""

    @property
    def ok(self):
        if self.limit is None:
            return None
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


@dataclasses.dataclass
class Bench:
    lab: object
    image: str
    quick: bool = False

    def count(self, full, quick):
        return quick if self.quick else full


def clocked(work):
    """(milliseconds, result) of work()."""
    began = time.perf_counter()
    result = work()
    return (time.perf_counter() - began) * 1000, result


# ---- the client -------------------------------------------------------------------------------

def client_floor(bench):
    """What the measuring itself costs: the cheapest request there is, over the same wire."""
    wire, data = bench.lab.wire(), request("GET", "/health")
    times = [clocked(lambda: wire.exchange(data))[0] for _ in range(bench.count(2000, 200))]
    return [Row("client floor: GET /health p50", median(times), "ms",
                note=f"p99 {rank(times, 99):.2f} ms; part of each time below")]


# ---- cold create ------------------------------------------------------------------------------

def raw_body(lab, image):
    """What to send to the engine for a container like a sandbox's, with labels that are the
    bench's: the server would look for the row of one with its own."""
    wire = lab.wire()
    sandbox = lab.create(wire, image)["id"]
    told = lab.engine.call("GET", f"/containers/sbx-{sandbox}/json")
    lab.delete(wire, sandbox)
    config = {**told["Config"], "Labels": {BENCH_LABEL: lab.database}}
    return {**config, "HostConfig": told["HostConfig"]}


class Raw:
    """The engine alone: create and start over one kept connection."""

    def __init__(self, lab, body):
        self.wire, self.prefix = lab.engine_wire(), f"/v{lab.engine.version()}"
        self.create_request = request("POST", self.prefix + "/containers/create", body)
        self.id = None

    def create(self):
        began = time.perf_counter()
        status, text = self.wire.exchange(self.create_request)
        created = time.perf_counter()
        if status != 201:
            raise RuntimeError(f"the engine's create: {status} {text[:300]!r}")
        self.id = re.search(rb'"Id":"(\w+)"', text).group(1).decode()
        self.wire.call("POST", f"{self.prefix}/containers/{self.id}/start", expect={204})
        ended = time.perf_counter()
        return (ended - began) * 1000, (created - began) * 1000

    def remove(self):
        self.wire.call("DELETE", f"{self.prefix}/containers/{self.id}?force=1&v=1", expect={204})


def settle(lab):
    """Let the engine finish what a removal left to do: wait for a quick answer, twice."""
    quick = []

    def calm():
        took = clocked(lambda: lab.engine.call("GET", "/containers/json?limit=1"))[0]
        quick.append(took)
        return len(quick) >= 2 and max(quick[-2:]) < 20
    wait_for(calm, "a calm engine", timeout=30)


def cold_create(bench):
    return create_rows(bench.lab, bench.image, bench.count(30, 4), "cold create")


def open_create(bench):
    """The same with a network, on a server of its own, whose guard is asked at each create."""
    with contextlib.closing(Lab(network="open")) as lab:
        return create_rows(lab, lab.image(), bench.count(30, 4), "cold create, network open")


def create_rows(lab, image, count, what):
    wire = lab.wire()
    data = request("POST", "/sandboxes", {"image": image}, lab.auth)
    raw = Raw(lab, raw_body(lab, image))

    def ours():
        took, (status, text) = clocked(lambda: wire.exchange(data))
        if status != 201:
            raise RuntimeError(f"POST /sandboxes: {status} {text[:300]!r}")
        sandbox = re.search(rb'"id":"(\w+)"', text).group(1).decode()
        command, _ = clocked(lambda: lab.exec(wire, sandbox, ["true"]))
        lab.delete(wire, sandbox)
        return took, command

    def theirs():
        took = raw.create()
        raw.remove()
        return took

    mine, base = [], []
    for pair in range(count):
        for one, into in ((ours, mine), (theirs, base))[::-1 if pair % 2 else 1]:
            settle(lab)
            into.append(one())
    over = median([a[0] - b[0] for a, b in zip(mine, base)])
    ours_ms, raw_ms = median([a[0] for a in mine]), median([b[0] for b in base])
    return [
        Row(f"{what}: over the raw engine", over, "ms", 15,
            note=f"median of {len(mine)} differences; {ours_ms / raw_ms:.2f} times the engine"),
        Row(f"{what}: sandboxd", ours_ms, "ms",
            note=f"p90 {rank([a[0] for a in mine], 90):.1f} ms"),
        Row(f"{what}: engine's create + start", raw_ms, "ms",
            note=f"create {median([b[1] for b in base]):.1f} ms"),
        Row("first exec in a new sandbox", median([a[1] for a in mine]), "ms"),
    ]


# ---- exec -------------------------------------------------------------------------------------

def raw_exec(lab, container, wire):
    """One exec of the engine, until its output ends."""
    prefix = f"/v{lab.engine.version()}"
    body = {"Cmd": ["true"], "AttachStdout": True, "AttachStderr": True}
    made = wire.call("POST", f"{prefix}/containers/{container}/exec", body)
    # The engine ends the connection with the stream, so each start needs one of its own.
    with Wire(lab.engine_host) as stream:
        stream.send(request("POST", f"{prefix}/exec/{made['Id']}/start",
                            {"Detach": False, "Tty": False}))
        while stream.sock.recv(4096):
            pass


def exec_true(bench):
    lab, wire, engine = bench.lab, bench.lab.wire(), bench.lab.engine_wire()
    sandbox = lab.create(wire, bench.image)["id"]
    data = request("POST", f"/sandboxes/{sandbox}/exec", {"command": ["true"]}, lab.auth)

    def ours():
        took, (status, text) = clocked(lambda: wire.exchange(data))
        if status != 200 or b'"exitCode":0' not in text:
            raise RuntimeError(f"exec: {status} {text[:300]!r}")
        return took
    times, base = [], []
    for _ in range(5):
        # The engine is still busy with an exec after its answer; that is not to be in our numbers.
        for _ in range(30):
            ours()
        times += [ours() for _ in range(bench.count(200, 20))]
        base += [clocked(lambda: raw_exec(lab, "sbx-" + sandbox, engine))[0]
                 for _ in range(bench.count(6, 2))]
    lab.delete(wire, sandbox)
    return [
        Row("exec [\"true\"]: p50", median(times), "ms", 2, note=f"{len(times)} in 5 rows"),
        Row("exec [\"true\"]: p99", rank(times, 99), "ms", 10, note=f"slowest {max(times):.1f} ms"),
        Row("exec, of the engine's create + start", median(base) / median(times), "times", 20, True,
            note=f"faster; the engine's takes {median(base):.1f} ms"),
    ]


# ---- many at once -----------------------------------------------------------------------------

def raw_at_once(bench, count):
    """Milliseconds until the engine alone has made that many, asked for all at once."""
    body = raw_body(bench.lab, bench.image)
    raws = [Raw(bench.lab, body) for _ in range(count)]
    whole, results = clocked(lambda: at_once(count, lambda i: raws[i].create()))
    at_once(count, lambda i: raws[i].id and raws[i].remove())
    for failure in (r for r in results if isinstance(r, Exception)):
        print(f"    the engine's create failed: {failure}", flush=True)
    return whole


def creates_at_once(bench):
    lab, count = bench.lab, bench.count(100, 8)
    data = request("POST", "/sandboxes", {"image": bench.image}, lab.auth)
    wires = [lab.wire() for _ in range(count)]

    def one(i):
        took, (status, text) = clocked(lambda: wires[i].exchange(data))
        if status != 201:
            raise RuntimeError(f"{status} {text[:200]!r}")
        return took, re.search(rb'"id":"(\w+)"', text).group(1).decode()
    whole, results = clocked(lambda: at_once(count, one))
    good = [r for r in results if not isinstance(r, Exception)]
    for failure in (r for r in results if isinstance(r, Exception)):
        print(f"    a create failed: {failure}", flush=True)
    commands = at_once(len(good), lambda i: lab.exec(wires[i], good[i][1], ["true"])["exitCode"])
    removal, deleted = clocked(
        lambda: at_once(len(good), lambda i: lab.delete(wires[i], good[i][1])))
    usable = sum(code == 0 for code in commands)
    for failure in (r for r in commands + deleted if isinstance(r, Exception)):
        print(f"    afterwards: {failure}", flush=True)
    raw_whole = raw_at_once(bench, count)
    return [
        Row(f"{count} creates at once: succeeded", len(good), "", count, at_least=True,
            note=f"{usable} ran a command, {sum(d is None for d in deleted)} deleted"),
        Row(f"{count} creates at once: slowest", max((t for t, _ in good), default=0) / 1000, "s",
            note=f"{len(good) / whole * 1000:.1f} creates/s; all: {whole / raw_whole:.2f} times the "
                 "engine's"),
        Row(f"engine's create + start, {count} at once", raw_whole / 1000, "s",
            note=f"{count / raw_whole * 1000:.1f} creates/s"),
        Row(f"{count} deletes at once: all", removal / 1000, "s"),
    ]


# ---- reads ------------------------------------------------------------------------------------

WRK_UNITS = {"us": 0.001, "ms": 1, "s": 1000, "m": 60000}


def wrk(url, auth, connections, seconds):
    """(requests/s, p50 ms, p99 ms, failures) of wrk."""
    header = "Authorization: " + auth["Authorization"]
    done = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-H", header, url],
        capture_output=True, text=True, timeout=seconds + 60, check=True)

    def percentile(name):
        value, unit = re.search(rf"^\s+{name}%\s+([\d.]+)(us|ms|s|m)$", done.stdout, re.M).groups()
        return float(value) * WRK_UNITS[unit]
    failed = sum(int(n) for n in re.findall(r"Non-2xx or 3xx responses: (\d+)", done.stdout))
    for errors in re.findall(r"Socket errors: (.*)", done.stdout):
        failed += sum(int(n) for n in re.findall(r"\d+", errors))
    rate = float(re.search(r"^Requests/sec:\s+([\d.]+)$", done.stdout, re.M).group(1))
    return rate, percentile(50), percentile(99), failed


def reads(bench):
    lab, wire = bench.lab, bench.lab.wire()
    sandbox = lab.create(wire, bench.image)["id"]
    url, seconds = f"{lab.url}/sandboxes/{sandbox}", bench.count(10, 2)
    wrk(url, lab.auth, 64, 1)
    rate, p50, p99, failed = wrk(url, lab.auth, 64, seconds)
    health, *_ = wrk(f"{lab.url}/health", lab.auth, 64, bench.count(3, 1))
    lab.delete(wire, sandbox)
    return [
        Row("GET /sandboxes/{id}: rate", rate, "/s", 8000, at_least=True,
            note=f"wrk, 64 connections, {seconds} s; GET /health {health:.0f}/s"),
        Row("GET /sandboxes/{id}: p99", p99, "ms", 25, note=f"p50 {p50:.1f} ms"),
        Row("GET /sandboxes/{id}: failures", failed, "", 0),
    ]


# ---- what stays -------------------------------------------------------------------------------

def idle(bench):
    """A server that has just started and does nothing. The first measurement of a run."""
    samples = []

    def steady():
        samples.append(bench.lab.rss_kb())
        return len(samples) >= 10 and len(set(samples[-10:])) == 1
    try:
        wait_for(steady, "a steady size", timeout=10, step=0.2)
    except TimeoutError:
        pass  # the largest of the last seconds counts then
    return [Row("idle server: VmRSS", max(samples[-10:]) / 1024, "MB", 25,
                note=f"{bench.lab.threads()} threads, {bench.lab.descriptors()} descriptors")]


def holdings(lab):
    return {"descriptors": lab.descriptors(), "threads": lab.threads(),
            "containers": lab.containers(), "volumes": lab.labelled("volumes"),
            "networks": lab.labelled("networks"), "rows not deleted": lab.count("sandboxes", "state <> 'deleted'")}


def settled_heap(lab):
    """What is in use when it falls no more: a closed log lingers for 10 s."""
    lowest, since = lab.heap_bytes(), time.monotonic()
    while time.monotonic() - since < 12:
        time.sleep(0.5)
        now = lab.heap_bytes()
        if now < lowest:
            lowest, since = now, time.monotonic()
    return lowest


def cycles(lab, image, count, look):
    """Create, exec, delete; several clients, so that every worker takes part. The names of the
    volumes that the containers had for the image, if `look`."""
    clients, anonymous, lock = 4, [], threading.Lock()

    def client(_):
        with contextlib.closing(Wire(lab.url)) as wire:
            for _ in range(count // clients):
                sandbox = lab.create(wire, image, env={"A": "b"}, metadata={"a": "b"})["id"]
                if look:
                    told = lab.engine.call("GET", f"/containers/sbx-{sandbox}/json")
                    with lock:
                        anonymous.extend(m["Name"] for m in told["Mounts"]
                                         if m["Destination"] == "/data")
                lab.exec(wire, sandbox, "echo out; echo err >&2")
                lab.delete(wire, sandbox)
    for failure in filter(None, at_once(clients, client)):
        raise failure
    return anonymous


def growth(bench):
    """What cycles leave behind, after as many that fill every cache. The server is one of its own,
    without the allocator's caches of threads: they fill for hours and look like a leak."""
    with contextlib.closing(Lab(variables=TCACHE_OFF)) as lab:
        return growth_of(lab, lab.image(volume=True), bench.count(200, 20), bench.quick)


def growth_of(lab, image, count, quick):
    cycles(lab, image, count, look=False)
    heap, before, rss = settled_heap(lab), holdings(lab), lab.rss_kb()
    took, anonymous = clocked(lambda: cycles(lab, image, count, look=True))

    def same():
        return holdings(lab) == before
    try:
        wait_for(same, "what the cycles left behind", timeout=15, step=0.5)
    except TimeoutError:
        pass
    grown = settled_heap(lab) - heap
    after, rss_grown = holdings(lab), lab.rss_kb() - rss
    volumes = {v["Name"] for v in lab.engine.call("GET", "/volumes")["Volumes"] or []}
    left = len(volumes & set(anonymous))
    # A few cycles do not fill every cache.
    rows = [Row(f"{count} cycles: heap in use grown", grown / 1024, "KB", None if quick else 4,
                note=f"from {heap / 1024:.0f} KB; {count / took * 1000:.1f} cycles/s"),
            Row(f"{count} cycles: VmRSS grown", rss_grown / 1024, "MB", None if quick else 0.125,
                note=f"from {rss / 1024:.1f} MB")]
    rows += [Row(f"{count} cycles: {name} grown", after[name] - before[name], "", 0,
                 note=f"from {before[name]}") for name in before]
    rows.append(Row(f"{count} cycles: images' own volumes left", left, "", 0,
                    note=f"of {len(anonymous)}"))
    return rows


MEASUREMENTS = {"idle": idle, "floor": client_floor, "exec": exec_true, "create": cold_create,
                "open": open_create, "many": creates_at_once, "reads": reads, "growth": growth}
