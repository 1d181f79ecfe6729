import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.tasks import Tasks


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


async def give(value: int) -> int:
    return value


async def fail() -> None:
    raise Failed


async def relay(source: Awaitable[Any]) -> Any:
    return await source


def future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


async def ended(task: object) -> Any:
    """Return the outcome of what `start` must have turned into a task."""
    assert isinstance(task, asyncio.Task)
    return (await asyncio.gather(task, return_exceptions=True))[0]


async def test_what_need_not_wait_is_a_plain_call() -> None:
    async with owner() as (tasks, _):
        assert tasks.start(give(7)) == 7
        assert tasks.start(relay(give(8))) == 8
        assert tasks.statistics() == {"running": 0}


async def test_what_fails_at_once_raises_at_once() -> None:
    async with owner() as (tasks, reports):
        with pytest.raises(Failed):
            tasks.start(fail())
        assert reports == []


async def test_what_waits_goes_on_in_a_task() -> None:
    async with owner() as (tasks, _):
        answer = future()
        task = tasks.start(relay(relay(answer)))
        assert tasks.statistics() == {"running": 1}
        assert repr(tasks) == "<Tasks 1 running>"
        answer.set_result(9)
        assert await ended(task) == 9


async def test_a_result_that_was_there_already_is_awaited_without_a_task() -> None:
    async with owner() as (tasks, _):
        answer = future()
        answer.set_result(9)
        assert tasks.start(relay(answer)) == 9


async def test_each_wait_gets_its_own_answer() -> None:
    async def sum_of(*sources: Awaitable[int]) -> int:
        total = 0
        for source in sources:
            total += await source
        return total

    async with owner() as (tasks, _):
        first, second, third = future(), future(), future()
        task = tasks.start(sum_of(first, give(10), second, third))
        third.set_result(3)
        first.set_result(1)
        await asyncio.sleep(0)
        second.set_result(2)
        assert await ended(task) == 16


async def test_a_turn_of_the_loop_may_be_waited_for() -> None:
    async def turns() -> str:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return "done"

    async with owner() as (tasks, _):
        assert await ended(tasks.start(turns())) == "done"


async def test_what_is_waited_for_fails_inside() -> None:
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
        assert await ended(task) == "recovered"
        assert reports == []


async def test_who_fails_after_waiting_is_reported_and_raises_for_who_awaits_it() -> None:
    async with owner() as (tasks, reports):
        answer = future()
        task = tasks.start(relay(answer))
        failure = Failed()
        answer.set_exception(failure)
        assert await ended(task) is failure
        assert reports == [failure]


async def test_a_task_knows_itself_only_once_it_has_waited() -> None:
    seen: list[asyncio.Task[Any] | None] = []

    async def look(source: Awaitable[Any]) -> None:
        seen.append(asyncio.current_task())
        await source
        seen.append(asyncio.current_task())

    async with owner() as (tasks, _):
        answer = future()
        task = tasks.start(look(answer))
        answer.set_result(None)
        await ended(task)
        assert seen == [asyncio.current_task(), task]


