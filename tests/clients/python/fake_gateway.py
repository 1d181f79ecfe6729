"""A gateway without a network, for random lives of a client: each message and command can be held or lost."""

import json
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fanway_client.transport import HandshakeRejected, Link, LinkEvents

from tests.clients.python.scenario import FakeEnvironment

Map = dict[str, Any]

KEY_TTL = 60.0
HISTORY = 6
UNKNOWN_INDEX = -1


@dataclass
class Log:
    """One channel: everything that was ever published, and what of it can still be resumed."""

    channel: str
    history: int
    ids: list[str] = field(default_factory=list)
    """The id of each message, for its index in *data*."""
    data: list[Any] = field(default_factory=list)
    uid: str = "a"
    trimmed: int = 0
    """Messages before this index are not kept."""
    begun: int = 0
    """The index at which the present history begins."""

    @property
    def position(self) -> str | None:
        if not self.history:
            return None
        return f"0-{self.uid}" if len(self.ids) == self.begun else self.ids[-1]

    def index_after(self, position: str) -> int:
        """Return the index of the message after *position*, or `UNKNOWN_INDEX` if one is missing between."""
        if position == f"0-{self.uid}":
            index = self.begun
        elif position in self.ids[self.begun :]:
            index = self.ids.index(position) + 1
        else:
            return UNKNOWN_INDEX
        return index if index >= self.trimmed else UNKNOWN_INDEX

    def append(self, data: Any) -> Map:
        offset = len(self.ids) - self.begun + 1
        self.ids.append(f"{offset}-{self.uid}{offset}")
        self.data.append(data)
        self.trimmed = max(self.trimmed, len(self.ids) - self.history)
        return self.push(len(self.ids) - 1)

    def push(self, index: int) -> Map:
        message = {"message": self.ids[index]} if self.history else {}
        return {"type": "message", "channel": self.channel, **message, "data": self.data[index]}

    def forget(self) -> None:
        self.uid += "z"
        self.trimmed = self.begun = len(self.ids)


class FakeLink:
    """One connection. What is sent waits in a queue, and travels at once unless the gateway is stalled."""

    def __init__(self, gateway: "FakeGateway", events: LinkEvents) -> None:
        self.events: LinkEvents | None = events
        self.open = False
        self.connected = False
        self.joined: dict[str, int] = {}
        """By subscribed channel, the index of the first message that the subscription receives."""
        self.to_gateway: deque[str] = deque()
        self.to_client: deque[str] = deque()
        self._gateway = gateway

    def send(self, data: str) -> None:
        assert self.open, "a client sends before the connection is open"
        self.to_gateway.append(data)
        self._gateway.move_soon()

    def push(self, message: Map) -> None:
        self.to_client.append(json.dumps(message))
        self._gateway.move_soon()

    def close(self) -> None:
        self.events = None
        while self.to_gateway:  # was sent, and may arrive
            self._gateway.handle(self, json.loads(self.to_gateway.popleft()))
        self._gateway.forget(self)


