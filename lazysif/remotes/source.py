"""What kinds of remotes have in common, once their tables are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lazysif.model import Registry, Transport
from lazysif.transport.authorities import ClientCertificate
from lazysif.transport.credentials import Keyring


@dataclass(frozen=True, slots=True)
class Source:
    """How to reach a remote.

    Args:
        base_url: its own address, for the guard against redirects inward; "" where it has none.
        keyring: which credentials go where.
        make_registry: given what sends its requests.
        hosts: where not None, no others are asked, by redirect neither.
        around: what the kind puts around its transport, where answers mean more than HTTP says.
        certificate: what the host of `base_url` may know this node by.
    """

    base_url: str
    make_registry: Callable[[Transport], Registry]
    keyring: Keyring | None = field(default=None, repr=False)
    hosts: Sequence[str] | None = None
    around: Callable[[Transport], Transport] | None = None
    certificate: ClientCertificate | None = None
