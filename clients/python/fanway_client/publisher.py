"""Publishes on their way: sent now or when connected, again under the same key, visible at most once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fanway_client.connection import Connection, Map
from fanway_client.environment import Environment, Timer, Timers
from fanway_client.errors import (
    CONNECTION_LOST,
    QUEUE_FULL,
    STOPPED,
    TIMEOUT,
    TRANSIENT_CODES,
    UNCERTAIN,
    FanwayError,
)

MAX_QUEUED = 1_000
"""Publishes that may wait at once; one more is rejected."""
KEY_TTL_SECONDS = 300.0
"""For which every gateway remembers a key; `limits.key_ttl` says it where it is known."""


@dataclass(frozen=True, slots=True)
class Published:
    """The receipt of a publish."""

    channel: str
    key: str
    id: str | None = None
    """The message id; None if the channel keeps no history."""


@dataclass(slots=True, eq=False)
class _Entry:
    channel: str
    data: Any
    key: str
    receipt: asyncio.Future[Published]
    sent_at: float | None = None
    """When it was first sent."""
    attempts: int = 0
    retry_timer: Timer | None = field(default=None)


class Publisher:
    """The publishes of one client."""

    def __init__(
        self,
        environment: Environment,
        timers: Timers,
        connection: Connection,
        retry_delay: Callable[[int, float | None], float],
    ) -> None:
        self._environment = environment
        self._timers = timers
        self._connection = connection
        self._retry_delay = retry_delay
        self._entries: dict[_Entry, None] = {}
        self._key_ttl = KEY_TTL_SECONDS
        self._user: str | None = None

    def __len__(self) -> int:
        """Return how many publishes wait."""
        return len(self._entries)

    async def publish(self, channel: str, data: Any, *, key: str | None, timeout: float) -> Published:
        """Return the receipt; raise `FanwayError` with the gateway's code or one of this library."""
        if self._connection.state == "stopped":
            raise FanwayError(STOPPED, "the client has stopped")
        if len(self._entries) >= MAX_QUEUED:
            raise FanwayError(QUEUE_FULL, f"{MAX_QUEUED} publishes wait already")
        receipt: asyncio.Future[Published] = asyncio.get_running_loop().create_future()
        entry = _Entry(channel, data, key or self._environment.key(), receipt)
        self._entries[entry] = None
        timer = self._timers.call_later(
            timeout,
            lambda: self._fail(entry, TIMEOUT, "there was no connection in time; it was not published"),
        )
        try:
            self._send(entry)
            return await receipt
        finally:
            timer.cancel()
            self._remove(entry)

    def on_connected(self, received: Map) -> None:
        """Send what waits, in the order of the calls."""
        user = received["user"]
        # The keys of an anonymous client end with its connection: another try could publish twice.
        same_scope = user != "" and self._user in {None, user}
        self._user = user
        self._key_ttl = received.get("limits", {}).get("key_ttl", KEY_TTL_SECONDS)
        for entry in tuple(self._entries):
            if entry.sent_at is not None and not same_scope:
                self._fail(entry, UNCERTAIN, "")
            else:
                self._send(entry)

    def stop(self) -> None:
        """Reject what waits: the client has stopped."""
        for entry in tuple(self._entries):
            self._fail(entry, STOPPED, "the client has stopped; it was not published")

    def _send(self, entry: _Entry) -> None:
        if not self._connection.connected:
            return None
        if entry.retry_timer is not None:
            entry.retry_timer.cancel()
        now = self._environment.now()
        if entry.sent_at is not None and now - entry.sent_at >= self._key_ttl:
            return self._fail(entry, UNCERTAIN, "")
        if entry.sent_at is None:
            entry.sent_at = now
        command = {"type": "publish", "channel": entry.channel, "data": entry.data, "key": entry.key}
        return self._connection.request(
            command,
            lambda reply: self._settle(entry, Published(entry.channel, entry.key, reply.get("message"))),
            lambda error: self._on_rejected(entry, error),
        )

    def _on_rejected(self, entry: _Entry, error: FanwayError) -> None:
        if error.code == CONNECTION_LOST or entry not in self._entries:
            return  # sent again when connected
        if error.code not in TRANSIENT_CODES:
            self._remove(entry)
            if not entry.receipt.done():
                entry.receipt.set_exception(error)
            return
        # `rate_limited` was not carried out; the others may have been, which the key takes care of.
        if error.code == "rate_limited" and entry.attempts == 0:
            entry.sent_at = None
        delay = self._retry_delay(entry.attempts, error.retry_after)
        entry.attempts += 1
        entry.retry_timer = self._timers.call_later(delay, lambda: self._send(entry))

    def _settle(self, entry: _Entry, published: Published) -> None:
        self._remove(entry)
        if not entry.receipt.done():
            entry.receipt.set_result(published)

    def _fail(self, entry: _Entry, code: str, message: str) -> None:
        """Reject *entry* with *code*, or as `uncertain` if it was sent."""
        self._remove(entry)
        if entry.sent_at is not None:
            code, message = UNCERTAIN, "no reply to a publish that was sent: it may have happened"
        if not entry.receipt.done():
            entry.receipt.set_exception(FanwayError(code, message))

    def _remove(self, entry: _Entry) -> None:
        self._entries.pop(entry, None)
        if entry.retry_timer is not None:
            entry.retry_timer.cancel()
