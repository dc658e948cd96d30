"""Kind library against a stand-in that the real `apptainer pull` downloads from."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from lazysif.core.oci import architecture_of
from tests.registries.scenarios import REVALIDATE_S, Logged, MakeMount, RegistryScenarios, Stand
from tests.support.images import BuiltImage
from tests.support.library_server import LibraryServer
from tests.support.loopback import Log
from tests.support.mount import Mount, scrubbed_environment
from tests.support.signed_storage import SignedStorage

pytestmark = [pytest.mark.mounted, pytest.mark.timeout(120)]

TOKEN = "library-token-of-a-user"
NAME = "user/tools/hello:1.0"
HERE = architecture_of(os.uname().machine)


@dataclass
class LibraryStand(Stand):
    library: LibraryServer = field(kw_only=True)
    storage: SignedStorage = field(kw_only=True)
    log: Log = field(kw_only=True)
    root: Path = field(kw_only=True)
    path: str = NAME + ".sif"
    first_open: ClassVar[int] = 4  # the image, no OCI, by hash too?, the redirect
    second_open: ClassVar[int] = 3  # no redirect: the digest says that all is there
    second_data: ClassVar[int] = 0

    def __post_init__(self) -> None:
        self.secrets += [TOKEN]

    def keys(self) -> str:
        return self._keys(TOKEN)

    def wrong_keys(self) -> str:
        return self._keys("another-token")

    def _keys(self, token: str) -> str:
        file = self.root / "token"
        file.touch(0o600)
        file.write_text(token)
        return f'kind = "library"\nurl = "{self.library.url}"\ntoken_file = "{file}"'

    def publish(self, image: Path) -> None:
        kept = self.root / f"published-{len(self.library.kept)}"
        shutil.copyfile(image, kept)
        self.library.publish(NAME, kept, HERE)

    def expire(self) -> None:
        self.secrets += [*self.library.given, *self.storage.signatures]
        self.library.expire()

    def requests(self) -> list[Logged]:
        return [Logged(*line) for line in self.log.lines]

    def clear(self) -> None:
        self.log.lines.clear()


class OciStand(LibraryStand):
    first_open: ClassVar[int] = 3  # the image, the token, the redirect
    second_open: ClassVar[int] = 2


class EndpointStand(LibraryStand):
    first_open: ClassVar[int] = 6  # a web page, where the library is, and as without
    second_open: ClassVar[int] = 5


@pytest.fixture
def servers(tmp_path: Path, known_secrets: list[str]) -> Iterator[Any]:
    """`servers(Stand, **LibraryServer's)` gives a stand that is ended with the test."""
    with ExitStack() as stack:

        def make(kind: type[LibraryStand] = LibraryStand, **options: Any) -> LibraryStand:
            log = Log()
            storage = stack.enter_context(SignedStorage(log))
            library = stack.enter_context(LibraryServer(storage, log, **options))
            stack.callback(lambda: _check(library, storage, known_secrets))
            return kind(library=library, storage=storage, log=log, root=tmp_path)

        yield make


def _check(library: LibraryServer, storage: SignedStorage, known_secrets: list[str]) -> None:
    known_secrets += [TOKEN, *library.given, *storage.signatures]
    assert storage.foreign_credentials == []


class TestRedirect(RegistryScenarios):
    @pytest.fixture
    def stand(self, servers: Any) -> LibraryStand:
        stand: LibraryStand = servers(token=TOKEN)
        return stand


class TestOci(RegistryScenarios):
    @pytest.fixture
    def stand(self, servers: Any) -> LibraryStand:
        stand: LibraryStand = servers(OciStand, token=TOKEN, oci=True)
        return stand


def mounted(lazysif: MakeMount, stand: LibraryStand, **more: str) -> Mount:
    configuration = stand.root / "lazysif.toml"
    keys = stand.keys() + "".join(f"\n{key} = {value}" for key, value in more.items())
    configuration.write_text(f"[remote.r]\n{keys}\nrevalidate = {REVALIDATE_S}\nnegative = 0.5\n")
    return lazysif(config=configuration)


@pytest.mark.parametrize("oci", [False, True])
def test_the_stand_serves_the_real_client(
    servers: Any, small_image: BuiltImage, tmp_path: Path, oci: bool
) -> None:
    stand = servers(oci=oci)
    stand.publish(small_image.path)
    pulled = tmp_path / "pulled.sif"
    done = subprocess.run(
        ["apptainer", "pull", "--library", stand.library.url, str(pulled), f"library://{NAME}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=scrubbed_environment(HOME=str(tmp_path)),
    )
    assert pulled.exists(), done.stderr
    assert pulled.read_bytes() == small_image.data
    asked = [line for line, _ in stand.log.lines]
    assert any("/v2/" in line for line in asked) is oci
    assert any("/v1/imagefile/" in line for line in asked) is not oci


def test_an_endpoint_says_where_its_library_is(
    servers: Any, small_image: BuiltImage, lazysif: MakeMount
) -> None:
    stand = servers(EndpointStand, token=TOKEN, endpoint=True)
    stand.publish(small_image.path)
    mount = mounted(lazysif, stand)
    assert (mount.path / "r" / stand.path).read_bytes() == small_image.data
    asked = [line for line, data in stand.log.lines if not data]
    assert len(asked) == EndpointStand.first_open, asked


def test_names(servers: Any, small_image: BuiltImage, lazysif: MakeMount, tmp_path: Path) -> None:
    stand = servers(token=TOKEN, lists=True)
    stand.publish(small_image.path)
    (hashed,) = {held.hash for held in stand.library.images.values()}
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"foreign")
    stand.library.publish("user/tools/foreign:latest", foreign, "none")
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine" * 100)
    stand.library.publish("default/default/mine:latest", mine, HERE)
    root = mounted(lazysif, stand).path / "r"
    assert sorted(os.listdir(root)) == ["default", "user"]
    assert os.listdir(root / "user") == ["tools"]
    assert sorted(os.listdir(root / "user/tools")) == ["foreign.sif", "hello:1.0.sif"]
    by_hash = (
        f"user/tools/hello:{hashed}.sif",
        f"user/tools/hello@{hashed.replace('.', ':')}",
        f"{hashed}.sif",
    )
    for name in ("user/tools/hello:1.0", *by_hash):
        assert (root / name).read_bytes() == small_image.data, name
    for name in ("mine.sif", "default/default/mine", "default/mine:latest"):
        assert (root / name).read_bytes() == b"mine" * 100, name
    for name in ("user/tools/foreign.sif", "user/tools/absent", "user/tools/hello/x", ".git"):
        with pytest.raises(FileNotFoundError):
            (root / name).stat()


def test_a_server_that_takes_no_hashes(servers: Any, small_image: BuiltImage, lazysif: MakeMount) -> None:
    stand = servers(token=TOKEN, takes_hashes=False, redirect_status=302)
    stand.publish(small_image.path)
    mount = mounted(lazysif, stand)
    assert (mount.path / "r" / stand.path).read_bytes() == small_image.data
    assert mount.counters()["errors"] == 0


def test_a_server_that_sends_the_file_itself(
    servers: Any, small_image: BuiltImage, lazysif: MakeMount
) -> None:
    stand = servers(token=TOKEN, redirect_status=0)
    stand.publish(small_image.path)
    mount = mounted(lazysif, stand)
    assert (mount.path / "r" / stand.path).read_bytes() == small_image.data


@pytest.mark.parametrize("oci", [False, True])
def test_a_reader_outlives_the_daemon_its_tokens_and_the_tag(
    servers: Any, small_image: BuiltImage, lazysif: MakeMount, tmp_path: Path, oci: bool
) -> None:
    stand = servers(token=TOKEN, oci=oci)
    stand.publish(small_image.path)
    mount = mounted(lazysif, stand)
    with (mount.path / "r" / stand.path).open("rb", buffering=0) as opened:
        assert opened.read(4096) == small_image.data[:4096]
        stand.expire()
        if not oci:  # this stand's blobs go with their tag
            other = tmp_path / "other"
            other.write_bytes(b"other" * 1000)
            stand.library.publish(NAME, other, HERE)
        mount.kill()
        assert b"".join(iter(lambda: opened.read(1 << 20), b"")) == small_image.data[4096:]
    mount.adopt()
    assert mount.counters()["errors"] == 0
