"""Finds the primary of a shard: at a fixed address, by asking sentinels, or by its slot of a Cluster."""

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
"""First and last slot of a range, and the address of the primary of these slots."""


class PrimaryLocator(Protocol):
    """Finds and remembers the address of one shard's primary."""

    server: Server
    """How to connect to the primary."""
    description: str
    """The address for error texts until the primary is known; empty if the errors themselves contain it."""

    def is_current(self, address: Address | None, *, recheck: bool) -> bool:
        """Return whether the primary is known to be at *address*; no I/O.

        *recheck*: return False also if the last lookup was some seconds ago.
        """

    async def locate(self, *, recheck: bool) -> Address | None:
        """Return the primary's address; None: the address in the server's URL.

        If the lookup fails, this is the last known address; without one, raises redis-py's `ConnectionError`.
        """

    def invalidate(self) -> None:
        """Look up the primary before its next use: the server did not behave like a primary."""

    async def watch_failovers(self) -> None:
        """Invalidate when a failover is announced; return at once if failovers are not announced."""


class FixedPrimary:
    """A server at the address of its URL; a server that moves has to keep its name or address."""

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
        """Do nothing: the next connection resolves the host name again."""

    async def watch_failovers(self) -> None:
        """Return at once."""

    def __repr__(self) -> str:
        return "<FixedPrimary>"


class ClusterSlots:
    """The slots of a Cluster and the primaries of the slots, shared by all shards of a broker."""

    def __init__(self, servers: Sequence[Server], random: Random | None = None) -> None:
        """Start from *servers*: one of them has to answer, and returns the addresses of all nodes."""
        self.servers = tuple(servers)
        self.valid = False
        self._random = random or Random()
        self._ranges: Sequence[SlotRange] = ()
        self._refreshing = asyncio.Lock()

    def primary(self, slot: int) -> Address | None:
        """Return the address of the primary of *slot*; None if the address is unknown."""
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
        """Locate the slot of *key*; every key of a shard is in the same slot, because of the hash tag."""
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
        """Read the slots of all shards again before their next use."""
        self._slots.valid = False

    async def watch_failovers(self) -> None:
        """Return at once: a node that no longer has a slot answers MOVED."""

    def __repr__(self) -> str:
        return f"<ClusterPrimary slot {self._slot} of {self._slots}>"


def primary_locators(
    servers: Sequence[Server], keys: Sequence[str], *, cluster: bool
) -> list[PrimaryLocator]:
    """Return a locator for each shard; *keys* contains one key of each shard.

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
    """Return the slots, read from one node of a Cluster."""
    connection = server.connection(timeouts.PRIMARY_LOOKUP_TIMEOUT_SECONDS)
    if address is not None:
        connection.host, connection.port = address
    async with asyncio.timeout(timeouts.PRIMARY_LOOKUP_TIMEOUT_SECONDS), opened(connection):
        ranges = await execute_command(connection, "CLUSTER", "SLOTS")
    # A node that does not know its own name or address omits it: then it is the node that was asked.
    return [
        (int(first), int(last), (connection.host if host in _UNKNOWN_HOST else host.decode(), int(port)))
        for first, last, (host, port, *_), *_ in ranges
    ]


_UNKNOWN_HOST = frozenset((None, b"", b"?"))
