"""Network mode `open`: what a sandbox reaches and what it does not, and the guard's failures.

A network namespace plays the internet, with a public-looking address, and a company's network
behind the same router, with private ones.
"""
import ipaddress
import json
import os
import pathlib
import re
import secrets
import socket
import subprocess
import sys
import threading
import unittest

import sandboxd
from sandboxd import Client, Service, SystemCase, engine, wait_for

TIMEOUT_S = 300
ALONE = True

# Made up: no address of this machine or of the engine's pools.
ROUTER, PUBLIC, RESOLVER, MIRROR = "45.67.89.1", "45.67.89.2", "10.77.1.3", "10.77.1.2"
NAME = "internet.test"
AT_ONCE_MS = 1000
GUARD_BACK_S = 20

# Runs in a sandbox: each target is tried, and what came of it is told with the time it took.
PROBE = """
import json, socket, sys, time
def attempt(kind, host, port):
    if kind == "tcp":
        with socket.create_connection((host, port), 5) as s:
            return s.recv(64).decode()
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 1 if kind == "ping" else 0)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    s.settimeout(2)
    if kind == "send":
        return str(s.sendto(b"hello", (host, port)))
    s.connect((host, port))
    s.send(bytes([8, 0, 0, 0, 0, 0, 0, 1]) if kind == "ping" else b"hello")
    return s.recv(64).decode("latin-1")
told = []
for kind, host, port in json.loads(sys.argv[1]):
    began = time.monotonic()
    try:
        text, error = attempt(kind, host, port), None
    except OSError as e:
        text, error = None, type(e).__name__ + ": " + str(e)
    told.append([text, error, round((time.monotonic() - began) * 1000)])
print(json.dumps(told))
"""

# Runs in the namespace: says which address it is on TCP and UDP 8080 and 8081, and resolves names.
INTERNET = """
import socket, sys, threading
def tcp(ip, port):
    with socket.create_server((ip, port)) as s:
        while True:
            c, peer = s.accept()
            c.sendall(ip.encode()); c.close()
def udp(ip, port):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((ip, port))
    while True:
        data, peer = s.recvfrom(512)
        s.sendto(ip.encode(), peer)
def dns(ip):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((ip, 53))
    while True:
        q, peer = s.recvfrom(512)
        end = q.index(0, 12) + 5
        is_a = q[end - 4:end - 2] == b"\\0\\1"
        a = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\5\\0\\4" + socket.inet_aton(sys.argv[1]) if is_a else b""
        s.sendto(q[:2] + b"\\x81\\x80\\0\\1\\0" + bytes([is_a]) + b"\\0\\0\\0\\0" + q[12:end] + a, peer)
for ip in sys.argv[1:]:
    for port in (8080, 8081):
        for serve in (tcp, udp):
            threading.Thread(target=serve, args=(ip, port), daemon=True).start()
print("ready", flush=True)
dns(sys.argv[2])
"""

service = api = box = None


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def nft(*arguments):
    return subprocess.run(["nft", *arguments], check=True, capture_output=True, text=True).stdout


def tables(cluster):
    return [line for line in nft("list", "tables").splitlines() if f"sandboxd_{cluster}" in line]


