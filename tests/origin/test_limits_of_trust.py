"""How far an origin is believed: whole files, versions, names, redirects, credentials, certificates.

Each test has a mount of its own over an origin of its own, unless the layer below shows the thing better.
"""

from __future__ import annotations

import base64
import errno
import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trio
import trustme

from lazysif.core.content_range import IsDirectory, judge_probe
from lazysif.errors import LazysifError, NoSuchEntry, SourceProtocolError
from lazysif.model import AnswerHead, ByteRange
from lazysif.model import Request as Asked
from lazysif.transport.httpx_transport import HttpxTransport
from tests.support import faults
from tests.support.mount import Mount
from tests.support.raw_origin import Answer, Entry, Fault, RawOrigin, Request, Wire

BLOCK = 64 << 10
DATA = random.Random(11).randbytes(16 * BLOCK)
NEW = random.Random(12).randbytes(16 * BLOCK)
SOON = 2.0
READERS = 20

MakeMount = Callable[..., Mount]


@pytest.fixture
def mount(tmp_path: Path, lazysif: MakeMount) -> Callable[..., Mount]:
    """`mount(URL, "key = value")`: a mount of one remote, called `bio`, with short timeouts."""

    def make(url: str, *lines: str, timeout_s: float = 4.0, stall_s: float = 1.0) -> Mount:
        config = tmp_path / "config.toml"
        config.write_text(
            "\n".join(
                (
                    f'[cache]\nblock_size = "{BLOCK // 1024}KiB"\nsize = "100MiB"',
                    f"[limits]\nlookup_timeout = {timeout_s}\nread_timeout = {timeout_s}",
                    f'[remote.bio]\nkind = "http"\nurl = "{url}"\nstall_timeout = {stall_s}\nnegative = 1',
                    *lines,
                )
            )
        )
        return lazysif(config=config)

    return make


def read(path: Path) -> bytes:
    return path.read_bytes()


def errno_of(call: Callable[[], object]) -> str:
    """The name of the errno that `call` ends in."""
    with pytest.raises(OSError) as caught:
        call()
    return errno.errorcode[caught.value.errno or 0]


def at_once(call: Callable[[], object], readers: int = READERS) -> list[object]:
    """The results of many calls at the same time: what each returned, or the name of its errno."""

    def attempt(_: int) -> object:
        try:
            return call()
        except OSError as error:
            return errno.errorcode[error.errno or 0]

    with ThreadPoolExecutor(readers) as pool:
        return list(pool.map(attempt, range(readers)))


def ranged(entries: list[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.range is not None]


def errors_logged(mount: Mount) -> list[str]:
    return [line for line in mount.log().splitlines() if " ERROR " in line]


# --- whole files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [faults.Full200(), faults.NoValidators()], ids=["no ranges", "no validators"]
)
def test_whole_file_is_downloaded_once_for_many_readers(mount: Callable[..., Mount], fault: Fault) -> None:
    with RawOrigin({"/a.sif": DATA}, default=fault) as origin:
        mounted = mount(origin.url)
        path = mounted.path / "bio/a.sif"
        assert at_once(lambda: read(path)) == [DATA] * READERS
        assert at_once(lambda: read(path)) == [DATA] * READERS
        wholes = [entry for entry in origin.requests("/a.sif") if entry.range is None]
        assert [entry.body_bytes for entry in wholes] == [len(DATA)]
        assert len(ranged(origin.requests("/a.sif"))) == 1, "the probe"


def test_whole_file_with_a_validator_is_not_downloaded_again_by_the_next_daemon(
    mount: Callable[..., Mount],
) -> None:
    with RawOrigin({"/a.sif": DATA}, default=faults.Full200()) as origin:
        mounted = mount(origin.url)
        assert read(mounted.path / "bio/a.sif") == DATA
        mounted.umount()
        mounted.start()
        assert read(mounted.path / "bio/a.sif") == DATA
        assert len([entry for entry in origin.requests("/a.sif") if entry.range is None]) == 1


