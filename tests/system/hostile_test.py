"""What a hostile sandbox may try: callers get the defined answer or a clear error, the server's memory
does not grow, a neighbour's commands stay quick, and the sandbox can be deleted, leaving nothing.

Each test prints its numbers. A hostile sandbox gets half a processor. The neighbour's median during
the attack is held against that of just before and just after, as other work on the machine
blurs both."""
import contextlib
import http.client
import io
import statistics
import tarfile
import threading
import time
import unittest

import sandboxd
from sandboxd import Client, SystemCase, wait_for

service = api = near = None
GROWTH_KB = 24 * 1024  # of the server's resident memory, beyond what it had when it was warm
FACTOR, SLACK_MS = 4, 10  # the neighbour: so many times its median, and so much more
SAMPLES = 40
LIMITS = {"cpus": 0.5, "memoryMb": 256, "pids": 64}


def setUpModule():
    global service, api, near
    service, api = sandboxd.module_service()
    near = api.create()["id"]
    for _ in range(3 * SAMPLES):
        api.exec(near, ["true"])


def neighbour_ms(connection):
    """The median of some commands in the neighbour."""
    took = []
    for _ in range(SAMPLES):
        began = time.monotonic()
        got = api.call("POST", f"/sandboxes/{near}/exec", {"command": ["true"]}, connection=connection)
        took.append((time.monotonic() - began) * 1000)
        assert got.status == 200, got
    return statistics.median(took)


class HostileCase(SystemCase):
    limits = LIMITS

    def setUp(self):
        self.box = api.create(limits=self.limits)["id"]
        self.addCleanup(self.gone)

    def gone(self):
        """It can be deleted, and nothing is left of it."""
        began = time.monotonic()
        self.assertEqual(api.delete(f"/sandboxes/{self.box}").status, 204)
        self.assertLess(time.monotonic() - began, 20)
        wait_for(lambda: not service.container_exists(self.box), what="the end of its container")
        self.assertEqual(api.exec(near, "echo fine")["stdout"], "fine\n")

    @contextlib.contextmanager
    def bounded(self, client=None):
        """Around an attack, which goes on when the body is left; the neighbour is measured then."""
        server = (client or api).server
        with contextlib.closing(api.connect()) as connection:
            quiet, before, most = [neighbour_ms(connection)], server.rss_kb(), [0]
            over = threading.Event()

            def watch():
                while not over.wait(0.05):
                    most[0] = max(most[0], server.rss_kb())
            watcher = threading.Thread(target=watch)
            watcher.start()
            self.calm = lambda: None
            try:
                yield
                during = neighbour_ms(connection)
            finally:
                over.set()
                watcher.join()
            self.calm()
            quiet.append(neighbour_ms(connection))
        print(f"{self._testMethodName}: neighbour p50 {during:.2f} ms, quiet {quiet[0]:.2f} and "
              f"{quiet[1]:.2f} ms; server {most[0] - before:+d} KB")
        self.assertLess(most[0] - before, GROWTH_KB)
        self.assertLess(during, FACTOR * max(quiet) + SLACK_MS)

    def background(self, command, **more):
        got = api.post(f"/sandboxes/{self.box}/exec", {"command": command, "background": True, **more})
        self.assertEqual(got.status, 202, got)
        return got.json["execId"]

    def kill(self, exec_id):
        self.assertEqual(api.delete(f"/sandboxes/{self.box}/execs/{exec_id}").status, 204)

    def text(self, command, **more):
        return api.exec(self.box, command, **more)["stdout"]

    def works(self):
        self.assertEqual(self.text("echo works"), "works\n")


