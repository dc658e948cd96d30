"""Files and programs that the configuration names, and the reading of secrets in them.

Errors of parsers as in `values`.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from pathlib import Path

from lazysif.config.values import text_of
from lazysif.errors import ConfigError

# A password or token is a line; a key file or an image named by mistake is not read into memory.
_LONGEST_SECRET = 64 * 1024
_LARGEST_SECRET_FILE = 1024 * 1024


def path(value: object) -> Path:
    """An absolute path in UTF-8, as TOML is; `~` is the home directory."""
    text = text_of(value)
    if not text:
        raise ValueError("the path is empty: write one, or leave it out")
    if "\0" in text:
        raise ValueError("a path cannot hold a NUL character")
    try:
        parsed = Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f'the home directory in "{text}" is not known: write the whole path') from None
    if not parsed.is_absolute():
        raise ValueError(f'"{text}" is not an absolute path: start it with /')
    try:
        str(parsed).encode()
    except UnicodeEncodeError:
        raise ValueError(f'"{parsed}" is not UTF-8: name another path') from None
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


def program(value: object) -> str:
    """A credential program: "ecr-login" is docker-credential-ecr-login on the daemon's PATH, "/..." is a file.

    It is run with what the daemon may do, so nobody but root and this user may be able to write it.
    """
    text = text_of(value)
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