def test_whole_file_that_breaks_off_is_never_completed_from_another_download(
    mount: Callable[..., Mount],
) -> None:
    """Without a validator nothing tells that the second download is of the same version."""
    plain = faults.NoValidators()

    def decide(request: Request) -> Fault | None:
        return plain if "range" in request.headers or changed else CutAndChange()

    class CutAndChange:
        """The first blocks of the old version, then the end; from then on the new version is there."""

        def play(self, wire: Wire) -> None:
            changed.append(True)
            wire.send_head(Answer(200, {"Content-Length": str(len(DATA))}))
            wire.send_body(DATA[: 3 * BLOCK + 5])
            origin.put("/a.sif", NEW)
            wire.close()

    changed: list[bool] = []
    with RawOrigin({"/a.sif": DATA}, decide=decide) as origin:
        mounted = mount(origin.url)
        path = mounted.path / "bio/a.sif"
        assert at_once(lambda: read(path), 4) == ["ESTALE"] * 4
        time.sleep(1.1)  # the kernel believes a name for a second
        assert read(path) == NEW


def test_whole_file_can_be_refused(mount: Callable[..., Mount]) -> None:
    with RawOrigin({"/a.sif": DATA}, default=faults.Full200()) as origin:
        mounted = mount(origin.url, 'whole_file = "refuse"')
        assert errno_of(lambda: read(mounted.path / "bio/a.sif")) == "EIO"
        (line,) = errors_logged(mounted)
        assert 'whole_file = "spool"' in line
        assert not [entry for entry in origin.log if entry.range is None]


def test_whole_file_of_unsaid_length_is_refused_even_where_spooling_is_allowed(
    mount: Callable[..., Mount],
) -> None:
    with RawOrigin({"/a.sif": DATA}, default=faults.Full200(chunked=True)) as origin:
        mounted = mount(origin.url)
        assert errno_of(lambda: read(mounted.path / "bio/a.sif")) == "EIO"
        assert "Content-Length" in errors_logged(mounted)[0]


# --- versions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("obedient", [True, False], ids=["412", "conditions ignored"])
def test_changed_image_is_stale_where_not_cached_and_new_for_new_opens(
    mount: Callable[..., Mount], obedient: bool
) -> None:
    with RawOrigin({"/a.sif": DATA}, default=None if obedient else faults.WrongContentRange()) as origin:
        mounted = mount(origin.url)
        path = mounted.path / "bio/a.sif"
        old = os.open(path, os.O_RDONLY)
        try:
            assert os.pread(old, BLOCK, 8 * BLOCK) == DATA[8 * BLOCK : 9 * BLOCK]
            origin.put("/a.sif", NEW)
            # in front of what is there: what lies behind a miss may have come with it
            assert errno_of(lambda: os.pread(old, BLOCK, 5 * BLOCK)) == "ESTALE"
            assert os.pread(old, BLOCK, 8 * BLOCK) == DATA[8 * BLOCK : 9 * BLOCK], (
                "cached: the version it opened"
            )
            time.sleep(1.1)  # the kernel believes a name for a second
            assert read(path) == NEW
            assert os.pread(old, 4096, 0) == DATA[:4096]
            assert errno_of(lambda: os.pread(old, BLOCK, 2 * BLOCK)) == "ESTALE"
        finally:
            os.close(old)
        assert mounted.counters()["image_changes"] >= 1


def test_image_of_another_size_never_lends_its_bytes(mount: Callable[..., Mount]) -> None:
    with RawOrigin({"/a.sif": DATA}, default=faults.NoEtag()) as origin:
        mounted = mount(origin.url)
        old = os.open(mounted.path / "bio/a.sif", os.O_RDONLY)
        try:
            content = origin.content("/a.sif")
            assert content is not None
            origin.put("/a.sif", NEW[: 15 * BLOCK], last_modified=content.last_modified)
            assert errno_of(lambda: os.pread(old, BLOCK, 10 * BLOCK)) == "ESTALE"
        finally:
            os.close(old)


