"""Histories read in pages: the right messages from every position, and few reads for many clients."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.broker.base import Publication, Retention
from gateway.hub.channel import Channel
from gateway.hub.history_cache import HistoryCache
from gateway.hub.services import SessionLimits
from gateway.memory import MemoryBudget
from protocol.messages import Gap, Subscribe
from protocol.payload import payload_of
from protocol.position import MessageId
from tests.gateway.hub.interleavings import GatedBroker
from tests.gateway.node import RULES, Node, memory_broker, running_node, values_of
from tests.gateway.virtual_time import no_deadline, on_virtual_time, until_idle

LONG = {**RULES, "h": replace(RULES["h"], history=100_000)}


@no_deadline
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 40),
    st.lists(
        st.one_of(
            st.tuples(st.just("publish"), st.integers(1, 8)), st.tuples(st.just("read"), st.integers(0, 60))
        )
    ),
)
def test_from_every_position_the_next_messages_are_returned(
    batch: int, most: int, kept: int, steps: list[tuple[str, int]]
) -> None:
    on_virtual_time(check_all_positions)(batch, most, kept, steps)


async def check_all_positions(batch: int, most: int, kept: int, steps: list[tuple[str, int]]) -> None:
    async with running_node(broker=(broker := memory_broker())):
        channel, cache = Channel("h:a", RULES["h"]), HistoryCache(broker, MemoryBudget(2_000), page=batch)
        ids = [(await broker.read("h:a")).position]
        channel.start_at(ids[0])
        for step, number in steps:
            if step == "publish":
                for _ in range(number):
                    retention = Retention(kept, 100.0)
                    receipt = await broker.publish(Publication("h:a", payload_of(len(ids)), retention))
                    assert receipt.id is not None
                    ids.append(receipt.id)
                    channel.position = receipt.id
                continue
            asked = min(number, len(ids) - 1)
            part = await cache.messages_after(channel, ids[asked], most)
            returned = [encoded.id for encoded in part.messages]
            assert returned == ids[asked + 1 : asked + 1 + len(returned)]
            if part.gap_reason:
                assert (part.gap_reason, returned) == ("trimmed", [])
                assert asked < len(ids) - 1 - kept
            elif asked < len(ids) - 1:
                assert returned
            assert len(returned) <= most
            stranger = MessageId(ids[asked].offset, "stranger")
            assert (await cache.messages_after(channel, stranger)).gap_reason


async def publish_numbers(node: Node, broker: GatedBroker, count: int) -> list[MessageId]:
    """Publish the numbers below *count*; return the ids."""
    receipts = [await broker.inner.publish(node.publication("h:a", number)) for number in range(count)]
    return [receipt.id for receipt in receipts if receipt.id is not None]


async def resumed(node: Node, since: MessageId) -> list[object]:
    """Subscribe with a new client, and return everything that it received."""
    client = await node.connect()
    reply = await client.subscribe("h:a", since=since)
    assert reply.recovered
    await until_idle()
    return [*values_of(reply.messages), *client.values("h:a")]


@pytest.mark.parametrize("missed", [70, 120])
@on_virtual_time
async def test_a_storm_of_resumes_from_all_positions_shares_a_few_reads(missed: int) -> None:
    broker = GatedBroker(only=frozenset())
    async with running_node(broker=broker, rules=LONG) as node:
        ids = await publish_numbers(node, broker, missed)
        for begun in (*range(missed // 2, missed), *range(missed // 2)):
            assert await resumed(node, ids[begun]) == list(range(begun + 1, missed))
        assert broker.calls.count("read") <= 3
        assert broker.calls.count("subscribe") == 1


@on_virtual_time
async def test_clients_that_missed_many_pages_share_their_reads() -> None:
    broker = GatedBroker(only=frozenset())
    limits = SessionLimits(outbox=4_000, catch_up_batch=50)
    async with running_node(broker=broker, rules=LONG, limits=limits) as node:
        ids = await publish_numbers(node, broker, 1_000)
        assert await resumed(node, ids[0]) == list(range(1, 1_000))
        alone = broker.calls.count("read")
        assert alone <= 2
        for begun in range(1, 200, 7):
            assert await resumed(node, ids[begun]) == list(range(begun + 1, 1_000))
        assert broker.calls.count("read") == alone


@on_virtual_time
async def test_pages_read_before_a_reset_are_not_served_after_it() -> None:
    broker = GatedBroker(only=frozenset({"read"}))
    async with running_node(broker=broker) as node:
        ids = await publish_numbers(node, broker, 5)
        channel = Channel("h:a", RULES["h"])
        channel.start_at(ids[-1])
        asking = asyncio.ensure_future(node.hub.history_cache.messages_after(channel, ids[0]))
        await until_idle()
        channel.reset(MessageId(9, "other"))
        await broker.pass_all()
        assert (await asking).messages
        await broker.inner.clear("h:a")
        again = asyncio.ensure_future(node.hub.history_cache.messages_after(channel, ids[0]))
        await broker.pass_all()
        assert (await again).gap_reason == "trimmed"


@on_virtual_time
async def test_a_subscription_behind_gets_a_gap_and_is_live_when_its_history_is_reset() -> None:
    broker = GatedBroker(only=frozenset({"read"}))
    limits = SessionLimits(outbox=4_000, catch_up_batch=50)
    async with running_node(broker=broker, rules=LONG, limits=limits) as node:
        ids = await publish_numbers(node, broker, 3_000)
        client = await node.connect()
        client.send(Subscribe(60, "h:a", since=ids[0]))
        await until_idle()
        while not client.replies(60):
            broker.open(broker.gates[0])
            await until_idle()
        assert client.session.statistics()["behind"] == 1
        node.hub.deliver(Gap("h:a", "reset", MessageId(7, "new")))
        await broker.pass_all()
        assert client.transport.messages[-1] == Gap("h:a", "reset", MessageId(7, "new"))
        assert client.session.statistics()["behind"] == 0


@on_virtual_time
async def test_the_cache_is_bounded() -> None:
    async with running_node(broker=(broker := memory_broker()), rules=LONG) as node:
        channel, cache = Channel("h:a", LONG["h"]), HistoryCache(broker, MemoryBudget(100_000), page=10)
        beginning = position = (await broker.read("h:a")).position
        await node.publish("h:a", *("x" * 850 for _ in range(100)))
        channel.start_at((await broker.read("h:a")).position)
        while part := (await cache.messages_after(channel, position)).messages:
            position = part[-1].id or position
            assert cache.statistics()["bytes"] <= 100_000
        assert position == channel.position
        large = HistoryCache(broker, MemoryBudget(1))
        for _ in range(3):
            assert len((await large.messages_after(channel, beginning, 10)).messages) == 10
        assert large.statistics()["reads"] == 1, (
            "the last page stays, however large: it is sent in several parts"
        )
