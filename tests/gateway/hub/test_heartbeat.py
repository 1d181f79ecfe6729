import math
import tracemalloc
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import FakeClock
from gateway.defaults import STALL_TIMEOUT_SECONDS
from gateway.hub.heartbeat import Heartbeat, HeartbeatAction, next_action
from gateway.hub.pong_deadline import PongDeadline
from gateway.transport.tcp_progress import UNKNOWN, TcpProgress
from tests.gateway.virtual_time import no_deadline

INTERVAL, GRACE = 25.0, 10.0


class Peer:
    """A session, as far as the heartbeat knows it, and its client."""

    def __init__(self, clock: FakeClock, *, answers_after: float | None = 0.0) -> None:
        self.clock = clock
        self.answers_after = answers_after
        self.last_received_at = 0.0
        self.ping_sent_at = 0.0
        self.wheel_slot = -1
        self.pong_deadline: PongDeadline | None = None
        self.tcp_progress = UNKNOWN
        self.pings: list[float] = []
        self.timed_out_at: list[float] = []
        self.when_timed_out: Callable[[], None] = lambda: None

    def ping(self) -> int:
        self.pings.append(self.clock())
        if self.answers_after is not None:
            self.clock.call_later(self.answers_after, self.send)
        return 17

    def progress(self) -> TcpProgress:
        return self.tcp_progress

    def send(self) -> None:
        self.last_received_at = self.clock()

    def on_heartbeat_timeout(self) -> None:
        self.timed_out_at.append(self.clock())
        self.when_timed_out()


def wheel(clock: FakeClock, *, interval: float = INTERVAL, grace: float = GRACE) -> Heartbeat:
    return Heartbeat(clock, interval=interval, grace=grace)


# ---------------------------------------------------------------- next_action


@pytest.mark.parametrize(
    ("now", "seen", "pinged", "action", "check_at"),
    [
        pytest.param(100.0, 90.0, 0.0, HeartbeatAction.WAIT, 115.0, id="received lately"),
        pytest.param(114.9, 90.0, 0.0, HeartbeatAction.WAIT, 115.0, id="just before the interval"),
        pytest.param(115.0, 90.0, 0.0, HeartbeatAction.PING, 125.0, id="silent for the interval"),
        pytest.param(120.0, 90.0, 115.0, HeartbeatAction.WAIT, 125.0, id="pinged, in time"),
        pytest.param(124.9, 90.0, 115.0, HeartbeatAction.WAIT, 125.0, id="pinged, just in time"),
        pytest.param(125.0, 90.0, 115.0, HeartbeatAction.TIME_OUT, 125.0, id="pinged, too late"),
        pytest.param(125.0, 115.0, 115.0, HeartbeatAction.WAIT, 140.0, id="answered in the same instant"),
        pytest.param(125.0, 118.0, 115.0, HeartbeatAction.WAIT, 143.0, id="answered"),
        pytest.param(
            143.0, 118.0, 115.0, HeartbeatAction.PING, 153.0, id="answered, then silent for the interval"
        ),
        pytest.param(100.0, 101.0, 0.0, HeartbeatAction.WAIT, 126.0, id="received after the tick was due"),
    ],
)
def test_next_action_is_due_at_the_right_time(
    now: float, seen: float, pinged: float, action: HeartbeatAction, check_at: float
) -> None:
    assert next_action(now, seen, pinged, INTERVAL, GRACE) == (action, check_at)


# ---------------------------------------------------------------- one connection


def test_a_silent_session_is_pinged_and_then_timed_out() -> None:
    clock = FakeClock(0.0)
    heartbeat, peer = wheel(clock), Peer(clock, answers_after=None)
    heartbeat.add(peer)
    clock.advance(INTERVAL - 0.1)
    assert peer.pings == []
    clock.advance(0.1)
    assert peer.pings == [INTERVAL]
    clock.advance(GRACE - 0.1)
    assert peer.timed_out_at == []
    clock.advance(0.1)
    assert peer.timed_out_at == [INTERVAL + GRACE]
    assert heartbeat.statistics() == {"sessions": 0, "pings": 1, "extended": 0, "dead": 1}
    clock.advance(1_000.0)
    assert len(peer.timed_out_at) == 1


@pytest.mark.parametrize("answers_after", [0.0, 1.0, GRACE - 0.5])
def test_a_session_that_answers_pings_stays(answers_after: float) -> None:
    clock = FakeClock(0.0)
    heartbeat, peer = wheel(clock), Peer(clock, answers_after=answers_after)
    heartbeat.add(peer)
    clock.advance(10_000.0)
    assert peer.timed_out_at == []
    assert len(peer.pings) == pytest.approx(10_000.0 / (INTERVAL + answers_after), rel=0.1)


def test_a_session_that_sends_is_never_pinged() -> None:
    clock = FakeClock(0.0)
    heartbeat, peer = wheel(clock), Peer(clock)
    heartbeat.add(peer)
    for _ in range(100):
        clock.advance(INTERVAL * 0.9)
        peer.send()
    assert (peer.pings, peer.timed_out_at) == ([], [])


