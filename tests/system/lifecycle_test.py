"""Create, read, list and delete sandboxes on the real engine."""
import datetime
import time
import unittest

import sandboxd
from sandboxd import SystemCase, all_at_once, wait_for

QUICK = True

service = api = None


def setUpModule():
    global service, api
    service, api = sandboxd.module_service()


def when(text):
    return datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%f%z").timestamp()


class CreateTest(SystemCase):
    def test_an_empty_request_gives_a_python_sandbox_with_every_default(self):
        got = api.call("POST", "/sandboxes", b"")
        self.assertEqual(got.status, 201, got)
        box = got.json
        self.assertEqual(got.headers["Location"], f"/sandboxes/{box['id']}")
        self.assertRegex(box["id"], sandboxd.ID)
        want = {
            "name": None, "template": "python", "image": "sandboxd/python:1", "state": "running",
            "stateReason": None, "size": "small", "metadata": {}, "envNames": [],
            "limits": {"cpus": 1, "memoryMb": 512, "pids": 100, "diskMb": None},
            "timeoutSeconds": 1800, "idleTimeoutSeconds": 900, "onTimeout": "delete",
            "onIdle": "pause", "warm": False, "runtime": None, "diskLimit": "none",
            "readiness": None, "health": None}
        self.assertEqual({name: box.get(name, "absent") for name in want}, want)
        self.assertEqual(box["network"]["mode"], "none")
        self.assertEqual(set(box) - set(want),
                         {"id", "network", "createdAt", "startedAt", "stateChangedAt",
                          "lastActiveAt", "expiresAt", "host"})
        self.assertLess(abs(when(box["createdAt"]) - time.time()), 60)
        self.assertAlmostEqual(when(box["expiresAt"]) - when(box["startedAt"]), 1800, delta=0.01)
        self.assertEqual(api.sandbox(box["id"]), box)
        self.assertEqual(api.exec(box["id"], ["python3", "-c", "print(6*7)"])["stdout"], "42\n")
        self.assertEqual(api.delete(f"/sandboxes/{box['id']}").status, 204)

    def test_a_node_sandbox_runs_node(self):
        box = api.create(template="node")
        self.assertEqual(api.exec(box["id"], "node -e 'console.log(6*7)'")["stdout"], "42\n")

    def test_sizes_and_limits_reach_the_record_and_the_engine(self):
        cases = [
            ({"size": "nano"}, 0.5, 256, 100),
            ({}, 1, 512, 100),
            ({"size": "medium"}, 2, 1024, 100),
            ({"size": "large"}, 4, 2048, 100),
            ({"size": "xlarge"}, 4, 4096, 100),
            ({"size": "nano", "limits": {"memoryMb": 300}}, 0.5, 300, 100),
            ({"limits": {"cpus": 1.5, "memoryMb": 256, "pids": 10}}, 1.5, 256, 10),
        ]
        boxes = all_at_once(lambda case: api.create(**case[0]), cases, 4)
        for (spec, cpus, memory, pids), box in zip(cases, boxes):
            with self.subTest(spec=spec):
                self.assertEqual(box["limits"],
                                 {"cpus": cpus, "memoryMb": memory, "pids": pids, "diskMb": None})
                host = service.inspect(box["id"])["HostConfig"]
                self.assertEqual(host["Memory"], memory << 20)
                self.assertEqual(host["MemorySwap"], host["Memory"])
                self.assertEqual(host["CpuQuota"] / host["CpuPeriod"], cpus)
                self.assertEqual(host["PidsLimit"], pids + 16)
        all_at_once(lambda box: api.delete(f"/sandboxes/{box['id']}"), boxes, 4)

    def test_metadata_name_and_env_are_kept_and_values_of_env_never_come_back(self):
        box = api.create(name="My box – 1", metadata={"team": "blue", "ünï": "☃"},
                         env={"TOKEN": "hunter2", "B": ""})
        self.assertEqual(box["name"], "My box – 1")
        self.assertEqual(box["metadata"], {"team": "blue", "ünï": "☃"})
        self.assertEqual(box["envNames"], ["TOKEN", "B"])
        self.assertNotIn("hunter2", str(api.sandbox(box["id"])))
        self.assertNotIn("hunter2", str(api.every()))
        got = api.exec(box["id"], "echo $TOKEN-$B-")
        self.assertEqual(got["stdout"], "hunter2--\n")
        sealed = service.psql(f"SELECT env_sealed FROM sandboxes WHERE id = '{box['id']}'")
        self.assertTrue(sealed.startswith("\\x"))
        self.assertNotIn("hunter2".encode().hex(), sealed)
        whole = service.psql(f"SELECT row_to_json(s) FROM sandboxes s WHERE id = '{box['id']}'")
        self.assertNotIn("hunter2", whole)
        self.assertNotIn("hunter2", service.servers[0].log_text())
        self.assertNotIn("hunter2", str(service.inspect(box["id"])))

    def test_an_image_may_be_named_instead_of_a_template(self):
        box = api.create(image=sandboxd.BOX_IMAGE)
        self.assertEqual((box["image"], box["template"]), (sandboxd.BOX_IMAGE, None))
        self.assertEqual(api.exec(box["id"], "echo ok")["stdout"], "ok\n")
        self.assertEqual(api.sandbox(box["id"])["template"], None)

    def test_an_unknown_template_is_400_and_leaves_no_record(self):
        before = len(api.every())
        self.assert_problem(api.post("/sandboxes", {"template": "cobol"}), 400, "invalid_request",
                            "template")
        self.assertEqual(len(api.every()), before)

    def test_an_unknown_image_is_400_and_the_record_stays_failed(self):
        got = api.post("/sandboxes", {"image": "registry.invalid/no/such:image"}, timeout=120)
        told = self.assert_problem(got, 400, "invalid_request", "image")
        box = api.sandbox(told["sandboxId"])
        self.assertEqual(box["state"], "failed")
        self.assertTrue(box["stateReason"]["code"])
        self.assertIn("no/such", box["stateReason"]["message"])
        self.assertFalse(service.container_exists(box["id"]))
        self.assert_problem(api.post(f"/sandboxes/{box['id']}/exec", {"command": "true"}), 409,
                            "conflict")
        self.assertEqual(api.delete(f"/sandboxes/{box['id']}").status, 204)

    def test_what_is_not_available_yet_is_refused_by_field(self):
        cases = [("network", {"mode": "allowlist", "allow": ["1.1.1.1"]}),
                 ("volumes", [{"name": "v", "path": "/v"}])]
        for field, value in cases:
            with self.subTest(field=field, value=value):
                got = api.post("/sandboxes", {"template": "box", field: value})
                self.assertEqual(got.status, 400, got)
                self.assertTrue(any(e["field"].split(".")[0] == field
                                    for e in got.json["errors"]), got)

    def test_without_waiting_it_answers_202_and_an_exec_right_after_waits(self):
        began = time.monotonic()
        got = api.post("/sandboxes", {"template": "box", "wait": False})
        self.assertEqual(got.status, 202, got)
        self.assertEqual(got.json["state"], "creating")
        box = got.json["id"]
        self.assertEqual(got.headers["Location"], f"/sandboxes/{box}")
        self.assertEqual(api.exec(box, "echo early")["stdout"], "early\n")
        self.assertEqual(api.state(box), "running")
        self.assertLess(time.monotonic() - began, 30)

    def test_without_waiting_a_failure_is_in_the_record(self):
        got = api.post("/sandboxes", {"image": "127.0.0.1:1/no/such:image", "wait": False})
        self.assertEqual(got.status, 202, got)
        box = got.json["id"]
        wait_for(lambda: api.state(box) == "failed", what="state failed")
        self.assertTrue(api.sandbox(box)["stateReason"]["message"])
        self.assert_problem(api.post(f"/sandboxes/{box}/exec", {"command": "true"}), 409,
                            "conflict")


