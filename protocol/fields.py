"""Checks of single fields: a raw value to a typed one, or `BadRequest` that names what was expected."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from itertools import chain
from typing import Any, TypeVar

from protocol import channels, limits
from protocol.errors import BadRequest
from protocol.messages import ClientInfo, Resume
from protocol.payload import Payload, payload_of
from protocol.position import MessageId

Check = Callable[[Any], Any]
E = TypeVar("E", bound=StrEnum)


def _shown(value: Any) -> str:
    """Return *value* for an error: cut short, and of containers the kind alone: a token may lie in them."""
    if isinstance(value, Mapping | list):
        return "an array" if isinstance(value, list) else "a map"
    text = repr(value)
    return text if len(text) <= 48 else f"{text[:48]}…"


def expected(what: str, value: Any) -> BadRequest:
    """Return the error that says *what* was expected where *value* stood."""
    return BadRequest(f"expected {what}, not {_shown(value)}")


def part(name: str, check: Check, value: Any) -> Any:
    """Return what *check* makes of *value*, a part of a field; its errors name that part."""
    try:
        return check(value)
    except BadRequest as fault:
        raise BadRequest(f"{name}: {fault.message}") from None


def command_id(value: Any) -> int:
    """An integer 1…2^53-1."""
    if type(value) is not int or not 1 <= value <= limits.COMMAND_ID:
        raise expected("an integer from 1 to 2^53-1", value)
    return value


def channel(value: Any) -> str:
    """A channel's name."""
    if type(value) is not str or not channels.valid(value):
        raise expected("a channel name of 1 to 128 characters A-Z a-z 0-9 _ . : @ ~ -", value)
    return value


def flag(value: Any) -> bool:
    """True or false."""
    if type(value) is not bool:
        raise expected("true or false", value)
    return value


def count(value: Any) -> int:
    """A whole number from 0 up."""
    if type(value) is not int or not 0 <= value <= limits.COMMAND_ID:
        raise expected("a whole number from 0 up", value)
    return value


def since(value: Any) -> MessageId:
    """A message id."""
    if type(value) is not str:
        raise expected("a message id", value)
    try:
        return MessageId.parse(value)
    except ValueError as error:
        raise BadRequest(str(error)) from None


def string(value: Any) -> str:
    """Any string."""
    if type(value) is not str:
        raise expected("a string", value)
    return value


def number(value: Any) -> float:
    """An integer or a float."""
    if type(value) not in (int, float):
        raise expected("a number", value)
    return value  # type: ignore[no-any-return]


def mapping(value: Any) -> dict[str, Any]:
    """A map."""
    if type(value) is not dict:
        raise expected("a map", value)
    return value


def array_of(check: Check) -> Check:
    """Return the check for an array whose items all pass *check*; it gives a tuple."""

    def check_all(value: Any) -> tuple[Any, ...]:
        if type(value) is not list:
            raise expected("an array", value)
        return tuple(part(str(index), check, item) for index, item in enumerate(value))

    return check_all


def one_of(choices: type[E]) -> Check:
    """Return the check for the name of one of *choices*."""

    def check(value: Any) -> E:
        try:
            return choices(value)
        except ValueError:
            raise expected(f"one of {', '.join(choices)}", value) from None

    return check


def text(longest: int) -> Check:
    """Return the check for a string of 1 to *longest* characters."""

    def check(value: Any) -> str:
        if type(value) is not str or not 1 <= len(value) <= longest:
            raise expected(f"a string of 1 to {longest} characters", value)
        return value

    return check


def token(value: Any) -> str:
    """A token, never repeated in an error."""
    if type(value) is not str or not 1 <= len(value) <= limits.TOKEN_SIZE:
        raise BadRequest(f"expected a token of 1 to {limits.TOKEN_SIZE} characters")
    return value


key = text(limits.IDEMPOTENCY_KEY)


def payload(value: Any) -> Payload:
    """The data of a message: any value that JSON carries, null among them."""
    return value if isinstance(value, Payload) else payload_of(value)


def client_info(value: Any) -> ClientInfo:
    """A map with a name and perhaps a version."""
    if not isinstance(value, Mapping):
        raise expected("a map with a name", value)
    name, version = part("name", text(128), value.get("name")), value.get("version")
    return ClientInfo(name, None if version is None else part("version", text(64), version))


def resumes(value: Any) -> dict[str, Resume]:
    """A map from channel to how it is to be restored; what is wrong with one does not hinder the others."""
    if not isinstance(value, Mapping):
        raise BadRequest(f"expected a map from channel to options, not {type(value).__name__}")
    if len(value) > limits.SUBSCRIPTIONS_AT_CONNECT:
        raise BadRequest(f"expected at most {limits.SUBSCRIPTIONS_AT_CONNECT} channels, not {len(value)}")
    return {string(name): _restored(name, options) for name, options in value.items()}


_RESUME: dict[str, Check] = {"since": since, "token": token, "rewind": count}


def _restored(name: str, options: Any) -> Resume:
    try:
        channel(name)
        return _resume(options)
    except BadRequest as fault:
        return Resume(fault=fault.message)


def _resume(value: Any) -> Resume:
    if value is None:
        return Resume()
    if not isinstance(value, Mapping):
        # Whoever forgets the map has put the token here: name its type alone.
        raise BadRequest(f"expected a map of options, not {type(value).__name__}")
    given = {name: value[name] for name in _RESUME if value.get(name) is not None}
    return Resume(**{name: part(name, _RESUME[name], item) for name, item in given.items()})


def tags(value: Any) -> dict[str, str]:
    """A map from strings to strings."""
    if not isinstance(value, Mapping) or len(value) > limits.TAGS:
        raise expected(f"a map of at most {limits.TAGS} entries", value)
    for item in chain(value, value.values()):
        if type(item) is not str or len(item) > limits.TAG_SIZE:
            raise expected(f"names and values of at most {limits.TAG_SIZE} characters", item)
    return dict(value)
