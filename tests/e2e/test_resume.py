"""Resuming: missed messages exactly once, or `recovered: false`; and subscriptions made by the server."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.clients import JSON, MSGPACK, Client
from tests.e2e.gateway import GatewayProcess, gateway_process, publish, token

CONFIG = """
[channels.short]
subscribe = "anyone"
history = 3

[channels.plain]
subscribe = "anyone"

[channels.closed]
subscribe = "nobody"
history = 10
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with gateway_process(tmp_path_factory.mktemp("gateway"), CONFIG) as gateway:
        yield gateway


async def published(gateway: GatewayProcess, channel: str, count: int) -> list[str]:
    """Return the ids of *count* messages that were published in *channel*: 0, 1, 2, …"""
    return [(await publish(gateway.internal, channel, n))["message"] for n in range(count)]


def data(messages: list[dict[str, Any]]) -> list[Any]:
    return [message["data"] for message in messages]


def issued(user: str, **claims: Any) -> str:
    return token(user, now=time.time(), **claims)


# ---------------------------------------------------------------- since


@pytest.mark.parametrize("subprotocol", [JSON, MSGPACK])
async def test_client_that_loses_its_socket_gets_every_message_once(
    gateway: GatewayProcess, subprotocol: str
) -> None:
    channel, total, each_time = f"flaky-{subprotocol}", 60, 13
    async with Client.open(gateway.public, subprotocol=subprotocol, subs={channel: {}}) as client:
        since = client.connected["subs"][channel]["position"]
    received: list[dict[str, Any]] = []
    async with asyncio.TaskGroup() as speaking:
        speaking.create_task(published(gateway, channel, total))
        while len(received) < total:
            async with Client.open(gateway.public, subprotocol=subprotocol) as client:
                reply = await client.call("subscribe", channel=channel, since=since)
                assert reply["recovered"]
                received += reply["messages"]
                for _ in range(min(each_time, total - len(received))):
                    received.append(await client.next_push("message"))
                since = received[-1]["message"] if received else since
                # Not a Close frame: the way a phone loses its network.
                client.connection.transport.abort()
    assert data(received) == list(range(total))


async def test_position_of_an_empty_channel_can_be_resumed_from(gateway: GatewayProcess) -> None:
    async with Client.open(gateway.public, subs={"empty": {}}) as client:
        since = client.connected["subs"]["empty"]["position"]
    assert since.startswith("0-")
    await published(gateway, "empty", 2)
    async with Client.open(gateway.public) as client:
        reply = await client.call("subscribe", channel="empty", since=since)
    assert reply["recovered"]
    assert data(reply["messages"]) == [0, 1]


async def test_client_that_missed_nothing_is_recovered(gateway: GatewayProcess) -> None:
    *_, newest = await published(gateway, "quiet", 3)
    async with Client.open(gateway.public) as client:
        reply = await client.call("subscribe", channel="quiet", since=newest)
    assert (reply["recovered"], reply["messages"], reply["position"]) == (True, [], newest)


async def test_elements_of_messages_equal_the_pushes(gateway: GatewayProcess) -> None:
    async with Client.open(gateway.public, subs={"alike": {}}) as client:
        since = client.connected["subs"]["alike"]["position"]
        await publish(gateway.internal, "alike", "tagged", tags={"a": "b"})
        await client.call("publish", channel="alike", data="from a client")
        pushed = [await client.next_push("message") for _ in range(2)]
    async with Client.open(gateway.public) as client:
        assert (await client.call("subscribe", channel="alike", since=since))["messages"] == pushed
        assert (await client.call("history", channel="alike"))["messages"] == pushed


async def test_client_behind_the_history_is_not_recovered(gateway: GatewayProcess) -> None:
    ids = await published(gateway, "short:lived", 5)
    unknown = ids[-1].partition("-")[0] + "-000000000000"
    for since in (ids[0], unknown, "9000-abcdef"):
        async with Client.open(gateway.public) as client:
            reply = await client.call("subscribe", channel="short:lived", since=since)
            assert (reply["recovered"], reply["messages"]) == (False, []), since
            assert reply["position"] == ids[-1]
    async with Client.open(gateway.public) as client:
        reply = await client.call("subscribe", channel="short:lived", since=ids[1])
        assert (reply["recovered"], data(reply["messages"])) == (True, [2, 3, 4])


