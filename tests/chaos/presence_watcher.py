"""A client that counts who joins and who leaves some channels."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Self

import orjson

from tests.chaos.client import RecordingClient
from tests.e2e.clients import TIMEOUT_SECONDS, Client

PresenceEntry = tuple[str, str]
"""A channel, and the connection of a member."""


class PresenceWatcher:
    """Counts joins and leaves; it reads from its socket only in `receive_until` and `receive_up_to`."""

    def __init__(self, client: Client, channels: Iterable[str]) -> None:
        self.joins: Counter[PresenceEntry] = Counter()
        self.leaves: Counter[PresenceEntry] = Counter()
        self._client = client
        self._channels = frozenset(channels)
        self._last_data: dict[str, object] = {}

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

    async def receive_until(self, condition: Callable[[Self], bool]) -> None:
        """Receive until *condition* holds."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while not condition(self):
                self._count(orjson.loads(await self._client.connection.recv()))

    async def receive_up_to(self, data: object) -> None:
        """Receive everything up to a message with *data* in each channel."""
        await self.receive_until(
            lambda _: all(self._last_data.get(channel) == data for channel in self._channels)
        )

    def _count(self, message: dict[str, object]) -> None:
        match message:
            case {"type": "join", "channel": str(channel), "member": {"connection": str(connection)}}:
                self.joins[channel, connection] += 1
            case {"type": "leave", "channel": str(channel), "member": {"connection": str(connection)}}:
                self.leaves[channel, connection] += 1
            case {"type": "message", "channel": str(channel), "data": data}:
                self._last_data[channel] = data

    def __repr__(self) -> str:
        return f"<PresenceWatcher {self.joins.total()} joins {self.leaves.total()} leaves>"


def presence_entries(clients: Iterable[RecordingClient]) -> set[PresenceEntry]:
    """Return where *clients* are present now."""
    return {(channel, client.connection) for client in clients for channel in client.subscribed_channels}
