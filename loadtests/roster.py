"""Who is in a channel, as one subscriber knows it: a list once, then who joins and who leaves. Pure."""

from __future__ import annotations

from collections.abc import Iterable


class Roster:
    """The connections that are present.

    A list and the changes come by different ways, so that either may overtake the other; a connection's id
    never comes back. Therefore changes that come while a list is awaited are applied to it once more.
    """

    __slots__ = ("_since_asked", "connections", "known")

    def __init__(self) -> None:
        self.connections: set[str] = set()
        self.known = False
        """Whether a list has ever come."""
        self._since_asked: list[tuple[str, bool]] | None = None

    def ask(self) -> None:
        """Note that a list was asked for."""
        self._since_asked = []

    def answer(self, connections: Iterable[str]) -> None:
        """Take the list that was asked for."""
        self.connections = set(connections)
        changes, self._since_asked, self.known = self._since_asked or [], None, True
        for connection, present in changes:
            self._apply(connection, present=present)

    def change(self, connection: str, *, present: bool) -> None:
        """Note that *connection* joined or left."""
        self._apply(connection, present=present)
        if self._since_asked is not None:
            self._since_asked.append((connection, present))

    def _apply(self, connection: str, *, present: bool) -> None:
        (self.connections.add if present else self.connections.discard)(connection)

    def __repr__(self) -> str:
        return f"<Roster of {len(self.connections)}>"
