"""The signals that stop a gateway, and what they do until it serves. Imports nothing that takes time."""

from __future__ import annotations

import os
import signal
from types import FrameType


def stop_signals() -> list[signal.Signals]:
    """Return the signals that drain and stop a gateway; SIGHUP, for a closed terminal, not under `nohup`."""
    ignores_hangup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGTERM, signal.SIGINT, *([] if ignores_hangup else [signal.SIGHUP])]


def exit_on_stop_signals() -> None:
    """Let each of `stop_signals` end this process with status 0, until other handlers replace these.

    As the first process of a container (PID 1), a process without a handler never gets the signal:
    pid_namespaces(7).
    """
    for number in stop_signals():
        signal.signal(number, _exit)


def _exit(_number: int, _frame: FrameType | None) -> None:
    # There is nothing to clean up yet. An exception could be caught by the import that it interrupts.
    os._exit(0)
