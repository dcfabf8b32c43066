"""Whether everything has settled: what the database, the engine and the API say of each other
(tests/lib/invariants.py), and of what clients were told (ledger.py)."""
import http.client
import json
import time

import sandboxd
from invariants import Invariants

READ_S = 5.0  # for a log from its beginning to what others saw of it
LEFT = """SELECT coalesce(json_agg(json_build_object('id', id, 'state', state, 'run', run,
  'mark', metadata->>'mark')), '[]') FROM sandboxes WHERE pool IS NULL"""


class Judge:
    def __init__(self, world, ledger, clients):
        self.world, self.ledger, self.clients = world, ledger, clients
        self.apis = [sandboxd.Client(worker, world.key) for worker in world.workers]
        self.invariants = Invariants(self.apis, world.service.url, world.engine.api)
        self.checked = set()  # ids that were found deleted as they should

    def settle(self, within):
        """Waits until nothing is wrong. @return seconds, and what was still wrong after `within`."""
        began = time.monotonic()
        while True:
            wrong = self.busy() or self.look()
            passed = time.monotonic() - began
            if not wrong or passed > within:
                return passed, wrong
            time.sleep(0.2)

    def busy(self):
        """Clients that still wait for an answer, or try again."""
        now = time.monotonic()
        asking = [(c.name, c.api.asking) for c in self.clients if not c.idle]
        return [f"{name} still asks for {what[0]} after {now - what[1]:.1f} s" if what
                else f"{name} is at work" for name, what in asking]

    def look(self, final=False):
        boxes = [b for b in self.ledger.every() if final or b.id not in self.checked]
        living = [b for b in boxes if not b.doomed]
        wrong = self.invariants.check([b.id for b in living])
        for part in (lambda: self.rows(boxes), lambda: self.commands(living),
                     lambda: self.logs(living), self.invariants.usable):
            if wrong:
                return wrong  # the first that is wrong tells more than what follows from it
            try:
                wrong += part()
            except (OSError, http.client.HTTPException, AssertionError) as error:
                wrong.append(f"it could not be looked at: {error!r}")
        return wrong

    def rows(self, boxes):
        rows = {row["id"]: row for row in json.loads(self.invariants.sql(LEFT))}
        wrong, marks = [], {}
        for row in rows.values():
            if row["run"] and row["state"] not in ("deleted", "failed"):
                wrong.append(f"{row['id']} of a run that is over is {row['state']}")
            if row["mark"] and row["state"] == "creating":  # no client creates at this moment
                wrong.append(f"{row['id']} of the create {row['mark']} is still creating")
            elif row["mark"] and row["state"] not in ("deleted", "failed"):
                marks.setdefault(row["mark"], []).append(row["id"])
        wrong += [f"the create {mark} made {ids}" for mark, ids in marks.items() if len(ids) > 1]
        wrong += [f"clients were given {ids} for the create {mark}"
                  for mark, ids in self.ledger.marks.items() if len(ids) > 1]
        for box in boxes:
            state = rows.get(box.id, {}).get("state", "unknown")
            if box.gone and state == "deleted":
                self.checked.add(box.id)
            elif box.gone or state == "unknown" or (state == "deleted" and not box.doomed):
                wrong.append(f"{box.id} is {state}; its client "
                             f"{'was told that it is deleted' if box.gone else 'wants to keep it'}")
        self.forget(rows)
        return wrong

    def forget(self, rows):
        """Deletes what a request made whose client never got an answer, and has no key to ask."""
        known = {box.id for box in self.ledger.every()}
        for row in rows.values():
            if row["id"] not in known and row["mark"] and row["state"] in ("running", "failed"):
                self.ledger.count("of a create without an answer", row["state"])
                self.apis[0].delete(f"/sandboxes/{row['id']}")

    # ---- commands -----------------------------------------------------------------------------

    def commands(self, boxes):
        return [w for box in boxes for command in list(box.commands.values())
                for w in self.command(box, command)]

    def command(self, box, command):
        if command.settled:
            return []
        if command.exit_code is not None or (command.kind == "stream" and command.error):
            command.settled = True  # the client was told
            self.ledger.count(f"outcome of {command.kind}", command.error or "told")
            return []
        got = self.apis[0].get(f"/sandboxes/{box.id}/execs/{command.id}")
        if got.status != 200:
            return [f"the command {command.id} in {box.id} is answered {got}"]
        now = got.json
        if now["state"] == "running":
            state = self.apis[0].state(box.id)
            return [] if state == "paused" else [
                f"the command {command.id} still runs in {box.id}, which is {state}: {now}"]
        if now["exitCode"] is None and not now["error"]:
            return [f"the command {command.id} in {box.id} ended without an outcome: {now}"]
        command.settled = True
        self.ledger.count(f"outcome of {command.kind}", now["error"] or "found")
        return []

    # ---- logs ---------------------------------------------------------------------------------

    def logs(self, boxes):
        wrong = []
        for box in boxes:
            if not box.lines or box.torn or self.apis[0].state(box.id) != "running":
                continue
            for api in self.apis:
                for entry in self.invariants.log(api, box.id):
                    self.ledger.line(box, entry["seq"], entry["data"])
                wrong += self.replay(api, box)
        return wrong

    def replay(self, api, box):
        """From the beginning of the log to the last line that somebody saw, or a word of what is
        gone."""
        last, position, end = max(box.lines), 0, time.monotonic() + READ_S
        with api.stream("GET", f"/sandboxes/{box.id}/logs?since=0", timeout=READ_S) as stream:
            try:
                for _, told in stream.events():
                    first = told.get("seq", told.get("from"))
                    if first is not None and first != position + 1:
                        return [f"the log of {box.id} goes from {position} to {told}"]
                    position = told.get("seq", told.get("to", position))
                    if position >= last:
                        return []
                    if time.monotonic() > end:
                        break
            except (OSError, http.client.HTTPException):
                pass
        return [f"the log of {box.id} does not tell of lines that viewers saw"]
