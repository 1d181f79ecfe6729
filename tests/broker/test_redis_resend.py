"""Calls whose connection fails: sent again if they were certainly not carried out, and only then."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Self

import pytest
import pytest_asyncio

from gateway.broker.redis.connection.breaker import Breaker
from gateway.broker.redis.connection.connection import RedisConnection
from gateway.broker.redis.connection.health import ShardHealth
from gateway.broker.redis.connection.pending_calls import PendingCalls
from gateway.broker.redis.connection.pipeline import Pipeline
from gateway.broker.redis.connection.server import Server
from gateway.broker.redis.connection.topology import FixedPrimary
from gateway.errors import BrokerUnavailable
from gateway.tasks import Tasks

TIMEOUT = 20.0

COMMAND = ("ECHO", "x")
"""As the only command of these tests it is recognized by its name."""

CLOSE = b""
"""Instead of an answer, the connection is closed."""


class ScriptedServer:
    """Speaks enough of Redis' protocol to fail at a chosen moment, which a real one cannot be made to."""

    def __init__(self, *answers: Sequence[bytes]) -> None:
        """Answer the commands of the first connection with the first of *answers*, and so on; then `:1`."""
        self._answers = list(answers)
        self.received = 0
        """Commands of all connections."""
        self.connections = 0
        self.first_command = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._running: set[asyncio.Task[None] | None] = set()
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._running):
            assert task is not None
            await asyncio.wait([task])
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._running.add(asyncio.current_task())
        self.connections += 1
        answers = list(self._answers.pop(0)) if self._answers else None
        try:
            while line := await reader.readline():
                if line.strip() == b"ECHO":
                    self.received += 1
                    self.first_command.set()
                    answer = b":1" if answers is None else answers.pop(0)
                    if answer == CLOSE:
                        return
                    writer.write(answer + b"\r\n")
                elif b"CLIENT" in line:
                    writer.write(b"+OK\r\n")
        except OSError:
            return
        finally:
            writer.close()
            self._running.discard(asyncio.current_task())


@pytest_asyncio.fixture
async def tasks() -> AsyncIterator[Tasks]:
    errors: list[BaseException] = []
    tasks = Tasks(errors.append)
    yield tasks
    await tasks.close()
    assert errors == []


def pipeline_to(url: str, tasks: Tasks, *, ignores_health: bool = False) -> tuple[Pipeline, ShardHealth]:
    health = ShardHealth(Breaker(), invalidate_primary=lambda: None)
    health.lease_held()
    connection = RedisConnection(FixedPrimary(Server.from_url(url)), connect_timeout=TIMEOUT)
    return Pipeline(
        connection, health, tasks, PendingCalls(), timeout=TIMEOUT, ignores_health=ignores_health
    ), health


async def results(pipeline: Pipeline, count: int) -> list[object]:
    """Return the answers, or the types of the errors, of *count* calls that travel together."""
    calls = [pipeline.call(COMMAND, asyncio.get_running_loop().time() + TIMEOUT) for _ in range(count)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    return [type(answer) if isinstance(answer, BaseException) else answer for answer in answers]


REJECTIONS = (
    b"-LOADING Redis is loading",
    b"-READONLY You can't write",
    b"-MASTERDOWN Link",
    b"-CLUSTERDOWN x",
)


@pytest.mark.parametrize("rejection", REJECTIONS)
async def test_a_call_that_redis_says_it_has_not_carried_out_is_sent_again(
    rejection: bytes, tasks: Tasks
) -> None:
    async with ScriptedServer([rejection], [rejection], [rejection]) as server:
        pipeline, health = pipeline_to(server.url, tasks)
        assert await results(pipeline, 1) == [1]
        assert (server.received, server.connections, pipeline.resent, pipeline.failures) == (4, 4, 3, 0)
        assert health.renewal_due.is_set(), "the lease decides whether Redis is still there"
        await pipeline.close()


async def test_only_the_calls_that_were_rejected_are_sent_again(tasks: Tasks) -> None:
    async with ScriptedServer([b":7", REJECTIONS[1], REJECTIONS[1]]) as server:
        pipeline, _ = pipeline_to(server.url, tasks)
        assert await results(pipeline, 3) == [7, 1, 1]
        assert (server.received, pipeline.resent) == (5, 2)
        await pipeline.close()


async def test_a_call_that_may_have_been_carried_out_is_not_sent_again(tasks: Tasks) -> None:
    async with ScriptedServer([CLOSE]) as server:
        pipeline, _ = pipeline_to(server.url, tasks)
        assert await results(pipeline, 1) == [BrokerUnavailable]
        assert (server.received, pipeline.resent) == (1, 0)
        await pipeline.close()


async def test_answers_that_arrived_before_the_connection_failed_count(tasks: Tasks) -> None:
    async with ScriptedServer([b":7", b":8", CLOSE]) as server:
        pipeline, _ = pipeline_to(server.url, tasks)
        assert await results(pipeline, 4) == [7, 8, BrokerUnavailable, BrokerUnavailable]
        assert pipeline.resent == 0
        await pipeline.close()


async def test_calls_that_wait_behind_a_batch_that_fails_are_sent(tasks: Tasks) -> None:
    async with ScriptedServer([CLOSE]) as server:
        pipeline, _ = pipeline_to(server.url, tasks)
        first = pipeline.call(COMMAND)
        await server.first_command.wait()
        second = pipeline.call(COMMAND)
        with pytest.raises(BrokerUnavailable):
            await first
        assert await second == 1
        await pipeline.close()


async def test_nothing_is_sent_again_once_the_shard_counts_as_unavailable(tasks: Tasks) -> None:
    async with ScriptedServer(*[[REJECTIONS[0]]] * 100) as server:
        pipeline, health = pipeline_to(server.url, tasks)

        async def fail_renewal() -> None:
            await health.renewal_due.wait()
            health.renewal_failed(BrokerUnavailable("Redis is loading its data"))

        renewal = asyncio.ensure_future(fail_renewal())
        assert await results(pipeline, 2) == [BrokerUnavailable] * 2
        assert server.connections < 10
        await renewal
        await pipeline.close()


async def test_a_call_whose_deadline_passes_is_not_sent_again(tasks: Tasks) -> None:
    async with ScriptedServer(*[[REJECTIONS[0]]] * 1000) as server:
        pipeline, _ = pipeline_to(server.url, tasks)
        with pytest.raises(BrokerUnavailable, match="in time"):
            await pipeline.call(COMMAND, asyncio.get_running_loop().time() + 0.3)
        await pipeline.close()
        assert server.received < 1000


async def test_the_pipeline_that_renews_the_lease_does_not_repeat_calls_itself(tasks: Tasks) -> None:
    """Its failures are how a lost Redis is noticed."""
    async with ScriptedServer([REJECTIONS[0]]) as server:
        pipeline, _ = pipeline_to(server.url, tasks, ignores_health=True)
        assert await results(pipeline, 1) == [BrokerUnavailable]
        assert server.received == 1
        await pipeline.close()
