"""The log lines of the Redis broker's notices."""

from typing import Any

import pytest
import structlog

from gateway.broker.notices import (
    CallRejected,
    EvictionEnabled,
    LeaseLost,
    NodeReaped,
    Notice,
    RedisLost,
    RedisRestored,
    RoutesMissing,
    WritesLost,
)
from gateway.clock import FakeClock
from gateway.observe.notices import NoticeLog


def logged(*notices: tuple[float, int, Notice]) -> list[dict[str, Any]]:
    """Return the log lines for *notices*, each with the seconds since the previous one and its shard."""
    clock = FakeClock()
    with structlog.testing.capture_logs() as lines:
        log = NoticeLog(structlog.get_logger(), "n1", clock)
        for after, shard, notice in notices:
            clock.advance(after)
            log(shard, notice)
    for line in lines:
        assert line.pop("log_level") == "warning"
        assert line.pop("node") == "n1"
    return [dict(line) for line in lines]


def test_an_outage_is_logged_once_for_each_shard_and_reason() -> None:
    assert logged(
        (0.0, 0, RedisLost("refused")),
        (1.0, 1, RedisLost("refused")),
        (1.0, 0, RedisLost("loading")),
        (0.5, 0, RedisRestored()),
        (0.0, 1, RedisRestored()),
        (3.0, 0, RedisLost("refused")),
    ) == [
        {"event": "redis lost", "shard": 0, "reason": "refused"},
        {"event": "redis lost", "shard": 1, "reason": "refused"},
        {"event": "redis still lost", "shard": 0, "reason": "loading"},
        {"event": "redis regained", "shard": 0, "after": 2.5},
        {"event": "redis regained", "shard": 1, "after": 1.5},
        {"event": "redis lost", "shard": 0, "reason": "refused"},
    ]


@pytest.mark.parametrize(
    ("notice", "line"),
    [
        (WritesLost(), {"event": "redis lost writes"}),
        (LeaseLost(), {"event": "lease lost"}),
        (NodeReaped("n2~x"), {"event": "node reaped", "reaped": "n2~x"}),
        (RoutesMissing(3), {"event": "routes gone from redis", "routes": 3}),
        (CallRejected("why"), {"event": "redis refuses", "reason": "why"}),
    ],
)
def test_a_repeated_notice_is_logged_again(notice: Notice, line: dict[str, Any]) -> None:
    assert logged((0.0, 4, notice), (0.0, 4, notice)) == [{**line, "shard": 4}] * 2


def test_an_eviction_policy_is_logged_once_for_each_server() -> None:
    one, two = EvictionEnabled("a:1", "allkeys-lru"), EvictionEnabled("b:1", "allkeys-lru")
    lines = logged((0.0, 0, one), (0.0, 1, one), (0.0, 2, two), (9.0, 2, two))
    assert lines == [
        {"event": "redis may evict", "shard": 0, "server": "a:1", "policy": "allkeys-lru"},
        {"event": "redis may evict", "shard": 2, "server": "b:1", "policy": "allkeys-lru"},
    ]
