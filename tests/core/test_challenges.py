"""What servers write into WWW-Authenticate."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazysif.core.challenges import Challenge, parse_challenges

HUB = 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"'


@pytest.mark.parametrize(
    ("value", "challenges"),
    [
        (
            HUB,
            [
                Challenge(
                    "bearer",
                    {
                        "realm": "https://auth.docker.io/token",
                        "service": "registry.docker.io",
                        "scope": "repository:a/b:pull,push",
                    },
                )
            ],
        ),
        ('Basic realm="Registry Realm"', [Challenge("basic", {"realm": "Registry Realm"})]),
        ('basic Realm = x , charset="UTF-8"', [Challenge("basic", {"realm": "x", "charset": "UTF-8"})]),
        (
            'Bearer realm="a", error="invalid_token", Basic realm="b"',
            [
                Challenge("bearer", {"realm": "a", "error": "invalid_token"}),
                Challenge("basic", {"realm": "b"}),
            ],
        ),
        ("Negotiate, Basic realm=b", [Challenge("negotiate"), Challenge("basic", {"realm": "b"})]),
        ("NTLM TlRMTVNTUAAC==, Basic realm=b", [Challenge("ntlm"), Challenge("basic", {"realm": "b"})]),
        (r'Basic realm="a \"b\", c"', [Challenge("basic", {"realm": 'a "b", c'})]),
        ("", []),
        ('="', []),
        ('Basic realm="never closed', [Challenge("basic"), Challenge("realm")]),
    ],
)
def test_challenges(value: str, challenges: list[Challenge]) -> None:
    assert list(parse_challenges(value)) == challenges


@given(st.text(alphabet='aB =",\\\t.', max_size=60))
def test_any_header_is_read_to_an_end(value: str) -> None:
    for challenge in parse_challenges(value):
        assert challenge.scheme == challenge.scheme.lower() != ""


def test_a_long_header_takes_no_long_time() -> None:
    for rest in ('a="' * 100_000, "a=\\" * 100_000):
        assert [challenge.scheme for challenge in parse_challenges(f"Bearer {rest}")] == ["bearer", "a"]
