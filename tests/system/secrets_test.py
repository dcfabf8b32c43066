"""Nothing that is secret shows where it should not: canaries are planted wherever a user or an
operator gives one, requests succeed and fail in many ways, the server is killed, and then
everything that is written, shown or stored is searched for them. And the change of the master key.
"""
import base64
import json
import os
import pathlib
import secrets
import signal
import socket
import subprocess
import unittest
import urllib.parse

import sandboxd
from sandboxd import Client, Service, SystemCase, sandboxd as program, wait_for

QUICK = True


def canary(name):
    return f"{name}zq{secrets.token_hex(10)}"


class PrivateRedis:
    """One with a password, and everything that is said to it."""

    def __init__(self, folder, password):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        config = folder / "redis.conf"
        config.write_text(f'bind 127.0.0.1\nport {self.port}\nrequirepass {password}\nsave ""\n'
                          f"dir {folder}\n")
        self.env = {**os.environ, "REDISCLI_AUTH": password}
        self.process = subprocess.Popen(["redis-server", str(config)], stdout=subprocess.DEVNULL)
        wait_for(lambda: self.cli("PING").strip() == b"PONG", what="Redis")
        self.said = folder / "monitor"
        with self.said.open("wb") as out:
            self.monitor = subprocess.Popen(["redis-cli", "-p", str(self.port), "MONITOR"],
                                            stdout=out, env=self.env)
        wait_for(lambda: self.said.read_bytes().startswith(b"OK"), what="the monitor")
        self.url = f"redis://:{password}@127.0.0.1:{self.port}/0"

    def cli(self, *words):
        return subprocess.run(["redis-cli", "-p", str(self.port), *words], env=self.env,
                              capture_output=True, timeout=20, check=False).stdout

    def dump(self):
        found = b""
        for key in self.cli("KEYS", "*").splitlines():
            for read in (["GET"], ["XRANGE", "-", "+"], ["HGETALL"], ["SMEMBERS"],
                         ["LRANGE", "0", "-1"], ["ZRANGE", "0", "-1"]):
                found += key + self.cli(read[0], key.decode(), *read[1:])
        return found

    def close(self):
        for process in (self.monitor, self.process):
            process.terminate()
            process.wait(10)


def with_password(url, password):
    parts = urllib.parse.urlsplit(url)
    query = parts.query + ("&" if parts.query else "") + f"password={password}"
    made = urllib.parse.urlunsplit(parts._replace(query=query))
    return made if parts.netloc or ":///" in made else made.replace(":/", ":///", 1)


def setUpModule():
    global service, redis, secret, control, server, alice, alice_key
    control = canary("control")  # not secret: it has to be found
    unittest.addModuleCleanup(sandboxd.remove_images)
    secret = {name: canary(name) for name in (
        "createenv", "patchenv", "execenv", "runenv", "batchenv", "groupenv", "stdin", "morestdin",
        "file", "batchfile", "code", "codefile", "badenv", "largeenv", "conflictenv", "repeatenv",
        "failenv", "killenv", "warmenv", "mirror", "npm", "dbpassword", "redispassword",
        "badkey", "badticket", "upload", "metricstoken")}
    service = Service()
    unittest.addModuleCleanup(service.close)
    redis = PrivateRedis(service.folder, secret["redispassword"])
    unittest.addModuleCleanup(redis.close)
    service.env.update({
        "DATABASE_URL": with_password(service.url, secret["dbpassword"]),
        "REDIS_URL": redis.url, "SBX_LOG_LEVEL": "debug", "SBX_METRICS_TOKEN": secret["metricstoken"],
        "SBX_NPM_REGISTRY": f"http://user:{secret['npm']}@127.0.0.1:9/",
        "SBX_PACKAGES_TIMEOUT": "20"})
    # One option by flag, to look at the arguments as well.
    server = service.start(arguments=(
        "--pip-index-url", f"http://user:{secret['mirror']}@127.0.0.1:9/simple"))
    alice_key = service.key()
    secret["apikey"] = alice_key.split("_")[2]
    alice = Client(server, alice_key)


def forms(text):
    """As it may stand somewhere: plain, hexadecimal, and base64 at each offset."""
    raw = text.encode()
    yield raw
    yield raw.hex().encode()
    for offset in range(3):
        yield base64.b64encode(b"x" * offset + raw)[4:-4]


