"""What the tests of the push API share: a node, a broker that waits, a client, a listener on a free port."""

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
from gateway.push import Keys, Service, create
from gateway.push.fast_path import FastPath, FastPathHttp
from gateway.push.http import InternalHttp, Patience
from gateway.runtime.listeners import Binding, Listener
from gateway.tasks import Tasks

KEY = "correct-horse"
OLD_KEY = "battery-staple"
PATIENCE = Patience()
RULES = {
    "default": ChannelRules("default", history=5, presence=True),
    "plain": ChannelRules("plain"),
}


class ListNode:
    """A node that keeps what it is handed, and has the connections and channels that a test gives it."""

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

    def subscribed_channels(self, prefix: str = "") -> Mapping[str, int]:
        return {name: size for name, size in self.channels.items() if name.startswith(prefix)}

    def record(self) -> NodeRecord:
        sizes = self.channels.values()
        return NodeRecord("n1", len(self.users), len(sizes), sum(sizes), 12.5, {"deliveries": 7, "node": "?"})

    @property
    def deliveries(self) -> list[Delivery]:
        return [envelope for envelope in self.envelopes if isinstance(envelope, Delivery)]

    @property
    def instructions(self) -> list[UserCommand]:
        return [envelope for envelope in self.envelopes if isinstance(envelope, UserCommand)]

    def data(self) -> list[Any]:
        return [delivery.message.data.value for delivery in self.deliveries]


class BrokenNode(ListNode):
    """A node with a bug: it breaks its promise never to raise."""

    def deliver(self, envelope: Envelope) -> None:
        raise RuntimeError("a bug with a secret in it")


class WaitingBroker(MemoryBroker):
    """A broker that takes its time, as one behind a network does: at least until a test opens its gate."""

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
class Stand:
    """A service with its node and broker, and how many tasks failed unheard."""

    node: ListNode
    broker: MemoryBroker
    service: Service
    unheard: list[BaseException] = field(default_factory=list)

    @asynccontextmanager
    async def client(self, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
        """A client without sockets, with a valid key unless *headers* say otherwise."""
        transport = httpx.ASGITransport(create(self.service))
        allowed = {"authorization": f"Bearer {KEY}", **headers}
        async with httpx.AsyncClient(transport=transport, base_url="http://push", headers=allowed) as client:
            yield client


async def stand(
    *,
    node: ListNode | None = None,
    broker: MemoryBroker | None = None,
    started: bool = True,
    strict: bool = True,
    **bounds: Any,
) -> Stand:
    """Return a service over *broker*, which is started unless *started* says otherwise."""
    node, broker = node or ListNode(), broker or MemoryBroker(sweep_interval=0)
    if started:
        await broker.start(node)
    unheard: list[BaseException] = []
    namespaces = Namespaces(RULES, strict=strict)
    service = Service(broker, namespaces, Keys([OLD_KEY, KEY]), Tasks(unheard.append), **bounds)
    return Stand(node, broker, service, unheard)


@dataclass
class Served:
    """A listener that serves a stand, on a real socket."""

    listener: Listener
    hot: FastPath | None

    def protocol(self) -> Any:
        """The server's side of the one connection that is open."""
        (protocol,) = self.listener.server_state.connections
        return protocol

    @asynccontextmanager
    async def connect(self) -> AsyncIterator["Wire"]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.listener.port)
        try:
            yield Wire(reader, writer)
        finally:
            writer.close()


@asynccontextmanager
async def served(
    stand: Stand, *, hot: bool = True, patience: Patience = PATIENCE, **options: Any
) -> AsyncIterator[Served]:
    """Serve *stand* on a free port of the loopback, with or without the short way."""
    shared = FastPath(stand.service, patience) if hot else None
    long = partial(InternalHttp, body_size=stand.service.body_size, patience=patience)
    http: Callable[..., Any] = long if shared is None else partial(FastPathHttp, hot=shared)
    app = create(stand.service)
    listener = Listener(app, Binding("127.0.0.1", 0), http=http, ws="none", **options)
    serving = asyncio.create_task(listener.run_until_stopped())
    try:
        yield Served(listener, shared)
    finally:
        listener.stop()
        await serving
        await stand.service.tasks.close()


@dataclass(frozen=True)
class Answered:
    """One response, as it came."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Wire:
    """A client's socket that sends what a test says, byte by byte."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> Answered:
        """The next response that is not an interim one."""
        while True:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.strip().split("\r\n")
            status = int(first.split(" ")[1])
            fields = (line.partition(":") for line in lines)
            headers = {name.lower(): value.strip() for name, _, value in fields}
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
            if status != 100:
                return Answered(status, headers, body)

    async def ask(self, data: bytes) -> Answered:
        await self.send(data)
        return await self.answer()

    async def closed(self) -> bool:
        """Whether the server has nothing more to say; waits until it says so."""
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


def feed(server: Served, *pieces: bytes) -> None:
    """Let the server read exactly these pieces; the network would cut and join them as it likes."""
    protocol = server.protocol()
    for piece in pieces:
        protocol.data_received(piece)


def published(server: Served) -> int:
    assert server.hot is not None
    return server.hot.published


async def one_more(wire: Wire) -> int:
    """The offset of a further message, published alone."""
    return offset(await wire.ask(request(body(data="more"))))


def offset(answer: Answered) -> int:
    told = orjson.loads(answer.body)
    return int(told["message"].partition("-")[0])


VOLATILE = {"date"}
"""Headers that differ between two runs."""


def comparable(answer: Answered) -> tuple[int, Mapping[str, str], bytes]:
    """The answer without what differs between two histories."""
    headers = {name: value for name, value in answer.headers.items() if name not in VOLATILE}
    return answer.status, headers, re.sub(rb"(\d+)-[0-9a-f]{12}", rb"\1-uid", answer.body)
