"""The handlers of all commands, in one table.

A handler returns the reply or raises `ProtocolError`. The commands of one session run one after the other,
and what a handler does after its last `await` happens without anything in between.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from gateway.access.grants import Grant
from gateway.access.permissions import ChannelRules, may_publish, may_read, may_subscribe
from gateway.broker import base as broker
from gateway.broker.base import Publication, Retention
from gateway.delivery.encoding import EncodedMessage, encode_in_slices
from gateway.delivery.reply_size import fitting, member_size
from gateway.errors import Rejection
from gateway.hub.services import Services
from gateway.hub.session import Session
from gateway.hub.subscribe import require_open, restore, subscribe, subscribe_claimed
from gateway.hub.tokens import verified_identity
from gateway.presence.members import apply_changes
from protocol.errors import ClientFault, CloseCode, ErrorCode
from protocol.messages import (
    Connect,
    Connected,
    History,
    HistoryPage,
    Join,
    Leave,
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
    Subscribed,
    Unsubscribe,
    Unsubscribed,
)

# ---------------------------------------------------------------- connect, refresh, ping


async def connect(session: Session, command: Connect) -> Connected:
    """Authenticate, register, and restore every channel that the client asks for; all in one reply."""
    services = session.services
    identity = await verified_identity(services, command.token or session.header_token)
    require_open(session)
    user = "" if identity is None else identity.user
    if wait := session.commands.identify(user, services.limits.costs.of(command)):
        raise Rejection(ErrorCode.RATE_LIMITED, "too many commands of this user", wait).error()
    session.header_token = None
    slot = services.admission.admit_client(user)
    if isinstance(slot, Rejection) and services.per_user_policy == "replace":
        _close_oldest(services, user)
        slot = services.admission.admit_client(user)
    if isinstance(slot, Rejection):
        raise slot.error()
    session.register(identity, slot)
    subs = await restore(session, command.subs)
    if identity is not None:
        session.set_token_expiry(identity.expires_at)
    return Connected(
        command.id,
        session.connection,
        session.user,
        services.hub.node,
        services.heartbeat.interval,
        _token_seconds_left(session),
        services.limits.as_reply(),
        subs,
    )


def _close_oldest(services: Services, user: str) -> None:
    sessions = services.hub.users.get(user, {})
    oldest = min(sessions.values(), key=lambda session: session.opened_at, default=None)
    if oldest is not None:
        oldest.close(CloseCode.REPLACED)


async def refresh(session: Session, command: Refresh) -> Refreshed:
    """Replace the session's token by a newer one of the same user."""
    services = session.services
    identity = await verified_identity(services, command.token)
    require_open(session)
    if identity is None or identity.user != session.user:
        fault = ClientFault(ErrorCode.UNAUTHORIZED, "refresh needs a token of the same user")
        services.on_token_refused(fault)
        raise fault
    session.info = identity.info
    session.set_token_expiry(identity.expires_at)
    before = set(session.claimed.names)
    session.claimed.replace(identity.channels, identity.issued_at)
    _end_what_is_not_permitted(session)
    await _subscribe_claimed(session, [name for name in session.claimed.names if name not in before])
    return Refreshed(command.id, _token_seconds_left(session) or 0.0)


def _end_what_is_not_permitted(session: Session) -> None:
    """End the subscriptions that only the `channels` of the session's previous token permitted."""
    for name, subscription in list(session.subscriptions.items()):
        if subscription.grant is not Grant.CLAIM or name in session.claimed:
            continue
        rejection = may_subscribe(
            subscription.channel.rules, user=session.user, channel=name, channel_token=None
        )
        if rejection is None:
            subscription.grant = Grant.RULE
        else:
            session.revoke(name, ErrorCode.PERMISSION_DENIED, "the new token does not permit it")


async def _subscribe_claimed(session: Session, added: list[str]) -> None:
    """Subscribe to channels that the session's new token has *added*, and push the outcome of each."""
    missing = [name for name in added if name not in session.subscriptions]
    session.commands.charge(session.services.limits.costs.of_channels([None] * len(missing)))
    for name, outcome in (await subscribe_claimed(session, missing)).items():
        if isinstance(outcome, Subscribed):
            session.send(outcome)
        else:
            session.send(Unsubscribed(name, outcome.code, outcome.message))


async def ping(_: Session, command: Ping) -> PongReply:
    """Return the reply."""
    return PongReply(command.id)


# ---------------------------------------------------------------- unsubscribe, publish


