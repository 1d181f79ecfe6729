"""What permits the subscriptions of a connection, and what ends that permission; no I/O, no clock.

See docs/protocol.md#refresh and docs/push-api.md#commands-for-connections.
"""

from __future__ import annotations

from enum import Enum

from gateway.access.claims import MAX_CHANNELS


class Grant(Enum):
    """What permits a subscription."""

    RULE = "the rule of the namespace, or that the channel is the user's own"
    CLAIM = "the `channels` of the connection's token"
    CHANNEL_TOKEN = "a channel token"  # noqa: S105 (what permits it, not a password)
    PUSH_API = "a call of the push API"


class ClaimedChannels:
    """The `channels` of a connection's token, less those that the push API has ended since it was issued.

    A channel that the push API ended stays ended for the life of the connection, until the push API
    subscribes the user again, or until a token comes that was issued later: older tokens, channel tokens
    included, no longer permit it.
    """

    __slots__ = ("_ended_at", "_names")

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._ended_at: dict[str, float] | None = None
        """When the push API ended each channel, in Unix seconds, the oldest first; None if it ended none."""

    def __contains__(self, channel: str) -> bool:
        return channel in self._names and not (self._ended_at and channel in self._ended_at)

    @property
    def names(self) -> tuple[str, ...]:
        """The channels that the token permits now, in its order."""
        return tuple(name for name in self._names if name in self) if self._ended_at else self._names

    def replace(self, names: tuple[str, ...], issued_at: float | None) -> None:
        """Take the *names* of a token that was issued at *issued_at*, Unix seconds; None counts as before."""
        self._names = names
        for name in names if self._ended_at else ():
            if self.permits(name, issued_at):
                self.allow(name)

    def end(self, channel: str, now: float) -> None:
        """Note that the push API ended *channel* at *now*, Unix seconds; the newest 1,000 are remembered."""
        ended_at = self._ended_at = self._ended_at or {}
        ended_at.pop(channel, None)
        ended_at[channel] = now
        if len(ended_at) > MAX_CHANNELS:
            del ended_at[next(iter(ended_at))]

    def allow(self, channel: str) -> None:
        """Forget that the push API ended *channel*."""
        if self._ended_at:
            self._ended_at.pop(channel, None)

    def permits(self, channel: str, issued_at: float | None) -> bool:
        """Return whether a token for *channel* that was issued at *issued_at* (Unix seconds) counts."""
        ended_at = None if self._ended_at is None else self._ended_at.get(channel)
        return ended_at is None or (issued_at is not None and issued_at > ended_at)
