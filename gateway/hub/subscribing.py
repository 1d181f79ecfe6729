"""How a subscription is made: prepared with all the waiting that takes, then live in one instant.

Whatever was prepared is owed a `commit` or an `abandon`, also where the client goes away meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gateway.access.claims import ChannelToken
from gateway.access.permissions import ChannelRules, may_subscribe
from gateway.errors import BrokerUnavailable, GatewayError
from gateway.hub import replay
from gateway.hub.pages import weight
from gateway.hub.replay import Replay
from gateway.hub.services import Services
from gateway.hub.subscription import Subscription
from gateway.presence.members import that_fit, up_to_date
from protocol import channels
from protocol.errors import ClientFault, ErrorCode, ProtocolError, ServerFault
from protocol.messages import Error, Join, Leave, Member, Resume, Subscribe, Subscribed

if TYPE_CHECKING:
    from gateway.hub.session import Session

FULL_RETRY_MS = 5_000
"""When a client may try again what the broker had no room for: after the next look for what is too old."""


async def subscribe(session: Session, command: Subscribe) -> Subscribed:
    """Follow a channel: now, since a position, or from the last messages on."""
    granted = command.channel in session.granted
    prepared = await _prepare(session, command, _room(session), granted=granted)
    await _still_wanted(session, prepared)
    return _commit(session, prepared, _room(session))


async def server_subscribe(session: Session, channel: str) -> None:
    """Let the server's API subscribe *session* to *channel*; nothing happens where it is already."""
    try:
        prepared = await _prepare(session, Subscribe(0, channel), 0, granted=True)
        await _still_wanted(session, prepared)
        session.send(_commit(session, prepared, 0))
    except (ProtocolError, GatewayError):
        return
    except Exception as error:  # noqa: BLE001 (nobody waits for an answer)
        session.services.on_error(error)


async def restore(session: Session, asked: Mapping[str, Resume]) -> dict[str, Subscribed | Error]:
    """Subscribe to what the client asks for and to what the server adds; each succeeds or fails for itself.

    All waiting comes first: then every channel goes live in the same instant, and no message overtakes the
    reply. What is replayed fits into one reply together; the rest of it follows.
    """
    server_side = dict.fromkeys(_server_side(session), Resume())
    prepared: dict[str, _Prepared | ProtocolError] = {}
    places, room = session.services.limits.channels, _room(session)
    try:
        for channel, resume in {**server_side, **asked}.items():
            ask = Subscribe(0, channel, resume.token, resume.since, resume.rewind)
            granted = channel in server_side
            if not places:
                prepared[channel] = _too_many(session.services)
                continue
            each = prepared[channel] = await _attempt(session, ask, room, granted=granted)
            if isinstance(each, _Prepared):
                places -= 1
                room -= weight(each.replay.messages)
    except BaseException:
        await _abandon(session, *prepared.values())
        raise
    await _still_wanted(session, *prepared.values())
    return _commit_all(session, prepared)


async def leave(services: Services, channel: str, connection: str) -> None:
    """Remove a member from *channel*; a broker that cannot be reached ends its membership by itself."""
    try:
        await services.broker.leave(channel, connection)
    except GatewayError:
        return


def unavailable(error: GatewayError) -> ProtocolError:
    """Return what a client is told of *error*."""
    if isinstance(error, BrokerUnavailable):
        wait = int(error.retry_after * 1000)
        return ServerFault(ErrorCode.UNAVAILABLE, "the broker cannot take it now", retry_after_ms=wait)
    return ServerFault(ErrorCode.UNAVAILABLE, "the broker is full", retry_after_ms=FULL_RETRY_MS)


def still_here(session: Session) -> None:
    """End the command without a reply where the client has gone meanwhile."""
    if not session.is_open:
        raise ClientFault(ErrorCode.UNAVAILABLE, "the connection has ended")


# ---------------------------------------------------------------- prepare: everything that may wait


class _Prepared:
    """A subscription that may go live: allowed, held, its replay and the channel's members at hand."""

    __slots__ = ("changes", "command", "expires_at", "member", "present", "replay", "server_side")

    def __init__(self, command: Subscribe, ready: Replay, *, server_side: bool) -> None:
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


def _room(session: Session) -> int:
    """Return how many bytes of what was missed a reply may hold: half an outbox, with what waits there.

    The rest follows as fast as the socket takes it: so a slow client that asks for much is not sent away.
    """
    return session.services.limits.outbox // 2 - session.outbox.size


async def _attempt(
    session: Session, command: Subscribe, room: int, *, granted: bool
) -> _Prepared | ProtocolError:
    try:
        return await _prepare(session, command, room, granted=granted)
    except ProtocolError as error:
        return error
    except GatewayError as error:
        return unavailable(error)


