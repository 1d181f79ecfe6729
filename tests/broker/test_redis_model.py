"""Several nodes on a real Redis beside a model of what each was told, while nodes and Redis fail.

FANWAY_MODEL=300 in the environment runs so many examples, others each time; pytest then wants
`--timeout 0 -o faulthandler_timeout=0`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from gateway.broker.redis import RedisBroker
from tests.broker.contract_machine import CHANNELS, Act, Contract, acts, kept, node
from tests.broker.listener import Listener
from tests.broker.node import RecordingNode
from tests.broker.redis_fleet import OPTIONS, eventually
from tests.broker.redis_proxy import Proxy
from tests.broker.redis_server import DURABLE, RedisServer, running_redis
from tests.gateway.virtual_time import no_deadline

EXAMPLES = int(os.environ.get("FANWAY_MODEL", "0"))
NODES = 4
FLOOD = 250
LEASE = 0.6
"""Seconds: a node that is stunned loses it, or not."""

several = st.lists(acts, min_size=1, max_size=6)


@dataclass(eq=False)
class Place(Listener):
    """A node that sees Redis by a wire of its own."""

    proxy: Proxy = None  # type: ignore[assignment]
    due: int = 0
    """How many incarnations it must have begun before it knows of every loss."""

    @property
    def incarnations(self) -> int:
        return self.broker.statistics()["incarnations"]


class OnRedis(Contract):
    awake: list[Place]  # type: ignore[assignment]
    stunned: list[Place]  # type: ignore[assignment]

    def __init__(self, server: RedisServer, folder: Path) -> None:
        super().__init__()
        self.server = server
        self.data, self.copy = folder / "appendonlydir", folder / "copy"
        shutil.rmtree(self.copy, ignore_errors=True)
        server.execute("FLUSHALL")
        self.started = 0
        self.places: list[Place] = []
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
        place = Place(recording, broker, self.kept, proxy=proxy)
        self.places.append(place)
        await broker.start(recording)
        self.awake.append(place)

    @precondition(lambda self: len(self.awake) + len(self.stunned) < NODES)
    @rule()
    def start_another(self) -> None:
        self.run(self.launch())

    @precondition(lambda self: len(self.awake) > 1)
    @rule(at=node)
    def crash(self, at: int) -> None:
        place = self.awake.pop(at % len(self.awake))
        self.members = {each: there for each, there in self.members.items() if there is not place}
        self.run(self.cut_off(place, for_good=True))

    @precondition(lambda self: len(self.awake) > 1)
    @rule(at=node)
    def stun(self, at: int) -> None:
        """It hears nothing, for shorter than its lease or longer."""
        place = self.awake.pop(at % len(self.awake))
        self.stunned.append(place)
        place.proxy.hold()

    @precondition(lambda self: self.stunned)
    @rule(cut=st.booleans())
    def wake(self, cut: bool) -> None:
        place = self.stunned.pop(0)
        if cut:
            self.run(self.cut_off(place, for_good=False))
        place.proxy.release()
        self.awake.append(place)

    async def cut_off(self, place: Place, *, for_good: bool) -> None:
        if for_good:
            place.proxy.hold()
        place.proxy.cut()

    @rule(at=node, several=several, turns=st.integers(0, 12))
    def cut(self, at: int, several: list[Act], turns: int) -> None:
        """Its connections end while something is on the way."""
        self.run(self.cut_during(self.awake[at % len(self.awake)], several, turns))

    async def cut_during(self, place: Place, several: list[Act], turns: int) -> None:
        acting = asyncio.ensure_future(self.all_of(several))
        for _ in range(turns):
            await asyncio.sleep(0)
        place.proxy.cut()
        await acting

    # ------------------------------------------------------------ Redis

    @rule(ready=st.booleans())
    def restart(self, ready: bool) -> None:
        self.server.kill()
        self.server.start()
        if ready:
            self.run(self.settled())

    @rule(several=several)
    def lose_everything(self, several: list[Act]) -> None:
        self.run(self.nothing())
        self.server.execute("FLUSHALL")
        self.lost()
        self.run(self.all_of(several))

    @rule()
    def remember(self) -> None:
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(self.data, self.copy)

    @precondition(lambda self: self.copy.exists())
    @rule(at=node)
    def lose_the_newest(self, at: int) -> None:
        """Go back to what was remembered, as to a replica that missed what a node wrote to each shard."""
        self.run(self.settled())
        for name in CHANNELS:
            self.run(self.published(self.awake[at % len(self.awake)], name))
        self.server.kill()
        shutil.rmtree(self.data)
        shutil.copytree(self.copy, self.data)
        self.server.start()
        self.restored = True
        self.lost()
        self.run(self.settled())

    @rule()
    def forget_scripts(self) -> None:
        self.server.execute("SCRIPT", "FLUSH")

    @rule(at=node, name=kept)
    def flood(self, at: int, name: str) -> None:
        self.run(self.all_of([("publish", at, name, None)] * FLOOD))

    @rule(seconds=st.sampled_from([0.0, 0.05, 0.7]))
    def rest(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    # ------------------------------------------------------------ what follows a loss

    async def nothing(self) -> None:
        await asyncio.sleep(0)

    async def published(self, place: Place, name: str) -> None:
        await eventually(lambda: self._publish(place, name, None))

    def lost(self) -> None:
        self.losses += 1
        for spoken in self.kept.values():
            spoken.loses()
        for place in self.awake + self.stunned:
            place.due = place.incarnations + self.options.shards_per_server
            for following in place.live:
                following.untold = following.may_reset = True

    def caught_up(self, listener: Listener) -> bool:
        assert isinstance(listener, Place)
        return super().caught_up(listener) and listener.incarnations >= listener.due

    async def settled(self) -> None:
        for place in self.awake:
            await eventually(lambda place=place: self.caught_up(place) and place.broker.ready())  # type: ignore[misc]
        await super().settled()

    async def end(self) -> None:
        for place in self.places:
            await place.broker.close()
            await place.proxy.__aexit__()
        assert self.errors == []


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path, *DURABLE) as server:
        yield server


def test_no_node_hears_what_contradicts_another(server: RedisServer, tmp_path: Path) -> None:
    class Machine(OnRedis):
        def __init__(self) -> None:
            super().__init__(server, tmp_path)

    # No shrinking: what a real server and a real clock decide together takes minutes and often fails.
    bounds = settings(
        no_deadline,
        max_examples=EXAMPLES or 12,
        stateful_step_count=25,
        derandomize=not EXAMPLES,
        database=None,
        phases=[Phase.generate],
    )
    run_state_machine_as_test(Machine, settings=bounds)
