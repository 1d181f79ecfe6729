"""Random ids: the uid of a message, and what tells the incarnations of a node apart."""

from __future__ import annotations

import random


def new_uid() -> str:
    """Return 48 random bits in hexadecimal.

    A uid tells apart two messages with the same offset, where a history was lost and began again
    (docs/decisions/message-ids-carry-a-uid.md). It is not a secret: it need not withstand guessing.
    """
    return f"{random.getrandbits(48):012x}"
