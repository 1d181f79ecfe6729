"""What each policy does to a slow client, and that it does nothing to the others."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.delivery.overflow import POLICIES
from protocol.codec import JSON, MSGPACK
from protocol.messages import Gap, Message, Subscribe
from tests.gateway.life import RULES, Client, life
from tests.gateway.slowness import CHANNEL, LIMITS, OUTBOX, pushes, read_on, say
from tests.gateway.standing import patient, quiet, standing

# ---------------------------------------------------------------- the other policies


@standing
async def test_conflate_leaves_the_newest_and_one_gap() -> None:
    async with life(limits=LIMITS) as node:
        slow, fast = await node.client(), await node.client()
        for client in (slow, fast):
            for channel in ("newest:a", "newest:b"):
                await client.follow(channel)
        slow.link.fill()
        for number in range(50):
            await say(node, "newest:a", number)
        await say(node, "newest:b", "only")
        waiting = slow.session.statistics()["waiting"]
        await say(node, "newest:a", *range(50, 80))
        assert slow.session.statistics()["waiting"] <= OUTBOX, waiting
        await read_on(slow)
        heard = pushes(slow, "newest:a")
        assert heard[-1] == 79
        assert_contiguous(slow, "newest:a", 80)
        assert pushes(slow, "newest:b") == ["only"]
        assert pushes(fast, "newest:a") == list(range(80))


@standing
async def test_drop_oldest_leaves_the_newest_that_fit_and_an_exact_gap() -> None:
    async with life(limits=LIMITS) as node:
        slow, fast = await node.client(), await node.client()
        for client in (slow, fast):
            await client.follow("dropping:a")
        slow.link.fill()
        await say(node, "dropping:a", *range(80))
        await read_on(slow)
        gap, *heard = pushes(slow, "dropping:a")
        assert heard == list(range(80 - len(heard), 80))
        assert gap == ("overflow", 80 - len(heard))
        assert 5 <= len(heard) <= 15
        assert pushes(fast, "dropping:a") == list(range(80))


@standing
async def test_without_history_there_is_nothing_to_catch_up_from() -> None:
    async with life(limits=LIMITS) as node:
        slow = await node.client()
        await slow.follow("a")
        slow.link.fill()
        await say(node, "a", *range(40))
        await read_on(slow)
        gap, *heard = pushes(slow, "a")
        assert gap == ("overflow", None)
        assert heard == list(range(40 - len(heard), 40))


@standing
async def test_disconnect_ends_the_slow_one_and_nobody_else() -> None:
    async with life(limits=LIMITS) as node:
        clients = [await node.client() for _ in range(5)]
        for client in clients:
            await client.follow("strict:a")
            await client.follow("p:a")
        slow = clients[2]
        slow.link.fill()
        written = len(slow.link.writes)
        await say(node, "strict:a", *range(40))
        assert slow.link.closed == (4006, "slow_consumer")
        assert len(slow.link.writes) == written, "nothing may follow what was dropped"
        assert len(node.hub.sessions) == 4
        for client in (*clients[:2], *clients[3:]):
            assert pushes(client, "strict:a") == list(range(40))
            leaves = [message for message in client.link.messages if message.type == "leave"]
            assert len(leaves) == 1


@standing
async def test_many_may_prove_too_slow_for_the_same_message() -> None:
    async with life(limits=LIMITS) as node:
        clients = [await node.client(codec) for codec in (JSON, MSGPACK) * 5]
        for client in clients:
            for channel in ("strict:a", "p:a", "p:b"):
                await client.follow(channel)
        for client in clients[1:-1]:
            client.link.fill()
        await say(node, "strict:a", *range(40))
        assert set(node.hub.sessions.values()) == {clients[0].session, clients[-1].session}
        for client in (clients[0], clients[-1]):
            assert pushes(client, "strict:a") == list(range(40))


@standing
async def test_replies_that_nobody_reads_end_the_connection() -> None:
    async with life(limits=replace(LIMITS, command_burst=1_000.0)) as node:
        client = await node.client()
        client.link.fill()
        for number in range(100, 400):
            client.say(Subscribe(number, "h:a"))
        await quiet()
        assert client.link.closed == (4006, "slow_consumer")


# ---------------------------------------------------------------- whatever happens


def assert_contiguous(client: Client, channel: str, last: int, *, begun: int = 0) -> None:
    """Fail where a numbered message is missing that no gap tells of, or where one comes twice."""
    reached = begun
    for message in client.link.messages:
        if isinstance(message, Gap) and message.channel == channel and message.position:
            assert message.position.offset >= reached
            reached = message.position.offset
        elif isinstance(message, Message) and message.channel == channel and message.message:
            assert message.message.offset == reached + 1
            reached = message.message.offset
    assert reached == last or not client.link.is_open


STEPS = st.one_of(
    st.tuples(st.just("say"), st.sampled_from(POLICIES), st.integers(1, 12)),
    st.tuples(st.just("say"), st.sampled_from(POLICIES), st.integers(1, 12)),
    st.tuples(st.just("unnumbered"), st.sampled_from(POLICIES), st.just(1)),
    st.tuples(st.sampled_from(["fill", "drain"]), st.just(""), st.just(0)),
    st.tuples(st.just("capacity"), st.just(""), st.sampled_from([1, 500, 5_000])),
)


@settings(patient, max_examples=60)
@given(st.lists(STEPS, max_size=30), st.sampled_from([100, 15]))
def test_a_client_hears_everything_or_is_told(steps: list[tuple[str, str, int]], history: int) -> None:
    standing(a_client_hears_everything_or_is_told)(steps, history)


async def a_client_hears_everything_or_is_told(steps: list[tuple[str, str, int]], history: int) -> None:
    rules = {name: replace(each, history=each.history and history) for name, each in RULES.items()}
    async with life(limits=LIMITS, rules=rules) as node:
        slow, fast = await node.client(), await node.client()
        for channel in CHANNEL.values():
            for client in (slow, fast):
                await client.follow(channel)
        said = dict.fromkeys(POLICIES, 0)
        for step, policy, number in steps:
            if step == "say":
                await say(node, CHANNEL[policy], *range(said[policy] + 1, said[policy] + number + 1))
                said[policy] += number
            elif step == "unnumbered":
                await say(node, CHANNEL[policy], "x", retention=None)
            elif step == "capacity":
                slow.link.capacity = number
            else:
                getattr(slow.link, step)()
                await quiet()
        await read_on(slow)
        for policy, channel in CHANNEL.items():
            assert_contiguous(slow, channel, said[policy])
            numbered = [value for value in pushes(fast, channel) if value != "x"]
            assert numbered == list(range(1, said[policy] + 1))
            if slow.link.is_open and len(pushes(slow, channel)) < len(pushes(fast, channel)):
                assert any(isinstance(each, tuple) for each in pushes(slow, channel))
        assert slow.session.statistics()["behind"] == 0
