"""Publishing over HTTP: to one channel, to many, to users, many at once."""

import asyncio
from typing import Any

import msgpack
import pytest

from gateway.broker.memory.broker import MemoryBroker
from protocol.position import MessageId
from tests.gateway.push.push_kit import WaitingBroker, make_api


def offset(answer: dict[str, Any]) -> int:
    return MessageId.parse(answer["message"]).offset


async def test_a_message_is_stored_and_delivered() -> None:
    api = await make_api()
    async with api.client() as client:
        first = await client.post("/v1/publish", json={"channel": "chat", "data": {"text": "hi"}})
        second = await client.post("/v1/publish", json={"channel": "chat", "data": None})
    assert first.status_code == 200
    assert first.headers["content-type"] == "application/json"
    assert first.json() == {"channel": "chat", "message": first.json()["message"], "replayed": False}
    assert [offset(first.json()), offset(second.json())] == [1, 2]
    assert api.node.data() == [{"text": "hi"}, None]
    assert [str(one.message) for one in (await api.broker.read("chat")).messages] == [
        first.json()["message"],
        second.json()["message"],
    ]


async def test_every_option_of_a_publish_reaches_the_broker() -> None:
    api = await make_api()
    body = {"channel": "chat", "data": 1, "tags": {"a": "b"}, "exclude": ["c1", "c2"], "unknown": "ignored"}
    async with api.client() as client:
        await client.post("/v1/publish", json=body)
        await client.post("/v1/publish", json={"channel": "chat", "data": 2, "tags": None, "exclude": []})
    first, second = api.node.deliveries
    assert first.exclude == {"c1", "c2"}
    assert first.message.tags == {"a": "b"}
    assert first.message.sender is None
    assert (second.exclude, second.message.tags) == (frozenset(), None)


async def test_the_same_key_publishes_once() -> None:
    api = await make_api()
    async with api.client() as client:
        answers = [
            (await client.post("/v1/publish", json={"channel": channel, "data": 1, "key": "k"})).json()
            for channel in ("chat", "chat", "other")
        ]
    assert [answer["replayed"] for answer in answers] == [False, True, False]
    assert answers[0]["message"] == answers[1]["message"]
    assert len(api.node.deliveries) == 2


@pytest.mark.parametrize("body", [{"channel": "plain:1"}, {"channel": "chat", "history": False}])
async def test_a_message_that_is_not_stored_has_no_id(body: dict[str, Any]) -> None:
    api = await make_api()
    async with api.client() as client:
        answer = await client.post("/v1/publish", json={**body, "data": 1})
    assert answer.json() == {"channel": body["channel"], "replayed": False}
    assert api.node.deliveries[0].message.message is None
    assert not (await api.broker.read(body["channel"])).messages


async def test_history_true_does_not_turn_history_on() -> None:
    api = await make_api()
    async with api.client() as client:
        kept = await client.post("/v1/publish", json={"channel": "chat", "data": 1, "history": True})
        not_kept = await client.post("/v1/publish", json={"channel": "plain:1", "data": 1, "history": True})
    assert "message" in kept.json()
    assert "message" not in not_kept.json()


@pytest.mark.parametrize("data", [2**64 - 1, -(2**63), 1e300, 0.5, "1e22", [], {"": None}, "ü\u2028"])
async def test_data_is_delivered_as_it_was_sent_in_both_encodings(data: Any) -> None:
    api = await make_api()
    async with api.client() as client:
        json = await client.post("/v1/publish", json={"channel": "chat", "data": data})
        packed = await client.post(
            "/v1/publish",
            content=msgpack.packb({"channel": "chat", "data": data}),
            headers={"content-type": "application/msgpack"},
        )
    assert (json.status_code, packed.status_code) == (200, 200)
    assert packed.headers["content-type"] == "application/msgpack"
    assert msgpack.unpackb(packed.content)["replayed"] is False
    assert api.node.data() == [data, data]


# ---------------------------------------------------------------- to many


