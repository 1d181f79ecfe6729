"""A history keeps the order in which threads and tasks saw things, and comes back whole from a dump."""

import asyncio
import itertools
from pathlib import Path
from random import Random
from threading import Barrier, Thread

from tests.chaos.checker import check
from tests.chaos.history import Attempted, Delivered, Heard, History, read
from tests.chaos.model import Model


def test_a_dump_is_read_as_it_was_recorded(tmp_path: Path) -> None:
    history = History()
    events = Model(Random(7), clients=3, channels=2, keeps=5).run(400)
    for event in events:
        history.record(event)
    history.dump(tmp_path / "history.jsonl")
    assert len({type(event) for event in events}) == 8, "not every kind of event was written"
    assert read(tmp_path / "history.jsonl") == history.events() == events


def test_a_dump_is_judged_as_the_history_itself(tmp_path: Path) -> None:
    history = History()
    history.record(Delivered("client", "channel", Heard("1-a", "ghost")))
    history.dump(tmp_path / "history.jsonl")
    assert check(read(tmp_path / "history.jsonl")) == check(history.events())


def test_every_thread_finds_its_own_events_in_its_own_order() -> None:
    history, together, each = History(), Barrier(4), 500

    def write(writer: int) -> None:
        together.wait()
        for number in range(each):
            history.record(Attempted(f"{writer}-{number}", "channel"))

    threads = [Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = [event.publish for event in history.events() if isinstance(event, Attempted)]
    assert len(names) == 4 * each
    for writer in range(4):
        own = [name for name in names if name.startswith(f"{writer}-")]
        assert own == [f"{writer}-{number}" for number in range(each)]


async def test_tasks_record_in_the_order_in_which_they_run() -> None:
    history, order = History(), itertools.count()

    async def write(writer: int) -> None:
        for _ in range(20):
            history.record(Attempted(f"{next(order)} by {writer}", "channel"))
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        for writer in range(5):
            tasks.create_task(write(writer))
    names = [event.publish for event in history.events() if isinstance(event, Attempted)]
    assert [int(name.split()[0]) for name in names] == list(range(100))
