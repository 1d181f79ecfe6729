"""Publishes: sent when there is a connection, again under the same key, visible at most once."""

from __future__ import annotations

from typing import Any, Final

from tests.protocol.client_scenarios.script import (
    Action,
    Scenario,
    Script,
    connected,
    error,
    sends,
    state,
    stopped,
    waiting,
)

OPEN: Final[list[Action]] = [state("connecting"), ["open", 0]]
FINAL_ERRORS: Final = (
    "bad_request",
    "permission_denied",
    "unknown_channel",
    "not_subscribed",
    "too_large",
    "key_reused",
    "rejected",
)
TRANSIENT_ERRORS: Final = ("unavailable", "rate_limited", "internal")


def publish(id: int, key: str = "k", data: Any = 1) -> Action:
    """The client sends the publish."""
    return sends("publish", id, channel="news", data=data, key=key)


def published(id: int, message: str | None = "6-b") -> dict[str, Any]:
    """The reply to it."""
    return {"type": "published", "id": id, "channel": "news", **({"message": message} if message else {})}


def asked(script: Script, *expect: Action, label: str = "p", key: str = "k", **options: Any) -> Script:
    """Add a step: the application publishes 1 to `news`."""
    return script.do("publish", label, "news", 1, {"key": key, **options}, expect=list(expect))


def refused(code: str) -> Scenario:
    """Return a publish that is refused for good."""
    return (
        asked(Script(f"publish refused: {code}").connected(), publish(2))
        .receive(error(code, id=2), ["publish_failed", "p", code])
        .do("closed", 1006, expect=[waiting()])
        .reconnected({}, {})
        .done()
    )


def refused_for_now(code: str) -> Scenario:
    """Return a publish that is refused for the moment: again under the same key."""
    return (
        asked(Script(f"publish refused for the moment: {code}").connected(), publish(2))
        .receive(error(code, id=2, retry_after_ms=400))
        .do("advance", 399)
        .do("advance", 1, expect=[publish(3)])
        .receive(published(3), ["published", "p", "6-b"])
        .done()
    )


SCENARIOS: Final[list[Scenario]] = [
    asked(Script("a publish while connected").connected(), publish(2))
    .receive(published(2), ["published", "p", "6-b"])
    .done(),
    asked(Script("a publish into a channel without history").connected(), publish(2))
    .receive(published(2, None), ["published", "p", None])
    .done(),
    Script("a key is generated where there is none")
    .connected()
    .do("publish", "p", "news", 1, expect=[publish(2, "key-1")])
    .done(),
    asked(Script("the first publish connects"), *OPEN)
    .opened()
    .receive(connected(), state("connected"), publish(2))
    .receive(published(2), ["published", "p", "6-b"])
    .done(),
    asked(
        asked(Script("publishes that waited are sent in their order").connecting(), label="a", key="k1"),
        label="b",
        key="k2",
    )
    .opened()
    .receive(connected(), state("connected"), publish(2, "k1"), publish(3, "k2"))
    .done(),
    asked(Script("no reply, the connection ends: again under the same key").connected(), publish(2))
    .do("closed", 1006, expect=[waiting()])
    .reconnected({}, {}, publish(2))
    .receive(published(2), ["published", "p", "6-b"])
    .done(),
    asked(Script("an anonymous client cannot repeat a publish: uncertain").connected(user=""), publish(2))
    .do("closed", 1006, expect=[waiting()])
    .do("advance", 250, expect=OPEN)
    .opened()
    .receive(connected(user=""), state("connected"), ["publish_failed", "p", "uncertain"])
    .done(),
    asked(Script("another user cannot repeat a publish: uncertain").connected(), publish(2))
    .do("closed", 1006, expect=[waiting()])
    .do("advance", 250, expect=OPEN)
    .opened()
    .receive(connected(user="ben"), state("connected"), ["publish_failed", "p", "uncertain"])
    .done(),
    asked(
        Script("older than the key is remembered: uncertain, and not sent again").connected(
            limits={"key_ttl": 60}
        ),
        publish(2),
        timeout=600_000,
    )
    .do("closed", 1006, expect=[waiting()])
    .do("network", False)
    .do("advance", 60_000)
    .do("network", True)
    .do("page", "online", expect=OPEN)
    .opened()
    .receive(connected(limits={"key_ttl": 60}), state("connected"), ["publish_failed", "p", "uncertain"])
    .done(),
    asked(
        Script("never sent, and older than the key is remembered: sent").connecting(),
        timeout=1_200_000,
    )
    .do("closed", 1006, expect=[waiting()])
    .do("network", False)
    .do("advance", 600_000)
    .do("network", True)
    .do("page", "online", expect=OPEN)
    .opened()
    .receive(connected(), state("connected"), publish(2))
    .done(),
    asked(Script("no connection in time: timeout").connecting(), timeout=5_000)
    .do("advance", 5_000, expect=[["publish_failed", "p", "timeout"]])
    .opened()
    .receive(connected(), state("connected"))
    .done(),
    asked(Script("no reply in time: uncertain").connected(), publish(2), timeout=5_000)
    .do("advance", 5_000, expect=[["publish_failed", "p", "uncertain"]])
    .receive(published(2))
    .done(),
    *(refused(code) for code in FINAL_ERRORS),
    *(refused_for_now(code) for code in TRANSIENT_ERRORS),
    asked(
        Script("rate_limited until the time is over: it was not published").connected(),
        publish(2),
        timeout=300,
    )
    .receive(error("rate_limited", id=2, retry_after_ms=1_000))
    .do("advance", 300, expect=[["publish_failed", "p", "timeout"]])
    .do("advance", 60_000 - 35_000)
    .done(),
    asked(Script("unavailable until the time is over: uncertain").connected(), publish(2), timeout=300)
    .receive(error("unavailable", id=2, retry_after_ms=1_000))
    .do("advance", 300, expect=[["publish_failed", "p", "uncertain"]])
    .done(),
    asked(Script("the connection ends while a refused publish waits: sent once").connected(), publish(2))
    .receive(error("unavailable", id=2, retry_after_ms=5_000))
    .do("closed", 1006, expect=[waiting()])
    .reconnected({}, {}, publish(2))
    .do("advance", 10_000)
    .receive(published(2), ["published", "p", "6-b"])
    .done(),
    asked(Script("close rejects what was sent: uncertain").connected(), publish(2))
    .do("close", expect=[["drop"], stopped(1000), ["publish_failed", "p", "uncertain"]])
    .done(),
    asked(Script("close rejects what was not sent: stopped").connecting())
    .do("close", expect=[["drop"], stopped(1000), ["publish_failed", "p", "stopped"]])
    .done(),
    asked(
        Script("a publish after close: stopped").connected().do("close", expect=[["drop"], stopped(1000)]),
        ["publish_failed", "p", "stopped"],
    ).done(),
]
