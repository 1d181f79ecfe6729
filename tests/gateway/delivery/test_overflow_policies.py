"""What each policy does to a slow client, and that it does nothing to the others."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.delivery.overflow import POLICIES
from protocol.codec import JSON, MSGPACK
from protocol.messages import Gap, Message, Subscribe
from tests.gateway.node import RULES, Client, running_node
from tests.gateway.slow_clients import CHANNEL_OF_POLICY, LIMITS, OUTBOX_BYTES, drain, publish_each, pushes
from tests.gateway.virtual_time import no_deadline, on_virtual_time, until_idle

# ---------------------------------------------------------------- the other policies


@on_virtual_time
async def test_conflate_keeps_the_newest_message_and_one_gap() -> None:
    async with running_node(limits=LIMITS) as node:
        slow, fast = await node.connect(), await node.connect()
        for client in (slow, fast):
            for channel in ("newest:a", "newest:b"):
                await client.subscribe(channel)
        slow.transport.fill()
        for number in range(50):
            await publish_each(node, "newest:a", number)
        await publish_each(node, "newest:b", "only")
        waiting = slow.session.statistics()["waiting"]
        await publish_each(node, "newest:a", *range(50, 80))
        assert slow.session.statistics()["waiting"] <= OUTBOX_BYTES, waiting
        await drain(slow)
        received = pushes(slow, "newest:a")
        assert received[-1] == 79
        assert_contiguous(slow, "newest:a", 80)
        assert pushes(slow, "newest:b") == ["only"]
        assert pushes(fast, "newest:a") == list(range(80))


@on_virtual_time
async def test_drop_oldest_keeps_the_newest_that_fit_and_an_exact_gap() -> None:
    async with running_node(limits=LIMITS) as node:
        slow, fast = await node.connect(), await node.connect()
        for client in (slow, fast):
            await client.subscribe("dropping:a")
        slow.transport.fill()
        await publish_each(node, "dropping:a", *range(80))
        await drain(slow)
        gap, *received = pushes(slow, "dropping:a")
        assert received == list(range(80 - len(received), 80))
        assert gap == ("overflow", 80 - len(received))
        assert 5 <= len(received) <= 15
        assert pushes(fast, "dropping:a") == list(range(80))


@on_virtual_time
async def test_without_history_catch_up_is_a_gap() -> None:
    async with running_node(limits=LIMITS) as node:
        slow = await node.connect()
        await slow.subscribe("a")
        slow.transport.fill()
        await publish_each(node, "a", *range(40))
        await drain(slow)
        gap, *received = pushes(slow, "a")
        assert gap == ("overflow", None)
        assert received == list(range(40 - len(received), 40))


@on_virtual_time
async def test_disconnect_closes_the_slow_connection_only() -> None:
    async with running_node(limits=LIMITS) as node:
        clients = [await node.connect() for _ in range(5)]
        for client in clients:
            await client.subscribe("strict:a")
            await client.subscribe("p:a")
        slow = clients[2]
        slow.transport.fill()
        written = len(slow.transport.writes)
        await publish_each(node, "strict:a", *range(40))
        assert slow.transport.closed == (4006, "slow_consumer")
        assert len(slow.transport.writes) == written, "nothing may follow what was dropped"
        assert len(node.hub.sessions) == 4
        for client in (*clients[:2], *clients[3:]):
            assert pushes(client, "strict:a") == list(range(40))
            leaves = [message for message in client.transport.messages if message.type == "leave"]
            assert len(leaves) == 1


@on_virtual_time
async def test_one_message_may_be_too_much_for_many_connections() -> None:
    async with running_node(limits=LIMITS) as node:
        clients = [await node.connect(codec) for codec in (JSON, MSGPACK) * 5]
        for client in clients:
            for channel in ("strict:a", "p:a", "p:b"):
                await client.subscribe(channel)
        for client in clients[1:-1]:
            client.transport.fill()
        await publish_each(node, "strict:a", *range(40))
        assert set(node.hub.sessions.values()) == {clients[0].session, clients[-1].session}
        for client in (clients[0], clients[-1]):
            assert pushes(client, "strict:a") == list(range(40))


@on_virtual_time
async def test_unread_replies_close_the_connection() -> None:
    async with running_node(limits=replace(LIMITS, command_burst=1_000.0)) as node:
        client = await node.connect()
        client.transport.fill()
        for number in range(100, 400):
            client.send(Subscribe(number, "h:a"))
        await until_idle()
        assert client.transport.closed == (4006, "slow_consumer")


# ---------------------------------------------------------------- whatever happens


def assert_contiguous(client: Client, channel: str, last: int, *, begun: int = 0) -> None:
    """Fail where a numbered message is missing without a gap, or is received twice."""
    reached = begun
    for message in client.transport.messages:
        if isinstance(message, Gap) and message.channel == channel and message.position:
            assert message.position.offset >= reached
            reached = message.position.offset
        elif isinstance(message, Message) and message.channel == channel and message.message:
            assert message.message.offset == reached + 1
            reached = message.message.offset
    assert reached == last or not client.transport.is_open


STEPS = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from(POLICIES), st.integers(1, 12)),
    st.tuples(st.just("publish"), st.sampled_from(POLICIES), st.integers(1, 12)),
    st.tuples(st.just("unnumbered"), st.sampled_from(POLICIES), st.just(1)),
    st.tuples(st.sampled_from(["fill", "drain"]), st.just(""), st.just(0)),
    st.tuples(st.just("capacity"), st.just(""), st.sampled_from([1, 500, 5_000])),
)


@settings(no_deadline, max_examples=60)
@given(st.lists(STEPS, max_size=30), st.sampled_from([100, 15]))
def test_a_client_gets_every_message_or_a_gap(steps: list[tuple[str, str, int]], history: int) -> None:
    on_virtual_time(a_client_hears_everything_or_is_told)(steps, history)


async def a_client_hears_everything_or_is_told(steps: list[tuple[str, str, int]], history: int) -> None:
    rules = {name: replace(each, history=each.history and history) for name, each in RULES.items()}
    async with running_node(limits=LIMITS, rules=rules) as node:
        slow, fast = await node.connect(), await node.connect()
        for channel in CHANNEL_OF_POLICY.values():
            for client in (slow, fast):
                await client.subscribe(channel)
        published = dict.fromkeys(POLICIES, 0)
        for step, policy, number in steps:
            if step == "publish":
                await publish_each(
                    node,
                    CHANNEL_OF_POLICY[policy],
                    *range(published[policy] + 1, published[policy] + number + 1),
                )
                published[policy] += number
            elif step == "unnumbered":
                await publish_each(node, CHANNEL_OF_POLICY[policy], "x", retention=None)
            elif step == "capacity":
                slow.transport.capacity = number
            else:
                getattr(slow.transport, step)()
                await until_idle()
        await drain(slow)
        for policy, channel in CHANNEL_OF_POLICY.items():
            assert_contiguous(slow, channel, published[policy])
            numbered = [value for value in pushes(fast, channel) if value != "x"]
            assert numbered == list(range(1, published[policy] + 1))
            if slow.transport.is_open and len(pushes(slow, channel)) < len(pushes(fast, channel)):
                assert any(isinstance(each, tuple) for each in pushes(slow, channel))
        assert slow.session.statistics()["behind"] == 0
