"""HTTP over one kept socket, with next to nothing between the clock and the wire.

Python's http.client costs 0.2 ms and more per call, which is a tenth of what is measured here. A
request is therefore made once as bytes, sent as it is and its answer cut by hand: about 0.03 ms.
It speaks to servers that we know (sandboxd, Docker Engine) and is no client for anything else.
"""

import json
import socket
import urllib.parse

RECEIVE_BYTES = 65536


class WireError(Exception):
    """The connection ended early or the answer could not be read."""


def connect(address, timeout=120):
    """A connected socket for unix:///path or http://host:port or tcp://host:port."""
    url = urllib.parse.urlsplit(address)
    if url.scheme == "unix":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        sock.connect(url.path)
        return sock
    sock = socket.create_connection((url.hostname, url.port), timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def request(method, path, body=None, headers=None):
    """The bytes of a request. A body that is not bytes is sent as JSON."""
    lines = [f"{method} {path} HTTP/1.1", "Host: bench"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
        lines.append("Content-Type: application/json")
    if body is not None or method in ("POST", "PUT"):
        lines.append(f"Content-Length: {len(body or b'')}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + (body or b"")


class Wire:
    """One kept connection. Not for several threads at once."""

    def __init__(self, address, timeout=120):
        self.sock = connect(address, timeout)
        self._left = b""

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _more(self):
        data = self.sock.recv(RECEIVE_BYTES)
        if not data:
            raise WireError("the server closed the connection")
        self._left += data

    def _take(self, count):
        while len(self._left) < count:
            self._more()
        data, self._left = self._left[:count], self._left[count:]
        return data

    def _line(self):
        while b"\r\n" not in self._left:
            self._more()
        line, self._left = self._left.split(b"\r\n", 1)
        return line

    def _chunks(self):
        body = b""
        while size := int(self._line().split(b";")[0], 16):
            body += self._take(size)
            self._take(2)
        while self._line():
            pass
        return body

    def send(self, data):
        self.sock.sendall(data)

    def receive(self):
        """(status, body) of the next answer."""
        while (end := self._left.find(b"\r\n\r\n")) < 0:
            self._more()
        head, self._left = self._left[:end].lower(), self._left[end + 4:]
        status = int(head[9:12])
        at = head.find(b"\r\ncontent-length:")
        if at >= 0:
            return status, self._take(int(head[at + 17:].split(b"\r\n", 1)[0]))
        if b"\r\ntransfer-encoding: chunked" in head:
            return status, self._chunks()
        return status, b""

    def exchange(self, data):
        """Send a finished request; (status, body)."""
        self.sock.sendall(data)
        return self.receive()

    def call(self, method, path, body=None, headers=None, expect=None):
        """The decoded answer. `expect` is the set of good statuses; default: any 2xx."""
        status, text = self.exchange(request(method, path, body, headers))
        if not (status in expect if expect else 200 <= status <= 299):
            raise WireError(f"{method} {path}: {status}: {text[:300].decode(errors='replace')}")
        return json.loads(text) if text.strip() else None
