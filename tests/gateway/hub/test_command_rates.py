"""What commands cost, whose rates they count for, and that long ones run in slices."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.access import tokens
from gateway.access.command_costs import CommandCosts
from gateway.access.ratelimit import Rate
from gateway.hub.services import SessionLimits
from protocol.codec import JSON, MSGPACK, Codec
from protocol.messages import (
    Connect,
    Connected,
    History,
    HistoryPage,
    Message,
    Ping,
    Pong,
    PongReply,
    Presence,
    Refresh,
    Refreshed,
    Resume,
    ServerPing,
    Subscribed,
)
from tests.gateway.hub.interleavings import GatedBroker
from tests.gateway.node import RULES, Client, Node, running_node
from tests.gateway.turns import WorkPerTurn, work_per_turn
from tests.gateway.virtual_time import advance, on_virtual_time, until_idle

COSTS = CommandCosts(
    {"connect": 1, "subscribe": 2, "presence": 4, "history": 4}, token=3.0, message=0.5, member=0.25
)
LIMITS = SessionLimits(commands_per_second=1.0, command_burst=100.0, costs=COSTS)


async def units_left(client: Client) -> float:
    """Return what is left of the burst of *client*, which is 100; it is spent afterwards."""
    left = 0
    while isinstance(reply := await client.request(Ping(client.next_id())), PongReply):
        left += 1
    assert reply.retry_after_ms is not None
    return float(left + 1 - reply.retry_after_ms / 1_000)


def channel_token(node: Node, channel: str) -> str:
    return node.token("ann", channel=channel)


@on_virtual_time
async def test_a_connect_costs_its_channels_and_their_tokens() -> None:
    async with running_node(limits=LIMITS) as node:
        subs = {f"token:{n}": Resume(token=channel_token(node, f"token:{n}")) for n in range(5)}
        client = await node.connect(user="ann", subs={**subs, "h:1": Resume()})
        assert await units_left(client) == 100 - 1 - 5 * (2 + 3) - 2


@on_virtual_time
async def test_a_subscribe_costs_its_token() -> None:
    async with running_node(limits=LIMITS) as node:
        client = await node.connect(user="ann")
        await client.subscribe("token:1", token=channel_token(node, "token:1"))
        await client.subscribe("h:1")
        assert await units_left(client) == 100 - 1 - (2 + 3) - 2


@on_virtual_time
async def test_a_refresh_costs_the_channels_that_the_new_token_adds() -> None:
    async with running_node(limits=LIMITS) as node:
        client = await node.connect(user="ann")
        token = node.token("ann", channels=["nobody:1", "nobody:2", "nobody:3"])
        assert isinstance(await client.request(Refresh(client.next_id(), token)), Refreshed)
        assert await units_left(client) == 100 - 1 - 1 - 3 * 2


@pytest.mark.parametrize(("limit", "read"), [(None, 30), (10, 10), (0, 0)])
@on_virtual_time
async def test_a_history_costs_the_messages_that_it_brings(limit: int | None, read: int) -> None:
    async with running_node(limits=LIMITS) as node:
        client = await node.connect()
        await client.subscribe("h:1")
        await node.publish("h:1", *range(30))
        page = await client.request(History(client.next_id(), "h:1", limit))
        assert len(page.messages) == read
        assert await units_left(client) == 100 - 1 - 2 - 4 - 0.5 * read


@on_virtual_time
async def test_what_a_resume_and_a_rewind_bring_costs_as_much_as_from_history() -> None:
    async with running_node(limits=LIMITS) as node:
        since = (await node.publish("h:1", "begun")).id
        await node.publish("h:1", *range(20))
        await node.publish("h:2", *range(20))
        connecting = await node.connect(subs={"h:1": Resume(since=since), "h:2": Resume(rewind=10)})
        assert await units_left(connecting) == 100 - 1 - 2 - 2 - 0.5 * (20 + 10)
        subscribing = await node.connect()
        await subscribing.subscribe("h:1", since=since)
        await subscribing.subscribe("h:2", rewind=10)
        assert await units_left(subscribing) == 100 - 1 - 2 - 2 - 0.5 * (20 + 10)


@on_virtual_time
async def test_lists_of_members_cost_their_members() -> None:
    async with running_node(limits=LIMITS) as node:
        for _ in range(8):
            await (await node.connect()).subscribe("p:1")
        client = await node.connect()
        await client.subscribe("p:1", members=True)
        await client.request(Presence(client.next_id(), "p:1", members=True))
        await client.request(Presence(client.next_id(), "p:1"))
        assert await units_left(client) == 100 - 1 - 2 - 2 * 4 - 0.25 * (9 + 9)


@on_virtual_time
async def test_work_beyond_the_burst_makes_the_next_command_wait_and_closes_nothing() -> None:
    async with running_node(limits=LIMITS) as node:
        client = await node.connect()
        await client.subscribe("h:1")
        await node.publish("h:1", *range(100))
        for _ in range(2):
            await client.request(History(client.next_id(), "h:1"))
        error = await client.request_rejected(Ping(client.next_id()))
        assert (error.code, error.retry_after_ms) == ("rate_limited", 12_000)
        await advance(12.0)
        assert isinstance(await client.request(Ping(client.next_id())), PongReply)


@on_virtual_time
async def test_a_pong_costs_nothing_if_it_answers_a_ping() -> None:
    limits = SessionLimits(commands_per_second=0.001, command_burst=3.0, strikes=3)
    async with running_node(limits=limits, interval=10.0, grace=5.0) as node:
        client = await node.connect()
        for count in range(1, 21):
            await advance(11.0)
            assert [message.type for message in client.transport.messages].count("ping") == count
            client.send(Pong())
        assert isinstance(client.transport.messages[-1], ServerPing)
        assert isinstance(await client.request(Ping(client.next_id())), PongReply)
        client.send(*[Pong()] * 10)
        assert client.transport.closed == (4008, "rate_limited")


# ---------------------------------------------------------------- users and addresses


@on_virtual_time
async def test_the_connections_of_a_user_share_a_rate_whose_end_closes_none_of_them() -> None:
    limits = SessionLimits(commands_per_second=50.0, command_burst=100.0, strikes=3)
    async with running_node(limits=limits, user_rate=Rate(10.0, 20.0)) as node:
        one, two = await node.connect(user="ann"), await node.connect(user="ann")
        other = await node.connect(user="ben")
        for _ in range(18):
            assert isinstance(await one.request(Ping(one.next_id())), PongReply)
        for _ in range(10):
            error = await two.request_rejected(Ping(two.next_id()))
            assert (error.code, error.retry_after_ms) == ("rate_limited", 100)
        assert isinstance(await other.request(Ping(other.next_id())), PongReply)
        await advance(0.1)
        assert isinstance(await two.request(Ping(two.next_id())), PongReply)
        assert node.rates.statistics()["refused_user"] == 10


@on_virtual_time
async def test_a_flood_beyond_the_rate_of_the_user_meets_the_rate_of_the_connection() -> None:
    limits = SessionLimits(commands_per_second=1.0, command_burst=50.0, strikes=3)
    async with running_node(limits=limits, user_rate=Rate(1.0, 10.0)) as node:
        client = await node.connect(user="ann")
        client.send(*(Ping(100 + number) for number in range(51)))
        await until_idle()
        assert client.transport.is_open
        client.send(Ping(200))
        await until_idle()
        assert client.transport.closed == (4008, "rate_limited")


@on_virtual_time
async def test_anonymous_connections_share_the_rate_of_their_address() -> None:
    async with running_node(address_rate=Rate(1.0, 4.0), user_rate=Rate(1.0, 1_000.0)) as node:
        one, two = node.open(address="2001:db8::1"), node.open(address="2001:db8::2")
        elsewhere = node.open(address="192.0.2.1")
        for client in (one, two, elsewhere):
            assert isinstance(await client.request(Connect(1)), Connected)
        for _ in range(2):
            assert isinstance(await one.request(Ping(one.next_id())), PongReply)
        error = await two.request_rejected(Ping(two.next_id()))
        assert error.code == "rate_limited"
        assert isinstance(await elsewhere.request(Ping(2)), PongReply)
        assert node.rates.statistics()["refused_address"] == 1


@on_virtual_time
async def test_a_user_whose_rate_is_spent_may_connect_on_the_same_connection_later() -> None:
    async with running_node(user_rate=Rate(1.0, 5.0)) as node:
        first = await node.connect(user="ann")
        for _ in range(4):
            await first.request(Ping(first.next_id()))
        late = node.open(header=node.token("ann"))
        error = await late.request_rejected(Connect(1))
        assert (error.code, error.retry_after_ms) == ("rate_limited", 1_000)
        assert late.transport.is_open
        await advance(1.0)
        assert isinstance(await late.request(Connect(2)), Connected)


@on_virtual_time
async def test_work_that_ends_after_its_connection_is_charged_to_the_user() -> None:
    broker = GatedBroker(only=frozenset({"read"}))
    async with running_node(broker=broker, limits=LIMITS, user_rate=Rate(1.0, 55.0)) as node:
        await node.publish("h:1", *range(100))
        client = await node.connect(user="ann", subs={"h:1": Resume()})
        client.send(History(client.next_id(), "h:1"))
        await until_idle()
        client.disconnect()
        await broker.pass_all()
        late = await node.open().request_rejected(Connect(1, token=node.token("ann")))
        assert (late.code, late.retry_after_ms) == ("rate_limited", 3_000)


# ---------------------------------------------------------------- slices


def counting_messages(work: WorkPerTurn, encode: Callable[[Any, Any], bytes]) -> Callable[[Any, Any], bytes]:
    """Return the *encode* of a codec, each call of which for a message counts."""

    def counted(codec: Any, message: Any) -> bytes:
        work.add(isinstance(message, Message))
        return encode(codec, message)

    return counted


@on_virtual_time
async def test_the_tokens_of_a_connect_are_verified_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_node(limits=SessionLimits(channels=1_000)) as node:
        connect = Connect(
            1,
            token=node.token("ann"),
            subs={f"token:{n}": Resume(token=channel_token(node, f"token:{n}")) for n in range(341)},
        )
        clients = [node.open() for _ in range(5)]
        async with work_per_turn() as work:
            monkeypatch.setattr(tokens, "signature_valid", work.counting(tokens.signature_valid))
            for client in clients:
                # What arrives meanwhile waits, and is answered afterwards, in its order.
                client.send(connect, *(Ping(10 + number) for number in range(3)))
            await work.until(lambda: all(client.replies(12) for client in clients))
        assert work.total == 5 * 342
        assert work.most <= 120
        for client in clients:
            connected, *pongs = client.transport.messages
            assert isinstance(connected, Connected)
            assert all(isinstance(each, Subscribed) for each in connected.subs.values())
            assert pongs == [PongReply(10 + number) for number in range(3)]


@pytest.mark.parametrize("codec", [JSON, MSGPACK])
@on_virtual_time
async def test_large_histories_of_many_connections_are_encoded_in_slices(
    codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = {**RULES, "deep": replace(RULES["h"], namespace="deep", history=1_000)}
    async with running_node(rules=rules, limits=SessionLimits(commands_per_second=1e6)) as node:
        await node.publish("deep:1", *range(1_000))
        clients = [await node.connect(codec, subs={"deep:1": Resume()}) for _ in range(20)]
        async with work_per_turn() as work:
            monkeypatch.setattr(type(codec), "encode", counting_messages(work, type(codec).encode))
            for client in clients:
                client.send(History(10, "deep:1"), Ping(11))
            await work.until(lambda: all(client.replies(11) for client in clients))
        assert (work.total, work.most <= 900) == (20 * 1_000, True)
        for client in clients:
            assert isinstance(client.reply(10), HistoryPage)
            assert [getattr(message, "id", 0) for message in client.transport.messages[-2:]] == [10, 11]
