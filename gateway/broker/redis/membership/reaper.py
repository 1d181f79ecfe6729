"""The ends of nodes: their routes, their members and their inboxes, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable

from gateway.broker.redis.connection.pipeline import Pipeline
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.scripts.registry import REAP, milliseconds

REMEMBERED = 86_400.0
"""Seconds for which Redis knows of a node that it was cleaned up after: no zombie sleeps longer."""

BATCH = 200
"""Routes or members that one call cleans up."""


class Reaper:
    """Cleans up on one shard."""

    def __init__(
        self, line: Pipeline, keys: Keys, options: RedisOptions, *, reaped: Callable[[str], None]
    ) -> None:
        """Call *reaped* with the id of each node that has not given its lease up by itself."""
        self._line = line
        self._keys = keys
        self._bound = options.inbox
        self._reaped = reaped
        self.count = 0
        """Of such nodes."""

    async def clean_up(self, node: str, *, willing: bool) -> None:
        """Remove all that is of *node*, unless it holds its lease and is not *willing*.

        Whoever follows a channel that it has members in hears that they left. Raises what the call raises.
        """
        keys, left = self._keys, 1
        command = REAP(
            [
                keys.state,
                keys.nodes,
                keys.figures,
                keys.beats,
                keys.names,
                keys.of(node),
                keys.members(node),
                keys.inbox(node),
            ],
            node,
            BATCH,
            int(willing),
            keys.routes,
            keys.who_of,
            keys.inboxes,
            self._bound,
            milliseconds(REMEMBERED),
        )
        while left > 0:
            left = await self._line.call(command)
        if left == 0 and not willing:
            self.count += 1
            self._reaped(node)

    def __repr__(self) -> str:
        return f"<Reaper of {self.count}>"
