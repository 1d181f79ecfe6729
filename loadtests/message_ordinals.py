"""Ordinals that order the messages of a channel even if the server loses its history. Pure."""

from __future__ import annotations

from array import array

HISTORY_STRIDE = 1 << 40
"""Difference between the ordinals of one offset in two consecutive histories of a channel."""

MAX_OFFSET_JUMP = 1 << 20
"""Offsets further ahead of all others are not stored: nobody publishes so many messages between two calls."""


def offset_of(ordinal: int) -> int:
    """Return the offset in the message id that *ordinal* stands for."""
    return ordinal % HISTORY_STRIDE


def history_of(ordinal: int) -> int:
    """Return the index of the history that *ordinal* belongs to."""
    return ordinal // HISTORY_STRIDE


def parse_message_id(message_id: str) -> tuple[int, str]:
    """Return the offset in a message id, and its uid.

    Clients treat ids as opaque and send them back unchanged; only a check for missing messages parses them.
    """
    offset, _, uid = message_id.partition("-")
    return int(offset), uid


class MessageOrdinals:
    """The uids at each offset of one channel, and the ordinals derived from them.

    A history that is lost (a node with the memory broker restarts, Redis is emptied) starts again at 1, with
    other uids. An *ordinal* distinguishes the offsets of one history from those of the next: ordinals are
    consecutive within a history, and higher in the next one.
    """

    __slots__ = ("_histories", "_last_delivered")

    def __init__(self) -> None:
        self._histories = [array("q")]
        """For each history the hash of the uid at each offset; 0 where it is unknown."""
        self._last_delivered = "", 0
        """The id of the message delivered last, and its ordinal."""

    def of_delivered(self, message_id: str) -> tuple[int, bool]:
        """Return the ordinal of a delivered message, and whether its id agrees with all others seen."""
        if message_id == self._last_delivered[0]:
            # A channel with many subscribers delivers the same message many times in a row.
            return self._last_delivered[1], True
        offset, uid = parse_message_id(message_id)
        ordinal = self._find(offset, uid)
        consistent = ordinal is not None or self._store(offset, uid)
        ordinal = self._in_newest_history(offset) if ordinal is None else ordinal
        if consistent:
            self._last_delivered = message_id, ordinal
        return ordinal, consistent

    def of_confirmed(self, message_id: str, *, after: int | None = None) -> int:
        """Return the ordinal of an id that the server confirmed: of an acknowledged message, or a position.

        An id that contradicts a known uid, or is new and yet below the ordinal *after*, starts a new history.
        """
        offset, uid = parse_message_id(message_id)
        ordinal = self._find(offset, uid)
        if ordinal is not None:
            return ordinal
        went_back = after is not None and self._in_newest_history(0) <= after and offset < offset_of(after)
        if went_back or not self._store(offset, uid):
            self._histories.append(array("q"))
            self._store(offset, uid)
        return self._in_newest_history(offset)

    def _find(self, offset: int, uid: str) -> int | None:
        uid_hash = _hash(uid)
        for history in range(len(self._histories) - 1, -1, -1):
            hashes = self._histories[history]
            if offset < len(hashes) and hashes[offset] == uid_hash:
                return history * HISTORY_STRIDE + offset
        return None

    def _store(self, offset: int, uid: str) -> bool:
        """Store the uid at *offset* of the newest history; return False if another uid is known there."""
        hashes = self._histories[-1]
        if offset > len(hashes) + MAX_OFFSET_JUMP:
            return True
        if offset >= len(hashes):
            hashes.extend([0] * (offset + 1 - len(hashes)))
        # A channel to which nothing was published may be discarded and created again without any loss.
        if hashes[offset] and (offset or len(hashes) > 1):
            return False
        hashes[offset] = _hash(uid)
        return True

    def _in_newest_history(self, offset: int) -> int:
        return (len(self._histories) - 1) * HISTORY_STRIDE + offset

    def __repr__(self) -> str:
        return f"<MessageOrdinals: {len(self._histories)} histories, up to {len(self._histories[-1]) - 1}>"


def _hash(uid: str) -> int:
    return hash(uid) or 1
