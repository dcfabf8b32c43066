"""What hundreds of sandboxes that do nothing cost, and whether they slow the others."""

import os
import pathlib

from lab import at_once, wait_for
from measure import Raw, Row, clocked, median, raw_body, settle
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
    """Medians in ms: a create, a read, an exec, and what a create takes the engine alone. The
    creates in turns; the exec last, since the system is busy for a while with what was forked."""
    lab, wire = bench.lab, bench.lab.wire()
    raw, creates, alone = Raw(lab, raw_body(lab, bench.image)), [], []
    for _ in range(bench.count(15, 3)):
        settle(lab)
        took, made = clocked(lambda: lab.create(wire, bench.image))
        creates.append(took)
        lab.delete(wire, made["id"])
        settle(lab)
        alone.append(raw.create()[0])
        raw.remove()
    settle(lab)
    run = request("POST", f"/sandboxes/{sandbox}/exec", {"command": ["true"]}, lab.auth)
    read = request("GET", f"/sandboxes/{sandbox}", None, lab.auth)
    reads = [clocked(lambda: wire.exchange(read))[0] for _ in range(bench.count(2000, 40))]
    execs = [clocked(lambda: wire.exchange(run))[0] for _ in range(bench.count(400, 40))]
    return {"create": median(creates), "exec": median(execs), "read": median(reads),
            "engine": median(alone)}


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
    slower = {what: 100 * now[what] / base[what] for what in base}
    notes = {what: f"{base[what]:.2f} ms, then {now[what]:.2f} ms" for what in base}
    notes["create"] += f"; the engine alone {slower['engine']:.0f} %"
    for what in ("create", "exec", "read"):
        rows.append(Row(f"{what} beside {count}, of that beside 5", slower[what], "%", 125,
                        note=notes[what]))
    return rows


FLEET = {"fleet": fleet}
