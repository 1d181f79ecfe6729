"""Detection of a full socket whose peer accepts no data at all."""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios

from gateway.clock import Clock

_INT = struct.Struct("i")
_CHECKS_PER_TIMEOUT = 4


class StallDetector:
    """Watches a full socket, and aborts it when no byte was acknowledged for the timeout."""

    __slots__ = (
        "_clock",
        "_last_progress",
        "_loop",
        "_timeout",
        "_timer",
        "_transport",
        "_unacknowledged",
        "stalled",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        timeout: float,
    ) -> None:
        """Start watching the socket of *transport*; *timeout* in seconds."""
        self.stalled = False
        """Whether the socket was aborted."""
        self._transport = transport
        self._loop = loop
        self._clock = clock
        self._timeout = timeout
        self._unacknowledged = self._count_unacknowledged()
        self._last_progress = clock()
        self._timer = self._schedule_check()

    def cancel(self) -> None:
        """Stop watching: the socket accepts data again, or is closed."""
        self._timer.cancel()

    def _check(self) -> None:
        now, unacknowledged = self._clock(), self._count_unacknowledged()
        if unacknowledged < self._unacknowledged:
            self._unacknowledged, self._last_progress = unacknowledged, now
        elif now - self._last_progress >= self._timeout:
            self.stalled = True
            self._transport.abort()
            return
        self._timer = self._schedule_check()

    def _schedule_check(self) -> asyncio.TimerHandle:
        return self._loop.call_later(max(0.001, self._timeout / _CHECKS_PER_TIMEOUT), self._check)

    def _count_unacknowledged(self) -> int:
        """Return the unacknowledged bytes: the bytes in asyncio's buffer and in the kernel's.

        The kernel's buffer has to be counted (SIOCOUTQ, tcp(7)): it accepts more from asyncio only when a
        third of it is free, and a client on a slow line may need longer for that than the stall timeout.
        """
        descriptor = self._transport.get_extra_info("socket").fileno()
        (queued,) = _INT.unpack(fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(_INT.size)))
        return self._transport.get_write_buffer_size() + int(queued)
