"""A node that is deployed, stormed or overloaded: connected clients come first, others get Retry-After."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.broker.redis.keys import Keys
from tests.broker.redis_server import RedisServer, running_redis
from tests.e2e.clients import Client, RawConnection, Response, upgrade_request
from tests.e2e.gateway import TIMEOUT_SECONDS, GatewayProcess, gateway_process, publish
from tests.e2e.redis_gateway import node_behind_proxy, node_with_redis, poll_until, wait_ready

KEYS = Keys("fanway", 0)
CROWD = 500
"""Clients: at 200 a second, they leave over two and a half seconds."""


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    (tmp_path / "redis").mkdir()
    with running_redis(tmp_path / "redis") as server:
        yield server


async def send_upgrade(port: int) -> Response:
    """Ask for an upgrade, and return how that is answered; a connection that is made ends at once."""
    with await RawConnection.open(port) as raw:
        await raw.send(upgrade_request())
        return await raw.read_response()


# ---------------------------------------------------------------- deploy


async def test_deploy_ends_readiness_then_upgrades_then_connections_then_the_lease(
    redis: RedisServer, tmp_path: Path
) -> None:
    settings = {"BROKER__LEASE": "60s"}  # nothing that follows can be its end
    async with (
        node_with_redis(tmp_path / "stays", redis.url, NODE__NAME="stays", **settings) as stays,
        node_with_redis(
            tmp_path / "goes", redis.url, NODE__NAME="goes", DRAIN__WINDOW="5s", **settings
        ) as goes,
        Client.open(stays.public, subs={"both:a": {}}) as watcher,
        AsyncExitStack() as stack,
    ):
        # Most are not told of who comes and goes: of so many, that would be too much.
        followed: list[dict[str, Any]] = [{"kept:a": {}}] * (CROWD - 20) + [{"kept:a": {}, "both:a": {}}] * 20
        crowd = await asyncio.gather(
            *(stack.enter_async_context(Client.open(goes.public, subs=subs)) for subs in followed)
        )
        seen = await publish(stays.internal, "kept:a", "seen")
        for client in crowd:
            assert (await client.next_push("message"))["message"] == seen["message"]
        goes.send_signal(signal.SIGTERM)
        reply = [asyncio.ensure_future(client.next_push("reconnect")) for client in crowd]
        await asyncio.wait(reply, return_when=asyncio.FIRST_COMPLETED)
        assert not all(each.done() for each in reply), "spread over the window"
        answer = await goes.request("GET", "/readyz")
        assert (answer.status_code, answer.json()["problems"]) == (503, ["draining"])
        with pytest.raises(ConnectionRefusedError):
            await RawConnection.open(goes.public)
        # Who has not been told yet is served as before, and so is who publishes here.
        last = await publish(goes.internal, "kept:a", "while it drains")
        for client, push in zip(crowd, reply, strict=True):
            reconnect = await push
            assert (reconnect["reason"], 0 <= reconnect["after_ms"] <= 1_000) == ("drain", True)
            assert await client.expect_close() == (4000, "drain")
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await goes.wait_exited()
        assert goes.popen.wait(TIMEOUT_SECONDS) == 0
        # Gone with it, though its lease would last: its place, its routes and its members.
        assert redis.execute("ZCARD", KEYS.nodes) == 1
        assert redis.execute("SCARD", KEYS.route("both:a")) == 1
        nodes = (await stays.request("GET", "/v1/nodes")).json()["nodes"]
        assert [each["node"] for each in nodes] == ["stays"]
        assert (await watcher.call("presence", channel="both:a"))["connections"] == 1
        # Each of them is back where it was, at the other node, with nothing lost.
        resume = {"kept:a": {"since": seen["message"]}}
        async with Client.open(stays.public, subs=resume) as back:
            restored = back.connected["subs"]["kept:a"]
            assert restored["recovered"] is True
            assert [message["message"] for message in restored["messages"]] == [last["message"]]


async def test_deploy_does_not_wait_for_a_redis_that_hangs(redis: RedisServer, tmp_path: Path) -> None:
    """Nothing is let through before the process has ended, and well."""
    async with (
        node_behind_proxy(tmp_path / "node", redis, DRAIN__TIMEOUT="10s") as (gateway, proxy),
        Client.open(gateway.public, subs={"both:a": {}}) as ann,
    ):
        proxy.hold()
        await ann.send({"type": "publish", "id": 99, "channel": "both:a", "data": 1})
        gateway.send_signal(signal.SIGTERM)
        assert (await ann.next_push("reconnect"))["reason"] == "drain"
        assert await ann.expect_close() == (4000, "drain")
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await gateway.wait_exited()
        assert gateway.popen.wait(TIMEOUT_SECONDS) == 0


# ---------------------------------------------------------------- storm


async def test_storm_is_admitted_by_the_bucket_and_the_rest_spread_at_random(
    redis: RedisServer, tmp_path: Path
) -> None:
    storm = 60
    async with node_with_redis(tmp_path / "node", redis.url, LIMITS__CONNECTS_PER_SECOND="1") as gateway:
        answers = await asyncio.gather(*(admitted_or_not(gateway.public) for _ in range(storm)))
        refused = [answer for answer in answers if answer.status != 101]
        assert len(refused) < storm, "somebody gets in"
        assert len(refused) > storm / 2, "and not everybody"
        assert {answer.status for answer in refused} == {503}
        for answer in refused:
            error = orjson.loads(answer.body)["error"]
            assert error["code"] == "unavailable"
            assert error["retry_after_ms"] == 1_000 * int(answer.headers["retry-after"])
        waits = {int(answer.headers["retry-after"]) for answer in refused}
        assert waits <= {1, 2, 3, 4, 5}
        assert len(waits) > 1, "they do not come back together"
        figures = await gateway.metrics()
        assert figures["admission_refused_rate_total"] == len(refused)


async def admitted_or_not(port: int) -> Response:
    """Knock, and again as long as it is the machine that is too busy."""
    while b"overloaded" in (answer := await send_upgrade(port)).body:  # noqa: ASYNC110 (it says when)
        await asyncio.sleep(int(answer.headers["retry-after"]))
    return answer


# ---------------------------------------------------------------- overload


async def test_overload_refuses_upgrades_and_serves_connected_clients(tmp_path: Path) -> None:
    """A loop that is late for seconds: here, because its process is stopped again and again."""
    with gateway_process(tmp_path, LOG__FORMAT="json") as gateway:
        async with Client.open(gateway.public, subs={"room": {}}) as ann:
            over = asyncio.Event()
            stumbling = asyncio.ensure_future(stumble(gateway, over))
            try:
                await overloaded(gateway, yes=True)
                refusal = await send_upgrade(gateway.public)
                assert refusal.status == 503
                assert b"overloaded" in refusal.body
                assert 1 <= int(refusal.headers["retry-after"]) <= 5
                await wait_ready(gateway, status=503)
                assert (await ann.call("ping"))["type"] == "pong"
                sent = await publish(gateway.internal, "room", "still here")
                assert (await ann.next_push("message"))["message"] == sent["message"]
                assert (await gateway.request("GET", "/healthz")).status_code == 200
            finally:
                over.set()
                await stumbling
            await overloaded(gateway, yes=False)
            await poll_until(lambda: let_in(gateway))
            await wait_ready(gateway)
            assert (await ann.call("ping"))["type"] == "pong"


async def let_in(gateway: GatewayProcess) -> bool:
    return (await send_upgrade(gateway.public)).status == 101


async def stumble(gateway: GatewayProcess, over: asyncio.Event) -> None:
    """Stop the process for a moment, several times a second, until it is *over*."""
    while not over.is_set():
        gateway.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(0.25)
        finally:
            gateway.send_signal(signal.SIGCONT)
        await asyncio.sleep(0.1)


async def overloaded(gateway: GatewayProcess, *, yes: bool) -> None:
    """Wait until the gateway says so, or no longer."""

    async def says() -> bool:
        return (await gateway.metrics())["admission_overloaded"] == yes

    await poll_until(says)
