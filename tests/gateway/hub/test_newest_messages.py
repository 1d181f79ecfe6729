"""Which channels lose their newest messages when memory is short."""

from gateway.hub.newest_messages import CachingChannels
from gateway.memory import MemoryBudget


class FakeChannel:
    def __init__(self, budget: MemoryBudget, size: int) -> None:
        self.budget, self.size = budget, size
        self.recently_used = True
        budget.used += size

    def discard_newest_messages(self) -> None:
        self.budget.used -= self.size
        self.size = 0


def test_channels_that_were_used_get_a_second_chance() -> None:
    budget = MemoryBudget(20)
    channels = CachingChannels(budget)
    first, second, third = (FakeChannel(budget, 10) for _ in range(3))
    for channel in (first, second, third):
        channels.add(channel)
    second.recently_used = False
    channels.make_room()
    assert [channel.size for channel in (first, second, third)] == [10, 0, 10]
    assert (len(channels), budget.used, budget.freed) == (2, 20, 1)
    channels.make_room()
    assert budget.freed == 1, "there is room"
    channels.add(FakeChannel(budget, 10))
    channels.make_room()
    assert (first.size, third.size) == (0, 10), "of the two, the flag of the first was cleared before"


def test_a_channel_that_ends_is_forgotten() -> None:
    budget = MemoryBudget(0)
    channels = CachingChannels(budget)
    channel = FakeChannel(budget, 10)
    channels.add(channel)
    channels.discard(channel)
    channels.discard(channel)
    channels.make_room()
    assert (channel.size, len(channels)) == (10, 0)
    assert repr(channels) == "<CachingChannels 0 with <MemoryBudget 10 of 0 bytes>>"
