"""Who is in one channel, and what changes: pure, no clock, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from protocol.messages import Join, Leave, Member


class Members:
    """The members of one channel, in the order in which they came."""

    __slots__ = ("_by_connection",)

    def __init__(self) -> None:
        self._by_connection: dict[str, Member] = {}

    def join(self, member: Member) -> bool:
        """Add *member*; return whether it is new. Another `info` replaces the old without a word."""
        new = member.connection not in self._by_connection
        self._by_connection[member.connection] = member
        return new

    def leave(self, connection: str) -> Member | None:
        """Remove and return the member with *connection*; None where there is none."""
        return self._by_connection.pop(connection, None)

    def __len__(self) -> int:
        return len(self._by_connection)

    def __iter__(self) -> Iterator[Member]:
        return iter(self._by_connection.values())

    def __repr__(self) -> str:
        return f"<Members {len(self)}>"


def up_to_date(members: Iterable[Member], changes: Iterable[Join | Leave]) -> tuple[Member, ...]:
    """Return who is there after *changes*, some of which *members* may have been through already."""
    now = Members()
    for member in members:
        now.join(member)
    for change in changes:
        if isinstance(change, Join):
            now.join(change.member)
        else:
            now.leave(change.member.connection)
    return tuple(now)


def difference(before: Sequence[Member], after: Sequence[Member]) -> tuple[list[Member], list[Member]]:
    """Return who joined and who left between two states of a channel, each once."""
    old = {member.connection: member for member in before}
    new = {member.connection: member for member in after}
    joined = [member for connection, member in new.items() if connection not in old]
    left = [member for connection, member in old.items() if connection not in new]
    return joined, left