def test_a_removed_session_is_not_pinged() -> None:
    clock = FakeClock(0.0)
    heartbeat, peer = wheel(clock), Peer(clock)
    heartbeat.remove(peer)
    heartbeat.add(peer)
    assert heartbeat.statistics()["sessions"] == 1
    heartbeat.remove(peer)
    heartbeat.remove(peer)
    clock.advance(1_000.0)
    assert (peer.pings, peer.wheel_slot) == ([], -1)
    assert heartbeat.statistics()["sessions"] == 0
    assert repr(heartbeat) == "<Heartbeat every 25.0 s for 0 sessions>"


def test_the_timer_stops_while_there_are_no_sessions() -> None:
    clock = FakeClock(0.0)
    heartbeat = wheel(clock)
    first, second = Peer(clock), Peer(clock)
    heartbeat.add(first)
    heartbeat.remove(first)
    clock.advance(5.0)
    assert heartbeat._timer is None  # noqa: SLF001 (nothing else shows it)
    clock.advance(1_000.0)
    heartbeat.add(second)
    clock.advance(INTERVAL)
    assert second.pings == [1_005.0 + INTERVAL]


def test_a_closed_heartbeat_sends_no_ping() -> None:
    clock = FakeClock(0.0)
    heartbeat, peer = wheel(clock), Peer(clock)
    heartbeat.close()
    heartbeat.add(peer)
    heartbeat.close()
    heartbeat.close()
    clock.advance(1_000.0)
    assert peer.pings == []


# ---------------------------------------------------------------- bytes that travel


def test_client_that_sends_a_part_of_a_message_stays_until_it_sends_nothing() -> None:
    clock = FakeClock(0.0)
    heartbeat, peer = wheel(clock), Peer(clock, answers_after=None)
    heartbeat.add(peer)
    peer.tcp_progress = TcpProgress(0, 0, 0.0, 3.0)
    clock.advance(1_000.0)
    assert peer.timed_out_at == []
    assert len(peer.pings) > 20
    peer.tcp_progress = TcpProgress(0, 0, 0.0, math.inf)
    clock.advance(INTERVAL + 2 * GRACE)
    assert len(peer.timed_out_at) == 1


@pytest.mark.parametrize("interval", [2.0, INTERVAL])
def test_part_of_a_message_that_was_received_before_the_ping_does_not_count(interval: float) -> None:
    clock = FakeClock(0.0)
    heartbeat, peer = wheel(clock, interval=interval), Peer(clock, answers_after=None)
    heartbeat.add(peer)
    peer.tcp_progress = TcpProgress(0, 0, 0.0, GRACE + 2.0)
    clock.advance(interval + GRACE + 1.0)
    assert len(peer.timed_out_at) == 1


def test_client_that_reads_slowly_stays_until_it_reads_nothing() -> None:
    clock = FakeClock(0.0)
    heartbeat, peer = wheel(clock), Peer(clock, answers_after=None)
    heartbeat.add(peer)
    for acknowledged in range(500):
        peer.tcp_progress = TcpProgress(900_000, acknowledged, 5.0, math.inf)
        clock.advance(5.0)
    assert (peer.timed_out_at, len(peer.pings)) == ([], 1)
    assert heartbeat.statistics()["extended"] > 100
    clock.advance(2 * STALL_TIMEOUT_SECONDS + GRACE)
    assert len(peer.timed_out_at) == 1


def test_client_that_sends_but_takes_nothing_of_what_waits_times_out() -> None:
    clock = FakeClock(0.0)
    heartbeat, peer = wheel(clock), Peer(clock)
    heartbeat.add(peer)
    for second in range(100):
        peer.tcp_progress = TcpProgress(50_000, 40_000, float(second), 0.0)
        peer.send()
        clock.advance(1.0)
    assert len(peer.timed_out_at) == 1
    assert STALL_TIMEOUT_SECONDS <= peer.timed_out_at[0] <= STALL_TIMEOUT_SECONDS + INTERVAL + GRACE


# ---------------------------------------------------------------- many sessions


def test_thousands_of_sessions_are_monitored_each_at_its_own_time() -> None:
    clock, chance = FakeClock(0.0), Random(1)
    heartbeat = wheel(clock)
    silent: list[tuple[float, Peer]] = []
    good: list[Peer] = []
    for number in range(3_000):
        clock.advance(0.01)
        peer = Peer(clock, answers_after=None if number % 3 == 0 else chance.uniform(0.0, 5.0))
        heartbeat.add(peer)
        if number % 3 == 0:
            silent.append((clock(), peer))
        else:
            good.append(peer)
    assert heartbeat.statistics()["sessions"] == 3_000
    clock.advance(200.0)
    for added, peer in silent:
        assert len(peer.timed_out_at) == 1
        assert INTERVAL + GRACE <= peer.timed_out_at[0] - added <= INTERVAL + GRACE + 2.0
    assert all(not peer.timed_out_at and len(peer.pings) >= 6 for peer in good)
    assert heartbeat.statistics()["sessions"] == len(good)


