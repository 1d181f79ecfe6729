"""From checked requests to the broker: one message, the same message for many, many messages in a row."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from gateway.access.permissions import ChannelRules
from gateway.broker.base import AckLevel, Publication, Receipt, Retention
from gateway.push.context import PushContext
from gateway.push.errors import RequestRejected, http_rejection
from gateway.push.params import channel_name, require_personal_channel
from gateway.push.requests import (
    BatchCommand,
    BatchRequest,
    BroadcastRequest,
    MessageContent,
    NotifyRequest,
    PublishRequest,
)
from gateway.push.responses import ResponseBody
from protocol.channels import is_channel_name
from protocol.errors import ErrorCode
from protocol.payload import Payload, payload_of

PUBLISHES_PER_TURN = 64
"""Publishes started in one turn of the event loop: each may be a fan-out, while other work waits."""

_NOBODY: frozenset[str] = frozenset()
_CHANNEL_AND_DATA = frozenset({"channel", "data"})
_NO_OPTIONS = MessageContent(data=None)


class RequestPublisher:
    """Publishes for `POST /v1/publish`, `/broadcast`, `/notify` and `/batch`.

    `RequestRejected`, `BadRequest` and pydantic's `ValidationError` are raised before anything is published.
    """

    __slots__ = ("_broker", "_message_size", "_namespaces", "_retention", "_tasks", "_wait_for_capacity")

    def __init__(self, context: PushContext) -> None:
        """Publish to the broker of *context*, under its rules of channels."""
        self._broker = context.broker
        self._namespaces = context.namespaces
        self._tasks = context.tasks
        self._wait_for_capacity = context.wait_for_capacity
        self._message_size = context.message_size
        self._retention: dict[str, Retention | None] = {}

    def parse(self, body: Any, *, json_text: bytes | None = None) -> Publication:
        """Return the publication that the decoded *body* of `POST /v1/publish` asks for.

        *json_text* is the text that it was decoded from, if it was JSON.
        """
        if type(body) is dict and body.keys() == _CHANNEL_AND_DATA and type(body["channel"]) is str:
            # The models could only find a wrong name here; they cost 2 µs of a publish's 20.
            channel = body["channel"]
            if is_channel_name(channel):
                return self._publication(channel, self._payload(body["data"], json_text), _NO_OPTIONS)
        request = PublishRequest.model_validate(body)
        return self._publication(request.channel, self._payload(request.data, json_text), request)

    async def publish(self, publication: Publication) -> ResponseBody:
        """Publish and return the answer, once the node's clients accept more."""
        receipt = await self._broker.publish(publication)
        if self._wait_for_capacity is not None:
            await self._wait_for_capacity(publication.channel)
        return published_answer(publication, receipt)

    async def broadcast(self, request: BroadcastRequest, *, json_text: bytes | None) -> list[ResponseBody]:
        """Publish the same message in every channel; return one answer or error for each."""
        data = self._payload(request.data, json_text)

        def publication_for(channel: str) -> Publication:
            return self._publication(channel_name(channel), data, request)

        return await self._run_all(
            self._publish_one(publication_for, channel, {"channel": channel}) for channel in request.channels
        )

    async def notify(self, request: NotifyRequest, *, json_text: bytes | None) -> list[ResponseBody]:
        """Publish the same message on every user's personal channel; return one answer or error for each."""
        data = self._payload(request.data, json_text)

        def publication_for(user: str) -> Publication:
            return self._publication(require_personal_channel(user), data, request)

        return await self._run_all(
            self._publish_one(publication_for, user, {"user": user}) for user in request.users
        )

    async def batch(self, request: BatchRequest, *, json_text: bytes | None) -> list[ResponseBody]:
        """Carry out the commands in order; return one answer or error for each."""
        # Once for all commands, because each check searches the whole text.
        payload_of(request.commands, source=json_text)

        def publication_for(command: Any) -> Publication:
            publish = BatchCommand.model_validate(command).publish
            return self._publication(publish.channel, self._payload(publish.data, None), publish)

        return await self._run_all(
            self._publish_one(publication_for, command, {}) for command in request.commands
        )

    # ------------------------------------------------------------ inside

    def _payload(self, data: Any, json_text: bytes | None) -> Payload:
        payload = payload_of(data, source=json_text)
        if len(payload.json) > self._message_size:
            raise RequestRejected(
                413,
                ErrorCode.TOO_LARGE,
                f"data: {len(payload.json)} bytes of JSON; a message has at most {self._message_size}",
            )
        return payload

    def _publication(self, channel: str, data: Payload, content: MessageContent) -> Publication:
        rules = self._namespaces.rules(channel)
        return Publication(
            channel,
            data,
            None if content.history is False else self._retention_under(rules),
            content.key,
            None,
            content.tags or None,
            frozenset(content.exclude) if content.exclude else _NOBODY,
            None if content.acknowledge is None else AckLevel(content.acknowledge),
            content.history is False,
        )

    def _retention_under(self, rules: ChannelRules) -> Retention | None:
        """Return the retention under *rules*; one object per namespace, whose rules never change."""
        name = rules.namespace
        if name not in self._retention:
            self._retention[name] = Retention(rules.history, rules.history_ttl) if rules.history else None
        return self._retention[name]

    async def _publish_one(
        self, publication_for: Callable[[Any], Publication], target: Any, label: ResponseBody
    ) -> ResponseBody:
        """Publish and return the answer, or the error in its place; *label* says whose answer it is."""
        try:
            return {**label, **await self.publish(publication_for(target))}
        except Exception as error:  # noqa: BLE001 (one failure must not hide the others' results)
            return {**label, **http_rejection(error).body}

    async def _run_all(self, publishes: Iterable[Coroutine[Any, Any, ResponseBody]]) -> list[ResponseBody]:
        """Start every publish in order, then wait for all: Redis gets them in one round trip."""
        return await self._tasks.gather_in_order(publishes, yield_every=PUBLISHES_PER_TURN)


def published_answer(publication: Publication, receipt: Receipt) -> ResponseBody:
    """Return the answer for a message that was published."""
    answer: ResponseBody = {"channel": publication.channel}
    if receipt.id is not None:
        answer["message"] = str(receipt.id)
    answer["replayed"] = receipt.replayed
    if receipt.level is not None:
        answer["acknowledged"] = receipt.level.value
    return answer
