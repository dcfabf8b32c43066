"""Whoever watches: logs of sandboxes by WebSocket and by server-sent events, and the events of the
user. They reconnect behind the last number that they have, and check every number that comes."""
import random
import threading
import time

import sandboxd
from api import BROKEN, Api

STAY_S = 12.0  # with one sandbox


class Viewer(threading.Thread):
    def __init__(self, number, seed, world, ledger):
        super().__init__(daemon=True, name=f"viewer {number}")
        self.api = Api(self.name, world, ledger)
        self.ledger = ledger
        self.dice = random.Random(f"viewer {seed} {number}")
        self.websocket = number % 2 == 0

    def run(self):
        while not self.api.over.is_set():
            boxes = self.ledger.alive()
            if not boxes:
                self.api.over.wait(0.2)
                continue
            try:
                self.watch(self.dice.choice(boxes))
            except Exception as error:  # pylint: disable=W0718
                self.ledger.violate(f"{self.name} failed: {type(error).__name__}: {error}")

    def watch(self, box):
        self.last, self.ended, self.until = 0, False, time.monotonic() + STAY_S
        while not (self.ended or self.api.over.is_set() or time.monotonic() > self.until):
            try:
                status = (self.by_websocket if self.websocket else self.by_events)(box)
                self.ledger.count("view of a log", f"{status}")
                if status in (404, 410) and not box.doomed:
                    self.ledger.violate(f"{self.name}: the log of {box.id} is answered {status}")
                if status in (404, 410):
                    return
            except BROKEN:
                self.ledger.count("view of a log", "cut off")
            self.api.over.wait(0.2)

    def by_websocket(self, box):
        with self.api.client.websocket(f"/sandboxes/{box.id}/logs?since={self.last}") as ws:
            if ws.status != 101:
                return ws.status
            for frame in ws.frames():
                if frame["type"] == "logs":
                    for entry in frame["entries"]:
                        self.entry(box, entry)
                elif frame["type"] == "gap":
                    self.gap(box, frame)
                elif frame["type"] == "end":
                    self.ended = True
                if time.monotonic() > self.until:
                    break
        return 101

    def by_events(self, box):
        got = self.api.stream("GET", f"/sandboxes/{box.id}/logs", None,
                              {"Last-Event-ID": str(self.last)})
        if not isinstance(got, sandboxd.Stream):
            return got.status if got else "cut off"
        with got:
            for _, data in got.events():
                if "seq" in data:
                    self.entry(box, data)
                elif {"from", "to"} <= set(data):
                    self.gap(box, data)
                if time.monotonic() > self.until:
                    break
        return 200

    def entry(self, box, entry):
        seq = entry["seq"]
        if seq != self.last + 1:
            what = "repeated" if seq <= self.last else "left out"
            self.ledger.violate(f"{self.name}: the log of {box.id} {what} lines: {seq} came behind"
                                f" {self.last}")
        self.ledger.line(box, seq, entry["data"])
        self.last = max(self.last, seq)

    def gap(self, box, gap):
        if gap["from"] != self.last + 1 or gap["to"] < gap["from"]:
            self.ledger.violate(f"{self.name}: the log of {box.id} has a gap from {gap['from']} to"
                                f" {gap['to']} behind line {self.last}")
        self.ledger.count("view of a log", "gap")
        self.last = max(self.last, gap["to"])


class EventViewer(threading.Thread):
    """Of one user's events, whose numbers rise by one, each once."""

    def __init__(self, world, ledger):
        super().__init__(daemon=True, name="viewer of events")
        self.api = Api(self.name, world, ledger)
        self.ledger = ledger
        self.last = 0
        self.types = {}  # sandbox -> types of its events, in order

    def run(self):
        while not self.api.over.is_set():
            try:
                with self.api.client.websocket(f"/events?since={self.last}") as ws:
                    for frame in ws.frames() if ws.status == 101 else ():
                        self.frame(frame)
                        if self.api.over.is_set():
                            return
            except BROKEN:
                self.ledger.count("view of events", "cut off")
            self.api.over.wait(0.2)

    def frame(self, frame):
        if frame["type"] == "gap":
            self.ledger.violate(f"{self.name}: a gap {frame} though events are kept for days")
        for event in frame.get("events", ()):
            if event["seq"] != self.last + 1:
                self.ledger.violate(f"{self.name}: event {event['seq']} came behind {self.last}")
            self.last = event["seq"]
            self.types.setdefault(event.get("sandboxId"), []).append(event["type"])
