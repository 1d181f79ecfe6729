"""Every close code in every state in which a connection can end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from protocol.errors import CLOSES, OTHER_CLOSE, Backoff, Close, Reaction
from tests.protocol.client_scenarios.script import Action, Scenario, Script, state, stopped, waiting

LONG_MS: Final = 15_000
OTHER_CODES: Final = (1000, 1001, 1005, 1006, 1011, 1012, 4009, 4999)

STATES: Final[dict[str, Callable[[Script], Script]]] = {
    "before the socket is open": lambda script: script.connecting(),
    "before connect is answered": lambda script: script.connecting().opened(),
    "while connected": lambda script: script.connected(),
}


def _end(code: int, close: Close) -> Action:
    if close.reaction is Reaction.RECONNECT:
        return waiting(code, LONG_MS if close.backoff is Backoff.LONG else 250)
    return stopped(code)


def close_in_state(code: int, where: str) -> Scenario:
    """Return the end of a connection with *code*, and that the client then does what it decided, once."""
    close = CLOSES.get(code, OTHER_CLOSE)
    end = _end(code, close)
    script = STATES[where](Script(f"{code} {where}")).do("closed", code, close.reason, expect=[end])
    if close.reaction is not Reaction.RECONNECT:
        return script.do("advance", 120_000).done()
    delay = end[2]["delay"]
    return script.do("advance", delay - 1).do("advance", 1, expect=[state("connecting"), ["open", 0]]).done()


def drain() -> list[Scenario]:
    """Return how a client leaves a node that shuts down."""
    announced = {"type": "reconnect", "after_ms": 740, "reason": "drain"}
    return [
        Script("drain: reconnect after the delay that was announced")
        .subscribed()
        .receive(announced)
        .do("closed", 4000, "drain", expect=[["channel", "news", "pending"], waiting(4000, 740)])
        .do("advance", 739)
        .do("advance", 1, expect=[state("connecting"), ["open", 0]])
        .opened({"news": {"since": "5-a"}})
        .done(),
        Script("drain: waking up does not come before the announced delay")
        .connected()
        .receive(announced)
        .do("closed", 4000, "drain", expect=[waiting(4000, 740)])
        .do("page", "wake")
        .do("advance", 739)
        .do("advance", 1, expect=[state("connecting"), ["open", 0]])
        .done(),
        Script("the announced delay is that of one connection")
        .connected()
        .receive(announced)
        .do("closed", 1006, expect=[waiting()])
        .do("advance", 250, expect=[state("connecting"), ["open", 0]])
        .do("closed", 4000, expect=[waiting(4000, 500)])
        .done(),
    ]


SCENARIOS: Final[list[Scenario]] = [
    *(close_in_state(int(code), where) for code in (*sorted(CLOSES), *OTHER_CODES) for where in STATES),
    *drain(),
]
