"""What was missed, a batch at a time: after a slow phase, and behind a reply that could not hold it all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from gateway.delivery.encoding import EncodedBatch
from gateway.delivery.outbox import BATCH
from gateway.hub.recovery.recover import that_fit, until
from gateway.hub.subscription import Subscription
from protocol.position import MessageId

if TYPE_CHECKING:
    from gateway.hub.following import Following


async def catch_up(session: Following) -> None:
    """Replay to *session* what it is behind with, a batch of each channel in turn, while its socket takes it.

    Each is live again where nothing is left. `GatewayError` where the broker cannot tell now.
    """
    while session.behind and _has_room(session):
        subscription = next(iter(session.behind))
        await _next_batch(session, subscription)
        if subscription in session.behind:
            del session.behind[subscription]
            session.behind[subscription] = None  # to the end of the line
            await asyncio.sleep(0)


def _has_room(session: Following) -> bool:
    session.outbox.flush()
    return session.is_open and session.link.writable


async def _next_batch(session: Following, subscription: Subscription) -> None:
    hub, channel = session.services.hub, subscription.channel
    position = cast("MessageId", subscription.behind)  # as everybody has who stands in `session.behind`
    limit = session.services.limits.catch_up_batch
    messages = channel.after(position, limit)
    if messages is None:
        part = await hub.pages.after(channel, position, limit)
        if subscription not in session.behind or subscription.behind != position:
            return
        if part.lost:
            _go_live(session, subscription, gap=part.lost)
            return
        messages = until(channel.top, part.messages)
    if messages:
        fit = max(1, that_fit(messages, BATCH))
        chunk = EncodedBatch(subscription.codec, messages[:fit], position)
        subscription.behind = chunk.last
        session.outbox.offer(subscription, chunk)
    else:
        lost = channel.top is not None and channel.top.offset > position.offset
        _go_live(session, subscription, gap="reset" if lost else None)


def _go_live(session: Following, subscription: Subscription, gap: str | None = None) -> None:
    """Let *subscription* have whatever comes from now on; tell of what is missing."""
    channel = subscription.channel
    channel.settle()
    reason = gap or ("overflow" if subscription.missed else None)
    session.go_live(subscription)
    if reason is not None:
        session.outbox.push(subscription.gap(channel.top, reason))
