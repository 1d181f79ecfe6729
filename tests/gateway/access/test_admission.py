import pytest

from gateway.access.admission import AddressSlot, Admission, AdmissionLimits, ClientSlot
from gateway.clock import FakeClock
from gateway.errors import Rejection
from gateway.transport.http.rejections import render
from protocol.errors import ErrorCode
from tests.gateway.access.clock_loop import run_with_clock


def admitted(admission: Admission, address: str = "198.51.100.1") -> AddressSlot:
    slot = admission.admit_upgrade(address)
    assert isinstance(slot, AddressSlot)
    return slot


def rejected(admission: Admission, address: str = "198.51.100.1") -> Rejection:
    rejection = admission.admit_upgrade(address)
    assert isinstance(rejection, Rejection)
    return rejection


def rejected_for(admission: Admission, reason: str, address: str = "198.51.100.1") -> Rejection:
    """Return a rejection, which must count for *reason* and for no other one."""
    before = admission.statistics()
    rejection = rejected(admission, address)
    after = admission.statistics()
    counted = {name for name in after if name.startswith("refused_") and after[name] != before[name]}
    assert counted == {f"refused_{reason}"}
    return rejection


def test_a_storm_is_admitted_at_the_rate_and_the_others_get_a_retry_after() -> None:
    def scenario(clock: FakeClock) -> None:
        admission = Admission(AdmissionLimits(connects_per_second=10.0, connect_burst=3.0))
        for _ in range(3):
            admitted(admission)
        rejection = rejected_for(admission, "rate")
        assert (render(rejection).status, rejection.code) == (503, ErrorCode.UNAVAILABLE)
        assert "Retry-After" in rejection.message
        clock.advance(0.1)
        admitted(admission)
        rejected(admission)

    run_with_clock(scenario)


def test_a_burst_of_zero_is_one_second_of_the_rate() -> None:
    def scenario(_: FakeClock) -> None:
        admission = Admission(AdmissionLimits(connects_per_second=7.0))
        for _try in range(7):
            admitted(admission)
        rejected(admission)

    run_with_clock(scenario)


@pytest.mark.parametrize(("drawn", "seconds"), [(0.0, 1), (0.19, 1), (0.2, 2), (0.5, 3), (0.99, 5), (1.0, 5)])
def test_retry_after_is_spread_over_one_to_five_seconds(drawn: float, seconds: int) -> None:
    admission = Admission(AdmissionLimits(), random=lambda: drawn)
    admission.overloaded = True
    assert rejected(admission).retry_after == seconds


def test_retry_after_differs_from_client_to_client() -> None:
    admission = Admission(AdmissionLimits())
    admission.overloaded = True
    assert {rejected(admission).retry_after for _ in range(1_000)} == {1, 2, 3, 4, 5}


def test_an_overloaded_node_admits_nobody_until_the_overload_ends() -> None:
    def scenario(_: FakeClock) -> None:
        admission = Admission(AdmissionLimits())
        admission.overloaded = True
        assert render(rejected_for(admission, "overloaded")).status == 503
        admission.overloaded = False
        admitted(admission)

    run_with_clock(scenario)


def connected(admission: Admission, user: str = "") -> ClientSlot:
    slot = admission.admit_client(user)
    assert isinstance(slot, ClientSlot)
    return slot


def test_a_full_node_admits_as_many_as_leave() -> None:
    def scenario(_: FakeClock) -> None:
        admission = Admission(AdmissionLimits(connections=2))
        first = connected(admission, "ann")
        connected(admission)
        assert render(rejected_for(admission, "connections")).status == 503
        first.release()
        admitted(admission)
        connected(admission)
        rejected(admission)

    run_with_clock(scenario)


def test_an_upgrade_without_connect_takes_no_place() -> None:
    def scenario(_: FakeClock) -> None:
        admission = Admission(AdmissionLimits(connections=1))
        for _each in range(10):
            admitted(admission)
        connected(admission, "ann")
        late = admission.admit_client("bob")
        assert isinstance(late, Rejection)
        assert late.code is ErrorCode.UNAVAILABLE
        assert late.retry_after is not None
        assert admission.statistics()["refused_connections"] == 1

    run_with_clock(scenario)


