"""No name leaves its directory, and every name comes back from its URL."""

from urllib.parse import unquote_to_bytes, urlsplit

from hypothesis import given
from hypothesis import strategies as st

from lazysif.core.names import decode_name, is_name, join_url, origin_of, same_origin

names = st.text(min_size=1, max_size=60).filter(is_name)
bases = st.sampled_from(["https://h/", "https://h/a/b", "http://h:81/%2e/?sig=a/b", "https://[::1]/x y/#f"])


@given(st.binary(max_size=300))
def test_decoding_round_trips_or_refuses(raw: bytes) -> None:
    name = decode_name(raw)
    assert name is None or (name.encode() == raw and "/" not in name)


@given(st.text(st.characters(categories=["Cc", "Zl", "Zp"]) | st.sampled_from("ab/.é"), min_size=1))
def test_a_name_can_be_printed_in_one_line(text: str) -> None:
    assert decode_name(text.encode()) is None or (text.isprintable() and text.splitlines() == [text])


@given(bases, st.lists(names, min_size=1, max_size=4))
def test_a_url_stays_below_its_base_and_reads_back(base: str, path: list[str]) -> None:
    url = urlsplit(join_url(base, "/".join(path)))
    top = urlsplit(join_url(base, ""))
    assert (url.scheme, url.netloc, url.query, url.fragment) == (top.scheme, top.netloc, top.query, "")
    assert url.path.startswith(top.path)
    components = url.path[len(top.path) :].split("/")
    assert [unquote_to_bytes(component).decode() for component in components] == path
    assert not {"", ".", ".."} & set(components)


@given(bases, st.text())
def test_any_text_joins_below_or_raises(base: str, path: str) -> None:
    try:
        url = join_url(base, path)
    except ValueError:
        return
    assert url.startswith(urlsplit(join_url(base, "")).geturl().partition("?")[0])
    assert same_origin(url, base)


@given(st.text())
def test_an_origin_never_raises_and_is_its_own_origin(text: str) -> None:
    assert "?" not in origin_of(text)
    assert origin_of(origin_of("https://h/" + text)) == origin_of("https://h/" + text)
