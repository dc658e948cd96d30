"""core.gcs: URLs, listings and refusals of Google Cloud Storage."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazysif.core.gcs import error_for_people, gcs_bucket, parse_listing
from lazysif.errors import AccessDenied, FormatError
from lazysif.model import AnswerHead, DirectoryEntry, EntryKind

GOOGLE = "https://storage.googleapis.com"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["items", "prefixes", "name", "nextPageToken"]), inner, max_size=3)
    ),
    max_leaves=8,
)


def test_a_name_has_one_url_for_its_bytes_and_one_for_people():
    bucket = gcs_bucket("gs://images/sif/", GOOGLE)
    assert bucket.media_url("d/a+b é.sif") == (
        f"{GOOGLE}/storage/v1/b/images/o/sif%2Fd%2Fa%2Bb%20%C3%A9.sif?alt=media"
    )
    assert bucket.origin_of("d/a.sif") == f"{GOOGLE}/images/sif/d/a.sif"


@pytest.mark.parametrize("path", ["..", "a/../b", "", "a//b", "a\n"])
def test_what_is_no_name_has_no_url(path):
    with pytest.raises(ValueError, match="not a path"):
        gcs_bucket("gs://images", GOOGLE).media_url(path)


@pytest.mark.parametrize("url", ["gs://", "gs:///x", "gs://images/../x"])
def test_what_is_no_bucket(url):
    with pytest.raises(ValueError, match="bucket"):
        gcs_bucket(url, GOOGLE)


def test_a_listing_asks_for_one_directory():
    assert gcs_bucket("gs://images/sif", GOOGLE).listing_url("d", "t=", 10) == (
        f"{GOOGLE}/storage/v1/b/images/o?delimiter=%2F&maxResults=10"
        "&fields=items%28name%29%2Cprefixes%2CnextPageToken&prefix=sif%2Fd%2F&pageToken=t%3D"
    )


def test_a_listing():
    said = {
        "items": [{"name": "sif/"}, {"name": "sif/a.sif"}, {"name": "x"}, {}, 3],
        "prefixes": ["sif/d/", 3],
        "nextPageToken": "t",
    }
    page = parse_listing(said, "sif/")
    assert page.entries == (
        DirectoryEntry("a.sif", EntryKind.FILE),
        DirectoryEntry("d", EntryKind.DIRECTORY),
    )
    assert page.token == "t"
    assert parse_listing({}, "").entries == ()


@given(JSON)
def test_any_json_is_a_listing_or_none(said):
    try:
        parse_listing(said, "")
    except FormatError:
        pass


def test_a_refusal_says_why():
    body = json.dumps(
        {"error": {"code": 403, "message": "x does not have storage.objects.get access\n"}}
    ).encode()
    error = error_for_people(AnswerHead(403, {}, GOOGLE), body, anonymous=False)
    assert isinstance(error, AccessDenied)
    assert "x does not have storage.objects.get access" in str(error)
    assert "\n" not in str(error)
    assert not error.asks_credentials
    assert error_for_people(AnswerHead(401, {}, GOOGLE), b"", anonymous=False).asks_credentials


def test_without_credentials_a_401_may_be_a_missing_name():
    error = error_for_people(AnswerHead(401, {}, GOOGLE), b"[]", anonymous=True)
    assert not error.asks_credentials
    assert "anonymous" in str(error)


@pytest.mark.parametrize("status", [400, 404, 429, 503])
def test_other_answers_are_told_by_their_status(status):
    assert error_for_people(AnswerHead(status, {}, GOOGLE), b"{}", anonymous=False) is None
