"""What a codec encodes, it decodes to the same message; both codecs encode the same maps."""

from __future__ import annotations

from typing import Any, get_args

import msgpack
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import CODECS, JSON, MSGPACK, Codec
from protocol.messages import ClientMessage, Message, Push, Reply, Subscribed
from tests.protocol import strategies
from tests.protocol.strategies import bounded

codecs = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)


def test_every_type_has_a_strategy() -> None:
    assert set(strategies.COMMANDS) == set(get_args(ClientMessage))
    assert set(strategies.SERVER_MESSAGES) == set(get_args(Reply)) | set(get_args(Push))


def test_the_codecs_are_found_by_their_subprotocol() -> None:
    assert list(CODECS) == ["fanway.v1.json", "fanway.v1.msgpack"]
    assert [codec.subprotocol for codec in CODECS.values()] == list(CODECS)
    assert [codec.binary for codec in (JSON, MSGPACK)] == [False, True]


@codecs
@pytest.mark.parametrize("kind", strategies.COMMANDS, ids=lambda kind: kind.__name__)
def test_a_command_survives_encoding_and_decoding(codec: Codec, kind: type) -> None:
    @bounded
    @given(strategies.COMMANDS[kind])
    def check(command: Any) -> None:
        decoded = codec.decode(codec.encode_command(command))
        assert type(decoded) is kind
        assert decoded == command

    check()


@codecs
@pytest.mark.parametrize("kind", strategies.SERVER_MESSAGES, ids=lambda kind: kind.__name__)
def test_a_server_message_survives_encoding_and_decoding(codec: Codec, kind: type) -> None:
    @bounded
    @given(strategies.SERVER_MESSAGES[kind])
    def check(message: Any) -> None:
        decoded = codec.decode_server_message(codec.encode(message))
        assert type(decoded) is kind
        assert decoded == message

    check()


@bounded
@given(st.one_of(*strategies.COMMANDS.values()))
def test_both_codecs_encode_the_same_map_of_a_command(command: Any) -> None:
    encoded = orjson.loads(JSON.encode_command(command))
    assert msgpack.unpackb(MSGPACK.encode_command(command)) == encoded
    assert encoded["type"] == command.type


@bounded
@given(st.one_of(*strategies.SERVER_MESSAGES.values()))
def test_both_codecs_encode_the_same_map_of_a_server_message(message: Any) -> None:
    encoded = orjson.loads(JSON.encode(message))
    assert msgpack.unpackb(MSGPACK.encode(message)) == encoded
    assert encoded["type"] == message.type


class EncodedMessage:
    """A message that is already encoded, as a gateway has it."""

    def __init__(self, message: Message) -> None:
        self.message = message

    def body(self, subprotocol: str) -> bytes:
        return CODECS[subprotocol].encode(self.message)


@codecs
@bounded
@given(st.lists(strategies.messages, max_size=3), strategies.rosters)
def test_messages_that_are_already_encoded_are_inserted_as_they_are(
    codec: Codec, messages: Any, members: Any
) -> None:
    with_encoded = Subscribed(
        "c", messages=[EncodedMessage(message) for message in messages], members=members
    )
    assert codec.encode(with_encoded) == codec.encode(Subscribed("c", messages=messages, members=members))
