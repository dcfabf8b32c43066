"""The real sandboxd for the black-box tests: a database of its own, processes, an HTTP client.

A Service is an installation (database, secret, keys); start() runs a Server of it. close() deletes
what the tests left, stops the servers, and fails if anything with the installation's label was
leaked on the engine. Tests wait for conditions with wait_for().
"""
import base64
import concurrent.futures
import http.client
import io
import json
import os
import pathlib
import re
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import unittest
import urllib.parse

REPO = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "deploy/lib"))
from engine import Engine, EngineError  # noqa: E402

BIN = pathlib.Path(os.environ.get("SBX_TEST_BIN", REPO / "build/release/bin"))
DOCKER_HOST = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
DATABASE_URL = os.environ.get("SBX_TEST_DATABASE_URL", "")
REDIS_URL = os.environ.get("SBX_TEST_REDIS_URL", "")
BUSYBOX = "/bin/busybox"
BOX_IMAGE = "sbxtest-busybox:1"
ID = re.compile(r"^[a-z0-9]{20}$")
engine = Engine(DOCKER_HOST)


def wait_for(check, timeout=15.0, what="the condition", pause=0.02):
    """The first true value of check(); fails after `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"{timeout} s passed without {what}")
        time.sleep(pause)


def all_at_once(function, arguments, threads=32):
    """The results of function(argument) for all arguments, run in parallel, in their order."""
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, arguments))


# ---- images -----------------------------------------------------------------------------------


def box_files():
    """A tiny root: busybox with all its names, and nobody but root in passwd."""
    files = {"bin/": 0o755, "etc/": 0o755, "root/": 0o700, "tmp/": 0o1777, "home/": 0o755,
             "proc/": 0o755, "dev/": 0o755, "sys/": 0o755,
             "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n", "etc/group": b"root:x:0:\n",
             "bin/busybox": pathlib.Path(BUSYBOX).read_bytes()}
    names = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True)
    files.update({f"bin/{name}": "busybox" for name in names.stdout.split() if name != "busybox"})
    return files


made_images = set()


def make_image(name, files, changes=(), into=engine):
    """Imports an image: folders by mode, files by bytes, symbolic links by target."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path, what in files.items():
            info = tarfile.TarInfo(path.rstrip("/"))
            if isinstance(what, int):
                info.type, info.mode = tarfile.DIRTYPE, what
            elif isinstance(what, str):
                info.type, info.linkname = tarfile.SYMTYPE, what
            else:
                info.mode, info.size = 0o755 if path.startswith("bin/") else 0o644, len(what)
            tar.addfile(info, io.BytesIO(what) if isinstance(what, bytes) else None)
    repo, tag = name.split(":")
    told = list(into.stream("POST", "/images/create",
                              {"fromSrc": "-", "repo": repo, "tag": tag, "changes": list(changes)},
                              packed.getvalue(), headers={"Content-Type": "application/x-tar"}))
    errors = [line["error"] for line in told if "error" in line]
    if errors:
        raise AssertionError(f"image {name}: {errors}")
    if into is engine:
        made_images.add(name)
    return name


def remove_images():
    """Those that this process made, but for the tiny one, which the next program uses again."""
    for name in made_images - {BOX_IMAGE}:
        engine.remove_image(name)


def box_image(into=engine):
    if not into.image(BOX_IMAGE):
        make_image(BOX_IMAGE, box_files(), into=into)
    return BOX_IMAGE


# ---- HTTP -------------------------------------------------------------------------------------


