"""What a test leaves open: descriptors, threads, child processes and tasks."""

import asyncio
import gc
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from threading import enumerate as live_threads
from typing import Self

# Python warns of open files by itself; servers leave these kinds open.
LEAKABLE = ("socket:", "pipe:", "anon_inode:")
# How long a thread that is ending may take; without such a thread nothing waits.
JOIN_SECONDS = 10.0
# How many turns of the loop a task that was cancelled may take to unwind.
UNWIND_ITERATIONS = 25
# How long the other end of a connection may take to see that this end is closed.
CLOSE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Holdings:
    """What this process holds at one moment: descriptors with what they point to, threads, children."""

    descriptors: frozenset[tuple[int, str]]
    threads: frozenset[Thread]
    children: frozenset[int]

    @classmethod
    def now(cls) -> Self:
        return cls(frozenset(_descriptors()), frozenset(live_threads()), frozenset(_children()))

    def leftovers(self) -> list[str]:
        """What is held now and was not held then, a line each; threads get time to end."""
        if not self._newer():
            return []
        for thread in frozenset(live_threads()) - self.threads:
            thread.join(JOIN_SECONDS)
        gc.collect()
        return self._newer()

    def newer_sockets(self) -> list[str]:
        """The sockets with an address that are open now and were not then, a line each.

        Without an address are the two that uvloop makes anew, for signals, each time that it runs.
        """
        newer = sorted(frozenset(_descriptors()) - self.descriptors)
        return [f"socket {fd}: {address}" for fd, _ in newer if (address := _address(fd))]

    def _newer(self) -> list[str]:
        now = type(self).now()
        return [
            *(f"descriptor {fd} -> {target}" for fd, target in sorted(now.descriptors - self.descriptors)),
            *(f"thread {thread.name}" for thread in now.threads - self.threads),
            *(f"child process {pid}: {_command(pid)}" for pid in sorted(now.children - self.children)),
        ]


async def unfinished(before: Holdings) -> list[str]:
    """What does not end on its own: tasks beside the caller's, sockets that *before* has not; a line each.

    To be asked while the loop runs: one that is closed cancels its tasks and closes its sockets unseen.
    """
    for _ in range(UNWIND_ITERATIONS):
        if not _other_tasks():
            break
        await asyncio.sleep(0)
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_SECONDS):
            # The kernel sends no notification of closed descriptors.
            while before.newer_sockets():  # noqa: ASYNC110
                await asyncio.sleep(0)
    return [*(repr(task) for task in _other_tasks()), *before.newer_sockets()]


def _other_tasks() -> set[asyncio.Task[object]]:
    return asyncio.all_tasks() - {asyncio.current_task()}


def _descriptors() -> Iterator[tuple[int, str]]:
    for link in Path("/proc/self/fd").iterdir():
        # The descriptor of the listing itself is gone by now.
        with suppress(FileNotFoundError):
            target = str(link.readlink())
            if target.startswith(LEAKABLE):
                yield int(link.name), target


def _address(descriptor: int) -> str:
    """Both ends of a socket, its own first; empty for one without a name, and for what is no socket."""
    with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as probe:
        own, peer = probe.getsockname(), ""
        with suppress(OSError):
            peer = probe.getpeername()
        return f"{own} to {peer}" if own or peer else ""
    return ""


def _children() -> Iterator[int]:
    for task in Path("/proc/self/task").iterdir():
        # A thread may end while we look.
        with suppress(FileNotFoundError, ProcessLookupError):
            yield from map(int, (task / "children").read_text().split())


def _command(pid: int) -> str:
    with suppress(FileNotFoundError, ProcessLookupError):
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        return arguments or "(zombie: never waited for)"
    return "(gone)"
