"""`/metrics` for Prometheus: the numbers that tests read from `statistics()`, collected when asked for."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping

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

from gateway.observe.worker_metrics import UP, WorkerMetrics, merged

Source = Callable[[], Mapping[str, float]]

COUNTERS: Mapping[str, str] = {
    "hub_messages": "messages that had a subscriber here",
    "hub_deliveries": "messages times subscribers",
    "broker_published": "messages published through this node",
    "broker_replayed": "publishes that an earlier one with the same key had done already",
    "broker_refused": "publishes that the broker did not take",
    "broker_retried": "publishes that were sent to Redis a second time, under their key",
    "broker_entries": "entries read from this node's inboxes",
    "broker_healed": "messages that were missing from an inbox and were read from history",
    "broker_mended": "routes that were gone from Redis, and were asked for again",
    "broker_gaps": "gaps that nothing could fill, of which the followers here were told",
    "broker_reads": "reads of histories that went to Redis",
    "broker_reads_shared": "reads that got the answer of another",
    "broker_incarnations": "times that this node took up a lease anew",
    "broker_resets": "times that Redis was found to have lost writes",
    "broker_reaped": "dead nodes that this one cleaned up after",
    "broker_breaker_opened": "times that Redis was given up for a while",
    "broker_calls": "calls to Redis",
    "broker_trips": "pipelines in which they travelled",
    "broker_failures": "calls to Redis that failed",
    "push_published": "publishes that took the short way",
    "heartbeat_pings": "silent connections that were asked",
    "heartbeat_dead": "connections that did not answer",
    "outbox_flushes": "turns in which something was sent",
    "outbox_dropped_catch_up": "messages dropped and replayed later",
    "outbox_dropped_conflate": "messages that a newer one of their channel replaced",
    "outbox_dropped_drop_oldest": "messages lost to somebody, who was told",
    "admission_refused_overloaded": "handshakes refused because the event loop lagged",
    "admission_refused_connections": "handshakes refused over limits.connections",
    "admission_refused_address": "handshakes refused over limits.connections_per_address",
    "admission_refused_rate": "handshakes refused over limits.connects_per_second",
    "admission_refused_user": "connections over limits.connections_per_user",
}
"""What only ever grows, and what it counts; everything else is a gauge."""

GAUGES: Mapping[str, str] = {
    "hub_sessions": "connected clients",
    "hub_users": "different users among them",
    "hub_channels": "channels that somebody here follows",
    "broker_channels": "channels that the broker remembers, or that this node is routed for",
    "broker_bytes": "bytes that histories and idempotency keys take",
    "broker_bytes_limit": "broker.memory",
    "broker_keys": "idempotency keys that are remembered",
    "broker_shards": "shards of the channels",
    "broker_up": "shards whose Redis takes calls",
    "broker_leases": "shards where this node holds its lease",
    "broker_breakers_open": "shards whose Redis is not asked for the moment",
    "broker_inbox": "entries that waited in this node's inboxes at the last look",
    "broker_waiting": "calls that wait for their turn on the way to Redis",
    "heartbeat_sessions": "connections that are watched for silence",
    "admission_connections": "open connections",
    "admission_addresses": "different addresses they come from",
    "admission_users": "different users that they count for",
    "admission_overloaded": "1 while new connections are refused because the event loop lags",
    "push_heads": "header blocks remembered for the short way",
    "tasks_running": "coroutines that wait for something",
    "loop_lag_p99_seconds": "how late the event loop runs what is due",
}
"""What those are that we know."""


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
                says = COUNTERS.get(full) or GAUGES.get(full) or f"{name} of the {part}"
                yield family(f"fanway_{full}", says, value=value)
        closes = CounterMetricFamily(
            "fanway_hub_closed", "connections that were closed here", labels=["code"]
        )
        for code, count in self._closed().items():
            closes.add_metric([str(int(code))], count)
        yield closes
        yield GaugeMetricFamily(UP, "1 for each worker that answers, this one included", value=1)


class OfWorker(Collector):
    """What a registry holds, each sample with the worker that it is of."""

    def __init__(self, registry: CollectorRegistry, number: int) -> None:
        self._registry = registry
        self._worker = {"worker": str(number)}

    def collect(self) -> Iterable[Metric]:
        """Return every figure."""
        for family in self._registry.collect():
            labelled = Metric(family.name, family.documentation, family.type)
            labelled.samples = [
                each._replace(labels={**self._worker, **each.labels}) for each in family.samples
            ]
            yield labelled


class Exposition:
    """`/metrics` over the parts of one gateway, or of all workers of a machine: whichever is asked."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        closed: Callable[[], Mapping[int, int]],
        crew: WorkerMetrics | None = None,
    ) -> None:
        """Show *sources*, and the connections *closed* here, by close code; with *crew*, those of all."""
        self._crew = crew
        self._registry = CollectorRegistry()
        self._registry.register(Statistics(sources, closed))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        if crew is not None:
            own, self._registry = self._registry, CollectorRegistry()
            self._registry.register(OfWorker(own, crew.number))

    @contextlib.asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Let other workers show it, too."""
        if self._crew is None:
            yield
        else:
            async with self._crew.answering(self._page):
                yield

    def route(self) -> Route:
        """Return `/metrics`."""

        async def metrics(_: Request) -> Response:
            page = self._page()
            if self._crew is not None:
                page = merged(await self._crew.pages(page))
            return Response(page, media_type=CONTENT_TYPE_LATEST)

        return Route("/metrics", metrics)

    def _page(self) -> bytes:
        return generate_latest(self._registry)
