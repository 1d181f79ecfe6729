"""Markers, inbox entries, answers and callbacks in any order: a subscriber receives one continuous history.

The reader, the routes and the histories are real; Redis is a few dictionaries that answer when they please.
FANWAY_SEEDS in the environment is how many orders are tried.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, cast

from gateway.broker.base import Delivery, Envelope, Retention
from gateway.broker.redis.connection.breaker import Breaker
from gateway.broker.redis.connection.health import ShardHealth
from gateway.broker.redis.inbox.held_entries import HeldEntries
from gateway.broker.redis.inbox.ordered_delivery import OrderedDelivery
from gateway.broker.redis.inbox.reader import InboxReader
from gateway.broker.redis.inbox.routes import Routes
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.operations.history import HistoryReader
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.scripts.registry import ADD_ROUTES, READ_HISTORY, REMOVE_ROUTES, Command
from gateway.tasks import Slicer, Tasks
from protocol.messages import Gap
from protocol.position import MessageId
from tests.gateway.shuffled_loop import run_shuffled
from tests.gateway.virtual_time import virtual_loop

SEEDS = int(os.environ.get("FANWAY_SEEDS", "50"))
NAMES = ["a", "b"]
KEPT = Retention(1_000, 300.0)
TURN_SECONDS = 0.001
OPTIONS = RedisOptions(linger=0.0)
KEYS = Keys("t", 0)

Entry = tuple[bytes, bytes]


class Redis:
    """What the scripts do, at once and in the order of the calls."""

    def __init__(self, kept: int) -> None:
        self.kept = kept
        self.top = {name: MessageId(0, f"{name}0") for name in NAMES}
        self.logs: dict[str, list[tuple[MessageId, MessageId]]] = {name: [] for name in NAMES}
        self.routes: dict[str, set[str]] = defaultdict(set)
        self.inboxes: dict[str, list[Entry]] = defaultdict(list)

    def publish(self, name: str) -> None:
        before = self.top[name]
        id = self.top[name] = MessageId(before.offset + 1, f"{name}{before.offset + 1}")
        self.logs[name] = [*self.logs[name], (before, id)][-self.kept :]
        head = f"m {id.offset} {id.uid} {before.uid} {name}".encode()
        for node in self.routes[name]:
            self.inboxes[KEYS.inbox(node)].append((head, b"1\n1"))

    def execute(self, command: Command) -> Any:
        _, digest, keys, *rest = command
        arguments = [str(each) for each in rest[int(keys) :]]
        return self._scripts[str(digest)](self, arguments)

    def _add_route(self, arguments: list[str]) -> list[Any]:
        node, _, _, *of_each = arguments
        positions = []
        for name, token in zip(of_each[::4], of_each[1::4], strict=True):
            self.routes[name].add(node)
            top = self.top[name]
            mark = f"s {top.offset} {top.uid} {token} {name}".encode()
            self.inboxes[KEYS.inbox(node)].append((mark, b""))
            positions.append([top.offset, top.uid.encode()])
        return [1, *positions]

    def _remove_route(self, arguments: list[str]) -> int:
        node, *names = arguments
        for name in names:
            self.routes[name].discard(node)
        return 1

    def _read(self, arguments: list[str]) -> list[Any]:
        _, _, offset, uid, limit, *_ = arguments
        name, since = uid[0], MessageId(int(offset), uid)
        top, log = self.top[name], self.logs[name]
        found = [id for _, id in log if id.offset > since.offset]
        fault = since != top and not any(before == since for before, _ in log)
        flat: list[Any] = []
        for id in [] if fault else found[: int(limit)]:
            flat += [id.offset, id.uid.encode(), b"1\n1"]
        return [top.offset, top.uid.encode(), int(fault), flat, 0]

    _scripts: dict[str, Callable[[Redis, list[str]], Any]] = {  # noqa: RUF012 (nobody changes it)
        ADD_ROUTES.digest: _add_route,
        REMOVE_ROUTES.digest: _remove_route,
        READ_HISTORY.digest: _read,
    }


class SlowPipeline:
    """Carries calls in their order, each pair of ways as long as chance will have it."""

    def __init__(self, redis: Redis, chance: Random, tasks: Tasks) -> None:
        self._redis, self._chance, self._tasks = redis, chance, tasks
        self._waiting: deque[tuple[asyncio.Future[Any], Command]] = deque()
        self._travelling: set[asyncio.Future[Any]] = set()

    def call(self, command: Command, *, weight: int = 0) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if not self._waiting and not self._travelling:
            self._tasks.spawn(self._work())
        self._waiting.append((answer, command))
        return answer

    def is_sent(self, answer: asyncio.Future[Any]) -> bool:
        return answer.done() or answer in self._travelling

    async def _work(self) -> None:
        while self._waiting:
            batch, self._waiting = list(self._waiting), deque()
            self._travelling = {answer for answer, _ in batch}
            await turns(self._chance)
            answers = [self._redis.execute(command) for _, command in batch]
            await turns(self._chance)
            for (answer, _), result in zip(batch, answers, strict=True):
                if not answer.done():
                    answer.set_result(result)
            self._travelling = set()


class SlowConnection:
    """Gives the reader of an inbox what has come there, when chance will have it."""

    def __init__(self, redis: Redis, chance: Random) -> None:
        self._redis, self._chance = redis, chance
        self.lost: set[str] = set()
        """Inboxes that were cut at the other end."""

    def pack_command(self, command: Command) -> Command:
        return command

    async def close(self) -> None:
        pass

    async def execute_with_retry(self, commands: Sequence[Command], timeout_seconds: float) -> list[Any]:
        await turns(self._chance)
        return [self._answer(command) for command in commands]

    def _answer(self, command: Command) -> Any:
        name, inbox = command[0], str(command[-2] if command[0] == "XREAD" else command[1])
        entries = self._redis.inboxes[inbox]
        if name == "XLEN":
            full = OPTIONS.inbox_limit if inbox in self.lost else 0
            self.lost.discard(inbox)
            return full
        numbered = [
            (b"%d-0" % number, [b"h", head, b"b", body])
            for number, (head, body) in enumerate(entries, start=1)
        ]
        if name == "XREVRANGE":
            return numbered[-1:]
        if name in ("XTRIM", "EVALSHA"):
            return 0
        if name == "HMGET":
            return [None, None]
        cursor = int(cast("bytes", command[-1]).partition(b"-")[0])
        new = numbered[cursor : cursor + self._chance.randint(1, 5)]
        return [[inbox.encode(), new]] if new else None


class Lease:
    """A lease that never expires."""

    async def wait_until_held(self) -> None:
        return


async def turns(chance: Random, most: int = 0) -> None:
    """Let some turns of the loop pass: fewer than *most*; else mostly few, and sometimes many."""
    for _ in range(1 + chance.randrange(most or chance.choice([5, 5, 5, 80]))):
        virtual_loop().clock.advance(TURN_SECONDS)  # the loop is never idle, and would stop the time
        await asyncio.sleep(0)


class Node:
    """One node; what it is given of each channel that it follows must be one history."""

    def __init__(self, redis: Redis, chance: Random, failures: list[BaseException]) -> None:
        self.redis, self.chance = redis, chance
        self.tasks = Tasks(failures.append)
        self.incarnation = 0
        control, reads = (cast("Any", SlowPipeline(redis, chance, self.tasks)) for _ in range(2))
        self.wire = SlowConnection(redis, chance)
        clock = virtual_loop().clock
        contact = ShardHealth(Breaker(clock), invalidate_primary=lambda: None)
        contact.lease_held()
        self.routes = Routes(
            control,
            contact,
            KEYS,
            OPTIONS,
            self.tasks,
            Slicer(100),
            incarnation=self.name,
            clock=clock,
            held=HeldEntries(),
        )
        lease = cast("Any", Lease())
        history = HistoryReader(reads, KEYS, OPTIONS, Slicer())
        delivery = OrderedDelivery(
            self.routes, history, lease, self.tasks, deliver=self.deliver, on_node_entry=lambda *_: None
        )
        wire = cast("Any", self.wire)
        self.reader = InboxReader(wire, self.routes, KEYS, OPTIONS, self.tasks, contact, lease, delivery)
        self.envelopes: list[Envelope] = []
        self.received: dict[str, MessageId] = {}
        """How far it has received of what it follows."""
        self.start: dict[str, int] = {}
        """Where that began that goes on to the end."""
        self.gaps = 0

    def name(self) -> str:
        return f"n{self.incarnation}"

    def deliver(self, envelope: Envelope) -> None:
        self.envelopes.append(envelope)

    def check_continuous(self, channel: str, envelopes: Sequence[Envelope]) -> None:
        """Fail where *envelopes* do not go on from where it stands."""
        for each in envelopes:
            if isinstance(each, Delivery) and each.message.channel == channel:
                id = each.message.message
                assert id is not None
                assert id.follows(self.received[channel]), f"{id} after {self.received[channel]}"
                self.received[channel] = id
            elif isinstance(each, Gap) and each.channel == channel:
                assert each.position is not None
                self.gaps += 1
                self.received[channel] = each.position

    async def subscribe_repeatedly(self, channel: str) -> None:
        """Follow it for a while, and then no longer, several times; in the end for good."""
        for last in (False, False, False, True):
            await turns(self.chance, 20)
            begun = len(self.envelopes)
            position = await self.routes.subscribe(channel, KEPT)
            assert position is not None
            self.received[channel] = position
            if last:
                self.start[channel] = begun
                return
            await turns(self.chance, 60)
            self.routes.unsubscribe(channel)
            self.check_continuous(channel, self.envelopes[begun:])
            silent = len(self.envelopes)
            await turns(self.chance)
            later = self.envelopes[silent:]
            assert not any(isinstance(each, Delivery) and each.message.channel == channel for each in later)

    async def inject_faults(self) -> None:
        """Begin a new incarnation, or lose what waits in the inbox, now and then."""
        for _ in range(self.chance.randrange(9)):
            await turns(self.chance, self.chance.choice([5, 5, 20, 300]))
            if self.chance.random() < 0.5:
                old = self.name()
                self.incarnation += 1
                for nodes in self.redis.routes.values():
                    nodes.discard(old)
                self.reader.switch_inbox(self.name())
                self.routes.on_new_incarnation()
            else:
                inbox = KEYS.inbox(self.name())
                entries = self.redis.inboxes[inbox]
                entries[:] = [(b"?", b"")] * len(entries)
                self.routes.resubscribe_all()
            if self.chance.random() < 0.5:
                # Perhaps the last message: then no later one shows that it is missing.
                await turns(self.chance)
                self.redis.publish(self.chance.choice(NAMES))


def count_gaps(kept: int, seeds: int) -> int:
    """Try so many orders with so many messages kept; return how many gaps were answers."""
    gaps = 0

    async def scenario(chance: Random) -> None:
        nonlocal gaps
        failures: list[BaseException] = []
        redis = Redis(kept)
        node = Node(redis, chance, failures)
        node.reader.switch_inbox(node.name())

        async def publish_repeatedly() -> None:
            for _ in range(chance.choice([20, 80])):
                await turns(chance)
                redis.publish(chance.choice(NAMES))

        await asyncio.gather(
            publish_repeatedly(),
            publish_repeatedly(),
            node.inject_faults(),
            *(node.subscribe_repeatedly(name) for name in NAMES),
        )
        for _ in range(3_000):
            await turns(chance, 1)
        for name in NAMES:
            node.check_continuous(name, node.envelopes[node.start[name] :])
            assert node.received[name] == redis.top[name], "the newest message was not received"
        gaps += node.gaps
        await node.reader.close()
        await node.tasks.close()
        assert failures == []

    run_shuffled(seeds, scenario)
    return gaps


def test_a_subscriber_receives_every_message_that_history_stores() -> None:
    assert count_gaps(kept=1_000, seeds=SEEDS) == 0


def test_a_subscriber_gets_a_gap_where_history_no_longer_stores_a_message() -> None:
    assert count_gaps(kept=2, seeds=SEEDS) > 0
