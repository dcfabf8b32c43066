"""Commands, terminals and samples of use: what people do all day in a sandbox."""

import base64
import json
import os
import re
import subprocess
import tempfile
import time

from measure import WRK_UNITS, Row, median, rank
from wire import connect, request

POST = """
local paths = { %s }
local at = 0
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"command": ["true"]}'
request = function()
  at = at %% #paths + 1
  return wrk.format(nil, paths[at])
end
response = function(status, headers, body)
  if status ~= 200 or not body:find('"exitCode":0', 1, true) then wrk.thread:set("bad", 1) end
end
"""


def exec_rate(bench, sandboxes, connections, seconds):
    """(commands/s, p50 ms, failures) of `true` over so many sandboxes."""
    lab = bench.lab
    paths = ", ".join(f'"/sandboxes/{box}/exec"' for box in sandboxes)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(POST % paths)
        script.flush()
        done = subprocess.run(
            ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", script.name,
             "-H", "Authorization: " + lab.auth["Authorization"], lab.url],
            capture_output=True, text=True, timeout=seconds + 60, check=True)
    value, unit = re.search(r"^\s+50%\s+([\d.]+)(us|ms|s|m)$", done.stdout, re.M).groups()
    failed = sum(int(n) for n in re.findall(r"Non-2xx or 3xx responses: (\d+)", done.stdout))
    for errors in re.findall(r"Socket errors: (.*)", done.stdout):
        failed += sum(int(n) for n in re.findall(r"\d+", errors))
    rate = float(re.search(r"^Requests/sec:\s+([\d.]+)$", done.stdout, re.M).group(1))
    return rate, float(value) * WRK_UNITS[unit], failed


def rates(bench, boxes):
    seconds = bench.count(8, 2)
    exec_rate(bench, boxes, 16, 1)
    one, one_p50, one_failed = exec_rate(bench, boxes[:1], 8, seconds)
    all_, all_p50, all_failed = exec_rate(bench, boxes, 32, seconds)
    return [
        Row("exec on one sandbox: rate", one, "/s", 500, at_least=True,
            note=f"wrk, 8 connections; p50 {one_p50:.1f} ms"),
        Row(f"exec over {len(boxes)} sandboxes: rate", all_, "/s", 1000, at_least=True,
            note=f"wrk, 32 connections; p50 {all_p50:.1f} ms"),
        Row("exec rates: failures", one_failed + all_failed, "", 0),
    ]


def first_byte(bench, sandbox):
    """From the request to the first output of a streamed command."""
    lab, times = bench.lab, []
    for _ in range(bench.count(200, 20)):
        with lab.wire() as wire:
            data = request("POST", f"/sandboxes/{sandbox}/exec", {"command": ["echo", "x"]},
                           {**lab.auth, "Accept": "text/event-stream"})
            began, got = time.perf_counter(), b""
            wire.send(data)
            while b'"type":"stdout"' not in got:
                piece = wire.sock.recv(65536)
                assert piece, got
                got += piece
            times.append((time.perf_counter() - began) * 1000)
    return [Row("streamed command: first output p50", median(times), "ms", 5,
                note=f"p99 {rank(times, 99):.2f} ms")]


class Terminal:
    """A WebSocket's client end, as small as it gets."""

    def __init__(self, lab, path):
        self.sock = connect(lab.url)
        key = base64.b64encode(os.urandom(16)).decode()
        self.sock.sendall(request("GET", path, None, {
            **lab.auth, "Upgrade": "websocket", "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": key}))
        self.data = b""
        while b"\r\n\r\n" not in self.data:
            self.more()
        self.data = self.data.split(b"\r\n\r\n", 1)[1]

    def more(self):
        piece = self.sock.recv(65536)
        assert piece, self.data
        self.data += piece

    def type(self, text):
        mask = os.urandom(4)
        masked = bytes(b ^ mask[i % 4] for i, b in enumerate(text))
        self.sock.sendall(bytes([0x82, 0x80 | len(text)]) + mask + masked)

    def until(self, what):
        while what not in self.data:
            self.more()
        self.data = b""


def echo(bench, sandbox):
    """From a key to its echo, in a program that reads single characters."""
    terminal = Terminal(bench.lab, f"/sandboxes/{sandbox}/terminal?command="
                                   "stty%20raw%3B%20echo%20u%27%27p%3B%20exec%20cat%20%3E%2Fdev%2Fnull")
    terminal.until(b"up")
    times = []
    for i in range(bench.count(500, 50)):
        key = b"abcdefghij"[i % 10:i % 10 + 1]
        began = time.perf_counter()
        terminal.type(key)
        terminal.until(key)
        times.append((time.perf_counter() - began) * 1000)
    terminal.sock.close()
    return [Row("terminal: echo of a key p50", median(times), "ms", 3,
                note=f"p99 {rank(times, 99):.2f} ms")]


def agent_memory(bench, sandbox):
    pid = bench.lab.engine.call("GET", f"/containers/sbx-{sandbox}/json")["State"]["Pid"]
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        kb = int(re.search(r"^VmRSS:\s+(\d+)", status.read(), re.M).group(1))
    return [Row("agent of an idle sandbox: VmRSS", kb / 1024, "MB", 2)]


def samples(bench, sandbox):
    lab, wire, times = bench.lab, bench.lab.wire(), []
    data = request("GET", f"/sandboxes/{sandbox}/stats", None, lab.auth)
    for _ in range(bench.count(300, 30)):
        began = time.perf_counter()
        status, text = wire.exchange(data)
        times.append((time.perf_counter() - began) * 1000)
        assert status == 200 and json.loads(text)["source"] == "agent", text
    return [Row("sample of use: p50", median(times), "ms",
                note=f"p99 {rank(times, 99):.2f} ms, over HTTP with one statement")]


def inside(bench):
    lab, wire = bench.lab, bench.lab.wire()
    boxes = [lab.create(wire, bench.image)["id"] for _ in range(20)]
    rows = agent_memory(bench, boxes[-1])
    rows += first_byte(bench, boxes[0]) + echo(bench, boxes[0]) + samples(bench, boxes[0])
    rows += rates(bench, boxes)
    for box in boxes:
        lab.delete(wire, box)
    return rows


INSIDE = {"inside": inside}
