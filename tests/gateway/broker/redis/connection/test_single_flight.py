"""Reads of the same key share one call, if it has not been sent yet."""

import asyncio
from typing import Any

import pytest

from gateway.broker.redis.connection.single_flight import SingleFlight
from gateway.errors import BrokerUnavailable

TIMEOUT = 0.05


class ManualPipeline:
    """A pipeline whose calls the test sends and answers."""

    def __init__(self) -> None:
        self.calls: list[asyncio.Future[Any]] = []
        self.sent: set[asyncio.Future[Any]] = set()

    def call(self, _: object, *, weight: int = 0) -> asyncio.Future[Any]:
        self.calls.append(asyncio.get_running_loop().create_future())
        return self.calls[-1]

    def is_sent(self, answer: asyncio.Future[Any]) -> bool:
        return answer.done() or answer in self.sent


def reads_over(pipeline: Any, timeout: float = 60.0) -> SingleFlight[str, str]:
    return SingleFlight(
        pipeline,
        command=lambda key: ("GET", key),
        parse=lambda key, answer: f"{key} {answer}",
        timeout=timeout,
    )


async def test_reads_of_one_key_share_a_call_until_it_is_sent() -> None:
    pipeline = ManualPipeline()
    reads = reads_over(pipeline)
    first, second, other = (asyncio.ensure_future(reads.get(key)) for key in ("a", "a", "b"))
    await asyncio.sleep(0)
    assert len(pipeline.calls) == 2
    pipeline.sent.add(pipeline.calls[0])
    later = asyncio.ensure_future(reads.get("a"))
    await asyncio.sleep(0)
    assert len(pipeline.calls) == 3, "the answer to the sent call may be older than the request"
    for number, call in enumerate(pipeline.calls):
        call.set_result(number)
    assert [*await asyncio.gather(first, second, other, later)] == ["a 0", "a 0", "b 1", "a 2"]
    assert (reads.reads, reads.shared) == (3, 1)


async def test_an_error_reaches_every_caller() -> None:
    pipeline = ManualPipeline()
    reads = reads_over(pipeline)
    callers = [asyncio.ensure_future(reads.get("a")) for _ in range(2)]
    await asyncio.sleep(0)
    pipeline.calls[0].set_exception(BrokerUnavailable("lost"))
    errors = await asyncio.gather(*callers, return_exceptions=True)
    assert [str(error) for error in errors] == ["lost", "lost"]


async def test_a_call_that_nobody_waits_for_any_more_is_cancelled() -> None:
    pipeline = ManualPipeline()
    reads = reads_over(pipeline, timeout=TIMEOUT)
    with pytest.raises(BrokerUnavailable, match="in time"):
        await reads.get("a")
    assert pipeline.calls[0].cancelled()
