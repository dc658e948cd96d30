"""Debian's docker-registry (distribution), and what is around one in the world: a token service, object storage."""

from __future__ import annotations

import base64
import datetime
import http.client
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from tests.support.loopback import Handler, Log, LoopbackServer
from tests.support.mount import scrubbed_environment, wait_until
from tests.support.signed_storage import SignedStorage

SERVICE, ISSUER = "registry.test", "tests"
_BLOB = re.compile(r"/v2/(.+)/blobs/sha256:([0-9a-f]{64})")


def basic(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def docker_config(directory: Path, host: str, user: str, password: str) -> Path:
    """A file as `docker login` writes it."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "config.json"
    file.touch(0o600)
    file.write_text(json.dumps({"auths": {host: {"auth": basic(user, password)}}}))
    return file


def push(image: Path, name: str, auth_file: Path | None = None, **environment: str) -> None:
    """`apptainer push` to `host/repository:tag`."""
    given = ["--authfile", str(auth_file)] if auth_file is not None else []
    done = subprocess.run(
        ["apptainer", "push", "--allow-unsigned", *given, str(image), f"oras://{name}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=scrubbed_environment(**environment),
    )
    assert done.returncode == 0, done.stderr


class DockerRegistry:
    """A registry process over files in `root`.

    Args:
        users: name to password.
        token: another way in.
        tls: files of a certificate chain and its key.
    """

    def __init__(
        self,
        root: Path,
        *,
        users: dict[str, str] | None = None,
        token: TokenService | None = None,
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        program = shutil.which("docker-registry")
        if program is None:
            pytest.skip("docker-registry is not installed")
        root.mkdir()
        self._program = program
        self._root = root
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.host = f"127.0.0.1:{found.getsockname()[1]}"
        configuration = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": False}},
            "storage": {"filesystem": {"rootdirectory": str(root / "data")}, "delete": {"enabled": True}},
            "http": {"addr": self.host, "secret": secrets.token_hex(8), **_tls(tls)},
            "auth": self._auth(users, token),
        }
        self._file = root / "config.yml"
        # JSON is YAML
        self._file.write_text(json.dumps({key: value for key, value in configuration.items() if value}))

    def _auth(self, users: dict[str, str] | None, token: TokenService | None) -> dict[str, object]:
        if users is not None:
            file = self._root / "htpasswd"
            file.touch()
            for user, password in users.items():
                subprocess.run(
                    ["htpasswd", "-bB", "-C4", str(file), user, password], check=True, capture_output=True
                )
            return {"htpasswd": {"realm": "test", "path": str(file)}}
        if token is not None:
            bundle = self._root / "token.pem"
            bundle.write_bytes(token.certificate.public_bytes(serialization.Encoding.PEM))
            asked = {"realm": f"{token.url}/token", "service": SERVICE, "issuer": ISSUER}
            return {"token": {**asked, "rootcertbundle": str(bundle)}}
        return {}

    def blob(self, digest: str) -> Path:
        """The file that holds a blob; `digest` without "sha256:"."""
        return self._root / "data/docker/registry/v2/blobs/sha256" / digest[:2] / digest / "data"

    def requests(self) -> list[str]:
        """`GET /v2/... 200`, in order, as its access log has them."""
        lines = (self._root / "access.log").read_text().splitlines()
        found = [re.search(r'"([A-Z]+ \S+) HTTP/[\d.]+" (\d+)', line) for line in lines]
        return [f"{match[1]} {match[2]}" for match in found if match is not None]

    def __enter__(self) -> Self:
        with (self._root / "access.log").open("wb") as out, (self._root / "errors.log").open("wb") as err:
            self._process = subprocess.Popen(
                [self._program, "serve", str(self._file)], stdout=out, stderr=err, env={**os.environ}
            )
        wait_until(self._answers, f"no answer from {self._program}: {self._root / 'errors.log'}")
        return self

    def _answers(self) -> bool:
        assert self._process.poll() is None, (self._root / "errors.log").read_text()
        host, _, port = self.host.partition(":")
        try:
            socket.create_connection((host, int(port)), 1).close()
        except OSError:
            return False
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(10)


def _tls(files: tuple[Path, Path] | None) -> dict[str, object]:
    return {"tls": {"certificate": str(files[0]), "key": str(files[1])}} if files is not None else {}


class _TokenHandler(Handler):
    stand: TokenService

    def do_GET(self) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        given = self.headers.get("Authorization")
        self.stand.log.add(f"GET /token {asked.get('scope', [''])[0]}")
        if self.stand.fail:
            return self.answer(self.stand.fail.pop(0), Retry_After="1")
        if given not in (None, *self.stand.basics):
            return self.answer(401, b'{"details": "incorrect username or password"}')
        # without credentials a token of no rights, as Docker Hub gives it for private repositories
        return self._give("token", asked.get("scope", []) if given is not None else [])

    def do_POST(self) -> None:
        form = parse_qs(self.body().decode())
        self.stand.log.add(f"POST /token {form.get('scope', [''])[0]}")
        if not self.stand.takes_post:
            return self.answer(404)
        if form.get("refresh_token") != [self.stand.identity_token]:
            return self.answer(401)
        return self._give("access_token", form["scope"])

    def _give(self, key: str, scopes: list[str]) -> None:
        token = self.stand.token([scope for line in scopes for scope in line.split()])
        said = json.dumps({key: token, "expires_in": self.stand.lifetime_s})
        self.answer(200, said.encode(), Content_Type="application/json")


class TokenService(LoopbackServer):
    """Gives JWTs that a registry with its certificate believes (distribution "Token Authentication Specification").

    Args: users: name to password.
    """

    handler = _TokenHandler

    def __init__(self, users: dict[str, str], log: Log | None = None) -> None:
        super().__init__(log)
        self.basics = [f"Basic {basic(*pair)}" for pair in users.items()]
        self.identity_token = secrets.token_hex(16)
        self.basics.append(f"Basic {basic('<token>', self.identity_token)}")
        self.takes_post = True
        self.lifetime_s = 300
        self.given: list[str] = []
        self.fail: list[int] = []
        """Statuses of the next answers."""
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
        now = datetime.datetime.now(datetime.UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def token(self, scopes: list[str]) -> str:
        """A JWT (RFC 7519) that says ES256 (RFC 7518 section 3.4)."""
        now = int(time.time())
        chain = [base64.b64encode(self.certificate.public_bytes(serialization.Encoding.DER)).decode()]
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        claims: dict[str, object] = {"iss": ISSUER, "sub": "user", "aud": SERVICE, "access": access}
        claims |= {"iat": now, "nbf": now - 5, "exp": now + self.lifetime_s, "jti": secrets.token_hex(8)}
        said = f"{_b64({'typ': 'JWT', 'alg': 'ES256', 'x5c': chain})}.{_b64(claims)}"
        r, s = decode_dss_signature(self._key.sign(said.encode(), ec.ECDSA(hashes.SHA256())))
        token = f"{said}.{_b64_bytes(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"
        self.given.append(token)
        return token


def _b64(said: object) -> str:
    return _b64_bytes(json.dumps(said).encode())


def _b64_bytes(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class _FrontHandler(Handler):
    stand: Front

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.stand.log.add(f"{self.command} {path}")
        if self.stand.fail and "/manifests/" in path:
            said = b'{"errors": [{"code": "TOOMANYREQUESTS", "message": "slow down"}]}'
            return self.answer(self.stand.fail.pop(0), said, Retry_After="1")
        blob = _BLOB.fullmatch(path)
        if self.command == "GET" and blob is not None:
            status, headers, _ = self._upstream("HEAD")
            if status in (200, 206):
                return self.answer(
                    307, Location=self.stand.storage.url_for(self.stand.registry.blob(blob[2]))
                )
            return self.answer(status, b"", **{**headers, "Content_Length": "0"})
        status, headers, body = self._upstream(self.command)
        return self.answer(status, body, **headers)

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def _upstream(self, method: str) -> tuple[int, dict[str, str], bytes]:
        """What the registry says; a token that was revoked does not reach it."""
        sent = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        if sent.get("Authorization", "").removeprefix("Bearer ") in self.stand.revoked:
            del sent["Authorization"]
        connection = http.client.HTTPConnection(self.stand.registry.host, timeout=20)
        try:
            connection.request(method, self.path, self.body() if method != "HEAD" else None, sent)
            answer = connection.getresponse()
            dropped = ("content-length", "connection", "date", "transfer-encoding")
            kept = {name: value for name, value in answer.getheaders() if name.lower() not in dropped}
            if method == "HEAD":
                kept["Content_Length"] = answer.headers["Content-Length"]
            return answer.status, kept, answer.read()
        finally:
            connection.close()


class Front(LoopbackServer):
    """What stands before a registry with object storage: blobs are answered with 307 to signed URLs.

    Everything else, and whether a blob may be had, the registry behind it says.
    """

    handler = _FrontHandler

    def __init__(self, registry: DockerRegistry, storage: SignedStorage, log: Log) -> None:
        super().__init__(log)
        self.registry = registry
        self.storage = storage
        self.revoked: set[str] = set()
        self.fail: list[int] = []
        """Statuses of the next answers to requests for manifests."""
