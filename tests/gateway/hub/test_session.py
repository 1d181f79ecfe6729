"""One client, from connect to close: order, limits, deadlines, and nothing left behind."""

from __future__ import annotations

import pytest

from gateway.hub.services import SessionLimits
from protocol.codec import JSON, MSGPACK, Codec
from protocol.messages import (
    Connect,
    Connected,
    Error,
    History,
    Ping,
    Pong,
    PongReply,
    Presence,
    Publish,
    Subscribe,
    Unsubscribe,
)
from protocol.payload import payload_of
from tests.gateway.hub.interleavings import GatedBroker, all_interleavings, run_interleaved
from tests.gateway.node import Client, running_node
from tests.gateway.virtual_time import advance, on_virtual_time, until_idle

CODECS = pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])


def types(client: Client) -> list[str]:
    return [message.type for message in client.transport.messages]


# ---------------------------------------------------------------- the conversation


@on_virtual_time
async def test_clients_of_both_codecs_share_a_channel() -> None:
    async with running_node() as node:
        clients = [await node.connect(codec) for codec in (JSON, MSGPACK, JSON, MSGPACK)]
        for client in clients:
            await client.subscribe("h:a")
        for client in clients:
            client.send(Publish(50, "h:a", payload_of({"from": client.session.codec.subprotocol})))
        await until_idle()
        received = [client.values() for client in clients]
        assert received[0] == received[1] == received[2] == received[3]
        assert len(received[0]) == 4


@CODECS
@on_virtual_time
async def test_a_command_before_connect_or_a_second_connect_closes(codec: Codec) -> None:
    async with running_node() as node:
        early = node.open(codec)
        early.send(Ping(1))
        assert early.transport.closed == (4002, "ping: connect must come first")
        late = await node.connect(codec)
        late.send(Connect(2))
        assert late.transport.closed == (4002, "connect: connect comes once")
        during = node.open(codec)
        during.send(Pong())
        assert during.transport.closed == (4002, "pong: connect must come first")


@on_virtual_time
async def test_a_client_that_does_not_connect_in_time_is_closed() -> None:
    async with running_node(limits=SessionLimits(connect_timeout=5.0)) as node:
        silent, connected = node.open(), await node.connect()
        await advance(4.9)
        assert silent.transport.is_open
        await advance(0.2)
        assert silent.transport.closed == (4001, "connect_timeout")
        assert connected.transport.is_open


@on_virtual_time
async def test_a_malformed_connect_may_be_repeated_within_the_timeout() -> None:
    async with running_node(limits=SessionLimits(connect_timeout=5.0)) as node:
        client = node.open()
        client.transport.send_bytes(b'{"type": "connect", "id": 1, "token": 5}')
        await advance(4.0)
        assert types(client) == ["error"]
        assert isinstance(await client.request(Connect(2)), Connected)
        await advance(2.0)
        assert client.transport.is_open


@pytest.mark.parametrize(
    ("payload", "binary", "id", "text"),
    [
        (b"{", False, None, "no JSON"),
        (b"[]", False, None, "expected a map"),
        (b'{"type": "sing", "id": 7}', False, 7, "type: expected one of"),
        (b'{"type": "subscribe", "id": 7}', False, 7, "channel"),
        (b'{"type": "subscribe", "id": 7, "channel": "a b"}', False, 7, "channel"),
        (b'{"type": "ping"}', False, None, "id"),
        (b'{"type": "ping", "id": 7}', True, None, "fanway.v1.json travels in text frames"),
    ],
)
@on_virtual_time
async def test_a_frame_that_is_no_command_gets_bad_request(
    payload: bytes, binary: bool, id: int | None, text: str
) -> None:
    async with running_node() as node:
        client = await node.connect()
        client.transport.read()
        client.transport.send_bytes(payload, binary=binary)
        await until_idle()
        (error,) = client.transport.read()
        assert isinstance(error, Error)
        assert (error.code, error.id) == ("bad_request", id)
        assert text in error.message
        assert await client.request(Ping(50)) == PongReply(50)


@on_virtual_time
async def test_the_ninth_message_before_connect_that_is_no_command_closes() -> None:
    async with running_node() as node:
        hostile, connected = node.open(), await node.connect()
        for _ in range(8):
            hostile.transport.send_bytes(b"{}", binary=False)
        await until_idle()
        assert types(hostile) == ["error"] * 8
        hostile.transport.send_bytes(b"{}", binary=False)
        assert hostile.transport.closed == (4002, "too many messages that are no commands")
        for _ in range(9):
            connected.transport.send_bytes(b"{}", binary=False)
        assert connected.transport.closed is None


@on_virtual_time
async def test_a_text_frame_on_a_binary_subprotocol_gets_bad_request() -> None:
    async with running_node() as node:
        client = await node.connect(MSGPACK)
        client.transport.send_bytes(b"{}", binary=False)
        await until_idle()
        assert types(client)[-1] == "error"


# ---------------------------------------------------------------- one after the other


@on_virtual_time
async def test_replies_are_in_the_order_of_the_commands_however_slow_the_broker() -> None:
    for choices in all_interleavings():
        broker = GatedBroker(only=frozenset({"subscribe", "read"}))
        async with running_node(broker=broker) as node:
            await node.broker.publish(node.publication("h:a", 1))
            client = await node.connect()
            client.send(
                Subscribe(10, "h:a", rewind=5),
                Ping(11),
                Publish(12, "h:a", payload_of("mine")),
                History(13, "h:a"),
                Unsubscribe(14, "h:a"),
                Subscribe(15, "h:a"),
                Presence(16, "h:a"),
            )
            client.transport.send_bytes(b"?")
            client.send(Ping(17))
            await run_interleaved(broker, choices)
            await broker.pass_all()
            order = [
                message
                for message in client.transport.messages
                if message.type not in ("connected", "message")
            ]
            assert [getattr(message, "id", None) for message in order] == [
                10,
                11,
                12,
                13,
                14,
                15,
                16,
                None,
                17,
            ]
            assert client.values() == ["mine"]


