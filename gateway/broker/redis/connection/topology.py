"""Where the primary of a shard is: at one address, where sentinels say, or where its slot of a Cluster is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any, Protocol, cast

from redis import exceptions
from redis.crc import key_slot

from gateway.broker.redis import timeouts
from gateway.broker.redis.connection.sentinel import SentinelPrimary
from gateway.broker.redis.connection.servers import Address, Server, asked, connected

Slots = tuple[int, int, Address]
"""The first and the last of a range, and who has them."""


class PrimaryLocator(Protocol):
    """Where one shard's primary is, as far as this node knows."""

    server: Server
    """How to connect to it."""
    first: str
    """Who is asked before anything is known, for people; empty where errors say that themselves."""

    def settled(self, address: Address | None, *, watchful: bool) -> bool:
        """Return whether the primary is at *address*, and nobody need be asked.

        Who is *watchful* asks more often.
        """

    async def locate(self, *, watchful: bool) -> Address | None:
        """Return the primary's address; None for the one that the URL has.

        Where nobody can tell, the last one known; redis-py's `ConnectionError` where there is none.
        """

    def doubt(self) -> None:
        """Hear that the primary did not behave as one: look again before the next exchange with it."""

    async def watch(self) -> None:
        """Hear of it when another becomes the primary, while this runs; return where nobody tells."""


class FixedPrimary:
    """A server that is where its URL says. Whoever moves it moves its name or address as well."""

    def __init__(self, server: Server) -> None:
        """Stay at the address of *server* for ever."""
        self.server = server
        self.first = server.address

    def settled(self, address: Address | None, *, watchful: bool) -> bool:
        """Return True: there is nobody to ask."""
        return True

    async def locate(self, *, watchful: bool) -> Address | None:
        """Return None: the URL knows."""
        return None

    def doubt(self) -> None:
        """Go on with the same: its name may lead elsewhere by the next connection."""

    async def watch(self) -> None:
        """Return at once."""

    def __repr__(self) -> str:
        return "<Fixed>"


class ClusterSlots:
    """Which node of a Cluster has which slots, for every shard of a broker."""

    def __init__(self, servers: Sequence[Server], chance: Random | None = None) -> None:
        """Begin with *servers*, of which one has to answer; the other nodes are learned."""
        self.servers = tuple(servers)
        self.sure = False
        self._chance = chance or Random()
        self._ranges: Sequence[Slots] = ()
        self._looking = asyncio.Lock()

    def primary(self, slot: int) -> Address | None:
        """Return the address of the node that has *slot*, as far as known."""
        return next((address for first, last, address in self._ranges if first <= slot <= last), None)

    async def look(self) -> None:
        """Ask one node after the other, those that were primaries first, in any order."""
        async with self._looking:
            if not self.sure:
                await self._look()

    async def _look(self) -> None:
        known = list({address for *_, address in self._ranges})
        self._chance.shuffle(known)
        candidates = [
            *((self.servers[0], address) for address in known),
            *((each, None) for each in self.servers),
        ]
        told: Exception = exceptions.ConnectionError("no node of the Redis Cluster answers")
        for server, address in candidates:
            try:
                self._ranges = await _slots(server, address)
                break
            except (exceptions.RedisError, OSError) as error:
                told = error
        else:
            if not self._ranges:
                raise told
        self.sure = True

    def __repr__(self) -> str:
        return f"<Topology {len({address for *_, address in self._ranges})} primaries>"


class ClusterPrimary:
    """Where the slot of one shard is."""

    def __init__(self, topology: ClusterSlots, key: str) -> None:
        """Look for the slot of *key*, and with it of every key of its shard: they share a hash tag."""
        self.server = topology.servers[0]
        self.first = ", ".join(each.address for each in topology.servers)
        self._topology = topology
        self._slot: int = cast("Any", key_slot)(key.encode())

    def settled(self, address: Address | None, *, watchful: bool) -> bool:
        """Return whether the slot is at *address*."""
        return self._topology.sure and address == self._topology.primary(self._slot)

    async def locate(self, *, watchful: bool) -> Address | None:
        """Return the address of the node with this slot."""
        await self._topology.look()
        address = self._topology.primary(self._slot)
        if address is None:
            raise exceptions.ConnectionError(f"no node of the Redis Cluster has slot {self._slot}")
        return address

    def doubt(self) -> None:
        """Have the nodes asked again, for every shard."""
        self._topology.sure = False

    async def watch(self) -> None:
        """Return at once: a node that is asked for what it no longer has says so."""

    def __repr__(self) -> str:
        return f"<InCluster slot {self._slot} of {self._topology}>"


def primary_locators(
    servers: Sequence[Server], keys: Sequence[str], *, cluster: bool
) -> list[PrimaryLocator]:
    """Return the place of each shard; *keys* has a key of each. Servers that are independent take turns."""
    if cluster:
        topology = ClusterSlots(servers)
        return [ClusterPrimary(topology, key) for key in keys]
    apart: list[PrimaryLocator] = [
        SentinelPrimary(each) if each.sentinels else FixedPrimary(each) for each in servers
    ]
    return [apart[number % len(apart)] for number in range(len(keys))]


async def _slots(server: Server, address: Address | None) -> Sequence[Slots]:
    """Return what one node of a Cluster knows: ranges of slots, each with its primary."""
    connection = server.connection(timeouts.SENTINEL)
    if address is not None:
        connection.host, connection.port = address
    async with asyncio.timeout(timeouts.SENTINEL), connected(connection):
        told = await asked(connection, "CLUSTER", "SLOTS")
    # A node that was not told its own name or address leaves it out: it is the one that was asked.
    return [
        (int(first), int(last), (connection.host if host in _NAMELESS else host.decode(), int(port)))
        for first, last, (host, port, *_), *_ in told
    ]


_NAMELESS = frozenset((None, b"", b"?"))
