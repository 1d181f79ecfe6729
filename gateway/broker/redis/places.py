"""Where the primary of a shard is: at one address, where sentinels say, or where its slot of a Cluster is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from random import Random
from typing import Any, Protocol, cast

from redis import exceptions
from redis.crc import key_slot

from gateway.broker.redis import patience
from gateway.broker.redis.servers import Address, Server, shown
from gateway.clock import Clock, monotonic

Seen = tuple[int, Address]
"""The epoch in which the sentinels last agreed upon a primary, and where it is."""

Slots = tuple[int, int, Address]
"""The first and the last of a range, and who has them."""

SWITCHED = "+switch-master"
"""Where sentinels announce another primary: its name, then the former address and the present one."""


class Place(Protocol):
    """Where one shard's primary is, as far as this node knows."""

    server: Server
    """How to connect to it."""

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


class Fixed:
    """A server that is where its URL says. Whoever moves it moves its name or address as well."""

    def __init__(self, server: Server) -> None:
        """Stay at the address of *server* for ever."""
        self.server = server

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


class BehindSentinels:
    """A primary that sentinels watch, and replace when it fails (Redis' guidelines for Sentinel clients)."""

    def __init__(self, server: Server, clock: Clock = monotonic) -> None:
        """Ask the sentinels of *server*."""
        if server.sentinels is None:
            raise ValueError("this server has no sentinels")
        self.server = server
        self._master = server.sentinels.master
        self._sentinels = server.sentinels.addresses
        self._clock = clock
        self._address: Address | None = None
        self._sure = False
        self._doubts = 0
        self._look_at = 0.0
        self._looking = asyncio.Lock()

    def settled(self, address: Address | None, *, watchful: bool) -> bool:
        """Return whether *address* is what the sentinels said; to the watchful, some seconds ago at most."""
        return self._sure and address == self._address and not (watchful and self._stale)

    async def locate(self, *, watchful: bool) -> Address | None:
        """Return what the sentinels say; all of them are asked at once."""
        async with self._looking:
            if not self._sure or (watchful and self._stale):
                await self._look()
        return self._address

    def doubt(self) -> None:
        """Ask the sentinels again."""
        self._sure = False
        self._doubts += 1

    async def watch(self) -> None:
        """Listen to one sentinel after the other.

        A primary that is replaced on purpose goes on for seconds, and what it takes then is lost: its answers
        do not show it.
        """
        while True:
            for address in self._sentinels:
                with contextlib.suppress(exceptions.RedisError, OSError):
                    await self._listen(address)
                await asyncio.sleep(patience.LISTEN)

    async def _listen(self, address: Address) -> None:
        async with _connected(self.server.to_sentinel(address, patience.SENTINEL)) as sentinel:
            async with asyncio.timeout(patience.SENTINEL):
                await _asked(sentinel, "SUBSCRIBE", SWITCHED)
            # Whatever was said while nobody listened.
            self.doubt()
            while True:
                *_, told = await sentinel.read_response()
                if told.split(b" ")[0].decode() == self._master:
                    self.doubt()

    @property
    def _stale(self) -> bool:
        return self._clock() >= self._look_at

    async def _look(self) -> None:
        doubts = self._doubts
        told, silent = await self._ask_all()
        if told:
            # A sentinel that has not heard of a failover yet tells of the former primary, in an older epoch.
            self._address = max(told)[1]
        elif self._address is None:
            why = "; ".join(f"{' and '.join(where)}: {what}" for what, where in silent.items())
            raise exceptions.ConnectionError(f"no sentinel knows {self._master!r}: {why}")
        # Also where none has answered: a primary that goes on must not suffer from that. But not for long.
        self._look_at = self._clock() + (patience.RECHECK if told else patience.UNKNOWN)
        self._sure = doubts == self._doubts

    async def _ask_all(self) -> tuple[list[Seen], dict[str, list[str]]]:
        """Return what was said soon after the first one to know; and who said nothing, by the reason."""
        told: list[Seen] = []
        silent: dict[str, list[str]] = {}
        async with asyncio.TaskGroup() as group:
            asking = {group.create_task(self._ask(address)): address for address in self._sentinels}
            waiting = set(asking)
            while waiting:
                within = patience.SECOND_OPINION if told else None
                done, waiting = await asyncio.wait(
                    waiting, timeout=within, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    break
                for task in done:
                    seen = task.result()
                    if isinstance(seen, str):
                        silent.setdefault(seen, []).append(shown(asking[task]))
                    else:
                        told.append(seen)
            for task in waiting:
                task.cancel()
        return told, silent

    async def _ask(self, address: Address) -> Seen | str:
        """Return what the sentinel at *address* says of the primary, or why that is of no use."""
        try:
            async with (
                asyncio.timeout(patience.SENTINEL),
                _connected(self.server.to_sentinel(address, patience.SENTINEL)) as sentinel,
            ):
                fields = await _asked(sentinel, "SENTINEL", "MASTER", self._master)
        except (exceptions.RedisError, OSError) as error:
            return _why(error)
        state = {name.decode(): value.decode() for name, value in zip(fields[::2], fields[1::2], strict=True)}
        flags = state["flags"].split(",")
        if "master" not in flags or {"s_down", "o_down"} & set(flags):
            return "takes it for down"
        return int(state.get("config-epoch", 0)), (state["ip"], int(state["port"]))

    def __repr__(self) -> str:
        return f"<BehindSentinels of {self._master}, now {self._address}>"


class Topology:
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


class InCluster:
    """Where the slot of one shard is."""

    def __init__(self, topology: Topology, key: str) -> None:
        """Look for the slot of *key*, and with it of every key of its shard: they share a hash tag."""
        self.server = topology.servers[0]
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


def places(servers: Sequence[Server], keys: Sequence[str], *, cluster: bool) -> list[Place]:
    """Return the place of each shard; *keys* has a key of each. Servers that are independent take turns."""
    if cluster:
        topology = Topology(servers)
        return [InCluster(topology, key) for key in keys]
    apart: list[Place] = [BehindSentinels(each) if each.sentinels else Fixed(each) for each in servers]
    return [apart[number % len(apart)] for number in range(len(keys))]


async def _slots(server: Server, address: Address | None) -> Sequence[Slots]:
    """Return what one node of a Cluster knows: ranges of slots, each with its primary."""
    connection = server.connection(patience.SENTINEL)
    if address is not None:
        connection.host, connection.port = address
    async with asyncio.timeout(patience.SENTINEL), _connected(connection):
        told = await _asked(connection, "CLUSTER", "SLOTS")
    # A node that was not told its own name or address leaves it out: it is the one that was asked.
    return [
        (int(first), int(last), (connection.host if host in _NAMELESS else host.decode(), int(port)))
        for first, last, (host, port, *_), *_ in told
    ]


_NAMELESS = frozenset((None, b"", b"?"))


@contextlib.asynccontextmanager
async def _connected(connection: Any) -> AsyncIterator[Any]:
    """Have *connection*, until the end of the block at most."""
    try:
        await connection.connect()
        yield connection
    finally:
        await connection.disconnect(nowait=True)


async def _asked(connection: Any, *command: str) -> Any:
    await connection.send_command(*command)
    return await connection.read_response()


def _why(error: Exception) -> str:
    """Return *error* in a few words, without the address: redis-py puts it into some of its own."""
    if isinstance(error, TimeoutError | exceptions.TimeoutError):
        return "no answer in time"
    if isinstance(error.__context__, OSError) and error.__context__.strerror:
        return error.__context__.strerror
    return str(error) or type(error).__name__
