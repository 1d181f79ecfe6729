"""Making a subscription, in two phases: `_prepare` may wait, `_commit` does not.

`_prepare` checks permissions, routes the channel to this node, fetches what the client missed and asks who is
present. `_commit` adds the subscription without waiting, together with everything that was delivered
meanwhile. Whatever `_prepare` returned must get a `_commit` or an `_abandon`, even if the client has gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial

from gateway.access.claims import ChannelToken
from gateway.access.grants import Grant
from gateway.access.permissions import ChannelRules, may_subscribe
from gateway.delivery.encoding import encode_in_slices
from gateway.delivery.reply_size import fitting, member_size, messages_size
from gateway.errors import GatewayError, rejection_of
from gateway.hub.expiry_timer import ExpiryTimer
from gateway.hub.recovery import recover
from gateway.hub.recovery.recover import RESUME_REPLY_BYTES, Recovery
from gateway.hub.recovery.reply_budget import ReplyBudget
from gateway.hub.services import Services
from gateway.hub.session import Session
from gateway.hub.subscription import Subscription
from gateway.hub.tokens import verified_channel_token
from gateway.presence.members import apply_changes
from protocol import channels
from protocol.errors import ClientFault, ErrorCode, ProtocolError
from protocol.messages import Error, Join, Leave, Member, Resume, Subscribe, Subscribed

FROM_NOW_ON = Resume()

SUBSCRIBE_MICROSECONDS, TOKEN_MICROSECONDS, RECOVERY_MICROSECONDS = 25, 35, 15
"""To prepare one of many subscriptions; its token (HS256; ES256 takes 150); what it missed."""


class PreparedSubscription:
    """A subscription that may go live: permitted, channel acquired, missed messages and members at hand."""

    __slots__ = ("changes", "command", "expires_at", "grant", "member", "present", "recovery")

    def __init__(self, command: Subscribe, recovery: Recovery, grant: Grant) -> None:
        self.command = command
        self.recovery = recovery
        self.grant = grant
        self.expires_at: float | None = None
        """When the channel token that permits it expires, in Unix seconds; None if it needs none."""
        self.member: Member | None = None
        """This connection in the channel's presence, as it is listed there."""
        self.present: Sequence[Member] | None = None
        """The members when the broker was asked; None if the client does not want them."""
        self.changes: list[Join | Leave] = []
        """The joins and leaves since."""

    @property
    def members(self) -> Sequence[Member] | None:
        """The members now; None if the client does not want them."""
        return None if self.present is None else apply_changes(self.present, self.changes)


Outcomes = dict[str, PreparedSubscription | ProtocolError]
"""By channel: the prepared subscription, or the error that its client gets."""


async def subscribe(session: Session, command: Subscribe) -> Subscribed:
    """Subscribe to a channel: from now on, since a position, or from the last messages on."""
    grant = Grant.CLAIM if command.channel in session.claimed else None
    with closing(_reply_budget(session, _reply_room(session), (command.channel,))) as budget:
        prepared = await _prepare(session, command, budget, grant)
        await _abandon_if_closed(session, prepared)
        subscribed = _commit(session, prepared, _reply_room(session), RESUME_REPLY_BYTES)
    _charge(session, [subscribed])
    return subscribed


async def server_subscribe(session: Session, channel: str) -> Subscribed:
    """Subscribe *session* to *channel* for the push API, whatever the channel's rules permit the client.

    Raises:
        ProtocolError: The subscription exists already, or would be one too many.
        GatewayError: The broker does not answer.
    """
    with closing(_reply_budget(session, 0, (channel,))) as budget:
        prepared = await _prepare(session, Subscribe(0, channel), budget, Grant.PUSH_API)
        await _abandon_if_closed(session, prepared)
        return _commit(session, prepared, 0, 0)


