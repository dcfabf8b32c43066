"""The rules of the code that a program can check.

A rule is a function from a Tree to a list of findings, "path:line: what is wrong". arch_test.py
runs every rule over the repository and shows for each, on a small bad sample, that it can fail.
"""

import ast
import json
import pathlib
import re
import subprocess
import tempfile

MAX_FILE_LINES = 800
MAX_FUNCTION_LINES = 60

LAYERS = {
    "core": 0,
    "run": 1, "engine": 1, "store": 1, "bus": 1, "metrics": 1,
    "audit": 2, "auth": 2, "quota": 2, "guard": 2, "sandbox": 2, "http": 2,
    "batch": 3, "exec": 3, "events": 3, "files": 3, "logs": 3, "moves": 3, "packages": 3, "pool": 3,
    "reaper": 3, "stats": 3,
    "runs": 4,
    "api": 5,
}
# Programs of their own: what they may include of the layers.
PROGRAMS = {"agentd": r"sbx/core/agent_proto\.h", "cli": r"sbx/core/.*",
            "filetool": r"sbx/core/(base|buf|clock|json)\.h"}

# A library's header belongs to the folders that wrap it.
LIBRARIES = {
    r"cjson/|cJSON\.h": (r"src/core/json\w*\.c$", "core/json*.c"),
    r"archive(_entry)?\.h": (r"src/(filetool|cli)/", "src/filetool and src/cli"),
    r"libwebsockets": (r"src/http/", "src/http"),
    r"zlib\.h": (r"src/http/", "src/http"),
    r"curl/": (r"src/(engine|run|cli|auth)/", "src/engine, src/run, src/cli and src/auth"),
    r"libpq-fe\.h|libpq/|postgresql/": (r"src/store/", "src/store"),
    r"hiredis": (r"src/bus/", "src/bus"),
}

BANNED = ("strcpy strcat sprintf vsprintf strtok atoi atol strtol gmtime localtime system sleep "
          "usleep gets tmpnam mktemp").split()

SQL = re.compile(r"\b(SELECT\s.+\sFROM|INSERT\s+INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM|"
                 r"(CREATE|ALTER|DROP)\s+(TABLE|INDEX|SCHEMA)|BEGIN;|COMMIT;)\b", re.S)


class Tree:
    """Files by their path from the top; the text is read when it is asked for."""

    def __init__(self, files):
        self._files = files

    @classmethod
    def of_repository(cls, top):
        told = subprocess.run(
            ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others",
             "--exclude-standard"], cwd=top, capture_output=True, check=True).stdout
        paths = [p for p in told.decode().split("\0") if p and (top / p).is_file()]
        return cls({p: top / p for p in sorted(paths)})

    def paths(self, pattern=""):
        return [p for p in self._files if re.search(pattern, p)]

    def text(self, path):
        content = self._files[path]
        if isinstance(content, pathlib.Path):
            return content.read_text(encoding="utf-8", errors="replace")
        return content

    def file(self, path):
        content = self._files[path]
        return content if isinstance(content, pathlib.Path) else None


C_FILES = r"^(src|include|tests)/.*\.[ch]$"
PRODUCT_C = r"^(src|include)/.*\.[ch]$"
TOKEN = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)


def _blank(text):
    return re.sub(r"[^\n]", " ", text)


def code_only(text):
    """C with the contents of comments and literals blanked; lines and columns stay."""
    def replace(match):
        token = match.group(0)
        if token[0] in "\"'":
            return token[0] + _blank(token[1:-1]) + token[0]
        return _blank(token)
    return TOKEN.sub(replace, text)


def literals(text):
    """(line, text) of each run of string literals that the compiler joins."""
    found, end = [], None
    for match in TOKEN.finditer(text):
        token = match.group(0)
        if token[0] != '"':
            continue
        line = text.count("\n", 0, match.start()) + 1
        if found and end is not None and not text[end:match.start()].strip(" \t\n\\"):
            found[-1] = (found[-1][0], found[-1][1] + token[1:-1])
        else:
            found.append((line, token[1:-1]))
        end = match.end()
    return found


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


def includes(text):
    for match in re.finditer(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"\n]+)[>"]', text, re.M):
        yield line_of(text, match.start()), match.group(1), match.group(2)


# ---- structure ------------------------------------------------------------------------------

def folder_of(path):
    match = re.match(r"(?:src|include/sbx)/(\w+)/", path)
    return match.group(1) if match else None


def layers_include_downwards(tree):
    findings = []
    for path in tree.paths(PRODUCT_C):
        folder = folder_of(path)
        if folder is None:
            continue  # main.c and app.h wire everything
        if folder not in LAYERS and folder not in PROGRAMS:
            findings.append(f"{path}:1: the folder {folder} is no layer; see LAYERS in tests/arch")
            continue
        for line, kind, name in includes(tree.text(path)):
            wrong = _include_is_wrong(folder, kind, name)
            if wrong:
                findings.append(f"{path}:{line}: {wrong}")
    return findings


