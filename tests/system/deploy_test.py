"""deploy/up and deploy/down from outside: a whole installation in a state directory of its own.

The engine is the one that the tests use, so it must be left as it was.
"""

import fcntl
import hashlib
import os
import pathlib
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

REPO = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "deploy/lib"))
from engine import CLUSTER_LABEL, Engine  # noqa: E402

TIMEOUT_S = 900
ALONE = True
UP, DOWN = REPO / "deploy/up", REPO / "deploy/down"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run(*command, env=None, timeout=600):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SBX_TEST")}
    environment.pop("DATABASE_URL", None)
    return subprocess.run([str(part) for part in command], capture_output=True, text=True,
                          timeout=timeout, stdin=subprocess.DEVNULL, check=False,
                          env={**environment, **(env or {})})


def user_of(pid):
    return pwd.getpwuid(os.stat(f"/proc/{pid}").st_uid).pw_name


def alive(pid):
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in ("Z", "X")


class BadCalls(unittest.TestCase):
    """What must be refused before anything happens."""

    def setUp(self):
        self.top = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.top)

    def refused(self, words, *command, env=None):
        done = run(*command, env=env)
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertRegex(done.stderr, words)
        self.assertIn("what to do: ", done.stderr)

    def test_unknown_options_and_missing_values_are_refused(self):
        self.refused("unknown option --bogus", UP, "--bogus")
        self.refused("--port needs a value", UP, "--port")
        self.refused("unknown option x", DOWN, "x")

    def test_impossible_addresses_are_refused(self):
        for port in ("0x50", "99999", "", "80 81", "-1"):
            with self.subTest(port):
                self.refused("port|ADDRESS", UP, "--state-dir", self.top, "--port", port)

    def test_a_state_directory_with_strange_characters_is_refused(self):
        self.refused("letters, digits", UP, "--state-dir", self.top / "a b;c")

    def test_a_state_directory_too_long_for_a_socket_is_refused(self):
        self.refused("too long", UP, "--state-dir", self.top / ("x" * 90))

    def test_another_user_than_root_is_told_what_to_do(self):
        copy = self.top / "deploy"  # the repository may lie where others cannot read
        shutil.copytree(REPO / "deploy", copy)
        self.top.chmod(0o755)
        self.refused("must run as root", "setpriv", "--reuid", "65534", "--clear-groups", copy / "up")

    def test_an_engine_that_does_not_answer_is_named(self):
        self.refused(r"no Docker Engine answers at DOCKER_HOST=unix:///nowhere\.sock", UP,
                     "--state-dir", self.top / "s", env={"DOCKER_HOST": "unix:///nowhere.sock"})

    def test_down_without_an_installation_says_so(self):
        done = run(DOWN, "--state-dir", self.top / "none", "--purge")
        self.assertEqual((done.returncode, "there is no installation" in done.stdout), (0, True))

    def test_down_with_purge_keeps_what_it_does_not_know(self):
        state = self.top / "s"
        (state / "bin").mkdir(parents=True)
        (state / "letters").write_text("mine")
        done = run(DOWN, "--state-dir", state, "--purge")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual([p.name for p in state.iterdir()], ["letters"])


