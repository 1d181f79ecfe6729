"""What a client must be able to do for a scenario to concern it, read off the scenario itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Step = dict[str, Any]

BY_ACTION: dict[str, str] = {
    "close": "close",
    "set_token": "tokens",
    "token": "tokens",
    "token_fails": "tokens",
    "channel_tokens": "channel_tokens",
    "channel_tokens_fail": "channel_tokens",
    "publish": "publish",
    "loaded": "load_state",
    "load_fails": "load_state",
    "page": "platform",
    "network": "platform",
    "sleep": "platform",
    "release": "release",
    "relisten": "release",
    "throw_next": "handler_errors",
}
"""By what happens in a step, what the client must have for it."""
BY_OPTION: dict[str, str] = {
    "rewind": "rewind",
    "presence": "presence",
    "token": "channel_tokens",
    "load": "load_state",
}
"""The same by the option of a channel."""
CLOSED = 1006


def needs(options: dict[str, Any], steps: list[Step]) -> list[str]:
    """Return what the scenario needs of a client, in alphabetical order."""
    found = {name for name in ("token", "channel_tokens") if options.get(name)}
    return sorted(
        {f"{name}s" if name == "token" else name for name in found}
        | ({"endpoints"} if options.get("endpoints", 1) > 1 else set())
        | set(_of_steps(steps))
    )


def _of_steps(steps: list[Step]) -> Iterator[str]:
    client = _Client()
    for step in steps:
        kind, *arguments = step["do"]
        if kind in BY_ACTION:
            yield BY_ACTION[kind]
        yield from client.before(kind, arguments)
        for action in step["expect"]:
            client.did(action)
            yield from _of_action(kind, action)


def _of_action(kind: str, action: list[Any]) -> Iterator[str]:
    if action[0] == "error":
        yield "errors"
    if action[0] == "channel" and action[2] == "gone" and action[3] != "stopped":
        yield "gone"
    if action[:2] == ["state", "suspended"]:
        yield "suspended"
    if kind == "advance" and (action[0] == "drop" or (action[0] == "send" and action[1]["type"] == "ping")):
        yield "liveness"
    if kind == "advance" and action[0] == "send" and action[1]["type"] == "subscribe":
        yield "retry_subscription"


class _Client:
    """Where the client of a scenario is, as far as that matters for what the scenario needs."""

    def __init__(self) -> None:
        self.state = "idle"
        self.open = False
        self.opened_once = False
        self.channels: set[str] = set()
        self.of_server: set[str] = set()
        """Channels that the server subscribed the client to by itself."""
        self.ids: set[tuple[str, str]] = set()

    def before(self, kind: str, arguments: list[Any]) -> Iterator[str]:
        """Yield what it needs for that which happens now."""
        if kind in {"closed", "rejected"}:
            yield from self._on_end(kind, arguments)
        elif kind == "opened":
            self.open = self.opened_once = True
        elif kind == "connect" and self.state != "idle":
            yield "connect_again"
        elif kind == "channel":
            yield from self._on_channel(*arguments)
        elif kind == "receive":
            for message in arguments:
                yield from self._on_received(message)

    def did(self, action: list[Any]) -> None:
        if action[0] == "state":
            self.state = action[1]
        if action[0] in {"drop", "open"}:
            self.open = False

    def _on_end(self, kind: str, arguments: list[Any]) -> Iterator[str]:
        if not self.opened_once:
            yield "failing_start"
        if kind == "closed" and arguments[0] != CLOSED and not self.open:
            yield "close_before_open"
        self.open = False

    def _on_channel(self, name: str, options: dict[str, Any] | None = None) -> Iterator[str]:
        yield from (BY_OPTION[option] for option in options or {})
        if name in self.channels:
            yield "handles"
        if name in self.of_server:
            yield "server_channels"
        if self.open:
            yield "subscribe_later" if self.state == "connected" else "subscribe_while_connecting"
        self.channels.add(name)

    def _on_received(self, message: dict[str, Any]) -> Iterator[str]:
        if message["type"] == "connected":
            self.of_server |= message["subs"].keys() - self.channels
        elif message["type"] == "message":
            yield from self._on_message(message)

    def _on_message(self, message: dict[str, Any]) -> Iterator[str]:
        id = (message["channel"], message.get("message") or "")
        if id[1] and id in self.ids:
            yield "duplicates"
        self.ids.add(id)
