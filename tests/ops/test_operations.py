"""fuse.operations, called directly: what the kernel is told, whatever happens below."""

import errno
import os
import stat
from types import SimpleNamespace

import pyfuse3
import pytest

from lazysif import errors
from lazysif.errors import LazysifError, NoSuchEntry, SourceUnavailable
from lazysif.fuse.errno_table import ERRNO, errno_of
from lazysif.fuse.operations import Operations
from lazysif.telemetry import Counters
from tests.support.fake_transport import FakeTransport, File, Status
from tests.support.world import world

DATA = bytes(range(256)) * 100
NEVER_IN_A_HANDLER = {errors.ConfigError, errors.MountError, errors.LocalDirectoryError, errors.FormatError}


def all_errors(base: type[LazysifError] = LazysifError) -> list[type[LazysifError]]:
    return [base, *(found for kind in base.__subclasses__() for found in all_errors(kind))]


SOMEBODY, READER_AHEAD = SimpleNamespace(pid=77), SimpleNamespace(pid=78)
"""As much of a RequestContext as is looked at."""


class BrokenTree:
    """A tree whose every method raises."""

    def __init__(self, error: BaseException) -> None:
        self._error = error
        self.files = self

    def __getattr__(self, name):
        async def later(*_):
            raise self._error

        def now(*_):
            raise self._error

        return now if name in ("forget", "read_now", "listed_to_kernel") else later


CALLS = {
    "lookup": (1, b"a", None),
    "getattr": (1, None),
    "readdir": (1, 0, None),
    "open": (1, os.O_RDONLY, SOMEBODY),
    "read": (1, 0, 10),
    "listxattr": (1, None),
    "getxattr": (1, b"user.lazysif.origin", None),
}


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", all_errors())
def test_every_error_has_an_errno_of_its_own_or_its_nearest_ancestors(kind):
    code = errno_of(kind("why"))
    nearest = next(ancestor for ancestor in kind.__mro__ if ancestor in ERRNO)
    assert code == ERRNO[nearest]
    assert code in errno.errorcode
    assert nearest is not LazysifError or kind in {*NEVER_IN_A_HANDLER, LazysifError, errors.SourceError}


def test_the_table_is_as_the_tree_of_errors_is_drawn():
    drawn = {}
    for line in errors.__doc__.splitlines():
        words = line.replace("│", " ").replace("├──", " ").replace("└──", " ").split()
        if words and words[-1] in dir(errno):
            drawn[getattr(errors, words[0])] = getattr(errno, words[-1])
    assert drawn == {kind: code for kind, code in ERRNO.items() if kind is not LazysifError}


@pytest.mark.parametrize("handler", CALLS)
@pytest.mark.parametrize("kind", [kind for kind in all_errors() if kind not in NEVER_IN_A_HANDLER])
async def test_an_error_of_ours_becomes_its_errno(handler, kind):
    operations = Operations(BrokenTree(kind("why")), Counters(), 4096)
    with pytest.raises(pyfuse3.FUSEError) as raised:
        await getattr(operations, handler)(*CALLS[handler])
    assert raised.value.errno == errno_of(kind("why"))
    assert operations.counters.errors == (kind is not NoSuchEntry)
    assert operations.counters.unexpected_errors == 0


@pytest.mark.parametrize("handler", CALLS)
@pytest.mark.parametrize("error", [RuntimeError("bug"), AssertionError(), KeyError("x"), OSError(5, "disk")])
async def test_anything_else_is_eio_counted_and_logged(handler, error, caplog):
    operations = Operations(BrokenTree(error), Counters(), 4096)
    with pytest.raises(pyfuse3.FUSEError) as raised:
        await getattr(operations, handler)(*CALLS[handler])
    assert raised.value.errno == errno.EIO
    assert operations.counters.unexpected_errors == 1
    assert [record.exc_info[1] for record in caplog.records] == [error], "with its traceback"


@pytest.mark.parametrize("error", [RuntimeError("bug"), SourceUnavailable("down")])
async def test_forget_and_release_never_raise(error):
    operations = Operations(BrokenTree(error), Counters(), 4096)
    await operations.forget([(1, 1)])
    await operations.release(1)


def test_every_handler_of_ours_is_guarded():
    handlers = {
        name
        for name, value in vars(Operations).items()
        if callable(value) and hasattr(pyfuse3.Operations, name) and not name.startswith("_")
    }
    assert handlers >= {*CALLS, "opendir", "statfs", "forget", "release"}
    unguarded = {name for name in handlers if not hasattr(getattr(Operations, name), "__wrapped__")}
    assert unguarded <= {"forget", "release", "init"}, "the kernel waits for no answer to these"


# --- answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_RDWR | os.O_APPEND])
async def test_opening_for_writing_is_erofs(flags):
    operations = Operations(BrokenTree(RuntimeError("not to be asked")), Counters(), 4096)
    with pytest.raises(pyfuse3.FUSEError) as raised:
        await operations.open(1, flags, SOMEBODY)
    assert raised.value.errno == errno.EROFS


