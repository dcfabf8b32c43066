"""sbx exec and sbx shell: streams, signals, terminals, and connections that are lost."""
import json
import os
import pathlib
import re
import signal
import subprocess
import termios
import unittest

import cli_harness
import parts
import sandboxd
from cli_harness import SBX, CliCase, Follower, Terminal, covers, environment, sbx
from sandboxd import wait_for

api = None


def setUpModule():
    global api
    api = cli_harness.begin()[1]


class ExecTest(CliCase):
    @classmethod
    def setUpClass(cls):
        cls.box = api.create(name="cli-exec")["id"]

    @classmethod
    def tearDownClass(cls):
        api.delete(f"/sandboxes/{cls.box}")

    def exec(self, *words, **more):
        return sbx("exec", *words, **more)

    def test_output_goes_where_it_belongs_and_the_status_is_the_commands(self):
        got = self.exec(self.box, "echo out; echo err >&2; exit 7")
        self.assertEqual((got.returncode, got.stdout, got.stderr), (7, b"out\n", b"err\n"))
        got = self.exec("cli-exec", "printf", "%s|", "a b", "$HOME", "-n")
        self.assertEqual((got.returncode, got.stdout), (0, b"a b|$HOME|-n|"))
        self.assertEqual(self.exec(self.box, "kill -9 $$").returncode, 137)
        self.assertEqual(self.exec(self.box, "no-such-program-here", "x").returncode, 127)

    def test_bytes_come_as_they_were_written(self):
        script = r"i=0; while [ $i -lt 256 ]; do printf \\$(printf %o $i); i=$((i+1)); done"
        self.assertEqual(self.exec(self.box, script).stdout, bytes(range(256)))
        self.assertEqual(self.exec(self.box, r"printf 'a\0b'; printf 'c\0' >&2").stdout, b"a\0b")
        got = self.exec(self.box, "head -c 20000000 /dev/zero")
        self.assertEqual((got.returncode, len(got.stdout), got.stdout.strip(b"\0")),
                         (0, 20000000, b""))

    def test_environment_directory_and_user(self):
        got = self.exec("-e", "A=x=y", "-e", "FROM_HERE", "-w", "/tmp", "-u", "root", self.box,
                        "echo $A $FROM_HERE; pwd; id -u", env={"FROM_HERE": "here"})
        self.assertEqual(got.stdout, b"x=y here\n/tmp\n0\n")
        self.fails(125, "cwd", "exec", "-w", "/nowhere", self.box, "true")

    def test_a_time_limit_kills_and_tells(self):
        got = self.fails(137, "time (limit|was over)", "exec", "--timeout", "300ms", self.box, "sleep 60")
        self.assertLess(len(got.stderr), 200)
        self.fails(2, "not a time", "exec", "--timeout", "x", self.box, "true")

    def test_with_json_every_event_is_a_line(self):
        got = self.exec("--json", self.box, "echo a; exit 3")
        events = [json.loads(line) for line in got.stdout.splitlines()]
        self.assertEqual([e["type"] for e in events], ["start", "stdout", "exit"])
        self.assertEqual((got.returncode, events[-1]["exitCode"]), (3, 3))

    def test_a_sandbox_that_is_stopped_is_told(self):
        box = api.create()["id"]
        api.move(box, "stop")
        self.fails(125, "stopped", "exec", box, "true")
        api.delete(f"/sandboxes/{box}")

    def test_output_waits_for_a_slow_reader_with_a_bounded_memory(self):
        process = subprocess.Popen([SBX, "exec", self.box, "yes"], env=environment(),
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.assertEqual(process.stdout.read(4), b"y\ny\n")
        sizes = []

        def steady():
            status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            sizes.append(int(re.search(r"VmRSS:\s+(\d+)", status).group(1)))
            return len(sizes) > 40 and sizes[-1] == sizes[-20]
        wait_for(steady, what="memory that does not grow")
        self.assertLess(sizes[-1], 40000)
        process.stdout.close()
        process.kill()
        process.wait()

    def test_standard_input_is_sent_to_its_end_byte_for_byte(self):
        data = bytes(range(256)) * 4096 * 3
        got = self.exec(self.box, "cat", send=data)
        self.assertEqual((got.returncode, got.stderr, len(got.stdout)), (0, b"", len(data)))
        self.assertEqual(got.stdout, data)
        self.assertEqual(self.exec(self.box, "wc", "-c", send=b"").stdout.strip(), b"0")
        self.assertEqual(self.exec("-n", self.box, "wc", "-c", send=b"abc").stdout.strip(), b"0")
        got = self.exec(self.box, "head -c 3; exit 4", send=data)  # it reads no further
        self.assertEqual((got.returncode, got.stdout), (4, data[:3]))

    def test_standard_input_that_comes_bit_by_bit_is_answered_bit_by_bit(self):
        process = subprocess.Popen([SBX, "exec", self.box, "while read x; do echo got $x; done"],
                                   env=environment(), stdin=subprocess.PIPE, bufsize=0,
                                   stdout=subprocess.PIPE)
        for number in range(3):
            process.stdin.write(b"%d\n" % number)
            self.assertEqual(process.stdout.readline(), b"got %d\n" % number)
        process.stdin.close()
        self.assertEqual(process.wait(20), 0)
        process.stdout.close()

    @covers("exec")
    def test_a_command_in_the_background_is_listed_attached_to_and_killed(self):
        made = self.exec("-d", self.box, "echo begun; sleep 3077 & sleep 3077").stdout.strip()
        made = made.decode()
        self.assertRegex(made, sandboxd.ID)
        rows = self.ok("exec", "--list", self.box).splitlines()
        self.assertEqual(rows[0].split(), "EXEC STATE EXIT AGE TOOK CPU COMMAND".split())
        self.assertTrue(any(row.startswith(f"{made}  running") and "sleep 3077" in row
                            for row in rows), rows)
        self.assertIn(made, self.ok("exec", "--list", "-q", self.box).split())
        attached = Follower("exec", "--attach", made, self.box)
        self.addCleanup(attached.close)
        wait_for(lambda: attached.lines == [b"begun"], what="its output from the start")
        self.ok("exec", "--kill", made, self.box)
        self.assertEqual(attached.process.wait(20), 137)
        self.assertEqual(self.ok("exec", self.box, "pgrep -f 'sleep [3]077' | wc -l").strip(), "0")
        got = self.exec("--attach", made, self.box)
        self.assertEqual((got.returncode, got.stdout), (137, b"begun\n"))
        self.fails(125, "not_found|no command|not known|no such|there is no", "exec", "--attach",
                   "a" * 20, self.box)
        self.fails(2, "no id of a command", "exec", "--kill", "../x", self.box)

    def test_the_first_interrupt_goes_to_the_command_the_second_kills_it(self):
        terminal = Terminal("exec", self.box,
                            "trap 'echo interrupted' INT; echo ready; while :; do sleep 0.1; done")
        terminal.expect(b"ready")
        terminal.type(b"\x03")
        terminal.expect(b"interrupted")
        terminal.type(b"\x03")
        terminal.expect(b"killing the command")
        self.assertEqual(terminal.end(), 137)

    def test_a_command_that_obeys_is_ended_by_its_signal(self):
        for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)):
            with self.subTest(number):
                follower = Follower("exec", self.box, "echo ready; exec sleep 3078")
                wait_for(lambda: follower.lines == [b"ready"], what="the command")
                follower.process.send_signal(number)
                self.assertEqual(follower.process.wait(20), status)
                follower.close()
        self.assertEqual(self.ok("exec", self.box, "pgrep -f 'sleep [3]078' | wc -l").strip(), "0")

    def test_the_third_interrupt_leaves_a_server_that_does_not_answer(self):
        proxy = parts.TcpProxy(api.server.port)
        self.addCleanup(proxy.close)
        terminal = Terminal("exec", self.box, "echo ready; sleep 60",
                            env={"SBX_URL": f"http://127.0.0.1:{proxy.port}"})
        terminal.expect(b"ready")
        proxy.set("hold")

        def left():  # signals that are pending are not counted twice
            terminal.type(b"\x03")
            terminal.read(0.3)
            return b"may still run" in terminal.shown
        wait_for(left, what="its end", pause=0.3)
        self.assertEqual(terminal.end(), 130)

    def test_a_reader_that_leaves_ends_the_command(self):
        got = subprocess.run(["bash", "-c", '"$0" exec "$1" "while :; do echo y; done" | head -n 1; '
                              'echo ${PIPESTATUS[0]}', SBX, self.box], capture_output=True,
                             stdin=subprocess.DEVNULL, env=environment(), timeout=60, check=False)
        self.assertEqual(got.stdout, b"y\n141\n")

    def test_a_lost_connection_is_joined_again_and_no_output_is_lost(self):
        proxy = parts.TcpProxy(api.server.port)
        self.addCleanup(proxy.close)
        script = "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo line$i; usleep 1000; done; exit 9"
        follower = Follower("exec", self.box, script, SBX_URL=f"http://127.0.0.1:{proxy.port}")
        self.addCleanup(follower.close)
        for number in range(1, 5):
            wait_for(lambda: len(follower.lines) > 300 * number, 30, "output")
            proxy.set("reset")
            wait_for(lambda: not proxy.pairs, what="the cut")
            proxy.set("pass")
        self.assertEqual(follower.process.wait(60), 9)
        follower.reader.join()
        self.assertEqual(follower.lines, [b"line%d" % i for i in range(1, 2001)])

    def test_a_server_that_is_killed_loses_no_output(self):
        other = sandboxd.Service()
        self.addCleanup(other.close)
        first = other.start()
        client = sandboxd.Client(first, other.key())
        box = client.create()["id"]
        script = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo line$i; usleep 10000; done; exit 9"
        follower = Follower("exec", box, script, SBX_URL=f"http://127.0.0.1:{first.port}",
                            SBX_KEY=client.key, SBX_KEY_FILE="")
        self.addCleanup(follower.close)
        wait_for(lambda: len(follower.lines) > 50, 30, "output")
        first.kill()
        other.start({"SBX_LISTEN": f"127.0.0.1:{first.port}"})
        self.assertEqual(follower.process.wait(60), 9)
        follower.reader.join()
        self.assertEqual(follower.lines, [b"line%d" % i for i in range(1, 301)])


