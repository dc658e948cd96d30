"""`lazysif doctor` and `lazysif bugreport` on real mounts: what they find, while all that can hang hangs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from lazysif.doctor.report import _scrubbed
from tests.support import faults
from tests.support.mount import Mount, scrubbed_environment
from tests.support.mount import lazysif as run_lazysif
from tests.support.raw_origin import RawOrigin, Wire

pytestmark = [pytest.mark.mounted]

MakeMount = Callable[..., Mount]
BOUND_S = 15.0
DATA = bytes(range(256)) * 256


@dataclass(frozen=True)
class Dated:
    """The right answer with a Date that is off."""

    off_s: float

    def play(self, wire: Wire) -> None:
        wire.send(wire.right().with_headers(date=formatdate(time.time() + self.off_s, usegmt=True)))


class Node:
    """Runs the commands with directories of their own; `checks` are what the last `doctor` said."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment: dict[str, str] = {}
        for name in ("run", "cache", "state"):
            (root / name).mkdir(mode=0o700, parents=True)

    def run(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        environment = scrubbed_environment(LAZYSIF_RUNTIME_DIR=str(self.root / "run"), **self.environment)
        began_s = time.monotonic()
        done = run_lazysif(*arguments, check=check, environment=environment, timeout_s=30)
        assert time.monotonic() - began_s < BOUND_S
        assert "Traceback" not in done.stderr
        return done

    def doctor(self, *arguments: str | Path) -> dict[str, dict[str, Any]]:
        directories = ("--cache-dir", self.root / "cache", "--state-dir", self.root / "state")
        done = self.run("doctor", "--json", *directories, *arguments, check=False)
        document = json.loads(done.stdout)
        problems = [check for check in document["checks"] if check["verdict"] == "problem"]
        assert document["problems"] == len(problems)
        assert done.returncode == bool(problems), problems
        assert all(problem["advice"] for problem in problems), problems
        return {check["check"]: check for check in document["checks"]}

    def bugreport(self, *arguments: str | Path) -> dict[str, str]:
        output = self.root / "report.tar.gz"
        directories = ("--cache-dir", self.root / "cache", "--state-dir", self.root / "state")
        self.run("bugreport", "--output", output, *directories, *arguments)
        assert output.stat().st_mode & 0o777 == 0o600
        with tarfile.open(output) as archive:
            files = {member.name: archive.extractfile(member) for member in archive.getmembers()}
            return {
                name.removeprefix("lazysif-bugreport/"): file.read().decode()
                for name, file in files.items()
                if file is not None
            }


@pytest.fixture
def node(tmp_path: Path, fuse: None) -> Node:
    return Node(tmp_path / "node")


def of(mount: Mount) -> Node:
    """The commands, with the directories of a mount."""
    node = Node.__new__(Node)
    node.root, node.environment = mount.root, {}
    return node


def origin_check(checks: dict[str, dict[str, Any]], end: str = "") -> dict[str, Any]:
    """The line of the origin's connection, or with ": answer" that of its answer."""
    (found,) = [
        check
        for name, check in checks.items()
        if name.startswith("origin ") and name.endswith(": answer") == bool(end)
    ]
    return found


# --- a node that is well -------------------------------------------------------------------------


def test_a_good_node_and_a_good_origin(node: Node) -> None:
    with RawOrigin({"/a/x.sif": DATA}, tls=True) as origin:
        assert origin.ca is not None
        (node.root / "ca.pem").write_bytes(origin.ca.cert_pem.bytes())
        file = node.root / "config.toml"
        file.write_text(
            f'[remote.r]\nkind = "http"\nurl = "{origin.url}/?sig=hidden"\nca_file = "{node.root}/ca.pem"\n'
        )
        checks = node.doctor("--config", file, node.root)
    assert not [check for check in checks.values() if check["verdict"] == "problem"]
    assert "TLS" in checks["origin r"]["found"]
    assert "a/x.sif" in checks["origin r: answer"]["found"]
    assert "ranges work, versions are told by etag" in checks["origin r: answer"]["found"]
    assert "hidden" not in str(checks)
    assert checks["cache disk"]["verdict"] == "ok"
    assert list((node.root / "cache").iterdir()) == [], "the probe leaves nothing"


def test_the_table_says_the_same(node: Node) -> None:
    directories = ("--cache-dir", node.root / "cache", "--state-dir", node.root / "state")
    done = node.run("doctor", *directories, node.root)
    assert "/dev/fuse" in done.stdout
    assert "no problems" in done.stdout


def test_usage(node: Node) -> None:
    assert node.run("doctor", "http://a/", "http://b/", check=False).returncode == 2
    assert node.run("doctor", "ftp://a/", check=False).returncode == 2


# --- planted problems ----------------------------------------------------------------------------


def test_a_cache_directory_open_to_others(node: Node) -> None:
    (node.root / "cache").chmod(0o777)
    found = node.doctor()["cache directory"]
    assert found["verdict"] == "problem"
    assert "chmod go-w" in found["advice"]


def test_a_closed_dev_fuse(node: Node) -> None:
    device = Path("/dev/fuse")
    mode = device.stat().st_mode & 0o7777
    device.chmod(0o600)
    try:
        found = node.doctor()["/dev/fuse"]
    finally:
        device.chmod(mode)
    assert found["verdict"] == "problem"
    assert "chmod 0666" in found["advice"]


def test_a_configuration_that_is_wrong(node: Node) -> None:
    file = node.root / "config.toml"
    file.write_text('[remote.r]\nkind = "http"\nurl = "https://user:hunter2secret@h/"\n')
    done = node.run("doctor", "--config", file, "--json", check=False)
    assert done.returncode == 1
    assert "password_file" in done.stdout
    assert "hunter2secret" not in done.stdout


def test_an_origin_whose_authority_is_unknown(node: Node) -> None:
    with RawOrigin({"/x.sif": DATA}, tls=True) as origin:
        found = origin_check(node.doctor(origin.url))
    assert found["verdict"] == "problem"
    assert "not trusted" in found["found"]
    assert "ca_file" in found["advice"]


def test_an_origin_that_refuses(node: Node) -> None:
    with RawOrigin({}) as origin:
        url = origin.url
    found = origin_check(node.doctor(url))
    assert found["verdict"] == "problem"
    assert "Connection refused" in found["found"]


def test_a_name_without_an_address(node: Node) -> None:
    found = origin_check(node.doctor("http://no-such-host.invalid/"))
    assert found["verdict"] == "problem"
    assert "not resolved" in found["found"]


@pytest.mark.parametrize(
    "fault", [faults.StallBeforeHead(), faults.StallAfterHead(), faults.Drip(every_s=1.0)]
)
def test_an_origin_that_stalls(node: Node, fault: Any) -> None:
    with RawOrigin({"/x.sif": DATA}, default=fault) as origin:
        found = origin_check(node.doctor(origin.url), ": answer")
    assert found["verdict"] == "problem"
    assert "within" in found["found"] or "in time" in found["found"]


@pytest.mark.parametrize(
    ("fault", "verdict", "word"),
    [
        (faults.unauthorized(), "problem", "401"),
        (faults.unavailable(), "problem", "503"),
        (faults.Garbage(), "problem", ""),
        (faults.NoValidators(), "note", "no strong ETag"),
        (faults.Full200(), "note", "no ranges"),
    ],
)
def test_what_an_origin_answers(node: Node, fault: Any, verdict: str, word: str) -> None:
    with RawOrigin({"/x.sif": DATA}, decide=lambda request: fault) as origin:
        found = origin_check(node.doctor(origin.url, "--image", "x.sif"), ": answer")
    assert found["verdict"] == verdict, found
    assert word in found["found"]


@pytest.mark.parametrize(
    ("off_s", "verdict"), [(0, "ok"), (300, "note"), (-300, "note"), (3600, "problem"), (-3600, "problem")]
)
def test_a_clock_that_is_off(node: Node, off_s: float, verdict: str) -> None:
    with RawOrigin({"/x.sif": DATA}, default=Dated(off_s)) as origin:
        assert node.doctor(origin.url)["clock"]["verdict"] == verdict


def test_proxies_are_named_without_their_passwords(node: Node) -> None:
    node.environment = {"https_proxy": "http://user:hunter2secret@proxy:3128"}
    checks = node.doctor()
    assert checks["proxies"]["verdict"] == "note"
    assert "hunter2secret" not in str(checks)


# --- stuck mounts --------------------------------------------------------------------------------


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Processes that do nothing until the end, the first one first: a keeper would replace its daemon."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)


@contextmanager
def waiting_reader(path: Path) -> Iterator[None]:
    """A process that waits in the kernel for the mount."""
    process = subprocess.Popen(["cat", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait(30)


def umount_soon(mount: Mount) -> None:
    """What a killed reader had open is given back a moment after it went on."""
    deadline_s = time.monotonic() + BOUND_S
    while mount.run("umount", mount.path, check=False).returncode:
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    mount.check_gone()


def test_a_mount_that_is_well(lazysif: MakeMount) -> None:
    with RawOrigin({"/x.sif": DATA}) as origin:
        mount = lazysif(origin.url)
        checks = of(mount).doctor(origin.url, mount.path)
        found = checks[f"mount {mount.path}"]
        assert found["verdict"] == "ok", found
        missing = of(mount).doctor(mount.root / "other")[f"mount {mount.root / 'other'}"]
        assert missing["verdict"] == "problem"
        umount_soon(mount)


def test_daemon_and_keeper_stopped(lazysif: MakeMount) -> None:
    with RawOrigin({"/x.sif": DATA}) as origin:
        mount = lazysif(origin.url)
        node = of(mount)
        with stopped(mount.keeper_pid, mount.pid), waiting_reader(mount.path / "x.sif"):
            found = node.doctor(origin.url, mount.path)[f"mount {mount.path}"]
            report = node.bugreport(origin.url, mount.path)
        assert found["verdict"] == "problem"
        assert "kill -CONT" in found["advice"]
        assert str(mount.pid) in found["found"]
        assert "State:\tT" in report["processes.txt"]
        (status,) = [text for name, text in report.items() if name.startswith("status/")]
        assert "timed out" in status
        assert "is served by version" in "".join(t for n, t in report.items() if n.startswith("log/"))
        assert str(mount.path) in report["mounts.txt"]
        assert mount.status()["restarts"] == 0, "a keeper that was stopped, too, judges nobody by its silence"
        umount_soon(mount)


def test_a_stalled_origin_and_a_reader_that_waits(lazysif: MakeMount) -> None:
    with RawOrigin({"/x.sif": DATA}) as origin:
        mount = lazysif(origin.url)
        origin.default = faults.StallBeforeHead()
        with waiting_reader(mount.path / "x.sif"):
            origin.wait_for(1, "/x.sif")
            checks = of(mount).doctor(origin.url, mount.path)
            report = of(mount).bugreport(origin.url, mount.path)
            origin.default = None
            origin.drop_connections()
        assert checks[f"mount {mount.path}"]["verdict"] in ("ok", "note"), "its daemon answers"
        assert origin_check(checks, ": answer")["verdict"] == "problem"
        assert f'"mountpoint": "{mount.path}"' in "".join(report.values())
        umount_soon(mount)


def test_nothing_below_a_stuck_mount_is_asked(lazysif: MakeMount) -> None:
    """A link to a place there, and a configuration there, would hold a command that looked."""
    with RawOrigin({"/x.sif": DATA}) as origin:
        mount = lazysif(origin.url)
        node = of(mount)
        (mount.root / "link").symlink_to(mount.path / "deep")
        with stopped(mount.keeper_pid, mount.pid):
            done = node.run("doctor", "--json", "--cache-dir", mount.root / "link", check=False)
            assert "lies on a mount of lazysif itself" in done.stdout
            done = node.run("doctor", "--json", "--config", mount.path / "c.toml", check=False)
            assert "lies on a mount of lazysif" in done.stdout
            done = node.run("bugreport", "--output", mount.path / "r.tar.gz", check=False)
            assert "would lie on a mount" in done.stderr
        umount_soon(mount)


def test_a_mount_that_nobody_serves(lazysif: MakeMount) -> None:
    with RawOrigin({"/x.sif": DATA}) as origin:
        mount = lazysif(origin.url)
        os.kill(mount.keeper_pid, signal.SIGKILL)
        mount.kill()
        found = of(mount).doctor(mount.path)[f"mount {mount.path}"]
    assert found["verdict"] == "problem"
    assert "umount --lazy" in found["advice"]


def test_a_look_that_waits_in_the_kernel_holds_nobody(lazysif: MakeMount) -> None:
    """Uninterruptibly, as the daemon has read the request: SIGKILL does not end such a process."""
    with RawOrigin({"/x.sif": DATA}) as origin:
        mount = lazysif(origin.url)
        origin.default = faults.StallBeforeHead()
        program = (
            "import os, json\nfrom lazysif.doctor import apart\n"
            f"looks = {{'stuck': lambda: iter(['begun', os.stat({str(mount.path / 'x.sif')!r})]),"
            " 'well': lambda: ['seen'], 'broken': lambda: 1 / 0}\n"
            "seen = apart.look(looks, 2)\n"
            "print(json.dumps({name: [one.items, one.error] for name, one in seen.items()}))"
        )
        began_s = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            env=scrubbed_environment(),
            check=True,
            timeout=30,
        )
        assert time.monotonic() - began_s < 6
        seen = json.loads(done.stdout)
        assert origin.requests("/x.sif"), "the request was read"
        assert seen["well"] == [["seen"], ""]
        assert seen["stuck"] == [[], "no answer within 2 s"]
        assert seen["broken"] == [[], "ZeroDivisionError: division by zero"]
        origin.default = None
        origin.drop_connections()
        umount_soon(mount)


# --- bug reports ---------------------------------------------------------------------------------


def test_no_planted_secret_is_in_a_report(node: Node) -> None:
    secrets = {
        "token": "hexless-planted-token",
        "query": "planted+query/9f",
        "environment": "planted.environment.value",
        "proxy": "plantedproxypassword",
        "log": "PlantedLogToken0123456789abc",
        "header": "planted-authorization-value",
    }
    token = node.root / "token"
    token.write_text(secrets["token"])
    token.chmod(0o600)
    file = node.root / "config.toml"
    url = f"http://127.0.0.1:1/images?sig={secrets['query']}"
    file.write_text(f'[remote.r]\nkind = "http"\nurl = "{url}"\ntoken_file = "{token}"\n')
    node.environment = {
        "AWS_SECRET_ACCESS_KEY": secrets["environment"],
        "http_proxy": f"http://u:{secrets['proxy']}@proxy:1",
    }
    lines = [
        f"GET {url} failed",
        f"GET /images?sig={secrets['query']}",
        f"Authorization: Bearer {secrets['header']}",
        f"a token of its own: {secrets['log']}",
        f"seen {secrets['token']} and {secrets['environment']} and {secrets['proxy']}",
        "an ordinary line about tools/python.sif",
    ]
    (node.root / "state/lazysif.log").write_text("\n".join(lines))
    report = node.bugreport("--config", file)
    found = {
        (name, kind) for name, text in report.items() for kind, secret in secrets.items() if secret in text
    }
    assert not found
    text = "".join(report.values())
    assert "an ordinary line about tools/python.sif" in text
    assert "http_proxy is set" in text
    assert str(token) in report["config.toml"], "the name of a secret's file is none"
    assert json.loads(report["doctor.json"])["checks"]
    assert report["problems.txt"] == "none\n"
    assert "look through the files" in report["README.txt"]


def test_no_secret_of_traces_and_images_is_in_a_report(node: Node) -> None:
    """Regression: only those of remotes were known, so that others went by their look or stayed."""
    secrets = {"password": "planted-password", "traces": "planted/traces", "image": "planted image"}
    file, password = node.root / "config.toml", node.root / "password"
    password.write_text(secrets["password"])
    password.chmod(0o600)
    file.write_text(
        '[traces]\nurl = "https://127.0.0.1:1/t?sig=planted/traces"\n'
        f'username = "u"\npassword_file = "{password}"\n'
        '[images]\n"x.sif" = "https://127.0.0.1:1/x.sif?raw=true&sig=planted%20image"\n'
    )
    (node.root / "state/lazysif.log").write_text(f"seen {' and '.join(secrets.values())} and planted%20image")
    report = node.bugreport("--config", file)
    assert {
        (name, word) for name, text in report.items() for word in secrets.values() if word in text
    } == set()
    assert "planted" not in "".join(text for name, text in report.items() if name.startswith("log/"))
    assert json.loads(report["doctor.json"])["checks"]
    assert report["problems.txt"] == "none\n"


def test_a_secret_that_is_a_word_of_json_leaves_it_readable() -> None:
    """Regression: `?raw=true` in a URL took every `true` of the status with it."""
    text = '{"put": true, "says": "it is true", "true": 1234}'
    scrubbed = json.loads(_scrubbed("status/x.json", text, ["true", "1234"]))
    assert scrubbed == {"put": True, "says": "it is [removed]", "[removed]": 1234}


def test_a_report_holds_the_end_of_a_long_log_and_overwrites_nothing(node: Node) -> None:
    log = node.root / "state/lazysif.log"
    log.write_text("".join(f"line {number} of a long log\n" for number in range(200_000)))
    report = node.bugreport()
    (text,) = [
        text for name, text in report.items() if name.endswith("-lazysif.log") and "of a long log" in text
    ]
    assert "line 199999 of" in text
    assert "line 0 of" not in text
    assert 1_900_000 < len(text) <= 2_200_000
    done = node.run("bugreport", "--output", node.root / "report.tar.gz", check=False)
    assert done.returncode == 1
    assert "File exists" in done.stderr
