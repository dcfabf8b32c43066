"""Many quiet clients in one process of their own, so that they are cheap and are not measured.

Reads one line of JSON: {"url", "groups": [{"request", "count", "upgrade"}]}. Opens the connections,
sends each its request, and prints "ready" when all requests went out and all upgrades were
granted. Then reads what comes, answers the pings of WebSockets, until its standard input ends;
prints how many connections had been closed by the server until then.
"""

import json
import select
import socket
import sys
import urllib.parse

AT_ONCE = 200  # connections under way: the server's backlog is finite
PONG = bytes([0x8A, 0x80, 0, 0, 0, 0])  # masked with zeros, empty


class Client:
    __slots__ = ("sock", "request", "upgrade", "settled")

    def __init__(self, address, request, upgrade):
        self.sock = socket.create_connection(address, 60)
        self.sock.sendall(request)
        self.upgrade, self.settled = upgrade, not upgrade

    def read(self):
        """False when the server has closed."""
        data = self.sock.recv(65536)
        if not self.settled and data:
            if b" 101 " not in data.split(b"\r\n", 1)[0]:
                raise SystemExit(f"no upgrade: {data[:300]!r}")
            self.settled = True
        elif self.upgrade and data[:1] == b"\x89":
            self.sock.sendall(PONG)
        return bool(data)


class Crowd:
    def __init__(self, order):
        url = urllib.parse.urlsplit(order["url"])
        self.address = (url.hostname, url.port)
        self.poll = select.epoll()
        self.clients, self.closed, self.unsettled = {}, 0, 0
        for group in order["groups"]:
            for _ in range(group["count"]):
                self.add(group["request"].encode(), group["upgrade"])
                while self.unsettled >= AT_ONCE:
                    self.turn()
        while self.unsettled:
            self.turn()

    def add(self, request, upgrade):
        client = Client(self.address, request, upgrade)
        self.clients[client.sock.fileno()] = client
        self.unsettled += upgrade
        self.poll.register(client.sock, select.EPOLLIN)

    def turn(self, stdin=None):
        """Handles what has come; False when `stdin` has ended."""
        for number, _ in self.poll.poll(60):
            if number == stdin:
                return False
            client = self.clients[number]
            was = client.settled
            if not client.read():
                self.poll.unregister(number)
                del self.clients[number]
                client.sock.close()
                self.closed += 1
            self.unsettled -= client.settled and not was
        return True

    def stay(self):
        stdin = sys.stdin.fileno()
        self.poll.register(stdin, select.EPOLLIN | select.EPOLLHUP)
        while self.turn(stdin):
            pass


def main():
    crowd = Crowd(json.loads(sys.stdin.readline()))
    print("ready", flush=True)
    crowd.stay()
    print(crowd.closed, flush=True)


if __name__ == "__main__":
    main()
