"""Which locator each shard gets, and what a fixed primary answers."""

from gateway.broker.redis import Server
from gateway.broker.redis.connection.sentinel import SentinelPrimary
from gateway.broker.redis.connection.topology import ClusterPrimary, FixedPrimary, primary_locators

KEYS = [f"fanway:{{{number}}}:" for number in range(4)]


def test_shards_are_spread_over_independent_servers_in_turn() -> None:
    servers = [Server.from_url("redis://a"), Server.from_url("redis+sentinel://b/main")]
    locators = primary_locators(servers, KEYS, cluster=False)
    assert [type(locator) for locator in locators] == [FixedPrimary, SentinelPrimary] * 2
    assert locators[0] is locators[2]
    assert locators[1] is locators[3]
    assert [locator.description for locator in locators[:2]] == ["a:6379", ""]


def test_each_shard_of_a_cluster_has_a_locator_and_all_share_the_slots() -> None:
    servers = [Server.from_url("redis://a"), Server.from_url("redis://b:7000")]
    locators = primary_locators(servers, KEYS, cluster=True)
    assert all(isinstance(locator, ClusterPrimary) for locator in locators)
    assert len(set(locators)) == len(KEYS)
    assert {locator.description for locator in locators} == {"a:6379, b:7000"}
    assert not locators[0].is_current(None, recheck=False), "the slots are not known yet"


async def test_a_fixed_primary_is_always_at_the_address_of_its_url() -> None:
    primary = FixedPrimary(Server.from_url("redis://a"))
    primary.invalidate()
    assert primary.is_current(None, recheck=True)
    assert await primary.locate(recheck=True) is None
