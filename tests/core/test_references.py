"""Names of images in registries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazysif.core.references import Reference, parse_reference

HASH = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("path", "reference"),
    [
        ("user/name.sif", Reference("user/name", "latest")),
        ("user/name:1.0.sif", Reference("user/name", "1.0")),
        ("user/name:1.0", Reference("user/name", "1.0")),
        (f"user/name@{HASH}.sif", Reference("user/name", "latest", HASH)),
        (f"user/name:1@{HASH}", Reference("user/name", "1", HASH)),
        ("name.sif", Reference("name", "latest")),
        ("user/name.sif.sif", Reference("user/name.sif", "latest")),
        ("user/name.sif:1", Reference("user/name.sif", "1")),
        ("a/b/c:sha256.0123.sif", Reference("a/b/c", "sha256.0123")),
        ("user/name", None),
        ("user", None),
        ("", None),
    ],
)
def test_what_a_path_stands_for(path: str, reference: Reference | None) -> None:
    assert parse_reference(path) == reference


def test_a_whole_path_needs_no_mark() -> None:
    assert parse_reference("user/name", whole=True) == Reference("user/name", "latest")


@pytest.mark.parametrize(
    "path", [".sif", "a/.sif", "a/:1", "a/b:", "a/b@", "a/b:@x", "../b:1", "a//b:1", "a\n:1"]
)
def test_what_cannot_be_a_reference(path: str) -> None:
    with pytest.raises(ValueError, match="not a reference"):
        parse_reference(path)


@given(st.text(alphabet="ab:@./sif", max_size=30))
def test_a_reference_is_never_empty(path: str) -> None:
    try:
        reference = parse_reference(path)
    except ValueError:
        return
    if reference is not None:
        assert reference.repository
        assert reference.version
