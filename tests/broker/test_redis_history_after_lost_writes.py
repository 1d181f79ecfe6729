"""A history after lost writes: offsets are contiguous, and still it does not continue the earlier one."""

from pathlib import Path

import pytest

from gateway.access.permissions import ChannelRules
from gateway.broker.base import Retention
from gateway.broker.redis.keys import Keys
from gateway.hub.channel import Channel
from gateway.hub.history_cache import HistoryCache
from gateway.memory import MIB, MemoryBudget
from tests.broker.recording_node import publish
from tests.broker.redis_fleet import Fleet
from tests.broker.redis_server import running_redis

LONG = Retention(100, 600.0)
RULES = ChannelRules("", subscribe="anyone", publish="nobody", history=100, history_ttl=600.0)


@pytest.mark.parametrize("newer", [1, 2, 20])
async def test_a_position_from_before_a_loss_recovers_nothing_from_after_it(
    tmp_path: Path, newer: int
) -> None:
    """A reader of offsets alone would see 3 followed by 4: that 4 followed another 3."""
    with running_redis(tmp_path) as server:
        async with Fleet(server.url) as fleet:
            broker = (await fleet.launch()).broker
            before = await publish(broker, "c", 1, 2, 3, retention=LONG)
            # As after a failover in which another node noticed the loss.
            server.execute("HSET", Keys("fanway", 0).state, "e", "another")
            after = await publish(broker, "c", *range(newer), retention=LONG)
            assert after[0].offset == 4
            for position in before:
                channel, pages = Channel("c", RULES), HistoryCache(broker, MemoryBudget(MIB), page=8)
                channel.start_at(after[-1])
                part = await pages.messages_after(channel, position)
                assert part.gap_reason, position
                assert not part.messages
            channel, pages = Channel("c", RULES), HistoryCache(broker, MemoryBudget(MIB), page=8)
            channel.start_at(after[-1])
            part = await pages.messages_after(channel, after[0])
            assert not part.gap_reason
            assert [frames.id for frames in part.messages] == after[1 : 1 + len(part.messages)]
