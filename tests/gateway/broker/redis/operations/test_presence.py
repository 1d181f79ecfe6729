import pytest

from gateway.broker.redis import codec
from gateway.broker.redis.operations.presence import decode_members
from gateway.tasks import Slicer
from protocol.messages import Member
from tests.gateway.turns import work_per_turn


async def test_other_callbacks_get_their_turn_while_many_members_are_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = [b"%d n1~x %b" % (order, b'["u",\n["%d",null]]' % order) for order in reversed(range(20_000))]
    async with work_per_turn() as work:
        monkeypatch.setattr(codec, "unpack_member", work.counting(codec.unpack_member))
        present = await decode_members(values, Slicer())
    assert present.members == tuple(Member(str(number), "u") for number in range(20_000))
    assert (work.total, work.most <= 1_500) == (20_000, True)
