"""The pure functions on the bytes of frames, against frames that the tests build themselves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.transport.websocket.frame_parser import (
    announced_frame_size,
    is_binary,
    is_complete_data_frame,
    is_utf8,
    processable_size,
    truncated_reason,
    unmasked_payload,
)
from tests.e2e.clients import BINARY, CONT, PING, TEXT, client_frame

LIMIT = 1_000
SIZES = st.sampled_from([0, 1, 5, 125, 126, 127, 999, LIMIT])


@given(SIZES, st.sampled_from([TEXT, BINARY]))
def test_a_complete_data_frame_is_recognised_and_unmasked(size: int, opcode: int) -> None:
    payload = bytes(index % 251 for index in range(size))
    raw = client_frame(opcode, payload)
    assert is_complete_data_frame(raw, LIMIT)
    assert is_binary(raw) is (opcode == BINARY)
    assert unmasked_payload(raw) == payload
    assert announced_frame_size(raw, 0) == processable_size(raw, 0, LIMIT) == len(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        client_frame(TEXT, b"hello")[:-1],
        client_frame(TEXT, b"hello") + b"\x81",
        client_frame(TEXT, b"hello", fin=False),
        client_frame(CONT, b"hello"),
        client_frame(PING, b"hello"),
        client_frame(TEXT, b"hello", rsv=4),
        client_frame(TEXT, b"hello", masked=False),
        client_frame(BINARY, b"x" * (LIMIT + 1)),
        client_frame(BINARY, b"x" * 70_000),
        bytes([0x81, 0xFE, 0, 2]) + b"\0\0\0\0hi",
    ],
    ids=[
        "no bytes",
        "an incomplete frame",
        "a frame and a byte of the next",
        "a fragment",
        "a continuation",
        "a control frame",
        "a reserved bit",
        "no mask",
        "one byte above the limit",
        "a length in eight bytes",
        "a length in more bytes than needed",
    ],
)
def test_anything_else_is_not_a_complete_data_frame(raw: bytes) -> None:
    assert not is_complete_data_frame(raw, LIMIT)


@given(SIZES, st.integers(0, 3), st.data())
def test_an_incomplete_frame_within_the_limit_cannot_be_processed(
    size: int, start: int, data: st.DataObject
) -> None:
    raw = client_frame(BINARY, b"x" * size)
    cut = data.draw(st.integers(0, len(raw) - 1))
    assert processable_size(b"?" * start + raw[:cut], start, LIMIT) == 0


@pytest.mark.parametrize("payload", [0, 1, 100])
def test_a_frame_far_above_the_limit_can_be_processed_from_its_header_on(payload: int) -> None:
    raw = client_frame(BINARY, b"x" * payload, length=70_000)
    assert announced_frame_size(raw, 0) == 14 + 70_000
    assert processable_size(raw, 0, LIMIT) == len(raw)


@pytest.mark.parametrize("length", [1, 200, 70_000])
def test_the_size_is_unknown_while_the_header_is_incomplete(length: int) -> None:
    header = {1: 2, 200: 4, 70_000: 10}[length]
    raw = client_frame(BINARY, length=length)
    assert [announced_frame_size(raw[:size], 0) for size in range(header)] == [None] * header
    assert announced_frame_size(raw[:header], 0) == header + 4 + length


@pytest.mark.parametrize(
    ("payload", "expected"), [(b"", True), (b"ascii", True), ("☃".encode(), True), (b"\xe2\x98", False)]
)
def test_is_utf8_accepts_complete_characters_only(payload: bytes, expected: bool) -> None:
    assert is_utf8(payload) is expected


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_truncated_reason_is_a_prefix_of_at_most_123_bytes(reason: str) -> None:
    truncated = truncated_reason(reason)
    assert reason.startswith(truncated)
    assert len(truncated.encode()) <= 123
    assert truncated == reason or len(truncated.encode()) > 119