class Answer:
    """A complete response."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"<{self.status} {self.body[:500]!r}>"


class Stream:
    """A response that is read as it comes: server-sent events of which `data` is JSON."""

    def __init__(self, connection, response):
        self.connection, self.response = connection, response
        self.status, self.headers = response.status, response.headers

    def events(self):
        """Yields (id or None, decoded data); comments are left out."""
        event_id, data = None, []
        for raw in self.response:
            line = raw.decode("utf-8").rstrip("\r\n")
            if line.startswith("id:"):
                event_id = line[3:].strip()
            elif line.startswith("data:"):
                data.append(line[5:].removeprefix(" "))
            elif not line and data:
                yield event_id, json.loads("\n".join(data))
                event_id, data = None, []

    def next(self):
        return next(self.events())

    def close(self):
        """Goes away without a word, as a client does whose process was killed."""
        sock = self.connection.sock or self.response.fp.raw._sock  # pylint: disable=W0212
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.response.close()
        self.connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.response.close()
        self.connection.close()


class WebSocket:
    """A client of RFC 6455: enough to read text frames, answer pings and close."""

    def __init__(self, port, path, headers, timeout=20):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout)
        lines = [f"GET {path} HTTP/1.1", "Host: test", "Upgrade: websocket", "Connection: Upgrade",
                 "Sec-WebSocket-Version: 13",
                 "Sec-WebSocket-Key: " + base64.b64encode(secrets.token_bytes(16)).decode()]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        self.file = self.sock.makefile("rb")
        self.status = int(self.file.readline().split()[1])
        self.headers = http.client.parse_headers(self.file)
        self.close_code = None

    def send(self, opcode, payload):
        mask = secrets.token_bytes(4)
        assert len(payload) < 126
        self.sock.sendall(bytes([0x80 | opcode, 0x80 | len(payload)]) + mask +
                          bytes(b ^ mask[i % 4] for i, b in enumerate(payload)))

    def frames(self):
        """Yields decoded text frames until the close frame, whose code is kept."""
        while True:
            head = self.file.read(2)
            if len(head) < 2:
                return
            opcode, length = head[0] & 15, head[1] & 127
            if length == 126:
                length = struct.unpack(">H", self.file.read(2))[0]
            elif length == 127:
                length = struct.unpack(">Q", self.file.read(8))[0]
            payload = self.file.read(length)
            if opcode == 8:
                self.close_code = struct.unpack(">H", payload[:2])[0] if payload else 1005
                return
            if opcode == 9:
                self.send(10, payload)
            elif opcode == 1:
                yield json.loads(payload)

    def close(self):
        self.file.close()
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Client:
    """Requests with one key. Calls from several threads each have a connection of their own."""

    def __init__(self, server, key=None):
        self.server, self.key = server, key

    def headers(self, more=None):
        auth = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return {**auth, **(more or {})}

    def connect(self, timeout=60):
        return http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=timeout)

    def call(self, method, path, body=None, headers=None, timeout=60, connection=None):
        """`body` is sent as it is if it is bytes, otherwise as JSON."""
        headers = self.headers(headers)
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
            if not isinstance(body, bytes):
                body = json.dumps(body).encode()
        own = connection is None
        connection = connection or self.connect(timeout)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            if own:
                connection.close()

    def get(self, path, **more):
        return self.call("GET", path, **more)

    def post(self, path, body=None, **more):
        return self.call("POST", path, {} if body is None else body, **more)

    def patch(self, path, body=None, **more):
        return self.call("PATCH", path, body, **more)

    def move(self, sandbox, verb, body=None, status=200, timeout=60):
        """POST of a verb; the sandbox, or the problem that was expected."""
        got = self.post(f"/sandboxes/{sandbox}/{verb}", body, timeout=timeout)
        if got.status != status:
            raise AssertionError(f"{verb}: {got}")
        return got.json

    def delete(self, path, **more):
        return self.call("DELETE", path, **more)

    def stream(self, method, path, body=None, headers=None, timeout=60):
        headers = self.headers({"Accept": "text/event-stream", **(headers or {})})
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection = self.connect(timeout)
        connection.request(method, path, None if body is None else json.dumps(body).encode(),
                           headers)
        return Stream(connection, connection.getresponse())

    def websocket(self, path, headers=None):
        return WebSocket(self.server.port, path, self.headers(headers))

    # the product's verbs

    def create(self, **spec):
        """A running sandbox of the tiny image, unless the spec says otherwise."""
        if "template" not in spec and "image" not in spec:
            spec["template"] = "box"
        got = self.post("/sandboxes", spec, timeout=120)
        if got.status != (202 if spec.get("wait") is False else 201):
            raise AssertionError(f"create: {got}")
        return got.json

    def exec(self, sandbox, command, **more):
        got = self.post(f"/sandboxes/{sandbox}/exec", {"command": command, **more}, timeout=120)
        if got.status != 200:
            raise AssertionError(f"exec {command!r}: {got}")
        return got.json

    def exec_stream(self, sandbox, command, timeout=60, **more):
        return self.stream("POST", f"/sandboxes/{sandbox}/exec", {"command": command, **more},
                           timeout=timeout)

    def sandbox(self, sandbox):
        got = self.get(f"/sandboxes/{sandbox}")
        if got.status != 200:
            raise AssertionError(f"get: {got}")
        return got.json

    def state(self, sandbox):
        return self.sandbox(sandbox)["state"]

    def logs(self, sandbox, query=""):
        got = self.get(f"/sandboxes/{sandbox}/logs{query}")
        if got.status != 200:
            raise AssertionError(f"logs: {got}")
        return got.json["items"]

    def pages(self, query=""):
        """All items of the list, page by page."""
        cursor, items = None, []
        while True:
            more = f"&cursor={urllib.parse.quote(cursor)}" if cursor else ""
            got = self.get(f"/sandboxes?{query}{more}")
            if got.status != 200:
                raise AssertionError(f"list: {got}")
            items += got.json["items"]
            cursor = got.json["nextCursor"]
            if not cursor:
                return items

    def every(self):
        return self.pages("limit=200")


# ---- processes --------------------------------------------------------------------------------


def child_environment(more):
    """The caller's variables without those that would configure sandboxd."""
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(("SBX_", "DATABASE_", "REDIS_", "DOCKER_"))}
    return {**kept, **{name: str(value) for name, value in more.items()}}


