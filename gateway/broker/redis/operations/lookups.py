"""What the cluster knows of its users, channels and nodes, without asking every node.

Redis knows which nodes have a user or a channel, and what each node says of itself; what changes with every
subscription is asked of the nodes that have it, through their inboxes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import asdict
from typing import Any

import orjson

from gateway.broker.base import ConnectionRecord, LocalNode, LookupResult, NodeRecord, UserCommand
from gateway.broker.redis import codec
from gateway.broker.redis.connection.pipeline import Pipeline, wait_for, wait_until
from gateway.broker.redis.inbox import user_commands
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.scripts.registry import (
    APPEND_TO_INBOXES,
    LIST_CHANNELS,
    LIST_NODES,
    SEND_USER_COMMAND,
    milliseconds,
)
from gateway.broker.uid import new_uid
from gateway.errors import BrokerUnavailable, GatewayError
from protocol.channels import personal

NAMES_AT_ONCE = 1_000

SILENT = "a node does not answer"


def interest(user: str) -> str:
    """Return the name under which nodes are routed for the connections of *user*; no channel has it."""
    return f"={user}"


class Lookups:
    """One shard's part of it."""

    def __init__(self, line: Pipeline, keys: Keys, options: RedisOptions, node: LocalNode) -> None:
        """Answer others for *node*; `incarnation` is its id here."""
        self.incarnation = ""
        self._line = line
        self._keys = keys
        self._options = options
        self._node = node
        self._asked: dict[str, _Asked] = {}

    # ------------------------------------------------------------ users

    async def connections(self, user: str) -> LookupResult[ConnectionRecord]:
        """Return the connections of *user* on other nodes; partial where one does not answer."""
        keys, until = self._keys, self._until()
        routes = [keys.route(name) for name in (interest(user), personal(user))]
        nodes = await wait_until(self._line.call(("SUNION", *routes)), until)
        answers = await self._ask([node.decode() for node in nodes], {"user": user}, until)
        records = [ConnectionRecord(*record) for answer in answers.items for record in answer]
        return LookupResult(records, answers.error)

    async def send_user_command(self, command: UserCommand) -> None:
        """Hand *command* to every node with a connection of its user, and to this one.

        Those that are away hear of it when they are back within the hour.
        """
        keys, user = self._keys, command.user
        routes = [keys.route(name) for name in (interest(user), personal(user))]
        call = SEND_USER_COMMAND(
            [keys.state, keys.nodes, keys.user_commands, *routes],
            keys.inbox_prefix,
            self._options.inbox_limit,
            codec.pack_user_command(command),
            self.incarnation,
            user_commands.MAX_LOGGED_COMMANDS,
            milliseconds(user_commands.LOG_TTL_SECONDS),
        )
        await wait_for(self._line.call(call), self._options.publish_timeout)

    # ------------------------------------------------------------ channels

    async def subscribed_channels(
        self, prefix: str, *, after: str, limit: int
    ) -> tuple[list[str], dict[str, int], GatewayError | None]:
        """Return at most *limit* routed channels by name, and how many follow each on other nodes.

        And why these numbers may be too low, where a node does not answer.
        """
        until = self._until()
        from_ = f"({after}" if after >= prefix else f"[{prefix}"
        to = b"[" + prefix.encode() + b"\xff"
        count = min(limit, NAMES_AT_ONCE)
        command = LIST_CHANNELS([self._keys.routed_names], from_, to, count, self._keys.route_prefix)
        found, nodes = await wait_until(self._line.call(command), until)
        names = [name.decode() for name in found]
        counts: dict[str, int] = {}
        if not names:
            return names, counts, None
        question = {"prefix": prefix, "names": names}
        answers = await self._ask([node.decode() for node in nodes], question, until)
        for answer in answers.items:
            for name, followers in answer.items():
                counts[name] = counts.get(name, 0) + followers
        return names, counts, answers.error

    # ------------------------------------------------------------ nodes

    async def nodes(self, past: Collection[str]) -> list[NodeRecord]:
        """Return what the other live nodes say of themselves; *past* are former incarnations of this one."""
        command = LIST_NODES([self._keys.nodes, self._keys.node_records])
        told = await wait_until(self._line.call(command), self._until())
        own = {self.incarnation, *past}
        return [
            NodeRecord(**orjson.loads(record))
            for node, record in zip(told[::2], told[1::2], strict=True)
            if record and node.decode() not in own
        ]

    # ------------------------------------------------------------ questions and answers

    def _until(self) -> float:
        """Return when a question that is put now has to be answered, by the loop's clock."""
        return asyncio.get_running_loop().time() + self._options.presence_timeout

    async def _ask(self, nodes: Iterable[str], question: dict[str, Any], until: float) -> LookupResult[Any]:
        """Return the answers of other *nodes*; partial without one that does not answer before *until*."""
        others = [node for node in nodes if node != self.incarnation]
        if not others:
            return LookupResult([])
        token = new_uid()
        asked = self._asked[token] = _Asked()
        try:
            head = f"q {token} {self.incarnation}"
            told = await wait_until(self._post(head, orjson.dumps(question), *others), until)
            asked.expect(len(told))
            left = until - asyncio.get_running_loop().time()
            await asyncio.wait((asked.complete,), timeout=max(0.0, left))
        finally:
            del self._asked[token]
        return LookupResult(asked.answers, None if asked.complete.done() else BrokerUnavailable(SILENT))

    def hear(self, kind: bytes, head: list[bytes], body: bytes) -> None:
        """Take a question of another node, or an answer to one of ours."""
        if kind == b"a":
            if (asked := self._asked.get(head[1].decode())) is not None:
                asked.add(orjson.loads(body))
        elif kind == b"q":
            answer = self._answer(orjson.loads(body))
            try:
                self._post(f"a {head[1].decode()}", orjson.dumps(answer), head[2].decode())
            except GatewayError:
                return  # whoever asked does not wait for long

    def _answer(self, question: dict[str, Any]) -> Any:
        if "user" in question:
            records = self._node.connections(question["user"])
            return [[each.connection, each.node, list(each.channels), each.since] for each in records]
        followed = self._node.subscribed_channels(question["prefix"])
        return {name: followed[name] for name in question["names"] if name in followed}

    def _post(self, head: str, body: bytes, *nodes: str) -> asyncio.Future[Any]:
        keys = self._keys
        return self._line.call(
            APPEND_TO_INBOXES(
                [keys.state, keys.nodes], keys.inbox_prefix, self._options.inbox_limit, head, body, *nodes
            )
        )


class _Asked:
    """A question that waits for its answers."""

    __slots__ = ("answers", "complete", "expected")

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.expected: int | None = None
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


def record_of(node: LocalNode) -> bytes:
    """Return what *node* says of itself, as other nodes read it."""
    return orjson.dumps(asdict(node.record()), default=str)
