"""Routes on their way to Redis: those that are added together share one call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gateway.broker.redis.connection.batch_timer import BatchTimer
from gateway.broker.redis.connection.health import ShardHealth
from gateway.broker.redis.connection.pipeline import AnswerFuture, Pipeline
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.scripts.registry import ADD_ROUTES, Command, milliseconds
from gateway.broker.uid import new_uid
from gateway.errors import GatewayError
from protocol.position import MessageId

ROUTES_PER_CALL = 100
"""Routes that one call adds or removes at most: Redis serves nobody else meanwhile, for about 1 ms."""

_USER, _CHANNEL, _CHANNEL_WITH_HISTORY = range(3)
"""Kinds of routes, as the script `add_routes` expects them."""


class _Add(NamedTuple):
    answer: asyncio.Future[MessageId | None]
    name: str
    marker: str
    kind: int


class RouteAdds:
    """Sends the routes that one shard adds, in the order of the calls."""

    def __init__(
        self,
        pipeline: Pipeline,
        health: ShardHealth,
        keys: Keys,
        options: RedisOptions,
        *,
        incarnation: Callable[[], str],
    ) -> None:
        """Send over *pipeline*, at once while *health* says that calls may fail."""
        self._pipeline = pipeline
        self._health = health
        self._keys = keys
        self._options = options
        self._incarnation = incarnation
        self._waiting: list[_Add] = []
        self._timer = BatchTimer(self._send_all)

    def call(self, name: str, marker: str, *, has_history: bool) -> asyncio.Future[MessageId | None]:
        """Return a future of the position of *name* when it is routed, None without a history.

        Raises:
            BrokerUnavailable: at once, if the shard is unavailable.
        """
        answer: asyncio.Future[MessageId | None] = asyncio.get_running_loop().create_future()
        if not self._health.available:
            self.flush()
            self._health.require_available()
        kind = _USER if name.startswith("=") else _CHANNEL_WITH_HISTORY if has_history else _CHANNEL
        self._waiting.append(_Add(answer, name, marker, kind))
        if len(self._waiting) < ROUTES_PER_CALL:
            self._timer.request()
        else:
            self._timer.flush()
        return answer

    def flush(self) -> None:
        """Send now what waits."""
        if self._waiting:
            self._timer.flush()

    # ------------------------------------------------------------ inside

    def _send_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), ROUTES_PER_CALL):
            self._send(waiting[start : start + ROUTES_PER_CALL])

    def _send(self, adds: Sequence[_Add]) -> None:
        def on_answer(answer: AnswerFuture) -> None:
            error = asyncio.CancelledError() if answer.cancelled() else answer.exception()
            if error is not None:
                _fail(adds, error)
                return
            _, *positions = answer.result()
            for add, position in zip(adds, positions, strict=True):
                if not add.answer.done():
                    add.answer.set_result(MessageId(position[0], position[1].decode()) if position else None)

        try:
            self._pipeline.call(self._command(adds)).add_done_callback(on_answer)
        except GatewayError as error:
            _fail(adds, error)

    def _command(self, adds: Sequence[_Add]) -> Command:
        keys, incarnation = self._keys, self._incarnation()
        common = [
            keys.state,
            keys.beats,
            keys.nodes,
            keys.node_routes(incarnation),
            keys.routed_names,
            keys.inbox(incarnation),
        ]
        of_each = [
            key for add in adds for key in (keys.meta(add.name), keys.log(add.name), keys.route(add.name))
        ]
        return ADD_ROUTES(
            common + of_each,
            incarnation,
            self._options.inbox_limit,
            milliseconds(self._options.meta_ttl),
            *(argument for add in adds for argument in (add.name, add.marker, new_uid(), add.kind)),
        )

    def __repr__(self) -> str:
        return f"<RouteAdds {len(self._waiting)} waiting>"


def _fail(adds: Sequence[_Add], error: BaseException) -> None:
    for add in adds:
        if not add.answer.done():
            add.answer.set_exception(error)
            add.answer.exception()  # retrieved here, in case that no caller awaits it
