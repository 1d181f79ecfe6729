"""The numbers that a server gives to a channel's messages, and whether it has begun to count anew. Pure."""

from __future__ import annotations

from array import array

EPOCH = 1 << 40
"""What a place has more in each history than in the one before it."""

FAR = 1 << 20
"""Numbers so far ahead of all others are not remembered: nobody publishes that much between two looks."""


def offset(place: int) -> int:
    """Return the number in a message id that stands for *place*."""
    return place % EPOCH


def split(message_id: str) -> tuple[int, str]:
    """Return the number in a message id, and its uid.

    Clients treat ids as opaque, and hand them back as they came; only who looks for holes looks into them.
    """
    number, _, uid = message_id.partition("-")
    return int(number), uid


class Numbering:
    """Which uid stands at which number of one channel.

    A history that is lost (a node with the memory broker restarts, Redis forgets) begins again at 1, with
    other uids. A *place* tells the numbers of one history from those of the next: consecutive within each,
    and higher in the next.
    """

    __slots__ = ("_histories", "_last")

    def __init__(self) -> None:
        self._histories = [array("q")]
        """For each history the uid at each number, as its hash; 0 where it is not known."""
        self._last = "", 0
        """The message that arrived last, and its place."""

    def witness(self, message_id: str) -> tuple[int, bool]:
        """Return the place of a message that arrived, and whether everybody knows that message by this id."""
        if message_id == self._last[0]:
            # What many follow arrives many times in a row.
            return self._last[1], True
        number, uid = split(message_id)
        place = self._find(number, uid)
        agreed = place is not None or self._learn(number, uid)
        place = self._newest(number) if place is None else place
        if agreed:
            self._last = message_id, place
        return place, agreed

    def establish(self, message_id: str, *, above: int | None = None) -> int:
        """Return the place of an id that the server vouches for: of a message that it took, or a position.

        One that contradicts what is known, or is new and yet before the place *above*, begins a new history.
        """
        number, uid = split(message_id)
        place = self._find(number, uid)
        if place is not None:
            return place
        before = above is not None and self._newest(0) <= above and number < offset(above)
        if before or not self._learn(number, uid):
            self._histories.append(array("q"))
            self._learn(number, uid)
        return self._newest(number)

    def _find(self, number: int, uid: str) -> int | None:
        mark = _mark(uid)
        for history in range(len(self._histories) - 1, -1, -1):
            uids = self._histories[history]
            if number < len(uids) and uids[number] == mark:
                return history * EPOCH + number
        return None

    def _learn(self, number: int, uid: str) -> bool:
        """Note a number of the newest history; return whether nobody knows it by another uid."""
        uids = self._histories[-1]
        if number > len(uids) + FAR:
            return True
        if number >= len(uids):
            uids.extend([0] * (number + 1 - len(uids)))
        # Where nothing was published yet, a channel may be forgotten and made again without any loss.
        if uids[number] and (number or len(uids) > 1):
            return False
        uids[number] = _mark(uid)
        return True

    def _newest(self, number: int) -> int:
        return (len(self._histories) - 1) * EPOCH + number

    def __repr__(self) -> str:
        return f"<Numbering of {len(self._histories)} histories, up to {len(self._histories[-1]) - 1}>"


def _mark(uid: str) -> int:
    return hash(uid) or 1
