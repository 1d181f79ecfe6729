from gateway.broker.redis.scripts.registry import SCRIPTS


def test_scripts_have_their_own_digests() -> None:
    assert len({script.digest for script in SCRIPTS}) == len(SCRIPTS)
