"""A whole node without sockets: broker, hub, sessions on memory links, on a loop whose time stands still."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from typing import Any

from gateway.access.admission import Admission, AdmissionLimits
from gateway.access.keys import StaticKeys
from gateway.access.permissions import ChannelRules, Namespaces
from gateway.access.tokens import Verifier
from gateway.broker.base import Broker, Publication, Receipt, Retention, UserCommand
from gateway.broker.memory.broker import MemoryBroker
from gateway.clock import FakeClock
from gateway.hub import dispatch
from gateway.hub.heartbeat import Heartbeat
from gateway.hub.hub import Hub
from gateway.hub.services import Services, SessionLimits
from gateway.hub.session import Session
from gateway.tasks import Tasks
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
from tests.gateway.standing import quiet, the_loop

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
"""`h` keeps history and `p` presence; the others are named for what they do to whom."""


def memory_broker(**options: Any) -> MemoryBroker:
    """Return an embedded broker on the time of the running loop."""
    clock = the_loop().clock
    return MemoryBroker(sweep_interval=0, clock=clock, wall_clock=wall_of(clock), **options)


def wall_of(clock: FakeClock) -> FakeClock:
    """Return the wall clock that runs beside *clock*: at `NOW` when a loop begins."""
    return _Wall(clock)


class _Wall(FakeClock):
    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock

    def __call__(self) -> float:
        return NOW + self._clock() - 1_000.0


class Life:
    """One node; `client` connects to it."""

    def __init__(
        self,
        *,
        rules: Mapping[str, ChannelRules] = RULES,
        strict: bool = False,
        limits: SessionLimits | None = None,
        broker: Broker | None = None,
        admission: AdmissionLimits | None = None,
        interval: float = 25.0,
        grace: float = 10.0,
        **services: Any,
    ) -> None:
        loop = the_loop()
        self.clock, self.wall = loop.clock, wall_of(loop.clock)
        self.errors: list[BaseException] = []
        self.tasks = Tasks(self.errors.append)
        self.broker = memory_broker() if broker is None else broker
        self.namespaces = Namespaces(rules, strict=strict)
        self.hub = Hub(
            "n1", self.broker, scheduler=loop, tasks=self.tasks, clock=self.clock, wall_clock=self.wall
        )
        self.admission = Admission(admission or AdmissionLimits())
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
            limits=limits or SessionLimits(),
            clock=self.clock,
            wall=self.wall,
            on_error=self.errors.append,
            **{"verifier": verifier, "anonymous": True, **services},
        )
        self.clients: list[Client] = []

    def open(self, codec: Codec = JSON, *, capacity: int | None = None, header: str | None = None) -> Client:
        """Open a connection on which nothing was said yet."""
        link = MemoryTransport(codec, capacity=capacity)
        client = Client(self, link, header)
        self.clients.append(client)
        return client

    async def client(
        self, codec: Codec = JSON, *, capacity: int | None = None, user: str = "", **connect: Any
    ) -> Client:
        """Open a connection and connect, as *user* with a token, or as nobody in particular."""
        client = self.open(codec, capacity=capacity)
        token = self.token(user) if user else None
        client.welcome = await client.connected(Connect(client.next_id(), token=token, **connect))
        return client

    def token(self, user: str, *, ttl: float = 3_600.0, **claims: Any) -> str:
        """Return a token that is good for *ttl* seconds from now."""
        return forged({"alg": "HS256"}, {"sub": user, "exp": self.wall() + ttl, **claims})

    def publication(self, channel: str, value: Any, **options: Any) -> Publication:
        """Return what is to be published under the rules of *channel*."""
        rules = self.namespaces.rules(channel)
        kept = Retention(rules.history, rules.history_ttl) if rules.history else None
        return Publication(channel, payload_of(value), **{"retention": kept, **options})

    async def publish(self, channel: str, *values: Any, **options: Any) -> Receipt:
        """Publish *values* one after the other; return the receipt of the last."""
        for value in values:
            receipt = await self.broker.publish(self.publication(channel, value, **options))
        return receipt

    async def instruct(self, user: str, action: Any, channel: str = "", **options: Any) -> None:
        """Let the server's API do something to *user*."""
        await self.broker.send_user_command(UserCommand(user, action, channel, **options))
        await quiet()

    def assert_empty(self) -> None:
        """Fail where anything of a session is left."""
        figures = self.hub.statistics()
        assert (figures["sessions"], figures["users"], figures["channels"]) == (0, 0, 0), self.hub.channels
        assert self.heartbeat.statistics()["sessions"] == 0
        assert self.admission.statistics()["users"] == 0
        assert self.tasks.statistics() == {"running": 0}
        assert all(client.session.statistics()["waiting"] == 0 for client in self.clients)
        assert sorted(self.released) == sorted(client.session.connection for client in self.clients)


class Client:
    """One connection, seen from both ends."""

    def __init__(self, life: Life, link: MemoryTransport, header: str | None) -> None:
        self.life = life
        self.link = link
        self.ids = count(1_000)
        self.welcome: Connected
        self.session = Session(
            link, link.codec, life.services, dispatcher=dispatch, on_ended=self._release, header_token=header
        )
        link.attach(self.session)

    def _release(self) -> None:
        self.life.released.append(self.session.connection)

    def next_id(self) -> int:
        return next(self.ids)

    def say(self, *commands: ClientMessage) -> None:
        """Send *commands*, and wait for nothing."""
        for command in commands:
            self.link.send(command)

    async def ask(self, command: Any) -> Any:
        """Send *command* and return its reply, which must come without time passing."""
        self.say(command)
        await quiet()
        return self.reply(command.id)

    def reply(self, command: int) -> Any:
        """Return the one reply to *command*."""
        (reply,) = self.replies(command)
        return reply

    def replies(self, command: int) -> list[ServerMessage]:
        return [message for message in self.link.messages if getattr(message, "id", None) == command]

    async def connected(self, command: Connect) -> Connected:
        reply = await self.ask(command)
        assert isinstance(reply, Connected), reply
        return reply

    async def follow(self, channel: str, **options: Any) -> Subscribed:
        """Subscribe to *channel* and return the reply, which must be none of refusal."""
        reply = await self.ask(Subscribe(self.next_id(), channel, **options))
        assert isinstance(reply, Subscribed), reply
        return reply

    async def refused(self, command: Any) -> Error:
        """Send *command* and return the error that answers it."""
        reply = await self.ask(command)
        assert isinstance(reply, Error), reply
        return reply

    def got(self, channel: str | None = None) -> list[Any]:
        """Return the values of all messages pushed so far, of one *channel* or of all."""
        return values_of(self.link.messages, channel)

    def end(self) -> None:
        """Go away."""
        self.link.disconnect(1000)


def values_of(messages: Any, channel: str | None = None) -> list[Any]:
    """Return what *messages* carry, of one *channel* or of all."""
    return [
        message.data.value
        for message in messages
        if isinstance(message, Message) and channel in (None, message.channel)
    ]


@asynccontextmanager
async def life(**options: Any) -> AsyncIterator[Life]:
    """Give a node that works; afterwards everybody leaves, and nothing may be left of anybody."""
    node = Life(**options)
    await node.broker.start(node.hub)
    try:
        yield node
        await quiet()
        for client in node.clients:
            client.end()
        await quiet()
        node.assert_empty()
        assert node.errors == []
    finally:
        node.heartbeat.close()
        await node.tasks.close()
        await node.broker.close()
