"""What a new subscriber missed: as much as one reply may hold, and from where the rest is to follow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.access.permissions import ChannelRules
from gateway.delivery.encoding import EncodedMessage, last_of
from gateway.errors import BrokerUnavailable
from gateway.hub.channel import Channel
from gateway.hub.history_cache import ENVELOPE, reply_size
from gateway.hub.hub import Hub
from gateway.hub.recovery.reply_budget import ReplyBudget
from protocol.position import MessageId

PATIENCE = 4
"""How often a resume asks again for what the broker says is not there, and the hub says is."""


class RecoveryReply(NamedTuple):
    """What one reply says of what was missed."""

    messages: Sequence[EncodedMessage]
    recovered: bool
    """Whether this, and what follows behind it, is everything since the position asked for."""
    behind: MessageId | None = None
    """How far `messages` reach, where more follows; None where they reach up to now."""


NOTHING = RecoveryReply((), recovered=False)


@dataclass(slots=True)
class Recovery:
    """What a new subscriber missed, as far as it was fetched and there is room for it."""

    channel: Channel
    messages: Sequence[EncodedMessage] = ()
    position: MessageId | None = None
    """How far `messages` reach; None where nothing is replayed."""
    since: MessageId | None = None
    """The position asked for, where everything after it is there; else None."""
    breaks: int = 0
    """How often the channel's numbering had broken when this was fetched."""
    size: int = field(init=False)
    """Bytes that `messages` take in a reply, about."""

    def __post_init__(self) -> None:
        self.size = reply_size(self.messages) if self.messages else 0

    def cut(self, room: int) -> None:
        """Keep what a reply of at most *room* bytes can tell of it; the rest is left to a catch-up."""
        if self.since is None:
            self.messages = _newest(self.messages, room)
        else:
            self.messages = self.messages[: that_fit(self.messages, room)]
            self.position = last_of(self.messages, self.since)
        self.size = reply_size(self.messages)

    def complete(self, room: int) -> RecoveryReply:
        """Return what a reply of at most *room* bytes tells, from everything up to now.

        Without waiting, so that nothing comes between. Where everything since a position was asked for, the
        oldest messages are told, without a hole, and the others left for a catch-up; else the newest.
        """
        if self.position is None or self.channel.breaks != self.breaks:
            return NOTHING
        newer = self.channel.after(self.position)
        if self.since is None:
            return RecoveryReply(
                () if newer is None else _newest([*self.messages, *newer], room), recovered=False
            )
        messages = [*self.messages, *(newer or ())]
        fit = messages[: that_fit(messages, room)]
        if newer is not None and len(fit) == len(messages):
            return RecoveryReply(fit, recovered=True)
        return RecoveryReply(fit, recovered=True, behind=last_of(fit, self.since))


def that_fit(messages: Iterable[EncodedMessage], room: int) -> int:
    """Return how many of *messages*, in their order, fit into *room* bytes."""
    fit = 0
    for frames in messages:
        room -= len(frames.message.data.json) + ENVELOPE
        if room < 0:
            break
        fit += 1
    return fit


def until(top: MessageId | None, messages: Iterable[EncodedMessage]) -> list[EncodedMessage]:
    """Return *messages* as far as *top*, where the hub stands: what is beyond it is still on its way here."""
    offset = -1 if top is None else top.offset
    return [
        frames
        for frames in messages
        if frames.message.message is not None and frames.message.message.offset <= offset
    ]


async def prepare(
    hub: Hub,
    name: str,
    rules: ChannelRules,
    *,
    since: MessageId | None,
    rewind: int,
    room: ReplyBudget,
) -> Recovery:
    """Return what a new subscriber of *name* missed, as far as it finds *room* there.

    The caller owes a `hub.release` of its channel.
    """
    channel = await hub.hold(name, rules)
    try:
        if since is not None:
            replay = await _since(hub, channel, since, room)
        elif rewind:
            replay = await _rewound(hub, channel, rewind, room)
        else:
            return Recovery(channel)
    except BaseException:
        hub.release(channel)
        raise
    room.keep(name, replay)
    return replay


async def _since(hub: Hub, channel: Channel, since: MessageId, room: ReplyBudget) -> Recovery:
    """Return what follows *since*: what the hub has no longer, the broker has perhaps."""
    for _ in range(PATIENCE):
        recent = channel.after(since)
        if recent is not None:
            return Recovery(channel, recent, channel.top, since, channel.breaks)
        async with room.turn():
            replay = await _read_on(hub, channel, since, room.left_to(channel.name))
        if replay is not None:
            return replay
        # The client heard more on another node than has arrived here: let it not hear that again.
        if not await channel.reached(since.offset):
            raise BrokerUnavailable(f"this node has not heard yet of {channel.name!r} at {since}")
    return Recovery(channel)


async def _read_on(hub: Hub, channel: Channel, since: MessageId, room: int) -> Recovery | None:
    """Return what follows *since*, as much as *room* bytes hold; None where this node has not come so far."""
    messages: list[EncodedMessage] = []
    position, breaks, patience = since, channel.breaks, PATIENCE
    while channel.top is not None and patience:
        recent = channel.after(position)
        if recent is not None:
            return Recovery(channel, [*messages, *recent], channel.top, since, channel.breaks)
        part = await hub.pages.after(channel, position)
        if part.lost or channel.top is None:
            break
        if position.offset > channel.top.offset:
            return None
        newer = until(channel.top, part.messages)
        fit = that_fit(newer, room)
        messages += newer[:fit]
        position = last_of(messages, since) or since
        if fit < len(newer):
            return Recovery(channel, messages, position, since, breaks)
        room -= reply_size(newer)
        patience -= not newer
    return Recovery(channel)


async def _rewound(hub: Hub, channel: Channel, count: int, room: ReplyBudget) -> Recovery:
    """Return the newest *count* messages that history keeps."""
    if channel.top is None:
        return Recovery(channel)
    rules = channel.rules
    count = min(count, rules.history)
    recent = channel.last(count, no_older=hub.wall() - rules.history_ttl)
    if recent is not None:
        return Recovery(channel, recent, channel.top, breaks=channel.breaks)
    async with room.turn():
        left = room.left_to(channel.name)
        kept = await hub.broker.read(channel.name, limit=count, size=max(1, left), reverse=True)
    messages = until(channel.top, [EncodedMessage(message) for message in reversed(kept.messages)])
    position = last_of(messages, channel.top)
    return Recovery(channel, _newest(messages, left), position, breaks=channel.breaks)


def _newest(messages: Sequence[EncodedMessage], room: int) -> Sequence[EncodedMessage]:
    return messages[len(messages) - that_fit(reversed(messages), room) :]
