from gateway.broker.uid import new_uid
from protocol.position import MessageId


def test_uids_do_not_repeat() -> None:
    uids = {new_uid() for _ in range(10_000)}
    assert len(uids) == 10_000
    assert all(MessageId.parse(f"1-{uid}") for uid in uids)