def sandboxd(*arguments, env=None, timeout=30):
    """Runs a command of the program to its end."""
    return subprocess.run([BIN / "sandboxd", *arguments], env=child_environment(env or {}),
                          capture_output=True, text=True, timeout=timeout, check=False)


class Server:
    """One `sandboxd serve`; listens on a port that the kernel chose."""

    def __init__(self, service, number, env, arguments=()):
        self.log_path = service.folder / f"server-{number}.log"
        self.port = None
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [BIN / "sandboxd", "serve", *arguments], stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, env=child_environment(env), cwd="/", start_new_session=True)

    @property
    def pid(self):
        return self.process.pid

    def log_text(self):
        return self.log_path.read_text(errors="replace")

    def log(self):
        """The lines of the log, decoded."""
        return [json.loads(line) for line in self.log_text().splitlines()
                if line.startswith("{") and line.endswith("}")]

    def find_port(self):
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended with {self.process.returncode}: "
                                 f"{self.log_text()[-2000:]}")
        for line in self.log():
            if line["msg"] == "serving":
                self.port = int(line["port"])
                return True
        return False

    def wait_serving(self, timeout=30):
        wait_for(self.find_port, timeout, "a server that listens")

    def wait_ready(self, timeout=30):
        self.wait_serving(timeout)
        wait_for(lambda: Client(self).get("/ready").status == 200, timeout, "readiness")

    def rss_kb(self):
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status).group(1))

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def threads(self):
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def alive(self):
        return self.process.poll() is None

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, timeout=40):
        return self.process.wait(timeout)

    def stop(self, timeout=40):
        """Ends it by SIGTERM; returns the exit status."""
        if self.alive():
            self.signal(signal.SIGTERM)
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError("no end after SIGTERM") from None
        return self.process.returncode

    def kill(self):
        if self.alive():
            self.signal(signal.SIGKILL)
        self.process.wait(10)


