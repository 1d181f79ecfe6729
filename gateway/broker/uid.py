"""Random ids: of messages that share a number, and of incarnations of a node."""

from __future__ import annotations

import random


def new_uid() -> str:
    """Return what tells two messages apart that share a number: 48 random bits.

    Not a secret: it guards against a second history, not against somebody who guesses.
    """
    return f"{random.getrandbits(48):012x}"
