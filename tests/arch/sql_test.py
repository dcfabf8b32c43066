"""Whose rows a statement touches: every statement of src/store/queries*.h, and bad samples.

The tables that belong to somebody are found in the migrations: those with a column `owner` or
`user_id`, and those that refer to one of them. A statement that touches such a table is marked
OWNER and takes the owner as a parameter, in a condition or as the value that it inserts, and so for
each of the tables that it touches (sql_ties.py); or it is marked SYSTEM (it runs for the server
itself, or for an administrator) and takes none.
"""
import pathlib
import re
import subprocess
import unittest

from sql_ties import Statement

TOP = pathlib.Path(__file__).resolve().parents[2]
KINDS = {"OWNER", "SYSTEM"}

COLUMN = re.compile(r"^\s*(?:ADD COLUMN\s+)?(owner|user_id)\s+text\b", re.M)
TOUCHES = re.compile(r"\b(?:FROM|JOIN|INTO|UPDATE|USING|,)\s+public\.(\w+)")
BOUND = re.compile(r"\b(?:\w+\.)?(?:owner|user_id) = \$\d+")
INSERT = re.compile(r"INSERT INTO public\.(\w+)(?: AS \w+)? \(([^)]*)\)\s+(VALUES \(|SELECT )(.*)")


def owned_tables(migrations):
    """Names of the tables that belong to somebody, by the texts of all migrations in order."""
    owned, refers = set(), {}
    for text in migrations:
        text = re.sub(r"--[^\n]*", "", text)
        for statement in text.split(";"):
            made = re.match(r"\s*(?:CREATE|ALTER) TABLE (?:public\.)?(\w+)", statement)
            if not made:
                continue
            if COLUMN.search(statement):
                owned.add(made[1])
            refers.setdefault(made[1], set()).update(
                re.findall(r"REFERENCES (?:public\.)?(\w+)", statement))
    while more := {t for t, to in refers.items() if to & owned} - owned:
        owned |= more
    return owned


def table_columns(migrations):
    """Names of the columns of each table, by the same texts."""
    found = {}
    for text in migrations:
        text = re.sub(r"--[^\n]*", "", text)
        for statement in text.split(";"):
            made = re.match(r"\s*(?:CREATE|ALTER) TABLE (?:public\.)?(\w+)", statement)
            if made:
                found.setdefault(made[1], set()).update(
                    re.findall(r"^\s*(?:ADD COLUMN\s+)?([a-z]\w*)\s+[a-z]", statement, re.M))
    return found


def split(text):
    """The items of a list in SQL, up to the parenthesis or FROM that ends it."""
    items, depth, item = [], 0, ""
    for at, char in enumerate(text):
        if depth == 0 and (char == ")" or text.startswith(" FROM ", at)):
            break
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            items.append(item.strip())
            item = ""
        else:
            item += char
    return [*items, item.strip()]


def inserts_owner(sql):
    """Does it insert a parameter as the owner?"""
    for match in INSERT.finditer(sql):
        columns = [c.strip() for c in match[2].split(",")]
        values = split(match[4])
        for name in ("owner", "user_id"):
            if name in columns and len(values) > columns.index(name):
                if re.match(r"\$\d+", values[columns.index(name)]):
                    return True
    return False


def findings(statements, owned):
    """What is wrong with (name, kind, text) of statements."""
    wrong = []
    for name, kind, sql in statements:
        touched = sorted(set(TOUCHES.findall(sql)) & owned)
        named = bool(BOUND.search(sql)) or inserts_owner(sql)
        if kind not in KINDS:
            wrong.append(f"{name}: {kind} is none of {', '.join(sorted(KINDS))}")
        elif kind == "OWNER" and not touched:
            wrong.append(f"{name}: is marked OWNER and touches nothing that anybody owns")
        elif kind == "OWNER" and not named:
            wrong.append(f"{name}: touches {', '.join(touched)} and does not take the owner")
        elif kind == "SYSTEM" and BOUND.search(sql):
            wrong.append(f"{name}: takes the owner: mark it OWNER")
    return wrong