class Internet:
    """The namespace with its servers; the host is its router."""

    def __init__(self):
        self.name = "sbxnet" + secrets.token_hex(3)
        self.process = None
        ip("netns", "add", self.name)
        ip("link", "add", self.name, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("addr", "add", f"{ROUTER}/24", "dev", self.name)
        ip("addr", "add", "10.77.1.1/24", "dev", self.name)
        ip("link", "set", self.name, "up")
        for address in (PUBLIC, RESOLVER, MIRROR):
            ip("-n", self.name, "addr", "add", f"{address}/24", "dev", "eth0")
        ip("-n", self.name, "link", "set", "eth0", "up")
        ip("-n", self.name, "link", "set", "lo", "up")
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", self.name, sys.executable, "-c", INTERNET, PUBLIC, RESOLVER,
             MIRROR], stdout=subprocess.PIPE)
        if self.process.stdout.readline() != b"ready\n":
            raise AssertionError("the internet did not start")

    def close(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
        subprocess.run(["ip", "link", "del", self.name], capture_output=True, check=False)
        ip("netns", "del", self.name)


def setUpModule():
    global service, api, box
    if os.geteuid() != 0:
        raise unittest.SkipTest("making network namespaces and looking at the firewall needs root")
    internet = Internet()
    unittest.addModuleCleanup(internet.close)
    service, api = sandboxd.module_service(env={
        "SBX_NETWORK": "open", "SBX_NETWORK_RESOLVERS": RESOLVER,
        "SBX_NETWORK_ALLOW": f"{MIRROR}:8080", "SBX_SWEEP_SECONDS": 1, "SBX_ORPHAN_GRACE": 1})
    box = api.create(template="python")


def probe(client, sandbox, targets, **more):
    """For each (kind, host, port): what was read, the error, the milliseconds."""
    got = client.exec(sandbox["id"], ["python3", "-c", PROBE, json.dumps(targets)], **more)
    if got["exitCode"]:
        raise AssertionError(got)
    return json.loads(got["stdout"])


def guard_of(installation):
    found = [c for c in engine.containers(f"sandboxd.cluster={installation.cluster}")
             if c["Labels"].get("sandboxd.role") == "guard"]
    return found[0] if found else None


def address_of(installation, sandbox):
    networks = installation.inspect(sandbox["id"])["NetworkSettings"]["Networks"]
    return networks[f"sandboxd-{installation.cluster}"]


def network_status(client):
    return client.get("/ready").json["network"]["status"]


class Listener:
    """Accepts on every address of the host."""

    def __init__(self, family=socket.AF_INET):
        self.socket = socket.create_server(("", 0), family=family)
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        try:
            while True:
                client, _ = self.socket.accept()
                client.sendall(b"host")
                client.close()
        except OSError:
            pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


class NetworkCase(SystemCase):
    def assert_refused(self, client, sandbox, targets):
        """At once over TCP; the kernel sends a sandbox about one ICMP a second for the rest."""
        for target, (text, error, ms) in zip(targets, probe(client, sandbox, targets)):
            self.assertIsNone(text, f"{target} was reached")
            if target[0] == "tcp":
                self.assertIn("Refused", error, target)
                self.assertLess(ms, AT_ONCE_MS, target)


class Reach(NetworkCase):
    def test_open_is_the_default_and_is_shown(self):
        self.assertEqual(box["network"]["mode"], "open")

    def test_the_internet_is_reached_by_name_and_address_over_tcp_udp_and_icmp(self):
        targets = [("tcp", NAME, 8080), ("tcp", PUBLIC, 8081), ("udp", PUBLIC, 8080)]
        self.assertEqual([got[0] for got in probe(api, box, targets)], [PUBLIC] * 3)
        self.assertIsNone(probe(api, box, [("ping", PUBLIC, 0)])[0][1])

    def test_names_come_from_the_configured_resolver_alone(self):
        told = service.inspect(box["id"])["HostConfig"]
        self.assertEqual((told["Dns"], told["DnsSearch"]), ([RESOLVER], ["."]))

    def test_an_exception_opens_its_port_and_no_other(self):
        self.assertEqual([got[0] for got in probe(api, box, [("tcp", MIRROR, 8080),
                                                             ("udp", MIRROR, 8080)])], [MIRROR] * 2)
        self.assert_refused(api, box, [("tcp", MIRROR, 8081), ("udp", MIRROR, 8081)])

    def test_the_resolver_is_open_for_names_only(self):
        self.assert_refused(api, box, [("tcp", RESOLVER, 8080), ("udp", RESOLVER, 8080)])

    def test_special_purpose_ranges_are_refused_at_once(self):
        targets = [
            ("tcp", "169.254.169.254", 80), ("tcp", "10.77.1.1", 22), ("tcp", "10.1.2.3", 80),
            ("tcp", "172.16.5.5", 443), ("tcp", "192.168.1.1", 80), ("tcp", "100.64.1.1", 80),
            ("tcp", "192.0.2.55", 80), ("tcp", "198.18.0.1", 80), ("tcp", "198.51.100.7", 80),
            ("tcp", "203.0.113.9", 80), ("tcp", "192.0.0.8", 80), ("tcp", "192.88.99.1", 80),
            ("tcp", "240.0.0.1", 80), ("udp", "10.77.1.1", 53), ("udp", "169.254.169.254", 53)]
        own = ipaddress.ip_interface("{IPAddress}/{IPPrefixLen}".format(**address_of(service, box)))
        self.assert_refused(api, box, [  # its own network is asked by ARP, in vain
            target for target in targets if ipaddress.ip_address(target[1]) not in own.network])

    def test_the_host_is_refused_on_all_its_addresses(self):
        gateway = address_of(service, box)["Gateway"]
        hosts = sorted(set(re.findall(r"inet ([\d.]+)/", subprocess.run(
            ["ip", "-4", "addr"], capture_output=True, text=True, check=True).stdout))
                       - {"127.0.0.1"})
        self.assertIn(gateway, hosts)
        self.assertIn(ROUTER, hosts)
        with Listener() as listener:
            for host in hosts:  # it is there: what is not reached is refused by the rules
                with socket.create_connection((host, listener.port), 5) as own:
                    self.assertEqual(own.recv(8), b"host")
            self.assert_refused(api, box, [("tcp", host, listener.port) for host in hosts])
        self.assert_refused(api, box, [("ping", gateway, 0), ("udp", gateway, 53),
                                       ("ping", ROUTER, 0)])

    def test_another_sandbox_is_refused_by_address_and_by_broadcast(self):
        other = api.create(template="python")
        listen = ("import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
                  "s.bind(('', 9001)); t = socket.create_server(('', 9000)); print('up', flush=True);"
                  "s.settimeout(4)\n"
                  "try: print('got', s.recvfrom(99))\n"
                  "except TimeoutError: print('silence')")
        stream = api.exec_stream(other["id"], ["python3", "-c", listen])
        events = (event for _, event in stream.events())
        while next(events)["type"] != "stdout":
            pass
        own = address_of(service, box)
        to = address_of(service, other)["IPAddress"]
        broadcast = re.sub(r"\.\d+\.\d+$", ".255.255", to) if own["IPPrefixLen"] == 16 else None
        self.assert_refused(api, box, [("tcp", to, 9000), ("udp", to, 9001), ("ping", to, 0)])
        probe(api, box, [("send", "255.255.255.255", 9001)]
              + ([("send", broadcast, 9001)] if broadcast else []))
        heard = "".join(e["data"] for e in events if e["type"] == "stdout")
        self.assertEqual(heard, "silence\n")
        self.assertEqual(api.delete(f"/sandboxes/{other['id']}").status, 204)

    def test_there_are_no_raw_sockets_and_no_ipv6(self):
        raw = "import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)"
        for user in ("root", "user"):
            got = api.exec(box["id"], ["python3", "-c", raw], user=user)
            self.assertIn("PermissionError", got["stderr"])
        got = api.exec(box["id"], "cat /proc/net/if_inet6; true")
        self.assertEqual([line for line in got["stdout"].splitlines() if not line.endswith(" lo")],
                         [])

    def in_namespace_of(self, sandbox, *command):
        """A command with all of root's rights, in the sandbox's network."""
        pid = service.inspect(sandbox["id"])["State"]["Pid"]
        return subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", *command],
                              capture_output=True, text=True, timeout=30, check=False)

    def test_a_foreign_source_address_is_dropped(self):
        other = api.create(template="box")
        self.in_namespace_of(other, "ip", "addr", "add", "9.9.9.9/32", "dev", "eth0")
        ask = ("import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
               "s.bind((sys.argv[1], 0)); s.settimeout(2); s.connect((sys.argv[2], 8080));"
               "s.send(b'x'); print(s.recv(64))")
        own = address_of(service, other)["IPAddress"]
        heard = self.in_namespace_of(other, sys.executable, "-c", ask, own, PUBLIC)
        self.assertIn(PUBLIC, heard.stdout, heard)
        nothing = self.in_namespace_of(other, sys.executable, "-c", ask, "9.9.9.9", PUBLIC)
        self.assertIn("TimeoutError", nothing.stderr, nothing)
        api.delete(f"/sandboxes/{other['id']}")

    def test_ipv6_is_refused_even_where_a_sandbox_has_it(self):
        other = api.create(template="box")
        self.in_namespace_of(other, "sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6")
        bridge = "sbx" + service.cluster[:12]
        subprocess.run(["ip", "-6", "addr", "add", "fe80::1234/64", "dev", bridge, "nodad"],
                       check=True)
        ask = ("import socket; s = socket.socket(socket.AF_INET6); s.settimeout(3);"
               "s.connect(('fe80::1234', {}, 0, socket.if_nametoindex('eth0'))); print(s.recv(9))")
        with Listener(socket.AF_INET6) as listener:
            wait_for(lambda: "fe80" in self.in_namespace_of(other, "ip", "-6", "addr", "show", "dev",
                                                            "eth0").stdout, what="a link-local")
            got = self.in_namespace_of(other, sys.executable, "-c", ask.format(listener.port))
        self.assertNotIn("host", got.stdout)
        self.assertIn("Error", got.stderr)
        api.delete(f"/sandboxes/{other['id']}")

    def test_none_has_nothing_but_loopback(self):
        closed = api.create(template="python", network={"mode": "none"})
        got = api.exec(closed["id"], "ls /sys/class/net")
        self.assertEqual(got["stdout"].split(), ["lo"])
        self.assertEqual(closed["network"]["mode"], "none")
        api.delete(f"/sandboxes/{closed['id']}")


