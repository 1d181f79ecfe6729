"""Positions across restarts of the process: a clean end repeats nothing, a killed process a second."""

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fanway_client import Fanway, FanwayError, FilePositions, LoadRequest
from fanway_client.positions import SAVE_SECONDS
from hypothesis import given
from hypothesis import strategies as st

from tests.clients.python.fake_gateway import FakeGateway
from tests.clients.python.scenario import FakeEnvironment, settle
from tests.clients.python.test_gateway import admin, client, fresh, public
from tests.clients.python.test_properties import GAP, LIVES, Step, steps
from tests.e2e.gateway import GatewayProcess


class MemoryPositions:
    """A store that outlives the client."""

    def __init__(self) -> None:
        self.positions: dict[str, str] = {}
        self.saves = 0
        self.fails = False

    def load(self) -> Mapping[str, str] | None:
        return self.positions or None

    def save(self, positions: Mapping[str, str]) -> None:
        if self.fails:
            raise OSError("disk full")
        self.saves += 1
        self.positions = dict(positions)


class Processes:
    """One process after the other, each with a client of its own and the same store."""

    def __init__(self, history: int = 100) -> None:
        self.environment = FakeEnvironment(0.5)
        self.gateway = FakeGateway(self.environment, {"news": history, "other": history, "@anna": history})
        self.store = MemoryPositions()
        self.errors: list[Exception] = []
        self.begin()

    def begin(self) -> None:
        self.fanway = Fanway("ws://gateway", transport=self.gateway, positions=self.store)
        self.fanway.start(self.environment, self.store.load())
        self.fanway.on("error", self.errors.append)

    def kill(self) -> None:
        """End the process as the kernel does."""
        self.gateway.kill()
        self.environment.timers.clear()
        for task in self.environment.tasks:
            task.cancel()
        self.begin()

    async def restart(self) -> None:
        await self.fanway.close()
        self.begin()

    def listen(self, told: list[Any], name: str = "news", **options: Any) -> None:
        channel = self.fanway.channel(name, **options)
        channel.on("gap", lambda _: told.append(GAP))
        channel.on("message", lambda message: told.append(message.data))

    def publish(self, *numbers: int, name: str = "news") -> None:
        for number in numbers:
            self.gateway.publish(name, number)


@pytest.fixture
def processes() -> Processes:
    return Processes()


async def test_a_restart_goes_on_where_it_was(processes: Processes) -> None:
    told: list[Any] = []
    processes.listen(told)
    await settle()
    processes.publish(1, 2)
    await settle()
    await processes.restart()
    processes.publish(3)
    processes.listen(told, rewind=10)
    await settle()
    assert told == [1, 2, 3]


async def test_a_restart_before_the_first_message(processes: Processes) -> None:
    told: list[Any] = []
    processes.listen(told)
    await settle()
    await processes.restart()
    processes.publish(1)
    processes.listen(told)
    await settle()
    assert told == [1]


async def test_changes_are_saved_together_after_a_second(processes: Processes) -> None:
    told: list[Any] = []
    processes.listen(told)
    processes.listen(told, "other")
    await settle()
    processes.publish(1, 2, 3)
    processes.publish(4, name="other")
    await settle()
    assert processes.store.saves == 0
    await processes.environment.advance(SAVE_SECONDS * 1000)
    assert processes.store.saves == 1
    assert sorted(processes.store.positions) == ["news", "other"]
    await processes.environment.advance(10_000)
    assert processes.store.saves == 1
    processes.publish(5)
    await settle()
    processes.kill()
    processes.listen(told)
    await settle()
    assert told == [1, 2, 3, 4, 5, 5]


async def test_a_history_that_no_longer_reaches_back_is_a_gap() -> None:
    processes = Processes(history=2)
    told: list[Any] = []
    processes.listen(told)
    await settle()
    processes.publish(1)
    await settle()
    await processes.restart()
    processes.publish(2, 3, 4, 5)
    processes.listen(told)
    await settle()
    processes.publish(6)
    await settle()
    assert told == [1, GAP, 6]


async def test_a_channel_that_was_released_goes_on_where_it_was_left(processes: Processes) -> None:
    told: list[Any] = []
    processes.listen(told)
    channel = processes.fanway.channel("other")
    channel.on("message", lambda message: told.append(message.data))
    await settle()
    processes.publish(1, name="other")
    await settle()
    channel.close()
    await settle()
    processes.publish(2, name="other")
    processes.listen(told, "other")
    await settle()
    assert told == [1, 2]


