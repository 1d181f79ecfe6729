"""One client, from connect to close: takes commands from its link, in order, and owns what it follows."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from gateway.access.admission import UserTicket
from gateway.access.claims import Identity
from gateway.broker.base import ConnectionRecord, UserCommand
from gateway.hub import dispatch, subscribe
from gateway.hub.allowance import Allowance, TooMany
from gateway.hub.expiry import Expiry
from gateway.hub.following import Following, Transport
from gateway.hub.services import Services
from protocol.codec import Codec
from protocol.conversation import State, Verdict, verdict
from protocol.errors import CLOSES, BadRequest, CloseCode, ProtocolError
from protocol.messages import ClientMessage, Error, Expiring, Pong, ServerPing


class Session(Following):
    """The logical life of one connection."""

    __slots__ = (
        "_allowance",
        "_backlog",
        "_deadline",
        "_release",
        "_running",
        "_ticket",
        "expiry",
        "granted",
        "header_token",
        "info",
        "pinged",
        "seen",
        "since",
        "slot",
        "user",
    )

    def __init__(
        self,
        link: Transport,
        codec: Codec,
        services: Services,
        *,
        release: Callable[[], None],
        header_token: str | None = None,
    ) -> None:
        """Begin on *link*, which is to be attached; *release* is called once when the session ends."""
        super().__init__(link, codec, services)
        limits = services.limits
        self.user = ""
        self.info: Any = None
        self.granted: tuple[str, ...] = ()
        """The channels that the token names."""
        self.expiry: Expiry | None = None
        """When the token ends; None for the anonymous."""
        self.header_token = header_token
        self.since = services.wall()
        self.seen = self.pinged = 0.0
        self.slot = -1
        self._release = release
        self._ticket: UserTicket | None = None
        self._allowance = Allowance(limits, services.clock)
        self._running = False
        self._backlog: deque[ClientMessage | BadRequest | UserCommand] | None = None
        self._deadline: asyncio.TimerHandle | None = asyncio.get_running_loop().call_later(
            limits.connect_timeout, self.end, CloseCode.CONNECT_TIMEOUT
        )

    # ------------------------------------------------------------ what the link calls

    def on_message(self, payload: bytes, *, binary: bool) -> None:
        """Take one message: a command, or what gets a `bad_request`."""
        self.seen = self.services.clock()
        try:
            if binary is not self.codec.binary:
                raise _wrong_kind(self.codec)
            command = self.codec.decode(payload)
        except BadRequest as fault:
            self._in_turn(fault)
            return
        if self._running:
            self._wait(command)
        else:
            self._command(command)

    def on_drained(self) -> None:
        """Go on sending."""
        self.outbox.drained()

    def on_closed(self, code: int) -> None:
        """End: the socket is gone."""
        del code
        self._finish()

    # ------------------------------------------------------------ what the heartbeat calls

    def ping(self) -> None:
        """Ask whether the client is there."""
        self.send(ServerPing())

    def silent(self) -> None:
        """End: it is not."""
        self.end(CloseCode.HEARTBEAT_TIMEOUT)

    # ------------------------------------------------------------ what commands call

    def refuse(self, error: ProtocolError, command: int | None) -> None:
        """Answer with *error*."""
        self.send(Error(error.code, error.message, error.retry_after_ms, command))

    def welcome(self, identity: Identity | None, ticket: UserTicket) -> None:
        """Begin the connected life of *identity* (None: anonymous)."""
        self._ticket = ticket
        self._cancel_deadline()
        if identity is not None:
            self.user, self.info, self.granted = identity.user, identity.info, identity.channels
            self.expire_at(identity.expires_at)
        self.services.hub.enter(self)
        self.services.heartbeat.add(self)

    def expire_at(self, moment: float | None) -> None:
        """End with the token at *moment*, Unix seconds, unless it is refreshed; tell the client in time."""
        if self.expiry is not None:
            self.expiry.cancel()
        self.expiry = None
        if moment is not None:
            self.expiry = Expiry(
                moment,
                self.services.wall,
                notify=lambda left: self.send(Expiring(round(left, 3))),
                expired=lambda: self.end(CloseCode.TOKEN_EXPIRED),
            )

    def end(self, code: int, reason: str = "") -> None:
        """Send what waits, then a Close frame with *code*, and leave everything."""
        if self.state is State.CLOSING:
            return
        self.services.hub.closed[code] += 1
        self.outbox.flush()
        self.link.close(code, reason or _reason(code))
        self._finish()

    def instruct(self, instruction: UserCommand) -> None:
        """Do what the server's API wants; but for a disconnect, in its turn among the commands."""
        if instruction.action == "disconnect":
            self.end(instruction.code or CloseCode.DISCONNECTED, instruction.reason)
        else:
            self._in_turn(instruction)

    def record(self) -> ConnectionRecord:
        """Return what operators see of it."""
        return ConnectionRecord(
            self.connection, self.services.hub.node, sorted(self.subscriptions), self.since
        )

    def statistics(self) -> dict[str, int]:
        """Return sizes."""
        return {
            "subscriptions": len(self.subscriptions),
            "behind": len(self.behind),
            "waiting": self.outbox.size,
            "backlog": len(self._backlog or ()),
        }

    # ------------------------------------------------------------ inside

    def _in_turn(self, item: ClientMessage | BadRequest | UserCommand) -> None:
        if self._running:
            self._wait(item)
        else:
            self._take(item)

    def _take(self, item: ClientMessage | BadRequest | UserCommand) -> None:
        if isinstance(item, UserCommand):
            self._obey(item)
        elif isinstance(item, BadRequest):
            if self.is_open and self._admitted("bad_request", item.id):
                self.refuse(item, item.id)
        else:
            self._command(item)

    def _command(self, command: ClientMessage) -> None:
        ruling = verdict(self.state, command.type)
        if ruling is Verdict.VIOLATION:
            expected = "connect must come first" if self.state is State.OPENED else "connect comes once"
            self.end(CloseCode.PROTOCOL_VIOLATION, f"{command.type}: {expected}")
        elif ruling is Verdict.HANDLE:
            if isinstance(command, Pong):
                self._admitted(command.type, None)
            elif self._admitted(command.type, command.id):
                self._run(dispatch.answer(self, command))

    def _obey(self, instruction: UserCommand) -> None:
        channel = instruction.channel
        if instruction.action == "subscribe":
            self._run(subscribe.server_subscribe(self, channel))
        elif channel in self.subscriptions:
            self.revoke(channel, "unsubscribed", instruction.reason or "unsubscribed by the server")

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        """Do *work*; where that has to wait, whatever comes meanwhile waits for it."""
        outcome = self.services.tasks.start(work)
        if outcome is not None:
            self._running = True
            outcome.add_done_callback(self._carried_out)

    def _wait(self, item: ClientMessage | BadRequest | UserCommand) -> None:
        if self._backlog is None:
            self._backlog = deque()
        self._backlog.append(item)
        if len(self._backlog) >= self.services.limits.backlog:
            self.link.pause()

    def _carried_out(self, _: object) -> None:
        self._running = False
        while self._backlog and not self._running:
            self._take(self._backlog.popleft())
        if not self._backlog and self.is_open:
            self.link.resume()

    def _admitted(self, kind: str, command: int | None) -> bool:
        try:
            refusal = self._allowance.refusal(kind)
        except TooMany:
            self.end(CloseCode.RATE_LIMITED)
            return False
        if refusal is not None and self.is_open:
            self.refuse(refusal, command)
        return refusal is None

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _finish(self) -> None:
        """Leave everything, once."""
        if self.state is State.CLOSING:
            return
        self.state = State.CLOSING
        self._cancel_deadline()
        if self.expiry is not None:
            self.expiry.cancel()
        self.services.heartbeat.remove(self)
        self.leave_all()
        self.services.hub.exit(self)
        self.outbox.discard()
        self._backlog = None
        if self._ticket is not None:
            self._ticket.release()
        self._release()

    def __repr__(self) -> str:
        return (
            f"<Session {self.connection} {self.state.name.lower()} {len(self.subscriptions)} subscriptions>"
        )


def _wrong_kind(codec: Codec) -> BadRequest:
    kind = "binary" if codec.binary else "text"
    return BadRequest(f"{codec.subprotocol} travels in {kind} frames")


def _reason(code: int) -> str:
    close = CLOSES.get(code)
    return close.reason if close is not None else ""
