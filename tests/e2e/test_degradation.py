"""Redis is absent, lost, or loses data: what clients, backends and operators see, also after its return."""

import asyncio
import shutil
from pathlib import Path

import orjson

from gateway.broker.redis.keys import Keys
from gateway.broker.redis.membership.lease import TTL_SHARE
from tests.broker.redis_server import RedisServer, running_redis
from tests.e2e.clients import Client, RawConnection, upgrade_request
from tests.e2e.gateway import publish
from tests.e2e.redis_gateway import (
    assert_publish_unavailable,
    is_unavailable,
    log_lines,
    node_with_redis,
    poll_until,
    wait_ready,
    wait_unready,
)

KEYS = Keys("fanway", 0)


# ---------------------------------------------------------------- absent at start


async def test_redis_absent_at_start_refuses_upgrades_until_it_is_reachable(
    redis: RedisServer, tmp_path: Path
) -> None:
    redis.kill()
    async with node_with_redis(tmp_path / "node", redis.url) as gateway:
        assert (await gateway.request("GET", "/healthz")).status_code == 200
        answer = await gateway.request("GET", "/readyz")
        assert (answer.status_code, answer.json()["problems"]) == (503, ["the broker takes no publishes"])
        waits = set()
        for _ in range(20):
            with await RawConnection.open(gateway.public) as raw:
                await raw.send(upgrade_request())
                response = await raw.read_response()
                assert response.status == 503
                assert is_unavailable(orjson.loads(response.body)["error"])
                waits.add(int(response.headers["retry-after"]))
                assert await raw.read_to_end() == b""
        assert len(waits) > 1, "they do not come back together"
        assert waits <= {1, 2, 3, 4, 5}
        await assert_publish_unavailable(gateway, "kept:a")
        redis.start()
        await wait_ready(gateway)
        async with Client.open(gateway.public) as ann:
            await ann.call("subscribe", channel="kept:a")
            sent = await publish(gateway.internal, "kept:a", "hello")
            assert (await ann.next_push("message"))["message"] == sent["message"]
        lines = log_lines(gateway, "redis lost", "redis regained")
        assert [line["event"] for line in lines] == ["redis lost", "redis regained"]


async def test_redis_back_after_its_absence_is_found_within_two_seconds(
    redis: RedisServer, tmp_path: Path
) -> None:
    """By Redis' clock. A busy machine makes a return seem slower, never quicker: one of three must do."""
    redis.kill()
    lease = 60.0  # renewed a third of it later: until then it tells when it was taken
    took = []
    async with node_with_redis(tmp_path / "node", redis.url, BROKER__LEASE=f"{lease:g}s") as gateway:
        for _ in range(3):
            redis.start()
            seconds, microseconds = redis.execute("TIME")
            await wait_ready(gateway)
            ((_, end),) = redis.execute("ZRANGE", KEYS.nodes, 0, -1, "WITHSCORES")
            taken = int(end) - lease * TTL_SHARE * 1000
            took.append(taken - (int(seconds) * 1000 + int(microseconds) / 1000))
            if took[-1] <= 2_000:
                break
            redis.kill()
            await wait_unready(gateway)
    assert took[-1] <= 2_000, took


# ---------------------------------------------------------------- lost


