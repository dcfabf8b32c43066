"""The page that explains the contract: complete, well-formed, and nothing is loaded from elsewhere."""
import base64
import hashlib
import html.parser
import re
import unittest
import zlib

import sandboxd
from sandboxd import Client, SystemCase

QUICK = True

service = api = None
VOID = {"meta", "br", "hr", "img", "link", "input"}


def setUpModule():
    global service, api
    service, api = sandboxd.module_service()


class Page(html.parser.HTMLParser):
    """Tags must close in order; collects ids, links and the text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.tags, self.text = [], [], [], set(), []
        self.faults, self.style = [], ""
        self.feed(text)
        self.close()
        self.faults += [f"<{tag}> stays open" for tag in self.open]

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src"):
                self.links.append(value)
            if name.startswith("on") or name == "style":
                self.faults.append(f"attribute {name}")

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.text.append(data)


class DocsTest(SystemCase):
    @classmethod
    def setUpClass(cls):
        cls.got = Client(api.server).get("/docs")
        cls.page = Page(cls.got.body.decode())
        cls.document = Client(api.server).get("/openapi.json").json

    def test_it_is_html_well_formed_and_light(self):
        self.assertEqual(self.got.status, 200)
        self.assertEqual(self.got.headers["Content-Type"], "text/html; charset=utf-8")
        self.assertLess(len(self.got.body), 256 * 1024)
        self.assertLess(len(zlib.compress(self.got.body)), 40 * 1024)
        self.assertEqual(self.page.faults, [])
        self.assertEqual(len(self.page.ids), len(set(self.page.ids)), "an id stands twice")

    def test_nothing_is_loaded_and_only_the_one_style_is_allowed(self):
        self.assertFalse(self.page.tags & {"script", "img", "link", "iframe", "form", "object"})
        for link in self.page.links:
            self.assertTrue(link.startswith("#") or link == "openapi.json", link)
        digest = base64.b64encode(hashlib.sha256(self.page.style.encode()).digest()).decode()
        policy = self.got.headers["Content-Security-Policy"]
        self.assertIn(f"style-src 'sha256-{digest}'", policy)
        self.assertTrue(policy.startswith("default-src 'none';"))
        self.assertNotIn("unsafe", policy)
        self.assertNotIn("@import", self.page.style)
        self.assertNotIn("url(", self.page.style)

    def test_every_link_leads_somewhere(self):
        for link in self.page.links:
            if link.startswith("#"):
                self.assertIn(link[1:], self.page.ids)

    def test_every_operation_parameter_field_and_code_is_there(self):
        text = "\n".join(self.page.text)
        for path, verbs in self.document["paths"].items():
            for operation in verbs.values():
                self.assertIn(operation["operationId"], self.page.ids)
                self.assertIn(path, text)
                for parameter in operation["parameters"]:
                    if "name" in parameter:
                        self.assertIn(parameter["name"], text)
                for content in operation.get("requestBody", {}).get("content", {}).values():
                    for field in content.get("schema", {}).get("properties", {}):
                        self.assertIn(field, text)
        for name, schema in self.document["components"]["schemas"].items():
            self.assertIn(f"schema-{name}", self.page.ids)
            for field in schema["properties"]:
                self.assertIn(field, text)
        for code in self.document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]:
            self.assertIn(code, text)

    def test_the_guide_is_in_the_document_too_and_its_marks_are_filled(self):
        guide = self.document["info"]["description"]
        for chapter in ("Quick start", "Authentication", "Errors", "Streams", "Lifecycle"):
            self.assertIn(f"## {chapter}\n", guide)
            self.assertIn(chapter.lower().replace(" ", "-"), self.page.ids)
        self.assertEqual(re.findall(r"\{\{[a-z-]+\}\}", guide), [])
        self.assertIn("| 404 | `not_found` |", guide)
        self.assertRegex(guide, r"\| `running` \| lasting \| .*`paused`|\| `running` \|")

    def test_names_that_the_guide_uses_exist(self):
        """Paths in the examples are operations of the document."""
        known = [re.sub(r"{\w+}", "[^/]+", path) + "$" for path in self.document["paths"]]
        guide = self.document["info"]["description"]
        used = set(re.findall(r'"(?:GET|POST|DELETE)", [`"](/[^`"]*)[`"]', guide))
        used |= set(re.findall(r"\$URL(/[^ \"?]*)", guide))
        self.assertGreater(len(used), 3)
        for path in used:
            path = re.sub(r"\$\{[^}]*\}|\$ID", "x", path).split("?")[0]
            self.assertTrue(any(re.match(k, path) for k in known), path)


if __name__ == "__main__":
    unittest.main()
