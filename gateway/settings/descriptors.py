"""How the file descriptors of a process are divided: its own, backends, clients, clients to be."""

from __future__ import annotations

import resource
from dataclasses import dataclass

from gateway.settings.model import Settings

OWN_DESCRIPTORS = 64
"""For files, the log, the event loop, sockets between workers and what libraries open: 13 are open after a
start, beside the listening sockets."""

DESCRIPTORS_PER_SHARD = 6
"""The five connections of a shard (docs/configuration.md#broker), and one for the sentinels."""

MIN_BACKENDS, MAX_BACKENDS = 8, 1_024
"""Bounds of what `listen.internal.connections = 0` stands for."""

MIN_SPARE, MAX_SPARE = 4, 512
"""Bounds of the descriptors that only clients without `connect` use: a full node answers them, too."""

MIN_CLIENTS = 16
"""Fewer are not worth a start."""

RECOMMENDED_DESCRIPTORS = 1_024
"""Fewer than the usual limit of a login (RLIMIT_NOFILE) cause a warning."""


@dataclass(frozen=True, slots=True)
class DescriptorPlan:
    """Descriptors by their use; `own`, `backends` and `public` together are at most `limit`."""

    limit: int
    """Of the process (RLIMIT_NOFILE)."""
    own: int
    """For everything but accepted connections."""
    backends: int
    """Connections to the internal listener."""
    public: int
    """Connections to the public listener."""
    spare: int
    """Those of `public` that are never connected clients."""
    clients: int
    """Connected clients: `limits.connections`, or what `public` leaves."""

    @property
    def most_clients(self) -> int:
        """The largest number of connected clients that leaves every other use its part."""
        return self.public - self.spare


def descriptor_plan(settings: Settings, limit: int | None = None) -> DescriptorPlan:
    """Return the plan of a process with *settings*, and *limit* instead of its own RLIMIT_NOFILE if given."""
    if limit is None:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    own = own_descriptors(settings)
    free = max(0, limit - own)
    backends = settings.listen.internal.connections or _between(MIN_BACKENDS, free // 8, MAX_BACKENDS)
    public = max(0, free - backends)
    spare = min(_between(MIN_SPARE, public // 8, MAX_SPARE), settings.listen.public.unconnected)
    clients = settings.limits.connections or max(0, public - spare)
    return DescriptorPlan(limit, own, backends, public, spare, clients)


def own_descriptors(settings: Settings) -> int:
    """Return how many descriptors a process needs for everything but accepted connections."""
    broker, listen = settings.broker, settings.listen
    shards = broker.cluster_shards if broker.cluster else broker.shards_per_server * len(broker.addresses())
    sockets = listen.public.listeners + listen.internal.listeners
    return OWN_DESCRIPTORS + sockets + DESCRIPTORS_PER_SHARD * shards


def _between(least: int, value: int, most: int) -> int:
    return max(least, min(value, most))
