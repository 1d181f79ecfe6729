"""What the chaos tests ask of an application on a client library, whichever language it is written in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

LOUNGE = "lounge:1"
"""A channel with presence and a grace, in which every application with a user is present."""

TOKEN_SECONDS = 8.0
"""The validity of a token: several end in each round."""

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


class Application(Protocol):
    """A running application."""

    @property
    def name(self) -> str:
        """Its name in the history."""

    @property
    def channels(self) -> Sequence[str]:
        """The channels with history that it listens to."""

    async def wait_for_positions(self, positions: Mapping[str, str]) -> None:
        """Wait until it has seen everything in its channels up to *positions*."""

    async def publish(self, channel: str, name: str, size: int) -> None:
        """Publish the data of the publish *name* through the library, and record the result."""

    async def present(self) -> set[str]:
        """Return the connections that it sees in `LOUNGE`."""
