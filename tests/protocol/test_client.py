"""The client's state: what it sends, which positions it keeps, when it reconnects."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocol.client import (
    DEFAULT_BACKOFF,
    MAX_DOUBLINGS,
    NO_EFFECTS,
    NOT_RECOVERED,
    TRANSITIONS,
    BackoffBounds,
    ClientState,
    ConnectionState,
    Dropped,
    Effects,
    IllegalTransition,
    Input,
    Reset,
    Retry,
    RetrySubscription,
    Stop,
)
from protocol.errors import (
    CLOSE_ON_ERROR,
    CLOSES,
    TRANSIENT_ERRORS,
    Backoff,
    CloseCode,
    ErrorCode,
    Reaction,
)
from protocol.messages import (
    ClientInfo,
    Connect,
    Connected,
    Error,
    Expiring,
    Gap,
    HistoryPage,
    Join,
    Leave,
    Member,
    Message,
    Pong,
    PongReply,
    PresenceState,
    Published,
    Reconnect,
    Refresh,
    Refreshed,
    Resume,
    ServerMessage,
    ServerPing,
    Subscribe,
    Subscribed,
    Unsubscribed,
)
from protocol.payload import payload_of
from protocol.position import MessageId
from tests.protocol import vectors
from tests.protocol.strategies import bounded

VECTORS: dict[str, list[dict[str, Any]]] = json.loads(
    (vectors.FOLDER / "closes.json").read_text(encoding="ascii")
)


def at(offset: int) -> MessageId:
    return MessageId(offset, "u")


def message(offset: int, channel: str = "a") -> Message:
    return Message(channel, payload_of({"n": offset}), at(offset))


def connected(**subs: Subscribed | Error) -> Connected:
    return Connected(1, "c1", "", "n1", 25.0, subs=subs)


def longest() -> float:
    """Stand for the random number that makes every wait as long as its bound."""
    return 1.0


def client(*channels: str, **options: Any) -> ClientState:
    """Return a client that has sent `connect`."""
    state = ClientState(channels, **{"random": longest, **options})
    state.connect_command("token")
    return state


def subscribed_client(*channels: str, **options: Any) -> ClientState:
    """Return a client that is subscribed to *channels*, each at position 4."""
    state = client(*channels, **options)
    state.on_message(connected(**{channel: Subscribed(channel, at(4)) for channel in channels}))
    return state


def positions(state: ClientState) -> dict[str, str | None]:
    return {name: channel.position for name, channel in state.channels.items()}


# ---------------------------------------------------------------- states


def in_state(state: ConnectionState) -> ClientState:
    made = ClientState(["a"], random=longest)
    if state is ConnectionState.IDLE:
        return made
    made.connect_command()
    if state is ConnectionState.CONNECTED:
        made.on_message(connected(a=Subscribed("a", at(4))))
    elif state is ConnectionState.WAITING:
        made.on_connection_lost()
    elif state is ConnectionState.STOPPED:
        made.on_closed(4005)
    return made


INPUTS = {
    Input.CONNECT: lambda state: state.connect_command(),
    Input.CONNECTED: lambda state: state.on_message(connected(a=Subscribed("a", at(4)))),
    Input.RETRY: lambda state: state.on_handshake_rejected(503),
    Input.STOP: lambda state: state.on_handshake_rejected(403),
}
NO_CONNECTION = {ConnectionState.IDLE, ConnectionState.WAITING, ConnectionState.STOPPED}


@pytest.mark.parametrize(("state", "event"), list(product(ConnectionState, Input)))
def test_a_client_moves_as_the_table_says(state: ConnectionState, event: Input) -> None:
    made = in_state(state)
    assert made.state is state
    if (state, event) in TRANSITIONS:
        INPUTS[event](made)
        assert made.state is TRANSITIONS[state, event]
    elif event is Input.CONNECTED:
        assert INPUTS[event](made) is NO_EFFECTS
        assert made.state is state
    else:
        with pytest.raises(IllegalTransition, match=f"^a client that is {state} cannot {event}$"):
            INPUTS[event](made)
        assert made.state is state


def test_every_state_is_left_and_reached() -> None:
    assert {state for state, _ in TRANSITIONS} == set(ConnectionState)
    assert set(TRANSITIONS.values()) == set(ConnectionState) - {ConnectionState.IDLE}


@pytest.mark.parametrize("state", sorted(NO_CONNECTION))
def test_messages_have_no_effect_where_there_is_no_connection(state: ConnectionState) -> None:
    made = in_state(state)
    before = positions(made)
    assert made.on_message(message(9)) is NO_EFFECTS
    assert made.on_message(ServerPing()) is NO_EFFECTS
    assert positions(made) == before


def test_a_client_shows_its_state() -> None:
    state = subscribed_client("a", "b")
    assert repr(state) == "<ClientState connected, 2 channels, attempt 0>"
    assert (state.connected or connected()).connection == "c1"
    state.on_connection_lost()
    assert repr(state) == "<ClientState waiting, 2 channels, attempt 1>"
    assert state.connected is None


# ---------------------------------------------------------------- close codes, by the vectors


@pytest.mark.parametrize(
    "case", VECTORS["closes"] + VECTORS["other_closes"], ids=lambda case: f"{case['code']} {case['name']}"
)
@pytest.mark.parametrize("renewable", [True, False], ids=["can fetch a token", "cannot fetch a token"])
def test_a_close_code_leads_to_what_the_vectors_say(case: dict[str, Any], renewable: bool) -> None:
    decision = client("a", can_fetch_token=renewable).on_closed(case["code"], "why")
    stop = Stop(f"the gateway closed with {case['code']}: why")
    until_new_token = Stop(stop.reason, until_new_token=True)
    expected = {
        "reconnect": Retry(30.0 if case["backoff"] == "long" else 0.5),
        "refresh_token": Retry(0.5, fetch_token=True) if renewable else until_new_token,
        "stop_until_new_token": until_new_token,
        "stop": stop,
    }
    assert decision == expected[case["client"]]


def test_a_stop_names_the_code_where_the_server_gave_no_reason() -> None:
    assert client().on_closed(4012) == Stop("the gateway closed with 4012: replaced")


@pytest.mark.parametrize("case", VECTORS["backoffs"], ids=lambda case: case["backoff"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_wait_is_a_random_share_of_the_bound_in_the_vectors(case: dict[str, Any], share: float) -> None:
    kind = {"client": "reconnect", "backoff": case["backoff"]}
    code = next(close["code"] for close in VECTORS["closes"] if close.items() >= kind.items())
    state = ClientState(random=lambda: share)
    for bound in case["bounds"]:
        state.connect_command()
        assert state.on_closed(code) == Retry(bound * share)


def test_the_bound_begins_anew_after_connected() -> None:
    state = client("a")
    waits = [state.on_connection_lost()]
    for _ in range(3):
        state.connect_command()
        waits.append(state.on_connection_lost())
    assert waits == [Retry(0.5), Retry(1.0), Retry(2.0), Retry(4.0)]
    state.connect_command()
    state.on_message(connected(a=Subscribed("a")))
    assert state.on_connection_lost() == Retry(0.5)


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True), st.sampled_from(Backoff))
def test_a_bound_never_exceeds_30_seconds_nor_shrinks(attempt: int, share: float, backoff: Backoff) -> None:
    bound = DEFAULT_BACKOFF.bound(backoff, attempt)
    assert 0.5 <= bound <= 30.0
    assert DEFAULT_BACKOFF.bound(backoff, attempt + 1) >= bound
    assert bound <= DEFAULT_BACKOFF.bound(Backoff.LONG, attempt)
    assert DEFAULT_BACKOFF.bound(backoff, attempt) == (
        30.0 if backoff is Backoff.LONG else min(30.0, 0.5 * 2.0 ** min(attempt, MAX_DOUBLINGS))
    )
    state = ClientState(random=lambda: share)
    state.attempt = attempt
    state.connect_command()
    decision = state.on_connection_lost()
    assert isinstance(decision, Retry)
    assert 0 <= decision.after_seconds <= 30.0


def test_the_bounds_may_be_others() -> None:
    state = client(backoff=BackoffBounds(first_seconds=0.001, longest_seconds=0.003))
    waits = [state.on_closed(4010)]
    for code in (1006, 1006):
        state.connect_command()
        waits.append(state.on_closed(code))
    assert waits == [Retry(0.003), Retry(0.002), Retry(0.003)]


def test_a_drained_node_is_left_after_the_delay_that_it_announced() -> None:
    state = subscribed_client("a")
    assert state.on_message(Reconnect(7000, "drain")) is NO_EFFECTS
    assert state.state is ConnectionState.CONNECTED
    assert state.on_closed(4000) == Retry(7.0)


@pytest.mark.parametrize(("code", "wait"), [(1006, 0.5), (4011, 0.5), (4008, 30.0)])
def test_an_announced_delay_counts_for_a_drain_only(code: int, wait: float) -> None:
    state = subscribed_client("a")
    state.on_message(Reconnect(7000, "drain"))
    assert state.on_closed(code) == Retry(wait)


def test_an_announced_delay_counts_for_its_own_connection_only() -> None:
    state = subscribed_client("a")
    state.on_message(Reconnect(7000, "drain"))
    state.on_connection_lost()
    state.connect_command()
    state.on_message(connected(a=Subscribed("a", at(4))))
    assert state.on_closed(4000) == Retry(0.5)


def test_a_decision_is_made_once_per_connection() -> None:
    state = client("a")
    effects = state.on_message(Error(ErrorCode.UNAVAILABLE, "m", 2000, id=1))
    assert effects.decision == Retry(2.0)
    assert state.on_closed(4003) == state.on_connection_lost() == effects.decision
    assert state.attempt == 1


# ---------------------------------------------------------------- handshakes


@pytest.mark.parametrize(
    ("status", "retry_after", "expected"),
    [
        (429, 3.0, Retry(3.5)),
        (503, 3.0, Retry(3.5)),
        (503, None, Retry(0.5)),
        (502, None, Retry(0.5)),
        (400, None, Stop("the handshake was rejected with HTTP 400")),
        (403, None, Stop("the handshake was rejected with HTTP 403")),
        (404, 3.0, Stop("the handshake was rejected with HTTP 404")),
        (426, None, Stop("the handshake was rejected with HTTP 426")),
    ],
)
def test_a_rejected_handshake(status: int, retry_after: float | None, expected: Retry | Stop) -> None:
    state = client("a")
    assert state.on_handshake_rejected(status, retry_after_seconds=retry_after) == expected
    if isinstance(expected, Retry):
        state.connect_command()
        assert state.on_connection_lost() == Retry(1.0)


def test_a_rejected_handshake_may_say_why() -> None:
    assert client().on_handshake_rejected(403, reason="origin") == Stop("origin")


# ---------------------------------------------------------------- connect and its reply


def test_connect_restores_every_channel_from_its_position() -> None:
    state = client("a", "b", rewind=3, info=ClientInfo("test", "1"))
    state.add("c", token="channel token", position="7-u")
    state.on_message(connected(a=Subscribed("a", at(1)), b=Subscribed("b")))
    state.on_connection_lost()
    assert state.connect_command("t") == Connect(
        1,
        "t",
        ClientInfo("test", "1"),
        {"a": Resume(since=at(1)), "b": Resume(rewind=3), "c": Resume(at(7), "channel token")},
    )


def test_connect_may_restore_some_channels_only() -> None:
    state = ClientState(["a", "b"], random=longest)
    assert state.connect_command(channels=["b"]) == Connect(1, subs={"b": Resume()})
    assert state.on_message(connected(b=Subscribed("b"))) == NO_EFFECTS
    assert {name for name, channel in state.channels.items() if channel.subscribed} == {"b"}
    assert state.subscribe_command("a") == Subscribe(2, "a")
    state.on_message(Subscribed("a", at(1), id=2))
    assert state.channels["a"].subscribed


def test_no_channel_is_subscribed_once_the_connection_ended() -> None:
    state = subscribed_client("a")
    assert state.channels["a"].subscribed
    state.on_connection_lost()
    assert not state.channels["a"].subscribed


@pytest.mark.parametrize(
    ("answer", "position"),
    [
        (Subscribed("a", at(4)), "4-u"),
        (Subscribed("a", at(4), messages=[message(2), message(3)]), "4-u"),
        (Subscribed("a"), None),
    ],
)
def test_the_position_of_a_subscription_is_the_one_it_names(answer: Subscribed, position: str | None) -> None:
    state = client("a")
    assert state.on_message(connected(a=answer)) == Effects(messages=tuple(answer.messages))
    assert positions(state) == {"a": position}


def test_a_channel_that_was_not_recovered_is_reset() -> None:
    state = subscribed_client("a")
    state.on_connection_lost()
    state.connect_command()
    effects = state.on_message(connected(a=Subscribed("a", at(9))))
    assert effects == Effects(resets=(Reset("a", NOT_RECOVERED),))
    state.on_connection_lost()
    state.connect_command()
    recovered = Subscribed("a", at(10), recovered=True, messages=[message(10)])
    assert state.on_message(connected(a=recovered)) == Effects(messages=(message(10),))
    assert positions(state) == {"a": "10-u"}


def test_the_effects_of_several_channels_are_one() -> None:
    state = client("a", "b", "c", "d")
    effects = state.on_message(
        connected(
            a=Subscribed("a", at(1), messages=[message(1)]),
            b=Error(ErrorCode.PERMISSION_DENIED, "no"),
            c=Error(ErrorCode.UNAVAILABLE, "later", 2000),
        )
    )
    assert effects == Effects(
        messages=(message(1),),
        dropped=(
            Dropped("b", "permission_denied", "no", None),
            Dropped("d", "", "the gateway did not subscribe to it", None),
        ),
        retries=(RetrySubscription("c", 2.0, Error(ErrorCode.UNAVAILABLE, "later", 2000)),),
    )
    assert set(state.channels) == {"a", "c"}


def test_channels_that_the_server_added_are_restored_as_well() -> None:
    state = client("a")
    personal = {"@anna": Subscribed("@anna", at(2), messages=[message(2, "@anna")])}
    effects = state.on_message(connected(a=Subscribed("a"), **personal))
    assert effects.messages == (message(2, "@anna"),)
    state.on_message(Subscribed("news", at(17)))
    state.on_connection_lost()
    assert state.connect_command().subs == {
        "a": Resume(),
        "@anna": Resume(since=at(2)),
        "news": Resume(since=at(17)),
    }


def test_a_channel_that_the_server_rejects_of_its_own_is_ignored() -> None:
    state = client("a")
    rejected = {"@anna": Error(ErrorCode.PERMISSION_DENIED, "no")}
    assert state.on_message(connected(a=Subscribed("a"), **rejected)) == NO_EFFECTS


REFUSED_CONNECTS = [
    (ErrorCode.UNAUTHORIZED, False, Stop("unauthorized: m", until_new_token=True)),
    (ErrorCode.UNAUTHORIZED, True, Stop("unauthorized: m", until_new_token=True)),
    (ErrorCode.PERMISSION_DENIED, False, Stop("permission_denied: m", until_new_token=True)),
    (ErrorCode.TOKEN_EXPIRED, False, Stop("token_expired: m", until_new_token=True)),
    (ErrorCode.TOKEN_EXPIRED, True, Retry(4.0, fetch_token=True)),
    (ErrorCode.LIMIT_EXCEEDED, False, Retry(30.0)),
    (ErrorCode.UNAVAILABLE, False, Retry(4.0)),
    (ErrorCode.INTERNAL, False, Retry(4.0)),
    (ErrorCode.RATE_LIMITED, False, Retry(4.0)),
    (ErrorCode.BAD_REQUEST, False, Stop("bad_request: m")),
    (ErrorCode.TOO_LARGE, False, Stop("too_large: m")),
]


@pytest.mark.parametrize(("code", "renewable", "decision"), REFUSED_CONNECTS)
def test_a_rejected_connect_is_decided_as_its_close_code(
    code: ErrorCode, renewable: bool, decision: Retry | Stop
) -> None:
    state = client("a", can_fetch_token=renewable)
    assert state.on_message(Error(code, "m", 4000, id=1)) == Effects(decision=decision)


def test_every_error_that_closes_the_connection_is_tested() -> None:
    assert {code for code, _, _ in REFUSED_CONNECTS} >= set(CLOSE_ON_ERROR) | TRANSIENT_ERRORS


def test_an_error_of_another_command_is_not_a_rejected_connect() -> None:
    state = subscribed_client("a")
    assert state.refresh_command("t") == Refresh(2, "t")
    for error in (Error(ErrorCode.UNAUTHORIZED, "m", id=2), Error(ErrorCode.BAD_REQUEST, "m")):
        assert state.on_message(error) is NO_EFFECTS
    assert state.state is ConnectionState.CONNECTED


# ---------------------------------------------------------------- subscriptions


def test_ids_are_counted_anew_on_each_connection() -> None:
    state = subscribed_client("a")
    assert [state.next_id(), state.subscribe_command("a").id, state.refresh_command("t").id] == [2, 3, 4]
    state.on_connection_lost()
    assert [state.connect_command().id, state.next_id()] == [1, 2]


def test_a_channel_can_be_added_while_connected() -> None:
    state = subscribed_client("a")
    state.add("b", token="t", rewind=5)
    command = state.subscribe_command("b")
    assert command == Subscribe(2, "b", "t", rewind=5)
    effects = state.on_message(Subscribed("b", at(8), messages=[message(8, "b")], id=2))
    assert effects == Effects(messages=(message(8, "b"),))
    state.on_connection_lost()
    assert state.connect_command().subs["b"] == Resume(at(8), "t")


def test_a_rejected_subscription_drops_its_channel() -> None:
    state = subscribed_client("a")
    state.add("b", position="3-u")
    id = state.subscribe_command("b").id
    effects = state.on_message(Error(ErrorCode.UNKNOWN_CHANNEL, "no", id=id))
    assert effects == Effects(dropped=(Dropped("b", "unknown_channel", "no", "3-u"),))
    assert "b" not in state.channels
    assert state.on_message(Error(ErrorCode.UNKNOWN_CHANNEL, "no", id=id)) is NO_EFFECTS


@pytest.mark.parametrize("code", sorted(TRANSIENT_ERRORS))
def test_a_subscription_is_retried_with_backoff_until_it_succeeds(code: ErrorCode) -> None:
    state = subscribed_client("a")
    waits = []
    for _ in range(3):
        error = Error(code, "later", 1500, id=state.subscribe_command("a").id)
        (retry,) = state.on_message(error).retries
        assert (retry.channel, retry.error) == ("a", error)
        waits.append(retry.after_seconds)
    state.on_message(Subscribed("a", at(5), recovered=True))
    rejected = Error(code, "later", id=state.subscribe_command("a").id)
    (retry,) = state.on_message(rejected).retries
    assert [*waits, retry.after_seconds] == [1.5, 1.5, 2.0, 0.5]


def test_being_subscribed_already_is_no_failure() -> None:
    state = subscribed_client("a")
    id = state.subscribe_command("a").id
    assert state.on_message(Error(ErrorCode.ALREADY_SUBSCRIBED, "m", id=id)) is NO_EFFECTS
    assert "a" in state.channels


def test_a_channel_that_was_removed_meanwhile_is_not_retried() -> None:
    state = subscribed_client("a")
    id = state.subscribe_command("a").id
    state.remove("a")
    assert state.on_message(Error(ErrorCode.UNAVAILABLE, "m", id=id)) is NO_EFFECTS
    state.remove("a")
    assert not state.channels


def test_replies_of_an_earlier_connection_are_not_awaited() -> None:
    state = subscribed_client("a")
    state.add("b")
    assert state.subscribe_command("b").id == 2
    state.on_connection_lost()
    state.connect_command()
    assert state.on_message(Error(ErrorCode.PERMISSION_DENIED, "m", id=2)) is NO_EFFECTS
    assert "b" in state.channels


def test_the_server_may_end_subscriptions() -> None:
    state = subscribed_client("a")
    effects = state.on_message(Unsubscribed("a", "token_expired", "the channel token has expired"))
    assert effects == Effects(
        dropped=(Dropped("a", "token_expired", "the channel token has expired", "4-u"),)
    )
    assert state.on_message(Unsubscribed("a")) is NO_EFFECTS
    state.on_connection_lost()
    assert state.connect_command().subs == {}


def test_the_server_may_end_subscriptions_without_a_word() -> None:
    assert subscribed_client("a").on_message(Unsubscribed("a")).dropped == (Dropped("a", "", "", "4-u"),)


def test_the_reply_to_unsubscribe_ends_a_subscription() -> None:
    state = subscribed_client("a")
    assert state.on_message(Unsubscribed("a", id=2)) is NO_EFFECTS
    assert not state.channels


# ---------------------------------------------------------------- pushes


def test_messages_move_the_position_unless_they_have_no_id() -> None:
    state = subscribed_client("a")
    assert state.on_message(message(5)) == Effects(messages=(message(5),))
    without_id = Message("a", payload_of(1))
    assert state.on_message(without_id) == Effects(messages=(without_id,))
    assert positions(state) == {"a": "5-u"}


def test_a_gap_moves_the_position_where_it_has_one() -> None:
    state = subscribed_client("a")
    assert state.on_message(Gap("a", "overflow", at(20))) == Effects(resets=(Reset("a", "overflow"),))
    assert positions(state) == {"a": "20-u"}
    assert state.on_message(Gap("a", "trimmed")) == Effects(resets=(Reset("a", "trimmed"),))
    assert positions(state) == {"a": "20-u"}


def test_a_caller_may_advance_the_position_itself() -> None:
    state = subscribed_client("a")
    state.advance("a", "6-u")
    state.advance("other", "6-u")
    assert positions(state) == {"a": "6-u"}


@pytest.mark.parametrize(
    "push",
    [
        message(1, "other"),
        Gap("other", "reset"),
        Unsubscribed("other"),
        Join("a", Member("c", "u")),
        Leave("a", Member("c", "u")),
        Published(9, "a", at(9)),
        PresenceState(9, "a", 1, 1),
        HistoryPage(9, "a", at(9)),
        Refreshed(9, 60.0),
        PongReply(9),
        Expiring(9.0),
        Reconnect(7000, "drain"),
    ],
)
def test_what_does_not_concern_the_state_has_no_effect(push: ServerMessage) -> None:
    state = subscribed_client("a")
    assert state.on_message(push) == NO_EFFECTS
    assert positions(state) == {"a": "4-u"}
    assert state.state is ConnectionState.CONNECTED


def test_connection_may_be_silent_for_its_heartbeat_and_ten_seconds() -> None:
    state = ClientState(["a"], random=lambda: 1.0)
    state.connect_command()
    assert state.silence_limit_seconds == 10.0
    state.on_message(Connected(1, "c1", "", "n1", 25.0))
    assert state.silence_limit_seconds == 35.0
    state.on_connection_lost()
    assert state.silence_limit_seconds == 10.0


def test_a_ping_is_answered() -> None:
    assert subscribed_client("a").on_message(ServerPing()) == Effects(reply=Pong())


def test_a_ping_is_answered_before_connected() -> None:
    assert client("a").on_message(ServerPing()) == Effects(reply=Pong())


def test_a_token_that_is_about_to_expire_is_replaced_where_there_is_another() -> None:
    assert subscribed_client(can_fetch_token=True).on_message(Expiring(9.0)) == Effects(fetch_token=True)
    assert subscribed_client(can_fetch_token=False).on_message(Expiring(9.0)) == NO_EFFECTS


# ---------------------------------------------------------------- any conversation, against a model

CHANNELS = ["a", "b"]
offsets = st.integers(1, 99)
channels = st.sampled_from(CHANNELS)


class Model(RuleBasedStateMachine):
    """A client against a record of the last position of each channel and of the failures in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.client = ClientState(CHANNELS, random=longest, can_fetch_token=True)
        self.positions: dict[str, MessageId | None] = dict.fromkeys(CHANNELS)
        self.failures = 0
        self.announced: float | None = None
        self.open = self.accepted = False

    def subscribed(self, channel: str, offset: int, recovered: bool) -> Subscribed:
        position = at(offset)
        self.positions[channel] = position
        replayed = [message(offset, channel)] if recovered else []
        return Subscribed(channel, position, recovered=recovered, messages=replayed)

    @precondition(lambda self: not self.open)
    @rule()
    def begin(self) -> None:
        command = self.client.connect_command("t")
        assert {name: sub.since for name, sub in command.subs.items()} == self.positions
        self.open, self.accepted, self.announced = True, False, None

    @precondition(lambda self: self.open)
    @rule()
    def begin_twice(self) -> None:
        with pytest.raises(IllegalTransition):
            self.client.connect_command()

    @precondition(lambda self: self.open and not self.accepted)
    @rule(offset=offsets, recovered=st.booleans())
    def accept(self, offset: int, recovered: bool) -> None:
        known = {name for name, position in self.positions.items() if position is not None}
        subs = {name: self.subscribed(name, offset, recovered) for name in self.positions}
        effects = self.client.on_message(connected(**subs))
        assert {reset.channel for reset in effects.resets} == (set() if recovered else known)
        assert len(effects.messages) == (len(subs) if recovered else 0)
        self.accepted, self.failures = True, 0

    @precondition(lambda self: self.accepted)
    @rule(channel=channels, offset=offsets)
    def deliver(self, channel: str, offset: int) -> None:
        known = channel in self.positions
        effects = self.client.on_message(message(offset, channel))
        assert len(effects.messages) == known
        if known:
            self.positions[channel] = at(offset)

    @precondition(lambda self: self.accepted)
    @rule(channel=channels, offset=offsets)
    def skip(self, channel: str, offset: int) -> None:
        known = channel in self.positions
        assert len(self.client.on_message(Gap(channel, "overflow", at(offset))).resets) == known
        if known:
            self.positions[channel] = at(offset)

    @precondition(lambda self: self.accepted)
    @rule(channel=channels)
    def unsubscribe(self, channel: str) -> None:
        known = channel in self.positions
        assert len(self.client.on_message(Unsubscribed(channel, "unsubscribed")).dropped) == known
        self.positions.pop(channel, None)

    @precondition(lambda self: self.accepted)
    @rule(channel=channels, offset=offsets)
    def subscribe(self, channel: str, offset: int) -> None:
        self.client.on_message(self.subscribed(channel, offset, recovered=False))

    @precondition(lambda self: self.accepted)
    @rule(after_ms=st.integers(0, 60_000))
    def announce(self, after_ms: int) -> None:
        self.client.on_message(Reconnect(after_ms, "drain"))
        self.announced = after_ms / 1000

    @precondition(lambda self: self.open)
    @rule(code=st.sampled_from(sorted({*map(int, CLOSES), 1000, 1001, 1006, 4999})))
    def close(self, code: int) -> None:
        decision = self.client.on_closed(code)
        close = CLOSES.get(code)
        if close is not None and close.reaction in {Reaction.STOP, Reaction.STOP_UNTIL_NEW_TOKEN}:
            assert isinstance(decision, Stop)
        else:
            assert isinstance(decision, Retry)
            assert decision.fetch_token == (code == 4004)
            bound = min(30.0, 0.5 * 2.0**self.failures)
            if code == 4000 and self.announced is not None:
                bound = self.announced
            elif code in {4008, 4010}:
                bound = 30.0
            assert decision.after_seconds == bound
            self.failures += 1
        self.open = self.accepted = False

    @invariant()
    def positions_are_those_of_the_record(self) -> None:
        kept = {name: None if at is None else str(at) for name, at in self.positions.items()}
        assert positions(self.client) == kept
        assert self.client.attempt == self.failures

    @invariant()
    def only_a_connected_client_is_subscribed(self) -> None:
        live = {name for name, channel in self.client.channels.items() if channel.subscribed}
        assert live == (set(self.positions) if self.accepted else set())


