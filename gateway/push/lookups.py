"""Answers about the cluster's channels, users and nodes; no lookup asks every node."""

from __future__ import annotations

from dataclasses import asdict, replace

from gateway.broker.base import ConnectionRecord, NodeRecord
from gateway.delivery.reply_size import fitting, member_size
from gateway.push.context import PushContext
from gateway.push.errors import RequestRejected
from gateway.push.params import decode_cursor, encode_cursor
from gateway.push.responses import ResponseBody
from protocol import server_messages
from protocol.errors import ErrorCode
from protocol.messages import HistoryPage, Member, PresenceState
from protocol.position import MessageId


class Lookups:
    """Reads channels, users and nodes from the broker."""

    __slots__ = ("_broker", "_history_limit", "_namespaces", "_page_size", "_presence_limit")

    def __init__(self, context: PushContext) -> None:
        """Read from the broker of *context*, under its rules of channels and within its limits."""
        self._broker = context.broker
        self._namespaces = context.namespaces
        self._history_limit = context.history_limit
        self._presence_limit = context.presence_limit
        self._page_size = context.body_size

    # ------------------------------------------------------------ channels

    async def channels(self, prefix: str, *, limit: int, cursor: str | None) -> ResponseBody:
        """Return at most *limit* channels with subscribers, by name, and the cursor of the next page.

        `partial` is true if a server or a node does not answer, and its channels are missing.
        """
        found = await self._broker.subscribed_channels(prefix, after=decode_cursor(cursor), limit=limit + 1)
        page = found.items[:limit]
        answer: ResponseBody = {"channels": [asdict(record) for record in page]}
        if len(found.items) > limit:
            answer["cursor"] = encode_cursor(page[-1].channel)
        if found.partial:
            answer["partial"] = True
        return answer

    async def channel(self, channel: str) -> ResponseBody:
        """Return how many subscribers, present users and kept messages *channel* has."""
        rules = self._namespaces.rules(channel)
        # The channel itself is the first of those that start with its name.
        found = await self._broker.subscribed_channels(channel, after="", limit=1)
        if found.error is not None and found.is_missing(channel):
            raise found.error
        records = found.items
        subscribers = records[0].subscribers if records and records[0].channel == channel else 0
        answer: ResponseBody = {"channel": channel, "subscribers": subscribers, "history": 0}
        if found.partial:
            answer["partial"] = True
        if rules.presence:
            answer["users"] = (await self._broker.count(channel)).users
        if rules.history:
            oldest = await self._broker.read(channel, limit=1)
            answer["position"] = str(oldest.position)
            first = oldest.messages[0].message if oldest.messages else None
            # A history has no holes, so two offsets give its length.
            if first is not None:
                answer["history"] = oldest.position.offset - first.offset + 1
        return answer

    async def presence(
        self, channel: str, *, members: bool, limit: int | None = None, cursor: str | None = None
    ) -> ResponseBody:
        """Return who is in *channel*, in the form of the command's reply; with *members*, a page of them.

        By connection id, so that joins and leaves between two pages neither repeat nor skip a member.
        """
        rules = self._namespaces.rules(channel)
        if not rules.presence:
            raise _not_enabled(channel, rules.namespace, "presence", "presence = true")
        if not members:
            count = await self._broker.count(channel)
            return _reply_fields(PresenceState(0, channel, count.connections, count.users))
        found = await self._broker.presence(channel)
        counts = PresenceState(0, channel, found.connections, found.users)
        after = decode_cursor(cursor)
        rest = sorted((one for one in found.members if one.connection > after), key=_by_connection)
        limit = self._presence_limit if limit is None else min(limit, self._presence_limit)
        fit, _ = fitting(rest[:limit], member_size, room=self._page_size)
        page = rest[: max(1, fit)]
        if len(page) == len(rest):
            return _reply_fields(replace(counts, members=page))
        answer = _reply_fields(replace(counts, members=page, truncated=True))
        return {**answer, "cursor": encode_cursor(page[-1].connection)}

    async def history(
        self, channel: str, *, since: MessageId | None, limit: int | None, reverse: bool
    ) -> ResponseBody:
        """Return messages kept of *channel*, in the form of the command's reply."""
        rules = self._namespaces.rules(channel)
        if not rules.history:
            raise _not_enabled(channel, rules.namespace, "history", "history = 100")
        limit = self._history_limit if limit is None else min(limit, self._history_limit)
        found = await self._broker.read(
            channel, since=since, limit=limit, size=self._page_size, reverse=reverse
        )
        if not found.recovered:
            # An empty page would mean "nothing happened since".
            raise RequestRejected(422, ErrorCode.BAD_REQUEST, f"since: {since} is no longer in this history")
        return _reply_fields(HistoryPage(0, channel, found.position, found.messages))

    async def clear(self, channel: str) -> ResponseBody:
        """Delete the history of *channel*."""
        self._namespaces.rules(channel)
        await self._broker.clear(channel)
        return {"channel": channel}

    # ------------------------------------------------------------ users and nodes

    async def user(self, user: str) -> ResponseBody:
        """Return the connections of *user* on every node; `partial` if a node does not answer."""
        found = await self._broker.connections(user)
        answer: ResponseBody = {"user": user, "connections": [_connection(one) for one in found.items]}
        if found.partial:
            answer["partial"] = True
        return answer

    async def nodes(self) -> ResponseBody:
        """Return the live nodes, each with the figures that it adds."""
        return {"nodes": [_node(record) for record in await self._broker.nodes()]}

    async def stats(self) -> ResponseBody:
        """Return sums over the live nodes."""
        records = await self._broker.nodes()
        return {
            "nodes": len(records),
            "connections": sum(record.connections for record in records),
            "channels": sum(record.channels for record in records),
            "subscriptions": sum(record.subscriptions for record in records),
        }


def _reply_fields(reply: PresenceState | HistoryPage) -> ResponseBody:
    """Return the fields of the command's *reply* without `type` and `id`, which belong to a conversation."""
    fields = server_messages.map_of(reply)
    return {name: fields[name] for name in fields if name not in ("type", "id")}


def _by_connection(member: Member) -> str:
    return member.connection


def _connection(record: ConnectionRecord) -> ResponseBody:
    return {**asdict(record), "channels": list(record.channels)}


def _node(record: NodeRecord) -> ResponseBody:
    fields = asdict(record)
    figures = fields.pop("figures")
    return {**fields, **{name: figure for name, figure in figures.items() if name not in fields}}


def _not_enabled(channel: str, namespace: str, what: str, setting: str) -> RequestRejected:
    return RequestRejected(
        422,
        ErrorCode.BAD_REQUEST,
        f"{channel!r} is of namespace {namespace!r}, without {what}: set {setting} in [channels.{namespace}]",
    )
