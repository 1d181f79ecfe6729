"""Publishes messages: one script call per message. All publishes of one event loop turn are sent together."""

from __future__ import annotations

import asyncio
import random
from functools import partial

from gateway.broker.base import AckLevel, Publication, Receipt
from gateway.broker.content_digest import content_digest
from gateway.broker.redis import codec
from gateway.broker.redis.connection.health import ShardHealth
from gateway.broker.redis.connection.pipeline import AnswerFuture, Pipeline, result_or_none
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.operations.recent_count import RecentCount
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.scripts.registry import PUBLISH, Command, milliseconds
from gateway.broker.redis.timeouts import (
    PUBLISH_RETRY_CREDIT_MAX,
    PUBLISH_RETRY_JITTER_SECONDS,
    PUBLISH_RETRY_RATIO,
)
from gateway.broker.uid import UID_SIZE, new_uid
from gateway.clock import Clock, monotonic
from gateway.errors import BrokerUnavailable, KeyReused
from protocol.position import MessageId


class Publisher:
    """Publishes to one shard, in the order of the calls."""

    def __init__(
        self,
        pipeline: Pipeline,
        replicated_pipeline: Pipeline,
        health: ShardHealth,
        keys: Keys,
        options: RedisOptions,
        wall: Clock,
    ) -> None:
        """Prepare to publish.

        Args:
            pipeline: Sends publishes with `AckLevel.STORED`.
            replicated_pipeline: Sends publishes that wait for a replica, each batch after the earlier calls
                of *pipeline*. They delay no other publishes than later ones to the same channel.
            health: Has the id of the node's present incarnation.
            keys: The shard's keys.
            options: The timeout, TTLs and the default `AckLevel`.
            wall: Unix seconds, for the times of messages.
        """
        self._pipeline = pipeline
        self._replicated_pipeline = replicated_pipeline
        self._calls_with_replicated: dict[str, int] = {}
        """For each channel, how many publishes wait in the replicated pipeline, while there are any."""
        self._health = health
        self._keys = keys
        self._options = options
        self._meta_ttl = milliseconds(options.meta_ttl)
        self._key_ttl = milliseconds(options.key_ttl)
        self._wall = wall
        self._retry_credit = PUBLISH_RETRY_CREDIT_MAX
        self.recent_keys = RecentCount(options.key_ttl, monotonic)
        """Idempotency keys that this node has stored, and that Redis has not forgotten yet."""
        self.published = self.replayed = self.retried = self.keys_reused = 0

    async def publish(self, publication: Publication) -> Receipt:
        """Publish and return the receipt.

        A publish with an idempotency key is retried once, within the deadline and the retry budget.

        Raises:
            KeyReused: the message was not published.
            BrokerUnavailable: raised by the deadline at the latest; the message may have been published.
            BrokerFull: the message was not published.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._options.publish_timeout
        if self._retry_credit < PUBLISH_RETRY_CREDIT_MAX:
            self._retry_credit = min(PUBLISH_RETRY_CREDIT_MAX, self._retry_credit + PUBLISH_RETRY_RATIO)
        body = codec.pack_publication(publication, int(self._wall() * 1000))
        level = publication.level or self._options.default_level
        digest = "" if publication.key is None else content_digest(publication)
        # Outside of the `try`: a call that is rejected here is not sent, and a retry would be rejected too.
        call = self._call(publication, body, digest, level, deadline)
        try:
            answer = await call
        except BrokerUnavailable:
            delay = random.random() * PUBLISH_RETRY_JITTER_SECONDS
            # Without a key, a retry could publish the message twice, which is worse than an error.
            if publication.key is None or self._retry_credit < 1.0 or loop.time() + delay >= deadline:
                raise
            self._retry_credit -= 1.0
            self.retried += 1
            await asyncio.sleep(delay)
            # Pack the command again, because this node may have another incarnation by now.
            answer = await self._call(publication, body, digest, level, deadline)
        _, offset, uid, replayed, *replicas = answer
        if replayed:
            # The uid ends in the digest; a receipt that release 0.1.0 wrote has none.
            if publication.key is not None and uid[UID_SIZE:].decode() not in ("", digest):
                self.keys_reused += 1
                raise KeyReused(publication.key)
            self.replayed += 1
        else:
            self.published += 1
            if publication.key is not None:
                self.recent_keys.add()
        id = MessageId(offset, uid.decode()) if offset else None
        if level is AckLevel.STORED:
            return Receipt(id, bool(replayed))
        replicated = await result_or_none(replicas[0], deadline)
        return Receipt(id, bool(replayed), AckLevel.REPLICATED if replicated else AckLevel.STORED)

    def _call(
        self, publication: Publication, body: bytes, digest: str, level: AckLevel, deadline: float
    ) -> AnswerFuture:
        """Call the script after every earlier publish to the channel, whatever the level of that one is."""
        command, channel = self._command(publication, body, digest, level), publication.channel
        if level is AckLevel.STORED and channel not in self._calls_with_replicated:
            return self._pipeline.call(command, deadline)
        answer = self._replicated_pipeline.call(command, deadline, trailing=level is AckLevel.REPLICATED)
        self._calls_with_replicated[channel] = self._calls_with_replicated.get(channel, 0) + 1
        answer.add_done_callback(partial(self._on_executed, channel))
        return answer

    def _on_executed(self, channel: str, _: object) -> None:
        """Forget a call in the replicated pipeline: it was carried out, or has failed."""
        self._calls_with_replicated[channel] -= 1
        if not self._calls_with_replicated[channel]:
            del self._calls_with_replicated[channel]

    def _command(self, publication: Publication, body: bytes, digest: str, level: AckLevel) -> Command:
        keys, channel, retention = self._keys, publication.channel, publication.retention
        # Only the keys that the script needs: while a slot of a Cluster moves, Redis rejects a command with a
        # key that does not exist.
        names = [keys.state, keys.beats, keys.route(channel)]
        if retention is not None:
            names += [keys.meta(channel), keys.log(channel)]
        if publication.key is not None:
            names.append(keys.receipt(channel, publication.key))
        command = PUBLISH(
            names,
            keys.inbox_prefix,
            self._options.inbox_limit,
            channel,
            new_uid(digest),
            body,
            0 if retention is None else retention.size,
            0 if retention is None else milliseconds(retention.ttl),
            self._meta_ttl,
            new_uid(),
            self._key_ttl,
            self._health.incarnation,
        )
        return command if level is AckLevel.STORED else (*command, "replicate")

    def __repr__(self) -> str:
        return f"<Publisher {self.published} published>"