class ShellTest(CliCase):
    @classmethod
    def setUpClass(cls):
        cls.box = api.create(name="cli-shell")["id"]

    @classmethod
    def tearDownClass(cls):
        api.delete(f"/sandboxes/{cls.box}")

    def shell(self, *words, **env):
        terminal = Terminal("shell", *words, self.box, env=env)
        wait_for(terminal.raw, what="a raw terminal")
        return terminal

    def test_a_shell_answers_and_its_status_is_that_of_sbx(self):
        terminal = self.shell()
        terminal.type(b"echo a$((1+1))b; tty\r")
        terminal.expect(b"a2b")
        terminal.expect(b"/dev/pts/")
        terminal.type(b"exit 7\r")
        self.assertEqual(terminal.end(), 7)

    def test_the_terminal_is_given_back_however_it_ends(self):
        for end in ("exit", "term", "gone"):
            with self.subTest(end):
                terminal = self.shell()
                terminal.type(b"echo re''ady\r")
                terminal.expect(b"ready")
                if end == "exit":
                    terminal.type(b"exit\r")
                elif end == "term":
                    os.kill(terminal.pid, signal.SIGTERM)
                else:
                    terminal.type(b"\r~.")
                keeper = os.dup(terminal.fd)  # the terminal outlives its program
                status = terminal.end()
                self.assertTrue(termios.tcgetattr(keeper)[3] & termios.ICANON)
                self.assertEqual(status, {"exit": 0, "term": 143, "gone": 0}[end])
                os.close(keeper)

    def test_its_size_follows_the_window(self):
        terminal = self.shell()
        terminal.type(b"stty size\r")
        terminal.expect(b"30 100")
        terminal.resize(123, 45)
        os.kill(terminal.pid, signal.SIGWINCH)

        def told():
            terminal.type(b"stty size\r")
            terminal.read(0.3)
            return b"45 123" in terminal.shown
        wait_for(told, what="the new size")
        terminal.type(b"exit\r")
        self.assertEqual(terminal.end(), 0)

    def test_interrupts_go_to_what_runs_in_it(self):
        terminal = self.shell()
        terminal.type(b"sleep 3079; echo st''opped\r")
        wait_for(lambda: "3079" in self.ok("exec", self.box, "ps -o args"), what="sleep")
        terminal.type(b"\x03")
        terminal.type(b"echo go''ne\r")
        terminal.expect(b"gone")
        terminal.type(b"exit\r")
        terminal.end()

    def test_it_survives_a_lost_connection(self):
        proxy = parts.TcpProxy(api.server.port)
        self.addCleanup(proxy.close)
        terminal = self.shell(SBX_URL=f"http://127.0.0.1:{proxy.port}")
        terminal.type(b"x=kept; echo be''fore\r")
        terminal.expect(b"before")
        proxy.set("reset")
        terminal.expect("reconnecting…".encode())
        terminal.type(b"echo $x-wh''ile-away\r")  # typed while nobody hears it
        terminal.read(0.5)
        proxy.set("pass")
        terminal.expect(b"kept-while-away")
        terminal.type(b"exit 3\r")
        self.assertEqual(terminal.end(), 3)

    def test_a_connection_that_is_only_silent_is_lost_too(self):
        proxy = parts.TcpProxy(api.server.port)
        self.addCleanup(proxy.close)
        terminal = self.shell(SBX_URL=f"http://127.0.0.1:{proxy.port}")
        terminal.type(b"echo be''fore\r")
        terminal.expect(b"before")
        proxy.set("hold")
        terminal.expect("reconnecting…".encode(), 40)
        proxy.set("pass")
        terminal.type(b"echo af''ter\r")
        terminal.expect(b"after", 40)
        terminal.type(b"exit\r")
        self.assertEqual(terminal.end(), 0)

    def test_one_can_leave_while_it_is_away_and_come_back(self):
        proxy = parts.TcpProxy(api.server.port)
        self.addCleanup(proxy.close)
        terminal = self.shell(SBX_URL=f"http://127.0.0.1:{proxy.port}")
        terminal.type(b"y=still; echo be''fore\r")
        terminal.expect(b"before")
        proxy.set("reset")
        terminal.expect("reconnecting…".encode())
        terminal.type(b"\r~.")
        exec_id = terminal.expect(b"shell --attach ([a-z0-9]{20})").group(1)
        self.assertEqual(terminal.end(), 0)
        again = self.shell("--attach", exec_id.decode())
        again.type(b"echo $y-the''re\r")
        again.expect(b"still-there")
        again.type(b"exit\r")
        self.assertEqual(again.end(), 0)

    def test_a_command_runs_in_a_terminal(self):
        terminal = Terminal("shell", "-c", "tty; exit 5", self.box)
        terminal.expect(b"/dev/pts/")
        self.assertEqual(terminal.end(), 5)
        terminal = Terminal("exec", "-t", "-w", "/tmp", "-e", "A=it's", self.box, "sh", "-c",
                            'tty; pwd; echo "$A"')
        terminal.expect(b"/dev/pts/\\d+\r\n/tmp\r\nit's\r\n")
        self.assertEqual(terminal.end(), 0)

    @covers("shell")
    def test_a_pipe_may_be_its_standard_input(self):
        got = sbx("shell", self.box, send=b"echo from-a-pi''pe\nexit 6\n")
        self.assertEqual(got.returncode, 6)
        self.assertIn(b"from-a-pipe", got.stdout)
        got = sbx("shell", self.box, send=b"echo en''ded\n")  # its end is as Ctrl-D
        self.assertEqual(got.returncode, 0)
        self.assertIn(b"ended", got.stdout)

    def test_what_cannot_be_opened_is_told(self):
        self.fails(125, "no sandbox", "shell", "a" * 20)
        got = self.fails(125, ".", "shell", "--attach", "a" * 20, self.box)
        self.assertRegex(got.stderr.decode(), "request id")


if __name__ == "__main__":
    unittest.main()
