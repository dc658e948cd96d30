"""The pyfuse3 shim: converts, calls the tree, maps errors. No policy.

pyfuse3 ends its main loop, and with it every job on the node, on any exception that is not FUSEError; so every
handler is wrapped.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import stat
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ParamSpec, TypeVar

import pyfuse3
from pyfuse3 import FileHandleT, FileNameT, FlagT, InodeT, ModeT, XAttrNameT

from lazysif.errors import LazysifError
from lazysif.fuse.errno_table import errno_of
from lazysif.model import Buffer, EntryKind, InodeNumber
from lazysif.telemetry import Counters
from lazysif.tree.attributes import Attributes
from lazysif.tree.tree import Tree

log = logging.getLogger(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")

_AHEAD = 1 << 63
"""In the handle of who fills the page cache; inode numbers have 63 bits (`core.identity`)."""

_EXPECTED = (errno.ENOENT,)
"""Answers to a question rather than failures: neither logged nor counted as errors."""


def _guarded(handler: Callable[_P, Coroutine[Any, Any, _T]]) -> Callable[_P, Coroutine[Any, Any, _T]]:
    """Turn every exception into an errno, by the table; what is not ours is EIO with a traceback in the log."""

    @functools.wraps(handler)
    async def guarded(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return await handler(*args, **kwargs)
        except LazysifError as error:
            code = errno_of(error)
            _count(args[0], handler.__name__, error, code)
            raise pyfuse3.FUSEError(code) from None
        except pyfuse3.FUSEError:
            raise
        except Exception:
            log.exception("%s failed in an unexpected way", handler.__name__)
            _counters(args[0]).errors += 1
            _counters(args[0]).unexpected_errors += 1
            raise pyfuse3.FUSEError(errno.EIO) from None

    return guarded


def _counters(operations: object) -> Counters:
    assert isinstance(operations, Operations)
    return operations.counters


def _count(operations: object, handler: str, error: LazysifError, code: int) -> None:
    if code not in _EXPECTED:
        _counters(operations).errors += 1
        log.error("%s: %s: %s", handler, errno.errorcode[code], error)


class Operations(pyfuse3.Operations):
    """Handlers of one mount. Numbers and handles are the tree's own: `fh` is the inode number.

    Args: is_reader: whether a pid is that of the process that fills the page cache (`pages`).
    """

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(
        self,
        tree: Tree,
        counters: Counters,
        block_size: int,
        is_reader: Callable[[int], bool] = lambda _: False,
    ) -> None:
        super().__init__()
        self.on_init: Callable[[], None] = lambda: None
        self.counters = counters
        self._tree = tree
        self._files = tree.files
        self._block_size = block_size
        self._is_reader = is_reader

    def init(self) -> None:
        self.on_init()

    # --- names and attributes ---------------------------------------------------------------------

    @_guarded
    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return self._entry(await self._tree.lookup(InodeNumber(parent_inode), name))

    @_guarded
    async def getattr(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self._entry(await self._tree.attributes(InodeNumber(inode)))

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        try:
            self._tree.forget([(InodeNumber(inode), count) for inode, count in inode_list])
        except Exception:
            log.exception("forget failed")
            self.counters.unexpected_errors += 1

    def _entry(self, attributes: Attributes) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        directory = attributes.kind is EntryKind.DIRECTORY
        entry.st_ino = attributes.number
        entry.st_mode = ModeT((stat.S_IFDIR if directory else stat.S_IFREG) | attributes.mode)
        entry.st_nlink = 2 if directory else 1
        entry.st_uid = attributes.uid
        entry.st_gid = attributes.gid
        entry.st_size = attributes.size_bytes
        entry.st_blksize = self._block_size
        entry.st_blocks = -(-attributes.size_bytes // 512)
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = attributes.modified_s * 10**9
        entry.entry_timeout = attributes.entry_timeout_s
        entry.attr_timeout = attributes.attr_timeout_s
        return entry

    # --- directories ------------------------------------------------------------------------------

    @_guarded
    async def opendir(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> FileHandleT:
        return FileHandleT(inode)

    @_guarded
    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        for entry in await self._tree.entries(InodeNumber(fh)):
            if entry.position <= start_id:
                continue
            name = FileNameT(entry.name.encode())
            if not pyfuse3.readdir_reply(token, name, self._entry(entry.attributes), entry.position):
                return
            self._tree.listed_to_kernel(entry.attributes)

    # --- files ------------------------------------------------------------------------------------

    @_guarded
    async def open(self, inode: InodeT, flags: FlagT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC):
            raise pyfuse3.FUSEError(errno.EROFS)
        if self._is_reader(ctx.pid):
            return pyfuse3.FileInfo(fh=FileHandleT(inode | _AHEAD), direct_io=False, keep_cache=True)
        await self._files.open(InodeNumber(inode))
        # direct_io would hang a loop device; an image never changes, so a page once read is never asked for again
        return pyfuse3.FileInfo(fh=FileHandleT(inode), direct_io=False, keep_cache=True)

    @_guarded
    async def read(  # type: ignore[override]  # pyfuse3 takes any contiguous buffer, its stub says bytes
        self, fh: FileHandleT, off: int, size: int
    ) -> Buffer:
        if fh & _AHEAD:
            given = self._files.read_given(InodeNumber(fh ^ _AHEAD), off, size)
            if given is None:
                raise pyfuse3.FUSEError(errno.EIO)  # whoever needs these pages asks for them again
            return given
        data = self._files.read_now(InodeNumber(fh), off, size)
        return data if data is not None else await self._files.read(InodeNumber(fh), off, size)

    async def release(self, fh: FileHandleT) -> None:
        if fh & _AHEAD:
            return
        try:
            await self._files.release(InodeNumber(fh))
        except LazysifError as error:
            log.info("release: %s", error)
        except Exception:
            log.exception("release failed")
            self.counters.unexpected_errors += 1

    # --- the rest ---------------------------------------------------------------------------------

    @_guarded
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        figures = pyfuse3.StatvfsData()
        figures.f_bsize = figures.f_frsize = 4096
        figures.f_namemax = 255
        return figures

    @_guarded
    async def listxattr(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> Sequence[XAttrNameT]:
        attributes = await self._files.extended_attributes(InodeNumber(inode))
        return [XAttrNameT(name.encode()) for name in attributes]

    @_guarded
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: pyfuse3.RequestContext) -> bytes:
        if not name.startswith(b"user.lazysif."):
            raise pyfuse3.FUSEError(pyfuse3.ENOATTR)
        attributes: dict[str, Any] = await self._files.extended_attributes(InodeNumber(inode))
        value = attributes.get(name.decode(errors="replace"))
        if value is None:
            raise pyfuse3.FUSEError(pyfuse3.ENOATTR)
        return str(value).encode()
