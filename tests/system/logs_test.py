"""The log of a sandbox: pages, server-sent events, WebSockets; in one worker and across two."""
import threading
import unittest

import sandboxd
from sandboxd import Client, SystemCase, wait_for

service = api = None


def setUpModule():
    global service, api
    service, api = sandboxd.module_service()


def printer(count, pause="", text="line"):
    return f"i=0; while [ $i -lt {count} ]; do i=$((i+1)); echo {text}$i; {pause} done"


def entry_ok(case, entry):
    case.assertEqual(set(entry) - {"encoding"}, {"seq", "ts", "stream", "source", "execId", "data"})
    case.assertIn(entry["stream"], ("stdout", "stderr", "system"))


def own(entries):
    return [e["data"] for e in entries if e["source"] != "system"]


class PageTest(SystemCase):
    def test_lines_of_commands_are_kept_in_order_with_their_exec(self):
        box = api.create()["id"]
        first = api.exec(box, "echo a; echo b; printf c")
        second = api.exec(box, "echo d >&2")
        got = wait_for(lambda: (lambda e: e if len(own(e)) >= 4 else None)(api.logs(box)),
                       what="four lines")
        for entry in got:
            entry_ok(self, entry)
        self.assertEqual([e["seq"] for e in got], list(range(got[0]["seq"],
                                                             got[0]["seq"] + len(got))))
        mine = [(e["data"], e["stream"], e["source"], e["execId"]) for e in got
                if e["source"] == "exec"]
        self.assertEqual(mine, [("a", "stdout", "exec", first["execId"]),
                                ("b", "stdout", "exec", first["execId"]),
                                ("c", "stdout", "exec", first["execId"]),
                                ("d", "stderr", "exec", second["execId"])])

    def test_pages_tail_since_until_and_source_select(self):
        box = api.create(command=printer(30, text="m"))["id"]
        wait_for(lambda: "m30" in own(api.logs(box)), what="the main process")
        api.exec(box, printer(20, text="x"))
        wait_for(lambda: "x20" in own(api.logs(box, "?limit=200")), what="the command")
        every = api.logs(box, "?limit=200")
        seqs = {e["data"]: e["seq"] for e in every}
        self.assertEqual([e["data"] for e in api.logs(box, "?tail=3&source=exec")],
                         ["x18", "x19", "x20"])
        self.assertEqual([e["data"] for e in api.logs(box, "?source=main")],
                         [f"m{i}" for i in range(1, 31)])
        self.assertEqual([e["seq"] for e in api.logs(box, f"?since={seqs['m10']}&limit=2")],
                         [seqs["m10"] + 1, seqs["m10"] + 2])
        upto = api.logs(box, f"?until={seqs['m5']}")
        self.assertLessEqual(max(e["seq"] for e in upto), seqs["m5"])
        got, cursor = [], ""
        while cursor is not None:
            page = api.get(f"/sandboxes/{box}/logs?limit=7{'&cursor=' + cursor if cursor else ''}")
            got += page.json["items"]
            self.assertLessEqual(len(page.json["items"]), 7)
            cursor = page.json["nextCursor"]
        self.assertEqual(got, every)
        for query, field in (("tail=-1", "tail"), ("tail=1001", "tail"), ("since=x", "since"),
                             ("source=moon", "source"), ("limit=0", "limit"),
                             ("limit=201", "limit"), ("until=", "until"), ("since=-5", "since")):
            self.assert_problem(api.get(f"/sandboxes/{box}/logs?{query}"), 400, "invalid_request",
                                field)

    def test_a_thousand_lines_are_kept(self):
        box = api.create()["id"]
        api.exec(box, printer(1500))
        got = wait_for(lambda: (lambda e: e if e[-1:] and e[-1]["data"] == "line1500" else None)(
            [e for e in api.logs(box, "?tail=1000")]), what="the last line")
        self.assertEqual(own(got)[-900:], [f"line{i}" for i in range(601, 1501)])
        self.assertEqual(len(got), 1000)

    def test_a_line_that_is_no_text_is_carried(self):
        box = api.create()["id"]
        api.exec(box, r"printf '\377\376\n'; printf '\342\202\254\n'")
        got = wait_for(lambda: (lambda e: e if len(e) == 2 else None)(
            api.logs(box, "?source=exec")), what="two lines")
        self.assertEqual((got[0]["encoding"], got[0]["data"]), ("base64", "//4="))
        self.assertEqual(got[1]["data"], "€")

    def test_a_line_without_end_is_cut_and_bounded(self):
        box = api.create()["id"]
        api.exec(box, "head -c 300000 /dev/zero | tr '\\0' z")
        got = wait_for(lambda: (lambda e: e if sum(map(len, e)) == 300000 else None)(
            own(api.logs(box, "?source=exec"))), what="all of it")
        self.assertLessEqual(max(map(len, got)), 64 * 1024)


