"""The open TCP connections of one listener: counted by stage, bounded, the oldest silent ones closed first.

Each connection needs a file descriptor from the moment it is accepted, long before the limits of clients
apply.
"""

from __future__ import annotations

import asyncio
import enum
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

from uvicorn.server import ServerState


class ConnectionStage(enum.StrEnum):
    """How far a connection has come."""

    SILENT = "silent"
    """It has not sent a complete head; on the internal listener, not a complete request."""
    CLOSING = "closing"
    """Its last answer, or a Close, has been written, and the peer has not closed yet."""
    ACTIVE = "active"
    """A backend's, which has sent a request and may send more."""
    UPGRADED = "upgraded"
    """A WebSocket that has not sent `connect`."""
    CONNECTED = "connected"
    """A WebSocket that has sent `connect`: it is not closed in favour of another."""


PUBLIC_STAGES = (
    ConnectionStage.SILENT,
    ConnectionStage.CLOSING,
    ConnectionStage.UPGRADED,
    ConnectionStage.CONNECTED,
)
INTERNAL_STAGES = (ConnectionStage.SILENT, ConnectionStage.CLOSING, ConnectionStage.ACTIVE)
"""The stages on each listener, in the order in which connections are closed in favour of new ones."""

Bound = Literal["total", "unconnected", "address"]

OnBoundReached = Callable[[Bound, str, int], None]

UNBOUNDED = 2**31

SHARE_OF_A_STAGE = 8
"""A stage keeps an eighth of the unconnected connections: so many are on their way to the next stage."""


