"""Parts of a test's own that may be stopped, started and disturbed: PostgreSQL, Redis, an engine,
a registry, and a proxy that misbehaves. What everything else uses is never touched."""
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse

import sandboxd
from engine import Engine, EngineError
from sandboxd import Client, SystemCase, engine, wait_for


CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


class Process:
    """A program that is started and stopped again and again."""

    process = None

    def run(self, command, **more):
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd="/",
                                        **{"stdout": subprocess.DEVNULL,
                                           "stderr": subprocess.DEVNULL, **more})

    def stop(self, how=signal.SIGINT, timeout=40):
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(timeout)


class PrivatePostgres(Process):
    """A cluster in a folder."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="sbxpg-"))
        self.folder.chmod(0o755)
        self.bin = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))[-1]
        if os.getuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
        subprocess.run(self.user(self.bin / "initdb", "-D", self.folder / "data", "-U", "postgres",
                                 "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8"),
                       check=True, stdout=subprocess.DEVNULL, cwd="/")
        self.url = self.url_at(self.folder)

    @staticmethod
    def url_at(folder):
        return "postgresql://postgres@/postgres?host=" + urllib.parse.quote(str(folder), safe="")

    @staticmethod
    def user(*command):
        if os.getuid() != 0:
            return command
        return ("setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups", *command)

    def start(self, env=None):
        self.run(self.user("env", *(f"{name}={value}" for name, value in (env or {}).items()),
                           self.bin / "postgres", "-D", self.folder / "data", "-k", self.folder,
                           "-h", "", "-c", "fsync=off"))
        wait_for(lambda: subprocess.run([self.bin / "pg_isready", "-q", "-h", self.folder],
                                        check=False).returncode == 0, 30, "PostgreSQL")

    def signal(self, how):
        """To the server and all that it forked, some of which may be ending."""
        told = subprocess.run(["ps", "-o", "pid=", "--ppid", str(self.process.pid)],
                              capture_output=True, text=True, check=False).stdout.split()
        for pid in [self.process.pid, *map(int, told)]:
            try:
                os.kill(pid, how)
            except ProcessLookupError:
                pass

    def remove(self):
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def find_faketime():
    found = sorted(pathlib.Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        raise AssertionError("libfaketime is not installed: run tests/run")
    return found[0]


class WrongClock:
    """The wall clock of the programs that get its environment; set(seconds) moves it."""

    def __init__(self):
        self.file = pathlib.Path(tempfile.mkstemp(prefix="sbxclock-")[1])
        self.file.chmod(0o644)
        self.env = {"LD_PRELOAD": str(find_faketime()), "FAKETIME_TIMESTAMP_FILE": str(self.file),
                    "FAKETIME_NO_CACHE": "1", "DONT_FAKE_MONOTONIC": "1"}
        self.set(0)

    def set(self, seconds):
        self.file.write_text(f"{seconds:+d}\n")

    def remove(self):
        self.file.unlink()


class PrivateRedis(Process):
    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="sbxredis-"))
        self.url = f"unix://{self.folder}/socket"

    def start(self):
        self.run(["redis-server", "--port", "0", "--unixsocket", self.folder / "socket", "--dir",
                  self.folder, "--save", "", "--appendonly", "no"])
        wait_for(self.answers, 15, "Redis")

    def answers(self):
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(f"{self.folder}/socket")
                sock.sendall(b"PING\r\n")
                return sock.recv(7) == b"+PONG\r\n"
            except OSError:
                return False

    def remove(self):
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class PrivateEngine(Process):
    """A dockerd without networks. Its containers die with it.

    It has a bridge of its own, which nothing uses: told to have none it would remove that of the
    machine's engine."""

    def __init__(self, data=None, arguments=()):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="sbxeng-"))
        self.bridge = self.folder.name[:15].lower()
        self.data = data or self.folder / "data"
        self.arguments = arguments
        self.host = f"unix://{self.folder}/docker.sock"
        self.api = Engine(self.host)

    def start(self):
        if not pathlib.Path("/sys/class/net", self.bridge).exists():
            subprocess.run(["ip", "link", "add", self.bridge, "type", "bridge"], check=True)
            subprocess.run(["ip", "address", "add", "192.0.2.1/24", "dev", self.bridge], check=True)
        with (self.folder / "log").open("ab") as log:
            self.run(["dockerd", "--host", self.host, "--data-root", self.data, "--exec-root",
                      self.folder / "exec", "--pidfile", self.folder / "pid",
                      f"--bridge={self.bridge}", "--iptables=false", "--ip-masq=false",
                      "--ip-forward=false", *self.arguments], stdout=log, stderr=log)
        wait_for(self.answers, 60, "the engine")

    def answers(self):
        try:
            return bool(self.api.call("GET", "/info", timeout=5))
        except EngineError:
            return False

    def kill(self):
        """As a machine that crashes does: dockerd, its containerd, and all shims."""
        mine = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
                if self.is_mine(pid)]
        for pid in [self.process.pid, *mine]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait(20)
        shutil.rmtree(self.folder / "exec", ignore_errors=True)  # as on /run after a crash
        (self.folder / "pid").unlink(missing_ok=True)

    def is_mine(self, pid):
        try:
            command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False
        return str(self.folder).encode() in command

    def image(self):
        """The tiny image, in this engine."""
        sandboxd.box_image(self.api)

    def remove(self):
        self.stop(signal.SIGTERM)
        subprocess.run(["ip", "link", "delete", self.bridge], check=True)
        mounts = [line.split()[1] for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
        for point in sorted(mounts, reverse=True):
            if point.startswith(f"{self.folder}/"):
                subprocess.run(["umount", "--lazy", point], check=True)
        shutil.rmtree(self.folder)


def npm_registry():
    """Its address, and the exceptions of the firewall without which sandboxes may not reach it."""
    got = subprocess.run(["npm", "config", "get", "registry"], capture_output=True, text=True,
                         check=False) if shutil.which("npm") else None
    if not got or got.returncode or not got.stdout.startswith("http"):
        return None, []
    url = urllib.parse.urlsplit(got.stdout.strip())
    port = url.port or (443 if url.scheme == "https" else 80)
    found = {a[4][0] for a in socket.getaddrinfo(url.hostname, port, socket.AF_INET)}
    return got.stdout.strip(), [f"{address}:{port}" for address in found]


class Registry:
    """Debian's docker-registry in a folder of its own; the engine takes loopback without TLS."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="sbxreg-"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.name = f"127.0.0.1:{self.port}"
        config = self.folder / "config.yml"
        config.write_text("version: 0.1\nstorage: {filesystem: {rootdirectory: %s}}\n"
                          "http: {addr: %s}\n" % (self.folder / "data", self.name))
        self.log = open(self.folder / "log", "wb")
        self.process = subprocess.Popen(["docker-registry", "serve", str(config)],
                                        stdout=self.log, stderr=self.log)
        wait_for(self.answers, what="the registry's answer")

    def answers(self):
        host, port = self.name.split(":")
        with socket.socket() as s:
            return s.connect_ex((host, int(port))) == 0

    def push(self, image, repo="pulled"):
        """Puts an image of the engine into the registry, and takes the name away again."""
        name = f"{self.name}/{repo}"
        engine.call("POST", f"/images/{image}/tag", {"repo": name, "tag": "1"})
        told = list(engine.stream("POST", f"/images/{urllib.parse.quote(name)}/push", {"tag": "1"},
                                  headers={"X-Registry-Auth": "e30="}))
        errors = [line["error"] for line in told if "error" in line]
        if errors:
            raise AssertionError(errors)
        engine.remove_image(f"{name}:1")
        return f"{repo}:1"

    def close(self):
        self.process.terminate()
        self.process.wait(20)
        self.log.close()
        shutil.rmtree(self.folder)


class Proxy:
    """Between the server and a part that listens on a unix socket. What it does to the bytes is
    `mode`: "pass"; "hold" keeps back what comes from the part; "reset" cuts all, and what connects;
    "torn" passes 40 bytes of each answer and cuts; "500" answers by itself; `delay_s` comes before
    each piece of an answer. By what is sent to the part, `cut_answer(data)` may decide that the
    answer never arrives, and `refuse(data)` that it is a 500 and the part hears nothing."""

    def __init__(self, target, name="socket"):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="sbxproxy-"))
        self.path = self.folder / name
        self.target = str(target)
        self.mode, self.delay_s, self.cut_answer, self.refuse = "pass", 0, None, None
        self.passed = 0  # bytes of answers
        self.changed = threading.Condition()
        self.pairs = set()
        self.listener = self.listen()
        self.listener.listen(128)
        threading.Thread(target=self.accept, daemon=True).start()

    def listen(self):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        return listener

    def connect(self):
        server = socket.socket(socket.AF_UNIX)
        server.connect(self.target)
        return server

    def set(self, mode, delay_s=0):
        with self.changed:
            self.mode, self.delay_s = mode, delay_s
            self.changed.notify_all()
        if mode == "reset":
            for pair in list(self.pairs):
                self.cut(*pair)

    @staticmethod
    def cut(*socks):
        for sock in socks:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        if self.mode == "reset":
            client.close()
            return
        try:
            server = self.connect()
        except OSError:
            client.close()
            return
        pair = (client, server)
        self.pairs.add(pair)
        back = threading.Thread(target=self.back, args=(server, client), daemon=True)
        back.start()
        try:
            while data := client.recv(65536):
                if self.mode == "500" or (self.refuse and self.refuse(data)):
                    client.sendall(b"HTTP/1.1 500 X\r\nContent-Type: application/json\r\n"
                                   b"Content-Length: 18\r\n\r\n" + b'{"message":"boom"}')
                    continue
                if self.cut_answer and self.cut_answer(data):
                    server.sendall(data)
                    server.recv(1)  # it did what it was told
                    break
                server.sendall(data)
        except OSError:
            pass
        self.cut(*pair)
        back.join()
        self.pairs.discard(pair)
        client.close()
        server.close()

    def back(self, server, client):
        try:
            while data := server.recv(65536):
                with self.changed:
                    while self.mode == "hold":
                        self.changed.wait()
                time.sleep(self.delay_s)
                if self.mode == "torn":
                    client.sendall(data[:40])
                    break
                client.sendall(data)
                self.passed += len(data)
        except OSError:
            pass
        self.cut(client, server)

    def close(self):
        self.set("reset")
        self.listener.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class TcpProxy(Proxy):
    """The same before a port of this machine, on another one: between a client and the server."""

    def listen(self):
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        return listener

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.target))


class BehindProxy(SystemCase):
    """A server whose engine is behind a proxy, and a sandbox of it."""

    env = {}

    def setUp(self):
        self.proxy = Proxy(sandboxd.DOCKER_HOST.removeprefix("unix://"), "docker.sock")
        self.addCleanup(self.proxy.close)
        self.service = sandboxd.Service(env={"DOCKER_HOST": f"unix://{self.proxy.path}", **self.env})
        self.addCleanup(self.service.close)
        self.addCleanup(self.proxy.set, "pass")
        self.client = Client(self.service.start(), self.service.key())
        self.box = self.client.create()["id"]
