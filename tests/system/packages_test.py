"""Packages of runs: installed once, sealed, mounted read-only; and all that can go wrong.

Python packages come from an index in a network namespace, Node.js packages from the registry that
npm of this machine is configured for.
"""
import concurrent.futures
import hashlib
import hmac
import json
import os
import pathlib
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.request

import parts
import python_index
import sandboxd
from python_index import PASSWORD, USER
from sandboxd import Client, SystemCase, all_at_once, engine, wait_for

TIMEOUT_S = 900
ALONE = True

ROUTER, MIRROR, PORT = "10.78.1.1", "10.78.1.2", 8080
NATIVE_C = """
#include <Python.h>
static PyObject *answer(PyObject *s, PyObject *a) { (void)s, (void)a; return PyLong_FromLong(42); }
static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, ""}, {0}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "sbxnative", 0, -1, methods};
PyMODINIT_FUNC PyInit_sbxnative(void) { return PyModule_Create(&module); }
"""
SETUP = """
from setuptools import Extension, setup
setup(name={0!r}, version='1.0', ext_modules=[Extension({0!r}, ['code.c'])])
"""
LINGER = """
import subprocess, sys
from setuptools import setup
late = "import time; time.sleep(2.5); open('/opt/packages/late.py', 'w')"
subprocess.Popen([sys.executable, '-c', late], start_new_session=True, stdin=subprocess.DEVNULL,
                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
open('/opt/packages/early.py', 'w')
setup(name='sbxlinger', version='1.0')
"""
SLOW = """
import time
from setuptools import setup
time.sleep(8)
setup(name='sbxslow', version='1.0')
"""
NOSY = """
import os
print('the address is', os.environ.get('PIP_INDEX_URL'))
raise SystemExit('nosy')
"""

