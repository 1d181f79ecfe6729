"""What is wrong with a configuration, key by key, and what to write instead."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from gateway.errors import GatewayError
from gateway.settings import units
from gateway.settings.model import Settings
from gateway.settings.sections import NAMESPACE_PATTERN

SECRET_KEYS = ("auth.secret", "auth.public_key", "push.keys", "broker.password")
"""Keys whose value is not shown; `auth.public_key`, because a private key may have been pasted there."""

_SHOWN_CHARACTERS = 80

_PHRASES = (
    ("literal_error", "not one of the choices", "choose {expected}"),
    ("greater_than_equal", "too small", "give at least {ge}"),
    ("greater_than", "too small", "give more than {gt}"),
    ("less_than_equal", "too large", "give at most {le}"),
    ("int_", "not a whole number", "write a whole number"),
    ("float_", "not a number", "write a number"),
    ("finite_number", "not a number", "write a number"),
    ("bool_", "neither true nor false", "write true or false"),
    ("string_type", "not text", "write it between quotes"),
    ("string_too_short", "empty", "write at least one character"),
    ("string_too_long", "too long", "write at most {max_length} characters"),
    ("too_short", "empty", "write at least one character"),
    ("tuple_type", "not a list", 'write ["a", "b"]'),
)
"""How the types of pydantic's errors begin ("Validation Errors" in its documentation), problem and remedy."""


@dataclass(frozen=True, slots=True)
class SettingFault:
    """One thing that is wrong; `str()` returns the line that an operator reads."""

    key: str
    value: str
    """As it was written; masked where it is a secret, empty where there is nothing to show."""
    problem: str
    remedy: str

    def __str__(self) -> str:
        """Return `key = value: problem; remedy` without the parts that are empty."""
        shown = f"{self.key} = {self.value}" if self.value else self.key
        return f"{shown}: {self.problem}; {self.remedy}" if self.remedy else f"{shown}: {self.problem}"


class ConfigError(GatewayError):
    """A configuration that cannot be used; `faults` has everything that is wrong with it."""

    def __init__(self, faults: Iterable[SettingFault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(map(str, self.faults)))


def shown(key: str, value: object) -> str:
    """Return *value* as a fault shows it: one short line, masked where *key* is for a secret."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping | list | tuple | BaseModel) or value is None:
        return ""
    if key in SECRET_KEYS or isinstance(value, SecretStr):
        return "***"
    if key.startswith(("broker.url", "auth.jwks_url")):
        value = _ports_only(units.redacted(str(value)))
    text = repr(value) if not isinstance(value, str) else '"' + value.encode("unicode_escape").decode() + '"'
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + '…"'


def _ports_only(url: str) -> str:
    """Return *url* with ports that are no numbers masked: without a host, a password stands there."""
    scheme, mark, hosts = url.partition("://")
    shown = []
    for host in hosts.split(","):
        name, colon, port = host.rpartition(":")
        shown.append(f"{name}:***" if colon and not port.isdigit() and port[-1:] != "]" else host)
    return f"{scheme}{mark}{','.join(shown)}"


def faults_in(error: ValidationError) -> Iterator[tuple[tuple[str | int, ...], SettingFault]]:
    """Yield each fault in *error* with the path to its value."""
    for details in error.errors(include_url=False):
        yield details["loc"], _fault_for(details)


def _fault_for(details: ErrorDetails) -> SettingFault:
    path = details["loc"]
    key, kind, value = dotted(path), details["type"], details["input"]
    if kind == "extra_forbidden":
        return unknown_key(path)
    if kind in {"model_type", "model_attributes_type"}:
        return _not_a_table(path)
    problem, remedy = _problem_and_remedy(kind, details.get("ctx", {}), details["msg"])
    return SettingFault(key, shown(key, value), problem, remedy)


def _problem_and_remedy(kind: str, ctx: Mapping[str, Any], message: str) -> tuple[str, str]:
    """Return problem and remedy for a type of pydantic's errors."""
    if kind == "invalid":
        return ctx["problem"], ctx["remedy"]
    for start, problem, remedy in _PHRASES:
        if kind.startswith(start):
            return problem, remedy.format_map({name: _plain(value) for name, value in ctx.items()}).replace(
                "'", '"'
            )
    return message[:1].lower() + message[1:], ""


def _plain(value: Any) -> Any:
    """Return *value*, as an integer where it is a float without a fraction."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _not_a_table(path: tuple[str | int, ...]) -> SettingFault:
    """Return the fault of a plain value where a table belongs."""
    key = dotted(path)
    if len(path) == 2 and path[0] == "channels" and path[1] != "default":
        return unknown_key(path)
    return SettingFault(key, "", "not a table", f"write [{key}], and its keys below it")


def unknown_key(path: tuple[str | int, ...]) -> SettingFault:
    """Return the fault of a key that does not exist, without its value: a secret's key may be misspelt."""
    near = nearest_key(path)
    remedy = f"did you mean {near}?" if near else "docs/configuration.md lists every key"
    return SettingFault(dotted(path), "", "unknown key", remedy)


def nearest_key(path: tuple[str | int, ...]) -> str | None:
    """Return the known key most similar to *path*: among its siblings first, then anywhere."""
    *parents, last = map(str, path)
    known = list(keys())
    home = dotted(["channels", "default"] if parents[:1] == ["channels"] and len(parents) == 2 else parents)
    beside = [key.rpartition(".")[2] for key in known if key.rpartition(".")[0] == home]
    beside += [part for key in known if (part := _next_part(key, home))]
    if match := difflib.get_close_matches(last, beside, n=1) or [
        each for each in beside if each == last.lower()
    ]:
        return dotted([*parents, match[0]])
    if home == "channels" and f"channels.default.{last}" in known:
        return f"channels.default.{last}"
    same = [key for key in known if key.rpartition(".")[2] == last]
    within = [key for key in same if key.startswith(f"{path[0]}.")]
    return within[0] if within else same[0] if len(same) == 1 else None


def _next_part(key: str, home: str) -> str:
    """Return the part of *key* after the table *home*; empty where the key is not in that table."""
    within = key if not home else key.removeprefix(home + ".")
    return within.partition(".")[0] if not home or within != key else ""


def keys(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[str]:
    """Yield every key that a file may have, dotted; for namespaces, those of `channels.default`."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from keys(kind, f"{prefix}{name}.")
        elif prefix:
            yield prefix + name


def dotted(path: Iterable[str | int]) -> str:
    """Return *path* as a key is written in TOML, without the index of a list's item."""
    parts = [part for part in path if isinstance(part, str)]
    return ".".join(
        part if NAMESPACE_PATTERN.fullmatch(part) and "." not in part else json.dumps(part) for part in parts
    )
