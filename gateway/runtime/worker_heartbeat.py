"""What a worker's event loop writes for its supervisor: its heartbeat, and whether clients can be served."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from ctypes import Structure, c_bool, c_double
from typing import TYPE_CHECKING

from gateway.clock import Scheduler

HEARTBEAT_INTERVAL_SECONDS = 1.0


class WorkerStatus(Structure):
    """What a worker and its supervisor share. Each value is aligned: a read never sees half of a write."""

    _fields_ = (("last_heartbeat", c_double), ("is_ready", c_bool))

    if TYPE_CHECKING:
        last_heartbeat: float
        """`time.monotonic()`, one clock for all processes (clock_gettime(2)); 0 at first."""
        is_ready: bool
        """Whether the worker's broker took publishes at the last heartbeat."""


class WorkerHeartbeat:
    """Writes to shared memory from the worker's event loop, and notices that the parent ended."""

    def __init__(
        self,
        status: WorkerStatus,
        scheduler: Scheduler,
        is_ready: Callable[[], bool],
        on_orphaned: Callable[[], object],
    ) -> None:
        """Write to *status* once per interval; call *on_orphaned* once the parent process has ended."""
        self._status = status
        self._scheduler = scheduler
        self._is_ready = is_ready
        self._on_orphaned = on_orphaned
        self._parent = os.getppid()

    def start(self) -> None:
        """Write the first heartbeat, which says that this worker serves, and schedule the next ones."""
        self._status.is_ready = self._is_ready()
        self._status.last_heartbeat = time.monotonic()
        if os.getppid() == self._parent:
            self._scheduler.call_later(HEARTBEAT_INTERVAL_SECONDS, self.start)
        else:
            self._on_orphaned()