class Canaries(SystemCase):
    def expect(self, got, *statuses):
        self.assertIn(got.status, statuses, got)
        return got

    def use_everything(self):
        """Every way in that takes something secret, where it succeeds."""
        client = alice
        box = client.create(env={"A": secret["createenv"]})["id"]
        self.expect(client.patch(f"/sandboxes/{box}", {"env": {"B": secret["patchenv"]},
                                                       "name": control}), 200)
        self.assertEqual(client.exec(box, 'test "$A$B$C" && echo ok',
                                     env={"C": secret["execenv"]})["stdout"], "ok\n")
        client.exec(box, ["sh", "-c", "cat > /dev/null"], stdin=secret["stdin"])
        job = self.expect(client.post(f"/sandboxes/{box}/exec", {
            "command": ["sh", "-c", "cat > /dev/null"], "background": True, "stdinOpen": True}),
            202).json["execId"]
        self.expect(client.call("POST", f"/sandboxes/{box}/execs/{job}/stdin?close=true",
                                secret["morestdin"].encode(),
                                {"Content-Type": "application/octet-stream"}), 204)
        self.expect(client.call("PUT", f"/sandboxes/{box}/files?path=/tmp/f",
                                secret["file"].encode()), 201)
        self.expect(client.post(f"/sandboxes/{box}/files/batch",
                                {"files": {"/tmp/g": secret["batchfile"]}}), 200)
        got = client.get(f"/sandboxes/{box}/files?path=/tmp/f")
        self.assertEqual(got.body.decode(), secret["file"])
        group = self.expect(client.post("/groups", {"name": "g", "sandboxes": [box]}), 201).json
        self.expect(client.post(f"/groups/{group['id']}/exec", {
            "command": ["true"], "env": {"D": secret["groupenv"]}}), 200)
        key = {"Idempotency-Key": secrets.token_hex(8)}
        spec = {"template": "box", "env": {"E": secret["repeatenv"]}}
        first = self.expect(client.post("/sandboxes", spec, headers=key), 201)
        self.assertEqual(self.expect(client.post("/sandboxes", spec, headers=key), 201).json["id"],
                         first.json["id"])
        self.expect(client.post("/sandboxes", {**spec, "env": {"E": secret["conflictenv"]}},
                                headers=key), 409)
        self.expect(client.post("/sandboxes/batch", {"count": 2, "sandbox": {
            "template": "box", "env": {"F": secret["batchenv"]}}}), 201)
        return box

    def run_code(self):
        got = self.expect(alice.post("/run", {
            "runtime": "python", "code": f"x = '{secret['code']}'", "env": {"A": secret["runenv"]},
            "files": {"data": secret["codefile"]}}, timeout=120), 200)
        self.assertEqual(got.json["exitCode"], 0)
        for runtime, name in (("python", "six==1.0"), ("node", "ms@2.1.3")):  # no mirror is there
            self.expect(alice.post("/run", {"runtime": runtime, "code": "1", "packages": [name]},
                                   timeout=120), 200, 422)

    def fail_in_many_ways(self, box):
        client = alice
        bad = secret["badenv"]
        for body in ({"template": "box", "env": {"A": 7, "B": bad}},
                     {"template": "box", "env": {"A=": bad}}, {"env": [bad]},
                     {"template": "box", "env": {"A": bad}, "nonsense": 1},
                     {"template": "box", "env": {"A": bad}, "limits": {"memoryMb": 1}},
                     {"template": "box", "env": {"A": bad + "x" * 40000}},
                     {"image": "no-such-image:1", "env": {"A": bad}}):
            self.assertGreaterEqual(client.post("/sandboxes", body).status, 400)
        self.expect(client.call("POST", "/sandboxes", b'{"env": {"A": "' + bad.encode()), 400)
        self.expect(client.post(f"/sandboxes/{box}/exec", {
            "command": ["no-such-program"], "env": {"A": bad}}), 200)
        self.expect(client.post(f"/sandboxes/{box}/exec", {
            "command": ["true"], "cwd": "/nowhere", "env": {"A": bad}}), 400)
        self.expect(client.call("POST", "/sandboxes", json.dumps(
            {"env": {"A": secret["largeenv"]}, "metadata": {"a": "x" * 2000000}}).encode()), 413)
        self.expect(Client(server, "sbx_BADBADBA_" + secret["badkey"].ljust(40, "a")[:40])
                    .get("/sandboxes"), 401)
        self.expect(Client(server).get("/sandboxes?ticket=tkt_" + secret["badticket"]), 401)
        self.expect(Client(server, "nonsense" + secret["badkey"]).get("/sandboxes"), 401)
        self.expect(client.call("PUT", f"/sandboxes/{box}/files?path=/proc/x",
                                secret["upload"].encode()), 400, 403, 404, 409, 500, 502)
        # The main process ends at once: the start fails behind the env.
        self.expect(client.post("/sandboxes", {
            "template": "box", "env": {"A": secret["failenv"]}, "command": ["false"],
            "readiness": {"command": ["false"], "retries": 1, "intervalMs": 100}}), 409, 502)

    def use_tickets(self, box):
        path = f"/sandboxes/{box}"
        ticket = self.expect(alice.post("/tickets", {"path": path}), 201).json["ticket"]
        secret["ticket"] = ticket[4:]
        self.expect(Client(server).get(f"{path}?ticket={ticket}"), 200)
        self.expect(Client(server).get(f"{path}?ticket={ticket}"), 401)
        unused = self.expect(alice.post("/tickets", {"path": path}), 201).json["ticket"]
        secret["unusedticket"] = unused[4:]

    def crash(self):
        """Killed in the middle of a create; the next one finishes what it left."""
        global server, alice
        stream = alice.connect()
        stream.request("POST", "/sandboxes", json.dumps({
            "template": "box", "env": {"A": secret["killenv"]}}),
            alice.headers({"Content-Type": "application/json"}))
        wait_for(lambda: service.psql("SELECT 1 FROM sandboxes WHERE state = 'creating'")
                 or service.psql("SELECT 1 FROM sandboxes WHERE env_names::text = '[\"A\"]'"),
                 what="the row")
        server.signal(signal.SIGKILL)
        server.wait()
        stream.close()
        server = service.start(arguments=(
            "--pip-index-url", f"http://user:{secret['mirror']}@127.0.0.1:9/simple"))
        alice = Client(server, alice_key)
        wait_for(lambda: service.psql("SELECT count(*) FROM sandboxes WHERE state IN"
                                      " ('creating', 'deleting')") == "0", 60, "a settled table")

    def places(self):
        """(name, content) of all that can be looked at."""
        for one in service.servers:
            yield one.log_path.name, one.log_path.read_bytes()
        dump = subprocess.run(["pg_dump", "--inserts", "-d", service.url], capture_output=True,
                              timeout=60, check=True).stdout
        yield "the database", dump
        yield "/metrics", Client(server, secret["metricstoken"]).get("/metrics").body
        for path in ("/events?limit=200", "/sandboxes?limit=200", "/sandboxes?state=deleted",
                     "/groups", "/health", "/ready"):
            yield path, alice.get(path).body
        admin = Client(server, service.key("root", "--role", "admin"))
        yield "/audit", admin.get("/audit?limit=200").body
        yield "the arguments", pathlib.Path(f"/proc/{server.pid}/cmdline").read_bytes()
        yield "the environment", pathlib.Path(f"/proc/{server.pid}/environ").read_bytes()
        for entry in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                if int(entry.read_text().rsplit(")", 1)[1].split()[1]) == server.pid:
                    for name in ("cmdline", "environ"):
                        yield f"a child's {name}", (entry.parent / name).read_bytes()
            except OSError:
                continue  # it ended
        for container in service.engine.containers(f"sandboxd.cluster={service.cluster}"):
            told = service.engine.call("GET", f"/containers/{container['Id']}/json")
            yield f"inspect of {told['Name']}", json.dumps(told).encode()
        yield "volumes", json.dumps(service.engine.call("GET", "/volumes")).encode()
        yield "Redis", redis.dump()
        yield "what is said to Redis", redis.said.read_bytes()

    def test_no_canary_is_found_anywhere(self):
        box = self.use_everything()
        self.use_tickets(box)
        self.run_code()
        self.fail_in_many_ways(box)
        self.crash()
        wait_for(lambda: alice.get(f"/sandboxes/{box}").status == 200, what="the sandbox")
        wait_for(lambda: alice.exec(box, "echo $A")["stdout"].strip() == secret["createenv"],
                 what="env behind the crash")  # it can be read, and is in the sandbox's log
        found, looked = [], 0
        # What a command prints is its log, which is kept and shown: that one is told apart.
        printed = {"createenv"}
        for place, content in self.places():
            looked += 1
            self.assertTrue(content, place)
            for name, text in secret.items():
                if name in printed and ("Redis" in place):
                    continue
                if any(form in content for form in forms(text)):
                    at = content.find(text.encode())
                    found.append(f"{name} in {place}: {content[max(at - 80, 0):at + 20]!r}")
        self.assertGreater(looked, 15)
        seen = {place for place, content in self.places() if control.encode() in content}
        self.assertLessEqual({"the database", "/sandboxes?limit=200"}, seen)
        self.assertIn(alice_key.split("_")[1], dict(self.places())["the database"].decode())
        self.assertEqual(found, [])
        self.assertIn(b"env_sealed", dict(self.places())["the database"])

    def test_the_process_cannot_be_dumped(self):
        status = pathlib.Path(f"/proc/{server.pid}/maps").stat()
        self.assertEqual(status.st_uid, 0)
        limits = subprocess.run(["setpriv", "--reuid", "65534", "--clear-groups", "cat",
                                 f"/proc/{server.pid}/environ"], capture_output=True, check=False)
        self.assertNotEqual(limits.returncode, 0)


