"""What a client gets for a command that fails."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.broker.base import Publication, Receipt
from protocol.messages import (
    Error,
    Ping,
    PongReply,
    Publish,
    Subscribe,
)
from protocol.payload import payload_of
from tests.gateway.hub.interleavings import GatedBroker, unavailable
from tests.gateway.node import memory_broker, running_node
from tests.gateway.virtual_time import on_virtual_time


class Failing(GatedBroker):
    """A broker that raises an unexpected error."""

    async def publish(self, publication: Publication) -> Receipt:
        raise RuntimeError("a bug")


@on_virtual_time
async def test_an_unexpected_error_fails_only_its_command() -> None:
    async with running_node(broker=Failing(only=frozenset())) as node:
        client = await node.connect()
        error = await client.request_rejected(Publish(10, "a", payload_of(1)))
        assert (error.code, error.message) == ("internal", "something went wrong on our side")
        assert await client.request(Ping(11)) == PongReply(11)
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
@on_virtual_time
async def test_an_unavailable_broker_is_reported_with_retry_after(name: str, command: Any) -> None:
    async with running_node(broker=GatedBroker(only=frozenset())) as node:
        assert isinstance(node.broker, GatedBroker)
        node.broker.only = frozenset({name})
        node.broker.failures[name] = unavailable()
        client = await node.connect()
        client.send(command)
        await node.broker.pass_all()
        error = client.reply(10)
        assert (error.code, error.retry_after_ms) == ("unavailable", 500)
        assert node.hub.channels == {}
        node.broker.failures.clear()
        client.send(replace(command, id=11))
        await node.broker.pass_all()
        assert not isinstance(client.reply(11), Error)
        client.disconnect()
        await node.broker.pass_all()


@on_virtual_time
async def test_a_full_broker_rejects_a_publish_as_unavailable() -> None:
    async with running_node(broker=memory_broker(memory=1)) as node:
        client = await node.connect()
        error = await client.request_rejected(Publish(10, "h:a", payload_of(1)))
        assert (error.code, error.message, error.retry_after_ms) == (
            "unavailable",
            "the broker is full",
            5_000,
        )