async def restore(session: Session, asked: Mapping[str, Resume]) -> dict[str, Subscribed | Error]:
    """Subscribe to the channels of a `connect`: the client's channels, and the channels that the server adds.

    Each succeeds or fails on its own. All waiting comes first, for all channels at once: calls to a remote
    broker travel together. Then all channels go live in the same instant, so that no message overtakes the
    reply. What is replayed shares one reply, in the order asked; catch-up sends the rest.
    """
    grants = _server_side_channels(session)
    return await _subscribe_all(session, {**dict.fromkeys(grants, FROM_NOW_ON), **asked}, grants)


async def subscribe_claimed(session: Session, names: Iterable[str]) -> dict[str, Subscribed | Error]:
    """Subscribe to the channels *names* of the session's token, from now on; each succeeds on its own."""
    grants = dict.fromkeys(names, Grant.CLAIM)
    return await _subscribe_all(session, dict.fromkeys(grants, FROM_NOW_ON), grants)


def _charge(session: Session, replies: Iterable[Subscribed]) -> None:
    """Charge the session for the messages and members in *replies*, which were not known before."""
    messages = members = 0
    for each in replies:
        messages += len(each.messages)
        members += len(each.members or ())
    session.commands.charge(session.services.limits.costs.of_reply(messages=messages, members=members))


def require_open(session: Session) -> None:
    """Raise `ClientFault`, which ends the command without a reply, if the session has ended."""
    if not session.is_open:
        raise ClientFault(ErrorCode.UNAVAILABLE, "the connection has ended")


async def _subscribe_all(
    session: Session, wanted: Mapping[str, Resume], grants: Mapping[str, Grant]
) -> dict[str, Subscribed | Error]:
    outcomes: Outcomes = {}
    with closing(_reply_budget(session, _reply_room(session), wanted)) as budget:
        try:
            await _prepare_all(session, wanted, budget, outcomes, grants)
            require_open(session)
        except BaseException:
            await _abandon(session, *_prepared(outcomes))
            raise
        subs = _commit_all(session, wanted, outcomes)
    _charge(session, [each for each in subs.values() if isinstance(each, Subscribed)])
    return subs


# ---------------------------------------------------------------- prepare: everything that may wait


async def _prepare_all(
    session: Session,
    wanted: Mapping[str, Resume],
    budget: ReplyBudget,
    outcomes: Outcomes,
    grants: Mapping[str, Grant],
) -> None:
    """Put into *outcomes* the outcome of each channel of *wanted*; stop early if the session ends.

    As many channels at a time as the session may still have subscriptions: a channel that fails uses none of
    them up, and a later channel gets its turn.
    """
    services = session.services
    commands = []
    for channel, resume in wanted.items():
        if resume.fault:
            outcomes[channel] = ClientFault(ErrorCode.BAD_REQUEST, resume.fault)
        else:
            commands.append(Subscribe(0, channel, resume.token, resume.since, resume.rewind))
    free = services.limits.channels - len(session.subscriptions)
    while free > 0 and commands and session.is_open:
        batch, commands = commands[:free], commands[free:]
        attempts = [_attempt(session, each, budget, outcomes, grants.get(each.channel)) for each in batch]
        # A single one needs no task, whatever the broker.
        await (attempts[0] if len(attempts) == 1 else services.tasks.run_all(attempts))
        if commands:
            free -= sum(isinstance(outcomes[each.channel], PreparedSubscription) for each in batch)
    for command in commands:
        outcomes[command.channel] = _too_many_channels(services)


def _microseconds(command: Subscribe) -> int:
    """Return about how long preparing one of many subscriptions takes, without waiting for the broker."""
    token = 0 if command.token is None else TOKEN_MICROSECONDS
    recovery = RECOVERY_MICROSECONDS if command.since or command.rewind else 0
    return SUBSCRIBE_MICROSECONDS + token + recovery


async def _attempt(
    session: Session, command: Subscribe, budget: ReplyBudget, outcomes: Outcomes, grant: Grant | None
) -> None:
    """Put the outcome of one channel into *outcomes*, which keeps it even if other channels are cancelled."""
    await session.services.slicer.turn(_microseconds(command))
    try:
        require_open(session)
        outcomes[command.channel] = await _prepare(session, command, budget, grant)
    except ProtocolError as error:
        outcomes[command.channel] = error
    except GatewayError as error:
        outcomes[command.channel] = rejection_of(error).error()