async def _prepare(session: Session, command: Subscribe, room: int, *, granted: bool) -> _Prepared:
    """Check and fetch what a subscription needs."""
    services, name = session.services, command.channel
    rules = services.namespaces.rules(name)
    _may_follow(session, name)
    token = await _channel_token(services, command.token)
    if not granted:
        _check(session, rules, name, token)
    rewind = min(command.rewind or 0, services.limits.rewind)
    ready = await replay.prepare(
        services.hub,
        name,
        rules,
        since=command.since,
        rewind=rewind,
        room=room,
    )
    prepared = _Prepared(command, ready, server_side=granted)
    if token is not None and not granted and rules.subscribe == "token":
        prepared.expires_at = token.expires_at
    try:
        if rules.presence and session.is_open:
            await _appear(session, prepared)
    except BaseException:
        await _abandon(session, prepared)
        raise
    return prepared


async def _appear(session: Session, prepared: _Prepared) -> None:
    """Be present, and see who else is."""
    channel, broker = prepared.replay.channel, session.services.broker
    await session.left(channel.name)
    prepared.member = Member(session.connection, session.user, session.info)
    await broker.join(channel.name, prepared.member)
    if prepared.command.members:
        channel.arriving[prepared] = None
        prepared.present = (await broker.presence(channel.name)).members


def _server_side(session: Session) -> list[str]:
    personal = channels.personal(session.user)
    # A user whose name does not fit a channel's has none: the client could not name it to resume.
    return [personal, *session.granted] if session.user and channels.valid(personal) else [*session.granted]


def _may_follow(session: Session, channel: str) -> None:
    if channel in session.subscriptions:
        raise ClientFault(ErrorCode.ALREADY_SUBSCRIBED, f"this connection follows {channel!r} already")
    if len(session.subscriptions) >= session.services.limits.channels:
        raise _too_many(session.services)


def _too_many(services: Services) -> ClientFault:
    return ClientFault(
        ErrorCode.LIMIT_EXCEEDED, f"a connection follows at most {services.limits.channels} channels"
    )


async def _channel_token(services: Services, token: str | None) -> ChannelToken | None:
    if token is None or services.verifier is None:
        return None
    return await services.verifier.channel_token(token)


def _check(session: Session, rules: ChannelRules, channel: str, token: ChannelToken | None) -> None:
    denied = may_subscribe(
        rules, user=session.user, channel=channel, channel_token=token, granted=session.granted
    )
    if denied is not None:
        raise ClientFault(denied.code, denied.message)


# ---------------------------------------------------------------- commit or abandon


async def _still_wanted(session: Session, *prepared: _Prepared | ProtocolError) -> None:
    """Abandon what was prepared, and end the command, where the client has gone meanwhile."""
    if not session.is_open:
        await _abandon(session, *prepared)
        still_here(session)


async def _abandon(session: Session, *prepared: _Prepared | ProtocolError) -> None:
    """Undo what `_prepare` did."""
    for each in prepared:
        if isinstance(each, _Prepared):
            channel = each.replay.channel
            channel.arriving.pop(each, None)
            session.services.hub.release(channel)
            if each.member is not None:
                await leave(session.services, channel.name, session.connection)


def _commit_all(
    session: Session, prepared: Mapping[str, _Prepared | ProtocolError]
) -> dict[str, Subscribed | Error]:
    for each in prepared.values():
        if isinstance(each, _Prepared):
            # Who proves too slow for what waits leaves now, and is not announced before the reply.
            each.replay.channel.settle()
    room = _room(session)
    subs: dict[str, Subscribed | Error] = {}
    for channel, each in prepared.items():
        if isinstance(each, _Prepared):
            subscribed = subs[channel] = _commit(session, each, room)
            room -= weight(subscribed.messages)
        else:
            subs[channel] = Error(each.code, each.message, each.retry_after_ms)
    return subs


def _commit(session: Session, prepared: _Prepared, room: int) -> Subscribed:
    """Go live, and say from where, with at most *room* bytes of what was missed; without waiting.

    Where more was missed, the subscription is behind: what is left is for the catch-up, after the reply.
    """
    command, channel = prepared.command, prepared.replay.channel
    limits, members, truncated = session.services.limits, prepared.members, None
    if members is not None:
        listed, size = that_fit(members, most=limits.presence_reply, room=limits.outbox // 2)
        members, truncated, room = listed, True if len(listed) < len(members) else None, room - size
    answer = prepared.replay.complete(room)
    watches = channel.rules.join_leave if command.join_leave is None else command.join_leave
    subscription = Subscription(
        session, channel, watches=watches and channel.rules.presence, server_side=prepared.server_side
    )
    subscription.member = prepared.member
    channel.arriving.pop(prepared, None)
    channel.add(subscription)
    session.subscriptions[channel.name] = subscription
    if answer.behind is not None:
        session.fell_behind(subscription, answer.behind)
    session.services.hub.release(channel)
    if prepared.expires_at is not None:
        left = max(0.0, prepared.expires_at - session.services.wall())
        subscription.expiry = asyncio.get_running_loop().call_later(
            left, session.revoke, channel.name, "token_expired", "the channel token has expired"
        )
    position = channel.top if answer.behind is None else answer.behind
    messages, recovered, _ = answer
    return Subscribed(channel.name, position, recovered, messages, members, command.id or None, truncated)
