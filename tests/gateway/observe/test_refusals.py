"""Refusals in the log: a few lines per interval and kind, and how many were left out."""

from __future__ import annotations

from typing import Any

from gateway.access.keys import TokenError
from gateway.clock import FakeClock
from gateway.observe.refusals import INTERVAL_SECONDS, LINES_PER_INTERVAL, RefusalLog
from protocol.errors import ErrorCode


class RecordingLog:
    """A logger that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def info(self, event: str, **fields: Any) -> None:
        self.lines.append(("info", event, fields))

    def warning(self, event: str, **fields: Any) -> None:
        self.lines.append(("warning", event, fields))


def test_a_line_says_what_was_refused_and_what_to_do() -> None:
    log = RecordingLog()
    refusals = RefusalLog(log, FakeClock())
    refusals.on_origin_refused("https://a.example", "rt.example", "192.0.2.1")
    refusals.on_push_key_refused("192.0.2.2")
    refusals.on_token_refused(TokenError("claim sub is missing"))
    origin, key, token = log.lines
    assert origin[:2] == ("warning", "origin refused")
    assert (origin[2]["origin"], origin[2]["host"], origin[2]["address"]) == (
        "https://a.example",
        "rt.example",
        "192.0.2.1",
    )
    assert "listen.public.allowed_origins" in origin[2]["remedy"]
    assert key[:2] == ("warning", "push key refused")
    assert (key[2]["address"], "push.keys" in key[2]["remedy"]) == ("192.0.2.2", True)
    assert token[:2] == ("warning", "token refused")
    assert (token[2]["reason"], "[auth]" in token[2]["remedy"]) == ("claim sub is missing", True)


def test_a_flood_of_one_kind_takes_a_few_lines_and_leaves_the_other_kinds_theirs() -> None:
    log, clock = RecordingLog(), FakeClock()
    refusals = RefusalLog(log, clock)
    for _ in range(LINES_PER_INTERVAL + 1_000):
        refusals.on_push_key_refused("192.0.2.2")
    assert len(log.lines) == LINES_PER_INTERVAL
    assert all("left_out" not in fields for _, _, fields in log.lines)
    refusals.on_token_refused(TokenError("claim sub is missing"))
    assert len(log.lines) == LINES_PER_INTERVAL + 1
    clock.advance(INTERVAL_SECONDS)
    refusals.on_push_key_refused("192.0.2.2")
    refusals.on_push_key_refused("192.0.2.2")
    assert [fields.get("left_out") for _, _, fields in log.lines[-2:]] == [1_000, None]


def test_expired_tokens_are_no_warning_and_take_no_lines_from_invalid_ones() -> None:
    log = RecordingLog()
    refusals = RefusalLog(log, FakeClock())
    for _ in range(LINES_PER_INTERVAL * 2):
        refusals.on_token_refused(TokenError("it expired", code=ErrorCode.TOKEN_EXPIRED))
    refusals.on_token_refused(TokenError("claim sub is missing"))
    assert [level for level, _, _ in log.lines] == ["info"] * LINES_PER_INTERVAL + ["warning"]
