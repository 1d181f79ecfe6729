"""What each command does: one handler a type, in one table.

A handler returns the reply or raises `ProtocolError`; everything it does after its last `await` happens at once, so that a
subscription goes live in the same instant for which its reply speaks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from gateway.access.claims import ChannelToken, Identity
from gateway.access.permissions import ChannelRules, Denied, may_publish, may_read, may_subscribe
from gateway.broker.base import Publication, Retention
from gateway.errors import BrokerUnavailable
from gateway.hub import replay
from gateway.hub.channel import Subscription
from gateway.hub.replay import Replay
from gateway.hub.services import Services
from gateway.link.frames import Frames
from protocol import channels
from protocol.errors import ClientFault, CloseCode, ErrorCode, ProtocolError
from protocol.messages import (
    Connect,
    Connected,
    Error,
    History,
    HistoryPage,
    Member,
    Ping,
    PongReply,
    Presence,
    PresenceState,
    Publish,
    Published,
    Refresh,
    Refreshed,
    Reply,
    Resume,
    Sender,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
)

if TYPE_CHECKING:
    from gateway.hub.session import Session


# ---------------------------------------------------------------- connect, refresh, ping


async def connect(session: Session, command: Connect) -> Connected:
    """Say who is there, and restore every channel asked for in one go."""
    services = session.services
    identity = await _identity(services, command.token or session.header_token)
    session.header_token = None
    _still_here(session)
    user = "" if identity is None else identity.user
    ticket = services.admission.admit_user(user)
    if isinstance(ticket, Denied) and services.per_user_policy == "replace":
        _replace_oldest(services, user)
        ticket = services.admission.admit_user(user)
    if isinstance(ticket, Denied):
        raise ClientFault(ticket.code, ticket.message)
    session.welcome(identity, ticket)
    subs = await _restore(session, command.subs)
    return Connected(
        command.id,
        session.connection,
        session.user,
        services.hub.node,
        services.heartbeat.interval,
        _seconds_left(services, session.expires_at),
        services.limits.told(),
        subs,
    )


async def _identity(services: Services, token: str | None) -> Identity | None:
    if token is not None and services.verifier is not None:
        return await services.verifier.identity(token)
    if token is None and services.anonymous:
        return None
    raise ClientFault(ErrorCode.UNAUTHORIZED, "connect needs a token that this gateway can verify")


def _replace_oldest(services: Services, user: str) -> None:
    sessions = services.hub.users.get(user, {})
    oldest = min(sessions.values(), key=lambda session: session.since, default=None)
    if oldest is not None:
        oldest.end(CloseCode.REPLACED)


async def _restore(session: Session, asked: Any) -> dict[str, Subscribed | Error]:
    """Subscribe to what the client asks for and to what the server adds; each succeeds or fails for itself.

    All waiting comes first: then every channel goes live in the same instant, and no message overtakes the reply.
    """
    granted = frozenset(_server_side(session))
    wanted: dict[str, Resume] = {**dict.fromkeys(_server_side(session), Resume()), **asked}
    prepared: list[tuple[str, _Prepared | ProtocolError]] = []
    places = session.services.limits.channels
    for channel, resume in wanted.items():
        try:
            if not places:
                raise _too_many(session.services)
            ask = Subscribe(0, channel, resume.token, resume.since, resume.rewind)
            prepared.append((channel, await _prepare(session, ask, granted=channel in granted)))
            places -= 1
        except ProtocolError as error:
            prepared.append((channel, error))
        except BrokerUnavailable as error:
            prepared.append((channel, _unavailable(error)))
    if not session.is_open:
        for _, each in prepared:
            if isinstance(each, _Prepared):
                await _abandon(session, each)
        _still_here(session)
    return {
        channel: _error(each) if isinstance(each, ProtocolError) else _commit(session, each)
        for channel, each in prepared
    }


def _server_side(session: Session) -> list[str]:
    personal = [channels.personal(session.user)] if session.user else []
    return [*personal, *session.granted]


async def refresh(session: Session, command: Refresh) -> Refreshed:
    """Live on with a newer token of the same user."""
    services = session.services
    identity = await _identity(services, command.token)
    if identity is None or identity.user != session.user:
        raise ClientFault(ErrorCode.UNAUTHORIZED, "refresh needs a token of the same user")
    session.info, session.granted = identity.info, identity.channels
    session.expire_at(identity.expires_at)
    return Refreshed(command.id, _seconds_left(services, identity.expires_at) or 0.0)


async def ping(_: Session, command: Ping) -> PongReply:
    """Answer."""
    return PongReply(command.id)


# ---------------------------------------------------------------- subscribe, unsubscribe


class _Prepared:
    """A subscription that may go live: allowed, held, its replay and the channel's members at hand."""

    __slots__ = ("command", "expires_at", "member", "members", "replay", "server_side")

    def __init__(self, command: Subscribe, ready: Replay, *, server_side: bool) -> None:
        self.command = command
        self.replay = ready
        self.server_side = server_side
        self.expires_at: float | None = None
        self.member: Member | None = None
        self.members: tuple[Member, ...] | None = None


