"""Limits of disks: where the engine's storage driver cannot keep them, and where it can."""
import os
import pathlib
import shutil
import subprocess
import unittest

import parts
import sandboxd
from sandboxd import Client, SystemCase, wait_for

service = client = None


def setUpModule():
    global service, client
    service = sandboxd.Service()
    unittest.addModuleCleanup(service.close)
    client = Client(service.start(), service.key())


class WatchedTest(SystemCase):
    def test_without_a_limit_there_is_none(self):
        got = client.create(limits={"diskMb": None})
        self.assertEqual((got["diskLimit"], got["limits"]["diskMb"]), ("none", None))

    def test_refusals(self):
        for wrong in (15, 1048577, "16", 16.5, True):
            got = client.post("/sandboxes", {"template": "box", "limits": {"diskMb": wrong}})
            self.assert_problem(got, 400, "invalid_request", "limits.diskMb")
        box = client.create()["id"]
        got = client.patch(f"/sandboxes/{box}", {"limits": {"diskMb": 32}})
        self.assert_problem(got, 400, "invalid_request", "limits.diskMb")

    def test_one_that_writes_more_is_stopped_and_keeps_its_files(self):
        got = client.create(limits={"diskMb": 16})
        box = got["id"]
        self.assertEqual((got["diskLimit"], got["limits"]["diskMb"]), ("watched", 16))
        client.exec(box, "head -c 15000000 /dev/zero >/tmp/some")
        wait_for(lambda: client.get(f"/sandboxes/{box}/stats").json["diskBytes"] or 0 > 14000000,
                 15, "a look at the disk")
        told = client.get(f"/sandboxes/{box}/stats").json
        self.assertEqual(told["diskLimitBytes"], 16 << 20)
        self.assertEqual(client.state(box), "running")
        client.exec(box, "head -c 15000000 /dev/zero >/tmp/more")
        wait_for(lambda: client.state(box) == "stopped", 20, "the stop")
        why = client.sandbox(box)["stateReason"]
        self.assertEqual(why["code"], "disk_full")
        self.assertIn("16 MB", why["message"])
        alerts = client.get(f"/events?sandboxId={box}&type=sandbox.alert").json["items"]
        self.assertIn("disk_80", [e["data"]["reason"]["code"] for e in alerts])
        client.move(box, "start")
        self.assertEqual(client.exec(box, "rm /tmp/more; ls -l /tmp/some | wc -l")["stdout"], "1\n")
        wait_for(lambda: client.get(f"/sandboxes/{box}/stats").json["diskBytes"] < 16 << 20, 15,
                 "another look")
        self.assertEqual(client.state(box), "running")


    def test_one_that_writes_it_full_at_once_is_told_of_before_it_is_stopped(self):
        box = client.create(limits={"diskMb": 16})["id"]
        client.exec(box, "head -c 40000000 /dev/zero >/tmp/all")
        wait_for(lambda: client.state(box) == "stopped", 20, "the stop")
        events = client.get(f"/events?sandboxId={box}&limit=100").json["items"]
        told = [(e["type"], (e["data"]["reason"] or {}).get("code")) for e in events]
        self.assertEqual(told.count(("sandbox.alert", "disk_90")), 1, told)
        self.assertLess(told.index(("sandbox.alert", "disk_90")),
                        told.index(("sandbox.stopping", "disk_full")))


def why_not_btrfs():
    if os.getuid() != 0:
        return "a loop device needs root"
    if not shutil.which("mkfs.btrfs"):
        return "btrfs-progs is not installed"
    known = pathlib.Path("/proc/filesystems").read_text().split()
    return None if "btrfs" in known else "the kernel does not know btrfs"


@unittest.skipIf(why_not_btrfs(), why_not_btrfs())
class EnforcedTest(SystemCase):
    """An engine of its own on btrfs, whose storage driver knows quotas."""

    @classmethod
    def setUpClass(cls):
        cls.own = parts.PrivateEngine(arguments=("--storage-driver", "btrfs"))
        cls.addClassCleanup(cls.own.remove)
        image = cls.own.folder / "btrfs.img"
        with image.open("wb") as file:
            file.truncate(700 << 20)
        subprocess.run(["mkfs.btrfs", "-q", image], check=True, stdout=subprocess.DEVNULL)
        cls.own.data.mkdir()
        subprocess.run(["mount", "-o", "loop", image, cls.own.data], check=True)
        cls.own.start()
        cls.service = sandboxd.Service(engine_=cls.own.api, env={"DOCKER_HOST": cls.own.host})
        cls.addClassCleanup(cls.service.close)
        cls.api = Client(cls.service.start(), cls.service.key())

    def test_a_write_beyond_it_fails_inside_and_all_else_goes_on(self):
        got = self.api.create(limits={"diskMb": 24})
        box = got["id"]
        self.assertEqual((got["diskLimit"], got["limits"]["diskMb"]), ("enforced", 24))
        self.assertEqual(self.api.sandbox(box)["diskLimit"], "enforced")
        told = self.api.exec(box, "dd if=/dev/zero of=/tmp/big bs=1M count=60")
        self.assertNotEqual(told["exitCode"], 0)
        self.assertRegex(told["stderr"], "(?i)quota exceeded|no space left")
        self.assertEqual(self.api.state(box), "running")
        size = int(self.api.exec(box, "stat -c %s /tmp/big")["stdout"])
        self.assertTrue(10 << 20 < size <= 24 << 20, size)
        put = self.api.call("PUT", f"/sandboxes/{box}/files?path=/tmp/more", bytes(8 << 20))
        self.assertTrue(self.assert_problem(put, 409, "conflict")["detail"].startswith("no_space:"))
        self.assertEqual(self.api.get(f"/sandboxes/{box}/files?path=/tmp/more").status, 404)
        self.assertEqual(self.api.exec(box, "ls /tmp")["stdout"], "big\n")
        self.assertEqual(self.api.get(f"/sandboxes/{box}/stats").json["diskLimitBytes"], 24 << 20)
        free = self.api.create()  # another one has no limit
        self.assertEqual(free["diskLimit"], "none")
        self.assertEqual(self.api.exec(free["id"], "dd if=/dev/zero of=/tmp/big bs=1M count=60")
                         ["exitCode"], 0)
        self.assertEqual(self.api.delete(f"/sandboxes/{box}").status, 204)
        wait_for(lambda: not self.service.container_exists(box), what="the end of its container")


if __name__ == "__main__":
    unittest.main()
