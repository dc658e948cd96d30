"""Kind gcs against a server that google-cloud-storage works against, and against an emulator of other making."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
from gcp_storage_emulator.server import create_server

from tests.registries.scenarios import REVALIDATE_S, Logged, MakeMount, RegistryScenarios, Stand
from tests.support.gcs_server import BUCKET, GcsServer
from tests.support.mount import wait_until

pytestmark = [pytest.mark.mounted, pytest.mark.timeout(120)]


@dataclass
class GcsStand(Stand):
    """A private bucket, read by a service account."""

    server: GcsServer = field(kw_only=True)
    root: Path = field(kw_only=True)
    path: str = "dir/hello.sif"
    first_open: ClassVar[int] = 2  # a token, and whether names lie below dir/
    second_open: ClassVar[int] = 2
    listed: ClassVar = {"": ["dir"], "dir": ["hello.sif"]}

    def __post_init__(self) -> None:
        key = self.server.service_account(self.root / "account.json")
        self.secrets = self.server.given
        self.secrets.append(json.loads(key.read_text())["private_key"][100:140])

    def keys(self) -> str:
        return (
            f'kind = "gcs"\nurl = "gs://{BUCKET}/sif"\nendpoint = "{self.server.url}"\n'
            f'credentials_file = "{self.root}/account.json"'
        )

    def wrong_keys(self) -> str:
        self.server.service_account(self.root / "account.json", other_key=True)
        return self.keys()

    def publish(self, image: Path) -> None:
        self.server.put(f"sif/{self.path}", image.read_bytes())

    def expire(self) -> None:
        self.server.tokens.clear()

    def requests(self) -> list[Logged]:
        return [Logged(line, data) for line, data in self.server.log.lines]

    def clear(self) -> None:
        self.server.log.lines.clear()


@pytest.fixture
def gcs() -> Iterator[GcsServer]:
    with GcsServer() as server:
        yield server


class TestGcs(RegistryScenarios):
    @pytest.fixture
    def stand(self, gcs: GcsServer, tmp_path: Path) -> GcsStand:
        return GcsStand(server=gcs, root=tmp_path)


def test_the_stand_is_what_googles_client_takes_for_google(gcs: GcsServer, tmp_path: Path) -> None:
    from google.api_core.client_options import ClientOptions
    from google.api_core.exceptions import NotFound
    from google.cloud import storage

    data = bytes(range(256)) * 1000
    gcs.put("dir/a+b é.sif", data)
    gcs.put("dir/deeper/x", b"x")
    file = str(gcs.service_account(tmp_path / "account.json"))
    client = storage.Client.from_service_account_json(
        file, client_options=ClientOptions(api_endpoint=gcs.url)
    )
    bucket = client.bucket(BUCKET)
    listing = client.list_blobs(BUCKET, prefix="dir/", delimiter="/")
    assert [blob.name for blob in listing] == ["dir/a+b é.sif"]
    assert listing.prefixes == {"dir/deeper/"}
    blob = bucket.get_blob("dir/a+b é.sif")
    assert blob.size == len(data)
    assert blob.download_as_bytes(start=10, end=19, checksum=None) == data[10:20]
    first = blob.generation
    gcs.put(blob.name, b"other", keep_old=True)
    assert bucket.blob(blob.name, generation=first).download_as_bytes(checksum=None) == data
    assert bucket.blob(blob.name).download_as_bytes(checksum=None) == b"other"
    with pytest.raises(NotFound):
        bucket.blob("absent").download_as_bytes(checksum=None)


def mounted(lazysif: MakeMount, tmp_path: Path, keys: str) -> Path:
    configuration = tmp_path / "lazysif.toml"
    configuration.write_text(f'[remote.r]\nkind = "gcs"\nrevalidate = {REVALIDATE_S}\n{keys}\n')
    return lazysif(config=configuration).path / "r"


def test_a_generation_stays_readable_when_another_is_live_and_whatever_its_metadata(
    gcs: GcsServer, lazysif: MakeMount, tmp_path: Path
) -> None:
    gcs.public = True
    old, new = bytes(range(256)) * 20_000, bytes(range(255, -1, -1)) * 20_000
    gcs.put("sif/a+b (x)é.sif", old)
    root = mounted(lazysif, tmp_path, f'url = "gs://{BUCKET}/sif"\nendpoint = "{gcs.url}"\nanonymous = true')
    assert [path.name for path in root.iterdir()] == ["a+b (x)é.sif"]
    image = root / "a+b (x)é.sif"
    with image.open("rb", buffering=0) as opened:
        head = opened.read(4096)
        gcs.objects["sif/a+b (x)é.sif"].metageneration += 1
        head += opened.read(1 << 20)
        gcs.put("sif/a+b (x)é.sif", new, keep_old=True)
        assert head + b"".join(iter(lambda: opened.read(1 << 20), b"")) == old
    time.sleep(REVALIDATE_S + 1.2)
    assert image.read_bytes() == new


def _answers(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def test_an_emulator_of_other_making(lazysif: MakeMount, tmp_path: Path) -> None:
    """Its answers name no version, so a file of its is downloaded whole, once."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    data = random.Random(7).randbytes(3_000_000)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
    server.start()
    endpoint = f"http://127.0.0.1:{port}"
    wait_until(lambda: _answers(port), "the emulator does not start")
    try:
        client = storage.Client(
            project="project", credentials=AnonymousCredentials(), client_options={"api_endpoint": endpoint}
        )
        client.bucket(BUCKET).blob("sif/dir/hello.sif").upload_from_string(data)
        root = mounted(
            lazysif, tmp_path, f'url = "gs://{BUCKET}/sif"\nendpoint = "{endpoint}"\nanonymous = true'
        )
        assert [path.name for path in (root / "dir").iterdir()] == ["hello.sif"]
        assert (root / "dir" / "hello.sif").read_bytes() == data
    finally:
        server.stop()
