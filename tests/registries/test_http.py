"""The scenarios of all kinds on the plain one: nginx without credentials. Proves the scenarios, too."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from bench.nginx import Nginx
from tests.registries.scenarios import Logged, RegistryScenarios, Stand

pytestmark = [pytest.mark.mounted, pytest.mark.timeout(120)]


@dataclass
class HttpStand(Stand):
    nginx: Nginx = field(kw_only=True)
    path: str = "dir/hello.sif"
    has_credentials: ClassVar[bool] = False
    first_open: ClassVar[int] = 2  # nginx redirects the directory to itself with a slash
    second_open: ClassVar[int] = 2
    listed: ClassVar = {"": ["dir"], "dir": ["hello.sif"]}

    def keys(self) -> str:
        return f'kind = "http"\nurl = "{self.nginx.url}"'

    def publish(self, image: Path) -> None:
        target = self.nginx.root / self.path
        target.parent.mkdir(exist_ok=True)
        part = target.with_name("part")
        shutil.copyfile(image, part)
        part.rename(target)

    def expire(self) -> None:
        """Nothing of it expires."""

    def requests(self) -> list[Logged]:
        """Without the one for a trace beside the image, which tells nothing of what the name means."""
        asked = [request.uri for request in self.nginx.requests()]
        return [Logged(uri, uri == f"/{self.path}") for uri in asked if not uri.endswith(".lazysif-trace")]

    def clear(self) -> None:
        self.nginx.clear_log()


class TestHttp(RegistryScenarios):
    @pytest.fixture
    def stand(self, nginx: Nginx) -> Stand:
        return HttpStand(nginx=nginx)
