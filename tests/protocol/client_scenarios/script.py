"""A scenario, step by step: one thing happens, and the client does these actions."""

from __future__ import annotations

from typing import Any, Self

from tests.protocol.client_scenarios.needs import needs

Scenario = dict[str, Any]
Action = list[Any]

JITTER_MS = 250
"""The first delay: half of 500 ms, because `random` returns 0.5 if a scenario sets no other value."""

HEARTBEAT_SECONDS = 25.0
SILENCE_MS = 35_000
"""The heartbeat and ten seconds: a client that hears nothing for so long has lost its connection."""


class Script:
    """Builds one scenario; every method is one step and returns the script."""

    def __init__(self, name: str, **options: Any) -> None:
        self._name = name
        self._options = options
        self._steps: list[dict[str, Any]] = []
        self._last_id = 1

    def do(self, *action: Any, expect: list[Action] | None = None) -> Self:
        """Add a step: *action* happens, and the client does exactly *expect*."""
        self._steps.append({"do": list(action), "expect": expect or []})
        return self

    def receive(self, message: dict[str, Any], *expect: Action) -> Self:
        """Add a step: the gateway sends *message*."""
        return self.do("receive", message, expect=list(expect))

    def done(self) -> Scenario:
        """Return the scenario."""
        options = {"options": self._options} if self._options else {}
        needed = needs(self._options, self._steps)
        return {"name": self._name, "needs": needed, **options, "steps": self._steps}

    # ------------------------------------------------------------ steps that most scenarios begin with

    def connecting(self) -> Self:
        """Ask for a connection; its socket is being opened."""
        return self.do("connect", expect=[state("connecting"), ["open", 0]])

    def opened(self, subs: dict[str, Any] | None = None, *, token: str | None = None) -> Self:
        """Open the socket; the client sends `connect` with *subs*."""
        return self.do("opened", expect=[["send", connect(subs, token=token)]])

    def connected(self, *, token: str | None = None, **reply: Any) -> Self:
        """Connect without channels."""
        self.connecting().opened(token=token)
        return self.receive(connected(**reply), state("connected"))

    def subscribed(self, channel: str = "news", position: str | None = "5-a", **options: Any) -> Self:
        """Connect with one channel, which is live afterwards."""
        wanted = {key: options[key] for key in ("rewind",) if key in options}
        self.do(
            "channel", channel, *([options] if options else []), expect=[state("connecting"), ["open", 0]]
        )
        self.opened({channel: wanted})
        return self.receive(
            connected({channel: subscribed(channel, position)}),
            state("connected"),
            ["channel", channel, "live"],
        )

    def reconnected(self, subs: dict[str, Any], answers: dict[str, Any], *expect: Action) -> Self:
        """Let the delay of a first retry pass, and connect again with *subs*."""
        self.do("advance", JITTER_MS, expect=[state("connecting"), ["open", 0]])
        self.opened(subs)
        return self.receive(connected(answers), state("connected"), *expect)


# ---------------------------------------------------------------- actions


def state(name: str, *, code: int | None = None, delay: float | None = None) -> Action:
    """The connection changes its state; *delay* is in milliseconds."""
    detail = {"code": code, "delay": delay}
    return ["state", name, {key: value for key, value in detail.items() if value is not None}]


def waiting(code: int = 1006, delay: float = JITTER_MS) -> Action:
    """The connection ended, and the next attempt follows after *delay* milliseconds."""
    return state("waiting", code=code, delay=delay)


def stopped(code: int) -> Action:
    """The connection ended for good."""
    return state("stopped", code=code)


def sends(type: str, id: int, **fields: Any) -> Action:
    """The client sends a command."""
    return ["send", {"type": type, **fields, "id": id}]


def connect(subs: dict[str, Any] | None = None, *, token: str | None = None) -> dict[str, Any]:
    """The first command of a connection."""
    return {"type": "connect", "id": 1, **({"token": token} if token else {}), "subs": subs or {}}


# ---------------------------------------------------------------- messages of the gateway


def connected(subs: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """The reply to `connect`."""
    return {
        "type": "connected",
        "id": 1,
        "connection": "c-1",
        "user": "anna",
        "node": "node-a",
        "heartbeat": HEARTBEAT_SECONDS,
        "limits": {},
        "subs": subs or {},
        **fields,
    }


def subscribed(
    channel: str,
    position: str | None = None,
    *,
    recovered: bool = False,
    messages: list[dict[str, Any]] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """The answer to a `subscribe`, or to an entry of `subs`."""
    return {
        "type": "subscribed",
        "channel": channel,
        **({"position": position} if position else {}),
        "recovered": recovered,
        "messages": messages or [],
        **fields,
    }


def message(channel: str, id: str | None, data: Any, **fields: Any) -> dict[str, Any]:
    """A `message` push."""
    return {"type": "message", "channel": channel, **({"message": id} if id else {}), "data": data, **fields}


def error(code: str, *, id: int | None = None, retry_after_ms: int | None = None) -> dict[str, Any]:
    """An `error`, as a reply or as an entry of `subs`."""
    reply: dict[str, Any] = {"type": "error", "code": code, "message": f"refused: {code}"}
    if id is not None:
        reply["id"] = id
    if retry_after_ms is not None:
        reply["retry_after_ms"] = retry_after_ms
    return reply


def gap(channel: str, reason: str, position: str | None = None) -> dict[str, Any]:
    """A `gap` push."""
    return {
        "type": "gap",
        "channel": channel,
        "reason": reason,
        **({"position": position} if position else {}),
    }
