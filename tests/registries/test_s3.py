"""Kind s3 against two servers that check signatures: moto, and the S3 of OpenStack Swift."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from botocore.exceptions import ClientError

from tests.registries.scenarios import REVALIDATE_S, Logged, MakeMount, RegistryScenarios, Stand
from tests.support.mount import lazysif as lazysif_command
from tests.support.s3_servers import BUCKET, REGION, MotoServer, client, write_credentials
from tests.support.site_caches import SigningCache
from tests.support.swift_server import KEY, USER, NotInstalled, SwiftServer

pytestmark = [pytest.mark.mounted, pytest.mark.timeout(120)]


@dataclass
class MotoStand(Stand):
    """AWS as moto plays it: keys that can be revoked, versions of objects where `versions` is set."""

    server: MotoServer = field(kw_only=True)
    root: Path = field(kw_only=True)
    path: str = "dir/hello.sif"
    first_open: ClassVar[int] = 1  # whether keys lie below dir/
    second_open: ClassVar[int] = 1
    listed: ClassVar = {"": ["dir"], "dir": ["hello.sif"]}

    def __post_init__(self) -> None:
        self._login()

    def _login(self) -> None:
        self.secrets.append(self.server.user[1])
        write_credentials(self.root / "credentials", *self.server.user)

    def keys(self) -> str:
        return (
            f'kind = "s3"\nurl = "s3://{BUCKET}/sif"\nendpoint = "{self.server.url}"\nregion = "{REGION}"\n'
            f'credentials_file = "{self.root}/credentials"'
        )

    def wrong_keys(self) -> str:
        write_credentials(self.root / "credentials", self.server.user[0], "of somebody else")
        return self.keys()

    def publish(self, image: Path) -> None:
        self.server.s3.upload_file(str(image), BUCKET, f"sif/{self.path}")

    def expire(self) -> None:
        self.server.revoke()
        self._login()

    def requests(self) -> list[Logged]:
        return [Logged(line, data) for line, data in self.server.log.lines]

    def clear(self) -> None:
        self.server.log.lines.clear()


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    with MotoServer() as server:
        yield server


class TestMoto(RegistryScenarios):
    @pytest.fixture
    def stand(self, moto: MotoServer, tmp_path: Path) -> MotoStand:
        return MotoStand(server=moto, root=tmp_path)


@dataclass
class SwiftStand(Stand):
    """Swift with its S3: signatures and regions checked by code of its own. The region is not configured."""

    server: SwiftServer = field(kw_only=True)
    root: Path = field(kw_only=True)
    path: str = "dir/hello.sif"
    first_open: ClassVar[int] = 2  # refused with the region's name; whether keys lie below dir/
    second_open: ClassVar[int] = 2
    listed: ClassVar = {"": ["dir"], "dir": ["hello.sif"]}

    def __post_init__(self) -> None:
        self.secrets.append(KEY)
        write_credentials(self.root / "credentials", USER, KEY)
        self.url = f"http://127.0.0.1:{self.server.port}"
        self.s3 = client("s3", self.url, USER, KEY)

    def keys(self) -> str:
        return f'kind = "s3"\nurl = "{self.url}/{BUCKET}"\ncredentials_file = "{self.root}/credentials"'

    def wrong_keys(self) -> str:
        write_credentials(self.root / "credentials", USER, "of somebody else")
        return self.keys()

    def publish(self, image: Path) -> None:
        self.s3.upload_file(str(image), BUCKET, self.path)

    def expire(self) -> None:
        """Nothing of it expires: each request is signed anew."""

    def requests(self) -> list[Logged]:
        return [Logged(f"{seen}", seen.range != "-") for seen in self.server.requests()]

    def clear(self) -> None:
        self.server.clear()


@pytest.fixture(scope="module")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwiftServer]:
    try:
        with SwiftServer(tmp_path_factory.mktemp("swift")) as server:
            client("s3", f"http://127.0.0.1:{server.port}", USER, KEY).create_bucket(Bucket=BUCKET)
            yield server
    except NotInstalled as error:
        pytest.skip(str(error))


class TestSwift(RegistryScenarios):
    @pytest.fixture
    def stand(self, swift: SwiftServer, tmp_path: Path) -> SwiftStand:
        return SwiftStand(server=swift, root=tmp_path)

    # tried against moto, and no different here
    test_no_secret_is_in_the_log_or_in_what_users_see = None
    test_what_expires_is_renewed_under_a_reader = None
    test_a_hundred_look_ups_are_one_resolution = None


@pytest.mark.parametrize("server", ["moto", "swift"])
def test_the_servers_refuse_what_is_signed_wrong(server: str, request: pytest.FixtureRequest) -> None:
    """The proof that their yes means anything."""
    stand = request.getfixturevalue(server)
    url = stand.url if server == "moto" else f"http://127.0.0.1:{stand.port}"
    access_key = stand.user[0] if server == "moto" else USER
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        client("s3", url, access_key, "of somebody else").list_objects_v2(Bucket=BUCKET)


@pytest.mark.parametrize("server", ["moto", "swift"])
def test_both_take_what_a_site_cache_signs(server: str, request: pytest.FixtureRequest) -> None:
    """mount-helpers/site-cache/nginx/s3.js, for a name with what servers and signers spell differently."""
    stand = request.getfixturevalue(server)
    url = stand.url if server == "moto" else f"http://127.0.0.1:{stand.port}"
    keys = stand.user if server == "moto" else (USER, KEY)
    name, data = "it's a (test)+x~é@1:2,3.sif", os.urandom(2 << 20)
    client("s3", url, *keys).put_object(Bucket=BUCKET, Key=name, Body=data)

    def asked(*credentials: str) -> tuple[int, bytes]:
        cache = SigningCache(url)
        cache.region, cache.credentials = REGION, credentials
        with cache, closing(HTTPConnection("127.0.0.1", cache.port)) as connection:
            path = f"/{BUCKET}/{quote(name, safe='-._~@:,=')}"
            connection.request("GET", path, headers={"Range": "bytes=1000000-1499999"})
            answer = connection.getresponse()
            return answer.status, answer.read()

    try:
        assert asked(*keys) == (206, data[1_000_000:1_500_000])
        assert asked(keys[0], "of somebody else")[0] == 403
    except FileNotFoundError as error:
        pytest.skip(str(error))


def test_a_version_stays_readable_when_another_is_current(
    moto: MotoServer, lazysif: MakeMount, tmp_path: Path
) -> None:
    """In a bucket with versions an open image is read to its end, whatever is put in its place."""
    moto.s3.create_bucket(Bucket="versions", CreateBucketConfiguration={"LocationConstraint": REGION})
    moto.s3.put_bucket_versioning(Bucket="versions", VersioningConfiguration={"Status": "Enabled"})
    old, new = bytes(range(256)) * 20_000, bytes(range(255, -1, -1)) * 20_000
    moto.s3.put_object(Bucket="versions", Key="a+b (x)é.sif", Body=old)
    write_credentials(tmp_path / "credentials", *moto.user)
    configuration = tmp_path / "lazysif.toml"
    configuration.write_text(
        f'[remote.r]\nkind = "s3"\nurl = "s3://versions"\nendpoint = "{moto.url}"\nregion = "{REGION}"\n'
        f'credentials_file = "{tmp_path}/credentials"\nrevalidate = {REVALIDATE_S}\n'
    )
    image = lazysif(config=configuration).path / "r" / "a+b (x)é.sif"
    with image.open("rb", buffering=0) as opened:
        head = opened.read(4096)
        moto.s3.put_object(Bucket="versions", Key="a+b (x)é.sif", Body=new)
        assert head + b"".join(iter(lambda: opened.read(1 << 20), b"")) == old
    time.sleep(REVALIDATE_S + 1.2)
    assert image.read_bytes() == new


def test_a_public_object_needs_no_credentials(moto: MotoServer, lazysif: MakeMount, tmp_path: Path) -> None:
    moto.s3.put_object(Bucket=BUCKET, Key="public.sif", Body=b"for all", ACL="public-read")
    moto.s3.put_object(Bucket=BUCKET, Key="private.sif", Body=b"for some")
    configuration = tmp_path / "lazysif.toml"
    configuration.write_text(
        f'[remote.r]\nkind = "s3"\nurl = "{moto.url}/{BUCKET}"\nanonymous = true\nlisting = "off"\n'
    )
    mount = lazysif(config=configuration)
    moto.authenticate(False)
    try:
        assert (mount.path / "r" / "public.sif").read_bytes() == b"for all"
        with pytest.raises(PermissionError):
            (mount.path / "r" / "private.sif").open()
    finally:
        moto.authenticate(True)
    assert "it is asked without credentials (anonymous)" in mount.log()


def test_a_presigned_url_is_used_as_it_is_and_never_shown(
    swift: SwiftServer, lazysif: MakeMount, tmp_path: Path
) -> None:
    s3 = client("s3", f"http://127.0.0.1:{swift.port}", USER, KEY)
    s3.put_object(Bucket=BUCKET, Key="signed.sif", Body=b"by somebody's hand")
    url = s3.generate_presigned_url("get_object", {"Bucket": BUCKET, "Key": "signed.sif"}, ExpiresIn=600)
    configuration = tmp_path / "lazysif.toml"
    configuration.write_text(
        f'[images]\n"gpu.sif" = "{url}"\n[remote.r]\nkind = "s3"\nurl = "http://127.0.0.1:{swift.port}/{BUCKET}"\n'
        f'credentials_file = "{tmp_path}/credentials"\n'
    )
    write_credentials(tmp_path / "credentials", "somebody:else", "wrong")
    mount = lazysif(config=configuration)
    image = mount.path / "gpu.sif"
    assert image.read_bytes() == b"by somebody's hand"
    signature = parse_qs(urlsplit(url).query)["X-Amz-Signature"][0]
    seen = [mount.log(), mount.run("status", mount.path, "--json").stdout]
    seen += [os.getxattr(image, name).decode() for name in os.listxattr(image)]
    assert not any(signature in text for text in seen)


def test_doctor_asks_where_requests_go(moto: MotoServer, tmp_path: Path) -> None:
    stand = MotoStand(server=moto, root=tmp_path)
    configuration = tmp_path / "lazysif.toml"
    moto.s3.put_object(Bucket=BUCKET, Key="sif/dir/hello.sif", Body=b"SIF")

    def findings() -> dict[str, str]:
        said = lazysif_command("doctor", "--json", "--config", configuration, check=False).stdout
        checks = json.loads(said)["checks"]
        return {found["check"]: found["verdict"] for found in checks if found["check"].startswith("origin r")}

    configuration.write_text(f"[remote.r]\n{stand.keys()}\n")
    assert set(findings().values()) == {"ok"}
    configuration.write_text(f"[remote.r]\n{stand.wrong_keys()}\n")
    assert findings()["origin r: answer"] == "problem"