class MasterKey(SystemCase):
    def setUp(self):
        self.service = Service()
        self.addCleanup(self.service.close)
        self.old = self.service.folder / "secret"
        self.new = self.service.folder / "other"
        self.new.write_text(secrets.token_hex(32) + "\n")
        self.new.chmod(0o600)

    def refused(self, *arguments, **env):
        got = program(*arguments, env={**self.service.env, **env})
        self.assertEqual(got.returncode, 1, got)
        return got.stderr

    def test_another_master_key_is_refused_at_the_start_and_the_message_says_what_to_do(self):
        self.service.key()
        for command in (["serve"], ["key", "--user", "bob"]):
            told = self.refused(*command, SBX_SECRET_FILE=self.new)
            self.assertRegex(told, "is not the one that this database was written with.*"
                                   "--secret-file-previous")
        self.assertEqual(self.service.psql("SELECT count(*) FROM users WHERE name = 'bob'"), "0")
        self.assertRegex(self.refused("serve", SBX_SECRET_FILE="/nowhere"), "No such file")
        self.assertRegex(self.refused("serve", SBX_SECRET_FILE=self.old,
                                      SBX_SECRET_FILE_PREVIOUS="/nowhere"), "No such file")

    def test_a_database_of_before_there_was_a_mark_is_told_by_what_is_sealed(self):
        server = self.service.start()
        Client(server, self.service.key()).create(env={"A": "1"})
        server.kill()
        self.service.psql("DELETE FROM meta WHERE key = 'secret'")
        self.assertIn("is not the one", self.refused("serve", SBX_SECRET_FILE=self.new))
        self.service.start()

    def test_the_master_key_is_changed_and_nothing_is_lost(self):
        server, keys = self.service.start(), [self.service.key(), self.service.key("bob")]
        box = Client(server, keys[0]).create(env={"A": "kept"})["id"]
        ticket = Client(server, keys[0]).post("/tickets", {"path": f"/sandboxes/{box}"}).json["ticket"]
        server.stop()
        self.service.env.update(SBX_SECRET_FILE=self.new, SBX_SECRET_FILE_PREVIOUS=self.old)
        server = self.service.start()
        client = Client(server, keys[0])
        self.assertEqual(Client(server).get(f"/sandboxes/{box}?ticket={ticket}").status, 200)
        self.assertEqual(Client(server).get(f"/sandboxes/{box}?ticket={ticket}").status, 401)
        self.assertEqual(client.exec(box, "echo $A")["stdout"], "kept\n")
        later = client.create(env={"A": "later"})["id"]
        told = self.service.run("reseal")
        self.assertIn("1 values sealed anew, 0 cannot", told)
        self.assertIn("1 API keys were not used", told)
        self.assertEqual(Client(server, keys[1]).get("/sandboxes").status, 200)
        told = self.service.run("reseal")
        self.assertIn("0 values sealed anew", told)
        self.assertIn("0 API keys were not used", told)
        server.stop()
        del self.service.env["SBX_SECRET_FILE_PREVIOUS"]
        server = self.service.start()
        client = Client(server, keys[0])
        self.assertEqual([client.exec(b, "echo $A")["stdout"] for b in (box, later)],
                         ["kept\n", "later\n"])
        self.assertEqual(Client(server, keys[1]).get("/sandboxes").status, 200)
        self.assertIn("is not the one", self.refused("serve", SBX_SECRET_FILE=self.old))


if __name__ == "__main__":
    unittest.main()
