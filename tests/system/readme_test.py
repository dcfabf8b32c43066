"""The tour of the README works as printed: every block is run by a shell, in order."""
import json
import os
import re
import subprocess
import unittest

import parts
import sandboxd
from sandboxd import SystemCase, wait_for

QUICK = True

service = api = None


def setUpModule():
    global service, api
    # Of this machine: where npm finds packages, and that sandboxes may go there.
    registry, allow = parts.npm_registry()
    env = {"SBX_NPM_REGISTRY": registry, "SBX_NETWORK_ALLOW": ",".join(allow)} if registry else {}
    if registry and os.path.exists(parts.CERTIFICATES):
        env["SBX_PACKAGES_CA"] = parts.CERTIFICATES
    service, api = sandboxd.module_service(env=env)


class TourTest(SystemCase):
    def test_every_block_of_the_tour_works_as_printed(self):
        text = (sandboxd.REPO / "README.md").read_text()
        tour = text.split("## A tour in five minutes")[1].split("\n## ")[0]
        blocks = re.findall(r"```sh\n(.*?)```", tour, re.S)
        self.assertEqual(len(blocks), 12)
        # Only where the server is and how the key is read differ from an installation.
        first = re.sub(r"SBX_URL=\S+\nSBX_KEY_FILE=\S+\n", "", blocks[0])
        first = first.replace("sudo cat", "cat")
        self.assertNotEqual(first, blocks[0])
        key = service.folder / "tour-key"
        key.write_text(api.key)
        script = "set -eu\n" + "\necho; echo =====\n".join([first, *blocks[1:]])
        got = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=180,
                             env={"PATH": "/usr/bin:/bin", "SBX_KEY_FILE": str(key),
                                  "SBX_URL": f"http://127.0.0.1:{api.server.port}"})
        self.assertEqual(got.returncode, 0, got.stderr)
        _, create, run, stream, job, limits, code, packages, files, log, pause, delete = got.stdout.split("=====")
        self.assertIn('"state":"running"', create)
        self.assertIn('"name":"tour"', create)
        self.assertIn('"stdout":"hello from user\\n"', run)
        events = [json.loads(line) for line in re.findall(r"^data: (.*)$", stream, re.M)]
        self.assertEqual("".join(e["data"] for e in events if e["type"] == "stdout"), "0\n1\n2\n")
        self.assertEqual((events[0]["type"], events[-1]["type"]), ("start", "exit"))
        told = [json.loads(line) for line in re.findall(r"^data: (.*)$", job, re.M)]
        self.assertEqual("".join(e["data"] for e in told if e["type"] == "stdout"),
                         "step 1\nstep 2\nstep 3\n")
        self.assertEqual(told[-1]["type"], "exit")
        self.assertIn('"timedOut":true', limits)
        self.assertIn('"signal":"KILL"', limits)
        self.assertIn('"stdout":"42\\n"', code)
        self.assertIn('"stdout":"172800000\\n"', packages)
        self.assertIn('"path":"/home/user/data.csv"', files)
        self.assertIn("data.csv\n", files)
        self.assertIn('"data":"hello from user"', log)
        self.assertIn('"state":"paused"', pause)
        self.assertEqual(delete.strip(), "")
        wait_for(lambda: api.every() == [], 20, "the end of what is deleted")


if __name__ == "__main__":
    unittest.main()
