"""Kind static against pages in a real nginx, laid out as GitHub serves them, and storage on another host."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import pytest

from lazysif.errors import SourceProtocolError
from lazysif.model import Request
from lazysif.registries.static import StaticRegistry, linked_names
from lazysif.transport.httpx_transport import HttpxTransport
from tests.registries.scenarios import Logged, RegistryScenarios, Stand
from tests.support.fake_transport import FakeAnswer, FakeTransport, File
from tests.support.images import BuiltImage
from tests.support.mount import Mount, scrubbed_environment, wait_until
from tests.support.nginx import Nginx
from tests.support.shub_server import Storage
from tests.support.static_registry import StaticPages

pytestmark = [pytest.mark.mounted, pytest.mark.timeout(120)]

DATA, OTHER = b"one" * 200_000, b"two" * 200_000


@dataclass
class StaticStand(Stand):
    nginx: Nginx = field(kw_only=True)
    pages: StaticPages = field(kw_only=True)
    has_credentials: ClassVar[bool] = False
    first_open: ClassVar[int] = 1
    second_open: ClassVar[int] = 1
    second_data: ClassVar[int] = 0
    listed: ClassVar = {"": ["user"], "user": ["hello:latest.sif"]}

    def keys(self) -> str:
        return f'kind = "static"\nurl = "{self.nginx.url}/registry"'

    def publish(self, image: Path) -> None:
        self.pages.put("user/hello", "latest", image.read_bytes())

    def expire(self) -> None:
        self.secrets[:] = self.pages.storage.signatures
        self.pages.sign_anew()

    def requests(self) -> list[Logged]:
        told = [Logged(request.uri, data=False) for request in self.nginx.requests()]
        return told + [Logged(asked.line, data=True) for asked in self.pages.storage.log]

    def clear(self) -> None:
        self.nginx.clear_log()
        self.pages.storage.log.clear()


@pytest.fixture
def pages(nginx: Nginx, known_secrets: list[str]) -> Iterator[StaticPages]:
    with Storage() as storage:
        yield StaticPages(nginx.root, storage)
        known_secrets += storage.given


class TestStatic(RegistryScenarios):
    @pytest.fixture
    def stand(self, nginx: Nginx, pages: StaticPages) -> Stand:
        return StaticStand(nginx=nginx, pages=pages)


def test_the_real_clients_download_from_it(
    nginx: Nginx, tmp_path: Path, small_image: BuiltImage, tool: Callable[[str], str]
) -> None:
    """As the registry's own pages say: curl the manifest, pull what it names."""
    with Storage(signed=False) as storage:
        StaticPages(nginx.root, storage).put("user/hello", "1.0", small_image.path.read_bytes())
        manifest = f"{nginx.url}/registry/user/hello/manifests/1.0/"
        said = subprocess.run([tool("curl"), "-sSf", manifest], check=True, capture_output=True).stdout
        target = tmp_path / "pulled.sif"
        subprocess.run(
            [tool("apptainer"), "pull", target, json.loads(said)["layers"][0]["urls"][0]],
            check=True,
            capture_output=True,
            env=scrubbed_environment(APPTAINER_CACHEDIR=str(tmp_path / "cache")),
        )
        assert target.read_bytes() == small_image.path.read_bytes()


@pytest.fixture
def mount(nginx: Nginx, tmp_path: Path, lazysif: Callable[..., Mount]) -> Mount:
    config = tmp_path / "lazysif.toml"
    config.write_text(
        f'[remote.r]\nkind = "static"\nurl = "{nginx.url}/registry/"\nrevalidate = 0.5\nnegative = 0.5\n'
    )
    return lazysif(config=config)


