"""The format of log lines, and what is escaped or cut in them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from gateway.observe import logs
from gateway.observe.background_stream import BackgroundStream

FINISH_SECONDS = 30.0


class Log:
    """A configured log that is written to a file."""

    def __init__(self, path: Path, stream: BackgroundStream) -> None:
        self._path = path
        self._stream = stream

    def text(self) -> str:
        """Return what was written, at the end of the test."""
        assert self._stream.finish(FINISH_SECONDS)
        return self._path.read_text()

    def lines(self) -> list[Any]:
        """Return the lines, decoded, at the end of the test."""
        return [json.loads(line) for line in self.text().splitlines()]


@contextmanager
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    path = tmp_path / "log"
    with restored_logging(), path.open("w") as file:
        stream = BackgroundStream(file.fileno(), name="log")
        logs.configure(stream, "info", "json")
        yield Log(path, stream)
        assert stream.finish(FINISH_SECONDS)


def test_each_log_line_is_a_json_object_with_escaped_texts(log: Log) -> None:
    logs.logger().info("hello", who="line\nbreak \x1b[31m", size=3)
    logs.logger().debug("not at this level")
    logging.getLogger("somewhere").warning("from a library: %s", "a\nb")
    lines = log.lines()
    assert [line["event"] for line in lines] == ["hello", "from a library: a\\nb"]
    assert lines[0]["who"] == "line\\nbreak \\x1b[31m"
    assert lines[0]["size"] == 3
    assert [line["level"] for line in lines] == ["info", "warning"]


def test_a_long_text_is_cut(log: Log) -> None:
    logs.logger().info("x", reason="a" * 10_000)
    assert len(log.text()) < 1_000


def test_a_traceback_is_not_cut(log: Log) -> None:
    try:
        int("broken")
    except ValueError as error:
        logs.logger().error("unexpected", exc_info=error)
    (line,) = log.lines()
    assert "ValueError: invalid literal" in line["exception"]


@pytest.mark.parametrize(("style", "start"), [("json", "{"), ("console", "\x1b[")])
def test_dropped_lines_are_counted_and_described_as_an_event(style: Any, start: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("w") as file, restored_logging():
        stream = BackgroundStream(file.fileno(), name="log", max_waiting_bytes=0)
        logs.configure(stream, "info", style)
        before = logs.statistics()["dropped"]
        logs.logger().info("one")
        logging.getLogger("somewhere").warning("two")
        assert (before, logs.statistics()["dropped"]) == (0, 2)
        assert stream.finish(FINISH_SECONDS)
    text = path.read_text()
    assert text.startswith(start)
    assert text.count("\n") == 1
    assert "log lines dropped" in text
    if style == "json":
        line = json.loads(text)
        assert (line["lines"], line["level"], line["event"]) == (2, "warning", "log lines dropped")
        assert line.keys() == {"lines", "event", "level", "timestamp"}
