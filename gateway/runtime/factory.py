"""The settings as the options of each part; the parts themselves do not know the settings."""

from __future__ import annotations

from collections.abc import Callable

from gateway.access.admission import AdmissionLimits
from gateway.access.client_address import is_trusted, source_of
from gateway.access.command_costs import CommandCosts
from gateway.access.jwks import Jwks
from gateway.access.keys import StaticKeys, secret_keys
from gateway.access.ratelimit import CommandRates, Rate
from gateway.access.tokens import Verifier, mint
from gateway.broker.base import AckLevel, Broker
from gateway.broker.memory.broker import MemoryBroker
from gateway.broker.notices import Notice
from gateway.broker.redis import Credentials, RedisBroker, RedisOptions, Server
from gateway.clock import wall
from gateway.hub.services import SessionLimits
from gateway.memory import NodeMemory
from gateway.runtime.listeners import Binding
from gateway.settings import Settings
from gateway.settings.descriptors import descriptor_plan
from gateway.tasks import Slicer
from gateway.transport.http.open_connections import (
    INTERNAL_STAGES,
    PUBLIC_STAGES,
    ConnectionBounds,
    OnBoundReached,
    OpenConnections,
)
from gateway.transport.incoming_memory import IncomingMemory
from gateway.transport.public_http import HttpOptions
from gateway.transport.websocket.options import WebSocketOptions
from protocol.limits import encoded_size

DEMO_TOKEN_TTL_SECONDS = 3_600.0
"""Of the tokens that the demo page gets; its client fetches the next one."""


def broker(
    settings: Settings,
    *,
    slicer: Slicer,
    on_error: Callable[[BaseException], None],
    on_notice: Callable[[int, Notice], None],
) -> Broker:
    """Return the broker that `broker.kind` names; *slicer* and callbacks as `RedisBroker` has them."""
    broker, key_ttl = settings.broker, settings.push.idempotency_ttl
    if broker.kind == "memory":
        return MemoryBroker(
            memory=broker.memory,
            key_ttl=key_ttl,
            meta_ttl=broker.meta_ttl,
            slicer=slicer,
            on_error=on_error,
        )
    options = RedisOptions(
        prefix=broker.prefix,
        shards_per_server=broker.shards_per_server,
        cluster_shards=broker.cluster_shards,
        lease=broker.lease,
        beat=broker.beat,
        default_level=AckLevel(broker.acknowledge),
        linger=broker.linger,
        key_ttl=key_ttl,
        meta_ttl=broker.meta_ttl,
    )
    credentials = Credentials(
        broker.username,
        broker.password.get_secret_value(),
        broker.tls_ca_file,
        broker.tls_cert_file,
        broker.tls_key_file,
    )
    servers = [Server.from_url(url, credentials) for url in broker.addresses()]
    return RedisBroker(
        servers,
        options,
        cluster=broker.cluster,
        slicer=slicer,
        on_error=on_error,
        on_notice=on_notice,
    )


def verifier(settings: Settings, jwks: Jwks | None) -> Verifier | None:
    """Return a token verifier with the keys of *jwks*, else the configured ones; None without any."""
    auth = settings.auth
    keys = jwks or (StaticKeys(found) if (found := auth.static_keys()) else None)
    if keys is None:
        return None
    return Verifier(
        keys,
        audience=auth.audience or None,
        issuer=auth.issuer or None,
        clock=wall,
        leeway=auth.leeway,
        max_ttl=auth.max_ttl,
    )


def demo_token(settings: Settings) -> Callable[[str], str] | None:
    """Return what makes a token for a user of the demo page; None if the secret was not made by dev mode.

    Tokens of a configured secret would be valid outside this process, too.
    """
    if not settings.dev_made_secret:
        return None
    auth = settings.auth
    key = secret_keys(auth.secret.get_secret_value())[0]
    return lambda user: mint(
        key,
        user=user,
        ttl=min(DEMO_TOKEN_TTL_SECONDS, auth.max_ttl),
        now=wall(),
        audience=auth.audience or None,
        issuer=auth.issuer or None,
    )


def admission_limits(settings: Settings) -> AdmissionLimits:
    """Return the limits of connections."""
    limits = settings.limits
    return AdmissionLimits(
        connects_per_second=limits.connects_per_second,
        connections=descriptor_plan(settings).clients,
        per_address=limits.connections_per_address,
        per_user=limits.connections_per_user,
    )


