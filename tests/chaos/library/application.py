"""What the chaos tests ask of an application on a client library, whichever language it is written in."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tests.chaos.history import History, PublishAttempted, PublishResolved, PublishResult
from tests.chaos.library.observed_channel import ObservedChannel
from tests.e2e.clients import TIMEOUT_SECONDS

LOUNGE = "lounge:1"
"""A channel with presence and a grace, in which every application with a user is present."""

TOKEN_SECONDS = 8.0
"""The validity of a token: several end in each round."""

FIRST_TOKEN_SECONDS = 2.0
"""The validity of an application's first token, so that the shortest round has a refresh."""

NOT_PUBLISHED = frozenset({"timeout", "queue_full"})
"""Codes after which no client may see the message."""

UNCERTAIN = "uncertain"
"""The code after which nobody knows whether the message was published."""

EARLY_SECONDS = 0.1
"""By which a timer may be early."""

RETRY_SECONDS = 0.5
"""The longest delay before an application's client reconnects."""

WAKE_SECONDS = 2.0
"""How often a device wakes up, on average: the client checks its connection then."""


@dataclass(frozen=True, slots=True)
class ApplicationOptions:
    """One application."""

    name: str
    """In the history, and its user."""
    ports: Sequence[int]
    """The gateways that it may connect to, the first one first."""
    channels: Sequence[str]
    loads_state: bool = False
    """Whether it loads the state that its channels describe, and continues from the position of that."""
    state_ports: Sequence[int] = ()
    """The internal listeners where it loads that."""


class ObservedChannels:
    """The channels with history that an application listens to, as it sees them."""

    def __init__(self, options: ApplicationOptions, history: History) -> None:
        self._by_name = {
            channel: ObservedChannel(options.name, channel, history, loads_state=options.loads_state)
            for channel in options.channels
        }
        self._changed = asyncio.Event()

    def __getitem__(self, channel: str) -> ObservedChannel:
        return self._by_name[channel]

    def __repr__(self) -> str:
        return f"<ObservedChannels {', '.join(map(repr, self._by_name.values()))}>"

    def on_changed(self) -> None:
        """Something was observed: let who waits look again."""
        self._changed.set()

    async def wait_for_positions(self, positions: Mapping[str, str]) -> None:
        """Wait until everything up to *positions* was seen in each channel."""
        while not all(
            observed.has_reached(positions.get(channel, "0")) for channel, observed in self._by_name.items()
        ):
            self._changed.clear()
            await self._changed.wait()

    def is_at(self, positions: Mapping[str, str]) -> bool:
        """Return whether each channel is exactly at its position."""
        return all(observed.is_at(positions[channel]) for channel, observed in self._by_name.items())


class LibraryPublish:
    """One publish through a library, as the history has it."""

    def __init__(self, history: History, channel: str, name: str) -> None:
        """Record that the publish *name* begins."""
        history.record(PublishAttempted(name, channel))
        self._history = history
        self._name = name
        self._began = asyncio.get_running_loop().time()

    def on_published(self, id: str) -> None:
        """It was acknowledged, as the message *id*."""
        self._history.record(PublishResolved(self._name, PublishResult.OK, id))

    def on_failed(self, code: str) -> None:
        """It failed with *code*.

        Raises:
            AssertionError: The library gave up a publish that it had to repeat, or said that it is uncertain
                before the time was over in which it repeats it.
        """
        if code in NOT_PUBLISHED:
            self._history.record(PublishResolved(self._name, PublishResult.FAILED))
            return
        self._history.record(PublishResolved(self._name, PublishResult.UNKNOWN))
        took = asyncio.get_running_loop().time() - self._began
        assert code == UNCERTAIN, f"{self._name} was given up with {code}"
        assert took >= TIMEOUT_SECONDS - EARLY_SECONDS, f"{self._name} is uncertain after {took:.1f} s"


class Application(Protocol):
    """A running application."""

    name: str
    """In the history."""
    channels: Sequence[str]
    """The channels with history that it listens to."""
    observed: ObservedChannels
    """What it sees of them."""

    async def publish(self, channel: str, name: str, size: int) -> None:
        """Publish the data of the publish *name* through the library, and record the result."""

    async def present(self) -> set[str]:
        """Return the connections that it sees in `LOUNGE`."""

    async def tokens(self) -> int:
        """Return how often it was asked for a token."""
