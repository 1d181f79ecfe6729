"""What a transport calls on the session that it belongs to."""

from __future__ import annotations

from typing import Protocol


class Receiver(Protocol):
    """Receives the messages of one transport, and what happens to it; a session is one."""

    def on_message(self, payload: bytes, *, binary: bool) -> None:
        """Handle one complete message; text has been checked to be UTF-8."""

    def on_full(self) -> None:
        """Note that the socket accepts no more data: `writable` is False. No frame may be written here."""

    def on_drained(self) -> None:
        """Continue writing: the socket accepts data again after `writable` was False."""

    def on_closed(self, code: int) -> None:
        """Release the session: the peer closed with *code*, or the socket broke (1006).

        Called at most once, and no other method is called after it.
        """
