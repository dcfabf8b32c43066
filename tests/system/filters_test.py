"""Filters of the list of sandboxes, also across pages."""
import unittest

import sandboxd
from sandboxd import SystemCase, all_at_once

service = api = None


def setUpModule():
    global service, api
    service, api = sandboxd.module_service()


class FilterTest(SystemCase):
    @classmethod
    def setUpClass(cls):
        specs = [{"name": f"n{n % 2}", "metadata": {"team": ["red", "blue"][n % 2], "n": str(n)},
                  "template": ["box", "python"][n % 3 == 0]} for n in range(9)]
        cls.boxes = all_at_once(lambda spec: api.create(**spec), specs, 3)
        api.move(cls.boxes[1]["id"], "pause")
        api.move(cls.boxes[2]["id"], "stop")
        api.delete(f"/sandboxes/{cls.boxes[4]['id']}")

    def pages(self, query):
        """All items, three a page; every page but the last is full."""
        out, cursor = [], ""
        while cursor is not None:
            got = api.get(f"/sandboxes?limit=3{query}{cursor and '&cursor=' + cursor}").json
            out.extend(b["id"] for b in got["items"])
            cursor = got["nextCursor"]
            self.assertTrue(cursor is None or len(got["items"]) == 3, got)
        self.assertEqual(len(out), len(set(out)))
        return set(out)

    def expect(self, query, numbers):
        self.assertEqual(self.pages(query), {self.boxes[n]["id"] for n in numbers}, query)

    def test_filters_select_and_add_up_across_pages(self):
        alive = [0, 1, 2, 3, 5, 6, 7, 8]
        for query, numbers in [("", alive), ("&state=running", [0, 3, 5, 6, 7, 8]),
                               ("&state=paused", [1]), ("&state=stopped", [2]),
                               ("&state=deleted", [4]), ("&template=python", [0, 3, 6]),
                               ("&name=n0", [0, 2, 6, 8]), ("&name=n", []),
                               ("&metadata.team=blue", [1, 3, 5, 7]),
                               ("&metadata.team=blue&metadata.n=3", [3]),
                               ("&metadata.team=red&state=running&template=box", [8]),
                               ("&metadata.none=x", [])]:
            with self.subTest(query=query):
                self.expect(query, numbers)

    def test_deleted_ones_are_listed_for_a_day(self):
        box = api.create()["id"]
        api.delete(f"/sandboxes/{box}")
        service.psql("UPDATE sandboxes SET state_changed_at = now() - interval '25 hours'"
                     f" WHERE id = '{box}'")
        self.assertNotIn(box, self.pages("&state=deleted"))

    def test_others_never_see_them(self):
        other = sandboxd.Client(service.servers[0], service.key("bob"))
        self.assertEqual(other.get("/sandboxes?metadata.team=blue").json["items"], [])


if __name__ == "__main__":
    unittest.main()
