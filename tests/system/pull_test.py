"""Images that the engine does not have are pulled, from a real registry on loopback."""
import concurrent.futures
import json
import os
import re
import secrets
import signal
import socket
import threading
import time
import unittest

import sandboxd
from parts import Registry
from sandboxd import Client, SystemCase, all_at_once, engine, wait_for

TIMEOUT_S = 300
# What an installer, the look at what it has made, and code get in place of Python.
PYTHON = b"""#!/bin/sh
case $1 in
-m) echo Collecting thing; echo ok > /opt/packages/thing.py ;;
-I) echo '{"packages":["thing==1.0"],"lock":"%s","bytes":4096}' ;;
*) cat /opt/packages/thing.py ;;
esac
""" % (b"0" * 64)

service = api = registry = None


class Valve:
    """A proxy in front of the registry: counts manifests, and holds layers back while it is shut."""

    def __init__(self, port):
        self.port = port
        self.open = threading.Event()
        self.open.set()
        self.manifests = 0
        self.held = 0
        self.blobs = []  # what was asked for of layers and configurations
        self.repositories = set()  # whose layers were asked for
        self.credentials = []
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.name = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        try:
            with client, socket.create_connection(("127.0.0.1", self.port)) as server:
                threading.Thread(target=self.back, args=(server, client), daemon=True).start()
                while data := client.recv(65536):
                    self.look(data)
                    server.sendall(data)
        except OSError:
            pass

    def look(self, request):
        asked = re.match(rb"GET /v2/(\S+)/blobs/(\S+)", request)
        with self.lock:
            self.credentials += re.findall(rb"(?i)^(?:x-registry-)?auth\S*:.*", request, re.M)
            if asked:
                self.repositories.add(asked.group(1))
                self.blobs.append(asked.group(2))
        if re.match(rb"GET /v2/\S+/blobs/", request) and not self.open.is_set():
            with self.lock:
                self.held += 1
            self.open.wait(120)
        elif re.match(rb"(GET|HEAD) /v2/\S+/manifests/\d", request):
            with self.lock:
                self.manifests += 1

    @staticmethod
    def back(server, client):
        try:
            while data := server.recv(65536):
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def close(self):
        self.open.set()
        self.listener.close()


def setUpModule():
    global service, api, registry
    if not os.access("/usr/bin/docker-registry", os.X_OK):
        raise AssertionError("docker-registry is not installed: run tests/run")
    service, api = sandboxd.module_service()
    registry = Registry()
    unittest.addModuleCleanup(registry.close)


class PullCase(SystemCase):
    def pushed(self, repo=None, files=None):
        """An image that the registry alone has, with layers that no other image shares."""
        made = sandboxd.make_image("sbxtest-topull:1", {**sandboxd.box_files(), **(files or {}),
                                                        "etc/pulled": os.urandom(3000000)})
        name = registry.push(made, repo or "pulled-" + secrets.token_hex(4))
        engine.remove_image(made)
        return name

    def shut_valve(self):
        valve = Valve(registry.port)
        valve.open.clear()
        self.addCleanup(valve.close)
        return valve

    def slow_image(self, valve, files=None):
        image = f"{valve.name}/{self.pushed(files=files)}"
        self.addCleanup(engine.remove_image, image)
        return image

    @staticmethod
    def waiting(server=None):
        text = Client(server or api.server).get("/metrics").body.decode()
        found = re.search(r"^sandboxd_pull_waiting (\d+)", text, re.M)
        return int(found.group(1)) if found else 0

    @staticmethod
    def pulls(result="ok"):
        text = api.get("/metrics").body.decode()
        found = re.search(rf'^sandboxd_pulls_total{{result="{result}"}} (\d+)', text, re.M)
        return int(found.group(1)) if found else 0


