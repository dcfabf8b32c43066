"""The agent protocol in Python, written from include/sbx/core/agent_proto.h alone.

`Agent` drives one agent over two descriptors. It reads on a thread, answers nothing by itself
except what `auto_ack` and `auto_window` ask for, and sorts frames by request.
"""
import os
import struct
import threading
import time
from collections import defaultdict

MAGIC = b"\0SBXSYN\1"
(HELLO, EXEC, STDIN, WINDOW, SIGNAL, KILL, DETACH, LOG_ACK, PING, SYSLOG, ATTACH, STOP, LEAVE, LIST,
 STATS, RESIZE) = range(1, 17)
(WELCOME, STARTED, OUTPUT, EXIT, FAIL, LOG, PONG, TAKEN, GAP, ENTRY, LISTED,
 SAMPLE) = range(64, 76)
(T_EPOCH, T_LOG_FROM, T_USER, T_LIFETIME_S, T_PIDS, T_EXEC_ID, T_ARG, T_ENV, T_CWD, T_TIMEOUT_MS,
 T_MAX_OUTPUT, T_WINDOW, T_FLAGS, T_SIGNAL, T_SEQ, T_VERSION, T_NEXT_SEQ, T_OLDEST_SEQ, T_PID,
 T_EXIT_CODE, T_DURATION_MS, T_CPU_MS, T_PEAK_KB, T_CODE, T_MESSAGE, T_DROPPED, T_MAIN, T_COUNT,
 T_TO_SEQ, T_COLS, T_ROWS, T_STARTED_MS, T_EXIT_FLAGS, T_CPU_US, T_MEMORY, T_MEMORY_PEAK,
 T_MEMORY_LIMIT, T_PROCESSES, T_OOM_KILLS, T_DISK, T_DISK_FREE, T_NET_RX, T_NET_TX) = range(1, 44)
EXEC_STDIN, EXEC_DETACHED, EXEC_MAIN, EXEC_CHECK, EXEC_PTY, EXEC_PACED = 1, 2, 4, 8, 16, 32
EXEC_PATIENT = 64
SIG_TREE = 1
TIMED_OUT, OOM, TRUNCATED, CPU = 1, 2, 4, 8
BAD_CWD, BAD_USER, BAD_REQUEST, BUSY, SPAWN, NOT_FOUND = range(1, 7)
TEXT_TAGS = {T_USER, T_EXEC_ID, T_ARG, T_ENV, T_CWD, T_MESSAGE}
MAX_FROM_AGENT = 64 * 1024
CHUNK_BYTES = 32 * 1024
PACE_BYTES = 64 * 1024
KEEP_BYTES = 16 << 20
KEEP_COMMANDS = 1000
MUCH = 1 << 60


def field(tag, value):
    if isinstance(value, int):
        value = struct.pack("<Q", value)
    elif isinstance(value, str):
        value = value.encode()
    return struct.pack("<HI", tag, len(value)) + value


def frame(kind, epoch, req, payload=b""):
    return struct.pack("<IBBHI", len(payload), kind, 0, epoch & 0xFFFF, req) + payload


def fields(payload):
    """[(tag, value)], numbers as int, the texts as bytes."""
    out, at = [], 0
    while at < len(payload):
        tag, size = struct.unpack_from("<HI", payload, at)
        data = payload[at + 6:at + 6 + size]
        assert len(data) == size, "a field is cut short"
        out.append((tag, data if tag in TEXT_TAGS else struct.unpack("<Q", data)[0]))
        at += 6 + size
    return out


def entries(payload):
    out, at = [], 0
    while at < len(payload):
        seq, ts, stream, source, id_len = struct.unpack_from("<QqBBB", payload, at)
        at += 19
        exec_id = payload[at:at + id_len].decode()
        at += id_len
        size, = struct.unpack_from("<I", payload, at)
        data = payload[at + 4:at + 4 + size]
        assert len(data) == size, "an entry is cut short"
        at += 4 + size
        out.append({"seq": seq, "ts": ts, "stream": stream, "source": source,
                    "execId": exec_id, "data": data})
    return out


def entry(payload):
    out = {T_ARG: []}
    for tag, value in fields(payload):
        if tag == T_ARG:
            out[T_ARG].append(value)
        else:
            assert tag not in out, "a field twice"
            out[tag] = value
    return out


