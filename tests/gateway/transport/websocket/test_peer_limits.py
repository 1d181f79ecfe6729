"""What one peer may make a link do, decided on a clock that stands still."""

import pytest

from gateway.clock import FakeClock
from gateway.transport.websocket.peer_limits import PeerLimits
from protocol import limits

BURST = int(limits.PING_BURST)
RATE = limits.PINGS_PER_SECOND


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def guard(clock: FakeClock) -> PeerLimits:
    return PeerLimits(clock)


def test_a_burst_of_control_frames_is_allowed_and_no_more(guard: PeerLimits) -> None:
    assert [guard.control() for _ in range(BURST)] == [None] * BURST
    assert guard.control() == "more than 10 control frames a second"


def test_control_frames_are_allowed_for_ever_at_their_rate(guard: PeerLimits, clock: FakeClock) -> None:
    for _ in range(BURST):
        guard.control()
    for _ in range(1_000):
        clock.advance(1 / RATE + 1e-9)
        assert guard.control() is None
    assert guard.control() is not None


def test_a_long_silence_earns_one_burst(guard: PeerLimits, clock: FakeClock) -> None:
    clock.advance(3_600)
    assert [guard.control() for _ in range(BURST + 1)].index("more than 10 control frames a second") == BURST


@pytest.mark.parametrize("fragments", [2, 3, limits.FRAGMENTS])
def test_a_message_may_come_in_fragments(guard: PeerLimits, fragments: int) -> None:
    for _ in range(3):
        assert [guard.fragment(last=number == fragments) for number in range(1, fragments + 1)] == (
            [None] * fragments
        )


def test_a_message_in_too_many_fragments_is_refused_before_it_ends(guard: PeerLimits) -> None:
    assert [guard.fragment(last=False) for _ in range(limits.FRAGMENTS)] == [None] * limits.FRAGMENTS
    assert guard.fragment(last=False) == "a message in more than 64 fragments"
    assert guard.fragment(last=True) == "a message in more than 64 fragments"


def test_control_frames_between_fragments_count_for_themselves(guard: PeerLimits) -> None:
    for _ in range(BURST):
        assert guard.fragment(last=False) is None
        assert guard.control() is None
    assert guard.control() is not None
    assert guard.fragment(last=False) is None
