"""Kind swift against a real Swift: v1 by tempauth, v3 by a Keystone in front of it, TempURL, large objects."""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from tests.registries.scenarios import Logged, RegistryScenarios, Stand
from tests.support.mount import Mount
from tests.support.swift_server import KEY, USER, Keystone, NotInstalled, SwiftServer, swift_client

pytestmark = [pytest.mark.mounted, pytest.mark.timeout(120)]

MakeMount = Callable[..., Mount]
DATA = random.Random(3).randbytes(3_000_000)
CHANGED = DATA[:2_500_000] + random.Random(4).randbytes(500_000)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwiftServer]:
    try:
        with SwiftServer(tmp_path_factory.mktemp("swift")) as server:
            yield server
    except NotInstalled as error:
        pytest.skip(str(error))


@pytest.fixture
def keystone(server: SwiftServer, known_secrets: list[str]) -> Iterator[Keystone]:
    with Keystone(server) as keystone:
        yield keystone
        known_secrets += [keystone.password, keystone.application_secret, *server.tokens()]


def secret_file(directory: Path, secret: str) -> Path:
    file = directory / f"secret-{hashlib.sha256(secret.encode()).hexdigest()[:8]}"
    file.write_text(secret + "\n")
    file.chmod(0o600)
    return file


@dataclass
class SwiftStand(Stand):
    """v1 logins."""

    server: SwiftServer = field(kw_only=True)
    directory: Path = field(kw_only=True)
    path: str = "images/hello.sif"
    first_open: ClassVar[int] = 1  # the login
    second_open: ClassVar[int] = 1
    listed: ClassVar = {"": ["images"], "images": ["hello.sif"]}

    def keys(self) -> str:
        self.secrets[:] = self.server.tokens()
        return self._keys(KEY)

    def wrong_keys(self) -> str:
        return self._keys("not the key")

    def _keys(self, key: str) -> str:
        return (
            f'kind = "swift"\nauth_url = "{self.server.auth_url}"\nauth_version = "1"\n'
            f'username = "{USER}"\npassword_file = "{secret_file(self.directory, key)}"'
        )

    def publish(self, image: Path) -> None:
        self.server.client("upload", "images", image, "--object-name", "hello.sif")

    def expire(self) -> None:
        self.server.expire_tokens()
        self.secrets[:] = self.server.tokens()

    def requests(self) -> list[Logged]:
        asked = self.server.requests()
        path = f"/v1/AUTH_test/{self.path}"
        # what a look-up that found an expired token asked in vain is no more than that
        return [Logged(f"{r.method} {r.path} {r.status}", r.path == path and r.status != 401) for r in asked]

    def clear(self) -> None:
        self.server.clear()


class TestSwift(RegistryScenarios):
    @pytest.fixture
    def stand(self, server: SwiftServer, tmp_path: Path) -> Stand:
        return SwiftStand(server=server, directory=tmp_path)


@pytest.fixture
def mounted(tmp_path: Path, lazysif: MakeMount) -> Callable[..., Mount]:
    """`mounted(LINES, NAME="value")`: a remote `r` of these lines, and the daemon's environment."""

    def make(*lines: str, kind: str = "swift", **environment: str) -> Mount:
        config = tmp_path / "lazysif.toml"
        config.write_text(
            "\n".join(("[remote.r]", f'kind = "{kind}"', "revalidate = 0.5", "negative = 0.5", *lines))
        )
        return lazysif(config=config, environment=environment)

    return make


@pytest.fixture
def image(server: SwiftServer, tmp_path: Path) -> str:
    """`container/object` of DATA."""
    return upload(server, tmp_path, "x.sif", DATA)


def upload(server: SwiftServer, tmp_path: Path, name: str, data: bytes, *options: str) -> str:
    file = tmp_path / "upload.bin"
    file.write_bytes(data)
    server.client("upload", "data", file, "--object-name", name, *options)
    return f"data/{name}"


