"""`/metrics` for Prometheus: the figures of each part's `statistics()`, read at each scrape."""

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

from gateway.observe.worker_metrics import UP, WorkerMetricsExchange, merge_pages

Source = Callable[[], Mapping[str, float]]
"""The `statistics` of one part of the gateway: figures by their names."""

COUNTERS: Mapping[str, str] = {
    "hub_messages": "messages that had at least one subscriber on this node",
    "hub_deliveries": "messages times their subscribers on this node",
    "broker_published": "messages published through this node",
    "broker_replayed": "publishes answered from an earlier publish with the same idempotency key",
    "broker_keys_reused": "publishes rejected because their idempotency key belongs to another message",
    "broker_refused": "publishes that the broker rejected",
    "broker_retried": "publishes that were sent to Redis again, with the same idempotency key",
    "broker_entries": "entries read from this node's inboxes",
    "broker_healed": "messages that were missing from an inbox and were read from history",
    "broker_mended": "routes that were missing in Redis and were added again",
    "broker_gaps": "gaps that history could not fill; the subscribers on this node got a gap message",
    "broker_reads": "history reads that were sent to Redis",
    "broker_reads_shared": "history reads that shared the answer of another read",
    "broker_incarnations": "leases that this node acquired, the first ones included",
    "broker_resets": "times that Redis had lost acknowledged writes",
    "broker_graces_refused": "leaves announced at once because too many waited for their grace",
    "broker_reaped": "dead nodes whose state this node removed",
    "broker_breaker_opened": "times that a circuit breaker opened",
    "broker_calls": "calls to Redis",
    "broker_trips": "pipelines in which calls were sent to Redis",
    "broker_failures": "calls to Redis that failed",
    "broker_resent": "calls that were sent again because Redis had certainly not carried them out",
    "broker_inbox_overflows": "times that entries were removed from an inbox before this node had read them",
    "broker_pending_rejected": "calls rejected because too many waited for Redis",
    "broker_held_dropped": "entries not held during a recovery from history, which then reads history again",
    "broker_replaced": "idle connections to Redis that were found closed or dead, and were replaced",
    "push_published": "publishes that were answered on the fast path",
    "push_stalled": "connections of backends that were aborted because no answers were read",
    "push_rejected_concurrency": "requests of backends rejected because of push.concurrency",
    "push_rejected_rate": "requests of backends rejected because of push.rate",
    "push_rejected_heads": "requests of backends that were malformed, or whose head exceeded a bound",
    "heartbeat_pings": "pings sent to silent connections",
    "heartbeat_extended": "times that a client had longer for its answer, because bytes wait before the ping",
    "heartbeat_dead": "connections closed because they did not answer a ping",
    "outbox_flushes": "event loop turns in which outboxes were flushed",
    "outbox_dropped_catch_up": "messages dropped from outboxes and replayed from history later",
    "outbox_dropped_conflate": "messages replaced by a newer one of their channel",
    "outbox_dropped_drop_oldest": "messages dropped for good; the client got a gap message",
    "backpressure_delayed": "publishes answered later because their channel's subscribers were slow",
    "backpressure_suspended": "times that such a delay was in vain, and was suspended for the channel",
    "history_cache_reads": "history reads sent to the broker",
    "history_cache_hits": "history reads answered from the cache",
    "admission_refused_overloaded": "handshakes rejected because the event loop lagged",
    "admission_refused_connections": "handshakes rejected because of limits.connections",
    "admission_refused_address": "handshakes rejected because of limits.connections_per_address",
    "admission_refused_rate": "handshakes rejected because of limits.connects_per_second",
    "admission_refused_user": "connections rejected or closed because of limits.connections_per_user",
    "public_connections_closed_silent": "connections without a request closed in favour of new ones",
    "public_connections_closed_closing": "connections that were being closed, closed early for new ones",
    "public_connections_closed_upgraded": "WebSockets without a `connect` closed in favour of new ones",
    "public_connections_rejected": "new connections closed because no other could be",
    "public_connections_fragments_delayed": "pauses in reading a connection that sends many fragments",
    "public_connections_proxy_headers_refused": "headers of the PROXY protocol that were not accepted",
    "internal_connections_closed_silent": "connections without a request closed in favour of new ones",
    "internal_connections_closed_closing": "connections that were being closed, closed early for new ones",
    "internal_connections_closed_active": "idle connections of backends closed in favour of new ones",
    "internal_connections_rejected": "new connections closed because no other could be",
    "rates_refused_user": "commands rejected because of limits.user_commands_per_second",
    "rates_refused_address": "commands rejected because of limits.address_commands_per_second",
    "rates_evicted": "rates of users and addresses that were forgotten before they were full again",
    "clock_steps": "times that the wall clock was stepped or the machine was suspended",
    "log_dropped": "log lines that could not be written",
    "jwks_fetches": "fetches of the keys at auth.jwks_url",
    "jwks_failures": "fetches of the keys at auth.jwks_url that failed",
    "outbox_shed_disconnected": "clients disconnected because all outboxes together were over their memory",
    "memory_outboxes_freed": "outboxes shed because all of them together were over their memory",
    "memory_newest_messages_freed": "channels whose newest messages were freed to make room for others",
    "memory_history_pages_freed": "pages of histories that were freed to make room for others",
    "memory_incoming_freed": "clients closed because incomplete messages were over their memory",
    "memory_backlogs_freed": "times that a client was not read because of the memory of waiting commands",
    "memory_recoveries_freed": "replies that were shortened, the rest left to catch-up",
    "memory_bodies_freed": "requests of backends that were answered 503 because of the memory of bodies",
}
"""Figures that only grow, and what they count; all others are gauges."""

