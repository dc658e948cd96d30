"""core.content_range: every verdict on what an origin may answer."""

import time

import pytest

from lazysif.core.content_range import (
    NO_VALIDATOR,
    IsDirectory,
    IsFile,
    Unchanged,
    changed_headers,
    check_range_answer,
    check_whole_answer,
    content_length,
    http_date_s,
    judge_probe,
    parse_content_range,
    range_header,
    refusal,
    same_version_headers,
    validator_of,
)
from lazysif.errors import (
    AccessDenied,
    ImageChanged,
    NoSuchEntry,
    SourceProtocolError,
    SourceUnavailable,
)
from lazysif.model import AnswerHead, ByteRange, Image, ImageId, Location, Validator, ValidatorKind

URL = "https://h/d/a.sif"
DATE = "Thu, 01 Jan 2026 12:00:00 GMT"
SECOND_BEFORE = "Thu, 01 Jan 2026 11:59:59 GMT"
ETAG = Validator(ValidatorKind.ETAG, '"v1"')
MODIFIED = Validator(ValidatorKind.LAST_MODIFIED, SECOND_BEFORE)
ASKED = ByteRange(100, 200)
FIRST = ByteRange(0, 100)


def head(status: int, url: str = URL, **headers: str) -> AnswerHead:
    return AnswerHead(status, {name.replace("_", "-"): value for name, value in headers.items()}, url)


def image(validator: Validator = ETAG, size: int = 1000) -> Image:
    return Image(ImageId("0" * 32), "r", "d/a.sif", Location(URL, URL), size, validator)


@pytest.fixture
def in_the_east(monkeypatch):
    """A node whose local time is not UTC: dates without a zone are GMT all the same (RFC 9110 section 5.6.7)."""
    monkeypatch.setenv("TZ", "UTC-9")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


# --- the words -----------------------------------------------------------------------------------


def test_a_range_is_inclusive_in_the_header_only():
    assert range_header(ByteRange(0, 1)) == "bytes=0-0"
    assert range_header(ByteRange(100, 200)) == "bytes=100-199"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes 100-199/1000", (ByteRange(100, 200), 1000)),
        (" Bytes 0-0/1 ", (ByteRange(0, 1), 1)),
        ("bytes 100-199/*", None),
        ("bytes */1000", None),
        ("bytes 199-100/1000", None),
        ("bytes 100-1000/1000", None),
        ("bytes=100-199/1000", None),
        ("bytes 100-199", None),
        ("bytes -1-199/1000", None),
        ("bytes 1\u0660-19/1000", None),
        ("bytes 0-0/1, bytes 2-2/3", None),
        ("bytes 0-0/" + "9" * 30, None),
        ("", None),
    ],
)
def test_content_range(value, expected):
    assert parse_content_range(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", 0),
        ("42", 42),
        ("", None),
        ("-1", None),
        ("4 2", None),
        ("+4", None),
        ("\u0664", None),
        ("9" * 20, None),
    ],
)
def test_content_length(value, expected):
    assert content_length({"content-length": value}) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (DATE, 1767268800),
        ("Thursday, 01-Jan-26 12:00:00 GMT", 1767268800),
        ("Thu Jan  1 12:00:00 2026", 1767268800),
        ("Thu, 01 Jan 2026 12:00:00 -0000", 1767268800),
        ("Thu, 01 Jan 1960 12:00:00 GMT", 0),
        ("yesterday", 0),
        ("", 0),
        ("Thu, 01 Jan 99999999999 12:00:00 GMT", 0),
    ],
)
def test_dates(value, expected, in_the_east):
    assert http_date_s(value) == expected


