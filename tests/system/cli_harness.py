"""What the tests of sbx, the command line, share: the program in pipes and in terminals."""
import fcntl
import functools
import os
import pathlib
import pty
import re
import select
import shutil
import struct
import subprocess
import tempfile
import termios
import threading
import unittest

import cli_commands
import sandboxd
from sandboxd import SystemCase, wait_for

SBX = sandboxd.BIN / "sbx"

api = folder = None
VERBS = cli_commands.verbs_of(cli_commands.TABLE.read_text())
ran = set()  # subcommands, of the test that runs


def covers(*names):
    """Of a test: it runs these subcommands with success, or fails."""
    def mark(test):
        @functools.wraps(test)
        def run(self):
            ran.clear()
            test(self)
            self.assertLessEqual(set(names), ran, "the test says that it covers these")
        return run
    return mark


def begin():
    """For setUpModule: a service, a client of it, and a folder that is the home of sbx."""
    global api, folder
    service, api = sandboxd.module_service()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="sbxcli-"))
    unittest.addModuleCleanup(shutil.rmtree, folder)
    (folder / "key").write_text(api.key + "\n")
    (folder / "key").chmod(0o600)
    return service, api, folder


def administrator(service):
    """The environment of an administrator."""
    path = folder / "boss"
    path.touch(0o600)
    path.write_text(service.key("boss", "--role", "admin") + "\n")
    return {"SBX_KEY_FILE": path}


def environment(**more):
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith("SBX_") and name not in ("NO_COLOR", "TERM", "HOME")}
    return {**kept, "HOME": str(folder), "TERM": "xterm", "XDG_CONFIG_HOME": str(folder / "xdg"),
            "SBX_URL": f"http://127.0.0.1:{api.server.port}", "SBX_KEY_FILE": str(folder / "key"),
            **{name: str(value) for name, value in more.items()}}


def sbx(*words, send=None, env=None, timeout=60, cwd=None, **more):
    """Runs it to its end; output is bytes, standard input empty unless `send` says otherwise."""
    given = {"input": send} if send is not None else {"stdin": subprocess.DEVNULL}
    got = subprocess.run([SBX, *map(str, words)], capture_output=True, timeout=timeout, check=False,
                         env=environment(**(env or {})), cwd=cwd, **given, **more)
    if got.returncode not in (2, 125):  # usage, and what sbx itself could not do
        ran.add(cli_commands.command_of(words, VERBS))
    return got


class Terminal:
    """sbx, or another program, in a pseudo terminal. What it shows is collected in `shown`."""

    def __init__(self, *words, env=None, cols=100, rows=30, program=SBX):
        self.pid, self.fd = pty.fork()
        if not self.pid:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
            os.execve(program, [str(program), *map(str, words)], environment(**(env or {})))
        self.shown, self.status = b"", None

    def resize(self, cols, rows):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def read(self, timeout=0.05):
        if select.select([self.fd], [], [], timeout)[0]:
            try:
                got = os.read(self.fd, 65536)
            except OSError:
                got = b""
            self.shown += got
            return bool(got)
        return None

    def expect(self, text, timeout=30):
        """Waits until it shows a match of the pattern, behind what was matched before."""
        found = None

        def seen():
            nonlocal found
            self.read()
            found = re.search(text, self.shown)
            return found
        try:
            wait_for(seen, timeout, f"{text!r} on the terminal", 0)
        except AssertionError:
            raise AssertionError(f"{text!r} did not come: {self.shown[-2000:]!r}") from None
        self.shown = self.shown[found.end():]
        return found

    def type(self, data):
        os.write(self.fd, data)

    def end(self, timeout=30):
        """The exit status."""
        def ended():
            self.read()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            return pid
        if self.status is None:
            wait_for(ended, timeout, "its end")
            while self.read(0):
                pass
            os.close(self.fd)
        return self.status

    def raw(self):
        """Is the terminal in raw mode?"""
        return not termios.tcgetattr(self.fd)[3] & termios.ICANON


class Follower:
    """sbx that goes on until it is stopped; its lines are collected as they come."""

    def __init__(self, *words, **env):
        self.process = subprocess.Popen([SBX, *words], env=environment(**env),
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.lines = []
        ran.add(cli_commands.command_of(words, VERBS))
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            self.lines.append(line.rstrip(b"\n"))

    def close(self):
        self.process.kill()
        self.process.wait()
        self.reader.join()
        self.process.stdout.close()


class CliCase(SystemCase):
    def ok(self, *words, **more):
        got = sbx(*words, **more)
        self.assertEqual(got.returncode, 0, (words, got.stderr[-2000:]))
        return got.stdout.decode()

    def fails(self, status, words, *command, **more):
        got = sbx(*command, **more)
        self.assertEqual(got.returncode, status, (command, got))
        self.assertRegex(got.stderr.decode(), words)
        return got
