"""Creates that take over a sandbox which was started before, and code that runs in one."""

import contextlib
import json
import re

from lab import Image, Lab, at_once, wait_for
from measure import Raw, Row, clocked, median, rank, raw_body, settle
from wire import request

PYTHON, NODE = "sandboxd/python:1", "sandboxd/node:1"


@contextlib.contextmanager
def pooled(bench, pool, templates=None):
    """A server of its own that keeps a pool. Without `templates` python is a tiny image."""
    image = None
    if not templates:
        image = Image(bench.lab.engine)
        templates = f"python={image.name}"
    try:
        with contextlib.closing(Lab(variables={"SBX_POOL": pool, "SBX_TEMPLATES": templates,
                                               "SBX_LOG_LEVEL": "warn"})) as lab:
            yield lab
    finally:
        if image:
            image.remove()


def waiting(lab):
    return lab.count("sandboxes", "pool IS NOT NULL AND state = 'running'")


def fill(lab, count):
    wait_for(lambda: waiting(lab) >= count, f"{count} sandboxes in the pool", 30 + count, 0.2)
    settle(lab)


class Maker:
    """Creates over one kept connection; what was made is deleted together, when nothing is timed.
    The server ends a connection that is unused for as long as a large pool takes to fill."""

    def __init__(self, lab):
        self.lab, self.wire, self.made, self.cold = lab, None, [], 0

    def __call__(self, **body):
        self.wire = self.wire or self.lab.wire()
        data = request("POST", "/sandboxes", body, self.lab.auth)
        took, (status, text) = clocked(lambda: self.wire.exchange(data))
        if status != 201:
            raise RuntimeError(f"create: {status} {text[:300]!r}")
        made = json.loads(text)
        self.made.append(made["id"])
        self.cold += not made["warm"]
        return took, made["id"]

    def forget(self):
        self.wire.close()
        self.wire = None
        wires = [self.lab.wire() for _ in range(8)]
        at_once(8, lambda i: [self.lab.delete(wires[i], box) for box in self.made[i::8]])
        self.made.clear()


def first_output(lab, make):
    """From the create to the first output of a command in it."""
    took, sandbox = make()
    data = request("POST", f"/sandboxes/{sandbox}/exec", {"command": ["echo", "x"]},
                   {**lab.auth, "Accept": "text/event-stream"})
    with lab.wire() as wire:
        def read():
            wire.send(data)
            got = b""
            while b'"type":"stdout"' not in got:
                piece = wire.sock.recv(65536)
                assert piece, got
                got += piece
        return took + clocked(read)[0]


def raw_create(lab, image, count):
    """Milliseconds that the engine alone takes."""
    body, times = raw_body(lab, image), []
    for _ in range(count):
        raw = Raw(lab, body)
        settle(lab)
        times.append(raw.create()[0])
        raw.remove()
    return median(times)


def claims(bench, lab, size):
    make = Maker(lab)
    raw = raw_create(bench.lab, bench.image, bench.count(15, 3))
    fill(lab, size)
    plain = [make()[0] for _ in range(size)]
    make.forget()
    fill(lab, size)
    third = size // 3
    full = [make(name=f"box {i}", env={"A": str(i)}, metadata={"n": str(i)}, timeoutSeconds=900,
                 idleTimeoutSeconds=300, onIdle="stop")[0] for i in range(third)]
    other = [make(limits={"cpus": 1.5, "memoryMb": 640, "pids": 150})[0] for _ in range(third)]
    output = [first_output(lab, make) for _ in range(third)]
    make.forget()
    p50 = median(plain)
    return [
        Row("create from the pool: p50", p50, "ms", 5, note=f"{len(plain)} in a row"),
        Row("create from the pool: p99", rank(plain, 99), "ms", 25,
            note=f"slowest {max(plain):.1f} ms"),
        Row("create from the pool, of the engine's", raw / p50, "times", 30, True,
            note=f"faster; the engine's create and start take {raw:.0f} ms"),
        Row("with name, env, metadata, time-outs: p50", median(full), "ms", 5),
        Row("with other limits: p50", median(other), "ms", 20),
        Row("create and first output: p50", median(output), "ms", 8,
            note=f"p99 {rank(output, 99):.1f} ms"),
        Row("creates that missed the pool", make.cold, "", 0),
    ]