async def test_messages_are_delivered_after_a_failed_recovery(gateway: GatewayProcess) -> None:
    first, *_ = await published(gateway, "short:on", 5)
    async with Client.open(gateway.public, subs={"short:on": {"since": first}}) as client:
        assert client.connected["subs"]["short:on"]["recovered"] is False
        await publish(gateway.internal, "short:on", "next")
        assert (await client.next_push("message"))["data"] == "next"


async def test_no_client_is_recovered_after_its_history_was_cleared(gateway: GatewayProcess) -> None:
    first, *_, newest = await published(gateway, "cleared", 3)
    assert (await gateway.request("DELETE", "/v1/channels/cleared/history")).status_code == 200
    async with Client.open(gateway.public, subs={"cleared": {"since": first}}) as client:
        assert client.connected["subs"]["cleared"]["recovered"] is False
        assert client.connected["subs"]["cleared"]["position"] == newest
    assert (await published(gateway, "cleared", 1))[0].startswith("4-")


async def test_without_history_there_is_no_position(gateway: GatewayProcess) -> None:
    async with Client.open(gateway.public) as client:
        reply = await client.call("subscribe", channel="plain:talk", since="1-abc")
    assert reply["recovered"] is False
    assert "position" not in reply


# ---------------------------------------------------------------- rewind and history


async def test_rewind_delivers_the_last_messages_in_order(gateway: GatewayProcess) -> None:
    ids = await published(gateway, "rewind", 6)
    async with Client.open(gateway.public) as client:
        reply = await client.call("subscribe", channel="rewind", rewind=4)
        assert (data(reply["messages"]), reply["position"]) == ([2, 3, 4, 5], ids[-1])
        assert reply["recovered"] is False
        await publish(gateway.internal, "rewind", "live")
        assert (await client.next_push("message"))["data"] == "live"
    async with Client.open(gateway.public, subs={"rewind": {"rewind": 1_000_000}}) as client:
        assert data(client.connected["subs"]["rewind"]["messages"]) == [0, 1, 2, 3, 4, 5, "live"]


async def test_a_history_is_read_page_by_page_both_ways(gateway: GatewayProcess) -> None:
    ids = await published(gateway, "pages", 7)
    async with Client.open(gateway.public, subs={"pages": {}}) as client:
        for reverse, everything in ((False, [0, 1, 2, 3, 4, 5, 6]), (True, [6, 5, 4, 3, 2, 1, 0])):
            read: list[Any] = []
            page = await client.call("history", channel="pages", limit=3, reverse=reverse)
            while page["messages"]:
                assert page["position"] == ids[-1]
                read += data(page["messages"])
                last = page["messages"][-1]["message"]
                page = await client.call("history", channel="pages", limit=3, since=last, reverse=reverse)
            assert read == everything
        refused = await client.call("history", channel="pages", since="3-000000000000")
        assert refused["code"] == "bad_request"


async def test_only_subscribers_read_a_history(gateway: GatewayProcess) -> None:
    await published(gateway, "closed:book", 1)
    async with Client.open(gateway.public) as client:
        assert (await client.call("history", channel="closed:book"))["code"] == "not_subscribed"


# ---------------------------------------------------------------- all at once


async def test_connect_restores_every_channel_in_one_round_trip(gateway: GatewayProcess) -> None:
    first, *_ = await published(gateway, "one", 3)
    await published(gateway, "two", 3)
    await published(gateway, "three", 3)
    subs = {
        "one": {"since": first},
        "two": {"rewind": 1},
        "three": {},
        "closed:door": {},
        "plain:talk": None,
    }
    async with Client.open(gateway.public, token=issued("returning"), subs=subs) as client:
        answer = client.connected["subs"]
        assert answer.keys() == {*subs, "@returning"}
        assert (answer["one"]["recovered"], data(answer["one"]["messages"])) == (True, [1, 2])
        assert data(answer["two"]["messages"]) == [2]
        assert answer["three"]["messages"] == []
        assert (answer["closed:door"]["type"], answer["closed:door"]["code"]) == (
            "error",
            "permission_denied",
        )
        for channel in ("one", "two", "three", "plain:talk"):
            await publish(gateway.internal, channel, f"live in {channel}")
            push = await client.next_push("message")
            assert (push["channel"], push["data"]) == (channel, f"live in {channel}")