class Patient:
    """A coroutine that waits for what it is given, and notes how that ended."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    async def wait(self, source: Awaitable[Any]) -> None:
        try:
            await source
            self.notes.append("waited")
        except asyncio.CancelledError:
            self.notes.append("cancelled")
            raise
        finally:
            await asyncio.sleep(0)
            self.notes.append("cleaned up")


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_a_cancellation_reaches_the_coroutine_however_early(turns: int) -> None:
    async with owner() as (tasks, reports):
        patient, answer = Patient(), future()
        task = tasks.start(patient.wait(answer))
        assert isinstance(task, asyncio.Task)
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        assert isinstance(await ended(task), asyncio.CancelledError)
        assert patient.notes == ["cancelled", "cleaned up"]
        assert answer.cancelled()
        assert reports == []


@pytest.mark.parametrize("turns", [0, 1])
async def test_what_was_answered_before_the_cancellation_is_not_undone(turns: int) -> None:
    async with owner() as (tasks, _):
        patient, answer = Patient(), future()
        task = tasks.start(patient.wait(answer))
        assert isinstance(task, asyncio.Task)
        for _ in range(turns):
            await asyncio.sleep(0)
        answer.set_result(1)
        task.cancel()
        assert isinstance(await ended(task), asyncio.CancelledError)
        assert patient.notes == ["cancelled", "cleaned up"]
        assert answer.result() == 1


async def test_a_cancellation_in_a_bare_turn_reaches_the_coroutine() -> None:
    async with owner() as (tasks, _):
        patient = Patient()
        task = tasks.start(patient.wait(asyncio.sleep(0)))
        assert isinstance(task, asyncio.Task)
        task.cancel()
        assert isinstance(await ended(task), asyncio.CancelledError)
        assert patient.notes == ["cancelled", "cleaned up"]


async def test_cancelled_is_also_the_task_that_is_waited_for() -> None:
    async with owner() as (tasks, _):
        inner = tasks.start(relay(future()))
        assert isinstance(inner, asyncio.Task)
        outer = tasks.start(relay(inner))
        assert isinstance(outer, asyncio.Task)
        outer.cancel()
        await ended(outer)
        assert inner.cancelled()


async def test_close_ends_everything_and_waits_for_it() -> None:
    async with owner() as (tasks, _):
        patients = [Patient() for _ in range(5)]
        for patient in patients:
            tasks.start(patient.wait(future()))
        tasks.adopt(patients[0].wait(future()))
        await tasks.close()
        assert tasks.statistics() == {"running": 0}
        assert patients[0].notes == ["cancelled", "cleaned up"]  # the one adopted had not begun
        assert all(patient.notes == ["cancelled", "cleaned up"] for patient in patients[1:])


async def test_close_ends_what_the_end_of_another_starts() -> None:
    async with owner() as (tasks, _):
        last, first = Patient(), tasks.start(relay(future()))
        assert isinstance(first, asyncio.Task)
        first.add_done_callback(lambda _: tasks.start(last.wait(future())))
        await tasks.close()
        assert last.notes == ["cancelled", "cleaned up"]


async def test_what_is_left_of_a_coroutine_is_for_a_task_alone() -> None:
    async with owner() as (tasks, _):
        coroutine = relay(future())
        task = tasks.start(coroutine)
        assert isinstance(task, asyncio.Task)
        rest = task.get_coro()
        assert isinstance(rest, Coroutine)
        with pytest.raises(NotImplementedError):
            await rest
        rest.close()
        with pytest.raises(RuntimeError, match="cannot reuse"):
            coroutine.send(None)


async def twice(first: Awaitable[int], second: Awaitable[int]) -> int:
    return await first + await second


async def step(value: int) -> int:
    await asyncio.sleep(0)
    return value


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_all_return_their_results_in_order_whoever_waits() -> None:
    async with owner() as (tasks, _):
        one, two, three, four = future(), future(), future(), future()
        crowd = [give(0), relay(one), twice(two, three), step(3), relay(four), give(5)]
        everything = asyncio.create_task(tasks.all(crowd, turn=2))
        await turns(8)
        assert tasks.statistics() == {"running": 0}  # what waits takes no task
        for number, each in enumerate((three, two, one, four), start=10):
            each.set_result(number)
        assert await everything == [0, 12, 21, 3, 13, 5]


async def test_all_are_started_in_order_and_others_get_their_turn() -> None:
    async with owner() as (tasks, _):
        notes: list[str] = []

        async def note(text: str) -> None:
            notes.append(text)

        asyncio.get_running_loop().call_soon(notes.append, "other")
        assert await tasks.all((note(str(number)) for number in range(3)), turn=2) == [None] * 3
        assert notes == ["0", "1", "other", "2"]


async def test_one_of_all_that_fails_ends_no_other() -> None:
    async with owner() as (tasks, _):
        broken, source, last = future(), future(), Patient()
        everything = asyncio.create_task(tasks.all([relay(broken), last.wait(source)], turn=9))
        await asyncio.sleep(0)
        broken.set_exception(Failed())
        with pytest.raises(Failed):
            await everything
        assert tasks.statistics() == {"running": 1}
        source.set_result(None)
        await turns(8)
        assert last.notes == ["waited", "cleaned up"]


async def test_all_go_on_where_the_caller_is_cancelled() -> None:
    async with owner() as (tasks, _):
        patients, sources = [Patient(), Patient()], [future(), future()]
        waits = [patient.wait(source) for patient, source in zip(patients, sources, strict=True)]
        everything = asyncio.create_task(tasks.all(waits, turn=9))
        await asyncio.sleep(0)
        everything.cancel()
        with pytest.raises(asyncio.CancelledError):
            await everything
        assert tasks.statistics() == {"running": 2}
        for source in sources:
            source.set_result(None)
        await turns(8)
        assert [patient.notes for patient in patients] == [["waited", "cleaned up"]] * 2


async def test_together_nobody_waits_for_another() -> None:
    async with owner() as (tasks, reports):
        sources = [future() for _ in range(4)]
        last = Patient()
        crowd = [relay(sources[0]), twice(sources[1], sources[2]), last.wait(sources[3])]
        everything = asyncio.create_task(tasks.together([nothing(each) for each in crowd]))
        await turns(2)
        assert tasks.statistics() == {"running": 3}
        for source in reversed(sources):
            assert not everything.done()
            source.set_result(1)
            await turns(4)
        assert last.notes == ["waited", "cleaned up"]
        await everything
        assert reports == []


async def test_together_what_need_not_wait_takes_no_task() -> None:
    async with owner() as (tasks, _):
        assert tasks.start(tasks.together(nothing(give(number)) for number in range(3))) is None
        assert tasks.start(tasks.together([])) is None


@pytest.mark.parametrize("at_once", [False, True])
async def test_together_one_that_fails_ends_no_other(at_once: bool) -> None:
    async with owner() as (tasks, reports):
        broken, source, last = future(), future(), Patient()
        if at_once:
            broken.set_exception(Failed())
        everything = asyncio.create_task(tasks.together([nothing(relay(broken)), last.wait(source)]))
        await turns(3)
        if not at_once:
            broken.set_exception(Failed())
        await turns(3)
        assert not everything.done()
        source.set_result(None)
        with pytest.raises(Failed):
            await everything
        assert last.notes == ["waited", "cleaned up"]
        assert len(reports) == (0 if at_once else 1)


@pytest.mark.parametrize("early", [0, 1, 3])
async def test_together_all_are_cancelled_with_the_caller_and_have_ended_before_it(early: int) -> None:
    async with owner() as (tasks, reports):
        patients = [Patient() for _ in range(3)]
        everything = tasks.start(tasks.together([patient.wait(future()) for patient in patients]))
        assert isinstance(everything, asyncio.Task)
        await turns(early)
        everything.cancel()
        assert isinstance(await ended(everything), asyncio.CancelledError)
        assert tasks.statistics() == {"running": 0}
        assert [patient.notes for patient in patients] == [["cancelled", "cleaned up"]] * 3
        assert reports == []


async def test_together_one_that_is_cancelled_alone_is_told_of_once_the_others_have_ended() -> None:
    async with owner() as (tasks, _):
        gone, source, last = future(), future(), Patient()
        gone.cancel()
        everything = asyncio.create_task(tasks.together([nothing(relay(gone)), last.wait(source)]))
        await turns(3)
        assert not everything.done()
        source.set_result(None)
        assert isinstance(await ended(everything), asyncio.CancelledError)
        assert last.notes == ["waited", "cleaned up"]


async def nothing(work: Awaitable[object]) -> None:
    await work
