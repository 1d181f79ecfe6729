"""When a token ends, whatever is done to the wall clock meanwhile (docs/operations.md#clocks)."""

from __future__ import annotations

from collections import OrderedDict

from gateway.clock import Clock

MAX_SPENT_TOKENS = 10_000
"""Users and channels whose spent tokens are remembered: 3 MB."""


class Expiry:
    """The end of an admitted token: at its `exp`, and never later than it would have been on admission.

    A wall clock that is stepped forward ends the token earlier; one that is stepped back does not prolong it.
    """

    __slots__ = ("_elapsed", "_ends_at", "_wall", "at")

    def __init__(self, at: float, *, wall: Clock, elapsed: Clock) -> None:
        """Begin now; *at* is in Unix seconds."""
        self.at = at
        self._wall = wall
        self._elapsed = elapsed
        self._ends_at = elapsed() + at - wall()

    @property
    def seconds_left(self) -> float:
        """Seconds until the token ends; never negative."""
        return max(0.0, min(self.at - self._wall(), self._ends_at - self._elapsed()))


class SpentTokens:
    """Tokens that ended on this node although the wall clock says that they are valid: it was stepped back.

    Without this, a client whose connection was closed could connect again with the same token.
    """

    __slots__ = ("_spent",)

    def __init__(self) -> None:
        self._spent: OrderedDict[tuple[str, str], float] = OrderedDict()
        """The latest `exp` of a spent token, by user and channel; a connection token's channel is empty."""

    def add(self, user: str, channel: str, expires_at: float, now: float) -> None:
        """Remember the token that ended at *now*, in Unix seconds, if it would be admitted again."""
        if expires_at <= now:
            return
        key = (user, channel)
        self._spent[key] = max(expires_at, self._spent.pop(key, 0.0))
        if len(self._spent) > MAX_SPENT_TOKENS:
            self._spent.popitem(last=False)

    def include(self, user: str, channel: str, expires_at: float | None, now: float) -> bool:
        """Return whether a token with these claims is spent; one that expires later is not."""
        if not self._spent or expires_at is None:
            return False
        key = (user, channel)
        latest = self._spent.get(key, 0.0)
        if latest and latest <= now:
            del self._spent[key]
        return expires_at <= latest

    def __len__(self) -> int:
        return len(self._spent)
