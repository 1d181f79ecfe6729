"""The wall clock is stepped, or the machine is suspended, while clients are connected."""

import pytest

from gateway.clock import FakeClock
from protocol.errors import ErrorCode
from protocol.messages import Connect, Subscribe, Subscribed
from tests.gateway.node import Node, running_node
from tests.gateway.virtual_time import advance, on_virtual_time, until_idle


async def step(node: Node, seconds: float) -> None:
    """Step the wall clock, as the watch of the clocks notices it."""
    node.wall.step += seconds
    await node.hub.on_clock_step()
    await until_idle()


@on_virtual_time
async def test_a_step_back_prolongs_no_token() -> None:
    async with running_node(interval=10_000.0) as node:
        token, ticket = node.token("ann", ttl=100.0), node.token("ann", ttl=90.0, channel="token:a")
        client = node.open()
        await client.connect(Connect(1, token=token))
        assert isinstance(await client.request(Subscribe(2, "token:a", token=ticket)), Subscribed)
        await advance(10.0)
        await step(node, -3_600.0)
        await advance(79.0)
        assert "token:a" in client.session.subscriptions
        await advance(1.5)
        assert "token:a" not in client.session.subscriptions
        refused = await client.request_rejected(Subscribe(3, "token:a", token=ticket))
        assert refused.code is ErrorCode.TOKEN_EXPIRED
        await advance(9.0)
        assert client.session.is_open
        await advance(1.0)
        assert [*node.hub.sessions] == []
        assert client.transport.closed == (4004, "token_expired")
        # By the wall clock both are valid for an hour.
        assert (await node.open().request_rejected(Connect(4, token=token))).code is ErrorCode.TOKEN_EXPIRED
        fresh = node.open()
        await fresh.connect(Connect(5, token=node.token("ann", ttl=3_700.0)))
        assert fresh.session.is_open


@pytest.mark.parametrize("seconds", [100.0, 3_600.0])
@on_virtual_time
async def test_a_step_forward_ends_what_has_expired_by_then(seconds: float) -> None:
    async with running_node(interval=10_000.0) as node:
        client, other = node.open(), node.open()
        await client.connect(Connect(1, token=node.token("ann", ttl=100.0)))
        await other.connect(Connect(1, token=node.token("bob", ttl=5_000.0)))
        ticket = node.token("bob", ttl=100.0, channel="token:a")
        await other.request(Subscribe(2, "token:a", token=ticket))
        await step(node, seconds)
        await advance(0.0)
        assert client.transport.closed == (4004, "token_expired")
        assert (other.session.is_open, [*other.session.subscriptions]) == (True, ["@bob"])
        refused = await other.request_rejected(Subscribe(3, "token:a", token=ticket))
        assert refused.code is ErrorCode.TOKEN_EXPIRED
        assert not node.services.spent_tokens, "the wall clock itself refuses them"


@on_virtual_time
async def test_a_token_ends_at_once_if_it_expired_while_the_machine_was_suspended() -> None:
    suspended = FakeClock(0.0)
    async with running_node(interval=10_000.0) as node:
        clock = node.clock
        object.__setattr__(node.services, "elapsed_clock", lambda: clock() + suspended())
        client = node.open()
        await client.connect(Connect(1, token=node.token("ann", ttl=100.0)))
        suspended.now += 200.0  # the wall clock of this machine does not know that it was
        await step(node, 0.0)
        await advance(0.0)
        assert client.transport.closed == (4004, "token_expired")


@on_virtual_time
async def test_expiring_is_sent_once_although_the_clock_is_stepped() -> None:
    async with running_node(interval=10_000.0) as node:
        client = node.open()
        await client.connect(Connect(1, token=node.token("ann", ttl=100.0)))
        await advance(75.0)
        for seconds in (5.0, -5.0, -3_600.0):
            await step(node, seconds)
        await advance(26.0)
        assert [message.type for message in client.transport.messages].count("expiring") == 1
        assert client.transport.closed == (4004, "token_expired")


@on_virtual_time
async def test_a_rewind_after_a_step_back_has_only_what_history_keeps() -> None:
    async with running_node(interval=10_000.0) as node:
        reader = await node.connect()
        await reader.subscribe("h:a")
        await node.publish("h:a", 1, 2)
        await step(node, -3_600.0)
        await advance(301.0)  # the history of the namespace keeps messages for 300 s
        late = await node.connect()
        assert list((await late.subscribe("h:a", rewind=2)).messages) == []
