"""The paths of the push API: each is one small method between a request and its answer."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from gateway.push.body import RequestBodies, encode_answer
from gateway.push.lookups import Lookups
from gateway.push.openapi import operation
from gateway.push.params import channel_from_path, position_from_query, user_from_path
from gateway.push.publisher import RequestPublisher
from gateway.push.request_limits import RequestLimits
from gateway.push.requests import (
    BatchRequest,
    BroadcastRequest,
    DisconnectRequest,
    NotifyRequest,
    PublishRequest,
    SubscriptionRequest,
)
from gateway.push.responses import (
    BatchResults,
    BroadcastResults,
    ChannelInfo,
    ChannelList,
    ClearedHistory,
    ClusterTotals,
    HistoryInfo,
    NodeList,
    NotifyResults,
    PresenceInfo,
    Published,
    ResponseBody,
    UserCommandResult,
    UserInfo,
)
from gateway.push.user_commands import UserCommandSender
from protocol import limits

PAGE_SIZE = 100
"""Channels in one page without `limit`."""
MAX_PAGE_SIZE = 1_000
"""Channels in one page at most."""

ChannelPath = Annotated[str, Path(description="A channel's name, percent-encoded.", examples=["chat:42"])]
UserPath = Annotated[str, Path(description="A user, percent-encoded.", examples=["alice"])]
Prefix = Annotated[str, Query(max_length=256, description="Only channels whose names start with it.")]
ChannelsLimit = Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE)]
Cursor = Annotated[str | None, Query(max_length=1024, description="From the previous page.")]
Members = Annotated[bool, Query(description="false: the counts alone.")]
HistoryLimit = Annotated[int | None, Query(ge=0, le=limits.HISTORY_LIMIT, description="Messages at most.")]
MembersLimit = Annotated[int | None, Query(ge=1, description="Members at most.")]
Since = Annotated[
    str | None, Query(description="A message id: messages after it; with `reverse`, those before it.")
]
Reverse = Annotated[bool, Query(description="The newest first.")]


class PublishRoutes:
    """The paths that publish."""

    def __init__(self, publisher: RequestPublisher, bodies: RequestBodies, limits: RequestLimits) -> None:
        """Publish with *publisher*, within *limits*, what the *bodies* of requests ask for."""
        self._publisher = publisher
        self._bodies = bodies
        self._limits = limits

    async def publish(self, request: Request) -> Response:
        """One message for one channel."""
        async with self._bodies.read(request) as body:
            publication = self._publisher.parse(body.value, json_text=body.json_text)
            return encode_answer(request, await self._publisher.publish(publication))

    async def broadcast(self, request: Request) -> Response:
        """The same message for each of at most 1,000 channels; each succeeds or fails on its own."""
        async with self._bodies.read(request) as body:
            asked = body.parse(BroadcastRequest)
            self._charge(request, asked.channels)
            results = await self._publisher.broadcast(asked, json_text=body.json_text)
            return encode_answer(request, {"results": results})

    async def notify(self, request: Request) -> Response:
        """The same message for each of at most 1,000 users, on all of their connections."""
        async with self._bodies.read(request) as body:
            asked = body.parse(NotifyRequest)
            self._charge(request, asked.users)
            results = await self._publisher.notify(asked, json_text=body.json_text)
            return encode_answer(request, {"results": results})

    async def batch(self, request: Request) -> Response:
        """At most 1,000 commands, carried out in order; each succeeds or fails on its own."""
        async with self._bodies.read(request) as body:
            asked = body.parse(BatchRequest)
            self._charge(request, asked.commands)
            results = await self._publisher.batch(asked, json_text=body.json_text)
            return encode_answer(request, {"results": results})

    def _charge(self, request: Request, targets: Sized) -> None:
        """Take a message for each of *targets* from the rate; the first was taken with the request."""
        self._limits.require_rate(request.state.push_key, max(0, len(targets) - 1))

    def add_to(self, router: APIRouter) -> None:
        """Add these paths to *router*."""
        routes: Sequence[tuple[str, Any, dict[str, Any]]] = (
            (
                "/publish",
                self.publish,
                operation("Publish to a channel", Published, body=PublishRequest, publishes=True),
            ),
            (
                "/broadcast",
                self.broadcast,
                operation(
                    "Publish to many channels", BroadcastResults, body=BroadcastRequest, publishes=True
                ),
            ),
            (
                "/notify",
                self.notify,
                operation("Publish to users", NotifyResults, body=NotifyRequest, publishes=True),
            ),
            (
                "/batch",
                self.batch,
                operation("Do many things at once", BatchResults, body=BatchRequest, publishes=True),
            ),
        )
        for path, endpoint, described in routes:
            router.add_api_route(path, endpoint, methods=["POST"], tags=["publish"], **described)


class LookupRoutes:
    """The paths that read channels, users and nodes, and the one that clears a history."""

    def __init__(self, lookups: Lookups) -> None:
        """Answer with *lookups*."""
        self._lookups = lookups

    async def channels(
        self,
        request: Request,
        *,
        prefix: Prefix = "",
        limit: ChannelsLimit = PAGE_SIZE,
        cursor: Cursor = None,
    ) -> Response:
        """Channels that have subscribers, by name."""
        return encode_answer(request, await self._lookups.channels(prefix, limit=limit, cursor=cursor))

    async def channel(self, request: Request, channel: ChannelPath) -> Response:
        """The channel's numbers of subscribers, of users who are present, and of messages kept."""
        return encode_answer(request, await self._lookups.channel(channel_from_path(channel)))

    async def presence(
        self,
        request: Request,
        channel: ChannelPath,
        *,
        members: Members = True,
        limit: MembersLimit = None,
        cursor: Cursor = None,
    ) -> Response:
        """Who is in the channel."""
        name = channel_from_path(channel)
        answer = await self._lookups.presence(name, members=members, limit=limit, cursor=cursor)
        return encode_answer(request, answer)

    async def history(
        self,
        request: Request,
        channel: ChannelPath,
        *,
        limit: HistoryLimit = None,
        since: Since = None,
        reverse: Reverse = False,
    ) -> Response:
        """Messages kept of the channel: the oldest first, or the newest first with `reverse`."""
        name, position = channel_from_path(channel), position_from_query(since)
        answer = await self._lookups.history(name, since=position, limit=limit, reverse=reverse)
        return encode_answer(request, answer)

    async def clear(self, request: Request, channel: ChannelPath) -> Response:
        """Delete the stored messages of the channel; the numbering continues."""
        return encode_answer(request, await self._lookups.clear(channel_from_path(channel)))

    async def user(self, request: Request, user: UserPath) -> Response:
        """The user's live connections, on every node."""
        return encode_answer(request, await self._lookups.user(user_from_path(user)))

    async def nodes(self, request: Request) -> Response:
        """The cluster's live nodes."""
        return encode_answer(request, await self._lookups.nodes())

    async def stats(self, request: Request) -> Response:
        """The cluster's totals."""
        return encode_answer(request, await self._lookups.stats())

    def add_to(self, router: APIRouter) -> None:
        """Add these paths to *router*."""
        history = "/channels/{channel}/history"
        routes: Sequence[tuple[str, str, Any, dict[str, Any]]] = (
            ("GET", "/channels", self.channels, operation("List channels", ChannelList)),
            ("GET", "/channels/{channel}", self.channel, operation("Look at a channel", ChannelInfo)),
            ("GET", "/channels/{channel}/presence", self.presence, operation("Who is here", PresenceInfo)),
            ("GET", history, self.history, operation("Read a channel's history", HistoryInfo)),
            ("DELETE", history, self.clear, operation("Clear a channel's history", ClearedHistory)),
            ("GET", "/users/{user}", self.user, operation("A user's connections", UserInfo)),
            ("GET", "/nodes", self.nodes, operation("List nodes", NodeList)),
            ("GET", "/stats", self.stats, operation("Totals", ClusterTotals)),
        )
        for method, path, endpoint, described in routes:
            tag = path.strip("/").partition("/")[0]
            router.add_api_route(path, endpoint, methods=[method], tags=[tag], **described)


