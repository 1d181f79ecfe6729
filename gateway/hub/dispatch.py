"""What a client gets for one command: its reply, or an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.errors import GatewayError, rejection_of
from gateway.hub import commands
from protocol.conversation import State
from protocol.errors import CLOSE_ON_ERROR, CloseCode, ErrorCode, ProtocolError
from protocol.messages import Command, Connect

if TYPE_CHECKING:
    from gateway.hub.session import Session


async def answer(session: Session, command: Command) -> None:
    """Carry out *command*, and reply; a session that did not get connected ends."""
    try:
        if isinstance(command, Connect):
            session.state = State.CONNECTING
        reply = await commands.HANDLERS[command.type](session, command)
        if session.is_open:
            if isinstance(command, Connect):
                session.state = State.CONNECTED
            session.send(reply)
            session.caught_breath()  # what the reply could not hold follows it
    except Exception as error:  # noqa: BLE001 (a command must not end more than itself)
        _failed(session, command, _told(session, error))


def _failed(session: Session, command: Command, error: ProtocolError) -> None:
    if not session.is_open:
        return
    session.refuse(error, command.id)
    if isinstance(command, Connect):
        session.end(CLOSE_ON_ERROR.get(error.code, CloseCode.INTERNAL), error.message)


def _told(session: Session, error: Exception) -> ProtocolError:
    """Return what the client is told of *error*."""
    if isinstance(error, ProtocolError):
        return error
    if isinstance(error, GatewayError):
        return rejection_of(error).error()
    session.services.on_error(error)
    return ProtocolError(ErrorCode.INTERNAL, "something went wrong on our side")
