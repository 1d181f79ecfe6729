"""A client as PROTOCOL section 2 wants it, which writes down everything that it is told.

It comes back after whatever happens to its connection, to the next node where there are several, hands back
what it knows, and believes nobody.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Any

import msgpack
import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus
from websockets.typing import Subprotocol

from tests.chaos.client_policy import DEFAULT, REACTIONS, RETRY, Habits, Reaction, Stopped
from tests.chaos.history import Asked, Delivered, Gap, Heard, History, Left, Subscribed, offset
from tests.chaos.publisher import name_of
from tests.e2e.wire import JSON, MSGPACK, PATH

NOWHERE = "0"
"""Where a channel stands of which nothing is known."""


class Client:
    """Follows *channels* for as long as it runs."""

    def __init__(
        self,
        name: str,
        ports: Sequence[int],
        channels: Iterable[str],
        history: History,
        *,
        random: Random,
        subprotocol: str = JSON,
        habits: Habits = DEFAULT,
        token: str | None = None,
    ) -> None:
        """Connect to the first of *ports*; each connection that fails or ends leads to the next one."""
        self.name = name
        self.ports = tuple(ports)
        self.channels = tuple(channels)
        self.positions: dict[str, str] = {}
        """What it would resume from."""
        self.following: set[str] = set()
        """Channels that it is subscribed to now."""
        self.node = self.connection = ""
        """The node that serves it now, and what the connection is called there; empty without one."""
        self.ends: Counter[int] = Counter()
        """How often a connection ended with each close code; 1006 without one."""
        self._history = history
        self._random = random
        self._subprotocol = subprotocol
        self._habits = habits
        self._token = token
        self._moved = asyncio.Event()
        self._asked: dict[int, str] = {}
        self._ids = 0
        self._tries = 0
        self._failures = 0
        self._told_delay = 0.0
        self._silence = habits.answer

    # ------------------------------------------------------------ for the test

    async def run(self) -> None:
        """Connect, resume and listen until cancelled; `Stopped` where the gateway sends it away for good."""
        while True:
            connection = await self._open()
            reaction = Reaction.RESUME if connection is None else await self._live(connection)
            if reaction is Reaction.AS_TOLD:
                await asyncio.sleep(self._told_delay)
            else:
                await asyncio.sleep(self._habits.delay(reaction, self._failures, self._random))
            self._failures += 1
            self._tries += 1

    async def reach(self, positions: Mapping[str, str]) -> None:
        """Wait until it follows all of its channels, none before its place in *positions*."""
        while not self.has_reached(positions):
            self._moved.clear()
            await self._moved.wait()

    def has_reached(self, positions: Mapping[str, str]) -> bool:
        return all(
            channel in self.following
            and offset(self.positions.get(channel, NOWHERE)) >= offset(positions.get(channel, NOWHERE))
            for channel in self.channels
        )

    # ------------------------------------------------------------ one connection

    async def _open(self) -> ClientConnection | None:
        """Shake hands; None where nobody is there, or nobody who wants to now."""
        port = self.ports[self._tries % len(self.ports)]
        try:
            return await connect(
                f"ws://127.0.0.1:{port}{PATH}",
                subprotocols=[Subprotocol(self._subprotocol)],
                compression=None,
                proxy=None,
                ping_interval=None,
                max_size=None,
                open_timeout=self._habits.answer,
            )
        except InvalidStatus as refused:
            if refused.response.status_code != 503:
                raise Stopped(f"{self.name} was refused with {refused.response.status_code}") from refused
        except (OSError, EOFError, ConnectionClosed, InvalidMessage):
            pass
        return None

    async def _live(self, connection: ClientConnection) -> Reaction:
        """Restore everything and listen; return how to go on after the end."""
        code, self._told_delay = 1006, 0.0
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen(connection, tasks))
        except* ConnectionClosed as ends:
            code = _code(ends)
        except* TimeoutError:
            pass
        finally:
            self._history.record(Left(self.name))
            self.following.clear()
            self._asked.clear()
            self.node = self.connection = ""
            # Not a close, which waits for an answer: what is over is over at once.
            connection.transport.abort()
            await connection.wait_closed()
        self.ends[code] += 1
        reaction = REACTIONS.get(code, Reaction.RESUME)
        if reaction is Reaction.STOP:
            raise Stopped(f"{self.name} was sent away with {code}")
        return reaction

    async def _listen(self, connection: ClientConnection, tasks: asyncio.TaskGroup) -> None:
        """Say hello, and take whatever comes; `TimeoutError` where nothing does, not even when asked for."""
        await self._greet(connection)
        while True:
            try:
                async with asyncio.timeout(self._silence):
                    data = await connection.recv(decode=False)
            except TimeoutError:
                await self._say(connection, "ping", id=self._next_id())
                async with asyncio.timeout(self._habits.answer):
                    data = await connection.recv(decode=False)
            message = msgpack.unpackb(data) if self._subprotocol == MSGPACK else orjson.loads(data)
            for again in self._take(message):
                tasks.create_task(self._subscribe_later(connection, *again))
            if message["type"] == "ping":
                await self._say(connection, "pong")

    # ------------------------------------------------------------ what it says

    async def _greet(self, connection: ClientConnection) -> None:
        """Restore all channels with `connect`, or say `connect` alone and subscribe to each."""
        self._silence = self._habits.answer
        at_once = self._random.random() < 0.5
        subs = {channel: self._ask(channel) for channel in self.channels if at_once}
        token = {} if self._token is None else {"token": self._token}
        await self._say(connection, "connect", id=self._next_id(), subs=subs, **token)
        if not at_once:
            for channel in self.channels:
                await self._subscribe(connection, channel)

    async def _subscribe(self, connection: ClientConnection, channel: str) -> None:
        id = self._next_id()
        self._asked[id] = channel
        await self._say(connection, "subscribe", id=id, channel=channel, **self._ask(channel))

    async def _subscribe_later(self, connection: ClientConnection, channel: str, delay: float) -> None:
        await asyncio.sleep(delay)
        await self._subscribe(connection, channel)

    def _ask(self, channel: str) -> dict[str, str]:
        """Note that a subscription is asked for, and return from where."""
        since = self.positions.get(channel)
        self._history.record(Asked(self.name, channel, since))
        return {} if since is None else {"since": since}

    async def _say(self, connection: ClientConnection, type: str, **fields: Any) -> None:
        message = {"type": type, **fields}
        async with asyncio.timeout(self._habits.answer):
            if self._subprotocol == MSGPACK:
                await connection.send(msgpack.packb(message))
            else:
                await connection.send(orjson.dumps(message), text=True)

    def _next_id(self) -> int:
        self._ids += 1
        return self._ids

    # ------------------------------------------------------------ what it hears

    def _take(self, message: Mapping[str, Any]) -> list[tuple[str, float]]:
        """Note what was heard; return channels to subscribe to again, each with in how many seconds."""
        match message:
            case {"type": "message", "channel": str(channel)}:
                heard = _heard(message)
                self._history.record(Delivered(self.name, channel, heard))
                self._move(channel, heard.id)
            case {"type": "connected"}:
                return self._connected(message)
            case {"type": "subscribed", "channel": str(channel)}:
                self._subscribed(channel, message)
            case {"type": "gap", "channel": str(channel), "reason": str(reason)}:
                position = message.get("position", "")
                self._history.record(Gap(self.name, channel, reason, position))
                self._move(channel, position)
            case {"type": "unsubscribed", "channel": str(channel)}:
                self._history.record(Left(self.name, channel))
                self.following.discard(channel)
            case {"type": "reconnect", "after_ms": int(delay)}:
                self._told_delay = delay / 1000
            case {"type": "error"}:
                return self._refused(self._asked.get(message.get("id", 0), ""), message)
        return []

    def _connected(self, message: Mapping[str, Any]) -> list[tuple[str, float]]:
        self._failures = 0
        self.node, self.connection = message.get("node", ""), message.get("connection", "")
        self._silence = message["heartbeat"] if self._habits.silence is None else self._habits.silence
        again: list[tuple[str, float]] = []
        for channel, answer in message["subs"].items():
            if answer["type"] == "subscribed":
                self._subscribed(channel, answer)
            else:
                again += self._refused(channel, answer)
        return again

    def _subscribed(self, channel: str, answer: Mapping[str, Any]) -> None:
        position = answer.get("position", "")
        messages = tuple(map(_heard, answer["messages"]))
        self._history.record(Subscribed(self.name, channel, position, answer["recovered"], messages))
        self.following.add(channel)
        self._move(channel, position)

    def _refused(self, channel: str, error: Mapping[str, Any]) -> list[tuple[str, float]]:
        if error["code"] not in RETRY:
            raise Stopped(f"{self.name} was answered {error} for {channel!r}")
        # Where it is no channel that was refused, but `connect`, a close follows.
        return [(channel, error["retry_after_ms"] / 1000)] if channel else []

    def _move(self, channel: str, position: str) -> None:
        if position:
            self.positions[channel] = position
        self._moved.set()

    def __repr__(self) -> str:
        return f"<Client {self.name} follows {len(self.following)} of {len(self.channels)}>"


def _heard(message: Mapping[str, Any]) -> Heard:
    return Heard(message.get("message", ""), name_of(message["data"]))


def _code(ends: BaseExceptionGroup[ConnectionClosed]) -> int:
    """Return the close code of a connection that everything ended with; 1006 where none came."""
    for end in ends.exceptions:
        if isinstance(end, ConnectionClosed) and end.rcvd is not None:
            return end.rcvd.code
    return 1006
