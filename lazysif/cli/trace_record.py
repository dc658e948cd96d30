"""`lazysif trace record`: a publisher's recording of one start, on a mount of its own with an empty cache."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click
import msgspec

from lazysif.cli.mount import Mounted, MountRequest, start
from lazysif.cli.umount import umount_command
from lazysif.config.load import load_config, with_overrides
from lazysif.config.render import to_toml
from lazysif.config.tables import Config, TracesConfig
from lazysif.control.address import make_runtime_directory
from lazysif.core.trace import Trace, merge_all
from lazysif.errors import ConfigError, FormatError, LazysifError, MountError
from lazysif.image_uri import is_uri, parse_uri
from lazysif.log_setup import make_log_directory
from lazysif.traces.store import TraceStore
from lazysif.traces.trace_file import SUFFIX, read_trace, write_trace


@click.command("record", context_settings={"ignore_unknown_options": True})
@click.option("--config", "file", type=click.Path(path_type=Path), help="Remotes, for names and credentials.")
@click.option(
    "--output", type=click.Path(path_type=Path), help="Where to; default: IMAGE.lazysif-trace here."
)
@click.argument("image")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def record_command(file: Path | None, output: Path | None, image: str, command: Sequence[str]) -> int:
    """Record what one start of IMAGE touches: lazysif trace record URI -- apptainer exec {} python3 -c pass

    IMAGE is a URI, or with --config a path below the mountpoint. {} in COMMAND stands for the mounted image; its exit
    code must be 0. An OUTPUT that is there gets the new start beside those it has.
    """
    name = _name(image)
    target = output or Path(name + SUFFIX)
    if not any("{}" in word for word in command):
        raise click.UsageError("COMMAND names no image: write {} where it stands")
    before = _before(target)
    with _mounted(_config(file, image, name), name if is_uri(image) else image) as (path, state_dir, umount):
        code = _run([word.replace("{}", str(path)) for word in command])
        umount()
        recorded = next(TraceStore(state_dir).traces(), None)
    if code:
        raise LazysifError(f"the command ended with {code}: nothing is recorded")
    if recorded is None:
        raise LazysifError("the command read nothing of the image that is worth recording")
    trace = merge_all(before, recorded) if before is not None and before.key == recorded.key else recorded
    try:
        write_trace(target, replace(trace, name=""), mode=0o644)
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror}") from error
    blocks = len(recorded.paths[0].blocks)
    click.echo(f"{target}: a start of {blocks} blocks, {len(trace.paths)} paths in all")
    return 0


def _run(command: Sequence[str]) -> int:
    """The exit code. Raises: LazysifError."""
    try:
        return subprocess.run(command, check=False).returncode
    except OSError as error:
        raise LazysifError(
            f"the command {command[0]} cannot be run: {error.strerror}; nothing is recorded"
        ) from error


def _name(image: str) -> str:
    """What the image is called in the mount, and the trace after it. Raises: ConfigError."""
    try:
        return Path(parse_uri(image).shown if is_uri(image) else image).name
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _before(target: Path) -> Trace | None:
    """What is in the output already. Raises: ConfigError: it is something else, and stays."""
    try:
        return read_trace(target)
    except FormatError as error:
        raise ConfigError(f"{target} is there, and is no trace: {error.why}") from error
    except OSError as error:
        raise ConfigError(f"{target} cannot be read: {error.strerror}") from error


def _config(file: Path | None, image: str, name: str) -> Config:
    """The remotes of `file`, and the image by its URI; nothing is shared and nothing followed."""
    config = load_config(file) if file is not None else Config()
    if is_uri(image):
        config = msgspec.structs.replace(config, images={name: image})
    elif file is None:
        raise ConfigError(f"{image}: a name needs --config", hint="or give the URI of the image")
    return msgspec.structs.replace(config, traces=TracesConfig(beside=False))


@contextmanager
def _mounted(config: Config, name: str) -> Iterator[tuple[Path, Path, Callable[[], None]]]:
    """A mount with an empty cache that nobody else sees: the image's path, the state directory, and its end."""
    with tempfile.TemporaryDirectory(prefix="lazysif-record-") as directory:
        root = Path(directory)
        os.environ["LAZYSIF_RUNTIME_DIR"] = str(root / "run")
        mountpoint = root / "mnt"
        mountpoint.mkdir()
        settings = {"cache.dir": str(root / "cache"), "state.dir": str(root / "state"), "log.file": ""}
        config = with_overrides(config, settings)
        make_runtime_directory()
        make_log_directory(config)
        Mounted(MountRequest("", None, settings, []), to_toml(config), False).write(str(mountpoint))
        start(config, str(mountpoint), foreground=False)
        mounted = True

        def umount() -> None:
            nonlocal mounted
            if not mounted:
                return
            mounted = False
            try:
                umount_command.main([str(mountpoint)], standalone_mode=False)
            except MountError:  # what the command left behind still uses it
                umount_command.main([str(mountpoint), "--lazy"], standalone_mode=False)
                raise

        try:
            yield mountpoint / name, root / "state", umount
        finally:
            umount()
