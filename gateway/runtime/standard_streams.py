"""Standard output and standard error of a gateway: no write to them waits, and a closed one is no error."""

from __future__ import annotations

import atexit
import os
import sys
import time
from typing import TextIO, cast

from gateway.observe.background_stream import BackgroundStream

STANDARD_DESCRIPTORS = (0, 1, 2)

FLUSH_SECONDS = 1.0
"""Time that the end of the process waits for output that is not written yet."""


def replace() -> BackgroundStream:
    """Replace `sys.stdout` and `sys.stderr` for the rest of the process; return the latter.

    Everything that Python itself prints goes the same way, such as warnings and the tracebacks of exceptions
    that nobody catches. The end of the process waits for `FLUSH_SECONDS` at most until all is written.
    """
    reserve_descriptors()
    streams = [BackgroundStream(number, name=name) for number, name in ((1, "stdout"), (2, "stderr"))]
    sys.stdout, sys.stderr = (cast("TextIO", stream) for stream in streams)
    atexit.register(_finish, streams)
    return streams[1]


def reserve_descriptors() -> None:
    """Open those of `STANDARD_DESCRIPTORS` that are closed, here and in child processes, to fail every write.

    Otherwise the next socket would get such a number: what is printed would be sent to its peer, and libuv
    aborts the process when it closes one.
    """
    for number in STANDARD_DESCRIPTORS:
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is `number`. A write to what is open for reading alone fails (EBADF).
            os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)  # noqa: FBT003 (positional in os)


def _finish(streams: list[BackgroundStream]) -> None:
    deadline = time.monotonic() + FLUSH_SECONDS
    for stream in streams:
        stream.finish(max(0.0, deadline - time.monotonic()))
