"""sbx and many sandboxes: create --count, rm --metadata, group."""
import json
import unittest

import cli_harness
from cli_harness import CliCase, covers

service = api = folder = None


def setUpModule():
    global service, api, folder
    service, api, folder = cli_harness.begin()


class ManyTest(CliCase):
    def test_so_many_are_made_and_deleted_by_their_label(self):
        made = self.ok("create", "-t", "box", "--count", 3, "-m", "job=7").split()
        self.assertEqual(len(set(made)), 3)
        self.assertEqual({api.sandbox(b)["metadata"]["job"] for b in made}, {"7"})
        other = self.ok("create", "-t", "box", "-m", "job=8").strip()
        gone = self.ok("rm", "--metadata", "job=7").split()
        self.assertEqual(sorted(gone), sorted(made))
        self.assertEqual(api.state(other), "running")
        self.assertEqual(self.ok("rm", "-m", "job=nothing"), "")
        told = json.loads(self.ok("rm", "-m", "job=8", "--json"))
        self.assertEqual(told, {"deleted": [other], "failed": [], "more": False})

    def test_what_makes_no_sense_is_refused(self):
        self.fails(2, "--count", "create", "--count", 101)
        self.fails(2, "--no-wait", "create", "--count", 2, "--no-wait")
        self.fails(2, "--metadata", "rm")
        self.fails(2, "--metadata", "rm", "x", "-m", "a=b")
        self.fails(2, "not KEY=VALUE", "rm", "-m", "a")
        self.fails(125, "template", "create", "-t", "nothing-of-that-name", "--count", 2)

    def test_the_reason_of_each_that_could_not_be_made_is_told(self):
        got = self.fails(125, "sandbox 2: ", "create", "--image", "registry.invalid/no/such:image",
                         "--count", 2)
        self.assertEqual(got.stdout, b"")


class GroupTest(CliCase):
    @covers("group create", "group ls", "group get", "group exec", "group rm")
    def test_from_its_making_to_its_end(self):
        boxes = self.ok("create", "-t", "box", "--count", 2).split()
        made = self.ok("group", "create", "-m", "a=b", "crew", *boxes).strip()
        self.assertIn("crew", self.ok("group", "ls"))
        self.assertEqual(self.ok("group", "ls", "-q", "-m", "a=b").strip(), made)
        self.assertEqual(json.loads(self.ok("group", "get", "crew", "--json"))["sandboxes"], boxes)
        self.assertRegex(self.ok("group", "get", made), r"name +crew")
        self.assertEqual(self.ok("group", "exec", "crew", "hostname").splitlines(),
                         [f"{b}: {b}" for b in boxes])
        got = self.fails(3, f"{boxes[0]}: err", "group", "exec", "crew", "echo a; echo err >&2; exit 3")
        self.assertEqual(got.stdout.decode().splitlines(), [f"{b}: a" for b in boxes])
        self.assertEqual(self.ok("group", "exec", "-e", "X=1", "crew", "sh", "-c", "echo $X").split(),
                         [f"{boxes[0]}:", "1", f"{boxes[1]}:", "1"])
        self.assertEqual(len(self.ok("group", "exec", "-d", "crew", "sleep", "100").splitlines()), 2)
        api.move(boxes[0], "stop", {"graceSeconds": 0})
        self.fails(125, f"{boxes[0]}: the sandbox is stopped", "group", "exec", "crew", "true")
        self.assertEqual(self.ok("group", "rm", "--sandboxes", "crew").strip(), made)
        self.assertEqual([api.state(b) for b in boxes], ["deleted"] * 2)

    def test_what_is_missing_is_named(self):
        self.fails(2, "none of create", "group", "frob")
        self.fails(2, "NAME", "group", "create")
        self.fails(2, "COMMAND", "group", "exec", "a" * 20)
        self.fails(2, "GROUP", "group", "rm")
        self.fails(125, "groups has the id or name \"nobody\"", "group", "get", "nobody")
        self.fails(125, "no group", "group", "get", "a" * 20)


if __name__ == "__main__":
    unittest.main()
