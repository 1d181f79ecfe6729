from zlib import crc32

from gateway.broker.redis.keys import Keys, shard_of


def test_every_key_of_a_shard_is_in_its_slot() -> None:
    keys = Keys("fanway", 3)
    names = [
        *(
            keys.state,
            keys.nodes,
            keys.node_records,
            keys.beats,
            keys.routed_names,
            keys.meta("a"),
            keys.log("a"),
        ),
        *(keys.route("a"), keys.members("a"), keys.receipt("a", "k"), keys.inbox("n"), keys.node_routes("n")),
        keys.node_members("n"),
    ]
    assert all(name.startswith("fanway:{3}:") for name in names)
    assert len(set(names)) == len(names)


def test_shards_are_by_name_and_the_same_everywhere() -> None:
    assert [shard_of(name, 5) for name in ("a", "room:1", "@ann", "=ann")] == [2, 0, 2, 2]
    assert shard_of("@auth0%7C5f7c", 64) == shard_of("=auth0|5f7c", 64) == crc32(b"auth0|5f7c") % 64
    used = {shard_of(f"room:{n}", 8) for n in range(100)}
    assert used == set(range(8))