Model.TestCase.settings = settings(bounded, stateful_step_count=30)
TestModel = Model.TestCase


def test_a_channel_that_the_server_could_not_subscribe_for_the_moment_is_retried() -> None:
    state = subscribed_client("a")
    effects = state.on_message(Unsubscribed("b", "unavailable", "no broker"))
    (retry,) = effects.retries
    assert (retry.channel, retry.error.code, retry.error.message) == ("b", "unavailable", "no broker")
    assert state.subscribe_command("b").channel == "b"
    assert state.on_message(Unsubscribed("c", "limit_exceeded", "too many")) == NO_EFFECTS


def test_a_channel_token_that_has_expired_is_fetched_anew_and_the_channel_resumes() -> None:
    state = ClientState(random=longest)
    state.add("a", token="old", position="4-u", can_fetch_token=True)
    state.connect_command("token")
    expired = Error(ErrorCode.TOKEN_EXPIRED, "the channel token has expired")
    renewal = RetrySubscription("a", 0.0, expired, fetch_token=True)
    # At connect the token has expired already; later the subscription ends with it.
    assert state.on_message(connected(a=expired)) == Effects(retries=(renewal,))
    state.set_channel_token("a", "new")
    command = state.subscribe_command("a")
    assert (command.token, str(command.since)) == ("new", "4-u")
    state.on_message(Subscribed("a", at(6), recovered=True, messages=[message(5), message(6)], id=command.id))
    push = Unsubscribed("a", "token_expired", "the channel token has expired")
    assert state.on_message(push) == Effects(retries=(renewal,))
    assert (state.channels["a"].token, state.channels["a"].subscribed) == (None, False)
    state.set_channel_token("a", "newest")
    assert (state.subscribe_command("a").token, positions(state)) == ("newest", {"a": "6-u"})


