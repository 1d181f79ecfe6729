"""The paths of the internal API, each as one small function between a request and its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from gateway.push.body import DecodedBody, read, read_optional, reply
from gateway.push.lookups import Lookups
from gateway.push.openapi import operation
from gateway.push.params import channel_in, position_in, user_in
from gateway.push.publisher import Publisher
from gateway.push.requests import Batch, Broadcast, ChannelChoice, Disconnect, Notify, Publish
from gateway.push.responses import (
    BatchDone,
    Broadcasted,
    ChannelInfo,
    ChannelList,
    Cleared,
    HistoryInfo,
    NodeList,
    Notified,
    PresenceInfo,
    Published,
    Told,
    Totals,
    UserInfo,
)
from protocol import limits

PAGE = 100
"""Channels in one page, unless `limit` says otherwise."""
LARGEST_PAGE = 1_000

ChannelPath = Annotated[str, Path(description="A channel's name, percent-encoded.", examples=["chat:42"])]
UserPath = Annotated[str, Path(description="A user, percent-encoded.", examples=["alice"])]
Prefix = Annotated[str, Query(max_length=256, description="Only channels whose names start with it.")]
Page = Annotated[int, Query(ge=1, le=LARGEST_PAGE)]
Cursor = Annotated[str | None, Query(max_length=1024, description="From the answer before.")]
Members = Annotated[bool, Query(description="false: the counts alone.")]
HistoryPage = Annotated[int | None, Query(ge=0, le=limits.HISTORY_LIMIT, description="Messages at most.")]
MembersPage = Annotated[int | None, Query(ge=1, description="Members at most.")]
Since = Annotated[
    str | None, Query(description="A message id: what came after it; before it, with `reverse`.")
]
Reverse = Annotated[bool, Query(description="The newest first.")]


class PublishRoutes:
    """The paths that publish."""

    def __init__(self, publisher: Publisher, *, body_size: int) -> None:
        """Hand checked requests of at most *body_size* bytes to *publisher*."""
        self._publisher = publisher
        self._body_size = body_size

    async def publish(self, request: Request) -> Response:
        """One message for one channel."""
        body = await self._read(request)
        wanted = self._publisher.publication(body.value, source=body.source)
        return reply(request, await self._publisher.publish(wanted))

    async def broadcast(self, request: Request) -> Response:
        """The same message for each of at most 1,000 channels; each succeeds or fails on its own."""
        body = await self._read(request)
        results = await self._publisher.broadcast(body.as_a(Broadcast), source=body.source)
        return reply(request, {"results": results})

    async def notify(self, request: Request) -> Response:
        """The same message for each of at most 1,000 users, on all of their connections."""
        body = await self._read(request)
        results = await self._publisher.notify(body.as_a(Notify), source=body.source)
        return reply(request, {"results": results})

    async def batch(self, request: Request) -> Response:
        """At most 1,000 commands, carried out in order; each succeeds or fails on its own."""
        body = await self._read(request)
        results = await self._publisher.batch(body.as_a(Batch), source=body.source)
        return reply(request, {"results": results})

    async def _read(self, request: Request) -> DecodedBody:
        return await read(request, at_most=self._body_size)

    def add_to(self, router: APIRouter) -> None:
        """Add these paths to *router*."""
        routes: Sequence[tuple[str, Any, dict[str, Any]]] = (
            (
                "/publish",
                self.publish,
                operation("Publish to a channel", Published, body=Publish, publishes=True),
            ),
            (
                "/broadcast",
                self.broadcast,
                operation("Publish to many channels", Broadcasted, body=Broadcast, publishes=True),
            ),
            ("/notify", self.notify, operation("Publish to users", Notified, body=Notify, publishes=True)),
            (
                "/batch",
                self.batch,
                operation("Do many things at once", BatchDone, body=Batch, publishes=True),
            ),
        )
        for path, endpoint, described in routes:
            router.add_api_route(path, endpoint, methods=["POST"], tags=["publish"], **described)


class LookupRoutes:
    """The paths that look, and those that tell users' connections what to do."""

    def __init__(self, directory: Lookups, *, body_size: int) -> None:
        """Ask *directory*."""
        self._directory = directory
        self._body_size = body_size

    async def channels(
        self, request: Request, *, prefix: Prefix = "", limit: Page = PAGE, cursor: Cursor = None
    ) -> Response:
        """Channels that somebody follows, by name."""
        return reply(request, await self._directory.channels(prefix, limit=limit, cursor=cursor))

    async def channel(self, request: Request, channel: ChannelPath) -> Response:
        """How many follow the channel, who is present, and what is kept of it."""
        return reply(request, await self._directory.channel(channel_in(channel)))

    async def presence(
        self,
        request: Request,
        channel: ChannelPath,
        *,
        members: Members = True,
        limit: MembersPage = None,
        cursor: Cursor = None,
    ) -> Response:
        """Who is in the channel."""
        name = channel_in(channel)
        answer = await self._directory.presence(name, members=members, limit=limit, cursor=cursor)
        return reply(request, answer)

    async def history(
        self,
        request: Request,
        channel: ChannelPath,
        *,
        limit: HistoryPage = None,
        since: Since = None,
        reverse: Reverse = False,
    ) -> Response:
        """Messages kept of the channel: the oldest first, or the newest first with `reverse`."""
        name, position = channel_in(channel), position_in(since)
        answer = await self._directory.history(name, since=position, limit=limit, reverse=reverse)
        return reply(request, answer)

    async def clear(self, request: Request, channel: ChannelPath) -> Response:
        """Forget the messages kept of the channel; its numbering goes on."""
        return reply(request, await self._directory.clear(channel_in(channel)))

    async def user(self, request: Request, user: UserPath) -> Response:
        """The user's live connections, on every node."""
        return reply(request, await self._directory.user(user_in(user)))

    async def disconnect(self, request: Request, user: UserPath) -> Response:
        """Close the user's connections."""
        name, body = user_in(user), await read_optional(request, at_most=self._body_size)
        return reply(request, await self._directory.disconnect(name, body.as_a(Disconnect)))

    async def subscribe(self, request: Request, user: UserPath) -> Response:
        """Make the user's connections follow a channel."""
        return await self._choose(request, user, "subscribe")

    async def unsubscribe(self, request: Request, user: UserPath) -> Response:
        """Make the user's connections no longer follow a channel."""
        return await self._choose(request, user, "unsubscribe")

    async def _choose(
        self, request: Request, user: str, action: Literal["subscribe", "unsubscribe"]
    ) -> Response:
        name, body = user_in(user), await read(request, at_most=self._body_size)
        return reply(request, await self._directory.choose(name, action, body.as_a(ChannelChoice).channel))

    async def nodes(self, request: Request) -> Response:
        """The cluster's live nodes."""
        return reply(request, await self._directory.nodes())

    async def stats(self, request: Request) -> Response:
        """The cluster's totals."""
        return reply(request, await self._directory.stats())

    def add_to(self, router: APIRouter) -> None:
        """Add these paths to *router*."""
        history = "/channels/{channel}/history"
        routes: Sequence[tuple[str, str, Any, dict[str, Any]]] = (
            ("GET", "/channels", self.channels, operation("List channels", ChannelList)),
            ("GET", "/channels/{channel}", self.channel, operation("Look at a channel", ChannelInfo)),
            ("GET", "/channels/{channel}/presence", self.presence, operation("Who is here", PresenceInfo)),
            ("GET", history, self.history, operation("Read a channel's history", HistoryInfo)),
            ("DELETE", history, self.clear, operation("Clear a channel's history", Cleared)),
            ("GET", "/users/{user}", self.user, operation("A user's connections", UserInfo)),
            (
                "POST",
                "/users/{user}/disconnect",
                self.disconnect,
                operation("Disconnect a user", Told, body=Disconnect),
            ),
            (
                "POST",
                "/users/{user}/subscribe",
                self.subscribe,
                operation("Subscribe a user", Told, body=ChannelChoice),
            ),
            (
                "POST",
                "/users/{user}/unsubscribe",
                self.unsubscribe,
                operation("Unsubscribe a user", Told, body=ChannelChoice),
            ),
            ("GET", "/nodes", self.nodes, operation("List nodes", NodeList)),
            ("GET", "/stats", self.stats, operation("Totals", Totals)),
        )
        for method, path, endpoint, described in routes:
            tag = path.strip("/").partition("/")[0]
            router.add_api_route(path, endpoint, methods=[method], tags=[tag], **described)
