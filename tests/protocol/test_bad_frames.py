"""A frame that is not a command raises `BadRequest`, whatever it contains, and never anything else."""

from __future__ import annotations

import tracemalloc
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import limits
from protocol.codec import CODECS, MSGPACK, Codec, decode_json, decode_msgpack
from protocol.errors import BadRequest, ErrorCode
from protocol.messages import Connect, Connected, Message, Publish, Subscribed
from protocol.payload import payload_of
from tests.protocol.bad_frames import BAD_FRAMES, BEYOND_JSON, BROKEN_JSON, BROKEN_MSGPACK, NO_MAP, BadFrame
from tests.protocol.examples import COMMANDS, SERVER_MESSAGES
from tests.protocol.strategies import bounded

CHANGES = (0x01, 0x04, 0x20, 0x80, 0xFF)

codecs = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)


@pytest.mark.parametrize("bad", BAD_FRAMES, ids=lambda bad: bad.name)
def test_a_bad_frame_is_rejected(bad: BadFrame) -> None:
    with pytest.raises(BadRequest) as caught:
        bad.codec.decode(bad.frame)
    assert bad.error_part in caught.value.message
    assert caught.value.id == bad.id
    assert caught.value.code is ErrorCode.BAD_REQUEST
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    "bad", [*BROKEN_JSON, *BROKEN_MSGPACK, *NO_MAP, *BEYOND_JSON], ids=lambda bad: bad.name
)
def test_a_client_rejects_a_bad_frame_as_well(bad: BadFrame) -> None:
    with pytest.raises(BadRequest):
        bad.codec.decode_server_message(bad.frame)


def test_names_are_unique() -> None:
    assert len({bad.name for bad in BAD_FRAMES}) == len(BAD_FRAMES)


def frames(codec: Codec) -> list[bytes]:
    return [codec.encode_command(command) for command in COMMANDS.values()]


def server_message_frames(codec: Codec) -> list[bytes]:
    return [codec.encode(message) for message in SERVER_MESSAGES.values()]


@codecs
def test_a_truncated_command_is_rejected(codec: Codec) -> None:
    for frame in frames(codec):
        for end in range(len(frame)):
            with pytest.raises(BadRequest):
                codec.decode(frame[:end])


@codecs
def test_a_truncated_server_message_is_rejected(codec: Codec) -> None:
    for frame in server_message_frames(codec):
        for end in range(len(frame)):
            with pytest.raises(BadRequest):
                codec.decode_server_message(frame[:end])


@codecs
def test_bytes_after_a_command_are_rejected(codec: Codec) -> None:
    for frame in frames(codec):
        for more in (frame, b"\x00", b"\xc0", b"}", b"1"):
            with pytest.raises(BadRequest):
                codec.decode(frame + more)


def is_command(codec: Codec, frame: bytes) -> bool:
    """Return whether *frame* is a command; assert that both codecs encode and decode it without a change."""
    try:
        command = codec.decode(frame)
    except BadRequest:
        return False
    if isinstance(command, Connect) and any(resume.fault for resume in command.subs.values()):
        return True  # invalid options cannot be encoded
    for either in CODECS.values():
        assert either.decode(either.encode_command(command)) == command
    return True


@codecs
def test_a_command_with_any_byte_changed_is_decoded_or_rejected(codec: Codec) -> None:
    outcomes = set()
    for frame, change in product(frames(codec), CHANGES):
        for index, byte in enumerate(frame):
            mutated = frame[:index] + bytes([byte ^ change]) + frame[index + 1 :]
            outcomes.add(is_command(codec, mutated))
    assert outcomes == {True, False}


@codecs
def test_a_server_message_with_any_byte_changed_is_decoded_or_rejected(codec: Codec) -> None:
    outcomes = set()
    for frame, change in product(server_message_frames(codec), CHANGES):
        for index, byte in enumerate(frame):
            mutated = frame[:index] + bytes([byte ^ change]) + frame[index + 1 :]
            try:
                message = codec.decode_server_message(mutated)
                outcomes.add(True)
            except BadRequest:
                outcomes.add(False)
                continue
            assert codec.decode_server_message(codec.encode(message)) == message
    assert outcomes == {True, False}


