"""transport.split: which requests go by which transport, and what happens where pycurl is not installed."""

from __future__ import annotations

import sys
from contextlib import aclosing

import pytest

from lazysif.core.diagnosis.finding import Verdict
from lazysif.core.diagnosis.node import bulk
from lazysif.model import ByteRange, Image, ImageId, Location, Request, Validator, ValidatorKind
from lazysif.transport.split import SplitTransport, libcurl, make_engine
from tests.support.fake_transport import FakeTransport, File

IMAGE = Image(
    ImageId("0" * 32),
    "",
    "a",
    Location("http://origin/a", "http://origin/a"),
    4,
    Validator(ValidatorKind.ETAG, '"v1"'),
)


async def test_bytes_of_images_go_by_the_second_and_all_else_by_the_first() -> None:
    control, data = FakeTransport({"/a": File(b"name")}), FakeTransport({"/a": File(b"data")})
    split = SplitTransport(control, data)
    bodies = []
    for asked, image in ((None, None), (ByteRange(0, 4), None), (ByteRange(0, 4), IMAGE), (None, IMAGE)):
        request = Request("http://origin/a", byte_range=asked, image=image)
        async with split.send(request) as answer, aclosing(answer.chunks()) as chunks:
            bodies.append(b"".join([chunk async for chunk in chunks]))
    assert bodies == [b"name", b"data", b"data", b"data"]


def test_without_pycurl_there_is_no_engine_and_doctor_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert libcurl().startswith("8.")
    for name in [name for name in sys.modules if name.startswith("lazysif.transport.curl_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pycurl", None)
    assert make_engine() is None
    assert libcurl() == ""
    assert bulk(libcurl()).verdict is Verdict.NOTE
