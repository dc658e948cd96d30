"""Small answers of registries."""

import gzip
import json

import pytest

from lazysif.errors import AccessDenied, LazysifError, NoSuchEntry, SourceProtocolError, SourceUnavailable
from lazysif.registries.json_answer import get, get_json
from tests.support.fake_transport import FakeTransport, File, Headers, ResetAfter, Status

URL = "https://registry.example/api/x?token=secret"
HEAVY = File(json.dumps("x" * (1 << 20)).encode())


def origin(data: bytes = b'{"a": [1]}', *script: object) -> FakeTransport:
    return FakeTransport({"/api/x": File(data)}, script=list(script))


async def test_json() -> None:
    assert await get_json(origin(), URL) == {"a": [1]}


@pytest.mark.parametrize(
    ("transport", "kind", "text"),
    [
        (origin(b"<html>"), SourceProtocolError, "the answer is not JSON"),
        (origin(b"[" * 100_000), SourceProtocolError, "the answer is not JSON"),
        (FakeTransport({"/api/x": HEAVY}), SourceProtocolError, "longer than 1 MiB"),
        (
            origin(gzip.compress(b"1"), Headers({"content-encoding": "gzip"})),
            SourceProtocolError,
            "compressed",
        ),
        (FakeTransport({}), NoSuchEntry, "404"),
        (origin(b"1", Status(401)), AccessDenied, "credentials"),
        (origin(b"1", Status(429, {"retry-after": "7"})), SourceUnavailable, "429"),
        (origin(b"1", ResetAfter(0)), SourceUnavailable, "reset"),
    ],
)
async def test_errors_name_the_address_and_no_secret(
    transport: FakeTransport, kind: type[LazysifError], text: str
) -> None:
    with pytest.raises(kind, match=text) as raised:
        await get_json(transport, URL)
    assert "registry.example/api/x" in str(raised.value)
    assert "secret" not in str(raised.value)


async def test_a_hint_goes_with_a_refusal_and_another_address_is_shown() -> None:
    with pytest.raises(AccessDenied) as raised:
        await get_json(origin(b"1", Status(403)), URL, shown="https://registry.example", hint="log in")
    assert str(raised.value).endswith("(origin https://registry.example); log in")


async def test_other_statuses_may_be_asked_for() -> None:
    said = await get(origin(b"x", Status(304)), URL, also=(304,))
    assert (said.head.status, said.body) == (304, b"")
