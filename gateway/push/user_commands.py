"""Commands to every connection of a user: disconnect, subscribe, unsubscribe."""

from __future__ import annotations

from typing import Literal

from gateway.broker.base import UserCommand
from gateway.push.context import PushContext
from gateway.push.errors import RequestRejected
from gateway.push.requests import REASON_SIZE, DisconnectRequest
from gateway.push.responses import ResponseBody
from protocol.channels import personal_user
from protocol.errors import CLOSES, CloseCode, ErrorCode


class UserCommandSender:
    """Sends commands through the broker to the nodes where a user is connected."""

    __slots__ = ("_broker", "_namespaces")

    def __init__(self, context: PushContext) -> None:
        """Send through the broker of *context*, under its rules of channels."""
        self._broker = context.broker
        self._namespaces = context.namespaces

    async def disconnect(self, user: str, request: DisconnectRequest) -> ResponseBody:
        """Close the connections of *user* with a code and a reason."""
        code = request.close_code
        reason = _default_reason(code) if request.reason is None else request.reason
        if len(reason.encode()) > REASON_SIZE:
            raise RequestRejected(
                422,
                ErrorCode.BAD_REQUEST,
                f"reason: expected at most {REASON_SIZE} bytes, not {len(reason.encode())}",
            )
        except_connections = frozenset(request.except_ or ())
        return await self._send(
            UserCommand(user, "disconnect", code=code, reason=reason, except_connections=except_connections)
        )

    async def change_subscription(
        self, user: str, action: Literal["subscribe", "unsubscribe"], channel: str
    ) -> ResponseBody:
        """Subscribe the connections of *user* to *channel*, or unsubscribe them."""
        self._namespaces.rules(channel)
        if personal_user(channel) not in (None, user):
            raise RequestRejected(
                422,
                ErrorCode.PERMISSION_DENIED,
                f"channel: {channel!r} is another user's; only that user is subscribed to it",
            )
        return await self._send(UserCommand(user, action, channel=channel))

    async def _send(self, command: UserCommand) -> ResponseBody:
        found = await self._broker.connections(command.user)
        # Sent even if no connection is known: a connection may be about to be registered.
        await self._broker.send_user_command(command)
        excepted = command.except_connections
        return {"connections": sum(record.connection not in excepted for record in found.items)}


def _default_reason(code: int) -> str:
    return CLOSES.get(code, CLOSES[CloseCode.DISCONNECTED]).reason