async def test_redis_lost_closes_no_connection_and_rejects_what_needs_it(
    redis: RedisServer, tmp_path: Path
) -> None:
    async with (
        node_with_redis(tmp_path / "node", redis.url) as gateway,
        Client.open(gateway.public) as ann,
        Client.open(gateway.public) as bob,
    ):
        for channel in ("kept:a", "here:a", "plain:a"):
            assert (await ann.call("subscribe", channel=channel))["type"] == "subscribed"
        redis.kill()
        await assert_publish_unavailable(gateway, "kept:a")
        await wait_unready(gateway)
        for channel in ("kept:b", "here:b", "both:b"):
            assert is_unavailable(await bob.call("subscribe", channel=channel)), channel
        assert (await bob.call("subscribe", channel="plain:b"))["type"] == "subscribed"
        # What somebody here follows already costs Redis nothing, but for being present.
        assert (await bob.call("subscribe", channel="kept:a"))["type"] == "subscribed"
        assert is_unavailable(await bob.call("subscribe", channel="here:a"))
        assert is_unavailable(await ann.call("publish", channel="kept:a", data=1))
        assert is_unavailable(await ann.call("presence", channel="here:a"))
        assert is_unavailable(await ann.call("history", channel="kept:a"))
        assert (await ann.call("unsubscribe", channel="plain:a"))["type"] == "unsubscribed"
        for client in (ann, bob):
            assert (await client.call("ping"))["type"] == "pong"
        assert (await gateway.request("GET", "/healthz")).status_code == 200
        redis.start()
        await wait_ready(gateway)
        gap = await bob.next_push("gap")
        assert (gap["channel"], gap["reason"]) == ("plain:b", "reset"), "nobody knows what was said meanwhile"
        for channel, client in (("kept:a", ann), ("kept:a", bob), ("plain:b", bob)):
            await publish(gateway.internal, channel, channel)
            assert (await client.next_push("message"))["data"] == channel
            if channel == "kept:a":
                await (bob if client is ann else ann).next_push("message")
        # Whose presence Redis did not hear of has not come, and comes now.
        assert (await bob.call("subscribe", channel="here:a"))["type"] == "subscribed"
        assert (await ann.next_push("join"))["member"]["connection"] == bob.connected["connection"]
        assert (await ann.call("presence", channel="here:a"))["connections"] == 2


async def test_lost_redis_gets_no_calls_but_probes(redis: RedisServer, tmp_path: Path) -> None:
    """What was not sent cannot have been waited for: fewer calls than publishes that were refused."""
    async with node_with_redis(tmp_path / "node", redis.url) as gateway:
        redis.kill()
        await wait_unready(gateway)
        before = await gateway.metrics()
        for _ in range(100):
            await assert_publish_unavailable(gateway, "kept:a")
        after = await gateway.metrics()
        assert after["broker_refused_total"] - before["broker_refused_total"] == 100
        assert after["broker_waiting"] == 0
        # The lease looks whether Redis is there; nobody else does.
        assert (after["broker_up"], after["broker_leases"]) == (0, after["broker_leases"])
        assert after["broker_calls_total"] - before["broker_calls_total"] < 100
        redis.start()
        await wait_ready(gateway)


async def test_redis_regained_finds_lease_routes_and_presence_as_they_were(
    redis: RedisServer, tmp_path: Path
) -> None:
    settings = {"BROKER__LEASE": "2s"}
    async with (
        node_with_redis(tmp_path / "one", redis.url, NODE__NAME="one", **settings) as one,
        node_with_redis(tmp_path / "two", redis.url, NODE__NAME="two", **settings) as two,
        Client.open(one.public) as ann,
        Client.open(two.public) as bob,
    ):
        for client in (ann, bob):
            assert (await client.call("subscribe", channel="both:a"))["type"] == "subscribed"
        before = await publish(one.internal, "both:a", "before")
        redis.kill()
        await wait_unready(one)
        await wait_unready(two)
        await asyncio.sleep(2.5)  # longer than the lease: time has to pass, that is what a lease is about
        redis.start()
        await wait_ready(one)
        await wait_ready(two)

        async def registered() -> bool:
            nodes, routed = redis.execute("ZCARD", KEYS.nodes), redis.execute("SCARD", KEYS.route("both:a"))
            return (nodes, routed) == (2, 2)

        await poll_until(registered)
        after = await publish(two.internal, "both:a", "after")
        for client in (ann, bob):
            # In this order, nothing in between: no gap, no leave, no join.
            reply = [await client.next_push("message") for _ in range(2)]
            assert [each["message"] for each in reply] == [before["message"], after["message"]]
            present = await client.call("presence", channel="both:a")
            assert present["connections"] == 2
        for gateway in (one, two):
            assert (await gateway.metrics())["broker_gaps_total"] == 0


