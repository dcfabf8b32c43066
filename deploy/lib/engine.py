"""A small client of the Docker Engine API, for the deploy scripts and the tests.

It needs nothing but Python's standard library and, unlike the docker command, is always there.
DOCKER_HOST (unix:// or tcp://), DOCKER_TLS_VERIFY and DOCKER_CERT_PATH mean what they mean
everywhere. The version is negotiated: the newest that both this file and the engine know.

As a program: engine.py version | remove-cluster ID | count-cluster ID | foreign ID | remove-image ID
"""

import http.client
import json
import os
import re
import socket
import ssl
import sys
import urllib.parse

DEFAULT_HOST = "unix:///var/run/docker.sock"
NEWEST_KNOWN = (1, 47)
CLUSTER_LABEL = "sandboxd.cluster"
GUARD_IMAGE = "sandboxd/guard:1"


class EngineError(Exception):
    """The engine refused (status is its HTTP status) or could not be reached (status 0)."""

    def __init__(self, message, status=0):
        super().__init__(message)
        self.status = status


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("engine", timeout=timeout)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _tls_context():
    folder = os.environ.get("DOCKER_CERT_PATH") or os.path.expanduser("~/.docker")
    context = ssl.create_default_context(cafile=os.path.join(folder, "ca.pem"))
    context.load_cert_chain(os.path.join(folder, "cert.pem"), os.path.join(folder, "key.pem"))
    return context


