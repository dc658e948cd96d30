"""Headers of garbage: a value or None, and verdicts only in our own errors."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lazysif.core.content_range import (
    check_range_answer,
    check_whole_answer,
    content_length,
    http_date_s,
    judge_probe,
    parse_content_range,
    range_header,
    validator_of,
)
from lazysif.errors import LazysifError
from lazysif.model import AnswerHead, ByteRange, Image, ImageId, Location, Validator, ValidatorKind

SIZES = st.integers(1, 10**18)
DATES = st.sampled_from(
    ["Thu, 01 Jan 2026 12:00:00 GMT", "Thu, 01 Jan 2026 11:59:59 GMT", "Thu, 01 Jan 2026 12:00:00 -0000"]
)
DATE_PARTS = st.lists(
    st.sampled_from(
        [
            "Thu,",
            "01",
            "Jan",
            "2026",
            "12:00:00",
            "GMT",
            "-0000",
            "+9999",
            "0",
            "-1",
            ":",
            "99:99:99",
            "\u0663",
            "1e9",
        ]
    ),
    max_size=8,
).map(" ".join)
VALUES = {
    "content-range": st.text() | st.from_regex(r"\Abytes [0-9*]{0,3}-?[0-9]{0,3}/[0-9*]{0,4}\Z"),
    "content-length": st.text() | st.from_regex(r"\A[0-9]{0,4}\Z"),
    "content-encoding": st.sampled_from(["", "identity", "gzip"]) | st.text(),
    "content-type": st.sampled_from(["multipart/byteranges", "text/html"]) | st.text(),
    "etag": st.sampled_from(['"a"', 'W/"a"']) | st.text(),
    "last-modified": DATES | DATE_PARTS | st.text(),
    "date": DATES | DATE_PARTS | st.text(),
    "retry-after": DATES | DATE_PARTS | st.text() | st.integers().map(str),
}
HEADS = st.builds(
    AnswerHead,
    st.sampled_from([200, 206, 304, 404, 412, 416, 429, 503]) | st.integers(100, 999),
    st.fixed_dictionaries({}, optional=VALUES),
    st.sampled_from(["https://h/a", "https://h/a/", "https://other/"]) | st.text(),
)
VALIDATORS = st.sampled_from(
    [Validator(ValidatorKind.ETAG, '"a"'), Validator(ValidatorKind.NONE, "download 1")]
)


@given(SIZES, SIZES, SIZES)
def test_what_is_asked_for_reads_back(start, length, beyond):
    asked = ByteRange(start, start + length)
    total = asked.stop + beyond
    value = f"bytes {range_header(asked).removeprefix('bytes=')}/{total}"
    assume(len(str(total)) < 20)
    assert parse_content_range(value) == (asked, total)


@given(st.text() | VALUES["content-range"])
def test_a_content_range_of_garbage(value):
    parsed = parse_content_range(value)
    if parsed is not None:
        got, total = parsed
        assert 0 <= got.start < got.stop <= total


@given(st.text() | DATE_PARTS)
def test_numbers_and_dates_of_garbage(value):
    assert http_date_s(value) >= 0
    length = content_length({"content-length": value})
    assert length is None or length >= 0


@given(HEADS)
def test_a_validator_can_always_be_sent_back(answer):
    validator = validator_of(answer.headers)
    assert "\n" not in validator.value
    assert "\r" not in validator.value
    assert not validator.value.startswith("W/")


@pytest.mark.parametrize("whole", [False, True])
@given(answer=HEADS, start=st.integers(0, 200), length=st.integers(1, 200), validator=VALIDATORS)
def test_an_answer_is_believed_or_refused_in_our_words(whole, answer, start, length, validator):
    asked = ByteRange(start, start + length)
    image = Image(ImageId("0" * 32), "", "a", Location("https://h/a", "https://h/a"), 300, validator)
    assume(asked.start < image.size_bytes)
    try:
        if whole:
            check_whole_answer(answer, image)
            assert answer.status == 200
        else:
            check_range_answer(answer, asked, image)
            assert answer.status == 206
    except LazysifError:
        return
    if validator.kind is ValidatorKind.ETAG:
        assert answer.headers["etag"].strip() == validator.value


@given(answer=HEADS, length=st.integers(1, 200))
def test_a_probe_is_judged_or_refused_in_our_words(answer, length):
    asked = ByteRange(0, length)
    try:
        verdict = judge_probe(answer, asked, "https://h/a")
    except LazysifError:
        return
    body = getattr(verdict, "body", None)
    assert body is None or (body.start == 0 and body.stop <= min(length, verdict.size_bytes))