class PullTest(PullCase):
    def test_an_image_of_a_registry_is_pulled_and_runs(self):
        image = f"{registry.name}/{self.pushed()}"
        self.addCleanup(engine.remove_image, image)
        box = api.create(image=image)
        self.assertEqual(box["image"], image)
        self.assertEqual(api.exec(box["id"], "wc -c < /etc/pulled")["stdout"].strip(), "3000000")
        self.assertEqual(api.delete(f"/sandboxes/{box['id']}").status, 204)

    def test_an_image_that_the_registry_does_not_have_is_400_and_failed(self):
        got = api.post("/sandboxes", {"image": f"{registry.name}/nothing:1"})
        told = self.assert_problem(got, 400, "invalid_request", "image")
        record = api.sandbox(told["sandboxId"])
        self.assertEqual(record["state"], "failed")
        self.assertIn("nothing:1", record["stateReason"]["message"])
        again = api.post(f"/sandboxes/{told['sandboxId']}/start", timeout=120)
        self.assertIn("nothing:1", self.assert_problem(again, 400, "invalid_request",
                                                       "image")["detail"])
        self.assertEqual(api.state(told["sandboxId"]), "failed")

    def test_a_registry_that_is_down_is_502_with_its_words(self):
        got = api.post("/sandboxes", {"image": "127.0.0.1:1/no/such:image"})
        told = self.assert_problem(got, 502, "engine_error")
        self.assertIn("127.0.0.1:1/no/such:image", told["detail"])
        self.assertIn("refused", told["detail"])
        record = api.sandbox(told["sandboxId"])
        self.assertEqual((record["state"], record["stateReason"]["code"]),
                         ("failed", "engine_error"))


class WaitTest(PullCase):
    def test_30_creates_wait_for_one_pull_and_hold_no_thread(self):
        valve = self.shut_valve()
        image = self.slow_image(valve)
        before, threads = self.pulls(), len(os.listdir(f"/proc/{api.server.pid}/task"))
        with concurrent.futures.ThreadPoolExecutor(30) as pool:
            waiting = [pool.submit(api.post, "/sandboxes", {"image": image, "size": "nano"},
                                   timeout=120) for _ in range(30)]
            wait_for(lambda: valve.held and self.waiting() == 30, 30, "30 creates that wait")
            # all 8 slow workers are free: others are served at once
            others = all_at_once(lambda _: api.post("/sandboxes", {"template": "box"}), range(8), 8)
            self.assertEqual([o.status for o in others], [201] * 8)
            self.assertEqual(self.waiting(), 30)
            self.assertFalse([w for w in waiting if w.done()])
            self.assertEqual(len(os.listdir(f"/proc/{api.server.pid}/task")), threads)
            valve.open.set()
            got = [w.result() for w in waiting]
        self.assertEqual([g.status for g in got], [201] * 30)
        self.assertEqual(self.pulls() - before, 1)
        self.assertEqual(self.waiting(), 0)
        ids = [g.json["id"] for g in got]
        self.assertEqual(len(set(ids)), 30)
        self.assertEqual(api.exec(ids[29], "echo up")["stdout"], "up\n")
        gone = all_at_once(lambda box: api.delete(f"/sandboxes/{box}", timeout=120).status, ids, 30)
        self.assertEqual(gone, [204] * 30)

    def test_the_last_client_that_leaves_ends_the_pull(self):
        valve = self.shut_valve()
        image = self.slow_image(valve)
        cancelled, descriptors = self.pulls("cancelled"), api.server.descriptors()
        socks = []
        body = json.dumps({"image": image}).encode()
        for _ in range(3):
            sock = socket.create_connection(("127.0.0.1", api.server.port), 20)
            sock.sendall((f"POST /sandboxes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}"
                          f"\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
                          "\r\n\r\n").encode() + body)
            socks.append(sock)
        wait_for(lambda: valve.held and self.waiting() == 3, 20, "three that wait")
        for left, sock in zip((2, 1, 0), socks):
            self.assertEqual(self.pulls("cancelled"), cancelled)
            sock.close()
            wait_for(lambda n=left: self.waiting() == n, 10, f"{left} that wait")
        wait_for(lambda: self.pulls("cancelled") == cancelled + 1, 10, "the pull's end")
        mine = lambda: [s["state"] for s in api.every() if s["image"] == image]
        wait_for(lambda: mine() == ["failed"] * 3, 10, "records that are settled")
        wait_for(lambda: api.server.descriptors() <= descriptors + 1, 10, "closed descriptors")

    def test_a_sandbox_that_is_deleted_waits_no_longer(self):
        valve = self.shut_valve()
        image = self.slow_image(valve)
        box = api.create(image=image, wait=False)["id"]
        wait_for(lambda: valve.held and self.waiting() == 1, 20, "one that waits")
        self.assertEqual(api.state(box), "creating")
        self.assertEqual(api.delete(f"/sandboxes/{box}").status, 204)
        wait_for(lambda: self.waiting() == 0, 10, "none that waits")
        self.assertEqual(api.state(box), "deleted")
        self.assertFalse(service.container_exists(box))

    def test_a_stop_does_not_wait_for_pulls(self):
        other = sandboxd.Service()
        self.addCleanup(other.close)
        client = Client(other.start(), other.key())
        valve = self.shut_valve()
        image = self.slow_image(valve)
        later = client.create(image=image, wait=False)["id"]
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            waits = pool.submit(client.post, "/sandboxes", {"image": image}, timeout=60)
            wait_for(lambda: valve.held and self.waiting(client.server) == 2, 20, "two that wait")
            began = time.monotonic()
            client.server.signal(signal.SIGTERM)
            self.assertEqual(client.server.wait(), 0)
            self.assertLess(time.monotonic() - began, 5)
            told = self.assert_problem(waits.result(), 503, "at_capacity")
        for box in (later, told["sandboxId"]):
            row = json.loads(other.psql(f"SELECT row_to_json(s) FROM sandboxes s WHERE id = '{box}'"))
            self.assertEqual(row["state"], "failed")
            self.assertIn("interrupted", json.dumps(row))
        client = Client(other.start(), client.key)
        self.assertEqual(client.sandbox(later)["stateReason"]["code"], "interrupted")

    def test_a_pull_that_takes_too_long_is_504_for_all_who_wait(self):
        other = sandboxd.Service(env={"SBX_PULL_TIMEOUT": 2})
        self.addCleanup(other.close)
        client = Client(other.start(), other.key())
        image = self.slow_image(self.shut_valve())
        got = all_at_once(lambda _: client.post("/sandboxes", {"image": image}), range(3), 3)
        for answer in got:
            told = self.assert_problem(answer, 504, "timeout")
            self.assertIn("--pull-timeout", told["detail"])
            self.assertEqual(client.state(told["sandboxId"]), "failed")

    def test_a_create_that_waits_for_its_image_tells_how_far_it_is(self):
        valve = self.shut_valve()
        image = self.slow_image(valve)
        box = api.create(image=image, wait=False)["id"]

        def told():
            items = api.get(f"/events?sandboxId={box}&limit=100").json["items"]
            return [e["data"] for e in items if e["type"] == "sandbox.pulling"]
        first = wait_for(told, 20, "the first event")[0]
        self.assertEqual((first["from"], first["to"], first["reason"]["code"]),
                         ("creating", "creating", "pulling"))
        self.assertIn(image, first["reason"]["message"])
        wait_for(lambda: any(" layers, " in e["reason"]["message"] for e in told()), 20, "numbers")
        valve.open.set()
        wait_for(lambda: api.state(box) == "running", 30, "a sandbox")
        types = [e["type"] for e in api.get(f"/events?sandboxId={box}&limit=100").json["items"]]
        self.assertEqual((types[0], types[1], types[-1]),
                         ("sandbox.creating", "sandbox.pulling", "sandbox.running"))
        self.assertEqual(api.delete(f"/sandboxes/{box}").status, 204)


