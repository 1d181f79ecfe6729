"""JSON and MessagePack carry the same messages, on both listeners."""

from collections.abc import Iterator
from typing import Any

import httpx
import msgpack
import orjson
import pytest

from tests.e2e.clients import (
    BINARY,
    JSON,
    MSGPACK,
    TEXT,
    Client,
    RawConnection,
    client_frame,
    upgrade_request,
)
from tests.e2e.gateway import HEADERS, GatewayProcess, gateway_process, publish

DATA: dict[str, Any] = {
    "nothing": None,
    "truth": [True, False],
    "integers": [0, -1, 2**53, -(2**63), 2**64 - 1],
    "floats": [0.1, -2.5e-7, 1e300],
    "text": ["", "ASCII", "grüß 你好 👋", 'quoted "', "line\nbreak", "\u2028"],
    "empty": [[], {}],
    "deep": [[[{"a": [{"b": []}]}]]],
}
MEDIA = {
    "application/json": (orjson.dumps, orjson.loads),
    "application/msgpack": (msgpack.packb, msgpack.unpackb),
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with gateway_process(tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


async def post(
    gateway: GatewayProcess, media: str, body: object, *, accept: str | None = None
) -> httpx.Response:
    """Return the answer to a publish of *body*, spelled in *media*."""
    headers = {**HEADERS, "content-type": media} | ({} if accept is None else {"accept": accept})
    async with httpx.AsyncClient(trust_env=False, headers=headers) as backend:
        url = f"http://127.0.0.1:{gateway.internal}/v1/publish"
        return await backend.post(url, content=MEDIA[media][0](body))


# ---------------------------------------------------------------- the public listener


@pytest.mark.parametrize("speaks", [JSON, MSGPACK])
async def test_both_codecs_receive_the_same_messages(gateway: GatewayProcess, speaks: str) -> None:
    async with (
        Client.open(gateway.public, subprotocol=JSON, subs={"both": {}}) as in_json,
        Client.open(gateway.public, subprotocol=MSGPACK, subs={"both": {}}) as in_msgpack,
    ):
        speaker = in_json if speaks == JSON else in_msgpack
        reply = await speaker.call("publish", channel="both", data=DATA)
        pushes = [await client.next_push("message") for client in (in_json, in_msgpack)]
    assert pushes[0] == pushes[1]
    assert pushes[0]["message"] == reply["message"]
    assert spelled_alike(pushes[0]["data"], DATA)


@pytest.mark.parametrize("speaks", [JSON, MSGPACK])
@pytest.mark.parametrize("data", [None, False, 0, "", [], {}, 1.0], ids=repr)
async def test_data_may_be_any_value(gateway: GatewayProcess, speaks: str, data: object) -> None:
    async with (
        Client.open(gateway.public, subprotocol=JSON, subs={"any": {}}) as in_json,
        Client.open(gateway.public, subprotocol=MSGPACK, subs={"any": {}}) as in_msgpack,
    ):
        await (in_json if speaks == JSON else in_msgpack).call("publish", channel="any", data=data)
        for client in (in_json, in_msgpack):
            assert spelled_alike((await client.next_push("message"))["data"], data)


async def test_replies_and_pushes_are_equal_in_both_codecs(gateway: GatewayProcess) -> None:
    outcome = await publish(gateway.internal, "replies", "first", tags={"n": "1"})
    conversations = []
    for subprotocol in (JSON, MSGPACK):
        async with Client.open(
            gateway.public, subprotocol=subprotocol, subs={"replies": {"rewind": 1}}
        ) as client:
            conversations.append(
                [
                    client.connected["subs"]["replies"],
                    client.connected["limits"],
                    await client.call("history", channel="replies"),
                    await client.call("presence", channel="replies"),
                    await client.call("subscribe", channel="replies"),
                    await client.call("unsubscribe", channel="replies"),
                    await client.call("publish", channel="no name", data=1),
                    await client.call("ping"),
                ]
            )
    in_json, in_msgpack = conversations
    assert in_json == in_msgpack
    assert in_json[0]["messages"][0]["message"] == outcome["message"]


async def test_data_that_json_cannot_represent_is_rejected(gateway: GatewayProcess) -> None:
    async with Client.open(gateway.public, subprotocol=MSGPACK) as client:
        for data in (b"bytes", msgpack.ExtType(5, b"x"), float("nan"), float("inf")):
            refused = await client.call("publish", channel="strict", data=data)
            assert (refused["type"], refused["code"]) == ("error", "bad_request"), data
            assert refused["message"].startswith("publish.data"), data
        await client.send({"type": "publish", "id": 9, "channel": "strict", "data": {1: "a number as a key"}})
        assert (await client.next_push("error"))["code"] == "bad_request"
        assert (await client.call("ping"))["type"] == "pong"


@pytest.mark.parametrize(("subprotocol", "opcode"), [(JSON, BINARY), (MSGPACK, TEXT)])
async def test_wrong_frame_type_is_answered_with_an_error(
    gateway: GatewayProcess, subprotocol: str, opcode: int
) -> None:
    with await RawConnection.websocket(gateway.public, subprotocol=subprotocol) as client:
        await client.send(client_frame(opcode, b"{}"))
        error = MEDIA["application/json" if subprotocol == JSON else "application/msgpack"][1](
            (await client.read_frame()).payload
        )
    assert (error["type"], error["code"]) == ("error", "bad_request")
    assert subprotocol in error["message"]


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (JSON, JSON),
        (MSGPACK, MSGPACK),
        (f"{MSGPACK}, {JSON}", MSGPACK),
        (f"{JSON}, {MSGPACK}", JSON),
        (f"graphql-ws, {MSGPACK}", MSGPACK),
        (None, None),
    ],
)
async def test_first_known_subprotocol_of_the_client_is_used(
    gateway: GatewayProcess, offered: str | None, chosen: str | None
) -> None:
    with await RawConnection.open(gateway.public) as client:
        await client.send(upgrade_request(subprotocol=offered))
        response = await client.read_response()
        assert response.status == 101
        assert response.headers.get("sec-websocket-protocol") == chosen
        command = {"type": "connect", "id": 1}
        binary = chosen == MSGPACK
        await client.send(
            client_frame(
                BINARY if binary else TEXT, msgpack.packb(command) if binary else orjson.dumps(command)
            )
        )
        reply = await client.read_frame()
    assert reply.opcode == (BINARY if binary else TEXT)
    assert (msgpack.unpackb(reply.payload) if binary else orjson.loads(reply.payload))["type"] == "connected"


