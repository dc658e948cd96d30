"""traces.sharing: what is taken from a share, what is put there, and what is left alone."""

from dataclasses import dataclass, field, replace

import pytest
import zstandard

from lazysif.core.trace import Trace, TracePath
from lazysif.errors import AccessDenied, FormatError, SourceError
from lazysif.model import AnswerHead
from lazysif.traces.sharing import BesideImage, UrlShare, merged
from lazysif.traces.trace_file import decode, encode
from tests.support.fake_transport import FakeTransport, File, Status

KEY = "0" * 32
PATH = TracePath((0, 1, 5, 6), (0, 1, 2, 3), 10)
OTHER = TracePath((7, 8, 9, 11), (0, 1, 2, 3), 11)
TRACE = Trace(KEY, 100 * 4096, 4096, (PATH,))


@dataclass
class Uploads:
    status: int = 201
    put_there: list[bytes] = field(default_factory=list)

    async def put(self, url, content, total_s):
        self.put_there.append(content)
        return AnswerHead(self.status, {}, url)


def share(uploads, *script, known=TRACE):
    files = {f"/t/{KEY}.lazysif-trace": File(encode(known))} if known else {}
    return UrlShare("http://share/t/", FakeTransport(files, script), uploads)


async def test_an_offer_adds_to_what_is_there():
    uploads = Uploads()
    assert await share(uploads).offer(replace(TRACE, paths=(OTHER,), name="secret/a.sif"))
    (content,) = uploads.put_there
    assert decode(content) == replace(TRACE, paths=(OTHER, PATH))


@pytest.mark.parametrize("status", [403, 500, 503])
async def test_what_cannot_be_read_now_is_not_written_over(status):
    uploads = Uploads()
    with pytest.raises((SourceError, AccessDenied)):
        await share(uploads, Status(status)).offer(replace(TRACE, paths=(OTHER,)))
    assert uploads.put_there == []


@pytest.mark.parametrize(("status", "kind"), [(401, AccessDenied), (403, AccessDenied), (500, SourceError)])
async def test_a_refused_offer_is_told(status, kind):
    with pytest.raises(kind):
        await share(Uploads(status), known=None).offer(TRACE)


async def test_beside_an_image_in_a_closed_store_lies_nothing():
    transport = FakeTransport({}, [Status(403)])
    assert await BesideImage("http://store/a.sif?sig=x", transport).get(KEY) is None


@pytest.mark.parametrize("change", [{"key": "1" * 32}, {"size_bytes": 50 * 4096}, {"block_size": 8192}])
def test_a_trace_of_something_else_is_replaced_and_not_merged(change):
    assert merged(replace(TRACE, **change), replace(TRACE, paths=(OTHER,))) == replace(TRACE, paths=(OTHER,))


def test_what_unpacks_to_too_much_is_not_unpacked():
    bomb = zstandard.ZstdCompressor().compress(b" " * (5 << 20))
    with pytest.raises(FormatError, match="unpacks to too much"):
        decode(bomb)
