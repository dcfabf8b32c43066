"""What clients were told, by which the installation is judged."""
import collections
import dataclasses
import threading


@dataclasses.dataclass
class Command:
    id: str
    kind: str  # exec, stream, background
    exit_code: int | None = None  # as told to the client
    error: str | None = None
    settled: bool = False  # its outcome was told, or read afterwards


@dataclasses.dataclass
class Box:
    id: str
    mark: str  # in its metadata: one for each create that a client meant
    doomed: bool = False  # the client asked for its end
    gone: bool = False  # and was told that it came
    commands: dict = dataclasses.field(default_factory=dict)
    lines: dict = dataclasses.field(default_factory=dict)  # of its log: number -> text, by viewers
    torn: bool = False  # its log was found to differ from what was seen of it before


class Ledger:
    """Shared by all clients; what is added stays."""

    def __init__(self):
        self.lock = threading.Lock()
        self.boxes = {}
        self.marks = {}  # mark -> ids that clients were given for it
        self.say = print  # what is told of a violation
        self.tally = collections.Counter()  # (operation, outcome)

    def box(self, sandbox, mark):
        with self.lock:
            self.marks.setdefault(mark, set()).add(sandbox)
            return self.boxes.setdefault(sandbox, Box(sandbox, mark))

    def alive(self):
        with self.lock:
            return [box for box in self.boxes.values() if not box.doomed]

    def every(self):
        with self.lock:
            return list(self.boxes.values())

    def count(self, operation, outcome):
        with self.lock:
            self.tally[operation, outcome] += 1

    def violate(self, sentence):
        self.say(sentence)

    def line(self, box, seq, text):
        """A line that some viewer saw; all viewers see the same."""
        with self.lock:
            before = box.lines.setdefault(seq, text)
            told, box.torn = box.torn, box.torn or before != text
        if before != text and not told:
            self.violate(f"the log of {box.id}: line {seq} was {before!r} and is {text!r}")
