"""Every subcommand of sbx is run by a test that says so (covers() in cli_harness.py checks it)."""
import ast
import pathlib
import unittest

import cli_commands

TOP = pathlib.Path(__file__).resolve().parents[2]
SAMPLE = """
static const cli_option none[] = {END};
const cli_command cli_commands[] = {
    {"ls", "", 0, 0, -1, "list", NULL, NULL, none, cli_ls},
    {"start", ONE_OR_MORE, "start", NULL, NULL, none, cli_move},
    {"keys", "ls|create [NAME]", 1, -1, -1, "keys",
     "text", NULL, none, cli_keys},
};
"""


def covered():
    """What the tests say that they run."""
    found = set()
    for path in (TOP / "tests/system").glob("cli_*test.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "covers":
                found |= {argument.value for argument in node.args}
    return found


class CommandsTest(unittest.TestCase):
    def test_every_subcommand_is_run_by_a_test(self):
        commands = cli_commands.commands()
        self.assertGreater(len(commands), 35)
        self.assertEqual(covered(), commands)

    def test_the_table_is_read(self):
        self.assertEqual(cli_commands.commands(SAMPLE), {"ls", "start", "keys ls", "keys create"})

    def test_a_call_names_its_subcommand(self):
        verbs = cli_commands.verbs_of(SAMPLE)
        for words, name in ((["ls"], "ls"), (["-q", "ls", "start"], "ls"), (["start", 7], "start"),
                            (["keys", "create", "x"], "keys create"), (["keys", "frob"], "keys"),
                            (["keys"], "keys"), (["ls", "--help"], "help"), (["frob"], None),
                            ([], None)):
            self.assertEqual(cli_commands.command_of(words, verbs), name, words)


if __name__ == "__main__":
    unittest.main()
