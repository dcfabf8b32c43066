"""Runs the real sbx-agent as PID 1 of a PID namespace, in a tiny root of its own (busybox)."""
import os
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
import time
import unittest

from agent_proto import Agent

REPO = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BINARY = os.environ.get("SBX_AGENT", os.path.join(REPO, "build", "bin", "sbx-agent"))
BUSYBOX = "/bin/busybox"
ENTER = ('mount -t proc proc "$0/proc" && mount -t devpts -o newinstance,ptmxmode=0666 pts '
         '"$0/dev/pts" && exec chroot "$0" /.sbx/sbx-agent')
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def make_root(path):
    """A root with busybox, the agent, devices, and nobody but root in passwd."""
    for d in ("bin", "proc", "dev", "dev/pts", "etc", "root", ".sbx", "tmp", "home"):
        os.mkdir(os.path.join(path, d), 0o755)
    os.chmod(os.path.join(path, "tmp"), 0o1777)
    os.chmod(path, 0o755)
    shutil.copy(BUSYBOX, os.path.join(path, "bin", "busybox"))
    for name in subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True,
                               check=True).stdout.split():
        if name != "busybox":
            os.symlink("busybox", os.path.join(path, "bin", name))
    for name, major, minor in (("null", 1, 3), ("zero", 1, 5), ("tty", 5, 0)):
        os.mknod(os.path.join(path, "dev", name), stat.S_IFCHR | 0o666, os.makedev(major, minor))
        os.chmod(os.path.join(path, "dev", name), 0o666)
    os.symlink("pts/ptmx", os.path.join(path, "dev", "ptmx"))
    shutil.copy(BINARY, os.path.join(path, ".sbx", "sbx-agent"))
    with open(os.path.join(path, "etc", "passwd"), "w") as f:
        f.write("root:x:0:0:root:/root:/bin/sh\n")
    with open(os.path.join(path, "etc", "group"), "w") as f:
        f.write("root:x:0:\nextra:x:50:user,other\n")


def wait_for(check, timeout=10, what="condition"):
    end = time.monotonic() + timeout
    while not check():
        if time.monotonic() > end:
            raise AssertionError("timed out waiting for " + what)
        time.sleep(0.01)


def proc_stat(pid):
    """(state, ppid) of a process seen from outside, or None."""
    try:
        with open("/proc/%d/stat" % pid) as f:
            rest = f.read().rsplit(")", 1)[1].split()
        return rest[0], int(rest[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


def descendants(root):
    """{pid: state} of all that descends from a process, seen from outside."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            got = proc_stat(int(name))
            if got:
                parents[int(name)] = got
    found, grew = {}, True
    while grew:
        grew = False
        for pid, (state, ppid) in parents.items():
            if pid not in found and (ppid == root or ppid in found):
                found[pid] = state
                grew = True
    return found


class AgentCase(unittest.TestCase):
    """A fresh root and a fresh, greeted agent for every test."""

    greet = True
    image_env = {}

    def setUp(self):
        self.root = tempfile.mkdtemp(prefix="sbx-agent-test-")
        self.addCleanup(shutil.rmtree, self.root, True)
        make_root(self.root)
        self.prepare()
        self.token = secrets.token_bytes(16)
        self.spawn()
        self.agent = Agent(self.to_fd, self.from_fd, self.token)
        self.pid = self.find_pid()
        if self.greet:
            self.agent.greet()

    def prepare(self):
        """What a test wants changed in the root before the agent starts."""

    def pipes(self):
        """(agent's stdin, agent's stdout, our writing end, our reading end)"""
        in_r, in_w = os.pipe()
        out_r, out_w = os.pipe()
        return in_r, out_w, in_w, out_r

    def spawn(self):
        in_r, out_w, self.to_fd, self.from_fd = self.pipes()
        env = dict({"PATH": PATH, "SBX_AGENT_TOKEN": self.token.hex()}, **self.image_env)
        self.process = subprocess.Popen(
            ["unshare", "-fpmn", "--kill-child", "sh", "-c", ENTER, self.root],
            stdin=in_r, stdout=out_w, env=env)
        os.close(in_r)
        os.close(out_w)
        self.addCleanup(self.end)

    def end(self):
        self.process.kill()
        self.process.wait()
        wait_for(lambda: (proc_stat(self.pid) or "Z")[0] == "Z", what="the agent's end")
        self.agent.reading.set()
        self.agent.thread.join(5)
        for fd in (self.to_fd, self.from_fd):
            try:
                os.close(fd)
            except OSError:
                pass

    def find_pid(self):
        def agent_pids():
            for pid, _ in descendants(self.process.pid).items():
                try:
                    if os.readlink("/proc/%d/exe" % pid).endswith("/.sbx/sbx-agent") and \
                            proc_stat(pid)[1] == self.process.pid:
                        return pid
                except (OSError, TypeError):
                    continue
            return None
        wait_for(agent_pids, what="the agent's start")
        return agent_pids()

    def alive(self):
        return self.process.poll() is None

    def others(self):
        """Processes of the sandbox beside the agent and its two spare pairs, zombies included."""
        return len(descendants(self.pid)) - 4

    def until_quiet(self, timeout=10):
        wait_for(lambda: self.others() == 0, timeout, "the end of all processes")

    def read(self, path):
        with open(os.path.join(self.root, path)) as f:
            return f.read()

    def rss_kb(self):
        with open("/proc/%d/status" % self.pid) as f:
            return int([l for l in f if l.startswith("VmRSS:")][0].split()[1])

    def signal_agent(self, number=signal.SIGTERM):
        os.kill(self.pid, number)
