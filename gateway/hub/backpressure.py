"""Delays answers to publishers that are faster than a node's clients (docs/slow-clients.md#backpressure)."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sized

from gateway.clock import Clock
from gateway.delivery.full_outboxes import FullOutboxes, SizedOutbox
from gateway.hub.channel import Channel

POLL_SECONDS, WAIT_SECONDS = 0.005, 1.0
"""How often a waiting publisher checks whether clients accept more, and how long it waits at most.

Polls, although a socket could report when it accepts more: if all publishers are woken together, they fill
the sockets again; throughput was 20 % lower (`bench/compare.py`, `max`).
"""

FULL_SOCKETS_ALLOWED = 32
"""Full sockets that slow no publisher down, however few clients there are."""

SUSPENSION_SECONDS = 10.0
"""For how long publishers do not wait for a channel's subscribers after one has waited `WAIT_SECONDS`.

The publisher has waited, and the sockets of the subscribers are still full, or full again: something other
than the publishers of this channel fills these sockets.
"""


class Backpressure:
    """Lets a publisher wait while the node as a whole and the subscribers of its channel are slow.

    One slow client does not delay a publisher. But a publisher that is faster than all clients of a node
    together only fills every buffer on the way until each client is too slow: a later answer to the publisher
    is better. Clients must not be able to slow down publishers by this. Therefore a publisher waits only

    - while more than half of the node's sockets are full, and more than `FULL_SOCKETS_ALLOWED`,
    - while more than half of the subscribers of its own channel have a full socket,
    - `WAIT_SECONDS` at most; after that, publishers of the channel do not wait for `SUSPENSION_SECONDS`.

    Sockets that are full for longer than `STALLED_SECONDS` count in neither half.
    """

    __slots__ = (
        "_channels",
        "_clock",
        "_delayed",
        "_full",
        "_sessions",
        "_slow",
        "_slow_until",
        "_suspended_until",
        "_suspensions",
        "_waiting",
    )

    def __init__(
        self, full: FullOutboxes, sessions: Sized, channels: Mapping[str, Channel], clock: Clock
    ) -> None:
        """Watch the *full* outboxes among those of *sessions*, which subscribe to *channels*."""
        self._full = full
        self._sessions = sessions
        self._channels = channels
        self._clock = clock
        self._slow: dict[str, bool] = {}
        """Whether the subscribers of each channel are slow, until `_slow_until`: counting them takes time."""
        self._slow_until = 0.0
        self._suspended_until: dict[str, float] = {}
        """Until when publishers of a channel do not wait; the first entry ends first."""
        self._waiting = self._delayed = self._suspensions = 0

    async def wait_for_capacity(self, channel: str) -> None:
        """Wait until the subscribers of *channel* accept more, for its publishers."""
        if len(self._full) <= FULL_SOCKETS_ALLOWED or not self._must_wait(channel):
            return
        deadline = self._clock() + WAIT_SECONDS
        self._delayed += 1
        self._waiting += 1
        try:
            while self._must_wait(channel):
                if self._clock() >= deadline:
                    self._suspend(channel)
                    return
                await asyncio.sleep(POLL_SECONDS)
        finally:
            self._waiting -= 1

    def statistics(self) -> dict[str, int]:
        """Return how many publishers wait, how many have waited, and how often the wait reached its limit."""
        return {"waiting": self._waiting, "delayed": self._delayed, "suspended": self._suspensions}

    # ------------------------------------------------------------ inside

    def _must_wait(self, channel: str) -> bool:
        recent = self._full.recent()
        reading = len(self._sessions) - (len(self._full) - len(recent))
        if len(recent) <= max(FULL_SOCKETS_ALLOWED, reading // 2):
            return False
        now = self._clock()
        if now >= self._slow_until:
            self._slow.clear()
            self._slow_until = now + POLL_SECONDS
        if channel not in self._slow:
            self._slow[channel] = self._is_slow(channel, recent) and not self._is_suspended(channel, now)
        return self._slow[channel]

    def _is_slow(self, name: str, recent: Collection[SizedOutbox]) -> bool:
        """Return whether more subscribers are slow for a moment than accept messages now."""
        channel = self._channels.get(name)
        if channel is None:
            return False
        slow = accepting = 0
        for subscriptions in channel.subscribers.values():
            for subscription in subscriptions:
                if subscription.outbox in recent:
                    slow += 1
                elif subscription.outbox not in self._full:
                    accepting += 1
        return slow > accepting

    def _suspend(self, channel: str) -> None:
        now = self._clock()
        suspended = self._suspended_until
        while suspended and suspended[first := next(iter(suspended))] <= now:
            del suspended[first]
        suspended.pop(channel, None)
        suspended[channel] = now + SUSPENSION_SECONDS
        self._slow[channel] = False
        self._suspensions += 1

    def _is_suspended(self, channel: str, now: float) -> bool:
        return self._suspended_until.get(channel, now) > now

    def __repr__(self) -> str:
        return f"<Backpressure {self._waiting} waiting {self._suspensions} suspended>"
