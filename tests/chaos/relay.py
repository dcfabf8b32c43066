"""The lines between the parts, in a process of their own, so that clients cannot slow them down.

The first line of its stdin is a JSON object: the name of a line -> [kind (unix or tcp), the socket's
name, the target]; the first one of its stdout says where each listens. Then it obeys lines
`NAME MODE` (modes of parts.Proxy) and answers each with `ok`. Ends with its stdin. Nothing of this
stands in its arguments, by which the processes of an engine are found.
"""
import json
import pathlib
import sys

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1] / name) for name in ("system", "lib")]
import parts  # noqa: E402


def main():
    lines = {}
    for name, (kind, socket_name, target) in json.loads(sys.stdin.readline()).items():
        lines[name] = (parts.TcpProxy(int(target)) if kind == "tcp"
                       else parts.Proxy(target, socket_name))
    print(json.dumps({name: line.port if isinstance(line, parts.TcpProxy) else str(line.path)
                      for name, line in lines.items()}), flush=True)
    for order in sys.stdin:
        name, mode = order.split()
        lines[name].set(mode)
        print("ok", flush=True)
    for line in lines.values():
        line.close()


if __name__ == "__main__":
    main()
