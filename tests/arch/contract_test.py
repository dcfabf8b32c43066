"""The oracle of tests/system/openapi_test.py notices what it is there to notice."""

import json
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "system"))
from openapi_contract import Document  # noqa: E402

THING = {"type": "object", "additionalProperties": False, "required": ["id", "at"], "properties": {
    "id": {"type": "string"}, "at": {"type": "string", "format": "date-time"},
    "note": {"type": ["string", "null"]}}}
BODY = {"type": "object", "additionalProperties": False, "required": ["name"], "properties": {
    "name": {"type": "string", "minLength": 1, "maxLength": 3},
    "mode": {"enum": ["a", "b"]},
    "count": {"type": "integer", "minimum": 1, "maximum": 5},
    "deep": {"type": "object", "additionalProperties": False, "properties": {
        "cpus": {"type": "number", "minimum": 0.5, "maximum": 4}}},
    "check": {"type": ["object", "null"], "additionalProperties": False, "properties": {
        "port": {"type": "integer", "minimum": 1}, "file": {"type": "string", "minLength": 1},
        "tries": {"type": "integer", "minimum": 1}},
        "oneOf": [{"type": "object", "required": ["port"]}, {"type": "object", "required": ["file"]},
                  {"type": "null"}]}}}


def document(**changed):
    operation = {
        "operationId": "make", "summary": "Make", "tags": ["t"], "security": [],
        "requestBody": {"content": {"application/json": {"schema": BODY,
                                                         "example": {"name": "x"}}}},
        "responses": {"201": {
            "description": "made", "headers": {"Location": {"required": True,
                                                            "schema": {"type": "string"}}},
            "content": {"application/json": {
                "schema": {"$ref": "#/components/schemas/Thing"}}}},
            "204": {"description": "nothing"}}}
    return Document({"openapi": "3.1.0", "paths": {"/things": {"post": {**operation, **changed}}},
                     "components": {"schemas": {"Thing": THING}, "securitySchemes": {}}})


class Answer:
    def __init__(self, status=201, body=None, kind="application/json", location="/things/1"):
        self.status, self.body = status, b"" if body is None else json.dumps(body).encode()
        self.headers = {name: value for name, value in
                        (("Content-Type", kind), ("Location", location)) if value}


GOOD = {"id": "1", "at": "2026-01-31T12:00:00.000Z"}


class Answers(unittest.TestCase):
    def problems(self, **answer):
        return " ".join(document().operations[0].problems(Answer(**{"body": GOOD, **answer})))

    def test_what_is_as_declared_is_no_problem(self):
        self.assertEqual(self.problems(), "")
        self.assertEqual(self.problems(body={**GOOD, "note": None}), "")
        self.assertEqual(self.problems(status=204, body=None, kind=None), "")

    def test_what_is_not_is_one(self):
        for words, answer in (
                ("undeclared status 418", {"status": 418}),
                ("Location is missing", {"location": None}),
                ("undeclared content type", {"kind": "text/html"}),
                ("'more' was unexpected", {"body": {**GOOD, "more": 1}}),
                ("'id' is a required", {"body": {"at": GOOD["at"]}}),
                ("7 is not of type", {"body": {**GOOD, "id": 7}}),
                ("is not a 'date-time'", {"body": {**GOOD, "at": "yesterday"}}),
                ("is not a 'date-time'", {"body": {**GOOD, "at": "2026-01-31T12:00:00Z"}}),
                ("a body where none", {"status": 204})):
            with self.subTest(words):
                self.assertIn(words, self.problems(**answer))


class Requests(unittest.TestCase):
    def test_each_bound_of_each_field_is_crossed(self):
        operation = document().operations[0]
        schema, good = operation.body
        tried = {(field, what) for what, field, _ in operation.document.bad_bodies(schema, good)}
        for wanted in (("name", "missing"), ("name", "too short"), ("name", "too long"),
                       ("name", "null"), ("mode", "an unknown value"),
                       ("count", "below the minimum"), ("count", "above the maximum"),
                       ("count", "a wrong type"), ("deep", "a wrong type"),
                       ("deep.cpus", "below the minimum"), ("deep.cpus", "above the maximum"),
                       ("check", "nothing in it"), ("check", "all at once"),
                       ("check.tries", "below the minimum"), ("check.file", "too short"),
                       ("noSuchField", "an unknown field")):
            self.assertIn(wanted, tried)

    def test_each_is_refused_by_the_schema_and_the_good_one_is_not(self):
        told = document()
        schema, good = told.operations[0].body
        self.assertTrue(told.valid(good, schema))
        self.assertTrue(told.valid({**good, "check": None}, schema))
        for what, field, body in told.bad_bodies(schema, good):
            self.assertFalse(told.valid(body, schema), (what, field, body))


    def test_bounds_are_found_object_by_object(self):
        told = document()
        self.assertEqual(told.edges_by_object(told.operations[0].body[0]), [
            {("mode",): ["a", "b"], ("count",): [1, 5], ("check",): [None]},
            {("deep", "cpus"): [0.5, 4]},
            {("check", "port"): [1], ("check", "tries"): [1]}])

    def test_a_value_comes_with_what_it_needs_and_without_what_excludes_it(self):
        told = document()
        schema, good = told.operations[0].body
        for path, value, expected in (
                (("check", "tries"), 3, {"port": 1, "tries": 3}),
                (("check", "file"), "/x", {"file": "/x"}),
                (("deep", "cpus"), 1, {"cpus": 1})):
            body = told.put(schema, good, path, value)
            self.assertEqual(body, {"name": "x", path[0]: expected})
            self.assertTrue(told.valid(body, schema))


class Faults(unittest.TestCase):
    def test_a_document_in_order_has_none(self):
        self.assertEqual(document().faults(), [])

    def test_a_broken_one_is_told(self):
        for words, changed in (
                ("leads nowhere", {"responses": {"200": {"$ref": "#/components/schemas/Nope"}}}),
                ("no summary", {"summary": None}),
                ("security nope", {"security": [{"nope": []}]}),
                ("unknown member", {"sumary": "x"}),
                ("has no description", {"responses": {"204": {}}}),
                ("its example does not fit", {"requestBody": {"content": {"application/json": {
                    "schema": BODY, "example": {}}}}})):
            with self.subTest(words):
                told = document(**changed)
                if changed.get("summary", 1) is None:
                    del told.root["paths"]["/things"]["post"]["summary"]
                self.assertIn(words, " ".join(told.faults()))


if __name__ == "__main__":
    unittest.main()
