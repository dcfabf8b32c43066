"""Proxies on unix sockets that count what goes through: engine calls, SQL statements, Redis commands.

Counts do not depend on the machine's load, so they can be promised exactly and tested anywhere.
They pass bytes on as they come and read along only in the direction towards the server. They know
no more of the protocols than to find where a message begins.
"""

import pathlib
import re
import socket
import tempfile
import threading
import urllib.parse

from wire import connect

RECEIVE_BYTES = 65536


class Tap:
    """Listens on a unix socket; each connection gets one of its own to the server."""

    def __init__(self, name):
        self._folder = tempfile.TemporaryDirectory(prefix="sbxtap.")
        self.path = pathlib.Path(self._folder.name) / name
        self.lock = threading.Lock()
        self.seen = []  # guarded by lock
        self._sockets = []  # guarded by lock
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def upstream(self):
        raise NotImplementedError

    def reader(self):
        """A generator that is sent each piece of bytes towards the server."""
        raise NotImplementedError

    def note(self, text):
        with self.lock:
            self.seen.append(text)

    def take(self):
        """What was seen since the last time."""
        with self.lock:
            seen, self.seen = self.seen, []
        return seen

    def close(self):
        with self.lock:
            sockets, self._sockets = self._sockets, []
        for sock in [self._listener, *sockets]:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            sock.close()
        self._folder.cleanup()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = self.upstream()
            server.settimeout(None)
            with self.lock:
                self._sockets += [client, server]
            reader = self.reader()
            next(reader)
            for a, b, see in ((client, server, reader.send), (server, client, None)):
                threading.Thread(target=self._pump, args=(a, b, see), daemon=True).start()

    @staticmethod
    def _pump(source, target, see):
        try:
            while data := source.recv(RECEIVE_BYTES):
                if see:  # before it is sent: who sees the answer finds it counted
                    see(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            for sock in (source, target):
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass


class EngineTap(Tap):
    """Notes "METHOD /path" of each engine call, without version and query, ids as {id}."""

    def __init__(self, host):
        self._host = host
        super().__init__("engine.sock")
        self.url = f"unix://{self.path}"

    def upstream(self):
        return connect(self._host)

    def _call(self, method, target):
        path = urllib.parse.urlsplit(target).path
        path = re.sub(r"^/v[\d.]+", "", path)
        path = re.sub(r"^/images/.*/json$", "/images/{name}/json", path)
        path = re.sub(r"/(containers|volumes)/(?!json|create|prune)[^/]+", r"/\1/{id}", path)
        self.note(f"{method} {path}")

    def reader(self):
        data = b""
        while True:
            while (end := data.find(b"\r\n\r\n")) < 0:
                data += yield
            head, data = data[:end].decode("latin-1"), data[end + 4:]
            method, target, _ = head.split("\r\n", 1)[0].split(" ", 2)
            self._call(method, target)
            if re.search(r"^(upgrade|transfer-encoding):", head, re.I | re.M):
                while True:  # no further call on this connection
                    yield
            length = re.search(r"^content-length: *(\d+)", head, re.I | re.M)
            left = int(length.group(1)) if length else 0
            while len(data) < left:
                data += yield
            data = data[left:]


class DatabaseTap(Tap):
    """Notes the name of each prepared statement that is executed, or the text of an unnamed one."""

    PORT = 5432

    def __init__(self, url):
        parts = urllib.parse.urlsplit(url)
        folder = urllib.parse.parse_qs(parts.query)["host"][0]
        self._server = f"unix://{folder}/.s.PGSQL.{self.PORT}"
        super().__init__(f".s.PGSQL.{self.PORT}")
        query = "host=" + urllib.parse.quote(str(self.path.parent), safe="")
        self.url = parts._replace(query=query).geturl()

    def upstream(self):
        return connect(self._server)

    def reader(self):
        data, first, unnamed = b"", True, ""
        while True:
            head = 4 if first else 5  # the first message has no type
            while len(data) < head:
                data += yield
            end = head + int.from_bytes(data[head - 4:head], "big") - 4
            while len(data) < end:
                data += yield
            kind, body, data = b"" if first else data[:1], data[head:end], data[end:]
            # libpq asks for no encryption on a unix socket, so the first is always the start-up.
            first = False
            if kind == b"P":  # Parse: name, text
                name, text = body.split(b"\0", 2)[:2]
                unnamed = unnamed if name else text.decode()
            elif kind == b"B":  # Bind: portal, statement
                self.note(body.split(b"\0", 2)[1].decode() or unnamed)
            elif kind == b"Q":
                self.note(body.rstrip(b"\0").decode())


class RedisTap(Tap):
    """Notes "COMMAND first-argument" of each command; of a script its first key."""

    def __init__(self, url):
        self._server = url
        super().__init__("redis.sock")
        self.url = f"unix://{self.path}"

    def upstream(self):
        return connect(self._server)

    def reader(self):
        data = b""
        while True:
            words = []
            left = 1  # the line that says how many words there are, then two parts for each
            while left:
                while (end := data.find(b"\r\n")) < 0:
                    data += yield
                size, kind, data = int(data[1:end]), data[:1], data[end + 2:]
                if kind == b"*":
                    left = size
                    continue
                while len(data) < size + 2:
                    data += yield
                words.append(data[:size])
                data, left = data[size + 2:], left - 1
            key = words[3:4] if words[0] == b"EVAL" else words[1:2]
            self.note(b" ".join(words[:1] + key).decode(errors="replace"))
