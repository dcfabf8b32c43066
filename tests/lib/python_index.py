"""A package index for pip, of packages that are made here: wheels and source archives, by hand.

As a program it serves a folder: /simple/NAME/ and /files/FILE, /private/... the same for those who
know the password, /hang/... nothing at all, and /asked, what was asked for so far.
"""
import base64
import csv
import hashlib
import http.server
import io
import json
import pathlib
import re
import sys
import tarfile
import threading
import zipfile

USER, PASSWORD = "mirror", "s3cret-of-the-mirror"


def wheel(folder, name, version="1.0", files=None, requires=()):
    """A pure wheel; without files, a module of the package's name that says its version."""
    files = dict(files or {f"{name}.py": f"version = {version!r}\n"})
    info = f"{name}-{version}.dist-info"
    files[f"{info}/METADATA"] = (f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" +
                                 "".join(f"Requires-Dist: {r}\n" for r in requires))
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    rows = io.StringIO()
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        csv.writer(rows).writerow([path, f"sha256={digest.decode()}", len(text.encode())])
    csv.writer(rows).writerow([f"{info}/RECORD", "", ""])
    files[f"{info}/RECORD"] = rows.getvalue()
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as packed:
        for path, text in files.items():
            packed.writestr(path, text)


def source(folder, name, setup, version="1.0", files=None):
    """A source archive that is built by its setup.py."""
    with tarfile.open(folder / f"{name}-{version}.tar.gz", "w:gz") as packed:
        for path, text in {"setup.py": setup, **(files or {})}.items():
            entry = tarfile.TarInfo(f"{name}-{version}/{path}")
            entry.size = len(text.encode())
            packed.addfile(entry, io.BytesIO(text.encode()))


class Index(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder = pathlib.Path()
    asked = []
    forever = threading.Event()

    def log_message(self, *_):
        pass

    def reply(self, status, body, kind="text/html", headers=()):
        self.send_response(status)
        for name, value in (*headers, ("Content-Type", kind), ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def allowed(self):
        token = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        return self.headers.get("Authorization") == f"Basic {token}"

    def page(self, name, base):
        files = [p.name for p in sorted(self.folder.iterdir())
                 if re.sub(r"[-_.]+", "-", p.name.split("-")[0]).lower() == name]
        links = "".join(f'<a href="{base}/files/{f}">{f}</a>' for f in files)
        return self.reply(200 if files else 404, f"<html><body>{links}</body></html>".encode())

    def do_GET(self):
        if self.path == "/asked":
            return self.reply(200, json.dumps(self.asked).encode(), "application/json")
        self.asked.append(self.path)
        if self.path.startswith("/hang"):
            self.forever.wait()
        base, path = "", self.path
        if path.startswith("/private/"):
            base, path = "/private", path.removeprefix("/private")
            if not self.allowed():
                return self.reply(401, b"no", headers=[("WWW-Authenticate", "Basic realm=x")])
        if path.startswith("/simple/"):
            return self.page(path.split("/")[2], base)
        file = self.folder / pathlib.PurePosixPath(path).name
        if path.startswith("/files/") and file.is_file():
            return self.reply(200, file.read_bytes(), "application/octet-stream")
        return self.reply(404, b"there is no such file")


if __name__ == "__main__":
    Index.folder = pathlib.Path(sys.argv[1])
    server = http.server.ThreadingHTTPServer((sys.argv[2], int(sys.argv[3])), Index)
    print("ready", flush=True)
    server.serve_forever()
