"""Text streams whose writes never wait: a thread writes to the file descriptor.

A pipe that nobody reads, a terminal that is stopped, a stalled journal and a hung disk block whoever writes
to them. `O_NONBLOCK` would not do: it has no effect on files, and it would also apply to every other process
that has inherited the descriptor (open(2)).
"""

from __future__ import annotations

import io
import os
import select
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue

MAX_WAITING_BYTES = 1024 * 1024
"""Bytes that may wait for the thread; beyond, lines are dropped and counted."""

RETRY_SECONDS = 1.0
"""Between two attempts to report dropped lines while nothing can be written."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Text that waits to be written."""

    data: bytes
    lines: int
    dropped_before: int = 0
    """Lines that were dropped, because too much waited, between the chunk before this one and this one."""


_NO_TEXT = _Chunk(b"", 0)


class BackgroundStream(io.TextIOBase):
    """A text stream to one file descriptor; what cannot be written is dropped and counted, never raised."""

    encoding = "utf-8"

    def __init__(self, descriptor: int, *, name: str, max_waiting_bytes: int = MAX_WAITING_BYTES) -> None:
        """Start the thread.

        Args:
            descriptor: Stays open and is not closed here. One that cannot be written to is no error.
            name: Of the thread.
            max_waiting_bytes: Bytes that may wait for the thread.

        """
        self._descriptor = descriptor
        self._max_waiting_bytes = max_waiting_bytes
        # Reentrant: a garbage collection within the locked part may run code that writes to this stream.
        self._lock = threading.RLock()
        self._waiting_bytes = 0
        self._dropped_unqueued = 0
        """Lines dropped since the last chunk was queued."""
        self.dropped = 0
        """Lines dropped since the start."""
        self.describe_dropped: Callable[[int], str] = lambda _: ""
        """Returns the text that reports this number of dropped lines; called in the thread."""
        self._ends_within_line = False
        """Whether a write failed in the middle of a line."""
        self._queue: SimpleQueue[_Chunk | None] = SimpleQueue()
        # A daemon: the end of the process does not wait for a write that never returns.
        self._thread = threading.Thread(target=self._write_chunks, name=name, daemon=True)
        self._thread.start()

    # ------------------------------------------------------------ called by any thread

    def write(self, text: str) -> int:
        """Queue *text*, or drop it where too much waits."""
        data = text.encode(self.encoding, "backslashreplace")
        lines = text.count("\n")
        with self._lock:
            if self._waiting_bytes + len(data) > self._max_waiting_bytes:
                self.dropped += lines
                self._dropped_unqueued += lines
            else:
                self._waiting_bytes += len(data)
                self._queue.put(_Chunk(data, lines, self._dropped_unqueued))
                self._dropped_unqueued = 0
        return len(text)

    def flush(self) -> None:
        """Do nothing: the thread writes as soon as it can. `finish` waits for it."""

    def finish(self, timeout: float) -> bool:
        """Write what waits, for *timeout* seconds at most, and end; return whether all of it was written."""
        self._queue.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """Return True."""
        return True

    # ------------------------------------------------------------ the thread

    def _write_chunks(self) -> None:
        unreported = 0
        chunk: _Chunk | None = _NO_TEXT
        while chunk is not None:
            try:
                chunk = self._queue.get(timeout=RETRY_SECONDS if unreported else None)
            except Empty:
                chunk = _NO_TEXT
            unreported = self._write_chunk(chunk or _NO_TEXT, unreported)

    def _write_chunk(self, chunk: _Chunk, unreported: int) -> int:
        """Write *chunk*, after a report of the lines that were dropped; return how many are unreported."""
        unreported = self._report(unreported + chunk.dropped_before)
        is_written = not unreported and self._write_all(chunk.data)
        with self._lock:
            self._waiting_bytes -= len(chunk.data)
            if not is_written:
                self.dropped += chunk.lines
                unreported += chunk.lines
            if self._queue.empty():
                # No later chunk tells how many were dropped.
                unreported += self._dropped_unqueued
                self._dropped_unqueued = 0
        return self._report(unreported)

    def _report(self, unreported: int) -> int:
        """Write how many lines were dropped, if any; return 0, or *unreported* where that fails."""
        if unreported and self._write_all(self.describe_dropped(unreported).encode()):
            return 0
        return unreported

    def _write_all(self, data: bytes) -> bool:
        """Return whether all of *data* could be written, however long it took."""
        if self._ends_within_line:
            data = b"\n" + data
        written = 0
        try:
            while written < len(data):
                written += self._write_some(data[written:])
        except OSError:
            if written:
                self._ends_within_line = not data[:written].endswith(b"\n")
            return False
        self._ends_within_line = False
        return True

    def _write_some(self, data: bytes) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            # Another process has set O_NONBLOCK, which holds for all that have inherited the descriptor.
            poll = select.poll()
            poll.register(self._descriptor, select.POLLOUT)
            poll.poll()
            return 0
