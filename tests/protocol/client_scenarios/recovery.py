"""Positions, gaps, and state that is loaded beside the stream."""

from __future__ import annotations

from typing import Final

from tests.protocol.client_scenarios.script import (
    Action,
    Scenario,
    Script,
    connected,
    gap,
    message,
    sends,
    state,
    subscribed,
    waiting,
)

OPEN: Final[list[Action]] = [state("connecting"), ["open", 0]]
LOST: Final[list[Action]] = [["channel", "news", "pending"], waiting()]
LIVE: Final[Action] = ["channel", "news", "live"]


def got(id: str, data: object) -> Action:
    """The application gets a message of `news`."""
    return ["message", "news", id, data]


def loading(name: str) -> Script:
    """Return a script of a channel at 5-a, whose state is being loaded."""
    return (
        Script(name)
        .do("channel", "news", {"load": True}, expect=OPEN)
        .opened({"news": {}})
        .receive(
            connected({"news": subscribed("news", "5-a")}),
            state("connected"),
            LIVE,
            ["load", "news", "first", "5-a"],
        )
    )


def after_gap(reason: str) -> Scenario:
    """Return a gap: it is told, and the position is the one after it."""
    return (
        Script(f"gap: {reason}")
        .subscribed()
        .receive(message("news", "6-b", 6), got("6-b", 6))
        .receive(gap("news", reason, "9-e"), ["gap", "news", reason])
        .receive(message("news", "10-f", 10), got("10-f", 10))
        .do("closed", 1006, expect=LOST)
        .do("advance", 250, expect=OPEN)
        .opened({"news": {"since": "10-f"}})
        .done()
    )


POSITIONS: Final[list[Scenario]] = [
    Script("resumed: what was missed, then what is new")
    .subscribed()
    .receive(message("news", "6-b", 6), got("6-b", 6))
    .do("closed", 1006, expect=LOST)
    .reconnected(
        {"news": {"since": "6-b"}},
        {
            "news": subscribed(
                "news", "8-d", recovered=True, messages=[message("news", "7-c", 7), message("news", "8-d", 8)]
            )
        },
        LIVE,
        got("7-c", 7),
        got("8-d", 8),
    )
    .receive(message("news", "9-e", 9), got("9-e", 9))
    .done(),
    Script("resumed in parts: cut again, it goes on from the last one")
    .subscribed()
    .do("closed", 1006, expect=LOST)
    .reconnected(
        {"news": {"since": "5-a"}},
        {"news": subscribed("news", "6-b", recovered=True, messages=[message("news", "6-b", 6)])},
        LIVE,
        got("6-b", 6),
    )
    .receive(message("news", "7-c", 7), got("7-c", 7))
    .do("closed", 1006, expect=LOST)
    .do("advance", 250, expect=OPEN)
    .opened({"news": {"since": "7-c"}})
    .done(),
    Script("resumed with nothing missed")
    .subscribed()
    .do("closed", 1006, expect=LOST)
    .reconnected({"news": {"since": "5-a"}}, {"news": subscribed("news", "5-a", recovered=True)}, LIVE)
    .done(),
    Script("resume refused: the gap is told, and the stream goes on from there")
    .subscribed()
    .do("closed", 1006, expect=LOST)
    .reconnected(
        {"news": {"since": "5-a"}},
        {"news": subscribed("news", "90-z")},
        LIVE,
        ["gap", "news", "not_recovered"],
    )
    .receive(message("news", "91-y", 91), got("91-y", 91))
    .do("closed", 1006, expect=LOST)
    .do("advance", 250, expect=OPEN)
    .opened({"news": {"since": "91-y"}})
    .done(),
    Script("the history was reset: its numbers begin again")
    .subscribed(position="500-a")
    .do("closed", 1006, expect=LOST)
    .reconnected(
        {"news": {"since": "500-a"}},
        {"news": subscribed("news", "1-q")},
        LIVE,
        ["gap", "news", "not_recovered"],
    )
    .receive(message("news", "2-r", 2), got("2-r", 2))
    .done(),
    Script("the channel has no history any more")
    .subscribed()
    .do("closed", 1006, expect=LOST)
    .reconnected(
        {"news": {"since": "5-a"}}, {"news": subscribed("news")}, LIVE, ["gap", "news", "not_recovered"]
    )
    .do("closed", 1006, expect=LOST)
    .do("advance", 250, expect=OPEN)
    .opened({"news": {}})
    .done(),
    *(after_gap(reason) for reason in ("overflow", "trimmed", "reset")),
    Script("a gap without a position: the channel keeps no history")
    .subscribed(position=None)
    .receive(gap("news", "overflow"), ["gap", "news", "overflow"])
    .receive(message("news", None, 1), got(None, 1))  # type: ignore[arg-type]
    .done(),
    Script("the position after a gap is where it ends")
    .subscribed()
    .receive(gap("news", "overflow", "9-e"), ["gap", "news", "overflow"])
    .do("closed", 1006, expect=LOST)
    .do("advance", 250, expect=OPEN)
    .opened({"news": {"since": "9-e"}})
    .done(),
    Script("a gap of a channel that nobody asked for")
    .connected()
    .receive(gap("news", "overflow", "9-e"))
    .done(),
    Script("a message that comes twice is handled once")
    .subscribed()
    .receive(message("news", "6-b", 6), got("6-b", 6))
    .receive(message("news", "6-b", 6))
    .receive(message("news", "7-c", 7), got("7-c", 7))
    .done(),
    Script("a message that is not stored does not change the position")
    .subscribed()
    .receive(message("news", None, "typing"), got(None, "typing"))  # type: ignore[arg-type]
    .do("closed", 1006, expect=LOST)
    .do("advance", 250, expect=OPEN)
    .opened({"news": {"since": "5-a"}})
    .done(),
    Script("a handler that throws is reported, and the next message arrives")
    .subscribed()
    .do("throw_next")
    .receive(message("news", "6-b", 6), got("6-b", 6), ["error"])
    .receive(message("news", "7-c", 7), got("7-c", 7))
    .done(),
    Script("a reply to publish does not change the position")
    .subscribed()
    .do(
        "publish", "p", "news", 1, {"key": "k"}, expect=[sends("publish", 2, channel="news", data=1, key="k")]
    )
    .receive({"type": "published", "id": 2, "channel": "news", "message": "9-e"}, ["published", "p", "9-e"])
    .do("closed", 1006, expect=LOST)
    .do("advance", 250, expect=OPEN)
    .opened({"news": {"since": "5-a"}})
    .done(),
]


