"""Everything about a subscription that may wait: is it allowed, where does it begin, who is there.

Whatever was prepared is owed a commit (`subscribing`) or an `abandon`, also where the client goes meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gateway.access.claims import ChannelToken
from gateway.access.permissions import ChannelRules, may_subscribe
from gateway.errors import GatewayError
from gateway.hub.recovery import recover
from gateway.hub.recovery.recover import Recovery
from gateway.hub.recovery.reply_budget import ReplyBudget
from gateway.hub.services import Services
from gateway.presence.members import up_to_date
from protocol.errors import ClientFault, ErrorCode
from protocol.messages import Join, Leave, Member, Subscribe

if TYPE_CHECKING:
    from gateway.hub.session import Session


class Prepared:
    """A subscription that may go live: allowed, held, its replay and the channel's members at hand."""

    __slots__ = ("changes", "command", "expires_at", "member", "present", "replay", "server_side")

    def __init__(self, command: Subscribe, ready: Recovery, *, server_side: bool) -> None:
        self.command = command
        self.replay = ready
        self.server_side = server_side
        self.expires_at: float | None = None
        self.member: Member | None = None
        self.present: Sequence[Member] | None = None
        """Who was there when the broker was asked."""
        self.changes: list[Join | Leave] = []
        """Who came and went since."""

    @property
    def members(self) -> Sequence[Member] | None:
        """Who is there, where the client wants to know."""
        return None if self.present is None else up_to_date(self.present, self.changes)


async def prepare(session: Session, command: Subscribe, room: ReplyBudget, *, granted: bool) -> Prepared:
    """Check and fetch what a subscription needs; what it missed finds its place in *room*.

    *granted* says that the server wants it, whatever the rules say. Raises `ProtocolError`, `GatewayError`.
    """
    services, name = session.services, command.channel
    rules = services.namespaces.rules(name)
    _may_follow(session, name)
    token = None if command.token is None else await _channel_token(services, command.token)
    if not granted:
        _check(session, rules, name, token)
    rewind = min(command.rewind or 0, services.limits.rewind)
    ready = await recover.prepare(services.hub, name, rules, since=command.since, rewind=rewind, room=room)
    prepared = Prepared(command, ready, server_side=granted)
    if token is not None and not granted and rules.subscribe == "token":
        prepared.expires_at = token.expires_at
    try:
        if rules.presence and session.is_open:
            await _appear(session, prepared)
    except BaseException:
        room.give_up(name)
        await abandon(session, prepared)
        raise
    return prepared


async def abandon(session: Session, *prepared: Prepared) -> None:
    """Undo what `prepare` did."""
    for each in prepared:
        channel = each.replay.channel
        channel.arriving.pop(each, None)
        session.services.hub.release(channel)
    await session.services.tasks.run_all(
        [
            leave(session.services, each.replay.channel.name, session.connection)
            for each in prepared
            if each.member is not None
        ]
    )


async def leave(services: Services, channel: str, connection: str) -> None:
    """Remove a member from *channel*; a broker that cannot be reached ends its membership by itself."""
    try:
        await services.broker.leave(channel, connection)
    except GatewayError:
        return


def too_many(services: Services) -> ClientFault:
    """Return what a client is told that follows as many channels as it may."""
    return ClientFault(
        ErrorCode.LIMIT_EXCEEDED, f"a connection follows at most {services.limits.channels} channels"
    )


# ---------------------------------------------------------------- inside


async def _appear(session: Session, prepared: Prepared) -> None:
    """Be present, and see who else is."""
    channel, broker = prepared.replay.channel, session.services.broker
    await session.left(channel.name)
    prepared.member = Member(session.connection, session.user, session.info)
    await broker.join(channel.name, prepared.member)
    if prepared.command.members:
        channel.arriving[prepared] = None
        prepared.present = (await broker.presence(channel.name)).members


def _may_follow(session: Session, channel: str) -> None:
    if channel in session.subscriptions:
        raise ClientFault(ErrorCode.ALREADY_SUBSCRIBED, f"this connection follows {channel!r} already")
    if len(session.subscriptions) >= session.services.limits.channels:
        raise too_many(session.services)


async def _channel_token(services: Services, token: str) -> ChannelToken | None:
    if services.verifier is None:
        return None
    return await services.verifier.channel_token(token)


def _check(session: Session, rules: ChannelRules, channel: str, token: ChannelToken | None) -> None:
    rejection = may_subscribe(
        rules, user=session.user, channel=channel, channel_token=token, granted=session.granted
    )
    if rejection is not None:
        raise rejection.error()
