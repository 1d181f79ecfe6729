"""Settings from flags over environment over file over defaults, or every fault of them."""

from __future__ import annotations

import os
import secrets
import tomllib
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic_settings import EnvSettingsSource

from gateway import defaults
from gateway.settings.checks import check
from gateway.settings.faults import ConfigError, SettingFault, faults_in, unknown_key
from gateway.settings.model import Settings

FILES = (Path("fanway.toml"), Path("gateway.toml"))
"""The first of these that exists in the working directory is read where no other file is named."""

PREFIX = "FANWAY_"
_NESTED = "__"
_NOT_IN_FILES = {"dev", "dev_opens_default", "dev_made_secret"}
"""Fields of the settings that are not sections, and so in no file."""


def load(
    config: Path | None,
    *,
    dev: bool = False,
    flags: Mapping[str, object] | None = None,
    complete: bool = True,
) -> Settings:
    """Return the settings.

    Args:
        config: The file; None: no file.
        dev: Open what `--dev` opens. Without a configured key for tokens a random secret is made, so tokens
            are valid for this process only.
        flags: Values by dotted key; None for a flag that was not given.
        complete: Whether the keys that a gateway needs must be there; False for other commands.

    Raises:
        ConfigError: With every fault.

    """
    file = _read_file(config) if config is not None else {}
    environment, faults = _read_environment()
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    dev_opens_default = dev and "default" not in _table(file, "channels")
    values: dict[str, Any] = {}
    sections = Settings.model_fields.keys() - _NOT_IN_FILES
    # Here and not by pydantic, which takes [PUSH] for [push], whatever the case of its letters.
    faults += [unknown_key((name,)) for name in file if name not in sections]
    _merge(values, {name: value for name, value in file.items() if name in sections})
    environment = _with_namespaces_spelled_as_in(environment, file)
    _merge(values, environment)
    _merge(values, _nested(given))
    settings, wrong_values = _validate({**values, "dev": dev, "dev_opens_default": dev_opens_default})
    if dev:
        settings = _opened_for_dev(settings)
    faults += wrong_values
    if complete:
        faulty = tuple(f"{fault.key}." for fault in faults)
        faults += [fault for fault in check(settings) if not f"{fault.key}.".startswith(faulty)]
    if faults:
        raise ConfigError(_with_variable(fault, environment) for fault in faults)
    return settings


def _read_file(path: Path) -> dict[str, Any]:
    """Return the tables of the TOML file at *path*."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        problem, remedy = error.strerror or "cannot be read", "name a file that can be read"
    except UnicodeDecodeError:
        problem, remedy = "not UTF-8", "save it as UTF-8"
    except tomllib.TOMLDecodeError as error:
        problem, remedy = f"not TOML: {error}", "see https://toml.io"
    raise ConfigError([SettingFault(str(path), "", problem, remedy)])


def _read_environment() -> tuple[dict[str, Any], list[SettingFault]]:
    """Return the values in the environment, as nested text, and the faults of names that are no keys.

    Names without `__` are ignored: Kubernetes adds `FANWAY_PORT` and the like for a service of this name.
    """
    sections = Settings.model_fields.keys() - _NOT_IN_FILES
    faults = []
    for name in sorted(os.environ):
        section, nested, _ = name.upper().removeprefix(PREFIX).lower().partition(_NESTED)
        if not name.upper().startswith(PREFIX):
            continue
        if nested and section not in sections:
            faults.append(
                SettingFault(name, "", "unknown section", f"known are {', '.join(sorted(sections))}")
            )
        if not nested and section in sections:
            faults.append(SettingFault(name, "", "a section, not a key", f"set {name}{_NESTED}<KEY>"))
    source = EnvSettingsSource(Settings, env_prefix=PREFIX, env_nested_delimiter=_NESTED)
    found = source()
    return {
        name: value for name, value in found.items() if name in sections and isinstance(value, dict)
    }, faults


def _with_namespaces_spelled_as_in(environment: dict[str, Any], file: Mapping[str, Any]) -> dict[str, Any]:
    """Return *environment* with namespaces spelled as in *file*: names of variables have no case."""
    channels = environment.get("channels")
    if channels is None:
        return environment
    spelled = {name.lower(): name for name in _table(file, "channels")}
    return {**environment, "channels": {spelled.get(name, name): value for name, value in channels.items()}}


def _nested(flags: Mapping[str, object]) -> dict[str, Any]:
    """Return values by dotted keys as nested tables."""
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
    """Overwrite values in *base* with those of *more*, table by table."""
    for key, value in more.items():
        if isinstance(value, Mapping):
            if not isinstance(base.get(key), dict):
                base[key] = {}
            _merge(base[key], value)
        else:
            base[key] = value


def _validate(values: dict[str, Any]) -> tuple[Settings, list[SettingFault]]:
    """Return settings from the valid part of *values*, and the faults of the rest."""
    faults: list[SettingFault] = []
    while True:
        try:
            return Settings(**values), faults
        except ValidationError as error:
            for path, fault in faults_in(error):
                if fault not in faults:
                    faults.append(fault)
                _remove(values, path)


def _remove(values: Any, path: tuple[str | int, ...]) -> None:
    """Remove the value at *path* from *values*, or the list that contains it."""
    *parents, last = [part for part in path if isinstance(part, str)]
    for parent in parents:
        values = values.get(parent, {})
    values.pop(last, None)


def _opened_for_dev(settings: Settings) -> Settings:
    """Return *settings* with what `--dev` opens."""
    auth: dict[str, Any] = {"anonymous": True}
    makes_secret = not settings.auth.key_sources()
    if makes_secret:
        auth["secret"] = SecretStr(secrets.token_urlsafe(32))
    keys = (*settings.push.keys, SecretStr(defaults.DEV_PUSH_KEY))
    return settings.model_copy(
        update={
            "auth": settings.auth.model_copy(update=auth),
            "dev_made_secret": makes_secret,
            "push": settings.push.model_copy(update={"keys": keys}),
        }
    )


def _with_variable(fault: SettingFault, environment: Mapping[str, Any]) -> SettingFault:
    """Return *fault*, with the name of the variable that set the value where one did."""
    table: Any = environment
    for part in fault.key.split("."):
        if not isinstance(table, Mapping) or part not in table:
            return fault
        table = table[part]
    name = PREFIX + fault.key.replace(".", _NESTED).upper()
    return SettingFault(fault.key, fault.value, f"{fault.problem} (from {name})", fault.remedy)