class Engine:
    """One connection per call: these programs make few calls, and some of them last minutes."""

    def __init__(self, host=None):
        self.host = host or os.environ.get("DOCKER_HOST") or DEFAULT_HOST
        self._version = None

    def _connection(self, timeout):
        url = urllib.parse.urlsplit(self.host)
        if url.scheme == "unix":
            return _UnixConnection(url.path, timeout)
        if url.scheme != "tcp":
            raise EngineError(f"DOCKER_HOST {self.host}: only unix:// and tcp:// are known")
        if os.environ.get("DOCKER_TLS_VERIFY") or os.environ.get("DOCKER_CERT_PATH"):
            return http.client.HTTPSConnection(
                url.hostname, url.port or 2376, timeout=timeout, context=_tls_context())
        return http.client.HTTPConnection(url.hostname, url.port or 2375, timeout=timeout)

    def version(self):
        """The API version to speak, such as "1.41"."""
        if self._version is None:
            told = json.loads(self._request("GET", "/version", timeout=10).read())
            newest = tuple(int(part) for part in told["ApiVersion"].split("."))
            self._version = "%d.%d" % min(newest, NEWEST_KNOWN)
        return self._version

    def _request(self, method, path, query=None, body=None, timeout=60, headers=None):
        if query:
            path += "?" + urllib.parse.urlencode(query, doseq=True)
        connection = self._connection(timeout)
        try:
            connection.request(method, path, body=body, headers=headers or {},
                               encode_chunked=False)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(f"{self.host}: {error or type(error).__name__}") from error
        if response.status >= 400:
            text = response.read(4096).decode("utf-8", "replace")
            try:
                text = json.loads(text)["message"]
            except (ValueError, KeyError, TypeError):
                pass
            raise EngineError(f"{method} {path}: {response.status}: {text.strip()}",
                              response.status)
        return response

    def call(self, method, path, query=None, json_body=None, body=None, timeout=60, headers=None):
        """The decoded answer (None where it has no body)."""
        headers = dict(headers or {})
        if json_body is not None:
            body = json.dumps(json_body).encode()
            headers["Content-Type"] = "application/json"
        response = self._request(method, f"/v{self.version()}{path}", query, body, timeout, headers)
        text = response.read()
        return json.loads(text) if text.strip() else None

    def stream(self, method, path, query=None, body=None, timeout=60, headers=None):
        """Yields the objects of an answer that is a stream of JSON lines, as they come."""
        response = self._request(method, f"/v{self.version()}{path}", query, body, timeout, headers)
        try:
            for line in response:
                if line.strip():
                    yield json.loads(line)
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(f"{method} {path}: {error or type(error).__name__}") from error

    def image(self, name):
        """What the engine knows of an image, or None."""
        try:
            return self.call("GET", f"/images/{urllib.parse.quote(name, safe='/:')}/json")
        except EngineError as error:
            if error.status == 404:
                return None
            raise

    def containers(self, label=None, running_only=False):
        query = {"all": "false" if running_only else "true"}
        if label:
            query["filters"] = json.dumps({"label": [label]})
        return self.call("GET", "/containers/json", query)

    def remove_container(self, container_id):
        try:
            self.call("DELETE", f"/containers/{container_id}", {"force": "true", "v": "true"})
        except EngineError as error:
            if error.status not in (404, 409):  # gone, or already being removed
                raise

    def remove_image(self, image_id):
        try:
            self.call("DELETE", f"/images/{image_id}", timeout=120)
        except EngineError as error:
            if error.status != 404:
                raise

    def remove_cluster(self, cluster):
        """Removes the containers, volumes and networks of one installation; returns how many."""
        label = f"{CLUSTER_LABEL}={cluster}"
        filters = {"filters": json.dumps({"label": [label]})}
        removed = 0
        containers = self.containers(label)
        for container in containers:
            self.remove_container(container["Id"])
            removed += 1
        # A volume that the engine made anew after a prune has the name but not the label.
        for volume in (self.call("GET", "/volumes") or {}).get("Volumes") or []:
            if ((volume.get("Labels") or {}).get(CLUSTER_LABEL) == cluster
                    or re.fullmatch(f"sandboxd-agent-[0-9a-f]+-{cluster}", volume["Name"])):
                removed += self._remove_if_unused(f"/volumes/{volume['Name']}")
        networks = self.call("GET", "/networks", filters) or []
        if networks:
            self._remove_rules(cluster, containers)
        for network in networks:
            removed += self._remove_if_unused(f"/networks/{network['Id']}")
        return removed

    def _remove_rules(self, cluster, containers):
        """Has the guard's image remove the firewall's rules, which outlive the guard."""
        image = next((c["ImageID"] for c in containers
                      if c["Labels"].get("sandboxd.role") == "guard"), GUARD_IMAGE)
        made = self.call("POST", "/containers/create", json_body={
            "Image": image, "Entrypoint": ["/bin/busybox", "sh", "/guard"],
            "Cmd": [f"sandboxd_{cluster}", "remove"], "Labels": {CLUSTER_LABEL: cluster},
            "HostConfig": {"NetworkMode": "host", "UsernsMode": "host", "ReadonlyRootfs": True,
                           "CapDrop": ["ALL"], "CapAdd": ["NET_ADMIN"]}})["Id"]
        try:
            self.call("POST", f"/containers/{made}/start")
            status = self.call("POST", f"/containers/{made}/wait")["StatusCode"]
        finally:
            self.remove_container(made)
        if status:
            raise EngineError(f"the firewall's rules could not be removed (status {status}); by "
                              f"hand: nft delete table inet sandboxd_{cluster}, and the same with "
                              "bridge instead of inet")

    def _remove_if_unused(self, path):
        """Returns 0 for what a container of another installation still uses."""
        try:
            self.call("DELETE", path)
            return 1
        except EngineError as error:
            if error.status in (403, 404, 409):
                return 0
            raise


def main(argv):
    engine = Engine()
    if argv[1:2] == ["version"] and len(argv) == 2:
        told = engine.call("GET", "/version")
        print(f"Docker Engine {told['Version']}, API {engine.version()}")
    elif argv[1:2] == ["remove-cluster"] and len(argv) == 3 and argv[2]:
        print(engine.remove_cluster(argv[2]))
    elif argv[1:2] == ["count-cluster"] and len(argv) == 3 and argv[2]:
        print(len(engine.containers(f"{CLUSTER_LABEL}={argv[2]}")))
    elif argv[1:2] == ["remove-image"] and len(argv) == 3 and argv[2]:
        engine.remove_image(argv[2])
    elif argv[1:2] == ["foreign"] and len(argv) == 3:
        print(sum(1 for c in engine.containers(running_only=True)
                  if not argv[2] or (c.get("Labels") or {}).get(CLUSTER_LABEL) != argv[2]))
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv))
    except EngineError as failure:
        print(f"engine: {failure}", file=sys.stderr)
        sys.exit(1)