class HardeningTest(SystemCase):
    @classmethod
    def setUpClass(cls):
        cls.image = sandboxd.make_image(
            "sbxtest-hostile:1", sandboxd.box_files(),
            ['ENTRYPOINT ["/bin/false"]', 'CMD ["x"]', 'USER 4242:4343', 'VOLUME /data',
             'HEALTHCHECK CMD /bin/false', 'ENV FROM_IMAGE=yes'])
        cls.box = api.create(image=cls.image)["id"]
        cls.info = service.inspect(cls.box)

    def test_what_the_image_brings_is_neutralised(self):
        config = self.info["Config"]
        self.assertEqual(config["Entrypoint"], ["/.sbx/sbx-agent"])
        self.assertFalse(config["Cmd"])
        self.assertEqual(config["User"], "0:0")
        self.assertEqual(config["Healthcheck"]["Test"], ["NONE"])
        self.assertEqual(self.info["Path"], "/.sbx/sbx-agent")

    def test_the_container_is_confined(self):
        host = self.info["HostConfig"]
        self.assertEqual(host["CapDrop"], ["ALL"])
        self.assertEqual(sorted(c.removeprefix("CAP_") for c in host["CapAdd"]),
                         ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID"])
        self.assertIn("no-new-privileges", host["SecurityOpt"])
        self.assertFalse([o for o in host["SecurityOpt"] if "unconfined" in o])
        self.assertFalse(host["Privileged"])
        self.assertEqual(host["NetworkMode"], "none")
        self.assertEqual(host["LogConfig"]["Type"], "none")
        self.assertFalse(host["Binds"])
        self.assertEqual([m["Type"] for m in self.info["Mounts"]].count("bind"), 0)
        agent = [m for m in self.info["Mounts"] if m["Destination"] == "/.sbx"]
        self.assertEqual([m["RW"] for m in agent], [False])
        self.assertEqual(host["IpcMode"], "private")
        self.assertEqual(host["PidMode"], "")
        self.assertIn({"Name": "nofile", "Hard": 1024, "Soft": 1024}, host["Ulimits"])
        self.assertEqual(host["RestartPolicy"]["Name"], "no")

    def test_it_carries_the_labels_of_its_installation(self):
        labels = self.info["Config"]["Labels"]
        self.assertEqual(labels["sandboxd.id"], self.box)
        self.assertEqual(labels["sandboxd.cluster"], service.cluster)

    def test_the_users_and_variables_of_the_image_are_respected(self):
        got = api.exec(self.box, "id -u; id -g; echo $FROM_IMAGE")
        self.assertEqual(got["stdout"], "4242\n4343\nyes\n")

    def test_limits_hold_inside(self):
        got = api.exec(self.box, "ulimit -n; ls /sys/class/net; cat /proc/1/comm")
        self.assertEqual(got["stdout"], "1024\nlo\nsbx-agent\n")

    def test_its_anonymous_volume_goes_with_it(self):
        box = api.create(image=self.image)["id"]
        names = [m["Name"] for m in service.inspect(box)["Mounts"] if m["Destination"] == "/data"]
        self.assertEqual(len(names), 1)
        self.assertEqual(api.delete(f"/sandboxes/{box}").status, 204)
        with self.assertRaises(sandboxd.EngineError):
            sandboxd.engine.call("GET", f"/volumes/{names[0]}")


class ReadTest(SystemCase):
    def test_an_unknown_id_is_404(self):
        for path in ("a" * 20, "nope", "A" * 20, "a" * 300, "%00", "a%2fb"):
            for method, rest in (("GET", ""), ("DELETE", ""), ("GET", "/logs")):
                with self.subTest(path=path, method=method, rest=rest):
                    got = api.call(method, f"/sandboxes/{path}{rest}")
                    self.assertIn(got.status, (400, 404) if "%" in path else (404,), got)
        self.assert_problem(api.post(f"/sandboxes/{'a' * 20}/exec", {"command": "true"}), 404,
                            "not_found")

    def test_what_another_user_owns_is_404(self):
        box = api.create()["id"]
        bob = sandboxd.Client(api.server, service.key("bob"))
        for method, path, body in (("GET", "", None), ("DELETE", "", None), ("GET", "/logs", None),
                                   ("POST", "/exec", {"command": "true"})):
            with self.subTest(method=method, path=path):
                got = bob.call(method, f"/sandboxes/{box}{path}", body)
                self.assert_problem(got, 404, "not_found")
        self.assertEqual(bob.every(), [])
        self.assertEqual(api.state(box), "running")


class ListTest(SystemCase):
    @classmethod
    def setUpClass(cls):
        cls.api = sandboxd.Client(api.server, service.key("lister"))
        specs = [{"name": f"n{i % 2}", "metadata": {"i": str(i), "all": "yes"}} for i in range(7)]
        cls.ids = [cls.api.create(**spec)["id"] for spec in specs]

    def test_it_is_newest_first(self):
        self.assertEqual([s["id"] for s in self.api.every()][-7:], self.ids[::-1])

    def test_pages_neither_repeat_nor_miss_while_others_are_created(self):
        got, cursor, made = [], "", []
        while cursor is not None:
            page = self.api.get(f"/sandboxes?limit=2{'&cursor=' + cursor if cursor else ''}").json
            self.assertLessEqual(len(page["items"]), 2)
            got += [s["id"] for s in page["items"]]
            cursor = page["nextCursor"]
            made.append(self.api.create(wait=False)["id"])
        self.assertEqual(len(got), len(set(got)))
        self.assertEqual([i for i in got if i in self.ids], self.ids[::-1])
        for box in made:
            wait_for(lambda b=box: self.api.state(b) == "running", what="the created ones")

    def test_filters_select(self):
        ids = self.ids
        cases = [("name=n1", [ids[5], ids[3], ids[1]]), ("metadata.i=3", [ids[3]]),
                 ("metadata.i=3&name=n0", []), ("metadata.all=yes&metadata.i=0", [ids[0]]),
                 ("metadata.all=yes&template=box&state=running", ids[::-1]),
                 ("template=python", []), ("state=failed", []), ("metadata.nope=1", [])]
        for query, want in cases:
            with self.subTest(query=query):
                self.assertEqual([s["id"] for s in self.api.pages(query)], want)

    def test_bad_parameters_are_refused_by_name(self):
        for query, field in (("limit=0", "limit"), ("limit=201", "limit"), ("limit=x", "limit"),
                             ("cursor=zzz", "cursor"), ("state=sleepy", "state"),
                             ("color=red", "color"), ("limit=-1", "limit")):
            with self.subTest(query=query):
                self.assert_problem(self.api.get(f"/sandboxes?{query}"), 400, "invalid_request",
                                    field)


class DeleteTest(SystemCase):
    def test_a_deleted_one_reads_as_deleted_and_its_verbs_are_gone(self):
        box = api.create(env={"A": "b"})["id"]
        self.assertTrue(service.container_exists(box))
        got = api.delete(f"/sandboxes/{box}")
        self.assertEqual((got.status, got.body), (204, b""))
        self.assertFalse(service.container_exists(box))
        self.assertEqual(api.delete(f"/sandboxes/{box}").status, 204)
        told = api.sandbox(box)
        self.assertEqual(told["state"], "deleted")
        self.assertTrue(told["stateReason"]["code"])
        self.assert_problem(api.post(f"/sandboxes/{box}/exec", {"command": "true"}), 410, "gone")
        self.assert_problem(api.get(f"/sandboxes/{box}/logs"), 410, "gone")
        self.assertNotIn(box, [s["id"] for s in api.every()])
        self.assertIn(box, [s["id"] for s in api.pages("state=deleted&limit=200")])
        self.assertEqual(
            service.psql(f"SELECT env_sealed IS NULL FROM sandboxes WHERE id = '{box}'"), "t")

    def test_a_day_later_it_is_unknown(self):
        box = api.create()["id"]
        api.delete(f"/sandboxes/{box}")
        service.psql("UPDATE sandboxes SET state_changed_at = now() - interval '25 hours'"
                     f" WHERE id = '{box}'")
        self.assert_problem(api.get(f"/sandboxes/{box}"), 404, "not_found")
        self.assert_problem(api.delete(f"/sandboxes/{box}"), 404, "not_found")
        self.assertNotIn(box, [s["id"] for s in api.pages("state=deleted&limit=200")])

    def test_deletes_at_once_all_succeed(self):
        box = api.create()["id"]
        got = all_at_once(lambda _: api.delete(f"/sandboxes/{box}").status, range(6))
        self.assertEqual(got, [204] * 6)

    def test_a_delete_while_it_is_created_wins(self):
        boxes = [api.create(wait=False)["id"] for _ in range(3)]
        for box in boxes:
            self.assertEqual(api.delete(f"/sandboxes/{box}").status, 204)
        for box in boxes:
            wait_for(lambda b=box: api.state(b) == "deleted", what="state deleted")
            wait_for(lambda b=box: not service.container_exists(b), what="the container's end")

    def test_a_running_command_ends_with_its_sandbox(self):
        box = api.create()["id"]
        with api.exec_stream(box, "echo up; sleep 100") as stream:
            events = stream.events()
            self.assertEqual(next(events)[1]["type"], "start")
            self.assertEqual(next(events)[1]["data"], "up\n")
            self.assertEqual(api.delete(f"/sandboxes/{box}").status, 204)
            last = list(events)[-1][1]
        self.assertIn(last["type"], ("error", "exit"))


class VolumeTest(SystemCase):
    def test_the_volume_with_the_agent_is_made_again_when_it_was_pruned(self):
        other = sandboxd.Service()
        self.addCleanup(other.close)
        client = sandboxd.Client(other.start(), other.key())
        box = client.create()["id"]
        volumes = [m["Name"] for m in other.inspect(box)["Mounts"]]
        self.assertEqual(client.delete(f"/sandboxes/{box}").status, 204)
        sandboxd.engine.call("DELETE", f"/volumes/{volumes[0]}")
        box = client.create()["id"]
        self.assertEqual(client.exec(box, "echo again")["stdout"], "again\n")


if __name__ == "__main__":
    unittest.main()
