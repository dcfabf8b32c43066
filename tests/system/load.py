"""Clients that go on and on, for tests of what must not be noticed by any of them."""
import http.client
import itertools
import threading
import time

FAULTS = (AssertionError, OSError, http.client.HTTPException, ValueError, KeyError, StopIteration)


class Load:
    """Clients, each a thread that does one thing again and again, without a second try. What fails is
    in `faults`, how often each thing was done in `done`."""

    def __init__(self, api):
        self.api, self.over = api, threading.Event()
        self.done, self.faults, self.threads = {}, [], []

    def go_on(self, name, work):
        """A client that calls work(number) until stop()."""
        self.done.setdefault(name, 0)

        def run():
            for n in itertools.count():
                if self.over.is_set():
                    return
                try:
                    work(n)
                    self.done[name] += 1
                except FAULTS as fault:
                    self.faults.append(f"{time.strftime('%X')} {name} {n}: {fault!r}"[:600])
                    self.over.wait(0.1)
        thread = threading.Thread(target=run, name=name)
        thread.start()
        self.threads.append(thread)

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join(60)

    # what clients do

    def lives(self, _):
        box = self.api.create()["id"]
        assert self.api.exec(box, "echo alive")["stdout"] == "alive\n"
        got = self.api.delete(f"/sandboxes/{box}")
        assert got.status == 204, got

    def waits(self, box):
        def work(n):
            got = self.api.exec(box, f"sleep 0.3; echo {n}; exit 3")
            assert (got["stdout"], got["exitCode"]) == (f"{n}\n", 3), got
        return work

    def streams(self, box):
        def work(n):
            with self.api.exec_stream(box, f"for i in 1 2 3 4 5 6 7 8; do echo {n} $i; sleep 0.2;"
                                           " done; exit 5") as stream:
                assert stream.status == 200, stream.status
                events = [event for _, event in stream.events()]
            text = "".join(e["data"] for e in events if e["type"] == "stdout")
            assert text == "".join(f"{n} {i}\n" for i in range(1, 9)), text
            assert (events[-1]["type"], events[-1]["exitCode"]) == ("exit", 5), events[-1]
        return work

    def reads(self, box):
        def work(_):
            assert self.api.sandbox(box)["id"] == box
            assert self.api.get("/sandboxes?limit=5").status == 200
            self.over.wait(0.02)
        return work

    def carries(self, box):
        def work(n):
            content = f"{n:08}".encode() * 65536
            path = f"/sandboxes/{box}/files?path=/tmp/carried"
            got = self.api.call("PUT", path, content, {"Content-Type": "application/octet-stream"})
            assert got.status in (200, 201), got
            got = self.api.get(path)
            assert (got.status, got.body == content) == (200, True), got.status
        return work

    def keeps(self, number):
        """As lives(), repeatable, with a network now and then."""
        headers = {"Idempotency-Key": f"{id(self)}-{number}"}
        spec = {"template": "box", "network": {"mode": "open" if number % 4 == 0 else "none"}}
        made = [self.api.post("/sandboxes", spec, headers=headers) for _ in range(2)]
        assert [m.status for m in made] == [201, 201] and made[0].body == made[1].body, made
        path = f"/sandboxes/{made[0].json['id']}"
        got = [self.api.post(path + "/pause").status, self.api.exec(made[0].json["id"], "true")
               ["exitCode"], self.api.delete(path).status]
        assert got == [200, 0, 204], got

    def runs(self, number):
        got = self.api.post("/run", {"runtime": "python", "code": f"print({number} * 2)"})
        assert (got.status, got.json["stdout"]) == (200, f"{number * 2}\n"), got

    def remembers(self, box):
        """A context and two cells in it."""
        def work(number):
            path = f"/sandboxes/{box}/contexts"
            made = self.api.post(path, {"runtime": "python"})
            assert made.status == 201, made
            context = made.json["id"]
            for code, told in ((f"x = {number}", ""), ("print(x)", f"{number}\n")):
                got = self.api.post(f"/sandboxes/{box}/run", {"runtime": "python", "code": code,
                                                              "contextId": context})
                assert (got.status, got.json["stdout"]) == (200, told), got
            got = self.api.delete(f"{path}/{context}")
            assert got.status == 204, got
        return work

    def groups(self, boxes):
        def work(_):
            made = self.api.post("/groups", {"name": "soak", "sandboxes": boxes})
            assert made.status == 201, made
            path = f"/groups/{made.json['id']}"
            got = self.api.post(path + "/exec", {"command": "echo all"})
            assert got.status == 200 and len(got.json["results"]) == len(boxes), got
            got = self.api.delete(path)
            assert got.status in (200, 204), got
        return work

    def rests(self, box):
        def work(_):
            for verb in ("pause", "resume"):
                got = self.api.post(f"/sandboxes/{box}/{verb}")
                assert got.status == 200, got
            assert self.api.exec(box, "echo up")["stdout"] == "up\n"
        return work

    def looks(self, box):
        """A viewer that comes, reads a little, and leaves without a word; in each way."""
        def work(_):
            path = f"/sandboxes/{box}/logs?tail=5"
            with self.api.websocket(path) as socket:
                assert next(socket.frames())["type"] in ("logs", "state")
            stream = self.api.stream("GET", path)
            assert next(stream.events())
            stream.close()
            self.over.wait(0.05)
        return work

    def changes(self, box):
        def work(n):
            got = self.api.patch(f"/sandboxes/{box}", {"metadata": {"n": str(n)}})
            assert got.status == 200, got
            self.over.wait(0.1)
        return work


class Viewer:
    """Follows a log as clients are told to: behind what it has whenever it is cut."""

    def __init__(self, api, box, way):
        self.api, self.path, self.way = api, f"/sandboxes/{box}/logs", way
        self.entries, self.ends, self.others = [], [], []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.follow, name=way)
        self.thread.start()

    def last(self):
        return self.entries[-1]["seq"] if self.entries else 0

    def take(self, told):
        if told.get("type") == "logs":
            self.entries += told["entries"]
        elif "seq" in told:
            self.entries.append(told)
        elif told.get("type") != "state":
            self.others.append(told)

    def over_websocket(self):
        with self.api.websocket(f"{self.path}?since={self.last()}") as socket:
            if socket.status != 101:
                raise AssertionError(f"upgrade: {socket.status}")
            for frame in socket.frames():
                self.take(frame)
                if self.over.is_set():
                    return
            self.ends.append(socket.close_code)

    def over_events(self):
        with self.api.stream("GET", self.path + ("" if self.entries else "?since=0"), headers={
                "Last-Event-ID": str(self.last())} if self.entries else {}) as stream:
            if stream.status != 200:
                raise AssertionError(f"stream: {stream.status}")
            for _, event in stream.events():
                self.take(event)
                if self.over.is_set():
                    return
            self.ends.append("end")

    def follow(self):
        while not self.over.is_set():
            try:
                (self.over_websocket if self.way == "websocket" else self.over_events)()
            except FAULTS as fault:
                self.ends.append(repr(fault))
                self.over.wait(0.1)

    def stop(self):
        self.over.set()
        self.thread.join(60)
