"""The short way of a publish with a slow or failing broker, and from first to last on a connection."""

import logging

import orjson
import pytest

from gateway.broker.memory.broker import MemoryBroker
from tests.gateway.push.push_kit import (
    KEY,
    BrokenNode,
    WaitingBroker,
    body,
    comparable,
    feed,
    make_api,
    offset,
    one_more,
    published,
    request,
    served,
)

# ---------------------------------------------------------------- a broker that takes its time


async def test_answers_keep_the_order_of_requests_while_the_broker_is_slow() -> None:
    broker = WaitingBroker()
    api = await make_api(broker=broker)
    async with served(api) as server, server.connect() as wire:
        await wire.send(request(body(data=1)))
        await broker.arrived.acquire()
        feed(
            server, request(body(data=2)), request(b"", line="GET /v1/nodes HTTP/1.1"), request(body(data=3))
        )
        assert api.node.deliveries == []
        broker.gate.set()
        answers = [orjson.loads((await wire.answer()).body) for _ in range(4)]
        assert await one_more(wire) == 4
    assert [min(answer) for answer in answers] == ["channel", "channel", "nodes", "channel"]
    assert api.node.data() == [1, 2, 3, "more"]


async def test_the_fast_path_waits_for_a_request_that_the_routes_are_serving() -> None:
    broker = WaitingBroker()
    api = await make_api(broker=broker)
    async with served(api) as server, server.connect() as wire:
        await wire.send(request(body(data=1), line="POST /v1/publish?x=1 HTTP/1.1"))
        await broker.arrived.acquire()
        feed(server, request(body(data=2)))
        broker.gate.set()
        assert [offset(await wire.answer()) for _ in range(2)] == [1, 2]
        assert published(server) == 0
        assert await one_more(wire) == 3
        assert published(server) == 1
    assert api.node.data() == [1, 2, "more"]


async def test_a_publish_goes_on_after_its_client_has_disconnected() -> None:
    broker = WaitingBroker()
    api = await make_api(broker=broker)
    async with served(api) as server:
        async with server.connect() as wire:
            await wire.send(request(body(data=1)))
            await broker.arrived.acquire()
            server.protocol().transport.abort()
            assert await wire.closed()
        broker.gate.set()
        await api.node.delivered.acquire()
        assert published(server) == 0
    assert api.unhandled_errors == []


async def test_shutdown_waits_for_a_publish_and_its_answer_closes_the_connection() -> None:
    broker = WaitingBroker()
    api = await make_api(broker=broker)
    async with served(api) as server, server.connect() as wire:
        await wire.send(request(body()))
        await broker.arrived.acquire()
        server.protocol().shutdown()
        broker.gate.set()
        answer = await wire.answer()
        assert await wire.closed()
    assert (answer.status, answer.headers["connection"]) == (200, "close")


async def test_shutdown_waits_for_the_rest_of_a_body() -> None:
    api, data = await make_api(), request(body())
    async with served(api) as server, server.connect() as wire:
        await wire.ask(data)
        feed(server, data[:-5])
        server.protocol().shutdown()
        feed(server, data[-5:])
        answer = await wire.answer()
        assert await wire.closed()
    assert (answer.status, answer.headers["connection"]) == (200, "close")


async def test_a_cancelled_publish_is_answered_with_a_retry_time() -> None:
    broker = WaitingBroker()
    api = await make_api(broker=broker)
    async with served(api) as server, server.connect() as wire:
        await wire.send(request(body()))
        await broker.arrived.acquire()
        await api.context.tasks.close()
        answer = await wire.answer()
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert api.unhandled_errors == []


# ---------------------------------------------------------------- a broker that fails


def broker_that(*, waits: bool, memory: int) -> MemoryBroker:
    if not waits:
        return MemoryBroker(memory=memory, sweep_interval=0)
    broker = WaitingBroker(memory=memory)
    broker.gate.set()
    return broker


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("status", [503, 507, 500])
async def test_broker_failures_are_answered_as_by_the_routes(
    status: int, waits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    answers, logged = [], []
    for fast in (True, False):
        api = await make_api(
            broker=broker_that(waits=waits, memory=100 if status == 507 else 10_000),
            node=BrokenNode() if status == 500 else None,
            started=status != 503,
        )
        async with served(api, fast=fast) as server, server.connect() as wire:
            answers.append([comparable(await wire.ask(request(body()))) for _ in range(2)])
        logged.append([record.getMessage() for record in caplog.records])
        caplog.clear()
        # What failed half-way must not be tried again by the other way.
        assert api.broker.statistics()["published"] == (2 if status == 500 else 0)
        assert api.unhandled_errors == []
    assert answers[0] == answers[1]
    assert [answer[0] for answer in answers[0]] == [status] * 2
    assert ("retry-after" in answers[0][0][1]) == (status != 500)
    assert logged[0] == logged[1]
    assert len(logged[0]) == (2 if status == 500 else 0)


async def test_no_log_holds_a_key_or_a_payload(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    api = await make_api(node=BrokenNode())
    async with served(api) as server, server.connect() as wire:
        await wire.ask(request(body(data="private words")))
        await wire.ask(request(b"private words"))
        await wire.ask(request(body(data="private words"), key="Bearer wrong-key"))
        await wire.ask(b"private words: wrong-key\r\n\r\n")
    assert "a bug with a secret in it" in caplog.text
    assert not any(word in caplog.text for word in (KEY, "private words", "wrong-key"))


# ---------------------------------------------------------------- the life of a connection


async def test_a_client_that_does_not_read_its_answers_gets_no_more_of_them() -> None:
    api = await make_api()
    async with served(api) as server, server.connect() as wire:
        await wire.ask(request(body()))
        protocol = server.protocol()
        protocol.pause_writing()
        await wire.send(request(body()))
        for _ in range(2):
            await api.node.delivered.acquire()
        assert published(server) == 1
        protocol.resume_writing()
        assert offset(await wire.answer()) == 2
        assert await one_more(wire) == 3
        assert published(server) == 2


async def test_an_idle_connection_is_closed_after_a_publish_as_after_any_request() -> None:
    api = await make_api()
    async with served(api, timeout_keep_alive=0) as server, server.connect() as wire:
        assert (await wire.ask(request(body()))).status == 200
        assert await wire.closed()


async def test_a_connection_in_use_is_not_idle() -> None:
    broker = WaitingBroker()
    api, data = await make_api(broker=broker), request(body())
    async with served(api, timeout_keep_alive=60) as server, server.connect() as wire:
        broker.gate.set()
        await wire.ask(data)
        protocol = server.protocol()
        assert protocol.timeout_keep_alive_task is not None
        # As if the timer of an earlier answer went off just now: after a publish ...
        protocol.timeout_keep_alive_handler()
        assert offset(await wire.ask(data)) == 2
        # ... in the middle of a body ...
        feed(server, data[:-5])
        protocol.timeout_keep_alive_handler()
        feed(server, data[-5:])
        assert offset(await wire.answer()) == 3
        # ... and while the broker takes its time.
        broker.gate.clear()
        feed(server, data)
        protocol.timeout_keep_alive_handler()
        broker.gate.set()
        assert offset(await wire.answer()) == 4
        assert not protocol.transport.is_closing()


async def test_requests_are_counted_on_the_fast_path_and_by_the_routes() -> None:
    api = await make_api()
    async with served(api) as server, server.connect() as wire:
        await wire.ask(request(body()))
        await wire.ask(request(b"", line="GET /v1/nodes HTTP/1.1"))
        assert server.listener.server_state.total_requests == 2
