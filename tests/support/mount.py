"""A real mount in a process of its own, as a user makes it, and the proof that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

COMMAND = (sys.executable, "-m", "lazysif")
REPOSITORY = Path(__file__).parents[2]
START_S = 20.0
"""Longest start or stop that a test waits for; a healthy one takes well under a second."""


class CommandFailed(AssertionError):
    """A lazysif command did not end as it should; the text has all that it printed."""


def scrubbed_environment(**changes: str) -> dict[str, str]:
    """The caller's environment without proxies and without settings of lazysif or Apptainer."""
    unwanted = ("LAZYSIF_", "APPTAINER_", "SINGULARITY_")
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith("_proxy") and not name.startswith(unwanted)
    }
    return {**environment, "PYTHONPATH": str(REPOSITORY), **changes}


def lazysif(
    *arguments: str | Path,
    check: bool = True,
    timeout_s: float = START_S,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run one lazysif command to its end.

    Its output goes to files: with pipes, a daemon that kept one open would look like a command that hangs.

    Raises:
        CommandFailed: it failed (with `check`) or took too long.
    """
    command = [*COMMAND, *map(str, arguments)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:

        def said() -> tuple[str, str]:
            out.seek(0)
            err.seek(0)
            return out.read(), err.read()

        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                timeout=timeout_s,
                check=False,
                env=dict(environment) if environment is not None else scrubbed_environment(),
            )
        except subprocess.TimeoutExpired:
            raise CommandFailed(f"{command} took over {timeout_s} s: {said()}") from None
        output, errors = said()
    if check and done.returncode:
        raise CommandFailed(f"{command}: exit {done.returncode}: {output}{errors}")
    return subprocess.CompletedProcess(command, done.returncode, output, errors)


@dataclass
class Mount:
    """One mount with directories of its own; `Mount(...).start()`, or as a context manager.

    Args:
        root: an empty directory of the test: mountpoint, cache and state go below it.
        source: a URL, or None with `config`.
        config: a configuration file, or None with `source`.
        options: more arguments for `lazysif mount`.
        environment: changes to the scrubbed environment.
        log_level: of the daemon.
    """

    root: Path
    source: str | None = None
    config: Path | None = None
    options: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    log_level: str = "debug"
    pid: int = 0
    keeper_pid: int = 0

    @property
    def path(self) -> Path:
        """The mountpoint."""
        return self.root / "mnt"

    @property
    def cache_dir(self) -> Path:
        return self.root / "cache"

    @property
    def state_dir(self) -> Path:
        return self.root / "state"

    @property
    def runtime_dir(self) -> Path:
        """Of the control sockets: `lazysif status` of this test sees no other mounts."""
        return self.root / "run"

    def run(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A lazysif command that looks for daemons where this one listens."""
        changes = {"LAZYSIF_RUNTIME_DIR": str(self.runtime_dir), **self.environment}
        return lazysif(*arguments, check=check, environment=scrubbed_environment(**changes))

    def start(self) -> Self:
        """Mount, and return when it answers."""
        self.path.mkdir(parents=True, exist_ok=True)
        what = ["--config", str(self.config)] if self.config else [str(self.source)]
        directories = ["--cache-dir", str(self.cache_dir), "--state-dir", str(self.state_dir)]
        self.run("mount", *what, self.path, *directories, "--log-level", self.log_level, *self.options)
        return self.adopt()

    def adopt(self) -> Self:
        """Note the processes that serve it now."""
        status = self.status()
        self.pid, self.keeper_pid = int(status["pid"]), int(status["keeper_pid"])
        return self

    def status(self) -> dict[str, Any]:
        """What `lazysif status --json` says of this mount."""
        document = json.loads(self.run("status", self.path, "--json").stdout)
        (mine,) = document["mounts"]
        return dict(mine)

    def status_or_none(self) -> dict[str, Any]:
        """The same, or an empty document where no daemon answers at this moment."""
        documents = json.loads(self.run("status", self.path, "--json", check=False).stdout)["mounts"]
        return dict(documents[0]) if documents else {}

    def counters(self) -> dict[str, int]:
        return dict(self.status()["counters"])

    def log(self) -> str:
        """What the daemon has logged so far."""
        files = sorted(self.state_dir.glob("*.log")) if self.state_dir.is_dir() else []
        return "".join(file.read_text(errors="replace") for file in files)

    def is_mounted(self) -> bool:
        return bool(mounted_at(self.path))

    def umount(self, *, lazy: bool = False) -> None:
        """Unmount as a user does, and prove that nothing is left of it.

        Raises:
            AssertionError: a mount or a process is left; the text names it.
        """
        self.run("umount", self.path, *(["--lazy"] if lazy else []))
        self.check_gone()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Kill the daemon and wait for its end; the dead mount stays."""
        os.kill(self.pid, number)
        wait_until(lambda: not is_alive(self.pid), f"process {self.pid} outlives signal {number}")

    def remount(self) -> Self:
        """Mount again with the same cache and state; a mount that is still there, dead or not, goes first."""
        if self.is_mounted():
            self.run("umount", self.path)
            wait_until(partial(_ended, self.pid), f"process {self.pid} outlives its mount")
        return self.start()

    def check_gone(self) -> None:
        """Raises: AssertionError."""
        wait_until(lambda: not self.is_mounted(), f"{self.path} is still mounted")
        for pid in filter(None, (self.pid, self.keeper_pid)):
            wait_until(partial(_ended, pid), f"process {pid} outlives its mount")
        wait_until(lambda: not processes_naming(self.root), f"left over: {processes_naming(self.root)}")

    def force_gone(self) -> None:
        """End it whatever state it is in; for the end of a test that failed half-way."""
        for path in reversed(mounted_below(self.root)):
            subprocess.run(["umount", "-i", "-l", path], check=False, capture_output=True)
        for pid in {self.keeper_pid, self.pid, *processes_naming(self.root)} - {0}:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()

    def finish(self) -> None:
        """Unmount if it is mounted, prove that nothing is left, and leave nothing even if something was."""
        try:
            if self.is_mounted() and self.pid and is_alive(self.pid):
                self.umount()
            elif self.is_mounted():
                subprocess.run(["umount", "-i", "-l", str(self.path)], check=False, capture_output=True)
            self.check_gone()
        finally:
            self.force_gone()


def _mount_paths() -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split(" ")[4].replace("\\040", " ") for line in lines]


def mounted_at(path: Path) -> int:
    """How many mounts are stacked at this path."""
    return _mount_paths().count(str(path))


def mounted_below(root: Path) -> list[str]:
    """Mountpoints below a directory, in the order in which they were made."""
    return [path for path in _mount_paths() if path.startswith(f"{root}/")]


def processes_naming(path: Path) -> list[int]:
    """Processes, not this one and not its parents, whose command line names something below `path`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in (os.getpid(), os.getppid()):
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue  # it ended meanwhile
            if any(argument.startswith(os.fsencode(path) + b"/") for argument in arguments):
                found.append(int(entry.name))
    return found


def children_of(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(number) for file in children for number in file.read_text().split()]


def _ended(pid: int) -> bool:
    return not is_alive(pid)


def is_alive(pid: int) -> bool:
    """Whether it runs; a zombie, whose parent has not asked for its end yet, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], complaint: str) -> None:
    """Raises: AssertionError: it did not become true within `START_S`."""
    deadline_s = time.monotonic() + START_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise AssertionError(complaint)
        time.sleep(0.01)
