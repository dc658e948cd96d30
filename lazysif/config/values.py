"""What single values of the configuration may be; those that name files or addresses are in `files` and `urls`.

Each parser takes what tomllib (or the command line) gave and returns the value in force, or raises ValueError
with a text for people: what is wrong and what to write instead. No text repeats a URL: it may hold a secret.
"""

from __future__ import annotations

import difflib
import grp
import pwd
import re
from collections.abc import Iterable

from lazysif.sizes import ShareOrSize, format_size, parse_share_or_size, parse_size

SMALLEST_BLOCK, LARGEST_BLOCK = 4 * 1024, 8 * 1024 * 1024
_REMOTE_NAME = re.compile(r"[^\W.][\w.+@-]*")


def text_of(value: object) -> str:
    """Text as it is. Raises: ValueError where it is another type."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not text: put it in quotes")
    return value


def near(word: str, known: Iterable[str]) -> str:
    """ " (did you mean "x"?)" for the known word that is nearest, or ""."""
    found = difflib.get_close_matches(word, list(known), 1)
    return f' (did you mean "{found[0]}"?)' if found else ""


def _size_text(value: object) -> str:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else text_of(value)


def size(value: object) -> int:
    """Bytes: 4096 or "64MiB"."""
    return parse_size(_size_text(value))


def rate(value: object) -> int:
    """Bytes a second, at least one: "50MB"."""
    parsed = size(value)
    if parsed < 1:
        raise ValueError("nothing would ever come at a rate of 0")
    return parsed


def share_or_size(value: object) -> ShareOrSize:
    """A share of the file system ("5%") or bytes."""
    return parse_share_or_size(_size_text(value))


def cache_size(value: object) -> ShareOrSize:
    """As `share_or_size`, more than nothing."""
    parsed = share_or_size(value)
    if not (parsed.share or parsed.size_bytes):
        raise ValueError('a cache of no bytes holds nothing: write a size as "20GiB" or "50%"')
    return parsed


def block_size(value: object) -> int:
    """A power of two from 4 KiB to 8 MiB."""
    parsed = size(value)
    if not SMALLEST_BLOCK <= parsed <= LARGEST_BLOCK or parsed & (parsed - 1):
        raise ValueError(f'{format_size(parsed)} is not a power of two from 4 KiB to 8 MiB: write "128KiB"')
    return parsed


def mode(value: object) -> int:
    """Permission bits of files, written in octal: "0555"; without write bits, as nothing can be written."""
    text = text_of(value)
    if not re.fullmatch(r"(0o)?[0-7]{3,4}", text):
        raise ValueError(f'"{text}" is not an octal mode: write "0555" or "0440"')
    bits = int(text, 8)
    if bits & ~0o555:
        raise ValueError(
            f'"{text}" has write or special bits, and images are read-only: write "0555" or "0440"'
        )
    return bits


def directory_mode(file_mode: int) -> int:
    """Permissions of the directories of a remote: who may read a file may enter the directory."""
    return file_mode | (file_mode & 0o444) >> 2


def owner(value: object) -> str:
    """A user's name or number."""
    text = str(value) if isinstance(value, int) else text_of(value)
    uid_of(text)
    return text


def group(value: object) -> str:
    """A group's name or number."""
    text = str(value) if isinstance(value, int) else text_of(value)
    gid_of(text)
    return text


def _number(text: str) -> int | None:
    # 2**32 - 1 is "no id" to the kernel.
    return int(text) if re.fullmatch(r"[0-9]{1,10}", text) and int(text) < 2**32 - 1 else None


def uid_of(name: str) -> int:
    """The number of a user. Raises: ValueError where the node knows none of that name."""
    number = _number(name)
    if number is not None:
        return number
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        raise ValueError(
            f'this node knows no user "{name}": write a name or a number that it knows'
        ) from None


def gid_of(name: str) -> int:
    """The number of a group. Raises: ValueError where the node knows none of that name."""
    number = _number(name)
    if number is not None:
        return number
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        raise ValueError(
            f'this node knows no group "{name}": write a name or a number that it knows'
        ) from None


def remote_name(name: str) -> str:
    """A directory's name: letters, digits, `_`, and behind the first also `.`, `+`, `@`, `-`."""
    if not _REMOTE_NAME.fullmatch(name) or len(name.encode()) > 255:
        raise ValueError(f'"{name}" cannot name a directory: use letters, digits, "_", "-" and "."')
    return name


def fixed_name(name: str) -> str:
    """A path below the mountpoint that is given to an image: "gpu.sif", "site/gpu.sif"."""
    parts = name.split("/")
    if not name.isprintable() or any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts):
        raise ValueError('not a path below the mountpoint: write "gpu.sif" or "site/gpu.sif"')
    return name


def prefix(value: object) -> str:
    """What is put before every name of a remote: "collection" or "user/project"; "" is nothing."""
    text = text_of(value).strip("/")
    try:
        return fixed_name(text) if text else ""
    except ValueError:
        raise ValueError('not a path of names: write "collection" or "user/project"') from None


def region(value: object) -> str:
    """The name of a region, as providers give them; "" is not known."""
    text = text_of(value)
    if not re.fullmatch(r"[A-Za-z0-9-]{0,64}", text):
        raise ValueError(f'"{text}" is not a region: write one as "eu-west-1"')
    return text


def line(value: object) -> str:
    """One line of text."""
    text = text_of(value)
    if not text or not text.isprintable():
        raise ValueError("this cannot be empty and cannot hold control characters")
    return text


def username(value: object) -> str:
    """A user name for Basic authentication: no colon (RFC 7617 section 2), no control characters."""
    text = text_of(value)
    if not text or ":" in text or not text.isprintable():
        raise ValueError("a user name cannot be empty and cannot hold a colon or control characters")
    return text


def mount_options(value: object) -> tuple[str, ...]:
    """Options of the FUSE mount, one a string."""
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise ValueError('not a list: write ["allow_other"]')
    for option in value:
        if not re.fullmatch(r"[A-Za-z_]+(=[^\s,]+)?", text_of(option)):
            raise ValueError(f'"{option}" is not one mount option: write ["allow_other", "fsname=x"]')
    return tuple(value)