@dataclass(frozen=True, slots=True)
class ConnectionBounds:
    """The bounds of one listener."""

    total: int = UNBOUNDED
    """Open connections."""
    unconnected: int = UNBOUNDED
    """Open connections that are not `CONNECTED`."""
    per_address: int = 0
    """Those of one address; 0: half of what `room` returns."""

    def room(self, connected: int) -> int:
        """Return how many unconnected ones may be open beside *connected* ones."""
        return max(0, min(self.unconnected, self.total - connected))

    def exceeded(self, *, connected: int, unconnected: int, of_address: int) -> Bound | None:
        """Return the bound that one more connection would exceed, if any.

        *of_address* counts the unconnected ones of its address; 0 for an address that has no bound.
        """
        room = self.room(connected)
        if of_address >= (self.per_address or max(1, room // 2)):
            return "address"
        if unconnected >= room:
            return "unconnected" if room == self.unconnected else "total"
        return None


class Backend(Protocol):
    """The protocol of an `ACTIVE` connection."""

    @property
    def is_idle(self) -> bool:
        """Whether every request is answered, and no other has begun."""

    @property
    def is_receiving(self) -> bool:
        """Whether a request has begun, and is not complete."""


class OpenConnections(ServerState):
    """uvicorn's state of a server, which also knows the socket of each open connection and its stage.

    A protocol calls `opened` in `connection_made`, `enter` when the stage changes, and `closed` in
    `connection_lost`. Connected ones are only counted: they take no memory here.
    """

    def __init__(
        self,
        bounds: ConnectionBounds | None = None,
        *,
        stages: Iterable[ConnectionStage] = ConnectionStage,
        source_of: Callable[[str], str] = str,
        on_bound_reached: OnBoundReached | None = None,
    ) -> None:
        """Apply *bounds*.

        Args:
            bounds: of this listener; None: only count.
            stages: those that occur, in the order in which connections are closed in favour of new ones.
            source_of: what an address counts as; "" for one that has no bound of its own.
            on_bound_reached: called with the bound, the address of the new connection and the number of open
                ones whenever a connection is closed, or a new one rejected, because of a bound.

        """
        super().__init__()
        self.bounds = bounds or ConnectionBounds()
        self._stages = tuple(stages)
        self._queues = {stage: _Queue() for stage in self._stages if stage is not ConnectionStage.CONNECTED}
        self._connected = self._unconnected = 0
        self._aborted: set[asyncio.Transport] = set()
        """Those whose sockets are closed in the next turn of the event loop, and which are not counted."""
        self._source_of = source_of
        self._on_bound_reached = on_bound_reached
        self._closed_early: Counter[ConnectionStage] = Counter()
        self._rejected = 0
        self.proxy_headers_refused = 0
        """Headers of the PROXY protocol that were malformed, late, or not expected."""
        self.fragments_delayed = 0
        """Pauses in reading a connection that sends many frames of fragmented messages."""

    @property
    def count(self) -> int:
        """How many connections are open."""
        return self._connected + self._unconnected

    # ------------------------------------------------------------ called by protocols

    def opened(self, transport: asyncio.Transport, address: str) -> bool:
        """Count the new connection *transport*; return False where it is rejected, and aborted.

        Where a bound is reached, an older connection is closed in its place, if there is one that may be.
        """
        source = self._source_of(address)
        if self._make_room(source, address):
            self._queues[ConnectionStage.SILENT].add(transport, source)
            self._unconnected += 1
            return True
        self._rejected += 1
        self._abort(transport)
        return False

    def enter(self, stage: ConnectionStage, transport: asyncio.Transport) -> None:
        """Note that *transport*, which has been `opened`, is at *stage* now."""
        if transport in self._aborted:
            return
        source = self._remove(transport)
        if stage is ConnectionStage.CONNECTED:
            self._connected += 1
        else:
            self._queues[stage].add(transport, source)
            self._unconnected += 1

    def change_address(self, transport: asyncio.Transport, address: str) -> bool:
        """Count *transport*, which is `SILENT`, for *address*, which a proxy has reported; as `opened`."""
        if transport in self._aborted:
            return False
        self._remove(transport)
        return self.opened(transport, address)

    def closed(self, transport: asyncio.Transport) -> None:
        """Count *transport* no longer: its socket is closed."""
        if transport in self._aborted:
            self._aborted.remove(transport)
        else:
            self._remove(transport)

    # ------------------------------------------------------------ making room

    def close_oldest(self, source: str = "") -> bool:
        """Abort the oldest connection, of *source* if given, of the first stage that has one; else False.

        A stage with no more than its share comes last. Otherwise whoever fills a later stage would have
        every newcomer closed, which is silent at first.
        """
        counts = {stage: queue.count(source) for stage, queue in self._queues.items()}
        share = sum(counts.values()) // SHARE_OF_A_STAGE
        for stage in sorted(counts, key=lambda each: counts[each] <= share):
            queue = self._queues[stage]
            chosen = _least_needed(queue) if stage is ConnectionStage.ACTIVE else queue.oldest(source)
            if chosen is not None:
                queue.remove(chosen)
                self._unconnected -= 1
                self._closed_early[stage] += 1
                self._abort(chosen)
                return True
        return False

    def _make_room(self, source: str, address: str) -> bool:
        """Return whether there is room for one more of *source*, after closing an older one if need be."""
        bound = self.bounds.exceeded(
            connected=self._connected,
            unconnected=self._unconnected,
            of_address=self._count(source) if source else 0,
        )
        if bound is None:
            return True
        made_room = self.close_oldest(source if bound == "address" else "")
        if self._on_bound_reached is not None:
            self._on_bound_reached(bound, address, self.count)
        return made_room

    def _count(self, source: str) -> int:
        """Return the number of unconnected ones of *source*."""
        return sum([queue.count(source) for queue in self._queues.values()])

    def _remove(self, transport: asyncio.Transport) -> str:
        """Remove *transport* from the counts; return its source, "" for one that was connected."""
        for queue in self._queues.values():
            if transport in queue:
                self._unconnected -= 1
                return queue.remove(transport)
        self._connected -= 1
        return ""

    def _abort(self, transport: asyncio.Transport) -> None:
        self._aborted.add(transport)
        transport.abort()

    def statistics(self) -> dict[str, int]:
        """Return the open connections and those closed early, by stage, and the rejected ones."""
        counts = {stage.value: queue.count("") for stage, queue in self._queues.items()}
        if ConnectionStage.CONNECTED in self._stages:
            counts["connected"] = self._connected
        other = {"rejected": self._rejected}
        if ConnectionStage.CONNECTED in self._stages:
            other["proxy_headers_refused"] = self.proxy_headers_refused
            other["fragments_delayed"] = self.fragments_delayed
        closed = {f"closed_{stage.value}": self._closed_early[stage] for stage in self._queues}
        return counts | closed | other


class _Queue:
    """The connections at one stage, oldest first, and those of each source."""

    __slots__ = ("_by_source", "_sources")

    def __init__(self) -> None:
        # A dict would scan the places of removed keys to find its first one.
        self._sources: OrderedDict[asyncio.Transport, str] = OrderedDict()
        self._by_source: dict[str, OrderedDict[asyncio.Transport, None]] = {}

    def __contains__(self, transport: asyncio.Transport) -> bool:
        return transport in self._sources

    def __iter__(self) -> Iterator[asyncio.Transport]:
        return iter(self._sources)

    def add(self, transport: asyncio.Transport, source: str) -> None:
        self._sources[transport] = source
        if source:
            self._by_source.setdefault(source, OrderedDict())[transport] = None

    def remove(self, transport: asyncio.Transport) -> str:
        """Remove *transport*; return its source."""
        source = self._sources.pop(transport)
        if source:
            of_source = self._by_source[source]
            del of_source[transport]
            if not of_source:
                del self._by_source[source]
        return source

    def count(self, source: str) -> int:
        """Return the number of connections, of *source* unless it is empty."""
        return len(self._by_source.get(source, ()) if source else self._sources)

    def oldest(self, source: str) -> asyncio.Transport | None:
        """Return the oldest connection, of *source* unless it is empty."""
        return next(iter(self._by_source.get(source, ()) if source else self._sources), None)


def _least_needed(queue: _Queue) -> asyncio.Transport | None:
    """Return the oldest idle backend's connection, else the oldest with an incomplete request, else None."""
    receiving = None
    for transport in queue:
        backend: Backend = cast("Any", transport.get_protocol())
        if backend.is_idle:
            return transport
        if receiving is None and backend.is_receiving:
            receiving = transport
    return receiving
