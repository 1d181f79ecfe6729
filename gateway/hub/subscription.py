"""One session's interest in one channel."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.delivery.encoding import data_frame
from gateway.delivery.outbox import Outbox
from protocol.codec import Codec
from protocol.messages import Gap, Member
from protocol.position import MessageId

if TYPE_CHECKING:
    from gateway.hub.channel import Channel
    from gateway.hub.session import Session


class Subscription:
    """One session's interest in one channel."""

    __slots__ = (
        "behind",
        "channel",
        "expiry",
        "member",
        "missed",
        "outbox",
        "server_side",
        "session",
        "watches",
    )

    def __init__(self, session: Session, channel: Channel, *, watches: bool, server_side: bool) -> None:
        self.session = session
        self.outbox: Outbox = session.outbox
        self.channel = channel
        self.watches = watches
        """Whether it is told of joins and leaves."""
        self.server_side = server_side
        self.behind: MessageId | None = None
        """What was delivered last, while the connection is too slow to follow live."""
        self.missed = False
        """Whether it missed, while behind, what no history will replay."""
        self.member: Member | None = None
        """What presence shows of it."""
        self.expiry: asyncio.TimerHandle | None = None

    @property
    def on_slow(self) -> str:
        """What becomes of messages that the connection is too slow for."""
        return self.channel.rules.effective_on_slow

    @property
    def codec(self) -> Codec:
        """The codec of the connection."""
        return self.session.codec

    def gap(self, position: MessageId | None, reason: str = "overflow") -> bytes:
        """Return the frame that tells of messages missing up to *position*."""
        codec = self.codec
        return data_frame(codec.encode(Gap(self.channel.name, reason, position)), binary=codec.binary)

    def __repr__(self) -> str:
        state = "live" if self.behind is None else f"behind at {self.behind}"
        return f"<Subscription {self.channel.name} {state}>"