async def _prepare(
    session: Session, command: Subscribe, budget: ReplyBudget, grant: Grant | None
) -> PreparedSubscription:
    """Check and fetch what a subscription needs; messages that it missed use bytes of *budget*.

    *grant* permits the subscription, whatever the rules say; if it is None, the rules and the channel token
    decide.

    Raises:
        ProtocolError: Not permitted, subscribed already, or one too many.
        GatewayError: The broker does not answer.
    """
    services, name = session.services, command.channel
    rules = services.namespaces.rules(name)
    _require_free_place(session, name)
    token = None if command.token is None else await verified_channel_token(services, command.token)
    if grant is None:
        grant = _require_permission(session, rules, name, token)
    rewind = min(command.rewind or 0, services.limits.rewind)
    recovery = await recover.recover(
        services.hub, name, rules, since=command.since, rewind=rewind, budget=budget
    )
    prepared = PreparedSubscription(command, recovery, grant)
    if token is not None and grant is Grant.CHANNEL_TOKEN:
        prepared.expires_at = token.expires_at
    try:
        await encode_in_slices(recovery.messages, session.codec, services.slicer)
        if rules.presence and session.is_open:
            await _join_presence(session, prepared)
    except BaseException:
        budget.release(name)
        await _abandon(session, prepared)
        raise
    return prepared


async def _join_presence(session: Session, prepared: PreparedSubscription) -> None:
    """Join the channel's presence, and fetch the members if the client wants them."""
    channel, broker = prepared.recovery.channel, session.services.broker
    await session.wait_until_left(channel.name)
    member = prepared.member = Member(session.connection, session.user, session.info)
    prepared.member = await broker.join(channel.name, member)
    if prepared.command.members:
        channel.member_lists[prepared] = None
        prepared.present = (await broker.presence(channel.name)).members


async def _abandon(session: Session, *prepared: PreparedSubscription) -> None:
    """Undo what `_prepare` did; presence waits for its grace, in which the client may try again."""
    for each in prepared:
        channel = each.recovery.channel
        channel.member_lists.pop(each, None)
        session.services.hub.release_channel(channel)
    left = [each.recovery.channel for each in prepared if each.member is not None]
    await session.services.tasks.run_all(
        [
            session.leave_presence(channel.name, channel.rules.presence_grace if session.user else 0.0)
            for channel in left
        ]
    )


async def _abandon_if_closed(session: Session, prepared: PreparedSubscription) -> None:
    """Abandon *prepared*, and end the command without a reply, if the session has ended."""
    if not session.is_open:
        await _abandon(session, prepared)
        require_open(session)


def _require_free_place(session: Session, channel: str) -> None:
    if channel in session.subscriptions:
        raise ClientFault(
            ErrorCode.ALREADY_SUBSCRIBED, f"this connection is subscribed to {channel!r} already"
        )
    if len(session.subscriptions) >= session.services.limits.channels:
        raise _too_many_channels(session.services)


def _require_permission(
    session: Session, rules: ChannelRules, channel: str, token: ChannelToken | None
) -> Grant:
    """Return what permits the subscription, which the `channels` of the session's token do not."""
    user = session.user
    rejection = may_subscribe(rules, user=user, channel=channel, channel_token=None)
    if rejection is None:
        return Grant.RULE
    if token is None:
        raise rejection.error()
    rejection = may_subscribe(rules, user=user, channel=channel, channel_token=token)
    if rejection is not None:
        raise rejection.error()
    if not session.claimed.permits(channel, token.issued_at):
        raise ClientFault(
            ErrorCode.PERMISSION_DENIED,
            f"the server unsubscribed this connection from {channel!r} after the channel token was issued",
        )
    return Grant.CHANNEL_TOKEN


def _too_many_channels(services: Services) -> ClientFault:
    return ClientFault(
        ErrorCode.LIMIT_EXCEEDED,
        f"a connection may be subscribed to at most {services.limits.channels} channels",
    )


