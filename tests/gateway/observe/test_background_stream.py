"""Writes that never wait: what is written, what is dropped, and when that is reported."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.observe.background_stream import BackgroundStream

PIPE_BYTES = 4096
"""Capacity of the pipes here, the smallest one that Linux has."""
LINE = "x" * 99 + "\n"
FINISH_SECONDS = 30.0
"""How long the thread may take on a busy machine."""


class FullPipe:
    """A pipe without room for a byte, until `read_all` reads it."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        os.write(self.writer, b"-" * PIPE_BYTES)

    def finish(self, stream: BackgroundStream) -> str:
        """Make room, let *stream* write what waits and end, and return it; it must fit into the pipe."""
        assert os.read(self.reader, PIPE_BYTES) == b"-" * PIPE_BYTES
        assert stream.finish(FINISH_SECONDS)
        os.set_blocking(self.reader, False)
        return os.read(self.reader, PIPE_BYTES).decode()


@contextmanager
def full_pipe() -> Iterator[FullPipe]:
    pipe = FullPipe()
    try:
        yield pipe
    finally:
        os.close(pipe.reader)
        os.close(pipe.writer)


@pytest.fixture
def pipe() -> Iterator[FullPipe]:
    with full_pipe() as pipe:
        yield pipe


def stream_to(descriptor: int, *, max_waiting_bytes: int = 1000) -> BackgroundStream:
    stream = BackgroundStream(descriptor, name="log", max_waiting_bytes=max_waiting_bytes)
    stream.describe_dropped = lambda lines: f"({lines} dropped)\n"
    return stream


def test_lines_are_written_to_a_file_in_their_order(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        stream = stream_to(file.fileno(), max_waiting_bytes=100_000)
        lines = [f"line {number} \N{SNOWMAN}\n" for number in range(1000)]
        for line in lines:
            assert stream.write(line) == len(line)
        assert stream.finish(FINISH_SECONDS)
    assert (tmp_path / "log").read_text() == "".join(lines)
    assert stream.dropped == 0


def test_lines_wait_for_a_full_pipe_up_to_the_bound_and_the_rest_is_dropped_and_reported(
    pipe: FullPipe,
) -> None:
    stream = stream_to(pipe.writer)
    for _ in range(25):
        stream.write(LINE)
    assert stream.dropped == 15
    assert pipe.finish(stream) == LINE * 10 + "(15 dropped)\n"
    assert stream.dropped == 15


def test_dropped_lines_are_reported_without_a_later_line(pipe: FullPipe) -> None:
    stream = stream_to(pipe.writer)
    for _ in range(12):
        stream.write(LINE)
    text = bytearray()
    while not text.endswith(b"dropped)\n"):
        text += os.read(pipe.reader, PIPE_BYTES)
    assert text.decode() == "-" * PIPE_BYTES + LINE * 10 + "(2 dropped)\n"
    assert stream.finish(FINISH_SECONDS)


def test_the_end_waits_no_longer_than_it_is_given() -> None:
    with full_pipe() as pipe:
        stream = stream_to(pipe.writer)
        stream.write(LINE)
        assert not stream.finish(0.05)
        assert pipe.finish(stream) == LINE


def test_a_pipe_that_another_process_made_non_blocking_is_waited_for(pipe: FullPipe) -> None:
    os.set_blocking(pipe.writer, False)
    stream = stream_to(pipe.writer)
    stream.write(LINE)
    stream.write(LINE)
    assert pipe.finish(stream) == LINE * 2
    assert stream.dropped == 0


def test_lines_that_cannot_be_written_are_counted() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        stream = stream_to(descriptor)
        for _ in range(3):
            stream.write(LINE)
        assert stream.finish(FINISH_SECONDS)
        assert stream.dropped == 3
    finally:
        os.close(descriptor)


def wait_until_dropped(stream: BackgroundStream, lines: int) -> None:
    while stream.dropped < lines:
        os.sched_yield()


def test_dropped_lines_are_reported_when_writing_works_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    descriptor = os.open(os.devnull, os.O_RDONLY)
    try:
        stream = stream_to(descriptor)
        stream.write("lost\n")
        wait_until_dropped(stream, 1)
        with path.open("w") as file:
            os.dup2(file.fileno(), descriptor)
        stream.write("kept\n")
        assert stream.finish(FINISH_SECONDS)
    finally:
        os.close(descriptor)
    assert path.read_text() == "(1 dropped)\nkept\n"
    assert stream.dropped == 1


def test_a_line_that_was_written_in_part_does_not_join_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "log"
    reader, writer = os.pipe()
    try:
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        stream = stream_to(writer, max_waiting_bytes=PIPE_BYTES * 3)
        stream.write("-" * PIPE_BYTES * 2 + "\n")
        os.read(reader, 1)
        os.close(reader)
        wait_until_dropped(stream, 1)
        with path.open("w") as file:
            os.dup2(file.fileno(), writer)
        stream.write("next\n")
        assert stream.finish(FINISH_SECONDS)
    finally:
        os.close(writer)
    assert path.read_text() == "\n(1 dropped)\nnext\n"
