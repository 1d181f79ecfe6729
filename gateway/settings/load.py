"""Flags over environment over file over defaults: what they make together, or all that is wrong with it."""

from __future__ import annotations

import os
import secrets
import tomllib
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic_settings import EnvSettingsSource

from gateway.settings.checks import check
from gateway.settings.faults import ConfigError, Fault, explain, unknown
from gateway.settings.model import Settings

FILE = Path("gateway.toml")
"""The file that is read from the working directory where no other is named."""

PREFIX = "FANWAY_"
_NESTED = "__"
_OWN = {"dev", "opened"}
"""Fields of the settings that are no sections, and so in no file."""


def load(
    config: Path | None,
    *,
    dev: bool = False,
    flags: Mapping[str, object] | None = None,
    complete: bool = True,
) -> Settings:
    """Return the settings, or raise ConfigError with every fault.

    *config* None means no file. *flags* maps dotted keys to values; None stands for a flag not given.
    With *dev*, what `--dev` opens is open, and where no key for tokens is configured a random secret is made,
    so that they end with the process. Without *complete*, what only a gateway needs may be missing.
    """
    file = _file(config) if config is not None else {}
    environment, faults = _environment()
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    opened = dev and "default" not in _table(file, "channels")
    values: dict[str, Any] = {}
    for name in _OWN & file.keys():
        faults.append(unknown((name,)))
    _merge(values, {name: value for name, value in file.items() if name not in _OWN})
    environment = _as_written(environment, file)
    _merge(values, environment)
    _merge(values, _nested(given))
    settings, shape = _validated({**values, "dev": dev, "opened": opened})
    if dev:
        settings = _developed(settings)
    faults += shape
    if complete:
        faulty = tuple(f"{fault.key}." for fault in faults)
        faults += [fault for fault in check(settings) if not f"{fault.key}.".startswith(faulty)]
    if faults:
        raise ConfigError(_sourced(fault, environment) for fault in faults)
    return settings


def _file(path: Path) -> dict[str, Any]:
    """Return what the TOML file at *path* says."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        problem, remedy = error.strerror or "cannot be read", "name a file that can be read"
    except UnicodeDecodeError:
        problem, remedy = "not UTF-8", "save it as UTF-8"
    except tomllib.TOMLDecodeError as error:
        problem, remedy = f"not TOML: {error}", "see https://toml.io"
    raise ConfigError([Fault(str(path), "", problem, remedy)])


def _environment() -> tuple[dict[str, Any], list[Fault]]:
    """Return what the environment sets, as nested text, and the faults of names that lead nowhere.

    Names without `__` are not ours: Kubernetes adds `FANWAY_PORT` and the like for a service of this name.
    """
    sections = Settings.model_fields.keys() - _OWN
    faults = []
    for name in sorted(os.environ):
        section, nested, _ = name.upper().removeprefix(PREFIX).lower().partition(_NESTED)
        if not name.upper().startswith(PREFIX):
            continue
        if nested and section not in sections:
            faults.append(Fault(name, "", "unknown section", f"known are {', '.join(sorted(sections))}"))
        if not nested and section in sections:
            faults.append(Fault(name, "", "a section, not a key", f"set {name}{_NESTED}<KEY>"))
    source = EnvSettingsSource(Settings, env_prefix=PREFIX, env_nested_delimiter=_NESTED)
    found = source()
    return {
        name: value for name, value in found.items() if name in sections and isinstance(value, dict)
    }, faults


def _as_written(environment: dict[str, Any], file: Mapping[str, Any]) -> dict[str, Any]:
    """Return *environment* with namespaces spelt as in *file*: names of variables have no case."""
    channels = environment.get("channels")
    if channels is None:
        return environment
    spelt = {name.lower(): name for name in _table(file, "channels")}
    return {**environment, "channels": {spelt.get(name, name): value for name, value in channels.items()}}


def _nested(flags: Mapping[str, object]) -> dict[str, Any]:
    """Return dotted keys as tables within tables."""
    tables: dict[str, Any] = {}
    for key, value in flags.items():
        *parents, last = key.split(".")
        table = tables
        for parent in parents:
            table = table.setdefault(parent, {})
        table[last] = value
    return tables


def _table(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = values.get(name)
    return table if isinstance(table, Mapping) else {}


def _merge(base: MutableMapping[str, Any], more: Mapping[str, Any]) -> None:
    """Set in *base* what *more* has, table by table."""
    for key, value in more.items():
        if isinstance(value, Mapping):
            if not isinstance(base.get(key), dict):
                base[key] = {}
            _merge(base[key], value)
        else:
            base[key] = value


def _validated(values: dict[str, Any]) -> tuple[Settings, list[Fault]]:
    """Return settings of all that is right in *values*, and the faults of what is not."""
    faults: list[Fault] = []
    while True:
        try:
            return Settings(**values), faults
        except ValidationError as error:
            for path, fault in explain(error):
                if fault not in faults:
                    faults.append(fault)
                _remove(values, path)


def _remove(values: Any, path: tuple[str | int, ...]) -> None:
    """Remove from *values* what *path* leads to, or the list that it lies in."""
    *parents, last = [part for part in path if isinstance(part, str)]
    for parent in parents:
        values = values.get(parent, {})
    values.pop(last, None)


def _developed(settings: Settings) -> Settings:
    """Return *settings* as `--dev` opens them."""
    auth: dict[str, Any] = {"anonymous": True}
    if not settings.auth.key_sources():
        auth["secret"] = SecretStr(secrets.token_urlsafe(32))
    keys = (*settings.push.keys, SecretStr("dev"))
    return settings.model_copy(
        update={
            "auth": settings.auth.model_copy(update=auth),
            "push": settings.push.model_copy(update={"keys": keys}),
        }
    )


def _sourced(fault: Fault, environment: Mapping[str, Any]) -> Fault:
    """Return *fault*, saying which variable set the value where one did."""
    table: Any = environment
    for part in fault.key.split("."):
        if not isinstance(table, Mapping) or part not in table:
            return fault
        table = table[part]
    name = PREFIX + fault.key.replace(".", _NESTED).upper()
    return Fault(fault.key, fault.value, f"{fault.problem} (from {name})", fault.remedy)
