"""What facts about a node mean: a table of facts and verdicts for each judgement."""

from dataclasses import replace

import pytest

from lazysif.core.diagnosis import directories, mounts, node, origins
from lazysif.core.diagnosis.apptainer import ApptainerFacts, installation
from lazysif.core.diagnosis.directories import DirectoryFacts
from lazysif.core.diagnosis.finding import Finding, Verdict, note, ok, problem, problem_count
from lazysif.core.diagnosis.mounts import MountFacts

OK, NOTE, PROBLEM = Verdict.OK, Verdict.NOTE, Verdict.PROBLEM
GIB = 1 << 30


def judged(finding: Finding, verdict: Verdict, *words: str) -> None:
    assert finding.verdict is verdict, finding
    for word in words:
        assert word in f"{finding.found} | {finding.advice}"
    assert verdict is not PROBLEM or finding.advice, "a problem says what to do"


@pytest.mark.parametrize(
    ("release", "verdict", "word"),
    [
        ("6.18.44-x", OK, "survive"),
        ("6.9.0", OK, "survive"),
        ("6.8.12", NOTE, "before 6.9"),
        ("5.14.0-503.el9.x86_64", NOTE, "before 6.9"),
        ("4.18.0-553.el8", NOTE, "128 KiB"),
        ("4.20", NOTE, "before 6.9"),
        ("10.0", OK, ""),
        ("unknown", NOTE, "unknown"),
    ],
)
def test_kernel(release, verdict, word):
    judged(node.kernel(release), verdict, word)


@pytest.mark.parametrize(
    ("default_s", "max_s", "verdict"),
    [(0, 0, OK), (120, 0, NOTE), (0, 120, NOTE), (30, 120, PROBLEM), (120, 30, PROBLEM), (60, 0, PROBLEM)],
)
def test_request_timeouts(default_s, max_s, verdict):
    judged(node.request_timeouts(default_s, max_s, 60.0), verdict)


@pytest.mark.parametrize(
    ("mode", "error", "verdict", "word"),
    [
        (0o666, "", OK, ""),
        (0o600, "", PROBLEM, "chmod 0666"),
        (0o660, "", PROBLEM, "chmod 0666"),
        (None, "", PROBLEM, "modprobe"),
        (0o666, "Operation not permitted", PROBLEM, "cgroup"),
    ],
)
def test_fuse_device(mode, error, verdict, word):
    judged(node.fuse_device(mode, error), verdict, word)


@pytest.mark.parametrize(
    ("path", "setuid", "as_root", "verdict"),
    [
        ("/usr/bin/fusermount3", True, False, OK),
        ("/usr/bin/fusermount3", False, False, PROBLEM),
        ("", False, False, PROBLEM),
        ("", False, True, NOTE),
        ("/usr/bin/fusermount3", False, True, NOTE),
    ],
)
def test_fusermount(path, setuid, as_root, verdict):
    judged(node.fusermount(path, setuid, as_root), verdict)


@pytest.mark.parametrize(
    ("text", "as_root", "wants", "count", "verdict"),
    [
        ("user_allow_other\n", False, True, 3, OK),
        ("# user_allow_other\n", False, True, 3, PROBLEM),
        ("", False, False, 3, NOTE),
        ("", True, True, 3, OK),
        ("user_allow_other\nmount_max = 3\n", False, False, 3, PROBLEM),
        ("user_allow_other\nmount_max=3\n", True, False, 3, NOTE),
        ("user_allow_other\nmount_max = -1\n", False, False, 3000, OK),
        ("user_allow_other\n", False, False, 1000, PROBLEM),
    ],
)
def test_fuse_conf(text, as_root, wants, count, verdict):
    found = node.fuse_conf(text, as_root=as_root, wants_allow_other=wants, fuse_mounts=count)
    judged(found, verdict)


def test_fusectl():
    judged(node.fusectl(True), OK)
    judged(node.fusectl(False), NOTE, "mount -t fusectl")


@pytest.mark.parametrize(("soft", "verdict"), [(-1, OK), (1024, OK), (250, NOTE), (100, PROBLEM)])
def test_open_files(soft, verdict):
    judged(node.open_files(soft, 200), verdict)


