"""Kind gcs against a server that google-cloud-storage works against, and against an emulator of other making."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from tests.registries.scenarios import Logged, RegistryScenarios, Stand
from tests.support.gcs_server import BUCKET, GcsServer

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
