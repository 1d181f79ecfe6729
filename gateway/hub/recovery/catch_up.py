"""Sends missed messages in batches: after an overflow, and after a reply that could not hold them all."""

from __future__ import annotations

from typing import Protocol, cast

from gateway.delivery.encoding import ENCODE_MICROSECONDS, EncodedBatch
from gateway.delivery.outbox import WRITE_BATCH_BYTES, Outbox, Writer
from gateway.delivery.reply_size import fitting, message_size
from gateway.hub.history_cache import HistoryCache
from gateway.hub.recovery.recover import up_to
from gateway.hub.subscription import Subscription
from gateway.tasks import Slicer
from protocol.position import MessageId


class CatchingUpSession(Protocol):
    """A session, as far as a catch-up knows it."""

    @property
    def is_open(self) -> bool:
        """Whether the session has not ended."""

    @property
    def transport(self) -> Writer:
        """Its connection."""

    @property
    def outbox(self) -> Outbox:
        """What waits for the connection."""

    @property
    def behind(self) -> dict[Subscription, None]:
        """Its subscriptions that wait for a catch-up; the next one to get a batch comes first."""


async def catch_up(session: CatchingUpSession, cache: HistoryCache, slicer: Slicer, *, batch: int) -> None:
    """Send the subscriptions of *session* that are behind what they missed, while its socket accepts more.

    Each gets a batch of at most *batch* messages in turn, and is live again once nothing is left.

    Raises:
        GatewayError: The broker does not answer; what is left is still behind.
    """
    while session.behind and _socket_has_room(session):
        subscription = next(iter(session.behind))
        await _send_batch(session, subscription, cache, batch)
        if subscription in session.behind:
            del session.behind[subscription]
            session.behind[subscription] = None  # to the end of the line
            await slicer.turn(batch * ENCODE_MICROSECONDS)


def _socket_has_room(session: CatchingUpSession) -> bool:
    session.outbox.flush()
    return session.is_open and session.transport.writable


async def _send_batch(
    session: CatchingUpSession, subscription: Subscription, cache: HistoryCache, limit: int
) -> None:
    channel = subscription.channel
    position = cast("MessageId", subscription.behind)  # not None for any subscription in `session.behind`
    messages = channel.messages_after(position, limit)
    if messages is None:
        part = await cache.messages_after(channel, position, limit)
        if subscription not in session.behind or subscription.behind != position:
            return
        if part.gap_reason:
            _go_live(subscription, gap=part.gap_reason)
            return
        messages = up_to(channel.position, part.messages)
    if messages:
        count, _ = fitting(messages, message_size, room=WRITE_BATCH_BYTES)
        encoded = EncodedBatch(subscription.codec, messages[: max(1, count)], position)
        subscription.behind = encoded.last
        session.outbox.offer(subscription, encoded)
    else:
        lost = channel.position is not None and channel.position.offset > position.offset
        _go_live(subscription, gap="reset" if lost else None)


def _go_live(subscription: Subscription, gap: str | None = None) -> None:
    """Let *subscription* get live messages again, after a `gap` push if messages are missing for good."""
    channel = subscription.channel
    channel.offer_pending()
    reason = gap or ("overflow" if subscription.missed_unnumbered else None)
    subscription.go_live()
    if reason is not None:
        subscription.outbox.enqueue(subscription.gap_frame(channel.position, reason))
