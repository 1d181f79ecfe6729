"""Clients that send the commands with the most work, as often as they may: bystanders must not notice."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

from tests.broker.redis_server import running_redis
from tests.e2e.clients import RawConnection
from tests.e2e.gateway import GatewayProcess, gateway_process, token
from tests.e2e.latency import RoundTrip, latency_probe, percentile
from tests.e2e.redis_gateway import node_with_redis, wait_ready

ATTACKERS = 100
"""Connections of one user: as many as a user may have."""
HISTORIES = 8
"""Commands that each sends; more than the rate of their user admits at once, all together."""
ROUND_TRIPS = 100
"""Of each bystander before the attack."""
MAX_RATIO = 60
"""Of what the p99 of bystanders waits for, to what it was before."""
CONFIG = """
[limits]
user_command_burst = 20000
[channels.default]
subscribe = "anyone"
publish = "anyone"
[channels.deep]
history = 1000
[channels.private]
subscribe = "token"
"""


async def fill(gateway: GatewayProcess, channel: str) -> None:
    """Publish as many messages in *channel* as its history keeps."""
    commands = [
        {"publish": {"channel": channel, "data": {"number": n, "text": "x" * 50}}} for n in range(1_000)
    ]
    answer = await gateway.request("POST", "/v1/batch", {"commands": commands})
    assert all("message" in result for result in answer.json()["results"])


async def ask_for_histories(port: int, user_token: str) -> None:
    """Send `history` again and again, from different positions, which no two reads can share."""
    with await RawConnection.websocket(port) as raw:
        connected = await raw.call(type="connect", id=1, token=user_token, subs={"deep:1": {}})
        assert connected["type"] == "connected", connected
        for number in range(HISTORIES):
            await raw.send_command(type="history", id=10 + number, channel="deep:1", limit=1_000 - number)
            answer = await raw.receive()
            assert answer["type"] == "history" or answer["code"] == "rate_limited", answer


async def send_many_tokens(port: int, user_token: str, channel_tokens: Sequence[str]) -> None:
    """Connect with as many channel tokens as fit into a message."""
    subs = {f"private:{number}": {"token": each} for number, each in enumerate(channel_tokens)}
    for _ in range(3):
        with await RawConnection.websocket(port) as raw:
            answer = await raw.call(type="connect", id=1, token=user_token, subs=subs)
            assert answer["type"] == "connected" or answer["code"] == "rate_limited", answer


async def attack(
    home: Path,
    gateways: Sequence[GatewayProcess],
    attacker: Callable[[], Coroutine[None, None, None]],
    *more: int,
) -> None:
    """Let all attackers act at once, while a bystander at each of *gateways* publishes and receives.

    Compares what the p99 of the bystanders' round trips has to wait for: not in seconds, of which a busy
    machine needs many, but in CPU time of their gateway and of the processes *more*.
    """
    with ExitStack() as stack:
        probes = [
            stack.enter_context(
                latency_probe(
                    gateway.public,
                    make_directory(home / f"probe{number}"),
                    channel=f"calm:{number}",
                    watched=[gateway.popen.pid, *more],
                )
            )
            for number, gateway in enumerate(gateways)
        ]
        before = [p99_of(await probe.wait_for_round_trips(ROUND_TRIPS)) for probe in probes]
        began = time.monotonic()
        async with asyncio.TaskGroup() as attackers:
            for _ in range(ATTACKERS):
                attackers.create_task(attacker())
        during = [p99_of(probe.round_trips(began)) for probe in probes]
        for probe in probes:
            await probe.wait_for_round_trip()
    print(f"p99 before {before}, during {during}")  # noqa: T201
    for earlier, after in zip(before, during, strict=True):
        assert after.work < MAX_RATIO * earlier.work, (before, during)


def make_directory(path: Path) -> Path:
    path.mkdir()
    return path


def p99_of(trips: Sequence[RoundTrip]) -> RoundTrip:
    """Return the p99 of each figure of *trips*."""
    return RoundTrip(*(percentile(figures, 0.99) for figures in zip(*trips, strict=True)))


async def test_histories_of_one_user_delay_nobody_on_the_node(tmp_path: Path) -> None:
    ann = token("ann", now=time.time())
    with gateway_process(tmp_path, CONFIG, LOG__FORMAT="json") as gateway:
        await fill(gateway, "deep:1")
        await attack(tmp_path, [gateway], lambda: ask_for_histories(gateway.public, ann))
        assert (await gateway.metrics())["rates_refused_user_total"] > 0


async def test_histories_of_one_user_delay_nobody_on_another_node(tmp_path: Path) -> None:
    ann = token("ann", now=time.time())
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(running_redis(tmp_path))
        one, other = [
            await stack.enter_async_context(
                node_with_redis(tmp_path / name, redis.url, config=CONFIG, NODE__NAME=name)
            )
            for name in ("one", "other")
        ]
        for gateway in (one, other):
            await wait_ready(gateway)
        await fill(one, "deep:1")
        await attack(tmp_path, [one, other], lambda: ask_for_histories(one.public, ann), redis.pid)


async def test_tokens_of_one_user_delay_nobody(tmp_path: Path) -> None:
    now = time.time()
    ann = token("ann", now=now)
    channel_tokens = [token("ann", now=now, channel=f"private:{number}") for number in range(300)]
    with gateway_process(tmp_path, CONFIG, LOG__FORMAT="json") as gateway:
        await attack(tmp_path, [gateway], lambda: send_many_tokens(gateway.public, ann, channel_tokens))