class StreamTest(SystemCase):
    def collect(self, box, until, headers=None, query=""):
        """Entries (with their event ids) until the line `until`."""
        got = []
        with api.stream("GET", f"/sandboxes/{box}/logs{query}", headers=headers) as stream:
            self.assertEqual(stream.status, 200)
            for number, event in stream.events():
                entries = event.get("entries", [event] if "seq" in event else [])
                got += [(number, e) for e in entries]
                if any(e["data"] == until for e in entries):
                    return got
        raise AssertionError(f"the stream ended before {until}")

    def test_history_comes_first_and_new_lines_follow(self):
        box = api.create()["id"]
        api.exec(box, printer(5, text="old"))
        late = threading.Timer(0.3, api.exec, (box, printer(5, text="new")))
        late.start()
        got = [e for _, e in self.collect(box, "new5")]
        late.join()
        self.assertEqual(own(got), [f"old{i}" for i in range(1, 6)] +
                         [f"new{i}" for i in range(1, 6)])
        seqs = [e["seq"] for e in got]
        self.assertEqual(seqs, list(range(seqs[0], seqs[0] + len(seqs))))

    def test_resuming_by_the_last_id_neither_loses_nor_repeats(self):
        box = api.create(command=printer(300, "usleep 10000;"))["id"]
        got = []
        for until in ("line60", "line150", "line220", "line300"):
            headers = {"Last-Event-ID": str(got[-1][0])} if got else None
            got += self.collect(box, until, headers)
        seqs = [e["seq"] for _, e in got]
        self.assertEqual(seqs, list(range(seqs[0], seqs[0] + len(seqs))))
        self.assertEqual([d for d in own([e for _, e in got]) if d.startswith("line")],
                         [f"line{i}" for i in range(1, 301)])

    def test_two_viewers_see_the_same(self):
        box = api.create(command=printer(100, "usleep 5000;"))["id"]
        results = []
        viewers = [threading.Thread(target=lambda: results.append(
            [e for _, e in self.collect(box, "line100")])) for _ in range(2)]
        for viewer in viewers:
            viewer.start()
        for viewer in viewers:
            viewer.join(30)
        self.assertEqual(len(results), 2)
        for result in results:
            self.assertEqual([d for d in own(result) if d.startswith("line")],
                             [f"line{i}" for i in range(1, 101)])

    def test_a_viewer_of_an_unknown_sandbox_is_404_and_of_a_deleted_one_410(self):
        with api.stream("GET", f"/sandboxes/{'a' * 20}/logs") as stream:
            self.assertEqual(stream.status, 404)
        self.assertEqual(api.websocket(f"/sandboxes/{'a' * 20}/logs").status, 404)
        box = api.create()["id"]
        api.delete(f"/sandboxes/{box}")
        with api.stream("GET", f"/sandboxes/{box}/logs") as stream:
            self.assertEqual(stream.status, 410)

    def test_a_viewer_without_a_key_is_401(self):
        nobody = Client(api.server)
        with nobody.stream("GET", f"/sandboxes/{'a' * 20}/logs") as stream:
            self.assertEqual(stream.status, 401)
        self.assertEqual(nobody.websocket(f"/sandboxes/{'a' * 20}/logs").status, 401)

    def test_a_viewer_that_does_not_read_holds_up_nobody(self):
        box = api.create()["id"]
        before = api.server.rss_kb()
        with api.stream("GET", f"/sandboxes/{box}/logs") as stuck:
            self.assertEqual(stuck.status, 200)
            api.exec(box, "dd if=/dev/zero bs=1000 count=20000 2>/dev/null | tr '\\0' y | fold")
            self.assertEqual(api.exec(box, "echo last")["stdout"], "last\n")
            wait_for(lambda: "last" in own(api.logs(box, "?tail=3")), 30, "the last line")
        self.assertLess(api.server.rss_kb() - before, 60 * 1024)


