"""Whatever is encoded decodes to the same again, in both codecs, and both spell the same maps."""

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
    assert set(strategies.EVENTS) == set(get_args(Reply)) | set(get_args(Push))


def test_the_codecs_are_found_by_their_subprotocol() -> None:
    assert list(CODECS) == ["fanway.v1.json", "fanway.v1.msgpack"]
    assert [codec.subprotocol for codec in CODECS.values()] == list(CODECS)
    assert [codec.binary for codec in (JSON, MSGPACK)] == [False, True]


@codecs
@pytest.mark.parametrize("kind", strategies.COMMANDS, ids=lambda kind: kind.__name__)
def test_commands(codec: Codec, kind: type) -> None:
    @bounded
    @given(strategies.COMMANDS[kind])
    def check(command: Any) -> None:
        decoded = codec.decode(codec.encode_command(command))
        assert type(decoded) is kind
        assert decoded == command

    check()


@codecs
@pytest.mark.parametrize("kind", strategies.EVENTS, ids=lambda kind: kind.__name__)
def test_replies_and_pushes(codec: Codec, kind: type) -> None:
    @bounded
    @given(strategies.EVENTS[kind])
    def check(event: Any) -> None:
        decoded = codec.decode_server_message(codec.encode(event))
        assert type(decoded) is kind
        assert decoded == event

    check()


@bounded
@given(st.one_of(*strategies.COMMANDS.values()))
def test_both_codecs_spell_the_same_commands(command: Any) -> None:
    spelled = orjson.loads(JSON.encode_command(command))
    assert msgpack.unpackb(MSGPACK.encode_command(command)) == spelled
    assert spelled["type"] == command.type


@bounded
@given(st.one_of(*strategies.EVENTS.values()))
def test_both_codecs_spell_the_same_events(event: Any) -> None:
    spelled = orjson.loads(JSON.encode(event))
    assert msgpack.unpackb(MSGPACK.encode(event)) == spelled
    assert spelled["type"] == event.type


class Ready:
    """A message that somebody encoded before, as a gateway has it."""

    def __init__(self, message: Message) -> None:
        self.message = message

    def body(self, subprotocol: str) -> bytes:
        return CODECS[subprotocol].encode(self.message)


@codecs
@bounded
@given(st.lists(strategies.messages, max_size=3), strategies.rosters)
def test_messages_that_are_already_encoded_are_spliced(codec: Codec, messages: Any, members: Any) -> None:
    ready = Subscribed("c", messages=[Ready(message) for message in messages], members=members)
    assert codec.encode(ready) == codec.encode(Subscribed("c", messages=messages, members=members))
