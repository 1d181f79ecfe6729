"""The format of log lines, and what is escaped or cut in them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from gateway.observe import logs


@pytest.fixture
def fresh_logging() -> Iterator[None]:
    """Restore the configuration of logging after the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.usefixtures("fresh_logging")
def test_each_log_line_is_a_json_object_with_escaped_texts(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    logs.logger().info("hello", who="line\nbreak \x1b[31m", size=3)
    logs.logger().debug("not at this level")
    logging.getLogger("somewhere").warning("from a library: %s", "a\nb")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == ["hello", "from a library: a\\nb"]
    assert lines[0]["who"] == "line\\nbreak \\x1b[31m"
    assert lines[0]["size"] == 3
    assert [line["level"] for line in lines] == ["info", "warning"]


@pytest.mark.usefixtures("fresh_logging")
def test_a_long_text_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    logs.logger().info("x", reason="a" * 10_000)
    assert len(capsys.readouterr().err) < 1_000


@pytest.mark.usefixtures("fresh_logging")
def test_a_traceback_is_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    try:
        int("broken")
    except ValueError as error:
        logs.logger().error("unexpected", exc_info=error)
    line = json.loads(capsys.readouterr().err)
    assert "ValueError: invalid literal" in line["exception"]