class Service:
    """An installation with a database of its own. Options of its servers are given by `env`."""

    def __init__(self, env=None, templates=None, database_url=None, engine_=engine):
        if not (database_url or DATABASE_URL):
            raise AssertionError("SBX_TEST_DATABASE_URL is not set: run tests/run")
        self.admin_url = database_url or DATABASE_URL
        self.engine = engine_
        self.name = "sbxsys_" + secrets.token_hex(6)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="sbxsys-"))
        self.servers = []
        self.psql(f"CREATE DATABASE {self.name}", self.admin_url)
        url = urllib.parse.urlsplit(self.admin_url)
        self.url = urllib.parse.urlunsplit(url._replace(path="/" + self.name))
        if not url.netloc:  # urlunsplit drops the empty authority of postgresql:///
            self.url = self.url.replace(":/", ":///", 1)
        secret = self.folder / "secret"
        secret.write_text(secrets.token_hex(32) + "\n")
        secret.chmod(0o600)
        self.env = {"DATABASE_URL": self.url, "SBX_SECRET_FILE": secret, "DOCKER_HOST": DOCKER_HOST,
                    "SBX_LISTEN": "127.0.0.1:0",
                    "SBX_NETWORK": "none",  # what most tests need, and cheaper
                    "SBX_RATE_FAILURES": "0",  # all come from one address
                    "SBX_TEMPLATES": templates or "python=sandboxd/python:1,node=sandboxd/node:1,"
                                                  f"box={box_image(engine_)}", **(env or {})}
        self.run("migrate")
        self.cluster = self.psql("SELECT value FROM meta WHERE key = 'cluster'")

    def psql(self, sql, url=None):
        got = subprocess.run(["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", url or self.url,
                              "-c", sql], capture_output=True, text=True, timeout=30, check=False)
        if got.returncode:
            raise AssertionError(f"psql: {got.stderr}")
        return got.stdout.strip()

    def run(self, *arguments):
        got = sandboxd(*arguments, env=self.env)
        if got.returncode:
            raise AssertionError(f"sandboxd {arguments}: {got.stderr}")
        return got.stdout.strip()

    def key(self, user="alice", *arguments, tier="enterprise"):
        """Without a limit of its rate, unless `--rates` is among the arguments."""
        rates = () if "--rates" in arguments else ("--rates", "none")
        return self.run("key", "--user", user, "--tier", tier, *rates, *arguments)

    def start(self, env=None, arguments=(), ready=True):
        """Another server; `ready` False: do not wait, None: only until it listens."""
        server = Server(self, len(self.servers), {**self.env, **(env or {})}, arguments)
        self.servers.append(server)
        if ready:
            server.wait_ready()
        elif ready is None:
            server.wait_serving()
        return server

    def containers(self):
        """Those of the installation, but for its guard, which stays while it lives."""
        return [c for c in self.engine.containers(f"sandboxd.cluster={self.cluster}")
                if c["Labels"].get("sandboxd.role") != "guard"]

    def inspect(self, sandbox):
        return self.engine.call("GET", f"/containers/sbx-{sandbox}/json")

    def container_exists(self, sandbox):
        try:
            return bool(self.inspect(sandbox))
        except EngineError as error:
            if error.status != 404:
                raise
            return False

    def container_runs(self, sandbox):
        return self.container_exists(sandbox) and self.inspect(sandbox)["State"]["Running"]

    def in_container(self, sandbox, script):
        """Runs a script in it past the server, which may not let anybody in yet."""
        made = engine.call("POST", f"/containers/sbx-{sandbox}/exec",
                           json_body={"Cmd": ["sh", "-c", script], "User": "0"})
        engine.call("POST", f"/exec/{made['Id']}/start", json_body={"Detach": True})

    def remove_container(self, sandbox):
        """What `docker rm -f` does, behind the server's back."""
        self.engine.call("DELETE", f"/containers/sbx-{sandbox}", {"force": "true", "v": "true"})

    def _delete_all(self, server):
        client = Client(server, self.key("cleaner"))
        self.psql("UPDATE sandboxes SET owner = (SELECT id FROM users WHERE name = 'cleaner')"
                  " WHERE state <> 'deleted'")
        ids = [s["id"] for s in client.every()]
        return [got for got in all_at_once(lambda s: client.delete(f"/sandboxes/{s}"), ids, 8)
                if got.status != 204]

    def close(self):
        """Deletes the sandboxes through a server, stops, and looks for what was leaked."""
        problems = []
        try:
            live = [server for server in self.servers if server.alive() and server.port]
            if live:
                problems += [f"delete: {got}" for got in self._delete_all(live[-1])]
            for server in self.servers:
                running = server.alive()
                if server.stop() != 0 and running:
                    problems.append(f"exit status {server.process.returncode}")
            if live:
                problems += [f"leaked container {c['Names']}" for c in self.containers()]
            problems += self._leaked_volumes()
            for server in self.servers:
                if re.search(r"Sanitizer|runtime error", server.log_text()):
                    problems.append(f"sanitizer report in {server.log_path.name}")
        finally:
            self.destroy()
        if problems:
            raise AssertionError("; ".join(problems))

    def _leaked_volumes(self):
        """All but the one with the agent, which stays for the next create, and sealed packages."""
        sealed = self.psql("SELECT 'sandboxd-packages-' || id FROM package_sets"
                           " WHERE state = 'sealed'").split()
        filters = json.dumps({"label": [f"sandboxd.cluster={self.cluster}"]})
        told = self.engine.call("GET", "/volumes", {"filters": filters})["Volumes"] or []
        return [f"leaked volume {v['Name']}" for v in told
                if not v["Name"].startswith("sandboxd-agent-") and v["Name"] not in sealed]

    def tail(self, lines=40):
        """The end of each server's log, for the report of a failure."""
        for server in self.servers:
            print(f"---- {server.log_path.name} (status {server.process.poll()})")
            print("\n".join(server.log_text().splitlines()[-lines:]))

    def destroy(self):
        """Takes down without asking the server."""
        self.tail()
        for server in self.servers:
            server.kill()
        self.engine.remove_cluster(self.cluster)
        for volume in self.engine.call("GET", "/volumes")["Volumes"] or []:
            if volume["Name"].endswith("-" + self.cluster):  # made again by the engine: no label
                self.engine.call("DELETE", f"/volumes/{volume['Name']}")
        self.psql(f"DROP DATABASE IF EXISTS {self.name} WITH (FORCE)", self.admin_url)
        shutil.rmtree(self.folder, ignore_errors=True)


