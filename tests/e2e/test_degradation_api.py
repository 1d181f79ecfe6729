"""The push API while Redis is down, hangs, or is partly down: every path answers with a typed error."""

import asyncio
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from gateway.broker.redis.keys import shard_of
from tests.broker.redis_server import DURABLE, RedisServer, running_redis
from tests.e2e.clients import Client
from tests.e2e.gateway import GatewayProcess, publish
from tests.e2e.redis_gateway import (
    is_unavailable,
    log_lines,
    node_behind_proxy,
    node_with_redis,
    poll_until,
    wait_ready,
    wait_unready,
)


class Call(NamedTuple):
    """One request to the push API."""

    method: str
    path: str
    body: Any = None
    each: bool = False
    """Whether each of several results tells what became of it."""


MESSAGE = {"data": 1}
CALLS = [
    Call("POST", "/v1/publish", {"channel": "both:a", **MESSAGE}),
    Call("POST", "/v1/publish", {"channel": "plain:a", "key": "again", **MESSAGE}),
    Call("POST", "/v1/broadcast", {"channels": ["both:a", "plain:a"], **MESSAGE}, each=True),
    Call("POST", "/v1/notify", {"users": ["ann", "bob"], **MESSAGE}, each=True),
    Call("POST", "/v1/batch", {"commands": [{"publish": {"channel": "both:a", **MESSAGE}}]}, each=True),
    Call("GET", "/v1/channels"),
    Call("GET", "/v1/channels?prefix=both:"),
    Call("GET", "/v1/channels/both:a"),
    Call("GET", "/v1/channels/both:a/presence"),
    Call("GET", "/v1/channels/both:a/history"),
    Call("DELETE", "/v1/channels/both:a/history"),
    Call("GET", "/v1/users/ann"),
    Call("POST", "/v1/users/ann/disconnect"),
    Call("POST", "/v1/users/ann/subscribe", {"channel": "plain:a"}),
    Call("POST", "/v1/users/ann/unsubscribe", {"channel": "plain:a"}),
    Call("GET", "/v1/nodes"),
    Call("GET", "/v1/stats"),
]
"""Every path of docs/push-api.md."""

KNOWN_HERE = ("/v1/nodes", "/v1/stats")
"""What a node could answer from what it knows itself."""


async def ask(gateway: GatewayProcess, call: Call) -> tuple[Call, httpx.Response]:
    return call, await gateway.request(call.method, call.path, call.body)


def tells(call: Call, answer: httpx.Response) -> None:
    """Hold *answer* to what a backend is promised: what failed, as a type, and when to try again."""
    if call.each:
        assert answer.status_code == 200, (call, answer.text)
        assert answer.json()["results"]
        for result in answer.json()["results"]:
            assert is_unavailable(result["error"]), (call, result)
    elif answer.status_code == 200:
        assert call.path in KNOWN_HERE, (call, answer.text)
    else:
        assert answer.status_code == 503, (call, answer.text)
        assert is_unavailable(answer.json()["error"]), (call, answer.text)
        assert int(answer.headers["retry-after"]) >= 1


async def test_every_path_answers_while_redis_is_down(redis: RedisServer, tmp_path: Path) -> None:
    async with (
        node_with_redis(tmp_path / "node", redis.url) as gateway,
        Client.open(gateway.public, subs={"both:a": {}}) as ann,
    ):
        redis.kill()
        # At once, whichever of them finds out.
        for call, answer in await asyncio.gather(*(ask(gateway, call) for call in CALLS)):
            tells(call, answer)
        await wait_unready(gateway)
        for call in CALLS:
            tells(*await ask(gateway, call))
        for path in ("/healthz", "/metrics", "/openapi.json", "/docs"):
            assert (await gateway.request("GET", path)).status_code == 200
        assert (await ann.call("ping"))["type"] == "pong"
        redis.start()
        await wait_ready(gateway)
        for call in CALLS:
            _, answer = await ask(gateway, call)
            assert answer.status_code == 200, (call, answer.text)


