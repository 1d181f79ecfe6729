"""A socket that is full, and whether its peer takes anything at all."""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios

from gateway.clock import Clock

_INT = struct.Struct("i")


class StallDetector:
    """Watches a full socket, and aborts it when not one byte has gone for the timeout."""

    __slots__ = ("_clock", "_left", "_loop", "_since", "_timeout", "_timer", "_transport")

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        timeout: float,
    ) -> None:
        """Begin to watch; *timeout* in seconds."""
        self._transport = transport
        self._loop = loop
        self._clock = clock
        self._timeout = timeout
        self._left = self._untaken()
        self._since = clock()
        self._timer = self._later()

    def over(self) -> None:
        """Watch no longer: the socket takes more, or is gone."""
        self._timer.cancel()

    def _look(self) -> None:
        now, untaken = self._clock(), self._untaken()
        if untaken < self._left:
            self._left, self._since = untaken, now
        elif now - self._since >= self._timeout:
            self._transport.abort()
            return
        self._timer = self._later()

    def _later(self) -> asyncio.TimerHandle:
        return self._loop.call_later(max(0.001, self._timeout / 4), self._look)

    def _untaken(self) -> int:
        """Return the bytes that the peer has not acknowledged.

        Those of the kernel count: it asks for more only when a third of its buffer is free, and a client on a
        slow line may need longer for that than a dead one is given.
        """
        descriptor = self._transport.get_extra_info("socket").fileno()
        (queued,) = _INT.unpack(fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(_INT.size)))
        return self._transport.get_write_buffer_size() + int(queued)