# ---------------------------------------------------------------- what the server subscribes to


async def test_notify_reaches_every_connection_of_its_users_only(gateway: GatewayProcess) -> None:
    async with (
        Client.open(gateway.public, token=issued("alice")) as phone,
        Client.open(gateway.public, token=issued("alice"), subprotocol=MSGPACK) as laptop,
        Client.open(gateway.public, token=issued("bob")) as other,
    ):
        assert phone.connected["subs"].keys() == {"@alice"}
        body = {"users": ["alice", "nobody-here"], "data": {"text": "your turn"}}
        results = (await gateway.request("POST", "/v1/notify", body)).json()["results"]
        assert [result["user"] for result in results] == ["alice", "nobody-here"]
        for client in (phone, laptop):
            push = await client.next_push("message")
            assert (push["channel"], push["data"]) == ("@alice", {"text": "your turn"})
            assert push["message"] == results[0]["message"]
        await publish(gateway.internal, "@bob", "for bob")
        assert (await other.next_push("message"))["data"] == "for bob"
        assert (await other.call("subscribe", channel="@alice"))["code"] == "permission_denied"


async def test_missed_notifications_are_recovered_as_in_any_channel(gateway: GatewayProcess) -> None:
    async with Client.open(gateway.public, token=issued("carol")) as client:
        since = client.connected["subs"]["@carol"]["position"]
    body = {"users": ["carol"], "data": "while you were away"}
    await gateway.request("POST", "/v1/notify", body)
    async with Client.open(
        gateway.public, token=issued("carol"), subs={"@carol": {"since": since}}
    ) as client:
        restored = client.connected["subs"]["@carol"]
    assert (restored["recovered"], data(restored["messages"])) == (True, ["while you were away"])


async def test_channels_of_a_token_are_subscribed_at_connect(gateway: GatewayProcess) -> None:
    channels = ["closed:staff", "lobby"]
    async with Client.open(gateway.public, token=issued("dora", channels=channels)) as client:
        assert client.connected["subs"].keys() == {"@dora", *channels}
        await publish(gateway.internal, "closed:staff", "meeting")
        assert (await client.next_push("message"))["data"] == "meeting"


async def test_a_backend_subscribes_and_unsubscribes_a_user(gateway: GatewayProcess) -> None:
    async with Client.open(gateway.public, token=issued("eve")) as client:
        answer = await gateway.request("POST", "/v1/users/eve/subscribe", {"channel": "closed:table"})
        assert answer.json() == {"connections": 1}
        made = await client.next_push("subscribed")
        assert (made["channel"], "id" in made) == ("closed:table", False)
        await publish(gateway.internal, "closed:table", "dealt")
        assert (await client.next_push("message"))["data"] == "dealt"
        answer = await gateway.request("POST", "/v1/users/eve/unsubscribe", {"channel": "closed:table"})
        assert answer.json() == {"connections": 1}
        ended = await client.next_push("unsubscribed")
        assert ended["channel"] == "closed:table"
        assert ended["code"]
        assert ended["reason"]
        await publish(gateway.internal, "closed:table", "unheard")
        await publish(gateway.internal, "@eve", "heard")
        assert (await client.next_push("message"))["data"] == "heard"


async def test_a_backend_disconnects_a_user(gateway: GatewayProcess) -> None:
    async with (
        Client.open(gateway.public, token=issued("frank")) as spared,
        Client.open(gateway.public, token=issued("frank")) as ended,
    ):
        body = {"except": [spared.connected["connection"]]}
        answer = await gateway.request("POST", "/v1/users/frank/disconnect", body)
        assert answer.json() == {"connections": 1}
        assert (await ended.expect_close()).code == 4005
        assert (await spared.call("ping"))["type"] == "pong"
        await gateway.request("POST", "/v1/users/frank/disconnect", {"code": 4100, "reason": "signed out"})
        assert await spared.expect_close() == (4100, "signed out")
    assert (await gateway.request("GET", "/v1/users/frank")).json()["connections"] == []
