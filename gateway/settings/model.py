"""All settings, and what follows from several of them: the node's name, the rules of every namespace."""

from __future__ import annotations

import re
import socket

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gateway.access.permissions import DEFAULT_NAMESPACE, ChannelRules
from gateway.defaults import MIN_NODE_MEMORY_BYTES
from gateway.settings.available_memory import available_memory
from gateway.settings.sections import (
    AuthSettings,
    BrokerSettings,
    ChannelsSettings,
    DrainSettings,
    HeartbeatSettings,
    LimitsSettings,
    ListenSettings,
    LogSettings,
    NamespaceSettings,
    NodeSettings,
    OutboxSettings,
    PushSettings,
)

DEV_NAMESPACE = NamespaceSettings(
    subscribe="anyone", publish="anyone", history=100, history_ttl=300.0, presence=True, join_leave=True
)
"""The rules in dev mode of channels whose namespace is not in the file (docs/configuration.md)."""


class Settings(BaseSettings):
    """Everything that can be configured; `load` reads it, the constructor uses its arguments only."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, enable_decoding=False
    )

    node: NodeSettings = NodeSettings()
    listen: ListenSettings = ListenSettings()
    auth: AuthSettings = AuthSettings()
    push: PushSettings = PushSettings()
    broker: BrokerSettings = BrokerSettings()
    channels: ChannelsSettings = ChannelsSettings()
    heartbeat: HeartbeatSettings = HeartbeatSettings()
    outbox: OutboxSettings = OutboxSettings()
    limits: LimitsSettings = LimitsSettings()
    drain: DrainSettings = DrainSettings()
    log: LogSettings = LogSettings()

    dev: bool = False
    """Set by `--dev` only."""
    dev_opens_default: bool = False
    """Whether the default namespace has the rules of `DEV_NAMESPACE`: in dev mode, without a table for it."""
    dev_made_secret: bool = False
    """Whether `auth.secret` was made by dev mode, so that its tokens are valid for this process only."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 (pydantic-settings' own signature)
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Use the arguments only: `load` merges the other sources, and knows where each value came from."""
        return (init_settings,)

    def node_name(self) -> str:
        """Return `node.name`, or one made from the machine's host name."""
        host = re.sub(r"[^A-Za-z0-9_.~-]", "-", socket.gethostname())[:64]
        return self.node.name or host or "node"

    def memory(self) -> int:
        """Return `limits.memory` in bytes, or this worker's part of a quarter of the memory that there is."""
        return self.limits.memory or max(MIN_NODE_MEMORY_BYTES, available_memory() // 4 // self.node.workers)

    def namespaces(self) -> dict[str, ChannelRules]:
        """Return the rules of every configured namespace, `default` among them.

        Each starts from what is configured for `default`. The rules of `--dev` are those of `default` alone:
        a namespace in the file keeps its own (docs/configuration.md#namespaces-of-channels).
        """
        base = self.channels.default
        rules = {name: namespace.over(base) for name, namespace in self.channels.named().items()}
        rules[DEFAULT_NAMESPACE] = base.over(DEV_NAMESPACE) if self.dev_opens_default else base
        return {name: ChannelRules(namespace=name, **each.model_dump()) for name, each in rules.items()}
