import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from gateway.delivery.encoding import EncodedBatch, EncodedMessage, data_frame, last_position
from gateway.transport.memory import decode_data_frames
from protocol.codec import CODECS, JSON, MSGPACK, Codec
from protocol.messages import Message
from protocol.payload import payload_of
from tests.gateway.delivery.queue_items import FakeSubscriber, message_id
from tests.gateway.virtual_time import no_deadline

SIZES = [0, 1, 2, 124, 125, 126, 127, 128, 1_000, 65_534, 65_535, 65_536, 65_537, 200_000]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("binary", [False, True])
def test_a_data_frame_equals_that_of_websockets(size: int, binary: bool) -> None:
    payload = b"x" * size
    opcode = Opcode.BINARY if binary else Opcode.TEXT
    assert data_frame(payload, binary=binary) == Frame(opcode, payload).serialize(mask=False)


@no_deadline
@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=300))))
def test_joined_frames_can_be_decoded_one_by_one(parts: list[tuple[bool, bytes]]) -> None:
    joined = b"".join(data_frame(payload, binary=binary) for binary, payload in parts)
    assert list(decode_data_frames(joined)) == parts


@pytest.mark.parametrize("size", SIZES)
def test_a_truncated_frame_is_an_error(size: int) -> None:
    whole = data_frame(b"x" * size, binary=False)
    for cut in {1, 2, 3, 4, len(whole) // 2, len(whole) - 1} - {0}:
        if cut < len(whole):
            with pytest.raises(ValueError, match="no complete data frame at byte 0"):
                list(decode_data_frames(whole[:cut]))


@pytest.mark.parametrize("wrong", [b"\x88\x00", b"\x01\x00", b"\x00\x00", b"\xc1\x00", b"\x89\x00"])
def test_anything_but_data_frames_is_an_error(wrong: bytes) -> None:
    with pytest.raises(ValueError, match="at byte 2 of 4"):
        list(decode_data_frames(b"\x81\x00" + wrong))


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
@pytest.mark.parametrize("size", [1, 1_000, 70_000])
def test_a_message_is_encoded_once_for_each_codec(codec: Codec, size: int) -> None:
    message = Message("a", payload_of("x" * size), message_id(1))
    encoded = EncodedMessage(message)
    frame = encoded.frame(codec)
    assert frame == data_frame(codec.encode(message), binary=codec.binary)
    assert encoded.frame(codec) is frame
    assert encoded.body(codec.subprotocol) == codec.encode(message)
    assert EncodedBatch(codec, [encoded], None).data is frame, "one copy, shared by all"
    assert repr(encoded) == f"<EncodedMessage a 1-u1 in ['{codec.subprotocol}']>"


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_batch_is_its_messages_as_joined_frames(codec: Codec, count: int) -> None:
    subscriber = FakeSubscriber("a", "catch_up", codec)
    batch = subscriber.batch(1, *[True] * count)
    assert len(batch) == len(batch.data)
    assert repr(batch) == f"<EncodedBatch {count} messages {len(batch.data)} bytes>"
    decoded = [codec.decode_server_message(payload) for _, payload in decode_data_frames(batch.data)]
    assert decoded == [encoded.message for encoded in batch.messages]
    assert {binary for binary, _ in decode_data_frames(batch.data)} == {codec.binary}


def test_a_message_has_an_encoding_for_each_codec() -> None:
    encoded = EncodedMessage(Message("a", payload_of(1), message_id(1)))
    for codec in (JSON, MSGPACK):
        EncodedBatch(codec, [encoded], message_id(0))
    assert repr(encoded) == "<EncodedMessage a 1-u1 in ['fanway.v1.json', 'fanway.v1.msgpack']>"


@pytest.mark.parametrize(
    ("numbered", "last", "unnumbered"),
    [
        ((True,), 7, False),
        ((True, True, True), 9, False),
        ((True, False), 7, True),
        ((False, True), 7, True),
        ((False,), 6, True),
        ((False, False), 6, True),
    ],
)
def test_a_batch_has_the_positions_before_and_after_it(
    numbered: tuple[bool, ...], last: int, unnumbered: bool
) -> None:
    batch = FakeSubscriber("a", "catch_up").batch(7, *numbered)
    assert (batch.before, batch.last, batch.unnumbered) == (message_id(6), message_id(last), unnumbered)
    assert last_position(batch.messages, None) == (message_id(last) if last > 6 else None)


def test_the_position_after_no_messages_is_the_one_before() -> None:
    assert last_position([], message_id(3)) == message_id(3)
    assert last_position([], None) is None
