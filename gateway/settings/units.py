"""Types of settings: durations, sizes, lists, addresses; each error says what to write instead."""

from __future__ import annotations

import ipaddress
import json
import math
import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_core import PydanticCustomError

from gateway.access import origins
from gateway.access.client_address import Network

MINUTE = 60.0
HOUR = 3_600.0
DAY = 86_400.0
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

_SECONDS = {"d": DAY, "h": HOUR, "m": MINUTE, "s": 1.0, "ms": 0.001}
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|d|h|m|s)", re.ASCII)
_DURATION = re.compile(rf"(?:{_AMOUNT.pattern}\s*)+", re.ASCII)
_BYTES = {"": 1, "b": 1, "kib": 1 << 10, "mib": MIB, "gib": GIB}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", re.ASCII)

MAX_DURATION_SECONDS = 3_650 * DAY
"""Ten years: longer than any use, and shorter than the longest timer of an event loop. Every setting has a
smaller bound of its own (`gateway.settings.sections`)."""

MIN_PERIOD_SECONDS = 0.001
"""A millisecond, the unit of Redis' expiries (PX) and of TCP_USER_TIMEOUT: less would be 0 there."""


MIN_RATE = 0.001
"""Of something in a second: one in 1,000 seconds, so that the time until the next one can be waited for."""


def invalid(problem: str, remedy: str) -> PydanticCustomError:
    """Return the error that a validator raises: what is wrong, and what to write instead."""
    return PydanticCustomError("invalid", "{problem}", {"problem": problem, "remedy": remedy})


def seconds(value: object) -> float:
    """Return *value* in seconds: a number of seconds, or text such as `250ms`, `10s`, `1h30m`."""
    wrong = invalid("not a duration", 'write "250ms", "10s", "5m", "1h30m" or a number of seconds')
    number = _number(value)
    if number is None:
        text = str(value).strip().lower() if isinstance(value, str) else ""
        if not _DURATION.fullmatch(text):
            raise wrong
        number = sum(float(amount) * _SECONDS[unit] for amount, unit in _AMOUNT.findall(text))
    if not 0 <= number <= MAX_DURATION_SECONDS:
        raise invalid("not between zero and ten years", wrong.context["remedy"] if wrong.context else "")
    return number


def size(value: object) -> int:
    """Return *value* in bytes: a number of bytes, or text such as `64KiB`, `1MiB`."""
    wrong = invalid("not a size", 'write "16KiB", "1MiB", "1GiB" or a number of bytes')
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or match[2].lower() not in _BYTES:
        raise wrong
    number = float(match[1]) * _BYTES[match[2].lower()]
    if number != int(number):
        raise wrong
    return int(number)


def items(value: object) -> object:
    """Return *value* as a list: a list as it is; text as JSON, or split at commas."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if not text.startswith("["):
        return [item.strip() for item in text.split(",") if item.strip()]
    try:
        return json.loads(text)
    except ValueError:
        raise invalid("not a JSON list", 'write ["a", "b"], or a,b') from None


def network(value: object) -> object:
    """Return the network that *value* names; an address is a network of one."""
    try:
        return ipaddress.ip_network(value) if isinstance(value, str) else value
    except ValueError:
        raise invalid(
            "not a network", 'write "10.0.0.0/8", with no bits after the prefix, or "192.0.2.7"'
        ) from None


def origin(value: str) -> str:
    """Return *value* where it is an origin (RFC 6454 section 6.2) or `*`."""
    if origins.invalid_origin(value) or "*" in value[1:]:
        raise invalid(
            "not an origin", 'write "https://app.example.com", without a path, or "*" alone for any'
        )
    return value


def not_boolean_count(value: object) -> object:
    """Return *value*; an error for `true` and `false`, which Python would take for 1 and 0."""
    if isinstance(value, bool):
        raise invalid("not a whole number", "write a whole number")
    return value


def not_boolean_rate(value: object) -> object:
    """Return *value*; an error for `true` and `false`, as `not_boolean_count` does."""
    if isinstance(value, bool):
        raise invalid("not a number", "write a number")
    return value


def rate_or_none(value: float) -> float:
    """Return *value*; an error for what is neither 0 nor a `Rate`."""
    if 0 < value < MIN_RATE:
        raise invalid("too small", f"give at least {MIN_RATE:g}, or 0 for no limit")
    return value


def _number(value: object) -> float | None:
    """Return *value* as a finite float where it is a number or its text, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


class Address(SecretStr):
    """A URL that may contain a password; `str` and `repr` leave it out, `get_secret_value()` has it."""

    def _display(self) -> str:
        """Return the URL without secrets: pydantic's hook for `str` and `repr`."""
        return redacted(self._secret_value)


def redacted(url: str) -> str:
    """Return scheme and host of *url*; `***` where a password could not be told from them."""
    scheme, mark, rest = url.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    # An @ after the authority may end a password in which / ? # were not escaped.
    if not mark or "@" in rest[len(authority) :]:
        return "***" if url else ""
    return f"{scheme}://{authority.rpartition('@')[2]}"


Seconds = Annotated[float, BeforeValidator(seconds)]
"""A duration, zero included."""
Period = Annotated[float, BeforeValidator(seconds), Field(ge=MIN_PERIOD_SECONDS)]
"""A duration of a millisecond or more."""
Size = Annotated[int, BeforeValidator(size), Field(gt=0)]
SizeOrDefault = Annotated[int, BeforeValidator(size), Field(ge=0)]
"""A size; 0 stands for a default that is computed."""
Count = Annotated[int, BeforeValidator(not_boolean_count), Field(ge=0)]
Positive = Annotated[int, BeforeValidator(not_boolean_count), Field(ge=1)]
Rate = Annotated[float, BeforeValidator(not_boolean_rate), Field(ge=MIN_RATE, allow_inf_nan=False)]
"""Per second; at least one in 1,000 seconds, so that the time until the next one is a number to wait for."""
Amount = Annotated[float, BeforeValidator(not_boolean_rate), Field(ge=0, allow_inf_nan=False)]
"""A number that is not negative, fractions included."""
RateOrNone = Annotated[Amount, AfterValidator(rate_or_none)]
"""As `Rate`; 0 stands for none."""
Port = Annotated[int, BeforeValidator(not_boolean_count), Field(ge=0, le=65_535)]
Host = Annotated[str, Field(min_length=1, max_length=255)]
ListOrText = BeforeValidator(items)
Secrets = Annotated[tuple[Annotated[SecretStr, Field(min_length=1)], ...], ListOrText]
Addresses = Annotated[tuple[Address, ...], ListOrText]
Networks = Annotated[tuple[Annotated[Network, BeforeValidator(network)], ...], ListOrText]
Origins = Annotated[tuple[Annotated[str, AfterValidator(origin)], ...], ListOrText]
