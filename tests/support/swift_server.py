"""A real Swift (Debian's packages, `swift_node.py`) with its own client, and a Keystone in front of its tokens."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
import urllib.request
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.mount import scrubbed_environment

SYSTEM_PYTHON = "/usr/bin/python3"
USER, KEY = "test:tester", "testing"
START_S = 30.0


class NotInstalled(Exception):
    """The packages that Swift needs are not there."""


@dataclass(frozen=True)
class SwiftRequest:
    """One line of the proxy's log."""

    method: str
    path: str
    query: str
    status: int
    range: str


class SwiftServer:
    """Args: directory: for everything, emptied by whoever made it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = 0
        self._process: subprocess.Popen[str] | None = None
        self._seen = 0

    def __enter__(self) -> Self:
        installed = subprocess.run([SYSTEM_PYTHON, "-c", "import swift"], capture_output=True, check=False)
        if installed.returncode or shutil.which("swift") is None:
            raise NotInstalled("python3-swift or python3-swiftclient is not installed")
        self.directory.mkdir(parents=True, exist_ok=True)
        script = Path(__file__).with_name("swift_node.py")
        with (self.directory / "errors.log").open("w") as errors:
            self._process = subprocess.Popen(
                [SYSTEM_PYTHON, script, self.directory],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=scrubbed_environment(PYTHONPATH=""),
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError((self.directory / "errors.log").read_text())
        self.port = int(line)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()

    @property
    def auth_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/auth/v1.0"

    @property
    def storage_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/AUTH_test"

    def client(self, *arguments: str | Path) -> str:
        """What `swift ARGUMENTS` prints, logged in by v1."""
        return swift_client(*arguments, ST_AUTH=self.auth_url, ST_USER=USER, ST_KEY=KEY)

    def expire_tokens(self) -> None:
        """No token given out so far holds any more."""
        assert self._process is not None
        self._process.send_signal(signal.SIGUSR1)
        time.sleep(0.05)

    def tokens(self) -> list[str]:
        """All that were ever given out."""
        path = self.directory / "tokens.log"
        return path.read_text().split() if path.exists() else []

    def log_in(self) -> str:
        """A token, as anybody gets one."""
        request = urllib.request.Request(self.auth_url, headers={"X-Auth-User": USER, "X-Auth-Key": KEY})
        with urllib.request.urlopen(request) as answer:
            return str(answer.headers["X-Auth-Token"])

    def requests(self) -> list[SwiftRequest]:
        """Those since the last `clear`."""
        found = []
        for line in self._lines()[self._seen :]:
            method, target, status, asked = line.split(" ")
            path, _, query = target.partition("?")
            found.append(SwiftRequest(method, path, query, int(status), asked))
        return found

    def clear(self) -> None:
        self._seen = len(self._lines())

    def _lines(self) -> list[str]:
        path = self.directory / "requests.log"
        return path.read_text().splitlines() if path.exists() else []


def swift_client(*arguments: str | Path, **environment: str) -> str:
    """What Debian's `swift` prints. Raises: AssertionError: it failed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OS_", "ST_"))}
    done = subprocess.run(
        ["swift", *map(str, arguments)], env=kept | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


class Keystone:
    """The identity API v3 as far as a login goes: it checks user, project and domains or an application credential,
    and hands on a token of Swift's own, which knows no other.

    `refuse` is a status that all logins get; `logins` counts them.
    """

    def __init__(self, swift: SwiftServer) -> None:
        self.swift = swift
        self.refuse = 0
        self.logins = 0
        self.region = "north"
        self.password = "correct-horse"
        self.application_secret = "battery-staple"
        keystone = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, headers, answer = keystone._answer(self.path, json.loads(body))
                data = json.dumps(answer).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, path: str, body: Any) -> tuple[int, dict[str, str], Any]:
        if path != "/v3/auth/tokens":
            return 404, {}, {"error": {"code": 404}}
        self.logins += 1
        if self.refuse:
            return self.refuse, {}, {"error": {"code": self.refuse}}
        if not self._known(body["auth"]):
            return (
                401,
                {},
                {"error": {"code": 401, "message": "The request you have made requires authentication."}},
            )
        addresses = {"public": self.swift.storage_url, "internal": "http://127.0.0.1:1/v1/AUTH_inside"}
        endpoints = [
            {"id": kind, "interface": kind, "region": self.region, "region_id": self.region, "url": url}
            for kind, url in addresses.items()
        ]
        catalog = [
            {"type": "identity", "name": "keystone", "id": "1", "endpoints": []},
            {"type": "object-store", "name": "swift", "id": "2", "endpoints": endpoints},
        ]
        token = {
            "methods": ["password"],
            "expires_at": "2099-01-01T00:00:00.000000Z",
            "issued_at": "2026-01-01T00:00:00.000000Z",
            "user": {"id": "u", "name": "alice", "domain": {"id": "default", "name": "Default"}},
            "project": {"id": "p", "name": "genomics", "domain": {"id": "default", "name": "Default"}},
            "catalog": catalog,
            "roles": [],
        }
        return 201, {"X-Subject-Token": self.swift.log_in()}, {"token": token}

    def _known(self, auth: Any) -> bool:
        identity = auth["identity"]
        if identity["methods"] == ["application_credential"]:
            given = identity["application_credential"]
            return "scope" not in auth and given == {"id": "a1b2c3", "secret": self.application_secret}
        user = identity["password"]["user"]
        domains = ({"id": "default"}, {"name": "Default"})
        project = auth["scope"]["project"]
        return (
            (user["name"], user["password"]) == ("alice", self.password)
            and user["domain"] in domains
            and (project == {"id": "p"} or (project["name"] == "genomics" and project["domain"] in domains))
        )