def rejoining(id: int, since: str) -> list[Action]:
    """Return how a client goes on after the position of a loaded state."""
    return [sends("unsubscribe", id, channel="news"), sends("subscribe", id + 1, channel="news", since=since)]


LOADED_STATE: Final[list[Scenario]] = [
    loading("a state whose position the gateway does not know is loaded again, later each time")
    .do("loaded", "news", "1-x", expect=rejoining(2, "1-x"))
    .receive(subscribed("news", "5-a", id=3), LIVE, ["gap", "news", "not_recovered"])
    .do("advance", 249)
    .do("advance", 1, expect=[["load", "news", "gap", "5-a"]])
    .do("loaded", "news", "1-x", expect=rejoining(4, "1-x"))
    .receive(subscribed("news", "5-a", id=5), LIVE, ["gap", "news", "not_recovered"])
    .do("advance", 499)
    .do("advance", 1, expect=[["load", "news", "gap", "5-a"]])
    .do("loaded", "news", "4-a", expect=rejoining(6, "4-a"))
    .receive(
        subscribed("news", "5-a", id=7, recovered=True, messages=[message("news", "5-a", 5)]),
        LIVE,
        got("5-a", 5),
    )
    .done(),
    loading("the state is loaded first, then come the messages that it does not have")
    .receive(message("news", "6-b", 6))
    .receive(message("news", "7-c", 7))
    .do("loaded", "news", "6-b", expect=[got("7-c", 7)])
    .receive(message("news", "8-d", 8), got("8-d", 8))
    .done(),
    loading("a state that has several of the messages that were held")
    .receive(message("news", "6-b", 6))
    .receive(message("news", "7-c", 7))
    .receive(message("news", "8-d", 8))
    .do("loaded", "news", "7-c", expect=[got("8-d", 8)])
    .done(),
    loading("a state at the position of the subscription: every message follows")
    .receive(message("news", "6-b", 6))
    .do("loaded", "news", "5-a", expect=[got("6-b", 6)])
    .done(),
    loading("a state without a position: every message follows")
    .receive(message("news", "6-b", 6))
    .do("loaded", "news", None, expect=[got("6-b", 6)])
    .done(),
    loading("a state of before the subscription: the gateway joins it")
    .receive(message("news", "6-b", 6))
    .do(
        "loaded",
        "news",
        "3-x",
        expect=[
            sends("unsubscribe", 2, channel="news"),
            sends("subscribe", 3, channel="news", since="3-x"),
        ],
    )
    .receive({"type": "unsubscribed", "id": 2, "channel": "news"})
    .receive(
        subscribed(
            "news",
            "5-a",
            recovered=True,
            messages=[message("news", "4-y", 4), message("news", "5-a", 5)],
            id=3,
        ),
        ["channel", "news", "live"],
        got("4-y", 4),
        got("5-a", 5),
    )
    .done(),
    loading("the connection ends while the state is loaded: what was held comes again")
    .receive(message("news", "6-b", 6))
    .do("closed", 1006, expect=LOST)
    .do("loaded", "news", "5-a")
    .do("advance", 250, expect=OPEN)
    .opened({"news": {"since": "5-a"}})
    .receive(
        connected({"news": subscribed("news", "6-b", recovered=True, messages=[message("news", "6-b", 6)])}),
        state("connected"),
        LIVE,
        ["load", "news", "first", "5-a"],
    )
    .do("loaded", "news", "5-a", expect=[got("6-b", 6)])
    .done(),
    loading("the state cannot be loaded: tried again, and what arrives is held")
    .receive(message("news", "6-b", 6))
    .do("load_fails", "news", expect=[["error"]])
    .receive(message("news", "7-c", 7))
    .do("advance", 250, expect=[["load", "news", "first", "7-c"]])
    .receive(message("news", "8-d", 8))
    .do("loaded", "news", "7-c", expect=[got("8-d", 8)])
    .done(),
    loading("a gap: the state is loaded again")
    .do("loaded", "news", "5-a")
    .receive(gap("news", "trimmed", "9-e"), ["gap", "news", "trimmed"], ["load", "news", "gap", "9-e"])
    .receive(message("news", "10-f", 10))
    .do("loaded", "news", "9-e", expect=[got("10-f", 10)])
    .done(),
    loading("a gap while the state is loaded: the first answer is too old")
    .receive(gap("news", "trimmed", "9-e"), ["gap", "news", "trimmed"], ["load", "news", "gap", "9-e"])
    .do("loaded", "news", "9-e")
    .receive(message("news", "10-f", 10), got("10-f", 10))
    .done(),
    loading("not recovered: the state is loaded again")
    .do("loaded", "news", "5-a")
    .do("closed", 1006, expect=LOST)
    .reconnected(
        {"news": {"since": "5-a"}},
        {"news": subscribed("news", "90-z")},
        LIVE,
        ["gap", "news", "not_recovered"],
        ["load", "news", "gap", "90-z"],
    )
    .receive(message("news", "91-y", 91))
    .do("loaded", "news", "90-z", expect=[got("91-y", 91)])
    .done(),
    Script("a channel without history: the state is loaded again after each connection")
    .do("channel", "news", {"load": True}, expect=OPEN)
    .opened({"news": {}})
    .receive(
        connected({"news": subscribed("news")}), state("connected"), LIVE, ["load", "news", "first", None]
    )
    .do("loaded", "news", None)
    .do("closed", 1006, expect=LOST)
    .reconnected({"news": {}}, {"news": subscribed("news")}, LIVE, ["load", "news", "gap", None])
    .receive(message("news", None, 1))
    .do("loaded", "news", None, expect=[["message", "news", None, 1]])
    .done(),
    Script("a state that is loaded makes a rewind needless")
    .do("channel", "news", {"load": True, "rewind": 5}, expect=OPEN)
    .opened({"news": {}})
    .done(),
    loading("recovered: the state is not loaded again")
    .do("loaded", "news", "5-a")
    .do("closed", 1006, expect=LOST)
    .reconnected(
        {"news": {"since": "5-a"}},
        {"news": subscribed("news", "6-b", recovered=True, messages=[message("news", "6-b", 6)])},
        LIVE,
        got("6-b", 6),
    )
    .done(),
]

SCENARIOS: Final[list[Scenario]] = [*POSITIONS, *LOADED_STATE]
