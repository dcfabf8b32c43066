"""Two workers behind the nginx of deploy/nginx.conf."""
import hashlib
import http.client
import json
import re
import ssl
import subprocess
import unittest

import nginx
import sandboxd
from sandboxd import Client, SystemCase, all_at_once, wait_for
from terminal_test import Terminal

TIMEOUT_S = 600
MB = 1 << 20

service = front = api = None
workers = []


def setUpModule():
    global service, front, api
    unittest.addModuleCleanup(sandboxd.remove_images)
    if not sandboxd.REDIS_URL:
        raise AssertionError("SBX_TEST_REDIS_URL is not set: run tests/run")
    service = sandboxd.Service(env={"REDIS_URL": sandboxd.REDIS_URL,
                                    "SBX_TRUSTED_PROXIES": "127.0.0.1",
                                    "SBX_RATE_FAILURES": "30"})
    unittest.addModuleCleanup(service.close)
    for _ in range(2):
        port = nginx.free_port()
        workers.append(service.start(env={"SBX_LISTEN": f"127.0.0.1:{port}"}))
    front = nginx.Nginx([w.port for w in workers])
    unittest.addModuleCleanup(front.remove)
    front.start()
    api = Client(front, service.key())


def served_by(request_id):
    """The ports of the workers that were asked for the answer with that id, in their order."""
    def line():
        return [text.split()[-1] if ", " not in text else text.split(request_id)[1]
                for text in front.log("access.log").splitlines() if request_id in text]
    told = wait_for(line, what=f"request {request_id} in nginx's log")
    return [int(one.strip().rsplit(":", 1)[1]) for one in told[0].split(",")]


def port_of(answer):
    return served_by(answer.headers["X-Request-Id"])[-1]


class ConfigTest(SystemCase):
    def test_nginx_is_content_with_it_also_with_the_lines_for_tls(self):
        files = [service.folder / name for name in ("tls.pem", "tls-key.pem")]
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                        "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj",
                        "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-out",
                        files[0], "-keyout", files[1]], check=True, capture_output=True)
        self.assertNotIn("warn", front.check())
        port = nginx.free_port()
        with nginx.Nginx([w.port for w in workers], tls=(port, *files)) as own:
            self.assertNotIn("warn", own.check())
            trusted = ssl.create_default_context(cafile=files[0])
            connection = http.client.HTTPSConnection("127.0.0.1", port, context=trusted)
            connection.request("GET", "/sandboxes", headers=api.headers())
            self.assertEqual(connection.getresponse().status, 200)
            connection.close()
            plain = Client(own, api.key).get("/sandboxes?limit=1")
            self.assertEqual((plain.status, plain.headers["Location"]),
                             (308, "https://127.0.0.1/sandboxes?limit=1"))

    def test_the_unit_for_several_workers_is_that_for_one_and_fits_the_file(self):
        folder = sandboxd.REPO / "deploy/systemd"
        one, many = ((folder / f"{name}.service").read_text().splitlines()
                     for name in ("sandboxd", "sandboxd@"))
        self.assertEqual(set(one) - set(many), {one[1]})
        settings = next(line for line in many if line.startswith("Environment="))
        env = dict(pair.split("=", 1) for pair in settings.split("=", 1)[1].split())
        kept = re.search(r"\n *keepalive 64;\n *keepalive_timeout (\d+)s;",
                         nginx.CONFIG.read_text(encoding="utf-8")).group(1)
        self.assertGreater(int(env["SBX_DRAIN_WAIT"]), int(kept) + 1)
        env["SBX_LISTEN"] = env["SBX_LISTEN"].replace("%i", str(nginx.free_port()))
        service.start(env=env).stop()

    def test_metrics_and_versions_are_not_told(self):
        for path in ("/metrics", "/%6detrics", "//metrics", "/x/../metrics?a=1"):
            got = api.get(path)
            self.assertEqual((got.status, got.json["code"]), (404, "not_found"), path)
            self.assertEqual(got.headers["Server"], "nginx")
        self.assertEqual(api.get("/metrics/").status, 404)

    def test_no_worker_is_a_problem_that_says_so(self):
        with nginx.Nginx([nginx.free_port()]) as own:
            got = Client(own, api.key).post("/sandboxes", {}, headers={"X-Request-Id": "mine.1"})
        self.assertEqual(got.status, 502)
        self.assertEqual(got.headers["Content-Type"], "application/problem+json")
        self.assertEqual((got.json["code"], got.json["requestId"], got.headers["X-Request-Id"],
                          got.headers["Retry-After"]), ("bad_gateway", "mine.1", "mine.1", "1"))

    def test_what_is_too_long_is_refused_by_the_workers(self):
        self.assert_problem(api.get("/sandboxes?name=" + "x" * 9000), 414, "uri_too_long")
        self.assert_problem(api.get("/sandboxes", headers={"X-" + c: c * 9000 for c in "abc"}),
                            431, "headers_too_large")

    def test_request_ids_pass_and_bad_ones_are_replaced_everywhere(self):
        self.assertEqual(api.get("/me", headers={"X-Request-Id": "a-b.C_9"}).headers["X-Request-Id"],
                         "a-b.C_9")
        made = api.get("/me", headers={"X-Request-Id": "no spaces"}).headers["X-Request-Id"]
        self.assertRegex(made, "^[0-9a-f]{32}$")
        self.assertTrue(served_by(made))

    def test_tickets_stay_out_of_the_log(self):
        box = api.create()["id"]
        path = f"/sandboxes/{box}"
        ticket = api.post("/tickets", {"path": path}).json["ticket"]
        got = Client(front).get(f"{path}?ticket={ticket}")
        self.assertEqual(got.status, 200)
        served_by(got.headers["X-Request-Id"])
        self.assertNotIn("ticket", front.log("access.log").replace("/tickets", ""))
        api.delete(path)