class Guard(NetworkCase):
    def assert_still_guarded(self):
        self.assert_refused(api, box, [("tcp", "169.254.169.254", 80), ("tcp", "10.1.2.3", 80)])

    def wait_guard(self, installation=None, client=None, but=None):
        def back():
            guard = guard_of(installation or service)
            return guard and guard["State"] == "running" and guard["Id"] != but
        wait_for(back, GUARD_BACK_S, "a guard that runs")
        wait_for(lambda: network_status(client or api) == "ok", GUARD_BACK_S, "a confirmation")

    def test_the_guard_has_one_capability_and_no_mounts(self):
        told = engine.call("GET", f"/containers/{guard_of(service)['Id']}/json")
        host = told["HostConfig"]
        self.assertEqual((host["CapAdd"], host["CapDrop"]), (["NET_ADMIN"], ["ALL"]))
        self.assertTrue(host["ReadonlyRootfs"])
        self.assertFalse(host["Privileged"])
        self.assertEqual(told["Mounts"], [])
        self.assertEqual(host["RestartPolicy"]["Name"], "always")
        self.assertGreater(host["PidsLimit"], 0)
        self.assertGreater(host["Memory"], 0)

    def test_rules_outlive_a_guard_that_is_killed_and_it_comes_back(self):
        engine.call("POST", f"/containers/{guard_of(service)['Id']}/kill")
        self.assert_still_guarded()
        self.wait_guard()
        self.assert_still_guarded()

    def test_a_guard_that_is_removed_is_made_again(self):
        old = guard_of(service)["Id"]
        engine.remove_container(old)
        self.assert_still_guarded()
        self.wait_guard(but=old)

    def test_the_sweep_leaves_the_guard_alone(self):
        before = guard_of(service)["Id"]
        orphan = "0" * 20
        engine.call("POST", "/containers/create", {"name": f"sbx-{orphan}"}, json_body={
            "Image": sandboxd.box_image(), "Cmd": ["true"],
            "Labels": {"sandboxd.cluster": service.cluster, "sandboxd.id": orphan}})
        wait_for(lambda: not service.container_exists(orphan), 30, "a sweep")
        self.assertEqual(guard_of(service)["Id"], before)

    def test_flushed_rules_are_set_again(self):
        for family in ("inet", "bridge"):
            nft("delete", "table", family, f"sandboxd_{service.cluster}")
            wait_for(lambda: len(tables(service.cluster)) == 2, 10, "the rules")
        nft("flush", "chain", "inet", f"sandboxd_{service.cluster}", "from_sandbox")
        wait_for(lambda: "special" in nft("list", "chain", "inet", f"sandboxd_{service.cluster}",
                                          "from_sandbox"), 10, "the rules")
        self.assert_still_guarded()
        self.assertRegex(api.get("/metrics").body.decode(),
                         r"sandboxd_guard_restored_total [1-9]")

    def test_no_open_sandbox_is_handed_out_between_a_flush_and_its_repair(self):
        for _ in range(3):
            nft("delete", "table", "inet", f"sandboxd_{service.cluster}")
            made = api.create(template="box")
            self.assertEqual(len(tables(service.cluster)), 2)
            api.delete(f"/sandboxes/{made['id']}")

    def test_a_sandbox_that_was_paused_or_stopped_comes_back_behind_the_rules(self):
        made = api.create(template="python")
        for away, back in (("pause", "resume"), ("stop", "start")):
            self.assertEqual(api.post(f"/sandboxes/{made['id']}/{away}").status, 200)
            nft("delete", "table", "inet", f"sandboxd_{service.cluster}")
            got = api.post(f"/sandboxes/{made['id']}/{back}", timeout=60)
            self.assertEqual((got.status, len(tables(service.cluster))), (200, 2), got)
            self.assertEqual(probe(api, made, [("tcp", NAME, 8080)])[0][0], PUBLIC)
            self.assert_refused(api, made, [("tcp", MIRROR, 8081)])
        api.delete(f"/sandboxes/{made['id']}")

    def test_what_comes_from_a_pool_is_open_and_behind_the_rules(self):
        pooled = sandboxd.Service(env={
            "SBX_NETWORK": "open", "SBX_NETWORK_RESOLVERS": RESOLVER,
            "SBX_NETWORK_ALLOW": f"{MIRROR}:8080", "SBX_POOL": "python=2/open"})
        self.addCleanup(pooled.close)
        client = Client(pooled.start(), pooled.key())
        admin = Client(client.server, pooled.key("root", "--role", "admin"))
        ready = lambda: [p["ready"] for p in admin.get("/pool").json["items"]] == [2]
        wait_for(ready, 60, "a full pool")
        made = client.create(template="python")
        self.assertTrue(made["warm"])
        self.assertEqual(probe(client, made, [("tcp", NAME, 8080)])[0][0], PUBLIC)
        gateway = address_of(pooled, made)["Gateway"]
        self.assert_refused(client, made, [("tcp", MIRROR, 8081), ("tcp", "169.254.169.254", 80),
                                           ("tcp", gateway, 22)])
        nft("flush", "chain", "inet", f"sandboxd_{pooled.cluster}", "from_sandbox")
        wait_for(lambda: "special" in nft("list", "chain", "inet", f"sandboxd_{pooled.cluster}",
                                          "from_sandbox"), 10, "the rules")
        wait_for(ready, 60, "a full pool")
        made = client.create(template="python")
        self.assertTrue(made["warm"])
        self.assert_refused(client, made, [("tcp", MIRROR, 8081)])
        got = admin.patch("/pool", {"template": "python", "network": "open", "min": 0})
        self.assertEqual(got.status, 200, got)
        wait_for(lambda: len(pooled.containers()) == 2, 40, "an empty pool")

    def test_a_guard_that_is_stuck_is_woken_before_an_open_sandbox_starts(self):
        engine.call("POST", f"/containers/{guard_of(service)['Id']}/pause")
        nft("delete", "table", "inet", f"sandboxd_{service.cluster}")
        made = api.create(template="box")
        self.assertEqual(len(tables(service.cluster)), 2)
        self.assertEqual(guard_of(service)["State"], "running")
        api.delete(f"/sandboxes/{made['id']}")

    def test_two_installations_share_an_engine_and_no_rule(self):
        other = Service(env={"SBX_NETWORK": "open", "SBX_NETWORK_RESOLVERS": RESOLVER})
        try:
            client = Client(other.start(), other.key())
            theirs = client.create(template="python")
            self.assertNotEqual(address_of(other, theirs)["Gateway"],
                                address_of(service, box)["Gateway"])
            to = [("tcp", address_of(other, theirs)["IPAddress"], 22)]
            self.assert_refused(api, box, to)
            self.assert_refused(client, theirs, [("tcp", MIRROR, 8080)])
            self.assertEqual(probe(client, theirs, [("tcp", NAME, 8080)])[0][0], PUBLIC)
        finally:
            other.close()
        self.assertEqual(tables(other.cluster), [])
        self.assertIsNone(guard_of(other))
        self.assertFalse(pathlib.Path(f"/sys/class/net/sbx{other.cluster[:12]}").exists())
        self.assertEqual(len(tables(service.cluster)), 2)
        self.assert_still_guarded()


