"""The commands of one session: decoded, admitted by the rate limits, and carried out one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Coroutine
from typing import Any, NamedTuple, Protocol

from gateway.access.command_costs import BAD_REQUEST
from gateway.access.ratelimit import CommandLimiter, RejectionCounter
from gateway.broker.base import UserCommand
from gateway.errors import Rejection
from gateway.hub.services import Services
from protocol.codec import Codec
from protocol.conversation import CommandAction, State, action_for
from protocol.errors import BadRequest, CloseCode, ErrorCode, ProtocolError
from protocol.messages import ClientMessage, Command, Pong

LARGE_MESSAGE_BYTES = 8 * 1024
"""A larger message is decoded only when its turn has come (`Slicer`): many may arrive in one turn."""

DECODED_BYTES_PER_MICROSECOND = 25
"""Of a message with many fields, such as a `connect` that resumes many channels."""

MAX_FAULTS_BEFORE_CONNECT = 8
"""Messages that are no commands, which are answered before `connect`; one more closes with 4002."""

COMMAND_BYTES = 512
"""Bytes of memory that a waiting command takes beside what was received, about."""


class LargeMessage(NamedTuple):
    """A message of a client that is not decoded yet."""

    payload: bytes
    binary: bool


QueuedCommand = ClientMessage | BadRequest | UserCommand | LargeMessage
"""What a session carries out in the order of arrival."""


class Reading(Protocol):
    """Where commands come from; it stops while too many wait."""

    def pause(self) -> None:
        """Stop reading from the connection."""

    def resume(self) -> None:
        """Read from the connection again."""


class Owner(Protocol):
    """The session whose commands these are."""

    @property
    def codec(self) -> Codec: ...

    @property
    def transport(self) -> Reading: ...

    state: State

    def answer(self, command: Command) -> Coroutine[Any, Any, None]:
        """Carry out *command* and send its reply, or an error."""

    def run_user_command(self, command: UserCommand) -> Coroutine[Any, Any, None] | None:
        """Carry out a command of the push API; return what has to wait for that."""

    def on_pong(self) -> bool:
        """Take the client's answer to a ping; return whether there was a ping to answer."""

    def reject(self, error: ProtocolError, command_id: int | None) -> None:
        """Answer a command with *error*."""

    def close(self, code: int, reason: str = "") -> None:
        """End the session with *code*."""


