"""Two transports of one remote: httpx asks registries (manifests, listings, tokens), libcurl brings bytes of images.

The first bytes of a name come by libcurl, too: its answer is data, and the connection is at hand for what is read
next. libcurl costs less processor time from the first block on (128 KiB over loopback: 0.32 ms against 0.56, 1 MiB:
0.54 against 1.16), most of it beside the event loop. Where it is not installed httpx does it all.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from lazysif.model import Answer, Request, Transport

if TYPE_CHECKING:
    from lazysif.transport.curl_engine import CurlEngine


class SplitTransport:
    """Args:
    control: for requests that are not for bytes of an image or what may be one.
    data: for these.
    """

    def __init__(self, control: Transport, data: Transport) -> None:
        self._control = control
        self._data = data

    def send(self, request: Request) -> AbstractAsyncContextManager[Answer]:
        """See `model.Transport.send`."""
        is_data = request.byte_range is not None or request.image is not None
        return (self._data if is_data else self._control).send(request)

    async def aclose(self) -> None:
        await self._control.aclose()
        await self._data.aclose()


def libcurl() -> str:
    """Version of the libcurl that is used, "" where pycurl is not installed or cannot be loaded."""
    try:
        from lazysif.transport.curl_engine import libcurl_version
    except ImportError:
        return ""
    return libcurl_version()


def make_engine() -> CurlEngine | None:
    """The thread of libcurl, not started yet; None where pycurl is not installed or cannot be loaded."""
    try:
        from lazysif.transport.curl_engine import CurlEngine  # 60 ms that only a daemon pays
    except ImportError:
        return None
    return CurlEngine()
