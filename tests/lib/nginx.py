"""The nginx of deploy/nginx.conf, as it is but for addresses and folders.

    with Nginx([7071, 7072]) as nginx:   # ports of workers on 127.0.0.1
        nginx.port                       # what clients talk to

Workers that are started again should keep their ports; set_workers() names others.
"""
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

CONFIG = pathlib.Path(__file__).resolve().parents[2] / "deploy/nginx.conf"
FOLDERS = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def free_port():
    """A port that nobody has now, and that the kernel gives to nobody who does not name it."""
    first = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(1000):
        port = random.randrange(min(10000, first - 1000), first)
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass
    raise AssertionError("no port is free")


def replaced(pattern, by, text, times=1):
    """The text with what the pattern finds replaced; fails if the file is not as expected."""
    text, found = re.subn(pattern, lambda _: by, text, flags=re.M)
    if found != times:
        raise AssertionError(f"deploy/nginx.conf has {pattern!r} {found} times, not {times}")
    return text


def render(folder, port, workers, tls=None):
    """The configuration as text. `tls`: (port, certificate, key) takes the TLS lines in."""
    text = CONFIG.read_text(encoding="utf-8")
    if os.getuid() != 0:  # only root's nginx may change its user
        text = replaced(r"^user .*$", "", text)
    if tls:
        text = replaced(r"^( *)#~ ", "        ", text, 9)
        text = replaced(r"^ *listen 443 .*$", f"listen 127.0.0.1:{tls[0]} ssl http2;", text)
        text = replaced(r"^ *listen \[::\]:443 .*$", "", text)
        text = replaced(r"/etc/ssl/sandboxd/fullchain.pem", str(tls[1]), text)
        text = replaced(r"/etc/ssl/sandboxd/key.pem", str(tls[2]), text)
    text = replaced(r"^ *listen 80;$", f"listen 127.0.0.1:{port};", text)
    text = replaced(r"^ *listen \[::\]:80;$", "", text)
    text = replaced(r"^ *server 127\.0\.0\.1:7071 (.*)$", "@workers@", text)
    text = replaced(r"^ *server 127\.0\.0\.1:7072 (.*)$", "", text)
    how = re.search(r"^ *server 127\.0\.0\.1:7071 (.*)$", CONFIG.read_text(encoding="utf-8"),
                    re.M).group(1)
    lines = "\n".join(f"server 127.0.0.1:{worker} {how}" for worker in workers)
    text = text.replace("@workers@", lines)
    text = replaced(r"/var/log/nginx/access\.log", f"{folder}/access.log", text)
    temps = "\n".join(f"{name}_temp_path {folder}/{name};" for name in FOLDERS)
    return replaced(r"^http \{$", f"http {{\n{temps}", text)


class Nginx:
    def __init__(self, workers, port=None, tls=None):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="sbxnginx-"))
        self.folder.chmod(0o711)
        self.port = port or free_port()
        self.tls = tls
        self.process = None
        self.write(workers)

    def write(self, workers):
        (self.folder / "nginx.conf").write_text(
            render(self.folder, self.port, workers, self.tls), encoding="utf-8")

    def command(self, *more):
        return ["nginx", "-p", str(self.folder), "-c", str(self.folder / "nginx.conf"),
                "-e", str(self.folder / "error.log"),
                "-g", f"pid {self.folder}/pid; daemon off;", *more]

    def check(self):
        """What `nginx -t` says; raises if it is not content."""
        got = subprocess.run(self.command("-t"), capture_output=True, text=True, check=False)
        if got.returncode:
            raise AssertionError(f"nginx -t: {got.stderr}")
        return got.stderr

    def start(self):
        self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, cwd="/",
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                if time.monotonic() > end or self.process.poll() is not None:
                    raise AssertionError(f"nginx did not start: {self.log()}") from None
                time.sleep(0.02)

    def set_workers(self, workers):
        """Names other workers, and has the configuration read anew."""
        self.write(workers)
        self.process.send_signal(signal.SIGHUP)

    def pids(self):
        """The master's, and those of the processes that serve."""
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [self.process.pid, *map(int, children.read_text().split())]

    def rss_kb(self):
        return sum(int(re.search(r"VmRSS:\s+(\d+)",
                                 pathlib.Path(f"/proc/{pid}/status").read_text()).group(1))
                   for pid in self.pids())

    def descriptors(self):
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self.pids())

    def temp_files(self):
        """Names of files in which nginx keeps what does not fit its memory, open or not."""
        links = [os.readlink(f"/proc/{pid}/fd/{fd}") for pid in self.pids()
                 for fd in os.listdir(f"/proc/{pid}/fd") if os.path.islink(f"/proc/{pid}/fd/{fd}")]
        return [name for name in links
                if name.startswith(tuple(f"{self.folder}/{folder}/" for folder in FOLDERS))]

    def log(self, name="error.log"):
        path = self.folder / name
        return path.read_text(errors="replace") if path.exists() else ""

    def kill(self):
        """As a crash does: the serving processes end with their master's."""
        for pid in reversed(self.pids()):
            os.kill(pid, signal.SIGKILL)
        self.process.wait(10)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)

    def remove(self):
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.remove()
