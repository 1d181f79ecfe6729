"""What commands cost, in units of the rate limits: by type, and by the work that each command asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from protocol.messages import ClientMessage, Connect, Subscribe

BAD_REQUEST = 1.0
"""The cost of a frame that is not a command."""


@dataclass(frozen=True, slots=True)
class CommandCosts:
    """The costs (docs/configuration.md#limitscosts).

    The part that the command itself tells is paid before it runs (`of`). The part that depends on what the
    broker returns is charged afterwards (`of_reply`).
    """

    by_type: dict[str, float] = field(default_factory=dict)
    """A type that is left out costs 1."""
    token: float = 0.0
    """For each channel token, whose signature is verified."""
    message: float = 0.0
    """For each message of a history in the reply."""
    member: float = 0.0
    """For each member in the reply."""

    def of(self, command: ClientMessage) -> float:
        """Return what *command* costs before it runs."""
        cost = self.by_type.get(command.type, 1.0)
        requested = _REQUESTED.get(type(command))
        return cost if requested is None else cost + requested(self, command)

    def of_reply(self, *, messages: int = 0, members: int = 0) -> float:
        """Return what a reply with so many *messages* and *members* costs in addition."""
        return self.message * messages + self.member * members

    def as_reply(self) -> dict[str, float]:
        """Return the costs that a client gets in `connected` (docs/protocol.md#limits)."""
        parts = {"token": self.token, "message": self.message, "member": self.member}
        return {name: float(cost) for name, cost in (self.by_type | parts).items()}

    def of_channels(self, tokens: Iterable[str | None]) -> float:
        """Return what subscriptions cost, given the channel token of each, None for one without."""
        subscribe, cost = self.by_type.get(Subscribe.type, 1.0), 0.0
        for token in tokens:
            cost += subscribe if token is None else subscribe + self.token
        return cost


def _channels_of_connect(costs: CommandCosts, command: Connect) -> float:
    return costs.of_channels(resume.token for resume in command.subs.values()) if command.subs else 0.0


def _token_of_subscribe(costs: CommandCosts, command: Subscribe) -> float:
    return 0.0 if command.token is None else costs.token


_REQUESTED: dict[type, Callable[[CommandCosts, Any], float]] = {
    Connect: _channels_of_connect,
    Subscribe: _token_of_subscribe,
}
"""What commands ask for beyond their type. A channel in `connect` costs as much as its `subscribe`."""
