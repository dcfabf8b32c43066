"""What a statement ties to its owner: which of the tables that it touches it reads through the owner.

A statement is cut into scopes (a SELECT, INSERT, UPDATE or DELETE, also within parentheses), each
with its sources: tables, parts of its WITH, sub-selects. A source is tied if a condition that must
hold says that its owner is a parameter, or that one of its columns is a column of a source that is
tied; or if what is inserted into it is a tied source's, or has a parameter as its owner; or if it
is taken out of a pool and given to the parameter. Only the terms of an AND count, and the condition
of a LEFT JOIN counts for what it joins.

It reads the SQL of this product, not all that there is; what it does not understand is not tied.
"""
import re

OWNERS = {"owner", "user_id"}
TOKEN = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|\$\d+|[A-Za-z_]\w*(?:\.\w+|\.\*)*|\d+|::|<>|<=|>=|\|\||->>?|#>>|\S")
CLAUSES = ("WHERE", "ON", "GROUP", "ORDER", "LIMIT", "RETURNING", "FOR", "JOIN", "LEFT", "UNION",
           "SET", "VALUES", "FROM", "USING", "SELECT")
VERBS = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")


def tree(sql):
    """The tokens, with a list for what is in parentheses."""
    stack = [[]]
    for token in TOKEN.findall(sql):
        if token == "(":
            stack.append([])
        elif token == ")":
            group = stack.pop()
            stack[-1].append(group)
        else:
            stack[-1].append(token)
    assert len(stack) == 1, sql
    return stack[0]


def is_query(group):
    return isinstance(group, list) and bool(group) and group[0] in VERBS


class Source:
    def __init__(self, name, alias, columns=frozenset(), owned=False):
        self.name, self.alias, self.columns, self.owned = name, alias, columns, owned
        self.tied, self.body = False, None


