import pytest

from gateway.broker.redis.operations.presence import MEMBERS_PER_TURN, decode_members
from protocol.messages import Member


def test_other_callbacks_get_their_turn_while_many_members_are_decoded() -> None:
    count = MEMBERS_PER_TURN * 3
    values = [b"%d n1~x %b" % (count - order, b'["u",\n["c",null]]') for order in range(count)]
    decoding = decode_members(values)
    for _ in range(2):
        assert decoding.send(None) is None
    with pytest.raises(StopIteration) as done:
        decoding.send(None)
    assert done.value.value.members == (Member("c", "u"),) * count
