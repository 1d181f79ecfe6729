"""Tokens of the connection, and of channels."""

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
CONNECT: Final[Action] = ["get_token", "connect"]


def with_token(name: str, expires_in: float = 3_600.0) -> Script:
    """Return a script of a client that is connected with the token `t1`."""
    return (
        Script(name, token=True)
        .do("connect", expect=[state("connecting"), CONNECT])
        .do("token", "t1", expect=[["open", 0]])
        .opened(token="t1")
        .receive(connected(expires_in=expires_in), state("connected"))
    )


def with_channel_token(name: str) -> Script:
    """Return a script of a client that is subscribed to `doc:1` with the channel token `d1`."""
    return (
        Script(name, channel_tokens=True)
        .connected()
        .do("channel", "doc:1", {"token": True}, expect=[["get_channel_tokens", ["doc:1"]]])
        .do("channel_tokens", {"doc:1": "d1"}, expect=[sends("subscribe", 2, channel="doc:1", token="d1")])
        .receive(subscribed("doc:1", "5-a", id=2), ["channel", "doc:1", "live"])
    )


CONNECTION_TOKENS: Final[list[Scenario]] = [
    with_token("a token is fetched before the socket is opened").done(),
    with_token("the token is used again as long as it lasts")
    .do("closed", 1006, expect=[waiting()])
    .do("advance", 250, expect=OPEN)
    .opened(token="t1")
    .done(),
    with_token("a token that expired during sleep is not used for the next connection")
    .do("sleep", 3_600_000, expect=[sends("ping", 2)])
    .do("closed", 1006, expect=[waiting()])
    .do("advance", 250, expect=[state("connecting"), ["get_token", "expired"]])
    .do("token", "t2", expect=[["open", 0]])
    .opened(token="t2")
    .done(),
    with_token("a token that is about to expire is not used for the next connection", 10.0)
    .do("advance", 6_000)
    .do("closed", 1006, expect=[waiting()])
    .do("advance", 250, expect=[state("connecting"), ["get_token", "expired"]])
    .done(),
    with_token("waking up with an expired token fetches another one")
    .do("sleep", 3_600_000, expect=[sends("ping", 2)])
    .do("page", "wake", expect=[["get_token", "expiring"]])
    .do("token", "t2", expect=[sends("refresh", 3, token="t2")])
    .done(),
    with_token("expiring: the connection goes on with another token")
    .receive({"type": "expiring", "in": 30.0}, ["get_token", "expiring"])
    .do("token", "t2", expect=[sends("refresh", 2, token="t2")])
    .receive({"type": "refreshed", "id": 2, "expires_in": 3_600.0})
    .do("closed", 1006, expect=[waiting()])
    .do("advance", 250, expect=OPEN)
    .opened(token="t2")
    .done(),
    with_token("expiring twice: getToken is asked once at a time")
    .receive({"type": "expiring", "in": 30.0}, ["get_token", "expiring"])
    .receive({"type": "expiring", "in": 20.0})
    .do(
        "token",
        "t2",
        expect=[sends("refresh", 2, token="t2"), sends("refresh", 3, token="t2")],
    )
    .done(),
    with_token("a refused refresh is reported, and the connection goes on")
    .receive({"type": "expiring", "in": 30.0}, ["get_token", "expiring"])
    .do("token", "t2", expect=[sends("refresh", 2, token="t2")])
    .receive(error("unauthorized", id=2), ["error"])
    .done(),
    with_token("getToken fails while connected: reported, and the connection goes on")
    .receive({"type": "expiring", "in": 30.0}, ["get_token", "expiring"])
    .do("token_fails", "error", expect=[["error"]])
    .receive({"type": "ping"}, ["send", {"type": "pong"}])
    .done(),
    with_token("getToken says unauthorized while connected: stopped")
    .receive({"type": "expiring", "in": 30.0}, ["get_token", "expiring"])
    .do("token_fails", "unauthorized", expect=[["drop"], stopped(4003)])
    .do("advance", 60_000)
    .done(),
    with_token("the connection ends while a token is fetched for it")
    .receive({"type": "expiring", "in": 30.0}, ["get_token", "expiring"])
    .do("closed", 1006, expect=[waiting()])
    .do("token", "t2")
    .do("advance", 250, expect=OPEN)
    .opened(token="t2")
    .done(),
    with_token("a token that was fetched for an earlier connection is not sent on the next one")
    .receive({"type": "expiring", "in": 30.0}, ["get_token", "expiring"])
    .do("closed", 1006, expect=[waiting()])
    .do("advance", 250, expect=OPEN)
    .do("token", "t2")
    .opened(token="t2")
    .done(),
    with_token("4004: another token, then connected again")
    .do("closed", 4004, expect=[waiting(4004)])
    .do("advance", 250, expect=[state("connecting"), ["get_token", "expired"]])
    .do("token", "t2", expect=[["open", 0]])
    .opened(token="t2")
    .done(),
    with_token("4003 for a token that was fetched for this connection: stopped")
    .do("closed", 4003, expect=[stopped(4003)])
    .do("advance", 60_000)
    .done(),
    with_token(
        "4003 for a token that was fetched earlier: one more token, and stopped if that is refused too"
    )
    .do("closed", 1006, expect=[waiting()])
    .do("advance", 250, expect=OPEN)
    .opened(token="t1")
    .do("closed", 4003, expect=[waiting(4003, 500)])
    .do("advance", 500, expect=[state("connecting"), ["get_token", "unauthorized"]])
    .do("token", "t2", expect=[["open", 0]])
    .opened(token="t2")
    .do("closed", 4003, expect=[stopped(4003)])
    .done(),
    Script("getToken fails before the first connection: tried again", token=True)
    .do("connect", expect=[state("connecting"), CONNECT])
    .do("token_fails", "error", expect=[["error"], waiting()])
    .do("advance", 250, expect=[state("connecting"), CONNECT])
    .do("token", "t1", expect=[["open", 0]])
    .done(),
    Script("getToken says unauthorized: stopped", token=True)
    .do("connect", expect=[state("connecting"), CONNECT])
    .do("token_fails", "unauthorized", expect=[stopped(4003)])
    .do("advance", 60_000)
    .done(),
    Script("close while a token is fetched", token=True)
    .do("connect", expect=[state("connecting"), CONNECT])
    .do("close", expect=[stopped(1000)])
    .do("token", "t1")
    .done(),
    Script("a token that was set is used, and getToken is not asked", token=True)
    .do("set_token", "t0")
    .do("connect", expect=OPEN)
    .opened(token="t0")
    .done(),
    Script("expiring without getToken does nothing")
    .connected(expires_in=60.0)
    .receive({"type": "expiring", "in": 30.0})
    .done(),
]

