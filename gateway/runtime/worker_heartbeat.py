"""The heartbeat of a worker's event loop, which its supervisor watches."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from ctypes import c_double

from gateway.clock import Scheduler

HEARTBEAT_INTERVAL_SECONDS = 1.0


class WorkerHeartbeat:
    """Writes the time to shared memory from the worker's event loop, and notices that the parent ended."""

    def __init__(
        self, last_heartbeat: c_double, scheduler: Scheduler, on_orphaned: Callable[[], object]
    ) -> None:
        """Write to *last_heartbeat* once per interval; call *on_orphaned* once the parent process has ended.

        The value is `time.monotonic()`: one clock for all processes of the machine (clock_gettime(2)).
        """
        self._last_heartbeat = last_heartbeat
        self._scheduler = scheduler
        self._on_orphaned = on_orphaned
        self._parent = os.getppid()

    def start(self) -> None:
        """Write the first heartbeat, which says that this worker serves, and schedule the next ones."""
        self._last_heartbeat.value = time.monotonic()
        if os.getppid() == self._parent:
            self._scheduler.call_later(HEARTBEAT_INTERVAL_SECONDS, self.start)
        else:
            self._on_orphaned()