def test_silent_origin_leaves_what_is_cached(mount: Callable[..., Mount]) -> None:
    """Regression: asking whether a known version still holds took the look-up's whole time."""
    with RawOrigin({"/a.sif": DATA}) as origin:
        mounted = mount(origin.url, "revalidate = 0", stall_s=20)
        path = mounted.path / "bio/a.sif"
        assert read(path) == DATA
        origin.default = faults.StallBeforeHead()
        assert read(path) == DATA
        assert errors_logged(mounted) == []
        assert any("the version known before is served" in line for line in mounted.log().splitlines())


# --- names ------------------------------------------------------------------------------------------------

ODD_NAMES = [
    "a b.sif",
    "a?b.sif",
    "a#b.sif",
    "a%2e.sif",
    "%2e%2e",
    "a;b=c&d.sif",
    "a+b.sif",
    "ü€.sif",
    "a\\b.sif",
    "~x.sif",
]
NO_NAMES = [
    b"a\nb.sif",
    b"a\x01.sif",
    b"a\x7f.sif",
    b"\xff\xfe.sif",
    b"\xed\xa0\x80.sif",
    "a\u202eb.sif".encode(),
    b"x" * 256,
]


def test_odd_names_reach_the_origin_as_they_are(mount: Callable[..., Mount]) -> None:
    files = {f"/images/{name}": name.encode() for name in ODD_NAMES}
    with RawOrigin({**files, "/secret.sif": DATA}) as origin:
        mounted = mount(origin.url + "/images")
        for name in ODD_NAMES:
            assert read(mounted.path / "bio" / name) == name.encode()
        assert all(entry.path.startswith("/images/") for entry in origin.log)
        assert not any(set(entry.target) & set(" #;&\\") for entry in origin.log)


def test_names_that_no_image_can_have_ask_nobody(mount: Callable[..., Mount]) -> None:
    with RawOrigin({"/images/a.sif": DATA}) as origin:
        mounted = mount(origin.url + "/images")
        for name in NO_NAMES:
            path = os.fsencode(mounted.path) + b"/bio/" + name
            assert errno_of(lambda path=path: os.stat(path)) in ("ENOENT", "ENAMETOOLONG")  # type: ignore[misc]
        assert not origin.log


def test_missing_name_is_asked_for_once_by_many_and_remembered(mount: Callable[..., Mount]) -> None:
    with RawOrigin({"/a.sif": DATA}) as origin:
        mounted = mount(origin.url)
        path = mounted.path / "bio/none.sif"
        assert at_once(lambda: read(path)) == ["ENOENT"] * READERS
        assert at_once(lambda: read(path)) == ["ENOENT"] * READERS
        assert len(origin.requests("/none.sif")) == 1


def test_listing_of_a_silent_origin_ends_in_a_line_that_names_it(mount: Callable[..., Mount]) -> None:
    """Regression: the line said only that there was no answer."""
    with RawOrigin({"/a.sif": DATA}, default=faults.StallBeforeHead()) as origin:
        mounted = mount(origin.url, timeout_s=1.5)
        assert errno_of(lambda: os.listdir(mounted.path / "bio")) == "ETIMEDOUT"
        assert f"bio: no listing from the origin in time (origin {origin.url})" in errors_logged(mounted)[0]


def test_failing_name_is_asked_for_once_by_many(mount: Callable[..., Mount]) -> None:
    with RawOrigin({"/a.sif": DATA}, default=faults.Status(500)) as origin:
        mounted = mount(origin.url)
        assert at_once(lambda: read(mounted.path / "bio/a.sif")) == ["EIO"] * READERS
        assert len(origin.requests("/a.sif")) <= 4, "one look-up and its retries"


