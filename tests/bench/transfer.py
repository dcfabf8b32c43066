"""Files in and out of a sandbox, against what a raw hijacked stream of the engine moves.

The client reads and writes bare sockets in large pieces, so that the two sides are compared and
not Python's HTTP.
"""

import json
import os
import re
import time

from measure import Row, clocked, median
from wire import request

PIECE = bytes(1 << 20)
PATH = "/tmp/bench-file"


def mb_per_s(size, seconds):
    return size / 1e6 / seconds


class RawStream:
    """An exec of the engine whose connection is a byte stream."""

    def __init__(self, lab, sandbox, command, stdin):
        prefix = f"/v{lab.engine.version()}"
        made = lab.engine_wire().call(
            "POST", f"{prefix}/containers/sbx-{sandbox}/exec",
            {"Cmd": command, "AttachStdin": stdin, "AttachStdout": True, "AttachStderr": False})
        self.sock = lab.engine_wire().sock
        head = request("POST", f"{prefix}/exec/{made['Id']}/start", {"Detach": False, "Tty": False},
                       {"Connection": "Upgrade", "Upgrade": "tcp"})
        self.sock.sendall(head)
        self.early = b""
        while b"\r\n\r\n" not in self.early:
            self.early += self.sock.recv(4096)
        self.early = self.early.split(b"\r\n\r\n", 1)[1]


def drain(sock, until=None):
    """Reads to the end, or so many bytes. @return how many came."""
    space, got = bytearray(1 << 20), 0
    while until is None or got < until:
        n = sock.recv_into(space)
        if not n:
            break
        got += n
    return got


def raw_down(lab, sandbox, size):
    stream = RawStream(lab, sandbox, ["cat", PATH], False)
    began = time.perf_counter()
    got = len(stream.early) + drain(stream.sock)
    assert got >= size, got
    return mb_per_s(size, time.perf_counter() - began)


def raw_up(lab, sandbox, size):
    # the last word comes when all was read
    stream = RawStream(lab, sandbox, ["sh", "-c", f"head -c {size} >/dev/null; echo done"], True)
    began = time.perf_counter()
    for _ in range(size // len(PIECE)):
        stream.sock.sendall(PIECE)
    got = stream.early
    while b"done" not in got:
        got += stream.sock.recv(4096)
    return mb_per_s(size, time.perf_counter() - began)


def answer_head(sock):
    got = b""
    while b"\r\n\r\n" not in got:
        got += sock.recv(65536)
    head, rest = got.split(b"\r\n\r\n", 1)
    return int(head.split()[1]), int(re.search(rb"content-length: (\d+)", head).group(1)), rest


def our_down(lab, wire, sandbox, size):
    began = time.perf_counter()
    wire.sock.sendall(request("GET", f"/sandboxes/{sandbox}/files?path={PATH}", None, lab.auth))
    status, length, rest = answer_head(wire.sock)
    assert (status, length) == (200, size), (status, length)
    assert drain(wire.sock, size - len(rest)) == size - len(rest)
    return mb_per_s(size, time.perf_counter() - began)


def our_up(lab, wire, sandbox, size):
    lines = [f"PUT /sandboxes/{sandbox}/files?path={PATH} HTTP/1.1", "Host: bench",
             f"Content-Length: {size}", *(f"{k}: {v}" for k, v in lab.auth.items())]
    head = ("\r\n".join(lines) + "\r\n\r\n").encode()
    began = time.perf_counter()
    wire.sock.sendall(head)
    for _ in range(size // len(PIECE)):
        wire.sock.sendall(PIECE)
    status, length, rest = answer_head(wire.sock)
    while len(rest) < length:
        rest += wire.sock.recv(65536)
    assert status in (200, 201), rest
    return mb_per_s(size, time.perf_counter() - began)


def batch_rows(bench, wire, sandbox):
    def once(folder):
        files = {f"/tmp/bench-{folder}/{i}": "x" * 200 for i in range(1000)}
        data = request("POST", f"/sandboxes/{sandbox}/files/batch", {"files": files},
                       bench.lab.auth)
        took, (status, text) = clocked(lambda: wire.exchange(data))
        assert status == 200 and len(json.loads(text)["items"]) == 1000, text[:300]
        return took
    turns = range(bench.count(10, 3))
    times = [once(f"new-{i}") for i in turns]
    again = [once("old") for _ in turns]
    # An ext4 without a journal (recently_deleted() in the kernel) makes files slowly for a while
    # where files were removed, as each replaced one is.
    return [Row("1,000 small files in one batch", median(times), "ms", 200,
                note=f"slowest {max(times):.0f} ms"),
            Row("1,000 files replaced in one batch", median(again), "ms",
                note="most of it the file system's")]


def small_rows(bench, wire, sandbox):
    bench.lab.exec(wire, sandbox, ["sh", "-c", "echo hello > /tmp/bench-small"])
    data = request("GET", f"/sandboxes/{sandbox}/files?path=/tmp/bench-small", None, bench.lab.auth)
    times = [clocked(lambda: wire.exchange(data))[0] for _ in range(bench.count(300, 30))]
    return [Row("read of a small file p50", median(times), "ms")]


def files(bench):
    lab, size = bench.lab, bench.count(1 << 30, 1 << 27)
    wire, rows = lab.wire(), []
    sandbox = lab.create(wire, bench.image)["id"]
    rows += small_rows(bench, wire, sandbox) + batch_rows(bench, wire, sandbox)
    our_up(lab, wire, sandbox, 1 << 20)
    before = lab.rss_kb()
    up, down = [], []
    for turn in range(bench.count(3, 1)):
        ours, raw = our_up(lab, wire, sandbox, size), raw_up(lab, sandbox, size)
        up.append((ours / raw, ours, raw))
        ours, raw = our_down(lab, wire, sandbox, size), raw_down(lab, sandbox, size)
        down.append((ours / raw, ours, raw))
    grown = lab.rss_kb() - before
    for what, told in (("up", up), ("down", down)):
        ratio, ours, raw = sorted(told)[len(told) // 2]
        rows.append(Row(f"{size >> 20} MB file {what}, of a raw hijacked stream", 100 * ratio, "%", 40,
                        True, note=f"{ours:.0f} MB/s, raw {raw:.0f} MB/s"))
    rows.append(Row("memory of the server after that", grown, "kB more", 10000))
    lab.delete(wire, sandbox)
    os.sync()  # what is still to be written is no part of the next measurement
    return rows


FILES = {"files": files}
