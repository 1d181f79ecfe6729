"""The life of a message, from the bytes of one client to the sockets of all: docs/life-of-a-message.md.

Each test is of a step of that page, in its order. Step 5 is Redis': with the embedded broker, the way from
the history to the hub is a call.
"""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import orjson
import pytest

from tests.e2e.clients import CONT, JSON, MSGPACK, TEXT, Client, RawConnection, client_frame
from tests.e2e.gateway import GatewayProcess, gateway_process, publish

CONFIG = """
[channels.news]
subscribe = "anyone"
publish = "nobody"
history = 10

[channels.chat]
subscribe = "anyone"
publish = "subscribers"
history = 200

[channels.ticks]
subscribe = "anyone"
publish = "anyone"

[limits]
commands_per_second = 0.01
command_burst = 20
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with gateway_process(tmp_path_factory.mktemp("gateway"), CONFIG) as gateway:
        yield gateway


def spelled(**command: Any) -> bytes:
    return orjson.dumps(command)


# ---------------------------------------------------------------- 1. bytes arrive


async def test_1_bytes_arrive_in_any_pieces_and_become_whole_frames(gateway: GatewayProcess) -> None:
    connect = client_frame(TEXT, spelled(type="connect", id=1))
    subscribe = spelled(type="subscribe", id=2, channel="chat:pieces")
    speak = client_frame(TEXT, spelled(type="publish", id=3, channel="chat:pieces", data="whole"))
    in_two = client_frame(TEXT, subscribe[:9], fin=False) + client_frame(CONT, subscribe[9:])
    with await RawConnection.websocket(gateway.public) as client:
        await client.send(connect[:7])
        await client.send(connect[7:] + in_two)
        await client.send_byte_by_byte(speak)
        received = [await client.receive() for _ in range(4)]
    assert [each["type"] for each in received[:2]] == ["connected", "subscribed"]
    assert {each["type"] for each in received[2:]} == {"published", "message"}


# ---------------------------------------------------------------- 2. bytes to a command


async def test_2_only_commands_that_are_legal_now_are_executed(gateway: GatewayProcess) -> None:
    with await RawConnection.websocket(gateway.public) as client:
        await client.send_command(type="connect", id=1)
        await client.receive()
        await client.send(
            client_frame(TEXT, b'{"type": "publish", "id": 2, "channel": "no spaces", "data": 1}')
        )
        refused = await client.receive()
        assert (refused["type"], refused["id"], refused["code"]) == ("error", 2, "bad_request")
        assert "channel" in refused["message"]
        await client.send_command(type="ping", id=3)
        assert await client.receive() == {"type": "pong", "id": 3}


async def test_2_command_before_connect_closes_the_connection(gateway: GatewayProcess) -> None:
    with await RawConnection.websocket(gateway.public) as client:
        await client.send_command(type="publish", id=1, channel="chat:early", data=1)
        assert (await client.expect_close()).code == 4002


# ---------------------------------------------------------------- 3. may this user, and how often


async def test_3_publish_without_permission_is_rejected_with_a_reason(gateway: GatewayProcess) -> None:
    async with Client.open(gateway.public, subs={"news:today": {}}) as client:
        refused = await client.call("publish", channel="news:today", data=1)
        assert (refused["type"], refused["code"]) == ("error", "permission_denied")
        refused = await client.call("publish", channel="chat:elsewhere", data=1)
        assert refused["code"] == "permission_denied"
        assert "subscribe first" in refused["message"]


async def test_3_publish_above_the_rate_is_rejected_with_retry_after(gateway: GatewayProcess) -> None:
    async with Client.open(gateway.public) as client:
        replies = [await client.call("publish", channel="ticks:fast", data=n) for n in range(20)]
    # `connect` was the first of the twenty that may come at once.
    assert [reply["type"] for reply in replies] == ["published"] * 19 + ["error"]
    assert replies[-1]["code"] == "rate_limited"
    assert 0 < replies[-1]["retry_after_ms"] <= 100_001


async def test_3_backend_publishes_over_http(gateway: GatewayProcess) -> None:
    async with Client.open(gateway.public, subs={"news:today": {}}) as client:
        outcome = await publish(gateway.internal, "news:today", {"headline": "rain"}, tags={"lang": "en"})
        push = await client.next_push("message")
    assert push["message"] == outcome["message"]
    assert push["data"] == {"headline": "rain"}
    assert push["tags"] == {"lang": "en"}
    assert "from" not in push


async def test_3_a_backend_needs_a_key(gateway: GatewayProcess) -> None:
    async with httpx.AsyncClient(trust_env=False, headers={"authorization": "Bearer wrong"}) as backend:
        url = f"http://127.0.0.1:{gateway.internal}/v1/publish"
        answer = await backend.post(url, json={"channel": "news:today", "data": 1})
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "unauthorized"


# ---------------------------------------------------------------- 4. the broker numbers it and keeps it


async def test_4_message_numbers_are_consecutive(gateway: GatewayProcess) -> None:
    ids = [(await publish(gateway.internal, "news:numbers", n))["message"] for n in range(3)]
    assert [message.partition("-")[0] for message in ids] == ["1", "2", "3"]
    assert len({message.partition("-")[2] for message in ids}) == len(ids)


async def test_4_published_message_is_in_history(gateway: GatewayProcess) -> None:
    outcome = await publish(gateway.internal, "news:kept", "for later")
    page = (await gateway.request("GET", "/v1/channels/news:kept/history")).json()
    assert page["position"] == outcome["message"]
    assert [(each["message"], each["data"]) for each in page["messages"]] == [
        (outcome["message"], "for later")
    ]


async def test_4_the_same_key_publishes_once(gateway: GatewayProcess) -> None:
    first = await publish(gateway.internal, "news:once", "paid", key="order-1871")
    again = await publish(gateway.internal, "news:once", "paid", key="order-1871")
    assert (first["replayed"], again["replayed"]) == (False, True)
    assert first["message"] == again["message"]
    async with Client.open(gateway.public, subs={"chat:once": {}}) as client:
        one, two = [await client.call("publish", channel="chat:once", data="hi", key="k") for _ in range(2)]
        assert one["message"] == two["message"]
        assert (await client.next_push("message"))["message"] == one["message"]
        newest = await client.call("publish", channel="chat:once", data="bye")
        assert (await client.next_push("message"))["message"] == newest["message"]


async def test_4_without_a_history_a_message_has_no_number(gateway: GatewayProcess) -> None:
    async with Client.open(gateway.public, subs={"ticks:plain": {}}) as client:
        assert "message" not in await publish(gateway.internal, "ticks:plain", 1)
        assert "message" not in await client.next_push("message")


# ---------------------------------------------------------------- 6. the hub delivers


async def test_6_every_subscriber_gets_it_in_the_encoding_it_speaks(gateway: GatewayProcess) -> None:
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                Client.open(gateway.public, subprotocol=subprotocol, subs={"news:all": {}})
            )
            for subprotocol in (JSON, MSGPACK, JSON, MSGPACK)
        ]
        outcome = await publish(gateway.internal, "news:all", {"to": ["everybody", 1.5, None, True]})
        pushes = [await client.next_push("message") for client in clients]
    assert pushes == [pushes[0]] * len(clients)
    assert pushes[0]["message"] == outcome["message"]
    assert pushes[0]["data"] == {"to": ["everybody", 1.5, None, True]}


async def test_6_publisher_receives_its_own_message_like_others(gateway: GatewayProcess) -> None:
    async with (
        Client.open(gateway.public, subs={"chat:own": {}}) as speaker,
        Client.open(gateway.public, subs={"chat:own": {}}) as listener,
    ):
        reply = await speaker.call("publish", channel="chat:own", data="hello")
        own, other = await speaker.next_push("message"), await listener.next_push("message")
    assert own == other
    assert own["message"] == reply["message"]
    assert own["from"] == {"connection": speaker.connected["connection"], "user": ""}


async def test_6_excluded_connection_does_not_receive_the_message(gateway: GatewayProcess) -> None:
    async with (
        Client.open(gateway.public, subs={"chat:but": {}}) as left_out,
        Client.open(gateway.public, subs={"chat:but": {}}) as listener,
    ):
        not_to = left_out.connected["connection"]
        first = await publish(gateway.internal, "chat:but", "for others", exclude=[not_to])
        second = await publish(gateway.internal, "chat:but", "for all")
        assert (await left_out.next_push("message"))["message"] == second["message"]
        received = [(await listener.next_push("message"))["message"] for _ in range(2)]
    assert received == [first["message"], second["message"]]


# ---------------------------------------------------------------- 7. one write for each connection


async def test_7_deliveries_of_one_turn_of_the_event_loop_are_one_write(gateway: GatewayProcess) -> None:
    commands = [{"publish": {"channel": "news:batch", "data": n}} for n in range(20)]
    with await RawConnection.websocket(gateway.public) as client:
        await client.call(type="connect", id=1, subs={"news:batch": {}})
        before = await gateway.metrics()
        answer = await gateway.request("POST", "/v1/batch", {"commands": commands})
        received = [await client.receive() for _ in commands]
        after = await gateway.metrics()
    assert [push["data"] for push in received] == list(range(20))
    assert [push["message"] for push in received] == [each["message"] for each in answer.json()["results"]]
    assert after["hub_deliveries_total"] - before["hub_deliveries_total"] == len(commands)
    assert after["outbox_flushes_total"] - before["outbox_flushes_total"] == 1


# ---------------------------------------------------------------- all of it


async def test_all_subscribers_see_one_order_of_all_publishers(gateway: GatewayProcess) -> None:
    each, senders = 12, 3
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                Client.open(gateway.public, subprotocol=(JSON, MSGPACK)[n % 2], subs={"chat:order": {}})
            )
            for n in range(senders)
        ]

        async def by_websocket(client: Client) -> list[str]:
            return [
                (await client.call("publish", channel="chat:order", data=n))["message"] for n in range(each)
            ]

        async def by_http() -> list[str]:
            return [(await publish(gateway.internal, "chat:order", n))["message"] for n in range(each)]

        published = await asyncio.gather(by_http(), *map(by_websocket, clients))
        seen = [
            [await client.next_push("message") for _ in range(each * (senders + 1))] for client in clients
        ]
    assert seen == [seen[0]] * senders
    numbers = [int(push["message"].partition("-")[0]) for push in seen[0]]
    assert numbers == list(range(1, len(numbers) + 1))
    places = {push["message"]: place for place, push in enumerate(seen[0])}
    for ids in published:
        assert sorted(ids, key=places.__getitem__) == ids
