"""gateway.toml, the environment and the flags, as typed settings."""

from __future__ import annotations

from gateway.settings.faults import ConfigError, Fault
from gateway.settings.load import FILE, load
from gateway.settings.model import OPEN, Settings
from gateway.settings.sections import Namespace

__all__ = ["FILE", "OPEN", "ConfigError", "Fault", "Namespace", "Settings", "load"]
