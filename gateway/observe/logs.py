"""Structured logs: one event per line, without tokens and payloads, control characters escaped."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping, Sequence
from functools import partial
from typing import Any, Literal, TextIO, cast

import structlog

from gateway.observe.background_stream import BackgroundStream

_MAX_TEXT_LENGTH = 500


_streams: list[BackgroundStream] = []
"""The stream of the log, once it is configured."""


def configure(
    stream: BackgroundStream, level: str = "info", style: Literal["auto", "json", "console"] = "auto"
) -> None:
    """Log to *stream*, from *level* on: as JSON, or for people where it is a terminal (*style* `auto`).

    Structlog's loggers and those of the standard library, which uvicorn uses, write to it alike.
    """
    json = style == "json" or (style == "auto" and not stream.isatty())
    renderer: Any = structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer()
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        escape_texts,
    ]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", stream)),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                renderer,
            ],
            foreign_pre_chain=shared,
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(threshold, logging.WARNING))
    stream.describe_dropped = partial(_describe_dropped, [*shared, renderer])
    _streams[:] = [stream]


def _describe_dropped(processors: Sequence[Any], lines: int) -> str:
    event: Any = {"lines": lines, "event": "log lines dropped"}
    for processor in processors:
        event = processor(None, "warning", event)
    return f"{event}\n"


def statistics() -> dict[str, int]:
    """Return how many lines of the log were dropped."""
    return {"dropped": sum(stream.dropped for stream in _streams)}


def escape_texts(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escape control characters in every text of *event*, and cut it: it may contain what a client sent."""
    for key, value in event.items():
        if (
            isinstance(value, str)
            and key != "exception"
            and (not value.isprintable() or len(value) > _MAX_TEXT_LENGTH)
        ):
            event[key] = value[:_MAX_TEXT_LENGTH].encode("unicode_escape").decode("ascii")
    return event


def logger() -> Any:
    """Return the logger of this package."""
    return structlog.get_logger("fanway")
