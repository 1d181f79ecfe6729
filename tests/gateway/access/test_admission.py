import pytest

from gateway.access.admission import Admission, AdmissionLimits, Ticket, UserTicket
from gateway.clock import FakeClock
from gateway.errors import Rejection
from gateway.transport.http.rejections import render
from protocol.errors import ErrorCode
from tests.gateway.clock_loop import on_loop


def ticket(admission: Admission, address: str = "198.51.100.1") -> Ticket:
    admitted = admission.admit_upgrade(address)
    assert isinstance(admitted, Ticket)
    return admitted


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


def test_a_storm_is_admitted_at_the_rate_and_told_when_to_come_back() -> None:
    def scenario(clock: FakeClock) -> None:
        admission = Admission(AdmissionLimits(upgrades_per_s=10.0, upgrade_burst=3.0))
        for _ in range(3):
            ticket(admission)
        rejection = rejected_for(admission, "rate")
        assert (render(rejection).status, rejection.code) == (503, ErrorCode.UNAVAILABLE)
        assert "Retry-After" in rejection.message
        clock.advance(0.1)
        ticket(admission)
        rejected(admission)

    on_loop(scenario)


def test_the_burst_is_a_second_of_the_rate_where_it_is_not_said() -> None:
    def scenario(_: FakeClock) -> None:
        admission = Admission(AdmissionLimits(upgrades_per_s=7.0))
        for _try in range(7):
            ticket(admission)
        rejected(admission)

    on_loop(scenario)


@pytest.mark.parametrize(("drawn", "seconds"), [(0.0, 1), (0.19, 1), (0.2, 2), (0.5, 3), (0.99, 5), (1.0, 5)])
def test_retry_after_is_spread_over_one_to_five_seconds(drawn: float, seconds: int) -> None:
    admission = Admission(AdmissionLimits(), random=lambda: drawn)
    admission.overloaded = True
    assert rejected(admission).retry_after == seconds


def test_retry_after_differs_from_client_to_client() -> None:
    admission = Admission(AdmissionLimits())
    admission.overloaded = True
    assert {rejected(admission).retry_after for _ in range(1_000)} == {1, 2, 3, 4, 5}


def test_an_overloaded_node_admits_nobody_until_it_is_not() -> None:
    def scenario(_: FakeClock) -> None:
        admission = Admission(AdmissionLimits())
        admission.overloaded = True
        assert render(rejected_for(admission, "overloaded")).status == 503
        admission.overloaded = False
        ticket(admission)

    on_loop(scenario)


def test_a_full_node_admits_as_many_as_leave() -> None:
    def scenario(_: FakeClock) -> None:
        admission = Admission(AdmissionLimits(connections=2))
        first = ticket(admission)
        ticket(admission)
        assert render(rejected_for(admission, "connections")).status == 503
        first.release()
        ticket(admission)
        rejected(admission)

    on_loop(scenario)


def test_a_ticket_gives_its_place_back_once() -> None:
    def scenario(_: FakeClock) -> None:
        admission = Admission(AdmissionLimits(connections=2, per_address=2))
        first, _second = ticket(admission), ticket(admission)
        first.release()
        first.release()
        assert admission.statistics()["connections"] == 1
        ticket(admission)
        rejected(admission)

    on_loop(scenario)


def test_one_address_cannot_take_every_place() -> None:
    def scenario(_: FakeClock) -> None:
        admission = Admission(AdmissionLimits(per_address=1))
        first = ticket(admission, "198.51.100.1")
        rejection = rejected_for(admission, "address", "198.51.100.1")
        assert (render(rejection).status, rejection.code) == (429, ErrorCode.LIMIT_EXCEEDED)
        assert rejection.retry_after is not None
        assert 10 <= rejection.retry_after <= 30
        ticket(admission, "198.51.100.2")
        first.release()
        ticket(admission, "198.51.100.1")

    on_loop(scenario)


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
def test_an_ipv6_line_counts_as_one_address(one: str, other: str, same: bool) -> None:
    def scenario(_: FakeClock) -> None:
        admission = Admission(AdmissionLimits(per_address=1))
        held = ticket(admission, one)
        assert isinstance(admission.admit_upgrade(other), Rejection) is same
        held.release()

    on_loop(scenario)


def test_clients_without_an_address_are_not_counted_together() -> None:
    def scenario(_: FakeClock) -> None:
        admission = Admission(AdmissionLimits(per_address=1))
        ticket(admission, "")
        ticket(admission, "")

    on_loop(scenario)


def test_who_is_refused_for_another_reason_does_not_use_up_the_rate() -> None:
    def scenario(_: FakeClock) -> None:
        admission = Admission(AdmissionLimits(upgrades_per_s=1.0, upgrade_burst=2.0, per_address=1))
        ticket(admission, "198.51.100.1")
        for _try in range(50):
            rejected_for(admission, "address", "198.51.100.1")
        ticket(admission, "198.51.100.2")
        rejected_for(admission, "rate", "198.51.100.3")

    on_loop(scenario)


def test_a_user_has_a_bounded_number_of_connections() -> None:
    admission = Admission(AdmissionLimits(per_user=2))
    first, second = admission.admit_user("ann"), admission.admit_user("ann")
    assert isinstance(first, UserTicket)
    assert isinstance(second, UserTicket)
    rejection = admission.admit_user("ann")
    assert isinstance(rejection, Rejection)
    assert rejection.code is ErrorCode.LIMIT_EXCEEDED
    assert isinstance(admission.admit_user("bob"), UserTicket)
    first.release()
    first.release()
    assert isinstance(admission.admit_user("ann"), UserTicket)
    assert isinstance(admission.admit_user("ann"), Rejection)


def test_the_anonymous_are_not_one_user() -> None:
    admission = Admission(AdmissionLimits(per_user=1))
    tickets = [admission.admit_user("") for _ in range(3)]
    for anonymous in tickets:
        assert isinstance(anonymous, UserTicket)
        anonymous.release()
    assert admission.statistics()["users"] == 0


def test_statistics_come_back_to_nothing_and_remember_refusals() -> None:
    def scenario(_: FakeClock) -> None:
        admission = Admission(AdmissionLimits(connections=1, per_user=1))
        place, user = ticket(admission), admission.admit_user("ann")
        assert isinstance(user, UserTicket)
        rejected(admission)
        admission.admit_user("ann")
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
        place.release()
        user.release()
        counts = admission.statistics()
        assert (counts["connections"], counts["addresses"], counts["users"]) == (0, 0, 0)

    on_loop(scenario)