class UserCommandRoutes:
    """The paths that send a command to every connection of a user."""

    def __init__(self, sender: UserCommandSender, bodies: RequestBodies) -> None:
        """Send with *sender* what the *bodies* of requests ask for."""
        self._sender = sender
        self._bodies = bodies

    async def disconnect(self, request: Request, user: UserPath) -> Response:
        """Close the user's connections."""
        name = user_from_path(user)
        async with self._bodies.read_optional(request) as body:
            command = body.parse(DisconnectRequest)
        return encode_answer(request, await self._sender.disconnect(name, command))

    async def subscribe(self, request: Request, user: UserPath) -> Response:
        """Subscribe the user's connections to a channel."""
        return encode_answer(request, await self._change_subscription(request, user, "subscribe"))

    async def unsubscribe(self, request: Request, user: UserPath) -> Response:
        """Unsubscribe the user's connections from a channel."""
        return encode_answer(request, await self._change_subscription(request, user, "unsubscribe"))

    async def _change_subscription(
        self, request: Request, user: str, action: Literal["subscribe", "unsubscribe"]
    ) -> ResponseBody:
        name = user_from_path(user)
        async with self._bodies.read(request) as body:
            channel = body.parse(SubscriptionRequest).channel
        return await self._sender.change_subscription(name, action, channel)

    def add_to(self, router: APIRouter) -> None:
        """Add these paths to *router*."""
        routes: Sequence[tuple[str, str, Any, type[BaseModel]]] = (
            ("disconnect", "Disconnect a user", self.disconnect, DisconnectRequest),
            ("subscribe", "Subscribe a user", self.subscribe, SubscriptionRequest),
            ("unsubscribe", "Unsubscribe a user", self.unsubscribe, SubscriptionRequest),
        )
        for action, summary, endpoint, body in routes:
            described = operation(summary, UserCommandResult, body=body)
            path = f"/users/{{user}}/{action}"
            router.add_api_route(path, endpoint, methods=["POST"], tags=["users"], **described)
