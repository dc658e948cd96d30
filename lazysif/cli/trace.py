"""`lazysif trace`: what this node has learned of the starts of its images."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from lazysif.cli.directory import directory_given
from lazysif.cli.mount import Mounted
from lazysif.cli.trace_record import record_command
from lazysif.config.load import load_config
from lazysif.config.tables import Config
from lazysif.control.address import absolute_mountpoint, sockets
from lazysif.control.client import fetch_status
from lazysif.core.trace import HEAD_BYTES, Trace, is_key, trace_key
from lazysif.errors import ConfigError, FormatError, NoSuchEntry
from lazysif.image_names import ImageNames
from lazysif.image_uri import is_uri
from lazysif.sizes import format_size
from lazysif.traces.store import TraceStore
from lazysif.traces.trace_file import SUFFIX, read_trace, write_trace

_WIDTH = 130
"""A key is to be copied, so that a table is rather too wide than cut."""


@click.group("trace")
def trace_group() -> None:
    """What starts of images touched, in order: recorded by first starts, followed by later ones.

    IMAGE is a path in a mount, the URI of an image that a mount serves, a file, a name or a key of `lazysif trace
    list`, or a trace file.
    """


def _with_store(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say whose traces are meant."""
    for option in (
        click.option("--state-dir", callback=directory_given, help="State directory of the daemon."),
        click.option("--config", "file", type=click.Path(path_type=Path), help="The daemon's configuration."),
    ):
        command = option(command)
    return command


@trace_group.command("list")
@_with_store
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def list_command(state_dir: Path | None, file: Path | None, as_json: bool) -> int:
    """List the images whose starts are known, the last used first."""
    traces = list(_store(state_dir, file).traces())
    if as_json:
        click.echo(json.dumps([_figures(trace) for trace in traces], indent=2))
        return 0
    if not traces:
        click.echo("no start was recorded yet")
        return 0
    _show_table(
        ("image", "size", "paths", "touched", "last used", "key"),
        [
            (
                trace.name or "(imported)",
                format_size(trace.size_bytes),
                str(len(trace.paths)),
                format_size(trace.blocks * trace.block_size),
                _day(trace.paths[0].used_s),
                trace.key,
            )
            for trace in traces
            if trace.paths
        ],
    )
    return 0


@trace_group.command("show")
@click.argument("image")
@_with_store
@click.option("--json", "as_json", is_flag=True, help="All of it, for programs.")
@click.option("--draw", type=click.Path(path_type=Path, dir_okay=False), help="Draw it into FILE.svg.")
def show_command(
    image: str, state_dir: Path | None, file: Path | None, as_json: bool, draw: Path | None
) -> int:
    """Show the paths that starts of IMAGE took."""
    trace = _find(image, state_dir, file)
    if draw is not None:
        from lazysif.cli.trace_picture import picture

        if draw.suffix != ".svg":
            raise ConfigError(f"--draw {draw}: pictures are SVG", hint="name the file with .svg at its end")
        try:
            drawn = picture(trace, trace.name or Path(image).name)
            draw.write_text(drawn, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise ConfigError(f"{draw} cannot be written: {error.strerror}") from error
    if as_json:
        paths = [{"blocks": path.blocks, "times_ms": path.times_ms} for path in trace.paths]
        click.echo(json.dumps({**_figures(trace), "block_size": trace.block_size, "touched": paths}))
        return 0
    click.echo(
        f"{trace.name or image}: {format_size(trace.size_bytes)}, {len(trace.paths)} paths, "
        f"blocks of {format_size(trace.block_size)}, key {trace.key}"
    )
    _show_table(
        ("path", "blocks", "touched", "runs", "took", "last used"),
        [
            (
                str(number),
                str(len(path.blocks)),
                format_size(len(path.blocks) * trace.block_size),
                str(_runs(path.blocks)),
                f"{path.times_ms[-1] / 1000:.1f} s",
                _day(path.used_s),
            )
            for number, path in enumerate(trace.paths, 1)
        ],
    )
    return 0


@trace_group.command("export")
@click.argument("image")
@click.argument("output", type=click.Path(path_type=Path), required=False)
@_with_store
def export_command(image: str, output: Path | None, state_dir: Path | None, file: Path | None) -> int:
    """Write the trace of IMAGE to OUTPUT, else to IMAGE's name with .lazysif-trace behind it.

    Beside the image on its server it is found by every node.
    """
    trace = _find(image, state_dir, file)
    target = output or Path((Path(image).name or trace.key).removesuffix(SUFFIX) + SUFFIX)
    try:
        write_trace(target, replace(trace, name=""), mode=0o644)
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror}") from error
    click.echo(f"{target}: {len(trace.paths)} paths")
    return 0


