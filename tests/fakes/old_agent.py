#!/usr/bin/python3
"""An agent of version 1, as sandboxes have that were started by an older release: one owner, output with
offsets and without numbers, no lists, no news, nothing kept. Written from the protocol of that version;
the container's first process."""
import os
import signal
import struct
import subprocess
import threading
import time

MARK = b"\0SBXSYN\1" + bytes.fromhex(os.environ.pop("SBX_AGENT_TOKEN"))
HELLO, EXEC, STDIN, WINDOW, SIGNAL, KILL, DETACH, LOG_ACK, PING, SYSLOG, ATTACH, STOP = range(1, 13)
WELCOME, STARTED, OUTPUT, EXIT, FAIL, LOG, PONG, TAKEN = range(64, 72)
(T_EPOCH, T_LOG_FROM, T_USER, T_LIFETIME_S, T_PIDS, T_EXEC_ID, T_ARG, T_ENV, T_CWD, T_TIMEOUT_MS,
 T_MAX_OUTPUT, T_WINDOW, T_FLAGS, T_SIGNAL, T_SEQ, T_VERSION, T_NEXT_SEQ, T_OLDEST_SEQ, T_PID,
 T_EXIT_CODE, T_DURATION_MS, T_CPU_MS, T_PEAK_KB, T_CODE, T_MESSAGE, T_DROPPED, T_MAIN) = range(1, 28)
TEXTS = (T_USER, T_EXEC_ID, T_ARG, T_ENV, T_CWD, T_MESSAGE)

lock = threading.Condition()
commands, lines, state = {}, [], {"epoch": 0, "greeted": False, "main": 0}


def num(tag, value):
    return struct.pack("<HIQ", tag, 8, value)


def fields(data):
    at = 0
    while at < len(data):
        tag, size = struct.unpack_from("<HI", data, at)
        value = data[at + 6:at + 6 + size]
        yield tag, value if tag in TEXTS else struct.unpack("<Q", value)[0]
        at += 6 + size


def write(data):
    while data:
        data = data[os.write(1, data):]


def send(kind, req, payload=b""):
    if state["greeted"]:
        write(struct.pack("<IBBHI", len(payload), kind, 0, state["epoch"] & 0xffff, req) + payload)


def log(stream, source, exec_id, text):
    head = struct.pack("<QqBBB", len(lines) + 1, int(time.time() * 1000), stream, source, len(exec_id))
    lines.append(head + exec_id + struct.pack("<I", len(text)) + text)
    send(LOG, 0, lines[-1])


class Command:
    def __init__(self, req, told):
        self.req, self.id, self.flags = req, told[T_EXEC_ID][0], told.get(T_FLAGS, [0])[0]
        self.window, self.detached = told.get(T_WINDOW, [0])[0], bool(self.flags & 2)
        self.timed_out, self.began = False, time.monotonic()
        env = dict(e.decode().split("=", 1) for e in told.get(T_ENV, []))
        self.process = subprocess.Popen(
            told[T_ARG], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, **env}, cwd="/tmp", start_new_session=True, user=1000, group=1000)
        if not self.flags & 1:
            self.process.stdin.close()
        send(STARTED, req, num(T_PID, self.process.pid))
        commands[req] = self
        self.readers = [threading.Thread(target=self.read, args=(i, pipe)) for i, pipe in
                        enumerate((self.process.stdout, self.process.stderr))]
        for reader in self.readers:
            reader.start()
        if told.get(T_TIMEOUT_MS, [0])[0]:
            timer = threading.Timer(told[T_TIMEOUT_MS][0] / 1000, self.time_out)
            timer.daemon = True
            timer.start()
        threading.Thread(target=self.end, daemon=True).start()

    def time_out(self):
        with lock:
            self.timed_out = self.process.poll() is None
        self.kill()

    def kill(self, number=signal.SIGKILL):
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass

    def read(self, stream, pipe):
        offset, rest = 0, b""
        while data := os.read(pipe.fileno(), 8192):
            with lock:
                while not self.detached and self.window < len(data):
                    lock.wait()
                if not self.detached:
                    self.window -= len(data)
                    send(OUTPUT, self.req, struct.pack("<BQ", stream + 1, offset) + data)
                offset += len(data)
                *whole, rest = (rest + data).split(b"\n")
                for line in whole if not self.flags & 8 else ():
                    log(stream, 0 if self.flags & 4 else 1, self.id, line)

    def end(self):
        status = self.process.wait()
        for reader in self.readers:
            reader.join()
        with lock:
            send(EXIT, self.req, num(T_EXIT_CODE, 128 - status if status < 0 else status) +
                 num(T_SIGNAL, max(-status, 0)) + num(T_FLAGS, int(self.timed_out)) +
                 num(T_DURATION_MS, int((time.monotonic() - self.began) * 1000)))
            commands.pop(self.req, None)


def greet(told):
    if told[T_EPOCH][0] < state["epoch"]:
        return
    state.update(epoch=told[T_EPOCH][0], greeted=True)
    for command in list(commands.values()):
        command.detached = True
    lock.notify_all()
    write(MARK + struct.pack("<Q", state["epoch"]))
    send(WELCOME, 0, num(T_VERSION, 1) + num(T_EPOCH, state["epoch"]) +
         num(T_NEXT_SEQ, len(lines) + 1) + num(T_OLDEST_SEQ, 1) + num(T_MAIN, state["main"]))
    for line in lines[max(told.get(T_LOG_FROM, [0])[0] - 1, 0):]:
        send(LOG, 0, line)


def take(kind, req, payload):
    if kind == PING:
        send(PONG, req, payload)
        return
    if kind == SYSLOG:
        log(2, 3, b"", payload)
        if req:
            send(PONG, req)
        return
    command = commands.get(req)
    if kind == STDIN and command:
        if payload:
            command.process.stdin.write(payload)
            command.process.stdin.flush()
        else:
            command.process.stdin.close()
        return
    told = {}
    for tag, value in fields(payload):
        told.setdefault(tag, []).append(value)
    if kind == HELLO:
        greet(told)
    elif kind == EXEC:
        state["main"] |= told.get(T_FLAGS, [0])[0] >> 2 & 1
        Command(req, told)
    elif kind == WINDOW and command:
        command.window += told[T_WINDOW][0]
        lock.notify_all()
    elif kind in (KILL, SIGNAL) and command:
        command.kill(told.get(T_SIGNAL, [9])[0])
    elif kind == DETACH and command:
        command.detached = True
        lock.notify_all()
    elif kind == ATTACH:
        text = b"no such command"
        send(FAIL, req, num(T_CODE, 6) + struct.pack("<HI", T_MESSAGE, len(text)) + text)
    elif kind == STOP:
        for one in commands.values():
            one.kill()
        lock.wait(0.5)
        os._exit(0)


def main():
    data = b""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    while True:
        more = os.read(0, 65536)
        data += more
        if not more:
            time.sleep(0.05)
        with lock:
            at = data.rfind(MARK)
            if at >= 0:
                data = data[at + len(MARK):]
                state["parse"] = True
            while state.get("parse") and len(data) >= 12:
                size, kind, _, epoch, req = struct.unpack_from("<IBBHI", data)
                if len(data) < 12 + size:
                    break
                if kind == HELLO or epoch == state["epoch"] & 0xffff:
                    take(kind, req, data[12:12 + size])
                data = data[12 + size:]


main()
