"""Retries of keyed publishes whose connection is cut at any byte of the call or its answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import pytest_asyncio

from gateway.broker.base import Receipt
from gateway.broker.redis.scripts.registry import PUBLISH
from gateway.broker.redis.timeouts import PUBLISH_RETRY_CREDIT_MAX, PUBLISH_RETRY_RATIO
from gateway.errors import BrokerUnavailable
from tests.broker.recording_node import publication, publish, values
from tests.broker.redis_fleet import Fleet, eventually
from tests.broker.redis_proxy import CutPoint, CuttingProxy, Proxy
from tests.broker.redis_server import RedisServer
from tests.broker.test_redis_nodes import LONG

MARK = PUBLISH.digest.encode()


PLACES = [
    CutPoint(request=0.0),
    CutPoint(request=0.01),
    CutPoint(request=0.5),
    CutPoint(request=0.99),
    CutPoint(answer=0.0),
    CutPoint(answer=0.1),
    CutPoint(answer=0.99),
]


@pytest_asyncio.fixture
async def scissors(server: RedisServer) -> AsyncIterator[CuttingProxy]:
    async with CuttingProxy(server.port, MARK) as scissors:
        yield scissors


@pytest.mark.parametrize("place", PLACES, ids=str)
async def test_a_keyed_publish_is_stored_once_wherever_its_connection_is_cut(
    scissors: CuttingProxy, fleet: Fleet, place: CutPoint
) -> None:
    one, two = await fleet.launch(), await fleet.launch(scissors.url, lease=30.0)
    await one.broker.subscribe("a", LONG)
    scissors.places = [place]
    receipt = await two.broker.publish(publication("a", 1, key="k", retention=LONG))
    assert (scissors.cuts, two.broker.statistics()["retried"]) == (1, 1)
    # A command that reached Redis as a whole was carried out, with or without an answer.
    assert receipt.replayed is (place.request == 1.0) is bool(scissors.answered)
    again = await two.broker.publish(publication("a", 1, key="k", retention=LONG))
    assert again == Receipt(receipt.id, replayed=True)
    await publish(one.broker, "a", "marker", retention=LONG)
    assert values(await one.node.messages(2)) == [1, "marker"]


@pytest.mark.parametrize("first", range(len(PLACES)))
async def test_a_keyed_publish_repeated_ten_times_through_cuts_is_stored_once(
    scissors: CuttingProxy, fleet: Fleet, first: int
) -> None:
    one, two = await fleet.launch(), await fleet.launch(scissors.url, lease=30.0)
    await one.broker.subscribe("a", LONG)
    receipts: list[Receipt] = []
    for attempt in range(10):
        # Every second time the retry of the node is cut as well, so that the caller has to repeat it.
        place = PLACES[(first + attempt) % len(PLACES)]
        scissors.places = [place, PLACES[attempt % len(PLACES)]] if attempt % 2 else [place]
        with suppress(BrokerUnavailable):
            receipts.append(await two.broker.publish(publication("a", 1, key="k", retention=LONG)))
        await eventually(two.broker.ready)
    scissors.places = []
    receipts.append(await two.broker.publish(publication("a", 1, key="k", retention=LONG)))
    assert scissors.cuts >= 10
    assert {receipt.id for receipt in receipts} == {receipts[0].id}
    assert all(receipt.replayed for receipt in receipts[1:])
    assert values((await one.broker.read("a")).messages) == [1]
    await publish(one.broker, "a", "marker", retention=LONG)
    assert values(await one.node.messages(2)) == [1, "marker"]


# ---------------------------------------------------------------- the budget


async def test_at_most_a_tenth_of_all_publishes_is_retried(scissors: CuttingProxy, fleet: Fleet) -> None:
    one = await fleet.launch(scissors.url, lease=30.0)
    published = 0

    async def cut(count: int) -> int:
        """Cut the connections of so many publishes; return how many succeeded by a retry."""
        nonlocal published
        through = 0
        for _ in range(count):
            published += 1
            await eventually(one.broker.ready)
            scissors.places = [CutPoint(request=0.0)]
            with suppress(BrokerUnavailable):
                await one.broker.publish(publication("a", 1, key=f"k{published}"))
                through += 1
            retried = one.broker.statistics()["retried"]
            assert retried <= PUBLISH_RETRY_CREDIT_MAX + PUBLISH_RETRY_RATIO * published
        return through

    saved = await cut(20)
    assert PUBLISH_RETRY_CREDIT_MAX <= saved < 20, "the saved credit is used up"
    assert saved == one.broker.statistics()["retried"]
    await publish(one.broker, "a", *range(40))
    published += 40
    assert 4 <= await cut(8) <= 5


async def test_a_publish_that_was_not_sent_uses_no_retry_budget(server: RedisServer, fleet: Fleet) -> None:
    one = await fleet.launch(lease=3.0)
    await publish(one.broker, "a", 0)
    server.kill()
    await eventually(lambda: not one.broker.ready())
    keyed = [publication("a", number, key=f"k{number}") for number in range(10)]
    outcomes = await asyncio.gather(*map(one.broker.publish, keyed), return_exceptions=True)
    assert {type(each) for each in outcomes} == {BrokerUnavailable}
    assert one.broker.statistics()["retried"] == 0


async def test_a_publish_is_not_retried_after_its_deadline(proxy: Proxy, fleet: Fleet) -> None:
    one = await fleet.launch(proxy.url, lease=30.0, publish_timeout=2.0)
    await publish(one.broker, "a", 0)
    proxy.hold()
    with pytest.raises(BrokerUnavailable):
        await one.broker.publish(publication("a", 1, key="k"))
    assert one.broker.statistics()["retried"] == 0
    proxy.release()
