"""The limits of one peer, decided on a clock that the tests move."""

import pytest

from gateway.clock import FakeClock
from gateway.transport.websocket.peer_limits import PeerLimits
from protocol import limits

BURST = int(limits.CONTROL_FRAME_BURST)
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


@pytest.mark.parametrize("fragments", [2, 3, limits.FRAGMENTS])
def test_messages_in_up_to_64_fragments_are_allowed(peer_limits: PeerLimits, fragments: int) -> None:
    for _ in range(3):
        outcomes = [
            peer_limits.count_fragment(final=number == fragments) for number in range(1, fragments + 1)
        ]
        assert outcomes == [None] * fragments


def test_a_message_in_too_many_fragments_is_a_violation_before_its_last_fragment(
    peer_limits: PeerLimits,
) -> None:
    allowed = [peer_limits.count_fragment(final=False) for _ in range(limits.FRAGMENTS)]
    assert allowed == [None] * limits.FRAGMENTS
    assert peer_limits.count_fragment(final=False) == "a message in more than 64 fragments"
    assert peer_limits.count_fragment(final=True) == "a message in more than 64 fragments"


def test_control_frames_and_fragments_are_counted_separately(peer_limits: PeerLimits) -> None:
    for _ in range(BURST):
        assert peer_limits.count_fragment(final=False) is None
        assert peer_limits.count_control_frame() is None
    assert peer_limits.count_control_frame() is not None
    assert peer_limits.count_fragment(final=False) is None