async def test_loss_and_return_of_redis_log_one_line_each(tmp_path: Path) -> None:
    """However often it was tried; and no line shows what the URL keeps."""
    with running_redis(tmp_path, "--requirepass", "hunter2") as redis:
        url = redis.url.replace("redis://", "redis://:hunter2@")
        async with node_with_redis(tmp_path / "node", url) as gateway:
            await wait_ready(gateway)
            assert log_lines(gateway, "redis lost", "redis regained") == []
            for times in (1, 2):
                redis.kill()
                await wait_unready(gateway)
                before = await gateway.metrics()

                async def tried(before: dict[str, float] = before) -> bool:
                    now = await gateway.metrics()
                    return now["broker_failures_total"] >= before["broker_failures_total"] + 3

                await poll_until(tried)
                redis.start()
                await wait_ready(gateway)
                lines = log_lines(gateway, "redis lost", "redis regained")
                assert [line["event"] for line in lines] == ["redis lost", "redis regained"] * times
                assert {line["shard"] for line in lines} == {0}
                assert lines[-2]["reason"]
                assert lines[-1]["after"] > 0
        assert len(log_lines(gateway, "redis lost")) == 2, "an end is no loss"
        assert "hunter2" not in gateway.stderr


# ---------------------------------------------------------------- forgetful


async def test_flushed_redis_notifies_connected_and_resuming_clients(
    redis: RedisServer, tmp_path: Path
) -> None:
    async with node_with_redis(tmp_path / "node", redis.url) as gateway, Client.open(gateway.public) as ann:
        for channel in ("kept:a", "plain:a"):
            await ann.call("subscribe", channel=channel)
        old = await publish(gateway.internal, "kept:a", "lost")
        await publish(gateway.internal, "kept:a", "lost as well")
        await ann.next_push("message")
        await ann.next_push("message")
        redis.execute("FLUSHALL")
        gaps = {gap["channel"]: gap for gap in (await ann.next_push("gap"), await ann.next_push("gap"))}
        assert {(name, gap["reason"]) for name, gap in gaps.items()} == {
            ("kept:a", "reset"),
            ("plain:a", "reset"),
        }
        async with Client.open(gateway.public, subs={"kept:a": {"since": old["message"]}}) as bob:
            resumed = bob.connected["subs"]["kept:a"]
            assert (resumed["recovered"], resumed["messages"]) == (False, [])
            assert resumed["position"] == gaps["kept:a"]["position"]
            await publish(gateway.internal, "kept:a", "new")
            for client in (ann, bob):
                assert (await client.next_push("message"))["data"] == "new"
        assert (await gateway.metrics())["broker_resets_total"] == 1
        assert len(log_lines(gateway, "redis lost writes")) == 1


async def test_lost_writes_of_redis_are_notified_although_numbers_continue(
    redis: RedisServer, tmp_path: Path
) -> None:
    """A failover to a replica that lags, or a power cut: the newest messages are gone, older ones are not."""
    disk, copy = tmp_path / "redis" / "appendonlydir", tmp_path / "copy"
    async with node_with_redis(tmp_path / "node", redis.url) as gateway, Client.open(gateway.public) as ann:
        await ann.call("subscribe", channel="kept:a")
        kept = await publish(gateway.internal, "kept:a", "kept")
        shutil.copytree(disk, copy)
        lost = await publish(gateway.internal, "kept:a", "lost")
        redis.kill()
        shutil.rmtree(disk)
        shutil.move(copy, disk)
        redis.start()
        gap = await ann.next_push("gap")
        assert (gap["reason"], gap["position"].partition("-")[0]) == ("reset", "1")
        await wait_ready(gateway)
        new = await publish(gateway.internal, "kept:a", "new")
        assert new["message"].partition("-")[0] == lost["message"].partition("-")[0], (
            "the number is taken again"
        )
        assert (await ann.next_push("message"))["message"] == new["message"]
        for since in (kept, lost):
            async with Client.open(gateway.public, subs={"kept:a": {"since": since["message"]}}) as bob:
                assert bob.connected["subs"]["kept:a"]["recovered"] is False
