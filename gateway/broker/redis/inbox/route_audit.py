"""Rounds over the channels that are followed here, to see that Redis still knows it.

Nothing of ours takes a route away that somebody wants. But a Redis that may evict keys can, or a person with
`redis-cli`: then this node would hear nothing more of that channel, and nobody would ever miss it. In the
same rounds Redis is asked to keep positions, where nobody has said anything for long.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from math import ceil

from gateway.broker.notices import OnNotice, RoutesMissing
from gateway.broker.redis.connection.pipeline import Answer, Pipeline
from gateway.broker.redis.inbox.channel_state import ChannelState
from gateway.broker.redis.inbox.routes import Routes
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.scripts.registry import TOUCH, milliseconds
from gateway.errors import GatewayError
from gateway.tasks import Tasks

MOST = 200
"""Channels that one call looks at: 0.9 ms of Redis' time."""

ROUNDS = 3
"""In the time for which Redis keeps a position by itself, at least."""


class RouteAudit:
    """Looks after the routes of one shard, a few with each renewal of the lease."""

    def __init__(
        self,
        line: Pipeline,
        keys: Keys,
        options: RedisOptions,
        tasks: Tasks,
        routes: Routes,
        *,
        node: Callable[[], str],
        every: float,
        on_notice: OnNotice,
    ) -> None:
        """Look after *routes* to whatever *node* returns; `go_on` is called *every* so many seconds.

        Give `RoutesMissing` to *on_notice* with how many were not there any more.
        """
        self._line = line
        self._keys = keys
        self._meta_ttl = options.meta_ttl
        self._tasks = tasks
        self._routes = routes
        self._node = node
        self._share = every * ROUNDS / options.meta_ttl
        self._on_notice = on_notice
        self._left: deque[ChannelState] = deque()
        self.mended = 0
        """Routes that were not there any more."""

    def go_on(self) -> None:
        """Look after the next channels, in the background."""
        followed = self._routes.followed
        if not self._left:
            self._left.extend(followed.values())
        for _ in range(ceil(max(1.0, len(followed) * self._share / MOST))):
            some = [self._left.popleft() for _ in range(min(MOST, len(self._left)))]
            wanted = [(each, each.token) for each in some if each.wanted]
            if wanted:
                self._tasks.spawn(self._look(wanted, self._node()))

    async def _look(self, some: Sequence[tuple[ChannelState, str]], node: str) -> None:
        try:
            lost = await self._ask([followed.name for followed, _ in some], node)
        except GatewayError:
            return  # their next turn comes
        if node != self._node():
            return  # another incarnation has begun, and asks for everything itself
        again = [some[number - 1] for number in lost]
        # Whose token is another one was asked for again meanwhile.
        again = [
            (followed, token) for followed, token in again if followed.wanted and followed.token == token
        ]
        if again:
            self.mended += len(again)
            self._on_notice(RoutesMissing(len(again)))
            self._routes.again([followed for followed, _ in again])

    def _ask(self, names: Sequence[str], node: str) -> Answer:
        keys = self._keys
        pairs = [key for name in names for key in (keys.meta(name), keys.route(name))]
        return self._line.call(
            TOUCH([keys.node_routes(node), *pairs], node, milliseconds(self._meta_ttl), *names)
        )

    def __repr__(self) -> str:
        return f"<Rounds {len(self._left)} channels to go>"
