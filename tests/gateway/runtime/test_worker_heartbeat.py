"""The heartbeat of a worker, and the end of its supervisor."""

import os

import pytest

from gateway.clock import FakeClock
from gateway.runtime.worker_heartbeat import HEARTBEAT_INTERVAL_SECONDS, WorkerHeartbeat, WorkerStatus


def test_heartbeats_are_written_until_the_parent_process_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, orphaned, ready = FakeClock(), list[bool](), list[bool]()
    shared = WorkerStatus()
    heartbeat = WorkerHeartbeat(shared, clock, lambda: bool(ready), lambda: orphaned.append(True))
    heartbeat.start()
    first = shared.last_heartbeat
    assert (first > 0, shared.is_ready) == (True, False)
    ready.append(True)
    clock.advance(HEARTBEAT_INTERVAL_SECONDS * 3)
    assert (shared.last_heartbeat >= first, shared.is_ready) == (True, True)
    assert orphaned == []
    monkeypatch.setattr(os, "getppid", lambda: 1)
    clock.advance(HEARTBEAT_INTERVAL_SECONDS)
    assert orphaned == [True]
    clock.advance(HEARTBEAT_INTERVAL_SECONDS * 3)
    assert orphaned == [True]
