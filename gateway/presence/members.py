"""The members of one channel: pure, no clock, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import orjson

from protocol.messages import Join, Leave, Member


class Absence:
    """A member whose connection has ended, and whose user may still return; each absence is one object."""

    __slots__ = ("connection",)

    def __init__(self, connection: str) -> None:
        self.connection = connection
        """The connection that has ended."""


class _Entry:
    __slots__ = ("absence", "connection", "member")

    def __init__(self, member: Member, connection: str) -> None:
        self.member = member
        self.connection = connection
        """The connection that the member belongs to now."""
        self.absence: Absence | None = None


class Members:
    """The members of one channel, in the order of their joins.

    A member is listed under the id of the connection with which it joined. If that connection ends and the
    same user returns while the member is absent, the member belongs to the new connection, and stays listed
    under the same id: whoever keeps a list by that id need not hear of it (docs/presence.md).
    """

    __slots__ = ("_absent", "_entries", "_listed_as")

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        """By the id under which a member is listed."""
        self._listed_as: dict[str, str] = {}
        """The id under which a member is listed, by the connection that it belongs to now."""
        self._absent: dict[bytes, dict[str, None]] = {}
        """The ids of absent members, by user and info."""

    def join(self, member: Member) -> tuple[Member, bool]:
        """Add *member*; return it as it is listed, and whether it is new.

        A member of the same connection is replaced. An absent member of the same user, with the same info,
        belongs to the new connection from now on.
        """
        connection = member.connection
        entry = self._find(connection) or self._find_absent(member)
        if entry is None:
            self._entries[connection] = _Entry(member, connection)
            self._listed_as[connection] = connection
            return member, True
        self._end_absence(entry)
        listed_as = self._listed_as.pop(entry.connection)
        entry.connection, entry.member = connection, replace(member, connection=listed_as)
        self._listed_as[connection] = listed_as
        return entry.member, False

    def leave(self, connection: str, absence: Absence | None = None) -> Member | None:
        """Remove and return the member of *connection*; None if it has none.

        With *absence* only if that has not ended.
        """
        entry = self._find(connection)
        if entry is None or (absence is not None and entry.absence is not absence):
            return None
        self._end_absence(entry)
        del self._entries[self._listed_as.pop(connection)]
        return entry.member

    def start_absence(self, connection: str) -> Absence | None:
        """Keep the member of *connection*, which has ended; return the absence, or None if it has none."""
        entry = self._find(connection)
        if entry is None:
            return None
        self._end_absence(entry)
        entry.absence = Absence(connection)
        self._absent.setdefault(_identity(entry.member), {})[entry.member.connection] = None
        return entry.absence

    def _find(self, connection: str) -> _Entry | None:
        listed_as = self._listed_as.get(connection)
        return None if listed_as is None else self._entries[listed_as]

    def _find_absent(self, member: Member) -> _Entry | None:
        if not self._absent:
            return None
        ids = self._absent.get(_identity(member))
        return self._entries[next(iter(ids))] if ids else None

    def _end_absence(self, entry: _Entry) -> None:
        if entry.absence is None:
            return
        entry.absence = None
        identity = _identity(entry.member)
        ids = self._absent[identity]
        del ids[entry.member.connection]
        if not ids:
            del self._absent[identity]

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Member]:
        return (entry.member for entry in self._entries.values())

    def __repr__(self) -> str:
        return f"<Members {len(self)}>"


def apply_changes(members: Iterable[Member], changes: Iterable[Join | Leave]) -> tuple[Member, ...]:
    """Return the members after *changes*; *members* may contain the first of these changes already."""
    current = {member.connection: member for member in members}
    for change in changes:
        if isinstance(change, Join):
            current[change.member.connection] = change.member
        else:
            current.pop(change.member.connection, None)
    return tuple(current.values())


def _identity(member: Member) -> bytes:
    return orjson.dumps([member.user, member.info])