@trace_group.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@_with_store
def import_command(files: Sequence[Path], state_dir: Path | None, file: Path | None) -> int:
    """Add the traces in FILES to those of this node. A daemon takes them at the next start."""
    store = _store(state_dir, file)
    for given in files:
        trace = _read(given)
        if trace is None:
            raise NoSuchEntry(f"{given} is not there")
        merged = store.add(trace)
        click.echo(f"{given}: key {trace.key}, {len(merged.paths)} paths known now")
    return 0


@trace_group.command("forget")
@click.argument("images", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All traces of this node.")
@_with_store
def forget_command(images: Sequence[str], everything: bool, state_dir: Path | None, file: Path | None) -> int:
    """Forget the traces of IMAGES on this node. A daemon follows them no more from the next start on."""
    if bool(images) == everything:
        raise click.UsageError("name images, or give --all")
    store = _store(state_dir, file)
    keys = (
        [trace.key for trace in store.traces()]
        if everything
        else [_find(image, state_dir, file).key for image in images]
    )
    forgotten = sum(store.forget(key) for key in keys)
    click.echo(f"{forgotten} forgotten")
    return 0


trace_group.add_command(record_command)


# --- whose traces, and which ----------------------------------------------------------------------


def _store(state_dir: Path | None, file: Path | None, image: str = "") -> TraceStore:
    """The store that is named, else that of the daemon that serves the image, else of the only one, else the
    default."""
    if state_dir is not None:
        return TraceStore(state_dir)
    if file is not None:
        return TraceStore(load_config(file).state.dir)
    served = {}
    for socket in sockets():
        try:
            mountpoint = fetch_status(socket)["mountpoint"]
            mounted = Mounted.read(mountpoint)
            if mounted is not None:
                served[mountpoint] = mounted.in_force().state.dir
        except (OSError, ConfigError):
            continue  # no daemon any more, or one of another version
    path = absolute_mountpoint(image) if image else ""
    inside = [state for mountpoint, state in served.items() if path.startswith(f"{mountpoint}/")]
    found = set(inside or served.values())
    if len(found) > 1:
        raise ConfigError("several daemons run here", hint="say which one by --state-dir or --config")
    return TraceStore(found.pop() if found else Config().state.dir)


def _read(path: Path) -> Trace | None:
    try:
        return read_trace(path)
    except FormatError as error:
        raise FormatError(f"{path}: {error.why}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def _find(image: str, state_dir: Path | None, file: Path | None) -> Trace:
    """The trace that an IMAGE of the command line stands for. Raises: NoSuchEntry, ConfigError."""
    if is_uri(image):
        image = str(_mounted_path(image))
    path = Path(image)
    if image.endswith(SUFFIX):
        trace = _read(path)
        if trace is not None:
            return trace
    store = _store(state_dir, file, image)
    if is_key(image):
        trace = store.load(image)
    elif _is_file(path):
        trace = store.load(_key_of(path))
    else:
        named = [t for t in store.traces() if t.name == image or t.name.endswith(f"/{image}")]
        if len(named) > 1:
            keys = ", ".join(trace.key for trace in named)
            raise ConfigError(f"{image}: several images have that name", hint=f"name one by its key: {keys}")
        trace = named[0] if named else None
    if trace is None or not trace.paths:
        raise NoSuchEntry(f"no start of {image} is known in {store.directory}", hint="see lazysif trace list")
    return trace


def _is_file(path: Path) -> bool:
    """Raises: ConfigError: nobody can say, as it is too long or lies where this user may not look."""
    try:
        return path.is_file()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def _mounted_path(uri: str) -> Path:
    """Where a mount of this user shows the image of a URI. Raises: ConfigError where none does."""
    for socket in sockets():
        try:
            mountpoint = str(fetch_status(socket)["mountpoint"])
            mounted = Mounted.read(mountpoint)
            if mounted is None:
                continue
            return Path(mountpoint, ImageNames(mounted.in_force()).shown_path(uri))
        except (OSError, KeyError, ConfigError):
            continue
    raise ConfigError(f"{uri.partition('?')[0]}: no mount serves it", hint="name a key of lazysif trace list")


def _key_of(path: Path) -> str:
    try:
        with path.open("rb") as content:
            return trace_key(path.stat().st_size, content.read(HEAD_BYTES))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


# --- what people see ------------------------------------------------------------------------------


def _figures(trace: Trace) -> dict[str, Any]:
    return {
        "name": trace.name,
        "key": trace.key,
        "size_bytes": trace.size_bytes,
        "touched_bytes": trace.blocks * trace.block_size,
        "paths": [
            {"blocks": len(path.blocks), "took_s": path.times_ms[-1] / 1000, "used_s": path.used_s}
            for path in trace.paths
        ],
    }


def _runs(blocks: Sequence[int]) -> int:
    """Runs of neighbouring blocks: about how many requests bring them."""
    known = set(blocks)
    return sum(block - 1 not in known for block in known)


def _day(used_s: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(used_s)) if used_s else "never"


def _show_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, markup=False, emoji=False, width=_WIDTH).print(table)
