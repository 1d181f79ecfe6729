"""A node without sockets: broker, hub and sessions on memory transports, on a loop with virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from typing import Any

from gateway.access.admission import Admission, AdmissionLimits
from gateway.access.keys import StaticKeys
from gateway.access.permissions import ChannelRules, Namespaces
from gateway.access.ratelimit import CommandRates, Rate
from gateway.access.tokens import Verifier
from gateway.broker.base import Broker, Publication, Receipt, Retention, UserCommand
from gateway.broker.memory.broker import MemoryBroker
from gateway.clock import FakeClock
from gateway.hub import dispatch
from gateway.hub.heartbeat import Heartbeat
from gateway.hub.hub import Hub
from gateway.hub.services import Services, SessionLimits
from gateway.hub.session import Session
from gateway.tasks import Slicer, Tasks
from gateway.transport.memory import MemoryTransport
from protocol.codec import JSON, Codec
from protocol.messages import (
    ClientMessage,
    Connect,
    Connected,
    Error,
    Message,
    ServerMessage,
    Subscribe,
    Subscribed,
)
from protocol.payload import payload_of
from tests.gateway.access.signing import HS256, NOW, forged
from tests.gateway.virtual_time import until_idle, virtual_loop

OPEN = ChannelRules("default", subscribe="anyone", publish="anyone")
RULES = {
    "default": OPEN,
    "h": replace(OPEN, namespace="h", history=100, history_ttl=300.0),
    "p": replace(OPEN, namespace="p", presence=True, join_leave=True),
    "hp": replace(OPEN, namespace="hp", history=100, presence=True, join_leave=True),
    "token": replace(OPEN, namespace="token", subscribe="token", publish="nobody"),
    "nobody": replace(OPEN, namespace="nobody", subscribe="nobody", publish="nobody"),
    "newest": replace(OPEN, namespace="newest", history=100, on_slow="conflate"),
    "dropping": replace(OPEN, namespace="dropping", history=100, on_slow="drop_oldest"),
    "strict": replace(OPEN, namespace="strict", history=100, on_slow="disconnect"),
}
"""`h` keeps history and `p` presence; the others are named for their rule, or for their overflow policy."""


def memory_broker(**options: Any) -> MemoryBroker:
    """Return an embedded broker whose clock is the running loop's."""
    clock = virtual_loop().clock
    return MemoryBroker(sweep_interval=0, clock=clock, wall_clock=wall_clock_of(clock), **options)


def wall_clock_of(clock: FakeClock) -> WallClock:
    """Return the wall clock that belongs to *clock*: it shows `NOW` when a loop starts."""
    return WallClock(clock)


