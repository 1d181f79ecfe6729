"""Signs of life, pages that sleep, networks that come and go."""

from __future__ import annotations

from typing import Final

from tests.protocol.client_scenarios.script import (
    SILENCE_MS,
    Action,
    Scenario,
    Script,
    connected,
    message,
    sends,
    state,
    waiting,
)

PROBE_MS: Final = 2_500
TEN_MINUTES_MS: Final = 600_000
OPEN: Final[list[Action]] = [state("connecting"), ["open", 0]]

SCENARIOS: Final[list[Scenario]] = [
    Script("a ping is answered at once")
    .connected()
    .receive({"type": "ping"}, ["send", {"type": "pong"}])
    .done(),
    Script("a ping is answered before connect is")
    .connecting()
    .opened()
    .receive({"type": "ping"}, ["send", {"type": "pong"}])
    .done(),
    Script("silence for the heartbeat and ten seconds ends the connection")
    .connected()
    .do("advance", SILENCE_MS - 1)
    .do("advance", 1, expect=[["drop"], waiting()])
    .done(),
    Script("any message is a sign of life")
    .connected()
    .do("advance", 30_000)
    .receive({"type": "celebrate"})
    .do("advance", SILENCE_MS - 1)
    .do("advance", 1, expect=[["drop"], waiting()])
    .done(),
    Script("the heartbeat is that of the gateway")
    .connecting()
    .opened()
    .receive(connected(heartbeat=5.0), state("connected"))
    .do("advance", 14_999)
    .do("advance", 1, expect=[["drop"], waiting()])
    .done(),
    Script("waking up: a ping that is answered")
    .connected()
    .do("page", "wake", expect=[sends("ping", 2)])
    .receive({"type": "pong", "id": 2})
    .do("advance", PROBE_MS)
    .done(),
    Script("waking up: any message answers the ping")
    .subscribed()
    .do("page", "wake", expect=[sends("ping", 2)])
    .receive(message("news", "6-b", 1), ["message", "news", "6-b", 1])
    .do("advance", PROBE_MS)
    .done(),
    Script("waking up: a ping without an answer ends the connection")
    .connected()
    .do("page", "wake", expect=[sends("ping", 2)])
    .do("advance", PROBE_MS - 1)
    .do("advance", 1, expect=[["drop"], waiting()])
    .done(),
    Script("waking up twice sends one ping")
    .connected()
    .do("page", "wake", expect=[sends("ping", 2)])
    .do("page", "wake")
    .receive({"type": "pong", "id": 2})
    .do("page", "wake", expect=[sends("ping", 3)])
    .done(),
    Script("ten minutes asleep: the late timer asks before it gives up")
    .connected()
    .do("sleep", TEN_MINUTES_MS, expect=[sends("ping", 2)])
    .receive({"type": "pong", "id": 2})
    .do("advance", 30_000)
    .done(),
    Script("ten minutes asleep, and the gateway has gone")
    .connected()
    .do("sleep", TEN_MINUTES_MS, expect=[sends("ping", 2)])
    .do("advance", PROBE_MS, expect=[["drop"], waiting()])
    .do("advance", 250, expect=OPEN)
    .done(),
    Script("ten minutes asleep, resumed where it was")
    .subscribed()
    .do("sleep", TEN_MINUTES_MS, expect=[sends("ping", 2)])
    .do("closed", 4007, expect=[["channel", "news", "pending"], waiting(4007)])
    .do("advance", 250, expect=OPEN)
    .opened({"news": {"since": "5-a"}})
    .done(),
    Script("ten minutes asleep while waiting: the attempt begins at once")
    .connecting()
    .do("closed", 1006, expect=[waiting()])
    .do("sleep", TEN_MINUTES_MS, expect=OPEN)
    .done(),
    Script("ten minutes asleep while connecting: the attempt has failed")
    .connecting()
    .do("sleep", TEN_MINUTES_MS, expect=[["drop"], state("suspended", code=1006, delay=250)])
    .done(),
    Script("the network is back: the attempt begins at once")
    .connecting()
    .do("closed", 1006, expect=[waiting()])
    .do("page", "online", expect=OPEN)
    .do("advance", 9_999)
    .done(),
    Script("without a network no attempt begins")
    .connecting()
    .do("closed", 1006, expect=[waiting()])
    .do("network", False)
    .do("advance", 60_000)
    .do("network", True)
    .do("page", "online", expect=OPEN)
    .done(),
    Script("the network has gone: the connection is asked at once")
    .connected()
    .do("page", "offline", expect=[sends("ping", 2)])
    .do("advance", PROBE_MS, expect=[["drop"], waiting()])
    .done(),
    Script("the network changes while connected: the connection is asked at once")
    .connected()
    .do("page", "online", expect=[sends("ping", 2)])
    .receive({"type": "pong", "id": 2})
    .done(),
    Script("the network changes in the middle of a subscribe")
    .connected()
    .do("channel", "news", expect=[sends("subscribe", 2, channel="news")])
    .do("page", "online", expect=[sends("ping", 3)])
    .do("advance", PROBE_MS, expect=[["drop"], waiting()])
    .do("advance", 250, expect=OPEN)
    .opened({"news": {}})
    .done(),
    Script("into the back/forward cache and out of it")
    .subscribed()
    .do("page", "hide", expect=[["drop"], ["channel", "news", "pending"], waiting(1000, 0)])
    .do("advance", TEN_MINUTES_MS)
    .do("page", "wake", expect=OPEN)
    .opened({"news": {"since": "5-a"}})
    .done(),
    Script("into the back/forward cache while connecting")
    .connecting()
    .do("page", "hide", expect=[["drop"], waiting(1000, 0)])
    .do("advance", TEN_MINUTES_MS)
    .done(),
    Script("waking up while stopped does nothing")
    .connected()
    .do("close", expect=[["drop"], state("stopped", code=1000)])
    .do("page", "wake")
    .do("page", "online")
    .do("advance", 60_000)
    .done(),
    Script("waking up while idle does nothing").do("page", "wake").do("advance", 60_000).done(),
]
