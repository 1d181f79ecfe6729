"""gateway.toml, the environment and the flags, as typed settings."""

from __future__ import annotations

from gateway.settings.faults import ConfigError
from gateway.settings.load import FILE, load
from gateway.settings.model import Settings

__all__ = ["FILE", "ConfigError", "Settings", "load"]
