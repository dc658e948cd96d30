"""Kind oras against Debian's docker-registry, with images that `apptainer push` has put there."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
import trustme

from lazysif.core.oci import architecture_of, digest_of
from tests.registries.scenarios import REVALIDATE_S, Logged, MakeMount, RegistryScenarios, Stand
from tests.support.images import BuiltImage
from tests.support.loopback import Log
from tests.support.mount import Mount, scrubbed_environment
from tests.support.oci_registry import DockerRegistry, Front, TokenService, basic, docker_config, push
from tests.support.signed_storage import SignedStorage

pytestmark = [pytest.mark.mounted, pytest.mark.timeout(120)]

USER, PASSWORD = "user", "kept-very-secret"
REPOSITORY = "project/hello"


def secret_file(path: Path, text: str) -> Path:
    path.touch(0o600)
    path.write_text(text)
    return path


@dataclass
class BasicStand(Stand):
    """The registry alone: it asks for a user and sends blobs itself."""

    registry: DockerRegistry = field(kw_only=True)
    root: Path = field(kw_only=True)
    seen: int = 0
    first_open: ClassVar[int] = 2  # a manifest refused with a challenge, the manifest
    second_open: ClassVar[int] = 2
    second_data: ClassVar[int] = 0

    def __post_init__(self) -> None:
        self.path = f"{self.registry.host}/{REPOSITORY}:1.0.sif"
        self.secrets += [PASSWORD, basic(USER, PASSWORD)]
        self.login = docker_config(self.root / "docker", self.registry.host, USER, PASSWORD)

    def keys(self) -> str:
        password = secret_file(self.root / "password", PASSWORD)
        return (
            f'kind = "oras"\nhosts = ["{self.registry.host}"]\nplain_http = true\n'
            f'username = "{USER}"\npassword_file = "{password}"'
        )

    def wrong_keys(self) -> str:
        return self.keys().replace(f'username = "{USER}"', 'username = "nobody"')

    def publish(self, image: Path) -> None:
        push(image, self.path.removesuffix(".sif"), self.login)

    def expire(self) -> None:
        """A password does not."""

    def requests(self) -> list[Logged]:
        return [Logged(line, "/blobs/" in line) for line in self.registry.requests()[self.seen :]]

    def clear(self) -> None:
        self.seen = len(self.registry.requests())


class TestBasic(RegistryScenarios):
    @pytest.fixture
    def stand(self, tmp_path: Path) -> Iterator[BasicStand]:
        with DockerRegistry(tmp_path / "registry", users={USER: PASSWORD}) as registry:
            yield BasicStand(registry=registry, root=tmp_path)


@dataclass
class TokenStand(Stand):
    """As the big registries are: tokens of a service, blobs by redirect to signed URLs of a storage."""

    registry: DockerRegistry = field(kw_only=True)
    service: TokenService = field(kw_only=True)
    storage: SignedStorage = field(kw_only=True)
    front: Front = field(kw_only=True)
    log: Log = field(kw_only=True)
    root: Path = field(kw_only=True)
    first_open: ClassVar[int] = (
        4  # a manifest refused with a challenge, the token, the manifest, the redirect
    )
    second_open: ClassVar[int] = 3  # no redirect: no blob is asked for
    second_data: ClassVar[int] = 0

    def __post_init__(self) -> None:
        self.path = f"{REPOSITORY}:1.0.sif"
        self.name = f"{self.front.host}/{REPOSITORY}:1.0"
        self.login = docker_config(self.root / "docker", self.front.host, USER, PASSWORD)
        self.secrets += [PASSWORD, basic(USER, PASSWORD)]

    def keys(self) -> str:
        return (
            f'kind = "oras"\nurl = "oras://{self.front.host}"\nplain_http = true\nauth_file = "{self.login}"'
        )

    def wrong_keys(self) -> str:
        wrong = docker_config(self.root / "wrong", self.front.host, USER, "something-else")
        return self.keys().replace(str(self.login), str(wrong))

    def publish(self, image: Path) -> None:
        push(image, self.name, self.login)

    def expire(self) -> None:
        self.secrets += [*self.service.given, *self.storage.signatures]
        self.front.revoked.update(self.service.given)
        self.storage.expire()

    def requests(self) -> list[Logged]:
        return [Logged(*line) for line in self.log.lines]

    def clear(self) -> None:
        self.log.lines.clear()


@pytest.fixture
def token_stand(tmp_path: Path, known_secrets: list[str]) -> Iterator[TokenStand]:
    log = Log()
    with ExitStack() as stack:
        service = stack.enter_context(TokenService({USER: PASSWORD}, log))
        storage = stack.enter_context(SignedStorage(log))
        registry = stack.enter_context(DockerRegistry(tmp_path / "registry", token=service))
        front = stack.enter_context(Front(registry, storage, log))
        stand = TokenStand(
            registry=registry, service=service, storage=storage, front=front, log=log, root=tmp_path
        )
        yield stand
        known_secrets += [*stand.secrets, *service.given, *storage.signatures]
        assert storage.foreign_credentials == []


class TestToken(RegistryScenarios):
    @pytest.fixture
    def stand(self, token_stand: TokenStand) -> TokenStand:
        return token_stand


def mounted(lazysif: MakeMount, tmp_path: Path, keys: str) -> Mount:
    configuration = tmp_path / "lazysif.toml"
    configuration.write_text(f"[remote.r]\n{keys}\nrevalidate = {REVALIDATE_S}\nnegative = 0.5\n")
    return lazysif(config=configuration)


@pytest.fixture
def image(small_image: BuiltImage) -> Path:
    return small_image.path


def apptainer(*arguments: str | Path, home: Path, given: str = "") -> str:
    done = subprocess.run(
        ["apptainer", *map(str, arguments)],
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=scrubbed_environment(HOME=str(home)),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_stand_serves_the_real_client(token_stand: TokenStand, image: Path, tmp_path: Path) -> None:
    token_stand.publish(image)
    pulled = tmp_path / "pulled.sif"
    apptainer("pull", "--authfile", token_stand.login, pulled, f"oras://{token_stand.name}", home=tmp_path)
    assert pulled.read_bytes() == image.read_bytes()
    assert [line for line, data in token_stand.log.lines if data]


def test_what_apptainer_registry_login_writes_is_an_auth_file(
    image: Path, lazysif: MakeMount, tmp_path: Path
) -> None:
    with DockerRegistry(tmp_path / "registry", users={USER: PASSWORD}) as registry:
        apptainer(
            *("registry", "login", "--username", USER, "--password-stdin", f"oras://{registry.host}"),
            home=tmp_path,
            given=PASSWORD,
        )
        (login,) = [path for path in tmp_path.rglob("*config.json") if "auths" in path.read_text()]
        push(image, f"{registry.host}/aa:1", login)
        keys = f'kind = "oras"\nurl = "oras://{registry.host}"\nplain_http = true\nauth_file = "{login}"'
        mount = mounted(lazysif, tmp_path, keys)
        assert (mount.path / "r/aa:1.sif").read_bytes() == image.read_bytes()


def put_manifest(host: str, reference: str, manifest: object, kind: str) -> str:
    """Returns its digest."""
    body = json.dumps(manifest).encode()
    request = urllib.request.Request(
        f"http://{host}/v2/{reference}", body, {"Content-Type": kind}, method="PUT"
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 201
    return digest_of(body)


def get_manifest(host: str, reference: str) -> bytes:
    accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    with urllib.request.urlopen(
        urllib.request.Request(f"http://{host}/v2/{reference}", None, accept), timeout=10
    ) as answer:
        return bytes(answer.read())


def test_names_of_an_open_registry(image: Path, lazysif: MakeMount, tmp_path: Path) -> None:
    """An index, a digest, a container image, a deleted tag, and what is no name."""
    with DockerRegistry(tmp_path / "registry") as registry:
        host = registry.host
        push(image, f"{host}/a/b:1")
        body = get_manifest(host, "a/b/manifests/1")
        digest = digest_of(body)
        entry = {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest,
            "size": len(body),
        }
        here = {"os": "linux", "architecture": architecture_of(os.uname().machine)}
        other = {"os": "linux", "architecture": "none"}
        index = "application/vnd.oci.image.index.v1+json"
        for tag, platforms in (("multi", [here]), ("foreign", [other])):
            manifests = [{**entry, "platform": platform} for platform in platforms]
            document = {"schemaVersion": 2, "mediaType": index, "manifests": manifests}
            put_manifest(host, f"a/b/manifests/{tag}", document, index)
        parsed = json.loads(body)
        parsed["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.v1.tar+gzip"
        put_manifest(host, "a/b/manifests/layers", parsed, parsed["mediaType"])
        mount = mounted(lazysif, tmp_path, f'kind = "oras"\nhosts = ["{host}"]\nplain_http = true')
        below = mount.path / "r" / host / "a"
        assert os.listdir(mount.path / "r") == [host]
        assert (below / "b:1").read_bytes() == image.read_bytes()
        before = len(registry.requests())
        for name in ("b:multi.sif", f"b@{digest}.sif"):
            assert (below / name).read_bytes() == image.read_bytes()
        asked = registry.requests()[before:]
        blobs = [line for line in asked if "/blobs/" in line]
        assert (len(asked), len(blobs)) == (3, 2), asked  # one version, one cache: a probe for each name
        for missing in ("b:none.sif", "b:foreign.sif", "B:1.sif", "b:1@sha256:00.sif", "other:1.sif"):
            with pytest.raises(FileNotFoundError):
                (below / missing).stat()
        with pytest.raises(FileNotFoundError):
            (mount.path / "r/registry.example").stat()
        with pytest.raises(OSError, match="Input/output error"):
            (below / "b:layers.sif").stat()
        log = mount.log()
        assert "this is not a SIF in the registry but 1 layers of" in log
        with (below / "b:1").open("rb", buffering=0) as opened:
            request = urllib.request.Request(f"http://{host}/v2/a/b/manifests/{digest}", method="DELETE")
            urllib.request.urlopen(request, timeout=10).close()
            time.sleep(REVALIDATE_S + 0.1)
            with pytest.raises(FileNotFoundError):
                (below / "b:1").stat()
            assert opened.read(4096) == image.read_bytes()[:4096]


def test_a_registry_that_asks_to_slow_down(
    token_stand: TokenStand, image: Path, lazysif: MakeMount, tmp_path: Path
) -> None:
    token_stand.publish(image)
    mount = mounted(lazysif, tmp_path, token_stand.keys())
    token_stand.front.fail += [429]
    token_stand.service.fail += [503]
    assert (mount.path / "r" / token_stand.path).read_bytes() == image.read_bytes()
    assert not token_stand.front.fail
    assert not token_stand.service.fail
    assert mount.counters()["errors"] == 0


def test_with_tls_and_a_private_authority(image: Path, lazysif: MakeMount, tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    chain, key, ca = (tmp_path / name for name in ("chain.pem", "key.pem", "ca.pem"))
    issued.cert_chain_pems[0].write_to_path(chain)
    issued.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(ca)
    with DockerRegistry(tmp_path / "registry", users={USER: PASSWORD}, tls=(chain, key)) as registry:
        login = docker_config(tmp_path / "docker", registry.host, USER, PASSWORD)
        push(image, f"{registry.host}/project/tls:1", login, SSL_CERT_FILE=str(ca))
        keys = f'kind = "oras"\nhosts = ["{registry.host}"]\nauth_file = "{login}"'
        name = f"r/{registry.host}/project/tls:1.sif"
        trusting = mounted(lazysif, tmp_path, f'{keys}\nca_file = "{ca}"')
        assert (trusting.path / name).read_bytes() == image.read_bytes()
        wary = mounted(lazysif, tmp_path, keys)
        with pytest.raises(OSError, match="Input/output error"):
            (wary.path / name).stat()
        assert "certificate is not trusted" in wary.log()


def test_a_reader_outlives_the_daemon_and_its_tokens(
    token_stand: TokenStand, image: Path, lazysif: MakeMount, tmp_path: Path
) -> None:
    token_stand.publish(image)
    mount = mounted(lazysif, tmp_path, token_stand.keys())
    data = image.read_bytes()
    with (mount.path / "r" / token_stand.path).open("rb", buffering=0) as opened:
        assert opened.read(4096) == data[:4096]
        token_stand.expire()
        mount.kill()
        assert b"".join(iter(lambda: opened.read(1 << 20), b"")) == data[4096:]
    mount.adopt()
    assert mount.counters()["errors"] == 0
