"""The embedded broker against a model: no position is confirmed from which messages are missing."""

from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway.broker.base import Delivery, Receipt, Retention
from gateway.broker.memory.broker import MemoryBroker
from gateway.broker.memory.channel_log import ENTRY_OVERHEAD_BYTES
from gateway.clock import FakeClock
from gateway.errors import BrokerFull, KeyReused
from protocol.messages import Message
from protocol.position import MessageId
from tests.broker.contract_machine import ContractMachine
from tests.broker.node_model import NodeModel
from tests.broker.recording_node import RecordingNode, publication
from tests.gateway.access.signing import run_without_waiting
from tests.gateway.virtual_time import no_deadline

META_TTL, KEY_TTL = 50.0, 20.0
CHANNELS = st.sampled_from(["a", "b", "c"])
STEPS = st.sampled_from([0.0, 1.0, 5.0, 20.0, 70.0])
RETENTIONS = st.sampled_from([Retention(1, 10.0), Retention(3, 10.0), Retention(3, 60.0), None])


@dataclass
class Channel:
    """Everything that was published in a channel, and the positions that it returned."""

    published: list[Message] = field(default_factory=list)
    """The messages with an id, in order."""
    positions: dict[MessageId, int] = field(default_factory=dict)
    """By position: how many messages had been published by then."""


class Histories(RuleBasedStateMachine):
    @initialize(memory=st.sampled_from([entries * ENTRY_OVERHEAD_BYTES for entries in (5, 12, 1_000)]))
    def start(self, memory: int) -> None:
        self.clock = FakeClock()
        self.memory = memory
        self.broker = MemoryBroker(
            memory=memory,
            key_ttl=KEY_TTL,
            meta_ttl=META_TTL,
            sweep_interval=0,
            clock=self.clock,
            wall_clock=self.clock,
        )
        self.delivered: list[Delivery] = []
        self.channels = {name: Channel() for name in "abc"}
        self.receipts: dict[tuple[str, str], tuple[float, Receipt, object]] = {}
        self.run(self.broker.start(self))  # type: ignore[arg-type]

    def deliver(self, envelope: Any) -> None:
        if isinstance(envelope, Delivery):
            self.delivered.append(envelope)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return run_without_waiting(coroutine)

    @rule(
        name=CHANNELS,
        retention=RETENTIONS,
        key=st.none() | st.sampled_from(["k", "l"]),
        size=st.sampled_from([1, 1, 1, ENTRY_OVERHEAD_BYTES]),
    )
    def publish(self, name: str, retention: Retention | None, key: str | None, size: int) -> None:
        channel = self.channels[name]
        # A key belongs to one content.
        size = size if key is None else {"k": 1, "l": 3_000}[key]
        earlier = self.receipts.get((name, key or ""))
        has_receipt = earlier is not None and earlier[0] > self.clock()
        before = len(self.delivered)
        try:
            receipt = self.run(
                self.broker.publish(publication(name, "x" * size, retention=retention, key=key))
            )
        except BrokerFull:
            assert len(self.delivered) == before
            assert not has_receipt
            return
        except KeyReused:
            assert earlier is not None
            assert has_receipt
            assert earlier[2] != (size, retention)
            return
        assert receipt.replayed == has_receipt
        if earlier is not None and has_receipt:
            assert receipt.id == earlier[1].id
            assert len(self.delivered) == before
            return
        (delivery,) = self.delivered[before:]
        assert delivery.message.message == receipt.id
        assert (receipt.id is None) == (retention is None)
        if key is not None:
            self.receipts[name, key] = (self.clock() + KEY_TTL, receipt, (size, retention))
        if receipt.id is not None:
            channel.published.append(delivery.message)
            assert receipt.id not in channel.positions
            channel.positions[receipt.id] = len(channel.published)

    @rule(name=CHANNELS)
    def subscribe(self, name: str) -> None:
        channel = self.channels[name]
        position = self.run(self.broker.subscribe(name, Retention(3, 10.0)))
        known = channel.positions.setdefault(position, len(channel.published))
        assert known == len(channel.published), "a position older than the newest message"
        now = self.run(self.broker.read(name, since=position))
        assert (list(now.messages), now.position, now.recovered) == ([], position, True)

    @rule(name=CHANNELS, limit=st.none() | st.integers(0, 4), data=st.data())
    def resume(self, name: str, limit: int | None, data: st.DataObject) -> None:
        channel = self.channels[name]
        if not channel.positions:
            return
        since = data.draw(st.sampled_from(list(channel.positions)))
        page = self.run(self.broker.read(name, since=since, limit=limit))
        missed = channel.published[channel.positions[since] :]
        if page.recovered:
            assert list(page.messages) == missed[:limit]
        else:
            assert list(page.messages) == []
        channel.positions.setdefault(page.position, len(channel.published))
        assert channel.positions[page.position] == len(channel.published)

    @rule(name=CHANNELS, limit=st.none() | st.integers(0, 4))
    def read_history(self, name: str, limit: int | None) -> None:
        published = self.channels[name].published
        kept = self.run(self.broker.read(name)).messages
        assert list(kept) == published[len(published) - len(kept) :]
        for index, message in enumerate(kept, start=1):
            assert self.run(self.broker.read(name, since=message.message)).messages == kept[index:]
        backwards = self.run(self.broker.read(name, limit=limit, reverse=True)).messages
        assert list(backwards) == list(reversed(kept))[:limit]

    @rule(name=CHANNELS, of=CHANNELS, data=st.data())
    def resume_with_a_position_of_another_channel(self, name: str, of: str, data: st.DataObject) -> None:
        if name != of and self.channels[of].positions:
            since = data.draw(st.sampled_from(list(self.channels[of].positions)))
            assert not self.run(self.broker.read(name, since=since)).recovered

    @rule(name=CHANNELS)
    def clear(self, name: str) -> None:
        channel = self.channels[name]
        self.run(self.broker.clear(name))
        page = self.run(self.broker.read(name))
        assert list(page.messages) == []
        channel.positions.setdefault(page.position, len(channel.published))

    @rule(seconds=STEPS)
    def advance_clock(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def sweep(self) -> None:
        self.broker.sweep()

    @rule()
    def expire_everything(self) -> None:
        self.clock.advance(1_000.0)
        self.broker.sweep()
        statistics = self.broker.statistics()
        assert (statistics["bytes"], statistics["channels"], statistics["keys"]) == (0, 0, 0)

    @invariant()
    def memory_is_within_the_limit(self) -> None:
        assert 0 <= self.broker.statistics()["bytes"] <= self.memory


TestHistories = Histories.TestCase
TestHistories.settings = settings(no_deadline, max_examples=100, stateful_step_count=40)


class NodeActs(ContractMachine):
    """The rules that brokers of many nodes are tested with."""

    @initialize()
    def begin(self) -> None:
        self.run(self.launch())

    async def launch(self) -> None:
        node, broker = RecordingNode(), MemoryBroker(sweep_interval=0)
        await broker.start(node)
        self.running.append(NodeModel(node, broker, self.channels, gets_every_channel=True))


TestNodeActs = NodeActs.TestCase
TestNodeActs.settings = settings(no_deadline, max_examples=50, stateful_step_count=30)
