"""Files in a real sandbox: every route, every error, sizes, ranges, cuts, slow clients."""
import base64
import contextlib
import hashlib
import http.client
import io
import json
import os
import socket
import struct
import tarfile
import threading
import time
import unittest
import urllib.parse
import zipfile

import sandboxd
from sandboxd import Answer, Client, SystemCase, all_at_once, wait_for

QUICK = True
TIMEOUT_S = 600

service = api = box = None
MB = 1 << 20
FULL = os.environ.get("SBX_TEST_SCOPE") == "full"


def setUpModule():
    global service, api, box
    service, api = sandboxd.module_service()
    box = api.create()["id"]


def at(route="", sandbox=None, **query):
    query = {k: str(v).lower() if isinstance(v, bool) else v for k, v in query.items()}
    return f"/sandboxes/{sandbox or box}/files{route}?" + urllib.parse.urlencode(query)


def put(path, content, headers=None, sandbox=None, **query):
    return api.call("PUT", at(path=path, sandbox=sandbox, **query), content,
                    {"Content-Type": "application/octet-stream", **(headers or {})})


def get(path, headers=None, sandbox=None, **query):
    return api.get(at(path=path, sandbox=sandbox, **query), headers=headers)


def stat(path, **query):
    got = api.get(at("/stat", path=path, **query))
    return got.json if got.status == 200 else got.status


def sh(script, sandbox=None, **more):
    got = api.exec(sandbox or box, script, **more)
    assert got["exitCode"] == 0, got
    return got["stdout"]