class OperatorTest(PullCase):
    def installation(self, **options):
        made = sandboxd.Service(**options)
        self.addCleanup(made.close)
        return made

    def test_images_of_templates_are_fetched_at_the_start_three_at_once_each_once(self):
        valve = self.shut_valve()
        images = [self.slow_image(valve) for _ in range(4)]
        names = ",".join(f"t{i}={image}" for i, image in enumerate(images + images[:1]))
        other = self.installation(templates=f"box={sandboxd.box_image()},{names}")
        client = Client(other.start(), other.key())
        wait_for(lambda: len(valve.repositories) == 3, 30, "three pulls")
        time.sleep(0.5)
        self.assertEqual(len(valve.repositories), 3)
        self.assertEqual(client.create()["state"], "running")  # nobody is held up
        valve.open.set()
        for image in images:
            wait_for(lambda i=image: engine.image(i), 60, "the image")
        # the engine has an image before it has told so
        wait_for(lambda: re.search(r'^sandboxd_pulls_total{result="ok"} 4$',
                                   client.get("/metrics").body.decode(), re.M), 20, "four pulls")

    def test_three_pulls_are_the_bound_for_all_and_users_go_before_those_ahead(self):
        ahead, users = self.shut_valve(), self.shut_valve()
        templates = [self.slow_image(ahead) for _ in range(5)]
        wanted = [self.slow_image(users) for _ in range(3)]
        names = ",".join(f"t{i}={image}" for i, image in enumerate(templates))
        other = self.installation(templates=f"box={sandboxd.box_image()},{names}")
        client = Client(other.start(), other.key())
        wait_for(lambda: len(ahead.repositories) == 3, 30, "three pulls")
        boxes = [client.create(image=image, wait=False)["id"] for image in wanted]
        wait_for(lambda: self.waiting(client.server) == 8, 20, "eight in line")
        self.assertEqual(len(users.repositories), 0)
        ahead.open.set()
        wait_for(lambda: len(users.repositories) == 3, 60, "pulls of users")
        self.assertEqual(len(ahead.repositories), 3)
        users.open.set()
        for box in boxes:
            wait_for(lambda b=box: client.state(b) == "running", 60, "a sandbox")
        for image in templates:
            wait_for(lambda i=image: engine.image(i), 60, "the image")

    def test_a_run_with_packages_waits_for_the_image_and_tells_how_far_it_is(self):
        valve = self.shut_valve()
        image = self.slow_image(valve, {"bin/python3": PYTHON})
        other = self.installation(templates=f"box={sandboxd.box_image()},python={image}")
        client = Client(other.start(), other.key())
        body = {"runtime": "python", "code": "", "packages": ["thing"]}
        with concurrent.futures.ThreadPoolExecutor(1) as pool, \
                client.stream("POST", "/run", body) as stream:
            plain = pool.submit(client.post, "/run", body, timeout=100)
            events = (event for _, event in stream.events())
            first = next(events)
            self.assertEqual(first["type"], "install")
            self.assertIn(f"pulling image {image}", first["data"])
            valve.open.set()
            told = list(events)
            got = plain.result()
        self.assertEqual("".join(e["data"] for e in told if e["type"] == "stdout"), "ok\n", told)
        self.assertEqual((got.status, got.json["stdout"]), (200, "ok\n"), got)
        self.assertEqual(got.json["packagesInstalled"], ["thing==1.0"])

    def test_a_run_with_packages_whose_image_is_not_to_be_had_says_so(self):
        other = self.installation(
            templates=f"box={sandboxd.box_image()},python={registry.name}/nothing:1")
        client = Client(other.start(), other.key())
        got = client.post("/run", {"runtime": "python", "code": "", "packages": ["thing"]})
        told = self.assert_problem(got, 502, "engine_error")
        self.assertIn("nothing:1", told["detail"])

    def test_users_have_images_of_the_registries_that_the_operator_allows(self):
        allowed = f"{registry.name}/{self.pushed()}"
        self.addCleanup(engine.remove_image, allowed)
        other = self.installation(env={"SBX_REGISTRIES": f"registry.example,{registry.name}"})
        client = Client(other.start(), other.key())
        self.assertEqual(client.create(image=allowed)["state"], "running")
        self.assertEqual(client.create()["state"], "running")  # a template is the operator's
        for image in ("127.0.0.1:1/x:1", "busybox", "library/busybox:1", "other.example/x",
                      "localhost/x", sandboxd.BOX_IMAGE, "registry.example.evil/x"):
            told = self.assert_problem(client.post("/sandboxes", {"image": image}), 400,
                                       "invalid_request", "image")
            self.assertIn("registry.example", told["detail"])
            self.assertNotIn("sandboxId", told)

    def test_the_credentials_of_the_machine_are_not_used_for_users(self):
        valve = Valve(registry.port)
        self.addCleanup(valve.close)
        image = self.slow_image(valve)
        other = self.installation()
        folder = other.folder / ".docker"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(
            {"auths": {valve.name: {"auth": "b3BlcmF0b3I6c2VjcmV0"}}}))
        server = other.start(env={"HOME": other.folder, "DOCKER_CONFIG": folder})
        self.assertEqual(Client(server, other.key()).create(image=image)["state"], "running")
        self.assertTrue(valve.repositories)
        self.assertEqual(valve.credentials, [])


class WorkersTest(PullCase):
    def test_two_workers_that_want_an_image_at_once_have_its_layer_fetched_once(self):
        valve = self.shut_valve()
        image = self.slow_image(valve)
        other = sandboxd.Service(env={"REDIS_URL": sandboxd.REDIS_URL})
        self.addCleanup(other.close)
        workers = [Client(other.start(), other.key()) for _ in range(2)]
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            made = [pool.submit(worker.post, "/sandboxes", {"image": image}) for worker in workers]
            wait_for(lambda: valve.held and all(self.waiting(w.server) == 1 for w in workers),
                     60, "both pulls")
            valve.open.set()
            for one in made:
                self.assertEqual(one.result(120).status, 201)
        # The engine lets the second pull wait for the layer of the first; each reads the
        # configuration for itself.
        self.assertLessEqual(len(valve.blobs), len(set(valve.blobs)) + 1, valve.blobs)


if __name__ == "__main__":
    unittest.main()
