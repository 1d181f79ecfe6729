"""Several workers on one machine: they share ports, and are replaced when they die or hang."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.broker.redis_server import RedisServer, running_redis
from tests.e2e.clients import Client
from tests.e2e.gateway import TIMEOUT_SECONDS, GatewayProcess, gateway_process, publish


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path) as server:
        yield server


@contextmanager
def two_workers(redis: RedisServer, home: Path, **settings: str) -> Iterator[GatewayProcess]:
    """Run two workers in *home*."""
    with gateway_process(
        home,
        dev=True,
        NODE__NAME="box",
        NODE__WORKERS="2",
        BROKER__KIND="redis",
        BROKER__URL=redis.url,
        DRAIN__WINDOW="0s",
        LOG__FORMAT="json",
        **settings,
    ) as gateway:
        yield gateway


@pytest.fixture
def gateway(redis: RedisServer, tmp_path: Path) -> Iterator[GatewayProcess]:
    with two_workers(redis, tmp_path, BROKER__LEASE="2s") as gateway:
        yield gateway


def events(gateway: GatewayProcess, name: str) -> list[dict[str, Any]]:
    lines = [line for line in gateway.stderr.splitlines() if line.startswith("{")]
    return [event for event in map(orjson.loads, lines) if event["event"] == name]


async def both(gateway: GatewayProcess) -> None:
    """Wait until two workers are alive, as the cluster sees them, and none of their predecessors."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while True:
            try:
                answer = await gateway.request("GET", "/v1/nodes")
            except httpx.TransportError:
                continue  # whoever listened was killed
            if answer.status_code == 200:
                nodes = sorted(each["node"] for each in answer.json()["nodes"])
                if nodes == ["box-1", "box-2"]:
                    return


async def wait_for_third_worker(gateway: GatewayProcess) -> None:
    """Wait for a third worker; the supervisor tells its log alone."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while len(events(gateway, "worker started")) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


def test_addresses_are_announced_when_every_worker_listens(gateway: GatewayProcess) -> None:
    listening = "0A"  # proc(5), net/tcp: the state in hexadecimal, as the address is
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ports = [int(row[1].partition(":")[2], 16) for row in rows if row[3] == listening]
    assert ports.count(gateway.internal) == 2


async def test_workers_share_ports_and_are_replaced_when_they_die(gateway: GatewayProcess) -> None:
    await both(gateway)
    async with Client.open(gateway.public) as ann:
        await ann.call("subscribe", channel="room")
        for number in range(10):  # whichever worker takes each
            await publish(gateway.internal, "room", number)
        assert [(await ann.next_push("message"))["data"] for _ in range(10)] == list(range(10))
        other = 2 if ann.connected["node"] == "box-1" else 1
        (victim,) = (each["pid"] for each in events(gateway, "worker started") if each["worker"] == other)
        os.kill(victim, signal.SIGKILL)
        await wait_for_third_worker(gateway)
        await both(gateway)
        (death,) = events(gateway, "worker died")
        assert death["level"] == "warning"
        assert (death["worker"], death["status"]) == (other, -signal.SIGKILL)
        await publish(gateway.internal, "room", "still here")
        assert (await ann.next_push("message"))["data"] == "still here"


async def test_any_worker_serves_the_metrics_of_all_workers(gateway: GatewayProcess) -> None:
    await both(gateway)
    async with Client.open(gateway.public) as ann:
        own = ann.connected["node"].removeprefix("box-")
        other = "2" if own == "1" else "1"
        answers = [await gateway.metrics() for _ in range(8)]  # whichever worker takes each
        for figures in answers:
            assert figures[f'hub_sessions{{worker="{own}"}}'] == 1
            assert figures[f'hub_sessions{{worker="{other}"}}'] == 0
            assert figures[f'worker_up{{worker="{other}"}}'] == 1
        (pid,) = (each["pid"] for each in events(gateway, "worker started") if each["worker"] == int(other))
        os.kill(pid, signal.SIGSTOP)
        try:
            # The stopped one is handed some of them, and says nothing.
            asked = [asyncio.ensure_future(gateway.metrics()) for _ in range(16)]
            done, waiting = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            for each in waiting:
                each.cancel()
            await asyncio.wait(asked)
        finally:
            os.kill(pid, signal.SIGCONT)
        figures = done.pop().result()
        assert (figures[f'worker_up{{worker="{own}"}}'], figures[f'worker_up{{worker="{other}"}}']) == (1, 0)
        assert figures[f'hub_sessions{{worker="{own}"}}'] == 1
        assert f'hub_sessions{{worker="{other}"}}' not in figures


async def test_a_stuck_worker_is_replaced(gateway: GatewayProcess) -> None:
    await both(gateway)
    first = events(gateway, "worker started")[0]["pid"]
    os.kill(first, signal.SIGSTOP)
    await wait_for_third_worker(gateway)
    assert [(each["pid"], each["level"]) for each in events(gateway, "worker is silent")] == [
        (first, "warning")
    ]
    assert {each["level"] for each in events(gateway, "worker started")} == {"info"}


async def test_stuck_worker_does_not_delay_the_exit(redis: RedisServer, tmp_path: Path) -> None:
    with two_workers(redis, tmp_path, DRAIN__TIMEOUT="10m") as gateway:
        await both(gateway)
        stuck = events(gateway, "worker started")[0]["pid"]
        os.kill(stuck, signal.SIGSTOP)
        gateway.send_signal(signal.SIGTERM)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await gateway.wait_exited()
        assert [each["pid"] for each in events(gateway, "worker did not end")] == [stuck]
        gateway.expect_exit_status(1)


def test_without_redis_several_workers_are_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match="several workers need a broker between them"),
        gateway_process(tmp_path, NODE__WORKERS="2"),
    ):
        pass