def command_costs(settings: Settings) -> CommandCosts:
    """Return what commands cost."""
    costs = settings.limits.costs
    return CommandCosts(costs.of_commands(), token=costs.token, message=costs.message, member=costs.member)


def command_rates(settings: Settings) -> CommandRates:
    """Return the rates of commands."""
    limits = settings.limits
    return CommandRates(
        Rate(limits.commands_per_second, limits.command_burst),
        user=_rate(limits.user_commands_per_second, limits.user_command_burst),
        address=_rate(limits.address_commands_per_second, limits.address_command_burst),
    )


def _rate(per_second: float, burst: float) -> Rate | None:
    return Rate(per_second, burst) if per_second else None


def session_limits(settings: Settings) -> SessionLimits:
    """Return the limits of one session."""
    limits = settings.limits
    return SessionLimits(
        message_size=limits.message_size,
        channels=limits.channels_per_connection,
        commands_per_second=limits.commands_per_second,
        command_burst=limits.command_burst,
        costs=command_costs(settings),
        strikes=limits.strikes,
        connect_timeout=limits.connect_timeout,
        history_reply=limits.history_reply,
        presence_reply=limits.presence_reply,
        rewind=limits.rewind,
        outbox=settings.outbox.size,
        catch_up_batch=settings.outbox.catch_up_batch,
        key_ttl=settings.push.idempotency_ttl,
        heartbeat_grace=settings.heartbeat.grace,
        connections_per_user=limits.connections_per_user,
        connections_per_address=limits.connections_per_address,
        user_commands_per_second=limits.user_commands_per_second,
        user_command_burst=limits.user_command_burst,
        address_commands_per_second=limits.address_commands_per_second,
        address_command_burst=limits.address_command_burst,
    )


def http_options(
    settings: Settings, memory: NodeMemory, on_proxy_header_refused: Callable[[str, str], None]
) -> HttpOptions:
    """Return the options of the public listener's HTTP and WebSocket; the callback as in `HttpOptions`."""
    outbox = settings.outbox
    return HttpOptions(
        header_timeout=settings.listen.public.header_timeout,
        trusted_proxies=settings.listen.public.trusted_proxies,
        on_proxy_header_refused=on_proxy_header_refused,
        websocket=WebSocketOptions(
            message_size=encoded_size(settings.limits.message_size),
            high_water=outbox.high_water,
            low_water=outbox.low_water,
            stall_timeout=outbox.stall_timeout,
            incoming=IncomingMemory(memory.incoming),
        ),
    )


def public_connections(settings: Settings, on_bound_reached: OnBoundReached) -> OpenConnections:
    """Return the count and the bounds of the connections to the public listener.

    Those of trusted proxies have no bound of their own: behind one address there are many clients.
    """
    public, plan = settings.listen.public, descriptor_plan(settings)
    proxies = public.trusted_proxies
    return OpenConnections(
        ConnectionBounds(
            total=min(plan.public, plan.clients + public.unconnected),
            unconnected=public.unconnected,
            per_address=public.unconnected_per_address,
        ),
        stages=PUBLIC_STAGES,
        source_of=lambda address: "" if is_trusted(address, proxies) else source_of(address),
        on_bound_reached=on_bound_reached,
    )


def internal_connections(settings: Settings, on_bound_reached: OnBoundReached) -> OpenConnections:
    """Return the count and the bounds of the connections to the internal listener."""
    return OpenConnections(
        ConnectionBounds(total=descriptor_plan(settings).backends),
        stages=INTERNAL_STAGES,
        source_of=lambda _: "",
        on_bound_reached=on_bound_reached,
    )


def public_binding(settings: Settings, *, shares_ports: bool) -> Binding:
    """Return the address and socket options of the public listener."""
    public = settings.listen.public
    return Binding(
        host=public.host,
        port=public.port,
        port_option="--port, listen.public.port",
        sockets=public.listeners,
        backlog=public.backlog,
        shared=shares_ports,
        send_buffer=public.send_buffer,
        user_timeout=public.user_timeout,
    )


def internal_binding(settings: Settings, *, shares_ports: bool) -> Binding:
    """Return the address and socket options of the internal listener."""
    internal = settings.listen.internal
    return Binding(
        host=internal.host,
        port=internal.port,
        port_option="--internal-port, listen.internal.port",
        sockets=internal.listeners,
        backlog=internal.backlog,
        shared=shares_ports,
    )
