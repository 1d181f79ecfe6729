"""A client that hears who comes to some channels and who goes, and counts each."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Self

import orjson

from tests.chaos.client import Client as Guest
from tests.e2e.wire import PATIENCE, Client

Place = tuple[str, str]
"""A channel, and the connection of a member."""


class Watcher:
    """Follows joins and leaves; it hears them when it is asked to."""

    def __init__(self, client: Client, channels: Iterable[str]) -> None:
        self.joined: Counter[Place] = Counter()
        self.left: Counter[Place] = Counter()
        self._client = client
        self._channels = frozenset(channels)
        self._told: dict[str, object] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, port: int, channels: Iterable[str]) -> AsyncIterator[Self]:
        """Watch *channels*, which have presence, from the node on *port*."""
        watched = list(channels)
        async with Client.open(port, subs={channel: {} for channel in watched}) as client:
            subs = client.connected["subs"].values()
            assert all(answer["type"] == "subscribed" for answer in subs), subs
            yield cls(client, watched)

    @property
    def connection(self) -> str:
        return str(self._client.connected["connection"])

    async def hear(self, until: Callable[[Self], bool]) -> None:
        """Hear what there is until it is enough."""
        async with asyncio.timeout(PATIENCE):
            while not until(self):
                self._take(orjson.loads(await self._client.connection.recv()))

    async def hear_all(self, data: object) -> None:
        """Hear everything up to a message with *data* in each channel."""
        await self.hear(lambda _: all(self._told.get(channel) == data for channel in self._channels))

    def _take(self, message: dict[str, object]) -> None:
        match message:
            case {"type": "join", "channel": str(channel), "member": {"connection": str(connection)}}:
                self.joined[channel, connection] += 1
            case {"type": "leave", "channel": str(channel), "member": {"connection": str(connection)}}:
                self.left[channel, connection] += 1
            case {"type": "message", "channel": str(channel), "data": data}:
                self._told[channel] = data

    def __repr__(self) -> str:
        return f"<Watcher {self.joined.total()} joined {self.left.total()} left>"


def places(guests: Iterable[Guest]) -> set[Place]:
    """Return where *guests* are present now."""
    return {(channel, guest.connection) for guest in guests for channel in guest.following}
