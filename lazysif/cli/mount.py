"""`lazysif mount`: checks what was asked, starts the daemon, and returns when the mount answers."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import click
import msgspec

from lazysif.config.load import config_for_source, from_toml, load_config, with_overrides
from lazysif.config.render import to_toml
from lazysif.config.tables import Config
from lazysif.control.address import (
    absolute_mountpoint,
    make_runtime_directory,
    mounted_file,
    upgrade_file,
    write_runtime_file,
)
from lazysif.errors import ConfigError, LazysifError, LocalDirectoryError, MountError
from lazysif.fuse.mountinfo import find_mount
from lazysif.image_names import ImageNames
from lazysif.log_setup import log_file, make_log_directory

_READY_S = 60.0
_IGNORED_OPTIONS = frozenset(
    (
        *("auto", "noauto", "defaults", "nofail", "_netdev", "user", "users", "nouser", "owner", "group"),
        *("ro", "rw", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "async", "sync"),
        *("atime", "noatime", "relatime", "nodiratime"),
    )
)
"""What mount(8) and fstab pass on for others. A mount is always read-only; nosuid and nodev are always set."""
_FUSE_OPTIONS = frozenset(("allow_other", "allow_root"))
_OWN_OPTIONS = {
    "config": "config",
    "cache_dir": "cache.dir",
    "cache_size": "cache.size",
    "min_free": "cache.min_free",
    "block_size": "cache.block_size",
    "state_dir": "state.dir",
    "log_level": "log.level",
    "log_file": "log.file",
}


@click.command("mount")
@click.argument("arguments", nargs=-1, metavar="[SOURCE] MOUNTPOINT")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="TOML file with the remotes.")
@click.option("--cache-dir", help="Directory of the block cache.")
@click.option("--state-dir", help="Directory of what must outlive the daemon: inode numbers, names, the log.")
@click.option("--cache-size", help="Most bytes of the cache, as 200GiB or 50%.")
@click.option("--min-free", help="Disk space to leave to others, as 5% or a size.")
@click.option("--block-size", help="Unit of fetch, check and cache, as 128KiB.")
@click.option("--foreground", is_flag=True, help="Stay, and log to standard error.")
@click.option("--log-level", help="debug, info, warning or error.")
@click.option("-o", "options", multiple=True, metavar="OPTION,…", help="Mount options, as in fstab.")
def mount_command(
    arguments: tuple[str, ...],
    config_file: Path | None,
    cache_dir: str | None,
    state_dir: str | None,
    cache_size: str | None,
    min_free: str | None,
    block_size: str | None,
    foreground: bool,
    log_level: str | None,
    options: tuple[str, ...],
) -> int:
    """Mount images below SOURCE (a URL), or the remotes of a configuration file, at MOUNTPOINT.

    MOUNTPOINT/dir/x.sif is SOURCE/dir/x.sif; with --config it is the URL of the remote `dir` and x.sif. Returns
    when the mount answers. Exit codes: 2 usage or configuration, 3 the mount, 4 the cache or state directory.
    """
    settings: dict[str, object] = {
        "cache.dir": cache_dir,
        "cache.size": cache_size,
        "cache.min_free": min_free,
        "cache.block_size": block_size,
        "state.dir": state_dir,
        "log.level": log_level,
    }
    from_options, fuse_options = split_options(options)
    given = {key: str(value) for key, value in settings.items() if value is not None}
    file = config_file or from_options.pop("config", None)
    source, mountpoint = _positional(arguments, file)
    absolute = os.path.abspath(file) if file is not None else None
    request = MountRequest(source, absolute, {**from_options, **given}, fuse_options)
    config = request.config()
    ImageNames(config)
    mountpoint = check_mountpoint(mountpoint)
    make_runtime_directory()
    if not foreground or config.log.file is not None:
        make_log_directory(config)
    Mounted(request, to_toml(config), foreground).write(mountpoint)
    return start(config, mountpoint, foreground=foreground)


class MountRequest(msgspec.Struct, frozen=True):
    """What was asked for, apart from where: enough to read it anew.

    `file` is absolute, or None with `source`; `settings` go before what is in the file.
    """

    source: str
    file: str | None
    settings: dict[str, str]
    fuse_options: list[str]

    def config(self) -> Config:
        """Raises: ConfigError."""
        config = load_config(Path(self.file)) if self.file is not None else config_for_source(self.source)
        config = with_overrides(config, self.settings)
        if self.fuse_options:
            options = sorted({*config.mount.options, *self.fuse_options})
            config = with_overrides(config, {"mount.options": options})
        return config


class Mounted(msgspec.Struct, frozen=True):
    """What a mount was made from and is served by now. Holds URLs with their queries: only its owner can read it."""

    request: MountRequest
    toml: str
    foreground: bool

    def in_force(self) -> Config:
        """Raises: ConfigError: it holds what can no longer be meant."""
        return from_toml(self.toml)

    def with_config(self, config: Config) -> Mounted:
        return Mounted(self.request, to_toml(config), self.foreground)

    def write(self, mountpoint: str) -> None:
        """Raises: LocalDirectoryError."""
        # names of files that are no UTF-8 go through `json`, and not through msgspec's encoder
        write_runtime_file(mounted_file(mountpoint), json.dumps(msgspec.to_builtins(self)).encode())

    @classmethod
    def read(cls, mountpoint: str) -> Mounted | None:
        """None where nothing was mounted, or by a version that wrote it otherwise."""
        try:
            return msgspec.convert(json.loads(mounted_file(mountpoint).read_bytes()), cls)
        except (OSError, ValueError):
            return None


def split_options(given: tuple[str, ...]) -> tuple[dict[str, str], list[str]]:
    """`-o a,b=c` as settings by dotted key (and "config"), and as options for the kernel. Raises: ConfigError."""
    settings: dict[str, str] = {}
    fuse_options = []
    for option in filter(None, (part.strip() for text in given for part in text.split(","))):
        name, _, value = option.partition("=")
        if name in _OWN_OPTIONS and value:
            settings[_OWN_OPTIONS[name]] = value
        elif option in _FUSE_OPTIONS:
            fuse_options.append(option)
        elif name not in _IGNORED_OPTIONS and not name.startswith(("x-", "X-", "comment")):
            known = ", ".join(sorted((*_FUSE_OPTIONS, *(f"{key}=" for key in _OWN_OPTIONS))))
            raise ConfigError(f"-o {option}: unknown mount option", hint=f"known are {known}")
    return settings, fuse_options


def _positional(arguments: tuple[str, ...], config_file: object) -> tuple[str, str]:
    """SOURCE and MOUNTPOINT; with a configuration file SOURCE may be given (fstab must) and means nothing."""
    if len(arguments) == 2:
        return arguments[0], arguments[1]
    if len(arguments) == 1 and config_file is not None:
        return "", arguments[0]
    raise click.UsageError("give SOURCE and MOUNTPOINT, or --config FILE and MOUNTPOINT")


def check_mountpoint(given: str) -> str:
    """The absolute path of a directory that nothing of ours is mounted at. Raises: MountError."""
    mountpoint = absolute_mountpoint(given)
    try:
        mountpoint.encode()
    except UnicodeEncodeError:
        raise MountError(f"mountpoint {mountpoint} is not UTF-8", hint="choose another directory") from None
    mounted = find_mount(mountpoint)
    if mounted is not None and mounted.kind == "fuse.lazysif":
        raise MountError(
            f"{mountpoint} is mounted already, from {mounted.source}",
            hint=f"lazysif status {mountpoint} tells whether it answers, lazysif umount {mountpoint} ends it",
        )
    try:
        if not Path(mountpoint).is_dir():
            raise MountError(f"{mountpoint} is not a directory", hint=f"mkdir -p {mountpoint}")
    except OSError as error:
        raise MountError(f"{mountpoint} cannot be used: {error.strerror}") from error
    return mountpoint


def start(config: Config, mountpoint: str, *, foreground: bool) -> int:
    """Start the keeper, and it the daemon; in the background wait until the mount answers.

    Raises:
        LazysifError: what kept it from it, as keeper or daemon said.
    """
    keeper = start_keeper(keeper_order(config, mountpoint, foreground=foreground))
    _wait_for_answer(mountpoint)
    return _in_foreground(keeper) if foreground else 0


def start_keeper(order: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Start the keeper and wait until its first daemon serves. Raises: LazysifError."""
    reader, writer = os.pipe()
    keeper = subprocess.Popen(
        # isolated and without site packages: it needs none, and starts in 40 ms
        [
            sys.executable,
            "-I",
            "-S",
            str(Path(__file__).parents[1] / "keeper.py"),
            order["mountpoint"],
            str(writer),
        ],
        stdin=subprocess.PIPE,
        pass_fds=[writer],
        cwd="/",
        start_new_session=not order["foreground"],
    )
    os.close(writer)
    assert keeper.stdin is not None
    keeper.stdin.write(json.dumps(order).encode())
    keeper.stdin.close()
    with os.fdopen(reader, "rb") as said:
        _wait_for_ready(said.fileno(), keeper)
    return keeper