class Command:
    """What has been heard of one request."""

    def __init__(self):
        self.started = self.exit = self.fail = None
        self.check = False
        self.next = None     # number of the chunk to come
        self.chunks = []     # (number, stream, bytes)
        self.gaps = []       # (first, last)
        self.entries = []    # of a LIST
        self.listed = False
        self.out = {1: bytearray(), 2: bytearray()}
        self.count = {1: 0, 2: 0}
        self.offsets = {1: 0, 2: 0}  # of a CHECK
        self.taken = self.dropped = 0
        self.frames = []

    @property
    def over(self):
        return self.exit is not None or self.fail is not None

    def take_chunk(self, number, stream, data):
        assert 0 < len(data) <= CHUNK_BYTES, "a chunk of %d bytes" % len(data)
        assert self.next is None or number == self.next, "a hole in the output"
        self.next = number + 1
        self.chunks.append((number, stream, data))

    def take_check(self, offset, stream, data):
        assert offset == self.offsets[stream], "a hole in the output"
        self.offsets[stream] += len(data)

    @property
    def stdout(self):
        return bytes(self.out[1])

    @property
    def stderr(self):
        return bytes(self.out[2])


class Agent:
    def __init__(self, to_fd, from_fd, token, keep_output=True):
        self.to_fd, self.from_fd, self.token = to_fd, from_fd, token
        self.epoch = 0
        self.req = 0
        self.keep_output = keep_output
        self.auto_ack = True
        self.auto_window = 0       # grant this much whenever that much was received
        self.cond = threading.Condition()
        self.wlock = threading.Lock()
        self.buf = bytearray()
        self.reset()
        self.closed = False
        self.reading = threading.Event()
        self.reading.set()
        self.log = []
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def reset(self):
        self.synced = False
        self.welcome = None
        self.commands = defaultdict(Command)
        self.news = []
        self.samples = []
        self.pongs = []
        self.raw_before_sync = bytearray()

    # -- writing
    def write(self, data):
        view = memoryview(data)
        with self.wlock:
            while view:
                view = view[os.write(self.to_fd, view):]

    def send(self, kind, req=0, payload=b"", epoch=None):
        self.write(frame(kind, self.epoch if epoch is None else epoch, req, payload))

    def greet(self, epoch=None, log_from=0, user="", lifetime_s=0, pids=0, prefix=b"", wait=10):
        with self.cond:
            self.reset()
            self.epoch = epoch if epoch is not None else self.epoch + 1
        body = (field(T_EPOCH, self.epoch) + field(T_LOG_FROM, log_from) + field(T_USER, user) +
                field(T_LIFETIME_S, lifetime_s) + field(T_PIDS, pids))
        self.write(prefix + MAGIC + self.token + frame(HELLO, self.epoch, 0, body))
        if wait:
            self.until(lambda: self.welcome is not None, wait, "WELCOME")
        return self.welcome

    def start(self, argv, exec_id=None, env=(), cwd="", user="", timeout_ms=0, max_output=0,
              window=MUCH, flags=0, req=None, cpu_ms=0):
        if req is None:
            self.req += 1
            req = self.req
        if isinstance(argv, str):
            argv = ["sh", "-c", argv]
        body = field(T_EXEC_ID, exec_id if exec_id is not None else "e%d-%d" % (self.epoch, req))
        body += b"".join(field(T_ARG, a) for a in argv) + b"".join(field(T_ENV, e) for e in env)
        body += field(T_CWD, cwd) + field(T_USER, user) + field(T_TIMEOUT_MS, timeout_ms)
        body += field(T_MAX_OUTPUT, max_output) + field(T_WINDOW, window) + field(T_FLAGS, flags)
        if cpu_ms:
            body += field(T_CPU_MS, cpu_ms)
        with self.cond:
            if self.commands[req].over:
                del self.commands[req]  # its number is used again
            self.commands[req].check |= bool(flags & EXEC_CHECK)
        self.send(EXEC, req, body)
        return req

    def attach(self, exec_id, seq=0, window=MUCH, flags=0, req=None):
        if req is None:
            self.req += 1
            req = self.req
        self.send(ATTACH, req, field(T_EXEC_ID, exec_id) + field(T_SEQ, seq) +
                  field(T_WINDOW, window) + field(T_FLAGS, flags))
        return req

    def stats(self):
        """A SAMPLE as {tag: value}."""
        n = len(self.samples)
        self.send(STATS, 0)
        self.until(lambda: len(self.samples) > n, what="SAMPLE")
        return self.samples[-1]

    def list(self, count=0, exec_id=""):
        """Entries as {tag: value}, with all ARGs as a list."""
        self.req += 1
        req = self.req
        body = field(T_COUNT, count)
        if exec_id:
            body += field(T_EXEC_ID, exec_id)
        self.send(LIST, req, body)
        self.until(lambda: self.commands[req].listed, what="LISTED")
        return self.commands[req].entries

    def run(self, argv, wait=20, **kw):
        req = self.start(argv, **kw)
        return self.wait(req, wait)

    # -- waiting
    def until(self, check, timeout=10, what="condition"):
        end = time.monotonic() + timeout
        with self.cond:
            while not check():
                left = end - time.monotonic()
                if left <= 0:
                    raise AssertionError("timed out waiting for " + what)
                self.cond.wait(min(left, 0.5))

    def wait(self, req, timeout=20):
        self.until(lambda: self.commands[req].over, timeout, "the end of request %d" % req)
        return self.commands[req]

    def lines(self, **match):
        with self.cond:
            return [e["data"] for e in self.log if all(e[k] == v for k, v in match.items())]

    # -- reading
    def _read(self):
        while True:
            self.reading.wait()
            try:
                data = os.read(self.from_fd, 1 << 20)
            except OSError:
                data = b""
            with self.cond:
                if not data:
                    self.closed = True
                    self.cond.notify_all()
                    return
                self.buf += data
                self._parse()
                self.cond.notify_all()

    def _parse(self):
        if not self.synced:
            mark = MAGIC + self.token
            at = self.buf.rfind(mark + struct.pack("<Q", self.epoch))
            if at < 0:
                return
            self.raw_before_sync += self.buf[:at]
            del self.buf[:at + len(mark) + 8]
            self.synced = True
        at = 0
        while len(self.buf) - at >= 12:
            size, kind, zero, epoch, req = struct.unpack_from("<IBBHI", self.buf, at)
            assert zero == 0 and size <= MAX_FROM_AGENT, "not a frame"
            assert epoch == self.epoch & 0xFFFF, "a frame of another epoch"
            if len(self.buf) - at - 12 < size:
                break
            self._frame(kind, req, bytes(self.buf[at + 12:at + 12 + size]))
            at += 12 + size
        del self.buf[:at]

    def _answer(self, kind, req, payload):
        try:
            self.send(kind, req, payload)
        except OSError:
            pass  # the agent has ended

    def _frame(self, kind, req, payload):
        c = self.commands[req]
        if kind not in (OUTPUT, LOG):
            c.frames.append(kind)
        if kind == WELCOME:
            self.welcome = fields(payload)
        elif kind == STARTED:
            c.started = dict(fields(payload))
        elif kind == OUTPUT:
            assert c.started is not None and not c.over, "OUTPUT outside of a command's life"
            stream, number = struct.unpack_from("<BQ", payload)
            (c.take_check if c.check else c.take_chunk)(number, stream, payload[9:])
            c.count[stream] += len(payload) - 9
            if self.keep_output:
                c.out[stream] += payload[9:]
            if self.auto_window:
                self._answer(WINDOW, req, field(T_WINDOW, len(payload) - 9))
        elif kind == GAP:
            got = dict(fields(payload))
            assert c.next is None or got[T_SEQ] == c.next, "a gap that is not the next thing"
            c.gaps.append((got[T_SEQ], got[T_TO_SEQ]))
            c.next = got[T_TO_SEQ] + 1
        elif kind == ENTRY:
            (c.entries if req else self.news).append(entry(payload))
        elif kind == LISTED:
            c.listed = True
        elif kind == SAMPLE:
            self.samples.append(dict(fields(payload)))
        elif kind == EXIT:
            c.exit = dict(fields(payload))
            assert c.check or c.next is None or c.exit[T_SEQ] >= c.next, "EXIT before the output"
        elif kind == FAIL:
            c.fail = dict(fields(payload))
        elif kind == LOG:
            new = entries(payload)
            self.log += new
            if self.auto_ack and new:
                self._answer(LOG_ACK, 0, field(T_SEQ, new[-1]["seq"]))
        elif kind == PONG:
            self.pongs.append(payload)
        elif kind == TAKEN:
            got = dict(fields(payload))
            c.taken += got[T_WINDOW]
            c.dropped += got[T_DROPPED]
        else:
            raise AssertionError("unknown frame type %d" % kind)
