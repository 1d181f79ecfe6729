"""History, then live, without a gap: at subscribe, and after a slow phase."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from gateway.access.permissions import ChannelRules
from gateway.errors import BrokerUnavailable
from gateway.hub.channel import Channel
from gateway.hub.hub import Hub
from gateway.hub.subscription import Subscription
from gateway.link.frames import Chunk, Frames, last_of
from gateway.link.outbox import BATCH
from protocol.messages import Message
from protocol.position import MessageId

if TYPE_CHECKING:
    from gateway.hub.session import Session


READS = 4
"""How often a resume asks the broker while the channel runs ahead of the hub's recent messages."""

ENVELOPE = 150
"""Bytes that an encoded message takes beside its data, about."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What a new subscriber missed: messages up to `position`, from which the hub's own go on."""

    channel: Channel
    messages: Sequence[Frames] = ()
    position: MessageId | None = None
    """None where nothing is replayed."""
    recovered: bool = False
    """Whether this is everything since the position asked for."""

    def complete(self, room: int) -> tuple[list[Frames], bool]:
        """Return everything up to now, and whether it is everything since the position asked for.

        Without waiting, so that nothing comes between. What takes more than *room* bytes is not replayed at
        all where everything was asked for; else the newest is that fits.
        """
        newer = [] if self.position is None else self.channel.after(self.position)
        if newer is None:
            return [], False
        messages = [*self.messages, *newer]
        fit = _that_fit(reversed(messages), room)
        if not self.recovered:
            return messages[len(messages) - fit :], False
        return (messages, True) if fit == len(messages) else ([], False)


def weight(messages: Iterable[Frames]) -> int:
    """Return about how many bytes *messages* take in a reply."""
    return sum(len(frames.message.data.json) + ENVELOPE for frames in messages)


def _that_fit(messages: Iterable[Frames], room: int) -> int:
    """Return how many of *messages*, in their order, fit into *room* bytes."""
    fit = 0
    for frames in messages:
        room -= weight((frames,))
        if room < 0:
            break
        fit += 1
    return fit


async def prepare(
    hub: Hub, name: str, rules: ChannelRules, *, since: MessageId | None, rewind: int | None
) -> Replay:
    """Return what a new subscriber of *name* missed; the caller owes a `hub.release` of its channel."""
    channel = await hub.hold(name, rules)
    try:
        if since is not None:
            return await _since(hub, channel, since)
        if rewind:
            return await _rewound(hub, channel, rewind)
    except BaseException:
        hub.release(channel)
        raise
    return Replay(channel)


async def _since(hub: Hub, channel: Channel, since: MessageId) -> Replay:
    """Return everything after *since*: what the hub has no longer, the broker has perhaps."""
    messages: list[Frames] = []
    position = since
    for _ in range(READS):
        recent = channel.after(position)
        if recent is not None:
            return Replay(channel, [*messages, *recent], channel.top, recovered=True)
        if channel.top is None:
            break
        kept = await hub.broker.read(channel.name, since=position)
        if not kept.recovered or channel.top is None:
            break
        if position.offset > channel.top.offset:
            # The client heard more on another node than has arrived here: let it not hear that again.
            if not await channel.reached(position.offset):
                raise BrokerUnavailable(f"this node has not heard yet of {channel.name!r} at {position}")
            continue
        messages += _until(channel.top, kept.messages)
        position = last_of(messages, position) or position
    return Replay(channel)


async def _rewound(hub: Hub, channel: Channel, count: int) -> Replay:
    """Return the newest *count* messages that history keeps."""
    if channel.top is None:
        return Replay(channel)
    rules = channel.rules
    count = min(count, rules.history)
    recent = channel.last(count, no_older=hub.wall() - rules.history_ttl)
    if recent is not None:
        return Replay(channel, recent, channel.top)
    kept = await hub.broker.read(channel.name, limit=count, reverse=True)
    messages = _until(channel.top, reversed(kept.messages))
    return Replay(channel, messages, last_of(messages, channel.top))


def _until(top: MessageId | None, messages: Iterable[Message]) -> list[Frames]:
    """Return *messages* as far as *top*, where the hub stands: what is beyond it is still on its way here."""
    offset = -1 if top is None else top.offset
    return [
        Frames(message)
        for message in messages
        if message.message is not None and message.message.offset <= offset
    ]


async def catch_up(session: Session) -> None:
    """Replay to *session* what its slow channels missed, a batch of each in turn, while its socket takes it.

    Each is live again where nothing is left. `BrokerUnavailable` where the broker cannot tell now.
    """
    while session.behind and _has_room(session):
        subscription = next(iter(session.behind))
        await _next_batch(session, subscription)
        if subscription in session.behind:
            del session.behind[subscription]
            session.behind[subscription] = None  # to the end of the line
            await asyncio.sleep(0)


def _has_room(session: Session) -> bool:
    session.outbox.flush()
    return session.is_open and session.link.writable


async def _next_batch(session: Session, subscription: Subscription) -> None:
    hub, channel = session.services.hub, subscription.channel
    position = cast("MessageId", subscription.behind)  # as everybody has who stands in `session.behind`
    limit = session.services.limits.catch_up_batch
    messages = channel.after(position, limit)
    if messages is None:
        kept = await hub.broker.read(channel.name, since=position, limit=limit)
        if subscription not in session.behind or subscription.behind != position:
            return
        if not kept.recovered:
            reset = kept.position.offset <= position.offset
            _go_live(session, subscription, gap="reset" if reset else "trimmed")
            return
        messages = _until(channel.top, kept.messages)
    if messages:
        fit = max(1, _that_fit(messages, BATCH))
        chunk = Chunk(subscription.codec, messages[:fit], position)
        subscription.behind = chunk.last
        session.outbox.offer(subscription, chunk)
    else:
        lost = channel.top is not None and channel.top.offset > position.offset
        _go_live(session, subscription, gap="reset" if lost else None)


def _go_live(session: Session, subscription: Subscription, gap: str | None = None) -> None:
    """Let *subscription* have whatever comes from now on; tell of what is missing."""
    channel = subscription.channel
    channel.settle()
    reason = gap or ("overflow" if subscription.missed else None)
    session.go_live(subscription)
    if reason is not None:
        session.outbox.push(subscription.gap(channel.top, reason))