def test_a_slot_is_released_only_once() -> None:
    def scenario(_: FakeClock) -> None:
        admission = Admission(AdmissionLimits(connections=2, per_address=2))
        first, _second = admitted(admission), admitted(admission)
        first.release()
        first.release()
        assert admission.statistics()["addresses"] == 1
        admitted(admission)
        rejected(admission)

    run_with_clock(scenario)


def test_one_address_cannot_take_every_slot() -> None:
    def scenario(_: FakeClock) -> None:
        admission = Admission(AdmissionLimits(per_address=1))
        first = admitted(admission, "198.51.100.1")
        rejection = rejected_for(admission, "address", "198.51.100.1")
        assert (render(rejection).status, rejection.code) == (429, ErrorCode.LIMIT_EXCEEDED)
        assert rejection.retry_after is not None
        assert 10 <= rejection.retry_after <= 30
        admitted(admission, "198.51.100.2")
        first.release()
        admitted(admission, "198.51.100.1")

    run_with_clock(scenario)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:198.51.100.1", "198.51.100.1", True),
        ("::ffff:198.51.100.1", "::ffff:198.51.100.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("not:an:address", "not:an:address", True),
    ],
)
def test_an_ipv6_network_of_64_bits_counts_as_one_address(one: str, other: str, same: bool) -> None:
    def scenario(_: FakeClock) -> None:
        admission = Admission(AdmissionLimits(per_address=1))
        held = admitted(admission, one)
        assert isinstance(admission.admit_upgrade(other), Rejection) is same
        held.release()

    run_with_clock(scenario)


def test_clients_without_an_address_are_not_counted_together() -> None:
    def scenario(_: FakeClock) -> None:
        admission = Admission(AdmissionLimits(per_address=1))
        admitted(admission, "")
        admitted(admission, "")

    run_with_clock(scenario)


def test_an_upgrade_rejected_for_another_reason_does_not_count_towards_the_rate() -> None:
    def scenario(_: FakeClock) -> None:
        admission = Admission(AdmissionLimits(connects_per_second=1.0, connect_burst=2.0, per_address=1))
        admitted(admission, "198.51.100.1")
        for _try in range(50):
            rejected_for(admission, "address", "198.51.100.1")
        admitted(admission, "198.51.100.2")
        rejected_for(admission, "rate", "198.51.100.3")

    run_with_clock(scenario)


def test_a_user_has_a_bounded_number_of_connections() -> None:
    admission = Admission(AdmissionLimits(per_user=2))
    first, second = admission.admit_client("ann"), admission.admit_client("ann")
    assert isinstance(first, ClientSlot)
    assert isinstance(second, ClientSlot)
    rejection = admission.admit_client("ann")
    assert isinstance(rejection, Rejection)
    assert rejection.code is ErrorCode.LIMIT_EXCEEDED
    assert isinstance(admission.admit_client("bob"), ClientSlot)
    first.release()
    first.release()
    assert isinstance(admission.admit_client("ann"), ClientSlot)
    assert isinstance(admission.admit_client("ann"), Rejection)


def test_anonymous_connections_are_not_counted_as_one_user() -> None:
    admission = Admission(AdmissionLimits(per_user=1))
    slots = [admission.admit_client("") for _ in range(3)]
    for anonymous in slots:
        assert isinstance(anonymous, ClientSlot)
        anonymous.release()
    assert admission.statistics()["users"] == 0


def test_statistics_return_to_zero_but_for_the_rejections() -> None:
    def scenario(_: FakeClock) -> None:
        admission = Admission(AdmissionLimits(connections=1, per_user=1))
        slot, user = admitted(admission), connected(admission, "ann")
        rejected(admission)
        admission.admit_client("ann")
        assert admission.statistics() == {
            "connections": 1,
            "addresses": 1,
            "users": 1,
            "overloaded": 0,
            "refused_overloaded": 0,
            "refused_connections": 1,
            "refused_address": 0,
            "refused_rate": 0,
            "refused_user": 1,
        }
        assert repr(admission) == "<Admission 1 connections, 1 users>"
        slot.release()
        user.release()
        counts = admission.statistics()
        assert (counts["connections"], counts["addresses"], counts["users"]) == (0, 0, 0)

    run_with_clock(scenario)
