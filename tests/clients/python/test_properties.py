"""Random lives of a client: nothing is lost silently, nothing comes twice, nothing is left after `close`.

The lives are the same in every run. `mutations.py` beside this file shows that these tests and the scenarios
notice a change of any single rule.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from fanway_client import Channel, ChannelState, Fanway, FanwayError, LoadRequest, Message, StateChange
from fanway_client._protocol.client import TRANSITIONS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.clients.python.fake_gateway import HISTORY, FakeGateway
from tests.clients.python.scenario import FakeEnvironment, settle

LIVES = settings(
    max_examples=250,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
CHANNELS = {"news": HISTORY, "doc": HISTORY, "chat": 0}
GAP = "gap"

Step = tuple[Any, ...]


def steps(**weighted: tuple[int, st.SearchStrategy[Any] | None]) -> st.SearchStrategy[Step]:
    """Return steps by name: how often each is drawn, and what its arguments are."""
    each = [
        st.just((name,)) if arguments is None else st.tuples(st.just(name), arguments)
        for name, (weight, arguments) in weighted.items()
        for _ in range(weight)
    ]
    return st.one_of(each)


CHANNEL = st.sampled_from(sorted(CHANNELS))
RETRIED_CODES = st.sampled_from([1001, 1006, 1011, 4000, 4001, 4006, 4007, 4008, 4010, 4011, 4013])
STEP = steps(
    publish=(6, CHANNEL),
    publish_by_client=(4, CHANNEL),
    listen=(3, CHANNEL),
    release=(1, CHANNEL),
    relisten=(1, CHANNEL),
    raise_in_handler=(1, None),
    finish_load=(3, st.booleans()),
    cut=(2, st.booleans()),
    close=(1, RETRIED_CODES),
    stall=(2, None),
    move=(3, st.tuples(st.integers(0, 3), st.integers(0, 3))),
    flow=(2, None),
    fault=(3, st.sampled_from(["refuse", "lose"])),
    reject_handshake=(1, None),
    unreachable=(1, st.booleans()),
    overflow=(1, CHANNEL),
    forget_history=(1, CHANNEL),
    unsubscribe=(1, CHANNEL),
    ping=(1, None),
    expiring=(1, None),
    advance=(4, st.sampled_from([0, 50, 300, 1_000, 3_000, 12_000, 40_000, 70_000])),
    sleep=(1, st.sampled_from([3_000, 40_000, 90_000, 900_000])),
    page=(2, st.sampled_from(["wake", "hide", "online", "offline"])),
    network=(1, st.booleans()),
)


@dataclass(eq=False)
class Reader:
    """One handle of the application, and what it was told, in order."""

    channel: Channel
    told: list[Any] = field(default_factory=list)
    begins_at: int | None = None
    """The index of the first message that it has to receive; None until it is live."""
    gone: bool = False
    released: bool = False


class Document:
    """What the application makes of the channel `doc`: its state, loaded and kept up to date by messages."""

    def __init__(self, gateway: FakeGateway) -> None:
        self._log = gateway.logs["doc"]
        self.loading: asyncio.Future[str | None] | None = None
        self._read: tuple[list[Any], str | None] = ([], None)
        self.content: list[Any] = []

    def load(self, _: LoadRequest) -> asyncio.Future[str | None]:
        self._read = (list(self._log.data), self._log.position)
        self.loading = asyncio.get_running_loop().create_future()
        return self.loading

    def finish(self, *, succeeds: bool) -> None:
        """Let the state that was read arrive, with its position; or fail."""
        if self.loading is None or self.loading.done():
            return
        if succeeds:
            self.content, position = list(self._read[0]), self._read[1]
            self.loading.set_result(position)
        else:
            self.loading.set_exception(RuntimeError("not loaded"))


class Life:
    """A client, its application, and the gateway that it talks to."""

    def __init__(self, chance: float, *, user: str = "anna") -> None:
        self.environment = FakeEnvironment(chance)
        self.gateway = FakeGateway(self.environment, CHANNELS, user=user)
        self.document = Document(self.gateway)
        self.readers: list[Reader] = []
        self.states: list[StateChange] = []
        self.numbers = 0
        self.outcomes: dict[int, str] = {}
        """By number, how the client's own publish ended."""
        self.raises = False
        self.closed = False
        self.publishes: set[asyncio.Task[None]] = set()
        self.fanway = Fanway("ws://gateway", get_token=lambda _: "token", transport=self.gateway)
        self.fanway.start(self.environment)
        self.fanway.on("state", self._on_state)
        self.fanway.on("error", lambda _: None)

    async def do(self, step: Step) -> None:
        name, *arguments = step
        done = getattr(self, f"do_{name}")(*arguments)
        if asyncio.iscoroutine(done):
            await done
        await settle()

    # ------------------------------------------------------------ the application

    def _on_state(self, change: StateChange) -> None:
        assert not self.closed or change.state == "stopped"
        self.states.append(change)

    def do_listen(self, name: str) -> None:
        if sum(not it.released for it in self.readers if it.channel.name == name) >= (
            1 if name == "doc" else 3
        ):
            return
        load_state = self.document.load if name == "doc" else None
        reader = Reader(self.fanway.channel(name, load_state=load_state))
        self.readers.append(reader)

        def on_state(change: ChannelState) -> None:
            reader.gone = change.state == "gone"
            if change.state == "live":
                self._begin(reader)

        def on_message(message: Message[Any]) -> None:
            assert not reader.released, "a message after the handle was closed"
            assert reader.channel.state == "live", "a message of a channel that is not live"
            reader.told.append(message.data)
            if name == "doc":
                self.document.content.append(message.data)
            if self.raises:
                self.raises = False
                raise RuntimeError("a handler raised")

        reader.channel.on("state", on_state)
        reader.channel.on("gap", lambda _: reader.told.append(GAP))
        reader.channel.on("message", on_message)
        if reader.channel.state == "live":
            self._begin(reader)

    def _begin(self, reader: Reader) -> None:
        """Note from where on *reader* must miss nothing."""
        link, log = self.gateway.link, self.gateway.logs[reader.channel.name]
        if reader.begins_at is not None or link is None or reader.channel.name not in link.joined:
            return
        position = reader.channel.position
        reader.begins_at = link.joined[reader.channel.name]
        if position is not None and (index := log.index_after(position)) >= 0:
            reader.begins_at = max(reader.begins_at, index)

    def do_release(self, name: str) -> None:
        for reader in self.readers:
            if reader.channel.name == name and not reader.released:
                reader.channel.close()
                reader.released = True
                return

    def do_relisten(self, name: str) -> None:
        self.do_release(name)
        self.do_listen(name)

    def do_raise_in_handler(self) -> None:
        self.raises = True

    def do_finish_load(self, succeeds: bool) -> None:
        self.document.finish(succeeds=succeeds)

    def do_publish_by_client(self, name: str) -> None:
        self.numbers += 1
        number = self.numbers

        async def publish() -> None:
            try:
                await self.fanway.channel(name).publish(number)
                self.outcomes[number] = "published"
            except FanwayError as error:
                self.outcomes[number] = error.code

        self.outcomes[number] = "waits"
        task = asyncio.get_running_loop().create_task(publish())
        self.publishes.add(task)
        task.add_done_callback(self.publishes.discard)

    def do_connect(self) -> None:
        self.fanway.connect()

    async def do_stop(self) -> None:
        await self.fanway.close()

    # ------------------------------------------------------------ the world

    def do_publish(self, name: str) -> None:
        self.numbers += 1
        self.gateway.publish(name, self.numbers)

    def do_overflow(self, name: str) -> None:
        self.numbers += 2
        self.gateway.overflow(name, [self.numbers - 1, self.numbers])

    def do_cut(self, delivered: bool) -> None:
        self.gateway.end(1006, delivered=delivered)

    def do_close(self, code: int) -> None:
        self.gateway.end(code, delivered=True)

    def do_stall(self) -> None:
        self.gateway.stalled = True

    def do_move(self, counts: tuple[int, int]) -> None:
        self.gateway.move(to_gateway=counts[0], to_client=counts[1])

    def do_flow(self) -> None:
        self.gateway.stalled = False
        self.gateway.move_soon()

    def do_fault(self, kind: str) -> None:
        self.gateway.faults.append(kind)

    def do_reject_handshake(self) -> None:
        self.gateway.rejections += 1

    def do_unreachable(self, unreachable: bool) -> None:
        self.gateway.unreachable = unreachable

    def do_forget_history(self, name: str) -> None:
        self.gateway.end(4011, delivered=True)
        self.gateway.logs[name].forget()

    def do_unsubscribe(self, name: str) -> None:
        self.gateway.unsubscribe(name)

    def do_ping(self) -> None:
        if self.gateway.link is not None and self.gateway.link.connected:
            self.gateway.link.push({"type": "ping"})

    def do_expiring(self) -> None:
        if self.gateway.link is not None and self.gateway.link.connected:
            self.gateway.link.push({"type": "expiring", "in": 30})

    async def do_advance(self, ms: int) -> None:
        await self.environment.advance(ms)

    async def do_sleep(self, ms: int) -> None:
        await self.environment.sleep(ms)

    def do_page(self, event: str) -> None:
        self.fanway.wake(event)

    def do_network(self, online: bool) -> None:
        self.environment.network = online

    # ------------------------------------------------------------ the end

    async def recover(self) -> None:
        """Let everything work again, and time pass until nothing waits."""
        gateway = self.gateway
        gateway.faults.clear()
        gateway.rejections, gateway.unreachable, self.environment.network = 0, False, True
        self.do_flow()
        await settle()
        self.fanway.wake()
        for _ in range(14):
            await self.environment.advance(20_000)
            self.document.finish(succeeds=True)
            await settle()
            self.do_ping()
            await settle()

    async def end(self) -> None:
        """Close the client; nothing of it is left."""
        await self.fanway.close()
        self.closed = True
        await settle()
        assert self.fanway.state == "stopped"
        assert not self.environment.timers
        assert not self.environment.tasks
        assert not self.publishes
        assert self.fanway.publishing == 0
        assert self.gateway.link is None

    def check_states(self) -> None:
        state = "idle"
        for change in self.states:
            assert change.previous == state
            assert change.state in LEGAL[state], (state, change.state)
            state = change.state

    def check_reader(self, reader: Reader) -> None:
        """Nothing twice, nothing out of order, and where something is missing, a gap."""
        log = self.gateway.logs[reader.channel.name]
        numbers = [item for item in reader.told if item != GAP]
        indexes = [log.data.index(number) for number in numbers]
        assert indexes == sorted(set(indexes)), ("twice, or out of order", reader.told, log.data)
        if not log.history or reader.channel.name == "doc":
            return  # what was missed is unknown there; the state that is loaded has it here
        expected = reader.begins_at
        for item in reader.told:
            if item == GAP:
                expected = None
                continue
            index = log.data.index(item)
            assert expected in {None, index}, ("missing without a gap", reader.told, log.data, expected)
            expected = index + 1
        if not reader.released and not reader.gone and reader.begins_at is not None and expected is not None:
            assert expected == len(log.data), ("the end is missing", reader.told, log.data, expected)

    def check_publishes(self) -> None:
        visible = [number for log in self.gateway.logs.values() for number in log.data]
        assert len(visible) == len(set(visible)), ("visible twice", visible, self.outcomes)
        for number, outcome in self.outcomes.items():
            if outcome == "published":
                assert number in visible
            elif outcome != "uncertain":
                assert outcome in {"timeout", "stopped"}
                assert number not in visible, (number, outcome)


