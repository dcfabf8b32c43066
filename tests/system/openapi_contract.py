"""The served OpenAPI document as an oracle: what may be sent, and what may be answered.

Knows OpenAPI and JSON Schema, and nothing of the product: openapi_test.py brings the server.
"""
import json
import re

import jsonschema

OPERATIONS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

formats = jsonschema.FormatChecker(formats=())


@formats.checks("date-time")
def is_time(value):
    return not isinstance(value, str) or bool(TIME.fullmatch(value))


def media_type(text):
    return text.split(";")[0].strip().lower()


class Operation:
    """One method of one path."""

    def __init__(self, document, path, method, declared):
        self.document, self.path, self.method = document, path, method.upper()
        self.declared, self.id = declared, declared["operationId"]

    def __repr__(self):
        return f"{self.method} {self.path}"

    def parameters(self, where):
        told = [self.document.resolve(p) for p in self.declared.get("parameters", [])]
        return [p for p in told if p["in"] == where]

    @property
    def body(self):
        """(schema, example) of the request's JSON, or None."""
        content = self.declared.get("requestBody", {}).get("content", {}).get("application/json")
        if not content:
            return None
        return content["schema"], content["example"]

    @property
    def secured(self):
        return bool(self.declared["security"]) and {} not in self.declared["security"]

    def response(self, status):
        told = self.declared["responses"].get(str(status))
        return told and self.document.resolve(told)

    def successes(self):
        return {int(s) for s in self.declared["responses"] if s.startswith("2")}

    @property
    def streams_only(self):
        """Is its success a stream, and nothing else?"""
        content = (self.response(200) or {}).get("content")
        return bool(content) and list(content) == ["text/event-stream"]

    def messages(self, kind):
        """The declared messages of a stream ("x-events", "x-frames") by event, or None."""
        for response in self.declared["responses"].values():
            holders = [response, *response.get("content", {}).values()]
            for listed in (h[kind] for h in holders if kind in h):
                by_event = {}
                for message in listed:
                    by_event.setdefault(message.get("event"), []).append(message["data"])
                return {event: {"oneOf": schemas} for event, schemas in by_event.items()}
        return None

    def problems(self, answer):
        """What about an answer is not as declared: a list of words, empty when all is."""
        response = self.response(answer.status)
        if response is None:
            return [f"undeclared status {answer.status}"]
        found = []
        for name, header in response.get("headers", {}).items():
            header = self.document.resolve(header)
            value = answer.headers.get(name)
            if value is None and header.get("required"):
                found.append(f"header {name} is missing")
            elif value is not None and header["schema"].get("type") == "integer":
                found += self.document.mismatches(int(value), header["schema"])
        content = response.get("content")
        if not content:
            return found + ([f"a body where none is declared: {answer.body[:80]}"]
                            if answer.body else [])
        kind = media_type(answer.headers.get("Content-Type", ""))
        if kind not in content and "*/*" not in content:
            return found + [f"undeclared content type {kind!r}"]
        if kind in content and kind.endswith("json") and answer.body:
            found += self.document.mismatches(json.loads(answer.body), content[kind]["schema"])
        return found


