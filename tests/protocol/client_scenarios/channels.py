"""Subscriptions: shared, refused, ended, restored."""

from __future__ import annotations

from typing import Final

from tests.protocol.client_scenarios.script import (
    Action,
    Scenario,
    Script,
    connected,
    error,
    message,
    sends,
    state,
    stopped,
    subscribed,
    waiting,
)

OPEN: Final[list[Action]] = [state("connecting"), ["open", 0]]
FINAL_ERRORS: Final = (
    "bad_request",
    "permission_denied",
    "unknown_channel",
    "unauthorized",
    "limit_exceeded",
)
TRANSIENT_ERRORS: Final = ("unavailable", "rate_limited", "internal")


def refused(code: str) -> Scenario:
    """Return a subscribe that is refused for good."""
    return (
        Script(f"subscribe refused: {code}")
        .connected()
        .do("channel", "news", expect=[sends("subscribe", 2, channel="news")])
        .receive(error(code, id=2), ["channel", "news", "gone", code])
        .do("closed", 1006, expect=[waiting()])
        .do("advance", 250, expect=OPEN)
        .opened()
        .done()
    )


def refused_for_now(code: str) -> Scenario:
    """Return a subscribe that is refused for the moment."""
    return (
        Script(f"subscribe refused for the moment: {code}")
        .connected()
        .do("channel", "news", expect=[sends("subscribe", 2, channel="news")])
        .receive(error(code, id=2, retry_after_ms=100))
        .do("advance", 250, expect=[sends("subscribe", 3, channel="news")])
        .receive(error(code, id=3, retry_after_ms=2_000))
        .do("advance", 1_999)
        .do("advance", 1, expect=[sends("subscribe", 4, channel="news")])
        .receive(subscribed("news", "5-a", id=4), ["channel", "news", "live"])
        .done()
    )


def refused_in_connect(code: str) -> Scenario:
    """Return an entry of `subs` that is refused for the moment, while another one is restored."""
    return (
        Script(f"refused for the moment in connect: {code}")
        .do("channel", "news", expect=OPEN)
        .do("channel", "chat:1")
        .opened({"news": {}, "chat:1": {}})
        .receive(
            connected({"news": error(code, retry_after_ms=700), "chat:1": subscribed("chat:1", "1-a")}),
            state("connected"),
            ["channel", "chat:1", "live"],
        )
        .do("advance", 700, expect=[sends("subscribe", 2, channel="news")])
        .done()
    )


def ended(code: str) -> Scenario:
    """Return a subscription that the gateway ends for good."""
    return (
        Script(f"unsubscribed by the gateway: {code}")
        .subscribed()
        .receive(
            {"type": "unsubscribed", "channel": "news", "code": code, "reason": "so it is"},
            ["channel", "news", "pending"],
            ["channel", "news", "gone", code],
        )
        .receive(message("news", "6-b", 1))
        .do("closed", 1006, expect=[waiting()])
        .do("advance", 250, expect=OPEN)
        .opened()
        .done()
    )


