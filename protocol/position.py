"""Message ids: an offset that counts and a uid that cannot be mistaken, `"<offset>-<uid>"`.

The offset alone is not enough: after a failover that lost writes, a store numbers new messages with offsets
it had given out before, and a client that resumes by number silently misses them. The uid is random, unique
at its offset.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_ID = re.compile(r"(0|[1-9][0-9]{0,15})-([A-Za-z0-9_]{1,32})", re.ASCII)


@dataclass(frozen=True, slots=True)
class MessageId:
    """The identity of one message in its channel, and the position right behind it."""

    offset: int
    """1, 2, 3, … in one channel; 0 is the position before the first message."""

    uid: str

    @classmethod
    def parse(cls, text: str) -> MessageId:
        """Return the id that *text* spells; ValueError where it spells none."""
        match = _ID.fullmatch(text)
        if match is None:
            raise ValueError(
                f"{text!r:.64} is no message id: expected '<offset>-<uid>' as a gateway gave it out"
            )
        return cls(int(match[1]), match[2])

    def __str__(self) -> str:
        return f"{self.offset}-{self.uid}"

    def follows(self, previous: MessageId) -> bool:
        """Return whether this is the number right after *previous*; says nothing about the uid."""
        return self.offset == previous.offset + 1
