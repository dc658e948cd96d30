"""A proxy on the way to origins, for every transport."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy: it is asked for plain HTTP URLs by their whole, and to CONNECT to HTTPS origins.

    Of an HTTPS origin it sees host and port alone. Of a plain HTTP one it sees all, the remote's credentials
    included, as everybody on that way does.

    Args:
        url: http, host and port.
        username, password: for `Proxy-Authorization`, which goes to the proxy and no further.
    """

    url: str
    username: str | None = None
    password: str = field(default="", repr=False)
