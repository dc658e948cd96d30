"""The by-URL remote asks the hosts that are named, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from lazysif.config.load import load_config
from lazysif.core.names import is_named_host
from lazysif.errors import NoSuchEntry, SourceProtocolError
from lazysif.model import DirectoryEntry, EntryKind, Request
from lazysif.registries.by_url import ByUrlRegistry
from lazysif.remotes.sources import source_of
from lazysif.remotes.transports import make_transport
from lazysif.transport.redirects import InwardGuard

HOSTS = ("images.example", "*.example.org", "10.1.2.3:8443")


@pytest.mark.parametrize(
    ("host", "named"),
    [
        ("images.example", True),
        ("IMAGES.example", True),
        ("images.example:8443", False),
        ("other.example", False),
        ("a.example.org", True),
        ("example.org", False),
        ("example.org.evil.net", False),
        ("10.1.2.3:8443", True),
        ("10.1.2.3", False),
        ("me@images.example", True),
    ],
)
def test_hosts_that_are_named(host: str, named: bool) -> None:
    assert is_named_host(host, HOSTS) is named


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "169.254.169.254", "[::1]", "metadata.google.internal", "0x7f.1"]
)
def test_a_pattern_names_nothing_of_this_node_or_its_link(host: str) -> None:
    assert not is_named_host(host, ["*"])
    assert is_named_host(host, ["*", host])


async def test_names_are_hosts_and_paths() -> None:
    registry = ByUrlRegistry(HOSTS)
    located = await registry.locate("images.example/a b/x.sif")
    assert located is not None
    assert located.url == located.origin == "https://images.example/a%20b/x.sif"
    assert await registry.locate("a.example.org") is None
    with pytest.raises(NoSuchEntry, match="does not name this host"):
        await registry.locate("evil.net/x.sif")
    assert await registry.list("") == (
        DirectoryEntry("images.example", EntryKind.DIRECTORY),
        DirectoryEntry("10.1.2.3:8443", EntryKind.DIRECTORY),
    )


async def test_redirects_to_other_hosts_are_refused() -> None:
    guard = InwardGuard("", HOSTS)
    await guard.check("https://images.example/x.sif")
    await guard.check("https://10.1.2.3:8443/x.sif")
    for url in ("https://evil.net/x.sif", "http://169.254.169.254/latest", "https://localhost/x"):
        with pytest.raises(SourceProtocolError, match="does not name"):
            await guard.check(url)


async def test_a_named_host_whose_name_leads_inward_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolved(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        return [(None, None, None, "", ("169.254.169.254", 0))]

    monkeypatch.setattr("trio.socket.getaddrinfo", resolved)
    with pytest.raises(SourceProtocolError, match="address of this node or its link"):
        await InwardGuard("", HOSTS).check("https://images.example/x.sif")


async def test_the_configured_remote_holds_its_transport_to_the_hosts(tmp_path: Path) -> None:
    file = tmp_path / "lazysif.toml"
    file.write_text('[remote.any]\nkind = "url"\nhosts = ["images.example"]\n')
    (remote,) = load_config(file).remotes
    transport = make_transport(remote, source_of(remote), connections=1)
    try:
        with pytest.raises(SourceProtocolError, match="does not name"):
            async with transport.send(Request("https://evil.net/x.sif")):
                pass
    finally:
        await transport.aclose()
