"""sbx quotas, usage and audit: what one may use, has used, and who did what."""
import json
import unittest

import cli_harness
from cli_harness import CliCase, covers
from sandboxd import wait_for

service = api = folder = None


def setUpModule():
    global service, api, folder
    service, api, folder = cli_harness.begin()


class AccountTest(CliCase):
    def limited(self):
        """The environment of a user with limits."""
        path = folder / "limited"
        path.touch(0o600)
        path.write_text(service.key("limited", tier="free") + "\n")
        return {"SBX_KEY_FILE": path}

    @covers("quotas")
    def test_quotas_are_a_table_of_what_is_used_and_may_be(self):
        env = self.limited()
        box = self.ok("create", "-t", "box", "--timeout", "10m", env=env).strip()
        lines = [line.split() for line in self.ok("quotas", env=env).splitlines()]
        self.assertEqual(lines[0], ["WHAT", "USED", "RESERVED", "LIMIT"])
        self.assertEqual(lines[1], ["runs,", "this", "month", "0", "0", "50"])
        self.assertEqual(lines[2][:4] + lines[2][-1:], ["compute", "time,", "this", "month", "2h"])
        self.assertEqual(lines[4], ["sandboxes", "1", "0", "5"])
        told = json.loads(self.ok("quotas", "--json", env=env))
        self.assertEqual(told["concurrentSandboxes"], {"limit": 5, "used": 1, "reserved": 0})
        self.ok("rm", box, env=env)
        self.fails(2, "argument", "quotas", "x")

    @covers("usage")
    def test_usage_is_told_by_what_one_asks(self):
        box = self.ok("create", "-t", "box").strip()
        wait_for(lambda: sum(day["computeSeconds"] for day in json.loads(
            self.ok("usage", "--json", "--sandbox", box))["items"]) >= 1, 30, "a second of use")
        self.ok("rm", box)
        lines = self.ok("usage", "--by", "sandbox").splitlines()
        self.assertEqual(lines[0].split(), ["OF", "RUNS", "COMPUTE", "PAUSED", "COST"])
        self.assertRegex("\n".join(lines[1:]), rf"(?m)^{box} +0 +\S+ +0 +0\.00\d+$")
        self.assertRegex(self.ok("usage", "--sandbox", box, "--by", "sandbox"), rf"(?m)^{box} ")
        today = service.psql("SELECT (now() AT TIME ZONE 'UTC')::date")
        self.assertIn(today, self.ok("usage", "--from", today))
        self.assertIn(today[:7] + " ", self.ok("usage", "--by", "month"))
        self.assertEqual(self.ok("usage", "--by", "package"), "")
        self.fails(125, "by:", "usage", "--by", "moon")
        self.fails(125, "from", "usage", "--from", "yesterday")

    @covers("audit")
    def test_audit_shows_who_did_what_to_administrators(self):
        boss = cli_harness.administrator(service)
        box = self.ok("create", "-t", "box").strip()
        self.fails(125, "no sandbox", "get", "a" * 20)
        self.ok("rm", box)
        seen = wait_for(lambda: (told := self.ok("audit", "--object", box, "--since", "1h",
                                                 env=boss)).count("\n") >= 3 and told, 15, "both acts")
        lines = seen.splitlines()
        self.assertEqual(lines[0].split()[:4], ["AT", "USER", "ADDRESS", "ACTION"])
        self.assertRegex(lines[1], rf"alice +127\.0\.0\.1 +sandbox_delete +{box} .*204")
        self.assertRegex(lines[2], rf"alice +127\.0\.0\.1 +sandbox_create +{box} .*201")
        told = json.loads(self.ok("audit", "--object", box, "--action", "sandbox_create", "--json",
                                  env=boss))["items"]
        self.assertEqual([e["userName"] for e in told], ["alice"])
        self.assertEqual(self.ok("audit", "-q", "--object", box, "--limit", 1, env=boss).count("\n"), 1)
        self.assertEqual(self.ok("audit", "--object", box, "--result", "failed", env=boss), "")
        self.fails(125, "administrators", "audit")
        for words, name in ((("--since", "soon"), "--since"), (("--limit", "0"), "--limit"),
                            (("--result", "odd"), "--result")):
            self.fails(2, name, "audit", *words, env=boss)


if __name__ == "__main__":
    unittest.main()
