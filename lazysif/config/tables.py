"""The tables of the file, typed, but for those of remotes; and all of it in one."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from lazysif.config import files
from lazysif.config.base import Span, SpanOrNone, Table
from lazysif.config.remote import RemoteConfig
from lazysif.errors import ConfigError
from lazysif.sizes import ShareOrSize


def _default_dir(key: str, system: str, variable: str, home: str) -> Path:
    """Raises: ConfigError: a user without a home directory has no default."""
    if os.geteuid() == 0:
        return Path(system)
    base = os.environ.get(variable, "")
    try:
        return files.path(base if base.startswith("/") else f"~/{home}") / "lazysif"
    except ValueError as error:
        raise ConfigError(f"{key} has no default: {error}", hint=f"or set HOME or {variable}") from None


class CacheConfig(Table, frozen=True, kw_only=True):
    """[cache]: the block cache on this node's disk, and the memory tier above it."""

    dir: Path = msgspec.field(
        default_factory=lambda: _default_dir("cache.dir", "/var/cache/lazysif", "XDG_CACHE_HOME", ".cache")
    )
    size: ShareOrSize = ShareOrSize(share=Fraction(1, 2))
    min_free: ShareOrSize = ShareOrSize(share=Fraction(1, 20))
    block_size: int = 128 * 1024
    memory: int = 48 * 1024 * 1024


class StateConfig(Table, frozen=True, kw_only=True):
    """[state]: what must outlive a restart (inode numbers, sockets, the log)."""

    dir: Path = msgspec.field(
        default_factory=lambda: _default_dir(
            "state.dir", "/var/lib/lazysif", "XDG_STATE_HOME", ".local/state"
        )
    )


class LogConfig(Table, frozen=True, kw_only=True):
    """[log]. `file` None: standard error in the foreground, STATE/lazysif.log in the background."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    file: Path | None = None


class MountConfig(Table, frozen=True, kw_only=True):
    """[mount]. Only root may give `allow_other` without an entry in /etc/fuse.conf."""

    options: tuple[str, ...] = msgspec.field(
        default_factory=lambda: ("allow_other",) if os.geteuid() == 0 else ()
    )


class LimitsConfig(Table, frozen=True, kw_only=True):
    """[limits]. Timeouts in seconds, for one request of the kernel; `connections` for each remote."""

    read_timeout: Span = 60.0
    lookup_timeout: Span = 20.0
    connections: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 16


class TracesConfig(Table, frozen=True, kw_only=True):
    """[traces]: starts are recorded, followed and shared. `url` takes traces where `put` is true.

    `offer_within` in seconds: the nodes of an array do not write all at once. `give_pages`: what they name goes into
    the kernel's page cache ahead of jobs (`fuse.pages`).
    """

    enabled: bool = True
    give_pages: bool = True
    dir: Path | None = None
    url: str = ""
    put: bool = False
    offer_within: SpanOrNone = 30.0
    beside: bool = True
    ca_file: Path | None = None
    username: str | None = None
    password_file: Path | None = None
    token_file: Path | None = None


class FillConfig(Table, frozen=True, kw_only=True):
    """[fill]: the rest of images that are open, brought while nobody waits for blocks. `rate` in bytes a second."""

    enabled: bool = False
    quiet: Span = 300.0
    rate: int = 20 * 1024 * 1024


class Config(Table, frozen=True, kw_only=True):
    """All of it. In source mode there is one remote, named "", and it is the mount's root."""

    cache: CacheConfig = msgspec.field(default_factory=CacheConfig)
    state: StateConfig = msgspec.field(default_factory=StateConfig)
    log: LogConfig = msgspec.field(default_factory=LogConfig)
    mount: MountConfig = msgspec.field(default_factory=MountConfig)
    limits: LimitsConfig = msgspec.field(default_factory=LimitsConfig)
    traces: TracesConfig = msgspec.field(default_factory=TracesConfig)
    fill: FillConfig = msgspec.field(default_factory=FillConfig)
    remotes: tuple[RemoteConfig, ...] = ()
    images: dict[str, str] = msgspec.field(default_factory=dict)
    """[images]: by path below the mountpoint, the URI of the image that has this name; may hold signatures."""

    @property
    def source_mode(self) -> bool:
        return len(self.remotes) == 1 and self.remotes[0].name == ""


TABLES: dict[str, type[Table]] = {
    "cache": CacheConfig,
    "state": StateConfig,
    "log": LogConfig,
    "mount": MountConfig,
    "limits": LimitsConfig,
    "traces": TracesConfig,
    "fill": FillConfig,
}