def legal() -> dict[str, set[str]]:
    """Return the states that follow each state, as the application sees them."""
    after: dict[str, set[str]] = {}
    for (before, _), state in TRANSITIONS.items():
        if before != state:
            after.setdefault(before.value, set()).add(state.value)
    after["suspended"] = set(after["waiting"])
    after["connecting"].add("suspended")
    return after


LEGAL = legal()


@LIVES
@given(
    st.lists(STEP, max_size=50),
    st.sampled_from([0.0, 0.3, 0.5, 0.999]),
    st.sampled_from(["anna", ""]),
)
def test_every_message_once_and_in_order_or_a_gap(life: list[Step], chance: float, user: str) -> None:
    async def check() -> None:
        subject = Life(chance, user=user)
        for step in life:
            await subject.do(step)
        await subject.recover()
        for name in CHANNELS:
            await subject.do(("publish", name))
        if subject.states:
            assert subject.fanway.state == "connected"
        for reader in subject.readers:
            subject.check_reader(reader)
            if not reader.released and not reader.gone:
                assert reader.channel.state == "live"
                if reader.channel.name == "doc":
                    assert subject.document.content == subject.gateway.logs["doc"].data
        subject.check_publishes()
        subject.check_states()
        await subject.end()

    asyncio.run(check())


@LIVES
@given(st.lists(st.one_of(STEP, steps(connect=(1, None), stop=(1, None))), max_size=50))
def test_whenever_it_is_stopped_nothing_is_left(life: list[Step]) -> None:
    async def check() -> None:
        subject = Life(0.5)
        for step in life:
            await subject.do(step)
            if step == ("stop",):
                assert not subject.environment.timers
        await subject.end()
        subject.check_states()
        subject.check_publishes()
        for reader in subject.readers:
            numbers = [item for item in reader.told if item != GAP]
            assert len(numbers) == len(set(numbers))

    asyncio.run(check())
