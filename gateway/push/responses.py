"""The bodies of answers, for the OpenAPI document; answers are not validated against them at run time."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from protocol.errors import ErrorCode

ResponseBody = dict[str, Any]
"""The body of an answer before it is encoded."""

MessageId = Annotated[str, Field(description="Opaque: `<offset>-<uid>`.", examples=["7-5f2c9a01d3e4"])]


class ErrorBody(BaseModel):
    """Why a request was not carried out."""

    code: ErrorCode
    message: str
    retry_after_ms: Annotated[int | None, Field(description="With `rate_limited` and `unavailable`.")] = None


class ErrorAnswer(BaseModel):
    """The body of every error, whatever its status."""

    error: ErrorBody


class Published(BaseModel):
    """The message is in the channel's history, if it has one, and with every node that has a subscriber."""

    channel: str
    message: Annotated[MessageId | None, Field(description="Absent if it was not stored.")] = None
    replayed: Annotated[bool, Field(description="An earlier request with the same `key` published it.")]
    acknowledged: Annotated[
        Literal["stored", "replicated"] | None, Field(description="If `replicated` was asked for.")
    ] = None


class ChannelError(ErrorAnswer):
    """A channel in which the message was not published."""

    channel: str


class BroadcastResults(BaseModel):
    """One result per channel, in the order of the request."""

    results: list[Published | ChannelError]


class NotifiedUser(Published):
    """The message is on its way to the user's connections."""

    user: str


class UserError(ErrorAnswer):
    """A user for whom the message was not published."""

    user: str


class NotifyResults(BaseModel):
    """One result per user, in the order of the request."""

    results: list[NotifiedUser | UserError]


class BatchResults(BaseModel):
    """One result per command, in order."""

    results: list[Published | ErrorAnswer]


class ChannelEntry(BaseModel):
    """A channel that has subscribers."""

    channel: str
    subscribers: int


class ChannelList(BaseModel):
    """A page of the channels that have subscribers, by name."""

    channels: list[ChannelEntry]
    cursor: Annotated[str | None, Field(description="For the next page; absent on the last one.")] = None
    partial: Annotated[
        bool | None,
        Field(description="true: a Redis server or a node does not answer, and its channels are missing."),
    ] = None


class ChannelInfo(BaseModel):
    """One channel: its subscribers, and its history."""

    channel: str
    subscribers: int
    users: Annotated[int | None, Field(description="Users who are present; absent if presence is off.")] = (
        None
    )
    position: Annotated[
        MessageId | None, Field(description="Of the newest message; absent without history.")
    ] = None
    history: Annotated[int, Field(description="Messages kept.")]
    partial: Annotated[
        bool | None, Field(description="true: a node does not answer, and its subscribers are missing.")
    ] = None


class MemberEntry(BaseModel):
    """One connection that is present."""

    connection: str
    user: str
    info: Any = None


class PresenceInfo(BaseModel):
    """Who is in the channel, as in the reply to the WebSocket command `presence`."""

    channel: str
    connections: int
    users: int
    members: Annotated[list[MemberEntry] | None, Field(description="By connection.")] = None
    truncated: Annotated[bool | None, Field(description="true: there are more members.")] = None
    cursor: Annotated[str | None, Field(description="For the next page; absent on the last one.")] = None


class SenderEntry(BaseModel):
    """The connection that published a message."""

    connection: str
    user: str


class MessageEntry(BaseModel):
    """A message exactly as subscribers get it."""

    type: Annotated[str, Field(examples=["message"])]
    channel: str
    message: MessageId
    data: Any
    from_: Annotated[SenderEntry | None, Field(alias="from")] = None
    tags: dict[str, str] | None = None
    time: Annotated[int | None, Field(description="Unix milliseconds.")] = None


class HistoryInfo(BaseModel):
    """Messages kept of the channel, as in the reply to the WebSocket command `history`."""

    channel: str
    position: Annotated[MessageId, Field(description="Of the newest message, in `messages` or not.")]
    messages: list[MessageEntry]


class ClearedHistory(BaseModel):
    """The history is empty now; the numbering continues."""

    channel: str


class ConnectionEntry(BaseModel):
    """One live connection."""

    connection: str
    node: str
    channels: list[str]
    since: Annotated[float, Field(description="Unix seconds.")]


class UserInfo(BaseModel):
    """A user's live connections on every node."""

    user: str
    connections: list[ConnectionEntry]
    partial: Annotated[
        bool | None, Field(description="true: a node does not answer, and its connections are missing.")
    ] = None


class UserCommandResult(BaseModel):
    """How many of the user's connections the command was sent to."""

    connections: Annotated[
        int, Field(description="All of them, whether or not the command changes anything there.")
    ]


class NodeEntry(BaseModel):
    """One live node, with the figures that it adds."""

    node: str
    connections: int
    channels: int
    subscriptions: int
    uptime: Annotated[float, Field(description="Seconds.")]


class NodeList(BaseModel):
    """The live nodes."""

    nodes: list[NodeEntry]


class ClusterTotals(BaseModel):
    """Sums over the live nodes."""

    nodes: int
    connections: int
    channels: Annotated[
        int, Field(description="A channel counts once on each node where it has subscribers.")
    ]
    subscriptions: int
