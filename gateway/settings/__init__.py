"""The configuration file, the environment and the flags, as typed settings."""

from __future__ import annotations

from gateway.settings.faults import ConfigError
from gateway.settings.load import FILES, load
from gateway.settings.model import Settings

__all__ = ["FILES", "ConfigError", "Settings", "load"]
