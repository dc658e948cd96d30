"""Proofs over the access log of a real nginx (`bench.nginx`): what was sent twice, and how much in all."""

from __future__ import annotations

from collections.abc import Iterable

from bench.nginx import LoggedRequest, Nginx

__all__ = ["LoggedRequest", "Nginx", "covered_bytes", "overlaps"]


def overlaps(log: Iterable[LoggedRequest], uri: str) -> list[tuple[LoggedRequest, LoggedRequest]]:
    """Pairs of requests that sent the same byte of `uri`; the empty list proves "no byte fetched twice"."""
    sent = sorted(
        ((span, request) for request in log if request.uri == uri and (span := request.sent)),
        key=lambda item: item[0],
    )
    pairs = []
    furthest: tuple[tuple[int, int], LoggedRequest] | None = None
    for span, request in sent:
        if furthest is not None and span[0] < furthest[0][1]:
            pairs.append((furthest[1], request))
        if furthest is None or span[1] > furthest[0][1]:
            furthest = (span, request)
    return pairs


def covered_bytes(log: Iterable[LoggedRequest], uri: str) -> int:
    """How many different bytes of `uri` were sent."""
    covered = stop = 0
    for first, last in sorted(span for request in log if request.uri == uri and (span := request.sent)):
        covered += max(0, last - max(first, stop))
        stop = max(stop, last)
    return covered
