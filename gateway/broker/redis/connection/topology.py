"""Finding the primary of a shard: at a fixed address, by asking sentinels, or by its slot of a Cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any, Protocol, cast

from redis import exceptions
from redis.crc import key_slot

from gateway.broker.redis import timeouts
from gateway.broker.redis.connection.sentinel import SentinelPrimary
from gateway.broker.redis.connection.server import Address, Server, execute_command, opened

SlotRange = tuple[int, int, Address]
"""First and last slot of a range, and the address of their primary."""


class PrimaryLocator(Protocol):
    """Knows the address of one shard's primary."""

    server: Server
    """How to connect to it."""
    description: str
    """The address before any is known, for error texts; empty where the errors themselves name it."""

    def is_current(self, address: Address | None, *, recheck: bool) -> bool:
        """Return whether the primary is known to be at *address*; no I/O.

        *recheck*: return False also when it is some seconds since anybody was asked.
        """

    async def locate(self, *, recheck: bool) -> Address | None:
        """Return the primary's address; None: that of the server's URL.

        If nobody can be asked, that is the last one known; redis-py's `ConnectionError` if there is none.
        """

    def invalidate(self) -> None:
        """Look the primary up before it is used next: it did not behave like one."""

    async def watch_failovers(self) -> None:
        """Invalidate when a failover is announced; return at once if nobody announces any."""


class FixedPrimary:
    """A server at the address of its URL; one that moves has to keep its name or address."""

    def __init__(self, server: Server) -> None:
        """Always use the address of *server*."""
        self.server = server
        self.description = server.address

    def is_current(self, address: Address | None, *, recheck: bool) -> bool:
        """Return True."""
        return True

    async def locate(self, *, recheck: bool) -> Address | None:
        """Return None: the address of the URL."""
        return None

    def invalidate(self) -> None:
        """Do nothing: the next connection resolves the name anew."""

    async def watch_failovers(self) -> None:
        """Return at once."""

    def __repr__(self) -> str:
        return "<FixedPrimary>"


class ClusterSlots:
    """The slots of a Cluster and their primaries, shared by all shards of a broker."""

    def __init__(self, servers: Sequence[Server], random: Random | None = None) -> None:
        """Start from *servers*, of which one has to answer; the other nodes are learned from it."""
        self.servers = tuple(servers)
        self.valid = False
        self._random = random or Random()
        self._ranges: Sequence[SlotRange] = ()
        self._refreshing = asyncio.Lock()

    def primary(self, slot: int) -> Address | None:
        """Return the address of the primary of *slot*; None if it is not known."""
        return next((address for first, last, address in self._ranges if first <= slot <= last), None)

    async def refresh(self) -> None:
        """Ask one node after the other until one answers, unless the slots are valid.

        Known primaries are asked first, in random order, then the configured servers.
        """
        async with self._refreshing:
            if not self.valid:
                await self._refresh()

    async def _refresh(self) -> None:
        known = list({address for *_, address in self._ranges})
        self._random.shuffle(known)
        candidates = [
            *((self.servers[0], address) for address in known),
            *((server, None) for server in self.servers),
        ]
        last_error: Exception = exceptions.ConnectionError("no node of the Redis Cluster answers")
        for server, address in candidates:
            try:
                self._ranges = await _read_slots(server, address)
                break
            except (exceptions.RedisError, OSError) as error:
                last_error = error
        else:
            if not self._ranges:
                raise last_error
        self.valid = True

    def __repr__(self) -> str:
        return f"<ClusterSlots {len({address for *_, address in self._ranges})} primaries>"


class ClusterPrimary:
    """The primary of one shard's slot in a Cluster."""

    def __init__(self, slots: ClusterSlots, key: str) -> None:
        """Locate the slot of *key*, which is that of every key of its shard: they share a hash tag."""
        self.server = slots.servers[0]
        self.description = ", ".join(server.address for server in slots.servers)
        self._slots = slots
        self._slot: int = cast("Any", key_slot)(key.encode())

    def is_current(self, address: Address | None, *, recheck: bool) -> bool:
        """Return whether the slot is known to be at *address*."""
        return self._slots.valid and address == self._slots.primary(self._slot)

    async def locate(self, *, recheck: bool) -> Address | None:
        """Return the address of the slot's primary."""
        await self._slots.refresh()
        address = self._slots.primary(self._slot)
        if address is None:
            raise exceptions.ConnectionError(f"no node of the Redis Cluster has slot {self._slot}")
        return address

    def invalidate(self) -> None:
        """Have the slots of all shards read again."""
        self._slots.valid = False

    async def watch_failovers(self) -> None:
        """Return at once: a node that is asked for a slot it no longer has answers MOVED."""

    def __repr__(self) -> str:
        return f"<ClusterPrimary slot {self._slot} of {self._slots}>"


def primary_locators(
    servers: Sequence[Server], keys: Sequence[str], *, cluster: bool
) -> list[PrimaryLocator]:
    """Return a locator for each shard, of which *keys* holds one key each.

    Without *cluster* the shards are spread over *servers* in turn: shard s is on server s mod len(servers).
    """
    if cluster:
        slots = ClusterSlots(servers)
        return [ClusterPrimary(slots, key) for key in keys]
    locators: list[PrimaryLocator] = [
        SentinelPrimary(server) if server.sentinels else FixedPrimary(server) for server in servers
    ]
    return [locators[number % len(locators)] for number in range(len(keys))]


async def _read_slots(server: Server, address: Address | None) -> Sequence[SlotRange]:
    """Return the slots as one node of a Cluster knows them."""
    connection = server.connection(timeouts.PRIMARY_LOOKUP_TIMEOUT_SECONDS)
    if address is not None:
        connection.host, connection.port = address
    async with asyncio.timeout(timeouts.PRIMARY_LOOKUP_TIMEOUT_SECONDS), opened(connection):
        ranges = await execute_command(connection, "CLUSTER", "SLOTS")
    # A node that does not know its own name or address leaves it out: it is the node that was asked.
    return [
        (int(first), int(last), (connection.host if host in _UNKNOWN_HOST else host.decode(), int(port)))
        for first, last, (host, port, *_), *_ in ranges
    ]


_UNKNOWN_HOST = frozenset((None, b"", b"?"))
