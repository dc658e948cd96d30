"""Directory listings out of the index pages that web servers make. Pure.

Understood: nginx autoindex (HTML and JSON), Apache mod_autoindex (plain, FancyIndexing, HTMLTable), lighttpd
mod_dirlisting, Python's http.server, Caddy's JSON. Links are all that counts: a name in the text may be cut.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from urllib.parse import unquote_to_bytes, urlsplit

from lazysif.core.names import decode_name, same_origin
from lazysif.errors import FormatError
from lazysif.model import DirectoryEntry, EntryKind

LARGEST_PAGE = 16 * 1024 * 1024
MOST_ENTRIES = 100_000

# Servers say what the page is in its title: nginx, Apache and lighttpd "Index of /x", http.server "Directory
# listing for /x". The path behind it keeps a home page that only speaks of an index from being taken for one.
_TITLE = re.compile(r"<title[^<>]{0,100}>\s{0,100}(?:Index of|Directory listing for)\s{1,10}/", re.IGNORECASE)
_TITLE_WITHIN = 16 * 1024
# Only whole start tags reach html.parser: fed with a page of 16 MiB of unclosed ones it takes quadratic time
# (CVE-2025-6069). No alternative here can match "<", so this is linear.
_LINK = re.compile(r"""<a\s(?:[^<>"']|"[^"<]*"|'[^'<]*')*>""", re.IGNORECASE)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


class _Href(HTMLParser):
    """The `href` of one start tag, character references decoded."""

    value: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.value = next((value for name, value in attrs if name == "href"), None)


def looks_like_index(content_type: str, body: str) -> bool:
    """Whether an answer is a directory listing, and not just a page that stands where one might be.

    Args:
        content_type: the header's value, parameters included.
        body: the whole answer, or for HTML at least its first 16 KiB.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json":
        return _json_lines(body) is not None
    return kind in ("text/html", "application/xhtml+xml") and bool(_TITLE.search(body[:_TITLE_WITHIN]))


def parse_index(body: str, page_url: str) -> tuple[DirectoryEntry, ...]:
    """What lies directly in the directory, in the order of the page, each name once.

    Sort links, the parent, links that lead elsewhere or deeper, and names that cannot be (`decode_name`) are
    left out.

    Args:
        body: a page that `looks_like_index`; other text gives no entries or nonsense.
        page_url: the directory's URL, with its trailing slash.

    Raises:
        FormatError: more than `LARGEST_PAGE` characters or `MOST_ENTRIES` names.
    """
    if len(body) > LARGEST_PAGE:
        raise FormatError(f"index page of {len(body)} characters")
    lines = _json_lines(body) if body.lstrip().startswith("[") else None
    kinds: dict[str, EntryKind] = {}
    for name, kind in _json_entries(lines) if lines is not None else _html_entries(body, page_url):
        kinds.setdefault(name, kind)
        if len(kinds) > MOST_ENTRIES:
            raise FormatError(f"index page of more than {MOST_ENTRIES} names")
    return tuple(DirectoryEntry(name, kind) for name, kind in kinds.items())


def _html_entries(body: str, page_url: str) -> Iterator[tuple[str, EntryKind]]:
    directory = _components(urlsplit(page_url).path)[:-1]
    parser = _Href()
    for tag in _LINK.finditer(body):
        parser.reset()
        parser.value = None
        parser.feed(tag[0])
        path = _path_of(parser.value or "", page_url)
        if path is None:
            continue
        parts = _components(path)
        rest = parts[len(directory) :] if parts[: len(directory)] == directory else []
        # "a" is a file, "a/" (a, and nothing behind the slash) a directory; "" is the page itself.
        if len(rest) == 1 or (len(rest) == 2 and not rest[1]):
            name = decode_name(rest[0])
            if name is not None:
                yield name, EntryKind.DIRECTORY if len(rest) == 2 else EntryKind.FILE


def _components(path: str) -> list[bytes]:
    return [unquote_to_bytes(component) for component in (path or "/").encode(errors="replace").split(b"/")]


def _path_of(href: str, page_url: str) -> str | None:
    """The absolute path that a link leads to, still percent-encoded; None where it leads off the page's host.

    Not urljoin: it drops an empty ";" at the end of a name. Dot segments stay, and are no names later.
    """
    href = href.strip()
    if not href or "?" in href or "#" in href:
        return None
    if _SCHEME.match(href) or href.startswith("//"):
        absolute = urlsplit(page_url).scheme + ":" + href if href.startswith("//") else href
        return urlsplit(absolute).path if same_origin(absolute, page_url) else None
    if href.startswith("/"):
        return href
    return urlsplit(page_url).path.rpartition("/")[0] + "/" + href.removeprefix("./")


def _json_lines(body: str) -> list[dict[str, object]] | None:
    """The objects of a JSON listing; None where it is none."""
    try:
        lines = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(lines, list) or not all(_is_json_line(line) for line in lines):
        return None
    return lines


def _is_json_line(line: object) -> bool:
    """nginx: name and type; Caddy: name and is_dir, with a slash behind the names of directories."""
    if not isinstance(line, dict) or not isinstance(line.get("name"), str):
        return False
    return isinstance(line.get("type"), str) or isinstance(line.get("is_dir"), bool)


def _json_entries(lines: list[dict[str, object]]) -> Iterator[tuple[str, EntryKind]]:
    for line in lines:
        is_directory = line.get("type") == "directory" or line.get("is_dir") is True
        text = str(line["name"])
        name = decode_name((text.removesuffix("/") if is_directory else text).encode(errors="surrogatepass"))
        # nginx calls a device or a socket "other": nothing to read.
        if name is not None and (is_directory or line.get("type") == "file" or line.get("is_dir") is False):
            yield name, EntryKind.DIRECTORY if is_directory else EntryKind.FILE