service = api = mirror = None


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class Mirror:
    """A namespace behind this host, as a company's mirror would be, and the index in it."""

    def __init__(self):
        self.name = "sbxpkg" + secrets.token_hex(3)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="sbxpkg-"))
        self.process = None
        ip("netns", "add", self.name)
        ip("link", "add", self.name, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("addr", "add", f"{ROUTER}/24", "dev", self.name)
        ip("link", "set", self.name, "up")
        ip("-n", self.name, "addr", "add", f"{MIRROR}/24", "dev", "eth0")
        ip("-n", self.name, "link", "set", "eth0", "up")
        ip("-n", self.name, "link", "set", "lo", "up")
        ip("-n", self.name, "route", "add", "default", "via", ROUTER)
        self.fill()
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", self.name, sys.executable, python_index.__file__, self.folder,
             MIRROR, str(PORT)], stdout=subprocess.PIPE)
        if self.process.stdout.readline() != b"ready\n":
            raise AssertionError("the index did not start")

    def fill(self):
        for version in ("1.0", "2.0"):
            python_index.wheel(self.folder, "sbxpure", version)
        python_index.wheel(self.folder, "sbxneeds", requires=["sbxpure<2"])
        python_index.wheel(self.folder, "sbxclash", requires=["sbxpure<1"])
        for n in range(10):
            python_index.wheel(self.folder, f"sbxten{n}")
        python_index.wheel(self.folder, "sbxlarge", files={"sbxlarge.py": "x = '" + "y" * 9000000 +
                                                           "'\n"})
        python_index.source(self.folder, "sbxnative", SETUP.format("sbxnative"),
                            files={"code.c": NATIVE_C})
        python_index.source(self.folder, "sbxbroken", SETUP.format("sbxbroken"),
                            files={"code.c": "this is not C;\n"})
        python_index.source(self.folder, "sbxnosy", NOSY)
        python_index.source(self.folder, "sbxlinger", LINGER)
        python_index.source(self.folder, "sbxslow", SLOW)

    def asked(self, part):
        with urllib.request.urlopen(f"http://{MIRROR}:{PORT}/asked", timeout=5) as answer:
            return [path for path in json.load(answer) if part in path]

    def close(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
        subprocess.run(["ip", "link", "del", self.name], capture_output=True, check=False)
        ip("netns", "del", self.name)
        shutil.rmtree(self.folder, ignore_errors=True)


def setUpModule():
    global service, api, mirror
    if os.geteuid() != 0:
        raise unittest.SkipTest("making network namespaces needs root")
    mirror = Mirror()
    unittest.addModuleCleanup(mirror.close)
    registry, allow = parts.npm_registry()
    env = {"SBX_NETWORK_ALLOW": ",".join([f"{MIRROR}:{PORT}", *allow]),
           "SBX_PIP_INDEX_URL": f"http://{MIRROR}:{PORT}/simple/", "SBX_SWEEP_SECONDS": 1,
           "SBX_ORPHAN_GRACE": 2, "SBX_PACKAGES_TIMEOUT": 120}
    if registry:
        env["SBX_NPM_REGISTRY"] = registry
    if os.path.exists(parts.CERTIFICATES):
        env["SBX_PACKAGES_CA"] = parts.CERTIFICATES
    service, api = sandboxd.module_service(env=env)


def run(client=None, code="print('ran')", packages=(), runtime="python", timeout=200, **more):
    got = (client or api).post("/run", {"runtime": runtime, "code": code,
                                        "packages": list(packages), **more}, timeout=timeout)
    if got.status != 200:
        raise AssertionError(f"run: {got}")
    return got.json


def volumes(of=None):
    filters = json.dumps({"label": [f"sandboxd.cluster={(of or service).cluster}",
                                    "sandboxd.role=packages"]})
    return {v["Name"] for v in engine.call("GET", "/volumes", {"filters": filters})["Volumes"] or []}


def sets(state="sealed", of=None):
    return int((of or service).psql(f"SELECT count(*) FROM package_sets WHERE state = '{state}'"))


class PackagesCase(SystemCase):
    def assert_failed(self, got, package, words=""):
        self.assertIsNone(got["exitCode"])
        self.assertEqual(got["error"]["code"], "package_failed", got)
        self.assertIn(package, got["error"]["message"])
        self.assertIn(words, got["error"]["message"])
        self.assertEqual(got["packagesInstalled"], [])

    def assert_nothing_half_made(self, of=None):
        of = of or service
        wait_for(lambda: sets("installing", of) == sets("removing", of) == 0, 30, "no open set")
        wait_for(lambda: len(volumes(of)) == sets("sealed", of), 20, "no volume too many")
        wait_for(lambda: not of.containers(), 20, "no sandbox")


class Python(PackagesCase):
    def test_a_package_is_installed_once_and_used_again_at_once(self):
        code = "import sbxpure; print(sbxpure.version, sbxpure.__file__)"
        first = run(code=code, packages=["sbxpure==1.0"])
        self.assertEqual(first["stdout"], "1.0 /opt/packages/sbxpure.py\n")
        self.assertEqual(first["packagesInstalled"], ["sbxpure==1.0"])
        asked = len(mirror.asked("sbxpure"))
        again = run(code=code, packages=["sbxpure==1.0"])
        self.assertEqual(again["stdout"], first["stdout"])
        self.assertEqual(len(mirror.asked("sbxpure")), asked)

    def test_the_newest_version_and_what_a_package_needs_are_installed(self):
        got = run(code="import sbxpure; print(sbxpure.version)", packages=["sbxpure"])
        self.assertEqual(got["stdout"], "2.0\n")
        got = run(code="import sbxpure; print(sbxpure.version)", packages=["sbxneeds>=1,<2"])
        self.assertEqual(got["stdout"], "1.0\n")
        self.assertEqual(got["packagesInstalled"], ["sbxneeds==1.0", "sbxpure==1.0"])

    def test_a_package_with_c_code_is_built_in_the_template(self):
        got = run(code="import sbxnative; print(sbxnative.answer())", packages=["sbxnative"])
        self.assertEqual(got["stdout"], "42\n", got)

    def test_ten_packages_of_the_cache_are_usable_within_two_seconds(self):
        names = [f"sbxten{n}" for n in range(10)]
        code = "\n".join(f"import {n}" for n in names) + "\nprint('all')"
        run(code=code, packages=names)
        began = time.monotonic()
        got = run(code=code, packages=list(reversed(names)))
        took = time.monotonic() - began
        self.assertEqual(got["stdout"], "all\n")
        print(f"ten packages of the cache: {took * 1000:.0f} ms")
        self.assertLess(took, 2)

    def test_equal_requests_at_once_install_once(self):
        before = len(mirror.asked("/files/sbxten0"))
        client = Client(api.server, service.key("crowd"))
        got = all_at_once(lambda _: run(client, "import sbxten0; print(1)", ["sbxten0==1.0"]),
                          range(20), 20)
        self.assertEqual({g["stdout"] for g in got}, {"1\n"})
        self.assertEqual(len(mirror.asked("/files/sbxten0")), before + 1)

    def test_progress_is_told_before_the_code_starts(self):
        with api.stream("POST", "/run", {"runtime": "python", "code": "print(1)",
                                         "packages": ["sbxten1", "sbxten2"]}) as stream:
            told = [event for _, event in stream.events()]
        kinds = [event["type"] for event in told]
        self.assertEqual(kinds[0], "install")
        self.assertLess(max(n for n, kind in enumerate(kinds) if kind == "install"),
                        kinds.index("start"))
        text = "\n".join(e["data"] for e in told if e["type"] == "install")
        self.assertIn("sbxten2", text)
        self.assertEqual("".join(e["data"] for e in told if e["type"] == "stdout"), "1\n")

    def test_the_packages_of_a_run_are_recorded(self):
        got = run(packages=["sbxpure==1.0"])
        record = wait_for(lambda: service.psql(
            f"SELECT packages FROM sandbox_executions WHERE id = '{got['execId']}'"))
        self.assertEqual(json.loads(record), ["sbxpure==1.0"])

    def test_the_same_packages_by_another_name_are_one_set(self):
        client = Client(api.server, service.key("twice"))
        run(client, packages=["sbxpure==2.0"])
        before = sets()
        run(client, packages=["sbxpure>=2"])
        self.assertEqual(sets(), before)
        self.assert_nothing_half_made()

    def test_in_a_sandbox_that_is_there_they_are_installed_in_place_and_stay(self):
        box = api.create(template="python", network={"mode": "open"})["id"]
        body = {"runtime": "python", "code": "import sbxpure; print(sbxpure.version)",
                "packages": ["sbxpure==1.0"]}
        got = api.post(f"/sandboxes/{box}/run", body, timeout=100)
        self.assertEqual((got.status, got.json["stdout"]), (200, "1.0\n"), got)
        self.assertEqual(got.json["packagesInstalled"], ["sbxpure==1.0"])
        got = api.post(f"/sandboxes/{box}/run", {**body, "packages": []})
        self.assertEqual(got.json["stdout"], "1.0\n")
        got = api.post(f"/sandboxes/{box}/run", {**body, "packages": ["sbxnone"]}, timeout=100)
        self.assert_failed(got.json, "sbxnone", "no such package")
        self.assertEqual(api.delete(f"/sandboxes/{box}").status, 204)


class CommandLine(PackagesCase):
    def sbx(self, *arguments):
        return subprocess.run([sandboxd.BIN / "sbx", *arguments], capture_output=True, text=True,
                              timeout=200, check=False, env={
                                  "PATH": "/usr/bin:/bin", "SBX_KEY": api.key,
                                  "SBX_URL": f"http://127.0.0.1:{api.server.port}"})

    def test_sbx_run_takes_packages_and_tells_why_one_failed(self):
        got = self.sbx("run", "-p", "sbxpure==1.0", "--package", "sbxten4", "-e",
                       "import sbxpure, sbxten4; print(sbxpure.version)")
        self.assertEqual((got.returncode, got.stdout, got.stderr), (0, "1.0\n", ""))
        got = self.sbx("run", "-p", "sbxnothing", "-e", "print(1)")
        self.assertEqual((got.returncode, got.stdout), (125, ""))
        self.assertIn("sbxnothing: the package index has no such package", got.stderr)
        self.assertIn("No matching distribution", got.stderr)


class Sealed(PackagesCase):
    def test_a_set_cannot_be_written_by_whom_it_is_for(self):
        code = ("import os\n"
                "for f in ('sbxpure.py', 'new.py'):\n"
                "    try: open('/opt/packages/' + f, 'w'); print('written')\n"
                "    except OSError as e: print(e.errno)\n")
        self.assertEqual(run(code=code, packages=["sbxpure==1.0"])["stdout"], "30\n30\n")
        box = run(packages=["sbxpure==1.0"])["packagesInstalled"]
        self.assertEqual(box, ["sbxpure==1.0"])

    def test_what_lingers_in_an_installer_cannot_write_to_a_set_that_is_sealed(self):
        code = "import os, time; time.sleep(4); print(sorted(f for f in os.listdir('/opt/packages')" \
               " if f.endswith('.py')))"
        for _ in range(2):
            self.assertEqual(run(code=code, packages=["sbxlinger"])["stdout"], "['early.py']\n")

    def test_two_users_never_share_a_set(self):
        mallory = Client(api.server, service.key("mallory"))
        run(packages=["sbxpure==1.0"])
        before = volumes()
        run(mallory, packages=["sbxpure==1.0"])
        self.assertEqual(len(volumes() - before), 1)
        owners = service.psql("SELECT count(DISTINCT owner) FROM package_sets WHERE state = 'sealed'"
                              " AND installed::text = '[\"sbxpure==1.0\"]'")
        self.assertGreaterEqual(int(owners), 2)

    def test_a_volume_that_was_removed_is_noticed_and_installed_again(self):
        client = Client(api.server, service.key("pruned"))
        before = volumes()
        run(client, packages=["sbxten3"])
        made, = volumes() - before
        wait_for(lambda: engine.call("DELETE", f"/volumes/{made}") is not False
                 if not service.containers() else None, 20)
        got = run(client, "import sbxten3; print(3)", ["sbxten3"])
        self.assertEqual(got["stdout"], "3\n")
        self.assert_nothing_half_made()


class Counted(PackagesCase):
    """What is installed for a user counts as his, where it is installed as well."""

    @classmethod
    def setUpClass(cls):
        cls.admin = Client(api.server, service.key("counter", "--role", "admin"))

    def user(self, name, **limits):
        got = self.admin.patch("/tiers/pro", {
            "executions": None, "computeSeconds": None, "longestRunSeconds": None,
            "concurrentSandboxes": None, **limits})
        self.assertEqual(got.status, 200)
        return Client(api.server, service.key(name, tier="pro"))

    def test_an_installer_holds_a_place_and_counts_compute_time(self):
        client = self.user("counted", concurrentSandboxes=1)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            got = pool.submit(run, client, packages=["sbxslow"])
            wait_for(lambda: client.get("/quotas").json["concurrentSandboxes"]["used"] == 1, 60,
                     "an installer")
            self.assertEqual(client.every(), [])
            told = self.assert_problem(client.post("/sandboxes", {"template": "box"}), 429,
                                       "quota_exceeded")
            self.assertEqual((told["limit"], told["value"]), ("concurrentSandboxes", 1))
            self.assertEqual(got.result()["exitCode"], 0)
        owner = service.psql("SELECT id FROM users WHERE name = 'counted'")
        wait_for(lambda: service.psql(
            f"SELECT count(*) FROM usage WHERE owner = '{owner}' AND cost > 0") == "3", 20,
            "what the installer, who looked at it and the run have used")
        box = client.create()["id"]
        told = self.assert_problem(client.post("/run", {
            "runtime": "python", "code": "1", "packages": ["sbxten4"]}, timeout=100), 429,
            "quota_exceeded")
        self.assertEqual(told["limit"], "concurrentSandboxes")
        self.assertEqual(client.delete(f"/sandboxes/{box}").status, 204)
        self.assert_nothing_half_made()

    def test_without_compute_time_nothing_is_installed(self):
        client = self.user("spent", computeSeconds=0)
        before = len(mirror.asked("sbxten5"))
        told = self.assert_problem(client.post("/run", {
            "runtime": "python", "code": "1", "packages": ["sbxten5"]}, timeout=100), 429,
            "quota_exceeded")
        self.assertEqual(told["limit"], "computeSeconds")
        self.assertEqual(len(mirror.asked("sbxten5")), before)


class Hidden(PackagesCase):
    def test_nobody_sees_or_reaches_the_sandbox_in_which_packages_are_installed(self):
        client = Client(api.server, service.key("curious"))
        admin = Client(api.server, service.key("root", "--role", "admin"))
        me = client.create(template="python")
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            got = pool.submit(run, client, packages=["sbxslow"])
            box = wait_for(lambda: service.psql(
                "SELECT s.id FROM sandboxes s JOIN package_sets p ON p.sandbox = s.id"
                f" WHERE s.state = 'running' AND p.owner = (SELECT owner FROM sandboxes"
                f" WHERE id = '{me['id']}')"), 60, "an installer").strip()
            for who in (client, admin):
                self.assertNotIn(box, [s["id"] for s in who.every()])
                for answer in (who.get(f"/sandboxes/{box}"), who.delete(f"/sandboxes/{box}"),
                               who.get(f"/sandboxes/{box}/logs"),
                               who.get(f"/sandboxes/{box}/stats"),
                               who.get(f"/sandboxes/{box}/execs"),
                               who.post(f"/sandboxes/{box}/exec", {"command": "env"}),
                               who.post(f"/sandboxes/{box}/stop"),
                               who.post(f"/sandboxes/{box}/run",
                                        {"runtime": "python", "code": "print(1)"}),
                               who.get(f"/sandboxes/{box}/files?path=/opt/packages"),
                               who.call("PUT", f"/sandboxes/{box}/files?path=/opt/packages/x", b"x"),
                               who.patch(f"/sandboxes/{box}", {"name": "x"}),
                               who.get(f"/events?sandboxId={box}")):
                    self.assert_problem(answer, 404, "not_found")
            self.assertEqual(sets("installing"), 1)  # all that was while it was at work
            record = json.loads(service.psql(
                f"SELECT row_to_json(s) FROM sandboxes s WHERE id = '{box}'"))
            self.assertEqual(got.result()["exitCode"], 0)
        self.assertEqual(service.psql("SELECT count(*) FROM events e JOIN sandboxes s"
                                      " ON s.id = e.sandbox WHERE e.owner = s.owner AND"
                                      " s.metadata ? 'sandboxd.packages'"), "0")
        owner = service.psql(f"SELECT owner FROM sandboxes WHERE id = '{me['id']}'").strip()
        self.assertNotEqual(record["owner"], owner)
        self.assertEqual(record["metadata"]["sandboxd.user"], owner)
        self.assertEqual(client.delete(f"/sandboxes/{me['id']}").status, 204)
        self.assert_nothing_half_made()


class Failures(PackagesCase):
    def test_what_does_not_exist_is_named(self):
        self.assert_failed(run(packages=["sbxpure", "sbxnothing"]), "sbxnothing", "no such package")
        self.assert_failed(run(packages=["sbxpure==9.9"]), "sbxpure==9.9", "no such version")
        self.assert_nothing_half_made()

    def test_what_cannot_be_built_is_named_with_the_last_lines(self):
        got = run(packages=["sbxbroken"])
        self.assert_failed(got, "sbxbroken", "could not be built")
        self.assertIn("error", got["error"]["output"])
        self.assert_nothing_half_made()

    def test_versions_that_contradict_each_other(self):
        self.assert_failed(run(packages=["sbxneeds", "sbxclash"]), "sbx")
        self.assert_nothing_half_made()

    def test_a_stream_ends_with_the_failure(self):
        with api.stream("POST", "/run", {"runtime": "python", "code": "print(1)",
                                         "packages": ["sbxgone"]}) as stream:
            told = [event for _, event in stream.events()]
        self.assertEqual([e["type"] for e in told if e["type"] != "install"],
                         ["error", "result", "exit"])
        error = next(e for e in told if e["type"] == "error")
        self.assertEqual(error["code"], "package_failed")
        self.assertIn("sbxgone", error["message"])

    def test_names_that_are_none_are_refused_by_their_place(self):
        for spec in ("-r requirements.txt", "--index-url=x", "./here", "/etc/passwd", "a;b", "a b",
                     "$(id)", "git+https://x.example/y", "https://x.example/y.whl", "x.whl",
                     "a@https://x.example/y", "a && b", "", "a==", "a\n b"):
            got = api.post("/run", {"runtime": "python", "code": "1",
                                    "packages": ["sbxpure", "sbxten1", "sbxten2", spec]})
            self.assert_problem(got, 400, "invalid_request", "packages[3]")
        got = api.post("/run", {"runtime": "python", "code": "1", "packages": ["a"] * 101})
        self.assertEqual(got.status, 400)
        got = api.post("/run", {"runtime": "python", "code": "1", "packages": ["a_b", "A-b"]})
        self.assert_problem(got, 400, "invalid_request", "packages[1]")

    def test_a_client_that_leaves_ends_the_installation(self):
        with service_of({"SBX_PIP_INDEX_URL": f"http://{MIRROR}:{PORT}/hang/"}) as other:
            client = Client(other.servers[0], other.key())
            stream = threading.Thread(target=lambda: ignore(lambda: client.post(
                "/run", {"runtime": "python", "code": "1", "packages": ["sbxpure"]}, timeout=3)))
            stream.start()
            wait_for(lambda: sets("installing", other) == 1, 20, "an installation")
            stream.join()
            self.assert_nothing_half_made(other)

    def test_an_index_that_hangs_is_given_up_in_time(self):
        with service_of({"SBX_PIP_INDEX_URL": f"http://{MIRROR}:{PORT}/hang/",
                         "SBX_PACKAGES_TIMEOUT": 5}) as other:
            got = run(Client(other.servers[0], other.key()), packages=["sbxpure"])
            self.assert_failed(got, "sbxpure", "hangs")
            self.assert_nothing_half_made(other)

    def test_an_index_that_is_not_reached_is_told_of(self):
        with service_of({"SBX_PIP_INDEX_URL": f"http://{MIRROR}:1/simple/"}) as other:
            got = run(Client(other.servers[0], other.key()), packages=["sbxpure"])
            self.assert_failed(got, "sbxpure", "could not be reached")

    def test_what_is_too_large_is_refused(self):
        with service_of({"SBX_PACKAGES_SET_MB": 5}) as other:
            got = run(Client(other.servers[0], other.key()), packages=["sbxlarge"])
            self.assertEqual(got["error"]["code"], "package_failed")
            self.assertIn("--packages-set-mb", got["error"]["message"])
            self.assert_nothing_half_made(other)


class service_of:
    """An installation with other options, for a moment."""

    def __init__(self, env, start=True):
        self.env, self.start = env, start

    def __enter__(self):
        kept = {name: value for name, value in service.env.items() if name.startswith("SBX_")
                and name not in ("SBX_SECRET_FILE", "SBX_LISTEN", "SBX_TEMPLATES")}
        self.other = sandboxd.Service(env={**kept, **self.env})
        if self.start:
            self.other.start()
        return self.other

    def __exit__(self, *_):
        self.other.close()


def ignore(function):
    try:
        function()
    except OSError:
        pass


class Mirrors(PackagesCase):
    def test_a_mirror_with_a_password_whose_password_stays_with_the_installer(self):
        url = f"http://{USER}:{PASSWORD}@{MIRROR}:{PORT}/private/simple/"
        with service_of({"SBX_PIP_INDEX_URL": url}) as other:
            client = Client(other.servers[0], other.key())
            got = run(client, "import os, sbxpure; print(sbxpure.version, dict(os.environ))",
                      ["sbxpure==1.0"])
            self.assertIn("1.0", got["stdout"])
            self.assertNotIn(PASSWORD, got["stdout"])
            self.assert_known_by_a_keyed_hash(other, url)
            nosy = run(client, packages=["sbxnosy"])
            self.assertEqual(nosy["error"]["code"], "package_failed")
            self.assertNotIn(PASSWORD, json.dumps(nosy))
            box = client.create(template="python", network={"mode": "open"})["id"]
            place = client.post(f"/sandboxes/{box}/run", {
                "runtime": "python", "code": "1", "packages": ["sbxpure==1.0"]}, timeout=100).json
            self.assertEqual(place["error"]["code"], "package_failed")
            self.assertNotIn(PASSWORD, json.dumps(place))
            self.assertNotIn(PASSWORD, other.servers[0].log_text())

    def assert_known_by_a_keyed_hash(self, other, url):
        """Whoever reads the database cannot try passwords of the mirror without the master key."""
        master = bytes.fromhex((other.folder / "secret").read_text().strip())
        key = hmac.digest(master, b"fingerprint", "sha256")
        certificates = other.env.get("SBX_PACKAGES_CA")
        config = "\n".join(["1", url, other.env.get("SBX_NPM_REGISTRY", ""),
                            pathlib.Path(certificates).read_text() if certificates else ""]).encode()
        image = engine.call("GET", "/images/sandboxd/python:1/json")["Id"]
        owner = other.psql("SELECT owner FROM package_sets")

        def request(digest):
            head = f"{owner}\npython\n{image}\n".encode()
            return hashlib.sha256(head + digest + b"\nsbxpure==1.0").hexdigest()
        stored = other.psql("SELECT encode(request, 'hex') FROM package_requests")
        self.assertEqual(stored, request(hmac.digest(key, config, "sha256")))
        self.assertNotEqual(stored, request(hashlib.sha256(config).digest()))

    def test_options_that_make_no_sense_are_named(self):
        with service_of({}, start=False) as other:
            self.look_at_options(other.env)

    def look_at_options(self, env):
        for name, value in (("SBX_PIP_INDEX_URL", "mirror.example"),
                            ("SBX_NPM_REGISTRY", "ftp://mirror.example/"),
                            ("SBX_PACKAGES_CA", "/nowhere.pem"), ("SBX_PACKAGES_CA", "/etc/passwd")):
            with self.subTest(name, value=value):
                got = sandboxd.sandboxd("serve", env={**env, name: value})
                self.assertEqual(got.returncode, 1)
                self.assertIn("--" + name.removeprefix("SBX_").lower().replace("_", "-"), got.stderr)


class Crashes(PackagesCase):
    def test_a_server_that_dies_while_it_installs_leaves_nothing(self):
        with service_of({"SBX_PIP_INDEX_URL": f"http://{MIRROR}:{PORT}/hang/"}) as other:
            first = other.servers[0]
            client = Client(first, other.key())
            waiting = threading.Thread(target=lambda: ignore(lambda: run(client,
                                                                         packages=["sbxpure"])))
            waiting.start()
            wait_for(lambda: mirror.asked("/hang/sbxpure") and other.containers(), 30, "an installer")
            first.signal(signal.SIGKILL)
            first.wait(10)
            waiting.join()
            self.assertEqual(sets("installing", other), 1)
            other.start({"SBX_PIP_INDEX_URL": f"http://{MIRROR}:{PORT}/simple/"})
            self.assert_nothing_half_made(other)
            got = run(Client(other.servers[1], client.key), packages=["sbxpure"])
            self.assertEqual(got["packagesInstalled"], ["sbxpure==2.0"])

    def test_the_least_used_sets_make_room_but_for_those_in_use(self):
        with service_of({"SBX_PACKAGES_MB": 0}) as other:
            client = Client(other.servers[0], other.key())
            for n in range(3):
                run(client, packages=[f"sbxten{n}"])
            wait_for(lambda: not other.containers(), 20)
            self.assertEqual(sets("sealed", other), 3)  # they were used just now
            holder = threading.Thread(target=run, args=(client, "import time; time.sleep(8)",
                                                        ["sbxten2"]))
            holder.start()
            wait_for(lambda: [c for c in other.containers() if c["State"] == "running"], 20)
            other.psql("UPDATE package_sets SET used_at = now() - interval '1 day'")
            wait_for(lambda: len(volumes(other)) == 1, 20, "two sets to be removed")
            holder.join()
            self.assertEqual(sets("sealed", other), 1)

    def test_a_volume_without_a_row_is_removed(self):
        name = "sandboxd-packages-" + "a" * 20
        engine.call("POST", "/volumes/create", json_body={"Name": name, "Labels": {
            "sandboxd.cluster": service.cluster, "sandboxd.role": "packages"}})
        wait_for(lambda: name not in volumes(), 20, "the volume to be removed")


class Node(PackagesCase):
    def setUp(self):
        super().setUp()
        if "SBX_NPM_REGISTRY" not in service.env:
            self.skipTest("npm of this machine has no registry")

    def test_commonjs_and_es_modules_find_them(self):
        got = run(runtime="node", packages=["is-odd@3.0.1"],
                  code="console.log(require('is-odd')(3), require.resolve('is-odd'))")
        self.assertEqual(got["stdout"], "true /node_modules/is-odd/index.js\n", got)
        self.assertIn("is-odd@3.0.1", got["packagesInstalled"])
        self.assertIn("is-number@6.0.0", got["packagesInstalled"])
        got = run(runtime="node", packages=["is-odd@3.0.1"],
                  code="import odd from 'is-odd'; console.log(await odd(4));")
        self.assertEqual(got["stdout"], "false\n", got)

    def test_what_does_not_exist_is_named(self):
        name = "@sbx-nobody/" + secrets.token_hex(8)
        self.assert_failed(run(runtime="node", code="1", packages=[name]), name, "no such package")
        self.assert_failed(run(runtime="node", code="1", packages=["is-odd@999.0.0"]),
                           "is-odd@999.0.0", "no such version")
        self.assert_nothing_half_made()

    def test_an_addon_is_compiled(self):
        got = run(runtime="node", packages=["unix-dgram@2.0.6"],
                  code="console.log(typeof require('unix-dgram').createSocket)")
        self.assertEqual(got["stdout"], "function\n", got)

    def test_in_place(self):
        box = api.create(template="node", network={"mode": "open"})["id"]
        got = api.post(f"/sandboxes/{box}/run", {
            "runtime": "node", "code": "console.log(require('is-odd')(3))",
            "packages": ["is-odd@3.0.1"]}, timeout=100)
        self.assertEqual((got.status, got.json["stdout"]), (200, "true\n"), got)
        self.assertEqual(api.delete(f"/sandboxes/{box}").status, 204)


if __name__ == "__main__":
    unittest.main()
