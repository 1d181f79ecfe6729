"""Looking at channels, users and nodes, and telling users' connections what to do."""

from typing import Any

import msgpack
import orjson
import pytest

from gateway.broker.base import Publication, Retention
from protocol.codec import JSON
from protocol.messages import Member, Message
from protocol.payload import payload_of
from tests.gateway.push.push_kit import PushApiKit, api_with_ann, make_api


async def api_with_messages(*data: Any, channel: str = "chat") -> PushApiKit:
    """A make_api whose channel has messages with *data*."""
    api = await make_api()
    async with api.client() as client:
        for each in data:
            body = {"channel": channel, "data": each, "tags": {"n": str(each)}}
            await client.post("/v1/publish", json=body)
    return api


async def test_channels_are_listed_by_name_page_by_page() -> None:
    api = await make_api()
    api.node.channels = {f"chat:{n}": n for n in range(1, 8)} | {"news": 3, "@jörg": 1}
    seen: list[dict[str, Any]] = []
    query: dict[str, Any] = {"prefix": "chat:", "limit": 3}
    async with api.client() as client:
        while True:
            page = (await client.get("/v1/channels", params=query)).json()
            seen.append(page)
            if "cursor" not in page:
                break
            query["cursor"] = page["cursor"]
        everything = (await client.get("/v1/channels")).json()
        exactly = (await client.get("/v1/channels", params={"prefix": "chat:", "limit": 7})).json()
    assert [len(page["channels"]) for page in seen] == [3, 3, 1]
    assert [entry for page in seen for entry in page["channels"]] == [
        {"channel": f"chat:{n}", "subscribers": n} for n in range(1, 8)
    ]
    assert [entry["channel"] for entry in everything["channels"]] == sorted(api.node.channels)
    assert "cursor" not in everything
    assert "cursor" not in exactly


async def test_a_cursor_continues_after_any_name() -> None:
    api = await make_api()
    api.node.channels = {"@jörg": 1, "@jörg/ü": 1, "a": 1}
    async with api.client() as client:
        names, cursor = [], None
        for _ in range(3):
            page = (await client.get("/v1/channels", params={"limit": 1, "cursor": cursor or ""})).json()
            names.append(page["channels"][0]["channel"])
            cursor = page.get("cursor")
    assert names == sorted(api.node.channels)
    assert cursor is None


async def test_a_channel_has_its_numbers_of_subscribers_and_messages() -> None:
    api = await api_with_messages(1, 2, 3, 4, 5, 6, 7)
    api.node.channels = {"chat": 3, "chat:other": 9}
    await api.broker.join("chat", Member("c1", "ann"))
    await api.broker.join("chat", Member("c2", "ann"))
    position = str((await api.broker.read("chat")).position)
    async with api.client() as client:
        answer = (await client.get("/v1/channels/chat")).json()
    assert answer == {"channel": "chat", "subscribers": 3, "users": 1, "position": position, "history": 5}


async def test_a_channel_without_subscribers_is_not_an_error() -> None:
    api = await make_api()
    api.node.channels = {"plain:10": 1}
    async with api.client() as client:
        kept = (await client.get("/v1/channels/new")).json()
        not_kept = (await client.get("/v1/channels/plain:1")).json()
    assert kept["position"].startswith("0-")
    assert (kept["subscribers"], kept["users"], kept["history"]) == (0, 0, 0)
    assert not_kept == {"channel": "plain:1", "subscribers": 0, "history": 0}


async def test_presence_has_the_form_of_the_clients_reply() -> None:
    api = await make_api()
    await api.broker.join("chat", Member("c1", "ann", {"name": "Ann"}))
    await api.broker.join("chat", Member("c2", "bob"))
    async with api.client() as client:
        listed = (await client.get("/v1/channels/chat/presence")).json()
        counted = (await client.get("/v1/channels/chat/presence", params={"members": False})).json()
    assert counted == {"channel": "chat", "connections": 2, "users": 2}
    assert listed == {
        **counted,
        "members": [
            {"connection": "c1", "user": "ann", "info": {"name": "Ann"}},
            {"connection": "c2", "user": "bob"},
        ],
    }


async def test_members_come_a_page_at_a_time() -> None:
    api = await make_api(presence_limit=3)
    for number in (4, 0, 3, 1, 2, 5, 6):
        await api.broker.join("chat", Member(f"c{number}", "ann"))
    seen: list[str] = []
    async with api.client() as client:
        page = (await client.get("/v1/channels/chat/presence")).json()
        assert (page["connections"], page["truncated"], len(page["members"])) == (7, True, 3)
        await api.broker.leave("chat", page["members"][-1]["connection"])
        seen += [member["connection"] for member in page["members"]]
        while "cursor" in page:
            options = {"limit": 2, "cursor": page["cursor"]}
            page = (await client.get("/v1/channels/chat/presence", params=options)).json()
            assert page["connections"] == 6
            assert len(page["members"]) <= 2
            seen += [member["connection"] for member in page["members"]]
        rejected = await client.get("/v1/channels/chat/presence", params={"cursor": "!"})
    assert "truncated" not in page
    assert seen == [f"c{number}" for number in range(7)]
    assert rejected.status_code == 422


async def test_a_page_of_large_members_is_no_larger_than_a_request_may_be() -> None:
    api = await make_api(body_size=10_000)
    for number in range(5):
        await api.broker.join("chat", Member(f"c{number}", "ann", {"about": "x" * 4_000}))
    await api.broker.join("chat", Member("d", "ben", {"about": "x" * 20_000}))
    sizes, options = list[int](), dict[str, str]()
    async with api.client() as client:
        while "cursor" in (page := (await client.get("/v1/channels/chat/presence", params=options)).json()):
            sizes.append(len(page["members"]))
            options = {"cursor": page["cursor"]}
    assert (*sizes, len(page["members"])) == (2, 2, 1, 1)


