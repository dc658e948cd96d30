"""Kind s3 against two servers that check signatures: moto, and the S3 of OpenStack Swift."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from tests.registries.scenarios import Logged, RegistryScenarios, Stand
from tests.support.s3_servers import BUCKET, REGION, MotoServer, write_credentials

pytestmark = [pytest.mark.mounted, pytest.mark.timeout(120)]


@dataclass
class MotoStand(Stand):
    """AWS as moto plays it: keys that can be revoked, versions of objects where `versions` is set."""

    server: MotoServer = field(kw_only=True)
    root: Path = field(kw_only=True)
    path: str = "dir/hello.sif"
    first_open: ClassVar[int] = 1  # whether keys lie below dir/
    second_open: ClassVar[int] = 1
    listed: ClassVar = {"": ["dir"], "dir": ["hello.sif"]}

    def __post_init__(self) -> None:
        self._login()

    def _login(self) -> None:
        self.secrets.append(self.server.user[1])
        write_credentials(self.root / "credentials", *self.server.user)

    def keys(self) -> str:
        return (
            f'kind = "s3"\nurl = "s3://{BUCKET}/sif"\nendpoint = "{self.server.url}"\nregion = "{REGION}"\n'
            f'credentials_file = "{self.root}/credentials"'
        )

    def wrong_keys(self) -> str:
        write_credentials(self.root / "credentials", self.server.user[0], "of somebody else")
        return self.keys()

    def publish(self, image: Path) -> None:
        self.server.s3.upload_file(str(image), BUCKET, f"sif/{self.path}")

    def expire(self) -> None:
        self.server.revoke()
        self._login()

    def requests(self) -> list[Logged]:
        return [Logged(line, data) for line, data in self.server.log.lines]

    def clear(self) -> None:
        self.server.log.lines.clear()


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    with MotoServer() as server:
        yield server


class TestMoto(RegistryScenarios):
    @pytest.fixture
    def stand(self, moto: MotoServer, tmp_path: Path) -> MotoStand:
        return MotoStand(server=moto, root=tmp_path)
