"""From `idle` to `connected`, and the attempts in between."""

from __future__ import annotations

from typing import Final

from protocol.errors import CLOSE_ON_ERROR, CLOSES, TRANSIENT_ERRORS, Backoff, ErrorCode, Reaction
from tests.protocol.client_scenarios.script import (
    Action,
    Scenario,
    Script,
    connected,
    error,
    state,
    stopped,
    waiting,
)

NO_ANSWER_MS: Final = 10_000
LONG_MS: Final = 15_000
"""Half of the bound of a long backoff."""

OPEN: Final[list[Action]] = [state("connecting"), ["open", 0]]


def refused_connect(code: ErrorCode) -> Scenario:
    """Return what follows after `connect` was refused with *code*."""
    script = Script(f"connect refused: {code}").connecting().opened()
    close = CLOSE_ON_ERROR.get(code)
    if close is not None and CLOSES[close].reaction is Reaction.RECONNECT:
        delay = LONG_MS if CLOSES[close].backoff is Backoff.LONG else 250
        end = waiting(close, delay)
    elif close is not None:
        end = stopped(close)
    elif code in TRANSIENT_ERRORS:
        end = waiting()
    else:
        end = stopped(4002)
    return script.receive(error(code, id=1), ["drop"], end).done()


def backoff() -> Scenario:
    """Return attempts that fail in a row: the bound doubles to 30 s."""
    script = Script("the delay doubles with each failed attempt, up to 30 s").connecting()
    for bound in (500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000):
        script.do("closed", 1006, expect=[waiting(delay=bound / 2)])
        script.do("advance", bound / 2, expect=OPEN)
    return script.done()