async def test_history_has_exactly_the_messages_that_subscribers_get() -> None:
    api = await api_with_messages({"text": "hi"}, None)
    pushed = [delivery.message for delivery in api.node.deliveries]
    async with api.client() as client:
        json = await client.get("/v1/channels/chat/history")
        packed = await client.get("/v1/channels/chat/history", headers={"accept": "application/msgpack"})
    answer = json.json()
    assert answer["messages"] == [as_pushed(message) for message in pushed]
    assert answer["position"] == str(pushed[-1].message)
    assert packed.headers["content-type"] == "application/msgpack"
    assert msgpack.unpackb(packed.content) == answer


def as_pushed(message: Message) -> Any:
    return orjson.loads(JSON.encode(message))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, [3, 4, 5, 6, 7]),
        ({"limit": 2}, [3, 4]),
        ({"limit": 0}, []),
        ({"reverse": "true"}, [7, 6, 5, 4, 3]),
        ({"reverse": "1", "limit": 2}, [7, 6]),
        ({"since": 5}, [6, 7]),
        ({"since": 5, "limit": 1}, [6]),
        ({"since": 5, "reverse": "true"}, [4, 3]),
        ({"since": 7}, []),
    ],
)
async def test_history_is_read_from_anywhere_in_both_directions(
    query: dict[str, Any], expected: list[int]
) -> None:
    api = await api_with_messages(*range(1, 8))
    ids = [str(delivery.message.message) for delivery in api.node.deliveries]
    if "since" in query:
        query = {**query, "since": ids[query["since"] - 1]}
    async with api.client() as client:
        answer = (await client.get("/v1/channels/chat/history", params=query)).json()
    assert [message["data"] for message in answer["messages"]] == expected
    assert answer["position"] == ids[-1]


async def test_a_page_of_history_has_at_most_the_configured_number_of_messages() -> None:
    api = await make_api(history_limit=2)
    async with api.client() as client:
        for number in range(4):
            await client.post("/v1/publish", json={"channel": "chat", "data": number})
        answers = [
            (await client.get("/v1/channels/chat/history", params=query)).json()
            for query in ({}, {"limit": 3}, {"limit": 1})
        ]
    assert [len(answer["messages"]) for answer in answers] == [2, 2, 1]


async def test_a_page_of_history_is_no_larger_than_a_request_may_be() -> None:
    api = await make_api(body_size=10_000)
    said = ["1" * 4_000, "2" * 4_000, "3" * 9_900, "4" * 4_000, "5"]
    pages, options = list[list[str]](), dict[str, str]()
    async with api.client() as client:
        for data in said:
            await api.broker.publish(Publication("chat", payload_of(data), Retention(5, 60.0)))
        while page := (await client.get("/v1/channels/chat/history", params=options)).json()["messages"]:
            pages.append([message["data"] for message in page])
            options = {"since": page[-1]["message"]}
    assert [len(page) for page in pages] == [2, 1, 2]
    assert [data for page in pages for data in page] == said


async def test_a_position_that_is_no_longer_kept_is_an_error_and_not_an_empty_page() -> None:
    api = await api_with_messages(*range(1, 8))
    first = str(api.node.deliveries[0].message.message)
    async with api.client() as client:
        answer = await client.get("/v1/channels/chat/history", params={"since": first})
    assert answer.status_code == 422
    assert "no longer" in answer.json()["error"]["message"]


async def test_a_history_can_be_cleared_and_its_numbers_go_on() -> None:
    api = await api_with_messages(1, 2)
    async with api.client() as client:
        cleared = await client.delete("/v1/channels/chat/history")
        empty = (await client.get("/v1/channels/chat/history")).json()
        third = (await client.post("/v1/publish", json={"channel": "chat", "data": 3})).json()
    assert (cleared.status_code, cleared.json()) == (200, {"channel": "chat"})
    assert empty["messages"] == []
    assert third["message"].startswith("3-")


async def test_personal_channels_are_looked_up_like_others() -> None:
    api = await make_api()
    async with api.client() as client:
        await client.post("/v1/notify", json={"users": ["ann@example.com"], "data": 1})
        answer = await client.get("/v1/channels/%40ann%40example.com/history")
        nobodys = await client.get("/v1/channels/%40ann%2Fx/history")
    assert [message["data"] for message in answer.json()["messages"]] == [1]
    assert nobodys.status_code == 422


# ---------------------------------------------------------------- users


async def test_a_user_has_connections_on_every_node() -> None:
    api = await api_with_ann()
    async with api.client() as client:
        found = (await client.get("/v1/users/ann%2Fx")).json()
        nobody = (await client.get("/v1/users/bob")).json()
    assert found == {
        "user": "ann/x",
        "connections": [
            {"connection": "c1", "node": "n1", "channels": ["chat", "@ann/x"], "since": 1_700_000_000.5},
            {"connection": "c2", "node": "n2", "channels": [], "since": 1_700_000_001.0},
        ],
    }
    assert nobody == {"user": "bob", "connections": []}


# ---------------------------------------------------------------- nodes


async def test_nodes_and_their_totals() -> None:
    api = await api_with_ann()
    api.node.channels = {"a": 2, "b": 3}
    async with api.client() as client:
        nodes = (await client.get("/v1/nodes")).json()
        stats = (await client.get("/v1/stats")).json()
    totals = {"connections": 1, "channels": 2, "subscriptions": 5}
    assert nodes == {"nodes": [{"node": "n1", **totals, "uptime": 12.5, "deliveries": 7}]}
    assert stats == {"nodes": 1, **totals}