class RouteTest(SystemCase):
    def test_what_names_a_sandbox_goes_to_one_worker_and_the_rest_to_both(self):
        boxes = all_at_once(lambda _: api.create()["id"], range(8), 4)
        places = set()
        for box in boxes:
            path = f"/sandboxes/{box}"
            put = api.call("PUT", f"{path}/files?path=a", b"x",
                           {"Content-Type": "application/octet-stream"})
            answers = [api.get(path), api.get(path + "?x=1"), api.patch(path, {"name": "n" + box}),
                       api.post(f"{path}/exec", {"command": "true"}), put,
                       api.get(f"{path}/files?path=a"), api.call("HEAD", path),
                       api.get(f"{path}/logs"), api.post(f"{path}/pause"), api.delete(path)]
            self.assertEqual([a.status for a in answers],
                             [200, 400, 200, 200, 201, 200, 200, 200, 200, 204], answers)
            ports = {port_of(a) for a in answers}
            self.assertEqual(len(ports), 1, answers)
            places |= ports
        self.assertEqual(places, {w.port for w in workers})
        self.assertEqual({port_of(api.get("/me")) for _ in range(40)}, places)

    def test_the_ids_of_a_worker_that_is_gone_go_to_the_other_one_and_come_back(self):
        """Also a POST, which nothing was sent of."""
        boxes = all_at_once(lambda _: api.create()["id"], range(6), 4)
        homes = {box: port_of(api.get(f"/sandboxes/{box}")) for box in boxes}
        gone = workers[0]
        gone.stop()
        for box in boxes:
            got = api.post(f"/sandboxes/{box}/exec", {"command": "echo on"})
            self.assertEqual((got.status, got.json["stdout"]), (200, "on\n"))
            self.assertEqual(port_of(got), workers[1].port)
        made = [api.create()["id"] for _ in range(6)]
        workers[0] = service.start(env={"SBX_LISTEN": f"127.0.0.1:{gone.port}"})
        for box in boxes:
            wait_for(lambda b=box: port_of(api.get(f"/sandboxes/{b}")) == homes[b],
                     what="the way back")
        all_at_once(lambda box: api.delete(f"/sandboxes/{box}"), boxes + made, 4)

    def test_a_post_of_which_a_byte_was_sent_is_never_sent_again(self):
        box = api.create()["id"]
        home = next(w for w in workers if w.port == port_of(api.get(f"/sandboxes/{box}")))
        got = []
        with sandboxd.concurrent.futures.ThreadPoolExecutor(1) as pool:
            asked = pool.submit(api.post, f"/sandboxes/{box}/exec",
                                {"command": "echo x >>/tmp/runs; sleep 600"})
            wait_for(lambda: api.exec(box, "cat /tmp/runs 2>/dev/null")["stdout"] == "x\n",
                     what="the command")
            home.kill()
            got = asked.result(60)
        self.assertEqual((got.status, got.json["code"]), (502, "bad_gateway"))
        workers[workers.index(home)] = service.start(env={"SBX_LISTEN": f"127.0.0.1:{home.port}"})
        wait_for(lambda: api.post(f"/sandboxes/{box}/exec", {"command": "true"}).status == 200,
                 30, "a worker that has it")
        self.assertEqual(api.exec(box, "cat /tmp/runs")["stdout"], "x\n")
        api.delete(f"/sandboxes/{box}")


