"""The limits of one peer, decided on a clock that the tests move."""

import pytest

from gateway.clock import FakeClock
from gateway.transport.websocket.peer_limits import PeerLimits
from protocol import limits

BURST = int(limits.CONTROL_FRAME_BURST)
FRAGMENT_BURST = int(limits.FRAGMENT_BURST)
RATE = limits.CONTROL_FRAMES_PER_SECOND


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def peer_limits(clock: FakeClock) -> PeerLimits:
    return PeerLimits(clock)


def test_a_burst_of_control_frames_is_allowed_and_no_more(peer_limits: PeerLimits) -> None:
    assert [peer_limits.count_control_frame() for _ in range(BURST)] == [None] * BURST
    assert peer_limits.count_control_frame() == "more than 10 control frames a second"


def test_control_frames_at_the_allowed_rate_are_never_a_violation(
    peer_limits: PeerLimits, clock: FakeClock
) -> None:
    for _ in range(BURST):
        peer_limits.count_control_frame()
    for _ in range(1_000):
        clock.advance(1 / RATE + 1e-9)
        assert peer_limits.count_control_frame() is None
    assert peer_limits.count_control_frame() is not None


def test_an_hour_without_control_frames_allows_one_burst(peer_limits: PeerLimits, clock: FakeClock) -> None:
    clock.advance(3_600)
    outcomes = [peer_limits.count_control_frame() for _ in range(BURST + 1)]
    assert outcomes.index("more than 10 control frames a second") == BURST


def test_a_burst_of_fragments_is_handled_at_once(peer_limits: PeerLimits) -> None:
    assert {peer_limits.fragment_delay() for _ in range(FRAGMENT_BURST)} == {0.0}
    assert peer_limits.fragment_delay() > 0


def test_after_each_delay_some_more_are_handled(peer_limits: PeerLimits, clock: FakeClock) -> None:
    for _ in range(FRAGMENT_BURST):
        peer_limits.fragment_delay()
    began, handled = clock(), 0
    while clock() - began < 10:
        if delay := peer_limits.fragment_delay():
            clock.advance(delay)
        else:
            handled += 1
    assert handled == pytest.approx(10 * limits.FRAGMENTS_PER_SECOND, rel=0.02)


def test_fragments_at_the_rate_are_never_delayed(peer_limits: PeerLimits, clock: FakeClock) -> None:
    for _ in range(3 * FRAGMENT_BURST):
        clock.advance(1 / limits.FRAGMENTS_PER_SECOND)
        assert peer_limits.fragment_delay() == 0


def test_control_frames_and_fragments_are_counted_separately(peer_limits: PeerLimits) -> None:
    for _ in range(BURST):
        assert peer_limits.fragment_delay() == 0
        assert peer_limits.count_control_frame() is None
    assert peer_limits.count_control_frame() is not None
    assert peer_limits.fragment_delay() == 0
