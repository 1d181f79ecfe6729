"""A history that goes on behind a loss: its numbers are without a hole, and yet it does not go on."""

from pathlib import Path

import pytest

from gateway.access.permissions import ChannelRules
from gateway.broker.base import Retention
from gateway.broker.redis.keys import Keys
from gateway.hub.channel import Channel
from gateway.hub.history_cache import HistoryCache
from tests.broker.node import publish
from tests.broker.redis_fleet import Fleet
from tests.broker.redis_server import running_redis

LONG = Retention(100, 600.0)
RULES = ChannelRules("", subscribe="anyone", publish="nobody", history=100, history_ttl=600.0)


@pytest.mark.parametrize("newer", [1, 2, 20])
async def test_who_comes_from_before_a_loss_recovers_nothing_from_behind_it(
    tmp_path: Path, newer: int
) -> None:
    """Whoever asks for the newest alone sees 3 and 4 beside each other: 4 followed another 3."""
    with running_redis(tmp_path) as server:
        async with Fleet(server.url) as fleet:
            broker = (await fleet.launch()).broker
            before = await publish(broker, "c", 1, 2, 3, retention=LONG)
            # As after a failover: another node has found that writes are missing.
            server.execute("HSET", Keys("fanway", 0).state, "e", "another")
            behind = await publish(broker, "c", *range(newer), retention=LONG)
            assert behind[0].offset == 4
            for position in before:
                channel, pages = Channel("c", RULES), HistoryCache(broker, page=8)
                channel.start_at(behind[-1])
                part = await pages.messages_after(channel, position)
                assert part.lost, position
                assert not part.messages
            channel, pages = Channel("c", RULES), HistoryCache(broker, page=8)
            channel.start_at(behind[-1])
            part = await pages.messages_after(channel, behind[0])
            assert not part.lost
            assert [frames.message.message for frames in part.messages] == behind[1 : 1 + len(part.messages)]