async def test_a_file_from_look_up_to_release(tmp_path):
    origin = FakeTransport({"/a.sif": File(DATA)})
    async with world(tmp_path, origin) as it:
        operations = Operations(it.tree, it.counters, 4096)
        entry = await operations.lookup(1, b"a.sif", None)
        assert stat.S_ISREG(entry.st_mode)
        assert entry.st_mode & 0o222 == 0
        assert (entry.st_size, entry.st_blocks, entry.st_nlink) == (len(DATA), 50, 1)
        assert entry.st_mtime_ns == 1767182400 * 10**9
        assert entry.attr_timeout > entry.entry_timeout

        info = await operations.open(entry.st_ino, os.O_RDONLY, SOMEBODY)
        assert info.fh == entry.st_ino
        assert info.keep_cache
        assert not info.direct_io

        for offset, size in ((0, 100), (4000, 10_000), (len(DATA) - 5, 4096), (len(DATA), 4096)):
            assert bytes(await operations.read(info.fh, offset, size)) == DATA[offset : offset + size]

        names = await operations.listxattr(entry.st_ino, None)
        assert b"user.lazysif.cached_percent" in names
        assert await operations.getxattr(entry.st_ino, b"user.lazysif.origin", None) == b"http://origin/a.sif"
        for name in (b"security.capability", b"user.lazysif.other", b"user.lazysif.\xff"):
            with pytest.raises(pyfuse3.FUSEError) as raised:
                await operations.getxattr(entry.st_ino, name, None)
            assert raised.value.errno == pyfuse3.ENOATTR

        await operations.release(info.fh)
        await operations.forget([(entry.st_ino, 1)])


async def test_root(tmp_path):
    async with world(tmp_path, FakeTransport()) as it:
        operations = Operations(it.tree, it.counters, 4096)
        root = await operations.getattr(1, None)
        assert stat.S_ISDIR(root.st_mode)
        assert await operations.opendir(1, None) == 1
        assert await operations.listxattr(1, None) == []
        assert (await operations.statfs(None)).f_namemax == 255


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        (b"missing.sif", None, errno.ENOENT),
        (b"not \xff UTF-8", None, errno.ENOENT),
        (b"..", None, errno.ENOENT),
        (b"a.sif", 403, errno.EACCES),
        (b"a.sif", 501, errno.EIO),
    ],
)
async def test_a_look_up_that_fails(tmp_path, name, status, code):
    origin = FakeTransport({"/a.sif": File(DATA)})
    if status:
        origin.everything = Status(status)
    async with world(tmp_path, origin) as it:
        operations = Operations(it.tree, it.counters, 4096)
        with pytest.raises(pyfuse3.FUSEError) as raised:
            await operations.lookup(1, name, None)
        assert raised.value.errno == code
        assert it.counters.errors == (code != errno.ENOENT)


async def test_who_reads_ahead_gets_what_lies_in_memory_and_leaves_no_trace(tmp_path):
    origin = FakeTransport({"/a.sif": File(DATA)})
    async with world(tmp_path, origin) as it:
        operations = Operations(it.tree, it.counters, 4096, lambda pid: pid == READER_AHEAD.pid)
        entry = await operations.lookup(1, b"a.sif", None)
        job = await operations.open(entry.st_ino, os.O_RDONLY, SOMEBODY)
        await operations.read(job.fh, 4096, 4096)
        (image,) = it.images.listed()
        handles, asked = it.images.handles(image.image.id), len(origin.requests)
        counted = it.counters.read_requests, it.counters.hits, it.counters.misses

        ahead = await operations.open(entry.st_ino, os.O_RDONLY, READER_AHEAD)
        assert ahead.fh != job.fh
        assert bytes(await operations.read(ahead.fh, 4096, 4096)) == DATA[4096:8192]
        for offset, size in ((20_480, 4096), (4096, 8192), (len(DATA), 4096)):
            with pytest.raises(pyfuse3.FUSEError) as raised:
                await operations.read(ahead.fh, offset, size)
            assert raised.value.errno == errno.EIO
        assert len(origin.requests) == asked
        assert (it.counters.read_requests, it.counters.hits, it.counters.misses) == counted
        assert it.counters.errors == 0
        await operations.release(ahead.fh)
        assert it.images.handles(image.image.id) == handles == 1
        await operations.release(job.fh)
        with pytest.raises(pyfuse3.FUSEError):
            await operations.read(ahead.fh, 4096, 4096)  # nobody reads it any more


async def test_an_inode_of_nobody_is_estale(tmp_path):
    async with world(tmp_path, FakeTransport()) as it:
        operations = Operations(it.tree, it.counters, 4096)
        for call in (
            operations.getattr(99, None),
            operations.open(99, 0, SOMEBODY),
            operations.read(99, 0, 1),
        ):
            with pytest.raises(pyfuse3.FUSEError) as raised:
                await call
            assert raised.value.errno == errno.ESTALE
