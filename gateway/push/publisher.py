"""From checked requests to the broker: one message, the same for many, many in a row."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from gateway.access.permissions import ChannelRules
from gateway.broker.base import AckLevel, Publication, Receipt, Retention
from gateway.push.errors import RequestRejected, http_rejection
from gateway.push.params import channel_name, personal_channel
from gateway.push.requests import Batch, Broadcast, Command, Content, Notify, Publish
from gateway.push.service import Service
from protocol.channels import valid
from protocol.errors import ErrorCode
from protocol.payload import Payload, payload_of

Answer = dict[str, Any]

TURN = 64
"""Publishes that are started before others get their turn of the loop: each may be a fan-out of its own."""

_NOBODY: frozenset[str] = frozenset()
_PLAIN = frozenset({"channel", "data"})
_NOTHING_ELSE = Content(data=None)


class Publisher:
    """Publishes for `POST /v1/publish`, `/broadcast`, `/notify` and `/batch`.

    `RequestRejected`, `BadRequest` and pydantic's `ValidationError` are raised before anything is published.
    """

    __slots__ = ("_broker", "_message_size", "_namespaces", "_pace", "_retention", "_tasks")

    def __init__(self, service: Service) -> None:
        """Publish to the service's broker, under its rules."""
        self._broker = service.broker
        self._namespaces = service.namespaces
        self._tasks = service.tasks
        self._pace = service.pace
        self._message_size = service.message_size
        self._retention: dict[str, Retention | None] = {}

    def publication(self, body: Any, *, source: bytes | None = None) -> Publication:
        """Return what the decoded *body* of `POST /v1/publish` wants published.

        *source* is the JSON text that it was decoded from, where it was.
        """
        if type(body) is dict and body.keys() == _PLAIN and type(body["channel"]) is str:
            # Nothing left for the models to find but a wrong name; they cost 2 µs of a publish's 20.
            channel = body["channel"]
            if valid(channel):
                return self._publication(channel, self._payload(body["data"], source), _NOTHING_ELSE)
        wanted = Publish.model_validate(body)
        return self._publication(wanted.channel, self._payload(wanted.data, source), wanted)

    async def publish(self, publication: Publication) -> Answer:
        """Publish and return the answer, once the node's clients can take more."""
        receipt = await self._broker.publish(publication)
        if self._pace is not None:
            await self._pace()
        return answer(publication, receipt)

    async def broadcast(self, wanted: Broadcast, *, source: bytes | None) -> list[Answer]:
        """Publish the same in every channel; return one answer or error each."""
        data = self._payload(wanted.data, source)

        def to(channel: str) -> Publication:
            return self._publication(channel_name(channel), data, wanted)

        return await self._all(
            self._attempt(to, channel, {"channel": channel}) for channel in wanted.channels
        )

    async def notify(self, wanted: Notify, *, source: bytes | None) -> list[Answer]:
        """Publish the same to every user's personal channel; return one answer or error each."""
        data = self._payload(wanted.data, source)

        def to(user: str) -> Publication:
            return self._publication(personal_channel(user), data, wanted)

        return await self._all(self._attempt(to, user, {"user": user}) for user in wanted.users)

    async def batch(self, wanted: Batch, *, source: bytes | None) -> list[Answer]:
        """Carry out the commands in order; return one answer or error each."""
        # Once for all of them: each would search the whole text again.
        payload_of(wanted.commands, source=source)

        def to(command: Any) -> Publication:
            wanted = Command.model_validate(command).publish
            return self._publication(wanted.channel, self._payload(wanted.data, None), wanted)

        return await self._all(self._attempt(to, command, {}) for command in wanted.commands)

    # ------------------------------------------------------------ inside

    def _payload(self, data: Any, source: bytes | None) -> Payload:
        payload = payload_of(data, source=source)
        if len(payload.json) > self._message_size:
            raise RequestRejected(
                413,
                ErrorCode.TOO_LARGE,
                f"data: {len(payload.json)} bytes of JSON; a message has at most {self._message_size}",
            )
        return payload

    def _publication(self, channel: str, data: Payload, wanted: Content) -> Publication:
        rules = self._namespaces.rules(channel)
        return Publication(
            channel,
            data,
            None if wanted.history is False else self._retained(rules),
            wanted.key,
            None,
            wanted.tags or None,
            frozenset(wanted.exclude) if wanted.exclude else _NOBODY,
            None if wanted.acknowledge is None else AckLevel(wanted.acknowledge),
        )

    def _retained(self, rules: ChannelRules) -> Retention | None:
        """Return what is kept under *rules*; made once per namespace, whose rules never change."""
        name = rules.namespace
        if name not in self._retention:
            self._retention[name] = Retention.of(rules.history, rules.history_ttl)
        return self._retention[name]

    async def _attempt(self, to: Callable[[Any], Publication], target: Any, name: Answer) -> Answer:
        """Publish and return the answer, or the error in its place; both say whose it is, by *name*."""
        try:
            return {**name, **await self.publish(to(target))}
        except Exception as error:  # noqa: BLE001 (one failure must not hide the others' results)
            return {**name, **http_rejection(error).body}

    async def _all(self, attempts: Iterable[Coroutine[Any, Any, Answer]]) -> list[Answer]:
        """Start every attempt in order, then wait for all: a broker elsewhere takes them in one trip."""
        return await self._tasks.gather_in_order(attempts, yield_every=TURN)


def answer(publication: Publication, receipt: Receipt) -> Answer:
    """Return the map that tells of a message that was published."""
    told: Answer = {"channel": publication.channel}
    if receipt.id is not None:
        told["message"] = str(receipt.id)
    told["replayed"] = receipt.replayed
    if receipt.level is not None:
        told["acknowledged"] = receipt.level.value
    return told
