"""Lookups of users, channels and nodes across the cluster; each lookup asks only the nodes concerned.

Redis stores which nodes have connections of a user or subscribers of a channel, and the record of each node.
Connections and numbers of subscribers change too often to be stored in Redis: a lookup asks the nodes that
have the user or the channel, by entries in their inboxes (docs/redis.md#entries-of-an-inbox).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import orjson

from gateway.broker.base import ConnectionRecord, LocalNode, LookupResult, NodeRecord
from gateway.broker.redis.connection.pipeline import AnswerFuture, Pipeline, wait_until
from gateway.broker.redis.keys import Keys, user_routes
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.scripts.registry import (
    APPEND_TO_INBOXES,
    LIST_CHANNELS,
    LIST_NODES,
    milliseconds,
)
from gateway.broker.uid import new_uid
from gateway.errors import BrokerUnavailable, GatewayError

CHANNELS_PER_LOOKUP = 1_000
"""The maximum number of channels that one call lists."""


class RoutedChannels(NamedTuple):
    """Routed channels of one shard, and their subscribers on other nodes."""

    names: Sequence[str]
    """Sorted."""
    subscribers: Mapping[str, int]
    """By channel; channels without subscribers on other nodes may be missing."""
    error: GatewayError | None
    """Why the numbers may be too low: a node did not answer."""


class Lookups:
    """Sends this node's lookups on one shard, and answers the questions of other nodes."""

    def __init__(self, pipeline: Pipeline, keys: Keys, options: RedisOptions, node: LocalNode) -> None:
        """Send calls over *pipeline*; answer the questions of other nodes for *node*."""
        self.incarnation = ""
        """The id of this node's present incarnation, whose inbox gets the answers."""
        self._pipeline = pipeline
        self._keys = keys
        self._options = options
        self._node = node
        self._questions: dict[str, _Question] = {}
        """Questions that wait for answers, by token."""

    # ------------------------------------------------------------ users

    async def connections(self, user: str) -> LookupResult[ConnectionRecord]:
        """Return the connections of *user* on other nodes; partial if a node does not answer."""
        deadline = self._deadline()
        routes = [self._keys.route(name) for name in user_routes(user)]
        routed_to = await wait_until(self._pipeline.call(("SUNION", *routes)), deadline)
        incarnations = [incarnation.decode() for incarnation in routed_to]
        answers = await self._ask(incarnations, {"user": user}, deadline)
        records = [ConnectionRecord(*record) for answer in answers.items for record in answer]
        return LookupResult(records, answers.error)

    # ------------------------------------------------------------ channels

    async def subscribed_channels(self, prefix: str, *, after: str, limit: int) -> RoutedChannels:
        """Return the next routed channels by name, and their subscribers on other nodes.

        Only channels after *after* whose names start with *prefix*; at most *limit*, and at most
        `CHANNELS_PER_LOOKUP`.
        """
        deadline = self._deadline()
        from_ = f"({after}" if after >= prefix else f"[{prefix}"
        to = b"[" + prefix.encode() + b"\xff"
        count = min(limit, CHANNELS_PER_LOOKUP)
        call = LIST_CHANNELS([self._keys.routed_names], from_, to, count, self._keys.route_prefix)
        found, routed_to = await wait_until(self._pipeline.call(call), deadline)
        names = [name.decode() for name in found]
        if not names:
            return RoutedChannels(names, {}, None)
        question = {"prefix": prefix, "names": names}
        answers = await self._ask([incarnation.decode() for incarnation in routed_to], question, deadline)
        subscribers: dict[str, int] = {}
        for answer in answers.items:
            for name, number in answer.items():
                subscribers[name] = subscribers.get(name, 0) + number
        return RoutedChannels(names, subscribers, answers.error)

    # ------------------------------------------------------------ nodes

    async def nodes(self, past_incarnations: Collection[str]) -> list[NodeRecord]:
        """Return the records of the other live nodes; *past_incarnations* are incarnations of this node."""
        keys, tolerance = self._keys, milliseconds(self._options.clock_step_tolerance)
        call = LIST_NODES([keys.state, keys.nodes, keys.node_records], tolerance)
        answer = await wait_until(self._pipeline.call(call), self._deadline())
        own = {self.incarnation, *past_incarnations}
        return [
            NodeRecord(**orjson.loads(record))
            for incarnation, record in zip(answer[::2], answer[1::2], strict=True)
            if record and incarnation.decode() not in own
        ]

    # ------------------------------------------------------------ questions and answers

    def _deadline(self) -> float:
        """Return when a lookup that begins now must end, by the loop's clock."""
        return asyncio.get_running_loop().time() + self._options.lookup_timeout

    async def _ask(
        self, incarnations: Iterable[str], question: dict[str, Any], deadline: float
    ) -> LookupResult[Any]:
        """Return the answers of other nodes; partial if a node does not answer before *deadline*."""
        others = [incarnation for incarnation in incarnations if incarnation != self.incarnation]
        if not others:
            return LookupResult([])
        token = new_uid()
        waiting = self._questions[token] = _Question()
        try:
            head = f"q {token} {self.incarnation}"
            reached = await wait_until(self._append(head, orjson.dumps(question), *others), deadline)
            waiting.expect(len(reached))
            left = deadline - asyncio.get_running_loop().time()
            await asyncio.wait((waiting.complete,), timeout=max(0.0, left))
        finally:
            del self._questions[token]
        error = None if waiting.complete.done() else BrokerUnavailable("a node does not answer")
        return LookupResult(waiting.answers, error)

    def on_inbox_entry(self, kind: bytes, head: list[bytes], body: bytes) -> None:
        """Answer a question of another node (`q`), or add an answer to a question of this node (`a`)."""
        if kind == b"a":
            if (waiting := self._questions.get(head[1].decode())) is not None:
                waiting.add(orjson.loads(body))
        elif kind == b"q":
            answer = self._answer(orjson.loads(body))
            try:
                self._append(f"a {head[1].decode()}", orjson.dumps(answer), head[2].decode())
            except GatewayError:
                return  # the node that asked returns a partial result after its deadline

    def _answer(self, question: dict[str, Any]) -> Any:
        if "user" in question:
            records = self._node.connections(question["user"])
            return [[each.connection, each.node, list(each.channels), each.since] for each in records]
        counts = {name: self._node.subscribers(name) for name in question["names"]}
        return {name: count for name, count in counts.items() if count}

    def _append(self, head: str, body: bytes, *incarnations: str) -> AnswerFuture:
        """Append an entry to inboxes; the answer is the list of those incarnations whose inboxes have it."""
        keys = self._keys
        return self._pipeline.call(
            APPEND_TO_INBOXES(
                [keys.state, keys.nodes, *map(keys.inbox, incarnations)],
                self._options.inbox_limit,
                head,
                body,
                *incarnations,
            )
        )

    def __repr__(self) -> str:
        return f"<Lookups {len(self._questions)} questions wait for answers>"


class _Question:
    """A question that waits for the answers of other nodes."""

    __slots__ = ("answers", "complete", "expected")

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.expected: int | None = None
        """How many nodes have the question; None until Redis has answered. A node may answer before that."""
        self.complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def expect(self, count: int) -> None:
        self.expected = count
        self._check()

    def add(self, answer: Any) -> None:
        self.answers.append(answer)
        self._check()

    def _check(self) -> None:
        if self.expected is not None and len(self.answers) >= self.expected and not self.complete.done():
            self.complete.set_result(None)


def encode_record(node: LocalNode) -> bytes:
    """Return the record of *node*, encoded for Redis; `Lookups.nodes` of other nodes decodes it."""
    return orjson.dumps(asdict(node.as_record()), default=str)