class CommandQueue:
    """Carries out the commands of one session in the order of arrival, each after the end of the one before.

    Commands that wait are bounded: by number for each session (`SessionLimits.backlog`), by bytes for all
    sessions together (`NodeMemory.backlogs`). At a bound the connection is not read.
    """

    __slots__ = (
        "_faults_before_connect",
        "_limiter",
        "_owner",
        "_rejections",
        "_running",
        "_services",
        "_waiting",
    )

    def __init__(self, owner: Owner, services: Services, address: str) -> None:
        """Carry out the commands of *owner*, whose rates also count for *address*; empty: it has none."""
        self._owner: Owner | None = owner
        self._services = services
        self._limiter = CommandLimiter(services.rates, address)
        self._rejections: RejectionCounter | None = None
        self._running = False
        self._waiting: deque[tuple[QueuedCommand, int]] | None = None
        """Commands that wait until an earlier one is done, each with its bytes."""
        self._faults_before_connect = 0

    def __len__(self) -> int:
        """How many commands wait until an earlier one is done."""
        return len(self._waiting or ())

    def on_message(self, payload: bytes, *, binary: bool) -> None:
        """Run the command in *payload*, after those that still run; reject what is not a command."""
        owner = self._owner
        if owner is None:
            return
        if len(payload) > LARGE_MESSAGE_BYTES:
            self._run_in_order(owner, LargeMessage(payload, binary), len(payload))
            return
        try:
            command = _decode(owner, payload, binary=binary)
        except BadRequest as fault:
            self._run_in_order(owner, fault, len(payload))
            return
        if self._running:
            self._add(owner, command, len(payload))
        elif (work := self._admitted_work(owner, command)) is not None:
            self._start(owner, work)

    def on_user_command(self, command: UserCommand) -> None:
        """Carry out a command of the push API after the commands that still run."""
        if self._owner is not None:
            self._run_in_order(self._owner, command, len(command.reason))

    def identify(self, user: str, cost: float) -> float:
        """Count the connection as one of *user* for the rates, and *cost*, that of its `connect`, as well.

        Return 0.0, or the seconds until the rate of the user admits it: then nothing has changed.
        """
        return self._limiter.identify(user, cost, self._services.clock())

    def charge(self, cost: float) -> None:
        """Take *cost* for work of the running command that was not known before; later commands wait."""
        self._limiter.charge(cost, self._services.clock())

    def close(self) -> None:
        """Drop the commands that wait; the one that runs continues."""
        owner = self._owner
        if owner is None:
            return
        self._limiter.release(self._services.clock())
        if self._waiting:
            self._services.hub.commands_waiting -= len(self._waiting)
            self._services.hub.memory.backlogs.give_back(sum(size for _, size in self._waiting))
        self._waiting = None
        # No cycle of references is left for the garbage collector, which looks seldom.
        self._owner = None

    # ------------------------------------------------------------ one after the other

    def _run_in_order(self, owner: Owner, item: QueuedCommand, size: int) -> None:
        if self._running:
            self._add(owner, item, size)
        else:
            self._run(owner, item)

    def _add(self, owner: Owner, item: QueuedCommand, size: int) -> None:
        if self._waiting is None:
            self._waiting = deque()
        size += COMMAND_BYTES
        self._waiting.append((item, size))
        hub = self._services.hub
        hub.commands_waiting += 1
        hub.memory.backlogs.used += size
        if len(self._waiting) >= self._services.limits.backlog:
            owner.transport.pause()
        else:
            self._pause_if_memory_is_short(owner)

    def _pause_if_memory_is_short(self, owner: Owner) -> None:
        """Read no more commands while one runs, if those that wait take too much memory on this node."""
        backlogs = self._services.hub.memory.backlogs
        if backlogs.used >= backlogs.limit:
            backlogs.freed += 1
            owner.transport.pause()

    def _run(self, owner: Owner, item: QueuedCommand) -> None:
        work: Coroutine[Any, Any, None] | None = None
        if isinstance(item, UserCommand):
            work = owner.run_user_command(item)
        elif isinstance(item, BadRequest):
            self._run_bad_request(owner, item)
        elif isinstance(item, LargeMessage):
            work = self._run_large_message(owner, item)
        else:
            work = self._admitted_work(owner, item)
        if work is not None:
            self._start(owner, work)

    def _start(self, owner: Owner, work: Coroutine[Any, Any, None]) -> None:
        """Run *work*; while it waits, later commands wait as well."""
        outcome = self._services.tasks.start(work)
        if outcome is not None:
            self._running = True
            self._pause_if_memory_is_short(owner)
            outcome.add_done_callback(self._on_done)

    def _on_done(self, _: object) -> None:
        self._running = False
        while self._owner is not None and self._waiting and not self._running:
            item, size = self._waiting.popleft()
            hub = self._services.hub
            hub.commands_waiting -= 1
            hub.memory.backlogs.give_back(size)
            self._run(self._owner, item)
        if self._owner is not None and not self._waiting:
            self._owner.transport.resume()

    # ------------------------------------------------------------ decode and admit

    def _run_bad_request(self, owner: Owner, fault: BadRequest) -> None:
        if owner.state is State.OPENED:
            self._faults_before_connect += 1
            if self._faults_before_connect > MAX_FAULTS_BEFORE_CONNECT:
                owner.close(CloseCode.PROTOCOL_VIOLATION, "too many messages that are no commands")
                return
        if self._admit(owner, BAD_REQUEST, fault.id):
            owner.reject(fault, fault.id)

    async def _run_large_message(self, owner: Owner, message: LargeMessage) -> None:
        """Decode *message* when its turn has come, and carry out the command in it."""
        await self._services.slicer.turn(len(message.payload) // DECODED_BYTES_PER_MICROSECOND)
        if self._owner is None:
            return
        try:
            command = _decode(owner, message.payload, binary=message.binary)
        except BadRequest as fault:
            self._run_bad_request(owner, fault)
        else:
            if (work := self._admitted_work(owner, command)) is not None:
                await work

    def _admitted_work(self, owner: Owner, command: ClientMessage) -> Coroutine[Any, Any, None] | None:
        """Return what carries out *command*; None if it is legal but needs no more, or rejected already."""
        action = action_for(owner.state, command.type)
        if action is CommandAction.CLOSE:
            expected = "connect must come first" if owner.state is State.OPENED else "connect comes once"
            owner.close(CloseCode.PROTOCOL_VIOLATION, f"{command.type}: {expected}")
        elif action is CommandAction.HANDLE:
            if isinstance(command, Pong):
                if not owner.on_pong():
                    self._admit(owner, BAD_REQUEST, None)
            elif self._admit(owner, self._services.limits.costs.of(command), command.id):
                return owner.answer(command)
        return None

    def _admit(self, owner: Owner, cost: float, command_id: int | None) -> bool:
        """Return whether the rate limits admit a command of this *cost*; otherwise reject it, or close.

        Only rejections by the rate of the connection itself close it: the rates of its user and its address
        depend on other connections.
        """
        now = self._services.clock()
        wait = self._limiter.admit(cost, now)
        if wait:
            if self._rejections is None:
                self._rejections = RejectionCounter(limit=self._services.limits.strikes)
            if self._rejections.on_rejected(now):
                owner.close(CloseCode.RATE_LIMITED)
                return False
        else:
            if self._rejections is not None:
                self._rejections.on_admitted()
            if not cost or not (wait := self._limiter.admit_shared(cost, now)):
                return True
        if self._owner is not None:
            owner.reject(Rejection(ErrorCode.RATE_LIMITED, "too many commands", wait).error(), command_id)
        return False

    def __repr__(self) -> str:
        return f"<CommandQueue {len(self)} waiting{', one running' if self._running else ''}>"


def _decode(owner: Owner, payload: bytes, *, binary: bool) -> ClientMessage:
    codec = owner.codec
    if binary is not codec.binary:
        kind = "binary" if codec.binary else "text"
        raise BadRequest(f"{codec.subprotocol} travels in {kind} frames")
    return codec.decode(payload)
