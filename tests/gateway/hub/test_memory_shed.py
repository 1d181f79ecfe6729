"""Sessions whose outboxes are shed because all of them together hold too much."""

from __future__ import annotations

import pytest

from protocol.errors import CloseCode
from tests.gateway.node import Node, running_node
from tests.gateway.slow_clients import drain
from tests.gateway.virtual_time import on_virtual_time, until_idle


async def publish_each(node: Node, channel: str, *values: str) -> None:
    """Publish *values*, each in its own turn of the loop; all outboxes together keep to their memory."""
    for value in values:
        await node.publish(channel, value)
        await until_idle()
        assert node.hub.memory.outboxes.used <= node.hub.memory.outboxes.limit


@on_virtual_time
async def test_the_largest_outbox_catches_up_from_history_and_misses_nothing() -> None:
    async with running_node() as node:
        node.hub.memory.outboxes.limit = 40_000
        slow, slower, reader = [await node.connect() for _ in range(3)]
        await slow.subscribe("h:slow")
        await slower.subscribe("h:slower")
        for client in (slow, slower):
            client.transport.fill()
        await reader.subscribe("h:slower")
        values = ["x" * 1_000 + str(number) for number in range(30)]
        await publish_each(node, "h:slow", *values[:5])
        await publish_each(node, "h:slower", *values)
        await until_idle()
        assert node.hub.memory.outboxes.freed > 0
        assert (slow.session.statistics()["behind"], slower.session.statistics()["behind"]) == (0, 1)
        assert reader.values("h:slower") == values, "who reads is not affected"
        await drain(slow, slower)
        assert slow.values("h:slow") == values[:5]
        assert slower.values("h:slower") == values
        assert node.hub.memory.outboxes.used == 0


@pytest.mark.parametrize(("channel", "aborted"), [("strict:a", False), ("h:a", True)])
@on_virtual_time
async def test_a_client_that_holds_what_must_not_be_dropped_is_closed(channel: str, aborted: bool) -> None:
    """Because of its policy; or because its socket has not accepted what was written."""
    async with running_node() as node:
        node.hub.memory.outboxes.limit = 20_000
        client = await node.connect()
        await client.subscribe(channel)
        if aborted:
            client.transport.write(b"\x81\x7e\x75\x30" + bytes(30_000))
        client.transport.fill()
        await publish_each(node, channel, *["x" * 1_000] * (1 if aborted else 20))
        await until_idle()
        assert node.hub.close_counts == {CloseCode.SLOW_CONSUMER: 1}
        assert client.transport.aborted is aborted
        assert node.hub.flusher.statistics()["shed_disconnected"] == 1
        assert node.hub.memory.outboxes.used == 0
