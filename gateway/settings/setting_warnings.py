"""Warnings: settings with which a gateway starts, and that probably are not what their author wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil

from gateway.access.keys import RECOMMENDED_SECRET_BYTES
from gateway.defaults import CONNECTION_BYTES, PROCESS_BYTES
from gateway.settings.available_memory import available_memory
from gateway.settings.descriptors import RECOMMENDED_DESCRIPTORS, descriptor_plan
from gateway.settings.faults import SettingFault
from gateway.settings.model import Settings
from protocol import limits
from protocol.codec import JSON
from protocol.messages import ClientInfo, Connect, Resume
from protocol.position import MessageId


def warnings(settings: Settings) -> Iterator[SettingFault]:
    """Yield the warnings of every function in `WARNINGS`; each is a fault that is not an error."""
    for each in WARNINGS:
        yield from each(settings)


def _tokens_for_others(settings: Settings) -> Iterator[SettingFault]:
    auth = settings.auth
    names = ("auth.audience", "auth.issuer")
    missing = [name for name, value in zip(names, (auth.audience, auth.issuer), strict=True) if not value]
    if auth.jwks_url and missing:
        yield SettingFault(
            "auth.jwks_url",
            "",
            "a token that the same provider issued for another service is accepted",
            f"set {' and '.join(missing)}",
        )


def _short_secret(settings: Settings) -> Iterator[SettingFault]:
    size = len(settings.auth.secret.get_secret_value().encode())
    if 0 < size < RECOMMENDED_SECRET_BYTES:
        yield SettingFault(
            "auth.secret",
            "",
            f"has {size} bytes, fewer than the {RECOMMENDED_SECRET_BYTES} of RFC 7518 section 3.2",
            "make one with `openssl rand -hex 32`",
        )


def _channels_and_rate(settings: Settings) -> Iterator[SettingFault]:
    bounds = settings.limits
    needed = ceil(units_to_subscribe_everywhere(settings))
    if needed > bounds.command_burst:
        yield SettingFault(
            "limits.command_burst",
            str(bounds.command_burst),
            f"a client that subscribes to limits.channels_per_connection ({bounds.channels_per_connection}) "
            "channels at once is closed with 4008",
            f"give at least {needed}",
        )


def _connections_and_rate(settings: Settings) -> Iterator[SettingFault]:
    bounds = settings.limits
    rates = (
        ("user", bounds.user_commands_per_second, bounds.user_command_burst, units_of_a_user(settings)),
        (
            "address",
            bounds.address_commands_per_second,
            bounds.address_command_burst,
            units_of_an_address(settings),
        ),
    )
    for whose, per_second, burst, units in rates:
        if per_second and ceil(units) > burst:
            key = f"connections_per_{whose}"
            yield SettingFault(
                f"limits.{whose}_command_burst",
                str(burst),
                f"limits.{key} ({getattr(bounds, key)}) that connect again at once get rate_limited",
                f"give at least {ceil(units)}",
            )


def units_to_subscribe_everywhere(settings: Settings) -> float:
    """Return what a new connection pays for `connect` and one `subscribe` for each channel it may have.

    Each with a channel token; a `connect` that resumes as many channels costs the same.
    """
    costs = settings.limits.costs
    return costs.connect + (costs.subscribe + costs.token) * settings.limits.channels_per_connection


def units_of_a_user(settings: Settings) -> float:
    """Return what as many connections as a user may have pay that subscribe to all their channels."""
    return max(1, settings.limits.connections_per_user) * units_to_subscribe_everywhere(settings)


def units_of_an_address(settings: Settings) -> float:
    """Return what the connections from one address may pay at once.

    Those of one user that subscribe to all their channels, or as many as the address may have that
    subscribe to one channel each.
    """
    limits, costs = settings.limits, settings.limits.costs
    one_channel = costs.connect + costs.subscribe + costs.token
    return max(units_of_a_user(settings), limits.connections_per_address * one_channel)


def _channels_and_size(settings: Settings) -> Iterator[SettingFault]:
    bounds = settings.limits
    needed = len(JSON.encode_command(longest_connect(settings)))
    if needed > bounds.message_size:
        yield SettingFault(
            "limits.message_size",
            str(bounds.message_size),
            f"a client that resumes limits.channels_per_connection ({bounds.channels_per_connection}) "
            "channels in `connect` may be closed with 1009",
            f"give at least {needed}",
        )


def longest_connect(settings: Settings) -> Connect:
    """Return a `connect` that resumes every channel that it may, each field as long as it may be.

    It has no channel tokens, which together may be longer than any message: docs/protocol.md#connect.
    """
    channels = min(settings.limits.channels_per_connection, limits.SUBSCRIPTIONS_AT_CONNECT)
    resume = Resume(since=MessageId(10**16 - 1, "u" * 32), rewind=settings.limits.rewind)
    return Connect(
        id=limits.COMMAND_ID,
        token="t" * limits.TOKEN_SIZE,
        client=ClientInfo("n" * 128, "v" * 64),
        subs={str(number).rjust(limits.CHANNEL_NAME, "c"): resume for number in range(channels)},
    )


def _memory(settings: Settings) -> Iterator[SettingFault]:
    memory, available = settings.limits.memory, available_memory()
    needed = promised_memory(settings)
    if memory > available:
        yield SettingFault(
            "limits.memory",
            str(memory),
            f"more than the memory of this machine or container, {available}",
            "give less, or 0 for a quarter of that",
        )
    elif needed > available:
        parts = "limits.memory" if settings.broker.kind == "redis" else "limits.memory and broker.memory"
        yield SettingFault(
            "limits.memory",
            str(memory),
            f"this machine or container has {available} bytes of memory, and the gateway may need {needed}"
            f" (docs/memory.md)",
            f"give less in {parts}, or use fewer workers",
        )


def promised_memory(settings: Settings) -> int:
    """Return how many bytes all workers may take, connections that are idle aside (docs/memory.md)."""
    stored = settings.broker.memory if settings.broker.kind == "memory" else 0
    connections = settings.limits.connections * CONNECTION_BYTES
    return settings.node.workers * (PROCESS_BYTES + stored + settings.memory() + connections)


def _few_descriptors(settings: Settings) -> Iterator[SettingFault]:
    plan = descriptor_plan(settings)
    if plan.limit < RECOMMENDED_DESCRIPTORS:
        yield SettingFault(
            "file descriptors",
            str(plan.limit),
            f"enough for {plan.clients} clients and {plan.backends} connections of backends",
            "raise `ulimit -n` (docs/operations.md#file-descriptors)",
        )


WARNINGS: tuple[Callable[[Settings], Iterator[SettingFault]], ...] = (
    _short_secret,
    _tokens_for_others,
    _channels_and_rate,
    _connections_and_rate,
    _channels_and_size,
    _memory,
    _few_descriptors,
)