class StreamTest(SystemCase):
    @classmethod
    def setUpClass(cls):
        cls.box = api.create()["id"]
        cls.addClassCleanup(lambda: api.delete(f"/sandboxes/{cls.box}"))

    def test_events_of_a_command_come_at_once(self):
        with api.exec_stream(self.box, "echo one; until test -e /tmp/go; do sleep 0.05; done;"
                                       " echo two") as stream:
            self.assertIsNone(stream.headers["X-Accel-Buffering"])
            events = stream.events()
            seen = [next(events)[1] for _ in range(2)]
            self.assertEqual(seen[1]["data"], "one\n")
            api.exec(self.box, "touch /tmp/go")
            rest = [event for _, event in events]
        self.assertEqual([e["type"] for e in rest], ["stdout", "exit"])

    def test_a_log_over_a_websocket_ends_with_the_sandbox_and_its_code(self):
        box = api.create()["id"]
        with api.websocket(f"/sandboxes/{box}/logs?since=0") as socket:
            self.assertEqual(socket.status, 101)
            frames = socket.frames()
            api.exec(box, "echo over the wire")
            while not any(e["data"] == "over the wire"
                          for e in next(frames).get("entries", ())):
                pass
            api.delete(f"/sandboxes/{box}")
            self.assertEqual(list(frames)[-1], {"type": "end"})
            self.assertEqual(socket.close_code, 1000)

    def test_a_refused_upgrade_is_a_problem(self):
        with Client(front, "sbx_wrong").websocket(f"/sandboxes/{self.box}/logs") as socket:
            self.assertEqual(socket.status, 401)

    def test_a_terminal_takes_keys_and_tells_its_end(self):
        with Terminal("?cols=91&rows=31", self.box, api) as terminal:
            terminal.type(b"stty size; exit 4\n")
            terminal.until_text(rb"31 91\r\n")
            self.assertEqual(terminal.until_control("exit")["exitCode"], 4)
            terminal.until(lambda: terminal.closed, "the close")
            self.assertEqual(terminal.ws.close_code, 1000)

    def test_watching_files_works_both_ways(self):
        path = f"/sandboxes/{self.box}/files/watch?path=/tmp"
        with api.websocket(path) as socket, api.stream("GET", path) as stream:
            frames, events = socket.frames(), stream.events()
            self.assertEqual(next(frames)["type"], "ready")
            self.assertEqual(next(events)[1]["type"], "ready")
            api.exec(self.box, "touch /tmp/seen")
            for told in (lambda: next(frames), lambda: next(events)[1]):
                while told().get("path") != "/tmp/seen":
                    pass


