"""One client, from connect to close: a session runs commands in order and owns subscriptions and outbox."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, NamedTuple, Protocol

from gateway.access.admission import ClientSlot
from gateway.access.claims import Identity
from gateway.access.command_costs import BAD_REQUEST
from gateway.access.grants import ClaimedChannels, Grant
from gateway.access.ratelimit import CommandLimiter, RejectionCounter
from gateway.broker.base import ConnectionRecord, UserCommand
from gateway.delivery.encoding import data_frame
from gateway.delivery.outbox import Outbox, Writer
from gateway.delivery.overflow import Subscriber
from gateway.errors import GatewayError, Rejection, rejection_of
from gateway.hub.expiry_timer import ExpiryTimer
from gateway.hub.pong_deadline import PongDeadline
from gateway.hub.recovery.catch_up import catch_up
from gateway.hub.services import Services
from gateway.hub.subscription import Subscription
from gateway.transport.tcp_progress import TcpProgress
from protocol.codec import Codec
from protocol.conversation import CommandAction, State, action_for
from protocol.errors import CLOSES, BadRequest, CloseCode, ErrorCode, ProtocolError
from protocol.messages import (
    ClientMessage,
    Command,
    Error,
    Expiring,
    Pong,
    ServerMessage,
    ServerPing,
    Unsubscribed,
)
from protocol.position import MessageId

LARGE_MESSAGE_BYTES = 8 * 1024
"""A larger message is decoded only when its turn has come (`Slicer`): many may arrive in one turn."""

DECODED_BYTES_PER_MICROSECOND = 25
"""Of a message with many fields, such as a `connect` that resumes many channels."""


class LargeMessage(NamedTuple):
    """A message of a client that is not decoded yet."""

    payload: bytes
    binary: bool


QueuedCommand = ClientMessage | BadRequest | UserCommand | LargeMessage
"""What a session carries out in the order of arrival."""

MAX_FAULTS_BEFORE_CONNECT = 8
"""Messages that are no commands, which are answered before `connect`; one more closes with 4002."""

COMMAND_BYTES = 512
"""Bytes of memory that a waiting command takes beside what was received, about."""


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
        "_backlog",
        "_catch_up_retry",
        "_catching_up",
        "_client_slot",
        "_command_running",
        "_connect_timer",
        "_dispatcher",
        "_faults_before_connect",
        "_leaving",
        "_limiter",
        "_on_ended",
        "_rejections",
        "behind",
        "claimed",
        "codec",
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
        self._limiter = CommandLimiter(services.rates, address)
        self._rejections: RejectionCounter | None = None
        self._command_running = False
        self._backlog: deque[tuple[QueuedCommand, int]] | None = None
        """Commands that wait until an earlier one is done, each with its bytes."""
        self._faults_before_connect = 0
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
        if len(payload) > LARGE_MESSAGE_BYTES:
            self._run_in_order(LargeMessage(payload, binary), len(payload))
            return
        try:
            command = self._decode(payload, binary=binary)
        except BadRequest as fault:
            self._run_in_order(fault, len(payload))
            return
        if self._command_running:
            self._add_to_backlog(command, len(payload))
        else:
            self._run_command(command)

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

    def identify(self, user: str, cost: float) -> float:
        """Count the connection as one of *user* for the rates, and *cost*, that of its `connect`, as well.

        Return 0.0, or the seconds until the rate of the user admits it: then nothing has changed.
        """
        return self._limiter.identify(user, cost, self.services.clock())

    def charge(self, cost: float) -> None:
        """Take *cost* for work of the running command that was not known before; later commands wait."""
        self._limiter.charge(cost, self.services.clock())

    def register(self, identity: Identity | None, slot: ClientSlot) -> None:
        """Enter the hub and the heartbeat as *identity*; None is anonymous."""
        self._client_slot = slot
        self._cancel_connect_timer()
        self.transport.protect()
        if identity is not None:
            self.user, self.info = identity.user, identity.info
            self.claimed.replace(identity.channels, identity.issued_at)
            self.set_token_expiry(identity.expires_at)
        self.services.hub.register(self)
        self.services.heartbeat.add(self)

    def set_token_expiry(self, expires_at: float | None) -> None:
        """Close when the token expires at *expires_at*, Unix seconds, and send `expiring` before that."""
        if self.token_expiry is not None:
            self.token_expiry.cancel()
        self.token_expiry = None
        if expires_at is not None:
            self.token_expiry = ExpiryTimer(
                self.services.expiry(expires_at),
                on_ending=lambda left: self.send(Expiring(round(left, 3))),
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
            self._run_in_order(command, len(command.reason))

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
            "backlog": len(self._backlog or ()),
        }

    # ------------------------------------------------------------ one command after the other

    def _decode(self, payload: bytes, *, binary: bool) -> ClientMessage:
        if binary is not self.codec.binary:
            raise _wrong_frame_kind(self.codec)
        return self.codec.decode(payload)

    def _run_in_order(self, item: QueuedCommand, size: int) -> None:
        if self._command_running:
            self._add_to_backlog(item, size)
        else:
            self._run(item)

    def _add_to_backlog(self, item: QueuedCommand, size: int) -> None:
        if self._backlog is None:
            self._backlog = deque()
        size += COMMAND_BYTES
        self._backlog.append((item, size))
        hub = self.services.hub
        hub.commands_waiting += 1
        hub.memory.backlogs.used += size
        if len(self._backlog) >= self.services.limits.backlog:
            self.transport.pause()
        else:
            self._pause_if_memory_is_short()

    def _pause_if_memory_is_short(self) -> None:
        """Read no more commands while one runs, if those that wait take too much memory on this node."""
        backlogs = self.services.hub.memory.backlogs
        if backlogs.used >= backlogs.limit:
            backlogs.freed += 1
            self.transport.pause()

    def _run(self, item: QueuedCommand) -> None:
        if isinstance(item, UserCommand):
            self._run_user_command(item)
        elif isinstance(item, BadRequest):
            self._run_bad_request(item)
        elif isinstance(item, LargeMessage):
            self._start(self._run_large_message(item))
        else:
            self._run_command(item)

    def _run_bad_request(self, fault: BadRequest) -> None:
        if not self.is_open:
            return
        if self.state is State.OPENED:
            self._faults_before_connect += 1
            if self._faults_before_connect > MAX_FAULTS_BEFORE_CONNECT:
                self.close(CloseCode.PROTOCOL_VIOLATION, "too many messages that are no commands")
                return
        if self._admit(BAD_REQUEST, fault.id):
            self.reject(fault, fault.id)

    async def _run_large_message(self, message: LargeMessage) -> None:
        """Decode *message* when its turn has come, and carry out the command in it."""
        await self.services.slicer.turn(len(message.payload) // DECODED_BYTES_PER_MICROSECOND)
        if not self.is_open:
            return
        try:
            command = self._decode(message.payload, binary=message.binary)
        except BadRequest as fault:
            self._run_bad_request(fault)
        else:
            if (work := self._admitted_work(command)) is not None:
                await work

    def _run_command(self, command: ClientMessage) -> None:
        if (work := self._admitted_work(command)) is not None:
            self._start(work)

    def _admitted_work(self, command: ClientMessage) -> Coroutine[Any, Any, None] | None:
        """Return what carries out *command*; None if it is legal but needs no more, or rejected already."""
        action = action_for(self.state, command.type)
        if action is CommandAction.CLOSE:
            expected = "connect must come first" if self.state is State.OPENED else "connect comes once"
            self.close(CloseCode.PROTOCOL_VIOLATION, f"{command.type}: {expected}")
        elif action is CommandAction.HANDLE:
            if isinstance(command, Pong):
                self._on_pong()
            elif self._admit(self.services.limits.costs.of(command), command.id):
                return self._dispatcher.answer(self, command)
        return None

    def _on_pong(self) -> None:
        """Count a pong for the rate unless it is the first one after a ping."""
        if self.pong_deadline is not None:
            self.pong_deadline.on_pong(self.services.clock())
        if self.ping_sent_at != self._answered_ping_at:
            self._answered_ping_at = self.ping_sent_at
        else:
            self._admit(BAD_REQUEST, None)

    def _run_user_command(self, command: UserCommand) -> None:
        channel = command.channel
        if command.action == "subscribe":
            self.claimed.allow(channel)
            self._start(self._dispatcher.server_subscribe(self, channel))
            return
        issued_before = command.issued_before
        self.claimed.end(channel, self.services.wall_clock() if issued_before is None else issued_before)
        if channel in self.subscriptions:
            self.revoke(channel, "unsubscribed", command.reason or "unsubscribed by the server")

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run *work*; while it waits, later commands go to the backlog."""
        outcome = self.services.tasks.start(work)
        if outcome is not None:
            self._command_running = True
            self._pause_if_memory_is_short()
            outcome.add_done_callback(self._on_command_done)

    def _on_command_done(self, _: object) -> None:
        self._command_running = False
        while self._backlog and not self._command_running:
            item, size = self._backlog.popleft()
            self.services.hub.commands_waiting -= 1
            self.services.hub.memory.backlogs.give_back(size)
            self._run(item)
        if not self._backlog and self.is_open:
            self.transport.resume()

    def _admit(self, cost: float, command_id: int | None) -> bool:
        """Return whether the rate limits admit a command of this *cost*; otherwise reject it, or close.

        Only rejections by the rate of the connection itself close it: the rates of its user and its address
        depend on other connections.
        """
        now = self.services.clock()
        wait = self._limiter.admit(cost, now)
        if wait:
            if self._rejections is None:
                self._rejections = RejectionCounter(limit=self.services.limits.strikes)
            if self._rejections.on_rejected(now):
                self.close(CloseCode.RATE_LIMITED)
                return False
        else:
            if self._rejections is not None:
                self._rejections.on_admitted()
            if not cost or not (wait := self._limiter.admit_shared(cost, now)):
                return True
        if self.is_open:
            self.reject(Rejection(ErrorCode.RATE_LIMITED, "too many commands", wait).error(), command_id)
        return False

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
        self._limiter.release(self.services.clock())
        if self.token_expiry is not None:
            self.token_expiry.cancel()
        self.services.heartbeat.remove(self)
        if self._catch_up_retry is not None:
            self._catch_up_retry.cancel()
        for channel in list(self.subscriptions):
            self.unsubscribe(channel, may_return=may_return)
        self.services.hub.unregister(self)
        self.outbox.discard()
        if self._backlog:
            self.services.hub.commands_waiting -= len(self._backlog)
            self.services.hub.memory.backlogs.give_back(sum(size for _, size in self._backlog))
        self._backlog = None
        if self._client_slot is not None:
            self._client_slot.release()
        self._on_ended()

    def __repr__(self) -> str:
        return (
            f"<Session {self.connection} {self.state.name.lower()} {len(self.subscriptions)} subscriptions>"
        )


def _wrong_frame_kind(codec: Codec) -> BadRequest:
    kind = "binary" if codec.binary else "text"
    return BadRequest(f"{codec.subprotocol} travels in {kind} frames")


def _close_reason(code: int) -> str:
    close = CLOSES.get(code)
    return close.reason if close is not None else ""
