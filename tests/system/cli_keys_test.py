"""sbx keys: create, ls, rotate, rm."""
import json
import unittest

import cli_harness
from cli_harness import CliCase, covers
from sandboxd import Client

service = api = folder = None


def setUpModule():
    global service, api, folder
    service, api, folder = cli_harness.begin()


class KeysTest(CliCase):
    @covers("keys create", "keys ls", "keys rotate", "keys rm")
    def test_from_its_making_to_its_end(self):
        key = self.ok("keys", "create", "--scope", "keys:*", "--scope", "sandbox:read", "--expires",
                      "30d", "laptop").strip()
        one = Client(api.server, key)
        told = one.get("/me").json["key"]
        self.assertEqual((told["name"], told["scopes"]), ("laptop", ["keys:*", "sandbox:read"]))
        self.assertTrue(told["expiresAt"])
        listed = self.ok("keys", "ls")
        for word in (told["id"], "laptop", key[:12], "keys:* sandbox:read"):
            self.assertIn(word, listed)
        self.assertNotIn(key, listed)
        self.assertIn(told["id"], self.ok("keys", "ls", "-q").split())
        made = json.loads(self.ok("keys", "rotate", "--overlap", "60s", told["id"], "--json"))
        self.assertEqual(Client(api.server, made["key"]).get("/me").json["key"]["id"], made["id"])
        self.assertEqual(one.get("/me").status, 200)
        self.assertEqual(self.ok("keys", "rm", told["id"], made["id"]).split(),
                         [told["id"], made["id"]])
        self.assertEqual(one.get("/me").status, 401)

    def test_an_administrator_gives_a_key_its_rates(self):
        self.fails(125, "administrators", "keys", "create", "--rates", "exec=7", "x")
        key = self.ok("keys", "create", "--rates", "exec=7,reads=0", "x",
                      env=cli_harness.administrator(service)).strip()
        self.assertEqual(Client(api.server, key).get("/me").json["key"]["rates"],
                         {"creates": None, "exec": 7, "reads": 0})

    def test_what_makes_no_sense_is_refused(self):
        self.fails(2, "none of ls", "keys", "frob")
        self.fails(2, "NAME", "keys", "create")
        self.fails(2, "--expires", "keys", "create", "--expires", "soon", "x")
        self.fails(2, "--rates", "keys", "create", "--rates", "many", "x")
        self.fails(2, "ID", "keys", "rm")
        self.fails(2, "no id", "keys", "rm", "laptop")
        self.fails(2, "ID", "keys", "rotate", "laptop")
        self.fails(2, "no argument", "keys", "ls", "x")
        self.fails(125, "no key", "keys", "rm", "a" * 20)


if __name__ == "__main__":
    unittest.main()
