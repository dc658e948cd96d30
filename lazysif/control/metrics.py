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
        requests = self._status["requests"]
        in_hand = GaugeMetricFamily(
            "lazysif_requests_in_hand", "Requests of the kernel not answered yet", labels=["kind"]
        )
        for kind, number in requests["in_hand"].items():
            in_hand.add_metric([kind], number)
        yield in_hand
        for name in ("oldest_s", "waiting_reads"):
            yield GaugeMetricFamily(f"lazysif_requests_{name}", f"Requests: {name}", value=requests[name])
        offline = GaugeMetricFamily(
            "lazysif_remote_offline", "1 while a remote's origin is offline", labels=["remote"]
        )
        for remote in self._status["remotes"]:
            offline.add_metric([remote["name"]], remote["offline_since"] is not None)
        yield offline
        ready = GaugeMetricFamily(
            "lazysif_way_ready", "0 while a mirror or proxy is left alone", labels=["remote", "way"]
        )
        for remote in self._status["remotes"]:
            for way in remote["ways"]:
                ready.add_metric([remote["name"], way["name"]], way["state"] == "ready")
        yield ready
        handles = sum(image["open_handles"] for image in self._status["images"])
        yield GaugeMetricFamily("lazysif_open_handles", "Open handles of images", value=handles)


def render(status: dict[str, Any]) -> bytes:
    """The exposition text of one status document."""
    registry = CollectorRegistry()
    registry.register(_StatusCollector(status))
    return generate_latest(registry)
