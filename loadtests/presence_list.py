"""The connections present in a channel, as one subscriber knows them: a list, then joins and leaves. Pure."""

from __future__ import annotations

from collections.abc import Iterable


class PresenceList:
    """The connections that are present.

    The list and the pushes arrive by different paths, so either may overtake the other; a connection id is
    never reused. Therefore changes that arrive after the request are applied again on top of the list.
    """

    __slots__ = ("_changes_since_request", "connections", "is_known")

    def __init__(self) -> None:
        self.connections: set[str] = set()
        self.is_known = False
        """Whether a list was ever received."""
        self._changes_since_request: list[tuple[str, bool]] | None = None

    def start_request(self) -> None:
        """Remember changes from now on: a list is being requested."""
        self._changes_since_request = []

    def apply_list(self, connections: Iterable[str]) -> None:
        """Replace the connections by the list received, then apply the changes since its request."""
        self.connections = set(connections)
        changes, self._changes_since_request, self.is_known = self._changes_since_request or [], None, True
        for connection, present in changes:
            self._set(connection, present=present)

    def apply_change(self, connection: str, *, present: bool) -> None:
        """Apply a join (*present*) or leave of *connection*."""
        self._set(connection, present=present)
        if self._changes_since_request is not None:
            self._changes_since_request.append((connection, present))

    def _set(self, connection: str, *, present: bool) -> None:
        (self.connections.add if present else self.connections.discard)(connection)

    def __repr__(self) -> str:
        return f"<PresenceList of {len(self.connections)}>"