GAUGES: Mapping[str, str] = {
    "hub_sessions": "connected clients",
    "hub_users": "different users with a connected client",
    "hub_channels": "channels with a subscriber on this node",
    "hub_behind": "subscriptions that wait for a catch-up",
    "hub_commands_waiting": "commands that wait until an earlier one on their connection is done",
    "hub_cached_bytes": "bytes of the newest messages that channels keep for clients that resume",
    "outbox_bytes": "bytes that wait in all outboxes",
    "outbox_full": "outboxes that wait for a full socket",
    "outbox_stalled": "outboxes that have waited for a full socket for more than a second",
    "backpressure_waiting": "publishes whose answer is being delayed",
    "history_cache_bytes": "bytes of the history that clients who catch up share",
    "broker_channels": "channels with stored state; with Redis, channels and users with a route to this node",
    "broker_bytes": "bytes of stored histories and idempotency keys",
    "broker_bytes_limit": "the setting broker.memory, in bytes",
    "broker_keys": "stored idempotency keys; with Redis, those that this node has stored",
    "broker_keys_limit": "idempotency keys that may be stored: half of broker.memory",
    "broker_shards": "shards over which channels are distributed",
    "broker_up": "shards whose Redis accepts calls",
    "broker_leases": "shards where this node holds its lease",
    "broker_breakers_open": "shards whose circuit breaker is open",
    "broker_absent": "connections that have ended and whose leave waits for its grace",
    "broker_inbox": "entries unread in this node's inboxes at the last check",
    "broker_inbox_bytes": "bytes of large messages unread in this node's inboxes at the last check",
    "broker_waiting": "calls queued for a pipeline to Redis",
    "broker_pending_bytes": "bytes of the calls that wait for Redis, queued or sent",
    "broker_held_bytes": "bytes of messages held while earlier ones are read from history",
    "heartbeat_sessions": "connections with a heartbeat",
    "admission_connections": "clients that have sent `connect`",
    "admission_addresses": "different client addresses with an open connection",
    "admission_users": "different users with an open connection",
    "admission_overloaded": "1 while handshakes are rejected because the event loop lags",
    "public_connections_silent": "open connections of clients that have not sent a request",
    "public_connections_closing": "open connections of clients that are being closed",
    "public_connections_upgraded": "open WebSockets that have not sent `connect`",
    "public_connections_connected": "open WebSockets that have sent `connect`",
    "internal_connections_silent": "open connections to the internal listener without a complete request yet",
    "internal_connections_closing": "open connections to the internal listener that are being closed",
    "internal_connections_active": "open connections of backends",
    "rates_users": "users whose rate of commands is remembered",
    "rates_addresses": "addresses whose rate of commands is remembered",
    "push_in_progress": "requests of backends that are not answered yet",
    "push_heads": "request header blocks cached for the fast path",
    "slices_waiting": "parts of long work, such as large replies, that wait for their turn of the event loop",
    "tasks_running": "tasks that are running",
    "jwks_keys": "keys from auth.jwks_url that verify tokens",
    "jwks_age_seconds": "time since the keys at auth.jwks_url were last fetched; -1 before that",
    "jwks_failures_in_a_row": "fetches of the keys at auth.jwks_url that failed since the last that did not",
    **{
        f"memory_{name}_{what}": f"{meaning} {kind}"
        for name, kind in {
            "outboxes": "waiting for clients that do not read",
            "newest_messages": "of the newest messages of channels",
            "history_pages": "of histories read for clients that catch up",
            "incoming": "of incomplete messages of clients",
            "backlogs": "of commands that wait until an earlier one of their client is done",
            "recoveries": "of missed messages that wait for a reply",
            "bodies": "of requests of backends that are not answered yet",
        }.items()
        for what, meaning in {"bytes": "bytes", "limit_bytes": "the bound of the bytes"}.items()
    },
    "loop_lag_p99_seconds": "99th percentile of event loop lag over the last 3 seconds",
}
"""The gauges, and what they show."""