async def subscribe(session: Session, command: Subscribe) -> Subscribed:
    """Follow a channel: now, since a position, or from the last messages on."""
    prepared = await _prepare(session, command, granted=command.channel in session.granted)
    if not session.is_open:
        await _abandon(session, prepared)
        _still_here(session)
    return _commit(session, prepared)


async def _prepare(session: Session, command: Subscribe, *, granted: bool) -> _Prepared:
    """Check and fetch everything that a subscription needs; what is returned is owed a `_commit` or an `_abandon`."""
    services, name = session.services, command.channel
    rules = _rules(services, name)
    _may_follow(session, name)
    token = await _channel_token(services, command.token)
    if not granted:
        _unless(
            may_subscribe(
                rules, user=session.user, channel=name, channel_token=token, granted=session.granted
            )
        )
    rewind = min(command.rewind or 0, services.limits.rewind)
    ready = await replay.prepare(services.hub, name, rules, since=command.since, rewind=rewind)
    prepared = _Prepared(command, ready, server_side=granted)
    if token is not None and not granted and rules.subscribe == "token":
        prepared.expires_at = token.expires_at
    try:
        if rules.presence and session.is_open:
            prepared.member = Member(session.connection, session.user, session.info)
            await services.broker.join(name, prepared.member)
            if command.members:
                prepared.members = tuple((await services.broker.presence(name)).members)
    except BaseException:
        await _abandon(session, prepared)
        raise
    return prepared


