"""core.s3_answers: errors and listings in XML."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazysif.core.s3_answers import error_for_people, parse_listing, s3_error
from lazysif.errors import AccessDenied, FormatError, NoSuchEntry, SourceProtocolError
from lazysif.model import AnswerHead, DirectoryEntry, EntryKind

URL = "https://images.s3.amazonaws.com/a.sif"
XMLNS = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
NOW_S = 1_790_000_000.0


def told(status: int, code: str, more: str = "", *, anonymous: bool = False, **headers: str):
    head = AnswerHead(status, {name.replace("_", "-"): value for name, value in headers.items()}, URL)
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code>{more}</Error>".encode()
    error = s3_error(head, body)
    return error, error_for_people(head, error, bucket="images", now_s=NOW_S, anonymous=anonymous)


@pytest.mark.parametrize(
    "code", ["NoSuchKey", "NoSuchVersion", "PreconditionFailed", "SlowDown", "RequestTimeout"]
)
def test_the_status_says_it(code):
    assert told(404, code)[1] is None


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (404, "NoSuchBucket", NoSuchEntry, 'no bucket "images"'),
        (403, "AccessDenied", AccessDenied, "a missing name is answered so, too"),
        (403, "InvalidAccessKeyId", AccessDenied, "does not know the access key"),
        (403, "SignatureDoesNotMatch", AccessDenied, "secret key does not fit"),
        (400, "ExpiredToken", AccessDenied, "expired"),
        (403, "InvalidObjectState", SourceProtocolError, "archive"),
        (301, "PermanentRedirect", SourceProtocolError, "another region"),
        (403, "AccountProblem", AccessDenied, "403"),
        (400, "InvalidRequest", SourceProtocolError, "400"),
    ],
)
def test_codes_in_words(status, code, kind, words):
    error = told(status, code)[1]
    assert type(error) is kind
    assert words in str(error)
    assert code in str(error)


def test_wrong_credentials_are_no_missing_name():
    """The tree takes a 403 for a name that may be a directory, unless it is about the credentials."""
    assert not told(403, "AccessDenied")[1].asks_credentials
    for code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "RequestTimeTooSkewed"):
        assert told(403, code)[1].asks_credentials


def test_who_asks_anonymously_is_told_so():
    assert "anonymous" in str(told(403, "AccessDenied", anonymous=True)[1])


def test_the_reason_that_aws_gives_is_passed_on():
    reason = "User: x is not authorized to perform: s3:GetObject"
    assert reason in str(told(403, "AccessDenied", f"<Message>{reason}</Message>")[1])
    assert ": Access Denied" not in str(told(403, "AccessDenied", "<Message>Access Denied</Message>")[1])
    hostile = told(403, "AccessDenied", "<Message>a&#10;b&#x202E;c</Message>")[1]
    assert "abc" in str(hostile)


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ("2026-09-21T13:33:20.000Z", "40 minutes ahead"),
        ("2026-09-21T14:33:20Z", "20 minutes behind"),
        ("soon", "which is off"),
    ],
)
def test_a_wrong_clock_is_named(server, words):
    error = told(403, "RequestTimeTooSkewed", f"<ServerTime>{server}</ServerTime>")[1]
    assert words in str(error)


def test_the_region_is_told_by_header_or_body():
    assert told(400, "AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>")[0].elsewhere
    error = told(301, "PermanentRedirect", x_amz_bucket_region="eu-west-1")[0]
    assert (error.elsewhere, error.region) == (True, "eu-west-1")
    bare = s3_error(AnswerHead(301, {"x-amz-bucket-region": "eu-west-1"}, URL), b"")
    assert bare.elsewhere
    assert not told(403, "AccessDenied", x_amz_bucket_region="eu-west-1")[0].elsewhere
    assert not told(301, "PermanentRedirect")[0].elsewhere


@given(st.binary(max_size=200))
def test_any_body_is_some_error(body):
    assert s3_error(AnswerHead(403, {}, URL), body).code == ""


def listing(inner: str) -> bytes:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult {XMLNS}>{inner}</ListBucketResult>'.encode()
    )


def test_a_listing():
    body = listing(
        "<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><NextContinuationToken>1/+=</NextContinuationToken>"
        "<Contents><Key>sif/</Key></Contents><Contents><ETag>x</ETag><Key>sif/a+b%2Bc%C3%A9.sif</Key></Contents>"
        "<Contents><Key>sif/..</Key></Contents><Contents><Key>sif/a%0Ab</Key></Contents>"
        "<Contents><Key>elsewhere/x</Key></Contents><Contents/>"
        "<CommonPrefixes><Prefix>sif/d/</Prefix></CommonPrefixes><CommonPrefixes><Prefix>sif//</Prefix></CommonPrefixes>"
    )
    page = parse_listing(body, "sif/")
    assert page.entries == (
        DirectoryEntry("a b+cé.sif", EntryKind.FILE),
        DirectoryEntry("d", EntryKind.DIRECTORY),
    )
    assert page.token == "1/+="


def test_keys_that_are_not_encoded_stay_as_they_are():
    page = parse_listing(listing("<Contents><Key>a+b%20c.sif</Key></Contents>"), "")
    assert page.entries == (DirectoryEntry("a+b%20c.sif", EntryKind.FILE),)
    assert page.token == ""


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html></html>",
        b"\xff\xfe<\x00",
        b"<ListBucketResult>",
        b'<!DOCTYPE x [<!ENTITY a "aaaa">]><ListBucketResult>&a;</ListBucketResult>',
        "<!DOCTYPE x><ListBucketResult/>".encode("utf-16"),
    ],
)
def test_what_is_no_listing(body):
    with pytest.raises(FormatError):
        parse_listing(body, "")


@given(st.binary(max_size=300), st.text(max_size=5))
def test_any_bytes_are_a_listing_or_none(body, prefix):
    for given_body in (body, listing(body.decode("latin-1"))):
        try:
            parse_listing(given_body, prefix)
        except FormatError:
            pass