SCENARIOS: Final[list[Scenario]] = [
    Script("connect, and be connected").connected().done(),
    Script("connect while connecting or connected does nothing")
    .connecting()
    .do("connect")
    .opened()
    .do("connect")
    .receive(connected(), state("connected"))
    .do("connect")
    .done(),
    Script("close before the socket is open")
    .connecting()
    .do("close", expect=[["drop"], stopped(1000)])
    .do("advance", 60_000)
    .done(),
    Script("close before connect is answered")
    .connecting()
    .opened()
    .do("close", expect=[["drop"], stopped(1000)])
    .do("advance", 60_000)
    .done(),
    Script("close while connected")
    .connected()
    .do("close", expect=[["drop"], stopped(1000)])
    .do("advance", 60_000)
    .done(),
    Script("close while waiting")
    .connecting()
    .do("closed", 1006, expect=[waiting()])
    .do("close", expect=[stopped(1000)])
    .do("advance", 60_000)
    .done(),
    Script("close twice").connected().do("close", expect=[["drop"], stopped(1000)]).do("close").done(),
    Script("connect again after close")
    .connected()
    .do("close", expect=[["drop"], stopped(1000)])
    .connecting()
    .opened()
    .receive(connected(), state("connected"))
    .done(),
    Script("connect while waiting begins the attempt at once")
    .connecting()
    .do("closed", 1006, expect=[waiting()])
    .do("connect", expect=OPEN)
    .do("advance", 250)
    .done(),
    Script("no socket within ten seconds")
    .connecting()
    .do("advance", NO_ANSWER_MS, expect=[["drop"], waiting()])
    .do("advance", 250, expect=OPEN)
    .done(),
    Script("no answer to connect within ten seconds")
    .connecting()
    .opened()
    .do("advance", NO_ANSWER_MS, expect=[["drop"], waiting()])
    .done(),
    backoff(),
    Script("the attempts are counted anew after connected")
    .connecting()
    .do("closed", 1006, expect=[waiting()])
    .do("advance", 250, expect=OPEN)
    .do("closed", 1006, expect=[waiting(delay=500)])
    .do("advance", 500, expect=OPEN)
    .opened()
    .receive(connected(), state("connected"))
    .do("closed", 1006, expect=[waiting()])
    .done(),
    Script("the delay is random below its bound", random=0.125)
    .connecting()
    .do("closed", 1006, expect=[waiting(delay=62.5)])
    .do("advance", 62)
    .do("advance", 1, expect=OPEN)
    .done(),
    Script("handshake refused with 503 and Retry-After: the jitter comes on top")
    .connecting()
    .do("rejected", 503, 2_000, expect=[waiting(delay=2_250)])
    .do("advance", 2_249)
    .do("advance", 1, expect=OPEN)
    .done(),
    Script("handshake refused with 429 and Retry-After")
    .connecting()
    .do("rejected", 429, 1_000, expect=[waiting(delay=1_250)])
    .done(),
    Script("handshake refused with 502, by a proxy")
    .connecting()
    .do("rejected", 502, expect=[waiting()])
    .done(),
    Script("handshake refused with 403: the configuration must change")
    .connecting()
    .do("rejected", 403, expect=[stopped(1006)])
    .do("advance", 60_000)
    .done(),
    Script("handshake refused with 404").connecting().do("rejected", 404, expect=[stopped(1006)]).done(),
    *(refused_connect(code) for code in ErrorCode),
    Script("connect refused: unavailable, with retry_after_ms")
    .connecting()
    .opened()
    .receive(error("unavailable", id=1, retry_after_ms=3_000), ["drop"], waiting(4011, 3_000))
    .done(),
    Script("connect refused: rate_limited, with retry_after_ms")
    .connecting()
    .opened()
    .receive(error("rate_limited", id=1, retry_after_ms=400), ["drop"], waiting(1006, 400))
    .done(),
    Script("the close after a refused connect decides nothing more")
    .connecting()
    .opened()
    .receive(error("limit_exceeded", id=1), ["drop"], waiting(4010, LONG_MS))
    .do("advance", LONG_MS, expect=OPEN)
    .done(),
    Script("without a connection for two minutes the client is suspended, and goes on trying", random=0.99)
    .connecting()
    .do("closed", 1006, expect=[waiting(delay=495.0)])
    .do("sleep", 121_000, expect=OPEN)
    .do("closed", 1006, expect=[state("suspended", code=1006, delay=990.0)])
    .do("advance", 990, expect=OPEN)
    .do("closed", 1006, expect=[state("suspended", code=1006, delay=1_980.0)])
    .do("advance", 1_980, expect=OPEN)
    .opened()
    .receive(connected(), state("connected"))
    .do("closed", 1006, expect=[waiting(delay=495.0)])
    .do("advance", 495, expect=OPEN)
    .do("closed", 1006, expect=[waiting(delay=990.0)])
    .done(),
    Script("close while suspended", random=0.99)
    .connecting()
    .do("closed", 1006, expect=[waiting(delay=495.0)])
    .do("sleep", 121_000, expect=OPEN)
    .do("closed", 1006, expect=[state("suspended", code=1006, delay=990.0)])
    .do("close", expect=[stopped(1000)])
    .do("advance", 60_000)
    .done(),
    Script("the next endpoint after a failed attempt", endpoints=3)
    .connecting()
    .do("closed", 1006, expect=[waiting()])
    .do("advance", 250, expect=[state("connecting"), ["open", 1]])
    .do("closed", 1006, expect=[waiting(delay=500)])
    .do("advance", 500, expect=[state("connecting"), ["open", 2]])
    .do("closed", 1006, expect=[waiting(delay=1_000)])
    .do("advance", 1_000, expect=OPEN)
    .done(),
    Script("what cannot be decoded ends the connection")
    .connected()
    .do("receive_text", "{", expect=[["error"], ["drop"], waiting()])
    .done(),
    Script("types that are not known are ignored")
    .connected()
    .receive({"type": "celebrate", "channel": "news"})
    .receive({"type": "celebrate"})
    .done(),
    Script("an error without an id is reported").connected().receive(error("bad_request"), ["error"]).done(),
]