async def test_refusal_of_unknown_subprotocols_names_the_known_ones(gateway: GatewayProcess) -> None:
    with await RawConnection.open(gateway.public) as client:
        await client.send(upgrade_request(subprotocol="graphql-ws, mqtt"))
        response = await client.read_response()
    assert response.status == 400
    assert all(name in orjson.loads(response.body)["error"]["message"] for name in (JSON, MSGPACK))


# ---------------------------------------------------------------- the internal listener


@pytest.mark.parametrize("media", MEDIA)
async def test_backend_publishes_in_either_content_type(gateway: GatewayProcess, media: str) -> None:
    async with Client.open(gateway.public, subs={"backend": {}}) as client:
        answer = await post(gateway, media, {"channel": "backend", "data": DATA, "tags": {"in": media}})
        push = await client.next_push("message")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == media
    assert MEDIA[media][1](answer.content) == {
        "channel": "backend",
        "message": push["message"],
        "replayed": False,
    }
    assert spelled_alike(push["data"], DATA)
    assert push["tags"] == {"in": media}


@pytest.mark.parametrize("sent", MEDIA)
@pytest.mark.parametrize("wanted", MEDIA)
async def test_answer_has_the_content_type_that_the_backend_accepts(
    gateway: GatewayProcess, sent: str, wanted: str
) -> None:
    for body, status in (({"channel": "accept", "data": 1}, 200), ({"channel": "accept"}, 422)):
        answer = await post(gateway, sent, body, accept=wanted)
        assert (answer.status_code, answer.headers["content-type"]) == (status, wanted)
        assert ("error" in MEDIA[wanted][1](answer.content)) is (status != 200)


async def test_history_is_read_in_either_content_type(gateway: GatewayProcess) -> None:
    await post(gateway, "application/msgpack", {"channel": "kept", "data": DATA})
    pages = []
    for media, (_, decode) in MEDIA.items():
        async with httpx.AsyncClient(trust_env=False, headers={**HEADERS, "accept": media}) as backend:
            answer = await backend.get(f"http://127.0.0.1:{gateway.internal}/v1/channels/kept/history")
            pages.append(decode(answer.content))
    assert pages[0] == pages[1]
    assert spelled_alike(pages[0]["messages"][0]["data"], DATA)


async def test_any_other_content_type_is_415(gateway: GatewayProcess) -> None:
    headers = {**HEADERS, "content-type": "text/plain"}
    async with httpx.AsyncClient(trust_env=False, headers=headers) as backend:
        url = f"http://127.0.0.1:{gateway.internal}/v1/publish"
        answer = await backend.post(url, content=b'{"channel": "a", "data": 1}')
    assert answer.status_code == 415
    assert all(media in answer.json()["error"]["message"] for media in MEDIA)


def spelled_alike(one: Any, other: Any) -> bool:
    """Return whether two values are equal and of the same types: to Python, 1 == 1.0 == True."""
    return repr(one) == repr(other)
