"""When the answer to a ping is due, on a connection that has more to carry than the ping.

The client reads a ping after all bytes that were written before it. On a slow line that takes longer than the
grace of the heartbeat, although the client is there and answers at once (docs/protocol.md#heartbeats).
"""

from __future__ import annotations

from gateway.transport.tcp_progress import TcpProgress

LEAST_BYTES_PER_SECOND = 1024
"""The slowest line for whose buffers a ping has extra time. Proxies take bytes from the gateway at once, and
hold them for their client; how many are still there is not known."""

LONGEST_WAIT_SECONDS = 600.0
"""The longest time for an answer to a ping that was acknowledged, whatever was written before it."""

PROMPT_SECONDS = 1.0
"""An answer within this time shows that what was written before the ping did not wait anywhere."""


class PongDeadline:
    """The pings of one connection that have no answer yet, and the bytes that were written before them."""

    __slots__ = (
        "_acknowledged",
        "_acknowledged_at",
        "_delivered_at",
        "_end",
        "_passed_promptly",
        "_proven",
        "_queued",
        "_sent_at",
        "_unanswered",
    )

    def __init__(self) -> None:
        self._end = 0
        """The end of the newest ping, in bytes since the beginning of the connection."""
        self._sent_at = 0.0
        self._queued = False
        """Whether other bytes waited in the gateway's buffers when the ping was written."""
        self._acknowledged = 0
        self._acknowledged_at = 0.0
        """When the acknowledged bytes were last seen to have become more."""
        self._delivered_at = 0.0
        """When the ping was first seen to be acknowledged; 0.0 until then."""
        self._unanswered = 0
        self._proven = 0
        """Bytes that the client has read: the end of the newest ping when all pings were answered."""
        self._passed_promptly = 0
        """Bytes between the two newest proofs, if the last one came promptly; else 0."""

    @staticmethod
    def is_needed(progress: TcpProgress, grace: float) -> bool:
        """Return whether an answer may take longer than *grace*; *progress* is that before the ping."""
        return progress.written > progress.acknowledged or progress.written > grace * LEAST_BYTES_PER_SECOND

    def on_ping(self, now: float, size: int, progress: TcpProgress) -> None:
        """Note that a ping of *size* bytes was written; *progress* is that before it."""
        self._sent_at = self._acknowledged_at = now
        self._end = progress.written + size
        self._acknowledged = progress.acknowledged
        self._queued = progress.written > progress.acknowledged
        self._delivered_at = 0.0
        self._unanswered += 1

    def on_pong(self, now: float) -> None:
        """Note an answer: if it is the last one missing, the client has read everything up to the ping."""
        if self._unanswered == 0:
            return
        self._unanswered -= 1
        if self._unanswered == 0:
            prompt = now - self._sent_at <= PROMPT_SECONDS
            self._passed_promptly = self._end - self._proven if prompt else 0
            self._proven = self._end

    def at(self, now: float, progress: TcpProgress, *, grace: float, stall_timeout: float) -> float:
        """Return until when to wait for the answer, as far as is known *now*; it is due if that is not later.

        While the ping waits behind other bytes, as long as some are acknowledged every *stall_timeout*
        seconds. After that *grace*, or as long as what may still wait in a proxy takes on the slowest line.
        """
        if progress.acknowledged < self._end:
            if progress.acknowledged > self._acknowledged:
                self._acknowledged, self._acknowledged_at = progress.acknowledged, now
            return self._acknowledged_at + (max(grace, stall_timeout) if self._queued else grace)
        if not self._delivered_at:
            self._delivered_at = now if self._queued else self._sent_at
        unproven = self._end - self._proven - self._passed_promptly
        return self._delivered_at + max(grace, min(unproven / LEAST_BYTES_PER_SECOND, LONGEST_WAIT_SECONDS))

    def __repr__(self) -> str:
        return f"<PongDeadline {self._unanswered} unanswered, read to {self._proven} of {self._end} bytes>"
