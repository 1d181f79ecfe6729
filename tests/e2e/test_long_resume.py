"""Resuming after more messages than one reply holds: they follow it, in order, within bounded memory."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.broker.redis_server import running_redis
from tests.e2e.clients import JSON, MSGPACK, Client, RawConnection
from tests.e2e.gateway import GatewayProcess, gateway_process, publish, two_nodes

CONFIG = """
[channels.long]
subscribe = "anyone"
publish = "anyone"
history = 10_000
"""
MISSED, FILL = 1_300, "x" * 4_096
"""Together 5 MiB; an outbox is 1 MiB."""
MOST_IN_REPLY = 32 * 1024 // len(FILL)
MOST_GROWTH = 32 * 1024 * 1024


@pytest.fixture(scope="module", params=["memory", "redis"])
def gateway(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    home = tmp_path_factory.mktemp("gateway")
    if request.param == "memory":
        with gateway_process(home, CONFIG) as gateway:
            yield gateway
        return
    with (
        running_redis(tmp_path_factory.mktemp("redis")) as redis,
        gateway_process(home, CONFIG, BROKER__KIND="redis", BROKER__URL=redis.url) as gateway,
    ):
        yield gateway


async def missed(gateway: GatewayProcess, channel: str) -> str:
    """Publish `MISSED` messages in *channel*; return the position before them."""
    async with Client.open(gateway.public, subs={channel: {}}) as client:
        since: str = client.connected["subs"][channel]["position"]
    for begin in range(0, MISSED, 500):
        numbers = range(begin, min(begin + 500, MISSED))
        commands = [{"publish": {"channel": channel, "data": [number, FILL]}} for number in numbers]
        answer = (await gateway.request("POST", "/v1/batch", {"commands": commands})).json()
        assert not [result for result in answer["results"] if "error" in result]
    return since


def number(message: dict[str, Any]) -> int:
    """Return what a message says it is, which its id must agree with."""
    said: int = message["data"][0]
    assert message["message"].partition("-")[0] == str(said + 1)
    return said


async def publish_more(gateway: GatewayProcess, channel: str, count: int) -> None:
    for more in range(count):
        await publish(gateway.internal, channel, [MISSED + more])


@pytest.mark.parametrize("subprotocol", [JSON, MSGPACK])
@pytest.mark.parametrize("way", ["subscribe", "connect"])
async def test_long_backlog_is_recovered_in_order_while_others_publish(
    gateway: GatewayProcess, way: str, subprotocol: str
) -> None:
    channel, live = f"long:{way}-{subprotocol}", 50
    since = await missed(gateway, channel)
    async with asyncio.TaskGroup() as speaking:
        speaking.create_task(publish_more(gateway, channel, live))
        subs = {channel: {"since": since}} if way == "connect" else {}
        async with Client.open(gateway.public, subprotocol=subprotocol, subs=subs) as client:
            if way == "connect":
                reply = client.connected["subs"][channel]
            else:
                reply = await client.call("subscribe", channel=channel, since=since)
            assert reply["recovered"]
            assert 0 < len(reply["messages"]) <= MOST_IN_REPLY
            assert reply["position"] == reply["messages"][-1]["message"]
            received = [number(message) for message in reply["messages"]]
            while len(received) < MISSED + live:
                received.append(number(await client.next_push("message")))
            assert received == list(range(MISSED + live))


async def test_socket_lost_during_recovery_resumes_from_the_last_message(gateway: GatewayProcess) -> None:
    channel = "long:flaky"
    since, received, lives = await missed(gateway, channel), list[int](), 0
    while len(received) < MISSED:
        async with Client.open(gateway.public, subs={channel: {"since": since}}) as client:
            messages = client.connected["subs"][channel]["messages"]
            assert client.connected["subs"][channel]["recovered"]
            while len(received) + len(messages) < MISSED and len(messages) < 400:
                messages.append(await client.next_push("message"))
            received += map(number, messages)
            since = messages[-1]["message"]
            client.connection.transport.abort()
        lives += 1
    assert received == list(range(MISSED))
    assert lives == 4


async def test_slow_readers_are_not_sent_more_than_they_read(gateway: GatewayProcess) -> None:
    channel, readers = "long:slow", 20
    since = await missed(gateway, channel)
    before = gateway.resident_bytes()
    slow = [await RawConnection.websocket(gateway.public, receive_buffer=16 * 1024) for _ in range(readers)]
    try:
        for raw in slow:
            await raw.send_command(type="connect", id=1, subs={channel: {"since": since}})
        async with Client.open(gateway.public, subs={channel: {"since": since}}) as fast:
            count = len(fast.connected["subs"][channel]["messages"])
            while count < MISSED:
                await fast.next_push("message")
                count += 1
        grown = gateway.resident_bytes() - before
        assert grown < MOST_GROWTH, f"{grown / 1e6:.0f} MB for {readers} who are owed 5 MiB each"
        connected = await slow[0].receive()
        received = [number(message) for message in connected["subs"][channel]["messages"]]
        while len(received) < MISSED:
            received.append(number(await slow[0].receive()))
        assert received == list(range(MISSED))
    finally:
        for raw in slow:
            raw.close()


async def test_unsubscribe_during_recovery_ends_delivery(gateway: GatewayProcess) -> None:
    channel = "long:left"
    since = await missed(gateway, channel)
    with await RawConnection.websocket(gateway.public, receive_buffer=16 * 1024) as raw:
        await raw.send_command(type="connect", id=1, subs={channel: {"since": since}})
        assert (await raw.receive())["subs"][channel]["recovered"]
        await raw.send_command(type="unsubscribe", id=2, channel=channel)
        count = 0
        while (message := await raw.receive())["type"] == "message":
            count += 1
        assert message == {"type": "unsubscribed", "id": 2, "channel": channel}
        assert count < MISSED / 2
        await publish(gateway.internal, channel, "unheard")
        assert (await raw.call(type="ping", id=3))["type"] == "pong"
        again = await raw.call(type="subscribe", id=4, channel=channel)
        assert (again["type"], again["messages"]) == ("subscribed", [])


async def test_recovery_continues_on_another_node_when_its_node_dies(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    channel = "long:dying"
    with (
        running_redis(tmp_path_factory.mktemp("redis")) as redis,
        two_nodes(tmp_path_factory, CONFIG, BROKER__URL=redis.url) as (one, two),
    ):
        since = await missed(two, channel)
        with await RawConnection.websocket(one.public, receive_buffer=16 * 1024) as raw:
            await raw.send_command(type="connect", id=1, subs={channel: {"since": since}})
            messages = (await raw.receive())["subs"][channel]["messages"]
            while len(messages) < 300:
                messages.append(await raw.receive())
        one.kill()
        since = messages[-1]["message"]
        async with Client.open(two.public, subs={channel: {"since": since}}) as client:
            restored = client.connected["subs"][channel]
            assert restored["recovered"]
            messages += restored["messages"]
            while len(messages) < MISSED:
                messages.append(await client.next_push("message"))
        assert [number(message) for message in messages] == list(range(MISSED))