class Installation(unittest.TestCase):
    """One installation through its life; the methods run in the order of their names."""

    @classmethod
    def setUpClass(cls):
        cls.top = pathlib.Path(tempfile.mkdtemp())
        cls.top.chmod(0o755)  # PostgreSQL's user must get through
        cls.state = cls.top / "s"
        cls.port = free_port()
        cls.url = f"http://127.0.0.1:{cls.port}"
        cls.users_before = {u for u in ("sandboxd", "sandboxd-pg") if cls.user_exists(u)}
        cls.pids = set()
        cls.first = run(UP, "--state-dir", cls.state, "--port", cls.port)

    @classmethod
    def tearDownClass(cls):
        run(DOWN, "--state-dir", cls.state, "--purge")
        shutil.rmtree(cls.top, ignore_errors=True)

    @staticmethod
    def user_exists(name):
        try:
            return bool(pwd.getpwnam(name))
        except KeyError:
            return False

    def up(self, *options):
        done = run(UP, "--state-dir", self.state, *options)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def server_pid(self):
        pid = int((self.state / "run/sandboxd.pid").read_text().split()[0])
        self.pids.add(pid)
        return pid

    def postgres_pid(self):
        pid = int((self.state / "postgres/data/postmaster.pid").read_text().split()[0])
        self.pids.add(pid)
        return pid

    def health(self):
        with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
            return answer.status

    def fingerprint(self):
        """Of everything that a second run must leave as it is."""
        files = ["config", "secret", "key", "bin/sandboxd", "bin/sbx-agent", "bin/sbx-files", "bin/sbx"]
        return {name: (hashlib.sha256((self.state / name).read_bytes()).hexdigest(),
                       (self.state / name).stat().st_mtime_ns) for name in files}

    def container(self, label):
        key, _, value = label.partition("=")
        body = {"Image": "sandboxd/python:1", "Cmd": ["true"], "Labels": {key: value}}
        return Engine().call("POST", "/containers/create", json_body=body)["Id"]

    def test_1_the_first_run_ends_with_url_and_key_file(self):
        self.assertEqual(self.first.returncode, 0, self.first.stdout + self.first.stderr)
        lines = self.first.stdout.splitlines()
        self.assertEqual(lines[-2:], [f"SBX_URL={self.url}", f"SBX_KEY_FILE={self.state}/key"])
        self.assertEqual(stat.S_IMODE((self.state / "key").stat().st_mode), 0o600)
        self.assertEqual(stat.S_IMODE((self.state / "secret").stat().st_mode), 0o600)
        self.assertEqual(self.health(), 200)

    def test_1_the_main_job_has_run_python_and_node_live(self):
        output = self.first.stdout
        self.assertRegex(output, r"\| Python 3\.\d+")
        self.assertRegex(output, r"\| Node\.js v\d+")
        for template in ("python", "node"):
            self.assertRegex(output, rf"{template}: create \d+ ms, first output \d+ ms, run \d+ ms, "
                                     r"delete \d+ ms")
        times = [float(t) for t in re.findall(r"^ +(\d+\.\d+) s \| \d squared", output, re.M)]
        self.assertEqual(len(times), 5)
        self.assertGreater(times[-1] - times[0], 0.4, "the output came all at once")

    def test_2_server_and_database_run_as_users_of_their_own(self):
        self.assertEqual(user_of(self.server_pid()), "sandboxd")
        self.assertEqual(user_of(self.postgres_pid()), "sandboxd-pg")

    def test_2_the_database_lets_only_the_server_in(self):
        socket_dir = self.state / "postgres/run"
        psql = next(pathlib.Path("/usr/lib/postgresql").glob("*/bin/psql"))
        for user in ("nobody", "sandboxd"):
            with self.subTest(user):
                done = run("setpriv", "--reuid", user, "--regid", str(pwd.getpwnam(user).pw_gid),
                           "--clear-groups", psql, "-h", socket_dir, "-U", "sandboxd", "-tAc",
                           "SELECT 1", "sandboxd")
                self.assertEqual(done.returncode == 0, user == "sandboxd", done.stderr)
        listening = pathlib.Path(f"/proc/{self.postgres_pid()}/net/tcp").read_text()
        self.assertNotIn(":1538 ", listening.split("rem_address")[0], "listens on port 5432")

    def test_3_a_second_run_takes_seconds_and_changes_nothing(self):
        before, pids = self.fingerprint(), (self.server_pid(), self.postgres_pid())
        began = time.monotonic()
        output = self.up()  # without --port: what was chosen is remembered
        self.assertLess(time.monotonic() - began, 20)
        self.assertEqual(self.fingerprint(), before)
        self.assertEqual((self.server_pid(), self.postgres_pid()), pids)
        self.assertEqual(output.splitlines()[-2], f"SBX_URL={self.url}")

    def test_4_a_server_that_was_killed_is_started_again(self):
        before = self.server_pid()
        os.kill(before, signal.SIGKILL)
        self.up("--no-demo")
        self.assertNotEqual(self.server_pid(), before)
        self.assertEqual(self.health(), 200)

    def test_4_a_key_that_does_not_work_is_replaced(self):
        (self.state / "key").write_text("wrong\n")
        self.assertRegex(self.up("--no-demo"), r"key \.\.\. +made")
        self.assertNotEqual((self.state / "key").read_text(), "wrong\n")

    def test_4_lines_of_the_operator_stay_and_a_change_restarts(self):
        before = self.server_pid()
        with (self.state / "config").open("a") as config:
            config.write("SBX_LOG_LEVEL=warn\n")
        self.up("--no-demo")
        self.assertIn("SBX_LOG_LEVEL=warn\n", (self.state / "config").read_text())
        self.assertNotEqual(self.server_pid(), before)
        after = self.server_pid()
        self.up("--no-demo")
        self.assertEqual(self.server_pid(), after)

    def test_5_a_second_up_at_the_same_time_is_refused(self):
        with (self.state / "run/lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = run(UP, "--state-dir", self.state)
        self.assertEqual(done.returncode, 1)
        self.assertIn("another deploy/up or deploy/down", done.stderr)

    def test_5_a_port_in_use_is_named(self):
        before = self.server_pid()
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            done = run(UP, "--state-dir", self.state, "--no-demo", "--port", port)
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"something else answers at http://127.0.0.1:{port}", done.stderr)
        self.assertEqual((self.server_pid(), self.health()), (before, 200))

    def test_6_down_stops_all_and_up_continues_with_the_same_data(self):
        key = (self.state / "key").read_text()
        pids = {self.server_pid(), self.postgres_pid()}
        done = run(DOWN, "--state-dir", self.state)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual([pid for pid in pids if alive(pid)], [])
        self.assertRegex(self.up("--no-demo"), r"key \.\.\. +kept")
        self.assertEqual((self.state / "key").read_text(), key)

    def test_7_purge_leaves_nothing_but_the_engine(self):
        self.pids |= {self.server_pid(), self.postgres_pid()}
        label = f"{CLUSTER_LABEL}={(self.state / 'run/cluster').read_text().strip()}"
        ours, other = self.container(label), self.container("sandboxd.cluster=deploytest")
        self.addCleanup(Engine().remove_container, other)
        done = run(DOWN, "--state-dir", self.state, "--purge")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual(Engine().containers(label), [], ours)
        self.assertEqual([c["Id"] for c in Engine().containers("sandboxd.cluster=deploytest")], [other])
        self.assertFalse(self.state.exists())
        self.assertEqual([pid for pid in self.pids if alive(pid)], [])
        after = {u for u in ("sandboxd", "sandboxd-pg") if self.user_exists(u)}
        self.assertEqual(after, self.users_before)
        self.assertEqual(run("python3", REPO / "deploy/lib/engine.py", "version").returncode, 0)


if __name__ == "__main__":
    unittest.main()
