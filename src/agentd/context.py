"""The interpreter of a context: runs cells one after the other in one namespace.

Started by context.c, which speaks to it by lines on a descriptor of its own. For each cell it says
where in /proc the descriptors of its command are: standard input, output and error take their
place while the cell runs, so that what the cell starts has them as well. Behind the cell they are
those of the context again.
"""
import ast
import builtins
import fcntl
import importlib
import linecache
import os
import signal
import site
import sys
import traceback
import types

AWAIT = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
COROUTINE = 0x80  # of a code object
HIGH = 100  # descriptors of our own are out of the way of those of cells

ME = os.getpid()
STREAMS = (sys.stdin, sys.stdout, sys.stderr)


class Context:
    def __init__(self, control):
        self.control = fcntl.fcntl(control, fcntl.F_DUPFD_CLOEXEC, HIGH)
        os.close(control)
        self.lines = os.fdopen(self.control, "r", encoding="ascii")
        self.own = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH) for fd in range(3)]
        self.main = types.ModuleType("__main__")
        self.main.__builtins__ = builtins
        self.runner = None
        sys.modules["__main__"] = self.main
        sys.argv = [""]

    def say(self, line):
        os.write(self.control, line.encode())

    def serve(self):
        signal.signal(signal.SIGINT, ignore)
        self.say("ready\n")
        for line in self.lines:
            number, owner, *places = (int(word) for word in line.split()[1:])
            paths = [f"/proc/{owner}/fd/{place}" for place in places]
            with open(paths.pop(), "rb") as f:
                code = f.read().decode()
            put([os.open(path, os.O_WRONLY if i else os.O_RDONLY)
                 for i, path in enumerate(paths)])
            status = self.run(number, code)
            if os.getpid() != ME:  # the cell forked, and this is the other one
                os._exit(status)
            put([os.dup(fd) for fd in self.own])
            self.say(f"done {number} {status}\n")

    def run(self, number, code):
        renew_streams()
        find_packages()
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            status = self.cell(f"<cell {number}>", code)
        except KeyboardInterrupt:
            status = 1
        while signal.getsignal(signal.SIGINT) is not ignore:
            try:
                signal.signal(signal.SIGINT, ignore)
            except KeyboardInterrupt:
                pass
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (OSError, ValueError):
            pass
        return status

    def cell(self, name, code):
        linecache.cache[name] = (len(code), None, code.splitlines(True), name)
        try:
            tree = compile(code, name, "exec", ast.PyCF_ONLY_AST | AWAIT, dont_inherit=True)
            last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            self.execute(compile(tree, name, "exec", AWAIT, dont_inherit=True))
            if last:
                value = self.execute(compile(ast.Expression(last.value), name, "eval", AWAIT,
                                             dont_inherit=True))
                if value is not None:
                    print(repr(value))
            return 0
        except SystemExit as why:
            return exit_status(why.code)
        except BaseException:
            show(name)
            return 1

    def execute(self, code):
        if not code.co_flags & COROUTINE:
            return eval(code, self.main.__dict__)
        import asyncio  # takes a while, and most never need it
        if not self.runner:
            self.runner = asyncio.Runner().run if hasattr(asyncio, "Runner") \
                else asyncio.new_event_loop().run_until_complete
        return self.runner(eval(code, self.main.__dict__))


def ignore(_signal, _frame):
    """Nothing runs that could be interrupted."""


def put(descriptors):
    """Make these standard input, output and error; they are closed then."""
    for target, fd in enumerate(descriptors):
        if fd == target:
            os.set_inheritable(fd, True)
        else:
            os.dup2(fd, target)
            os.close(fd)


def renew_streams():
    """Whatever the cell before did to them. What stdin has read ahead was another input."""
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)
    for name, stream, fd in (("stdout", STREAMS[1], 1), ("stderr", STREAMS[2], 2)):
        if stream.closed:
            stream = open(fd, "w", encoding="utf-8", errors="backslashreplace", buffering=1,
                          closefd=False)
        setattr(sys, name, stream)


def find_packages():
    """What was installed since the last cell."""
    importlib.invalidate_caches()
    if site.ENABLE_USER_SITE is not False:
        path = site.getusersitepackages()
        if path not in sys.path and os.path.isdir(path):
            site.addsitedir(path)


def exit_status(code):
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 255
    print(code, file=sys.stderr)
    return 1


def show(name):
    """The traceback, from the cell on."""
    kind, value, trace = sys.exc_info()
    while trace and trace.tb_frame.f_code.co_filename != name:
        trace = trace.tb_next
    sys.stderr = STREAMS[2] if not STREAMS[2].closed else sys.stderr
    traceback.print_exception(kind, value, trace)


Context(int(sys.argv[1])).serve()
