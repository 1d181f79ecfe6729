"""What a client may say and when, as a table of states; who breaks it gets close code 4002."""

from __future__ import annotations

from enum import Enum, auto

from protocol.commands import COMMANDS


class State(Enum):
    """How far a conversation has come."""

    OPENED = auto()
    """The handshake is done, nothing was said; `connect` must come first."""
    CONNECTING = auto()
    """`connect` was taken, its reply is not out yet; further commands may follow already."""
    CONNECTED = auto()
    CLOSING = auto()
    """One side ended it; what still comes is not answered."""


class Verdict(Enum):
    """What becomes of a command."""

    HANDLE = auto()
    IGNORE = auto()
    VIOLATION = auto()


def _table() -> dict[tuple[State, str], Verdict]:
    rest = [kind for kind in COMMANDS if kind != "connect"]
    return {
        (State.OPENED, "connect"): Verdict.HANDLE,
        **{(State.OPENED, kind): Verdict.VIOLATION for kind in rest},
        (State.CONNECTING, "connect"): Verdict.VIOLATION,
        **{(State.CONNECTING, kind): Verdict.HANDLE for kind in rest},
        (State.CONNECTED, "connect"): Verdict.VIOLATION,
        **{(State.CONNECTED, kind): Verdict.HANDLE for kind in rest},
        **{(State.CLOSING, kind): Verdict.IGNORE for kind in COMMANDS},
    }


RULES: dict[tuple[State, str], Verdict] = _table()
"""What becomes of each command type in each state."""


def verdict(state: State, kind: str) -> Verdict:
    """Return what becomes of a command of type *kind* in *state*."""
    return RULES[state, kind]
