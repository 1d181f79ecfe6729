"""The wall clock of a running gateway is stepped: tokens live no longer, and everything else goes on."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker.redis_fleet import eventually
from tests.e2e.clients import Client
from tests.e2e.gateway import SECRET, GatewayProcess, gateway_process, publish
from tests.gateway.access.signing import forged
from tests.stepped_clock import SteppedClock

HOUR = 3_600.0


@pytest.fixture
def clock(tmp_path: Path) -> SteppedClock:
    return SteppedClock(tmp_path)


@pytest.fixture
def gateway(tmp_path: Path, clock: SteppedClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewayProcess]:
    for name, value in clock.environment.items():
        monkeypatch.setenv(name, value)
    with gateway_process(tmp_path) as gateway:
        for name in clock.environment:
            monkeypatch.delenv(name)
        yield gateway


def token(ttl: float) -> str:
    # Without `iat`, which would lie ahead of a clock that was set back.
    return forged({"alg": "HS256"}, {"sub": "ann", "exp": time.time() + ttl}, secret=SECRET)


async def steps_noticed(gateway: GatewayProcess, count: int) -> None:
    async def noticed() -> bool:
        page = (await gateway.request("GET", "/metrics")).text
        return f"fanway_clock_steps_total {count}.0" in page

    await eventually(noticed)


async def test_a_token_ends_in_time_although_the_clock_is_set_back(
    gateway: GatewayProcess, clock: SteppedClock
) -> None:
    short = token(5.0)
    async with Client.open(gateway.public, token=short) as client:
        clock.step_to(-HOUR)
        await steps_noticed(gateway, 1)
        assert (await client.expect_close()).code == 4004
    with pytest.raises(AssertionError, match="token_expired"):
        async with Client.open(gateway.public, token=short):
            pass


async def test_a_token_ends_when_the_clock_is_set_beyond_its_end(
    gateway: GatewayProcess, clock: SteppedClock
) -> None:
    async with (
        Client.open(gateway.public, token=token(HOUR / 2)) as client,
        Client.open(gateway.public, token=token(HOUR * 2)) as other,
    ):
        clock.step_to(HOUR)
        assert (await client.expect_close()).code == 4004
        assert (await other.call("ping"))["type"] == "pong"


@pytest.mark.parametrize("step", [HOUR, -HOUR])
async def test_messages_keys_and_history_go_on_when_the_clock_is_stepped(
    gateway: GatewayProcess, clock: SteppedClock, step: float
) -> None:
    async with Client.open(gateway.public) as client:
        await client.call("subscribe", channel="c")
        first = await publish(gateway.internal, "c", 1, key="k")
        clock.step_to(step)
        await steps_noticed(gateway, 1)
        assert await publish(gateway.internal, "c", 1, key="k") == {**first, "replayed": True}
        await publish(gateway.internal, "c", 2)
        pushes = [await client.next_push("message") for _ in range(2)]
        assert [push["data"] for push in pushes] == [1, 2]
        assert abs(pushes[1]["time"] - pushes[0]["time"] - step * 1_000) < 600_000, "`time` shows the step"
    async with Client.open(gateway.public) as late:
        reply = await late.call("subscribe", channel="c", since=first["message"])
        assert (reply["recovered"], [each["data"] for each in reply["messages"]]) == (True, [2])
