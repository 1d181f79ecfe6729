"""A connection to Redis that closes between two calls, unnoticed."""

from pathlib import Path

import pytest

from gateway.errors import BrokerUnavailable
from tests.broker.recording_node import publish
from tests.broker.redis_fleet import Fleet, eventually
from tests.broker.redis_server import running_redis


async def test_a_call_over_a_closed_connection_fails_with_broker_unavailable(tmp_path: Path) -> None:
    """uvloop raises a RuntimeError there, which must not reach the error handler that `Fleet` checks."""
    with running_redis(tmp_path) as server:
        async with Fleet(server.url) as fleet:
            broker = (await fleet.launch()).broker
            await publish(broker, "c", "before")
            connection = broker._shards[0].connections.publishes._connection  # noqa: SLF001 (the only way to close it at this moment)
            connection._connection._writer.transport.abort()  # noqa: SLF001
            with pytest.raises(BrokerUnavailable, match="connection"):
                await publish(broker, "c", "lost")
            await eventually(broker.ready)
            await publish(broker, "c", "after")