class Document:
    """The document, with its references resolved on demand."""

    def __init__(self, root):
        self.root = root
        self.resolver = jsonschema.RefResolver.from_schema(root)
        self.operations = [Operation(self, path, method, declared)
                           for path, verbs in root["paths"].items()
                           for method, declared in verbs.items() if method in OPERATIONS]

    def resolve(self, value):
        while "$ref" in value and len(value) == 1:
            value = self.resolver.resolve(value["$ref"])[1]
        return value

    def validator(self, schema):
        return jsonschema.Draft202012Validator(schema, resolver=self.resolver,
                                               format_checker=formats)

    def mismatches(self, value, schema):
        return [f"{'.'.join(str(p) for p in error.absolute_path) or 'body'}: {error.message[:200]}"
                for error in self.validator(schema).iter_errors(value)]

    def valid(self, value, schema):
        return self.validator(schema).is_valid(value)

    # ---- values in bounds ----

    def example(self, schema):
        """A value that the schema takes."""
        schema = self.resolve(schema)
        for name in ("default", "const"):
            if name in schema:
                return schema[name]
        if "examples" in schema:
            return schema["examples"][0]
        if "enum" in schema:
            return schema["enum"][0]
        for name in ("oneOf", "anyOf"):
            if name in schema and "properties" not in schema:
                return self.example(schema[name][0])
        kind = schema["type"] if isinstance(schema["type"], str) else schema["type"][0]
        if kind == "object":
            names = schema.get("required", []) + schema.get("oneOf", [{}])[0].get("required", [])
            return {name: self.example(schema["properties"][name]) for name in names}
        if kind == "array":
            return [self.example(schema["items"])] * schema.get("minItems", 0)
        if kind == "string":
            return "a" * (20 if "pattern" in schema else max(1, schema.get("minLength", 0)))
        return {"integer": schema.get("minimum", 1), "number": schema.get("minimum", 1),
                "boolean": True, "null": None}[kind]

    def edges(self, schema):
        """Values at the bounds that must be taken: of numbers, lists of values and booleans."""
        schema = self.resolve(schema)
        if "enum" in schema:
            return list(schema["enum"])
        kinds = [schema["type"]] if isinstance(schema.get("type"), str) else schema.get("type", [])
        found = [None] if "null" in kinds else []
        if "boolean" in kinds:
            found += [True, False]
        return found + [schema[b] for b in ("minimum", "maximum") if b in schema]

    def edges_by_object(self, schema):
        """{path: values at the bounds} of each object of a body, where it has any."""
        found = {}
        for path, below in self.fields(schema):
            if values := self.edges(below):
                found.setdefault(path[:-1], {})[path] = values
        return list(found.values())

    def fields(self, schema, path=()):
        """(path, schema) of each property, also of nested objects."""
        schema = self.resolve(schema)
        for name, below in schema.get("properties", {}).items():
            yield (*path, name), below
            yield from self.fields(below, (*path, name))

    # ---- values out of bounds ----

    def bad_values(self, schema):
        """(what is wrong, value) for a field; all of them are refused by the schema."""
        schema = self.resolve(schema)
        tries = [("a wrong type", v) for v in (7, "x", [7], {"no-such-field": 7}, True, 1.25)]
        tries += [("null", None), ("an unknown value", "no-such-value"), ("nothing in it", {})]
        if "properties" in schema:  # too much of what excludes each other
            tries += [("all at once", {name: self.example(below)
                                       for name, below in schema["properties"].items()})]
        for branch in [schema, *schema.get("oneOf", []), *schema.get("anyOf", [])]:
            tries += self._crossed(self.resolve(branch))
        return [(what, value) for what, value in tries if not self.valid(value, schema)]

    def _crossed(self, schema):
        step = 0.001 if schema.get("type") == "number" else 1
        if "minimum" in schema:
            yield "below the minimum", round(schema["minimum"] - step, 3)
        if "maximum" in schema:
            yield "above the maximum", round(schema["maximum"] + step, 3)
        if schema.get("minLength"):
            yield "too short", "a" * (schema["minLength"] - 1)
        if "maxLength" in schema:
            yield "too long", "a" * (schema["maxLength"] + 1)
        if schema.get("minItems"):
            yield "too few", [self.example(schema["items"])] * (schema["minItems"] - 1)
        if "maxItems" in schema:
            yield "too many", [self.example(schema["items"])] * (schema["maxItems"] + 1)
        more = schema.get("additionalProperties")
        if isinstance(more, dict):
            yield "a wrong type within", {"KEY": 7}
            for what, value in self._crossed(more):
                yield what + " within", {"KEY": value}
            if "maxProperties" in schema:
                yield "too many", {f"K{i}": "v" for i in range(schema["maxProperties"] + 1)}

    def bad_bodies(self, schema, good):
        """(what is wrong, field, body): each differs from a good body in one place."""
        schema = self.resolve(schema)
        yield "an unknown field", "noSuchField", {**good, "noSuchField": 1}
        for name in schema.get("required", []):
            yield "missing", name, {k: v for k, v in good.items() if k != name}
        for path, below in self.fields(schema):
            for what, value in self.bad_values(below):
                yield what, ".".join(path), self.put(schema, good, path, value)

    def put(self, schema, body, path, value):
        """A copy of the body with the value at the path; what the way there needs is added."""
        head, *rest = path
        if rest:
            below = self.resolve(self.resolve(schema)["properties"][head])
            value = self.put(below, body.get(head) or self.example(below), rest, value)
        return self.alone(schema, {**body, head: value}, head)

    def alone(self, schema, body, name):
        """Without what excludes the name."""
        groups = [set(branch.get("required", [])) for branch in self.resolve(schema).get("oneOf", [])]
        others = set().union(*groups) - {name} if {name} in groups else set()
        return {k: v for k, v in body.items() if k not in others}

    # ---- the document itself ----

    def faults(self):
        """What makes the document itself wrong."""
        found = []
        text = json.dumps(self.root)
        for reference in sorted(set(re.findall(r'"\$ref": "([^"]+)"', text))):
            try:
                self.resolver.resolve(reference)
            except jsonschema.RefResolutionError:
                found.append(f"{reference} leads nowhere")
        if found:
            return found
        for where, schema in self._schemas():
            try:
                jsonschema.Draft202012Validator.check_schema(schema)
            except jsonschema.SchemaError as error:
                found.append(f"{where}: {error.message[:200]}")
        for operation in self.operations:
            found += self._operation_faults(operation)
        ids = [o.id for o in self.operations]
        return found + [f"operationId {i} stands twice" for i in set(ids) if ids.count(i) > 1]

    def _schemas(self):
        for name, schema in self.root["components"]["schemas"].items():
            yield name, schema
        for operation in self.operations:
            if operation.body:
                yield operation, operation.body[0]
            for where in ("path", "query", "header"):
                for parameter in operation.parameters(where):
                    yield f"{operation} {parameter['name']}", parameter["schema"]

    def _operation_faults(self, operation):
        told, found = operation.declared, []
        known = {"operationId", "summary", "description", "tags", "security", "parameters",
                 "requestBody", "responses", "deprecated", "externalDocs"}
        found += [f"{operation}: unknown member {n}" for n in told
                  if n not in known and not n.startswith("x-")]
        for name in ("operationId", "summary", "tags", "security", "responses"):
            if name not in told:
                found.append(f"{operation}: no {name}")
        names = {p["name"] for p in operation.parameters("path")}
        if names != set(re.findall(r"{(\w+)}", operation.path)):
            found.append(f"{operation}: path parameters {names}")
        for status, response in told["responses"].items():
            if not self.resolve(response).get("description"):
                found.append(f"{operation}: {status} has no description")
        schemes = self.root["components"]["securitySchemes"]
        found += [f"{operation}: security {n}" for choice in told["security"] for n in choice
                  if n not in schemes]
        if operation.body and not self.valid(operation.body[1], operation.body[0]):
            found.append(f"{operation}: its example does not fit its schema")
        return found
