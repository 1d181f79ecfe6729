"""One connect that restores many channels with a real Redis takes a few round trips."""

from __future__ import annotations

from pathlib import Path

from tests.broker.redis_server import running_redis
from tests.e2e.clients import Client
from tests.e2e.gateway import GatewayProcess, gateway_process, publish

COUNT = 100

CONFIG = """
[channels.default]
subscribe = "anyone"
history = 10
presence = true
"""

AT_MOST = 30
"""Round trips, of which a hundred histories take seven, and a node a few for itself."""


async def trips(node: GatewayProcess) -> float:
    return (await node.metrics())["broker_trips_total"]


async def test_many_channels_are_restored_in_a_few_round_trips(tmp_path: Path) -> None:
    channels = [f"c{number}" for number in range(COUNT)]
    (tmp_path / "redis").mkdir()
    with (
        running_redis(tmp_path / "redis") as redis,
        gateway_process(
            tmp_path, CONFIG, BROKER__KIND="redis", BROKER__URL=redis.url, BROKER__LEASE="30s"
        ) as node,
    ):
        since = {}
        for channel in channels:
            since[channel] = {"since": (await publish(node.internal, channel, 1))["message"]}
            await publish(node.internal, channel, 2)
        for subs, received in ({channel: {} for channel in channels}, []), (since, [2]):
            before = await trips(node)
            async with Client.open(node.public, subs=subs) as client:
                reply = client.connected["subs"]
                assert await trips(node) - before <= AT_MOST
            assert list(reply) == channels
            for sub in reply.values():
                assert [message["data"] for message in sub["messages"]] == received
