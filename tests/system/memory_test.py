"""A sandbox that is gone leaves nothing in the server's memory."""
import os
import unittest

import sandboxd
from sandboxd import Client, SystemCase, all_at_once, wait_for

TIMEOUT_S = 900
FULL = os.environ.get("SBX_TEST_SCOPE") == "full"
CYCLES = 60 if FULL else 40
ROUNDS = 5
ALLOWED = 4096  # bytes in all: less than an object for each cycle
LINGER = 25  # samples at 0.5 s: longer than a closed log lingers (10 s)

# The allocator keeps what a thread freed for that thread: off, every byte in use is in use.
TCACHE_OFF = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}


class MemoryTest(SystemCase):
    def check(self, **env):
        service = sandboxd.Service(env={**TCACHE_OFF, **env})
        self.addCleanup(service.close)
        api = Client(service.start(), service.key())

        def cycle(_):
            box = api.create(env={"A": "b"})["id"]
            api.exec(box, "echo out; echo err >&2")
            self.assertEqual(api.delete(f"/sandboxes/{box}").status, 204)

        def heap():
            text = api.get("/metrics").body.decode()
            return int(float(text.split("\nprocess_heap_bytes ")[1].split()[0]))

        seen = [0]
        for _ in range(ROUNDS):  # the first ones fill caches; what leaks grows in each
            all_at_once(cycle, range(CYCLES), 4)
            seen.append(self.lowest(heap, seen[-1] + ALLOWED))
            if seen[-1] - seen[-2] <= ALLOWED:
                return
        self.fail(f"each {CYCLES} sandboxes leave something: {seen[1:]}")

    def lowest(self, heap, enough):
        """The least in use, when that is `enough` or falls no more."""
        seen = []

        def done():
            seen.append(heap())
            return min(seen) <= enough or (len(seen) > LINGER and
                                           min(seen[-LINGER:]) >= min(seen[:-LINGER]))
        wait_for(done, 120, "memory that falls no more", 0.5)
        return min(seen)

    def test_without_redis(self):
        self.check()

    if FULL:
        def test_with_redis(self):
            if not sandboxd.REDIS_URL:
                raise AssertionError("SBX_TEST_REDIS_URL is not set: run tests/run")
            self.check(REDIS_URL=sandboxd.REDIS_URL)


if __name__ == "__main__":
    unittest.main()