def test_digests_of_both_kinds_and_tags_in_a_listing(pages: StaticPages, mount: Mount) -> None:
    md5 = hashlib.md5(DATA).hexdigest()
    pages.put("user/hello", "old", DATA, digest=f"md5:{md5}")
    pages.put("user/hello", "latest", OTHER)
    pages.put("user/other", "latest", OTHER, digest="unknown")
    assert (mount.path / "r/user/hello:old").read_bytes() == DATA
    assert (mount.path / f"r/user/hello:old@md5:{md5}.sif").read_bytes() == DATA
    assert (mount.path / "r/user/other.sif").read_bytes() == OTHER
    names = {path.name for path in (mount.path / "r/user").iterdir()}
    assert {"hello:old.sif", "hello:latest.sif", "other:latest.sif"} <= names
    with pytest.raises(FileNotFoundError):
        (mount.path / f"r/user/hello@md5:{md5}.sif").stat()


def test_a_wrong_digest_in_a_manifest_is_found_out(pages: StaticPages, mount: Mount) -> None:
    pages.put("user/hello", "latest", DATA, digest=f"sha256:{'0' * 64}")
    image = mount.path / "r/user/hello.sif"
    with image.open("rb", buffering=0) as opened:
        assert b"".join(iter(lambda: opened.read(1 << 20), b"")) == DATA
        wait_until(lambda: os.getxattr(image, "user.lazysif.verified") == b"bad", "it is not found out")
        # what the kernel had cached of it must not be served on
        wait_until(lambda: _fails(lambda: os.pread(opened.fileno(), 4096, 0)), "its pages are still read")
    assert _fails(image.read_bytes)
    assert "do not fit the digest" in os.getxattr(image, "user.lazysif.last_error").decode()


def _fails(read: Callable[[], bytes]) -> bool:
    try:
        read()
    except OSError as error:
        return error.errno == errno.EIO
    return False


BASE = "https://pages.example/registry"
LAYER = {"urls": ["https://store.example/x"], "digest": ""}


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        ([], "does not name one file"),
        ([LAYER, LAYER], "does not name one file"),
        ("x", "does not name one file"),
        ([{}], "names no address"),
        ([{"urls": []}], "names no address"),
        ([{"urls": ["file:///etc/passwd"]}], "names no address"),
        ([{"urls": ["http://store.example/x"]}], "from HTTPS to plain HTTP"),
    ],
)
async def test_a_manifest_of_another_form_is_told_in_one_line(layers: object, told: str) -> None:
    page = File(json.dumps({"layers": layers}).encode())
    registry = StaticRegistry(BASE, PageTransport({"/registry/user/hello/manifests/latest": page}))
    with pytest.raises(SourceProtocolError, match=told) as raised:
        await registry.locate("user/hello.sif")
    assert raised.value.origin == f"{BASE}/user/hello/manifests/latest/"


async def test_a_start_page_of_another_form_lists_nothing() -> None:
    registry = StaticRegistry(
        BASE, PageTransport({"/registry": File(b"<a href='https://x.example/a/b'>a</a>")})
    )
    assert await registry.list("") is None


def test_links_of_a_start_page() -> None:
    page = "<a href='/registry/a/b'><a href=a/c/><a href='../x/y'><a href='//h/registry/a/d'><a href='http://['><a>"
    assert linked_names(page, BASE + "/") == [("a", "b"), ("a", "c")]


@pytest.mark.parametrize("host", ["127.0.0.1:9", "[::1]:9", "169.254.169.254", "metadata.google.internal"])
async def test_a_manifest_may_not_lead_to_this_node_or_its_link(host: str) -> None:
    page = File(json.dumps({"layers": [{"urls": [f"https://{host}/x"]}]}).encode())
    registry = StaticRegistry(BASE, PageTransport({"/registry/user/hello/manifests/latest": page}))
    location = await registry.locate("user/hello.sif")
    assert location is not None
    transport = HttpxTransport(BASE)
    with pytest.raises(SourceProtocolError, match="an address of this node or its link"):
        async with transport.send(Request(location.url)):
            pass
    await transport.aclose()


class PageTransport(FakeTransport):
    """Answers directories with the page in them, as web servers do."""

    def send(self, request: Request) -> AbstractAsyncContextManager[FakeAnswer]:
        return super().send(replace(request, url=request.url.rstrip("/")))
