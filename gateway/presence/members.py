"""The members of one channel: pure, no clock, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from protocol.messages import Join, Leave, Member


class Members:
    """The members of one channel, in the order of their joins."""

    __slots__ = ("_by_connection",)

    def __init__(self) -> None:
        self._by_connection: dict[str, Member] = {}

    def join(self, member: Member) -> bool:
        """Add *member*; return whether its connection is new. Otherwise its `info` replaces the old one."""
        new = member.connection not in self._by_connection
        self._by_connection[member.connection] = member
        return new

    def leave(self, connection: str) -> Member | None:
        """Remove and return the member with *connection*; None if there is none."""
        return self._by_connection.pop(connection, None)

    def __len__(self) -> int:
        return len(self._by_connection)

    def __iter__(self) -> Iterator[Member]:
        return iter(self._by_connection.values())

    def __repr__(self) -> str:
        return f"<Members {len(self)}>"


def apply_changes(members: Iterable[Member], changes: Iterable[Join | Leave]) -> tuple[Member, ...]:
    """Return the members after *changes*; *members* may contain the first of these changes already."""
    current = Members()
    for member in members:
        current.join(member)
    for change in changes:
        if isinstance(change, Join):
            current.join(change.member)
        else:
            current.leave(change.member.connection)
    return tuple(current)
