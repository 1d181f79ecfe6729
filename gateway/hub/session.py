"""One client, from connect to close: a session owns its commands, its subscriptions and its outbox."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol

from gateway.access.admission import ClientSlot
from gateway.access.claims import Identity
from gateway.access.grants import ClaimedChannels, Grant
from gateway.broker.base import ConnectionRecord, UserCommand
from gateway.delivery.encoding import data_frame
from gateway.delivery.outbox import Outbox, Writer
from gateway.delivery.overflow import Subscriber
from gateway.errors import GatewayError, rejection_of
from gateway.hub.command_queue import CommandQueue
from gateway.hub.expiry_timer import ExpiryTimer
from gateway.hub.pong_deadline import PongDeadline
from gateway.hub.recovery.catch_up import catch_up
from gateway.hub.services import Services
from gateway.hub.subscription import Subscription
from gateway.transport.tcp_progress import TcpProgress
from protocol.codec import Codec
from protocol.conversation import State
from protocol.errors import CLOSES, CloseCode, ErrorCode, ProtocolError
from protocol.messages import (
    Command,
    Error,
    Expiring,
    ServerMessage,
    ServerPing,
    Unsubscribed,
)
from protocol.position import MessageId


class Transport(Writer, Protocol):
    """The connection of a session: a WebSocket, or the memory of a test."""

    @property
    def peer(self) -> str:
        """The address of the client."""

    @property
    def is_open(self) -> bool:
        """Whether frames may still be written."""

    def protect(self) -> None:
        """Never close this connection in favour of another."""

    def close(self, code: int, reason: str = "") -> None:
        """Send a Close frame with *code*; the session gets no further message."""

    def abort(self) -> None:
        """Close the connection at once, without what waits in its write buffer."""

    def pause(self) -> None:
        """Stop reading from the connection."""

    def resume(self) -> None:
        """Read from the connection again."""

    def progress(self) -> TcpProgress:
        """Return how far the bytes of the connection have got."""


class Dispatcher(Protocol):
    """What carries out the commands of a session; in a node, the module `gateway.hub.dispatch`.

    Passed to each session, not imported by it: command handlers work on sessions.
    """

    def answer(self, session: Session, command: Command) -> Coroutine[Any, Any, None]:
        """Carry out *command* and send its reply, or an error."""

    def server_subscribe(self, session: Session, channel: str) -> Coroutine[Any, Any, None]:
        """Subscribe *session* to *channel* because the push API asks for it."""


class Session:
    """The logical life of one connection."""

    __slots__ = (
        "_answered_ping_at",
        "_catch_up_retry",
        "_catching_up",
        "_client_slot",
        "_connect_timer",
        "_dispatcher",
        "_leaving",
        "_on_ended",
        "behind",
        "claimed",
        "codec",
        "commands",
        "connected_at",
        "connection",
        "header_token",
        "info",
        "last_received_at",
        "opened_at",
        "outbox",
        "ping_sent_at",
        "pong_deadline",
        "services",
        "state",
        "subscriptions",
        "token_expiry",
        "transport",
        "user",
        "wheel_slot",
    )

    def __init__(
        self,
        transport: Transport,
        codec: Codec,
        services: Services,
        *,
        dispatcher: Dispatcher,
        on_ended: Callable[[], None],
        header_token: str | None = None,
        address: str = "",
    ) -> None:
        """Start the session; the caller attaches it to *transport* next.

        Args:
            transport: The connection.
            codec: What the client and the gateway speak on it.
            services: What all sessions of the node share.
            dispatcher: Carries out commands.
            on_ended: Called once, when the session has ended and has released what it held.
            header_token: The token of the upgrade request, used by a `connect` that carries none.
            address: The address of the client, behind proxies, whose rate its commands count for; empty if
                it has none.
        """
        limits = services.limits
        self.transport = transport
        self.codec = codec
        self.services = services
        self.connection = secrets.token_urlsafe(12)
        self.state = State.OPENED
        self.connected_at = services.wall_clock()
        """Unix seconds."""
        self.opened_at = services.elapsed_clock()
        """As `UserCommand.issued_before` has it."""
        self.user = ""
        self.info: Any = None
        self.claimed = ClaimedChannels()
        """The channels that the token names: subscribed by the server, and open to the client."""
        self.token_expiry: ExpiryTimer | None = None
        """None for an anonymous connection, and for a token that does not expire."""
        self.header_token = header_token
        self.commands = CommandQueue(self, services, address)
        self.outbox = Outbox(transport, services.hub.flusher, self, limits.outbox)
        self.subscriptions: dict[str, Subscription] = {}
        self.behind: dict[Subscription, None] = {}
        """Subscriptions that wait for a catch-up, in the order in which they get their batches."""
        self.last_received_at = self.ping_sent_at = self._answered_ping_at = 0.0
        self.wheel_slot = -1
        self.pong_deadline: PongDeadline | None = None
        self._dispatcher = dispatcher
        self._on_ended = on_ended
        self._client_slot: ClientSlot | None = None
        self._leaving: dict[str, asyncio.Task[None]] | None = None
        """Calls that end the presence in a channel, while they run."""
        self._catching_up = False
        self._catch_up_retry: asyncio.TimerHandle | None = None
        self._connect_timer: asyncio.TimerHandle | None = asyncio.get_running_loop().call_later(
            limits.connect_timeout, self.close, CloseCode.CONNECT_TIMEOUT
        )

    @property
    def is_open(self) -> bool:
        """Whether the connection is there and the gateway has not closed it."""
        return self.state is not State.CLOSING

    # ------------------------------------------------------------ what the transport calls

    def on_message(self, payload: bytes, *, binary: bool) -> None:
        """Run the command in *payload*, after those that still run; reject what is not a command."""
        self.last_received_at = self.services.clock()
        self.commands.on_message(payload, binary=binary)

    def on_full(self) -> None:
        """Count what the socket's write buffer holds."""
        self.outbox.on_full()

    def on_drained(self) -> None:
        """Write what waits: the socket accepts more."""
        self.outbox.on_drained()

    def on_closed(self, code: int) -> None:
        """End the session: the connection is gone."""
        del code
        self._end()

    # ------------------------------------------------------------ what the heartbeat calls

    def ping(self) -> int:
        """Write a ping that the client has to answer, ahead of what waits in the outbox; return its bytes."""
        frame = data_frame(self.codec.encode(ServerPing()), binary=self.codec.binary)
        self.outbox.write_ahead(frame)
        return len(frame)

    def progress(self) -> TcpProgress:
        """Return how far the bytes of the connection have got."""
        return self.transport.progress()

    def on_heartbeat_timeout(self) -> None:
        """Close: the client has not answered a ping."""
        self.close(CloseCode.HEARTBEAT_TIMEOUT)

    # ------------------------------------------------------------ what the outbox calls

    def on_fell_behind(self, subscriber: Subscriber, position: MessageId) -> None:
        """Remember to catch *subscriber* up from *position* once there is room."""
        if (
            isinstance(subscriber, Subscription)
            and self.subscriptions.get(subscriber.channel.name) is subscriber
        ):
            subscriber.fall_behind(position)

    def on_too_slow(self) -> None:
        """Close: not even what must not be dropped fits into the outbox."""
        self.outbox.discard()
        self.close(CloseCode.SLOW_CONSUMER)

    def on_memory_exceeded(self) -> None:
        """Close, and free the socket's write buffer: all clients together hold more than `limits.memory`."""
        self.on_too_slow()
        self.transport.abort()

    def on_outbox_drained(self) -> None:
        """Start the catch-up of what was dropped, unless it runs already."""
        if self.behind and not self._catching_up:
            self.services.tasks.start(self._catch_up())

    # ------------------------------------------------------------ what commands call

    def send(self, message: ServerMessage) -> None:
        """Enqueue a reply or a push, to be written at the end of this turn of the event loop."""
        self.outbox.enqueue(data_frame(self.codec.encode(message), binary=self.codec.binary))

    def reject(self, error: ProtocolError, command_id: int | None) -> None:
        """Answer the command with *error*."""
        self.send(Error(error.code, error.message, error.retry_after_ms, command_id))

    def register(self, identity: Identity | None, slot: ClientSlot) -> None:
        """Enter the hub and the heartbeat as *identity*; None is anonymous.

        The client is not told yet that its token is about to expire: it cannot refresh before `connected`.
        """
        self._client_slot = slot
        self._cancel_connect_timer()
        self.transport.protect()
        if identity is not None:
            self.user, self.info = identity.user, identity.info
            self.claimed.replace(identity.channels, identity.issued_at)
            self.set_token_expiry(identity.expires_at, announced=False)
        self.services.hub.register(self)
        self.services.heartbeat.add(self)

    def set_token_expiry(self, expires_at: float | None, *, announced: bool = True) -> None:
        """Close when the token expires at *expires_at*, in Unix seconds.

        If *announced*, the client gets `expiring` before that.
        """
        if self.token_expiry is not None:
            self.token_expiry.cancel()
        self.token_expiry = None
        if expires_at is not None:
            self.token_expiry = ExpiryTimer(
                self.services.expiry(expires_at),
                on_ending=(lambda left: self.send(Expiring(round(left, 3)))) if announced else None,
                on_ended=partial(self._on_token_expired, expires_at),
            )

    def _on_token_expired(self, expires_at: float) -> None:
        self.services.spend_token(self.user, "", expires_at)
        self.close(CloseCode.TOKEN_EXPIRED)

    def on_clock_step(self) -> None:
        """End what has expired by the clocks as they are now, and set the timers of the rest again."""
        timers = [self.token_expiry, *(each.expiry for each in self.subscriptions.values())]
        for timer in timers:
            if timer is not None:
                timer.on_clock_step()

    def close(self, code: int, reason: str = "", *, may_return: bool = True) -> None:
        """Write what waits, then a Close frame with *code*, and end the session; once.

        Without *may_return* the leaves of its user are announced at once.
        """
        if self.state is State.CLOSING:
            return
        self.services.hub.close_counts[code] += 1
        self.outbox.flush()
        self.transport.close(code, reason or _close_reason(code))
        self._end(may_return=may_return)

    def unsubscribe(self, channel: str, *, may_return: bool = False) -> None:
        """End the subscription to *channel*, and the presence there.

        With *may_return* the leave waits for the namespace's grace, in which the user may return.
        """
        subscription = self.subscriptions.pop(channel)
        subscription.channel.remove(subscription)
        subscription.go_live()
        if subscription.expiry is not None:
            subscription.expiry.cancel()
        self.services.hub.discard_if_idle(subscription.channel)
        if subscription.member is not None:
            rules = subscription.channel.rules
            # An anonymous user cannot be recognized on return.
            self._start_leaving(channel, rules.presence_grace if may_return and self.user else 0.0)

    def revoke(self, channel: str, code: str, reason: str) -> None:
        """End the subscription to *channel* and tell the client why."""
        # A client whose channel token has expired subscribes again with another one.
        self.unsubscribe(channel, may_return=code == ErrorCode.TOKEN_EXPIRED)
        self.send(Unsubscribed(channel, code, reason))

    def on_channel_token_expired(self, channel: str, expires_at: float) -> None:
        """End the subscription to *channel*, unless the connection's token permits it by now."""
        self.services.spend_token(self.user, channel, expires_at)
        subscription = self.subscriptions[channel]
        subscription.expiry = None
        if channel in self.claimed:
            subscription.grant = Grant.CLAIM
        else:
            self.revoke(channel, "token_expired", "the channel token has expired")

    async def leave_presence(self, channel: str, grace: float) -> None:
        """Remove this connection from the presence of *channel*, unless its user returns within *grace*.

        A broker that cannot be reached ends the membership by itself.
        """
        try:
            await self.services.broker.leave(channel, self.connection, grace=grace)
        except GatewayError:
            return

    async def wait_until_left(self, channel: str) -> None:
        """Wait until an earlier presence in *channel* has ended: a late `leave` would end a new one."""
        if self._leaving and (leaving := self._leaving.get(channel)) is not None:
            await asyncio.wait([leaving])

    # ------------------------------------------------------------ what the hub calls

    def execute(self, command: UserCommand) -> None:
        """Carry out a command of the push API: a disconnect at once, others after the commands that run."""
        if command.action == "disconnect":
            # A client that the backend removes does not return by itself.
            self.close(command.code or CloseCode.DISCONNECTED, command.reason, may_return=False)
        else:
            self.commands.on_user_command(command)

    def as_record(self) -> ConnectionRecord:
        """Return what the push API shows of this connection."""
        return ConnectionRecord(
            self.connection, self.services.hub.node, sorted(self.subscriptions), self.connected_at
        )

    def statistics(self) -> dict[str, int]:
        """Return sizes; `waiting` is in bytes."""
        return {
            "subscriptions": len(self.subscriptions),
            "behind": len(self.behind),
            "waiting": self.outbox.size,
            "backlog": len(self.commands),
        }

    # ------------------------------------------------------------ what the command queue calls

    def answer(self, command: Command) -> Coroutine[Any, Any, None]:
        """Carry out *command* and send its reply, or an error."""
        return self._dispatcher.answer(self, command)

    def run_user_command(self, command: UserCommand) -> Coroutine[Any, Any, None] | None:
        """Carry out a `subscribe` or `unsubscribe` of the push API; return what has to wait for that."""
        channel = command.channel
        if command.action == "subscribe":
            self.claimed.allow(channel)
            return self._dispatcher.server_subscribe(self, channel)
        issued_before = command.issued_before
        self.claimed.end(channel, self.services.wall_clock() if issued_before is None else issued_before)
        if channel in self.subscriptions:
            self.revoke(channel, "unsubscribed", command.reason or "unsubscribed by the server")
        return None

    def on_pong(self) -> bool:
        """Take the client's answer to a ping; return whether it is the first one after a ping."""
        if self.pong_deadline is not None:
            self.pong_deadline.on_pong(self.services.clock())
        if self.ping_sent_at == self._answered_ping_at:
            return False
        self._answered_ping_at = self.ping_sent_at
        return True

    # ------------------------------------------------------------ catch-up and end

    async def _catch_up(self) -> None:
        self._catching_up = True
        services = self.services
        try:
            await catch_up(
                self, services.hub.history_cache, services.slicer, batch=services.limits.catch_up_batch
            )
        except GatewayError as error:
            delay = rejection_of(error).retry_after or 0.0  # as long as a client would be asked to wait
            self._catch_up_retry = asyncio.get_running_loop().call_later(delay, self.on_outbox_drained)
        except Exception as error:  # noqa: BLE001 (without a catch-up, the client would lose messages silently)
            services.on_error(error)
            self.close(CloseCode.INTERNAL)
        finally:
            self._catching_up = False

    def _start_leaving(self, channel: str, grace: float) -> None:
        outcome = self.services.tasks.start(self.leave_presence(channel, grace))
        if outcome is not None:
            leaving = self._leaving = self._leaving or {}
            leaving[channel] = outcome
            outcome.add_done_callback(lambda _: leaving.pop(channel))

    def _cancel_connect_timer(self) -> None:
        if self._connect_timer is not None:
            self._connect_timer.cancel()
            self._connect_timer = None

    def _end(self, *, may_return: bool = True) -> None:
        """Release everything that the session holds, once; nothing is sent any more.

        *may_return*: leaves wait for their grace, because the client is expected to connect again.
        """
        if self.state is State.CLOSING:
            return
        self.state = State.CLOSING
        self._cancel_connect_timer()
        self.commands.close()
        if self.token_expiry is not None:
            self.token_expiry.cancel()
        self.services.heartbeat.remove(self)
        if self._catch_up_retry is not None:
            self._catch_up_retry.cancel()
        for channel in list(self.subscriptions):
            self.unsubscribe(channel, may_return=may_return)
        self.services.hub.unregister(self)
        self.outbox.discard()
        if self._client_slot is not None:
            self._client_slot.release()
        self._on_ended()

    def __repr__(self) -> str:
        return (
            f"<Session {self.connection} {self.state.name.lower()} {len(self.subscriptions)} subscriptions>"
        )


def _close_reason(code: int) -> str:
    close = CLOSES.get(code)
    return close.reason if close is not None else ""
