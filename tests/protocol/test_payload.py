"""The data of a message: canonical JSON, the same in both codecs, and only what both can carry."""

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
def test_data_is_the_same_whichever_way_it_came(name: str) -> None:
    value = DATA[name]
    text = orjson.dumps(value).decode()
    assert from_json(text) == from_msgpack(value) == payload_of(value)
    assert from_json(text).value == value
    assert msgpack.unpackb(from_json(text).msgpack) == value
    assert type(from_json(text).value) is type(value)


@bounded
@given(values)
def test_any_data_is_the_same_whichever_way_it_came(value: Any) -> None:
    assert from_json(orjson.dumps(value).decode()) == from_msgpack(value)
    assert msgpack.unpackb(payload_of(value).msgpack) == value == payload_of(value).value


def test_data_is_kept_in_one_spelling() -> None:
    assert from_json(' { "a" : [ 1.0 , 1e2, "\\u00e4\\/" ] } ').json == '{"a":[1.0,100.0,"ä/"]}'.encode()


def test_a_payload_is_a_value() -> None:
    one, same, other = payload_of({"a": 1}), from_json('{"a": 1}'), payload_of([])
    assert one == same != other
    assert one != b'{"a":1}'
    assert {one, same, other} == {one, other}
    assert len(one) == len(b'{"a":1}')
    assert repr(one) == "<Payload 7 bytes>"


def test_msgpack_is_made_once_and_values_each_time() -> None:
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
def test_integers_beyond_64_bits_are_refused(number: int, place: Any, beside: Any) -> None:
    text = orjson.dumps([beside, place]).decode().replace('"%BIG%"', str(number))
    with pytest.raises(
        BadRequest, match=r"^publish\.data: .* does not fit 64 bits; send it as a string$"
    ) as caught:
        from_json(text)
    assert caught.value.id == 7


@bounded
@given(st.integers(limits.INT_MIN, limits.INT_MAX))
def test_integers_of_64_bits_arrive_exactly(number: int) -> None:
    assert from_json(f'["e19",{number},1e300]').value == ["e19", number, 1e300]
    assert from_msgpack(number).value == number


@bounded
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_arrive_exactly(number: float) -> None:
    for payload in (from_json(repr(number)), from_msgpack(number)):
        assert payload.value == number
        assert type(payload.value) is float
        assert math.copysign(1, payload.value) == math.copysign(1, number)


def test_the_float_next_to_a_large_integer_is_no_integer() -> None:
    assert from_json("18446744073709551616.0").value == 2.0**64
    assert from_json("1.8446744073709552e19").value == 2.0**64


def test_an_integer_in_an_unknown_field_is_ignored_whatever_the_data() -> None:
    frame = b'{"type":"publish","id":7,"channel":"c","trace":18446744073709551616,"data":[1e300,"e19"]}'
    assert JSON.decode(frame) == Publish(7, "c", payload_of([1e300, "e19"]))


def test_a_source_is_looked_at_for_the_value_alone() -> None:
    source = b'{"data": 36893488147419103232, "x": 1e30}'
    assert payload_of(1e30, source=source).value == 1e30
    with pytest.raises(BadRequest, match=r"^36893488147419103232 does not fit 64 bits; send it as a string$"):
        payload_of(orjson.loads(source)["data"], source=source)


UNFIT: dict[str, Any] = {
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
UNFIT["what contains itself"] = loop


@pytest.mark.parametrize("name", UNFIT)
def test_what_json_cannot_carry_is_no_payload(name: str) -> None:
    with pytest.raises(BadRequest, match=r"; data must be what JSON can carry$"):
        payload_of(UNFIT[name])


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"raw", "binary data is nothing that JSON carries; send text, e.g. base64"),
        ({"a": [msgpack.ExtType(1, b"")]}, "an extension type is nothing that JSON carries"),
        ([{"a": msgpack.Timestamp(1)}], "a timestamp is nothing that JSON carries"),
        ([None, {1}], "set is nothing that JSON carries"),
        (math.nan, "nan is no number that JSON carries"),
        ([1.5, [{"a": -math.inf}]], "-inf is no number that JSON carries"),
        ([{"a": {b"b": None}}], "a map key is a bytes; keys must be strings"),
        ({1: b"raw"}, "a map key is a int; keys must be strings"),
    ],
)
def test_a_value_is_checked_to_its_last_item(value: Any, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        check_value(value)
    with pytest.raises(BadRequest, match=says):
        check_value([{"deep": [None, "text", value]}, 1, True])


@pytest.mark.parametrize("value", [None, [None], {"a": None, "b": [1.5, True]}, [[[]] * 50, {}] * 2])
def test_a_value_that_json_carries_passes(value: Any) -> None:
    check_value(value)
    check_depth(value)


def test_depth_is_what_the_caller_says() -> None:
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