def test_channel_tokens_that_are_rejected_again_and_again_are_fetched_with_backoff() -> None:
    state = ClientState(random=longest)
    state.add("a", token="old", can_fetch_token=True)
    state.connect_command("token")
    rejected = Error(ErrorCode.UNAUTHORIZED, "no")
    delays = [state.on_message(connected(a=rejected)).retries[0].after_seconds]
    for _ in range(3):
        command = state.subscribe_command("a")
        (retry,) = state.on_message(Error(ErrorCode.UNAUTHORIZED, "no", id=command.id)).retries
        assert retry.fetch_token
        delays.append(retry.after_seconds)
    assert delays == [0.0, 1.0, 2.0, 4.0]
    state.set_channel_token("b", "of a channel that was removed")
    assert list(state.channels) == ["a"]


# ---------------------------------------------------------------- the steps of an attempt


def test_an_attempt_that_was_begun_gets_its_command_later() -> None:
    state = ClientState(random=lambda: 0.5)
    state.begin()
    assert state.state is ConnectionState.CONNECTING
    state.add("news")
    assert set(state.connect_command("t1").subs) == {"news"}
    with pytest.raises(IllegalTransition):
        state.begin()


@pytest.mark.parametrize("fresh", [True, False])
def test_a_refused_token_is_replaced_once_if_it_was_fetched_earlier(fresh: bool) -> None:
    state = ClientState(random=lambda: 0.5, can_fetch_token=True)
    state.begin(fresh_token=fresh)
    state.connect_command("t1")
    decision = state.on_closed(CloseCode.UNAUTHORIZED)
    if fresh:
        assert isinstance(decision, Stop)
        assert decision.until_new_token
    else:
        assert decision == Retry(0.25, fetch_token=True)


@pytest.mark.parametrize("where", ["idle", "connecting", "waiting"])
def test_the_application_stops_a_client_in_any_state(where: str) -> None:
    state = ClientState(random=lambda: 0.5)
    if where != "idle":
        state.connect_command()
    if where == "waiting":
        state.on_connection_lost()
    assert state.stop("signed out") == Stop("signed out")
    assert state.state is ConnectionState.STOPPED
    with pytest.raises(IllegalTransition):
        state.stop("again")
