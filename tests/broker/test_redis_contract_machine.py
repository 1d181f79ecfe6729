"""Several nodes on a real Redis against a model of what each received, while nodes and Redis fail.

FANWAY_MODEL=300 in the environment runs so many examples, others each time; pytest then wants
`--timeout 0 -o faulthandler_timeout=0`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from gateway.broker.redis import RedisBroker
from tests.broker.contract_machine import CHANNELS, Action, ContractMachine, actions, node, stored_channel
from tests.broker.node_model import NodeModel
from tests.broker.recording_node import RecordingNode
from tests.broker.redis_fleet import OPTIONS, eventually
from tests.broker.redis_proxy import Proxy
from tests.broker.redis_server import DURABLE, RedisServer, running_redis
from tests.gateway.virtual_time import no_deadline

EXAMPLES = int(os.environ.get("FANWAY_MODEL", "0"))
NODES = 4
FLOOD = 250
LEASE = 0.6
"""Seconds: a suspended node loses it, or not."""

several_actions = st.lists(actions, min_size=1, max_size=6)


@dataclass(eq=False)
class ProxiedNode(NodeModel):
    """A node with a proxy of its own in front of Redis."""

    proxy: Proxy = None  # type: ignore[assignment]
    incarnations_due: int = 0
    """How many incarnations it must have begun until it knows of every loss."""

    @property
    def incarnations(self) -> int:
        return self.broker.statistics()["incarnations"]


class RedisContractMachine(ContractMachine):
    running: list[ProxiedNode]  # type: ignore[assignment]
    suspended: list[ProxiedNode]  # type: ignore[assignment]

    def __init__(self, server: RedisServer, folder: Path) -> None:
        super().__init__()
        self.server = server
        self.data, self.saved = folder / "appendonlydir", folder / "saved"
        shutil.rmtree(self.saved, ignore_errors=True)
        server.execute("FLUSHALL")
        self.started = 0
        self.nodes_started: list[ProxiedNode] = []
        self.errors: list[BaseException] = []

    # ------------------------------------------------------------ nodes

    @initialize(
        nodes=st.integers(1, 3),
        shards=st.integers(1, 2),
        linger=st.sampled_from([0.0, 0.05, 5.0]),
        inbox=st.sampled_from([50, 100_000]),
    )
    def begin(self, nodes: int, shards: int, linger: float, inbox: int) -> None:
        short = replace(OPTIONS, lease=LEASE, beat=0.0)
        self.options = replace(short, shards_per_server=shards, linger=linger, inbox_limit=inbox)
        for _ in range(nodes):
            self.run(self.launch())

    async def launch(self) -> None:
        self.started += 1
        proxy = Proxy(self.server.port)
        await proxy.__aenter__()
        recording = RecordingNode(f"n{self.started}")
        broker = RedisBroker([proxy.url], self.options, on_error=self.errors.append)
        node_model = ProxiedNode(recording, broker, self.channels, proxy=proxy)
        self.nodes_started.append(node_model)
        await broker.start(recording)
        self.running.append(node_model)

    @precondition(lambda self: len(self.running) + len(self.suspended) < NODES)
    @rule()
    def start_another(self) -> None:
        self.run(self.launch())

    @precondition(lambda self: len(self.running) > 1)
    @rule(at=node)
    def crash(self, at: int) -> None:
        node_model = self.running.pop(at % len(self.running))
        self.members = {each: owner for each, owner in self.members.items() if owner is not node_model}
        self.run(self.cut_off(node_model, for_good=True))

    @precondition(lambda self: len(self.running) > 1)
    @rule(at=node)
    def suspend(self, at: int) -> None:
        """Hold back its connections, for shorter than its lease or longer."""
        node_model = self.running.pop(at % len(self.running))
        self.suspended.append(node_model)
        node_model.proxy.hold()

    @precondition(lambda self: self.suspended)
    @rule(cut=st.booleans())
    def resume_node(self, cut: bool) -> None:
        node_model = self.suspended.pop(0)
        if cut:
            self.run(self.cut_off(node_model, for_good=False))
        node_model.proxy.release()
        self.running.append(node_model)

    async def cut_off(self, node_model: ProxiedNode, *, for_good: bool) -> None:
        if for_good:
            node_model.proxy.hold()
        node_model.proxy.cut()

    @rule(at=node, several_actions=several_actions, turns=st.integers(0, 12))
    def cut(self, at: int, several_actions: list[Action], turns: int) -> None:
        """Cut its connections while calls are under way."""
        self.run(self.cut_during(self.running[at % len(self.running)], several_actions, turns))

    async def cut_during(self, node_model: ProxiedNode, several_actions: list[Action], turns: int) -> None:
        running_actions = asyncio.ensure_future(self.all_of(several_actions))
        for _ in range(turns):
            await asyncio.sleep(0)
        node_model.proxy.cut()
        await running_actions

    # ------------------------------------------------------------ Redis

    @rule(ready=st.booleans())
    def restart(self, ready: bool) -> None:
        self.server.kill()
        self.server.start()
        if ready:
            self.run(self.settled())

    @rule(several_actions=several_actions)
    def lose_everything(self, several_actions: list[Action]) -> None:
        self.run(self.one_turn())
        self.server.execute("FLUSHALL")
        self.note_loss()
        self.run(self.all_of(several_actions))

    @rule()
    def save_state(self) -> None:
        shutil.rmtree(self.saved, ignore_errors=True)
        shutil.copytree(self.data, self.saved)

    @precondition(lambda self: self.saved.exists())
    @rule(at=node)
    def restore_saved_state(self, at: int) -> None:
        """Restore the saved state, as a replica that missed the writes of a node to each shard."""
        self.run(self.settled())
        for name in CHANNELS:
            self.run(self.publish_surely(self.running[at % len(self.running)], name))
        self.server.kill()
        shutil.rmtree(self.data)
        shutil.copytree(self.saved, self.data)
        self.server.start()
        self.restored = True
        self.note_loss()
        self.run(self.settled())

    @rule()
    def flush_scripts(self) -> None:
        self.server.execute("SCRIPT", "FLUSH")

    @rule(at=node, name=stored_channel)
    def flood(self, at: int, name: str) -> None:
        self.run(self.all_of([("publish", at, name, None)] * FLOOD))

    @rule(seconds=st.sampled_from([0.0, 0.05, 0.7]))
    def let_time_pass(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    # ------------------------------------------------------------ what follows a loss

    async def one_turn(self) -> None:
        await asyncio.sleep(0)

    async def publish_surely(self, node_model: ProxiedNode, name: str) -> None:
        await eventually(lambda: self._publish(node_model, name, None))

    def note_loss(self) -> None:
        self.losses += 1
        for model in self.channels.values():
            model.writes_lost()
        for node_model in self.running + self.suspended:
            node_model.incarnations_due = node_model.incarnations + self.options.shards_per_server
            for subscription in node_model.live:
                subscription.gap_due = subscription.may_reset = True

    def knows_every_loss(self, node_model: NodeModel) -> bool:
        assert isinstance(node_model, ProxiedNode)
        return super().knows_every_loss(node_model) and node_model.incarnations >= node_model.incarnations_due

    async def settled(self) -> None:
        for node_model in self.running:
            await eventually(partial(self._is_settled, node_model))
        await super().settled()

    def _is_settled(self, node_model: ProxiedNode) -> bool:
        return self.knows_every_loss(node_model) and node_model.broker.ready()

    async def end(self) -> None:
        for node_model in self.nodes_started:
            await node_model.broker.close()
            await node_model.proxy.__aexit__()
        assert self.errors == []


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path, *DURABLE) as server:
        yield server


def test_no_node_receives_what_contradicts_another(server: RedisServer, tmp_path: Path) -> None:
    class Machine(RedisContractMachine):
        def __init__(self) -> None:
            super().__init__(server, tmp_path)

    # No shrinking: with a real server and a real clock it takes minutes and often fails.
    bounds = settings(
        no_deadline,
        max_examples=EXAMPLES or 12,
        stateful_step_count=25,
        derandomize=not EXAMPLES,
        database=None,
        phases=[Phase.generate],
    )
    run_state_machine_as_test(Machine, settings=bounds)