# --- validators ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param({"etag": '"v1"', "last-modified": SECOND_BEFORE, "date": DATE}, ETAG, id="strong ETag"),
        pytest.param({"etag": ' "v1" '}, ETAG, id="white space around it"),
        pytest.param({"etag": '""'}, Validator(ValidatorKind.ETAG, '""'), id="an empty strong ETag"),
        pytest.param({"etag": 'W/"v1"'}, NO_VALIDATOR, id="weak ETag"),
        pytest.param({"etag": "v1"}, NO_VALIDATOR, id="ETag without quotes"),
        pytest.param({"etag": '"a", "b"'}, NO_VALIDATOR, id="two ETags"),
        pytest.param({"etag": '"a b"'}, NO_VALIDATOR, id="ETag with a space"),
        pytest.param(
            {"etag": 'W/"v1"', "last-modified": SECOND_BEFORE, "date": DATE},
            MODIFIED,
            id="weak ETag, time a second back",
        ),
        pytest.param({"last-modified": DATE, "date": DATE}, NO_VALIDATOR, id="written this second"),
        pytest.param({"last-modified": DATE, "date": SECOND_BEFORE}, NO_VALIDATOR, id="written tomorrow"),
        pytest.param({"last-modified": SECOND_BEFORE}, MODIFIED, id="an origin without a clock"),
        pytest.param({"last-modified": "just now", "date": DATE}, NO_VALIDATOR, id="time that is none"),
        pytest.param({}, NO_VALIDATOR, id="nothing"),
    ],
)
def test_validator(headers, expected):
    assert validator_of(headers) == expected


def test_conditions():
    assert same_version_headers(ETAG) == {"If-Match": '"v1"'}
    assert same_version_headers(MODIFIED) == {"If-Unmodified-Since": SECOND_BEFORE}
    assert same_version_headers(NO_VALIDATOR) == {}
    assert changed_headers(ETAG) == {"If-None-Match": '"v1"'}
    assert changed_headers(MODIFIED) == {"If-Modified-Since": SECOND_BEFORE}
    assert changed_headers(NO_VALIDATOR) == {}


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, AccessDenied) for status in (401, 403, 407)),
        *((status, NoSuchEntry) for status in (404, 410)),
        *((status, SourceUnavailable) for status in (408, 425, 429, 500, 502, 503, 504, 507, 599)),
        *(
            (status, SourceProtocolError)
            for status in (100, 201, 204, 300, 302, 400, 405, 416, 451, 501, 505)
        ),
    ],
)
def test_refusals(status, kind):
    assert type(refusal(head(status))) is kind


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry_after": "7"}, 7.0),
        ({"retry_after": "0"}, 0.0),
        ({"retry_after": "999999"}, 3600.0),
        ({"retry_after": DATE, "date": SECOND_BEFORE}, 1.0),
        ({"retry_after": SECOND_BEFORE, "date": DATE}, 0.0),
        ({"retry_after": DATE}, None),
        ({"retry_after": "soon"}, None),
        ({"retry_after": "-1"}, None),
        ({}, None),
    ],
)
def test_retry_after(headers, expected):
    error = refusal(head(503, **headers))
    assert isinstance(error, SourceUnavailable)
    assert error.retry_after_s == expected


# --- a range of a known version ------------------------------------------------------------------

RIGHT = {"content_range": "bytes 100-199/1000", "content_length": "100", "etag": '"v1"'}


