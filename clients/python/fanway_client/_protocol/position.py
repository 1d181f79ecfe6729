"""Message ids, `"<offset>-<uid>"`: a number that counts up in the channel, and a random string.

The offset alone is not enough: after a failover that lost writes, a store gives new messages offsets that it
gave to others before, and a client that resumes by number would miss them without notice. The uid is random,
so that two messages with the same offset are told apart (docs/protocol.md#positions-and-recovery).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_ID = re.compile(r"(0|[1-9][0-9]{0,15})-([A-Za-z0-9_]{1,32})", re.ASCII)


@dataclass(frozen=True, slots=True)
class MessageId:
    """The id of one message in its channel; as a position: everything up to that message was received."""

    offset: int
    """1, 2, 3, … in one channel; 0 is the position before the first message."""

    uid: str

    @classmethod
    def parse(cls, text: str) -> MessageId:
        """Return the id in *text*; raise ValueError if it is not one."""
        match = _ID.fullmatch(text)
        if match is None:
            raise ValueError(
                f"{text!r:.64} is no message id: expected '<offset>-<uid>' as a gateway gave it out"
            )
        return cls(int(match[1]), match[2])

    def __str__(self) -> str:
        return f"{self.offset}-{self.uid}"

    def follows(self, previous: MessageId) -> bool:
        """Return whether the offset is the one after that of *previous*; uids are not compared."""
        return self.offset == previous.offset + 1
