"""Which commands a client may send in which state of its connection, as a table.

See docs/protocol.md#messages.
"""

from __future__ import annotations

from enum import Enum, auto

from protocol.commands import COMMANDS


class State(Enum):
    """The state of a connection, for the commands of its client."""

    OPENED = auto()
    """The handshake is done; `connect` must be the first command."""
    CONNECTING = auto()
    """`connect` was accepted and its reply is not sent yet; further commands may already arrive."""
    CONNECTED = auto()
    """The reply to `connect` was sent."""
    CLOSING = auto()
    """One side has closed the connection; commands that still arrive get no reply."""


class CommandAction(Enum):
    """What the gateway does with a command."""

    HANDLE = auto()
    IGNORE = auto()
    CLOSE = auto()
    """Close the connection with 4002, `protocol_violation`."""


def _table() -> dict[tuple[State, str], CommandAction]:
    other_commands = [command for command in COMMANDS if command != "connect"]
    return {
        (State.OPENED, "connect"): CommandAction.HANDLE,
        **{(State.OPENED, command): CommandAction.CLOSE for command in other_commands},
        (State.CONNECTING, "connect"): CommandAction.CLOSE,
        **{(State.CONNECTING, command): CommandAction.HANDLE for command in other_commands},
        (State.CONNECTED, "connect"): CommandAction.CLOSE,
        **{(State.CONNECTED, command): CommandAction.HANDLE for command in other_commands},
        **{(State.CLOSING, command): CommandAction.IGNORE for command in COMMANDS},
    }


ACTIONS: dict[tuple[State, str], CommandAction] = _table()
"""The action for each type of command in each state."""


def action_for(state: State, command_type: str) -> CommandAction:
    """Return what the gateway does with a command of *command_type* in *state*."""
    return ACTIONS[state, command_type]