def _commit(session: Session, prepared: _Prepared) -> Subscribed:
    """Go live, and say from where; without waiting."""
    command, channel = prepared.command, prepared.replay.channel
    if channel.name in session.subscriptions:
        # The server's API was faster while this one waited.
        session.services.hub.release(channel)
        raise _already(channel.name)
    messages, recovered = prepared.replay.complete(session.services.limits.outbox // 2)
    watches = channel.rules.join_leave if command.join_leave is None else command.join_leave
    subscription = Subscription(
        session, channel, watches=watches and channel.rules.presence, server_side=prepared.server_side
    )
    subscription.member = prepared.member
    channel.add(subscription)
    session.subscriptions[channel.name] = subscription
    session.services.hub.release(channel)
    if prepared.expires_at is not None:
        left = max(0.0, prepared.expires_at - session.services.wall())
        subscription.expiry = asyncio.get_running_loop().call_later(
            left, session.revoke, channel.name, "token_expired", "the channel token has expired"
        )
    return Subscribed(channel.name, channel.top, recovered, messages, prepared.members, command.id or None)


async def _abandon(session: Session, prepared: _Prepared) -> None:
    """Undo what `_prepare` did."""
    channel = prepared.replay.channel
    session.services.hub.release(channel)
    if prepared.member is not None:
        await leave(session.services, channel.name, session.connection)


async def server_subscribe(session: Session, channel: str) -> None:
    """Let the server's API subscribe *session* to *channel*; nothing happens where it is already."""
    try:
        prepared = await _prepare(session, Subscribe(0, channel), granted=True)
        if session.is_open:
            session.send(_commit(session, prepared))
        else:
            await _abandon(session, prepared)
    except (ProtocolError, BrokerUnavailable):
        return


async def unsubscribe(session: Session, command: Unsubscribe) -> Unsubscribed:
    """Stop following a channel."""
    _subscription(session, command.channel)
    session.unfollow(command.channel)
    return Unsubscribed(command.channel, id=command.id)


async def leave(services: Services, channel: str, connection: str) -> None:
    """Remove a member from *channel*; a broker that cannot be reached ends its membership by itself."""
    try:
        await services.broker.leave(channel, connection)
    except BrokerUnavailable:
        return


# ---------------------------------------------------------------- publish, presence, history


async def publish(session: Session, command: Publish) -> Published:
    """Publish for the client, if it may."""
    services, name = session.services, command.channel
    rules = _rules(services, name)
    _unless(may_publish(rules, user=session.user, subscribed=name in session.subscriptions, channel=name))
    receipt = await services.broker.publish(
        Publication(
            name,
            command.data,
            Retention(rules.history, rules.history_ttl) if rules.history else None,
            # One client's keys are not another's: else any of them could make the other's message vanish.
            None if command.key is None else f"@{session.user or session.connection}\n{command.key}",
            Sender(session.connection, session.user),
        )
    )
    return Published(command.id, name, receipt.id)


async def presence(session: Session, command: Presence) -> PresenceState:
    """Tell who is there."""
    rules = _rules(session.services, command.channel)
    _unless(may_read(rules, subscribed=command.channel in session.subscriptions, channel=command.channel))
    if not rules.presence:
        raise _keeps_no("presence", command.channel, rules)
    present = await session.services.broker.presence(command.channel)
    members = tuple(present.members) if command.members else None
    return PresenceState(command.id, command.channel, present.connections, present.users, members)


async def history(session: Session, command: History) -> HistoryPage:
    """Tell what was said."""
    services, name = session.services, command.channel
    rules = _rules(services, name)
    _unless(may_read(rules, subscribed=name in session.subscriptions, channel=name))
    if not rules.history:
        raise _keeps_no("history", name, rules)
    most = services.limits.history_reply
    limit = most if command.limit is None else min(command.limit, most)
    page = await services.broker.read(name, since=command.since, limit=limit, reverse=command.reverse)
    if not page.recovered:
        raise ClientFault(
            ErrorCode.BAD_REQUEST, f"history.since: {command.since} is no longer in this history"
        )
    size, messages = 0, list[Frames]()
    for message in page.messages:
        size += len(message.data)
        if messages and size > services.limits.outbox // 2:
            break  # the rest is there for the next page
        messages.append(Frames(message))
    return HistoryPage(command.id, name, page.position, messages)


# ---------------------------------------------------------------- shared


def _rules(services: Services, channel: str) -> ChannelRules:
    return services.namespaces.rules(channel)


def _may_follow(session: Session, channel: str) -> None:
    if channel in session.subscriptions:
        raise _already(channel)
    if len(session.subscriptions) >= session.services.limits.channels:
        raise _too_many(session.services)


def _already(channel: str) -> ClientFault:
    return ClientFault(ErrorCode.ALREADY_SUBSCRIBED, f"this connection follows {channel!r} already")


def _too_many(services: Services) -> ClientFault:
    return ClientFault(
        ErrorCode.LIMIT_EXCEEDED, f"a connection follows at most {services.limits.channels} channels"
    )


def _subscription(session: Session, channel: str) -> Subscription:
    subscription = session.subscriptions.get(channel)
    if subscription is None:
        raise ClientFault(ErrorCode.NOT_SUBSCRIBED, f"this connection does not follow {channel!r}")
    return subscription


async def _channel_token(services: Services, token: str | None) -> ChannelToken | None:
    if token is None or services.verifier is None:
        return None
    return await services.verifier.channel_token(token)


def _unless(denied: Denied | None) -> None:
    if denied is not None:
        raise ClientFault(denied.code, denied.message)


def _keeps_no(what: str, channel: str, rules: ChannelRules) -> ClientFault:
    return ClientFault(
        ErrorCode.BAD_REQUEST, f"{channel!r} keeps no {what}: turn it on in [channels.{rules.namespace}]"
    )


def _seconds_left(services: Services, moment: float | None) -> float | None:
    return None if moment is None else round(max(0.0, moment - services.wall()), 3)


def _unavailable(error: BrokerUnavailable) -> ProtocolError:
    wait = int(error.retry_after * 1000)
    return ProtocolError(ErrorCode.UNAVAILABLE, "the broker cannot take it now", retry_after_ms=wait)


def _error(error: ProtocolError) -> Error:
    return Error(error.code, error.message, error.retry_after_ms)


def _still_here(session: Session) -> None:
    """End the command without a reply where the client has gone meanwhile."""
    if not session.is_open:
        raise ClientFault(ErrorCode.UNAVAILABLE, "the connection has ended")


Handler = Callable[[Any, Any], Awaitable[Reply]]

HANDLERS: dict[str, Handler] = {
    "connect": connect,
    "subscribe": subscribe,
    "unsubscribe": unsubscribe,
    "publish": publish,
    "presence": presence,
    "history": history,
    "refresh": refresh,
    "ping": ping,
}
"""Every command that has a reply."""
