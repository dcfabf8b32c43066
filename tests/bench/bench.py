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

from lab import REPO, Lab
from measure import MEASUREMENTS, Bench


def load():
    return os.getloadavg()[0]


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


HEAD = f"{'what':42} {'measured':>12}  {'limit':18} {'':7} {'load':>5}  remark"


def line(row, load_then):
    return (f"{row.name:42} {number(row.measured, row.unit):>12}  {limit(row):18} "
            f"{verdict(row):7} {load_then:5.1f}  {row.note}").rstrip()


def as_json(row, load_then):
    return {"name": row.name, "measured": row.measured, "unit": row.unit, "limit": row.limit,
            "atLeast": row.at_least, "ok": row.ok, "note": row.note, "load": load_then}


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
            load_then = load()
            for row in MEASUREMENTS[name](bench):
                rows.append((row, load_then))
                print(line(row, load_then), flush=True)
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
