"""The ways in which jobs read an image: each gives the SHA-256 of every file inside, by path."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.images import fill_tree, make_squashfs, partition_of, write_sif
from tests.support.mount import scrubbed_environment

TIMEOUT_S = 100
USER = "lazysif-reader"
Hashes = dict[str, str]

# Files of the host lie over some of the image's; -xdev keeps out what is mounted into it as a directory.
HASH_ALL = (
    "cd / && find . -xdev -type f -not -path './.singularity.d/*' -exec sha256sum {} + 2>/dev/null; true"
)


def reader_user() -> str:
    """An ordinary user for unprivileged starts, made if it is missing (we are root)."""
    known = subprocess.run(["id", USER], capture_output=True, check=False).returncode == 0
    if not known:
        subprocess.run(["useradd", "--create-home", USER], check=True, capture_output=True)
    return USER


def exec_as_root(image: Path, *command: str, debug: bool = False) -> str:
    """`apptainer exec` as root: a kernel loop device. Returns what it printed, at debug level Apptainer too."""
    return _run(_exec(debug, "--no-privs", "--contain", str(image), *command))


def exec_as_user(image: Path, *command: str, debug: bool = False) -> str:
    """`apptainer exec` as an ordinary user: squashfuse_ll."""
    quoted = shlex.join(_exec(debug, "--contain", str(image), *command))
    return _run(["su", reader_user(), "-c", f"cd / && {quoted}" + (" 2>&1" if debug else "")])


def _exec(debug: bool, *arguments: str) -> list[str]:
    if debug:
        return ["sh", "-c", 'exec apptainer --debug exec "$@" 2>&1', "sh", *arguments]
    return ["apptainer", "exec", *arguments]


def attached_by(run: Callable[..., str], image: Path) -> str:
    """What Apptainer says at debug level while it starts a job: how it attaches the image is among it."""
    return run(image, "true", debug=True)


def hashes_by_exec(run: Callable[..., str]) -> Callable[[Path], Hashes]:
    def hashes(image: Path) -> Hashes:
        return _parse(run(image, "sh", "-c", HASH_ALL))

    return hashes


def hashes_by_loop(image: Path) -> Hashes:
    """`mount -o loop,offset=` and the kernel's squashfs."""
    with mounted(
        image, ["mount", "-t", "squashfs", "-o", f"ro,loop,offset={partition_of(image).offset}"]
    ) as root:
        return hash_tree(root)


def hashes_by_squashfuse(image: Path) -> Hashes:
    """squashfuse, which Apptainer's own squashfuse_ll is a sibling of."""
    with mounted(image, ["squashfuse", "-o", f"offset={partition_of(image).offset}"]) as root:
        return hash_tree(root)


@contextmanager
def mounted(image: Path, command: list[str]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lazysif-reader-") as directory:
        _run([*command, str(image), directory])
        try:
            yield Path(directory)
        finally:
            _run(["umount", directory])


def hash_tree(root: Path) -> Hashes:
    found = {}
    for directory, _, files in os.walk(root):
        for name in files:
            path = Path(directory, name)
            if not path.is_symlink() and path.is_file():
                with path.open("rb") as content:
                    digest = hashlib.file_digest(content, "sha256").hexdigest()
                found[f"./{path.relative_to(root)}"] = digest
    return found


def busybox_image(directory: Path, compression: str) -> Path:
    """A SIF of about 7 MB that can run a shell: busybox and made-up files."""
    tree = directory / f"{compression}-tree"
    fill_tree(tree, bulk_bytes=2 << 20, small_files=200)
    for name in ("dev", "proc", "sys", "tmp", "etc", "home", "root", "var/tmp", "usr"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    for name in ("passwd", "group", "hosts", "resolv.conf", "localtime", "nsswitch.conf"):
        (tree / "etc" / name).touch()
    shutil.copy2("/bin/busybox", tree / "bin/busybox")
    for name in ("sh", "find", "sha256sum", "true", "cat"):
        (tree / "bin" / name).symlink_to("busybox")
    squashfs, image = directory / f"{compression}.squashfs", directory / f"{compression}.sif"
    make_squashfs(tree, squashfs, compression=compression)
    write_sif(image, squashfs)
    squashfs.unlink()
    return image


def _run(command: list[str]) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=scrubbed_environment()
    )
    assert done.returncode == 0, f"{command}: exit {done.returncode}: {done.stderr[-2000:]}"
    return done.stdout


def _parse(listing: str) -> Hashes:
    return {path: digest for digest, _, path in (line.partition("  ") for line in listing.splitlines())}
