"""The settings as a whole, and what only all of them together tell: the rules of every namespace."""

from __future__ import annotations

import re
import socket

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gateway.access.permissions import DEFAULT_NAMESPACE, ChannelRules
from gateway.settings.sections import (
    Auth,
    Broker,
    Channels,
    Drain,
    Heartbeat,
    Limits,
    Listen,
    Log,
    Namespace,
    Node,
    Outbox,
    Push,
)

OPEN = Namespace(
    subscribe="anyone", publish="anyone", history=100, history_ttl=300.0, presence=True, join_leave=True
)
"""What `--dev` gives to channels whose namespace the file leaves out (PROTOCOL section 7)."""


class Settings(BaseSettings):
    """Everything that can be configured, as `load` makes it: the constructor reads its arguments alone."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, enable_decoding=False
    )

    node: Node = Node()
    listen: Listen = Listen()
    auth: Auth = Auth()
    push: Push = Push()
    broker: Broker = Broker()
    channels: Channels = Channels()
    heartbeat: Heartbeat = Heartbeat()
    outbox: Outbox = Outbox()
    limits: Limits = Limits()
    drain: Drain = Drain()
    log: Log = Log()

    dev: bool = False
    """Set by `--dev` only."""
    opened: bool = False
    """In dev mode, whether the default namespace has the rules of `OPEN`: the file has no table for it."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 (pydantic-settings' own signature)
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the arguments alone: `load` merges the other sources, and knows whence each value came."""
        return (init_settings,)

    def node_name(self) -> str:
        """Return `node.name`, or one made from the machine's host name."""
        host = re.sub(r"[^A-Za-z0-9_.~-]", "-", socket.gethostname())[:64]
        return self.node.name or host or "node"

    def namespaces(self) -> dict[str, ChannelRules]:
        """Return the rules of every configured namespace, `default` among them.

        Each starts from what is configured for `default`. The rules of `--dev` are those of `default` alone:
        a namespace that stands in the file keeps its own (PROTOCOL section 7).
        """
        base = self.channels.default
        rules = {name: namespace.over(base) for name, namespace in self.channels.named().items()}
        rules[DEFAULT_NAMESPACE] = base.over(OPEN) if self.opened else base
        return {name: ChannelRules(namespace=name, **each.model_dump()) for name, each in rules.items()}