async def test_the_personal_channel_goes_on_although_the_server_subscribes_it(processes: Processes) -> None:
    told: list[Any] = []
    processes.gateway.server_subs = ["@anna"]
    processes.listen(told, "@anna")
    await settle()
    processes.publish(1, name="@anna")
    await settle()
    await processes.restart()
    processes.publish(2, name="@anna")
    processes.fanway.connect()
    await settle()
    processes.publish(3, name="@anna")
    await settle()
    await processes.environment.advance(5_000)  # nobody listens: nothing is handled
    processes.listen(told, "@anna")
    await settle()
    processes.publish(4, name="@anna")
    await settle()
    assert told == [1, 2, 3, 4]


async def test_a_state_that_is_loaded_needs_no_position(processes: Processes) -> None:
    async def load(_: LoadRequest) -> None:
        return None

    processes.listen([], load_state=load)
    await settle()
    processes.publish(1)
    await settle()
    await processes.fanway.close()
    assert processes.store.positions == {}


async def test_a_state_that_is_loaded_does_not_begin_at_a_position_that_was_saved(
    processes: Processes,
) -> None:
    async def load(_: LoadRequest) -> None:
        return None

    told: list[Any] = []
    processes.publish(1, 2)
    processes.store.positions = {"news": processes.gateway.logs["news"].ids[0]}
    processes.begin()
    processes.listen(told, load_state=load)
    await settle()
    processes.publish(3)
    await settle()
    assert told == [3]


async def test_a_store_that_fails_is_reported_and_tried_again(processes: Processes) -> None:
    processes.store.fails = True
    processes.listen([])
    await settle()
    processes.publish(1)
    await processes.environment.advance(2_000)
    assert [str(error) for error in processes.errors] == ["disk full"]
    processes.store.fails = False
    await processes.fanway.close()
    assert processes.store.positions == {"news": processes.gateway.logs["news"].position}


async def test_nothing_is_saved_that_is_saved_already(processes: Processes) -> None:
    channel = processes.fanway.channel("news")
    channel.on("message", lambda _: None)
    await settle()
    processes.publish(1)
    await processes.environment.advance(2_000)
    await processes.fanway.close()
    channel.close()
    assert processes.store.saves == 1
    assert not processes.environment.timers


# ---------------------------------------------------------------- loops


async def test_what_waits_when_the_client_is_closed_can_be_taken_and_comes_again(
    processes: Processes,
) -> None:
    messages = processes.fanway.channel("news").messages()
    await settle()
    processes.publish(1, 2)
    await settle()
    await processes.fanway.close()
    assert [(await anext(messages)).data for _ in range(2)] == [1, 2]
    with pytest.raises(FanwayError, match="stopped"):
        await anext(messages)
    assert not processes.environment.timers
    processes.begin()
    messages = processes.fanway.channel("news").messages()
    await settle()
    assert [(await anext(messages)).data for _ in range(2)] == [1, 2]


async def consume(processes: Processes, told: list[int], *, until: int) -> None:
    """Handle messages in a loop until number *until*, at which the handler fails."""
    async with processes.fanway.channel("news").messages() as messages:
        async for message in messages:
            if message.data == until:
                raise RuntimeError("the handler failed")
            told.append(message.data)


async def test_a_loop_has_handled_a_message_when_it_asks_for_the_next(processes: Processes) -> None:
    told: list[int] = []
    consuming = asyncio.create_task(consume(processes, told, until=3))
    await settle()
    processes.publish(1, 2, 3, 4, 5)
    with pytest.raises(RuntimeError):
        await consuming
    await processes.restart()
    consuming = asyncio.create_task(consume(processes, told, until=6))
    await settle()
    processes.publish(6)
    with pytest.raises(RuntimeError):
        await consuming
    assert told == [1, 2, 3, 4, 5]


async def test_a_loop_that_is_cancelled_while_it_handles_a_message(processes: Processes) -> None:
    told: list[int] = []
    hangs = True

    async def handle() -> None:
        async for message in processes.fanway.channel("news"):
            if hangs and message.data == 2:
                await asyncio.Event().wait()
            told.append(message.data)

    handling = asyncio.create_task(handle())
    await settle()
    processes.publish(1, 2, 3)
    await settle()
    await processes.environment.advance(2_000)
    handling.cancel()
    with suppress(asyncio.CancelledError):
        await handling
    await processes.restart()
    hangs = False
    handling = asyncio.create_task(handle())
    await settle()
    assert told == [1, 2, 3]
    await processes.fanway.close()
    with pytest.raises(FanwayError, match="stopped"):
        await handling