@pytest.mark.parametrize(
    ("answer", "asked"),
    [
        pytest.param(head(206, **RIGHT), ASKED, id="as asked"),
        pytest.param(head(206, **{**RIGHT, "content_encoding": "identity"}), ASKED, id="coded as nothing"),
        pytest.param(head(206, content_range="bytes 100-199/1000", etag='"v1"'), ASKED, id="chunked"),
        pytest.param(
            head(206, content_range="bytes 950-999/1000", etag='"v1"'),
            ByteRange(950, 1050),
            id="cut at the end",
        ),
    ],
)
def test_a_range_that_is_believed(answer, asked):
    check_range_answer(answer, asked, image())


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        pytest.param(
            head(206, **{**RIGHT, "content_range": "bytes 0-99/1000"}), SourceProtocolError, id="other"
        ),
        pytest.param(
            head(206, **{**RIGHT, "content_range": "bytes 100-198/1000", "content_length": "99"}),
            SourceProtocolError,
            id="less than asked",
        ),
        pytest.param(
            head(206, **{**RIGHT, "content_range": "bytes 100-200/1000", "content_length": "101"}),
            SourceProtocolError,
            id="more than asked",
        ),
        pytest.param(
            head(206, **{**RIGHT, "content_range": "bytes 100-199/*"}), SourceProtocolError, id="no total"
        ),
        pytest.param(
            head(206, etag='"v1"', content_length="100"), SourceProtocolError, id="no Content-Range"
        ),
        pytest.param(head(206, **{**RIGHT, "content_length": "99"}), SourceProtocolError, id="lying length"),
        pytest.param(head(206, **{**RIGHT, "content_encoding": "gzip"}), SourceProtocolError, id="coded"),
        pytest.param(
            head(206, content_type="multipart/byteranges; boundary=x", etag='"v1"'),
            SourceProtocolError,
            id="multipart",
        ),
        pytest.param(
            head(206, **{**RIGHT, "content_range": "bytes 100-199/1001"}), ImageChanged, id="another total"
        ),
        pytest.param(head(206, **{**RIGHT, "etag": '"v2"'}), ImageChanged, id="another ETag"),
        pytest.param(head(206, **{**RIGHT, "etag": 'W/"v1"'}), ImageChanged, id="the ETag made weak"),
        pytest.param(
            head(206, content_range="bytes 100-199/1000"), ImageChanged, id="an answer that names no version"
        ),
        pytest.param(head(200, etag='"v1"', content_length="1000"), SourceProtocolError, id="all of it"),
        pytest.param(
            head(200, etag='"v2"', content_length="1000"), ImageChanged, id="all of another version"
        ),
        *(
            pytest.param(head(status), ImageChanged, id=f"{status} for a version that was there")
            for status in (404, 410, 412, 416)
        ),
        pytest.param(head(403), AccessDenied, id="403"),
        pytest.param(head(503), SourceUnavailable, id="503"),
        pytest.param(head(302), SourceProtocolError, id="302"),
        pytest.param(head(304), SourceProtocolError, id="304 unasked"),
    ],
)
def test_a_range_that_is_not_believed(answer, kind):
    with pytest.raises(kind) as raised:
        check_range_answer(answer, ASKED, image())
    assert type(raised.value) is kind


def test_the_time_must_be_repeated_where_it_is_the_validator():
    check_range_answer(
        head(206, content_range="bytes 100-199/1000", last_modified=SECOND_BEFORE), ASKED, image(MODIFIED)
    )
    with pytest.raises(ImageChanged):
        check_range_answer(
            head(206, content_range="bytes 100-199/1000", last_modified=DATE), ASKED, image(MODIFIED)
        )
    with pytest.raises(ImageChanged):
        check_range_answer(head(206, content_range="bytes 100-199/1000"), ASKED, image(MODIFIED))


# --- the whole -----------------------------------------------------------------------------------


def test_a_whole_that_is_believed():
    check_whole_answer(head(200, etag='"v1"', content_length="1000"), image())
    check_whole_answer(head(200, content_length="1000"), image(NO_VALIDATOR))


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        pytest.param(head(200, etag='"v1"', content_length="999"), ImageChanged, id="another length"),
        pytest.param(head(200, etag='"v1"'), ImageChanged, id="no length"),
        pytest.param(head(200, etag='"v2"', content_length="1000"), ImageChanged, id="another version"),
        pytest.param(
            head(200, etag='"v1"', content_length="1000", content_encoding="br"),
            SourceProtocolError,
            id="coded",
        ),
        pytest.param(head(206, **RIGHT), SourceProtocolError, id="a range unasked"),
        pytest.param(head(412), ImageChanged, id="412"),
        pytest.param(head(404), ImageChanged, id="404"),
        pytest.param(head(500), SourceUnavailable, id="500"),
    ],
)
def test_a_whole_that_is_not_believed(answer, kind):
    with pytest.raises(kind) as raised:
        check_whole_answer(answer, image())
    assert type(raised.value) is kind


