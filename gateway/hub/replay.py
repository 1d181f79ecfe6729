"""History, then live, without a gap: at subscribe, and after a slow phase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.access.permissions import ChannelRules
from gateway.hub.channel import Channel, Subscription
from gateway.hub.hub import Hub
from gateway.link.frames import Chunk, Frames
from protocol.position import MessageId

if TYPE_CHECKING:
    from gateway.hub.session import Session


@dataclass(frozen=True, slots=True)
class Replay:
    """What a new subscriber missed: messages up to `position`, from which the hub's own go on."""

    channel: Channel
    messages: Sequence[Frames] = ()
    position: MessageId | None = None
    recovered: bool = False
    """Whether this is everything since the position asked for."""

    def complete(self, size: int) -> tuple[list[Frames], bool]:
        """Return everything up to now, and whether it is everything; without waiting, so that nothing comes between.

        What is larger than *size* bytes in all is not replayed: the client is told that it was not recovered.
        """
        newer = [] if self.position is None else self.channel.after(self.position)
        if newer is None:
            return [], False
        messages = [*self.messages, *newer]
        if sum(len(frames.message.data) for frames in messages) > size:
            return [], False
        return messages, self.recovered


async def prepare(
    hub: Hub, name: str, rules: ChannelRules, *, since: MessageId | None, rewind: int | None
) -> Replay:
    """Return what a new subscriber of *name* missed; the caller owes a `hub.release` of its channel."""
    channel = await hub.hold(name, rules)
    if channel.top is None:
        return Replay(channel)
    try:
        if since is not None:
            return await _since(hub, channel, since)
        if rewind:
            return await _rewound(hub, channel, rewind)
    except BaseException:
        hub.release(channel)
        raise
    return Replay(channel, (), channel.top)


async def _since(hub: Hub, channel: Channel, since: MessageId) -> Replay:
    recent = channel.after(since)
    if recent is not None:
        return Replay(channel, recent, channel.top, recovered=True)
    kept = await hub.broker.read(channel.name, since=since)
    if not kept.recovered:
        return Replay(channel, (), channel.top)
    return _until_here(channel, [Frames(message) for message in kept.messages], kept.position, recovered=True)


async def _rewound(hub: Hub, channel: Channel, count: int) -> Replay:
    recent = channel.last(count)
    if recent is not None:
        return Replay(channel, recent, channel.top)
    kept = await hub.broker.read(channel.name, limit=count, reverse=True)
    messages = [Frames(message) for message in reversed(kept.messages)]
    return _until_here(channel, messages, kept.position, recovered=False)


def _until_here(channel: Channel, messages: list[Frames], position: MessageId, *, recovered: bool) -> Replay:
    """Return a replay that stops where the hub stands: what the broker has beyond it is still on its way here."""
    top = channel.top
    if top is not None and position.offset > top.offset:
        messages = [frames for frames in messages if _offset(frames) <= top.offset]
        position = top
    return Replay(channel, messages, position, recovered)


def _offset(frames: Frames) -> int:
    return 0 if frames.message.message is None else frames.message.message.offset


async def catch_up(session: Session) -> None:
    """Replay to *session* what its slow channels missed, as much as its socket takes; live again where nothing is left."""
    for subscription in list(session.behind):
        while subscription in session.behind and _has_room(session):
            await _next_batch(session, subscription)


def _has_room(session: Session) -> bool:
    return session.is_open and session.link.writable and not session.outbox.size


async def _next_batch(session: Session, subscription: Subscription) -> None:
    hub, channel = session.services.hub, subscription.channel
    limit = session.services.limits.catch_up_batch
    position = subscription.behind
    if position is None:
        session.behind.pop(subscription, None)
        return
    messages = channel.after(position, limit)
    if messages is None:
        kept = await hub.broker.read(channel.name, since=position, limit=limit)
        if subscription.behind != position:
            return
        if not kept.recovered:
            _go_live(
                session, subscription, gap="reset" if kept.position.offset < position.offset else "trimmed"
            )
            return
        messages = [Frames(message) for message in kept.messages]
    if messages:
        chunk = Chunk(subscription.codec, messages, position)
        subscription.behind = chunk.last
        session.outbox.offer(subscription, chunk)
        session.outbox.flush()
    elif channel.top is None or channel.top.offset <= position.offset:
        _go_live(session, subscription)


def _go_live(session: Session, subscription: Subscription, gap: str | None = None) -> None:
    """Let *subscription* have whatever comes from now on; tell of what is missing."""
    channel = subscription.channel
    channel.settle()
    session.behind.pop(subscription, None)
    subscription.behind = None
    if gap is not None or subscription.missed:
        subscription.missed = False
        session.outbox.push(subscription.gap(channel.top, gap or "overflow"))