def _prepared(outcomes: Outcomes) -> list[PreparedSubscription]:
    return [each for each in outcomes.values() if isinstance(each, PreparedSubscription)]


def _reply_budget(session: Session, size: int, channels: Iterable[str]) -> ReplyBudget:
    memory = session.services.hub.memory.recoveries
    return ReplyBudget(size, channels, require_open=partial(require_open, session), memory=memory)


def _reply_room(session: Session) -> int:
    """Return how many bytes of missed messages a reply may hold: half an outbox, with what waits in it.

    Catch-up sends the rest as fast as the socket accepts it: so a slow client that asks for much is not
    disconnected.
    """
    return session.services.limits.outbox // 2 - session.outbox.size


def _server_side_channels(session: Session) -> dict[str, Grant]:
    """Return the channels that the server subscribes *session* to at connect, and what permits each."""
    personal = channels.personal_channel(session.user)
    # A user whose encoded name is too long for a channel has no personal channel: the client could not name
    # it in order to resume.
    first = [personal] if session.user and channels.is_channel_name(personal) else []
    grants = dict.fromkeys([*first, *session.claimed.names], Grant.CLAIM)
    return grants | dict.fromkeys(first, Grant.RULE)


# ---------------------------------------------------------------- commit: live, without waiting


def _commit_all(session: Session, wanted: Iterable[str], outcomes: Outcomes) -> dict[str, Subscribed | Error]:
    for each in outcomes.values():
        if isinstance(each, PreparedSubscription):
            # A subscriber that is too slow for what waits in the channel leaves now, so that its `leave` is
            # not announced between this reply's member list and the reply.
            each.recovery.channel.offer_pending()
    room, resume_room = _reply_room(session), RESUME_REPLY_BYTES
    subs: dict[str, Subscribed | Error] = {}
    for channel in wanted:
        each = outcomes[channel]
        if isinstance(each, PreparedSubscription):
            subscribed = subs[channel] = _commit(session, each, room, resume_room)
            size = messages_size(subscribed.messages)
            room -= size
            if each.recovery.since is not None:
                resume_room -= size
        else:
            subs[channel] = Error(each.code, each.message, each.retry_after_ms)
    return subs


def _commit(session: Session, prepared: PreparedSubscription, room: int, resume_room: int) -> Subscribed:
    """Go live, and return the position, with at most *room* bytes of missed messages; without waiting.

    A client that resumes gets at most *resume_room* bytes of them. If more was missed, the subscription is
    behind: catch-up sends the rest, after the reply.
    """
    command, channel = prepared.command, prepared.recovery.channel
    limits, members, truncated = session.services.limits, prepared.members, None
    if members is not None:
        first = members[: limits.presence_reply]
        count, size = fitting(first, member_size, room=limits.outbox // 2)
        truncated = True if count < len(members) else None
        members, room = first[:count], room - size
    messages, recovered, behind = prepared.recovery.complete(room, resume_room)
    wants_joins = channel.rules.join_leave if command.join_leave is None else command.join_leave
    subscription = Subscription(
        session,
        channel,
        watches_presence=wants_joins and channel.rules.presence,
        grant=prepared.grant,
    )
    subscription.member = prepared.member
    channel.member_lists.pop(prepared, None)
    channel.add(subscription)
    session.subscriptions[channel.name] = subscription
    if behind is not None:
        session.on_fell_behind(subscription, behind)
    session.services.hub.release_channel(channel)
    if prepared.expires_at is not None:
        subscription.expiry = ExpiryTimer(
            session.services.expiry(prepared.expires_at),
            on_ended=partial(session.on_channel_token_expired, channel.name, prepared.expires_at),
        )
    position = channel.position if behind is None else behind
    return Subscribed(
        channel.name,
        position,
        recovered,
        messages,
        members,
        command.id or None,
        truncated,
        _listed_as(session, prepared.member),
    )


def _listed_as(session: Session, member: Member | None) -> str | None:
    if member is None or member.connection == session.connection:
        return None
    return member.connection
