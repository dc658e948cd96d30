"""Kind sregistry against a server like it, that `apptainer pull --library` and `sregistry pull` download from."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from tests.registries.scenarios import Logged, RegistryScenarios, Stand
from tests.support.images import BuiltImage
from tests.support.mount import Mount, scrubbed_environment
from tests.support.sregistry_server import Minio, SregistryServer

pytestmark = [pytest.mark.mounted, pytest.mark.timeout(120)]

MakeMount = Callable[..., Mount]
DATA, OTHER = os.urandom(2_000_000), os.urandom(2_000_000)


def secret_file(directory: Path, secret: str) -> Path:
    file = directory / f"token-{secret[:6]}"
    file.write_text(secret)
    file.chmod(0o600)
    return file


@dataclass
class SregistryStand(Stand):
    """A private collection of a server with library API."""

    server: SregistryServer = field(kw_only=True)
    directory: Path = field(kw_only=True)
    first_open: ClassVar[int] = 2  # v1/images, and v1/imagefile that leads to storage
    second_open: ClassVar[int] = 1
    second_data: ClassVar[int] = 0

    def keys(self) -> str:
        self.secrets[:] = [self.server.token]
        return self._keys(self.server.token)

    def wrong_keys(self) -> str:
        return self._keys("0" * 40)

    def _keys(self, token: str) -> str:
        return (
            f'kind = "sregistry"\nurl = "{self.server.url}"\nusername = "alice"\n'
            f'token_file = "{secret_file(self.directory, token)}"'
        )

    def publish(self, image: Path) -> None:
        self.server.put("user/hello", "latest", image.read_bytes(), private=True)

    def expire(self) -> None:
        assert self.server.storage is not None
        self.secrets += self.server.storage.signatures
        self.server.storage.expire()

    def requests(self) -> list[Logged]:
        assert self.server.storage is not None
        told = [Logged(asked.line, data=False) for asked in self.server.log]
        return told + [Logged(asked.line, data=True) for asked in self.server.storage.log]

    def clear(self) -> None:
        assert self.server.storage is not None
        self.server.log.clear()
        self.server.storage.log.clear()


@pytest.fixture
def server(known_secrets: list[str]) -> Iterator[SregistryServer]:
    with Minio() as storage, SregistryServer(storage) as server:
        yield server
        known_secrets += server.secrets()


@pytest.fixture
def old_server(known_secrets: list[str]) -> Iterator[SregistryServer]:
    """One without library API."""
    with SregistryServer(None) as server:
        yield server
        known_secrets += server.secrets()


@dataclass
class OldSregistryStand(SregistryStand):
    """A private collection of a server without library API."""

    second_open: ClassVar[int] = 2  # the library API in vain, and its own

    def expire(self) -> None:
        """The secrets of download pages change."""
        self.secrets += self.server.secrets()
        for collection in self.server.collections.values():
            collection.secret = os.urandom(16).hex()

    def requests(self) -> list[Logged]:
        return [Logged(asked.line, asked.path.startswith("/containers/")) for asked in self.server.log]

    def clear(self) -> None:
        self.server.log.clear()


class TestOldSregistry(RegistryScenarios):
    @pytest.fixture
    def stand(self, old_server: SregistryServer, tmp_path: Path) -> Stand:
        return OldSregistryStand(server=old_server, directory=tmp_path)


class TestSregistry(RegistryScenarios):
    @pytest.fixture
    def stand(self, server: SregistryServer, tmp_path: Path) -> Stand:
        return SregistryStand(server=server, directory=tmp_path)


def test_apptainer_downloads_from_it(
    server: SregistryServer, tmp_path: Path, small_image: BuiltImage, tool: Callable[[str], str]
) -> None:
    server.put("tools/hello", "1.0", small_image.path.read_bytes())
    target = tmp_path / "pulled.sif"
    command = [tool("apptainer"), "pull", "--library", server.url, target, "library://alice/tools/hello:1.0"]
    environment = scrubbed_environment(APPTAINER_CACHEDIR=str(tmp_path / "cache"))
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert target.read_bytes() == small_image.path.read_bytes()


@pytest.mark.parametrize("private", [False, True])
def test_its_own_client_downloads_from_it(private: bool, old_server: SregistryServer, tmp_path: Path) -> None:
    old_server.put("tools/hello", "1.0", DATA, private=private)
    environment = scrubbed_environment(
        HOME=str(tmp_path),
        SREGISTRY_CLIENT="registry",
        SREGISTRY_REGISTRY_BASE=old_server.url,
        SREGISTRY_REGISTRY_NOHTTPS="true",
        SREGISTRY_DISABLE="yes",
        **(
            {"SREGISTRY_REGISTRY_USERNAME": "alice", "SREGISTRY_REGISTRY_TOKEN": old_server.token}
            if private
            else {}
        ),
    )
    program = Path(sys.executable).with_name("sregistry")
    done = subprocess.run(
        [program, "pull", "--name", "pulled.sif", "tools/hello:1.0"],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "pulled.sif").read_bytes() == DATA


@pytest.fixture
def mounted(tmp_path: Path, lazysif: MakeMount) -> Callable[..., Mount]:
    def make(server: SregistryServer, *lines: str) -> Mount:
        config = tmp_path / "lazysif.toml"
        remote = f'[remote.r]\nkind = "sregistry"\nurl = "{server.url}/"\nrevalidate = 0.5\nnegative = 0.5'
        config.write_text("\n".join((remote, *lines)))
        return lazysif(config=config)

    return make


def test_an_old_server_is_asked_for_one_whole_download(
    old_server: SregistryServer, mounted: Callable[..., Mount]
) -> None:
    old_server.put("tools/hello", "latest", DATA)
    mount = mounted(old_server)
    image = mount.path / "r/tools/hello.sif"
    assert image.read_bytes() == DATA
    assert old_server.downloads == 1
    time.sleep(0.7)
    assert (
        image.read_bytes() == DATA
    )  # asked whether it is the same: by its version, not by a GET of the file
    mount.umount()
    mount.start()
    old_server.log.clear()
    assert image.read_bytes() == DATA
    name = "tools/hello:latest"
    assert [asked.path for asked in old_server.log] == [f"/v1/images/{name}", f"/api/container/{name}"]
    assert old_server.downloads == 1
    old_server.put("tools/hello", "latest", OTHER)
    time.sleep(0.7)
    assert image.read_bytes() == OTHER
    assert old_server.downloads == 2
    secret = old_server.collections["tools"].secret
    seen = mount.log() + "".join(os.getxattr(image, name).decode() for name in os.listxattr(image))
    assert secret not in seen + mount.run("status", mount.path, "--json").stdout


def test_a_download_that_breaks_off_costs_one_more(
    old_server: SregistryServer, mounted: Callable[..., Mount]
) -> None:
    old_server.put("tools/hello", "latest", DATA)
    old_server.breaking = 1
    mount = mounted(old_server)
    assert (mount.path / "r/tools/hello.sif").read_bytes() == DATA
    assert old_server.downloads == 2


def test_a_server_that_always_breaks_off_is_not_asked_again_and_again(
    old_server: SregistryServer, mounted: Callable[..., Mount]
) -> None:
    old_server.put("tools/hello", "latest", DATA)
    old_server.breaking = 1000
    mount = mounted(old_server)
    with pytest.raises(OSError, match="Input/output"):
        (mount.path / "r/tools/hello.sif").read_bytes()
    assert old_server.downloads <= 4


def test_a_version_that_is_no_digest_tells_as_well(
    old_server: SregistryServer, mounted: Callable[..., Mount]
) -> None:
    old_server.put("tools/hello", "latest", DATA, version="7")
    image = mounted(old_server).path / "r/tools/hello.sif"
    assert image.read_bytes() == DATA
    time.sleep(0.7)
    assert image.read_bytes() == DATA
    assert old_server.downloads == 1


def test_a_private_collection_of_an_old_server(
    old_server: SregistryServer, mounted: Callable[..., Mount], tmp_path: Path
) -> None:
    old_server.put("tools/hello", "1.0", DATA, private=True)
    token = f'username = "alice"\ntoken_file = "{secret_file(tmp_path, old_server.token)}"'
    mount = mounted(old_server, token)
    assert (mount.path / "r/tools/hello:1.0").read_bytes() == DATA
    assert old_server.token not in mount.log()


def test_a_limit_that_is_reached_is_told(old_server: SregistryServer, mounted: Callable[..., Mount]) -> None:
    old_server.put("tools/hello", "latest", DATA)
    old_server.limit = 0
    mount = mounted(old_server)
    with pytest.raises(OSError, match="Input/output"):
        (mount.path / "r/tools/hello.sif").stat()
    assert "limit of downloads" in mount.log()
    assert old_server.downloads == 0


def test_names_versions_and_listings(server: SregistryServer, mounted: Callable[..., Mount]) -> None:
    version = server.put("tools/hello", "1.0", DATA)
    server.put("tools/hello", "latest", OTHER)
    server.put("second/other", "latest", OTHER)
    server.put("hidden/other", "latest", OTHER, private=True)
    mount = mounted(server)
    assert sorted(os.listdir(mount.path / "r")) == ["second", "tools"]
    assert sorted(os.listdir(mount.path / "r/tools")) == ["hello:1.0.sif", "hello:latest.sif"]
    assert (mount.path / "r/Tools/HELLO:1.0.sif").read_bytes() == DATA
    server.put("tools/hello", "1.0", OTHER)
    server.collections["tools"].containers[0].tag = "kept"
    time.sleep(0.7)
    assert (mount.path / "r/tools/hello:1.0.sif").read_bytes() == OTHER
    for spelled in (version, version.replace(".", ":")):
        with pytest.raises(FileNotFoundError):
            (mount.path / f"r/tools/hello@{spelled}.sif").stat()
    digest = hashlib.sha256(OTHER).hexdigest()
    assert (mount.path / f"r/tools/hello@sha256:{digest}.sif").read_bytes() == OTHER


def test_a_private_collection_without_token_is_refused_and_no_directory(
    server: SregistryServer, mounted: Callable[..., Mount]
) -> None:
    server.put("hidden/other", "latest", DATA, private=True)
    mount = mounted(server)
    with pytest.raises(PermissionError):
        (mount.path / "r/hidden/other").stat()
    assert "username, token_file" in mount.log()
