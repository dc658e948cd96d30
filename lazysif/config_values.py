"""What single values of the configuration may be, and the reading of secrets.

Each parser takes what tomllib (or the command line) gave and returns the value in force, or raises ValueError
with a text for people: what is wrong and what to write instead. No text repeats a URL: it may hold a secret.
"""

from __future__ import annotations

import difflib
import grp
import os
import pwd
import re
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from lazysif.errors import ConfigError
from lazysif.image_uri import parse_uri
from lazysif.sizes import ShareOrSize, format_size, parse_share_or_size, parse_size

SMALLEST_BLOCK, LARGEST_BLOCK = 4 * 1024, 8 * 1024 * 1024
# A password or token is a line; a key file or an image named by mistake is not read into memory.
_LONGEST_SECRET = 64 * 1024
_LARGEST_SECRET_FILE = 1024 * 1024
_URL_SCHEMES = ("http", "https")
_REMOTE_NAME = re.compile(r"[^\W.][\w.+@-]*")
_ORAS_URL = re.compile(r"oras://([A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]{1,5})?)((?:/[a-z0-9][a-z0-9._-]*)*)")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not text: put it in quotes")
    return value


def near(word: str, known: Iterable[str]) -> str:
    """ " (did you mean "x"?)" for the known word that is nearest, or ""."""
    found = difflib.get_close_matches(word, list(known), 1)
    return f' (did you mean "{found[0]}"?)' if found else ""


def _size_text(value: object) -> str:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(value)


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


def path(value: object) -> Path:
    """An absolute path; `~` is the home directory."""
    text = _text(value)
    if "\0" in text:
        raise ValueError("a path cannot hold a NUL character")
    try:
        parsed = Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f'the home directory in "{text}" is not known: write the whole path') from None
    if not parsed.is_absolute():
        raise ValueError(f'"{text}" is not an absolute path: start it with /')
    return parsed


def optional_path(value: object) -> Path | None:
    """As `path`; "" stands for none."""
    return None if value == "" else path(value)


def _file_status(parsed: Path) -> os.stat_result:
    try:
        status = parsed.stat()
    except OSError as error:
        raise ValueError(f"{parsed} cannot be used: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{parsed} is not a file")
    return status


def readable_file(value: object) -> Path:
    """The path of a file that this process can read."""
    parsed = path(value)
    _file_status(parsed)
    if not os.access(parsed, os.R_OK):
        raise ValueError(f"{parsed} cannot be read by the user that runs this")
    return parsed


def _refuse_shared(parsed: Path, status: os.stat_result) -> None:
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise ValueError(f"{parsed} has mode {mode:04o}, so others can get at the secret: chmod 600 {parsed}")


def secret_file(value: object) -> Path:
    """The path of a file that only its owner can read; the content stays where it is."""
    parsed = path(value)
    _refuse_shared(parsed, _file_status(parsed))
    return parsed


def read_secret(file: str | Path) -> str:
    """The password or token in `file`: one line of UTF-8, without its line end.

    Raises:
        ConfigError: missing, open to group or world, empty, or more than one line.
    """
    text = _secret_text(file, _LONGEST_SECRET).rstrip("\r\n")
    if not text or len(text) >= _LONGEST_SECRET or not text.isprintable():
        raise ConfigError(f"secret file {file} does not hold one line of text")
    return text


def read_secret_file(file: str | Path) -> str:
    """All of a file of credentials (of docker, a cloud's JSON), at most a MiB.

    Raises:
        ConfigError: missing, open to group or world, too long, or not UTF-8.
    """
    text = _secret_text(file, _LARGEST_SECRET_FILE)
    if len(text) >= _LARGEST_SECRET_FILE:
        raise ConfigError(f"secret file {file} is longer than a MiB")
    return text


def _secret_text(file: str | Path, most: int) -> str:
    try:
        with open(path(str(file)), "rb") as opened:
            # Asked of the open file: between a stat of the name and an open, the name can change.
            _refuse_shared(Path(file), os.fstat(opened.fileno()))
            return opened.read(most + 1).decode()
    except OSError as error:
        raise ConfigError(f"secret file {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        # "from None": the error itself quotes the bytes.
        raise ConfigError(f"secret file {file} is not UTF-8 text") from None
    except ValueError as error:
        raise ConfigError(f"secret file: {error}") from None


def url(value: object) -> str:
    """An http or https URL without userinfo and fragment; a query (a signature) is kept."""
    text = _text(value)
    if not text.isprintable() or " " in text or "\\" in text:
        raise ValueError(
            "spaces, backslashes and control characters cannot stand in a URL: percent-encode them"
        )
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"not a URL: {error}") from None
    if "@" in parts.netloc:
        raise ValueError("the URL holds a user name: write username, and put the password in password_file")
    if "://" not in text:
        raise ValueError("the URL has no scheme: start it with https:// or http://")
    if parts.scheme not in _URL_SCHEMES:
        raise ValueError(f'a URL of scheme "{parts.scheme}" cannot be read: write https:// or http://')
    if not host:
        raise ValueError("the URL names no host")
    if parts.fragment:
        raise ValueError("the URL has a fragment (#...), which no server sees: leave it out")
    return text


def optional_url(value: object) -> str:
    """As `url`; "" stands for none."""
    return "" if value == "" else url(value)


def mode(value: object) -> int:
    """Permission bits of files, written in octal: "0555"; without write bits, as nothing can be written."""
    text = _text(value)
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
    text = str(value) if isinstance(value, int) else _text(value)
    uid_of(text)
    return text