async def unsubscribe(session: Session, command: Unsubscribe) -> Unsubscribed:
    """End a subscription."""
    if command.channel not in session.subscriptions:
        raise ClientFault(
            ErrorCode.NOT_SUBSCRIBED, f"this connection is not subscribed to {command.channel!r}"
        )
    session.unsubscribe(command.channel)
    return Unsubscribed(command.channel, id=command.id)


async def publish(session: Session, command: Publish) -> Published:
    """Publish a message, if the channel's rules permit it."""
    services, name = session.services, command.channel
    rules = services.namespaces.rules(name)
    _require(may_publish(rules, user=session.user, subscribed=name in session.subscriptions, channel=name))
    if len(command.data) > services.limits.message_size:
        raise ClientFault(
            ErrorCode.TOO_LARGE,
            f"data: {len(command.data)} bytes of JSON; a message has at most {services.limits.message_size}",
        )
    receipt = await services.broker.publish(
        Publication(
            name,
            command.data,
            Retention.of(rules.history, rules.history_ttl),
            # A key counts for one client only: otherwise another client could use the same key first, and
            # this client's message would count as published already.
            None if command.key is None else f"@{session.user or session.connection}\n{command.key}",
            Sender(session.connection, session.user),
        )
    )
    return Published(command.id, name, receipt.id, receipt.level and receipt.level.value)


# ---------------------------------------------------------------- presence, history


async def presence(session: Session, command: Presence) -> PresenceState:
    """Return the members of a channel, or only how many they are."""
    services, name = session.services, command.channel
    rules = services.namespaces.rules(name)
    _require(may_read(rules, subscribed=name in session.subscriptions, channel=name))
    if not rules.presence:
        raise _turned_off("presence", name, rules)
    if not command.members:
        count = await services.broker.count(name)
        return PresenceState(command.id, name, count.connections, count.users)
    present = await _present_members(session, name)
    counted = PresenceState(command.id, name, present.connections, present.users)
    limits = services.limits
    first = present.members[: limits.presence_reply]
    listed, _ = fitting(first, member_size, room=limits.outbox // 2)
    truncated = True if listed < len(present.members) else None
    session.commands.charge(limits.costs.of_reply(members=listed))
    return replace(counted, members=first[:listed], truncated=truncated)


async def _present_members(session: Session, channel: str) -> broker.Presence:
    """Return the members of *channel* as they are now: after every join and leave that was pushed before.

    The broker's list may be older than pushes that overtake it. A client that keeps a list and replaces it by
    this one would then miss what those have changed.
    """
    changes = MemberChanges()
    member_lists = session.subscriptions[channel].channel.member_lists
    member_lists[changes] = None
    try:
        present = await session.services.broker.presence(channel)
    finally:
        del member_lists[changes]
    return broker.Presence(apply_changes(present.members, changes.changes))


class MemberChanges:
    """The joins and leaves of a channel since the broker was asked for its members."""

    __slots__ = ("changes",)

    def __init__(self) -> None:
        self.changes: list[Join | Leave] = []


async def history(session: Session, command: History) -> HistoryPage:
    """Return messages of a channel's history, as many as fit into half an outbox."""
    services, name = session.services, command.channel
    rules = services.namespaces.rules(name)
    _require(may_read(rules, subscribed=name in session.subscriptions, channel=name))
    if not rules.history:
        raise _turned_off("history", name, rules)
    most = services.limits.history_reply
    limit = most if command.limit is None else min(command.limit, most)
    room = services.limits.outbox // 2  # the other half is for the next page
    page = await services.hub.history_reads.read(
        name, since=command.since, limit=limit, size=room, reverse=command.reverse
    )
    if not page.recovered:
        raise ClientFault(
            ErrorCode.BAD_REQUEST, f"history.since: {command.since} is no longer in this history"
        )
    messages = [EncodedMessage(message) for message in page.messages]
    session.commands.charge(services.limits.costs.of_reply(messages=len(messages)))
    await encode_in_slices(messages, session.codec, services.slicer)
    return HistoryPage(command.id, name, page.position, messages)


# ---------------------------------------------------------------- shared


def _require(rejection: Rejection | None) -> None:
    if rejection is not None:
        raise rejection.error()


def _turned_off(what: str, channel: str, rules: ChannelRules) -> ClientFault:
    return ClientFault(
        ErrorCode.BAD_REQUEST, f"{channel!r} keeps no {what}: turn it on in [channels.{rules.namespace}]"
    )


def _token_seconds_left(session: Session) -> float | None:
    return None if session.token_expiry is None else round(session.token_expiry.seconds_left, 3)


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
