"""One shard that rejects the layout keeps the whole node from serving."""

from gateway.broker.redis.membership.layout_check import LayoutCheck
from gateway.errors import BrokerUnavailable


def test_a_layout_is_rejected_until_every_shard_has_accepted_it() -> None:
    check, first, second = LayoutCheck(), object(), object()
    check.accept(first)
    initial = check.error
    errors = BrokerUnavailable("first"), BrokerUnavailable("second")
    check.reject(first, errors[0])
    check.reject(second, errors[1])
    last = check.error
    check.accept(second)
    remaining = check.error
    check.accept(first)
    assert (initial, last, remaining, check.error) == (None, errors[1], errors[0], None)
