"""What hundreds of sandboxes that do nothing cost, and whether they slow the others."""

import os
import pathlib

from lab import at_once, wait_for
from measure import Row, clocked, median, settle
from wire import request

SERVICES = ("dockerd", "containerd", "postgres")


def pss_kb(pid):
    try:
        text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (OSError, ValueError):
        return 0
    return int(text.split("\nPss:")[1].split()[0])


def memory_kb(lab):
    """Resident memory of the services, what they share counted once: engine, server, database."""
    total = pss_kb(lab.process.pid)
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            comm = pathlib.Path(f"/proc/{name}/comm").read_text().strip()
        except OSError:
            continue
        if comm in SERVICES:
            total += pss_kb(name)
    return total


def speeds(bench, sandbox):
    """Medians in ms of a create, an exec and a read."""
    lab, wire = bench.lab, bench.lab.wire()
    creates = []
    for _ in range(bench.count(15, 3)):
        settle(lab)
        took, made = clocked(lambda: lab.create(wire, bench.image))
        creates.append(took)
        lab.delete(wire, made["id"])
    settle(lab)
    run = request("POST", f"/sandboxes/{sandbox}/exec", {"command": ["true"]}, lab.auth)
    read = request("GET", f"/sandboxes/{sandbox}", None, lab.auth)
    execs, reads = ([clocked(lambda d=data: wire.exchange(d))[0]
                     for _ in range(bench.count(400, 40))] for data in (run, read))
    return median(creates), median(execs), median(reads)


def make(lab, image, count):
    wires = [lab.wire() for _ in range(4)]
    made = at_once(4, lambda i: [lab.create(wires[i], image, timeoutSeconds=86400,
                                            idleTimeoutSeconds=86400)["id"]
                                 for _ in range(i, count, 4)])
    for failure in (r for r in made if isinstance(r, Exception)):
        raise failure
    return [box for part in made for box in part]


def fleet(bench):
    lab, count = bench.lab, bench.count(500, 20)
    few = make(lab, bench.image, 5)
    many = []
    try:
        speeds(bench, few[0])  # whatever is made once
        before, base = memory_kb(lab), speeds(bench, few[0])
        many = make(lab, bench.image, count - 5)
        wait_for(lambda: lab.containers() == count, "all sandboxes")
        settle(lab)
        grown, now = memory_kb(lab) - before, speeds(bench, few[0])
    finally:
        boxes = few + many
        wires = [lab.wire() for _ in range(4)]
        at_once(4, lambda i: [lab.delete(wires[i], box) for box in boxes[i::4]])
    rows = [Row(f"{count} idle sandboxes: memory of each", grown / 1024 / (count - 5), "MB", 8,
                note="engine, server and database; shims and sandboxes apart")]
    for what, few_ms, many_ms in zip(("create", "exec", "read"), base, now):
        rows.append(Row(f"{what} beside {count}, of that beside 5", 100 * many_ms / few_ms, "%", 125,
                        note=f"{few_ms:.2f} ms, then {many_ms:.2f} ms"))
    return rows


FLEET = {"fleet": fleet}
