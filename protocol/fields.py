"""Checks of single fields: a raw value to a typed one, or `BadRequest` that names what was expected."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from protocol import channels, limits
from protocol.errors import BadRequest
from protocol.messages import ClientInfo, Resume
from protocol.payload import Payload
from protocol.position import MessageId

Check = Callable[[Any], Any]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 48 else f"{text[:48]}…"


def expected(what: str, value: Any) -> BadRequest:
    """Return the error that says *what* was expected where *value* stood."""
    return BadRequest(f"expected {what}, not {_shown(value)}")


def command_id(value: Any) -> int:
    """An integer 1…2^53−1."""
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
    """The data of a message, already made by the codec."""
    if not isinstance(value, Payload):
        raise expected("data", value)
    return value


def client_info(value: Any) -> ClientInfo:
    """A map with a name and perhaps a version."""
    if not isinstance(value, Mapping):
        raise expected("a map with a name", value)
    name, version = value.get("name"), value.get("version")
    return ClientInfo(text(128)(name), None if version is None else text(64)(version))


def resumes(value: Any) -> dict[str, Resume]:
    """A map from channel to how it is to be restored."""
    if not isinstance(value, Mapping):
        raise expected("a map from channel to options", value)
    if len(value) > limits.SUBSCRIPTIONS_AT_CONNECT:
        raise BadRequest(f"expected at most {limits.SUBSCRIPTIONS_AT_CONNECT} channels, not {len(value)}")
    return {channel(name): _resume(options) for name, options in value.items()}


def _resume(value: Any) -> Resume:
    if value is None:
        return Resume()
    if not isinstance(value, Mapping):
        raise expected("a map of options", value)
    given = {name: value[name] for name in ("since", "token", "rewind") if value.get(name) is not None}
    return Resume(
        since=since(given["since"]) if "since" in given else None,
        token=token(given["token"]) if "token" in given else None,
        rewind=count(given["rewind"]) if "rewind" in given else None,
    )


def tags(value: Any) -> dict[str, str]:
    """A map from strings to strings."""
    if not isinstance(value, Mapping) or len(value) > limits.TAGS:
        raise expected(f"a map of at most {limits.TAGS} strings", value)
    for name, content in value.items():
        if (
            type(name) is not str
            or type(content) is not str
            or max(len(name), len(content)) > limits.TAG_SIZE
        ):
            raise expected(f"tags of at most {limits.TAG_SIZE} characters", value)
    return dict(value)
