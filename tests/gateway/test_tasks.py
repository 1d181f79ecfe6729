"""Tasks, and coroutines that are started by a call."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.tasks import Slicer, Tasks
from tests.gateway.turns import WorkPerTurn, work_per_turn


class Failed(Exception):
    pass


class Reports(list[BaseException]):
    def __call__(self, error: BaseException) -> None:
        self.append(error)


@asynccontextmanager
async def owner() -> AsyncIterator[tuple[Tasks, Reports]]:
    reports = Reports()
    tasks = Tasks(reports)
    yield tasks, reports
    await tasks.close()
    assert tasks.statistics() == {"running": 0}


async def returning(value: int) -> int:
    return value


async def fail() -> None:
    raise Failed


async def waiting_for(source: Awaitable[Any]) -> Any:
    return await source


def future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


async def outcome_of(task: object) -> Any:
    """Return the result or the exception of *task*, which must be a task."""
    assert isinstance(task, asyncio.Task)
    return (await asyncio.gather(task, return_exceptions=True))[0]


async def test_start_returns_the_result_of_a_coroutine_that_does_not_wait() -> None:
    async with owner() as (tasks, _):
        assert tasks.start(returning(7)) == 7
        assert tasks.start(waiting_for(returning(8))) == 8
        assert tasks.statistics() == {"running": 0}


async def test_start_raises_an_exception_from_before_the_first_wait() -> None:
    async with owner() as (tasks, reports):
        with pytest.raises(Failed):
            tasks.start(fail())
        assert reports == []


async def test_start_returns_a_task_for_a_coroutine_that_waits() -> None:
    async with owner() as (tasks, _):
        answer = future()
        task = tasks.start(waiting_for(waiting_for(answer)))
        assert tasks.statistics() == {"running": 1}
        assert repr(tasks) == "<Tasks 1 running>"
        answer.set_result(9)
        assert await outcome_of(task) == 9


async def test_awaiting_a_future_that_is_done_takes_no_task() -> None:
    async with owner() as (tasks, _):
        answer = future()
        answer.set_result(9)
        assert tasks.start(waiting_for(answer)) == 9


async def test_each_wait_of_a_coroutine_gets_the_result_of_its_own_future() -> None:
    async def sum_of(*sources: Awaitable[int]) -> int:
        total = 0
        for source in sources:
            total += await source
        return total

    async with owner() as (tasks, _):
        first, second, third = future(), future(), future()
        task = tasks.start(sum_of(first, returning(10), second, third))
        third.set_result(3)
        first.set_result(1)
        await asyncio.sleep(0)
        second.set_result(2)
        assert await outcome_of(task) == 16


async def test_a_coroutine_may_wait_for_the_next_turn_of_the_loop() -> None:
    async def two_turns() -> str:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return "done"

    async with owner() as (tasks, _):
        assert await outcome_of(tasks.start(two_turns())) == "done"


async def test_an_exception_of_a_future_is_raised_inside_the_coroutine() -> None:
    async def recover(source: Awaitable[Any]) -> str:
        try:
            await source
        except Failed:
            return "recovered"
        return "never failed"

    async with owner() as (tasks, reports):
        answer = future()
        task = tasks.start(recover(answer))
        answer.set_exception(Failed())
        assert await outcome_of(task) == "recovered"
        assert reports == []


async def test_an_exception_after_a_wait_is_reported_and_raised_where_the_task_is_awaited() -> None:
    async with owner() as (tasks, reports):
        answer = future()
        task = tasks.start(waiting_for(answer))
        failure = Failed()
        answer.set_exception(failure)
        assert await outcome_of(task) is failure
        assert reports == [failure]


async def test_current_task_is_the_task_only_after_the_first_wait() -> None:
    seen: list[asyncio.Task[Any] | None] = []

    async def record_current_task(source: Awaitable[Any]) -> None:
        seen.append(asyncio.current_task())
        await source
        seen.append(asyncio.current_task())

    async with owner() as (tasks, _):
        answer = future()
        task = tasks.start(record_current_task(answer))
        answer.set_result(None)
        await outcome_of(task)
        assert seen == [asyncio.current_task(), task]


class CancellationRecorder:
    """A coroutine that waits for an awaitable, and records how that ended."""

    def __init__(self) -> None:
        self.events: list[str] = []

    async def wait(self, source: Awaitable[Any]) -> None:
        try:
            await source
            self.events.append("waited")
        except asyncio.CancelledError:
            self.events.append("cancelled")
            raise
        finally:
            await asyncio.sleep(0)
            self.events.append("cleaned up")


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_a_cancellation_reaches_the_coroutine_in_any_turn(turns: int) -> None:
    async with owner() as (tasks, reports):
        recorder, answer = CancellationRecorder(), future()
        task = tasks.start(recorder.wait(answer))
        assert isinstance(task, asyncio.Task)
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        assert isinstance(await outcome_of(task), asyncio.CancelledError)
        assert recorder.events == ["cancelled", "cleaned up"]
        assert answer.cancelled()
        assert reports == []


@pytest.mark.parametrize("turns", [0, 1])
async def test_a_cancellation_keeps_the_result_of_a_future_that_is_done(turns: int) -> None:
    async with owner() as (tasks, _):
        recorder, answer = CancellationRecorder(), future()
        task = tasks.start(recorder.wait(answer))
        assert isinstance(task, asyncio.Task)
        for _ in range(turns):
            await asyncio.sleep(0)
        answer.set_result(1)
        task.cancel()
        assert isinstance(await outcome_of(task), asyncio.CancelledError)
        assert recorder.events == ["cancelled", "cleaned up"]
        assert answer.result() == 1


async def test_a_cancellation_reaches_a_coroutine_that_waits_for_the_next_turn() -> None:
    async with owner() as (tasks, _):
        recorder = CancellationRecorder()
        task = tasks.start(recorder.wait(asyncio.sleep(0)))
        assert isinstance(task, asyncio.Task)
        task.cancel()
        assert isinstance(await outcome_of(task), asyncio.CancelledError)
        assert recorder.events == ["cancelled", "cleaned up"]


async def test_a_cancellation_also_cancels_the_task_that_is_awaited() -> None:
    async with owner() as (tasks, _):
        inner = tasks.start(waiting_for(future()))
        assert isinstance(inner, asyncio.Task)
        outer = tasks.start(waiting_for(inner))
        assert isinstance(outer, asyncio.Task)
        outer.cancel()
        await outcome_of(outer)
        assert inner.cancelled()


async def test_close_cancels_every_task_and_waits_until_it_has_ended() -> None:
    async with owner() as (tasks, _):
        recorders = [CancellationRecorder() for _ in range(5)]
        for recorder in recorders:
            tasks.start(recorder.wait(future()))
        tasks.spawn(recorders[0].wait(future()))
        await tasks.close()
        assert tasks.statistics() == {"running": 0}
        assert recorders[0].events == ["cancelled", "cleaned up"]  # the spawned one had not started
        assert all(recorder.events == ["cancelled", "cleaned up"] for recorder in recorders[1:])


async def test_close_cancels_a_task_that_another_one_starts_while_ending() -> None:
    async with owner() as (tasks, _):
        last, first = CancellationRecorder(), tasks.start(waiting_for(future()))
        assert isinstance(first, asyncio.Task)
        first.add_done_callback(lambda _: tasks.start(last.wait(future())))
        await tasks.close()
        assert last.events == ["cancelled", "cleaned up"]


async def test_a_started_coroutine_cannot_be_awaited_but_can_be_closed() -> None:
    async with owner() as (tasks, _):
        coroutine = waiting_for(future())
        task = tasks.start(coroutine)
        assert isinstance(task, asyncio.Task)
        started = task.get_coro()
        assert isinstance(started, Coroutine)
        with pytest.raises(NotImplementedError):
            await started
        started.close()
        with pytest.raises(RuntimeError, match="cannot reuse"):
            coroutine.send(None)


async def sum_of_two(first: Awaitable[int], second: Awaitable[int]) -> int:
    return await first + await second


async def returning_later(value: int) -> int:
    await asyncio.sleep(0)
    return value


async def run_loop(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_gather_in_order_returns_results_in_order_whichever_coroutines_wait() -> None:
    async with owner() as (tasks, _):
        one, two, three, four = future(), future(), future(), future()
        coroutines = [
            returning(0),
            waiting_for(one),
            sum_of_two(two, three),
            returning_later(3),
            waiting_for(four),
            returning(5),
        ]
        all_of_them = asyncio.create_task(tasks.gather_in_order(coroutines, yield_every=2))
        await run_loop(8)
        assert tasks.statistics() == {"running": 0}  # a coroutine that waits once takes no task
        for number, each in enumerate((three, two, one, four), start=10):
            each.set_result(number)
        assert await all_of_them == [0, 12, 21, 3, 13, 5]


async def test_gather_in_order_starts_in_order_and_yields_to_the_loop() -> None:
    async with owner() as (tasks, _):
        events: list[str] = []

        async def note(text: str) -> None:
            events.append(text)

        asyncio.get_running_loop().call_soon(events.append, "another callback")
        assert (
            await tasks.gather_in_order((note(str(number)) for number in range(3)), yield_every=2)
            == [None] * 3
        )
        assert events == ["0", "1", "another callback", "2"]


async def test_gather_in_order_raises_a_failure_and_lets_the_others_continue() -> None:
    async with owner() as (tasks, _):
        broken, source, last = future(), future(), CancellationRecorder()
        all_of_them = asyncio.create_task(
            tasks.gather_in_order([waiting_for(broken), last.wait(source)], yield_every=9)
        )
        await asyncio.sleep(0)
        broken.set_exception(Failed())
        with pytest.raises(Failed):
            await all_of_them
        assert tasks.statistics() == {"running": 1}
        source.set_result(None)
        await run_loop(8)
        assert last.events == ["waited", "cleaned up"]


async def test_gather_in_order_lets_all_continue_when_the_caller_is_cancelled() -> None:
    async with owner() as (tasks, _):
        recorders, sources = [CancellationRecorder(), CancellationRecorder()], [future(), future()]
        waits = [recorder.wait(source) for recorder, source in zip(recorders, sources, strict=True)]
        all_of_them = asyncio.create_task(tasks.gather_in_order(waits, yield_every=9))
        await asyncio.sleep(0)
        all_of_them.cancel()
        with pytest.raises(asyncio.CancelledError):
            await all_of_them
        assert tasks.statistics() == {"running": 2}
        for source in sources:
            source.set_result(None)
        await run_loop(8)
        assert [recorder.events for recorder in recorders] == [["waited", "cleaned up"]] * 2


async def test_run_all_runs_coroutines_independently_of_each_other() -> None:
    async with owner() as (tasks, reports):
        sources = [future() for _ in range(4)]
        last = CancellationRecorder()
        coroutines = [waiting_for(sources[0]), sum_of_two(sources[1], sources[2]), last.wait(sources[3])]
        all_of_them = asyncio.create_task(tasks.run_all([discarding(each) for each in coroutines]))
        await run_loop(2)
        assert tasks.statistics() == {"running": 3}
        for source in reversed(sources):
            assert not all_of_them.done()
            source.set_result(1)
            await run_loop(4)
        assert last.events == ["waited", "cleaned up"]
        await all_of_them
        assert reports == []


async def test_run_all_takes_no_task_for_coroutines_that_do_not_wait() -> None:
    async with owner() as (tasks, _):
        assert tasks.start(tasks.run_all(discarding(returning(number)) for number in range(3))) is None
        assert tasks.start(tasks.run_all([])) is None


@pytest.mark.parametrize("before_the_first_wait", [False, True])
async def test_run_all_lets_the_others_end_before_it_raises_a_failure(before_the_first_wait: bool) -> None:
    async with owner() as (tasks, reports):
        broken, source, last = future(), future(), CancellationRecorder()
        if before_the_first_wait:
            broken.set_exception(Failed())
        all_of_them = asyncio.create_task(tasks.run_all([discarding(waiting_for(broken)), last.wait(source)]))
        await run_loop(3)
        if not before_the_first_wait:
            broken.set_exception(Failed())
        await run_loop(3)
        assert not all_of_them.done()
        source.set_result(None)
        with pytest.raises(Failed):
            await all_of_them
        assert last.events == ["waited", "cleaned up"]
        assert len(reports) == (0 if before_the_first_wait else 1)


@pytest.mark.parametrize("turns", [0, 1, 3])
async def test_run_all_cancels_all_with_the_caller_and_waits_until_they_have_ended(turns: int) -> None:
    async with owner() as (tasks, reports):
        recorders = [CancellationRecorder() for _ in range(3)]
        all_of_them = tasks.start(tasks.run_all([recorder.wait(future()) for recorder in recorders]))
        assert isinstance(all_of_them, asyncio.Task)
        await run_loop(turns)
        all_of_them.cancel()
        assert isinstance(await outcome_of(all_of_them), asyncio.CancelledError)
        assert tasks.statistics() == {"running": 0}
        assert [recorder.events for recorder in recorders] == [["cancelled", "cleaned up"]] * 3
        assert reports == []


async def test_run_all_raises_the_cancellation_of_one_after_the_others_have_ended() -> None:
    async with owner() as (tasks, _):
        gone, source, last = future(), future(), CancellationRecorder()
        gone.cancel()
        all_of_them = asyncio.create_task(tasks.run_all([discarding(waiting_for(gone)), last.wait(source)]))
        await run_loop(3)
        assert not all_of_them.done()
        source.set_result(None)
        assert isinstance(await outcome_of(all_of_them), asyncio.CancelledError)
        assert last.events == ["waited", "cleaned up"]


async def discarding(work: Awaitable[object]) -> None:
    await work


# ---------------------------------------------------------------- slices


async def test_short_work_does_not_wait() -> None:
    slicer = Slicer(100)
    for _ in range(100):
        with pytest.raises(StopIteration):
            slicer.turn(1).send(None)


async def test_all_long_work_together_gets_one_slice_in_each_turn() -> None:
    slicer = Slicer(100)
    order: list[tuple[int, int]] = []

    async def work(name: int, count: WorkPerTurn) -> None:
        for part in range(20):
            await slicer.turn(10)
            count.add(10)
            order.append((part, name))

    async with work_per_turn() as count, asyncio.TaskGroup() as group:
        for name in range(50):
            group.create_task(work(name, count))
    assert count.total == 50 * 20 * 10
    assert count.most <= 2 * 100  # a slice, and what passes without waiting
    # They take turns. The first one found the whole slice free.
    last = [order.index((19, name)) for name in range(1, 50)]
    assert max(last) - min(last) < 50


async def test_work_that_is_cancelled_while_it_waits_holds_up_nothing() -> None:
    slicer = Slicer(10)
    await slicer.turn(10)
    waiting = [asyncio.create_task(slicer.turn(10)) for _ in range(5)]
    await asyncio.sleep(0)
    assert slicer.statistics() == {"waiting": 5}
    for task in waiting[:4]:
        task.cancel()
    async with asyncio.timeout(5):
        await waiting[4]
    assert slicer.statistics() == {"waiting": 0}


async def test_a_part_larger_than_a_slice_runs_alone() -> None:
    slicer = Slicer(10)
    async with work_per_turn() as count, asyncio.TaskGroup() as group:

        async def work() -> None:
            await slicer.turn(100)
            count.add()

        for _ in range(10):
            group.create_task(work())
    assert (count.total, count.most) == (10, 1)
