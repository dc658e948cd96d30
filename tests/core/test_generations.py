"""Stores that keep versions: what pins one, and what its answers must say (core.content_range, core.locations)."""

import pytest

from lazysif.core.content_range import changed_headers, check_range_answer, same_version_headers
from lazysif.core.locations import generation_of, pinned
from lazysif.errors import ImageChanged
from lazysif.model import (
    AnswerHead,
    ByteRange,
    Image,
    ImageId,
    Location,
    Validator,
    ValidatorKind,
    VersionParameter,
)

S3 = VersionParameter("x-amz-version-id", "versionId")
GCS = VersionParameter("x-goog-generation", "generation", etag_tells=False)
URL = "https://store.example/a.sif?alt=media"
GENERATION = Validator(ValidatorKind.GENERATION, "17")
ETAG = Validator(ValidatorKind.ETAG, '"v1"')
ASKED = ByteRange(100, 200)


def image(version: VersionParameter) -> Image:
    location = pinned(Location(URL, URL, version=version), GENERATION)
    return Image(ImageId("0" * 32), "r", "a.sif", location, 1000, GENERATION, guard=ETAG)


def partial(**headers: str) -> AnswerHead:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return AnswerHead(206, {"content-range": "bytes 100-199/1000", **given}, URL)


@pytest.mark.parametrize(
    ("version", "value"), [(S3, "null"), (S3, ""), (GCS, "")], ids=["s3 null", "s3 empty", "gcs empty"]
)
def test_no_version_is_none(version, value):
    assert generation_of(Location(URL, URL, version=version), {version.header: value}) is None


def test_the_version_is_asked_for():
    assert image(GCS).location.url == f"{URL}&generation=17"


def test_where_an_etag_tells_it_guards():
    held = image(S3)
    assert same_version_headers(held.condition) == {"If-Match": '"v1"'}
    check_range_answer(partial(etag='"v1"'), ASKED, held)
    with pytest.raises(ImageChanged):
        check_range_answer(partial(etag='"v2"', x_amz_version_id="17"), ASKED, held)


def test_where_an_etag_changes_with_the_metadata_the_header_guards():
    held = image(GCS)
    assert same_version_headers(held.condition) == {}
    check_range_answer(partial(etag='"v2"', x_goog_generation="17"), ASKED, held)
    for answer in (partial(etag='"v1"', x_goog_generation="18"), partial(etag='"v1"')):
        with pytest.raises(ImageChanged):
            check_range_answer(answer, ASKED, held)


@pytest.mark.parametrize("version", [S3, GCS], ids=["s3", "gcs"])
def test_the_etag_asks_whether_anything_changed(version):
    assert changed_headers(image(version).freshness) == {"If-None-Match": '"v1"'}
