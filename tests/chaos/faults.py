"""Does what the schedule says, each fault at its time on a thread of its own, and undoes it."""
import collections
import concurrent.futures
import contextlib
import os
import signal
import threading
import time

from world import send


class Breaker:
    def __init__(self, world, say, tally):
        self.world, self.say, self.tally = world, say, tally
        self.locks = collections.defaultdict(threading.Lock)  # a part has one fault at a time

    def round(self, faults):
        """Returns when the last fault is over: what was killed answers again."""
        began = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(len(faults)) as pool:
            for done in [pool.submit(self.one, began, fault) for fault in faults]:
                done.result()

    def one(self, began, fault):
        time.sleep(max(0, began + fault.at - time.monotonic()))
        with self.locks[fault.part, fault.which]:  # its last start may have taken longer than planned
            at = time.monotonic()
            done = getattr(self, f"do_{fault.what}")(fault)
        took = time.monotonic() - at
        self.tally[f"{fault.what} {fault.part.split('-')[0]}"] += 1 if done else 0
        self.say(f"  {at - began:5.2f} s {fault}: " +
                 (f"{done}, over after {took:.1f} s" if done else "nothing was there to break"))

    def do_kill(self, fault, how="kill"):
        if fault.part == "agent":
            return self.agent(fault, [signal.SIGKILL])
        part = self.world.part(fault.part, fault.which)
        getattr(part, how)()
        time.sleep(fault.lasts)
        part.start()
        return "killed"

    def do_crash(self, fault):
        return self.do_kill(fault, "crash")

    def do_stop(self, fault):
        if fault.part == "agent":
            return self.agent(fault, [signal.SIGSTOP, signal.SIGCONT])
        part = self.world.part(fault.part, fault.which)
        family = part.family()
        send(family, signal.SIGSTOP)
        time.sleep(fault.lasts)
        send(family, signal.SIGCONT)
        return "stood still"

    def agent(self, fault, signals):
        agents = self.world.engine.agents()
        if not agents:
            return None
        pid = agents[int(fault.which * len(agents))]
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signals[0])
            if signals[1:]:
                time.sleep(fault.lasts)
                os.kill(pid, signals[1])
        return f"{signals[0].name} to the agent with pid {pid}"

    def do_cut(self, fault):
        self.world.relay.set(fault.part, "reset")
        time.sleep(fault.lasts)
        self.world.relay.set(fault.part, "pass")
        return "cut"

    def do_hold(self, fault):
        self.world.relay.set(fault.part, "hold")
        time.sleep(fault.lasts)
        self.world.relay.set(fault.part, "pass")
        return "said nothing"
