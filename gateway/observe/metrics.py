"""`/metrics` for Prometheus: the numbers that tests read from `statistics()`, collected when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

Source = Callable[[], Mapping[str, float]]

COUNTERS = frozenset(
    {
        "hub_messages",
        "hub_deliveries",
        "broker_published",
        "broker_replayed",
        "broker_refused",
        "push_published",
        "heartbeat_pings",
        "heartbeat_dead",
        "outbox_flushes",
        "outbox_dropped_catch_up",
        "outbox_dropped_conflate",
        "outbox_dropped_drop_oldest",
        "admission_refused_overloaded",
        "admission_refused_connections",
        "admission_refused_address",
        "admission_refused_rate",
        "admission_refused_user",
    }
)
"""What only ever grows; everything else is a gauge."""


class Statistics(Collector):
    """What the parts of the gateway say of themselves, as `fanway_<part>_<name>`."""

    def __init__(self, sources: Mapping[str, Source], closed: Callable[[], Mapping[int, int]]) -> None:
        self._sources = sources
        self._closed = closed

    def collect(self) -> Iterable[Metric]:
        """Return every figure."""
        for part, source in self._sources.items():
            for name, value in source().items():
                full = f"{part}_{name}"
                family = CounterMetricFamily if full in COUNTERS else GaugeMetricFamily
                yield family(f"fanway_{full}", f"{name} of the {part}".replace("_", " "), value=value)
        closes = CounterMetricFamily(
            "fanway_hub_closed", "connections that were closed here", labels=["code"]
        )
        for code, count in self._closed().items():
            closes.add_metric([str(int(code))], count)
        yield closes


def route(sources: Mapping[str, Source], closed: Callable[[], Mapping[int, int]]) -> Route:
    """Return `/metrics` over *sources*, and over the connections *closed* here, by close code."""
    registry = CollectorRegistry()
    registry.register(Statistics(sources, closed))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return Route("/metrics", metrics)