def burst(lab, count):
    """(slowest ms, failures, those from the pool) of so many creates at once; leaves them."""
    data = request("POST", "/sandboxes", {}, lab.auth)
    wires = [lab.wire() for _ in range(count)]
    results = at_once(count, lambda i: clocked(lambda: wires[i].exchange(data)))
    good = [r for r in results if not isinstance(r, Exception) and r[1][0] == 201]
    warm = sum(b'"warm":true' in text for _, (_, text) in good)
    ids = [re.search(rb'"id":"(\w+)"', text).group(1).decode() for _, (_, text) in good]
    return max((took for took, _ in good), default=0), count - len(good), warm, ids


def forget(lab, ids):
    wires = [lab.wire() for _ in range(8)]
    at_once(8, lambda i: [lab.delete(wires[i], box) for box in ids[i::8]])


def bursts(bench, lab, size):
    fill(lab, size)
    slowest, failed, warm, ids = burst(lab, size)
    half = bench.count(50, 4)
    cold_slowest, cold_failed, cold_warm, more = burst(lab, half)
    forget(lab, ids + more)
    return [
        Row(f"{size} creates at once, pool of {size}: slowest", slowest, "ms", 500,
            note=f"{warm} from the pool"),
        Row(f"{size} creates at once, pool of {size}: failed", failed, "", 0),
        Row(f"{half} creates at once, pool empty: failed", cold_failed, "", 0,
            note=f"slowest {cold_slowest / 1000:.1f} s; {cold_warm} from the pool"),
    ]


def pool(bench):
    size = bench.count(100, 6)
    with pooled(bench, f"python={size}") as lab:
        return claims(bench, lab, size) + bursts(bench, lab, size)


# ---- code -------------------------------------------------------------------------------------

def run_once(lab, wire, body):
    data = request("POST", "/run", body, lab.auth)
    took, (status, text) = clocked(lambda: wire.exchange(data))
    told = json.loads(text)
    if status != 200 or told["stdout"] != "1\n" or told["exitCode"] != 0:
        raise RuntimeError(f"run: {status} {text[:300]!r}")
    return took


def code(bench):
    many, each = bench.count(50, 4), bench.count(30, 3)
    python, node = ({"runtime": "python", "code": "print(1)"},
                    {"runtime": "node", "code": "console.log(1)"})
    with pooled(bench, f"python={many},node={each}", f"python={PYTHON},node={NODE}") as lab:
        fill(lab, many + each)
        wire = lab.wire()
        one = [run_once(lab, wire, python) for _ in range(each)]
        two = [run_once(lab, wire, node) for _ in range(each)]
        fill(lab, many + each)
        wires = [lab.wire() for _ in range(many)]
        results = at_once(many, lambda i: run_once(lab, wires[i], python))
        good = [r for r in results if not isinstance(r, Exception)] or [0]
        for failure in (r for r in results if isinstance(r, Exception)):
            print(f"    a run failed: {failure}", flush=True)
    return [
        Row("POST /run of print(1): p50", median(one), "ms", 60, note=f"p99 {rank(one, 99):.0f} ms"),
        Row("POST /run of console.log(1): p50", median(two), "ms", 90,
            note=f"p99 {rank(two, 99):.0f} ms"),
        Row(f"{many} runs at once: failed", many - len(good), "", 0),
        Row(f"{many} runs at once: slowest, of the median", max(good) / max(median(good), 1e-9),
            "times", 10, note=f"median {median(good):.0f} ms, slowest {max(good):.0f} ms"),
    ]


POOL = {"pool": pool, "code": code}
