"""Kind shub against a server that the real `apptainer pull shub://` downloads from."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from tests.registries.scenarios import Logged, RegistryScenarios, Stand
from tests.support.images import BuiltImage
from tests.support.mount import Mount, scrubbed_environment
from tests.support.shub_server import ShubServer, Storage
from tests.support.web_stand import Asked, WebStand

pytestmark = [pytest.mark.mounted, pytest.mark.timeout(120)]

DATA, OTHER = b"one" * 200_000, b"two" * 200_000


def logged(registry: WebStand, storage: WebStand) -> list[Logged]:
    """What both were asked."""
    told = [Logged(asked.line, data=False) for asked in registry.log]
    return told + [Logged(asked.line, data=True) for asked in storage.log]


@dataclass
class ShubStand(Stand):
    server: ShubServer = field(kw_only=True)
    has_credentials: ClassVar[bool] = False
    first_open: ClassVar[int] = 1
    second_open: ClassVar[int] = 1
    second_data: ClassVar[int] = 0

    def keys(self) -> str:
        return f'kind = "shub"\nurl = "{self.server.url}"'

    def publish(self, image: Path) -> None:
        self.server.put("user/hello", "latest", image.read_bytes())

    def expire(self) -> None:
        self.secrets[:] = self.server.storage.signatures
        self.server.storage.expire()

    def requests(self) -> list[Logged]:
        return logged(self.server, self.server.storage)

    def clear(self) -> None:
        self.server.log.clear()
        self.server.storage.log.clear()


@pytest.fixture
def server(known_secrets: list[str]) -> Iterator[ShubServer]:
    with Storage() as storage, ShubServer(storage) as server:
        yield server
        known_secrets += storage.given


class TestShub(RegistryScenarios):
    @pytest.fixture
    def stand(self, server: ShubServer) -> Stand:
        return ShubStand(server=server)


def test_the_real_client_downloads_from_it(
    tmp_path: Path, small_image: BuiltImage, tool: Callable[[str], str]
) -> None:
    data = small_image.path.read_bytes()
    target = tmp_path / "pulled.sif"
    # Apptainer takes no port behind the host of shub://
    with Storage() as storage, ShubServer(storage, host="127.0.0.77", port=80) as server:
        version = server.put("user/hello", "1.0", data)
        for reference in ("user/hello:1.0", f"user/hello:1.0@{version.md5}"):
            subprocess.run(
                [
                    tool("apptainer"),
                    "pull",
                    "--no-https",
                    "--force",
                    target,
                    f"shub://127.0.0.77/{reference}",
                ],
                check=True,
                capture_output=True,
                env=scrubbed_environment(APPTAINER_CACHEDIR=str(tmp_path / "cache")),
            )
            assert target.read_bytes() == data


@pytest.fixture
def mount(server: ShubServer, tmp_path: Path, lazysif: Callable[..., Mount]) -> Mount:
    config = tmp_path / "lazysif.toml"
    config.write_text(f'[remote.r]\nkind = "shub"\nurl = "{server.url}"\nrevalidate = 0.5\nnegative = 0.5\n')
    return lazysif(config=config)


def asked_names(log: list[Asked]) -> list[str]:
    return [asked.path.removeprefix("/api/container/") for asked in log]


def test_a_digest_is_asked_for_once_and_outlives_a_moved_tag(server: ShubServer, mount: Mount) -> None:
    old = server.put("user/hello", "latest", DATA)
    name = f"r/user/hello@{old.md5}.sif"
    assert (mount.path / name).read_bytes() == DATA
    server.put("user/hello", "latest", OTHER)
    time.sleep(0.7)
    assert (mount.path / name).read_bytes() == DATA
    assert (mount.path / "r/user/hello").read_bytes() == OTHER
    assert asked_names(server.log) == [f"user/hello:latest@{old.md5}", "user/hello:latest"]


def test_two_tags_of_one_file_are_one_image_but_for_its_first_block(server: ShubServer, mount: Mount) -> None:
    server.put("user/hello", "1.0", DATA)
    server.put("user/hello", "latest", DATA)
    first, second = (mount.path / f"r/user/hello:{tag}.sif" for tag in ("1.0", "latest"))
    assert first.read_bytes() == DATA
    server.storage.log.clear()
    assert second.read_bytes() == DATA
    assert [asked.headers["range"] for asked in server.storage.log] == ["bytes=0-131071"]


def test_names_that_no_image_can_have_are_not_asked_for(server: ShubServer, mount: Mount) -> None:
    for name in (".git", "user/.hidden", "user/name:", "us er/name", "user/na%2fme"):
        with pytest.raises(FileNotFoundError):
            (mount.path / "r" / name).stat()
    assert server.log == []
    with pytest.raises(FileNotFoundError):
        (mount.path / "r/user/absent").stat()
    assert asked_names(server.log) == ["user/absent:latest"]