class ProcessTest(HostileCase):
    def test_it_kills_all_that_it_can_reach_of_its_agent(self):
        with self.bounded():
            for user in ("root", None):
                got = api.post(f"/sandboxes/{self.box}/exec",
                               {"command": "kill -9 -1 1; sleep 60", "timeoutMs": 5000,
                                **({"user": user} if user else {})})
                self.assertIn(got.status, (200, 502), got)
                if got.status == 200:
                    self.assertEqual(got.json["signal"], "KILL", got)
                else:
                    self.assert_problem(got, 502, "engine_error")
                self.works()
        self.assertEqual(api.state(self.box), "running")

    def test_it_floods_its_agent_with_connections(self):
        flood = ("for i in 1 2 3 4; do while :; do head -c 100000 /dev/urandom | "
                 "/.sbx/sbx-agent connect; done >/dev/null 2>&1 & done; wait")
        with self.bounded():
            one = self.background(flood)
            for _ in range(20):
                self.works()
            self.calm = lambda: self.kill(one)
        self.works()

    def test_it_forks_to_its_limit(self):
        limit = self.text("cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null")
        self.assertLess(int(limit), 200, "no limit of processes: refusing to run a fork bomb")
        with self.bounded():
            one = self.background("bomb() { bomb | bomb & }; bomb; sleep 1000")
            wait_for(lambda: api.get(f"/sandboxes/{self.box}/stats").json["pids"] > 50, 20, "the bomb")
            self.assertEqual(self.text("echo works"), "works\n")
            self.calm = lambda: self.kill(one)
        wait_for(lambda: api.get(f"/sandboxes/{self.box}/stats").json["pids"] < 10, 20, "room again")
        self.works()

    def test_it_daemonises(self):
        with self.bounded():
            one = api.exec(self.box, "(setsid sh -c 'while :; do :; done' >/dev/null 2>&1 &); echo left")
            self.assertEqual((one["stdout"], one["exitCode"]), ("left\n", 0))
            self.assertEqual(self.text("ps | grep -c '[w]hile :; do :'").strip(), "1")
            self.calm = lambda: self.kill(one["execId"])
        wait_for(lambda: self.text("ps | grep -c '[w]hile :; do :'").strip() == "0", what="its end")

    def test_it_stops_what_should_answer(self):
        with self.bounded():
            one = self.background("sleep 1000", timeoutMs=2000)
            two = self.background("while :; do kill -STOP -1; done", user="root", timeoutMs=4000)
            told = wait_for(lambda: (lambda x: x if x["state"] != "running" else None)(
                api.get(f"/sandboxes/{self.box}/execs/{one}").json), 20, "the time-out")
            self.assertTrue(told["timedOut"], told)
            wait_for(lambda: api.get(f"/sandboxes/{self.box}/execs/{two}").json["state"] != "running",
                     20, "the time-out of the one that stops")
            self.works()


class OutputTest(HostileCase):
    def test_it_writes_for_ever(self):
        with self.bounded():
            self.background("yes no")
            with api.exec_stream(self.box, "yes") as unread, \
                    api.exec_stream(self.box, "cat /dev/urandom") as read:
                self.assertEqual((unread.status, read.status), (200, 200))
                events = read.events()
                for _ in range(200):
                    next(events)
                got = api.exec(self.box, "yes", timeoutMs=1500)
                self.assertTrue(got["timedOut"] and got["truncated"], str(got)[:300])
                self.assertLessEqual(len(got["stdout"]), 1 << 20)
                with api.stream("GET", f"/sandboxes/{self.box}/logs?tail=1") as log:
                    lines = log.events()
                    for _ in range(20):
                        next(lines)
        self.works()

    def test_it_fills_what_it_can_write_to(self):
        with self.bounded():
            got = api.exec(self.box, "dd if=/dev/zero of=/dev/shm/x bs=1M count=500")
            self.assertNotEqual(got["exitCode"], 0)
            self.assertIn("No space left", got["stderr"])
            put = api.call("PUT", f"/sandboxes/{self.box}/files?path=/dev/shm/y", bytes(1 << 20))
            told = self.assert_problem(put, 409, "conflict")
            self.assertTrue(told["detail"].startswith("no_space:"), told)
            self.works()
        self.assertEqual(self.text("rm /dev/shm/x; ls -A /dev/shm"), "")


class FilesCase(HostileCase):
    def files(self, route="", **query):
        query = "&".join(f"{name}={value}" for name, value in query.items())
        return f"/sandboxes/{self.box}/files{route}?{query}"


class ManyFilesTest(FilesCase):
    limits = {**LIMITS, "cpus": 2}  # or the hundred thousand take half a minute

    def test_it_makes_a_hundred_thousand_files(self):
        with self.bounded():
            self.text("mkdir /tmp/many; cd /tmp/many; seq 100000 | xargs -n 5000 touch")
            told = api.get(self.files("/list", path="/tmp/many")).json
            self.assertEqual(len(told["items"]), 1000)
            with contextlib.closing(api.connect(60)) as connection:
                connection.request("GET", self.files("/archive", path="/tmp/many"), None, api.headers())
                with connection.getresponse() as response, \
                        tarfile.open(fileobj=response, mode="r|gz") as tar:
                    self.assertEqual(sum(member.isfile() for member in tar), 100000)
            self.assertEqual(api.delete(self.files(path="/tmp/many", recursive="true"),
                                        timeout=60).status, 204)


