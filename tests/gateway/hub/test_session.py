"""One client, from connect to close: order, limits, deadlines, and nothing left behind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.broker.base import Publication, Receipt
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
from tests.gateway.life import Client, life
from tests.gateway.racing import RacingBroker, every_order, race, unavailable
from tests.gateway.standing import passed, quiet, standing

CODECS = pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])


def types(client: Client) -> list[str]:
    return [message.type for message in client.link.messages]


# ---------------------------------------------------------------- the conversation


@standing
async def test_both_codecs_meet_in_one_channel() -> None:
    async with life() as node:
        clients = [await node.client(codec) for codec in (JSON, MSGPACK, JSON, MSGPACK)]
        for client in clients:
            await client.follow("h:a")
        for client in clients:
            client.say(Publish(50, "h:a", payload_of({"from": client.session.codec.subprotocol})))
        await quiet()
        heard = [client.got() for client in clients]
        assert heard[0] == heard[1] == heard[2] == heard[3]
        assert len(heard[0]) == 4


@CODECS
@standing
async def test_connect_comes_first_and_once(codec: Codec) -> None:
    async with life() as node:
        early = node.open(codec)
        early.say(Ping(1))
        assert early.link.closed == (4002, "ping: connect must come first")
        late = await node.client(codec)
        late.say(Connect(2))
        assert late.link.closed == (4002, "connect: connect comes once")
        during = node.open(codec)
        during.say(Pong())
        assert during.link.closed == (4002, "pong: connect must come first")


@standing
async def test_a_client_that_says_nothing_is_sent_away_in_time() -> None:
    async with life(limits=SessionLimits(connect_timeout=5.0)) as node:
        silent, connected = node.open(), await node.client()
        await passed(4.9)
        assert silent.link.is_open
        await passed(0.2)
        assert silent.link.closed == (4001, "connect_timeout")
        assert connected.link.is_open


@standing
async def test_a_refused_connect_may_be_tried_again_in_the_same_time() -> None:
    async with life(limits=SessionLimits(connect_timeout=5.0)) as node:
        client = node.open()
        client.link.send_bytes(b'{"type": "connect", "id": 1, "token": 5}')
        await passed(4.0)
        assert types(client) == ["error"]
        assert isinstance(await client.ask(Connect(2)), Connected)
        await passed(2.0)
        assert client.link.is_open


@pytest.mark.parametrize(
    ("payload", "binary", "id", "says"),
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
@standing
async def test_a_frame_that_is_no_command_is_answered(
    payload: bytes, binary: bool, id: int | None, says: str
) -> None:
    async with life() as node:
        client = await node.client()
        client.link.read()
        client.link.send_bytes(payload, binary=binary)
        await quiet()
        (error,) = client.link.read()
        assert isinstance(error, Error)
        assert (error.code, error.id) == ("bad_request", id)
        assert says in error.message
        assert await client.ask(Ping(50)) == PongReply(50)


@standing
async def test_binary_clients_are_told_of_text_as_well() -> None:
    async with life() as node:
        client = await node.client(MSGPACK)
        client.link.send_bytes(b"{}", binary=False)
        await quiet()
        assert types(client)[-1] == "error"


# ---------------------------------------------------------------- one after the other


@standing
async def test_replies_come_in_the_order_of_the_commands_however_slow_the_broker() -> None:
    for choices in every_order():
        broker = RacingBroker(only=frozenset({"subscribe", "read"}))
        async with life(broker=broker) as node:
            await node.broker.publish(node.publication("h:a", 1))
            client = await node.client()
            client.say(
                Subscribe(10, "h:a", rewind=5),
                Ping(11),
                Publish(12, "h:a", payload_of("mine")),
                History(13, "h:a"),
                Unsubscribe(14, "h:a"),
                Subscribe(15, "h:a"),
                Presence(16, "h:a"),
            )
            client.link.send_bytes(b"?")
            client.say(Ping(17))
            await race(broker, choices)
            await broker.pass_all()
            order = [
                message for message in client.link.messages if message.type not in ("connected", "message")
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
            assert client.got() == ["mine"]


@standing
async def test_a_link_is_not_read_while_too_much_waits() -> None:
    broker = RacingBroker(only=frozenset({"subscribe"}))
    async with life(broker=broker, limits=SessionLimits(backlog=4)) as node:
        client = await node.client()
        paused = []
        for command in (Subscribe(10, "h:a"), Ping(11), Ping(12), Ping(13), Subscribe(14, "h:b")):
            client.say(command)
            paused.append(client.link.paused)
        assert paused == [False, False, False, False, True]
        client.say(Ping(15), Ping(16))
        assert client.session.statistics()["backlog"] == 6
        await quiet()
        for _ in range(2):
            broker.open(broker.gates[0])
            await quiet()
        assert client.link.paused, "the next one waits, and others behind it"
        await broker.pass_all()
        assert [client.link.paused] == [False]
        assert client.session.statistics()["backlog"] == 0
        assert [reply.id for reply in client.link.messages if isinstance(reply, PongReply)] == [
            11,
            12,
            13,
            15,
            16,
        ]


class Failing(RacingBroker):
    """A broker with a bug."""

    async def publish(self, publication: Publication) -> Receipt:
        raise RuntimeError("a bug")


@standing
async def test_a_bug_ends_no_more_than_its_command() -> None:
    async with life(broker=Failing(only=frozenset())) as node:
        client = await node.client()
        error = await client.refused(Publish(10, "a", payload_of(1)))
        assert (error.code, error.message) == ("internal", "something went wrong on our side")
        assert await client.ask(Ping(11)) == PongReply(11)
        (reported,) = node.errors
        assert str(reported) == "a bug"
        node.errors.clear()


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("subscribe", Subscribe(10, "h:a")),
        ("read", Subscribe(10, "h:a", rewind=1)),
        ("join", Subscribe(10, "p:a")),
        ("publish", Publish(10, "h:a", payload_of(1))),
    ],
)
@standing
async def test_a_broker_that_cannot_now_is_told_of_with_a_time(name: str, command: Any) -> None:
    async with life(broker=RacingBroker(only=frozenset())) as node:
        assert isinstance(node.broker, RacingBroker)
        node.broker.only = frozenset({name})
        node.broker.fails[name] = unavailable()
        client = await node.client()
        client.say(command)
        await node.broker.pass_all()
        error = client.reply(10)
        assert (error.code, error.retry_after_ms) == ("unavailable", 500)
        assert node.hub.channels == {}
        node.broker.fails.clear()
        client.say(replace(command, id=11))
        await node.broker.pass_all()
        assert not isinstance(client.reply(11), Error)
        client.end()
        await node.broker.pass_all()


@standing
async def test_whatever_one_turn_says_to_a_connection_is_one_write() -> None:
    async with life() as node:
        one, many = await node.client(), await node.client()
        await one.follow("h:a")
        for channel in ("h:a", "h:b", "p:c"):
            await many.follow(channel)
        before = [len(client.link.writes) for client in (one, many)]
        for number in range(10):
            await node.publish("h:a", number)
            await node.publish("h:b", number)
            many.say(Ping(many.next_id()))
        await quiet()
        assert [len(client.link.writes) for client in (one, many)] == [count + 1 for count in before]
        assert one.got() == list(range(10))
        assert (many.got("h:a"), many.got("h:b")) == (list(range(10)), list(range(10)))


# ---------------------------------------------------------------- limits


@standing
async def test_too_many_commands_are_refused_and_then_the_client_is() -> None:
    limits = SessionLimits(commands_per_second=10.0, command_burst=5.0, strikes=3)
    async with life(limits=limits) as node:
        client = await node.client()
        client.say(*(Ping(number) for number in range(10, 14)))
        await quiet()
        assert types(client) == ["connected"] + ["pong"] * 4
        error = await client.refused(Ping(20))
        assert error.code == "rate_limited"
        assert error.retry_after_ms is not None
        await passed(error.retry_after_ms / 1_000)
        assert await client.ask(Ping(21)) == PongReply(21)
        client.say(Ping(22), Ping(23))
        assert client.link.is_open
        client.say(Ping(24))
        assert client.link.closed == (4008, "rate_limited")


@pytest.mark.parametrize("flood", [b"?", b'{"type": "pong"}'])
@standing
async def test_a_flood_of_anything_is_one(flood: bytes) -> None:
    limits = SessionLimits(commands_per_second=10.0, command_burst=5.0, strikes=3)
    async with life(limits=limits) as node:
        client = await node.client()
        for _ in range(20):
            client.link.send_bytes(flood)
        assert client.link.closed == (4008, "rate_limited")


@standing
async def test_what_a_flood_holds_back_is_limited_as_well() -> None:
    limits = SessionLimits(commands_per_second=10.0, command_burst=5.0, strikes=3)
    broker = RacingBroker(only=frozenset({"subscribe"}))
    async with life(broker=broker, limits=limits) as node:
        client = await node.client()
        client.say(Subscribe(10, "h:a"))
        for _ in range(20):
            client.link.send_bytes(b"?")
        assert client.link.is_open
        await broker.pass_all()
        assert client.link.closed == (4008, "rate_limited")
        await broker.pass_all()
