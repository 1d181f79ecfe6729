"""Random ids: the uid of a message, and the suffix that distinguishes the incarnations of a node."""

from __future__ import annotations

import random

UID_SIZE = 12
"""Characters that are random; those of `new_uid` are all random unless a suffix follows."""


def new_uid(suffix: str = "") -> str:
    """Return 48 random bits in hexadecimal, and *suffix* behind them.

    A uid distinguishes two messages with the same offset, if a history was lost and began again
    (docs/decisions/message-ids-carry-a-uid.md). A uid is not a secret: it need not withstand guessing.
    """
    return f"{random.getrandbits(48):012x}{suffix}"
