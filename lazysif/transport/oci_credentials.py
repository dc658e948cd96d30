"""Where credentials of OCI registries come from: what the configuration names, and the files of docker and podman.

Programs that such a file names are never run: it may be another user's. One that the daemon's own configuration
names (`credential_helper`) is, with bounded time. Files are read anew for each token, so that a login counts at once.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trio

from lazysif.config.files import read_secret, read_secret_file
from lazysif.core.oci import DOCKER_HUB_API
from lazysif.errors import AccessDenied, ConfigError, SourceTimeout, SourceUnavailable

log = logging.getLogger(__name__)

_PROGRAM_S = 20.0
_FILE_S = 10.0
_LARGEST_OUTPUT = 64 << 10
_TOKEN_USER = "<token>"
"""What programs give as user name where the secret is an identity token."""
_DOCKER_HUB_KEYS = (DOCKER_HUB_API, "docker.io", "registry-1.docker.io")
HINT = "set username and password_file, auth_file or credential_helper of its remote"


@dataclass(frozen=True, slots=True)
class Credential:
    """What a registry, or its token service, may be told. Never shown.

    Args:
        identity_token: an OAuth2 refresh token, for the token service.
        registry_token: a bearer token, for the registry itself.
    """

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str | None:
        """The value of `Authorization` (RFC 7617), if this is a user with a password."""
        if not (self.username or self.password):
            return None
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


ANONYMOUS = Credential()


class OciCredentials:
    """Args:
    named: the user that the configuration names; goes before all else.
    program: the credential program that the configuration names.
    files: of docker or podman; the first that knows a registry counts.
    """

    def __init__(
        self, named: Credential | None = None, program: str | None = None, files: Sequence[Path] = ()
    ) -> None:
        self._named = named
        self._program = program
        self._files = files
        self._told: set[Path] = set()

    async def find(self, host: str, repository: str) -> Credential:
        """Those for a repository; `ANONYMOUS` where there are none.

        Raises:
            AccessDenied: a file or the program cannot be used.
            SourceTimeout, SourceUnavailable: not in time, or not now.
        """
        if self._named is not None:
            return self._named
        if self._program is not None:
            work = partial(from_program, self._program, host)
            return await _in_thread(work, _PROGRAM_S + 1, f"credential program {self._program}")
        if self._files:
            work = partial(self._from_files, host, repository)
            return await _in_thread(work, _FILE_S, "the credential file")
        return ANONYMOUS

    def _from_files(self, host: str, repository: str) -> Credential:
        for path in self._files:
            try:
                content = read_auth_file(path)
            except ConfigError as error:
                raise AccessDenied(error.why, asks_credentials=True) from None
            found = in_auth_file(content, host, repository)
            if found is not None:
                return found
            self._tell_of_programs(path, content, host)
        return ANONYMOUS

    def _tell_of_programs(self, path: Path, content: Mapping[str, Any], host: str) -> None:
        helpers = content.get("credHelpers")
        program = (helpers.get(host) if isinstance(helpers, dict) else None) or content.get("credsStore")
        if program and path not in self._told:
            self._told.add(path)
            log.warning(
                "%s leaves the credentials for %s to the program %r, which is run only if credential_helper names it",
                *(path, host, str(program)[:100]),
            )


async def _in_thread(work: partial[Credential], most_s: float, what: str) -> Credential:
    """A file may lie on a server that is silent, and a program may ask one."""
    try:
        with trio.fail_after(most_s):
            return await trio.to_thread.run_sync(work, abandon_on_cancel=True)
    except trio.TooSlowError:
        raise SourceTimeout(f"{what} gave nothing within {most_s:g} s") from None


def read_auth_file(path: Path) -> Mapping[str, Any]:
    """The content of a docker or podman file. Raises: ConfigError: open to others, or not such a file."""
    try:
        parsed = json.loads(read_secret_file(path))
    except (ValueError, RecursionError):
        # "from None": the error quotes the content
        raise ConfigError(
            f"credential file {path} is not JSON", hint="log in again to write it anew"
        ) from None
    if not isinstance(parsed, dict) or not isinstance(parsed.get("auths", {}), dict):
        raise ConfigError(
            f'credential file {path} has no table "auths"', hint="is it one of docker or podman?"
        )
    return parsed


def in_auth_file(content: Mapping[str, Any], host: str, repository: str) -> Credential | None:
    """What such a file knows of a repository: the longest key that leads to it (containers-auth.json(5))."""
    known = {_plain_key(key): entry for key, entry in content.get("auths", {}).items()}
    for key in _keys(host, repository):
        entry = known.get(key)
        if isinstance(entry, dict):
            found = _credential(entry)
            if found != ANONYMOUS:
                return found
    return None


def _keys(host: str, repository: str) -> Iterator[str]:
    hosts = _DOCKER_HUB_KEYS if host in _DOCKER_HUB_KEYS else (host,)
    parts = repository.split("/")
    for length in range(len(parts), -1, -1):
        for name in hosts:
            yield "/".join([name, *parts[:length]])


def _plain_key(key: str) -> str:
    """Docker writes URLs: `https://index.docker.io/v1/`."""
    key = key.removeprefix("https://").removeprefix("http://").rstrip("/")
    return key.removesuffix("/v1").removesuffix("/v2")


def _credential(entry: Mapping[str, Any]) -> Credential:
    def text(key: str) -> str:
        value = entry.get(key)
        return value if isinstance(value, str) else ""

    username, password = text("username"), text("password")
    if not username and text("auth"):
        try:
            username, _, password = base64.b64decode(text("auth"), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return ANONYMOUS
    # Docker pads old entries with NUL characters.
    password = password.strip("\0")
    return Credential(username, password, text("identitytoken"), text("registrytoken"))


def default_auth_files() -> list[Path]:
    """Where `apptainer registry login`, `docker login` and `podman login` of this user leave credentials.

    Only those that are there.
    """
    home, environment = Path.home(), os.environ
    apptainer = environment.get("APPTAINER_CONFIGDIR", "")
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    config = environment.get("XDG_CONFIG_HOME") or str(home / ".config")
    named = [
        Path(apptainer or home / ".apptainer") / "docker-config.json",
        # where this variable is set, Apptainer falls back to a file there and not to Docker's
        Path(apptainer) / "config.json" if apptainer else None,
        Path(environment.get("DOCKER_CONFIG") or home / ".docker") / "config.json",
        Path(environment["REGISTRY_AUTH_FILE"]) if environment.get("REGISTRY_AUTH_FILE") else None,
        Path(runtime) / "containers/auth.json" if runtime else None,
        Path(config) / "containers/auth.json",
    ]
    return [path for path in named if path is not None and path.is_file()]


def from_program(program: str, host: str) -> Credential:
    """What a credential program of docker's protocol answers to `get`.

    Raises:
        AccessDenied: it cannot be run, or answers something else.
        SourceTimeout: not in time.
        SourceUnavailable: it fails; its output is not repeated, as it may hold a secret.
    """
    asked = f"https://{host}/v1/" if host == DOCKER_HUB_API else host
    try:
        done = subprocess.run(
            [program, "get"],
            input=asked.encode(),
            capture_output=True,
            timeout=_PROGRAM_S,
            check=False,
            cwd="/",
        )
    except subprocess.TimeoutExpired:
        raise SourceTimeout(f"credential program {program} did not end within {_PROGRAM_S:g} s") from None
    except OSError as error:
        raise AccessDenied(
            f"credential program {program} cannot be run: {error.strerror}", asks_credentials=True
        ) from None
    output = done.stdout[:_LARGEST_OUTPUT]
    if done.returncode and b"credentials not found" in output + done.stderr[:_LARGEST_OUTPUT]:
        return ANONYMOUS
    if done.returncode:
        raise SourceUnavailable(
            f"credential program {program} failed with status {done.returncode}", hint="run it by hand"
        )
    try:
        answer = json.loads(output)
        username, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise AccessDenied(
            f"credential program {program} answered something else than credentials", asks_credentials=True
        ) from None
    return Credential(identity_token=secret) if username == _TOKEN_USER else Credential(username, secret)


def oci_credentials(
    *,
    username: str | None = None,
    password_file: Path | None = None,
    auth_file: Path | None = None,
    helper: str | None = None,
) -> OciCredentials:
    """What a remote's keys stand for. Where none of them is given, root has no credentials, and anybody else
    those of the own logins: a daemon of root would lend out whatever its administrator logged in to by hand.

    Raises:
        ConfigError: a file cannot be used.
    """
    if username is not None and password_file is not None:
        return OciCredentials(Credential(username, read_secret(password_file)))
    if helper is not None:
        return OciCredentials(program=helper if helper.startswith("/") else f"docker-credential-{helper}")
    if auth_file is not None:
        read_auth_file(auth_file)
        return OciCredentials(files=[auth_file])
    return OciCredentials(files=_usable(default_auth_files()) if os.geteuid() else [])


def _usable(files: Sequence[Path]) -> list[Path]:
    """Files that nobody named need not be right."""
    usable = []
    for path in files:
        try:
            read_auth_file(path)
        except ConfigError as error:
            log.warning("%s; it is left out", error)
        else:
            usable.append(path)
    return usable