CHANNEL_TOKENS: Final[list[Scenario]] = [
    with_channel_token("a channel token is fetched before the subscribe").done(),
    Script("the tokens of all channels are fetched by one call", channel_tokens=True)
    .do("channel", "doc:1", {"token": True}, expect=[*OPEN, ["get_channel_tokens", ["doc:1"]]])
    .do("channel_tokens", {"doc:1": "d1"})
    .opened({"doc:1": {"token": "d1"}})
    .receive(
        connected({"doc:1": subscribed("doc:1", "5-a")}), state("connected"), ["channel", "doc:1", "live"]
    )
    .done(),
    with_channel_token("an expired channel token: another one, and on from the position")
    .receive(message("doc:1", "6-b", 1), ["message", "doc:1", "6-b", 1])
    .receive(
        {"type": "unsubscribed", "channel": "doc:1", "code": "token_expired", "reason": "expired"},
        ["channel", "doc:1", "pending"],
        ["get_channel_tokens", ["doc:1"]],
    )
    .do(
        "channel_tokens",
        {"doc:1": "d2"},
        expect=[sends("subscribe", 3, channel="doc:1", token="d2", since="6-b")],
    )
    .receive(
        subscribed("doc:1", "7-c", recovered=True, messages=[message("doc:1", "7-c", 2)], id=3),
        ["channel", "doc:1", "live"],
        ["message", "doc:1", "7-c", 2],
    )
    .done(),
    with_channel_token("a channel token that expired during sleep")
    .do("closed", 1006, expect=[["channel", "doc:1", "pending"], waiting()])
    .do("advance", 250, expect=OPEN)
    .opened({"doc:1": {"token": "d1", "since": "5-a"}})
    .receive(
        connected({"doc:1": error("token_expired")}),
        state("connected"),
        ["get_channel_tokens", ["doc:1"]],
    )
    .do(
        "channel_tokens",
        {"doc:1": "d2"},
        expect=[sends("subscribe", 2, channel="doc:1", token="d2", since="5-a")],
    )
    .done(),
    Script("a new channel token that is refused too: gone", channel_tokens=True)
    .connected()
    .do("channel", "doc:1", {"token": True}, expect=[["get_channel_tokens", ["doc:1"]]])
    .do("channel_tokens", {"doc:1": "d1"}, expect=[sends("subscribe", 2, channel="doc:1", token="d1")])
    .receive(error("unauthorized", id=2), ["get_channel_tokens", ["doc:1"]])
    .do("channel_tokens", {"doc:1": "d2"}, expect=[sends("subscribe", 3, channel="doc:1", token="d2")])
    .receive(error("unauthorized", id=3), ["channel", "doc:1", "gone", "unauthorized"])
    .done(),
    Script("the channel tokens cannot be fetched: tried again", channel_tokens=True)
    .connected()
    .do("channel", "doc:1", {"token": True}, expect=[["get_channel_tokens", ["doc:1"]]])
    .do("channel_tokens_fail", expect=[["error"]])
    .do("advance", 250, expect=[["get_channel_tokens", ["doc:1"]]])
    .do("channel_tokens", {"doc:1": "d1"}, expect=[sends("subscribe", 2, channel="doc:1", token="d1")])
    .done(),
    Script("the application has no token for the channel: gone", channel_tokens=True)
    .connected()
    .do("channel", "doc:1", {"token": True}, expect=[["get_channel_tokens", ["doc:1"]]])
    .do("channel_tokens", {}, expect=[["channel", "doc:1", "gone", "unauthorized"]])
    .done(),
    Script("released while its token is fetched", channel_tokens=True)
    .connected()
    .do("channel", "doc:1", {"token": True}, expect=[["get_channel_tokens", ["doc:1"]]])
    .do("release", "doc:1")
    .do("channel_tokens", {"doc:1": "d1"})
    .done(),
]

SCENARIOS: Final[list[Scenario]] = [*CONNECTION_TOKENS, *CHANNEL_TOKENS]
