"""Carries out one command: the client gets its reply or an error."""

from __future__ import annotations

from gateway.errors import GatewayError, rejection_of
from gateway.hub import commands, subscribe
from gateway.hub.session import Session
from protocol.conversation import State
from protocol.errors import CLOSE_ON_ERROR, CloseCode, ErrorCode, ProtocolError
from protocol.messages import Command, Connect


async def answer(session: Session, command: Command) -> None:
    """Carry out *command* and send its reply, or an error.

    A failed `connect` also closes the connection, except for `rate_limited`: the client may send it again.
    """
    try:
        if isinstance(command, Connect):
            session.state = State.CONNECTING
        reply = await commands.HANDLERS[command.type](session, command)
        if session.is_open:
            if isinstance(command, Connect):
                session.state = State.CONNECTED
            session.send(reply)
            session.on_outbox_drained()  # the catch-up sends what the reply could not hold
    except Exception as error:  # noqa: BLE001 (a failed command must not end the session)
        _reject(session, command, _protocol_error(session, error))


async def server_subscribe(session: Session, channel: str) -> None:
    """Subscribe *session* to *channel* for the push API; nothing is sent if that fails."""
    try:
        session.send(await subscribe.server_subscribe(session, channel))
    except (ProtocolError, GatewayError):
        return
    except Exception as error:  # noqa: BLE001 (no caller waits for the outcome)
        session.services.on_error(error)


def _reject(session: Session, command: Command, error: ProtocolError) -> None:
    if not session.is_open:
        return
    session.reject(error, command.id)
    if not isinstance(command, Connect):
        return
    if error.code is ErrorCode.RATE_LIMITED:
        session.state = State.OPENED
    else:
        session.close(CLOSE_ON_ERROR.get(error.code, CloseCode.INTERNAL), error.message)


def _protocol_error(session: Session, error: Exception) -> ProtocolError:
    """Return what the client gets for *error*."""
    if isinstance(error, ProtocolError):
        return error
    if isinstance(error, GatewayError):
        return rejection_of(error).error()
    session.services.on_error(error)
    return ProtocolError(ErrorCode.INTERNAL, "something went wrong on our side")