def _include_is_wrong(folder, kind, name):
    if kind == '"' and ".." in name:
        return f"{name}: includes go from the top or stay in the folder"
    other = re.match(r"(?:sbx/)?(\w+)/", name)
    if kind != '"' or not other:
        return None
    if folder in PROGRAMS:
        if other.group(1) == folder or re.fullmatch(PROGRAMS[folder], name):
            return None
        return f"{folder} is a program of its own and may not include {name}"
    target = other.group(1)
    if target == folder or LAYERS.get(target, 99) < LAYERS[folder]:
        return None
    word = "a sibling" if LAYERS.get(target) == LAYERS[folder] else "upward"
    return f"{folder} includes {name}, which is {word}"


def libraries_stay_in_their_folder(tree):
    findings = []
    for path in tree.paths(PRODUCT_C):
        for line, _, name in includes(tree.text(path)):
            for header, (where, words) in LIBRARIES.items():
                if re.match(header, name) and not re.match(where, path):
                    findings.append(f"{path}:{line}: <{name}> is for {words} only")
    return findings


def sql_only_in_the_store(tree):
    findings = []
    for path in tree.paths(PRODUCT_C):
        if folder_of(path) == "store":
            continue
        findings += [f"{path}:{line}: SQL outside of src/store: {text[:60]}"
                     for line, text in literals(tree.text(path)) if SQL.search(text)]
    return findings


def migrations_are_numbered(tree):
    paths = tree.paths(r"^migrations/")
    findings = []
    for number, path in enumerate(sorted(p for p in paths if p.endswith(".sql")), start=1):
        if not re.fullmatch(rf"migrations/{number:04d}_[a-z0-9_]+\.sql", path):
            findings.append(f"{path}:1: the next migration is {number:04d}_words.sql")
    return findings


def dashboards_use_known_metrics(tree):
    """Every metric that a dashboard asks for is in the table of metrics, or of the process."""
    known = set()
    for path in tree.paths(r"^(include/sbx|src)/metrics/.*\.[ch]$"):
        known |= {text for _, text in literals(tree.text(path))}
    findings = []
    for path in tree.paths(r"^grafana/.*\.json$") if known else []:
        for panel in json.loads(tree.text(path))["panels"]:
            for target in panel["targets"]:
                used = re.findall(r"\b(?:http|sandboxd|process)_\w+(?=[\[{])", target["expr"])
                findings += [f"{path}:1: {panel['title']}: there is no metric {name}"
                             for name in used
                             if not known & {name, re.sub(r"_(bucket|sum|count)$", "", name)}]
    return findings


# ---- style ----------------------------------------------------------------------------------

def no_banned_functions(tree):
    pattern = re.compile(r"(?<![\w.>])(" + "|".join(BANNED) + r")\s*\(")
    findings = []
    for path in tree.paths(C_FILES):
        code = code_only(tree.text(path))
        findings += [f"{path}:{line_of(code, m.start())}: {m.group(1)}() is banned"
                     for m in pattern.finditer(code)]
    return findings


def no_line_comments(tree):
    findings = []
    for path in tree.paths(C_FILES):
        text = tree.text(path)
        findings += [f"{path}:{line_of(text, m.start())}: comments are /* so */"
                     for m in TOKEN.finditer(text) if m.group(0).startswith("//")]
    return findings


def no_promises(tree):
    pattern = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")
    findings = []
    for path in tree.paths(r"^(src|include|tests|deploy|migrations)/.*\.(c|h|py|sh|sql)$"):
        for number, line in enumerate(tree.text(path).splitlines(), start=1):
            if pattern.search(line):
                findings.append(f"{path}:{number}: do it, or file an issue: {line.strip()[:60]}")
    return findings


def files_are_short(tree):
    findings = []
    for path in tree.paths(r"^(src|include|tests|deploy)/") + tree.paths(r"^CMakeLists.txt$"):
        if re.search(r"/corpus/|/data/|\.(json|sql|tar|bin)$", path):
            continue
        lines = tree.text(path).count("\n")
        if lines > MAX_FILE_LINES:
            findings.append(f"{path}:{lines}: the file has {lines} lines, {MAX_FILE_LINES} at most")
    return findings


def functions(text):
    """(name, first line, lines) of each C function, found by its braces.

    A body is a brace at the outer level after a closing parenthesis. Preprocessor lines are left
    out, so that both branches of an #if may open the same brace only if both are balanced."""
    code = code_only(text)
    code = re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", lambda m: _blank(m.group(0)), code, flags=re.M)
    depth, start, head, outer = 0, None, "", 0
    for match in re.finditer(r"[{};]", code):
        char, at = match.group(0), match.start()
        if char == "{":
            if depth == 0:
                head = code[outer:at].rstrip()
                start = at if head.endswith(")") else None
            depth += 1
        elif char == "}":
            depth = max(0, depth - 1)
            if depth == 0:
                if start is not None:
                    name = re.search(r"([\w]+)\s*\(", head)
                    first = line_of(code, start)
                    yield name.group(1) if name else "?", first, line_of(code, at) - first
                outer = at + 1
        elif depth == 0:
            outer = at + 1


