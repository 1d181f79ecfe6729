"""What this node is routed for: on the first wish, and for some seconds beyond the last."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from gateway.broker.base import Retention
from gateway.broker.redis.connection.pipeline import Answer, Pipeline, wait_for
from gateway.broker.redis.inbox.channel_state import ChannelState
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.scripts.registry import SUBSCRIBE, UNSUBSCRIBE, milliseconds
from gateway.broker.uid import new_uid
from gateway.clock import Clock
from gateway.errors import BrokerUnavailable, GatewayError
from gateway.tasks import Tasks
from protocol.position import MessageId

TURN = 200
"""Channels that are asked for again, or given up, before others get their turn."""


class Routes:
    """The channels of one shard that this node wants, and what Redis knows of that."""

    def __init__(
        self,
        line: Pipeline,
        keys: Keys,
        options: RedisOptions,
        tasks: Tasks,
        *,
        node: Callable[[], str],
        clock: Clock,
        missed: Callable[[], None] = lambda: None,
    ) -> None:
        """Route to whatever *node* returns: the id of the present incarnation.

        Call *missed* when everything is asked for that was not routed for a while.
        """
        self.followed: dict[bytes, ChannelState] = {}
        self._line = line
        self._keys = keys
        self._options = options
        self._tasks = tasks
        self._node = node
        self._clock = clock
        self._missed = missed
        self._lingering: deque[tuple[float, ChannelState, int]] = deque()
        self._unrouting = False
        self._unheard: dict[ChannelState, int] = {}
        self._untold: set[ChannelState] = set()
        """Those of which Redis was never told a word: nothing of them need be taken back."""

    async def subscribe(self, name: str, retention: Retention | None) -> MessageId | None:
        """Route *name* to this node and return its position."""
        numbered = retention is not None
        try:
            return await self._subscribe(name, numbered=numbered)
        except BrokerUnavailable:
            if numbered:
                raise
            # There is no position to tell: it is followed once Redis is back, with a gap before that.
            self.want(name)
            return None

    async def _subscribe(self, name: str, *, numbered: bool) -> MessageId | None:
        token = new_uid()
        answer = self._ask(name, token, numbered=numbered)
        followed = self.followed.get(name.encode())
        if followed is None:
            followed = self.followed[name.encode()] = ChannelState(name)
        self._untold.discard(followed)
        before = followed.life
        followed.begin(token, numbered=numbered)
        life = followed.life
        try:
            told = await wait_for(answer, self._options.resume_timeout)
        except BaseException:
            # Perhaps it is routed all the same.
            if before != life == followed.life:
                self._end(followed)
            raise
        position = MessageId(told[1], told[2].decode()) if numbered else None
        stands = followed.answered(life, position)
        # Who joins those that follow already begins where Redis says.
        return position if before == life else stands

    def want(self, name: str) -> None:
        """Route *name*, which keeps no history, as soon as Redis can be told; nobody waits for it."""
        followed = self.followed.get(name.encode())
        if followed is None:
            followed = self.followed[name.encode()] = ChannelState(name)
            self._untold.add(followed)
        if not (followed.wanted and followed.token):
            followed.begin(new_uid(), numbered=False)
            self._ask_again(followed)

    def unsubscribe(self, name: str) -> None:
        """Want *name* no longer; it stays routed for a while."""
        followed = self.followed.get(name.encode())
        if followed is not None and followed.wanted:
            self._end(followed)

    def reroute(self) -> None:
        """Route everything that is wanted to a new inbox; the old one ends with its routes."""
        self.followed = {key: followed for key, followed in self.followed.items() if followed.wanted}
        self._lingering.clear()
        self._unheard.clear()
        self.resume()

    def resume(self) -> None:
        """Go on, from a new mark each, with everything that is wanted: entries before that may be missing."""
        wanted = [followed for followed in self.followed.values() if followed.wanted]
        for followed in wanted:
            followed.begin_again("-")
        self._tasks.spawn(self._resume([(followed, followed.life) for followed in wanted], self._node()))

    async def _resume(self, wanted: Sequence[tuple[ChannelState, int]], node: str) -> None:
        for number, (followed, life) in enumerate(wanted, start=1):
            if node != self._node():
                return  # another incarnation has begun, and asks for everything itself
            if followed.life == life:
                self._ask_again(followed)
            if number % TURN == 0:
                await asyncio.sleep(0)
        if wanted:
            self._missed()

    def settle(self) -> None:
        """Ask again for what was asked for in vain."""
        unheard, self._unheard = self._unheard, {}
        for followed, life in unheard.items():
            if followed.life == life:
                self._ask_again(followed)
        if unheard:
            self._missed()

    def again(self, lost: Sequence[ChannelState]) -> None:
        """Route each of *lost* again, which Redis has forgotten: what was said meanwhile may be missing."""
        for followed in lost:
            self._ask_again(followed)
        self._missed()

    def _ask_again(self, followed: ChannelState) -> None:
        token = new_uid()
        followed.begin_again(token)
        life = followed.life

        def check(done: Answer) -> None:
            if followed.token == token and (done.cancelled() or done.exception() is not None):
                self._unheard[followed] = life

        try:
            self._ask(followed.name, token, numbered=followed.numbered).add_done_callback(check)
        except GatewayError:
            self._unheard[followed] = life
        else:
            self._untold.discard(followed)

    # ------------------------------------------------------------ inside

    def _ask(self, name: str, token: str, *, numbered: bool) -> Answer:
        keys, node = self._keys, self._node()
        return self._line.call(
            SUBSCRIBE(
                [
                    keys.state,
                    keys.beats,
                    keys.meta(name),
                    keys.log(name),
                    keys.route(name),
                    keys.nodes,
                    keys.node_routes(node),
                    keys.routed_names,
                    keys.inbox(node),
                ],
                node,
                name,
                token,
                self._options.inbox_limit,
                new_uid(),
                milliseconds(self._options.meta_ttl),
                int(numbered),
                int(not name.startswith("=")),
            )
        )

    def _end(self, followed: ChannelState) -> None:
        followed.end()
        if followed in self._untold:
            self._untold.discard(followed)
            self._unheard.pop(followed, None)
            self._drop(followed)
            return
        self._linger(followed, followed.life, self._options.linger)
        if not self._unrouting:
            self._unrouting = True
            self._tasks.spawn(self._unroute())

    def _linger(self, followed: ChannelState, life: int, seconds: float) -> None:
        self._lingering.append((self._clock() + seconds, followed, life))

    async def _unroute(self) -> None:
        """Tell Redis of what has not been wanted for long enough; ends when there is nothing of that kind."""
        try:
            while self._lingering:
                await asyncio.sleep(max(0.0, self._lingering[0][0] - self._clock()))
                # All of them before the first answer: one line keeps the order of the calls, so that whoever
                # subscribes again from here on is heard after this.
                asked = [(followed, life, self._unask(followed)) for followed, life in self._due()]
                for followed, life, answer in asked:
                    if await _heard(answer):
                        self._forget(followed, life)
                    else:
                        self._linger(followed, life, max(1.0, self._options.linger))
        finally:
            self._unrouting = False

    def _due(self) -> list[tuple[ChannelState, int]]:
        """Take what has lingered for long enough, the oldest first, and is not followed again."""
        due: list[tuple[ChannelState, int]] = []
        while self._lingering and self._lingering[0][0] <= self._clock() and len(due) < TURN:
            _, followed, life = self._lingering.popleft()
            if followed.life == life and self._known(followed):
                due.append((followed, life))
        return due

    def _unask(self, followed: ChannelState) -> Answer | None:
        """Ask Redis to unroute *followed*; None where asking is no use."""
        keys, node, name = self._keys, self._node(), followed.name
        try:
            return self._line.call(
                UNSUBSCRIBE([keys.route(name), keys.node_routes(node), keys.routed_names], node, name)
            )
        except GatewayError:
            return None

    def _forget(self, followed: ChannelState, life: int) -> None:
        """Drop *followed*, unless it was followed since *life*: of that Redis heard after this."""
        if followed.life == life:
            self._drop(followed)

    def _drop(self, followed: ChannelState) -> None:
        if self._known(followed):
            del self.followed[followed.name.encode()]

    def _known(self, followed: ChannelState) -> bool:
        """Whether *followed* is still what stands for its channel: since `reroute`, that may be another."""
        return self.followed.get(followed.name.encode()) is followed

    def __repr__(self) -> str:
        return f"<Routes {len(self.followed)} channels>"


async def _heard(answer: Answer | None) -> bool:
    """Return whether Redis has carried out what *answer* is to."""
    if answer is None:
        return False
    try:
        await answer
    except GatewayError:
        return False
    return True
