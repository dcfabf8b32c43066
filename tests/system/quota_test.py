"""What users may use, and what it costs: limits that no race passes, and sums that no crash changes.
"""
import unittest

import sandboxd
from sandboxd import SystemCase


class TierTest(SystemCase):
    @classmethod
    def setUpClass(cls):
        cls.service = sandboxd.Service()
        cls.addClassCleanup(cls.service.close)
        cls.server = cls.service.start()
        cls.api = sandboxd.Client(cls.server, cls.service.key("ada", tier="free"))
        cls.admin = sandboxd.Client(cls.server, cls.service.key("root", "--role", "admin"))

    def test_tiers_and_prices_are_read_by_all_and_changed_by_administrators(self):
        tiers = {t.pop("name"): t for t in self.api.get("/tiers").json["items"]}
        self.assertEqual(tiers["free"], {"executions": 50, "computeSeconds": 7200,
                                         "longestRunSeconds": 2700, "concurrentSandboxes": 5})
        self.assertEqual(set(tiers["enterprise"].values()), {None})
        self.assertEqual(self.api.get("/prices").json["items"][0], {
            "size": "nano", "cpus": 0.5, "memoryMb": 256, "microsPerHour": 100000,
            "pausedMicrosPerHour": 10000})
        for path in ("/tiers/free", "/prices/nano"):
            self.assert_problem(self.api.patch(path, {}), 403, "forbidden")
        got = self.admin.patch("/tiers/premium", {"executions": None, "concurrentSandboxes": 0})
        self.assertEqual((got.status, got.json), (200, {
            "name": "premium", "executions": None, "computeSeconds": 360000,
            "longestRunSeconds": 18000, "concurrentSandboxes": 0}))
        got = self.admin.patch("/prices/xlarge", {"pausedMicrosPerHour": 5})
        self.assertEqual((got.json["microsPerHour"], got.json["pausedMicrosPerHour"]), (1600000, 5))
        self.assert_problem(self.admin.patch("/tiers/gold", {}), 404, "not_found")
        self.assert_problem(self.admin.patch("/tiers/" + 64 * "free", {}), 404, "not_found")
        self.assert_problem(self.admin.patch("/prices/huge", {}), 404, "not_found")

    def test_a_key_is_of_a_tier_that_there_is_and_changes_nobodys(self):
        with self.assertRaises(Exception):
            self.service.key("kim", tier="gold")
        with self.assertRaises(Exception):
            self.service.key("ada", tier="pro")
        self.assertEqual(self.service.psql("SELECT tier FROM users WHERE name = 'ada'"), "free")


if __name__ == "__main__":
    unittest.main()
