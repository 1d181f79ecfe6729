"""What one client follows, how far it has come in each channel, and what it is sent."""

from __future__ import annotations

import asyncio
import secrets
from typing import Protocol

from gateway.delivery.encoding import data_frame
from gateway.delivery.outbox import Outbox, Writer
from gateway.delivery.overflow import Subscriber
from gateway.errors import GatewayError, rejection_of
from gateway.hub import preparing
from gateway.hub.recovery.catch_up import catch_up
from gateway.hub.services import Services
from gateway.hub.subscription import Subscription
from protocol.codec import Codec
from protocol.conversation import State
from protocol.errors import CloseCode
from protocol.messages import ServerMessage, Unsubscribed
from protocol.position import MessageId


class Transport(Writer, Protocol):
    """The socket of a session."""

    @property
    def peer(self) -> str:
        """The address of the client."""

    @property
    def is_open(self) -> bool:
        """Whether frames may still be written."""

    def close(self, code: int, reason: str = "") -> None:
        """Send a Close frame and end."""

    def pause(self) -> None:
        """Stop reading."""

    def resume(self) -> None:
        """Read again."""


class Following:
    """The part of a session that channels and the outbox know."""

    __slots__ = (
        "_catching_up",
        "_leaving",
        "_retry",
        "behind",
        "codec",
        "connection",
        "link",
        "outbox",
        "services",
        "state",
        "subscriptions",
    )

    def __init__(self, link: Transport, codec: Codec, services: Services) -> None:
        """Begin with nothing, on *link*."""
        self.link = link
        self.codec = codec
        self.services = services
        self.connection = secrets.token_urlsafe(12)
        self.state = State.OPENED
        self.outbox = Outbox(link, services.hub.flusher, self, services.limits.outbox)
        self.subscriptions: dict[str, Subscription] = {}
        self.behind: dict[Subscription, None] = {}
        """Those that wait for a replay, in the order of their turns."""
        self._leaving: dict[str, asyncio.Task[None]] | None = None
        self._catching_up = False
        self._retry: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        """Whether the client is still there and was not told to go."""
        return self.state is not State.CLOSING

    def send(self, message: ServerMessage) -> None:
        """Send a reply or a push at the end of the turn."""
        self.outbox.push(data_frame(self.codec.encode(message), binary=self.codec.binary))

    def end(self, code: int, reason: str = "") -> None:
        """Send what waits, then a Close frame with *code*, and leave everything."""
        raise NotImplementedError

    # ------------------------------------------------------------ channels come and go

    def revoke(self, channel: str, code: str, reason: str) -> None:
        """End the subscription to *channel* and say why."""
        self.unfollow(channel)
        self.send(Unsubscribed(channel, code, reason))

    def unfollow(self, channel: str) -> None:
        """End the subscription to *channel*, and the presence there."""
        subscription = self.subscriptions.pop(channel)
        subscription.channel.remove(subscription)
        self.behind.pop(subscription, None)
        if subscription.expiry is not None:
            subscription.expiry.cancel()
        self.services.hub.tidy(subscription.channel)
        if subscription.member is not None:
            self._leave(channel)

    def _leave(self, channel: str) -> None:
        outcome = self.services.tasks.start(preparing.leave(self.services, channel, self.connection))
        if outcome is not None:
            leaving = self._leaving = self._leaving or {}
            leaving[channel] = outcome
            outcome.add_done_callback(lambda _: leaving.pop(channel))

    async def left(self, channel: str) -> None:
        """Wait until an earlier presence in *channel* has ended, so that it cannot end a newer one."""
        if self._leaving and (leaving := self._leaving.get(channel)) is not None:
            await asyncio.wait([leaving])

    def go_live(self, subscription: Subscription) -> None:
        """Let *subscription* have what comes from now on; it is no longer behind."""
        self.behind.pop(subscription, None)
        subscription.behind = None
        subscription.missed = False

    def leave_all(self) -> None:
        """End every subscription: nothing is sent any more."""
        if self._retry is not None:
            self._retry.cancel()
        for channel in list(self.subscriptions):
            self.unfollow(channel)

    # ------------------------------------------------------------ what the outbox calls

    def fell_behind(self, follower: Subscriber, position: MessageId) -> None:
        """Remember where to go on with *follower* once there is room."""
        if isinstance(follower, Subscription) and self.subscriptions.get(follower.channel.name) is follower:
            follower.behind = position
            self.behind[follower] = None

    def too_slow(self) -> None:
        """End: not even what must not be dropped fits any more."""
        self.outbox.discard()
        self.end(CloseCode.SLOW_CONSUMER)

    def caught_breath(self) -> None:
        """Replay what was dropped meanwhile."""
        if self.behind and not self._catching_up:
            self.services.tasks.start(self._catch_up())

    async def _catch_up(self) -> None:
        self._catching_up = True
        try:
            await catch_up(self)
        except GatewayError as error:
            wait = rejection_of(error).retry_after or 0.0  # the delay that a client is given, too
            self._retry = asyncio.get_running_loop().call_later(wait, self.caught_breath)
        except Exception as error:  # noqa: BLE001 (whoever stayed behind in silence would lose everything)
            self.services.on_error(error)
            self.end(CloseCode.INTERNAL)
        finally:
            self._catching_up = False
