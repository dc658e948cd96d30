"""Names and URIs of the kinds shub, static, sregistry and swift."""

from __future__ import annotations

import pytest

from lazysif.config.kinds import ShubRemote, SregistryRemote, SwiftRemote
from lazysif.config.load import check_config
from lazysif.core.references import Reference
from lazysif.errors import NoSuchEntry
from lazysif.image_uri import parse_uri
from lazysif.model import Location, Validator, ValidatorKind
from lazysif.registries.collection_names import Resolved, reference_of

MD5, SHA256 = "0123456789abcdef" * 2, "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("path", "reference"),
    [
        ("", None),
        ("user", None),
        ("user.sif", None),
        ("user/name", Reference("user/name", "latest")),
        ("user/name.sif", Reference("user/name", "latest")),
        ("user/name:1.0.sif", Reference("user/name", "1.0")),
        (f"user/name@{MD5}.sif", Reference("user/name", "latest", MD5)),
        (f"user/name:1.0@sha256:{SHA256}", Reference("user/name", "1.0", f"sha256:{SHA256}")),
    ],
)
def test_the_form_of_a_name_says_what_it_is(path: str, reference: Reference | None) -> None:
    assert reference_of(path) == reference


_IMPOSSIBLE = (
    *(".git", "a:b", "-user/name", "us er/x", "a/b/c", "a/b/c.sif", "user/.name", "user/na?me", "user/näme"),
    *("user/name:", "user/name:a/b", "user/name@", "user/name@sha256:a:b", "user/" + "x" * 129),
)


@pytest.mark.parametrize("path", _IMPOSSIBLE)
def test_names_that_no_image_can_have(path: str) -> None:
    with pytest.raises(NoSuchEntry) as raised:
        reference_of(path)
    assert raised.value.certain


def test_only_what_names_a_digest_is_remembered_and_no_more_than_a_thousand() -> None:
    resolved = Resolved()
    digest = Validator(ValidatorKind.DIGEST, f"md5:{MD5}")
    location = Location("https://store/x", "https://hub/x", validator=digest)
    tag, fixed = Reference("user/name", "latest"), Reference("user/name", "latest", MD5)
    resolved.keep(tag, location)
    resolved.keep(fixed, location)
    assert (resolved.get(tag), resolved.get(fixed)) == (None, location)
    for number in range(1000):
        resolved.keep(Reference("user/name", str(number), MD5), location)
    assert resolved.get(fixed) is None
    resolved.keep(fixed, Location("https://store/x", "https://hub/x", validator=digest, expires_at_s=1.0))
    assert resolved.get(fixed) is None


def test_uris_of_singularity_hub() -> None:
    public, own = (
        ShubRemote(name="a", kind="shub"),
        ShubRemote(name="b", kind="shub", url="https://hub.example"),
    )
    short, full = parse_uri("shub://user/name:1.0"), parse_uri("shub://hub.example/user/name:1.0")
    assert (public.path_of(short), public.path_of(full)) == ("user/name:1.0", None)
    assert (own.path_of(short), own.path_of(full)) == (None, "user/name:1.0")
    assert ShubRemote.for_uri(short, "x") == ShubRemote(name="x", kind="shub")
    assert ShubRemote.for_uri(full, "x") == ShubRemote(name="x", kind="shub", url="https://hub.example")
    assert ShubRemote.for_uri(parse_uri("oras://hub.example/x"), "x") is None


def test_uris_of_swift() -> None:
    uri = parse_uri("swift://images/lab/x.sif")
    whole = SwiftRemote(name="a", kind="swift")
    below = SwiftRemote(name="a", kind="swift", url="swift://images/lab")
    assert whole.path_of(uri) == "images/lab/x.sif"
    assert below.path_of(uri) == "x.sif"
    assert below.path_of(parse_uri("swift://images/laboratory/x.sif")) is None
    assert SwiftRemote.for_uri(uri, "x") is None
    assert below.container_and_prefix == ("images", "lab")
    assert whole.container_and_prefix == ("", "")


def test_a_user_name_of_sregistry_needs_its_token(tmp_path) -> None:
    file = tmp_path / "lazysif.toml"
    head = '[remote.r]\nkind = "sregistry"\nurl = "https://s.example"\n'
    file.write_text(head)
    assert check_config(file) == []
    file.write_text(head + 'username = "alice"\n')
    (problem,) = check_config(file)
    assert problem == f"{file}:4: remote.r.username: a user name needs a token: name its file in token_file"
    assert SregistryRemote(kind="sregistry", url="https://s.example").revalidate == 3600