def daemon_command(mountpoint: str) -> list[str]:
    """How this installation's daemon is started; the mountpoint is for who looks at the process list."""
    return [sys.executable, "-m", "lazysif.serve", mountpoint]


def daemon_order(config: Config, *, foreground: bool) -> str:
    """What a daemon reads from its standard input (`lazysif.serve`)."""
    return json.dumps({"config": to_toml(config), "foreground": foreground})


def keeper_order(config: Config, mountpoint: str, *, foreground: bool) -> dict[str, Any]:
    """What the keeper is to do, in plain words: it parses nothing else (`lazysif.keeper`)."""
    return {
        "mountpoint": mountpoint,
        "source": config.remotes[0].shown_url if config.source_mode else "lazysif",
        "kernel_options": ["default_permissions", *config.mount.options],
        "command": daemon_command(mountpoint),
        "config": daemon_order(config, foreground=foreground),
        "upgrade_file": str(upgrade_file(mountpoint)),
        "log_file": None if foreground and config.log.file is None else str(log_file(config)),
        "foreground": foreground,
        "resend": True,
        "mount_hint": "is /dev/fuse there and yours to open, fusermount3 installed, and the directory yours? "
        "allow_other needs user_allow_other in /etc/fuse.conf",
    }


def _wait_for_ready(reader: int, keeper: subprocess.Popen[bytes]) -> None:
    if not select.select([reader], [], [], _READY_S)[0]:
        raise MountError(f"the keeper (process {keeper.pid}) did not mount within {_READY_S:g} s")
    said = os.read(reader, 65536)
    document = json.loads(said) if said else {"error": "the keeper ended before it mounted"}
    if document.get("ready"):
        return
    keeper.wait()
    kinds: dict[str, type[LazysifError]] = {
        kind.__name__: kind for kind in (ConfigError, MountError, LocalDirectoryError)
    }
    kind = kinds.get(document.get("kind", ""), LazysifError)
    raise kind(document["error"], hint=document.get("hint", ""))


def _wait_for_answer(mountpoint: str) -> None:
    """Ask the mount itself, in a thread: where it hangs, so would we."""
    asking = threading.Thread(target=os.statvfs, args=(mountpoint,), daemon=True)
    asking.start()
    asking.join(_READY_S)
    if asking.is_alive():
        raise MountError(f"the mount at {mountpoint} does not answer within {_READY_S:g} s")


def _in_foreground(keeper: subprocess.Popen[bytes]) -> int:
    """Stay until the mount is gone; Ctrl-C and SIGTERM reach the keeper, which unmounts."""
    signal.signal(signal.SIGTERM, lambda number, _: keeper.send_signal(number))
    while True:
        try:
            return keeper.wait()
        except KeyboardInterrupt:
            continue  # the terminal has sent it to the keeper, too
