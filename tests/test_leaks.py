"""The checks for leaks, which every test runs under, find each kind of leak."""

import asyncio
import os
import socket
import subprocess
import sys
from threading import Event, Thread

import pytest

from tests.leaks import Holdings, unfinished


def test_nothing_new_is_no_leftover() -> None:
    before = Holdings.now()
    with socket.socket():
        pass
    assert before.leftovers() == []


def test_an_open_socket_is_a_leftover() -> None:
    before = Holdings.now()
    with socket.socket() as kept:
        (line,) = before.leftovers()
        assert line.startswith(f"descriptor {kept.fileno()} -> socket:")


def test_a_pipe_is_two_leftovers() -> None:
    before = Holdings.now()
    ends = os.pipe()
    try:
        assert len(before.leftovers()) == len(ends)
    finally:
        for end in ends:
            os.close(end)


def test_a_running_child_is_a_leftover_and_so_is_one_that_nobody_waited_for() -> None:
    before = Holdings.now()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert any(
            line.startswith(f"child process {child.pid}: {sys.executable}") for line in before.leftovers()
        )
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert f"child process {child.pid}: (zombie: never waited for)" in before.leftovers()
    assert before.leftovers() == []


def test_a_thread_that_goes_on_is_a_leftover(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.leaks.JOIN_SECONDS", 0.01)
    before, stop = Holdings.now(), Event()
    thread = Thread(target=stop.wait, name="goes on")
    thread.start()
    try:
        assert before.leftovers() == ["thread goes on"]
    finally:
        stop.set()
        thread.join()
    assert before.leftovers() == []


async def test_a_task_that_waits_for_ever_is_unfinished() -> None:
    before = Holdings.now()
    task = asyncio.create_task(asyncio.Event().wait(), name="waits for ever")
    (line,) = await unfinished(before)
    assert "waits for ever" in line
    task.cancel()
    assert await unfinished(before) == []


async def test_both_ends_of_a_connection_are_unfinished_until_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.leaks.CLOSE_SECONDS", 0.01)
    before = Holdings.now()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    transport, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", port)
    server.close()
    left = await unfinished(before)
    assert any(line.endswith(f" to ('127.0.0.1', {port})") for line in left)
    transport.close()
    monkeypatch.undo()
    assert await unfinished(before) == []