@codecs
@bounded
@given(st.data())
def test_parts_of_two_commands_are_decoded_or_rejected(codec: Codec, data: st.DataObject) -> None:
    one = data.draw(st.sampled_from(frames(codec)))
    other = data.draw(st.sampled_from(frames(codec)))
    cut = data.draw(st.integers(0, len(one)))
    resumed = data.draw(st.integers(0, len(other)))
    is_command(codec, one[:cut] + data.draw(st.binary(max_size=6)) + other[resumed:])


@codecs
@bounded
@given(st.binary(max_size=64))
def test_random_bytes_are_rejected(codec: Codec, noise: bytes) -> None:
    assert not is_command(codec, noise)


@codecs
@pytest.mark.parametrize(("levels", "fits"), [(63, True), (64, False)])
def test_a_client_decodes_messages_as_deep_as_it_may_send(codec: Codec, levels: int, fits: bool) -> None:
    deep: list[Any] = []
    for _ in range(levels - 1):
        deep = [deep]
    message = Message("c", payload_of(deep))
    sent = codec.encode_command(Publish(1, "c", message.data))
    replayed = Connected(1, "c-1", "anna", "node-a", 25.0, subs={"c": Subscribed("c", messages=(message,))})
    read = codec.encode(replayed)
    if fits:
        assert codec.decode(sent) == Publish(1, "c", message.data)
        assert codec.decode_server_message(read) == replayed
    else:
        with pytest.raises(BadRequest, match="nested deeper than 63 levels"):
            codec.decode(sent)
        with pytest.raises(BadRequest, match="nested deeper than 68 levels"):
            codec.decode_server_message(read)


LEVELS = [(1, True), (63, True), (64, True), (65, False), (1000, False), (2000, False), (30_000, False)]


@pytest.mark.parametrize(("levels", "fits"), LEVELS)
@pytest.mark.parametrize("kind", ["arrays", "maps"])
def test_both_codecs_count_levels_in_the_same_way(levels: int, fits: bool, kind: str) -> None:
    text = b"[" * levels + b"]" * levels if kind == "arrays" else b'{"":' * levels + b"0" + b"}" * levels
    packed = b"\x91" * (levels - 1) + b"\x90" if kind == "arrays" else b"\x81\xa0" * levels + b"\x00"
    for decode, frame in ((decode_json, text), (decode_msgpack, packed)):
        if fits:
            assert decode(frame) is not None
        else:
            with pytest.raises(BadRequest, match=r"nested deeper than 64 levels|no JSON|no MessagePack"):
                decode(frame)


def test_many_small_arrays_are_not_deep() -> None:
    assert len(decode_json(b"[" + b"[]," * 100 + b"0]")) == 101
    assert len(decode_msgpack(b"\xdc\x00\x65" + b"\x90" * 101)) == 101


OVERSIZED_HEADERS = {
    "nested arrays of 60,000 items": b"\xdc\xea\x60" * 1000 + b"\xc0" * 62_000,
    "nested long arrays": b"\xdd\x00\x00\xea\x60" * 1000 + b"\xc0" * 60_000,
    "as deep as allowed": b"\xdc\xea\x60" * 60 + b"\xc0" * 64_000,
    "nested maps of 60,000 entries": b"\xde\xea\x60\xa0" * 1000 + b"\xc0" * 61_000,
    "arrays in a publish": MSGPACK.encode_command(COMMANDS["publish"])
    + b"\xdc\xea\x60" * 900
    + b"\xc0" * 62_000,
}


@pytest.mark.parametrize("name", OVERSIZED_HEADERS)
def test_headers_that_count_more_items_than_follow_take_no_memory(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest):
            MSGPACK.decode(OVERSIZED_HEADERS[name])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 * limits.MESSAGE_SIZE


def test_long_arrays_that_are_complete_are_decoded() -> None:
    assert decode_msgpack(b"\xdc\xea\x60" + b"\x07" * 60_000) == [7] * 60_000
    assert decode_msgpack(b"\xdd\x00\x01\x11\x70" + b"\x07" * 70_000) == [7] * 70_000