async def test_every_path_answers_while_redis_hangs(redis: RedisServer, tmp_path: Path) -> None:
    """Nothing is let through before the last of them has its answer."""
    async with node_behind_proxy(tmp_path / "node", redis) as (gateway, proxy):
        for call in CALLS:  # over connections that are there
            assert (await ask(gateway, call))[1].status_code == 200
        proxy.hold()
        for call, answer in await asyncio.gather(*(ask(gateway, call) for call in CALLS)):
            tells(call, answer)
        for call in CALLS:
            tells(*await ask(gateway, call))
        proxy.release()
        await wait_ready(gateway)
        for call in CALLS:
            assert (await ask(gateway, call))[1].status_code == 200


# ---------------------------------------------------------------- several servers


def channels_by_shard(shards: int, namespace: str) -> list[str]:
    """Return a channel of *namespace* for each shard."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < shards:
        name = f"{namespace}:{number}"
        found.setdefault(shard_of(name, shards), name)
        number += 1
    return [found[shard] for shard in range(shards)]


async def test_loss_of_one_of_two_servers_affects_only_its_channels(
    redis: RedisServer, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    with running_redis(tmp_path / "other", *DURABLE) as other:
        urls = f'["{redis.url}", "{other.url}"]'
        async with (
            node_with_redis(tmp_path / "node", "", BROKER__URLS=urls) as gateway,
            Client.open(gateway.public) as ann,
        ):
            await wait_ready(gateway)
            lost, here = channels_by_shard(2, "both")
            for channel in (lost, here):
                assert (await ann.call("subscribe", channel=channel))["type"] == "subscribed"
            redis.kill()

            async def noticed() -> bool:
                return (await gateway.metrics())["broker_up"] == 1

            await poll_until(noticed)
            assert (await gateway.metrics())["broker_shards"] == 2
            assert (await gateway.request("GET", "/readyz")).status_code == 200
            answer = await gateway.request("POST", "/v1/publish", {"channel": lost, "data": 1})
            assert (answer.status_code, is_unavailable(answer.json()["error"])) == (503, True)
            sent = await publish(gateway.internal, here, "still here")
            assert (await ann.next_push("message"))["message"] == sent["message"]
            results = (
                await gateway.request("POST", "/v1/broadcast", {"channels": [lost, here], "data": 2})
            ).json()["results"]
            assert is_unavailable(results[0]["error"])
            assert results[1]["message"]
            assert (await ann.next_push("message"))["data"] == 2
            assert (await ann.call("presence", channel=lost))["code"] == "unavailable"
            assert (await ann.call("presence", channel=here))["connections"] == 1
            assert (await gateway.request("GET", "/v1/nodes")).status_code == 200
            listed = await gateway.request("GET", "/v1/channels")
            assert listed.json() == {"channels": [{"channel": here, "subscribers": 1}], "partial": True}
            statuses = [
                (await gateway.request("GET", f"/v1/channels/{name}")).status_code
                for name in (here, lost, *channels_by_shard(2, "plain"))
            ]
            assert statuses == [200, 503, 503, 200], "nobody is told that nobody follows what cannot be seen"
            async with Client.open(gateway.public, subs={lost: {}, here: {}}) as bob:
                subs = bob.connected["subs"]
                assert (subs[lost]["code"], subs[here]["type"]) == ("unavailable", "subscribed")
            redis.start()

            async def whole() -> bool:
                return (await gateway.metrics())["broker_up"] == 2

            await poll_until(whole)
            sent = await publish(gateway.internal, lost, "back")
            assert (await ann.next_push("message"))["message"] == sent["message"]
        lines = log_lines(gateway, "redis lost", "redis regained")
        assert [(line["event"], line["shard"]) for line in lines] == [
            ("redis lost", 0),
            ("redis regained", 0),
        ]
