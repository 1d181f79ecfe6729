"""Clients and publishers of the chaos tests follow the protocol, and record what they sent and received."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from protocol.client import BackoffBounds, ClientState, Retry
from tests.chaos.checker import check
from tests.chaos.client import RecordingClient
from tests.chaos.client_policy import ClientPolicy, ClientStopped
from tests.chaos.history import (
    History,
    PublishResult,
    ReceivedMessage,
    Subscribed,
    SubscribeSent,
    SubscriptionEnded,
)
from tests.chaos.ports import reserved
from tests.chaos.proxy import Cut, Proxy
from tests.chaos.publisher import Publisher, publish_data, publish_name_of
from tests.chaos.relay import UNIMPAIRED, LinkConditions
from tests.e2e.clients import JSON, MSGPACK, TIMEOUT_SECONDS
from tests.e2e.gateway import gateway_on_loop, token

MILLISECOND_DELAYS = ClientPolicy(BackoffBounds(0.001, 0.01))


@asynccontextmanager
async def running_client(port: int, history: History, **options: Any) -> AsyncIterator[RecordingClient]:
    """Run a client of channel `c`."""
    client = RecordingClient(
        "k", [port], ["c"], history, **{"random": Random(1), "policy": MILLISECOND_DELAYS, **options}
    )
    run = asyncio.ensure_future(client.run())
    try:
        await wait_for_position(client)
        yield client
    finally:
        run.cancel()
        await asyncio.wait([run])


async def wait_for_position(client: RecordingClient, position: str = "0") -> None:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        await client.wait_for_positions({"c": position})


# ---------------------------------------------------------------- a client


@pytest.mark.parametrize("subprotocol", [JSON, MSGPACK])
@pytest.mark.parametrize("how", list(Cut))
async def test_client_reconnects_and_misses_nothing(tmp_path: Path, subprotocol: str, how: Cut) -> None:
    history = History()
    async with (
        gateway_on_loop(tmp_path) as gateway,
        Proxy.open(gateway.public) as proxy,
        Publisher.open("b", [gateway.internal], history, random=Random(1)) as publisher,
        running_client(proxy.port, history, subprotocol=subprotocol) as client,
    ):
        for _ in range(20):
            proxy.cut(how)
            assert await publisher.publish("c") is PublishResult.OK
        await wait_for_position(client, "20")
        verdict = check(history.events())
        assert verdict.clean, verdict
        assert (verdict.delivered, verdict.notices) == (20, ())
        assert set(client.close_codes) == {1006}


async def test_client_drops_a_connection_that_does_not_answer(tmp_path: Path) -> None:
    history = History()
    async with (
        gateway_on_loop(tmp_path) as gateway,
        Proxy.open(gateway.public) as proxy,
        running_client(
            proxy.port,
            history,
            policy=ClientPolicy(BackoffBounds(0.001, 0.01), idle_seconds=0.02, reply_seconds=0.5),
        ) as client,
        Publisher.open("b", [gateway.internal], history, random=Random(1)) as publisher,
    ):
        (blocked,) = proxy.connections
        blocked.impair(down=LinkConditions(blocked=True))
        await publisher.publish("c")
        await wait_for_position(client, "1")
        assert set(client.close_codes) == {1006}
        assert check(history.events()).clean


async def test_client_connects_to_the_next_port_after_a_loss(tmp_path: Path) -> None:
    history = History()
    async with gateway_on_loop(tmp_path) as gateway, Proxy.open(gateway.public) as proxy:
        client = RecordingClient(
            "k", [proxy.port, gateway.public], ["c"], history, random=Random(1), policy=MILLISECOND_DELAYS
        )
        run = asyncio.ensure_future(client.run())
        try:
            await wait_for_position(client)
            assert len(proxy.connections) == 1
            before = client.connection
            proxy.cut()
            await proxy.connections[0].closed.wait()
            while client.connection in ("", before):
                await wait_for_position(client)
                await asyncio.sleep(0)
            assert not proxy.connections
        finally:
            run.cancel()
            await asyncio.wait([run])


async def test_client_that_was_disconnected_by_the_api_stops(tmp_path: Path) -> None:
    history = History()
    async with gateway_on_loop(tmp_path) as gateway:
        user_token = token("u", now=time.time())
        client = RecordingClient("k", [gateway.public], ["c"], history, random=Random(1), token=user_token)
        run = asyncio.ensure_future(client.run())
        await wait_for_position(client)
        await gateway.request("POST", "/v1/users/u/disconnect", {})
        with pytest.raises(ClientStopped, match="4005"):
            await run
        assert history.events()[-1] == SubscriptionEnded("k")


AnswerCommand = Callable[[ServerConnection, dict[str, Any]], Awaitable[None]]


@asynccontextmanager
async def scripted_gateway(answer: AnswerCommand) -> AsyncIterator[int]:
    """Serve WebSocket connections on which *answer* handles every message; yields the port."""

    async def handle(connection: ServerConnection) -> None:
        async for text in connection:
            await answer(connection, orjson.loads(text))

    async with serve(handle, "127.0.0.1", 0, subprotocols=[Subprotocol(JSON)]) as server:
        yield next(iter(server.sockets)).getsockname()[1]


async def send(connection: ServerConnection, /, **message: Any) -> None:
    await connection.send(orjson.dumps(message), text=True)


CONNECTED = {"type": "connected", "connection": "x", "user": "", "node": "n", "heartbeat": 25.0}
SUBSCRIBED = {"type": "subscribed", "channel": "c", "position": "0-a", "recovered": False, "messages": []}


async def test_client_subscribes_again_to_unavailable_channels() -> None:
    history, refusals = History(), iter(range(3))
    refusal = {"type": "error", "code": "unavailable", "message": "later", "retry_after_ms": 1}

    async def answer(connection: ServerConnection, command: dict[str, Any]) -> None:
        if command["type"] == "connect":
            requested = command.get("subs", {})
            subs = dict.fromkeys(requested, refusal)
            await send(connection, **CONNECTED, id=command["id"], subs=subs)
            if requested:
                await connection.close(4011)
        elif next(refusals, None) is not None:
            await send(connection, **refusal, id=command["id"])
        else:
            await send(connection, **SUBSCRIBED, id=command["id"])

    async with scripted_gateway(answer) as port, running_client(port, history):
        pass
    received = [event for event in history.events() if isinstance(event, Subscribed)]
    assert received == [Subscribed("k", "c", "0-a", recovered=False)]
    assert sum(isinstance(event, SubscribeSent) for event in history.events()) >= 4


async def test_client_answers_pings_and_reconnects_after_the_announced_delay() -> None:
    history, connections, pongs = History(), iter(range(100)), asyncio.Event()

    async def answer(connection: ServerConnection, command: dict[str, Any]) -> None:
        if command["type"] == "connect":
            subs = dict.fromkeys(command.get("subs", {}), SUBSCRIBED)
            await send(connection, **CONNECTED, id=command["id"], subs=subs)
            if next(connections) == 0:
                await send(connection, type="reconnect", after_ms=1, reason="drain")
                await connection.close(4000)
            else:
                await send(connection, type="ping")
        elif command["type"] == "subscribe":
            await send(connection, **SUBSCRIBED, id=command["id"])
        elif command["type"] == "pong":
            pongs.set()

    # With the delays of its own policy it would reconnect only after the timeout of this test.
    async with (
        scripted_gateway(answer) as port,
        running_client(port, history, policy=ClientPolicy(BackoffBounds(1e6, 1e6))) as client,
    ):
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await pongs.wait()
        assert client.close_codes == {4000: 1}


@given(st.integers(0, 10_000), st.integers())
def test_delays_have_full_jitter_that_doubles(attempts: int, seed: int) -> None:
    short = delay_after(1006, attempts, seed)
    assert 0 <= short <= min(30.0, 0.5 * 2 ** min(attempts, 10))
    assert short <= delay_after(4008, attempts, seed) <= 30.0


def delay_after(code: int, attempts: int, seed: int) -> float:
    """Return how long a client waits after a close with *code* that follows *attempts* failed attempts."""
    state = ClientState(random=Random(seed).random, backoff=ClientPolicy().backoff)
    state.attempt = attempts
    state.connect_command()
    decision = state.on_closed(code)
    assert isinstance(decision, Retry)
    return decision.after_seconds


# ---------------------------------------------------------------- a publisher


async def test_publisher_records_results_as_ok_failed_or_unknown(tmp_path: Path) -> None:
    history = History()
    async with (
        gateway_on_loop(tmp_path) as gateway,
        Proxy.open(gateway.internal) as proxy,
        running_client(gateway.public, history) as client,
        Publisher.open("b", [proxy.port], history, random=Random(1), timeout_seconds=0.3) as publisher,
    ):
        assert await publisher.publish("c") is PublishResult.OK
        assert await publisher.publish("no channel") is PublishResult.FAILED
        proxy.impair(down=LinkConditions(blocked=True))
        assert await publisher.publish("c") is PublishResult.UNKNOWN
        proxy.impair(down=UNIMPAIRED)
        proxy.refuse()
        proxy.cut()
        while (last := await publisher.publish("c")) is not PublishResult.FAILED:
            assert last is PublishResult.UNKNOWN, (
                "a request on a connection that is being cut has no known result"
            )
        await wait_for_position(client, "2")
        verdict = check(history.events())
        assert verdict.clean, verdict
        assert (verdict.published["ok"], verdict.delivered) == (1, 2)


async def test_publisher_that_retries_publishes_once(tmp_path: Path) -> None:
    history = History()
    async with (
        gateway_on_loop(tmp_path) as gateway,
        Proxy.open(gateway.internal) as proxy,
        running_client(gateway.public, history) as client,
        Publisher.open(
            "b",
            [proxy.port, gateway.internal],
            history,
            random=Random(1),
            timeout_seconds=0.3,
            retry_seconds=TIMEOUT_SECONDS,
        ) as publisher,
    ):
        proxy.impair(down=LinkConditions(blocked=True))
        assert await publisher.publish("c") is PublishResult.OK
        assert publisher.statuses == {0: 1, 200: 1}
        assert await publisher.publish("no channel") is PublishResult.FAILED
        assert await publisher.publish("c") is PublishResult.OK
        await wait_for_position(client, "2")
        verdict = check(history.events())
        assert verdict.clean, verdict
        assert verdict.delivered == 2


async def test_publish_fails_where_the_port_refuses() -> None:
    with reserved() as port:
        async with Publisher.open("b", [port], History(), random=Random(1)) as publisher:
            assert await publisher.publish("c") is PublishResult.FAILED


@given(st.text(), st.integers(0, 2_000))
def test_publish_name_is_found_only_in_unchanged_data(name: str, size: int) -> None:
    data = publish_data(name, size)
    assert publish_name_of(orjson.loads(orjson.dumps(data))) == name
    assert len(data["filling"]) == size
    for wrong in ({"filling": data["filling"] + "."}, {"size": size + 1}, {"more": 1}):
        assert publish_name_of({**data, **wrong}) != name


def test_unknown_data_is_shown_instead_of_a_name() -> None:
    assert ReceivedMessage("1-a", publish_name_of({"text": "hello"})).publish == "{'text': 'hello'}"
