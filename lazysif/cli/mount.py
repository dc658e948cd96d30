"""`lazysif mount`: checks what was asked, starts the daemon, and returns when the mount answers."""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import select
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import click

from lazysif.config import Config, config_for_source, load_config, with_overrides
from lazysif.control.address import absolute_mountpoint
from lazysif.errors import ConfigError, LazysifError, LocalDirectoryError, MountError
from lazysif.fuse.mountinfo import find_mount

_READY_S = 60.0
_LOG_BYTES = 10 << 20
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
    settings = {key: value for key, value in settings.items() if value is not None}
    file = config_file or from_options.pop("config", None)
    source, mountpoint = _positional(arguments, file)
    config = load_config(Path(file)) if file is not None else config_for_source(source)
    config = with_overrides(config, {**from_options, **settings})
    if fuse_options:
        config = with_overrides(config, {"mount.options": sorted({*config.mount.options, *fuse_options})})
    mountpoint = check_mountpoint(mountpoint)
    if foreground:
        set_up_log(config, foreground=True)
        return _run(config, mountpoint, lambda: None)
    return start_in_background(config, mountpoint)


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


def set_up_log(config: Config, *, foreground: bool) -> None:
    """Log to standard error, or to the configured file, kept below 40 MiB by rotation."""
    if foreground and config.log.file is None:
        handler: logging.Handler = logging.StreamHandler()
    else:
        file = config.log.file or config.state.dir / "lazysif.log"
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handler = logging.handlers.RotatingFileHandler(file, maxBytes=_LOG_BYTES, backupCount=3)
        except OSError as error:
            raise LocalDirectoryError(f"cannot write log file {file}: {error.strerror}") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=config.log.level.upper(), handlers=[handler], force=True)
    # at INFO httpx writes every URL, signatures included
    for name in ("httpx", "httpcore", "waitress"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _run(config: Config, mountpoint: str, ready: Callable[[], None]) -> int:
    from lazysif import daemon  # 0.3 s of imports that only the daemon needs

    daemon.run(config, mountpoint, ready)
    return 0


def start_in_background(config: Config, mountpoint: str) -> int:
    """Fork the daemon and wait until its mount answers.

    Raises:
        LazysifError: what kept it from it, as the daemon said.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os._exit(_daemon_process(config, mountpoint, writer))
    os.close(writer)
    with os.fdopen(reader, "rb") as answers:
        return _wait_for_ready(answers.fileno(), child)


def _daemon_process(config: Config, mountpoint: str, writer: int) -> int:
    """The child: its own session, nothing of ours on its descriptors; says "ready" or an error on the pipe."""
    os.setsid()
    os.chdir("/")
    said = False

    def say(document: dict[str, object]) -> None:
        nonlocal said
        if not said:
            said = True
            os.write(writer, json.dumps(document).encode())
            os.close(writer)

    def ready() -> None:
        _detach_output()
        say({"ready": True})

    try:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        set_up_log(config, foreground=False)
        return _run(config, mountpoint, ready)
    except LazysifError as error:
        logging.getLogger(__name__).error("%s", error)
        say({"error": error.why, "hint": error.hint, "kind": type(error).__name__})
        return 1
    except BaseException as error:
        logging.getLogger(__name__).exception("the daemon ended in an unexpected way")
        say({"error": traceback.format_exception_only(error)[-1].strip(), "hint": "", "kind": "LazysifError"})
        return 1
    finally:
        logging.shutdown()


def _detach_output() -> None:
    """Let go of the caller's output: whoever waits for its end would wait for ours."""
    null = os.open(os.devnull, os.O_RDWR)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(null, 1)
    os.dup2(null, 2)


def _wait_for_ready(reader: int, child: int) -> int:
    deadline = time.monotonic() + _READY_S
    said = b""
    while True:
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not select.select([reader], [], [], left_s)[0]:
            raise MountError(f"the daemon (process {child}) did not mount within {_READY_S:g} s")
        piece = os.read(reader, 65536)
        if not piece:
            break
        said += piece
    if not said:
        os.waitpid(child, 0)
        raise LazysifError("the daemon ended before the mount answered", hint="its log may say why")
    document = json.loads(said)
    if document.get("ready"):
        return 0
    os.waitpid(child, 0)
    kinds: dict[str, type[LazysifError]] = {
        kind.__name__: kind for kind in (ConfigError, MountError, LocalDirectoryError)
    }
    raise kinds.get(document["kind"], LazysifError)(document["error"], hint=document["hint"])