def functions_are_short(tree):
    findings = []
    for path in tree.paths(r"^(src|include|tests)/.*\.[ch]$"):
        findings += [f"{path}:{first}: {name}() has {lines} lines, {MAX_FUNCTION_LINES} at most"
                     for name, first, lines in functions(tree.text(path))
                     if lines > MAX_FUNCTION_LINES]
    return findings


def python_functions_are_short(tree):
    findings = []
    for path in python_files(tree):
        try:
            parsed = ast.parse(tree.text(path))
        except SyntaxError as error:
            findings.append(f"{path}:{error.lineno}: {error.msg}")
            continue
        for node in ast.walk(parsed):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = node.end_lineno - node.lineno
                if lines > MAX_FUNCTION_LINES:
                    findings.append(f"{path}:{node.lineno}: {node.name}() has {lines} lines, "
                                    f"{MAX_FUNCTION_LINES} at most")
    return findings


def files_open_with_a_purpose(tree):
    return [f"{path}:1: begin with a comment that says what the file is for"
            for path in tree.paths(r"^(src|include)/.*\.[ch]$")
            if not tree.text(path).lstrip().startswith("/*")]


# ---- what must not be in a file -------------------------------------------------------------

# Written in pieces, so that this file does not hold what it looks for.
MACHINE_PATHS = re.compile("|".join(["/wo" "rk/", "/fa" "rm/", "/tmp/bash" "_jobs",
                                     r"/ho" r"me/(?!user\b)[a-z]\w*/", "/ro" "ot/[a-z]"]))
REGISTRY_HOSTS = re.compile("|".join([
    r"deb\.debi" r"an\.org", r"(archive|security)\.ubun" r"tu\.com", r"registry\.npm" r"js\.org",
    r"registry-1\.doc" r"ker\.io", r"pypi\.o" r"rg", r"snapshot\.debi" r"an\.org"]))
TEXTS = r"(?<!package-lock\.json)(?<!\.lock)$"


def _nowhere(tree, pattern, words):
    findings = []
    for path in tree.paths(TEXTS):
        if "/corpus/" in path:
            continue
        text = tree.text(path)
        for match in pattern.finditer(text):
            findings.append(f"{path}:{line_of(text, match.start())}: {words}: {match.group(0)}")
    return findings


def no_machine_paths(tree):
    return _nowhere(tree, MACHINE_PATHS, "a path of one machine")


def no_registry_hosts(tree):
    return _nowhere(tree, REGISTRY_HOSTS, "the name of a package registry's host")


# ---- scripts, by their own tools ------------------------------------------------------------

def _scripts(tree, pattern, shebang):
    return [p for p in tree.paths()
            if re.search(pattern, p) or ("." not in pathlib.PurePath(p).name
                                         and re.match(shebang, tree.text(p)))]


def python_files(tree):
    return _scripts(tree, r"\.py$", r"#!.*python3")


def shell_files(tree):
    return _scripts(tree, r"\.sh$", r"#!.*\b(ba)?sh\b")


def _tool(tree, paths, command, words):
    """Runs a checker over files of the repository, or over copies where there are only texts.

    All at once first, as that is quick; one by one only to tell which of them it refuses."""
    findings = []
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for path in paths:
            file = tree.file(path)
            if file is None:
                file = pathlib.Path(folder) / pathlib.PurePath(path).name
                file.write_text(tree.text(path), encoding="utf-8")
            files.append(str(file))
        if not files or subprocess.run(command + files, capture_output=True,
                                       check=False).returncode == 0:
            return []
        for path, file in zip(paths, files):
            done = subprocess.run(command + [file], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                findings.append(f"{path}:1: {words}\n{(done.stdout + done.stderr)[:2000]}")
    return findings


def shell_scripts_parse(tree):
    each = ["sh", "-c", 'for f; do bash -n "$f" || exit 1; done', "-"]  # bash -n takes one file
    return _tool(tree, shell_files(tree), each, "bash -n refuses it")


def shell_scripts_are_clean(tree):
    return _tool(tree, shell_files(tree), ["shellcheck", "-x", "-s", "bash"], "shellcheck:")


def c_is_formatted(tree):
    top = pathlib.Path(__file__).resolve().parents[2]
    return _tool(tree, tree.paths(C_FILES),
                 ["clang-format", f"--style=file:{top}/.clang-format", "--dry-run", "-Werror"],
                 "run clang-format -i")