def statements_of(header):
    """(name, kind, text) of each row, as the preprocessor has it."""
    source = (f'#include "{header}"\n#define X(name, count, kind, text) @name|kind|text@\n'
              "SBX_QUERIES(X)\n")
    told = subprocess.run(["cc", "-E", "-P", "-I", TOP / "include", "-I", TOP / "src", "-x", "c",
                           "-D_GNU_SOURCE", "-"], input=source, capture_output=True, text=True,
                          check=True).stdout
    found = []
    for name, kind, text in re.findall(r"@\s*(\w+)\s*\|\s*(\w+)\s*\|((?:[^\"@]|\"(?:\\.|[^\"\\])*\")*)@",
                                       told):
        found.append((name, kind, "".join(re.findall(r'"((?:\\.|[^"\\])*)"', text))))
    return found


class StatementsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        texts = [p.read_text() for p in sorted((TOP / "migrations").glob("*.sql"))]
        cls.owned, cls.columns = owned_tables(texts), table_columns(texts)
        cls.statements = statements_of("store/queries.h")

    def test_the_tables_are_found(self):
        self.assertLessEqual({"api_keys", "events", "event_counters", "groups", "group_members",
                              "idempotency_keys", "package_requests", "package_sets", "sandboxes",
                              "sandbox_executions", "tickets"}, self.owned)
        self.assertFalse({"workers", "meta", "pools", "users"} & self.owned)

    def test_the_statements_are_found(self):
        rows = [row for p in (TOP / "src/store").glob("queries*.h")
                for row in re.findall(r"^    X\(\w+, ", p.read_text(), re.M)]
        self.assertEqual(len(self.statements), len(rows))
        self.assertGreater(len(rows), 80)

    def test_every_statement_for_a_user_takes_the_owner(self):
        wrong = findings(self.statements, self.owned)
        self.assertFalse(wrong, "\n".join(wrong))


    def test_every_table_of_a_statement_for_a_user_is_tied_to_the_owner(self):
        for name, kind, sql in self.statements:
            if kind == "OWNER":
                with self.subTest(name):
                    self.assertEqual(Statement(sql, self.columns, self.owned).loose, [])

    def test_a_statement_without_one_of_its_ties_is_found(self):
        """Each condition that names an owner is taken out of each statement, one at a time."""
        taken = 0
        for name, kind, sql in self.statements:
            for tie in re.finditer(r"(?:\w+\.)?(?:owner|user_id) = \$\d+(?:::text)?", sql):
                if kind != "OWNER" or re.search(r"SET $", sql[:tie.start()]):
                    continue
                loose = Statement(sql[:tie.start()] + "1 = 1" + sql[tie.end():], self.columns,
                                  self.owned).loose
                self.assertTrue(loose, f"{name} without {tie.group()}")
                taken += 1
        self.assertGreater(taken, 35)