# --- the probe -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(
            head(206, content_range="bytes 0-99/1000", etag='"v1"', last_modified=SECOND_BEFORE),
            IsFile(1000, ETAG, 1767268799, ranges=True, body=FIRST),
            id="a file",
        ),
        pytest.param(
            head(206, content_range="bytes 0-41/42", etag='"v1"'),
            IsFile(42, ETAG, 0, ranges=True, body=ByteRange(0, 42)),
            id="a file shorter than the probe",
        ),
        pytest.param(
            head(206, content_range="bytes 0-99/1000", etag='W/"v1"'),
            IsFile(1000, NO_VALIDATOR, 0, ranges=False, body=None),
            id="ranges, but nothing to join them by",
        ),
        pytest.param(
            head(206, content_range="bytes 0-99/1000", last_modified=DATE, date=DATE),
            IsFile(1000, NO_VALIDATOR, 1767268800, ranges=False, body=None),
            id="ranges of a file written this second",
        ),
        pytest.param(
            head(200, content_length="1000", etag='"v1"'),
            IsFile(1000, ETAG, 0, ranges=False, body=None),
            id="no ranges",
        ),
        pytest.param(
            head(200, content_length="0", etag='"v1"'),
            IsFile(0, ETAG, 0, ranges=True, body=None),
            id="empty, as 200",
        ),
        pytest.param(
            head(416, content_range="bytes */0", etag='"v1"'),
            IsFile(0, ETAG, 0, ranges=True, body=None),
            id="empty, as 416",
        ),
        pytest.param(head(304), Unchanged(), id="unchanged"),
        pytest.param(head(200, url=URL + "/", content_length="500"), IsDirectory(), id="a slash was added"),
        pytest.param(head(403, url=URL + "/"), IsDirectory(), id="a directory without a listing"),
        pytest.param(
            head(206, url="https://mirror/d/a.sif", content_range="bytes 0-99/1000", etag='"v1"'),
            IsFile(1000, ETAG, 0, ranges=True, body=FIRST),
            id="redirected to another host",
        ),
    ],
)
def test_probe(answer, expected):
    assert judge_probe(answer, FIRST, URL) == expected


def test_a_name_asked_for_with_its_slash_is_no_directory_by_that():
    with pytest.raises(NoSuchEntry):
        judge_probe(head(404, url=URL + "/"), FIRST, URL + "/")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        pytest.param(head(200), SourceProtocolError, id="neither ranges nor a length"),
        pytest.param(
            head(200, content_length="1000", content_encoding="gzip"), SourceProtocolError, id="coded"
        ),
        pytest.param(
            head(206, content_range="bytes 0-9/1000", etag='"v1"'), SourceProtocolError, id="too little"
        ),
        pytest.param(
            head(206, content_range="bytes 1-100/1000", etag='"v1"'), SourceProtocolError, id="shifted"
        ),
        pytest.param(
            head(206, content_range="bytes 0-99/1000", content_length="7", etag='"v1"'),
            SourceProtocolError,
            id="lying length",
        ),
        pytest.param(head(206, content_type="Multipart/Byteranges; x"), SourceProtocolError, id="multipart"),
        pytest.param(
            head(416, content_range="bytes */1000"), SourceProtocolError, id="416 of a file with bytes"
        ),
        pytest.param(head(416), SourceProtocolError, id="416 without a size"),
        pytest.param(head(404), NoSuchEntry, id="404"),
        pytest.param(head(401), AccessDenied, id="401"),
        pytest.param(head(429), SourceUnavailable, id="429"),
        pytest.param(head(412), SourceProtocolError, id="412 unasked"),
    ],
)
def test_probe_fails(answer, kind):
    with pytest.raises(kind) as raised:
        judge_probe(answer, FIRST, URL)
    assert type(raised.value) is kind


MD5 = "e72ae95579c72c1d8f45f61cee73e3cb"
SWIFT = {"etag": MD5, "x-timestamp": "1795218378.11145", "last-modified": "Fri, 20 Nov 2026 23:46:19 GMT"}


def test_the_bare_etag_of_swift_is_strong_and_goes_back_as_it_came() -> None:
    validator = validator_of(SWIFT)
    assert validator == Validator(ValidatorKind.ETAG, MD5)
    assert same_version_headers(validator) == {"If-Match": MD5}


def test_a_bare_etag_of_others_is_not_believed() -> None:
    others = {name: value for name, value in SWIFT.items() if name != "x-timestamp"}
    assert validator_of(others).kind is ValidatorKind.LAST_MODIFIED
    assert validator_of({**SWIFT, "etag": MD5[:-1]}).kind is ValidatorKind.LAST_MODIFIED


@pytest.mark.parametrize(
    ("etag", "kind"),
    [(f'"{MD5}"', ValidatorKind.ETAG), (MD5, ValidatorKind.NONE), ("", ValidatorKind.NONE)],
)
def test_a_dynamic_large_object_has_no_version_but_the_etag_over_its_segments(
    etag: str, kind: ValidatorKind
) -> None:
    assert validator_of({**SWIFT, "etag": etag, "x-object-manifest": "segments/x/"}).kind is kind
