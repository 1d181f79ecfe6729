"""One session's interest in one channel."""

from __future__ import annotations

from typing import Protocol

from gateway.access.grants import Grant
from gateway.delivery.encoding import data_frame
from gateway.delivery.outbox import Outbox
from gateway.hub.channel import Channel, SubscriberSession
from gateway.hub.expiry_timer import ExpiryTimer
from protocol.codec import Codec
from protocol.messages import Gap, Member
from protocol.position import MessageId


class SubscriptionOwner(SubscriberSession, Protocol):
    """A session, as far as its subscriptions know it."""

    @property
    def codec(self) -> Codec:
        """What the connection speaks."""

    @property
    def outbox(self) -> Outbox:
        """The outbox to which its messages are offered."""

    @property
    def behind(self) -> dict[Subscription, None]:
        """The subscriptions of the session that wait for a catch-up."""


class Subscription:
    """One session's interest in one channel."""

    __slots__ = (
        "behind",
        "channel",
        "expiry",
        "grant",
        "member",
        "missed_unnumbered",
        "outbox",
        "session",
        "watches_presence",
    )

    def __init__(
        self, session: SubscriptionOwner, channel: Channel, *, watches_presence: bool, grant: Grant
    ) -> None:
        self.session = session
        self.outbox: Outbox = session.outbox
        self.channel = channel
        self.watches_presence = watches_presence
        """Whether it gets joins and leaves."""
        self.grant = grant
        """What permits it now."""
        self.behind: MessageId | None = None
        """The last position delivered, while the connection is too slow for live messages; else None."""
        self.missed_unnumbered = False
        """Whether it missed, while behind, a message that is in no history and that no catch-up replays."""
        self.member: Member | None = None
        """What presence shows of it; listed under an earlier connection's id if its user has returned."""
        self.expiry: ExpiryTimer | None = None
        """Ends the subscription with its channel token."""

    @property
    def on_slow(self) -> str:
        """The overflow policy of the channel's namespace."""
        return self.channel.rules.effective_on_slow

    @property
    def codec(self) -> Codec:
        """The codec of the connection."""
        return self.session.codec

    def gap_frame(self, position: MessageId | None, reason: str = "overflow") -> bytes:
        """Return the frame of a `gap` push: messages up to *position* are missing."""
        codec = self.codec
        return data_frame(codec.encode(Gap(self.channel.name, reason, position)), binary=codec.binary)

    def fall_behind(self, position: MessageId) -> None:
        """Wait for a catch-up from *position*; until then, get no message as it is delivered."""
        if self.behind is None:
            self.channel.totals.behind += 1
        self.behind = position
        self.session.behind[self] = None

    def go_live(self) -> None:
        """Get messages as they are delivered from now on; the subscription is not behind any more."""
        if self.behind is not None:
            self.channel.totals.behind -= 1
        self.session.behind.pop(self, None)
        self.behind = None
        self.missed_unnumbered = False

    def __repr__(self) -> str:
        state = "live" if self.behind is None else f"behind at {self.behind}"
        return f"<Subscription {self.channel.name} {state}>"
