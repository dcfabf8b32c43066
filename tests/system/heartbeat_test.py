"""A worker shows that it is alive however busy its lanes are."""
import concurrent.futures
import subprocess
import time
import unittest

import sandboxd
from sandboxd import SystemCase, wait_for

service = api = None


def setUpModule():
    global service, api
    service, api = sandboxd.module_service()


class HeartbeatTest(SystemCase):
    def test_requests_that_fill_the_lanes_do_not_hold_up_the_heartbeat(self):
        locker = subprocess.Popen(
            ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", service.url], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True)
        locker.stdin.write("BEGIN; LOCK TABLE sandboxes IN ACCESS EXCLUSIVE MODE; SELECT 'held';\n")
        locker.stdin.flush()
        self.assertEqual(locker.stdout.readline(), "held\n")
        ages = []
        try:
            with concurrent.futures.ThreadPoolExecutor(64) as pool:
                reads = [pool.submit(api.get, "/sandboxes") for _ in range(64)]
                waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
                wait_for(lambda: int(service.psql(waiting)) >= 4, what="a full lane")
                end = time.monotonic() + 8  # a server's sign of life may be 10 s old
                while time.monotonic() < end:
                    ages.append(float(service.psql(
                        "SELECT extract(epoch FROM now() - heartbeat_at) FROM workers")))
                    time.sleep(0.2)
                locker.stdin.write("COMMIT;\n")
                locker.stdin.close()
                self.assertTrue({r.result(60).status for r in reads} <= {200, 503, 504})
        finally:
            locker.kill()
            locker.wait(10)
        self.assertLess(max(ages), 5)


if __name__ == "__main__":
    unittest.main()