@pytest.mark.parametrize(
    ("selinux", "apparmor", "restricted", "verdict"),
    [
        (False, False, False, OK),
        (False, True, False, OK),
        (True, False, False, NOTE),
        (False, True, True, NOTE),
    ],
)
def test_access_control(selinux, apparmor, restricted, verdict):
    judged(node.access_control(selinux, apparmor, restricted), verdict)


# --- directories ---------------------------------------------------------------------------------

CACHE = DirectoryFacts(
    path="/var/cache/lazysif",
    missing=False,
    is_link=False,
    is_directory=True,
    uid=0,
    mode=0o700,
    file_system="xfs",
    total_bytes=100 * GIB,
    free_bytes=60 * GIB,
    inodes=1_000_000,
    inodes_free=900_000,
)


@pytest.mark.parametrize(
    ("changes", "verdict", "word"),
    [
        ({}, OK, "0700"),
        ({"mode": 0o755}, OK, ""),
        ({"mode": 0o777}, PROBLEM, "chmod go-w /var/cache/lazysif"),
        ({"mode": 0o770}, PROBLEM, "others can write"),
        ({"uid": 7}, PROBLEM, "user 7"),
        ({"is_link": True, "is_directory": False}, PROBLEM, "symbolic link"),
        ({"is_directory": False}, PROBLEM, "not a directory"),
        ({"missing": True, "uid": 7, "mode": 0o777}, OK, "will be made"),
        ({"missing": True, "can_be_made": False}, PROBLEM, "cannot make it"),
    ],
)
def test_directory_owner(changes, verdict, word):
    judged(directories.directory_owner("cache", replace(CACHE, **changes), 0), verdict, word)


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        ("ext4", OK),
        ("xfs", OK),
        ("zfs", OK),
        ("", OK),
        ("nfs4", PROBLEM),
        ("lustre", PROBLEM),
        ("gpfs", PROBLEM),
        ("overlay", NOTE),
        ("tmpfs", NOTE),
        ("fuse.sshfs", NOTE),
    ],
)
def test_file_system(kind, verdict):
    judged(directories.file_system("cache", replace(CACHE, file_system=kind)), verdict)


@pytest.mark.parametrize(
    ("changes", "used", "verdict"),
    [
        ({}, None, OK),
        ({"free_bytes": 4 * GIB}, None, PROBLEM),
        ({"free_bytes": 4 * GIB}, 40 * GIB, OK),
        ({"free_bytes": 6 * GIB}, None, NOTE),
        ({"inodes_free": 12}, None, PROBLEM),
        ({"inodes": 0, "inodes_free": 0}, None, OK),
    ],
)
def test_space(changes, used, verdict):
    judged(directories.space(replace(CACHE, **changes), 50 * GIB, 5 * GIB, used), verdict)


def test_disk_probe():
    judged(directories.disk_probe("cache", 0.01, ""), OK, "10 ms")
    judged(directories.disk_probe("cache", 3.0, ""), NOTE, "3.0 s")
    judged(directories.disk_probe("cache", None, "No space left on device"), PROBLEM, "No space left")
    judged(directories.on_own_mount("cache", "/lazysif/x"), PROBLEM, "/lazysif/x")


# --- origins -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("skew_s", "verdict", "word"),
    [
        (0.4, OK, "agrees"),
        (-59, OK, ""),
        (61, NOTE, "61 s behind"),
        (-899, NOTE, "899 s ahead"),
        (901, PROBLEM, "certificates"),
        (-86400, PROBLEM, "chronyc"),
    ],
)
def test_clock(skew_s, verdict, word):
    judged(origins.clock(skew_s, "h"), verdict, word)


@pytest.mark.parametrize(
    ("ranges", "validator", "verdict", "word"),
    [
        (True, "etag", OK, "ranges work"),
        (True, "last-modified", OK, "last-modified"),
        (True, "none", NOTE, "ETag"),
        (False, "etag", NOTE, "range requests"),
    ],
)
def test_image_answer(ranges, validator, verdict, word):
    found = origins.image_answer("o", "x.sif", 0.1, ranges=ranges, validator=validator)
    judged(found, verdict, word)


def test_connection_and_proxies():
    judged(origins.connection("o", 0.001, 0.02, None), OK, "DNS 1 ms, TCP 20 ms")
    judged(origins.connection("o", 0.001, 0.02, 1.5), NOTE, "TLS 1.5 s")
    judged(node.proxies([]), OK)
    judged(node.proxies(["http_proxy"]), NOTE, "http_proxy set, and not used")


