#!/usr/bin/python3
"""sbx-agent as the entrypoint of a real, hardened container."""
import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import agent_proto as P  # noqa: E402
from agent_harness import BINARY, PATH, make_root, wait_for  # noqa: E402

IMAGE = "sbxtest-busybox:1"
LABEL = "sbx-agent-test=%s" % secrets.token_hex(6)
PIDS, RESERVE = 60, 16
MEMORY = 64 << 20


def docker(*args, **kw):
    return subprocess.run(("docker",) + args, check=True, capture_output=True, text=True, **kw).stdout


def make_image():
    if docker("images", "-q", IMAGE).strip():
        return
    root = tempfile.mkdtemp(prefix="sbx-agent-image-")
    try:
        make_root(root)
        shutil.rmtree(os.path.join(root, ".sbx"))
        tar = subprocess.run(["tar", "-C", root, "-c", "."], check=True, capture_output=True).stdout
        subprocess.run(["docker", "import", "-", IMAGE], input=tar, check=True, capture_output=True)
    finally:
        shutil.rmtree(root)


class Engine(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        host = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
        self.sock.connect(host.removeprefix("unix://"))


class ContainerTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        make_image()

    def setUp(self):
        self.name = "sbx-agent-test-" + secrets.token_hex(6)
        self.volume = self.name + "-bin"
        self.token = secrets.token_bytes(16)
        self.addCleanup(self.remove)
        docker("volume", "create", "--label", LABEL, self.volume)
        helper = docker("create", "--label", LABEL, "-v", self.volume + ":/.sbx", IMAGE, "true").strip()
        docker("cp", BINARY, helper + ":/.sbx/sbx-agent")
        docker("rm", helper)
        self.create()
        self.attach = subprocess.Popen(["docker", "start", "-ai", self.name],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.agent = P.Agent(self.attach.stdin.fileno(), self.attach.stdout.fileno(), self.token)
        self.agent.greet(pids=PIDS)

    def create(self):
        """By the API: the command-line client always asks for StdinOnce."""
        spec = {
            "Image": IMAGE, "Entrypoint": ["/.sbx/sbx-agent"], "OpenStdin": True,
            "StdinOnce": False, "AttachStdin": True, "AttachStdout": True,
            "Labels": dict([LABEL.split("=")]),
            "Env": ["SBX_AGENT_TOKEN=" + self.token.hex(), "PATH=" + PATH],
            "HostConfig": {
                "NetworkMode": "none", "LogConfig": {"Type": "none"}, "CapDrop": ["ALL"],
                "CapAdd": ["SETUID", "SETGID", "KILL", "CHOWN", "DAC_OVERRIDE", "FOWNER"],
                "SecurityOpt": ["no-new-privileges"], "PidsLimit": PIDS + RESERVE,
                "Memory": MEMORY, "MemorySwap": MEMORY,
                "Mounts": [{"Type": "volume", "Source": self.volume, "Target": "/.sbx",
                            "ReadOnly": True}],
            },
        }
        engine = Engine("localhost")
        engine.request("POST", "/containers/create?name=" + self.name, json.dumps(spec),
                       {"Content-Type": "application/json"})
        answer = engine.getresponse()
        text = answer.read()
        engine.close()
        self.assertEqual(answer.status, 201, text)

    def remove(self):
        for args in (("rm", "-f", "-v", self.name), ("volume", "rm", "-f", self.volume)):
            subprocess.run(("docker",) + args, capture_output=True)
        self.attach.kill()
        self.attach.wait()
        self.agent.thread.join(5)
        self.attach.stdin.close()
        self.attach.stdout.close()

    def need_limit(self):
        """A fork bomb is only safe where the kernel enforces the limit: look at it from inside."""
        got = self.agent.run("cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null")
        self.assertEqual(got.stdout.split(), [b"%d" % (PIDS + RESERVE)],
                         "no limit of processes is enforced; refusing to run a fork bomb")

    def pids(self):
        return len(docker("top", self.name, "-eo", "pid").split()) - 1

    def test_commands_run_hardened_as_the_default_user(self):
        got = self.agent.run("id -u; pwd; echo $HOME; echo x >f; cat f; cat /proc/self/status")
        text = got.stdout.decode()
        self.assertTrue(text.startswith("1000\n/home/user\n/home/user\nx\n"), text)
        for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            self.assertRegex(text, name + r":\s+0000000000000000")
        self.assertRegex(text, r"Seccomp:\s+2")

    def test_root_commands_have_no_capabilities_either(self):
        got = self.agent.run("cat /proc/self/status; chown 1:1 /tmp; kill -0 1 && echo seen; "
                             "cat /proc/1/environ; echo x >/.sbx/x", user="root")
        self.assertRegex(got.stdout.decode(), r"CapEff:\s+0000000000000000")
        self.assertRegex(got.stdout.decode(), r"CapPrm:\s+0000000000000000")
        self.assertIn(b"Operation not permitted", got.stderr)
        self.assertNotIn(b"TOKEN", got.stdout)

    def test_a_sandbox_full_of_processes_runs_one_more_and_is_cleared(self):
        a = self.agent
        self.need_limit()
        bomb = a.start("for i in 1 2 3; do awk 'BEGIN { while (1) system(\"sleep 1000 & :\") }' & "
                       "done; exec sleep 1000")
        wait_for(lambda: self.pids() >= PIDS, what="the bomb to fill the sandbox")
        a.until(lambda: b"fork" in a.commands[bomb].stderr, what="EAGAIN inside")
        got = a.run("echo still here", wait=20)
        self.assertIsNone(got.fail)
        self.assertEqual(got.stdout, b"still here\n")
        a.send(P.KILL, bomb)
        self.assertEqual(a.wait(bomb, 30).exit[P.T_SIGNAL], 9)
        wait_for(lambda: self.pids() == 5, what="an empty sandbox")
        self.assertEqual(a.run("echo $(echo fine)").stdout, b"fine\n")

    def test_without_a_process_left_a_command_fails_and_the_agent_lives(self):
        a = self.agent
        self.need_limit()
        full = a.start("while :; do sleep 1000 & done")
        wait_for(lambda: self.pids() >= PIDS + RESERVE - 2, what="the sandbox to be full")
        failed, running = None, []
        while failed is None and len(running) < PIDS:
            req = a.start(["sleep", "1000"])
            a.until(lambda: a.commands[req].started or a.commands[req].over, what="an answer")
            if a.commands[req].fail:
                failed = a.commands[req]
            else:
                running.append(req)
        self.assertIsNotNone(failed)
        self.assertEqual(failed.fail[P.T_CODE], P.SPAWN)
        self.assertTrue(failed.fail[P.T_MESSAGE])
        for req in running + [full]:
            a.send(P.KILL, req)
            a.wait(req, 30)
        wait_for(lambda: self.pids() == 5, what="an empty sandbox")
        self.assertEqual(a.run(["echo", "ok"]).stdout, b"ok\n")

    HOG = "x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo ${#x}"

    def test_a_command_killed_for_memory_is_told(self):
        got = self.agent.run(["sh", "-c", self.HOG], wait=60)
        self.assertEqual(got.exit[P.T_FLAGS] & P.OOM, P.OOM)
        got = self.agent.run("true")
        self.assertEqual(got.exit[P.T_FLAGS], 0)

    def oom_lines(self):
        return [l.decode() for l in self.agent.lines(stream=2) if b"out of memory" in l]

    def test_the_log_tells_of_a_kill_at_once_and_names_it(self):
        a = self.agent
        begin = time.monotonic()
        req = a.start(["sh", "-c", self.HOG], exec_id="hog")
        a.wait(req, 60)
        a.until(lambda: self.oom_lines(), 1, "the line")
        self.assertEqual(self.oom_lines(), [
            "out of memory: the sandbox's limit of 64 MB was reached; a process of exec hog was "
            "killed; give it more memory (limits.memoryMb)"])
        print("out of memory after %.2f s" % (time.monotonic() - begin))

    def test_the_log_tells_of_a_kill_that_nobody_saw(self):
        a = self.agent
        req = a.start("sh -c 'sh -c \"$HOG\"; echo over; sleep 1000'; exit 0", env=["HOG=" + self.HOG],
                      exec_id="deep")
        a.until(lambda: b"over" in a.commands[req].stdout, 60, "the kill")
        a.until(lambda: self.oom_lines(), 1, "the line")
        self.assertIn("a process of exec deep was killed", self.oom_lines()[0])
        other = a.start("sleep 1000")
        again = a.start("sh -c 'sh -c \"$HOG\"; echo over; sleep 1000'; exit 0",
                        env=["HOG=" + self.HOG])
        a.until(lambda: b"over" in a.commands[again].stdout, 60, "the kill")
        a.until(lambda: len(self.oom_lines()) == 2, 1, "the line")
        self.assertIn("; a process was killed", self.oom_lines()[1])
        self.assertFalse(a.commands[other].over)
        self.assertEqual(a.stats()[P.T_OOM_KILLS], 2)

    def test_a_sample_tells_what_the_kernel_counts(self):
        a = self.agent
        first = a.stats()
        self.assertEqual((first[P.T_MEMORY_LIMIT], first[P.T_OOM_KILLS], first[P.T_PROCESSES]),
                         (MEMORY, 0, 0))
        self.assertLess(first[P.T_MEMORY], MEMORY)
        self.assertNotIn(P.T_DISK, first)
        req = a.start("sleep 1000 & x=$(head -c 10000000 /dev/zero | tr '\\0' x); echo on; "
                      "while :; do :; done")
        a.until(lambda: a.commands[req].stdout, what="output")
        wait_for(lambda: a.stats()[P.T_PROCESSES] == 2, what="two processes")
        wait_for(lambda: a.stats()[P.T_CPU_US] > first[P.T_CPU_US] + 200000, what="CPU time")
        self.assertGreater(a.stats()[P.T_MEMORY], first[P.T_MEMORY] + 8000000)
        self.assertGreaterEqual(a.stats()[P.T_MEMORY_PEAK], a.stats()[P.T_MEMORY])
        times = []
        for _ in range(100):
            begin = time.monotonic()
            a.stats()
            times.append(time.monotonic() - begin)
        times.sort()
        print("a sample: p50 %.2f ms" % (times[50] * 1000))
        self.assertLess(times[50], 0.02)

    def test_a_hog_deep_in_the_tree_is_told_and_a_plain_kill_is_not(self):
        got = self.agent.run("sh -c 'sh -c \"$HOG\"; true'; exit 0", env=["HOG=" + self.HOG],
                             wait=60)
        self.assertEqual(got.exit[P.T_EXIT_CODE], 0)
        self.assertEqual(got.exit[P.T_FLAGS] & P.OOM, P.OOM)
        got = self.agent.run("kill -9 $$")
        self.assertEqual((got.exit[P.T_SIGNAL], got.exit[P.T_FLAGS]), (9, 0))

    def test_it_outlives_its_owner_and_is_found_again(self):
        a = self.agent
        job = a.start("read x; echo got $x", exec_id="job", flags=P.EXEC_STDIN)
        a.until(lambda: a.commands[job].started, what="STARTED")
        self.attach.kill()
        self.attach.wait()
        self.attach.stdin.close()
        a.thread.join(5)
        self.attach.stdout.close()
        self.attach = subprocess.Popen(["docker", "attach", "--sig-proxy=false", self.name],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.agent = a = P.Agent(self.attach.stdin.fileno(), self.attach.stdout.fileno(), self.token)
        got = a.greet(epoch=2, wait=20)
        self.assertEqual([v for t, v in got if t == P.T_EXEC_ID], [b"job"])
        a.send(P.ATTACH, 1, P.field(P.T_EXEC_ID, "job") + P.field(P.T_WINDOW, P.MUCH))
        a.send(P.STDIN, 1, b"back\n")
        self.assertEqual(a.wait(1).stdout, b"got back\n")

    def test_a_bridge_comes_through_an_exec_of_the_engine(self):
        a = self.agent
        req = a.start("echo out; read x; echo got $x", exec_id="job", flags=P.EXEC_STDIN)
        a.until(lambda: a.commands[req].stdout, what="output")
        process = subprocess.Popen(["docker", "exec", "-i", "-u", "0", self.name,
                                    "/.sbx/sbx-agent", "connect"],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        b = P.Agent(process.stdin.fileno(), process.stdout.fileno(), self.token)
        b.greet(epoch=1)
        on = b.attach("job")
        b.send(P.STDIN, on, b"bridge\n")
        self.assertEqual(b.wait(on).stdout, b"out\ngot bridge\n")
        times = []
        for _ in range(50):
            begin = time.monotonic()
            b.run(["true"], exec_id="b%d" % b.req)
            times.append(time.monotonic() - begin)
        times.sort()
        print("exec of true through a bridge: p50 %.2f ms" % (times[25] * 1000))
        process.stdin.close()
        process.wait(10)
        b.thread.join(5)
        process.stdout.close()
        self.assertEqual(a.wait(req).stdout, b"out\ngot bridge\n")

    def test_a_terminal_works(self):
        a = self.agent
        req = a.start("tty; stty size; exec cat", flags=P.EXEC_PTY)
        a.until(lambda: b"24 80" in a.commands[req].stdout, what="output")
        a.send(P.STDIN, req, b"typed\n")
        a.send(P.STDIN, req)
        self.assertEqual(a.wait(req).stdout.count(b"typed\r\n"), 2)

    def test_stop_ends_it_at_once(self):
        self.agent.start(["sleep", "1000"])
        begin = time.monotonic()
        docker("stop", "-t", "10", self.name)
        self.assertLess(time.monotonic() - begin, 5)
        self.assertEqual(docker("inspect", "-f", "{{.State.ExitCode}}", self.name).strip(), "0")

    def test_exec_is_quick(self):
        times = []
        for _ in range(100):
            begin = time.monotonic()
            self.agent.run(["true"])
            times.append(time.monotonic() - begin)
        times.sort()
        print("exec of true in a container: p50 %.2f ms" % (times[50] * 1000))
        self.assertLess(times[50], 0.02)


if __name__ == "__main__":
    unittest.main(verbosity=2)