@no_deadline
@given(
    st.floats(1.0, 120.0),
    st.floats(0.5, 60.0),
    st.floats(0.0, 1e6),
    st.floats(0.0, 1.0),
)
def test_a_dead_peer_is_detected_in_time(interval: float, grace: float, uptime: float, phase: float) -> None:
    clock = FakeClock(uptime)
    heartbeat = wheel(clock, interval=interval, grace=grace)
    tick = min(1.0, interval / 10, grace / 10)
    first, peer = Peer(clock, answers_after=0.0), Peer(clock, answers_after=None)
    heartbeat.add(first)
    clock.advance(phase * tick)
    heartbeat.add(peer)
    added = clock()
    clock.advance(interval + grace + 3 * tick)
    (timed_out_at,) = peer.timed_out_at
    assert interval + grace - 1e-6 <= timed_out_at - added <= interval + grace + 2 * tick + 1e-6
    assert first.timed_out_at == []
    heartbeat.close()


@pytest.mark.parametrize(("interval", "grace"), [(315_360_000.0, 10.0), (3_600.0, 0.001), (0.001, 3_600.0)])
def test_the_wheel_is_small_however_long_or_short_its_times_are(interval: float, grace: float) -> None:
    tracemalloc.start()
    try:
        heartbeat = wheel(FakeClock(0.0), interval=interval, grace=grace)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
    heartbeat.close()


@pytest.mark.parametrize(("interval", "grace"), [(9_000.0, 10.0), (50.0, 0.05)])
def test_a_dead_peer_beyond_the_end_of_the_wheel_is_detected_in_time(interval: float, grace: float) -> None:
    clock = FakeClock(0.0)
    heartbeat = wheel(clock, interval=interval, grace=grace)
    peer, tick = Peer(clock, answers_after=None), min(1.0, grace / 10)
    heartbeat.add(peer)
    clock.advance(interval + grace + 3 * tick)
    (timed_out_at,) = peer.timed_out_at
    assert interval + grace - 1e-6 <= timed_out_at <= interval + grace + 2 * tick + 1e-6
    heartbeat.close()


@pytest.mark.parametrize("what", ["removed", "removed twice", "added", "replaced"])
def test_a_timeout_may_add_and_remove_other_sessions(what: str) -> None:
    clock = FakeClock(0.0)
    heartbeat = wheel(clock)
    peers = [Peer(clock, answers_after=None) for _ in range(10)]
    newcomer = Peer(clock)
    for peer in peers:
        heartbeat.add(peer)

    def add_and_remove() -> None:
        for peer in peers:
            peer.when_timed_out = lambda: None
            if what != "added":
                heartbeat.remove(peer)
            if what == "removed twice":
                heartbeat.remove(peer)
        if what in ("added", "replaced"):
            heartbeat.add(newcomer)

    for peer in peers:
        peer.when_timed_out = add_and_remove
    clock.advance(INTERVAL + GRACE + 1.0)
    timeouts = sum(len(peer.timed_out_at) for peer in peers)
    assert timeouts == (10 if what == "added" else 1)
    statistics = heartbeat.statistics()
    assert statistics["dead"] == timeouts
    assert statistics["sessions"] == (1 if what in ("added", "replaced") else 0)
    clock.advance(1_000.0)
    assert sum(len(peer.timed_out_at) for peer in peers) == timeouts
    assert all(peer.wheel_slot == -1 for peer in peers)


def test_a_ping_may_remove_its_session_and_others() -> None:
    clock = FakeClock(0.0)
    heartbeat = wheel(clock)

    class Ending(Peer):
        def ping(self) -> int:
            for peer in peers:
                heartbeat.remove(peer)
            return super().ping()

    peers = [Ending(clock) for _ in range(5)]
    for peer in peers:
        heartbeat.add(peer)
    clock.advance(1_000.0)
    assert sum(len(peer.pings) for peer in peers) == 1
    assert heartbeat.statistics()["sessions"] == 0


@pytest.mark.parametrize("stood", [5.0, 60.0, 3_600.0])
@pytest.mark.parametrize("at", [0.5, INTERVAL - 0.5, INTERVAL + 0.5, INTERVAL + GRACE - 1.5])
def test_after_a_pause_of_the_process_only_silent_sessions_time_out(stood: float, at: float) -> None:
    clock = FakeClock(0.0)
    heartbeat = wheel(clock)
    peers = [Peer(clock, answers_after=None) for _ in range(3)]
    for peer in peers:
        heartbeat.add(peer)
    clock.advance(at)
    # The machine slept, or something blocked the loop: what arrived meanwhile is read after the timers.
    clock.now += stood
    clock.run()
    assert all(not peer.timed_out_at for peer in peers)
    alive, *dead = peers
    alive.answers_after = 0.0
    alive.send()
    clock.advance(INTERVAL + 2 * GRACE)
    assert not alive.timed_out_at
    assert all(len(peer.timed_out_at) == 1 for peer in dead)
