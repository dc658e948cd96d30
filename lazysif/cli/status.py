"""`lazysif status`: what the daemons of this user say of themselves. Never touches a mount."""

from __future__ import annotations

import json
from typing import Any

import click

from lazysif.control.address import absolute_mountpoint, socket_path, sockets
from lazysif.control.client import fetch_status
from lazysif.errors import MountError
from lazysif.fuse.mountinfo import mounts
from lazysif.sizes import format_size


@click.command("status")
@click.argument("mountpoint", required=False)
@click.option("--json", "as_json", is_flag=True, help="The whole document, for programs.")
def status_command(mountpoint: str | None, as_json: bool) -> int:
    """Show the mount at MOUNTPOINT, or all of this user. Exit code 3 if one does not answer or there is none."""
    documents, silent = _ask(mountpoint)
    if as_json:
        click.echo(json.dumps({"mounts": documents, "not_answering": silent}, indent=2))
    else:
        for document in documents:
            _show(document)
    for path in silent:
        click.echo(f"lazysif: {path} is mounted, and its daemon does not answer", err=True)
    if not documents and not silent:
        if mountpoint is not None:
            raise MountError(f"no lazysif is mounted at {absolute_mountpoint(mountpoint)}")
        if not as_json:
            click.echo("nothing is mounted")
    return 3 if silent else 0


def _ask(mountpoint: str | None) -> tuple[list[dict[str, Any]], list[str]]:
    """Status documents, and the mountpoints of daemons that do not answer."""
    wanted = absolute_mountpoint(mountpoint) if mountpoint is not None else None
    documents = []
    for path in [socket_path(wanted)] if wanted is not None else sockets():
        try:
            documents.append(fetch_status(path))
        except OSError:
            continue  # the socket of a daemon that was killed, or that hangs: then its mount is still listed
    answered = {document["mountpoint"] for document in documents}
    listed = {mount.path for mount in mounts() if mount.kind == "fuse.lazysif"}
    silent = listed - answered if wanted is None else listed & {wanted} - answered
    return documents, sorted(silent)


def _show(document: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False)  # names and errors are other people's words
    cache, counters = document["cache"], document["counters"]
    console.print(
        Text.assemble(
            (document["mountpoint"], "bold"), f" from {document['source']}, process {document['pid']}"
        )
    )
    console.print(
        f"cache {cache['state']}: {format_size(cache['used_bytes'])} of {format_size(cache['limit_bytes'])} used, "
        f"{format_size(cache['free_bytes'])} free on its disk"
    )
    console.print(
        f"served {format_size(counters['served_bytes'])} in {counters['read_requests']} reads, "
        f"fetched {format_size(counters['fetched_bytes'])} in {counters['fetch_requests']} requests, "
        f"{counters['errors']} errors"
    )
    for remote in document.get("remotes", []):
        if remote["offline_since"]:
            console.print(
                f"{remote['name'] or 'origin'} is offline since {remote['offline_since']}: {remote['last_error']}",
                style="red",
                soft_wrap=True,
            )
        for way in remote.get("ways", []):
            if way["state"] != "ready":
                console.print(
                    f"{remote['name'] or 'origin'}: {way['name']} is left alone: {way['last_error']}",
                    style="red",
                    soft_wrap=True,
                )
    requests = document.get("requests", {})
    if requests.get("oldest_s", 0.0) > 1:
        console.print(
            f"{sum(requests['in_hand'].values())} requests in hand, the oldest for {requests['oldest_s']:.0f} s"
        )
    if not document["images"]:
        return
    table = Table(box=box.SIMPLE)
    for heading in ("image", "size", "cached", "open", "origin"):
        table.add_column(heading, justify="right" if heading in ("size", "cached", "open") else "left")
    for image in document["images"]:
        share = 100 * image["cached_bytes"] / image["size_bytes"] if image["size_bytes"] else 100
        table.add_row(
            image["name"],
            format_size(image["size_bytes"]),
            f"{share:.0f}%",
            str(image["open_handles"]),
            image["origin"],
        )
        if image.get("verified") == "verified":
            table.add_row("", "", "", "", Text("all bytes fit the digest of its registry", "dim"))
        if image["last_error"]:
            table.add_row("", "", "", "", Text(f"last error: {image['last_error']}", "red"))
    console.print(table)