def module_service(**options):
    """For setUpModule: a service whose end belongs to the module's; with a server and a client."""
    unittest.addModuleCleanup(remove_images)
    service = Service(**options)
    unittest.addModuleCleanup(service.close)
    server = service.start()
    return service, Client(server, service.key())


class HangingEngine:
    """Accepts connections and says nothing."""

    def __init__(self, folder):
        self.path = folder / "engine.sock"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen(64)
        self.held = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        try:
            while True:
                self.held.append(self.listener.accept()[0])
        except OSError:
            pass

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        for held in (self.listener, *self.held):
            held.close()


class SystemCase(unittest.TestCase):
    """Checks that many tests need."""

    maxDiff = 2000

    def assert_problem(self, got, status, code, field=None):
        """A problem document in full; `field` stands in its list of errors."""
        self.assertEqual(got.status, status, got)
        self.assertEqual(got.headers["Content-Type"], "application/problem+json")
        told = got.json
        self.assertEqual(told["code"], code, told)
        self.assertEqual(told["status"], status)
        self.assertEqual(told["requestId"], got.headers["X-Request-Id"])
        for name in ("type", "title", "detail"):
            self.assertTrue(told[name], told)
        if status in (429, 503):
            self.assertGreaterEqual(int(got.headers["Retry-After"]), 1)
        if field:
            self.assertIn(field, [e["field"] for e in told.get("errors", [])], told)
            self.assertTrue(all(e["message"] for e in told["errors"]))
        return told
