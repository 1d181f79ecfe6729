"""How a subscription is made: prepared with all the waiting that takes, then live in one instant."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from gateway.errors import GatewayError, rejection_of
from gateway.hub.history_cache import reply_size
from gateway.hub.preparing import Prepared, abandon, prepare, too_many
from gateway.hub.recovery.reply_budget import ReplyBudget
from gateway.hub.subscription import Subscription
from gateway.presence.members import that_fit
from protocol import channels
from protocol.errors import ClientFault, ErrorCode, ProtocolError
from protocol.messages import Error, Resume, Subscribe, Subscribed

if TYPE_CHECKING:
    from gateway.hub.session import Session

FROM_NOW_ON = Resume()

Outcomes = dict[str, Prepared | ProtocolError]
"""What became of each channel."""


async def subscribe(session: Session, command: Subscribe) -> Subscribed:
    """Follow a channel: now, since a position, or from the last messages on."""
    granted = command.channel in session.granted
    room = _shared(session, _room(session), (command.channel,))
    prepared = await prepare(session, command, room, granted=granted)
    await _still_wanted(session, prepared)
    return _commit(session, prepared, _room(session))


async def server_subscribe(session: Session, channel: str) -> None:
    """Let the server's API subscribe *session* to *channel*; nothing happens where it is already."""
    try:
        prepared = await prepare(
            session, Subscribe(0, channel), _shared(session, 0, (channel,)), granted=True
        )
        await _still_wanted(session, prepared)
        session.send(_commit(session, prepared, 0))
    except (ProtocolError, GatewayError):
        return
    except Exception as error:  # noqa: BLE001 (nobody waits for an answer)
        session.services.on_error(error)


async def restore(session: Session, asked: Mapping[str, Resume]) -> dict[str, Subscribed | Error]:
    """Subscribe to what the client asks for and to what the server adds; each succeeds or fails for itself.

    All waiting comes first, for all channels at once: what they ask of a broker elsewhere travels together.
    Then every channel goes live in the same instant, and no message overtakes the reply. What is replayed
    fits into one reply together, in the order asked; the rest of it follows.
    """
    server_side = dict.fromkeys(_server_side(session), FROM_NOW_ON)
    wanted = {**server_side, **asked}
    outcomes: Outcomes = {}
    try:
        await _prepare_all(session, wanted, outcomes, granted=server_side)
        still_here(session)
    except BaseException:
        await abandon(session, *_prepared(outcomes))
        raise
    return _commit_all(session, wanted, outcomes)


def still_here(session: Session) -> None:
    """End the command without a reply where the client has gone meanwhile."""
    if not session.is_open:
        raise ClientFault(ErrorCode.UNAVAILABLE, "the connection has ended")


# ---------------------------------------------------------------- prepare: everything that may wait


async def _prepare_all(
    session: Session,
    wanted: Mapping[str, Resume],
    outcomes: Outcomes,
    *,
    granted: Container[str],
) -> None:
    """Put into *outcomes* what becomes of each channel that is *wanted*; end early where the client leaves.

    As many at once as there are places: what is refused takes none, and leaves it to one of the next.
    """
    services, room = session.services, _shared(session, _room(session), wanted)
    asks = []
    for channel, resume in wanted.items():
        if resume.fault:
            outcomes[channel] = ClientFault(ErrorCode.BAD_REQUEST, resume.fault)
        else:
            asks.append(Subscribe(0, channel, resume.token, resume.since, resume.rewind))
    places = services.limits.channels
    while places and asks and session.is_open:
        batch, asks = asks[:places], asks[places:]
        attempts = [_attempt(session, ask, room, outcomes, granted=ask.channel in granted) for ask in batch]
        # One alone needs no task, wherever the broker is.
        await (attempts[0] if len(attempts) == 1 else services.tasks.run_all(attempts))
        if asks:
            places -= sum(isinstance(outcomes[ask.channel], Prepared) for ask in batch)
    for ask in asks:
        outcomes[ask.channel] = too_many(services)


async def _attempt(
    session: Session, command: Subscribe, room: ReplyBudget, outcomes: Outcomes, *, granted: bool
) -> None:
    """Put into *outcomes* what becomes of one channel: there it is found also where others are cancelled."""
    try:
        outcomes[command.channel] = await prepare(session, command, room, granted=granted)
    except ProtocolError as error:
        outcomes[command.channel] = error
    except GatewayError as error:
        outcomes[command.channel] = rejection_of(error).error()


def _prepared(outcomes: Outcomes) -> list[Prepared]:
    return [each for each in outcomes.values() if isinstance(each, Prepared)]


def _shared(session: Session, size: int, channels: Iterable[str]) -> ReplyBudget:
    return ReplyBudget(size, channels, wanted=partial(still_here, session))


def _room(session: Session) -> int:
    """Return how many bytes of what was missed a reply may hold: half an outbox, with what waits there.

    The rest follows as fast as the socket takes it: so a slow client that asks for much is not sent away.
    """
    return session.services.limits.outbox // 2 - session.outbox.size


def _server_side(session: Session) -> list[str]:
    personal = channels.personal(session.user)
    # A user whose name does not fit a channel's has none: the client could not name it to resume.
    return [personal, *session.granted] if session.user and channels.valid(personal) else [*session.granted]


async def _still_wanted(session: Session, prepared: Prepared) -> None:
    """Abandon what was prepared, and end the command, where the client has gone meanwhile."""
    if not session.is_open:
        await abandon(session, prepared)
        still_here(session)


# ---------------------------------------------------------------- commit


def _commit_all(session: Session, wanted: Iterable[str], outcomes: Outcomes) -> dict[str, Subscribed | Error]:
    for each in outcomes.values():
        if isinstance(each, Prepared):
            # Who proves too slow for what waits leaves now, and is not announced before the reply.
            each.replay.channel.settle()
    room = _room(session)
    subs: dict[str, Subscribed | Error] = {}
    for channel in wanted:
        each = outcomes[channel]
        if isinstance(each, Prepared):
            subscribed = subs[channel] = _commit(session, each, room)
            room -= reply_size(subscribed.messages)
        else:
            subs[channel] = Error(each.code, each.message, each.retry_after_ms)
    return subs


def _commit(session: Session, prepared: Prepared, room: int) -> Subscribed:
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
