"""The heartbeat of a worker, and the end of its supervisor."""

import os
from ctypes import c_double

import pytest

from gateway.clock import FakeClock
from gateway.runtime.worker_heartbeat import HEARTBEAT_INTERVAL_SECONDS, WorkerHeartbeat


def test_heartbeats_are_written_until_the_parent_process_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, orphaned = FakeClock(), list[bool]()
    shared = c_double(0.0)
    heartbeat = WorkerHeartbeat(shared, clock, lambda: orphaned.append(True))
    heartbeat.start()
    first = shared.value
    assert first > 0
    clock.advance(HEARTBEAT_INTERVAL_SECONDS * 3)
    assert shared.value >= first
    assert orphaned == []
    monkeypatch.setattr(os, "getppid", lambda: 1)
    clock.advance(HEARTBEAT_INTERVAL_SECONDS)
    assert orphaned == [True]
    clock.advance(HEARTBEAT_INTERVAL_SECONDS * 3)
    assert orphaned == [True]
