"""Clients and backends of the chaos tests do what PROTOCOL wants of them, and write down the truth."""

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

from tests.chaos.checker import check
from tests.chaos.client import Client
from tests.chaos.client_policy import DEFAULT, Habits, Reaction, Stopped
from tests.chaos.flow import CLEAR, Line
from tests.chaos.history import Asked, Heard, History, Left, Result, Subscribed
from tests.chaos.ports import reserved
from tests.chaos.proxy import Cut, Proxy
from tests.chaos.publisher import Publisher, body, name_of
from tests.e2e.gateway import running, token
from tests.e2e.wire import JSON, MSGPACK, PATIENCE

BRISK = Habits(first=0.001, longest=0.01)


@asynccontextmanager
async def following(port: int, history: History, **options: Any) -> AsyncIterator[Client]:
    """Run a client of channel `c`."""
    client = Client("k", [port], ["c"], history, **{"random": Random(1), "habits": BRISK, **options})
    run = asyncio.ensure_future(client.run())
    try:
        await reached(client)
        yield client
    finally:
        run.cancel()
        await asyncio.wait([run])


async def reached(client: Client, position: str = "0") -> None:
    async with asyncio.timeout(PATIENCE):
        await client.reach({"c": position})


# ---------------------------------------------------------------- a client


@pytest.mark.parametrize("subprotocol", [JSON, MSGPACK])
@pytest.mark.parametrize("how", list(Cut))
async def test_a_client_comes_back_and_misses_nothing(tmp_path: Path, subprotocol: str, how: Cut) -> None:
    history = History()
    async with (
        running(tmp_path) as gateway,
        Proxy.open(gateway.public) as proxy,
        Publisher.open("b", [gateway.internal], history, random=Random(1)) as backend,
        following(proxy.port, history, subprotocol=subprotocol) as client,
    ):
        for _ in range(20):
            proxy.cut(how)
            assert await backend.publish("c") is Result.OK
        await reached(client, "20")
        verdict = check(history.events())
        assert verdict.clean, verdict
        assert (verdict.delivered, verdict.told) == (20, ())
        assert set(client.ends) == {1006}


async def test_a_client_gives_up_a_connection_that_does_not_answer(tmp_path: Path) -> None:
    history = History()
    async with (
        running(tmp_path) as gateway,
        Proxy.open(gateway.public) as proxy,
        following(proxy.port, history, habits=Habits(0.001, 0.01, silence=0.02, answer=0.5)) as client,
        Publisher.open("b", [gateway.internal], history, random=Random(1)) as backend,
    ):
        (dead,) = proxy.connections
        dead.shape(down=Line(blocked=True))
        await backend.publish("c")
        await reached(client, "1")
        assert set(client.ends) == {1006}
        assert check(history.events()).clean


async def test_a_client_goes_to_the_next_node_when_its_own_is_away(tmp_path: Path) -> None:
    history = History()
    async with running(tmp_path) as gateway, Proxy.open(gateway.public) as proxy:
        client = Client("k", [proxy.port, gateway.public], ["c"], history, random=Random(1), habits=BRISK)
        run = asyncio.ensure_future(client.run())
        try:
            await reached(client)
            assert len(proxy.connections) == 1
            before = client.connection
            proxy.cut()
            await proxy.connections[0].gone.wait()
            while client.connection in ("", before):
                await reached(client)
                await asyncio.sleep(0)
            assert not proxy.connections
        finally:
            run.cancel()
            await asyncio.wait([run])


async def test_a_client_that_is_sent_away_for_good_stays_away(tmp_path: Path) -> None:
    history = History()
    async with running(tmp_path) as gateway:
        mine = token("u", now=time.time())
        client = Client("k", [gateway.public], ["c"], history, random=Random(1), token=mine)
        run = asyncio.ensure_future(client.run())
        await reached(client)
        await gateway.request("POST", "/v1/users/u/disconnect", {})
        with pytest.raises(Stopped, match="4005"):
            await run
        assert history.events()[-1] == Left("k")


Script = Callable[[ServerConnection, dict[str, Any]], Awaitable[None]]


@asynccontextmanager
async def scripted(answer: Script) -> AsyncIterator[int]:
    """Serve a gateway that answers every message by *answer*; yields its port."""

    async def talk(connection: ServerConnection) -> None:
        async for text in connection:
            await answer(connection, orjson.loads(text))

    async with serve(talk, "127.0.0.1", 0, subprotocols=[Subprotocol(JSON)]) as server:
        yield next(iter(server.sockets)).getsockname()[1]


async def say(connection: ServerConnection, **message: Any) -> None:
    await connection.send(orjson.dumps(message), text=True)


SUBSCRIBED = {"type": "subscribed", "channel": "c", "position": "0-a", "recovered": False, "messages": []}