SCENARIOS: Final[list[Scenario]] = [
    Script("messages that arrive at once with the reply to subscribe")
    .connected()
    .do("channel", "news", expect=[sends("subscribe", 2, channel="news")])
    .do(
        "receive",
        subscribed("news", "5-a", id=2),
        message("news", "6-a", "six"),
        message("news", "7-a", "seven"),
        expect=[
            ["channel", "news", "live"],
            ["message", "news", "6-a", "six"],
            ["message", "news", "7-a", "seven"],
        ],
    )
    .done(),
    Script("a gap and a message that arrive at once with the reply to subscribe")
    .connected()
    .do("channel", "news", expect=[sends("subscribe", 2, channel="news")])
    .do(
        "receive",
        subscribed("news", "5-a", id=2),
        {"type": "gap", "channel": "news", "reason": "overflow", "position": "8-a"},
        message("news", "9-a", "nine"),
        expect=[
            ["channel", "news", "live"],
            ["gap", "news", "overflow"],
            ["message", "news", "9-a", "nine"],
        ],
    )
    .done(),
    Script("the first channel connects").do("channel", "news", expect=OPEN).opened({"news": {}}).done(),
    Script("a channel while connecting goes into connect")
    .connecting()
    .do("channel", "news")
    .opened({"news": {}})
    .done(),
    Script("a channel after connect was sent is subscribed to when connected")
    .connecting()
    .opened()
    .do("channel", "news")
    .receive(connected(), state("connected"), sends("subscribe", 2, channel="news"))
    .receive(subscribed("news", "5-a", id=2), ["channel", "news", "live"])
    .done(),
    Script("a channel while connected")
    .connected()
    .do("channel", "news", expect=[sends("subscribe", 2, channel="news")])
    .receive(subscribed("news", "5-a", id=2), ["channel", "news", "live"])
    .receive(message("news", "6-b", {"x": 1}), ["message", "news", "6-b", {"x": 1}])
    .done(),
    Script("a channel without history")
    .connected()
    .do("channel", "news", expect=[sends("subscribe", 2, channel="news")])
    .receive(subscribed("news", id=2), ["channel", "news", "live"])
    .receive(message("news", None, 1), ["message", "news", None, 1])
    .do("closed", 1006, expect=[["channel", "news", "pending"], waiting()])
    .reconnected(
        {"news": {}},
        {"news": subscribed("news")},
        ["channel", "news", "live"],
    )
    .done(),
    Script("rewind begins with the last messages, and once only")
    .subscribed(rewind=2)
    .do("closed", 1006, expect=[["channel", "news", "pending"], waiting()])
    .reconnected(
        {"news": {"since": "5-a"}},
        {"news": subscribed("news", "5-a", recovered=True)},
        ["channel", "news", "live"],
    )
    .done(),
    Script("the messages of a rewind")
    .do("channel", "news", {"rewind": 2}, expect=OPEN)
    .opened({"news": {"rewind": 2}})
    .receive(
        connected(
            {
                "news": subscribed(
                    "news", "5-e", messages=[message("news", "4-d", 4), message("news", "5-e", 5)]
                )
            }
        ),
        state("connected"),
        ["channel", "news", "live"],
        ["message", "news", "4-d", 4],
        ["message", "news", "5-e", 5],
    )
    .done(),
    Script("a rewind of one message, whose id is the position")
    .do("channel", "news", {"rewind": 1}, expect=OPEN)
    .opened({"news": {"rewind": 1}})
    .receive(
        connected({"news": subscribed("news", "5-e", messages=[message("news", "5-e", 5)])}),
        state("connected"),
        ["channel", "news", "live"],
        ["message", "news", "5-e", 5],
    )
    .done(),
    Script("joins and members are asked for by a subscribe of its own")
    .do("channel", "news", {"presence": True}, expect=OPEN)
    .opened()
    .receive(
        connected(),
        state("connected"),
        sends("subscribe", 2, channel="news", join_leave=True, members=True),
    )
    .done(),
    Script("joins and members that are asked for while connect is on its way")
    .do("channel", "news", expect=OPEN)
    .opened({"news": {}})
    .do("channel", "news", {"presence": True})
    .receive(
        connected({"news": subscribed("news", "5-a")}),
        state("connected"),
        ["channel", "news", "live"],
        ["channel", "news", "live"],
        ["channel", "news", "pending"],
        ["channel", "news", "pending"],
        sends("unsubscribe", 2, channel="news"),
        sends("subscribe", 3, channel="news", since="5-a", join_leave=True, members=True),
    )
    .done(),
    Script("joins and members that are asked for while subscribe is on its way")
    .connected()
    .do("channel", "news", expect=[sends("subscribe", 2, channel="news")])
    .do("channel", "news", {"presence": True})
    .receive(
        subscribed("news", "5-a", id=2),
        ["channel", "news", "live"],
        ["channel", "news", "live"],
        ["channel", "news", "pending"],
        ["channel", "news", "pending"],
        sends("unsubscribe", 3, channel="news"),
        sends("subscribe", 4, channel="news", since="5-a", join_leave=True, members=True),
    )
    .done(),
    Script("two users of a channel share one subscription")
    .connected()
    .do("channel", "news", expect=[sends("subscribe", 2, channel="news")])
    .do("channel", "news")
    .receive(subscribed("news", "5-a", id=2), ["channel", "news", "live"], ["channel", "news", "live"])
    .receive(message("news", "6-b", 1), ["message", "news", "6-b", 1], ["message", "news", "6-b", 1])
    .do("release", "news")
    .receive(message("news", "7-c", 2), ["message", "news", "7-c", 2])
    .done(),
    Script("the last user of a channel unsubscribes")
    .subscribed()
    .do("release", "news", expect=[sends("unsubscribe", 2, channel="news")])
    .receive(message("news", "6-b", 1))
    .receive({"type": "unsubscribed", "id": 2, "channel": "news"})
    .do("closed", 1006, expect=[waiting()])
    .do("advance", 250, expect=OPEN)
    .opened()
    .done(),
    Script("unsubscribe while subscribing")
    .connected()
    .do("channel", "news", expect=[sends("subscribe", 2, channel="news")])
    .do("release", "news", expect=[sends("unsubscribe", 3, channel="news")])
    .receive(subscribed("news", "5-a", id=2))
    .receive(message("news", "6-b", 1))
    .receive({"type": "unsubscribed", "id": 3, "channel": "news"})
    .done(),
    Script("subscribe again while unsubscribing")
    .subscribed()
    .do("release", "news", expect=[sends("unsubscribe", 2, channel="news")])
    .do("channel", "news", expect=[sends("subscribe", 3, channel="news")])
    .receive(message("news", "6-b", 1))
    .receive({"type": "unsubscribed", "id": 2, "channel": "news"})
    .receive(subscribed("news", "6-b", id=3), ["channel", "news", "live"])
    .receive(message("news", "7-c", 2), ["message", "news", "7-c", 2])
    .done(),
    Script("released and listened to again in one task: nothing is sent")
    .subscribed()
    .do("relisten", "news")
    .receive(message("news", "6-b", 1), ["message", "news", "6-b", 1])
    .done(),
    Script("released while not connected")
    .do("channel", "news", expect=OPEN)
    .do("release", "news")
    .opened()
    .receive(connected(), state("connected"))
    .done(),
    Script("released after connect was sent")
    .do("channel", "news", expect=OPEN)
    .opened({"news": {}})
    .do("release", "news")
    .receive(
        connected({"news": subscribed("news", "5-a")}),
        state("connected"),
        sends("unsubscribe", 2, channel="news"),
    )
    .done(),
    *(refused(code) for code in FINAL_ERRORS),
    *(refused_for_now(code) for code in TRANSIENT_ERRORS),
    *(refused_in_connect(code) for code in TRANSIENT_ERRORS),
    Script("refused in connect for good, while another one is restored")
    .do("channel", "news", expect=OPEN)
    .do("channel", "chat:1")
    .opened({"news": {}, "chat:1": {}})
    .receive(
        connected({"news": error("permission_denied"), "chat:1": subscribed("chat:1", "1-a")}),
        state("connected"),
        ["channel", "news", "gone", "permission_denied"],
        ["channel", "chat:1", "live"],
    )
    .done(),
    Script("not mentioned in connected: gone")
    .do("channel", "news", expect=OPEN)
    .opened({"news": {}})
    .receive(connected(), state("connected"), ["channel", "news", "gone", ""])
    .done(),
    Script("subscribe refused: already_subscribed")
    .connected()
    .do("channel", "news", expect=[sends("subscribe", 2, channel="news")])
    .receive(error("already_subscribed", id=2))
    .done(),
    Script("the connection ends in the middle of a subscribe")
    .connected()
    .do("channel", "news", expect=[sends("subscribe", 2, channel="news")])
    .do("closed", 1006, expect=[waiting()])
    .reconnected({"news": {}}, {"news": subscribed("news", "5-a")}, ["channel", "news", "live"])
    .done(),
    Script("the connection ends while a refused subscribe waits")
    .connected()
    .do("channel", "news", expect=[sends("subscribe", 2, channel="news")])
    .receive(error("unavailable", id=2, retry_after_ms=5_000))
    .do("closed", 1006, expect=[waiting()])
    .do("advance", 250, expect=OPEN)
    .opened()
    .receive(connected(), state("connected"))
    .do("advance", 4_750, expect=[sends("subscribe", 2, channel="news")])
    .done(),
    ended("unsubscribed"),
    ended("permission_denied"),
    ended("token_expired"),
    Script("subscribed by the gateway: kept, and resumed")
    .connecting()
    .opened()
    .receive(connected({"@anna": subscribed("@anna", "3-c")}), state("connected"))
    .receive(message("@anna", "4-d", 1))
    .do("closed", 1006, expect=[waiting()])
    .do("advance", 250, expect=OPEN)
    .opened({"@anna": {"since": "4-d"}})
    .done(),
    Script("a user of a channel that the gateway subscribed")
    .connecting()
    .opened()
    .receive(connected({"@anna": subscribed("@anna", "3-c")}), state("connected"))
    .do("channel", "@anna")
    .receive(message("@anna", "4-d", 1), ["message", "@anna", "4-d", 1])
    .done(),
    Script("subscribed by a push")
    .connected()
    .receive(subscribed("news", "5-a"))
    .do("closed", 1006, expect=[waiting()])
    .do("advance", 250, expect=OPEN)
    .opened({"news": {"since": "5-a"}})
    .done(),
    Script("messages of channels that nobody asked for are ignored")
    .connected()
    .receive(message("news", "6-b", 1))
    .done(),
    Script("stopped: every channel is gone")
    .subscribed()
    .do(
        "closed",
        4005,
        expect=[["channel", "news", "pending"], ["channel", "news", "gone", "stopped"], stopped(4005)],
    )
    .done(),
    Script("connect after stopped restores the channels from their positions")
    .subscribed()
    .do(
        "closed",
        4012,
        expect=[["channel", "news", "pending"], ["channel", "news", "gone", "stopped"], stopped(4012)],
    )
    .do("connect", expect=[["channel", "news", "pending"], *OPEN])
    .opened({"news": {"since": "5-a"}})
    .done(),
]
