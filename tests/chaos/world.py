"""The installation that is broken: two workers behind nginx, PostgreSQL, Redis and an engine of its
own, with a line that can be cut before each part that a worker talks to.

What is killed is started again by whoever killed it (faults.py); a worker that ends by itself is
started again here, as an init system would, and told of.
"""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading

import parts
import sandboxd
from nginx import Nginx, free_port
from sandboxd import wait_for

HERE = pathlib.Path(__file__).resolve().parent
WORKERS = 2
SWEEP_S, GRACE_S = 2, 3
POOL = "box=1:2/nano"
IMAGE = "sbxtest-chaos:1"
# What a run of "python" gets: no interpreter is needed to find out whether a run is lost.
INTERPRETER = b'#!/bin/sh\nshift\nexec /bin/sh "$@"\n'
START_S = 60

def status_of(pid):
    """Fields of /proc/PID/status, or nothing."""
    try:
        text = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return {}
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def processes():
    return {int(pid): status_of(pid) for pid in os.listdir("/proc") if pid.isdigit()}


def send(pids, number):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


class Postgres(parts.PrivatePostgres):
    def family(self):
        mine = str(self.process.pid)
        return [self.process.pid,
                *(p for p, s in processes().items() if s.get("PPid", "").strip() == mine)]

    def kill(self):
        send(self.family(), signal.SIGKILL)
        self.process.wait(20)

    def answers(self):
        return subprocess.run([self.bin / "pg_isready", "-q", "-h", self.folder],
                              check=False).returncode == 0

    def start(self):
        def up():
            if self.process is None or self.process.poll() is not None:
                self.run(self.user(self.bin / "postgres", "-D", self.folder / "data", "-k",
                                   self.folder, "-h", "", "-c", "fsync=off", "-c",
                                   "max_connections=200"))
            return self.answers()
        wait_for(up, START_S, "PostgreSQL", 0.1)


class Redis(parts.PrivateRedis):
    def family(self):
        return [self.process.pid]

    def kill(self):
        send(self.family(), signal.SIGKILL)
        self.process.wait(20)


class DockerEngine(parts.PrivateEngine):
    def family(self):
        return [self.process.pid]

    def kill(self):
        """The daemon alone; its containers are found by the next one."""
        send(self.family(), signal.SIGKILL)
        self.process.wait(20)

    def answers(self):
        """One that gives up at its start, as its predecessor's containerd is not gone yet, is
        started again, as an init system does."""
        if self.process.poll() is not None:
            self.run(self.process.args, stdout=subprocess.DEVNULL)
        return super().answers()

    def agents(self):
        """The processes 1 of all containers, which are children of their shims, in a fixed order:
        that of their start."""
        every = processes()
        shims = {pid for pid, s in every.items()
                 if s.get("Name", "").startswith("containerd-shim") and self.is_mine(pid)}
        return sorted(pid for pid, s in every.items()
                      if int(s.get("PPid", "0")) in shims and s.get("NSpid", "").split()[-1:] == ["1"])

    def crash(self):
        """As a machine that crashes does."""
        agents = self.agents()
        super().kill()
        send(agents, signal.SIGKILL)

    def remove(self):
        send(self.agents(), signal.SIGCONT)
        super().remove()