def test_keystone_knows_the_real_client(keystone: Keystone, image: str) -> None:
    login = {"OS_AUTH_URL": f"{keystone.url}/v3", "OS_IDENTITY_API_VERSION": "3", "OS_REGION_NAME": "north"}
    user = {"OS_USERNAME": "alice", "OS_PASSWORD": keystone.password, "OS_PROJECT_NAME": "genomics"}
    domains = {"OS_USER_DOMAIN_NAME": "Default", "OS_PROJECT_DOMAIN_NAME": "Default"}
    assert "x.sif" in swift_client("list", "data", **login, **user, **domains)
    application = {
        "OS_AUTH_TYPE": "v3applicationcredential",
        "OS_APPLICATION_CREDENTIAL_ID": "a1b2c3",
        "OS_APPLICATION_CREDENTIAL_SECRET": keystone.application_secret,
    }
    assert "x.sif" in swift_client("list", "data", **login, **application)


def test_keystone_password_in_a_region_below_a_container(
    keystone: Keystone, server: SwiftServer, image: str, mounted: Callable[..., Mount], tmp_path: Path
) -> None:
    upload(server, tmp_path, "deep/er/y.sif", DATA)
    mount = mounted(
        'url = "swift://data"',
        f'auth_url = "{keystone.url}/v3"\nregion = "north"\nproject = "genomics"\nusername = "alice"',
        f'password_file = "{secret_file(tmp_path, keystone.password)}"',
    )
    assert (mount.path / "r" / "x.sif").read_bytes() == DATA
    assert sorted(os.listdir(mount.path / "r")) == ["deep", "x.sif"]
    assert (mount.path / "r/deep/er/y.sif").read_bytes() == DATA
    assert os.listdir(mount.path / "r/deep") == ["er"]
    assert keystone.logins == 1
    server.expire_tokens()
    time.sleep(0.6)
    assert (mount.path / "r" / "x.sif").stat().st_size == len(DATA)
    assert keystone.logins == 2
    assert keystone.password not in mount.log()


def test_the_next_daemon_logs_in_for_what_its_predecessor_opened(
    server: SwiftServer, image: str, mounted: Callable[..., Mount], tmp_path: Path
) -> None:
    mount = mounted(*v1_lines(server, tmp_path))
    with (mount.path / "r" / image).open("rb", buffering=0) as opened:
        assert opened.read(4096) == DATA[:4096]
        mount.run("reload", mount.path)
        mount.adopt()
        server.clear()
        assert opened.read() == DATA[4096:]
    assert server.requests()[0].path == "/auth/v1.0"


def test_keystone_application_credential_from_the_environment(
    keystone: Keystone, image: str, mounted: Callable[..., Mount]
) -> None:
    mount = mounted(
        OS_AUTH_URL=keystone.url,
        OS_APPLICATION_CREDENTIAL_ID="a1b2c3",
        OS_APPLICATION_CREDENTIAL_SECRET=keystone.application_secret,
    )
    assert (mount.path / "r" / image).read_bytes() == DATA


def test_a_refused_login_is_not_repeated_for_each_name(
    keystone: Keystone, mounted: Callable[..., Mount], tmp_path: Path
) -> None:
    mount = mounted(
        f'auth_url = "{keystone.url}"\nproject_id = "p"\nusername = "alice"',
        f'password_file = "{secret_file(tmp_path, "wrong-horse")}"',
    )
    for number in range(5):
        with pytest.raises(PermissionError):
            (mount.path / f"r/data/x{number}.sif").stat()
    assert keystone.logins == 1
    assert "the login failed" in mount.log()


def test_a_region_that_is_not_there_is_told(
    keystone: Keystone, image: str, mounted: Callable[..., Mount], tmp_path: Path
) -> None:
    mount = mounted(
        f'auth_url = "{keystone.url}"\nproject_id = "p"\nusername = "alice"\nregion = "south"',
        f'password_file = "{secret_file(tmp_path, keystone.password)}"',
    )
    with pytest.raises(OSError, match="Input/output"):
        (mount.path / "r" / image).stat()
    assert 'there is no object store in region "south", only in: north' in mount.log()


