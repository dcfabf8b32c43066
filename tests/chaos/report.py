"""What is printed: each fault and round while it happens, and the summary."""
import collections
import threading
import time

ANSI_FREE = str.maketrans({chr(27): ""})


class Report:
    def __init__(self):
        self.began = time.monotonic()
        self.lock = threading.Lock()
        self.settled = []
        self.faults = collections.Counter()
        self.violations = []

    def say(self, text):
        with self.lock:
            print(f"[{time.monotonic() - self.began:7.1f}] {text}".translate(ANSI_FREE), flush=True)

    def violate(self, text):
        with self.lock:
            if text in self.violations:
                return
            self.violations.append(text)
        self.say(f"VIOLATION: {text}")

    def kills(self):
        return sum(n for fault, n in self.faults.items() if fault.startswith(("kill ", "crash ")))

    def summary(self, seed, ledger):
        print(f"\nseed {seed}: {self.kills()} kills in {len(self.settled)} rounds, "
              f"{time.monotonic() - self.began:.0f} s")
        print("\nfaults")
        for fault, n in sorted(self.faults.items()):
            print(f"  {fault:24} {n:6}")
        print("\noperations")
        kinds = {}
        for (kind, outcome), n in sorted(ledger.tally.items()):
            kinds.setdefault(kind, []).append(f"{outcome}: {n}")
        for kind, told in kinds.items():
            print(f"  {kind:32} {', '.join(told)}")
        if self.settled:
            ordered = sorted(self.settled)
            print(f"\nsettled after a round's last fault: median {ordered[len(ordered) // 2]:.1f} s,"
                  f" worst {ordered[-1]:.1f} s")
        print(f"\nviolations: {len(self.violations)}")
        for text in self.violations:
            print(f"  {text}")
