"""gateway.toml, the environment and the flags, as typed settings."""

from __future__ import annotations

from gateway.settings.faults import ConfigError, Fault
from gateway.settings.load import FILE, load
from gateway.settings.model import OPEN, Namespace, Settings

__all__ = ["FILE", "OPEN", "ConfigError", "Fault", "Namespace", "Settings", "load"]