def pattern(n):
    return (bytes(range(251)) * (n // 251 + 1))[:n]


def raw(method, target, headers=(), key=None):
    """A socket on which the head of a request was sent."""
    sock = socket.create_connection(("127.0.0.1", api.server.port), 60)
    lines = [f"{method} {target} HTTP/1.1", "Host: x", f"Authorization: Bearer {key or api.key}"]
    lines += [f"{name}: {value}" for name, value in headers]
    sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    return sock


def answer_of(sock, method="PUT"):
    response = http.client.HTTPResponse(sock, method=method)
    response.begin()
    return Answer(response.status, response.headers, response.read())


def tools(sandbox=None):
    """How many sbx-files run inside."""
    return int(sh("n=0; for p in /proc/[0-9]*; do case \"$(cat $p/comm 2>/dev/null)\" in "
                  "sbx-files) n=$((n+1));; esac; done; echo $n", sandbox, user="root"))


class Case(SystemCase):
    def says(self, got, status, code, word, field="path"):
        """A problem whose detail begins with the tool's word."""
        told = self.assert_problem(got, status, code, field)
        self.assertTrue(told["detail"].startswith(word + ":"), told)
        return told

    def nothing_left(self, sandbox=None):
        wait_for(lambda: tools(sandbox) == 0, 5, "the end of all tools")


class WriteAndRead(Case):
    def test_what_is_written_is_read(self):
        got = put("/tmp/a.txt", b"hello\n")
        self.assertEqual(got.status, 201, got)
        entry = got.json
        self.assertRegex(entry.pop("modifiedAt"), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
        self.assertEqual(entry, {"name": "a.txt", "path": "/tmp/a.txt", "type": "file",
                                 "sizeBytes": 6, "mode": "0644", "owner": "user", "group": "user",
                                 "target": None})
        tag = got.headers["ETag"]
        got = get("/tmp/a.txt")
        self.assertEqual((got.status, got.body), (200, b"hello\n"))
        self.assertEqual(got.headers["ETag"], tag)
        self.assertEqual(got.headers["Content-Length"], "6")
        self.assertEqual(got.headers["Accept-Ranges"], "bytes")
        self.assertEqual(sh("cat /tmp/a.txt"), "hello\n")

    def test_relative_paths_are_below_the_home(self):
        self.assertEqual(put("b.txt", b"x").json["path"], "/home/user/b.txt")
        self.assertEqual(get("b.txt").body, b"x")

    def test_every_size_both_ways(self):
        sizes = [0, 1, 65535, 65536, 65537, 262143, 262144, 262145, 1048577, 5 * MB + 3]
        for n in sizes + ([300 * MB] if FULL else [40 * MB + 1]):
            for chunked in (False, True):
                with self.subTest(n=n, chunked=chunked):
                    content = pattern(n)
                    body = (content[i:i + 100001] for i in range(0, n, 100001)) if chunked else content
                    with contextlib.closing(api.connect(120)) as c:
                        c.request("PUT", at(path="/tmp/sized"), body, api.headers(),
                                  encode_chunked=chunked)
                        told = c.getresponse()
                        entry = json.loads(told.read())
                    self.assertIn(told.status, (200, 201), entry)
                    self.assertEqual(entry["sizeBytes"], n)
                    got = get("/tmp/sized")
                    self.assertEqual(hashlib.sha256(got.body).digest(),
                                     hashlib.sha256(content).digest())
        sh("rm /tmp/sized")

    def test_new_is_201_and_replaced_is_200_with_another_tag(self):
        sh("rm -f /tmp/again")
        first, second = put("/tmp/again", b"1"), put("/tmp/again", b"2")
        self.assertEqual((first.status, second.status), (201, 200))
        self.assertNotEqual(first.headers["ETag"], second.headers["ETag"])

    def test_modes(self):
        self.assertEqual(put("/tmp/m", b"", mode="750").json["mode"], "0750")
        self.assertEqual(put("/tmp/m", b"x").json["mode"], "0750")  # kept
        self.assertEqual(put("/tmp/m", b"x", mode="0600").json["mode"], "0600")
        for mode in ("8", "rwx", "", "00644", "-"):
            self.assert_problem(put("/tmp/m", b"", mode=mode), 400, "invalid_request", "mode")

    def test_directories_are_made_where_that_is_asked_for(self):
        sh("rm -rf /tmp/deep")
        self.says(put("/tmp/deep/er/x", b""), 404, "not_found", "not_found")
        self.assertEqual(put("/tmp/deep/er/x", b"", mkdirs=True).status, 201)

    def test_names_of_all_kinds(self):
        for name in ("with space", "quo\"te", "new\nline", "ünï©ode", "-rf", "%41", "a" * 255, "😀"):
            with self.subTest(name):
                self.assertIn(put(f"/tmp/{name}", name.encode()).status, (200, 201))
                got = get(f"/tmp/{name}")
                self.assertEqual(got.body, name.encode())
                told = got.headers["Content-Disposition"]
                self.assertTrue(told.startswith("attachment; filename=\""))
                self.assertEqual(urllib.parse.unquote(told.split("UTF-8''")[1]), name)
                self.assertEqual(stat(f"/tmp/{name}")["name"], name)

    def test_names_that_are_not_utf_8_are_told_and_cannot_be_asked_for(self):
        sh("mkdir -p /tmp/odd; printf x > \"/tmp/odd/$(printf 'a\\377b')\"")
        entry = api.get(at("/list", path="/tmp/odd")).json["items"][0]
        self.assertEqual(entry["encoding"], "base64")
        self.assertEqual(base64.b64decode(entry["path"]), b"/tmp/odd/a\xffb")
        got = api.get(f"/sandboxes/{box}/files?path=/tmp/odd/a%ffb")
        self.assert_problem(got, 400, "invalid_request")
        self.assert_problem(api.get(f"/sandboxes/{box}/files?path=/tmp/%00"), 400, "invalid_request")

    def test_types_by_extension_never_shown_as_a_page(self):
        for name, kind in (("x.html", "text/html; charset=utf-8"), ("x.PNG", "image/png"),
                           ("x.json", "application/json"), ("x.bin", "application/octet-stream"),
                           (".html", "application/octet-stream"), ("x", "application/octet-stream")):
            put(f"/tmp/{name}", b"<script>alert(1)</script>")
            got = get(f"/tmp/{name}")
            self.assertEqual(got.headers["Content-Type"], kind)
            self.assertEqual(got.headers["X-Content-Type-Options"], "nosniff")
            self.assertTrue(got.headers["Content-Disposition"].startswith("attachment;"))
            self.assertIn("sandbox", got.headers["Content-Security-Policy"])

    def test_head_tells_what_get_would(self):
        put("/tmp/h", pattern(300000))
        got = api.call("HEAD", at(path="/tmp/h"))
        self.assertEqual((got.status, got.body, got.headers["Content-Length"]), (200, b"", "300000"))
        self.nothing_left()

    def test_as_another_user(self):
        sh("rm -rf /tmp/rootly", user="root")
        got = put("/tmp/rootly", b"secret", user="root", mode="600")
        self.assertEqual((got.status, got.json["owner"]), (201, "root"))
        self.says(get("/tmp/rootly"), 403, "forbidden", "permission_denied")
        self.assertEqual(get("/tmp/rootly", user="root").body, b"secret")
        self.assert_problem(get("/tmp/rootly", user="nobody-knows"), 400, "invalid_request", "user")


class Failures(Case):
    def test_each_has_its_status_and_names_the_path(self):
        sh("mkdir -p /tmp/locked && chmod 700 /tmp/locked", user="root")
        sh("rm -rf /tmp/f && mkdir -p /tmp/f/full && touch /tmp/f/file /tmp/f/full/x && mkfifo /tmp/f/fifo")
        cases = [
            (get("/tmp/f/none"), 404, "not_found", "not_found"),
            (get("/tmp/f"), 400, "invalid_request", "is_directory"),
            (get("/tmp/f/file/x"), 400, "invalid_request", "not_directory"),
            (get("/tmp/f/fifo"), 400, "invalid_request", "unsupported"),
            (get("/dev/null"), 400, "invalid_request", "unsupported"),
            (get("/tmp/locked/x"), 403, "forbidden", "permission_denied"),
            (put("/tmp/f", b""), 400, "invalid_request", "is_directory"),
            (put("/etc/x", b""), 403, "forbidden", "permission_denied"),
            (put("/tmp/f/" + "a" * 256, b""), 400, "invalid_request", "invalid"),
            (api.delete(at(path="/tmp/f/none")), 404, "not_found", "not_found"),
            (api.delete(at(path="/tmp/f/full")), 409, "conflict", "not_empty"),
            (api.get(at("/stat", path="/tmp/f/none")), 404, "not_found", "not_found"),
            (api.get(at("/list", path="/tmp/f/file")), 400, "invalid_request", "not_directory"),
            (api.get(at("/archive", path="/tmp/f/none")), 404, "not_found", "not_found"),
            (api.get(at("/watch", path="/tmp/f/none")), 404, "not_found", "not_found"),
            (api.post(at("/mkdir"), {"path": "/tmp/f/file"}), 409, "conflict", "exists"),
        ]
        for got, status, code, word in cases:
            with self.subTest(word, got=got):
                self.says(got, status, code, word)
        self.says(api.post(at("/move"), {"from": "/tmp/f/none", "to": "/tmp/f/y"}), 404, "not_found",
                  "not_found", "from")
        self.says(api.post(at("/copy"), {"from": "/tmp/f/file", "to": "/tmp/f/full"}), 409,
                  "conflict", "exists", "to")
        self.nothing_left()

    def test_what_the_kernel_refuses_has_its_word(self):
        self.says(api.delete(at(path="/dev/shm", recursive=True, user="root")), 409, "conflict", "busy")
        self.says(get("/proc/self/mem"), 502, "engine_error", "io_error")
        self.says(put("/tmp/" + "d/" * 3 + "n" * 256, b"", mkdirs=True), 400, "invalid_request",
                  "invalid")
        sh("mkdir -p /tmp/tower/$(yes n | head -n 300 | tr '\\n' /)")
        self.says(api.post(at("/copy"), {"from": "/tmp/tower", "to": "/tmp/copied"}), 413,
                  "payload_too_large", "too_large", "from")
        self.assertEqual(stat("/tmp/copied"), 404)
        self.assertEqual(api.delete(at(path="/tmp/tower", recursive=True)).status, 204)
        self.nothing_left()

    def test_devices_fifos_and_sockets_are_other_and_have_no_content(self):
        sh("rm -rf /tmp/odd2; mkdir /tmp/odd2; mkfifo /tmp/odd2/fifo; echo x >/tmp/odd2/file")
        for path in ("/dev/null", "/tmp/odd2/fifo"):
            self.assertEqual(stat(path)["type"], "other")
            self.says(get(path), 400, "invalid_request", "unsupported")
        self.says(put("/dev/null", b"x"), 400, "invalid_request", "unsupported")
        self.says(api.post(at("/copy"), {"from": "/dev/null", "to": "/tmp/odd2/null"}), 400,
                  "invalid_request", "unsupported", "from")
        got = api.get(at("/archive", path="/tmp/odd2"))
        with tarfile.open(fileobj=io.BytesIO(got.body)) as tar:
            kinds = {os.path.basename(m.name): m.isfile() for m in tar if not m.isdir()}
        self.assertTrue(kinds["file"])
        self.says(put("/tmp/odd2/fifo", b"x"), 400, "invalid_request", "unsupported")
        self.nothing_left()

    def test_holes_are_sent_as_zeros_and_kept_by_copies_and_archives(self):
        sh("rm -rf /tmp/holes; mkdir /tmp/holes; cd /tmp/holes; "
           "dd if=/dev/zero of=big bs=1 count=1 seek=30000000 2>/dev/null")
        got = get("/tmp/holes/big")
        self.assertEqual((len(got.body), got.body.strip(b"\0")), (30000001, b""))
        api.post(at("/copy"), {"from": "/tmp/holes/big", "to": "/tmp/holes/copy"})
        archive = api.get(at("/archive", path="/tmp/holes"))
        self.assertLess(len(archive.body), 200000)
        self.assertEqual(api.call("PUT", at("/archive", path="/tmp/holes/out"), archive.body,
                                  {"Content-Type": "application/gzip"}).status, 200)
        used = sh("cd /tmp/holes; find . -type f | xargs du -k | awk '{print $1}'").split()
        self.assertEqual(len(used), 4)
        self.assertTrue(all(int(kb) < 1000 for kb in used), used)
        api.delete(at(path="/tmp/holes", recursive=True))

    def test_a_path_of_4096_bytes_is_taken_and_what_the_kernel_says_is_told(self):
        deep = "/tmp/" + "d" * 200 + "/"
        path = (deep + "e/" * 2000)[:4000] + "x" * 96
        self.assertEqual(len(path), 4096)
        for got in (get(path), put(path, b"")):
            self.assertIn(got.status, (400, 404), got)
            self.assertIn(got.json["detail"].split(":")[0], ("invalid", "not_found"))
        self.assert_problem(get(path + "x"), 400, "invalid_request", "path")

    def test_paths_are_checked_before_anything_runs(self):
        for query in ({}, {"path": ""}, {"path": "a" * 4097}):
            for route in ("", "/stat", "/list", "/archive"):
                self.assert_problem(api.get(at(route, **query)), 400, "invalid_request", "path")
        self.assert_problem(put("x" * 4097, b""), 400, "invalid_request", "path")
        self.assert_problem(api.get(at("/list", path="/", depth=0)), 400, "invalid_request", "depth")
        self.assert_problem(api.get(at("/list", path="/", limit=10001)), 400, "invalid_request", "limit")
        self.assert_problem(api.get(at("/archive", path="/", format="rar")), 400, "invalid_request",
                            "format")
        self.assert_problem(api.delete(at(path="/x", recursive="yes")), 400, "invalid_request",
                            "recursive")

    def test_a_full_disk_is_told_in_the_middle_and_leaves_nothing(self):
        sh("mkdir -p /dev/shm/t", user="root")
        before = sh("ls -A /dev/shm; df /dev/shm | tail -1 | awk '{print $3}'")
        got = put("/dev/shm/big", bytes(70 * MB))
        self.says(got, 409, "conflict", "no_space")
        self.assertEqual(sh("ls -A /dev/shm; df /dev/shm | tail -1 | awk '{print $3}'"), before)

    def test_what_another_user_owns_is_404(self):
        stranger = Client(api.server, service.key("mallory"))
        for method, route in (("GET", ""), ("PUT", ""), ("DELETE", ""), ("GET", "/stat"),
                              ("GET", "/list"), ("GET", "/archive"), ("PUT", "/archive"),
                              ("GET", "/watch")):
            got = stranger.call(method, at(route, path="/etc/passwd"))
            self.assert_problem(got, 404, "not_found")

    def test_scopes(self):
        reader = Client(api.server, service.key("alice", "--scopes", "files:read"))
        self.assertEqual(reader.get(at(path="/etc/passwd")).status, 200)
        self.assertEqual(reader.call("PUT", at(path="/tmp/x"), b"").status, 403)

    def test_states(self):
        other = api.create()["id"]
        put("/tmp/x", b"kept", sandbox=other)
        api.move(other, "pause")
        self.assertEqual(get("/tmp/x", sandbox=other).body, b"kept")  # resumed by the use
        self.assertEqual(api.state(other), "running")
        api.move(other, "stop")
        self.assert_problem(get("/tmp/x", sandbox=other), 409, "conflict")
        self.assertEqual(api.delete(f"/sandboxes/{other}").status, 204)
        self.assert_problem(get("/tmp/x", sandbox=other), 410, "gone")

    def test_a_sandbox_that_is_being_created_is_waited_for(self):
        other = api.create(wait=False)["id"]
        self.assertEqual(put("/tmp/x", b"early", sandbox=other).status, 201)
        self.assertEqual(get("/tmp/x", sandbox=other).body, b"early")


class Ranges(Case):
    @classmethod
    def setUpClass(cls):
        cls.content = pattern(200000)
        cls.tag = put("/tmp/ranged", cls.content).headers["ETag"]

    def ranged(self, value, **more):
        return get("/tmp/ranged", {"Range": value, **more})

    def test_one_range(self):
        n = len(self.content)
        for value, first, last in (("0-0", 0, 0), ("0-99", 0, 99), ("100000-", 100000, n - 1),
                                   ("-1", n - 1, n - 1), ("-999999", 0, n - 1),
                                   ("199990-300000", 199990, n - 1), ("70000-140000", 70000, 140000)):
            with self.subTest(value):
                got = self.ranged("bytes=" + value)
                self.assertEqual(got.status, 206, got.headers)
                self.assertEqual(got.headers["Content-Range"], f"bytes {first}-{last}/{n}")
                self.assertEqual(got.body, self.content[first:last + 1])

    def test_out_of_the_file(self):
        got = self.ranged("bytes=200000-")
        self.says(got, 416, "range_not_satisfiable", "range")
        self.assertEqual(got.headers["Content-Range"], "bytes */200000")
        put("/tmp/empty", b"")
        self.assertEqual(get("/tmp/empty", {"Range": "bytes=0-"}).status, 416)

    def test_what_is_no_range_gives_the_whole(self):
        for value in ("bytes=0-1,5-6", "bytes=5", "lines=0-1", "bytes=a-b", "bytes=-", "bytes=2-1x"):
            got = self.ranged(value)
            self.assertEqual((got.status, len(got.body)), (200, len(self.content)), value)

    def test_conditions(self):
        tag = self.tag
        for headers, status in (({"If-None-Match": tag}, 304), ({"If-None-Match": f'"x", {tag}'}, 304),
                                ({"If-None-Match": '"x"'}, 200), ({"If-Match": tag}, 200),
                                ({"If-Match": "*"}, 200), ({"If-Match": '"x"'}, 412),
                                ({"Range": "bytes=0-9", "If-Range": tag}, 206),
                                ({"Range": "bytes=0-9", "If-Range": '"x"'}, 200),
                                ({"Range": "bytes=0-9", "If-None-Match": tag}, 304)):
            with self.subTest(headers):
                got = get("/tmp/ranged", headers)
                self.assertEqual(got.status, status, got)
                if status == 200:
                    self.assertEqual(got.body, self.content)
                if status == 304:
                    self.assertEqual((got.body, got.headers["ETag"]), (b"", tag))
        self.nothing_left()

    def test_conditional_writes(self):
        sh("rm -f /tmp/cond")
        self.assertEqual(put("/tmp/cond", b"1", {"If-Match": "*"}).status, 412)
        made = put("/tmp/cond", b"1", {"If-None-Match": "*"})
        self.assertEqual(made.status, 201)
        self.says(put("/tmp/cond", b"2", {"If-None-Match": "*"}), 412, "precondition_failed", "changed")
        done = put("/tmp/cond", b"2", {"If-Match": made.headers["ETag"]})
        self.assertEqual(done.status, 200)
        self.assertEqual(put("/tmp/cond", b"3", {"If-Match": made.headers["ETag"]}).status, 412)
        self.assertEqual(put("/tmp/cond", b"3", {"If-Match": '"other"'}).status, 412)
        self.assertEqual(get("/tmp/cond").body, b"2")


class Trees(Case):
    def setUp(self):
        sh("rm -rf /tmp/t && mkdir -p /tmp/t/b/c && echo 1 > /tmp/t/a && echo 22 > /tmp/t/b/x && "
           "ln -s a /tmp/t/link && ln -s nowhere /tmp/t/dangling")

    def names(self, **query):
        got = api.get(at("/list", path="/tmp/t", **query)).json
        return [e["path"].removeprefix("/tmp/t/") for e in got["items"]], got["truncated"]

    def test_lists(self):
        self.assertEqual(self.names(), (["a", "b", "dangling", "link"], False))
        self.assertEqual(self.names(depth=2), (["a", "b", "b/c", "b/x", "dangling", "link"], False))
        self.assertEqual(self.names(depth=256, limit=2), (["a", "b"], True))
        entries = {e["name"]: e for e in api.get(at("/list", path="/tmp/t")).json["items"]}
        self.assertEqual([(entries[n]["type"], entries[n]["target"]) for n in ("a", "b", "link")],
                         [("file", None), ("directory", None), ("symlink", "a")])
        self.assertEqual(entries["a"]["sizeBytes"], 2)

    def test_an_empty_directory_and_a_large_one(self):
        sh("mkdir -p /tmp/t/many && cd /tmp/t/many && seq 1 3000 | xargs touch")
        self.assertEqual(api.get(at("/list", path="/tmp/t/b/c")).json, {"items": [], "truncated": False})
        got = api.get(at("/list", path="/tmp/t/many", limit=10000)).json
        self.assertEqual(len(got["items"]), 3000)
        got = api.get(at("/list", path="/tmp/t/many")).json
        self.assertEqual((len(got["items"]), got["truncated"]), (1000, True))

    def test_stat_looks_at_links_themselves(self):
        self.assertEqual(stat("/tmp/t/link")["type"], "symlink")
        self.assertEqual(get("/tmp/t/link").body, b"1\n")

    def test_mkdir(self):
        post = lambda **body: api.post(at("/mkdir"), body)
        self.assertEqual(post(path="/tmp/t/x/y").status, 201)
        self.assertEqual(post(path="/tmp/t/x/y").status, 200)
        self.says(post(path="/tmp/t/x/y", parents=False), 409, "conflict", "exists")
        self.assertEqual(post(path="/tmp/t/z", mode="700").json["mode"], "0700")
        self.assert_problem(post(path="/tmp/t/q", mode="9"), 400, "invalid_request", "mode")

    def test_move_and_copy(self):
        move = lambda **body: api.post(at("/move"), body)
        copy = lambda **body: api.post(at("/copy"), body)
        got = copy(**{"from": "/tmp/t", "to": "/tmp/t2", "overwrite": True})
        self.assertIn(got.status, (200, 409, 400), got)
        self.assertEqual(move(**{"from": "/tmp/t/a", "to": "/tmp/t/moved"}).json["path"], "/tmp/t/moved")
        self.assertEqual(stat("/tmp/t/a"), 404)
        self.assertEqual(copy(**{"from": "/tmp/t/b", "to": "/tmp/t/copied"}).json["type"], "directory")
        self.assertEqual(sh("cat /tmp/t/copied/x"), "22\n")
        self.says(move(**{"from": "/tmp/t/moved", "to": "/tmp/t/b/x"}), 409, "conflict", "exists", "to")
        self.assertEqual(move(**{"from": "/tmp/t/moved", "to": "/tmp/t/b/x", "overwrite": True}).status,
                         200)
        self.assertEqual(sh("cat /tmp/t/b/x"), "1\n")
        sh("rm -rf /tmp/t2")

    def test_remove(self):
        self.assertEqual(api.delete(at(path="/tmp/t/link")).status, 204)
        self.assertEqual(stat("/tmp/t/a")["type"], "file")
        self.assertEqual(api.delete(at(path="/tmp/t", recursive=True)).status, 204)
        self.assertEqual(stat("/tmp/t"), 404)


class Batches(Case):
    def batch(self, files, **query):
        return api.post(at("/batch", **query), {"files": files})

    def test_all_at_once(self):
        sh("rm -rf /tmp/b")
        got = self.batch({"/tmp/b/one": "1", "/tmp/b/two/x": {"content": "AP/+", "encoding": "base64"},
                          "/tmp/b/three": {"content": "#!/bin/sh\n", "mode": "755"}})
        self.assertEqual(got.status, 200, got)
        self.assertEqual([e["path"] for e in got.json["items"]],
                         ["/tmp/b/one", "/tmp/b/two/x", "/tmp/b/three"])
        self.assertEqual(get("/tmp/b/two/x").body, b"\x00\xff\xfe")
        self.assertEqual(stat("/tmp/b/three")["mode"], "0755")

    def test_or_nothing(self):
        sh("rm -rf /tmp/b; mkdir /tmp/b")
        got = self.batch({"/tmp/b/one": "1", "/etc/no": "2"})
        self.says(got, 403, "forbidden", "permission_denied", "files")
        self.assertEqual(sh("ls -A /tmp/b"), "")

    def test_bodies_that_are_wrong_name_the_file(self):
        for files in ({}, {"/x": 1}, {"/x": None}, {"/x": {}}, {"/x": {"content": 1}}, {"": "x"},
                      {"/x": {"content": "YQ=", "encoding": "base64"}},
                      {"/x": {"content": "YR==", "encoding": "base64"}},
                      {"/x": {"content": "Y Q=", "encoding": "base64"}},
                      {"/x": {"content": "", "encoding": "hex"}}, {"/x": {"content": "", "mode": "9"}},
                      {"/x": {"content": "", "more": 1}}, ["/x"], "x"):
            with self.subTest(files):
                self.assert_problem(self.batch(files), 400, "invalid_request", "files")
        self.assert_problem(api.post(at("/batch"), {}), 400, "invalid_request", "files")
        self.assert_problem(api.post(at("/batch"), {"files": {"/x": ""}, "y": 1}), 400,
                            "invalid_request", "y")
        got = self.batch({f"/tmp/{i}": "" for i in range(10001)})
        self.assert_problem(got, 400, "invalid_request", "files")

    def test_a_thousand(self):
        got = self.batch({f"/tmp/thousand/{i}": f"content {i}\n" * 10 for i in range(1000)})
        self.assertEqual((got.status, len(got.json["items"])), (200, 1000))
        self.assertEqual(sh("ls /tmp/thousand | wc -l; cat /tmp/thousand/999 | head -1"),
                         "1000\ncontent 999\n")


class Archives(Case):
    def setUp(self):
        sh("rm -rf /tmp/p /tmp/u && mkdir -p /tmp/p/d && echo hello > /tmp/p/a && "
           "echo deep > /tmp/p/d/x && chmod 750 /tmp/p/a && ln -s a /tmp/p/l")

    def pack(self, form):
        return api.get(at("/archive", path="/tmp/p", format=form))

    def unpack(self, content, path="/tmp/u", **query):
        return api.call("PUT", at("/archive", path=path, **query), content,
                        {"Content-Type": "application/octet-stream"})

    def test_out(self):
        for form, kind, mode in (("tar.gz", "application/gzip", "r:gz"), ("tar", "application/x-tar", "r:")):
            got = self.pack(form)
            self.assertEqual((got.status, got.headers["Content-Type"]), (200, kind))
            self.assertIn(f'filename="p.{form}"', got.headers["Content-Disposition"])
            with tarfile.open(fileobj=io.BytesIO(got.body), mode=mode) as tar:
                names = {m.name.removeprefix("./").rstrip("/"): m for m in tar}
                self.assertLessEqual({"a", "d", "d/x", "l"}, set(names))
                self.assertEqual(names["a"].mode & 0o777, 0o750)
                self.assertEqual(names["l"].linkname, "a")
        with zipfile.ZipFile(io.BytesIO(self.pack("zip").body)) as pack:
            self.assertEqual(pack.read("d/x"), b"deep\n")
            self.assertIsNone(pack.testzip())

    def test_in_and_out_again(self):
        for form in ("tar.gz", "tar", "zip"):
            with self.subTest(form):
                sh("rm -rf /tmp/u")
                got = self.unpack(self.pack(form).body)
                self.assertEqual(got.status, 200, got)
                self.assertEqual(sorted(got.json), ["bytes", "directories", "files", "skipped"])
                self.assertEqual(got.json["bytes"], 11)
                self.assertEqual(sh("cat /tmp/u/a /tmp/u/d/x"), "hello\ndeep\n")

    def hostile(self, fill):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            fill(tar)
        return self.unpack(packed.getvalue())

    def test_what_leads_out_is_refused(self):
        def member(name, **more):
            info = tarfile.TarInfo(name)
            for key, value in more.items():
                setattr(info, key, value)
            return info

        def through(tar):
            tar.addfile(member("out", type=tarfile.SYMTYPE, linkname="/tmp"))
            tar.addfile(member("out/evil", size=1), io.BytesIO(b"x"))
        for fill in (lambda tar: tar.addfile(member("../evil", size=1), io.BytesIO(b"x")),
                     lambda tar: tar.addfile(member("/tmp/evil", size=1), io.BytesIO(b"x")), through):
            got = self.hostile(fill)
            self.says(got, 400, "invalid_request", "invalid")
            self.assertEqual(stat("/tmp/evil"), 404)
        got = self.hostile(lambda tar: tar.addfile(member("d", type=tarfile.CHRTYPE)))
        self.says(got, 400, "invalid_request", "unsupported")

    def test_what_is_no_archive_is_refused(self):
        for content in (b"", b"hello", b"PK\x03\x04 not really", self.pack("tar.gz").body[:40]):
            got = self.unpack(content)
            self.assertEqual(got.status, 400, got)


class Streams(Case):
    """Clients that are slow, that leave, that come all at once."""

    def test_uploads_of_one_path_at_once_leave_one_of_them_whole(self):
        contents = [bytes([65 + i]) * (3 * MB + i) for i in range(8)]
        told = all_at_once(lambda c: put("/tmp/race", c), contents, 8)
        self.assertEqual({t.status for t in told} - {200, 201}, set(), told)
        self.assertIn(get("/tmp/race").body, contents)
        self.assertEqual(sh("ls -A /tmp | grep -c sbx-; true"), "0\n")

    def cut(self, headers, body):
        put("/tmp/cut", b"old")
        with contextlib.closing(raw("PUT", at(path="/tmp/cut"), headers)) as sock:
            sock.sendall(body)
            wait_for(lambda: tools() == 1, 5, "the tool")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait_for(lambda: tools() == 0, 2, "the end of the tool")
        self.assertEqual(get("/tmp/cut").body, b"old")
        self.assertEqual(sh("ls -A /tmp | grep -c sbx-; true"), "0\n")

    def test_an_upload_that_is_cut_changes_nothing(self):
        self.cut([("Content-Length", str(10 * MB))], bytes(2 * MB))

    def test_nor_does_one_in_chunks(self):
        self.cut([("Transfer-Encoding", "chunked")], b"100000\r\n" + bytes(MB) + b"\r\n100000\r\nabc")

    def test_malformed_chunks_change_nothing(self):
        put("/tmp/cut", b"old")
        with contextlib.closing(raw("PUT", at(path="/tmp/cut"),
                                    [("Transfer-Encoding", "chunked")])) as sock:
            sock.sendall(b"3\r\nabc\r\nzz\r\n")
            self.assert_problem(answer_of(sock), 400, "invalid_request")
        self.nothing_left()
        self.assertEqual(get("/tmp/cut").body, b"old")

    def test_a_download_that_is_left_ends_its_tool(self):
        sh("dd if=/dev/zero of=/tmp/zeros bs=1M count=64 2>/dev/null")
        with contextlib.closing(raw("GET", at(path="/tmp/zeros"))) as sock:
            self.assertIn(b"200 OK", sock.recv(1000))
            wait_for(lambda: tools() == 1, 5, "the tool")
        wait_for(lambda: tools() == 0, 2, "the end of the tool")

    def test_slow_clients_cost_no_memory_and_hold_up_nobody(self):
        sh("dd if=/dev/zero of=/tmp/zeros bs=1M count=64 2>/dev/null")
        get("/tmp/a.txt")
        before, socks = api.server.rss_kb(), []
        try:
            for _ in range(7):
                socks.append(raw("GET", at(path="/tmp/zeros")))
                up = raw("PUT", at(path=f"/tmp/slow{len(socks)}"), [("Content-Length", str(64 * MB))])
                up.sendall(bytes(100000))
                socks.append(up)
            wait_for(lambda: tools() == 14, 10, "all tools")
            began = time.monotonic()
            for _ in range(20):
                self.assertIn(put("/tmp/quick", b"x").status, (200, 201))
            self.assertLess(time.monotonic() - began, 3)
            self.assertLess(api.server.rss_kb() - before, 14 * 1200)
        finally:
            for sock in socks:
                sock.close()
        self.nothing_left()

    def test_too_many_at_once_are_told_so(self):
        other, socks = api.create()["id"], []
        try:
            for i in range(16):
                socks.append(raw("PUT", at(path=f"/tmp/slow{i}", sandbox=other),
                                 [("Content-Length", "10")]))
            wait_for(lambda: tools(other) == 16, 10, "all tools")
            self.assert_problem(get("/etc/passwd", sandbox=other), 503, "at_capacity")
            self.assertEqual(get("/etc/passwd").status, 200)
        finally:
            for sock in socks:
                sock.close()
        wait_for(lambda: get("/etc/passwd", sandbox=other).status == 200, 5, "room again")

    def test_a_slow_upload_and_a_slow_download_arrive_whole(self):
        content = pattern(400000)
        with contextlib.closing(raw("PUT", at(path="/tmp/slow"),
                                    [("Content-Length", str(len(content)))])) as sock:
            for i in range(0, len(content), 50000):
                sock.sendall(content[i:i + 50000])
                time.sleep(0.02)
            self.assertIn(answer_of(sock).status, (200, 201))
        got = b""
        with contextlib.closing(raw("GET", at(path="/tmp/slow"))) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            response = http.client.HTTPResponse(sock)
            response.begin()
            while piece := response.read(40000):
                got += piece
                time.sleep(0.01)
        self.assertEqual(hashlib.sha256(got).digest(), hashlib.sha256(content).digest())

    def test_a_sandbox_that_dies_under_an_upload(self):
        other = api.create()["id"]
        with contextlib.closing(raw("PUT", at(path="/tmp/x", sandbox=other),
                                    [("Content-Length", str(10 * MB))])) as sock:
            sock.sendall(bytes(MB))
            wait_for(lambda: tools(other) == 1, 5, "the tool")
            self.assertEqual(api.delete(f"/sandboxes/{other}").status, 204)
            got = answer_of(sock)
        self.assertIn(got.status, (409, 410, 502), got)
        self.assertTrue(got.json["detail"])

    def test_a_tool_that_is_killed_is_told(self):
        with contextlib.closing(raw("PUT", at(path="/tmp/killed"), [("Content-Length", "10")])) as sock:
            wait_for(lambda: tools() == 1, 5, "the tool")
            sh("for p in /proc/[0-9]*; do [ \"$(cat $p/comm)\" = sbx-files ] && kill -9 ${p#/proc/}; "
               "done 2>/dev/null; true")
            got = answer_of(sock)
        self.assert_problem(got, 502, "engine_error")
        self.assertIn("signal 9", got.json["detail"])

    def test_a_tool_that_hangs_holds_no_thread_and_a_client_that_leaves_ends_it(self):
        with contextlib.closing(raw("PUT", at(path="/tmp/hung"), [("Content-Length", "10")])) as sock:
            wait_for(lambda: tools() == 1, 5, "the tool")
            sh("for p in /proc/[0-9]*; do [ \"$(cat $p/comm)\" = sbx-files ] && kill -STOP ${p#/proc/}; "
               "done 2>/dev/null; true")
            self.assertEqual(stat("/etc/passwd")["type"], "file")
            sock.sendall(b"1")
        self.nothing_left()

    def test_uploads_keep_a_sandbox_from_idling(self):
        other = api.create(idleTimeoutSeconds=2, onIdle="stop")["id"]
        with contextlib.closing(raw("PUT", at(path="/tmp/x", sandbox=other),
                                    [("Content-Length", "60000")])) as sock:
            for _ in range(6):
                sock.sendall(bytes(10000))
                time.sleep(0.8)
            self.assertEqual(answer_of(sock).status, 201)
        self.assertEqual(api.state(other), "running")

    def test_no_worker_is_held_while_bytes_flow(self):
        threads = api.server.threads()
        socks = [raw("PUT", at(path=f"/tmp/slow{i}"), [("Content-Length", "10")]) for i in range(10)]
        wait_for(lambda: tools() == 10, 10, "all tools")
        self.assertEqual(api.server.threads(), threads)
        got = all_at_once(lambda _: api.get(f"/sandboxes/{box}").status, range(20))
        self.assertEqual(set(got), {200})
        for sock in socks:
            sock.sendall(bytes(10))
            self.assertIn(answer_of(sock).status, (200, 201))
            sock.close()


class Watches(Case):
    def setUp(self):
        sh("rm -rf /tmp/w && mkdir -p /tmp/w/sub")

    def next_of(self, events, kind, path):
        for event in events:
            if event["type"] == kind and event.get("path") == path:
                return event
        self.fail(f"no {kind} of {path}")

    def test_as_events(self):
        with api.stream("GET", at("/watch", path="/tmp/w", recursive=True)) as stream:
            self.assertEqual(stream.status, 200)
            numbered = stream.events()
            self.assertEqual(next(numbered), ("1", {"type": "ready"}))
            events = (event for _, event in numbered)
            sh("echo x > /tmp/w/a")
            self.next_of(events, "create", "/tmp/w/a")
            sh("echo y >> /tmp/w/a")
            self.next_of(events, "write", "/tmp/w/a")
            sh("mv /tmp/w/a /tmp/w/b")
            self.assertEqual(self.next_of(events, "rename", "/tmp/w/a")["to"], "/tmp/w/b")
            sh("chmod 600 /tmp/w/b")
            self.next_of(events, "chmod", "/tmp/w/b")
            sh("mkdir /tmp/w/new && echo z > /tmp/w/new/deep")
            self.next_of(events, "create", "/tmp/w/new/deep")
            put("/tmp/w/put", b"over HTTP")
            self.next_of(events, "create", "/tmp/w/put")
            sh("rm /tmp/w/b")
            self.next_of(events, "remove", "/tmp/w/b")
        self.nothing_left()

    def test_as_frames(self):
        with api.websocket(at("/watch", path="/tmp/w")) as ws:
            self.assertEqual(ws.status, 101)
            frames = ws.frames()
            self.assertEqual(next(frames), {"type": "ready"})
            sh("echo x > /tmp/w/a; echo x > /tmp/w/sub/unseen; rm /tmp/w/a")
            self.next_of(frames, "remove", "/tmp/w/a")
        self.nothing_left()

    def test_its_end_is_told(self):
        with api.stream("GET", at("/watch", path="/tmp/w/sub")) as stream:
            events = stream.events()
            next(events)
            sh("rm -rf /tmp/w/sub")
            last = [event for _, event in events][-1]
            self.assertEqual((last["type"], last["code"]), ("error", "not_found"))

    def test_a_viewer_that_does_not_read_costs_no_memory_and_goes_on(self):
        with api.stream("GET", at("/watch", path="/tmp/w")) as stream:
            events = (event for _, event in stream.events())
            next(events)
            before = api.server.rss_kb()
            sh("cd /tmp/w; i=0; while [ $i -lt 20 ]; do seq 1 2000 | xargs touch; "
               "seq 1 2000 | xargs rm -f; i=$((i+1)); done; echo > last")
            self.assertLess(api.server.rss_kb() - before, 4096)
            for event in events:
                if event["type"] == "overflow" or event["path"] == "/tmp/w/last":
                    break

    def test_it_is_no_use(self):
        other = api.create(idleTimeoutSeconds=2, onIdle="pause")["id"]
        with api.stream("GET", at("/watch", path="/tmp", sandbox=other)) as stream:
            next(stream.events())
            wait_for(lambda: api.state(other) == "paused", 15, "a paused sandbox")


if __name__ == "__main__":
    unittest.main()