class Refusals(NetworkCase):
    def test_without_the_guards_image_open_is_503_and_none_works(self):
        other = Service(env={"SBX_NETWORK": "open", "SBX_GUARD_IMAGE": "sandboxd/absent:1"})
        try:
            client = Client(other.start(), other.key())
            got = client.post("/sandboxes", {"template": "box"}, timeout=60)
            problem = self.assert_problem(got, 503, "engine_unavailable")
            for word in ("sandboxd/absent:1", "deploy/images/build", "sandboxd doctor", "none"):
                self.assertIn(word, problem["detail"])
            made = client.create(network={"mode": "none"})
            self.assertEqual(client.exec(made["id"], "echo fine")["stdout"], "fine\n")
            self.assertEqual(client.get("/ready").status, 200)
            self.assertEqual(network_status(client), "unavailable")
            self.assertEqual(client.sandbox(problem["sandboxId"])["state"], "failed")
        finally:
            other.close()

    def test_a_server_of_mode_none_makes_nothing_until_it_is_asked(self):
        other = Service(env={"SBX_NETWORK_RESOLVERS": RESOLVER, "SBX_LISTEN": "0.0.0.0:0"})
        try:
            server = other.start()
            client = Client(server, other.key())
            self.assertEqual(client.create()["network"]["mode"], "none")
            self.assertEqual(network_status(client), "unused")
            self.assertEqual((guard_of(other), tables(other.cluster)), (None, []))
            made = client.create(template="python", network={"mode": "open"})
            self.assertEqual(made["network"]["mode"], "open")
            self.assertEqual(len(tables(other.cluster)), 2)
            self.assert_refused(client, made, [  # its own server listens on all addresses
                ("tcp", host, server.port) for host in (address_of(other, made)["Gateway"], ROUTER)])
        finally:
            other.close()

    def test_modes_that_are_not_there_yet_are_refused_by_name(self):
        got = api.post("/sandboxes", {"network": {"mode": "allowlist", "allow": ["1.1.1.1"]}})
        self.assert_problem(got, 400, "invalid_request", "network.mode")
        got = api.post("/sandboxes", {"network": {"mode": "open", "allow": []}})
        self.assert_problem(got, 400, "invalid_request", "network.allow")

    def test_options_that_make_no_sense_are_named(self):
        fresh = Service()
        self.addCleanup(fresh.destroy)
        for name, value in (("SBX_NETWORK", "bridge"), ("SBX_NETWORK_ALLOW", "10.0.0.1/8"),
                            ("SBX_NETWORK_RESOLVERS", "127.0.0.53"), ("SBX_GUARD_IMAGE", "")):
            got = sandboxd.sandboxd("serve", env={**fresh.env, name: value})
            self.assertNotEqual(got.returncode, 0)
            flag = "--" + name[4:].lower().replace("_", "-")
            self.assertIn(f"option {flag}: ", got.stderr)


if __name__ == "__main__":
    unittest.main()
