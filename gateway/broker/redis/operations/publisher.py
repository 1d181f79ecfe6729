"""Publishing: one script per message, all those of a turn of the loop in one pipeline."""

from __future__ import annotations

import asyncio
import random

from gateway.broker.base import AckLevel, Publication, Receipt
from gateway.broker.redis import codec
from gateway.broker.redis.connection.health import ShardHealth
from gateway.broker.redis.connection.pipeline import Pipeline
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.scripts.registry import PUBLISH, Command, milliseconds
from gateway.broker.redis.timeouts import (
    PUBLISH_RETRY_CREDIT_MAX,
    PUBLISH_RETRY_JITTER_SECONDS,
    PUBLISH_RETRY_RATIO,
)
from gateway.broker.uid import new_uid
from gateway.clock import Clock
from gateway.errors import BrokerUnavailable
from protocol.position import MessageId


class Publisher:
    """Publishes to one shard, in the order of the calls."""

    def __init__(
        self,
        line: Pipeline,
        replicated: Pipeline,
        contact: ShardHealth,
        keys: Keys,
        options: RedisOptions,
        wall: Clock,
    ) -> None:
        """Send by *line*; by *replicated* what waits for a replica, so that it delays nobody who does not."""
        self._lines = {AckLevel.STORED: line, AckLevel.REPLICATED: replicated}
        self._contact = contact
        self._keys = keys
        self._options = options
        self._meta_ttl = milliseconds(options.meta_ttl)
        self._key_ttl = milliseconds(options.key_ttl)
        self._wall = wall
        self._credit = PUBLISH_RETRY_CREDIT_MAX
        self.published = self.replayed = self.retried = 0

    async def publish(self, publication: Publication) -> Receipt:
        """Return the receipt for *publication*; `BrokerUnavailable` in time, made again or not."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._options.publish_timeout
        if self._credit < PUBLISH_RETRY_CREDIT_MAX:
            self._credit = min(PUBLISH_RETRY_CREDIT_MAX, self._credit + PUBLISH_RETRY_RATIO)
        body = codec.pack(publication, int(self._wall() * 1000))
        level = publication.level or self._options.default_level
        line = self._lines[level]
        # Outside of the `try`: what is refused here was not sent, and asking again would be no use, either.
        sent = line.call(self._command(publication, body, level), until)
        try:
            answer = await sent
        except BrokerUnavailable:
            pause = random.random() * PUBLISH_RETRY_JITTER_SECONDS
            # Without a key nobody can tell whether it was carried out, and twice is worse than an error.
            if publication.key is None or self._credit < 1.0 or loop.time() + pause >= until:
                raise
            self._credit -= 1.0
            self.retried += 1
            await asyncio.sleep(pause)
            # Made anew: this node may have become another incarnation.
            answer = await line.call(self._command(publication, body, level), until)
        _, offset, uid, replayed, *replicas = answer
        if replayed:
            self.replayed += 1
        else:
            self.published += 1
        id = MessageId(offset, uid.decode()) if offset else None
        if level is AckLevel.STORED:
            return Receipt(id, bool(replayed))
        return Receipt(id, bool(replayed), AckLevel.REPLICATED if replicas[0] else AckLevel.STORED)

    def _command(self, publication: Publication, body: bytes, level: AckLevel) -> Command:
        keys, channel, retention = self._keys, publication.channel, publication.retention
        # None that is not there: a slot of a Cluster that is about to move refuses these.
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
            new_uid(),
            body,
            0 if retention is None else retention.size,
            0 if retention is None else milliseconds(retention.ttl),
            self._meta_ttl,
            new_uid(),
            self._key_ttl,
            self._contact.incarnation,
        )
        return command if level is AckLevel.STORED else (*command, "replicate")

    def __repr__(self) -> str:
        return f"<Publisher {self.published} published>"