async def test_a_broadcast_reaches_every_channel_and_has_a_result_for_each() -> None:
    api = await make_api()
    channels = ["a", "b c", "plain:1", "nowhere:1", "a"]
    async with api.client() as client:
        answer = await client.post("/v1/broadcast", json={"channels": channels, "data": 1})
    results = answer.json()["results"]
    assert [result["channel"] for result in results] == channels
    assert ["error" in result for result in results] == [False, True, False, True, False]
    assert [results[1]["error"]["code"], results[3]["error"]["code"]] == ["bad_request", "unknown_channel"]
    assert [offset(results[0]), offset(results[4])] == [1, 2]
    assert [delivery.message.channel for delivery in api.node.deliveries] == ["a", "plain:1", "a"]


async def test_a_broadcast_is_idempotent_channel_by_channel() -> None:
    api = await make_api()
    async with api.client() as client:
        await client.post("/v1/broadcast", json={"channels": ["a"], "data": 1, "key": "k"})
        again = await client.post("/v1/broadcast", json={"channels": ["a", "b"], "data": 1, "key": "k"})
    assert [result["replayed"] for result in again.json()["results"]] == [True, False]


async def test_a_notification_reaches_the_users_who_have_a_personal_channel() -> None:
    api = await make_api()
    users = ["alice", "Jörg Müller/admin", "", "bell\a", "ж" * 128]
    async with api.client() as client:
        answer = await client.post("/v1/notify", json={"users": users, "data": {"n": 1}})
    results = answer.json()["results"]
    assert [result["user"] for result in results] == users
    assert [result.get("channel") for result in results] == [
        "@alice",
        "@J%C3%B6rg%20M%C3%BCller%2Fadmin",
        *[None] * 3,
    ]
    assert [result.get("error", {}).get("code") for result in results] == [None] * 2 + ["bad_request"] * 3
    assert [one.message.channel for one in api.node.deliveries] == [
        "@alice",
        "@J%C3%B6rg%20M%C3%BCller%2Fadmin",
    ]


async def test_a_batch_is_carried_out_in_order_and_one_failure_stops_nothing() -> None:
    api = await make_api(message_size=64)
    commands: list[Any] = [
        {"publish": {"channel": "chat", "data": 1}},
        {"publish": {"channel": "chat"}},
        {"subscribe": {"channel": "chat"}},
        5,
        {"publish": {"channel": "nowhere:1", "data": 1}},
        {"publish": {"channel": "chat", "data": "x" * 65}},
        {"publish": {"channel": "chat", "data": 2, "key": "k"}},
        {"publish": {"channel": "chat", "data": 2, "key": "k"}},
        {"publish": {"channel": "chat", "data": 3, "key": "k"}},
    ]
    async with api.client() as client:
        answer = await client.post("/v1/batch", json={"commands": commands})
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [result.get("error", {}).get("code") for result in results] == [
        None,
        *["bad_request"] * 3,
        "unknown_channel",
        "too_large",
        None,
        None,
        "key_reused",
    ]
    assert results[1]["error"]["message"] == "publish.data: is missing"
    assert results[7]["replayed"] is True
    assert api.node.data() == [1, 2]


