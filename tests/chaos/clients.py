"""A client: makes sandboxes, uses them in every way, and notes what it is told."""
import random
import secrets
import threading
import time

import sandboxd
from api import BROKEN, Api
from ledger import Command

BOXES = 2  # of each client
CHATTER = "i=0; while :; do i=$((i+1)); echo main $i; sleep 0.3; done"
GONE = (404, 410)
UNKNOWN = ("engine_error", "engine_unavailable", "store_unavailable")  # how a run ended


class Actor(threading.Thread):
    """Works while the gate is open; `idle` says that it waits before it."""

    def __init__(self, number, seed, world, ledger, gate):
        super().__init__(daemon=True, name=f"client {number}")
        self.api = Api(self.name, world, ledger)
        self.ledger, self.gate = ledger, gate
        self.dice = random.Random(f"client {seed} {number}")
        self.boxes, self.made = [], 0
        self.idle = False
        self.mark = f"{number}-{secrets.token_hex(4)}"
        self.uses = [(self.execute, 6), (self.stream, 4), (self.background, 4), (self.run_code, 2),
                     (self.keepalive, 2), (self.pause, 2), (self.stop, 2), (self.delete, 1),
                     (self.run_once, 2)]

    def run(self):
        while not self.api.over.is_set():
            self.idle = True
            if not self.gate.wait(1):
                continue
            self.idle = False
            try:
                self.step()
            except Exception as error:  # pylint: disable=W0718  # a client must not end silently
                self.wrong(f"failed: {type(error).__name__}: {error}")
            self.api.over.wait(self.dice.uniform(0, 0.15))
        self.idle = True

    def wrong(self, sentence):
        self.ledger.violate(f"{self.name}: {sentence}")

    def step(self):
        if len(self.boxes) < BOXES:
            self.create()
            return
        uses, weights = zip(*self.uses)
        self.dice.choices(uses, weights)[0](self.dice.choice(self.boxes))

    # ---- creates ------------------------------------------------------------------------------

    def create(self):
        self.made += 1
        mark = f"{self.mark}-{self.made}"
        spec = {"template": "box", "size": "nano", "metadata": {"mark": mark},
                "timeoutSeconds": 7200, "idleTimeoutSeconds": 7200}
        if self.dice.random() < 0.5:
            spec["command"] = ["/bin/sh", "-c", CHATTER]
        key = mark if self.dice.random() < 0.7 else None
        got = self.api.ask("create with a key" if key else "create", "POST", "/sandboxes", spec,
                           key)
        if got is None or got.status >= 500:
            self.look_for(mark)
            return
        if got.status != 201:
            self.wrong(f"a create was answered {got}")
            return
        box = self.ledger.box(got.json["id"], mark)
        self.boxes.append(box)
        if key and self.dice.random() < 0.4:
            again = self.api.ask("repeated create", "POST", "/sandboxes", spec, key)
            if again and (again.status != 201 or again.json["id"] != box.id):
                self.wrong(f"a repeated create with the key {key} gave {again}, not {box.id}")

    def look_for(self, mark):
        """After an answer that never came: whatever was made is in the list."""
        got = self.api.ask("list", "GET", f"/sandboxes?metadata.mark={mark}")
        for item in got.json["items"] if got and got.status == 200 else ():
            box = self.ledger.box(item["id"], mark)
            if item["state"] in ("running", "creating"):
                self.boxes.append(box)
            else:
                self.end(box)

    # ---- commands -----------------------------------------------------------------------------

    def execute(self, box):
        token = secrets.token_hex(4)
        got = self.api.ask("exec", "POST", f"/sandboxes/{box.id}/exec",
                           {"command": f"echo {token}; sleep {self.dice.choice([0, 0, 0.3, 1])}"})
        if not self.usable(box, got):
            return
        told = got.json
        box.commands[told["execId"]] = command = Command(told["execId"], "exec")
        command.exit_code = told["exitCode"]
        if (told["exitCode"], told["stdout"]) != (0, token + "\n"):
            self.wrong(f"a command in {box.id} that prints {token} was answered {told}")

    def stream(self, box):
        token, lines = secrets.token_hex(4), self.dice.randint(1, 15)
        script = f"i=0; while [ $i -lt {lines} ]; do i=$((i+1)); echo {token} $i; sleep 0.1; done"
        path = f"/sandboxes/{box.id}/exec"
        self.api.asking = (f"stream of POST {path}", time.monotonic())
        got = self.api.stream("POST", path, {"command": script})
        if got is None or isinstance(got, sandboxd.Answer):
            self.ledger.count("stream", f"refused {got.status}" if got else "cut off")
            self.api.asking = None
            self.usable(box, got)
            return
        follower = Follower(self, box)
        follower.take(got)
        while follower.id and not follower.over and not self.api.over.is_set():
            follower.rejoin()
        self.api.asking = None
        self.ledger.count("stream", follower.over or "cut off")
        want = "".join(f"{token} {i}\n" for i in range(1, lines + 1))
        if follower.over == "exit" and not follower.gap and follower.text != want:
            self.wrong(f"the stream of {follower.id} in {box.id} gave {follower.text!r}"
                       f" instead of {want!r}")

    def background(self, box):
        seconds = self.dice.choice([0, 0.5, 2])
        got = self.api.ask("background", "POST", f"/sandboxes/{box.id}/exec",
                           {"command": f"echo work; sleep {seconds}", "background": True})
        if self.usable(box, got, 202):
            told = got.json["execId"]
            box.commands[told] = Command(told, "background")

    def run_code(self, box):
        self.code(f"/sandboxes/{box.id}/run", "run in a sandbox", box)

    def run_once(self, _):
        self.code("/run", "run", None)

    def code(self, path, what, box):
        token = secrets.token_hex(4)
        key = token if self.dice.random() < 0.5 else None
        got = self.api.ask(what + (" with a key" if key else ""), "POST", path,
                           {"runtime": "python", "code": f"echo {token}; sleep 0.2"}, key)
        if box and not self.usable(box, got):
            return
        if not box and (got is None or got.status >= 500):
            return
        if got.status != 200:
            self.wrong(f"{what} was answered {got}")
        elif (got.json.get("error") or {}).get("code") in UNKNOWN:
            self.ledger.count(what, f"200 with {got.json['error']['code']}")
        elif (got.json["exitCode"], got.json["stdout"]) != (0, token + "\n"):
            self.wrong(f"{what} of code that prints {token} was answered {got}")

    # ---- moves --------------------------------------------------------------------------------

    def move(self, box, verb):
        got = self.api.ask(verb, "POST", f"/sandboxes/{box.id}/{verb}", {}, safe=True)
        return self.usable(box, got)

    def keepalive(self, box):
        self.move(box, "keepalive")

    def pause(self, box):
        if self.move(box, "pause"):
            (self.execute if self.dice.random() < 0.3 else lambda b: self.move(b, "resume"))(box)

    def stop(self, box):
        if self.move(box, "stop"):
            self.move(box, "start")

    def delete(self, box):
        self.boxes.remove(box)
        self.end(box)

    def end(self, box):
        box.doomed = True
        got = self.api.ask("delete", "DELETE", f"/sandboxes/{box.id}")
        if got is not None and got.status != 204:
            self.wrong(f"the delete of {box.id} was answered {got}")
        box.gone = got is not None and got.status == 204

    def usable(self, box, got, status=200):
        """Whether it was answered so; if the sandbox is not there for it, why not."""
        if got is not None and got.status == status:
            return True
        if got is None or got.status >= 500:
            return False
        now = self.api.ask("get", "GET", f"/sandboxes/{box.id}")
        if got.status == 409 and now and now.status == 200:
            self.leave(box, now.json)
        elif now is not None:
            self.wrong(f"{box.id} refused with {got}, and is {now}")
            if got.status in GONE:
                self.boxes.remove(box)
        return False

    def leave(self, box, now):
        """What is failed or stopped is started again, or given up."""
        if now["state"] in ("failed", "stopped"):
            if self.dice.random() < 0.5:
                self.ledger.count(f"found {now['state']}", (now["stateReason"] or {}).get("code"))
                self.api.ask("start", "POST", f"/sandboxes/{box.id}/start", {}, safe=True)
            else:
                self.delete(box)