async def test_a_loop_that_leaves_after_a_message_has_handled_it(processes: Processes) -> None:
    async def first() -> int:
        async with processes.fanway.channel("news").messages() as messages:
            async for message in messages:
                return int(message.data)
        raise AssertionError

    taking = asyncio.create_task(first())
    await settle()
    processes.publish(1, 2, 3)
    assert await taking == 1
    await settle()
    await processes.restart()
    assert await first() == 2
    await processes.restart()
    assert await first() == 3


async def test_the_slowest_of_several_users_counts(processes: Processes) -> None:
    told: list[Any] = []
    channel = processes.fanway.channel("news")
    slow = channel.messages()
    processes.listen(told)
    await settle()
    processes.publish(1, 2, 3)
    await settle()
    assert (await anext(slow)).data == 1
    await processes.environment.advance(2_000)
    assert processes.store.positions["news"] == "0-a"
    assert (await anext(slow)).data == 2
    await processes.environment.advance(2_000)
    assert processes.store.positions["news"] == processes.gateway.logs["news"].ids[0]
    await slow.aclose()
    processes.publish(4)  # the other one goes on
    await processes.environment.advance(2_000)
    assert processes.store.positions["news"] == processes.gateway.logs["news"].position


# ---------------------------------------------------------------- random lives

LIFE = steps(
    publish=(6, None),
    advance=(3, st.sampled_from([100, 700, 1_500])),
    cut=(2, st.booleans()),
    stall=(1, None),
    flow=(1, None),
    take=(4, st.integers(1, 3)),
    restart=(2, None),
    kill=(1, None),
    forget=(1, None),
)


class Consumer(Processes):
    """Takes the messages of `news` with a loop, in one process after the other."""

    def __init__(self) -> None:
        super().__init__(history=12)
        self.told: list[Any] = []
        self.published = 0
        self.listen_again()

    def listen_again(self) -> None:
        channel = self.fanway.channel("news")
        channel.on("gap", lambda _: self.told.append(GAP))
        self.loop = channel.messages()

    def do_publish(self) -> None:
        self.published += 1
        self.publish(self.published)

    async def do_advance(self, ms: int) -> None:
        await self.environment.advance(ms)

    def do_cut(self, delivered: bool) -> None:
        self.gateway.end(1006, delivered=delivered)

    def do_stall(self) -> None:
        self.gateway.stalled = True

    def do_flow(self) -> None:
        self.gateway.stalled = False
        self.gateway.move_soon()

    async def do_take(self, count: int) -> None:
        """Take as many messages as are there, but *count* at most; the last one is not finished yet."""
        while count and self.loop._waiting:  # noqa: SLF001
            count -= 1
            self.told.append((await anext(self.loop)).data)

    def do_forget(self) -> None:
        self.gateway.end(4011, delivered=True)
        self.gateway.logs["news"].forget()

    async def do_restart(self) -> None:
        await self.loop.__aexit__(None, None, None)
        await self.restart()
        self.listen_again()

    def do_kill(self) -> None:
        self.kill()
        self.listen_again()

    async def live(self, life: list[Step]) -> None:
        for name, *arguments in life:
            done = getattr(self, f"do_{name}")(*arguments)
            if asyncio.iscoroutine(done):
                await done
            await settle()
        self.do_flow()
        await self.environment.advance(60_000)
        await self.do_take(1_000)
        await self.loop.aclose()
        await self.fanway.close()
        assert not self.environment.timers
        assert not self.environment.tasks


@LIVES
@given(st.lists(LIFE, max_size=40), st.booleans())
def test_nothing_is_lost_by_a_restart_and_nothing_repeated_by_a_clean_one(
    life: list[Step], kills: bool
) -> None:
    async def lived() -> Consumer:
        consumer = Consumer()
        await consumer.live([step for step in life if kills or step != ("kill",)])
        return consumer

    consumer = asyncio.run(lived())
    expected, items = None, consumer.told
    for item in items:
        if item == GAP:
            expected = None
            continue
        if expected is not None:
            assert item <= expected, ("lost", items)
            assert item == expected or kills, ("repeated", items)
        expected = item + 1
    assert expected in {None, consumer.published + 1}, ("the end is lost", items, consumer.published)