class FakeGateway:
    """Accepts every token. Commands are answered as docs/protocol.md says, unless a fault was asked for."""

    def __init__(
        self, environment: FakeEnvironment, channels: Mapping[str, int], *, user: str = "anna"
    ) -> None:
        self.environment = environment
        self.user = user
        self.logs = {channel: Log(channel, history) for channel, history in channels.items()}
        self.link: FakeLink | None = None
        self.stalled = False
        self.unreachable = False
        self.faults: deque[str] = deque()
        """What happens to the next commands: `refuse`, or `lose`: done, but answered with an error."""
        self.rejections = 0
        """How many of the next handshakes are answered with 503."""
        self.refused_types: set[str] = set()
        """Types of commands that are answered with `permission_denied`."""
        self.server_subs: list[str] = []
        """Channels that the gateway subscribes each client to."""
        self.connections = 0
        self._keys: dict[tuple[str, str, str], tuple[float, str | None]] = {}
        self._moving = False

    # ------------------------------------------------------------ the transport of a client

    def connect(self, _url: str, events: LinkEvents) -> Link:
        assert self.link is None, "two connections at once"
        self.connections += 1
        self.link = FakeLink(self, events)
        self.environment.call_soon(lambda link=self.link: self._open(link))  # type: ignore[misc]
        return self.link

    def _open(self, link: FakeLink) -> None:
        if link is not self.link or link.events is None or self.unreachable:
            return
        if self.rejections or not self.environment.network:
            rejected = HandshakeRejected(503) if self.environment.network else None
            self.rejections = max(0, self.rejections - 1)
            self.forget(link)
            link.events.on_close(1006, "", rejected)
        else:
            link.open = True
            link.events.on_open()

    def forget(self, link: FakeLink) -> None:
        if self.link is link:
            self.link = None
        link.joined.clear()

    # ------------------------------------------------------------ what travels

    def move_soon(self) -> None:
        if not self._moving and not self.stalled:
            self._moving = True
            self.environment.call_soon(self._move_all)

    def _move_all(self) -> None:
        self._moving = False
        if not self.stalled:
            self.move(to_gateway=1_000, to_client=1_000)

    def move(self, *, to_gateway: int, to_client: int) -> None:
        """Let that many of the queued messages arrive."""
        link = self.link
        if link is None:
            return
        while to_gateway and link.to_gateway and link is self.link:
            to_gateway -= 1
            self.handle(link, json.loads(link.to_gateway.popleft()))
        while to_client and link.to_client and link.events is not None and link is self.link:
            to_client -= 1
            link.events.on_data(link.to_client.popleft())

    # ------------------------------------------------------------ faults

    def end(self, code: int, *, delivered: bool) -> None:
        """End the connection; *delivered*: what was sent before arrives."""
        link = self.link
        if link is None:
            return
        if delivered:
            self.move(to_gateway=1_000, to_client=1_000)
        if link is self.link and link.events is not None:
            events = link.events
            self.forget(link)
            events.on_close(code, "")

    def kill(self) -> None:
        """End the connection without telling the client, which is no more."""
        if self.link is not None:
            self.link.events = None
            self.forget(self.link)

    def overflow(self, channel: str, data: list[Any]) -> None:
        """Publish *data*, but instead of it send the client a gap."""
        log = self.logs[channel]
        for each in data:
            log.append(each)
        if self.link is not None and channel in self.link.joined:
            position = {"position": log.position} if log.history else {}
            self.link.push({"type": "gap", "channel": channel, "reason": "overflow", **position})

    # ------------------------------------------------------------ what happens in the gateway

    def publish(self, channel: str, data: Any) -> str | None:
        push = self.logs[channel].append(data)
        if self.link is not None and channel in self.link.joined:
            self.link.push(push)
        return push.get("message")

    def unsubscribe(self, channel: str) -> None:
        if self.link is not None and self.link.joined.pop(channel, None) is not None:
            self.link.push(
                {"type": "unsubscribed", "channel": channel, "code": "unsubscribed", "reason": "r"}
            )

    def handle(self, link: FakeLink, command: Map) -> None:
        assert link.connected or command["type"] == "connect", command
        refused = command["type"] in self.refused_types
        replies = [error("permission_denied")] if refused else self._replies(link, command)
        for reply in replies:
            if "id" in command:
                reply["id"] = command["id"]
            link.push(reply)

    def _replies(self, link: FakeLink, command: Map) -> Iterator[Map]:
        replies: Iterator[Map] = getattr(self, f"_on_{command['type']}")(link, command)
        return replies

    def _fault(self) -> str | None:
        return self.faults.popleft() if self.faults else None

    def _on_connect(self, link: FakeLink, command: Map) -> Iterator[Map]:
        assert not link.connected, "connect was sent twice"
        if self._fault():
            yield error("unavailable")
            return
        link.connected = True
        wanted = {**{name: {} for name in self.server_subs}, **command["subs"]}
        yield {
            "type": "connected",
            "connection": f"c-{self.connections}",
            "user": self.user,
            "node": "n",
            "heartbeat": 25.0,
            "limits": {"key_ttl": KEY_TTL},
            "subs": {name: self._subscribe(link, name, options) for name, options in wanted.items()},
        }

    def _on_subscribe(self, link: FakeLink, command: Map) -> Iterator[Map]:
        yield self._subscribe(link, command["channel"], command)

    def _subscribe(self, link: FakeLink, channel: str, options: Map) -> Map:
        if self._fault():
            return error("unavailable")
        if channel in link.joined:
            return error("already_subscribed")
        log = self.logs[channel]
        since = options.get("since")
        newest = len(log.ids)
        index = UNKNOWN_INDEX if since is None else log.index_after(since)
        recovered = index != UNKNOWN_INDEX
        if since is None and log.history:
            index = max(log.trimmed, newest - options.get("rewind", 0))
        elif not recovered:
            index = newest
        link.joined[channel] = index
        position = {"position": log.position} if log.history else {}
        messages = [log.push(each) for each in range(index, newest)]
        return {
            "type": "subscribed",
            "channel": channel,
            **position,
            "recovered": recovered,
            "messages": messages,
        }

    def _on_unsubscribe(self, link: FakeLink, command: Map) -> Iterator[Map]:
        link.joined.pop(command["channel"], None)
        yield {"type": "unsubscribed", "channel": command["channel"]}

    def _on_publish(self, link: FakeLink, command: Map) -> Iterator[Map]:
        fault = self._fault()
        if fault == "refuse":
            yield error("rate_limited", retry_after_ms=300)
            return
        channel = command["channel"]
        # A key belongs to its user; that of an anonymous client to its connection.
        scope = (self.user or f"connection {self.connections}", channel, command["key"])
        published_at, message = self._keys.get(scope, (float("-inf"), None))
        if self.environment.time - published_at >= KEY_TTL:
            message = self.publish(channel, command["data"])
            self._keys[scope] = (self.environment.time, message)
        if fault == "lose":
            yield error("unavailable", retry_after_ms=300)
        else:
            yield {"type": "published", "channel": channel, **({"message": message} if message else {})}

    def _on_history(self, link: FakeLink, command: Map) -> Iterator[Map]:
        log = self.logs[command["channel"]]
        kept = [log.push(index) for index in range(log.trimmed, len(log.ids))]
        if command.get("reverse"):
            kept.reverse()
        yield {
            "type": "history",
            "channel": command["channel"],
            "position": log.position,
            "messages": kept[: command.get("limit", 100)],
        }

    def _on_ping(self, link: FakeLink, command: Map) -> Iterator[Map]:
        yield {"type": "pong"}

    def _on_refresh(self, link: FakeLink, command: Map) -> Iterator[Map]:
        yield {"type": "refreshed", "expires_in": 600}

    def _on_pong(self, link: FakeLink, command: Map) -> Iterator[Map]:
        yield from ()


def error(code: str, **fields: Any) -> Map:
    return {"type": "error", "code": code, "message": code, **fields}