class Follower:
    """A stream of a command, rejoined behind the last event that came until the command is over."""

    def __init__(self, actor, box):
        self.actor, self.box = actor, box
        self.id, self.last, self.text, self.over, self.gap = None, 0, "", None, False

    def take(self, stream):
        with stream:
            try:
                for number, event in stream.events():
                    self.event(int(number) if number else None, event)
            except BROKEN:
                pass

    def event(self, number, event):
        kind = event["type"]
        if kind == "start":
            self.id = self.id or event["execId"]
            self.box.commands.setdefault(self.id, Command(self.id, "stream"))
        if kind == "gap":
            self.gap = True
        elif kind == "error":
            pass  # it says why the stream ends here, and has no number of its own
        elif number is not None and number != self.last + 1 and not self.gap:
            self.actor.wrong(f"the stream of {self.id} in {self.box.id} came from event"
                             f" {self.last} to {number}: {event}")
        self.last = number if number is not None else self.last
        if kind == "stdout":
            self.text += event["data"]
        if kind in ("exit", "error"):
            self.over = kind
            if self.id:
                command = self.box.commands[self.id]
                command.exit_code, command.error = event.get("exitCode"), event.get("code")

    def rejoin(self):
        api = self.actor.api
        path = f"/sandboxes/{self.box.id}/execs/{self.id}/output"
        api.asking = (f"stream of GET {path}", (api.asking or (0, time.monotonic()))[1])
        got = api.stream("GET", path, None, {"Last-Event-ID": str(self.last)})
        if isinstance(got, sandboxd.Stream):
            api.ledger.count("stream", "rejoined")
            self.take(got)
        elif got is not None and got.status not in (429, 500, 502, 503, 504):
            self.over = f"refused {got.status}"
            self.actor.wrong(f"the stream of {self.id} in {self.box.id} could not be rejoined: {got}")
        api.over.wait(0.2)
