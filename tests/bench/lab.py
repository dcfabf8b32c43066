"""The place of an experiment: a database, a server of the release build, an image, one API key.

Used by the bench and by tests/system/counts_test.py. Everything that it makes carries a name of
its own, so that several labs and other installations share one engine and one PostgreSQL, and is
removed by close().

Environment: DOCKER_HOST, SBX_TEST_DATABASE_URL (a superuser of a private cluster), SBX_TEST_BIN (the
folder with sandboxd and sbx-agent); for a lab of several workers SBX_TEST_REDIS_URL.
"""

import io
import json
import os
import pathlib
import secrets
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.parse

REPO = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "deploy/lib"))
from engine import CLUSTER_LABEL, DEFAULT_HOST, Engine, EngineError  # noqa: E402
from wire import Wire, WireError, request  # noqa: E402

BUSYBOX = "/bin/busybox"
BENCH_LABEL = "sandboxd.bench"
START_S = 30


def wait_for(check, what, timeout=30, step=0.02):
    """The first true value of check()."""
    end = time.monotonic() + timeout
    while not (value := check()):
        if time.monotonic() > end:
            raise TimeoutError(f"waited {timeout} s for {what}")
        time.sleep(step)
    return value


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def busybox_tar():
    """A root file system of busybox alone."""
    output = io.BytesIO()
    names = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True,
                           check=True).stdout.split()
    with tarfile.open(fileobj=output, mode="w") as tar:
        def add(name, kind, mode=0o755, target="", data=b""):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.linkname, entry.size = kind, mode, target, len(data)
            tar.addfile(entry, io.BytesIO(data))
        for folder in ("bin", "etc", "root", "home", "proc", "sys", "dev"):
            add(folder, tarfile.DIRTYPE)
        add("tmp", tarfile.DIRTYPE, 0o1777)
        add("bin/busybox", tarfile.REGTYPE, data=pathlib.Path(BUSYBOX).read_bytes())
        for name in names:
            if name != "busybox":
                add("bin/" + name, tarfile.SYMTYPE, target="busybox")
        add("etc/passwd", tarfile.REGTYPE, 0o644, data=b"root:x:0:0:root:/root:/bin/sh\n")
        add("etc/group", tarfile.REGTYPE, 0o644, data=b"root:x:0:\n")
    return output.getvalue()


class Image:
    """A tiny image, made on the spot. With `volume` it declares one, as many images do."""

    def __init__(self, engine, volume=False):
        self.engine = engine
        self.name = f"sandboxd/bench-{secrets.token_hex(4)}:1"
        repo, tag = self.name.split(":")
        changes = [f"LABEL {BENCH_LABEL}=image"] + (["VOLUME /data"] if volume else [])
        query = {"fromSrc": "-", "repo": repo, "tag": tag, "changes": changes}
        for told in engine.stream("POST", "/images/create", query, busybox_tar(), timeout=120,
                                  headers={"Content-Type": "application/x-tar"}):
            if "error" in told:
                raise EngineError(told["error"])

    def remove(self):
        self.engine.call("DELETE", f"/images/{urllib.parse.quote(self.name, safe='/:')}",
                         {"force": "true"})


