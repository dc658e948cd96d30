"""Whom credentials of a remote reach: its own host, scheme and port; no redirect, no mirror, no proxy of HTTPS."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from tests.registries.conftest import daemon_logs
from tests.support import faults
from tests.support.forward_proxy import ForwardProxy
from tests.support.mount import Mount
from tests.support.raw_origin import Fault, RawOrigin, Request

pytestmark = [pytest.mark.mounted, pytest.mark.timeout(60)]

MakeMount = Callable[..., Mount]
DATA = bytes(range(256)) * 1200
TOKEN = "t0ken-of-the-remote"
PASSWORD = "pa55word-of-the-remote"
PROXY_PASSWORD = "pa55word-of-the-proxy"


@pytest.fixture
def known_secrets() -> list[str]:
    return [TOKEN, PASSWORD, f"user:{PASSWORD}", PROXY_PASSWORD, f"near:{PROXY_PASSWORD}"]


@pytest.fixture
def mount(tmp_path: Path, lazysif: MakeMount) -> Callable[..., Mount]:
    def make(url: str, *lines: str) -> Mount:
        configuration = tmp_path / "lazysif.toml"
        configuration.write_text("\n".join(["[remote.r]", 'kind = "http"', f'url = "{url}"', *lines, ""]))
        return lazysif(config=configuration)

    return make


def secret_file(tmp_path: Path, name: str, text: str) -> str:
    file = tmp_path / name
    file.touch(0o600)
    file.write_text(text)
    return str(file)


@pytest.fixture(params=["bearer", "basic"])
def lines(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    if request.param == "bearer":
        return [f'token_file = "{secret_file(tmp_path, "token", TOKEN)}"']
    return ['username = "user"', f'password_file = "{secret_file(tmp_path, "password", PASSWORD)}"']


@pytest.fixture
def other(request: pytest.FixtureRequest) -> Iterator[RawOrigin]:
    with RawOrigin({"/a.sif": DATA}) as origin:
        yield origin


def authorized(origin: RawOrigin) -> list[bool]:
    return ["authorization" in entry.headers for entry in origin.log]


def test_a_redirect_to_another_port_or_host_carries_none(
    lines: list[str], other: RawOrigin, mount: Callable[..., Mount]
) -> None:
    away = {"/port.sif": other.url, "/host.sif": other.url.replace("127.0.0.1", "localhost")}

    def decide(request: Request) -> Fault | None:
        return faults.Redirect(away[request.path] + "/a.sif") if request.path in away else None

    with RawOrigin({"/b.sif": DATA}, decide=decide) as origin:
        mounted = mount(origin.url, *lines)
        for path in away:
            assert (mounted.path / f"r{path}").read_bytes() == DATA
        assert all(authorized(origin))
        assert other.log
        assert not any(authorized(other))


@pytest.mark.parametrize("lines", ["bearer"], indirect=True)
def test_a_redirect_to_another_scheme_carries_none(
    lines: list[str], mount: Callable[..., Mount], tmp_path: Path
) -> None:
    with RawOrigin({"/a.sif": DATA}, tls=True) as safe:
        assert safe.ca is not None
        safe.ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        with RawOrigin(default=faults.Redirect(safe.url + "/a.sif")) as origin:
            mounted = mount(origin.url, *lines, f'ca_file = "{tmp_path}/ca.pem"')
            assert (mounted.path / "r/a.sif").read_bytes() == DATA
            assert all(authorized(origin))
            assert safe.log
            assert not any(authorized(safe))


@pytest.mark.parametrize("lines", ["bearer"], indirect=True)
def test_a_mirror_gets_none(lines: list[str], other: RawOrigin, mount: Callable[..., Mount]) -> None:
    with RawOrigin({"/a.sif": DATA}) as origin:
        mounted = mount(origin.url, *lines, f'mirrors = ["{other.url}"]')
        assert (mounted.path / "r/a.sif").read_bytes() == DATA
        assert all(authorized(origin))
        assert sum(len(entry.headers.get("range", "")) > 0 for entry in other.log), "it brought the bytes"
        assert not any(authorized(other))


@pytest.mark.parametrize("lines", ["basic"], indirect=True)
def test_a_proxy_sees_nothing_of_an_https_origin(
    lines: list[str], mount: Callable[..., Mount], tmp_path: Path
) -> None:
    with RawOrigin({"/a.sif": DATA}, tls=True) as origin, ForwardProxy(f"near:{PROXY_PASSWORD}") as proxy:
        assert origin.ca is not None
        origin.ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        password = secret_file(tmp_path, "proxy-password", PROXY_PASSWORD)
        mounted = mount(
            origin.url,
            *lines,
            f'ca_file = "{tmp_path}/ca.pem"',
            f'proxies = ["{proxy.url}"]',
            'proxy_username = "near"',
            f'proxy_password_file = "{password}"',
        )
        assert (mounted.path / "r/a.sif").read_bytes() == DATA
        assert all(authorized(origin))
        assert not any("proxy" in name for entry in origin.log for name in entry.headers)
        assert {head.split(" ")[0] for head in proxy.log} == {"CONNECT"}
        basic = base64.b64encode(f"user:{PASSWORD}".encode()).decode()
        assert not any(secret in head for head in proxy.log for secret in (TOKEN, basic, "a.sif"))


def test_a_wrong_proxy_password_is_told_in_one_line(mount: Callable[..., Mount], tmp_path: Path) -> None:
    with RawOrigin({"/a.sif": DATA}) as origin, ForwardProxy("near:another-one") as proxy:
        password = secret_file(tmp_path, "proxy-password", PROXY_PASSWORD)
        mounted = mount(
            origin.url,
            f'proxies = ["{proxy.url}"]',
            'proxy_username = "near"',
            f'proxy_password_file = "{password}"',
        )
        with pytest.raises(PermissionError):
            (mounted.path / "r/a.sif").read_bytes()
        lines = [line for line in mounted.log().splitlines() if "r/a.sif" in line and "407" in line]
        assert proxy.url in lines[0]
        assert "proxy_username" in lines[0]


def test_a_client_certificate_is_for_the_origin_alone(mount: Callable[..., Mount], tmp_path: Path) -> None:
    ca = trustme.CA()
    known = ca.issue_cert("node@site.example")
    known.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    (tmp_path / "key.pem").chmod(0o600)
    known.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    with (
        RawOrigin({"/a.sif": DATA}, tls=True) as origin,
        RawOrigin({"/a.sif": DATA}, tls=True) as mirror,
    ):
        assert origin.ca is not None
        assert mirror.ca is not None
        for asking in (origin, mirror):
            assert asking._tls is not None
            asking._tls.verify_mode = ssl.CERT_OPTIONAL
            ca.configure_trust(asking._tls)
        (tmp_path / "ca.pem").write_bytes(origin.ca.cert_pem.bytes() + mirror.ca.cert_pem.bytes())
        mounted = mount(
            origin.url,
            f'ca_file = "{tmp_path}/ca.pem"',
            f'client_cert_file = "{tmp_path}/cert.pem"',
            f'client_key_file = "{tmp_path}/key.pem"',
            f'mirrors = ["{mirror.url}"]',
        )
        assert (mounted.path / "r/a.sif").read_bytes() == DATA
        assert all("site.example" in entry.client for entry in origin.log)
        assert all(entry.client == "" for entry in mirror.log)


def test_the_look_at_the_logs_finds_what_is_there(tmp_path: Path) -> None:
    """The fixture of this directory is worth nothing if it looks at the wrong place."""
    state = tmp_path / "m0" / "state"
    state.mkdir(parents=True)
    (state / "lazysif.log.1").touch()
    assert daemon_logs(tmp_path) == [state / "lazysif.log.1"]
