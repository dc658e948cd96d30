"""`lazysif doctor` on mirrors and proxies."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from lazysif.config.load import load_config
from lazysif.config.remote import RemoteConfig
from lazysif.core.diagnosis.finding import Finding
from lazysif.doctor import origins, ways
from tests.support.forward_proxy import ForwardProxy
from tests.support.mount import lazysif, scrubbed_environment
from tests.support.nginx import Nginx

DATA = bytes(range(256)) * 64


def remote(tmp_path: Path, url: str, *lines: str) -> RemoteConfig:
    file = tmp_path / "lazysif.toml"
    file.write_text("\n".join(["[remote.r]", 'kind = "http"', f'url = "{url}"', *lines, ""]))
    return load_config(file).remotes[0]


def verdicts(found: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.check.removeprefix("origin r: "), finding.verdict.value) for finding in found]


def gone() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def copies(tmp_path: Path) -> list[Path]:
    """Three directories with an image of the same name and size: the first two have its time, too."""
    made = []
    for number, stamp in enumerate((1e9, 1e9, 1.1e9)):
        made.append(tmp_path / f"copy{number}")
        made[-1].mkdir()
        (made[-1] / "a.sif").write_bytes(DATA)
        os.utime(made[-1] / "a.sif", (stamp, stamp))
    return made


def test_mirrors_are_reached_and_compared(tool, copies: list[Path], tmp_path: Path) -> None:
    tool("nginx")
    # one that makes its ETag otherwise, as Apache would
    other = 'add_header ETag "\\"of-its-own\\""; etag off;'
    with Nginx(copies[0]) as origin, Nginx(copies[1], server=other) as near, Nginx(copies[2]) as old:
        mirrors = [f"{near.url}/", f"{old.url}/", f"{gone()}/"]
        configured = remote(tmp_path, origin.url, f"mirrors = {json.dumps(mirrors)}")
        found = list(ways.ways(configured, None))
        assert dict(verdicts(found)) == {
            f"mirror {mirrors[0]}": "ok",
            f"mirror {mirrors[1]}": "ok",
            f"mirror {mirrors[2]}": "problem",
            f"version at {mirrors[0]}": "ok",
            f"version at {mirrors[1]}": "problem",
            f"version at {mirrors[2]}": "problem",
        }
        told = {finding.check.removeprefix("origin r: "): finding.found for finding in found}
        assert (
            told[f"version at {mirrors[0]}"]
            == "a.sif is the same, by size and Last-Modified; the ETags differ"
        )
        assert "another version" in told[f"version at {mirrors[1]}"]


def test_an_origin_behind_proxies_is_not_asked_past_them(tool, copies: list[Path], tmp_path: Path) -> None:
    tool("nginx")
    dead = gone()
    with Nginx(copies[0]) as origin, ForwardProxy() as proxy:
        configured = remote(tmp_path, origin.url, f"proxies = {json.dumps([[proxy.url], [dead]])}")
        found = list(ways.ways(configured, None))
        assert sorted(verdicts(found)) == sorted([(f"proxy {proxy.url}", "ok"), (f"proxy {dead}", "problem")])
        answers = list(origins.origin(configured, "a.sif"))
        assert ("answer", "ok") in verdicts(answers)
        assert len(proxy.log) == len(origin.requests())


def test_the_command_tells_them(tool, copies: list[Path], tmp_path: Path) -> None:
    tool("nginx")
    with Nginx(copies[0]) as origin:
        remote(tmp_path, origin.url, f'mirrors = ["{gone()}"]', "[cache]", f'dir = "{tmp_path}/c"')
        environment = scrubbed_environment(LAZYSIF_RUNTIME_DIR=str(tmp_path / "run"))
        options = ["--json", "--state-dir", tmp_path / "s", "--config", tmp_path / "lazysif.toml"]
        done = lazysif("doctor", *options, check=False, environment=environment, timeout_s=30)
    checks = {check["check"]: check["verdict"] for check in json.loads(done.stdout)["checks"]}
    assert [verdict for name, verdict in checks.items() if "mirror http" in name] == ["problem"]