def test_failing_block_is_asked_for_by_one_of_many(mount: Callable[..., Mount]) -> None:
    """Regression: each reader, and the kernel once more for each, asked the origin for itself."""
    with RawOrigin({"/a.sif": DATA}) as origin:
        mounted = mount(origin.url)
        opened = os.open(mounted.path / "bio/a.sif", os.O_RDONLY)
        try:
            os.pread(opened, 1, 0)
            time.sleep(0.2)  # what is read ahead is here
            origin.clear_log()
            origin.default = faults.Status(403)
            assert at_once(lambda: os.pread(opened, 4096, 14 * BLOCK)) == ["EACCES"] * READERS
            assert len(origin.requests("/a.sif")) <= 4
        finally:
            os.close(opened)


def verdict(status: int, final: str = "http://h/x", **headers: str) -> object:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    head = AnswerHead(status, {"content-length": "10", "etag": '"1"', **named}, final)
    return judge_probe(head, ByteRange(0, 10), "http://h/x")


def test_added_slash_is_a_directory_only_where_the_answer_says_so() -> None:
    """Regression: a redirect to the name with a slash made a directory even of a 404."""
    assert verdict(200, "http://h/x/") == IsDirectory()
    assert verdict(403, "http://h/x/") == IsDirectory()
    with pytest.raises(NoSuchEntry):
        verdict(404, "http://h/x/")
    with pytest.raises(LazysifError, match="503"):
        verdict(503, "http://h/x/")


def test_size_that_no_image_has_is_refused() -> None:
    """Regression: a table of all its blocks was made at once, with a memory that no node has."""
    for size in (10**12, 10**18):
        with pytest.raises(SourceProtocolError, match="larger than"):
            verdict(200, content_length=str(size))
    with pytest.raises(SourceProtocolError, match="larger than"):
        verdict(206, content_range=f"bytes 0-9/{10**18}")


# --- redirects and credentials ----------------------------------------------------------------------------

TOKEN, PASSWORD = "t0ken-secret", "pa55-secret"


def credentials(tmp_path: Path, kind: str) -> tuple[list[str], str]:
    """Lines for the remote, and the header that they lead to."""
    file = tmp_path / "secret"
    file.write_text({"bearer": TOKEN, "basic": PASSWORD}[kind] + "\n")
    file.chmod(0o600)
    if kind == "bearer":
        return [f'token_file = "{file}"'], f"Bearer {TOKEN}"
    encoded = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
    return ['username = "me"', f'password_file = "{file}"'], f"Basic {encoded}"


@pytest.mark.parametrize("kind", ["basic", "bearer"])
def test_credentials_stay_at_their_origin(mount: Callable[..., Mount], tmp_path: Path, kind: str) -> None:
    lines, header = credentials(tmp_path, kind)
    with RawOrigin({"/b.sif": DATA}) as other:

        def decide(request: Request) -> Fault | None:
            if request.headers.get("authorization") != header:
                return faults.unauthorized()
            if request.path == "/away.sif":
                return faults.Redirect(other.url + "/b.sif")
            return faults.Redirect("/b.sif") if request.path == "/here.sif" else None

        with RawOrigin({"/b.sif": DATA}, decide=decide) as origin:
            mounted = mount(origin.url, *lines)
            assert read(mounted.path / "bio/here.sif") == DATA
            asked = {entry.path for entry in origin.log} - {"/here.sif.lazysif-trace"}
            assert asked == {"/here.sif", "/b.sif"}
            assert not other.log
            assert read(mounted.path / "bio/away.sif") == DATA
        assert other.log
        assert not any("authorization" in entry.headers or "cookie" in entry.headers for entry in other.log)
    assert not any(secret in mounted.log() for secret in (TOKEN, PASSWORD, header))


def test_refused_credentials_are_in_no_log_and_no_status(mount: Callable[..., Mount], tmp_path: Path) -> None:
    lines, header = credentials(tmp_path, "bearer")
    with RawOrigin({"/a.sif": DATA}, default=faults.unauthorized()) as origin:
        mounted = mount(origin.url + "?signature=s1gned", *lines)
        assert errno_of(lambda: read(mounted.path / "bio/a.sif")) == "EACCES"
        (line,) = errors_logged(mounted)
        assert "bio/a.sif: the origin asks for credentials (401)" in line
        assert not any(secret in mounted.log() for secret in (TOKEN, header, "s1gned"))
        assert not any(secret in str(mounted.status()) for secret in (TOKEN, header, "s1gned"))