class LinksTest(FilesCase):
    def test_it_swaps_a_folder_for_a_link_while_that_is_archived(self):
        with self.bounded():
            one = self.background("cd /tmp; mkdir -p top/d real/; i=0; while [ $i -lt 300 ]; do "
                                  "i=$((i+1)); echo mine >top/d/f$i; done; touch on; while :; do "
                                  "mv top/d real/d; ln -s /etc top/d; rm top/d; mv real/d top/d; done")
            wait_for(lambda: self.text("ls /tmp").count("on\n"), what="the swapping")
            for _ in range(20):
                got = api.get(self.files("/archive", path="/tmp/top"))
                if got.status == 200:
                    with contextlib.suppress(tarfile.ReadError, EOFError, http.client.IncompleteRead), \
                            tarfile.open(fileobj=io.BytesIO(got.body)) as tar:
                        names = [m.name for m in tar if m.isfile()]
                        self.assertFalse([n for n in names if "passwd" in n or "group" in n])
                else:
                    self.assertIn(got.status, (400, 404, 409, 412, 502), got)
                    self.assertTrue(got.json["detail"])
            self.calm = lambda: self.kill(one)


# The container's first process in the place of the agent: answers the greeting, and then misbehaves.
FALSE_AGENT = r"""#!/bin/sh
octal() { echo "$1" | sed 's/../& /g' | awk 'BEGIN { x = "0123456789abcdef" } { for (i = 1; i <= NF; i++)
    printf "\\%03o", 16 * (index(x, substr($i, 1, 1)) - 1) + index(x, substr($i, 2, 1)) - 1 }'; }
dd bs=1 count=24 of=/dev/null 2>/dev/null
printf '\000SBXSYN\001'; printf "$(octal $SBX_AGENT_TOKEN)"; printf '\001\000\000\000\000\000\000\000'
printf '\016\000\000\000\100\000\001\000\000\000\000\000'  # WELCOME of epoch 1, 14 bytes
printf '\020\000\010\000\000\000\002\000\000\000\000\000\000\000'  # a version of 2
case $MODE in
garbage) exec cat /dev/urandom ;;
oversized) printf '\377\377\377\177\102\000\001\000\001\000\000\000'; exec cat /dev/zero ;;
closes) exit 3 ;;
esac
"""


class FalseAgentTest(HostileCase):
    """One that has broken its agent, and speaks in its place."""

    @classmethod
    def setUpClass(cls):
        program = service.folder / "false-agent"
        program.write_text(FALSE_AGENT)
        cls.mine = sandboxd.Service(env={"SBX_AGENT_PATH": program,
                                         "SBX_FILES_PATH": sandboxd.BIN / "sbx-files"})
        cls.addClassCleanup(cls.mine.close)
        cls.client = Client(cls.mine.start(), cls.mine.key())

    def setUp(self):
        pass

    def misbehaves(self, mode, statuses):
        image = sandboxd.make_image(f"sbxtest-hostile-{mode}:1", sandboxd.box_files(),
                                    [f"ENV MODE={mode}"])
        with self.bounded(self.client):
            got = self.client.post("/sandboxes", {"image": image, "limits": LIMITS})
            self.assertIn(got.status, statuses, got)
            box = got.json["id"] if got.status == 201 else got.json["sandboxId"]
            began = time.monotonic()
            told = self.client.post(f"/sandboxes/{box}/exec", {"command": "true", "timeoutMs": 2000},
                                    timeout=60)
            self.assertIn(told.status, (409, 502, 503, 504), told)
            self.assert_problem(told, told.status, told.json["code"])
            self.assertLess(time.monotonic() - began, 40)
        began = time.monotonic()
        self.assertEqual(self.client.delete(f"/sandboxes/{box}").status, 204)
        self.assertLess(time.monotonic() - began, 20)
        self.assertFalse(self.mine.container_exists(box))

    def test_it_sends_garbage(self):
        self.misbehaves("garbage", (201, 502))

    def test_it_sends_an_oversized_frame(self):
        self.misbehaves("oversized", (201, 502))

    def test_it_closes_the_channel(self):
        self.misbehaves("closes", (201, 502))


if __name__ == "__main__":
    unittest.main()
