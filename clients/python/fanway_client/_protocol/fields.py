"""Decode single fields: return a raw value as a typed one, or raise `BadRequest` with what was expected."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from itertools import chain
from typing import Any, TypeVar

from fanway_client._protocol import channels, limits
from fanway_client._protocol.errors import BadRequest
from fanway_client._protocol.messages import ClientInfo, Resume
from fanway_client._protocol.payload import Payload, payload_of
from fanway_client._protocol.position import MessageId

Decode = Callable[[Any], Any]
"""Returns a raw value as a typed one; raises `BadRequest` if it is wrong."""

E = TypeVar("E", bound=StrEnum)


def _printable(value: Any) -> str:
    """Return *value* for an error: at most 48 characters, nothing in containers, which may hold a token."""
    if isinstance(value, Mapping | list):
        return "an array" if isinstance(value, list) else "a map"
    text = repr(value)
    return text if len(text) <= 48 else f"{text[:48]}…"


def expected(what: str, value: Any) -> BadRequest:
    """Return the error that says that *what* was expected instead of *value*."""
    return BadRequest(f"expected {what}, not {_printable(value)}")


def decode_part(name: str, decode: Decode, value: Any) -> Any:
    """Return *value*, a part of a field, decoded; errors name the part."""
    try:
        return decode(value)
    except BadRequest as error:
        raise BadRequest(f"{name}: {error.message}") from None


def command_id(value: Any) -> int:
    """Decode an integer 1…2^53-1."""
    if type(value) is not int or not 1 <= value <= limits.COMMAND_ID:
        raise expected("an integer from 1 to 2^53-1", value)
    return value


def channel_name(value: Any) -> str:
    """Decode the name of a channel."""
    if type(value) is not str or not channels.is_channel_name(value):
        raise expected(channels.expected_name(value if type(value) is str else ""), value)
    return value


def boolean(value: Any) -> bool:
    """Decode true or false."""
    if type(value) is not bool:
        raise expected("true or false", value)
    return value


def non_negative(value: Any) -> int:
    """Decode an integer 0…2^53-1."""
    if type(value) is not int or not 0 <= value <= limits.COMMAND_ID:
        raise expected("a whole number from 0 up", value)
    return value


def message_id(value: Any) -> MessageId:
    """Decode a message id or a position."""
    if type(value) is not str:
        raise expected("a message id", value)
    try:
        return MessageId.parse(value)
    except ValueError as error:
        raise BadRequest(str(error)) from None


def string(value: Any) -> str:
    """Decode any string."""
    if type(value) is not str:
        raise expected("a string", value)
    return value


def number(value: Any) -> float:
    """Decode an integer or a float."""
    if type(value) not in (int, float):
        raise expected("a number", value)
    return value  # type: ignore[no-any-return]


def mapping(value: Any) -> dict[str, Any]:
    """Decode a map, whatever is in it."""
    if type(value) is not dict:
        raise expected("a map", value)
    return value


def array_of(decode: Decode) -> Decode:
    """Return a decoder of an array of items that *decode* decodes; the decoder returns a tuple."""

    def decode_all(value: Any) -> tuple[Any, ...]:
        if type(value) is not list:
            raise expected("an array", value)
        return tuple(decode_part(str(index), decode, item) for index, item in enumerate(value))

    return decode_all


def one_of(choices: type[E]) -> Decode:
    """Return a decoder of the value of one of *choices*."""

    def decode(value: Any) -> E:
        try:
            return choices(value)
        except ValueError:
            raise expected(f"one of {', '.join(choices)}", value) from None

    return decode


def text(max_length: int) -> Decode:
    """Return a decoder of a string of 1 to *max_length* characters."""

    def decode(value: Any) -> str:
        if type(value) is not str or not 1 <= len(value) <= max_length:
            raise expected(f"a string of 1 to {max_length} characters", value)
        return value

    return decode


def token(value: Any) -> str:
    """Decode a token; errors never repeat it."""
    if type(value) is not str or not 1 <= len(value) <= limits.TOKEN_SIZE:
        raise BadRequest(f"expected a token of 1 to {limits.TOKEN_SIZE} characters")
    return value


idempotency_key = text(limits.IDEMPOTENCY_KEY)


def payload(value: Any) -> Payload:
    """Decode the data of a message: any value that JSON encodes, null included."""
    return value if isinstance(value, Payload) else payload_of(value)


def client_info(value: Any) -> ClientInfo:
    """Decode a map with `name` and perhaps `version`."""
    if not isinstance(value, Mapping):
        raise expected("a map with a name", value)
    name, version = decode_part("name", text(limits.CLIENT_NAME), value.get("name")), value.get("version")
    return ClientInfo(
        name, None if version is None else decode_part("version", text(limits.CLIENT_VERSION), version)
    )


def subs(value: Any) -> dict[str, Resume]:
    """Decode a map from channels to options of subscriptions; an error in one leaves the others valid."""
    if not isinstance(value, Mapping):
        raise BadRequest(f"expected a map from channel to options, not {type(value).__name__}")
    if len(value) > limits.SUBSCRIPTIONS_AT_CONNECT:
        raise BadRequest(f"expected at most {limits.SUBSCRIPTIONS_AT_CONNECT} channels, not {len(value)}")
    return {string(name): _resume_or_fault(name, options) for name, options in value.items()}


_RESUME_OPTIONS: dict[str, Decode] = {"since": message_id, "token": token, "rewind": non_negative}


def _resume_or_fault(name: str, options: Any) -> Resume:
    try:
        channel_name(name)
        return _resume(options)
    except BadRequest as error:
        return Resume(fault=error.message)


def _resume(value: Any) -> Resume:
    if value is None:
        return Resume()
    if not isinstance(value, Mapping):
        # A client that forgot the map may have sent its token here: the error has its type only.
        raise BadRequest(f"expected a map of options, not {type(value).__name__}")
    given = {name: value[name] for name in _RESUME_OPTIONS if value.get(name) is not None}
    return Resume(**{name: decode_part(name, _RESUME_OPTIONS[name], item) for name, item in given.items()})


def tags(value: Any) -> dict[str, str]:
    """Decode a map from strings to strings."""
    if not isinstance(value, Mapping) or len(value) > limits.TAGS:
        raise expected(f"a map of at most {limits.TAGS} entries", value)
    for item in chain(value, value.values()):
        if type(item) is not str or len(item) > limits.TAG_SIZE:
            raise expected(f"names and values of at most {limits.TAG_SIZE} characters", item)
    return dict(value)
