"""Hosts that ask to be left alone for a while (429 or 503 with Retry-After) are: each question would count."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from lazysif.errors import SourceUnavailable

_MAX_HOSTS = 1000


class Quiet:
    """Of one registry; a host that never asked for it is not in the way of others."""

    def __init__(self) -> None:
        self._until: OrderedDict[str, tuple[float, str]] = OrderedDict()

    @contextmanager
    def heeded(self, host: str) -> Iterator[None]:
        """Around a question to a host.

        Raises: SourceUnavailable: without asking, while the time that it asked for is not over.
        """
        until, why = self._until.get(host, (0.0, ""))
        left_s = until - trio.current_time()
        if left_s > 0:
            raise SourceUnavailable(f"{why}, and is not asked for {left_s:.0f} s more", retry_after_s=left_s)
        try:
            yield
        except SourceUnavailable as error:
            if error.retry_after_s:
                self._until[host] = trio.current_time() + error.retry_after_s, error.why
                self._until.move_to_end(host)
                while len(self._until) > _MAX_HOSTS:
                    self._until.popitem(last=False)
            raise
