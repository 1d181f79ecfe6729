"""A lease that is over before the answer which grants it is read: nobody speaks in its name."""

import asyncio

from gateway.broker.redis.breaker import Breaker
from gateway.broker.redis.contact import Contact
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.lease import Lease
from gateway.broker.redis.options import RedisOptions
from gateway.clock import FakeClock

GRANTED = [1, 1, b"0.a", 1_000, b"", 0, 0]
"""What Redis says of a lease that it has given."""


class Asked:
    """Stands for the line: Redis answers when the test says so."""

    def __init__(self) -> None:
        self.calls: asyncio.Queue[asyncio.Future[list[object]]] = asyncio.Queue()

    def call(self, *_: object) -> asyncio.Future[list[object]]:
        answer = asyncio.get_running_loop().create_future()
        self.calls.put_nowait(answer)
        return answer


async def test_an_answer_that_comes_when_the_lease_is_over_establishes_nothing() -> None:
    clock, line = FakeClock(), Asked()
    contact = Contact(Breaker(), lambda: None)
    lease = Lease(
        line,  # type: ignore[arg-type]
        Keys("fanway", 0),
        contact,
        RedisOptions(lease=3.0),
        name="n",
        layout="",
        record=lambda: b"",
        begun=lambda *_: None,
        renewed=lambda: None,
        report=lambda _: None,
        clock=clock,
    )
    async with asyncio.TaskGroup() as tasks:
        running, waiting = tasks.create_task(lease.run()), tasks.create_task(lease.established())
        answer = await line.calls.get()
        clock.advance(9.0)  # the process slept between the question and the answer
        answer.set_result(GRANTED)
        contact.bell.set()
        again = await line.calls.get()
        held = [lease.held, waiting.done()]
        again.set_result(GRANTED)
        await waiting
        assert [*held, lease.held] == [False, False, True]
        running.cancel()