async def test_a_client_asks_again_for_what_was_unavailable() -> None:
    history, refusals = History(), iter(range(3))
    refusal = {"type": "error", "code": "unavailable", "message": "later", "retry_after_ms": 1}

    async def answer(connection: ServerConnection, command: dict[str, Any]) -> None:
        if command["type"] == "connect":
            asked = command["subs"]
            subs = dict.fromkeys(asked, refusal)
            await say(connection, type="connected", id=command["id"], heartbeat=25.0, subs=subs)
            if asked:
                await connection.close(4011)
        elif next(refusals, None) is not None:
            await say(connection, **refusal, id=command["id"])
        else:
            await say(connection, **SUBSCRIBED, id=command["id"])

    async with scripted(answer) as port, following(port, history):
        pass
    heard = [event for event in history.events() if isinstance(event, Subscribed)]
    assert heard == [Subscribed("k", "c", "0-a", recovered=False)]
    assert sum(isinstance(event, Asked) for event in history.events()) >= 4


async def test_a_client_answers_pings_and_comes_back_when_it_is_told() -> None:
    history, connections, pongs = History(), iter(range(100)), asyncio.Event()

    async def answer(connection: ServerConnection, command: dict[str, Any]) -> None:
        if command["type"] == "connect":
            subs = dict.fromkeys(command["subs"], SUBSCRIBED)
            await say(connection, type="connected", id=command["id"], heartbeat=25.0, subs=subs)
            if next(connections) == 0:
                await say(connection, type="reconnect", after_ms=1, reason="drain")
                await connection.close(4000)
            else:
                await say(connection, type="ping")
        elif command["type"] == "subscribe":
            await say(connection, **SUBSCRIBED, id=command["id"])
        elif command["type"] == "pong":
            pongs.set()

    # With its own delays it would stay away for longer than this test may take.
    async with scripted(answer) as port, following(port, history, habits=Habits(1e6, 1e6)) as client:
        async with asyncio.timeout(PATIENCE):
            await pongs.wait()
        assert client.ends == {4000: 1}


@given(st.integers(0, 10_000), st.integers())
def test_delays_have_full_jitter_that_doubles(failures: int, seed: int) -> None:
    soon = DEFAULT.delay(Reaction.RESUME, failures, Random(seed))
    assert 0 <= soon <= min(30.0, 0.5 * 2 ** min(failures, 10))
    assert soon <= DEFAULT.delay(Reaction.LATER, failures, Random(seed)) <= 30.0


# ---------------------------------------------------------------- a backend


async def test_a_backend_knows_what_became_of_a_publish(tmp_path: Path) -> None:
    history = History()
    async with (
        running(tmp_path) as gateway,
        Proxy.open(gateway.internal) as proxy,
        following(gateway.public, history) as client,
        Publisher.open("b", [proxy.port], history, random=Random(1), timeout=0.3) as backend,
    ):
        assert await backend.publish("c") is Result.OK
        assert await backend.publish("no channel") is Result.FAILED
        proxy.shape(down=Line(blocked=True))
        assert await backend.publish("c") is Result.UNKNOWN
        proxy.shape(down=CLEAR)
        proxy.refuse()
        proxy.cut()
        while (last := await backend.publish("c")) is not Result.FAILED:
            assert last is Result.UNKNOWN, "a connection that is cut already tells nothing"
        await reached(client, "2")
        verdict = check(history.events())
        assert verdict.clean, verdict
        assert (verdict.published["ok"], verdict.delivered) == (1, 2)


async def test_a_backend_that_insists_publishes_once(tmp_path: Path) -> None:
    history = History()
    async with (
        running(tmp_path) as gateway,
        Proxy.open(gateway.internal) as proxy,
        following(gateway.public, history) as client,
        Publisher.open(
            "b", [proxy.port, gateway.internal], history, random=Random(1), timeout=0.3, insists=PATIENCE
        ) as backend,
    ):
        proxy.shape(down=Line(blocked=True))
        assert await backend.publish("c") is Result.OK
        assert backend.statuses == {0: 1, 200: 1}
        assert await backend.publish("no channel") is Result.FAILED
        assert await backend.publish("c") is Result.OK
        await reached(client, "2")
        verdict = check(history.events())
        assert verdict.clean, verdict
        assert verdict.delivered == 2


async def test_where_nobody_listens_a_publish_has_failed() -> None:
    with reserved() as port:
        async with Publisher.open("b", [port], History(), random=Random(1)) as backend:
            assert await backend.publish("c") is Result.FAILED


@given(st.text(), st.integers(0, 2_000))
def test_data_is_a_publish_to_its_last_character(name: str, size: int) -> None:
    data = body(name, size)
    assert name_of(orjson.loads(orjson.dumps(data))) == name
    assert len(data["filling"]) == size
    for wrong in ({"filling": data["filling"] + "."}, {"size": size + 1}, {"more": 1}):
        assert name_of({**data, **wrong}) != name


def test_what_is_no_publish_of_ours_is_shown() -> None:
    assert Heard("1-a", name_of({"text": "hello"})).publish == "{'text': 'hello'}"
