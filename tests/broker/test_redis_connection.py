"""A connection to Redis that dies between two calls, before anybody has heard of it."""

from pathlib import Path

import pytest

from gateway.errors import BrokerUnavailable
from tests.broker.node import publish
from tests.broker.redis_fleet import Fleet, eventually
from tests.broker.redis_server import running_redis


async def test_a_call_over_a_connection_that_is_closed_already_fails_as_any_other(tmp_path: Path) -> None:
    """What uvloop raises there is no error of the network; the fleet reports what nobody foresaw."""
    with running_redis(tmp_path) as server:
        async with Fleet(server.url) as fleet:
            broker = (await fleet.launch()).broker
            await publish(broker, "c", "before")
            wire = broker._shards[0].connections.publishes._connection  # noqa: SLF001 (by no other way can it end just now)
            wire._connection._writer.transport.abort()  # noqa: SLF001
            with pytest.raises(BrokerUnavailable, match="connection"):
                await publish(broker, "c", "lost")
            await eventually(broker.ready)
            await publish(broker, "c", "after")