def test_signed_address_of_a_redirect_is_in_no_log(mount: Callable[..., Mount]) -> None:
    with RawOrigin() as gone:
        refused = f"{gone.url}/b.sif?X-Signature=s1gned"
    with RawOrigin({"/a.sif": DATA}, default=faults.Redirect(refused)) as origin:
        mounted = mount(origin.url)
        assert errno_of(lambda: read(mounted.path / "bio/a.sif")) == "EIO"
        assert "no connection to the origin" in errors_logged(mounted)[0]
        assert "s1gned" not in mounted.log()


async def test_cookies_are_not_kept() -> None:
    """Regression: a cookie of one port went to every other port of its host, by redirects."""
    cookie = faults.Status(200, {"Set-Cookie": "session=abc; Path=/"})
    with (
        RawOrigin({"/a": b"x"}) as other,
        RawOrigin(script=[cookie, faults.Redirect(other.url + "/a")]) as origin,
    ):
        transport = HttpxTransport(origin.url)
        for _ in range(2):
            async with transport.send(Asked(origin.url + "/a")):
                pass
        await transport.aclose()
        assert [entry for entry in other.log if "cookie" in entry.headers] == []
        assert [entry for entry in origin.log if "cookie" in entry.headers] == []
        assert len(other.log) == 1


async def test_redirects_to_impossible_addresses_are_errors_of_ours() -> None:
    """Regression: some of them raised ValueError, which no caller expects."""
    targets = [
        "http://[x",
        "http://a:99999/",
        f"http://{'x' * 70}.invalid/",
        "http://a..b/",
        "file:///x",
        "http://\x80/",
    ]
    with RawOrigin() as origin:
        transport = HttpxTransport(origin.url)
        for target in targets:
            origin.script(faults.Redirect(target))
            with pytest.raises(LazysifError), trio.fail_after(10):
                async with transport.send(Asked(origin.url + "/a")):
                    pass
        await transport.aclose()


# --- certificates -----------------------------------------------------------------------------------------


def test_private_authority_is_trusted_where_it_is_configured(
    mount: Callable[..., Mount], tmp_path: Path
) -> None:
    with RawOrigin({"/a.sif": DATA}, tls=True) as origin:
        assert origin.ca is not None
        origin.ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        mounted = mount(origin.url, f'ca_file = "{tmp_path / "ca.pem"}"')
        assert read(mounted.path / "bio/a.sif") == DATA


def test_another_authority_is_one_clear_line(mount: Callable[..., Mount], tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with RawOrigin({"/a.sif": DATA}, tls=True) as origin:
        mounted = mount(origin.url, f'ca_file = "{tmp_path / "ca.pem"}"')
        began = time.monotonic()
        assert errno_of(lambda: read(mounted.path / "bio/a.sif")) == "EIO"
        assert time.monotonic() - began < SOON
        (line,) = errors_logged(mounted)
        assert "bio/a.sif: the origin's certificate is not trusted: " in line
        assert f"(origin {origin.url}/a.sif); for a private authority set ca_file" in line
        assert not origin.log


def test_redirect_from_https_to_http_is_refused(mount: Callable[..., Mount], tmp_path: Path) -> None:
    with RawOrigin({"/a.sif": DATA}) as plain, RawOrigin({"/a.sif": DATA}, tls=True) as origin:
        assert origin.ca is not None
        origin.ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        origin.default = faults.Redirect(plain.url + "/a.sif")
        mounted = mount(origin.url, f'ca_file = "{tmp_path / "ca.pem"}"')
        assert errno_of(lambda: read(mounted.path / "bio/a.sif")) == "EIO"
        assert "from HTTPS to plain HTTP" in errors_logged(mounted)[0]
        assert not plain.log
