"""What an application sees of one channel through a client library, as events of the history.

A library hides connections: its application sees one stream, which begins at a position and is broken by gaps
alone. For the checker each stretch between gaps is one segment without a reconnect: a message that is left
out, doubled or out of order is a violation, whatever happened to connections.
"""

from typing import Any

from tests.chaos.history import (
    Delivered,
    Gap,
    History,
    ReceivedMessage,
    Subscribed,
    SubscribeSent,
    offset,
)
from tests.chaos.publisher import publish_name_of


class ObservedChannel:
    """Records what the application *client* sees of *channel*."""

    def __init__(self, client: str, channel: str, history: History, *, loads_state: bool = False) -> None:
        """With *loads_state*, the application loads the state after each gap, and its stream begins anew."""
        self.position = ""
        """The id of the last message that was seen; empty before the subscription."""
        self._loads_state = loads_state
        self._loading = loads_state
        """Whether the application waits for the state that it loads."""
        self._client = client
        self._channel = channel
        self._history = history

    def on_requested(self) -> None:
        """The application is about to listen."""
        self._history.record(SubscribeSent(self._client, self._channel))

    def on_position(self, position: str | None) -> None:
        """Everything up to *position* is known: it is the start of the stream, unless that has begun."""
        if not self.position and not self._loads_state:
            self._begin(position)

    def on_loaded(self, position: str) -> None:
        """The application has loaded everything up to *position*: the stream begins anew there."""
        self._begin(position)
        self._loading = False

    def on_message(self, id: str | None, data: Any, before: str | None) -> None:
        """A message was handed over; *before* is the position that the library had until then."""
        assert not self._loading, f"a message of {self._channel} came before the state"
        self.on_position(before)
        assert id, f"{self._channel} keeps a history, so each message has an id"
        self._history.record(
            Delivered(self._client, self._channel, ReceivedMessage(id, publish_name_of(data)))
        )
        self.position = id

    def on_gap(self, reason: str, position: str | None) -> None:
        """The application was told that messages are missing up to *position*."""
        if self._loads_state:
            self._loading = True
            return
        assert position, f"{self._channel} keeps a history, so a gap has a position"
        self._history.record(Gap(self._client, self._channel, reason, position))
        self.position = position

    def has_reached(self, position: str) -> bool:
        """Return whether the application has everything up to *position*."""
        return self.is_current and offset(self.position) >= offset(position)

    def is_at(self, position: str) -> bool:
        """Return whether the application has everything up to *position*, and nothing after it."""
        return self.is_current and self.position == position

    @property
    def is_current(self) -> bool:
        """Whether the application has a position, and does not wait for a state."""
        return bool(self.position) and not self._loading

    def __repr__(self) -> str:
        return f"<ObservedChannel {self._channel} at {self.position or 'none'}>"

    def _begin(self, position: str | None) -> None:
        assert position, f"{self._channel} keeps a history, so a subscription has a position"
        self._history.record(Subscribed(self._client, self._channel, position, recovered=False))
        self.position = position
