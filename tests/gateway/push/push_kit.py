"""For tests of the push API: a node, a slow broker, a client, a listener on a free port."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx
import orjson

from gateway.access.permissions import ChannelRules, Namespaces
from gateway.broker.base import (
    ConnectionRecord,
    Delivery,
    Envelope,
    NodeRecord,
    Publication,
    Receipt,
    UserCommand,
)
from gateway.broker.memory.broker import MemoryBroker
from gateway.push import PushContext, PushKeys, create_app
from gateway.push.fast_path import FastPath, FastPathHttp
from gateway.push.http import HttpCounts, InternalHttp, RequestTimeouts
from gateway.runtime.listeners import Binding, Listener
from gateway.tasks import Tasks
from gateway.transport.http.bounded_head import HeadLimits

KEY = "correct-horse"
OLD_KEY = "battery-staple"
TIMEOUTS = RequestTimeouts()
RULES = {
    "default": ChannelRules("default", history=5, presence=True),
    "plain": ChannelRules("plain"),
}


class RecordingNode:
    """A node that keeps envelopes in a list, and has the connections and channels that a test gives it."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.users: dict[str, list[ConnectionRecord]] = {}
        self.channels: dict[str, int] = {}
        self.delivered = asyncio.Semaphore(0)

    def deliver(self, envelope: Envelope) -> None:
        self.envelopes.append(envelope)
        self.delivered.release()

    def connections(self, user: str) -> Sequence[ConnectionRecord]:
        return self.users.get(user, [])

    def subscribed_channels(
        self, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> Mapping[str, int]:
        names = sorted(name for name in self.channels if name.startswith(prefix) and name > after)
        return {name: self.channels[name] for name in names[:limit]}

    def subscribers(self, channel: str) -> int:
        return self.channels.get(channel, 0)

    def as_record(self) -> NodeRecord:
        sizes = self.channels.values()
        return NodeRecord("n1", len(self.users), len(sizes), sum(sizes), 12.5, {"deliveries": 7, "node": "?"})

    @property
    def deliveries(self) -> list[Delivery]:
        return [envelope for envelope in self.envelopes if isinstance(envelope, Delivery)]

    @property
    def user_commands(self) -> list[UserCommand]:
        return [envelope for envelope in self.envelopes if isinstance(envelope, UserCommand)]

    def data(self) -> list[Any]:
        return [delivery.message.data.value for delivery in self.deliveries]


class BrokenNode(RecordingNode):
    """A node with a bug: its `deliver` raises, which it must never do."""

    def deliver(self, envelope: Envelope) -> None:
        raise RuntimeError("a bug with a secret in it")


class WaitingBroker(MemoryBroker):
    """A broker whose publishes wait, as over a network, until a test sets `gate`."""

    def __init__(self, *, memory: int = 10_000_000) -> None:
        super().__init__(memory=memory, sweep_interval=0)
        self.gate = asyncio.Event()
        self.arrived = asyncio.Semaphore(0)

    async def publish(self, publication: Publication) -> Receipt:
        self.arrived.release()
        await self.gate.wait()
        await asyncio.sleep(0)
        return await super().publish(publication)


@dataclass
class PushApiKit:
    """A push API with its node and broker, and the errors of tasks that nobody handled."""

    node: RecordingNode
    broker: MemoryBroker
    context: PushContext
    unhandled_errors: list[BaseException] = field(default_factory=list)

    @asynccontextmanager
    async def client(self, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
        """A client without sockets, with a valid key unless *headers* say otherwise."""
        transport = httpx.ASGITransport(create_app(self.context))
        allowed = {"authorization": f"Bearer {KEY}", **headers}
        async with httpx.AsyncClient(transport=transport, base_url="http://push", headers=allowed) as client:
            yield client


async def make_api(
    *,
    node: RecordingNode | None = None,
    broker: MemoryBroker | None = None,
    started: bool = True,
    strict: bool = True,
    **bounds: Any,
) -> PushApiKit:
    """Return a push API over *broker*, which is started unless *started* is False."""
    node, broker = node or RecordingNode(), broker or MemoryBroker(sweep_interval=0)
    if started:
        await broker.start(node)
    unhandled_errors: list[BaseException] = []
    namespaces = Namespaces(RULES, strict=strict)
    context = PushContext(
        broker, namespaces, PushKeys([OLD_KEY, KEY]), Tasks(unhandled_errors.append), **bounds
    )
    return PushApiKit(node, broker, context, unhandled_errors)


ANNS_CONNECTIONS = [
    ConnectionRecord("c1", "n1", ("chat", "@ann/x"), 1_700_000_000.5),
    ConnectionRecord("c2", "n2", (), 1_700_000_001.0),
]


async def api_with_ann() -> PushApiKit:
    """Return a push API on whose node the user `ann/x` has two connections."""
    api = await make_api()
    api.node.users = {"ann/x": ANNS_CONNECTIONS}
    return api


@dataclass
class ServedApi:
    """A listener that serves a push API on a real socket."""

    listener: Listener
    fast_path: FastPath | None

    def protocol(self) -> Any:
        """The server's side of the one connection that is open."""
        (protocol,) = self.listener.server_state.connections
        return protocol

    def protocols(self) -> list[Any]:
        """The server's side of every connection."""
        return list(self.listener.server_state.connections)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator["Wire"]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.listener.port)
        try:
            yield Wire(reader, writer)
        finally:
            writer.close()


@asynccontextmanager
async def served(
    api: PushApiKit, *, fast: bool = True, timeouts: RequestTimeouts = TIMEOUTS, **options: Any
) -> AsyncIterator[ServedApi]:
    """Serve *api* on a free loopback port, with or without the fast path."""
    shared = FastPath(api.context, timeouts) if fast else None
    routes_only = partial(
        InternalHttp,
        body_size=api.context.body_size,
        timeouts=timeouts,
        head_limits=HeadLimits(),
        counts=HttpCounts(),
    )
    http: Callable[..., Any] = routes_only if shared is None else partial(FastPathHttp, fast_path=shared)
    app = create_app(api.context)
    listener = Listener(app, Binding("127.0.0.1", 0), http=http, ws="none", **options)
    serving = asyncio.create_task(listener.run_until_stopped())
    try:
        yield ServedApi(listener, shared)
    finally:
        listener.stop()
        await serving
        await api.context.tasks.close()


@dataclass(frozen=True)
class RawAnswer:
    """One response, as it was received."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Wire:
    """A client's socket that sends exactly the bytes that a test gives it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> RawAnswer:
        """The next response that is not an interim one."""
        while True:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.strip().split("\r\n")
            status = int(first.split(" ")[1])
            fields = (line.partition(":") for line in lines)
            headers = {name.lower(): value.strip() for name, _, value in fields}
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
            if status != 100:
                return RawAnswer(status, headers, body)

    async def ask(self, data: bytes) -> RawAnswer:
        await self.send(data)
        return await self.answer()

    async def closed(self) -> bool:
        """Wait for the end of the stream; return whether nothing came before it."""
        return await self.reader.read() == b""


def request(
    body: bytes,
    *headers: str,
    line: str = "POST /v1/publish HTTP/1.1",
    key: str | None = f"Bearer {KEY}",
    media: str | None = "application/json",
    length: bool = True,
) -> bytes:
    """The bytes of a request as a client sends them."""
    lines = [line, "Host: push", *headers]
    if key is not None:
        lines.append(f"Authorization: {key}")
    if media is not None:
        lines.append(f"Content-Type: {media}")
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def body(**fields: Any) -> bytes:
    return orjson.dumps({"channel": "chat", "data": {"text": "hi"}, **fields})


def feed(server: ServedApi, *pieces: bytes) -> None:
    """Let the server read exactly these pieces; the network would split and join them differently."""
    protocol = server.protocol()
    for piece in pieces:
        protocol.data_received(piece)


def published(server: ServedApi) -> int:
    assert server.fast_path is not None
    return server.fast_path.published


async def one_more(wire: Wire) -> int:
    """The offset of a further message, published alone."""
    return offset(await wire.ask(request(body(data="more"))))


def offset(answer: RawAnswer) -> int:
    answered = orjson.loads(answer.body)
    return int(answered["message"].partition("-")[0])


VOLATILE = {"date"}
"""Headers that differ between two runs."""


def comparable(answer: RawAnswer) -> tuple[int, Mapping[str, str], bytes]:
    """The answer without what differs between two histories."""
    headers = {name: value for name, value in answer.headers.items() if name not in VOLATILE}
    return answer.status, headers, re.sub(rb"(\d+)-[0-9a-f]{12}", rb"\1-uid", answer.body)
