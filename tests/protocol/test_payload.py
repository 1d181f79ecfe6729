"""The data of a message: canonical JSON, the same from both codecs, and only values that both encode."""

from __future__ import annotations

import math
from typing import Any

import msgpack
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import limits
from protocol.codec import JSON, MSGPACK, decode_json, decode_msgpack
from protocol.errors import BadRequest
from protocol.messages import Publish
from protocol.payload import Payload, check_depth, check_value, payload_of
from tests.protocol.examples import DATA
from tests.protocol.strategies import bounded, values


def from_json(text: str) -> Payload:
    command = JSON.decode(f'{{"type":"publish","id":7,"channel":"c","data":{text}}}'.encode())
    assert isinstance(command, Publish)
    return command.data


def from_msgpack(value: Any) -> Payload:
    command = MSGPACK.decode(msgpack.packb({"type": "publish", "id": 7, "channel": "c", "data": value}))
    assert isinstance(command, Publish)
    return command.data


@pytest.mark.parametrize("name", DATA)
def test_data_is_the_same_from_either_codec(name: str) -> None:
    value = DATA[name]
    text = orjson.dumps(value).decode()
    assert from_json(text) == from_msgpack(value) == payload_of(value)
    assert from_json(text).value == value
    assert msgpack.unpackb(from_json(text).msgpack) == value
    assert type(from_json(text).value) is type(value)


@bounded
@given(values)
def test_any_data_is_the_same_from_either_codec(value: Any) -> None:
    assert from_json(orjson.dumps(value).decode()) == from_msgpack(value)
    assert msgpack.unpackb(payload_of(value).msgpack) == value == payload_of(value).value


def test_data_is_kept_as_canonical_json() -> None:
    assert from_json(' { "a" : [ 1.0 , 1e2, "\\u00e4\\/" ] } ').json == '{"a":[1.0,100.0,"ä/"]}'.encode()


def test_payloads_compare_by_value() -> None:
    one, same, other = payload_of({"a": 1}), from_json('{"a": 1}'), payload_of([])
    assert one == same != other
    assert one != b'{"a":1}'
    assert {one, same, other} == {one, other}
    assert len(one) == len(b'{"a":1}')
    assert repr(one) == "<Payload 7 bytes>"


def test_msgpack_is_encoded_once_and_the_value_is_decoded_each_time() -> None:
    payload = payload_of({"a": [1]})
    assert payload.msgpack is payload.msgpack
    assert payload.value is not payload.value


big = st.integers(limits.INT_MAX + 1, 10**300) | st.integers(-(10**300), limits.INT_MIN - 1)
around: st.SearchStrategy[Any] = st.recursive(
    st.just("%BIG%"),
    lambda inner: st.lists(inner, min_size=1, max_size=2) | st.fixed_dictionaries({"k": inner}),
)


@bounded
@given(big, around, st.lists(values, max_size=2))
def test_integers_beyond_64_bits_are_rejected(number: int, place: Any, beside: Any) -> None:
    text = orjson.dumps([beside, place]).decode().replace('"%BIG%"', str(number))
    with pytest.raises(
        BadRequest, match=r"^publish\.data: .* does not fit 64 bits; send it as a string$"
    ) as caught:
        from_json(text)
    assert caught.value.id == 7


@bounded
@given(st.integers(limits.INT_MIN, limits.INT_MAX))
def test_integers_of_64_bits_are_kept_exactly(number: int) -> None:
    assert from_json(f'["e19",{number},1e300]').value == ["e19", number, 1e300]
    assert from_msgpack(number).value == number


@bounded
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_are_kept_exactly(number: float) -> None:
    for payload in (from_json(repr(number)), from_msgpack(number)):
        assert payload.value == number
        assert type(payload.value) is float
        assert math.copysign(1, payload.value) == math.copysign(1, number)


def test_a_float_beyond_64_bits_is_not_taken_for_an_integer() -> None:
    assert from_json("18446744073709551616.0").value == 2.0**64
    assert from_json("1.8446744073709552e19").value == 2.0**64


def test_an_integer_in_an_unknown_field_is_ignored_whatever_the_data() -> None:
    frame = b'{"type":"publish","id":7,"channel":"c","trace":18446744073709551616,"data":[1e300,"e19"]}'
    assert JSON.decode(frame) == Publish(7, "c", payload_of([1e300, "e19"]))


def test_only_the_integers_of_the_value_are_looked_for_in_the_source() -> None:
    source = b'{"data": 36893488147419103232, "x": 1e30}'
    assert payload_of(1e30, source=source).value == 1e30
    with pytest.raises(BadRequest, match=r"^36893488147419103232 does not fit 64 bits; send it as a string$"):
        payload_of(orjson.loads(source)["data"], source=source)


NOT_JSON: dict[str, Any] = {
    "bytes": b"raw",
    "an object": object(),
    "a set": {1},
    "an integer beyond 64 bits": 2**64,
    "a key that is no string": {1: 2},
    "a lone surrogate": "\ud800",
    "what contains itself": None,
}
loop: list[Any] = []
loop.append(loop)
NOT_JSON["what contains itself"] = loop


@pytest.mark.parametrize("name", NOT_JSON)
def test_a_value_that_json_cannot_encode_is_rejected(name: str) -> None:
    with pytest.raises(BadRequest, match=r"; data must be what JSON can carry$"):
        payload_of(NOT_JSON[name])


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (b"raw", "binary data cannot be encoded as JSON; send text, e.g. base64"),
        ({"a": [msgpack.ExtType(1, b"")]}, "an extension type cannot be encoded as JSON"),
        ([{"a": msgpack.Timestamp(1)}], "a timestamp cannot be encoded as JSON"),
        ([None, {1}], "set cannot be encoded as JSON"),
        (math.nan, "nan is not a JSON number"),
        ([1.5, [{"a": -math.inf}]], "-inf is not a JSON number"),
        ([{"a": {b"b": None}}], "a map key is a bytes; keys must be strings"),
        ({1: b"raw"}, "a map key is a int; keys must be strings"),
    ],
)
def test_a_value_is_checked_to_its_last_item(value: Any, error: str) -> None:
    with pytest.raises(BadRequest, match=error):
        check_value(value)
    with pytest.raises(BadRequest, match=error):
        check_value([{"deep": [None, "text", value]}, 1, True])


@pytest.mark.parametrize("value", [None, [None], {"a": None, "b": [1.5, True]}, [[[]] * 50, {}] * 2])
def test_a_value_that_json_encodes_is_accepted(value: Any) -> None:
    check_value(value)
    check_depth(value)


def test_the_caller_sets_the_greatest_depth() -> None:
    for check in (check_value, check_depth):
        check([[0]], 2)
        check([{}], 2)
        check("", 0)
        nests: list[Any] = [[[[]]], [{"a": {}}], [1, [2, [3]]], {"a": {"b": {}}}]
        for deep in nests:
            with pytest.raises(BadRequest, match=r"^nested deeper than 2 levels$"):
                check(deep, 2)
    assert decode_json(b"[[[0]]]", depth=3) == decode_msgpack(b"\x91\x91\x91\x00", depth=3) == [[[0]]]
    for decode, frame in ((decode_json, b"[[[0]]]"), (decode_msgpack, b"\x91\x91\x91\x00")):
        with pytest.raises(BadRequest, match=r"^nested deeper than 2 levels$"):
            decode(frame, depth=2)
