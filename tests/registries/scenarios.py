"""What every kind of remote must do, through a real mount and for real jobs. A kind's test file says

    class TestSwift(RegistryScenarios):
        @pytest.fixture
        def stand(self, tmp_path) -> Iterator[Stand]: ...

and gets all of it; what a kind does not have (a listing, credentials) its `Stand` says.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from tests.support.mount import Mount
from tests.support.readers import busybox_image, exec_as_root

MakeMount = Callable[..., Mount]
REVALIDATE_S = 0.5
CHUNK = 1 << 20


@dataclass(frozen=True)
class Logged:
    """A request that the stand's servers saw. `data`: it asked for bytes of an image, and not what a name means."""

    line: str
    data: bool


@dataclass
class Stand(ABC):
    """Servers of one kind with one image name, and what a test does to them.

    Args:
        path: of the image below its remote, as a user types it.
    """

    path: str = "user/hello:latest.sif"
    secrets: list[str] = field(default_factory=list)
    """Never to be seen in a log: the working credentials, tokens and signatures given out."""

    has_credentials: ClassVar[bool] = True
    listed: ClassVar[dict[str, Sequence[str]]] = {}
    """Directories below the remote, with what `ls` shows of them once the image is there."""
    first_open: ClassVar[int] = 0
    """Requests that tell what a name means, at its first open. The probe is data and not among them."""
    second_open: ClassVar[int] = 0
    """The same after a remount, with all blocks cached."""
    second_data: ClassVar[int] = 1
    """Requests for data at that second open: 1 is a revalidation (304), 0 where the registry says the digest."""

    @abstractmethod
    def keys(self) -> str:
        """Lines of the remote's table, `kind` included, with working credentials."""

    def wrong_keys(self) -> str:
        """The same with credentials that the server refuses."""
        raise NotImplementedError

    @abstractmethod
    def publish(self, image: Path) -> None:
        """Put this image under the name, in place of what was there."""

    @abstractmethod
    def expire(self) -> None:
        """Let every token and signed URL given out so far be refused from now on."""

    @abstractmethod
    def requests(self) -> list[Logged]:
        """All requests since the last `clear`."""

    @abstractmethod
    def clear(self) -> None: ...


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class RegistryScenarios:
    """Inherit, and give the fixture `stand`."""

    @pytest.fixture(scope="class")
    def old(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """An image of about 7 MB with a busybox."""
        return busybox_image(tmp_path_factory.mktemp("old"), "gzip")

    @pytest.fixture(scope="class")
    def new(self, tmp_path_factory: pytest.TempPathFactory, old: Path) -> Path:
        """Another version of it: same size, other bytes behind the head."""
        image = tmp_path_factory.mktemp("new") / old.name
        data = bytearray(old.read_bytes())
        data[len(data) // 2 : len(data) // 2 + 4096] = os.urandom(4096)
        image.write_bytes(data)
        return image

    @pytest.fixture
    def stand(self) -> Iterator[Stand]:
        raise NotImplementedError

    @pytest.fixture
    def mount(self, stand: Stand, old: Path, lazysif: MakeMount, tmp_path: Path) -> Mount:
        stand.publish(old)
        return self.mounted(stand, lazysif, tmp_path, stand.keys())

    @staticmethod
    def mounted(stand: Stand, lazysif: MakeMount, tmp_path: Path, keys: str) -> Mount:
        configuration = tmp_path / "lazysif.toml"
        configuration.write_text(f"[remote.r]\n{keys}\nrevalidate = {REVALIDATE_S}\nnegative = 0.5\n")
        return lazysif(config=configuration)

    def test_a_job_runs_and_the_bytes_are_right(self, stand: Stand, mount: Mount, old: Path) -> None:
        image = mount.path / "r" / stand.path
        assert exec_as_root(image, "sh", "-c", "echo $((6 * 7))") == "42\n"
        assert sha256(image.read_bytes()) == sha256(old.read_bytes())
        assert mount.counters()["unexpected_errors"] == 0

    def test_no_secret_is_in_the_log_or_in_what_users_see(self, stand: Stand, mount: Mount) -> None:
        image = mount.path / "r" / stand.path
        image.read_bytes()
        stand.expire()
        seen = [mount.log(), mount.run("status", mount.path, "--json").stdout]
        seen += [os.getxattr(image, name).decode() for name in os.listxattr(image)]
        for secret in stand.secrets:
            assert len(secret) >= 6
            assert not any(secret in text for text in seen)

    def test_a_missing_image_is_no_such_file(self, stand: Stand, mount: Mount) -> None:
        directory, _, name = stand.path.rpartition("/")
        missing = mount.path / "r" / directory / f"absent{name}"
        with pytest.raises(FileNotFoundError):
            missing.stat()
        assert mount.counters()["errors"] == 0

    def test_wrong_credentials_are_told_in_one_line(
        self, stand: Stand, old: Path, lazysif: MakeMount, tmp_path: Path
    ) -> None:
        if not stand.has_credentials:
            return
        stand.publish(old)
        mount = self.mounted(stand, lazysif, tmp_path, stand.wrong_keys())
        with pytest.raises(PermissionError):
            (mount.path / "r" / stand.path).open("rb")
        # where directories are asked for, the first of them tells it
        name = "r/" + stand.path.partition("/")[0]
        lines = [line for line in mount.log().splitlines() if name in line and "credentials" in line]
        assert lines, mount.log()

    def test_what_expires_is_renewed_under_a_reader(self, stand: Stand, mount: Mount, old: Path) -> None:
        with (mount.path / "r" / stand.path).open("rb", buffering=0) as opened:
            first = opened.read(CHUNK)
            stand.expire()
            opened.seek(len(first))
            rest = b"".join(iter(lambda: opened.read(CHUNK), b""))
        assert sha256(first + rest) == sha256(old.read_bytes())
        assert mount.counters()["errors"] == 0

    def test_a_moved_name_is_never_mixed_and_soon_new(
        self, stand: Stand, mount: Mount, old: Path, new: Path
    ) -> None:
        image, before, after = mount.path / "r" / stand.path, old.read_bytes(), new.read_bytes()
        with image.open("rb", buffering=0) as opened:
            assert opened.read(4096) == before[:4096]
            time.sleep(1.1)  # validators of one second's precision
            stand.publish(new)
            for start in range(0, len(before), 512 << 10):
                try:
                    assert os.pread(opened.fileno(), 4096, start) == before[start : start + 4096]
                except OSError as error:
                    assert error.errno == errno.ESTALE  # noqa: PT017
        time.sleep(REVALIDATE_S + 1.2)
        assert sha256(image.read_bytes()) == sha256(after)

    def test_listing(self, stand: Stand, mount: Mount) -> None:
        for directory, names in stand.listed.items():
            assert sorted(os.listdir(mount.path / "r" / directory)) == sorted(names)

    def test_opens_cost_what_the_protocol_forces(self, stand: Stand, mount: Mount) -> None:
        image = mount.path / "r" / stand.path
        stand.clear()
        image.read_bytes()
        asked = [logged.line for logged in stand.requests() if not logged.data]
        assert len(asked) == stand.first_open, asked
        mount.umount()
        mount.start()
        stand.clear()
        image.read_bytes()
        seen = stand.requests()
        assert len([1 for logged in seen if not logged.data]) == stand.second_open, seen
        assert len([1 for logged in seen if logged.data]) == stand.second_data, seen

    def test_a_hundred_look_ups_are_one_resolution(self, stand: Stand, mount: Mount) -> None:
        image = mount.path / "r" / stand.path
        stand.clear()
        with ThreadPoolExecutor(100) as stats:
            sizes = set(stats.map(lambda _: image.stat().st_size, range(100)))
        assert len(sizes) == 1
        seen = stand.requests()
        assert len([1 for logged in seen if not logged.data]) == stand.first_open, seen
        assert len([1 for logged in seen if logged.data]) == 1, seen