def test_a_token_that_is_given_is_used_and_not_renewed(
    server: SwiftServer, image: str, mounted: Callable[..., Mount], tmp_path: Path
) -> None:
    token = server.log_in()
    mount = mounted(f'storage_url = "{server.storage_url}"', f'token_file = "{secret_file(tmp_path, token)}"')
    assert (mount.path / "r" / image).read_bytes() == DATA
    server.expire_tokens()
    time.sleep(0.6)
    with pytest.raises(PermissionError):
        (mount.path / "r" / image).stat()
    assert token not in mount.log()


def test_a_public_container_needs_no_token(
    server: SwiftServer, mounted: Callable[..., Mount], tmp_path: Path
) -> None:
    file = tmp_path / "public.bin"
    file.write_bytes(DATA)
    server.client("upload", "public", file, "--object-name", "x.sif")
    server.client("post", "public", "--read-acl", ".r:*,.rlistings")
    server.clear()
    mount = mounted(f'storage_url = "{server.storage_url}"\nurl = "swift://public"')
    assert (mount.path / "r/x.sif").read_bytes() == DATA
    assert os.listdir(mount.path / "r") == ["x.sif"]
    assert not [request for request in server.requests() if request.path.startswith("/auth")]


def test_a_users_temporary_url_is_an_ordinary_one(
    server: SwiftServer, image: str, mounted: Callable[..., Mount]
) -> None:
    key = "temporary-key"
    server.client("post", "-m", f"Temp-URL-Key:{key}")
    until = int(time.time()) + 600
    signed = f"GET\n{until}\nprefix:/v1/AUTH_test/data/"
    signature = hmac.new(key.encode(), signed.encode(), hashlib.sha256).hexdigest()
    query = f"temp_url_sig={signature}&temp_url_expires={until}&temp_url_prefix="
    mount = mounted(f'url = "{server.storage_url}/data?{query}"', kind="http")
    assert (mount.path / "r/x.sif").read_bytes() == DATA
    assert mount.counters()["unexpected_errors"] == 0
    version = os.getxattr(mount.path / "r/x.sif", "user.lazysif.validator").decode()
    assert version == f"etag {hashlib.md5(DATA).hexdigest()}"
    assert signature not in mount.log()


LARGE = {"static": ("--use-slo", "-S", "1000000"), "dynamic": ("-S", "1000000")}


@pytest.mark.parametrize("kind", LARGE)
def test_a_large_object_is_read_by_ranges(
    kind: str, server: SwiftServer, mounted: Callable[..., Mount], tmp_path: Path
) -> None:
    name = upload(server, tmp_path, f"{kind}.sif", DATA, *LARGE[kind])
    mount = mounted(*v1_lines(server, tmp_path))
    server.clear()
    assert (mount.path / "r" / name).read_bytes() == DATA
    data = [request for request in server.requests() if request.path.endswith(name)]
    assert data
    assert {request.status for request in data} == {206}


def test_a_segment_that_is_replaced_is_never_mixed_in(
    server: SwiftServer, mounted: Callable[..., Mount], tmp_path: Path
) -> None:
    """A dynamic large object changes without its manifest: its ETag tells all the same."""
    name = upload(server, tmp_path, "changing.sif", DATA, *LARGE["dynamic"])
    mount = mounted(*v1_lines(server, tmp_path))
    last = sorted(server.client("list", "data_segments", "-p", "changing.sif").split())[-1]
    with (mount.path / "r" / name).open("rb", buffering=0) as opened:
        assert opened.read(4096) == DATA[:4096]
        segment = tmp_path / "segment.bin"
        segment.write_bytes(CHANGED[2_000_000:])
        server.client("upload", "data_segments", segment, "--object-name", last)
        with pytest.raises(OSError) as caught:
            os.pread(opened.fileno(), 4096, 2_900_000)
        assert caught.value.errno == errno.ESTALE
    time.sleep(0.6)
    assert (mount.path / "r" / name).read_bytes() == CHANGED


def v1_lines(server: SwiftServer, directory: Path) -> tuple[str, ...]:
    return (
        f'auth_url = "{server.auth_url}"\nauth_version = "1"\nusername = "{USER}"',
        f'password_file = "{secret_file(directory, KEY)}"',
    )
