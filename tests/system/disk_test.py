"""Limits of disks, where the engine's storage driver cannot keep them."""
import unittest

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


if __name__ == "__main__":
    unittest.main()
