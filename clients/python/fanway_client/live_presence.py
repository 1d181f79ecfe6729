"""Who is in a channel, kept up to date."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from fanway_client.client import Fanway
from fanway_client.errors import FanwayError
from fanway_client.subscription import Gap, Map, Member, member_of


class LivePresence:
    """The members of a channel: complete when `ready`, then changed by joins and leaves.

    The list is loaded again at each subscription and after each gap. It begins with the object and ends with
    `close`; both belong to the event loop of *fanway*.
    """

    def __init__(self, fanway: Fanway, name: str) -> None:
        """Follow the members of the channel *name*, which needs `presence` and `join_leave`."""
        self._fanway = fanway
        self._members: dict[str, Member] = {}
        self._listeners: list[Callable[[LivePresence], object]] = []
        self._loads = 0
        self._closed = False
        self.ready = False
        """Whether the list was complete once."""
        self._channel = fanway.channel(name, presence=True)
        self._channel.on("members", self._replace)
        self._channel.on("join", self._set)
        self._channel.on("update", self._set)
        self._channel.on("leave", self._remove)
        self._channel.on("gap", self._on_gap)

    @property
    def members(self) -> Mapping[str, Member]:
        """The members by the id of their connection."""
        return MappingProxyType(self._members)

    @property
    def users(self) -> Mapping[str, Member]:
        """One member of each user, by user; anonymous members by the id of their connection."""
        return {member.user or member.connection: member for member in self._members.values()}

    def on_change(self, listener: Callable[[LivePresence], object]) -> Callable[[], None]:
        """Call *listener* with this object after each change; return a function that ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def close(self) -> None:
        """End the subscription, unless others use the channel; the list changes no more."""
        self._closed = True
        self._listeners.clear()
        self._channel.close()

    def _on_gap(self, _: Gap) -> None:
        self._loads += 1
        self._load(self._loads, 0)

    def _load(self, load: int, attempt: int) -> None:
        """Ask for the members, unless there is a newer list; the reply is used before any later push."""

        def on_reply(reply: Map) -> None:
            if self._is_due(load):
                self._replace([member_of(member) for member in reply.get("members", ())])

        def on_error(error: FanwayError) -> None:
            # After a lost connection, or without a subscription, the next subscription brings the list.
            if error.retryable and self._is_due(load):
                self._fanway.retry(lambda: self._load(load, attempt + 1), attempt, error.retry_after)

        if self._is_due(load):
            command = {"type": "presence", "channel": self._channel.name, "members": True}
            self._fanway.call(command, on_reply, on_error)

    def _is_due(self, load: int) -> bool:
        return load == self._loads and not self._closed

    def _replace(self, members: Sequence[Member]) -> None:
        self._loads += 1  # a list that is being loaded is older
        self._members = {member.connection: member for member in members}
        self.ready = True
        self._changed()

    def _set(self, member: Member) -> None:
        self._members[member.connection] = member
        self._changed()

    def _remove(self, member: Member) -> None:
        if self._members.pop(member.connection, None) is not None:
            self._changed()

    def _changed(self) -> None:
        for listener in tuple(self._listeners):
            try:
                listener(self)
            except Exception as error:  # noqa: BLE001 (whatever the application raises)
                self._fanway.report(error)

    def __repr__(self) -> str:
        return f"<LivePresence {self._channel.name} {len(self._members)} members>"
