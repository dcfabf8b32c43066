"""Requests as the documentation tells clients to make them: what may be repeated safely is repeated
until it is answered, after the time that Retry-After says; all else is made once."""
import http.client
import threading
import time

import sandboxd

PATIENCE_S = 40  # of one attempt
REPEATED = {429, 500, 502, 503, 504}
REFUSALS = 8  # of a move by the engine (502), after which its client gives up: the record says why
BROKEN = (OSError, http.client.HTTPException)


class Api:
    def __init__(self, name, world, ledger):
        self.name, self.ledger = name, ledger
        self.client = sandboxd.Client(world, world.key)
        self.asking = None  # (what, since when), for the report of who hangs
        self.over = threading.Event()

    def ask(self, what, method, path, body=None, key=None, safe=None):
        """The answer; None if it never came, and nobody knows what was done. `safe`: may be
        repeated; reads, deletes and what has an Idempotency-Key may."""
        safe = (method != "POST" or key is not None) if safe is None else safe
        headers = {"Idempotency-Key": key} if key else {}
        self.asking = (f"{method} {path}", time.monotonic())
        try:
            return self.repeat(what, method, path, body, headers, safe)
        finally:
            self.asking = None

    def repeat(self, what, method, path, body, headers, safe):
        wait, refused = 0.2, 0
        while not self.over.is_set():
            try:
                got = self.client.call(method, path, body, dict(headers), PATIENCE_S)
            except BROKEN:
                got = None
            if got and got.status not in REPEATED:
                self.ledger.count(what, f"{got.status}")
                return got
            refused += got is not None and got.status == 502
            if not safe or (refused == REFUSALS and method == "POST" and not headers):
                self.ledger.count(what, f"refused {got.status}" if got else "cut off")
                return got
            self.ledger.count(what, f"repeated after {got.status}" if got else "repeated after a cut")
            told = got.headers.get("Retry-After", "") if got else ""
            self.over.wait(int(told) if told.isdigit() else wait)
            wait = min(wait * 2, 2)
        return None

    def stream(self, method, path, body=None, headers=None):
        """A stream that has begun, an Answer that refuses, or None."""
        try:
            got = self.client.stream(method, path, body, headers, PATIENCE_S)
            if got.status == 200:
                return got
            with got:
                return sandboxd.Answer(got.status, got.headers, got.response.read())
        except BROKEN:
            return None
