"""`prefix`: a remote that shows one part of a registry."""

from __future__ import annotations

from pathlib import Path

from lazysif.config.load import load_config
from lazysif.image_names import ImageNames
from lazysif.model import Image, ImageId, Location, Validator, ValidatorKind
from lazysif.registries.http import HttpRegistry
from lazysif.registries.prefixed import PrefixedRegistry
from lazysif.remotes.sources import source_of
from tests.support.fake_transport import Directory, FakeTransport, File

BASE = "http://origin/"


def prefixed(transport: FakeTransport) -> PrefixedRegistry:
    return PrefixedRegistry(HttpRegistry(BASE, transport), "user/project")


async def test_the_prefix_is_put_before_every_name() -> None:
    registry = prefixed(FakeTransport())
    located = await registry.locate("d/a.sif")
    assert located is not None
    assert located.url == f"{BASE}user/project/d/a.sif"


async def test_a_version_is_renewed_under_its_whole_name() -> None:
    version = Validator(ValidatorKind.ETAG, '"v1"')
    image = Image(ImageId("0" * 32), "r", "a.sif", Location("", f"{BASE}user/project/a.sif"), 1, version)
    assert (await prefixed(FakeTransport()).renew(image)).url == f"{BASE}user/project/a.sif"


async def test_the_remotes_own_directory_is_that_of_the_prefix() -> None:
    transport = FakeTransport(
        {"/user/project": Directory(files=("a.sif",)), "/user/project/a.sif": File(b"x")}
    )
    listed = await prefixed(transport).list("")
    assert listed is not None
    assert [entry.name for entry in listed] == ["a.sif"]


async def test_a_remote_with_a_prefix_serves_what_lies_below_it(tmp_path: Path) -> None:
    file = tmp_path / "lazysif.toml"
    file.write_text('[remote.hub]\nkind = "shub"\nprefix = "/collection/"\n')
    config = load_config(file)
    names = ImageNames(config)
    assert names.target("shub://collection/image:1") == ("hub", "image:1")
    assert isinstance(source_of(config.remotes[0]).make_registry(FakeTransport()), PrefixedRegistry)
