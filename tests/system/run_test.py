"""The parts of tests/run that can fail a run whose tests have all passed."""
import os
import pathlib
import subprocess
import tempfile
import unittest

REPO = pathlib.Path(__file__).resolve().parents[2]

QUICK = True


@unittest.skipUnless(os.getuid() == 0, "mounting needs root")
class CleanupTest(unittest.TestCase):
    def test_mounts_that_an_engine_leaves_do_not_keep_the_folder(self):
        work = pathlib.Path(tempfile.mkdtemp(prefix="sbxrun-"))
        beside = pathlib.Path(f"{work}-beside")
        points = [work / "engine", work / "engine" / "data", work / "tmp", beside]
        for point in points:
            point.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", point], check=True)
        self.addCleanup(beside.rmdir)
        self.addCleanup(subprocess.run, ["umount", beside], check=True)
        subprocess.run(["bash", "-euc", '. deploy/lib/common.sh; . tests/lib/services.sh\n'
                        'services_stop "$1"; rm -r "$1"', "-", work], cwd=REPO, check=True)
        self.assertFalse(work.exists())
        self.assertTrue(beside.is_mount())


if __name__ == "__main__":
    unittest.main()
