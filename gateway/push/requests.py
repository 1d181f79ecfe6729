"""The bodies of requests; unknown fields are ignored, and null means absent, except in `data`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SkipValidation

from protocol import limits
from protocol.channels import expected_name, is_channel_name
from protocol.errors import CloseCode

MAX_TARGETS = 1_000
"""Channels, users or commands in one request (docs/push-api.md#many-messages)."""
REASON_SIZE = 123
"""Bytes in the reason of a Close frame: 125 in a control frame less the code (RFC 6455 section 5.5)."""
CONNECTION_ID_SIZE = 128
"""Characters in the id of a connection."""


def _require_channel_name(name: str) -> str:
    if not is_channel_name(name):
        raise ValueError(f"expected {expected_name(name)}")
    return name


ChannelName = Annotated[
    str,
    AfterValidator(_require_channel_name),
    Field(
        json_schema_extra={
            "pattern": (
                rf"^([A-Za-z0-9_.:@~-]{{1,{limits.CHANNEL_NAME}}}|@([A-Za-z0-9_.:@~-]|%[0-9A-F]{{2}})+)$"
            ),
            "maxLength": limits.PERSONAL_CHANNEL_NAME,
        },
        examples=["chat:42"],
    ),
]
Key = Annotated[str, Field(min_length=1, max_length=limits.IDEMPOTENCY_KEY, examples=["order-1871-paid"])]
Tag = Annotated[str, Field(max_length=limits.TAG_SIZE)]
Connections = Annotated[
    list[Annotated[str, Field(max_length=CONNECTION_ID_SIZE)]], Field(max_length=MAX_TARGETS)
]


class RequestBody(BaseModel):
    """A map whose values are not converted: the text "1" is not accepted as a number."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class MessageContent(RequestBody):
    """A message and its options, without its destination."""

    data: Annotated[Any, Field(description="Any JSON value.", examples=[{"text": "hello"}])]
    key: Annotated[
        Key | None,
        Field(
            description="Idempotency: the same key in the same channel publishes once within five minutes; "
            "with other content it is rejected."
        ),
    ] = None
    tags: Annotated[
        Annotated[dict[Tag, Tag], Field(max_length=limits.TAGS)] | None,
        Field(description="Strings that travel with the message."),
    ] = None
    exclude: Annotated[Connections | None, Field(description="Connections that are not to get it.")] = None
    acknowledge: Annotated[
        Literal["stored", "replicated"] | None,
        Field(
            description="When to answer: once it is stored, or once a replica has it, too, but after 100 ms "
            "anyway; `acknowledged` in the answer says which was reached."
        ),
    ] = None
    history: Annotated[bool | None, Field(description="false: deliver it, but do not keep it.")] = None


class PublishRequest(MessageContent):
    """One message for one channel."""

    channel: ChannelName


class BroadcastRequest(MessageContent):
    """One message for each of many channels."""

    channels: Annotated[list[str], Field(max_length=MAX_TARGETS, examples=[["chat:42", "chat:43"]])]


class NotifyRequest(MessageContent):
    """One message for each of many users, on their personal channels."""

    users: Annotated[list[str], Field(max_length=MAX_TARGETS, examples=[["alice", "bob"]])]


class BatchCommand(RequestBody):
    """One command of a batch."""

    publish: PublishRequest


class BatchRequest(RequestBody):
    """Commands that are carried out in order, each on its own."""

    commands: Annotated[list[SkipValidation[BatchCommand]], Field(max_length=MAX_TARGETS)]


class DisconnectRequest(RequestBody):
    """Why a user's connections are closed, and which of them are not."""

    code: Annotated[int | None, Field(ge=4000, le=4999, description="The close code; 4005 if absent.")] = None
    reason: Annotated[
        str | None, Field(description=f"At most {REASON_SIZE} bytes of UTF-8.", examples=["signed out"])
    ] = None
    except_: Annotated[
        Connections | None, Field(alias="except", description="Connections that are left alone.")
    ] = None

    @property
    def close_code(self) -> int:
        """The code to close with."""
        return CloseCode.DISCONNECTED if self.code is None else self.code


class SubscriptionRequest(RequestBody):
    """The channel to which a user's connections are subscribed, or whose subscriptions end."""

    channel: ChannelName