class WallClock(FakeClock):
    """A wall clock that goes with another clock, and is stepped by `step` seconds."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock
        self.step = 0.0

    def __call__(self) -> float:
        return NOW + self._clock() - 1_000.0 + self.step


class Node:
    """A node; `connect` gives a connected client."""

    def __init__(
        self,
        *,
        rules: Mapping[str, ChannelRules] = RULES,
        strict: bool = False,
        limits: SessionLimits | None = None,
        broker: Broker | None = None,
        admission: AdmissionLimits | None = None,
        user_rate: Rate | None = None,
        address_rate: Rate | None = None,
        interval: float = 25.0,
        grace: float = 10.0,
        **services: Any,
    ) -> None:
        loop = virtual_loop()
        self.clock, self.wall = loop.clock, wall_clock_of(loop.clock)
        self.errors: list[BaseException] = []
        self.tasks = Tasks(self.errors.append)
        self.broker = memory_broker() if broker is None else broker
        self.namespaces = Namespaces(rules, strict=strict)
        self.hub = Hub(
            "n1", self.broker, scheduler=loop, tasks=self.tasks, clock=self.clock, wall_clock=self.wall
        )
        self.admission = Admission(admission or AdmissionLimits())
        limits = limits or SessionLimits()
        self.rates = CommandRates(
            Rate(limits.commands_per_second, limits.command_burst), user=user_rate, address=address_rate
        )
        self.heartbeat = Heartbeat(loop, interval=interval, grace=grace)
        self.released: list[str] = []
        verifier = Verifier(StaticKeys((HS256,)), audience=None, issuer=None, clock=self.wall)
        self.services = Services(
            hub=self.hub,
            broker=self.broker,
            namespaces=self.namespaces,
            admission=self.admission,
            heartbeat=self.heartbeat,
            tasks=self.tasks,
            slicer=Slicer(),
            rates=self.rates,
            limits=limits,
            clock=self.clock,
            wall_clock=self.wall,
            elapsed_clock=self.clock,
            on_error=self.errors.append,
            **{"verifier": verifier, "anonymous": True, **services},
        )
        self.clients: list[Client] = []

    def open(
        self,
        codec: Codec = JSON,
        *,
        capacity: int | None = None,
        header: str | None = None,
        address: str = "127.0.0.1",
    ) -> Client:
        """Open a connection on which nothing was sent yet."""
        transport = MemoryTransport(codec, capacity=capacity, peer=address)
        client = Client(self, transport, header)
        self.clients.append(client)
        return client

    async def connect(
        self, codec: Codec = JSON, *, capacity: int | None = None, user: str = "", **connect: Any
    ) -> Client:
        """Open a connection and connect, as *user* with a token, or anonymously."""
        client = self.open(codec, capacity=capacity)
        token = self.token(user) if user else None
        client.welcome = await client.connect(Connect(client.next_id(), token=token, **connect))
        return client

    def token(self, user: str, *, ttl: float = 3_600.0, **claims: Any) -> str:
        """Return a token that is valid for *ttl* seconds from now."""
        return forged({"alg": "HS256"}, {"sub": user, "exp": self.wall() + ttl, **claims})

    def publication(self, channel: str, value: Any, **options: Any) -> Publication:
        """Return a publication under the rules of *channel*."""
        rules = self.namespaces.rules(channel)
        retention = Retention.of(rules.history, rules.history_ttl)
        return Publication(channel, payload_of(value), **{"retention": retention, **options})

    async def publish(self, channel: str, *values: Any, **options: Any) -> Receipt:
        """Publish *values* one after the other; return the receipt of the last."""
        for value in values:
            receipt = await self.broker.publish(self.publication(channel, value, **options))
        return receipt

    async def send_user_command(self, user: str, action: Any, channel: str = "", **options: Any) -> None:
        """Carry out a command of the push API for the connections of *user*."""
        await self.broker.send_user_command(UserCommand(user, action, channel, **options))
        await until_idle()

    def assert_nothing_left(self) -> None:
        """Fail where sessions have left anything behind."""
        figures = self.hub.statistics()
        assert (figures["sessions"], figures["users"], figures["channels"]) == (0, 0, 0), self.hub.channels
        assert (figures["behind"], figures["commands_waiting"], figures["cached_bytes"]) == (0, 0, 0), figures
        assert self.heartbeat.statistics()["sessions"] == 0
        assert self.admission.statistics()["users"] == 0
        assert (self.rates.users.in_use, self.rates.addresses.in_use) == (0, 0)
        assert self.tasks.statistics() == {"running": 0}
        assert all(client.session.statistics()["waiting"] == 0 for client in self.clients)
        assert sorted(self.released) == sorted(client.session.connection for client in self.clients)


class Client:
    """One connection, seen from both ends."""

    def __init__(self, node: Node, transport: MemoryTransport, header: str | None) -> None:
        self.node = node
        self.transport = transport
        self.ids = count(1_000)
        self.welcome: Connected
        self.session = Session(
            transport,
            transport.codec,
            node.services,
            dispatcher=dispatch,
            on_ended=self._release,
            header_token=header,
            address=transport.peer,
        )
        transport.attach(self.session)

    def _release(self) -> None:
        self.node.released.append(self.session.connection)

    def next_id(self) -> int:
        return next(self.ids)

    def send(self, *commands: ClientMessage) -> None:
        """Send *commands* without waiting for replies."""
        for command in commands:
            self.transport.send(command)

    async def request(self, command: Any) -> Any:
        """Send *command* and return its reply, which must come without time passing."""
        self.send(command)
        await until_idle()
        return self.reply(command.id)

    def reply(self, command: int) -> Any:
        """Return the one reply to *command*."""
        (reply,) = self.replies(command)
        return reply

    def replies(self, command: int) -> list[ServerMessage]:
        return [message for message in self.transport.messages if getattr(message, "id", None) == command]

    async def connect(self, command: Connect) -> Connected:
        reply = await self.request(command)
        assert isinstance(reply, Connected), reply
        return reply

    async def subscribe(self, channel: str, **options: Any) -> Subscribed:
        """Subscribe to *channel* and return the reply, which must not be an error."""
        reply = await self.request(Subscribe(self.next_id(), channel, **options))
        assert isinstance(reply, Subscribed), reply
        return reply

    async def request_rejected(self, command: Any) -> Error:
        """Send *command* and return the error that answers it."""
        reply = await self.request(command)
        assert isinstance(reply, Error), reply
        return reply

    def values(self, channel: str | None = None) -> list[Any]:
        """Return the values of all messages pushed so far, of one *channel* or of all."""
        return values_of(self.transport.messages, channel)

    def disconnect(self) -> None:
        """Close the connection from the client's side."""
        self.transport.disconnect(1000)


def values_of(messages: Any, channel: str | None = None) -> list[Any]:
    """Return the values of the *messages* of one *channel*, or of all."""
    return [
        message.data.value
        for message in messages
        if isinstance(message, Message) and channel in (None, message.channel)
    ]


@asynccontextmanager
async def running_node(**options: Any) -> AsyncIterator[Node]:
    """Give a running node; afterwards all clients disconnect, and nothing of them may be left."""
    node = Node(**options)
    await node.broker.start(node.hub)
    try:
        yield node
        await until_idle()
        for client in node.clients:
            client.disconnect()
        await until_idle()
        node.assert_nothing_left()
        assert node.errors == []
    finally:
        node.heartbeat.close()
        await node.tasks.close()
        await node.broker.close()