# --- Apptainer -----------------------------------------------------------------------------------

FACTS = ApptainerFacts(
    "apptainer version 1.4.5", False, True, "/usr/bin/squashfuse_ll", "allow setuid = yes\n"
)


@pytest.mark.parametrize(
    ("changes", "verdicts", "word"),
    [
        ({}, [OK, OK, OK], "user namespaces"),
        ({"setuid": True}, [OK, OK, OK], "setuid"),
        ({"user_namespaces": False}, [PROBLEM, OK, OK], "sysctl"),
        ({"squashfuse": ""}, [OK, NOTE, OK], "squashfuse"),
        ({"conf": "limit container paths = NULL\n"}, [OK, OK, OK], ""),
        ({"conf": "limit container paths = /cvmfs, /lazysif\n"}, [OK, OK, OK], ""),
        ({"conf": "limit container paths = /\n"}, [OK, OK, OK], ""),
        ({"conf": "limit container paths = /lazy\n"}, [OK, OK, PROBLEM], "/lazy, /lazysif"),
        ({"conf": "# limit container paths = /x\n"}, [OK, OK, OK], ""),
        ({"conf": "limit container owners = root\n"}, [OK, OK, NOTE], "owner of each remote"),
        ({"conf": "max loop devices = 8\n"}, [OK, OK, NOTE], "256"),
        (
            {"conf": "allow setuid-mount squashfs = no\n", "setuid": True, "squashfuse": ""},
            [OK, NOTE, PROBLEM],
            "squashfs = no",
        ),
    ],
)
def test_apptainer(changes, verdicts, word):
    found = installation(replace(FACTS, **changes), ["/lazysif"])
    assert [finding.verdict for finding in found] == verdicts
    assert any(word in finding.found + finding.advice for finding in found)


def test_no_apptainer():
    (found,) = installation(None, [])
    judged(found, NOTE, "neither")


# --- mounts --------------------------------------------------------------------------------------

MOUNT = MountFacts(
    path="/lazysif",
    owner_uid=0,
    answers=True,
    waiting=0,
    daemon_pid=11,
    keeper_pid=10,
    version="1",
    cache_state="normal",
    device_minor="39",
)


@pytest.mark.parametrize(
    ("changes", "verdict", "word"),
    [
        ({}, OK, "answers"),
        ({"waiting": None}, OK, "answers"),
        ({"waiting": 3}, OK, "3 requests wait"),
        ({"answers": False, "stopped": (11, 10), "waiting": 2}, PROBLEM, "kill -CONT 11 10"),
        ({"answers": False}, PROBLEM, "kill -9 11"),
        ({"answers": False, "has_socket": False}, NOTE, "LAZYSIF_RUNTIME_DIR"),
        ({"answers": False, "waiting": 4}, PROBLEM, "connections/39/abort"),
        ({"answers": False, "daemon_pid": None}, PROBLEM, "keeper has not replaced"),
        ({"answers": False, "daemon_pid": None, "keeper_pid": None}, PROBLEM, "umount --lazy"),
        ({"answers": False, "owner_uid": 7}, NOTE, "user 7"),
        ({"cache_state": "down"}, PROBLEM, "cache is down"),
        ({"restarts": 2}, NOTE, "2 restarts"),
        ({"errors": 5}, NOTE, "5 errors"),
        ({"version": "0"}, NOTE, "lazysif upgrade /lazysif"),
    ],
)
def test_mount(changes, verdict, word):
    judged(mounts.mount(replace(MOUNT, **changes), 0, "1"), verdict, word)


@pytest.mark.parametrize(
    ("mode", "verdict"), [("process", OK), ("none", OK), ("mixed", PROBLEM), ("", PROBLEM)]
)
def test_kill_mode(mode, verdict):
    judged(node.kill_mode("autofs.service", mode), verdict)


def test_problems_are_counted_and_notes_are_not():
    found = [ok("a", "b"), note("a", "b"), problem("a", "b", "c")]
    assert problem_count(found) == 1


def test_bulk_says_what_moves_the_bytes() -> None:
    assert node.bulk("8.23.0 with OpenSSL/3.6.5").verdict is Verdict.OK
    missing = node.bulk("")
    assert missing.verdict is Verdict.NOTE
    assert "lazysif[curl]" in missing.advice