class Statement:
    """`loose`: names of the owned tables that it touches without a tie, once for each place."""

    def __init__(self, sql, columns, owned):
        self.columns, self.owned, self.loose, self.seen = columns, owned, [], []
        self.query(tree(sql), {}, [])

    # --- scopes ---

    def query(self, tokens, parts, outer):
        """@return whether what it gives is of tied sources alone, and of at least one."""
        parts, at = dict(parts), 0
        if tokens[0] == "WITH":
            at = 1
            while True:
                name, body = tokens[at], tokens[at + 2]
                parts[name] = self.query(body, parts, outer)
                at += 3
                if tokens[at] != ",":
                    break
                at += 1
        tied, begin = [], at
        for i in range(at, len(tokens) + 1):
            if i == len(tokens) or tokens[i] == "UNION":
                tied.append(self.scope(tokens[begin:i], parts, outer))
                begin = i + 1 + (i + 1 < len(tokens) and tokens[i + 1] == "ALL")
        return all(tied)

    def scope(self, tokens, parts, outer):
        sources, conditions, target = self.read(tokens, parts)
        visible = [sources, *outer]
        if self.takes_from_pool(tokens, conditions):
            sources[0].tied = True
        self.tie(sources, conditions, visible)
        for s in sources:
            if s.body:
                s.tied = self.query(s.body, parts, visible) or s.tied
                self.tie(sources, conditions, visible)
        if target and not target.tied:
            target.tied = self.inserts(tokens, sources, visible)
        every = sources + ([target] if target else [])
        for group in self.inner(tokens):
            self.query(group, parts, [every, *outer])
        self.loose += [s.name for s in every if s.owned and not s.tied]
        return any(s.tied for s in every)

    def inner(self, tokens):
        """The queries within, but for those that were read as sources."""
        for token in tokens:
            if is_query(token):
                if not any(token is one for one in self.seen):
                    yield token
            elif isinstance(token, list):
                yield from self.inner(token)

    # --- sources ---

    def source(self, name, alias):
        table = name.removeprefix("public.")
        return Source(table, alias or table, self.columns.get(table, frozenset()),
                      table in self.owned)

    @staticmethod
    def alias(tokens, at):
        if at < len(tokens) and tokens[at] == "AS":
            at += 1
        if at < len(tokens) and isinstance(tokens[at], str) and re.match(r"[a-z]\w*$", tokens[at]):
            return tokens[at]
        return None

    def read(self, tokens, parts):
        sources, conditions, target, into_list = [], [], None, False
        for i, token in enumerate(tokens):
            follows = i + 1 < len(tokens)
            if token in ("FROM", "JOIN", "USING", "UPDATE", "INTO") or (token == "," and into_list):
                if not follows or (token == "UPDATE" and tokens[i - 1] in ("DO", "FOR", "KEY")):
                    continue
                into_list = token in ("FROM", "JOIN", "USING", ",")
                at = i + 1 + (tokens[i + 1] == "LATERAL")
                made = self.source_at(tokens, at, parts)
                if token == "INTO":
                    target = made
                elif made:
                    sources.append(made)
            elif token in CLAUSES:
                into_list = into_list and token in ("ON", "LEFT")
                if token in ("WHERE", "ON") and follows and tokens[i + 1] != "CONFLICT":
                    end = i + 1
                    while end < len(tokens) and tokens[end] not in (*CLAUSES, ","):
                        end += 1
                    only = sources[-1] if token == "ON" and self.is_left(tokens, i) else None
                    conditions.append((tokens[i + 1:end], only))
        return sources, conditions, target

    @staticmethod
    def is_left(tokens, at):
        joined = max(i for i in range(at) if tokens[i] == "JOIN")
        return tokens[joined - 1] == "LEFT"

    def source_at(self, tokens, at, parts):
        name = tokens[at]
        if isinstance(name, list):
            if not is_query(name):
                return None
            self.seen.append(name)
            made = Source("", self.alias(tokens, at + 1) or "")
            made.body = name
            return made
        if at + 1 < len(tokens) and isinstance(tokens[at + 1], list) and "INTO" != tokens[at - 1]:
            return Source("", self.alias(tokens, at + 2) or "")  # a function
        if name in parts:
            made = Source(name, self.alias(tokens, at + 1) or name)
            made.tied = parts[name]
            return made
        return self.source(name, self.alias(tokens, at + 1))

    # --- conditions ---

    def terms(self, tokens):
        """What must hold: the terms of the AND; none if there is an OR."""
        if "OR" in tokens:
            return
        term = []
        for token in [*tokens, "AND"]:
            if token != "AND":
                term.append(token)
                continue
            if len(term) == 1 and isinstance(term[0], list) and not is_query(term[0]):
                yield from self.terms(term[0])
            else:
                yield term
            term = []

    @staticmethod
    def find(column, visible):
        """(source, name of its column); an unqualified name of no table here is of a part of it."""
        if not isinstance(column, str) or not re.match(r"[a-z_]\w*(\.\w+)?$", column):
            return None, None
        alias, _, name = column.rpartition(".")
        for sources in visible:
            for s in sources:
                if s.alias == alias if alias else name in s.columns:
                    return s, name
            if not alias:
                return next((s for s in sources if s.tied and not s.columns), None), name
        return None, None

    def takes_from_pool(self, tokens, conditions):
        """UPDATE ... SET owner = $n: of what waits in a pool, which is nobody's."""
        if tokens[0] != "UPDATE" or "SET" not in tokens:
            return False
        at = tokens.index("SET") + 1
        return (tokens[at] in OWNERS and tokens[at + 1] == "=" and tokens[at + 2].startswith("$")
                and any(term[:2] == ["pool", "="] and term[2].startswith("$")
                        for clause, _ in conditions for term in self.terms(clause)))

    def tie(self, sources, conditions, visible):
        """All that follows from the conditions."""
        more = True
        while more:
            more = any(self.tie_by(term, only, sources, visible) for tokens, only in conditions
                       for term in self.terms(tokens))

    def tie_by(self, term, only, sources, visible):
        """@return whether a source is tied by this that was not before."""
        if len(term) < 3 or term[1] != "=" or (len(term) > 3 and term[3] != "::"):
            return False
        (a, name), (b, _) = (self.find(term[i], visible) for i in (0, 2))
        parameter = isinstance(term[2], str) and term[2].startswith("$")
        for one, other in ((a, b), (b, a)):
            if one is None or one.tied or one not in sources or only not in (None, one):
                continue
            if (other is not None and other.tied) or (parameter and one is a and name in OWNERS):
                one.tied = True
                return True
        return False

    def inserts(self, tokens, sources, visible):
        """Is what is inserted the owner's? `tokens` begin with INSERT INTO."""
        at = next(i for i, t in enumerate(tokens) if isinstance(t, list))
        names, rest = [n for n in tokens[at] if n != ","], tokens[at + 1:]
        values = rest[1] if rest[0] == "VALUES" else rest[1:]
        items, item = [], []
        for token in [*values, ","]:
            if token in ("FROM", "WHERE", "ON"):
                break
            if token == ",":
                items.append(item)
                item = []
            else:
                item.append(token)
        items += [item] if item else []
        given = dict(zip(names, items))
        owner = next((given[n] for n in names if n in OWNERS and n in given), None)
        if owner is not None:
            if isinstance(owner[0], str) and owner[0].startswith("$"):
                return True
            return self.is_tied(owner, sources, visible)
        return any(self.is_tied(value, sources, visible) for value in given.values())

    def is_tied(self, value, sources, visible):
        if len(value) != 1:
            return False
        found, _ = self.find(value[0], visible)
        return found is not None and found in sources and found.tied