class WebSocketTest(SystemCase):
    def test_frames_carry_entries_states_and_the_end(self):
        box = api.create()["id"]
        api.exec(box, "echo before")
        with api.websocket(f"/sandboxes/{box}/logs") as socket:
            self.assertEqual(socket.status, 101)
            frames = socket.frames()
            lines, seen = [], []
            while "before" not in lines:
                frame = next(frames)
                lines += own(frame.get("entries", []))
            api.exec(box, printer(50))
            while "line50" not in lines:
                frame = next(frames)
                seen.append(frame["type"])
                for entry in frame.get("entries", []):
                    entry_ok(self, entry)
                lines += own(frame.get("entries", []))
            self.assertEqual(lines, ["before"] + [f"line{i}" for i in range(1, 51)])
            self.assertLess(seen.count("logs"), 10)
            self.assertEqual(api.delete(f"/sandboxes/{box}").status, 204)
            rest = list(frames)
        self.assertEqual(rest[-1], {"type": "end"})
        self.assertEqual(socket.close_code, 1000)
        states = [f["sandbox"]["state"] for f in rest if f["type"] == "state"]
        self.assertEqual(states[-1:], ["deleted"], rest)

    def test_since_resumes(self):
        box = api.create()["id"]
        api.exec(box, printer(10))
        seqs = wait_for(lambda: {e["data"]: e["seq"] for e in api.logs(box)
                                 if e["data"] == "line10"} and
                        {e["data"]: e["seq"] for e in api.logs(box)}, what="lines")
        with api.websocket(f"/sandboxes/{box}/logs?since={seqs['line4']}") as socket:
            lines = []
            for frame in socket.frames():
                lines += own(frame.get("entries", []))
                if "line10" in lines:
                    break
        self.assertEqual(lines, [f"line{i}" for i in range(5, 11)])

    def test_a_key_in_the_subprotocol_is_accepted(self):
        box = api.create()["id"]
        socket = sandboxd.WebSocket(api.server.port, f"/sandboxes/{box}/logs",
                                    {"Sec-WebSocket-Protocol": f"sandboxd.v1, bearer.{api.key}"})
        self.addCleanup(socket.close)
        self.assertEqual(socket.status, 101)
        self.assertEqual(socket.headers["Sec-WebSocket-Protocol"], "sandboxd.v1")


class RedisTest(SystemCase):
    @classmethod
    def setUpClass(cls):
        if not sandboxd.REDIS_URL:
            raise AssertionError("SBX_TEST_REDIS_URL is not set: run tests/run")
        cls.service = sandboxd.Service(env={"REDIS_URL": sandboxd.REDIS_URL})
        cls.addClassCleanup(cls.service.close)
        cls.a = Client(cls.service.start(), cls.service.key())
        cls.b = Client(cls.service.start(), cls.a.key)

    def test_the_main_job_works_over_redis(self):
        for client in (self.a, self.b):
            box = client.create()["id"]
            self.assertEqual(client.exec(box, "echo hi")["stdout"], "hi\n")
            self.assertEqual(self.a.sandbox(box), self.b.sandbox(box))
            wait_for(lambda c=client, x=box: own(c.logs(x)) == ["hi"], what="the line")
            self.assertEqual(client.delete(f"/sandboxes/{box}").status, 204)

    def test_a_viewer_sees_the_lines_of_a_sandbox_that_another_worker_holds(self):
        box = self.a.create(command=printer(60, "usleep 10000;"))["id"]
        with self.b.websocket(f"/sandboxes/{box}/logs") as socket:
            self.assertEqual(socket.status, 101)
            entries = []
            frames = socket.frames()
            while "line60" not in own(entries):
                frame = next(frames)
                self.assertNotEqual(frame["type"], "gap", frame)
                entries += frame.get("entries", [])
            seqs = [e["seq"] for e in entries]
            self.assertEqual(seqs, list(range(seqs[0], seqs[0] + len(seqs))))
            self.assertEqual([d for d in own(entries) if d.startswith("line")],
                             [f"line{i}" for i in range(1, 61)])
            wait_for(lambda: "line60" in own(self.b.logs(box, "?tail=10")), what="the page")
            self.assertEqual(self.a.delete(f"/sandboxes/{box}").status, 204)
            self.assertEqual(list(frames)[-1], {"type": "end"})

    def test_another_worker_runs_commands_and_deletes(self):
        box = self.a.create()["id"]
        self.assertEqual(self.b.exec(box, "echo x")["stdout"], "x\n")
        self.assertEqual(self.b.delete(f"/sandboxes/{box}").status, 204)
        self.assertEqual(self.a.state(box), "deleted")
        self.assertFalse(self.service.container_exists(box))

    def test_the_other_worker_takes_over_when_the_holder_dies(self):
        third = Client(self.service.start(), self.a.key)
        box = third.create(command=printer(100000, "usleep 50000;"))["id"]
        with self.a.websocket(f"/sandboxes/{box}/logs") as socket:
            frames, entries = socket.frames(), []
            while "line5" not in own(entries):
                entries += next(frames).get("entries", [])
            third.server.kill()
            more = len(entries) + 20
            while len(entries) < more:
                frame = next(frames)
                self.assertNotEqual(frame["type"], "gap", frame)
                entries += frame.get("entries", [])
        seqs = [e["seq"] for e in entries]
        self.assertEqual(seqs, list(range(seqs[0], seqs[0] + len(seqs))))

        def held():
            return any(c.post(f"/sandboxes/{box}/exec", {"command": "true"}).status == 200
                       for c in (self.a, self.b))
        wait_for(held, 30, "another holder", 0.3)
        self.assertEqual(self.a.delete(f"/sandboxes/{box}").status, 204)


if __name__ == "__main__":
    unittest.main()
