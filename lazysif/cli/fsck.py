"""`lazysif fsck`: checks the cache directory and discards what is damaged, alone or by its daemon."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from lazysif.cache.fsck import check_offline
from lazysif.cache.fsck_report import Kind, Report
from lazysif.cli.directory import directory_given
from lazysif.config.load import load_config
from lazysif.config.tables import Config
from lazysif.control.address import sockets
from lazysif.control.client import Refused, fetch_document, fetch_status
from lazysif.errors import LocalDirectoryError
from lazysif.sizes import format_size

_LOOK_S = 0.2
_SILENT_S = 30.0
Document = dict[str, Any]

_WORDS = {
    Kind.DATABASES: "damaged databases, begun anew",
    Kind.FRAMES: "damaged frames",
    Kind.UNREADABLE: "frames that the disk does not read",
    Kind.NO_FILE: "rows without their file",
    Kind.FOREIGN: "rows that lazysif did not write",
    Kind.SIZES: "wrong sizes",
    Kind.SUMS: "wrong sums for the quota",
    Kind.ORPHANS: "files without a row",
    Kind.TABLES: "damaged block tables",
    Kind.RECORDS: "damaged records of block tables",
    Kind.STALE: "records of frames that are gone",
}


@click.command("fsck")
@click.option("--cache-dir", callback=directory_given, help="Directory of the block cache.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="TOML file that names it.")
@click.option("--dry-run", is_flag=True, help="Report, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="The whole report, for programs.")
def fsck_command(cache_dir: Path | None, config_file: Path | None, dry_run: bool, as_json: bool) -> int:
    """Check every cached frame and block table, and discard what is damaged: it is fetched again when wanted.

    Where a daemon uses the directory, it does the check itself, slowly, and goes on serving. Exit codes: 0 all is
    well, 1 something was wrong (and, without --dry-run, is repaired), 2 usage or configuration, 4 the directory
    cannot be used or checked. Records of frames that were evicted are struck off, and are no fault.
    """
    if cache_dir is None:
        cache_dir = (load_config(config_file) if config_file is not None else Config()).cache.dir
    socket = _daemon_of(cache_dir)
    with _progress() as tell:
        if socket is not None:
            document = _check_online(socket, cache_dir, dry_run, tell)
        else:
            report = check_offline(cache_dir, dry_run=dry_run, tell=lambda report: tell(_brief(report)))
            document = report.document()
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        _show(document)
    return 0 if document["clean"] else 1


def _daemon_of(directory: Path) -> Path | None:
    """The socket of the daemon that uses a directory."""
    wanted = os.path.realpath(directory)
    for path in sockets():
        try:
            if os.path.realpath(fetch_status(path)["cache"]["directory"]) == wanted:
                return path
        except (OSError, KeyError):
            continue  # dead or silent; if it holds the directory, its lock says so
    return None


def _check_online(socket: Path, directory: Path, dry_run: bool, tell: Callable[[Document], None]) -> Document:
    try:
        document = fetch_document(socket, f"/fsck?dry_run={int(dry_run)}", "POST")
        answered = time.monotonic()
        while document.get("running"):
            tell(document)
            time.sleep(_LOOK_S)
            try:
                document = fetch_document(socket, "/fsck")
                answered = time.monotonic()
            except TimeoutError:
                if time.monotonic() - answered > _SILENT_S:
                    raise
    except Refused as error:
        raise LocalDirectoryError(f"cache directory {directory} cannot be checked: {error}") from error
    except OSError as error:
        raise LocalDirectoryError(
            f"the daemon that uses cache directory {directory} does not answer: {error}",
            hint="see lazysif status",
        ) from error
    if document.get("stopped", "the daemon began anew"):
        why = document.get("stopped") or "its daemon was replaced meanwhile"
        raise LocalDirectoryError(f"the check of cache directory {directory} was not completed: {why}")
    return document


def _brief(report: Report) -> Document:
    return {
        "frames": report.frames,
        "frames_total": report.frames_total,
        "frame_bytes": report.frame_bytes,
        "tables": report.tables,
        "tables_total": report.tables_total,
    }


@contextmanager
def _progress() -> Iterator[Callable[[Document], None]]:
    """A line that tells how far it is, where somebody looks at a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("checking", total=None)

        def tell(document: Document) -> None:
            progress.update(
                task,
                total=document["frames_total"] or None,
                completed=document["frames"],
                description=f"{document['frames']} frames, {format_size(document['frame_bytes'])}, "
                f"{document['tables']} tables",
            )

        yield tell


def _show(document: Document) -> None:
    click.echo(
        f"{document['directory']}: {document['frames']} frames, {format_size(document['frame_bytes'])}, "
        f"{document['tables']} block tables, {document['records']} records checked in {document['seconds']:.1f} s"
        + (" by the daemon that uses it" if document["online"] else "")
    )
    for kind, words in _WORDS.items():
        if document["found"][kind]:
            click.echo(f"{document['found'][kind]:>9} {words}")
    if document["clean"]:
        click.echo("all is well")
    else:
        click.echo("nothing was changed" if document["dry_run"] else "all of that was discarded")