@on_virtual_time
async def test_reading_is_paused_while_the_backlog_is_full() -> None:
    broker = GatedBroker(only=frozenset({"subscribe"}))
    async with running_node(broker=broker, limits=SessionLimits(backlog=4)) as node:
        client = await node.connect()
        paused = []
        for command in (Subscribe(10, "h:a"), Ping(11), Ping(12), Ping(13), Subscribe(14, "h:b")):
            client.send(command)
            paused.append(client.transport.paused)
        assert paused == [False, False, False, False, True]
        client.send(Ping(15), Ping(16))
        assert client.session.statistics()["backlog"] == 6
        assert node.hub.statistics()["commands_waiting"] == 6
        await until_idle()
        for _ in range(2):
            broker.open(broker.gates[0])
            await until_idle()
        assert client.transport.paused, "the next subscribe waits, and other commands after it"
        await broker.pass_all()
        assert [client.transport.paused] == [False]
        assert client.session.statistics()["backlog"] == 0
        assert node.hub.statistics()["commands_waiting"] == 0
        assert [reply.id for reply in client.transport.messages if isinstance(reply, PongReply)] == [
            11,
            12,
            13,
            15,
            16,
        ]


@on_virtual_time
async def test_reading_is_paused_while_waiting_commands_take_too_much_memory() -> None:
    broker = GatedBroker(only=frozenset({"subscribe"}))
    async with running_node(broker=broker) as node:
        backlogs = node.hub.memory.backlogs
        backlogs.limit = 2_500
        one, two, three = [await node.connect() for _ in range(3)]
        one.send(Subscribe(10, "h:a"), Publish(11, "open", payload_of("x" * 1_000)))
        assert (one.transport.paused, backlogs.freed) == (False, 0)
        two.send(Subscribe(10, "h:b"), Publish(11, "open", payload_of("x" * 1_000)))
        assert (one.transport.paused, two.transport.paused, backlogs.freed) == (False, True, 1)
        three.send(Ping(10))
        assert [three.transport.paused] == [False], "none of its commands waits"
        three.send(Subscribe(11, "h:c"))
        assert three.transport.paused, "before another command may arrive"
        two.disconnect()
        assert 1_000 < backlogs.used < 2_500
        await until_idle()
        await broker.pass_all()
        assert [client.transport.paused for client in (one, three)] == [False, False]
        assert (backlogs.used, node.hub.statistics()["commands_waiting"]) == (0, 0)


@on_virtual_time
async def test_everything_sent_in_one_turn_is_one_write() -> None:
    async with running_node() as node:
        one, many = await node.connect(), await node.connect()
        await one.subscribe("h:a")
        for channel in ("h:a", "h:b", "p:c"):
            await many.subscribe(channel)
        before = [len(client.transport.writes) for client in (one, many)]
        for number in range(10):
            await node.publish("h:a", number)
            await node.publish("h:b", number)
            many.send(Ping(many.next_id()))
        await until_idle()
        assert [len(client.transport.writes) for client in (one, many)] == [count + 1 for count in before]
        assert one.values() == list(range(10))
        assert (many.values("h:a"), many.values("h:b")) == (list(range(10)), list(range(10)))


# ---------------------------------------------------------------- limits


@on_virtual_time
async def test_commands_above_the_rate_are_rejected_and_then_the_connection_is_closed() -> None:
    limits = SessionLimits(commands_per_second=10.0, command_burst=5.0, strikes=3)
    async with running_node(limits=limits) as node:
        client = await node.connect()
        client.send(*(Ping(number) for number in range(10, 14)))
        await until_idle()
        assert types(client) == ["connected"] + ["pong"] * 4
        error = await client.request_rejected(Ping(20))
        assert error.code == "rate_limited"
        assert error.retry_after_ms is not None
        await advance(error.retry_after_ms / 1_000)
        assert await client.request(Ping(21)) == PongReply(21)
        client.send(Ping(22), Ping(23))
        assert client.transport.is_open
        client.send(Ping(24))
        assert client.transport.closed == (4008, "rate_limited")


@pytest.mark.parametrize("flood", [b"?", b'{"type": "pong"}'])
@on_virtual_time
async def test_commands_of_every_kind_count_for_the_rate(flood: bytes) -> None:
    limits = SessionLimits(commands_per_second=10.0, command_burst=5.0, strikes=3)
    async with running_node(limits=limits) as node:
        client = await node.connect()
        for _ in range(20):
            client.transport.send_bytes(flood)
        assert client.transport.closed == (4008, "rate_limited")


@on_virtual_time
async def test_commands_in_the_backlog_count_for_the_rate() -> None:
    limits = SessionLimits(commands_per_second=10.0, command_burst=5.0, strikes=3)
    broker = GatedBroker(only=frozenset({"subscribe"}))
    async with running_node(broker=broker, limits=limits) as node:
        client = await node.connect()
        client.send(Subscribe(10, "h:a"))
        for _ in range(20):
            client.transport.send_bytes(b"?")
        assert client.transport.is_open
        await broker.pass_all()
        assert client.transport.closed == (4008, "rate_limited")
        await broker.pass_all()