class StatisticsCollector(Collector):
    """The figures of the gateway's parts, as `fanway_<part>_<name>`."""

    def __init__(self, sources: Mapping[str, Source], close_counts: Callable[[], Mapping[int, int]]) -> None:
        self._sources = sources
        self._close_counts = close_counts

    def collect(self) -> Iterable[Metric]:
        """Return all metrics."""
        for part, source in self._sources.items():
            for name, value in source().items():
                full = f"{part}_{name}"
                family = CounterMetricFamily if full in COUNTERS else GaugeMetricFamily
                description = COUNTERS.get(full) or GAUGES.get(full) or f"{name} of the {part}"
                yield family(f"fanway_{full}", description, value=value)
        closes = CounterMetricFamily(
            "fanway_hub_closed", "connections that this node closed, by close code", labels=["code"]
        )
        for code, count in self._close_counts().items():
            closes.add_metric([str(int(code))], count)
        yield closes
        yield GaugeMetricFamily(UP, "1 for each worker that answers, 0 for one that does not", value=1)


class WorkerLabelCollector(Collector):
    """The metrics of a registry, each sample with the label `worker`."""

    def __init__(self, registry: CollectorRegistry, number: int) -> None:
        self._registry = registry
        self._label = {"worker": str(number)}

    def collect(self) -> Iterable[Metric]:
        """Return all metrics."""
        for family in self._registry.collect():
            labelled = Metric(family.name, family.documentation, family.type)
            labelled.samples = [
                each._replace(labels={**self._label, **each.labels}) for each in family.samples
            ]
            yield labelled


class Exposition:
    """`/metrics` with the figures of one node, or of all workers of a machine."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        close_counts: Callable[[], Mapping[int, int]],
        workers: WorkerMetricsExchange | None = None,
    ) -> None:
        """Show the figures of *sources*.

        Args:
            sources: the `statistics` of each part, by its name in metrics.
            close_counts: returns how many connections this node closed, by close code.
            workers: collects the figures of the other workers; None without workers.

        """
        self._workers = workers
        self._registry = CollectorRegistry()
        self._registry.register(StatisticsCollector(sources, close_counts))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        if workers is not None:
            own, self._registry = self._registry, CollectorRegistry()
            self._registry.register(WorkerLabelCollector(own, workers.number))

    @contextlib.asynccontextmanager
    async def serving_workers(self) -> AsyncIterator[None]:
        """Let the other workers collect these figures, while in this context."""
        if self._workers is None:
            yield
        else:
            async with self._workers.serving(self._render):
                yield

    def route(self) -> Route:
        """Return the route of `/metrics`."""

        async def metrics(_: Request) -> Response:
            page = self._render()
            if self._workers is not None:
                page = merge_pages(await self._workers.collect(page))
            return Response(page, media_type=CONTENT_TYPE_LATEST)

        return Route("/metrics", metrics)

    def _render(self) -> bytes:
        return generate_latest(self._registry)
