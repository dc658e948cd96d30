"""`lazysif warm`: brings images into the cache of this node before jobs need them. Never touches a mount."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click

from lazysif.control.address import absolute_mountpoint, sockets
from lazysif.control.client import Refused, fetch_document, fetch_status
from lazysif.errors import ConfigError, LazysifError, MountError, SourceError
from lazysif.image_uri import is_uri
from lazysif.sizes import format_size, parse_size

_LOOK_S = 0.1
_SILENT_S = 60.0
_LOST_S = 5.0
"""How long a daemon that has just begun may not know yet what it is to go on with."""
_ENDED = ("done", "failed", "cancelled")
Document = dict[str, Any]
Tell = Callable[[Document], None]


@dataclass(frozen=True, slots=True)
class _Asked:
    """One image and the daemons that may serve it; `given` is what people are shown."""

    given: str
    sockets: tuple[Path, ...]
    name: str


def _bytes_per_s(context: click.Context, parameter: click.Parameter, given: str | None) -> int | None:
    if given is None:
        return None
    try:
        rate = parse_size(given.removesuffix("/s"))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if rate < 1:
        raise click.BadParameter("a rate of nothing would never end")
    return rate


@click.command("warm")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--all", "what", flag_value="all", default="all", help="The whole image (the default).")
@click.option("--trace", "what", flag_value="trace", help="What earlier starts of the image touched.")
@click.option("--wait", is_flag=True, help="Return when all is cached.")
@click.option("--rate", callback=_bytes_per_s, help="At most so much a second for each image: 50MB.")
@click.option("--cancel", is_flag=True, help="End the warming of these images; what came stays.")
def warm_command(images: Sequence[str], what: str, wait: bool, rate: int | None, cancel: bool) -> int:
    """Bring each IMAGE (a path in a mount, or a URI that one serves) into the cache of this node.

    The daemon does it in the background, behind all that jobs read, and asks only for what is missing: a warming
    that was broken off, even by the daemon's end, goes on. Without --wait this returns when it has begun.
    Exit code 1 if an image cannot be warmed.
    """
    asked = [_find(image) for image in images]
    query = {"cancel": "1"} if cancel else {"what": what, "rate": str(rate or 0)}
    begun = [_order(image, query) for image in asked]
    if cancel:
        return 0
    ends = _ENDED if wait else (*_ENDED, "running", "waiting")
    with _progress(wait) as tell:
        documents = [_follow(image, *order, ends, tell) for image, order in zip(asked, begun, strict=True)]
    failed = 0
    for image, document in zip(asked, documents, strict=True):
        failed += document["state"] in ("failed", "cancelled")
        _show(image, document)
    return 1 if failed else 0


# --- which daemon -----------------------------------------------------------------------------------------


def _find(image: str) -> _Asked:
    """Who serves an image. Raises: MountError, ConfigError."""
    served = _served()
    if is_uri(image):
        if not served:
            raise MountError("no lazysif is mounted")
        shown = image.partition("?")[0]  # what stands behind it may be a signature
        return _Asked(shown, tuple(served.values()), image)
    path = Path(image).absolute()
    # from the root on, so that nothing below a mountpoint is looked at
    for part in [*reversed(path.parents), path]:
        mountpoint = absolute_mountpoint(str(part))
        if mountpoint in served:
            name = str(path.relative_to(part))
            if name == ".":
                raise ConfigError(f"{image} is a mountpoint, and no image")
            return _Asked(image, (served[mountpoint],), name)
    raise MountError(f"{image}: no lazysif that answers is mounted there", hint="see lazysif status")


def _served() -> dict[str, Path]:
    """The sockets of the daemons that answer, by mountpoint."""
    found = {}
    for socket in sockets():
        try:
            found[str(fetch_status(socket)["mountpoint"])] = socket
        except (OSError, KeyError):
            continue
    return found


# --- what it does -----------------------------------------------------------------------------------------


def _order(image: _Asked, query: dict[str, str]) -> tuple[Path, Document]:
    """Socket and answer of the first daemon that does not refuse.

    Raises: ConfigError where all refuse, MountError where one does not answer.
    """
    refusal = ""
    for socket in image.sockets:
        try:
            target = f"/warm?{urlencode({'image': image.name, **query}, errors='surrogateescape')}"
            return socket, fetch_document(socket, target, "POST")
        except Refused as error:
            refusal = str(error)
        except OSError as error:
            raise _silent(image, error) from error
    raise ConfigError(refusal)


def _follow(image: _Asked, socket: Path, document: Document, ends: Sequence[str], tell: Tell) -> Document:
    """The document once the job is in one of the states `ends`. A daemon that is replaced goes on by itself."""
    answered = known = time.monotonic()
    while document["state"] not in ends:
        tell(document)
        time.sleep(_LOOK_S)
        try:
            jobs = fetch_document(socket, "/warm")["jobs"]
        except OSError as error:
            if time.monotonic() - answered > _SILENT_S:
                raise _silent(image, error) from error
            continue
        answered = time.monotonic()
        found = [job for job in jobs if job["image"] == document["image"]]
        if found:
            document, known = found[0], answered
        elif answered - known > _LOST_S:
            raise SourceError("its daemon was replaced, and does not go on with it", image=image.given)
    tell(document)
    return document


def _silent(image: _Asked, error: OSError) -> LazysifError:
    return MountError(
        f"{image.given}: the daemon that serves it does not answer: {error}", hint="see lazysif status"
    )


# --- what people see --------------------------------------------------------------------------------------


def _show(image: _Asked, document: Document) -> None:
    if document["state"] in ("failed", "cancelled"):
        click.echo(f"lazysif: {document['error'] or image.given + ': cancelled'}", err=True)
        return
    total, fetched = format_size(document["total_bytes"]), format_size(document["fetched_bytes"])
    if document["state"] == "done":
        seconds = max(document["seconds"], 0.001)
        rate = format_size(int(document["fetched_bytes"] / seconds))
        came = (
            f"{fetched} of them fetched in {seconds:.1f} s, {rate}/s"
            if document["fetched_bytes"]
            else "as before"
        )
        click.echo(f"{image.given}: {total} are cached, {came}")
    elif document["state"] == "waiting":
        click.echo(f"{image.given}: waits for its turn")
    else:
        click.echo(f"{image.given}: {total} are being warmed; lazysif warm --wait follows it")


@contextmanager
def _progress(wanted: bool) -> Iterator[Tell]:
    """A bar for each image, where somebody waits at a terminal."""
    if not wanted or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.progress import TransferSpeedColumn as Speed

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        Speed(),
    )
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as progress:
        tasks: dict[str, Any] = {}

        def tell(document: Document) -> None:
            name = document["image"]
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=None)
            trouble = f" ({document['trouble']})" if document["trouble"] else ""
            progress.update(
                tasks[name],
                total=document["total_bytes"] or None,
                completed=document["done_bytes"],
                description=name + trouble,
            )

        yield tell
