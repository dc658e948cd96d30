"""Where keys and tokens of clouds come from, by the libraries themselves: files, environment, metadata services."""

from __future__ import annotations

import datetime
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from lazysif.errors import AccessDenied, ConfigError, SourceUnavailable
from lazysif.transport.google_auth import GoogleAuth, GoogleTokens, check_credentials_file
from lazysif.transport.proxy import Proxy
from lazysif.transport.renewable import Renewable
from lazysif.transport.s3_auth import AwsChain
from tests.support.gcs_server import GcsServer
from tests.support.loopback import Handler, LoopbackServer
from tests.support.s3_servers import write_credentials

NOWHERE = "http://127.0.0.1:9/"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of who runs the tests, and no metadata service of the machine that they run on."""
    for variable in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws-credentials"))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")


# --- AWS ------------------------------------------------------------------------------------------


def test_keys_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the environment")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session")
    key = AwsChain()(False).value
    assert (key.access_key, key.secret, key.token) == ("AKENV", "of the environment", "session")


def test_keys_of_a_profile(tmp_path: Path) -> None:
    (tmp_path / "aws-credentials").write_text(
        "[default]\naws_access_key_id = AKDEFAULT\naws_secret_access_key = x\n"
        "[site]\naws_access_key_id = AKSITE\naws_secret_access_key = y\n"
    )
    assert AwsChain()(False).value.access_key == "AKDEFAULT"
    assert AwsChain("site")(False).value.access_key == "AKSITE"


def test_a_credentials_file_comes_before_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the environment")
    write_credentials(tmp_path / "given", "AKFILE", "z")
    chain = AwsChain("", str(tmp_path / "given"))
    assert chain(False).value.access_key == "AKFILE"
    write_credentials(tmp_path / "given", "AKNEXT", "z")
    assert chain(False).value.access_key == "AKFILE"
    assert chain(True).value.access_key == "AKNEXT"


def test_no_keys_are_told_with_what_to_write() -> None:
    with pytest.raises(AccessDenied, match=r"no AWS credentials were found.*anonymous = true") as raised:
        AwsChain()(False)
    assert raised.value.asks_credentials


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("", "profile"),
        ("[profile site]\naws_access_key_id = AK\n", "Partial credentials"),
        ("[profile site\n", "parse"),
    ],
    ids=["unknown profile", "half a key", "no file of profiles"],
)
def test_settings_that_cannot_be_meant_are_told(tmp_path: Path, config: str, words: str) -> None:
    (tmp_path / "aws-config").write_text(config)
    with pytest.raises(AccessDenied, match=words) as raised:
        AwsChain("site")(False)
    assert raised.value.asks_credentials


def test_a_credential_program_that_fails_is_not_quoted(tmp_path: Path) -> None:
    (tmp_path / "aws-config").write_text(
        "[profile site]\ncredential_process = sh -c 'echo kept-secret >&2; exit 1'\n"
    )
    with pytest.raises(SourceUnavailable, match="CredentialRetrievalError") as raised:
        AwsChain("site")(False)
    assert "kept-secret" not in str(raised.value)


class MetadataHandler(Handler):
    """A container's and an instance's metadata service, with keys that end soon after they were asked for."""

    stand: MetadataServer

    def do_PUT(self) -> None:
        self.answer(200, b"imds-token", X_aws_ec2_metadata_token_ttl_seconds="21600")

    def do_GET(self) -> None:
        self.stand.asked += 1
        if self.path.endswith("/security-credentials/"):
            self.answer(200, b"role")
            return
        ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=self.stand.lifetime_s)
        said = {
            "Code": "Success",
            "AccessKeyId": f"AK{self.stand.asked}",
            "SecretAccessKey": "secret of the role",
            "Token": "session",
            "Expiration": ends.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        self.answer(200, json.dumps(said).encode(), Content_Type="application/json")


class MetadataServer(LoopbackServer):
    handler = MetadataHandler

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.lifetime_s = 3600.0


@pytest.fixture
def metadata() -> Iterator[MetadataServer]:
    with MetadataServer() as server:
        yield server


def test_keys_of_a_container_are_renewed_before_they_end(
    monkeypatch: pytest.MonkeyPatch, metadata: MetadataServer
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{metadata.url}/keys")
    metadata.lifetime_s = 300.0  # less than the time before their end in which botocore renews them
    chain = AwsChain()
    first = chain(False).value
    assert first.token == "session"
    assert chain(False).value != first
    metadata.lifetime_s = 7200.0
    last = chain(False).value
    assert chain(False).value == last


def test_keys_of_an_instance(monkeypatch: pytest.MonkeyPatch, metadata: MetadataServer) -> None:
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url)
    chain = AwsChain()
    assert chain(False).value.secret == "secret of the role"
    asked = metadata.asked
    chain(False)
    assert metadata.asked == asked


def test_debug_logs_of_the_libraries_stay_off(
    monkeypatch: pytest.MonkeyPatch, metadata: MetadataServer, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{metadata.url}/keys")
    caplog.set_level(logging.DEBUG)
    AwsChain()(False)
    assert not [record for record in caplog.records if "secret of the role" in record.getMessage()]
    assert not [record for record in caplog.records if record.name.startswith(("botocore", "urllib3"))]


# --- Google ---------------------------------------------------------------------------------------


@pytest.fixture
def google() -> Iterator[GcsServer]:
    with GcsServer() as server:
        yield server


def test_a_token_of_a_service_account(google: GcsServer, tmp_path: Path) -> None:
    held = GoogleTokens(google.service_account(tmp_path / "key.json"))(False)
    assert held.value in google.tokens
    assert 3300 < held.ends_at_s - time.time() < 3700
    assert held.renew_at_s < held.ends_at_s


def test_application_default_credentials(
    monkeypatch: pytest.MonkeyPatch, google: GcsServer, tmp_path: Path
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(google.service_account(tmp_path / "key.json")))
    assert GoogleTokens(None)(False).value in google.tokens


def test_a_token_of_the_metadata_server(google: GcsServer) -> None:
    """In a process of its own: google-auth reads the environment when it is loaded."""
    script = "from lazysif.transport.google_auth import GoogleTokens; print(GoogleTokens(None)(False).value)"
    environment = {**os.environ, "GCE_METADATA_HOST": google.host, "GCE_METADATA_IP": google.host}
    del environment["NO_GCE_CHECK"]
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() in google.tokens, done.stderr


def test_a_key_that_the_token_server_does_not_know(google: GcsServer, tmp_path: Path) -> None:
    tokens = GoogleTokens(google.service_account(tmp_path / "key.json", other_key=True))
    with pytest.raises(AccessDenied, match="invalid_grant") as raised:
        tokens(False)
    assert raised.value.asks_credentials


def test_a_token_server_that_is_away_is_temporary(google: GcsServer, tmp_path: Path) -> None:
    file = google.service_account(tmp_path / "key.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"token_uri": NOWHERE}))
    with pytest.raises(SourceUnavailable, match="TransportError"):
        GoogleTokens(file)(False)


class ProxyHandler(Handler):
    """Notes what it is asked to connect to, and does not."""

    def do_CONNECT(self) -> None:
        self.stand.log.add(f"CONNECT {self.path}")
        self.answer(502)


class ProxyServer(LoopbackServer):
    handler = ProxyHandler


def test_a_token_is_asked_for_through_the_proxy(google: GcsServer, tmp_path: Path) -> None:
    file = google.service_account(tmp_path / "key.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"token_uri": "https://token.example/x"}))
    with ProxyServer() as proxy, pytest.raises(SourceUnavailable):
        GoogleTokens(file, None, Proxy(proxy.url))(False)
    assert proxy.log.lines
    assert {line for line, _ in proxy.log.lines} == {"CONNECT token.example:443"}


def test_no_google_credentials_are_told_with_what_to_write() -> None:
    with pytest.raises(AccessDenied, match=r"no Google credentials were found.*anonymous = true"):
        GoogleTokens(None)(False)


@pytest.mark.parametrize(
    "text", ["no JSON, kept-secret", "[]", '{"type": "external_account", "x": "kept-secret"}']
)
def test_files_that_hold_no_credentials(tmp_path: Path, text: str) -> None:
    file = tmp_path / "key.json"
    file.touch(0o600)
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"key\.json") as raised:
        check_credentials_file(file)
    assert "kept-secret" not in str(raised.value)
    with pytest.raises(AccessDenied) as denied:
        GoogleTokens(file)(False)
    assert "kept-secret" not in str(denied.value)


def test_a_broken_key_is_not_quoted(google: GcsServer, tmp_path: Path) -> None:
    file = google.service_account(tmp_path / "key.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"private_key": "kept-secret"}))
    with pytest.raises(AccessDenied, match="cannot be read") as raised:
        GoogleTokens(file)(False)
    assert "kept-secret" not in str(raised.value)


async def test_a_hundred_requests_with_a_refused_token_ask_for_one(google: GcsServer, tmp_path: Path) -> None:
    """Driven by hand, as the libcurl transport does."""
    tokens = Renewable(GoogleTokens(google.service_account(tmp_path / "key.json")), "a token")
    auth = GoogleAuth(tokens, "project")
    url = f"{google.url}/storage/v1/b/images/o/x"
    await tokens.current()
    google.tokens.clear()
    given = len(google.given)
    sent: list[httpx.Request] = []

    async def ask() -> None:
        flow: Any = auth.async_auth_flow(httpx.Request("GET", url))
        await anext(flow)
        sent.append(await flow.asend(httpx.Response(401)))
        await flow.aclose()

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(ask)
    assert len(google.given) == given + 1
    assert {request.headers["authorization"] for request in sent} == {f"Bearer {google.given[-1]}"}
    assert sent[0].headers["x-goog-user-project"] == "project"
