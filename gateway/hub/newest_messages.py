"""Which channels of a node keep their newest messages, when all together may keep only so many bytes."""

from __future__ import annotations

from typing import Protocol

from gateway.memory import MemoryBudget


class CachingChannel(Protocol):
    """A channel, as far as the memory of its newest messages is concerned."""

    recently_used: bool
    """Whether a message was added or read since the last time that memory was short."""

    def discard_newest_messages(self) -> None:
        """Free them; clients that resume get them from the broker."""


class CachingChannels:
    """The channels that keep messages; beyond the budget, those not used for longest lose all of theirs.

    "For longest" by the second-chance algorithm (clock page replacement): a use costs the store of one flag,
    where a list in the order of use would have to be changed for each message.
    """

    __slots__ = ("_channels", "budget")

    def __init__(self, budget: MemoryBudget) -> None:
        """Keep the messages of all channels within *budget*; its `freed` counts channels that lost theirs."""
        self.budget = budget
        self._channels: dict[CachingChannel, None] = {}

    def add(self, channel: CachingChannel) -> None:
        """Remember that *channel* has its first message."""
        self._channels[channel] = None

    def discard(self, channel: CachingChannel) -> None:
        """Forget *channel*: it has no message any more."""
        self._channels.pop(channel, None)

    def make_room(self) -> None:
        """Free messages of channels until the budget is kept."""
        while self.budget.used > self.budget.limit and self._channels:
            channel = next(iter(self._channels))
            del self._channels[channel]
            if channel.recently_used:
                channel.recently_used = False
                self._channels[channel] = None
            else:
                self.budget.freed += 1
                channel.discard_newest_messages()

    def __len__(self) -> int:
        return len(self._channels)

    def __repr__(self) -> str:
        return f"<CachingChannels {len(self)} with {self.budget}>"