def group(value: object) -> str:
    """A group's name or number."""
    text = str(value) if isinstance(value, int) else _text(value)
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


def hosts(value: object) -> tuple[str, ...]:
    """Host names, with a port where one is meant; `*.example.org` stands for all below it."""
    if isinstance(value, str) or not isinstance(value, list | tuple) or not value:
        raise ValueError('not a list of hosts: write ["images.example.org", "*.example.com"]')
    for host in value:
        if not re.fullmatch(r"(\*|(\*\.)?[A-Za-z0-9][A-Za-z0-9.-]*)(:[0-9]{1,5})?", _text(host)):
            raise ValueError(f'"{host}" is not a host: write "images.example.org" or "*.example.org"')
    return tuple(value)


def oras_url(value: object) -> str:
    """`oras://host[:port][/path]`: where in which registry all names of a remote begin; "" stands for none."""
    if value == "":
        return ""
    match = _ORAS_URL.fullmatch(_text(value).rstrip("/"))
    if match is None:
        raise ValueError('not the address of a registry: write "oras://registry.example.org/project"')
    return f"oras://{match[1].lower()}{match[2]}"


def s3_url(value: object) -> str:
    """`s3://bucket/prefix`, or the http(s) URL of the same."""
    return _bucket_url(value, "s3")


def gs_url(value: object) -> str:
    """`gs://bucket/prefix`."""
    text = _bucket_url(value, "gs")
    if not text.startswith("gs://"):
        raise ValueError("the URL names no bucket: write gs://BUCKET or gs://BUCKET/PREFIX")
    return text


def _bucket_url(value: object, scheme: str) -> str:
    text = _text(value)
    if not text.lower().startswith(f"{scheme}://"):
        text = url(value)
        if "?" in text:
            raise ValueError('a signed URL is for one object: give it to a remote of kind "http"')
        return text
    rest = text[len(scheme) + 3 :]
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:-]*(/.*)?", rest) or not rest.isprintable():
        raise ValueError(f"the URL names no bucket: write {scheme}://BUCKET or {scheme}://BUCKET/PREFIX")
    return f"{scheme}://{rest.rstrip('/')}"


def endpoint(value: object) -> str:
    """Scheme, host and port of a provider; "" stands for the kind's own."""
    if value == "":
        return ""
    text = url(value)
    if urlsplit(text).path.strip("/") or "?" in text:
        raise ValueError('an endpoint is scheme, host and port alone: write "https://s3.example.org:9000"')
    return text.rstrip("/")


def region(value: object) -> str:
    """The name of a region, as providers give them; "" is not known."""
    text = _text(value)
    if not re.fullmatch(r"[A-Za-z0-9-]{0,64}", text):
        raise ValueError(f'"{text}" is not a region: write one as "eu-west-1"')
    return text


def swift_url(value: object) -> str:
    """A container of Swift, and what its names begin with: "swift://container/prefix"; "" is the whole account."""
    text = _text(value).rstrip("/")
    try:
        if text:
            fixed_name(text.removeprefix("swift://"))
    except ValueError:
        text = "?"
    if text and (not text.startswith("swift://") or "?" in text):
        raise ValueError('not a container: write "swift://container" or "swift://container/prefix"')
    return text


def line(value: object) -> str:
    """One line of text."""
    text = _text(value)
    if not text or not text.isprintable():
        raise ValueError("this cannot be empty and cannot hold control characters")
    return text


def program(value: object) -> str:
    """A credential program: "ecr-login" is docker-credential-ecr-login on the daemon's PATH, "/..." is a file.

    It is run with what the daemon may do, so nobody but root and this user may be able to write it.
    """
    text = _text(value)
    if not re.fullmatch(r"/[^\0]+|[A-Za-z0-9._-]+", text):
        raise ValueError(f'"{text}" is not a program: write "ecr-login", or its whole path')
    name = text if text.startswith("/") else f"docker-credential-{text}"
    found = shutil.which(name)
    if found is None:
        raise ValueError(f"{name} is not there, or cannot be run by the user that runs this")
    status = os.stat(found)
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        raise ValueError(f"{found} can be written by others than root and the user that runs this")
    return text


def optional_hosts(value: object) -> tuple[str, ...]:
    """As `hosts`; an empty list stands for none."""
    return () if value in ([], ()) else hosts(value)


def prefix(value: object) -> str:
    """What is put before every name of a remote: "collection" or "user/project"; "" is nothing."""
    text = _text(value).strip("/")
    try:
        return fixed_name(text) if text else ""
    except ValueError:
        raise ValueError('not a path of names: write "collection" or "user/project"') from None


def image_uri(value: object) -> str:
    """The URI of an image, as Apptainer takes it."""
    return parse_uri(_text(value)).text


def mount_options(value: object) -> tuple[str, ...]:
    """Options of the FUSE mount, one a string."""
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise ValueError('not a list: write ["allow_other"]')
    for option in value:
        if not re.fullmatch(r"[A-Za-z_]+(=[^\s,]+)?", _text(option)):
            raise ValueError(f'"{option}" is not one mount option: write ["allow_other", "fsname=x"]')
    return tuple(value)


def username(value: object) -> str:
    """A user name for Basic authentication: no colon (RFC 7617 section 2), no control characters."""
    text = _text(value)
    if not text or ":" in text or not text.isprintable():
        raise ValueError("a user name cannot be empty and cannot hold a colon or control characters")
    return text
