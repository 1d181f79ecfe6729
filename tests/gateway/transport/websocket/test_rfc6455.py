"""The engine for fragments, control frames and violations: one frame in, one outcome out."""

import pytest

from gateway.transport.websocket.rfc6455 import FrameOutcome, Rfc6455Engine
from tests.e2e.clients import BINARY, CLOSE, CONT, PING, PONG, TEXT, client_frame, close_frame

LIMIT = 1_000


@pytest.fixture
def engine() -> Rfc6455Engine:
    return Rfc6455Engine(LIMIT)


def server_frame(opcode: int, payload: bytes = b"") -> bytes:
    return client_frame(opcode, payload, masked=False)


def test_fragments_become_one_message_with_the_last(engine: Rfc6455Engine) -> None:
    assert engine.receive(client_frame(BINARY, b"a", fin=False)) == FrameOutcome()
    assert engine.has_state
    assert engine.receive(client_frame(CONT, b"b", fin=False)) == FrameOutcome()
    assert engine.receive(client_frame(CONT, b"c")) == FrameOutcome(payload=b"abc", binary=True)
    assert not engine.has_state


def test_a_ping_is_answered_between_fragments_and_outside_of_a_message(engine: Rfc6455Engine) -> None:
    assert engine.receive(client_frame(PING, b"1")) == FrameOutcome(server_frame(PONG, b"1"))
    assert not engine.has_state
    engine.receive(client_frame(TEXT, b"a", fin=False))
    assert engine.receive(client_frame(PING, b"2")) == FrameOutcome(server_frame(PONG, b"2"))
    assert engine.receive(client_frame(CONT, b"b")) == FrameOutcome(payload=b"ab")


def test_a_pong_needs_no_answer(engine: Rfc6455Engine) -> None:
    assert engine.receive(client_frame(PONG, b"?")) == FrameOutcome()


@pytest.mark.parametrize("within_message", [False, True])
def test_a_close_of_the_peer_is_answered_with_its_code(engine: Rfc6455Engine, within_message: bool) -> None:
    if within_message:
        engine.receive(client_frame(TEXT, b"a", fin=False))
    outcome = engine.receive(close_frame(1001))
    assert outcome == FrameOutcome(server_frame(CLOSE, (1001).to_bytes(2, "big")), peer_close_code=1001)
    assert engine.has_state


def test_a_close_without_a_code_has_the_code_1005(engine: Rfc6455Engine) -> None:
    assert engine.receive(client_frame(CLOSE)).peer_close_code == 1005


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (client_frame(TEXT, b"hello", masked=False), 1002),
        (client_frame(CONT, b"hello"), 1002),
        (client_frame(TEXT, b"hello", rsv=4), 1002),
        (client_frame(BINARY, length=LIMIT + 1), 1009),
    ],
    ids=["no mask", "a continuation without a beginning", "a reserved bit", "a message above the limit"],
)
def test_a_violation_sends_a_close_with_its_code(engine: Rfc6455Engine, raw: bytes, code: int) -> None:
    outcome = engine.receive(raw)
    assert outcome.failure_code == code
    assert outcome.to_send[2:4] == code.to_bytes(2, "big")
    assert outcome.payload is None


def test_close_sends_one_close_frame_and_the_answer_of_the_peer_is_reported(engine: Rfc6455Engine) -> None:
    assert engine.close(4005, "bye") == server_frame(CLOSE, (4005).to_bytes(2, "big") + b"bye")
    assert engine.close(4006, "again") == b""
    assert engine.receive(close_frame(4005)).peer_close_code == 4005


def test_fail_sends_a_close_frame_with_the_reason(engine: Rfc6455Engine) -> None:
    expected = server_frame(CLOSE, (4002).to_bytes(2, "big") + b"too many")
    assert engine.fail(4002, "too many") == expected