class SamplesTest(unittest.TestCase):
    OWNED = {"sandboxes", "groups", "group_members", "api_keys"}
    BAD = {
        "reads without the owner": ("OWNER", "SELECT * FROM public.sandboxes WHERE id = $1"),
        "an owner that is no parameter": (
            "OWNER", "SELECT * FROM public.sandboxes WHERE id = $1 AND owner = name"),
        "joins without the owner": (
            "OWNER", "SELECT 1 FROM public.pools p JOIN public.groups g ON g.id = p.id"),
        "changes by id alone": ("OWNER", "UPDATE public.sandboxes SET name = $2 WHERE id = $1"),
        "deletes what refers to an owner's": (
            "OWNER", "DELETE FROM public.group_members WHERE group_id = $1"),
        "inserts an owner that is not given": (
            "OWNER", "INSERT INTO public.groups (id, owner) VALUES ($1, 'nobody')"),
        "the parameter is another column's": (
            "OWNER", "INSERT INTO public.groups (owner, id) VALUES (lower('x'), $1)"),
        "a user's, marked as the server's": (
            "SYSTEM", "SELECT * FROM public.sandboxes WHERE id = $1 AND owner = $2"),
        "marked for nothing": ("OWNER", "SELECT 1"),
        "a mark that is none": ("ANYBODY", "SELECT * FROM public.sandboxes WHERE id = $1"),
    }
    GOOD = {
        "reads": ("OWNER", "SELECT * FROM public.sandboxes WHERE id = $1 AND owner = $2"),
        "by an alias": ("OWNER", "SELECT 1 FROM public.groups g WHERE g.owner = $1::text"),
        "keys": ("OWNER", "SELECT 1 FROM public.api_keys k WHERE k.user_id = $1"),
        "inserts": ("OWNER", "INSERT INTO public.groups AS g (id, owner) VALUES ($1, $2)"),
        "inserts what it selects": (
            "OWNER", "INSERT INTO public.groups (id, owner) SELECT $1, $2::text FROM x"),
        "the server's": ("SYSTEM", "SELECT * FROM public.sandboxes WHERE id = $1"),
        "nobody's": ("SYSTEM", "SELECT 1"),
    }

    def test_bad_samples_are_refused_and_good_ones_pass(self):
        for words, (kind, sql) in self.BAD.items():
            with self.subTest(bad=words):
                self.assertEqual(len(findings([("SAMPLE", kind, sql)], self.OWNED)), 1)
        for words, (kind, sql) in self.GOOD.items():
            with self.subTest(good=words):
                self.assertEqual(findings([("SAMPLE", kind, sql)], self.OWNED), [])

    COLUMNS = {"sandboxes": {"id", "owner", "name", "pool"}, "groups": {"id", "owner"},
               "group_members": {"group_id", "sandbox"}, "api_keys": {"id", "user_id", "hash"}}
    LOOSE = {
        "a second table": (
            "SELECT 1 FROM public.groups g JOIN public.sandboxes s ON s.name = 'x'"
            " WHERE g.owner = $1", ["sandboxes"]),
        "a sub-select": (
            "SELECT (SELECT count(*) FROM public.sandboxes s WHERE s.id = $2) FROM public.groups g"
            " WHERE g.owner = $1", ["sandboxes"]),
        "a part of a WITH": (
            "WITH a AS (SELECT id FROM public.sandboxes) SELECT 1 FROM public.groups g"
            " WHERE g.owner = $1", ["sandboxes"]),
        "the second half of a UNION": (
            "SELECT id FROM public.groups WHERE owner = $1 UNION ALL SELECT id FROM public.groups",
            ["groups"]),
        "an OR": ("SELECT 1 FROM public.groups WHERE owner = $1 OR id = $2", ["groups"]),
        "a parameter that is no owner": ("SELECT 1 FROM public.groups WHERE id = $1", ["groups"]),
        "the left side of a LEFT JOIN": (
            "SELECT 1 FROM public.groups g LEFT JOIN public.sandboxes s ON g.owner = $1"
            " AND s.owner = $1", ["groups"]),
        "an equality to what is not tied": (
            "SELECT 1 FROM public.groups g JOIN public.group_members m ON m.group_id = g.id",
            ["groups", "group_members"]),
        "inserts for whom another row says": (
            "INSERT INTO public.groups (id, owner) SELECT $1, s.owner FROM public.sandboxes s"
            " WHERE s.id = $2", ["sandboxes", "groups"]),
        "gives away what waits in no pool": (
            "UPDATE public.sandboxes SET owner = $2 WHERE id = $1", ["sandboxes"]),
    }
    TIED = (
        "SELECT 1 FROM public.groups g JOIN public.group_members m ON m.group_id = g.id"
        " JOIN public.sandboxes s ON s.id = m.sandbox WHERE g.owner = $1 AND g.id = $2",
        "SELECT (SELECT count(*) FROM public.group_members m WHERE m.group_id = g.id)"
        " FROM public.groups g WHERE (g.owner = $1) AND (g.id = $2 OR $2 IS NULL)",
        "WITH g AS (DELETE FROM public.groups WHERE owner = $1::text RETURNING id)"
        " DELETE FROM public.group_members USING g WHERE group_id = g.id",
        "UPDATE public.sandboxes SET owner = $2 WHERE id = $1 AND pool = $3",
    )

    def test_what_is_not_tied_is_found_table_by_table(self):
        for words, (sql, loose) in self.LOOSE.items():
            with self.subTest(words):
                self.assertEqual(Statement(sql, self.COLUMNS, self.OWNED).loose, loose)
        for sql in self.TIED:
            with self.subTest(sql):
                self.assertEqual(Statement(sql, self.COLUMNS, self.OWNED).loose, [])

    def test_tables_are_found_in_migrations(self):
        texts = ["CREATE TABLE public.a (\n  id text,\n  owner text NOT NULL\n);",
                 "-- CREATE TABLE public.x (owner text);\nCREATE TABLE public.b (id text,\n"
                 "  a text REFERENCES public.a (id));\nCREATE TABLE public.c (id text);",
                 "ALTER TABLE public.c\n    ADD COLUMN user_id text;",
                 "CREATE TABLE public.d (b text REFERENCES public.b (id)); CREATE TABLE e (x int);"]
        self.assertEqual(owned_tables(texts), {"a", "b", "c", "d"})


if __name__ == "__main__":
    unittest.main()