class BytesTest(SystemCase):
    SIZE = 64 * MB

    @classmethod
    def setUpClass(cls):
        cls.box = api.create()["id"]
        cls.addClassCleanup(lambda: api.delete(f"/sandboxes/{cls.box}"))

    def test_a_large_upload_in_chunks_and_its_download_take_no_memory_and_no_file(self):
        block = bytes(range(256)) * 256
        most, files, before = 0, [], front.rss_kb()

        def look():
            nonlocal most
            most = max(most, front.rss_kb())
            files.extend(front.temp_files())

        def pieces():
            for i in range(self.SIZE // len(block)):
                if i % 128 == 64:
                    look()
                yield block
        path = f"/sandboxes/{self.box}/files?path=/tmp/large"
        connection = api.connect()
        connection.request("PUT", path, pieces(),
                           {**api.headers(), "Content-Type": "application/octet-stream"},
                           encode_chunked=True)
        got = connection.getresponse()
        self.assertEqual((got.status, json.loads(got.read())["sizeBytes"]), (201, self.SIZE))
        connection.request("GET", path, headers=api.headers())
        got = connection.getresponse()
        digest, took = hashlib.sha256(), 0
        while piece := got.read(256 * 1024):
            digest.update(piece)
            took += len(piece)
            if took % (8 * MB) == 0:
                look()
        connection.close()
        self.assertEqual(took, self.SIZE)
        self.assertEqual(digest.hexdigest(),
                         hashlib.sha256(block * (self.SIZE // len(block))).hexdigest())
        self.assertEqual(files, [])
        self.assertLess(most - before, 4096)

    def test_ranges_tags_and_gzip_pass_as_they_are(self):
        path = f"/sandboxes/{self.box}/files?path=/tmp/small"
        content = bytes(range(256)) * 4
        api.call("PUT", path, content, {"Content-Type": "application/octet-stream"})
        whole = api.get(path)
        self.assertEqual(whole.body, content)
        part = api.get(path, headers={"Range": "bytes=10-19", "If-Range": whole.headers["ETag"]})
        self.assertEqual((part.status, part.body, part.headers["Content-Range"]),
                         (206, content[10:20], "bytes 10-19/1024"))
        same = api.get(path, headers={"If-None-Match": whole.headers["ETag"]})
        self.assertEqual((same.status, same.body), (304, b""))
        direct = Client(workers[0], api.key)
        gzip = {"Accept-Encoding": "gzip"}
        got, want = api.get("/openapi.json", headers=gzip), direct.get("/openapi.json", headers=gzip)
        self.assertEqual((got.headers["Content-Encoding"], got.headers["ETag"], got.body),
                         ("gzip", want.headers["ETag"], want.body))
        self.assertEqual(api.get("/openapi.json", headers={
            **gzip, "If-None-Match": got.headers["ETag"]}).status, 304)


class AddressTest(SystemCase):
    """The workers see who asked nginx, whatever else he wrote."""

    def ask(self, source, forwarded=None, key="sbx_wrong"):
        connection = http.client.HTTPConnection("127.0.0.1", front.port, timeout=20,
                                                source_address=(source, 0))
        headers = {"Authorization": f"Bearer {key}"}
        if forwarded:
            headers["X-Forwarded-For"] = forwarded
        connection.request("DELETE", "/sandboxes/" + "a" * 20, headers=headers)
        got = connection.getresponse()
        got.read()
        connection.close()
        return got

    def test_an_address_is_that_of_the_client(self):
        for forwarded in (None, "203.0.113.9", "127.0.0.1", "203.0.113.9, 127.0.0.1", "junk"):
            told = self.ask("127.0.0.77", forwarded, api.key).headers["X-Request-Id"]
            self.assertEqual(wait_for(lambda n=told: service.psql(
                f"SELECT address FROM audit WHERE request_id = '{n}'"), what="the entry"),
                             "127.0.0.77", forwarded)

    def test_rates_are_those_of_the_client_whoever_he_says_he_is(self):
        def status(source, n):
            return self.ask(source, f"192.0.2.{n}").status
        wait_for(lambda: status("127.0.0.88", 1) == 429, what="a client that is barred")
        for n in range(2, 9):
            self.assertEqual(status("127.0.0.88", n), 429)
        self.assertEqual(status("127.0.0.89", 1), 401)


if __name__ == "__main__":
    unittest.main()
