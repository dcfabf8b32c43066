"""Images that the engine does not have are pulled, from a real registry on loopback."""
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import unittest
import urllib.parse

import sandboxd
from sandboxd import SystemCase, engine, wait_for

service = api = registry = None


class Registry:
    """Debian's docker-registry in a folder of its own; the engine takes loopback without TLS."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="sbxreg-"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.name = f"127.0.0.1:{free.getsockname()[1]}"
        config = self.folder / "config.yml"
        config.write_text("version: 0.1\nstorage: {filesystem: {rootdirectory: %s}}\n"
                          "http: {addr: %s}\n" % (self.folder / "data", self.name))
        self.log = open(self.folder / "log", "wb")
        self.process = subprocess.Popen(["docker-registry", "serve", str(config)],
                                        stdout=self.log, stderr=self.log)
        wait_for(self.answers, what="the registry's answer")

    def answers(self):
        host, port = self.name.split(":")
        with socket.socket() as s:
            return s.connect_ex((host, int(port))) == 0

    def push(self, image):
        """Puts an image of the engine into the registry, and takes the name away again."""
        name = f"{self.name}/pulled"
        engine.call("POST", f"/images/{image}/tag", {"repo": name, "tag": "1"})
        told = list(engine.stream("POST", f"/images/{urllib.parse.quote(name)}/push", {"tag": "1"},
                                  headers={"X-Registry-Auth": "e30="}))
        errors = [line["error"] for line in told if "error" in line]
        if errors:
            raise AssertionError(errors)
        engine.remove_image(f"{name}:1")
        return f"{name}:1"

    def close(self):
        self.process.terminate()
        self.process.wait(20)
        self.log.close()
        shutil.rmtree(self.folder)


def setUpModule():
    global service, api, registry
    if not os.access("/usr/bin/docker-registry", os.X_OK):
        raise AssertionError("docker-registry is not installed: run tests/run")
    service, api = sandboxd.module_service()
    registry = Registry()
    unittest.addModuleCleanup(registry.close)


class PullTest(SystemCase):
    def test_an_image_of_a_registry_is_pulled_and_runs(self):
        # an image that no other name holds, so that its layers have to be fetched
        made = sandboxd.make_image("sbxtest-topull:1", {**sandboxd.box_files(),
                                                        "etc/pulled": os.urandom(3000000)})
        image = registry.push(made)
        engine.remove_image(made)
        self.addCleanup(engine.remove_image, image)
        box = api.create(image=image)
        self.assertEqual(box["image"], image)
        self.assertEqual(api.exec(box["id"], "wc -c < /etc/pulled")["stdout"].strip(), "3000000")
        self.assertEqual(api.delete(f"/sandboxes/{box['id']}").status, 204)

    def test_an_image_that_the_registry_does_not_have_is_400_and_failed(self):
        got = api.post("/sandboxes", {"image": f"{registry.name}/nothing:1"})
        self.assert_problem(got, 400, "invalid_request", "image")
        self.assertEqual(api.sandbox(got.json["sandboxId"])["state"], "failed")


if __name__ == "__main__":
    unittest.main()
