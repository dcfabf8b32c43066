"""What is broken when: from the seed alone, so that the same seed always gives the same schedule.

A round is a list of faults that begin within a few seconds and overlap, never two on one part at a
time. Which sandbox's agent is meant is a number from 0 to 1: a place in the list of those that run
at that moment.
"""
import dataclasses
import random

SPACE_S = 0.8  # between two kills of a round, in the mean
KILLED = ("worker", "agent", "engine", "postgres", "redis")
WEIGHTS = {"worker": 34, "agent": 32, "engine": 8, "postgres": 13, "redis": 13}
WORKERS = 2
LINES = ("http", "postgres", "redis", "engine")  # of each worker
BURST = 5  # kills of a round, at most


@dataclasses.dataclass(frozen=True)
class Fault:
    at: float  # seconds from the round's beginning
    what: str  # kill, crash (the engine with all that it started), stop, cut, hold
    part: str
    which: float  # the worker's number, or the place among the agents
    lasts: float  # seconds until it is started again, continued, or passes again

    def __str__(self):
        which = f" {self.which:g}" if self.part in ("agent", "worker") else ""
        return f"{self.what} {self.part}{which} for {self.lasts:.1f} s"


def place(fault):
    """What may have one fault at a time."""
    return (fault.part, fault.which) if fault.part in ("agent", "worker") else fault.part


def overlaps(fault, others):
    return any(place(fault) == place(o) and fault.at < o.at + o.lasts + 0.5
               and o.at < fault.at + fault.lasts + 0.5 for o in others)


def kill(dice, parts, window):
    part = dice.choices(parts, [WEIGHTS[p] for p in parts])[0]
    which = {"worker": dice.randrange(WORKERS), "agent": round(dice.random(), 3)}.get(part, 0)
    crash = part == "engine" and dice.random() < 0.3
    return Fault(round(dice.uniform(0, window), 2), "crash" if crash else "kill", part, which,
                 0.0 if part == "agent" else round(dice.uniform(0.1, 2.5), 2))


def disturb(dice, parts, window):
    """A stop of a process, or a line that breaks or says nothing."""
    at, lasts = round(dice.uniform(0, window), 2), round(dice.uniform(0.5, 5), 2)
    if dice.random() < 0.5:
        part = dice.choice(parts)
        which = {"worker": dice.randrange(WORKERS), "agent": round(dice.random(), 3)}.get(part, 0)
        return Fault(at, "stop", part, which, lasts)
    line = f"{dice.choice(LINES)}-{dice.randrange(WORKERS)}"
    if dice.random() < 0.6:
        return Fault(at, "cut", line, 0, round(dice.choice([0.0, lasts / 3]), 2))
    return Fault(at, "hold", line, 0, lasts)


def make(seed, kills, parts=KILLED, burst=BURST):
    """All rounds: lists of faults in the order of their beginning."""
    window = SPACE_S * burst
    dice = random.Random(f"chaos {seed}")
    rounds, left = [], kills
    while left > 0:
        wanted = min(left, dice.randint((burst + 1) // 2, burst))
        faults = []
        for _ in range(10 * wanted):  # few parts cannot be killed as often within a round
            one = kill(dice, parts, window)
            if not overlaps(one, faults):
                faults.append(one)
            if len(faults) == wanted:
                break
        left -= len(faults)
        for _ in range(dice.randint(0, (burst + 1) // 2)):
            one = disturb(dice, parts, window)
            if not overlaps(one, faults):
                faults.append(one)
        rounds.append(sorted(faults, key=lambda f: f.at))
    return rounds