class Relay:
    """The lines, in another process."""

    def __init__(self, lines):
        self.process = subprocess.Popen(
            [sys.executable, HERE / "relay.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True)
        self.process.stdin.write(json.dumps(lines) + "\n")
        self.process.stdin.flush()
        self.places = json.loads(self.process.stdout.readline())
        self.lock = threading.Lock()

    def set(self, name, mode):
        with self.lock:
            self.process.stdin.write(f"{name} {mode}\n")
            self.process.stdin.flush()
            self.process.stdout.readline()

    def close(self):
        self.process.stdin.close()
        self.process.wait(20)


class Worker:
    """A place for a server: its port and lines stay, its process comes and goes."""

    def __init__(self, world, number):
        self.world, self.number = world, number
        self.port = free_port()
        self.server, self.down = None, False  # down: somebody has killed it and will start it
        self.lock = threading.RLock()

    def family(self):
        return [self.server.pid]

    def start(self):
        with self.lock:
            self.spawn()
            self.down = False
        wait_for(self.serves, START_S, f"worker {self.number}", 0.05)

    def spawn(self):
        service = self.world.service
        self.server = sandboxd.Server(service, len(service.servers),
                                      {**service.env, **self.world.worker_env(self.number)})
        service.servers.append(self.server)

    def serves(self):
        with self.lock:
            return self.server.alive() and "serving" in self.server.log_text()

    def kill(self):
        with self.lock:
            self.down = True
            self.server.kill()

    def look_after(self):
        """Starts it again if it ended though nobody killed it; says how it ended."""
        with self.lock:
            if self.down or self.server.alive():
                return None
            status, served = self.server.process.returncode, "serving" in self.server.log_text()
            log = self.server.log_path
            self.spawn()
        return f"worker {self.number} ended by itself with status {status} ({log})" \
            if status < 0 or served else None


class World:
    def __init__(self, say, violate):
        self.say, self.violate = say, violate
        self.closing = threading.Event()
        self.exits = contextlib.ExitStack()
        self.workers = []
        try:
            self.build()
        except BaseException:
            self.exits.close()
            raise

    def build(self):
        self.postgres, self.redis = Postgres(), Redis()
        self.engine = DockerEngine()
        for part in (self.postgres, self.redis, self.engine):
            self.exits.callback(part.remove)
            part.start()
        sandboxd.make_image(IMAGE, {**sandboxd.box_files(), "bin/python3": INTERPRETER},
                            into=self.engine.api)
        self.service = sandboxd.Service(
            database_url=self.postgres.url, engine_=self.engine.api,
            templates=f"box={IMAGE},python={IMAGE}",
            env={"DOCKER_HOST": self.engine.host, "REDIS_URL": self.redis.url})
        self.exits.callback(self.destroy)
        self.key = self.service.key("chaos")
        self.workers = [Worker(self, n) for n in range(WORKERS)]
        self.relay = Relay(self.lines())
        self.exits.callback(self.relay.close)
        for worker in self.workers:
            worker.start()
        self.nginx = Nginx([self.relay.places[f"http-{w.number}"] for w in self.workers])
        self.exits.callback(self.nginx.remove)
        self.port = self.nginx.start().port
        threading.Thread(target=self.look_after, daemon=True).start()

    def lines(self):
        lines = {}
        for worker in self.workers:
            n = worker.number
            lines |= {f"http-{n}": ("tcp", "", worker.port),
                      f"postgres-{n}": ("unix", ".s.PGSQL.5432",
                                        f"{self.postgres.folder}/.s.PGSQL.5432"),
                      f"redis-{n}": ("unix", "socket", f"{self.redis.folder}/socket"),
                      f"engine-{n}": ("unix", "docker.sock",
                                      self.engine.host.removeprefix("unix://"))}
        return lines

    def worker_env(self, n):
        places = self.relay.places
        folder = pathlib.Path(places[f"postgres-{n}"]).parent
        return {"SBX_LISTEN": f"127.0.0.1:{self.workers[n].port}",
                "DATABASE_URL": self.service.url.replace(
                    parts.PrivatePostgres.url_at(self.postgres.folder).split("host=")[1],
                    parts.PrivatePostgres.url_at(folder).split("host=")[1]),
                "REDIS_URL": f"unix://{places[f'redis-{n}']}",
                "DOCKER_HOST": f"unix://{places[f'engine-{n}']}",
                "SBX_SWEEP_SECONDS": SWEEP_S, "SBX_ORPHAN_GRACE": GRACE_S, "SBX_POOL": POOL}

    def part(self, name, which):
        if name == "worker":
            return self.workers[int(which)]
        return {"postgres": self.postgres, "redis": self.redis, "engine": self.engine}[name]

    def look_after(self):
        while not self.closing.wait(0.3):
            for worker in self.workers:
                if told := worker.look_after():
                    self.violate(told)

    def sanitizer_reports(self):
        return [f"sanitizer report in {s.log_path}" for s in self.service.servers
                if any(mark in s.log_text() for mark in ("Sanitizer", "runtime error"))]

    def keep_logs(self, folder):
        """The logs of all servers, of nginx and of the engine, for whoever looks for causes."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for server in self.service.servers:
            shutil.copy(server.log_path, folder)
        shutil.copy(self.engine.folder / "log", folder / "engine.log")
        (folder / "nginx.log").write_text(self.nginx.log())

    def destroy(self):
        self.closing.set()
        for server in self.service.servers:
            server.kill()
        with contextlib.suppress(Exception):
            self.engine.api.remove_cluster(self.service.cluster)
        shutil.rmtree(self.service.folder, ignore_errors=True)

    def close(self):
        self.closing.set()
        self.exits.close()