@pytest.mark.parametrize("path", ["/v1/publish", "/v1/broadcast", "/v1/notify", "/v1/batch"])
async def test_a_key_of_another_message_is_rejected(path: str) -> None:
    api = await make_api()

    def body(data: Any, *, targets: int = 1) -> dict[str, Any]:
        message, names = {"data": data, "key": "k"}, [f"u{number}" for number in range(targets)]
        return {
            "/v1/publish": {"channel": "chat", **message},
            "/v1/broadcast": {"channels": names, **message},
            "/v1/notify": {"users": names, **message},
            "/v1/batch": {"commands": [{"publish": {"channel": name, **message}} for name in names]},
        }[path]

    async with api.client() as client:
        first = await client.post(path, json=body({"a": 1, "b": 2}))
        # The same content: in another order, as MessagePack, and for one target more.
        same = await client.post(
            path,
            content=msgpack.packb(body({"b": 2, "a": 1}, targets=2)),
            headers={"content-type": "application/msgpack", "accept": "application/json"},
        )
        other = await client.post(path, json=body({"a": 1, "b": 3}, targets=3))
    if path == "/v1/publish":
        assert (first.json()["replayed"], same.json()) == (False, {**first.json(), "replayed": True})
        assert (other.status_code, other.json()["error"]["code"]) == (422, "key_reused")
        assert "retry-after" not in other.headers
    else:
        assert [result["replayed"] for result in same.json()["results"]] == [True, False]
        codes = [result.get("error", {}).get("code") for result in other.json()["results"]]
        assert codes == ["key_reused", "key_reused", None]
    assert api.node.data()[0] == {"a": 1, "b": 2}
    assert len(api.node.data()) == {"/v1/publish": 1}.get(path, 3)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/broadcast", {"channels": ["a"] * 1_000, "data": 1}),
        ("/v1/notify", {"users": ["a"] * 1_000, "data": 1}),
        ("/v1/batch", {"commands": [{"publish": {"channel": "a", "data": 1}}] * 1_000}),
    ],
)
async def test_a_request_has_at_most_a_thousand_targets(path: str, body: dict[str, Any]) -> None:
    api = await make_api()
    async with api.client() as client:
        done = await client.post(path, json=body)
        name, many = next((name, value) for name, value in body.items() if isinstance(value, list))
        rejected = await client.post(path, json={**body, name: [*many, many[0]]})
    assert len(done.json()["results"]) == 1_000
    assert rejected.status_code == 422
    assert rejected.json()["error"]["message"].startswith(f"{name}: ")
    assert len(api.node.deliveries) == 1_000


async def test_other_tasks_run_during_a_large_batch() -> None:
    api = await make_api()
    seen: list[int] = []

    async def other() -> None:
        while len(api.node.deliveries) < 1_000:
            seen.append(len(api.node.deliveries))
            await asyncio.sleep(0)

    async with api.client() as client, asyncio.TaskGroup() as tasks:
        tasks.create_task(other())
        await client.post("/v1/broadcast", json={"channels": ["a"] * 1_000, "data": 1})
    assert len(set(seen)) > 10


async def test_a_slow_broker_gets_all_of_a_batch_at_once() -> None:
    broker = WaitingBroker()
    api = await make_api(broker=broker)
    body = {"commands": [{"publish": {"channel": "chat", "data": number}} for number in range(10)]}
    async with api.client() as client, asyncio.TaskGroup() as tasks:
        posted = tasks.create_task(client.post("/v1/batch", json=body))
        for _ in range(10):
            await broker.arrived.acquire()
        assert api.node.deliveries == []
        broker.gate.set()
    assert [offset(result) for result in posted.result().json()["results"]] == list(range(1, 11))
    assert api.node.data() == list(range(10))


async def test_without_memory_a_message_is_rejected_and_nothing_is_stored() -> None:
    api = await make_api(broker=MemoryBroker(memory=1_000, sweep_interval=0))
    large = "x" * 2_000
    async with api.client() as client:
        full = await client.post("/v1/publish", json={"channel": "chat", "data": large})
        not_kept = await client.post("/v1/publish", json={"channel": "plain:1", "data": large})
        batch = await client.post("/v1/broadcast", json={"channels": ["chat", "plain:1"], "data": large})
    assert full.status_code == 507
    assert full.headers["retry-after"] == "5"
    assert full.json()["error"]["code"] == "unavailable"
    assert not_kept.status_code == 200
    codes = [result.get("error", {}).get("code") for result in batch.json()["results"]]
    assert codes == ["unavailable", None]


async def test_a_closed_broker_is_an_error_in_every_result() -> None:
    api = await make_api(started=False)
    async with api.client() as client:
        one = await client.post("/v1/publish", json={"channel": "chat", "data": 1})
        many = await client.post("/v1/broadcast", json={"channels": ["a", "b"], "data": 1})
    assert one.status_code == 503
    assert one.headers["retry-after"] == "1"
    assert one.json()["error"]["retry_after_ms"] == 1_000
    assert [result["error"]["code"] for result in many.json()["results"]] == ["unavailable"] * 2
