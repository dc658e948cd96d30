"""Mirrors, proxies and client certificates in the configuration: what is meant, and every mistake on one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from lazysif.config.kinds import HttpRemote
from lazysif.config.load import check_config, from_toml, load_config
from lazysif.config.render import render, to_toml
from lazysif.core.rendezvous import STRIPE_BYTES
from lazysif.fetch.routes import Routes
from lazysif.remotes.sources import source_of
from lazysif.remotes.transports import make_transport, routes_of
from lazysif.telemetry import Counters

HEAD = '[remote.x]\nkind = "http"\nurl = "https://a.example/sif/"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "lazysif.toml"


def loaded(file: Path, *lines: str) -> HttpRemote:
    file.write_text(HEAD + "\n".join(lines))
    (remote,) = load_config(file).remotes
    assert isinstance(remote, HttpRemote)
    return remote


def test_groups_are_read_and_shown_as_they_are_written(file: Path) -> None:
    remote = loaded(
        file,
        'proxies = [["http://c1:3128/", "http://c2:3128"], "direct"]',
        'mirrors = [["https://m1/sif/", "url"], "https://m2/sif"]',
    )
    assert remote.proxies == (("http://c1:3128", "http://c2:3128"), ("direct",))
    assert remote.mirrors == (("https://m1/sif/", "url"), ("https://m2/sif",))
    config = load_config(file)
    assert 'proxies = [["http://c1:3128", "http://c2:3128"], ["direct"]]' in render(config)
    assert from_toml(to_toml(config)) == config


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('proxies = "http://c:3128"', 'proxies: not a list: write [["http://cache1:3128"'),
        ("proxies = [1]", "proxies: neither text nor a list of texts"),
        ("proxies = [[]]", "proxies: a group is empty"),
        ('proxies = ["c:3128"]', "proxies: the URL has no scheme"),
        ('proxies = ["socks5://c:1"]', 'proxies: a URL of scheme "socks5" cannot be read'),
        (
            'proxies = ["http://u:hidden@c:1"]',
            "proxies: a proxy's URL holds a user name: write proxy_username",
        ),
        (
            'proxies = ["https://c:1"]',
            "proxies: a proxy is spoken to by plain HTTP, also for https:// origins",
        ),
        ('proxies = ["http://c:1/path"]', "proxies: a proxy is scheme, host and port, without a path"),
        ('proxies = ["http://c:1", ["http://c:1/"]]', "proxies: one of them is named twice"),
        ('proxy_username = "u"', "proxy_username: a user name needs a password"),
        ('mirrors = ["https://m/?sig=hidden"]', "mirrors: a mirror's URL has a query"),
        ('mirrors = ["https://u:hidden@m/"]', "mirrors: the URL holds a user name"),
        ('mirrors = ["https://a.example/sif/"]', 'mirrors: the remote\'s own URL is among them: write "url"'),
        ('mirrors = ["direct"]', "mirrors: the URL has no scheme"),
        ('client_cert_file = "/etc/passwd"', "client_cert_file: a certificate needs its key"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(file: Path, line: str, told: str) -> None:
    file.write_text(HEAD + line)
    (found,) = check_config(file)
    assert found.startswith(f"{file}:4: remote.x.{told}"), found
    assert "hidden" not in found


def test_secrets_of_proxies_and_certificates_are_their_owner_s_alone(file: Path, tmp_path: Path) -> None:
    for key in ("proxy_password_file", "client_key_file"):
        (tmp_path / "open").touch(0o644)
        file.write_text(HEAD + f'{key} = "{tmp_path}/open"')
        found = check_config(file)[0]
        assert f"remote.x.{key}: {tmp_path}/open has mode 0644" in found
        assert "chmod 600" in found


def test_the_pair_of_certificate_and_key_is_tried(file: Path, tmp_path: Path) -> None:
    ca = trustme.CA()
    for name in ("one", "two"):
        issued = ca.issue_cert(f"{name}.example")
        issued.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
        issued.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.pem"))
        (tmp_path / f"{name}.key").chmod(0o600)
    pair = [f'client_cert_file = "{tmp_path}/one.pem"', f'client_key_file = "{tmp_path}/one.key"']
    remote = loaded(file, *pair)
    assert source_of(remote).certificate is not None
    file.write_text(HEAD + "\n".join([pair[0], f'client_key_file = "{tmp_path}/two.key"']))
    (found,) = check_config(file)
    assert ":5: remote.x.client_key_file: the pair of certificate and key cannot be used" in found
    assert "mismatch" in found
    (tmp_path / "no.key").touch(0o600)
    file.write_text(HEAD + "\n".join([pair[0], f'client_key_file = "{tmp_path}/no.key"']))
    assert "cannot be used" in check_config(file)[0]
    file.write_text(HEAD.replace("https", "http") + "\n".join(pair))
    assert "plain HTTP has no certificates" in check_config(file)[0]


def routes(remote: HttpRemote) -> Routes | None:
    return routes_of(remote, source_of(remote), 2, Counters())


def names(remote: HttpRemote) -> list[list[str]]:
    made = routes(remote)
    assert made is not None
    groups: dict[int, list[str]] = {}
    for way in made.status():
        groups.setdefault(way["group"], []).append(way["name"])
    return list(groups.values())


def test_the_straight_way_needs_no_routes(file: Path) -> None:
    remote = loaded(file)
    assert routes(remote) is None
    assert not isinstance(make_transport(remote, source_of(remote), 2), Routes)


def test_pieces_or_images_are_shared(file: Path) -> None:
    lines = ['proxies = [["http://c1:1", "http://c2:1"]]']
    for more, stripe in (([], STRIPE_BYTES), (['spread = "images"'], 0)):
        made = routes(loaded(file, *lines, *more))
        assert made is not None
        assert made.stripe_bytes == stripe


def test_ways_are_in_the_order_of_the_groups(file: Path) -> None:
    own, m1, m2 = "https://a.example/sif/", "https://m1/", "https://m2/"
    assert names(loaded(file, 'proxies = [["http://c1:1", "http://c2:1"], "direct"]')) == [
        ["http://c1:1", "http://c2:1"],
        ["direct"],
    ]
    assert names(loaded(file, f'mirrors = ["{m1}", "{m2}"]')) == [[m1], [m2], [own]]
    assert names(loaded(file, f'mirrors = [["url", "{m1}"]]')) == [[own, m1]]
    assert names(loaded(file, f'mirrors = ["url", "{m1}"]', 'proxies = ["http://c1:1", "direct"]')) == [
        [f"{own} by http://c1:1"],
        [f"{own} by direct"],
        [f"{m1} by http://c1:1"],
        [f"{m1} by direct"],
    ]
