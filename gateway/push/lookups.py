"""What the cluster knows of its channels, users and nodes, as answers; nothing here asks every node."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, Literal

from gateway.broker.base import ConnectionRecord, NodeRecord, UserCommand
from gateway.delivery.reply_size import fitting, member_size
from gateway.push.errors import RequestRejected
from gateway.push.params import cursor_behind, name_before
from gateway.push.requests import REASON_SIZE, Disconnect
from gateway.push.service import Service
from protocol import server_messages
from protocol.channels import personal_user
from protocol.errors import CLOSES, CloseCode, ErrorCode
from protocol.messages import HistoryPage, Member, PresenceState
from protocol.position import MessageId

Answer = dict[str, Any]


class Lookups:
    """Looks things up at the broker, and hands it instructions for users' connections."""

    __slots__ = ("_broker", "_history_limit", "_namespaces", "_page_size", "_presence_limit")

    def __init__(self, service: Service) -> None:
        """Ask the service's broker, under its rules."""
        self._broker = service.broker
        self._namespaces = service.namespaces
        self._history_limit = service.history_limit
        self._presence_limit = service.presence_limit
        self._page_size = service.body_size

    # ------------------------------------------------------------ channels

    async def channels(self, prefix: str, *, limit: int, cursor: str | None) -> Answer:
        """Return at most *limit* followed channels by name, and the cursor of those behind them.

        `partial`, where those of a server, or of a node, that does not answer are missing.
        """
        found = await self._broker.subscribed_channels(prefix, after=name_before(cursor), limit=limit + 1)
        page = found.items[:limit]
        answer: Answer = {"channels": [asdict(record) for record in page]}
        if len(found.items) > limit:
            answer["cursor"] = cursor_behind(page[-1].channel)
        if found.partial:
            answer["partial"] = True
        return answer

    async def channel(self, channel: str) -> Answer:
        """Return how many follow *channel*, who is present, and what is kept."""
        rules = self._namespaces.rules(channel)
        # The channel itself is the first of those that start with its name.
        found = await self._broker.subscribed_channels(channel, after="", limit=1)
        if found.error is not None and found.is_missing(channel):
            raise found.error
        records = found.items
        subscribers = records[0].subscribers if records and records[0].channel == channel else 0
        answer: Answer = {"channel": channel, "subscribers": subscribers, "history": 0}
        if found.partial:
            answer["partial"] = True
        if rules.presence:
            answer["users"] = (await self._broker.count(channel)).users
        if rules.history:
            oldest = await self._broker.read(channel, limit=1)
            answer["position"] = str(oldest.position)
            first = oldest.messages[0].message if oldest.messages else None
            # A history has no holes, so two offsets say how long it is.
            if first is not None:
                answer["history"] = oldest.position.offset - first.offset + 1
        return answer

    async def presence(
        self, channel: str, *, members: bool, limit: int | None = None, cursor: str | None = None
    ) -> Answer:
        """Return who is in *channel*, as the command does; a page of them where *members* asks for it.

        By connection, so that a page goes on behind the one before whoever came or went meanwhile.
        """
        rules = self._namespaces.rules(channel)
        if not rules.presence:
            raise _without(channel, rules.namespace, "presence", "presence = true")
        if not members:
            count = await self._broker.count(channel)
            return _as_reply(PresenceState(0, channel, count.connections, count.users))
        found = await self._broker.presence(channel)
        counted = PresenceState(0, channel, found.connections, found.users)
        after = name_before(cursor)
        rest = sorted((one for one in found.members if one.connection > after), key=_by_connection)
        most = self._presence_limit if limit is None else min(limit, self._presence_limit)
        fit, _ = fitting(rest[:most], member_size, room=self._page_size)
        page = rest[: max(1, fit)]
        if len(page) == len(rest):
            return _as_reply(replace(counted, members=page))
        answer = _as_reply(replace(counted, members=page, truncated=True))
        return {**answer, "cursor": cursor_behind(page[-1].connection)}

    async def history(
        self, channel: str, *, since: MessageId | None, limit: int | None, reverse: bool
    ) -> Answer:
        """Return what is kept of *channel*, as the command does."""
        rules = self._namespaces.rules(channel)
        if not rules.history:
            raise _without(channel, rules.namespace, "history", "history = 100")
        most = self._history_limit if limit is None else min(limit, self._history_limit)
        found = await self._broker.read(
            channel, since=since, limit=most, size=self._page_size, reverse=reverse
        )
        if not found.recovered:
            # An empty page would read as "nothing happened since".
            raise RequestRejected(422, ErrorCode.BAD_REQUEST, f"since: {since} is no longer in this history")
        return _as_reply(HistoryPage(0, channel, found.position, found.messages))

    async def clear(self, channel: str) -> Answer:
        """Forget the history of *channel*."""
        self._namespaces.rules(channel)
        await self._broker.clear(channel)
        return {"channel": channel}

    # ------------------------------------------------------------ users

    async def user(self, user: str) -> Answer:
        """Return the connections of *user* on every node; `partial` where one does not answer."""
        found = await self._broker.connections(user)
        answer: Answer = {"user": user, "connections": [_connection(one) for one in found.items]}
        if found.partial:
            answer["partial"] = True
        return answer

    async def disconnect(self, user: str, wanted: Disconnect) -> Answer:
        """Close the connections of *user* with a code and a reason."""
        code = wanted.close_code
        reason = _reason(code) if wanted.reason is None else wanted.reason
        if len(reason.encode()) > REASON_SIZE:
            raise RequestRejected(
                422,
                ErrorCode.BAD_REQUEST,
                f"reason: expected at most {REASON_SIZE} bytes, not {len(reason.encode())}",
            )
        except_connections = frozenset(wanted.except_ or ())
        command = UserCommand(
            user, "disconnect", code=code, reason=reason, except_connections=except_connections
        )
        return await self._send(command)

    async def choose(self, user: str, action: Literal["subscribe", "unsubscribe"], channel: str) -> Answer:
        """Make the connections of *user* follow *channel*, or no longer follow it."""
        self._namespaces.rules(channel)
        if personal_user(channel) not in (None, user):
            raise RequestRejected(
                422,
                ErrorCode.PERMISSION_DENIED,
                f"channel: {channel!r} is another user's; only that user follows it",
            )
        return await self._send(UserCommand(user, action, channel=channel))

    async def _send(self, command: UserCommand) -> Answer:
        records = await self._broker.connections(command.user)
        # Handed on even where none is known yet: a connection may be on its way into the directory.
        await self._broker.send_user_command(command)
        return {
            "connections": sum(
                record.connection not in command.except_connections for record in records.items
            )
        }

    # ------------------------------------------------------------ nodes

    async def nodes(self) -> Answer:
        """Return the live nodes, each with the figures that it adds."""
        return {"nodes": [_node(record) for record in await self._broker.nodes()]}

    async def stats(self) -> Answer:
        """Return sums over the live nodes."""
        records = await self._broker.nodes()
        return {
            "nodes": len(records),
            "connections": sum(record.connections for record in records),
            "channels": sum(record.channels for record in records),
            "subscriptions": sum(record.subscriptions for record in records),
        }


def _as_reply(reply: PresenceState | HistoryPage) -> Answer:
    """Return what a client would be told, without what belongs to its conversation."""
    told = server_messages.map_of(reply)
    return {name: told[name] for name in told if name not in ("type", "id")}


def _by_connection(member: Member) -> str:
    return member.connection


def _connection(record: ConnectionRecord) -> Answer:
    return {**asdict(record), "channels": list(record.channels)}


def _node(record: NodeRecord) -> Answer:
    told = asdict(record)
    figures = told.pop("figures")
    return {**told, **{name: figure for name, figure in figures.items() if name not in told}}


def _reason(code: int) -> str:
    return CLOSES.get(code, CLOSES[CloseCode.DISCONNECTED]).reason


def _without(channel: str, namespace: str, what: str, setting: str) -> RequestRejected:
    return RequestRejected(
        422,
        ErrorCode.BAD_REQUEST,
        f"{channel!r} is of namespace {namespace!r}, without {what}: set {setting} in [channels.{namespace}]",
    )
