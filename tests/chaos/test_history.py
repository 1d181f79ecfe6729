"""A history keeps the order in which threads and tasks record, and a dump of it is read as it was written."""

import asyncio
import itertools
from pathlib import Path
from random import Random
from threading import Barrier, Thread

from tests.chaos.checker import check
from tests.chaos.history import Delivered, History, PublishAttempted, ReceivedMessage, read_dump
from tests.chaos.history_generator import HistoryGenerator


def test_dump_is_read_as_recorded(tmp_path: Path) -> None:
    history = History()
    events = HistoryGenerator(Random(7), clients=3, channels=2, history_size=5).run(400)
    for event in events:
        history.record(event)
    history.dump(tmp_path / "history.jsonl")
    assert len({type(event) for event in events}) == 8, "the history lacks a type of event"
    assert read_dump(tmp_path / "history.jsonl") == history.events() == events


def test_dump_gets_the_same_verdict_as_its_history(tmp_path: Path) -> None:
    history = History()
    history.record(Delivered("client", "channel", ReceivedMessage("1-a", "ghost")))
    history.dump(tmp_path / "history.jsonl")
    assert check(read_dump(tmp_path / "history.jsonl")) == check(history.events())


def test_events_of_each_thread_keep_their_order() -> None:
    history, barrier, each = History(), Barrier(4), 500

    def write(writer: int) -> None:
        barrier.wait()
        for number in range(each):
            history.record(PublishAttempted(f"{writer}-{number}", "channel"))

    threads = [Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = [event.publish for event in history.events() if isinstance(event, PublishAttempted)]
    assert len(names) == 4 * each
    for writer in range(4):
        own = [name for name in names if name.startswith(f"{writer}-")]
        assert own == [f"{writer}-{number}" for number in range(each)]


async def test_tasks_record_in_the_order_in_which_they_run() -> None:
    history, order = History(), itertools.count()

    async def write(writer: int) -> None:
        for _ in range(20):
            history.record(PublishAttempted(f"{next(order)} by {writer}", "channel"))
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        for writer in range(5):
            tasks.create_task(write(writer))
    names = [event.publish for event in history.events() if isinstance(event, PublishAttempted)]
    assert [int(name.split()[0]) for name in names] == list(range(100))