def psql(url, statement):
    done = subprocess.run(["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-c", statement, url],
                          capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise RuntimeError(f"psql: {done.stderr.strip()}")
    return done.stdout.strip()


# The allocator keeps what a thread freed for that thread: off, every byte in use is in use.
TCACHE_OFF = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_ms(pid):
    """Processor time that a process has used so far, of all its threads."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / TICKS


class Worker:
    """One server process of a lab."""

    def __init__(self, lab, number):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = lab.folder / f"sandboxd-{number}.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                lab.sandboxd("serve"), stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
                env={**lab.environment, "SBX_LISTEN": f"127.0.0.1:{self.port}"})

    def wait_ready(self):
        wait_for(self._ready, "the server", START_S)

    def _ready(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"sandboxd ended: {self.log.read_text()[-2000:]}")
        try:
            with Wire(self.url, 10) as wire:
                return wire.exchange(request("GET", "/ready"))[0] == 200
        except (OSError, WireError):
            return False

    def rss_kb(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def threads(self):
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def cpu_ms(self):
        return cpu_ms(self.process.pid)

    def metric(self, name):
        """The sum of a metric over its labels."""
        with Wire(self.url) as wire:
            text = wire.exchange(request("GET", "/metrics"))[1].decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
                   if line.startswith((name + " ", name + "{")))

    def stop(self):
        if self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Lab:
    """Servers, and what they need. `engine_host` and `wrap_database` put something in between;
    `variables` are more of their environment. Several `workers` share one database and Redis."""

    def __init__(self, engine_host=None, wrap_database=lambda url: url, variables=None,
                 network="none", workers=1):
        self.variables = variables or {}
        if workers > 1:
            self.variables = {"REDIS_URL": os.environ["SBX_TEST_REDIS_URL"], **self.variables}
        self.network = network
        self.engine_host = os.environ.get("DOCKER_HOST") or DEFAULT_HOST
        self.engine = Engine(self.engine_host)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="sbxlab."))
        self.workers = []
        self.images = []
        self._open = []
        self.cluster = None
        try:
            self._make_database()
            self._prepare(engine_host or self.engine_host, wrap_database(self.database_url))
            for number in range(workers):
                self.workers.append(Worker(self, number))
                self.workers[-1].wait_ready()
        except BaseException:
            self.close()
            raise

    # ---- parts --------------------------------------------------------------------------------

    def _make_database(self):
        self.admin_url = os.environ["SBX_TEST_DATABASE_URL"]
        self.database = f"lab_{secrets.token_hex(6)}"
        psql(self.admin_url, f"CREATE DATABASE {self.database}")
        url = urllib.parse.urlsplit(self.admin_url)
        self.database_url = url._replace(path="/" + self.database).geturl()

    @property
    def process(self):
        return self.workers[0].process

    @property
    def url(self):
        return self.workers[0].url

    @property
    def port(self):
        return self.workers[0].port

    @staticmethod
    def sandboxd(*args):
        return [str(pathlib.Path(os.environ["SBX_TEST_BIN"]) / "sandboxd"), *args]

    def _command(self, *args):
        done = subprocess.run(self.sandboxd(*args), env=self.environment, capture_output=True,
                              text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(f"sandboxd {args[0]}: {done.stderr.strip()}")
        return done.stdout.strip()

    def _prepare(self, engine_host, database_url):
        secret = self.folder / "secret"
        secret.touch(0o600)
        secret.write_text(secrets.token_hex(32) + "\n")
        # The volume is named by the hash of the programs: with bytes of its own behind the end of
        # one of them, this server shares its volume with no other on the same engine.
        agent = self.folder / "sbx-agent"
        program = pathlib.Path(os.environ["SBX_TEST_BIN"]) / "sbx-agent"
        agent.write_bytes(program.read_bytes() + secrets.token_bytes(16))
        agent.chmod(0o755)
        self.environment = {"PATH": os.environ["PATH"], "DATABASE_URL": self.database_url,
                            "SBX_SECRET_FILE": str(secret), "SBX_AGENT_PATH": str(agent),
                            "SBX_FILES_PATH": os.path.join(os.environ["SBX_TEST_BIN"], "sbx-files")}
        self._command("migrate")
        # Limited, so that what counting costs is part of all that is measured.
        raised = ",".join(f"{name}=10000000" for name in ("creates", "exec", "reads"))
        self.key = self._command("key", "--user", "bench", "--tier", "enterprise",
                                  "--rates", raised).split()[-1]
        self.auth = {"Authorization": f"Bearer {self.key}"}
        self.cluster = psql(self.database_url, "SELECT value FROM meta WHERE key = 'cluster'")
        self.environment |= {"DATABASE_URL": database_url, "DOCKER_HOST": engine_host,
                             "SBX_NETWORK": self.network, **self.variables}

    def image(self, volume=False):
        self.images.append(Image(self.engine, volume))
        return self.images[-1].name

    def wire(self, worker=0):
        """A new kept connection to a server, for close_wires()."""
        self._open.append(Wire(self.workers[worker].url))
        return self._open[-1]

    def engine_wire(self):
        """A new kept connection to the engine itself, for close_wires()."""
        self._open.append(Wire(self.engine_host))
        return self._open[-1]

    def close_wires(self):
        for wire in self._open:
            wire.close()
        self._open.clear()

    # ---- what a client does -------------------------------------------------------------------

    def another_key(self, user, *options):
        return self._command("key", "--user", user, "--rates", "none", *options).split()[-1]

    def call(self, wire, method, path, body=None, expect=None):
        return wire.call(method, path, body, self.auth, expect)

    def create(self, wire, image, **more):
        return self.call(wire, "POST", "/sandboxes", {"image": image, **more}, {201})

    def exec(self, wire, sandbox, command):
        return self.call(wire, "POST", f"/sandboxes/{sandbox}/exec", {"command": command}, {200})

    def delete(self, wire, sandbox):
        self.call(wire, "DELETE", f"/sandboxes/{sandbox}", expect={204})

    # ---- what the server holds ----------------------------------------------------------------

    def rss_kb(self):
        return sum(worker.rss_kb() for worker in self.workers)

    def descriptors(self):
        return sum(worker.descriptors() for worker in self.workers)

    def heap_bytes(self):
        """Allocated and not freed; without TCACHE_OFF also what is held back for each thread."""
        return int(sum(worker.metric("process_heap_bytes") for worker in self.workers))

    def threads(self):
        return sum(worker.threads() for worker in self.workers)

    def cpu_ms(self):
        return sum(worker.cpu_ms() for worker in self.workers)

    def containers(self):
        return len(self.engine.containers(f"{CLUSTER_LABEL}={self.cluster}"))

    def labelled(self, kind):
        """Volumes or networks of this installation."""
        told = self.engine.call("GET", f"/{kind}", {
            "filters": json.dumps({"label": [f"{CLUSTER_LABEL}={self.cluster}"]})})
        return len(told["Volumes"] or [] if kind == "volumes" else told)

    def count(self, table, condition="true"):
        return int(psql(self.database_url, f"SELECT count(*) FROM {table} WHERE {condition}"))

    # ---- the end ------------------------------------------------------------------------------

    def close(self):
        self.close_wires()
        for worker in self.workers:
            worker.stop()
        if self.cluster:
            subprocess.run([sys.executable, REPO / "deploy/lib/engine.py", "remove-cluster",
                            self.cluster], env={**os.environ, "DOCKER_HOST": self.engine_host},
                           check=False, stdout=subprocess.DEVNULL, timeout=300)
        for container in self.engine.containers(f"{BENCH_LABEL}={self.database}"):
            self.engine.remove_container(container["Id"])  # of an interrupted comparison
        for image in self.images:
            try:
                image.remove()
            except EngineError as error:
                print(f"image {image.name}: {error}", file=sys.stderr)
        psql(self.admin_url, f"DROP DATABASE IF EXISTS {self.database} WITH (FORCE)")
        shutil.rmtree(self.folder, ignore_errors=True)


def at_once(count, work):
    """Run work(i) in `count` threads that begin together; the results in order, errors raised."""
    gate = threading.Barrier(count)
    results = [None] * count

    def run(i):
        gate.wait()
        try:
            results[i] = work(i)
        except Exception as error:  # pylint: disable=broad-except
            results[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
