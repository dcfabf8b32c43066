"""Tokens of an OpenID provider: a real one, on loopback over HTTPS, whose keys turn and which fails."""
import base64
import datetime
import hashlib
import hmac
import http.server
import ipaddress
import json
import ssl
import threading
import time
import unittest

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.x509.oid import NameOID

import sandboxd
from sandboxd import Client, SystemCase, all_at_once, wait_for

AUDIENCE = "sandboxd-tests"
service = provider = root = server = None


def base64url(data):
    if isinstance(data, int):
        data = data.to_bytes((data.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Key:
    """A private key of the provider, by its name."""

    def __init__(self, kid, alg="ES256"):
        self.kid, self.alg = kid, alg
        self.private = {"ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
                        "RS256": lambda: rsa.generate_private_key(65537, 2048),
                        "EdDSA": ed25519.Ed25519PrivateKey.generate}[alg]()

    def jwk(self):
        public = self.private.public_key()
        if self.alg == "EdDSA":
            raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
            told = {"kty": "OKP", "crv": "Ed25519", "x": base64url(raw)}
        elif self.alg == "RS256":
            numbers = public.public_numbers()
            told = {"kty": "RSA", "n": base64url(numbers.n), "e": base64url(numbers.e)}
        else:
            numbers = public.public_numbers()
            told = {"kty": "EC", "crv": "P-256", "x": base64url(numbers.x.to_bytes(32, "big")),
                    "y": base64url(numbers.y.to_bytes(32, "big"))}
        return {**told, "kid": self.kid, "use": "sig", "alg": self.alg}

    def pem(self):
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    def sign(self, data):
        if self.alg == "EdDSA":
            return self.private.sign(data)
        if self.alg == "RS256":
            return self.private.sign(data, padding.PKCS1v15(), hashes.SHA256())
        r, s = utils.decode_dss_signature(self.private.sign(data, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


class Provider:
    """Serves its discovery document and its keys; counts who asks; can be broken."""

    def __init__(self, folder):
        self.keys, self.asked, self.broken = [Key("first")], [], False
        self.ca = folder / "ca.pem"
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "provider")])
        now = datetime.datetime.utcnow()
        made = (x509.CertificateBuilder().subject_name(name).issuer_name(name)
                .public_key(key.public_key()).serial_number(1)
                .not_valid_before(now - datetime.timedelta(hours=1))
                .not_valid_after(now + datetime.timedelta(days=1))
                .add_extension(x509.SubjectAlternativeName(
                    [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
                .add_extension(x509.BasicConstraints(True, None), True)
                .sign(key, hashes.SHA256()))
        self.ca.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        (folder / "tls.key").write_bytes(key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption()))
        told = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                told.asked.append(self.path)
                body = json.dumps(told.document(self.path)).encode()
                self.send_response(500 if told.broken else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.ca, folder / "tls.key")
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.socket = context.wrap_socket(self.http.socket, server_side=True,
                                               do_handshake_on_connect=False)
        self.issuer = f"https://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def document(self, path):
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys"}
        return {"keys": [key.jwk() for key in self.keys]}

    def fetches(self):
        return self.asked.count("/keys")

    def token(self, key=None, header=None, signature=None, **claims):
        key = key or self.keys[0]
        head = {"alg": key.alg, "kid": key.kid, "typ": "JWT", **(header or {})}
        body = {"iss": self.issuer, "aud": AUDIENCE, "sub": "subject-1",
                "exp": time.time() + 600, **claims}
        body = {name: value for name, value in body.items() if value is not None}
        head = {name: value for name, value in head.items() if value is not None}
        signed = ".".join(base64url(json.dumps(part).encode()) for part in (head, body))
        return f"{signed}.{base64url((signature or key.sign)(signed.encode()))}"

    def close(self):
        self.http.shutdown()
        self.http.server_close()


def options():
    return {"SBX_OIDC_ISSUER": provider.issuer, "SBX_OIDC_AUDIENCE": AUDIENCE,
            "SBX_OIDC_CA": provider.ca, "SBX_OIDC_ADMIN": "groups=operators",
            "SBX_RATE_FAILURES": "0"}


def setUpModule():
    global service, provider, root, server
    unittest.addModuleCleanup(sandboxd.remove_images)
    service = sandboxd.Service()
    unittest.addModuleCleanup(service.close)
    provider = Provider(service.folder)
    unittest.addModuleCleanup(provider.close)
    provider.keys += [Key("rsa", "RS256"), Key("ed", "EdDSA")]
    server = service.start(env=options())
    root = Client(server, service.key("root", "--role", "admin"))


def who(token, client=None):
    return Client((client or root).server, token).get("/me")


class Accepted(SystemCase):
    def test_each_algorithm_by_its_key(self):
        for key in provider.keys:
            with self.subTest(alg=key.alg):
                got = who(provider.token(key, sub=f"by-{key.alg}"))
                self.assertEqual(got.status, 200, got)

    def test_the_subject_becomes_a_user_at_first_sight_and_stays_it(self):
        token = provider.token(sub="ada-1", preferred_username="ada", email="ada@example.com")
        told = who(token).json
        self.assertEqual((told["user"]["name"], told["user"]["email"], told["role"], told["tier"]),
                         ("ada", "ada@example.com", "user", "free"))
        self.assertEqual((told["user"]["issuer"], told["user"]["subject"]),
                         (provider.issuer, "ada-1"))
        self.assertEqual(told["key"]["kind"], "oidc")
        again = who(provider.token(provider.keys[1], sub="ada-1", preferred_username="renamed"))
        self.assertEqual(again.json["user"]["id"], told["user"]["id"])
        self.assertEqual(again.json["user"]["name"], "ada")
        other = who(provider.token(sub="ada-2", preferred_username="ada")).json["user"]
        self.assertNotEqual(other["id"], told["user"]["id"])
        self.assertTrue(other["name"].startswith("ada-"), other)
        nameless = who(provider.token(sub="ada-3")).json["user"]
        self.assertEqual(nameless["name"], nameless["id"])

    def test_many_first_requests_at_once_make_one_user(self):
        token = provider.token(sub="crowd", preferred_username="crowd")
        got = all_at_once(lambda _: who(token), range(16), 16)
        self.assertEqual({g.status for g in got}, {200})
        self.assertEqual(len({g.json["user"]["id"] for g in got}), 1)

    def test_the_provider_says_who_is_an_administrator(self):
        boss = provider.token(sub="boss", groups=["staff", "operators"])
        self.assertEqual(who(boss).json["role"], "admin")
        self.assertEqual(Client(server, boss).get("/users").status, 200)
        former = provider.token(sub="boss", groups=["staff"])
        self.assertEqual(who(former).json["role"], "user")
        self.assert_problem(Client(server, former).get("/users"), 403, "forbidden")

    def test_its_user_works_and_makes_keys(self):
        one = Client(server, provider.token(sub="worker"))
        key = one.post("/keys", {"name": "ci", "scopes": ["sandbox:read"]})
        self.assertEqual(key.status, 201, key)
        self.assertEqual(Client(server, key.json["key"]).get("/me").json["user"]["subject"],
                         "worker")
        made = one.create()["id"]
        self.assertEqual(one.exec(made, "echo hi")["stdout"], "hi\n")
        ticket = one.post("/tickets", {"path": f"/sandboxes/{made}/logs"}).json["ticket"]
        with Client(server).stream("GET", f"/sandboxes/{made}/logs?ticket={ticket}") as stream:
            self.assertEqual(stream.status, 200)
        with sandboxd.WebSocket(server.port, f"/sandboxes/{made}/logs", {
                "Sec-WebSocket-Protocol": f"sandboxd.v1, bearer.{one.key}"}) as ws:
            self.assertEqual(ws.status, 101)
        own = one.get("/me").json["key"]["id"]
        self.assert_problem(one.delete(f"/keys/{own}"), 409, "conflict")
        self.assert_problem(one.post(f"/keys/{own}/rotate"), 409, "conflict")

    def test_keys_of_the_server_work_beside_it(self):
        self.assertEqual(root.get("/me").json["user"]["issuer"], None)


class Refused(SystemCase):
    def refused(self, token, *words):
        told = self.assert_problem(who(token), 401, "unauthorized")
        for word in words:
            self.assertIn(word, told["detail"])

    def test_what_is_not_meant_for_us(self):
        for words, claims in (("issuer", {"iss": "https://other"}), ("issuer", {"iss": None}),
                              ("audience", {"aud": "other"}), ("audience", {"aud": None}),
                              ("expired", {"exp": time.time() - 61}), ("exp", {"exp": None}),
                              ("nbf", {"nbf": time.time() + 120}), ("subject", {"sub": None}),
                              ("subject", {"sub": "x" * 256})):
            with self.subTest(claims=claims):
                self.refused(provider.token(**claims), words)
        self.assertEqual(who(provider.token(sub="late", exp=time.time() - 30)).status, 200)

    def test_confusion_of_algorithms(self):
        ecdsa, rs, ed = provider.keys
        hmac_of = lambda key: lambda data: hmac.new(key.pem(), data, hashlib.sha256).digest()
        for header, signature in (({"alg": "none"}, lambda _: b""), ({"alg": "none"}, None),
                                  ({"alg": "HS256"}, hmac_of(rs)), ({"alg": "HS256"}, hmac_of(ecdsa)),
                                  ({"alg": "HS256", "kid": None}, hmac_of(rs)),
                                  ({"alg": "PS256"}, None), ({"alg": "RS384"}, None)):
            with self.subTest(header=header):
                got = who(provider.token(rs, header, signature))
                self.assertEqual(got.status, 401, got)
        for key, kid, alg in ((ecdsa, "rsa", "RS256"), (ecdsa, "rsa", "ES256"), (ed, "first", "ES256"),
                              (rs, "rsa", "EdDSA"), (rs, "first", "RS256")):
            self.refused(provider.token(key, {"kid": kid, "alg": alg}))

    def test_a_foreign_key_under_a_known_name(self):
        self.refused(provider.token(Key("first")), "signature")

    def test_keys_that_the_token_brings_along(self):
        foreign = Key("own")
        self.refused(provider.token(foreign, {"jwk": foreign.jwk()}))
        self.refused(provider.token(foreign, {"jku": "https://127.0.0.1:1/keys"}))

    def test_what_is_no_token(self):
        good = provider.token()
        head, body, signature = good.split(".")
        for text in (f"{head}.{body}.", f"{head}..{signature}", f".{body}.{signature}",
                     f"{head}.{body}", f"{good}.x", f"{head}.{body}.{signature}=",
                     f"{head}.{body}.{signature[:-2]}", "a.b.c", ".." , f"{'x' * 9000}.{body}.x",
                     f"{head}.{base64url(b'[]')}.{signature}",
                     f"{head}.{base64url(b'{}' * 9)}.{signature}"):
            with self.subTest(text=text[:40]):
                self.assertEqual(who(text).status, 401)

    def test_a_disabled_user_and_its_open_streams(self):
        one = Client(server, provider.token(sub="leaver"))
        user = one.get("/me").json["user"]["id"]
        with one.stream("GET", "/events") as stream, one.websocket("/events") as ws:
            self.assertEqual(root.patch(f"/users/{user}", {"disabled": True}).status, 200)
            self.assertEqual(list(stream.events())[-1][1]["code"], "unauthorized")
            self.assertEqual(list(ws.frames())[-1]["code"], "unauthorized")
            self.assertEqual(ws.close_code, 4401)
        wait_for(lambda: one.get("/me").status == 401, 3, "a refusal")
        self.assertEqual(who(provider.token(sub="leaver")).status, 401)
        self.assertEqual(root.delete(f"/users/{user}").status, 204)
        self.assertEqual(who(provider.token(sub="leaver")).status, 401)

    def test_a_stream_ends_with_its_token(self):
        one = Client(server, provider.token(sub="short", exp=time.time() - 60 + 3))
        with one.stream("GET", "/events") as stream, one.websocket("/events") as ws:
            self.assertEqual((stream.status, ws.status), (200, 101))
            ticket = one.post("/tickets", {"path": "/events"}).json["ticket"]
            with Client(server).stream("GET", f"/events?ticket={ticket}") as other:
                for opened in (stream, other):
                    self.assertEqual(list(opened.events())[-1][1]["code"], "unauthorized")
            self.assertEqual(list(ws.frames())[-1]["code"], "unauthorized")
            with Client(server).stream("GET", f"/events?ticket={ticket}") as other:
                self.assertEqual(other.status, 401)


class Turning(SystemCase):
    """A server and a provider of its own each: what is fetched is counted."""

    @classmethod
    def setUpClass(cls):
        cls.service = sandboxd.Service()
        cls.addClassCleanup(cls.service.close)
        cls.key = cls.service.key()

    def setUp(self):
        folder = self.service.folder / self.id().rsplit(".", maxsplit=1)[-1]
        folder.mkdir()
        self.provider = Provider(folder)
        self.addCleanup(self.provider.close)
        self.server = None

    def serve(self, **more):
        env = {**options(), "SBX_OIDC_ISSUER": self.provider.issuer,
               "SBX_OIDC_CA": self.provider.ca, **more}
        self.server = self.service.start(env=env)
        self.addCleanup(self.server.stop)

    def who(self, token):
        return Client(self.server, token).get("/me").status

    def test_a_new_key_is_found_and_unknown_ones_cost_one_fetch(self):
        self.serve()
        wait_for(lambda: self.who(self.provider.token()) == 200, 10, "its keys")
        self.assertEqual(self.provider.fetches(), 1)
        self.provider.keys.insert(0, Key("second"))
        # Not before the pause has passed; the former key goes on meanwhile.
        wait_for(lambda: self.who(self.provider.token(sub="turned")) == 200, 25, "the new key",
                 pause=1)
        self.assertEqual(self.provider.fetches(), 2)
        self.assertEqual(self.who(self.provider.token(self.provider.keys[1])), 200)
        unknown = Key("never-there")
        bad = self.provider.token(unknown)
        wait_for(lambda: self.who(bad) == 401 and self.provider.fetches() == 3, 25,
                 "the one fetch for it", pause=1)
        began = time.monotonic()
        wait_for(lambda: self.who(bad) == 401 and time.monotonic() - began > 12, 20,
                 "the pause", pause=0.5)
        self.assertEqual(self.provider.fetches(), 3)

    def test_a_good_token_works_from_an_address_that_is_out_of_tries(self):
        self.serve(SBX_RATE_FAILURES="5")
        stranger = Client(self.server, "sbx_abcdEFGH_" + "0" * 40)
        wait_for(lambda: stranger.get("/me").status == 429, what="a refusal of the address")
        self.assertEqual(self.who(self.provider.token()), 200)

    def test_a_provider_that_is_down_keeps_its_keys(self):
        self.serve()
        wait_for(lambda: self.who(self.provider.token()) == 200, 10, "its keys")
        self.provider.broken = True
        self.assertEqual(self.who(self.provider.token()), 200)
        self.assertEqual(self.who(self.provider.token(Key("unknown"))), 401)
        self.assertEqual(self.who(self.provider.token()), 200)

    def test_without_any_keys_it_says_so_and_finds_them_later(self):
        self.provider.broken = True
        self.serve()
        got = Client(self.server, self.provider.token()).get("/me")
        self.assert_problem(got, 503, "at_capacity")
        self.assertEqual(Client(self.server, self.key).get("/me").status, 200)
        self.provider.broken = False
        wait_for(lambda: self.who(self.provider.token()) == 200, 20, "its keys")

    def test_another_certificate_is_not_trusted(self):
        self.serve(SBX_OIDC_CA=provider.ca)
        got = Client(self.server, self.provider.token()).get("/me")
        self.assertEqual(got.status, 503, got)
        self.assertEqual(self.provider.asked, [])

    def test_the_address_of_the_keys_may_be_given(self):
        self.serve(SBX_OIDC_JWKS_URL=f"{self.provider.issuer}/keys")
        wait_for(lambda: self.who(self.provider.token()) == 200, 10, "its keys")
        self.assertNotIn("/.well-known/openid-configuration", self.provider.asked)


class Options(SystemCase):
    def test_what_cannot_be_is_refused_at_the_start(self):
        good = {"SBX_OIDC_ISSUER": "https://x", "SBX_OIDC_AUDIENCE": "a"}
        for bad, word in (({"SBX_OIDC_AUDIENCE": ""}, "--oidc-audience"),
                          ({"SBX_OIDC_ISSUER": "http://x"}, "--oidc-issuer"),
                          ({"SBX_OIDC_ISSUER": "x"}, "--oidc-issuer"),
                          ({"SBX_OIDC_JWKS_URL": "ftp://x"}, "--oidc-jwks-url"),
                          ({"SBX_OIDC_ADMIN": "groups"}, "--oidc-admin")):
            with self.subTest(word=word):
                got = sandboxd.sandboxd("serve", env={**service.env, **good, **bad})
                self.assertEqual(got.returncode, 1)
                self.assertIn(word, got.stderr)


if __name__ == "__main__":
    unittest.main()
