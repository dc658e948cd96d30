"""The status document as Prometheus metrics; docs/metrics.md lists them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST


class _StatusCollector(Collector):
    def __init__(self, status: dict[str, Any]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        for name, value in self._status["counters"].items():
            yield CounterMetricFamily(
                f"lazysif_{name}", f"Total of {name} since the daemon started", value=value
            )
        cache = self._status["cache"]
        for name in ("used_bytes", "limit_bytes", "free_bytes"):
            yield GaugeMetricFamily(f"lazysif_cache_{name}", f"Block cache: {name}", value=cache[name])
        state = GaugeMetricFamily(
            "lazysif_cache_state", "1 for the state the cache disk is in", labels=["state"]
        )
        state.add_metric([cache["state"]], 1)
        yield state
        handles = sum(image["open_handles"] for image in self._status["images"])
        yield GaugeMetricFamily("lazysif_open_handles", "Open handles of images", value=handles)


def render(status: dict[str, Any]) -> bytes:
    """The exposition text of one status document."""
    registry = CollectorRegistry()
    registry.register(_StatusCollector(status))
    return generate_latest(registry)
