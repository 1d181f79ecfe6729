"""What each command does: one handler a type, in one table.

A handler returns the reply or raises `ProtocolError`. Those of one session run one after the other, and what
one does after its last `await` happens at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gateway.access.claims import Identity
from gateway.access.permissions import ChannelRules, may_publish, may_read
from gateway.broker.base import Publication, Retention
from gateway.delivery.encoding import EncodedMessage
from gateway.errors import Rejection
from gateway.hub.services import Services
from gateway.hub.subscribe import restore, still_here, subscribe
from gateway.hub.subscription import Subscription
from gateway.presence.members import that_fit
from protocol.errors import ClientFault, CloseCode, ErrorCode
from protocol.messages import (
    Connect,
    Connected,
    History,
    HistoryPage,
    Ping,
    PongReply,
    Presence,
    PresenceState,
    Publish,
    Published,
    Refresh,
    Refreshed,
    Reply,
    Sender,
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
    still_here(session)
    user = "" if identity is None else identity.user
    ticket = services.admission.admit_user(user)
    if isinstance(ticket, Rejection) and services.per_user_policy == "replace":
        _replace_oldest(services, user)
        ticket = services.admission.admit_user(user)
    if isinstance(ticket, Rejection):
        raise ticket.error()
    session.welcome(identity, ticket)
    subs = await restore(session, command.subs)
    return Connected(
        command.id,
        session.connection,
        session.user,
        services.hub.node,
        services.heartbeat.interval,
        _seconds_left(session),
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


async def refresh(session: Session, command: Refresh) -> Refreshed:
    """Live on with a newer token of the same user."""
    services = session.services
    identity = await _identity(services, command.token)
    still_here(session)
    if identity is None or identity.user != session.user:
        raise ClientFault(ErrorCode.UNAUTHORIZED, "refresh needs a token of the same user")
    session.info, session.granted = identity.info, identity.channels
    session.expire_at(identity.expires_at)
    return Refreshed(command.id, _seconds_left(session) or 0.0)


async def ping(_: Session, command: Ping) -> PongReply:
    """Answer."""
    return PongReply(command.id)


# ---------------------------------------------------------------- unsubscribe, publish


async def unsubscribe(session: Session, command: Unsubscribe) -> Unsubscribed:
    """Stop following a channel."""
    _subscription(session, command.channel)
    session.unfollow(command.channel)
    return Unsubscribed(command.channel, id=command.id)


async def publish(session: Session, command: Publish) -> Published:
    """Publish for the client, if it may."""
    services, name = session.services, command.channel
    rules = _rules(services, name)
    _unless(may_publish(rules, user=session.user, subscribed=name in session.subscriptions, channel=name))
    receipt = await services.broker.publish(
        Publication(
            name,
            command.data,
            Retention.of(rules.history, rules.history_ttl),
            # One client's keys are not another's: else any of them could make the other's message vanish.
            None if command.key is None else f"@{session.user or session.connection}\n{command.key}",
            Sender(session.connection, session.user),
        )
    )
    return Published(command.id, name, receipt.id, receipt.level and receipt.level.value)


# ---------------------------------------------------------------- presence, history


async def presence(session: Session, command: Presence) -> PresenceState:
    """Tell who is there."""
    rules = _rules(session.services, command.channel)
    _unless(may_read(rules, subscribed=command.channel in session.subscriptions, channel=command.channel))
    if not rules.presence:
        raise _keeps_no("presence", command.channel, rules)
    services = session.services
    if not command.members:
        count = await services.broker.count(command.channel)
        return PresenceState(command.id, command.channel, count.connections, count.users)
    present = await services.broker.presence(command.channel)
    counted = PresenceState(command.id, command.channel, present.connections, present.users)
    limits = services.limits
    members, _ = that_fit(present.members, most=limits.presence_reply, room=limits.outbox // 2)
    truncated = True if len(members) < len(present.members) else None
    return replace(counted, members=members, truncated=truncated)


async def history(session: Session, command: History) -> HistoryPage:
    """Tell what was said."""
    services, name = session.services, command.channel
    rules = _rules(services, name)
    _unless(may_read(rules, subscribed=name in session.subscriptions, channel=name))
    if not rules.history:
        raise _keeps_no("history", name, rules)
    most = services.limits.history_reply
    limit = most if command.limit is None else min(command.limit, most)
    room = services.limits.outbox // 2  # the rest is there for the next page
    page = await services.broker.read(
        name, since=command.since, limit=limit, size=room, reverse=command.reverse
    )
    if not page.recovered:
        raise ClientFault(
            ErrorCode.BAD_REQUEST, f"history.since: {command.since} is no longer in this history"
        )
    return HistoryPage(
        command.id, name, page.position, [EncodedMessage(message) for message in page.messages]
    )


# ---------------------------------------------------------------- shared


def _rules(services: Services, channel: str) -> ChannelRules:
    return services.namespaces.rules(channel)


def _subscription(session: Session, channel: str) -> Subscription:
    subscription = session.subscriptions.get(channel)
    if subscription is None:
        raise ClientFault(ErrorCode.NOT_SUBSCRIBED, f"this connection does not follow {channel!r}")
    return subscription


def _unless(rejection: Rejection | None) -> None:
    if rejection is not None:
        raise rejection.error()


def _keeps_no(what: str, channel: str, rules: ChannelRules) -> ClientFault:
    return ClientFault(
        ErrorCode.BAD_REQUEST, f"{channel!r} keeps no {what}: turn it on in [channels.{rules.namespace}]"
    )


def _seconds_left(session: Session) -> float | None:
    return None if session.expiry is None else round(session.expiry.left, 3)


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
