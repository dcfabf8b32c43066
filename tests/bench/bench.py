"""Runs the measurements on a server of its own, prints the table, writes the JSON.

Started by tests/bench/run, which has built the release and started PostgreSQL.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time
import traceback

from fanout import FANOUT
from fleet import FLEET
from inside import INSIDE
from lab import REPO, Lab
from measure import MEASUREMENTS, Bench, Row
from pool import POOL
from scale import SCALE
from transfer import FILES

MEASUREMENTS |= SCALE | FILES | INSIDE | POOL | FLEET | FANOUT


def cpu_ticks():
    """(busy, all) of the machine since its start."""
    fields = [int(n) for n in pathlib.Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return sum(fields) - fields[3] - fields[4], sum(fields)


def others():
    """How busy the machine is while nothing is measured: percent of all its cores, over a second.
    Unlike the load average this forgets at once what is over."""
    before = cpu_ticks()
    time.sleep(1)
    busy, total = (b - a for a, b in zip(before, cpu_ticks()))
    return 100 * busy / max(total, 1)


def commit():
    done = subprocess.run(["git", "-c", "safe.directory=*", "rev-parse", "--short", "HEAD"],
                          cwd=REPO, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def number(value, unit):
    digits = 0 if isinstance(value, int) or abs(value) >= 1000 else 1 if abs(value) >= 100 else 2
    return f"{value:,.{digits}f}" + (" " + unit if unit else "")


def limit(row):
    if row.limit is None:
        return ""
    return ("at least " if row.at_least else "at most ") + f"{row.limit:,g}" + \
        (" " + row.unit if row.unit else "")


def verdict(row):
    return {None: "", True: "ok", False: "MISSED"}[row.ok]


HEAD = f"{'what':42} {'measured':>12}  {'limit':18} {'':7} {'busy':>5}  remark"


def line(row, busy):
    return (f"{row.name:42} {number(row.measured, row.unit):>12}  {limit(row):18} "
            f"{verdict(row):7} {busy:4.0f}%  {row.note}").rstrip()


def as_json(row, busy):
    return {"name": row.name, "measured": row.measured, "unit": row.unit, "limit": row.limit,
            "atLeast": row.at_least, "ok": row.ok, "note": row.note, "othersBusyPercent": round(busy)}


def measured(name, bench):
    """The rows of a measurement; one that fails is a number that is missed."""
    try:
        return MEASUREMENTS[name](bench)
    except Exception as error:  # pylint: disable=broad-except
        traceback.print_exc()
        return [Row(f"{name}: failed", 1, "", 0, note=f"{type(error).__name__}: {error}"[:120])]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=pathlib.Path, required=True)
    parser.add_argument("--only", action="append", choices=MEASUREMENTS)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    names = [n for n in MEASUREMENTS if n in (options.only or MEASUREMENTS)]
    began, rows = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), []
    lab = Lab()
    try:
        engine = lab.engine.call("GET", "/version")["Version"]
        bench = Bench(lab, lab.image(), options.quick)
        print(HEAD, flush=True)
        for name in names:
            busy = others()
            for row in measured(name, bench):
                rows.append((row, busy))
                print(line(row, busy), flush=True)
            lab.close_wires()
    finally:
        lab.close()
    missed = [row.name for row, _ in rows if row.ok is False]
    options.json.write_text(json.dumps({
        "began": began, "commit": commit(), "cores": os.cpu_count(), "engine": engine,
        "quick": options.quick, "missed": missed, "rows": [as_json(*r) for r in rows]}, indent=2) + "\n")
    print(f"\n{options.json}: " + (f"{len(missed)} of {len(rows)} missed" if missed else "all kept"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
