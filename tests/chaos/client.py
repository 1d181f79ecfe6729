"""A client that records everything that it receives.

`protocol.client` decides what it does: which positions it resumes from, after which delay it reconnects.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Any

import msgpack
import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus
from websockets.typing import Subprotocol

from protocol.client import (
    ABNORMAL_CLOSURE,
    NO_EFFECTS,
    ClientState,
    Decision,
    Effects,
    RetrySubscription,
    Stop,
)
from protocol.commands import map_of
from protocol.errors import CloseCode, ErrorCode
from protocol.messages import ClientMessage, Connect, Ping, Subscribe
from protocol.server_messages import server_message_of
from tests.chaos.client_policy import DEFAULT, ClientPolicy, ClientStopped
from tests.chaos.history import (
    Delivered,
    Gap,
    History,
    ReceivedMessage,
    Subscribed,
    SubscribeSent,
    SubscriptionEnded,
    offset,
)
from tests.chaos.publisher import publish_name_of
from tests.e2e.clients import JSON, MSGPACK, PATH

NO_POSITION = "0"
"""Stands for the position of a channel that has none."""

REFUSED_STATUS = 503
"""The only HTTP status with which a gateway of these tests may refuse a handshake."""


class RecordingClient:
    """Subscribes to *channels* and reconnects, for as long as `run` runs.

    Args:
        name: Its name in the history.
        ports: Where it connects: to the first one; each connection that fails or ends leads to the next one.
        channels: What it subscribes to, from where it left off.
        history: Where it records what it sends and receives.
        random: Chooses delays, and whether `connect` carries the subscriptions.
        subprotocol: JSON or MessagePack.
        policy: Its delays and timeouts.
        token: What it sends with `connect`.
    """

    def __init__(
        self,
        name: str,
        ports: Sequence[int],
        channels: Iterable[str],
        history: History,
        *,
        random: Random,
        subprotocol: str = JSON,
        policy: ClientPolicy = DEFAULT,
        token: str | None = None,
    ) -> None:
        self.name = name
        self.ports = tuple(ports)
        self.channels = tuple(channels)
        self.close_codes: Counter[int] = Counter()
        """How often a connection ended with each close code; 1006 where it ended without one."""
        self._history = history
        self._random = random
        self._subprotocol = subprotocol
        self._policy = policy
        self._token = token
        self._state = ClientState(self.channels, random=random.random, backoff=policy.backoff)
        self._changed = asyncio.Event()

    @property
    def subscribed_channels(self) -> set[str]:
        """The channels that the present connection is subscribed to."""
        return {channel for channel, kept in self._state.channels.items() if kept.subscribed}

    @property
    def node(self) -> str:
        """The name of the node that serves it; empty while it is not connected."""
        return "" if self._state.connected is None else self._state.connected.node

    @property
    def connection(self) -> str:
        """The id of its connection; empty while it is not connected."""
        return "" if self._state.connected is None else self._state.connected.connection

    async def run(self) -> None:
        """Connect, resume and receive until cancelled.

        Raises:
            ClientStopped: The gateway sent what makes a client stop, or what it must not send.
        """
        for port in itertools.cycle(self.ports):
            decision = await self._attempt(port)
            if isinstance(decision, Stop):
                raise ClientStopped(f"{self.name}: {decision.reason}")
            await asyncio.sleep(decision.after_seconds)

    async def wait_for_positions(self, positions: Mapping[str, str]) -> None:
        """Wait until it is subscribed to all its channels, each at least at its position in *positions*."""
        while not self.has_reached(positions):
            self._changed.clear()
            await self._changed.wait()

    def has_reached(self, positions: Mapping[str, str]) -> bool:
        """Return whether `wait_for_positions` would return at once."""
        return all(
            channel in self._state.channels
            and self._state.channels[channel].subscribed
            and offset(self._state.channels[channel].position or NO_POSITION)
            >= offset(positions.get(channel) or NO_POSITION)
            for channel in self.channels
        )

    def is_at(self, positions: Mapping[str, str]) -> bool:
        """Return whether the position of each of its channels is the one in *positions*."""
        return all(
            channel in self._state.channels and self._state.channels[channel].position == positions[channel]
            for channel in self.channels
        )

    # ------------------------------------------------------------ one connection

    async def _attempt(self, port: int) -> Decision:
        """Connect to *port* and receive until the connection ends; return what follows."""
        in_connect = self._random.random() < 0.5
        command = self._state.connect_command(self._token, channels=None if in_connect else ())
        try:
            connection = await connect(
                f"ws://127.0.0.1:{port}{PATH}",
                subprotocols=[Subprotocol(self._subprotocol)],
                compression=None,
                proxy=None,
                ping_interval=None,
                max_size=None,
                open_timeout=self._policy.reply_seconds,
            )
        except InvalidStatus as refused:
            response = refused.response
            if response.status_code != REFUSED_STATUS:
                raise ClientStopped(f"{self.name} was refused with {response.status_code}") from refused
            after = float(response.headers.get("Retry-After", 0))
            return self._state.on_handshake_rejected(response.status_code, retry_after_seconds=after)
        except (OSError, EOFError, ConnectionClosed, InvalidMessage):
            return self._state.on_connection_lost()
        code = await self._until_closed(connection, command)
        self.close_codes[code] += 1
        return self._state.on_closed(code)

    async def _until_closed(self, connection: ClientConnection, command: Connect) -> int:
        """Return the close code with which the connection ended."""
        code = ABNORMAL_CLOSURE
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._receive_all(connection, command, tasks))
        except* ConnectionClosed as closed:
            code = _code_in(closed)
        except* TimeoutError:
            pass
        else:
            # The gateway refused `connect`, and `protocol.client` closes then.
            code = CloseCode.NORMAL
        finally:
            self._history.record(SubscriptionEnded(self.name))
            # Not close(), which waits for the answer of a gateway that may be gone.
            connection.transport.abort()
            await connection.wait_closed()
        return code

    async def _receive_all(
        self, connection: ClientConnection, command: Connect, tasks: asyncio.TaskGroup
    ) -> None:
        """Send *command* and handle what arrives until `protocol.client` decides to close.

        Raises:
            TimeoutError: Nothing arrived for too long, not even in reply to a `ping`.
            ConnectionClosed: The connection ended.
        """
        await self._send(connection, command)
        for channel in self.channels if not command.subs else ():
            await self._send(connection, self._state.subscribe_command(channel))
        while True:
            try:
                async with asyncio.timeout(self._idle_seconds()):
                    data = await connection.recv(decode=False)
            except TimeoutError:
                await self._send(connection, Ping(self._state.next_id()))
                async with asyncio.timeout(self._policy.reply_seconds):
                    data = await connection.recv(decode=False)
            received = msgpack.unpackb(data) if self._subprotocol == MSGPACK else orjson.loads(data)
            effects = self._on_received(received)
            if effects.decision is not None:
                return
            if effects.reply is not None:
                await self._send(connection, effects.reply)
            for retry in effects.retries:
                tasks.create_task(self._subscribe_later(connection, retry))

    async def _subscribe_later(self, connection: ClientConnection, retry: RetrySubscription) -> None:
        await asyncio.sleep(retry.after_seconds)
        await self._send(connection, self._state.subscribe_command(retry.channel))

    def _idle_seconds(self) -> float:
        """Return how long nothing may arrive before a `ping` is sent."""
        if self._state.connected is None:
            return self._policy.reply_seconds
        idle = self._policy.idle_seconds
        return self._state.connected.heartbeat if idle is None else idle

    # ------------------------------------------------------------ sent and received

    async def _send(self, connection: ClientConnection, command: ClientMessage) -> None:
        """Record the subscriptions that *command* asks for, and send it."""
        spelled = map_of(command)
        match command:
            case Connect(subs=subs):
                for channel in subs:
                    since = spelled["subs"][channel].get("since")
                    self._history.record(SubscribeSent(self.name, channel, since))
            case Subscribe(channel=channel):
                self._history.record(SubscribeSent(self.name, channel, spelled.get("since")))
        async with asyncio.timeout(self._policy.reply_seconds):
            if self._subprotocol == MSGPACK:
                await connection.send(msgpack.packb(spelled))
            else:
                await connection.send(orjson.dumps(spelled), text=True)

    def _on_received(self, received: Mapping[str, Any]) -> Effects:
        """Record *received*, and return what `protocol.client` does because of it."""
        self._record(received)
        if received["type"] == "message":
            if "message" in received:
                self._state.advance(received["channel"], received["message"])
            effects = NO_EFFECTS
        else:
            effects = self._state.on_message(server_message_of(received))
        if effects.dropped:
            raise ClientStopped(f"{self.name} lost its subscriptions {effects.dropped}")
        self._changed.set()
        return effects

    def _record(self, received: Mapping[str, Any]) -> None:
        match received:
            case {"type": "message", "channel": str(channel)}:
                self._history.record(Delivered(self.name, channel, _message_of(received)))
            case {"type": "connected"}:
                for answer in received["subs"].values():
                    self._record(answer)
            case {"type": "subscribed", "channel": str(channel), "recovered": bool(recovered)}:
                messages = tuple(map(_message_of, received["messages"]))
                position = received.get("position", "")
                self._history.record(Subscribed(self.name, channel, position, recovered, messages))
            case {"type": "gap", "channel": str(channel), "reason": str(reason)}:
                self._history.record(Gap(self.name, channel, reason, received.get("position", "")))
            case {"type": "unsubscribed", "channel": str(channel)}:
                self._history.record(SubscriptionEnded(self.name, channel))
            case {"type": "error", "code": ErrorCode.INTERNAL}:
                # A client retries after it, but no fault outside the gateway explains it.
                raise ClientStopped(f"{self.name} was answered {received}")

    def __repr__(self) -> str:
        subscribed = len(self.subscribed_channels)
        return f"<RecordingClient {self.name} subscribed to {subscribed} of {len(self.channels)}>"


def _message_of(received: Mapping[str, Any]) -> ReceivedMessage:
    return ReceivedMessage(received.get("message", ""), publish_name_of(received["data"]))


def _code_in(closed: BaseExceptionGroup[ConnectionClosed]) -> int:
    """Return the close code that the gateway sent; 1006 where it sent none."""
    for error in closed.exceptions:
        if isinstance(error, ConnectionClosed) and error.rcvd is not None:
            return error.rcvd.code
    return ABNORMAL_CLOSURE
