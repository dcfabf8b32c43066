"""The subcommands of sbx, read from its table, and which of them the words of a call name."""
import pathlib
import re

TABLE = pathlib.Path(__file__).resolve().parents[2] / "src/cli/commands.c"
ROW = re.compile(r'^    \{"(\w+)", (?:"([^"]*)"|ONE_OR_MORE)', re.M)
VERBS = re.compile(r"[a-z]+(?:\|[a-z]+)+")


def verbs_of(source):
    """{command: its verbs, or []} of the table in the text of commands.c."""
    table = source[source.index("cli_commands[] = {"):]
    found = {}
    for name, arguments in ROW.findall(table):
        verbs = VERBS.match(arguments.split(" ")[0] if arguments else "")
        found[name] = verbs[0].split("|") if verbs else []
    return found


def commands(source=None):
    """All of them: "ls", "keys create", ..."""
    return {" ".join((name, *verb)) for name, verbs in
            verbs_of(source or TABLE.read_text()).items()
            for verb in ([(v,) for v in verbs] or [()])}


def command_of(words, verbs):
    """Which one the arguments of sbx name, or None."""
    words = [str(w) for w in words]
    if "--help" in words:
        return "help"
    at = next((i for i, word in enumerate(words) if word in verbs), None)
    if at is None:
        return None
    follows = words[at + 1] if at + 1 < len(words) else ""
    return f"{words[at]} {follows}" if follows in verbs[words[at]] else words[at]