# ---------------------------------------------------------------- files


def test_a_file_that_is_not_there_has_no_positions(tmp_path: Path) -> None:
    assert FilePositions(tmp_path / "positions.json").load() is None


def test_a_file_has_what_was_saved_last_and_nothing_is_beside_it(tmp_path: Path) -> None:
    store = FilePositions(tmp_path / "positions.json")
    store.save({"a": "1-x"})
    store.save({"a": "2-y", "chat:é": "3-z"})
    assert FilePositions(str(tmp_path / "positions.json")).load() == {"a": "2-y", "chat:é": "3-z"}
    assert [path.name for path in tmp_path.iterdir()] == ["positions.json"]


def test_a_file_that_cannot_be_written_leaves_the_last_one(tmp_path: Path) -> None:
    store = FilePositions(tmp_path / "positions.json")
    store.save({"a": "1-x"})
    with pytest.raises(TypeError):
        store.save({"a": object()})  # type: ignore[dict-item]
    assert store.load() == {"a": "1-x"}
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', ""])
def test_a_file_with_something_else_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "positions.json").write_text(text)
    with pytest.raises(ValueError, match=r"positions\.json: expected a JSON object"):
        FilePositions(tmp_path / "positions.json").load()


async def test_a_store_with_something_else_than_positions_is_an_error() -> None:
    store = MemoryPositions()
    store.positions = {"news": "yesterday"}
    with pytest.raises(ValueError, match="'news' has 'yesterday'"):
        async with Fanway("ws://127.0.0.1:1", positions=store):
            pass


class SlowPositions:
    """A store that answers when the test says so."""

    def __init__(self) -> None:
        self.positions: dict[str, str] = {}
        self.saving: list[asyncio.Future[None]] = []

    async def load(self) -> Mapping[str, str] | None:
        await asyncio.sleep(0)
        return self.positions

    async def save(self, positions: Mapping[str, str]) -> None:
        self.saving.append(asyncio.get_running_loop().create_future())
        await self.saving[-1]
        self.positions = dict(positions)


async def test_a_store_that_is_awaited_saves_once_at_a_time_and_close_waits_for_it(
    processes: Processes,
) -> None:
    store = SlowPositions()
    fanway = Fanway(
        "ws://gateway", transport=processes.gateway, positions=store, environment=processes.environment
    )
    async with fanway:
        fanway.channel("news").on("message", lambda _: None)
        await settle()
        processes.publish(1)
        await processes.environment.advance(2_000)
        processes.publish(2)
        await processes.environment.advance(2_000)
        assert len(store.saving) == 1
        store.saving[0].set_result(None)
        await settle()
        assert store.positions == {"news": processes.gateway.logs["news"].ids[0]}
        assert len(store.saving) == 2
        closing = asyncio.create_task(fanway.close())
        await settle()
        assert not closing.done()
        store.saving[1].set_exception(OSError("disk full"))
        await closing
    assert [processes.gateway.logs["news"].ids[0]] == list(store.positions.values())


async def test_a_store_that_is_awaited_is_loaded_before_the_first_connection(processes: Processes) -> None:
    store, told = SlowPositions(), list[Any]()
    processes.publish(1, 2)
    store.positions = {"news": processes.gateway.logs["news"].ids[0]}
    fanway = Fanway(
        "ws://gateway", transport=processes.gateway, positions=store, environment=processes.environment
    )
    async with fanway:
        fanway.channel("news").on("message", lambda message: told.append(message.data))
        await settle()
        assert told == [2]
        closing = asyncio.create_task(fanway.close())
        await settle()
        store.saving[0].set_result(None)
        await closing
    assert store.positions == {"news": processes.gateway.logs["news"].position}


async def test_a_process_that_restarts_beside_a_real_gateway(gateway: GatewayProcess, tmp_path: Path) -> None:
    name, path, told = fresh(), tmp_path / "positions.json", []
    async with admin(gateway) as backend:
        for run in range(3):
            await backend.publish(name, f"before {run}")
            async with (
                client(public(gateway), positions=FilePositions(path)) as fanway,
                fanway.channel(name, rewind=1).messages() as messages,
            ):
                told.append((await anext(messages)).data)
                await backend.publish(name, f"during {run}")
                told.append((await anext(messages)).data)
    assert told == [f"{when} {run}" for run in range(3) for when in ("before", "during")]
    assert list(json.loads(path.read_text())) == [name]
