"""What a new subscriber missed: as much as one reply may hold, and the position at which catch-up begins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.access.permissions import ChannelRules
from gateway.delivery.encoding import EncodedMessage, last_position
from gateway.delivery.reply_size import fitting, message_size, messages_size
from gateway.errors import BrokerUnavailable
from gateway.hub.channel import Channel
from gateway.hub.hub import Hub
from gateway.hub.recovery.reply_budget import ReplyBudget
from protocol.position import MessageId

RESUME_REPLY_BYTES = 32 * 1024
"""Bytes of messages that one reply holds for clients that resume; catch-up sends the others, each in a frame.

A client has nothing of a reply before it has all of it. At 2 KB/s, 32 KiB take 16 s: less than the time after
which a client gives up a connection from which no message comes (docs/protocol.md#heartbeats). And a client
whose connection breaks while it reads the others resumes from the last one that it has read.
"""

READ_ATTEMPTS = 4
"""How often a resume reads again what the broker does not have, although this node has received it."""


class RecoveryReply(NamedTuple):
    """What one reply says about missed messages."""

    messages: Sequence[EncodedMessage]
    recovered: bool
    """Whether `messages`, and what catch-up sends then, are all messages since the position asked for."""
    behind: MessageId | None = None
    """The position that `messages` reach, if there are more; None if they reach the newest message."""


NOT_RECOVERED = RecoveryReply((), recovered=False)


@dataclass(slots=True)
class Recovery:
    """What a new subscriber missed, as far as it was read and the reply has room for it."""

    channel: Channel
    messages: Sequence[EncodedMessage] = ()
    position: MessageId | None = None
    """The position that `messages` reach; None if nothing is replayed."""
    since: MessageId | None = None
    """The position asked for, if everything after it is available; else None."""
    numbering_breaks: int = 0
    """The channel's `numbering_breaks` when this was read."""
    size: int = field(init=False)
    """Bytes of `messages` in a reply, about."""

    def __post_init__(self) -> None:
        self.size = messages_size(self.messages) if self.messages else 0

    def shrink(self, room: int) -> None:
        """Keep what *room* bytes of a reply can hold; the rest is left to catch-up."""
        if self.since is None:
            self.messages = _newest(self.messages, room)
        else:
            self.messages = _oldest(self.messages, room)
            self.position = last_position(self.messages, self.since)
        self.size = messages_size(self.messages)

    def complete(self, room: int, resume_room: int) -> RecoveryReply:
        """Return what *room* bytes of a reply say about everything that was missed until now.

        Without waiting, so that no message comes in between. If the client resumes from a position: the
        oldest messages, without a hole, in *resume_room* bytes, and the others left to catch-up. Otherwise
        the newest messages.
        """
        if self.position is None or self.channel.numbering_breaks != self.numbering_breaks:
            return NOT_RECOVERED
        newer = self.channel.messages_after(self.position)
        if self.since is None:
            return RecoveryReply(
                () if newer is None else _newest([*self.messages, *newer], room), recovered=False
            )
        messages = [*self.messages, *(newer or ())]
        fit = _oldest(messages, min(room, resume_room))
        if newer is not None and len(fit) == len(messages):
            return RecoveryReply(fit, recovered=True)
        return RecoveryReply(fit, recovered=True, behind=last_position(fit, self.since))


def up_to(position: MessageId | None, messages: Iterable[EncodedMessage]) -> list[EncodedMessage]:
    """Return those of *messages* that are not newer than *position*, that of the channel on this node.

    Newer messages are still on their way to this node and will be delivered.
    """
    offset = -1 if position is None else position.offset
    return [encoded for encoded in messages if encoded.id is not None and encoded.id.offset <= offset]


async def recover(
    hub: Hub,
    name: str,
    rules: ChannelRules,
    *,
    since: MessageId | None,
    rewind: int,
    budget: ReplyBudget,
) -> Recovery:
    """Acquire the channel *name*, and return what a new subscriber missed there, as far as *budget* allows.

    The caller must release the channel of what is returned (`Hub.release_channel`).

    Args:
        hub: The hub of this node.
        name: The channel.
        rules: Its rules.
        since: Resume from this position; None for a client that has none.
        rewind: Without *since*: how many of the newest messages.
        budget: The bytes of the reply.

    Raises:
        GatewayError: The broker does not answer; the channel is released.
    """
    channel = await hub.acquire_channel(name, rules)
    try:
        if since is not None:
            recovery = await _resume(hub, channel, since, budget)
        elif rewind:
            recovery = await _rewind(hub, channel, rewind, budget)
        else:
            return Recovery(channel)
    except BaseException:
        hub.release_channel(channel)
        raise
    budget.reserve(name, recovery)
    return recovery


async def _resume(hub: Hub, channel: Channel, since: MessageId, budget: ReplyBudget) -> Recovery:
    """Return what follows *since*: from the channel's cache, else from the broker what a reply may hold."""
    for _ in range(READ_ATTEMPTS):
        cached = channel.messages_after(since)
        if cached is not None:
            return Recovery(channel, cached, channel.position, since, channel.numbering_breaks)
        async with budget.read_slot():
            room = min(budget.available_to(channel.name), RESUME_REPLY_BYTES)
            recovery = await _read_since(hub, channel, since, room)
        if recovery is not None:
            return recovery
        # The client has received newer messages on another node: this node must not deliver them again.
        if not await channel.wait_for_offset(since.offset):
            raise BrokerUnavailable(f"this node has not yet received {channel.name!r} up to {since}")
    return Recovery(channel)


async def _read_since(hub: Hub, channel: Channel, since: MessageId, room: int) -> Recovery | None:
    """Return what follows *since*, at most *room* bytes; None if this node is not yet at *since*."""
    messages: list[EncodedMessage] = []
    position, breaks, attempts = since, channel.numbering_breaks, READ_ATTEMPTS
    while channel.position is not None and attempts:
        cached = channel.messages_after(position)
        if cached is not None:
            return Recovery(channel, [*messages, *cached], channel.position, since, channel.numbering_breaks)
        part = await hub.history_cache.messages_after(channel, position)
        if part.gap_reason or channel.position is None:
            break
        if position.offset > channel.position.offset:
            return None
        newer = up_to(channel.position, part.messages)
        count, size = fitting(newer, message_size, room=room)
        messages += newer[:count]
        position = last_position(messages, since) or since
        if count < len(newer):
            return Recovery(channel, messages, position, since, breaks)
        room -= size
        attempts -= not newer
    return Recovery(channel)


async def _rewind(hub: Hub, channel: Channel, count: int, budget: ReplyBudget) -> Recovery:
    """Return the newest *count* messages of the history."""
    if channel.position is None:
        return Recovery(channel)
    rules = channel.rules
    count = min(count, rules.history)
    cached = channel.newest(count, not_before=hub.wall_clock() - rules.history_ttl)
    if cached is not None:
        return Recovery(channel, cached, channel.position, numbering_breaks=channel.numbering_breaks)
    async with budget.read_slot():
        room = budget.available_to(channel.name)
        read = await hub.history_reads.read(channel.name, limit=count, size=max(1, room), reverse=True)
    messages = up_to(channel.position, [EncodedMessage(message) for message in reversed(read.messages)])
    position = last_position(messages, channel.position)
    return Recovery(channel, _newest(messages, room), position, numbering_breaks=channel.numbering_breaks)


def _oldest(messages: Sequence[EncodedMessage], room: int) -> Sequence[EncodedMessage]:
    count, _ = fitting(messages, message_size, room=room)
    return messages[:count]


def _newest(messages: Sequence[EncodedMessage], room: int) -> Sequence[EncodedMessage]:
    count, _ = fitting(reversed(messages), message_size, room=room)
    return messages[len(messages) - count :]
