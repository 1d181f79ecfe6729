"""Checks between keys: values that are right alone and do not fit together."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from gateway.defaults import MIN_NODE_MEMORY_BYTES
from gateway.settings.descriptors import MIN_CLIENTS, RECOMMENDED_DESCRIPTORS, descriptor_plan
from gateway.settings.faults import SettingFault, dotted, shown
from gateway.settings.model import Settings
from gateway.settings.sections import MIN_BEAT, NAMESPACE_PATTERN


def check(settings: Settings) -> Iterator[SettingFault]:
    """Yield the faults of every check in `CHECKS`."""
    for each in CHECKS:
        yield from each(settings)


def _namespaces(settings: Settings) -> Iterator[SettingFault]:
    for name in settings.channels.named():
        if not NAMESPACE_PATTERN.fullmatch(name):
            yield SettingFault(
                dotted(["channels", name]),
                "",
                "not a namespace's name",
                "use up to 64 of A-Z a-z 0-9 _ . ~ -, no colon",
            )


def _dev_loopback(settings: Settings) -> Iterator[SettingFault]:
    if not settings.dev:
        return
    for key, host in (
        ("listen.public.host", settings.listen.public.host),
        ("listen.internal.host", settings.listen.internal.host),
    ):
        if not is_loopback(host):
            yield SettingFault(
                key, shown(key, host), "--dev lets everybody in", "bind 127.0.0.1, or leave out --dev"
            )


def _ports(settings: Settings) -> Iterator[SettingFault]:
    public, internal = settings.listen.public, settings.listen.internal
    same = public.host == internal.host or {public.host, internal.host} & {"0.0.0.0", "::"}  # noqa: S104 (compared)
    if public.port == internal.port != 0 and same:
        yield SettingFault(
            "listen.internal.port",
            str(internal.port),
            "the public listener has it too",
            "choose another port",
        )


def _keys(settings: Settings) -> Iterator[SettingFault]:
    auth, sources = settings.auth, settings.auth.key_sources()
    if not sources and not auth.anonymous:
        yield SettingFault(
            "auth.secret",
            "",
            "missing: no token could be verified",
            "set auth.secret (FANWAY_AUTH__SECRET), auth.public_key, auth.public_key_file or auth.jwks_url;"
            " or auth.anonymous = true; or try it with --dev",
        )
    for source in sources[1:]:
        yield SettingFault(f"auth.{source}", "", f"auth.{sources[0]} is set as well", "keep one of them")
    if len(sources) == 1:
        try:
            auth.static_keys()
        except ValueError as error:
            key = f"auth.{sources[0]}"
            yield SettingFault(key, "", str(error).removeprefix(key).lstrip(": "), "")


def _jwks(settings: Settings) -> Iterator[SettingFault]:
    url = settings.auth.jwks_url
    if url and not _fetchable(url):
        yield SettingFault(
            "auth.jwks_url", shown("auth.jwks_url", url), "not a URL", "write https://host/path"
        )


def _fetchable(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _push_keys(settings: Settings) -> Iterator[SettingFault]:
    if not settings.push.keys:
        yield SettingFault(
            "push.keys",
            "",
            "missing: no backend could push",
            'set push.keys = ["…"] (FANWAY_PUSH__KEYS), or try it with --dev',
        )


def _broker(settings: Settings) -> Iterator[SettingFault]:
    broker, addresses = settings.broker, settings.broker.addresses()
    where = "broker.urls" if broker.urls else "broker.url"
    if broker.kind == "redis" and not addresses:
        yield SettingFault(
            "broker.url",
            "",
            "missing: kind is redis",
            'set broker.url = "redis://host:6379", or use --redis URL',
        )
    if broker.kind == "memory" and addresses:
        yield SettingFault(
            where,
            "",
            "broker.kind is memory, which has no URL",
            'set broker.kind = "redis", or remove the URL',
        )
    if broker.urls and broker.url.get_secret_value():
        yield SettingFault("broker.urls", "", "broker.url is set as well", "keep one of them")
    known: set[object] = set()
    for address in addresses:
        server, rejected = _parse_server(address, cluster=broker.cluster)
        if rejected is None and server in known:
            rejected = "named twice", "name every server once"
        if rejected is not None:
            yield SettingFault(where, shown(where, address), *rejected)
        known.add(server)
    if broker.cluster and broker.kind != "redis":
        yield SettingFault(
            "broker.cluster", "true", f"broker.kind is {broker.kind}", 'set broker.kind = "redis"'
        )


def _parse_server(address: str, *, cluster: bool) -> tuple[object, tuple[str, str] | None]:
    """Return the server that *address* names; with problem and remedy where it cannot be used."""
    # The Redis library is imported only where Redis is configured: it costs every command start-up time.
    from gateway.broker.redis.connection.urls import BadUrl, parse_url  # noqa: PLC0415

    try:
        url = parse_url(address)
    except BadUrl as error:
        return address, (error.problem, error.remedy)
    server = url.addresses, url.path, url.primary, url.database
    if cluster and (url.primary or url.path):
        return server, ("no node of a Cluster", 'write "redis://host:6379" or rediss://')
    if cluster and url.database:
        return server, (f"names database {url.database}, and a Cluster has 0 alone", "leave it out")
    return server, None


def _tls(settings: Settings) -> Iterator[SettingFault]:
    broker = settings.broker
    files = {key: getattr(broker, key) for key in ("tls_ca_file", "tls_cert_file", "tls_key_file")}
    encrypted = any(each.lower().startswith("rediss") for each in broker.addresses())
    faults = []
    for key, file in files.items():
        if file and not Path(file).is_file():
            faults.append(
                SettingFault(f"broker.{key}", shown(key, file), "there is no such file", "name a file in PEM")
            )
        elif file and not encrypted:
            faults.append(
                SettingFault(
                    f"broker.{key}",
                    shown(key, file),
                    "no connection is encrypted",
                    "write rediss:// in broker.url",
                )
            )
    yield from faults or _certificates(**files)


def _certificates(tls_ca_file: str, tls_cert_file: str, tls_key_file: str) -> Iterator[SettingFault]:
    """Yield what is wrong inside files that exist."""
    context = ssl.create_default_context()
    if tls_ca_file:
        try:
            context.load_verify_locations(tls_ca_file)
        except OSError as error:
            yield SettingFault(
                "broker.tls_ca_file",
                shown("broker.tls_ca_file", tls_ca_file),
                f"no certificates can be read from it ({_openssl_reason(error)})",
                "name a file in PEM",
            )
    if tls_key_file and not tls_cert_file:
        yield SettingFault("broker.tls_key_file", "", "broker.tls_cert_file is missing", "set both")
    elif tls_cert_file:
        try:
            # Without a password argument, OpenSSL would ask for one at the terminal.
            context.load_cert_chain(tls_cert_file, tls_key_file or None, password="")
        except (OSError, ValueError) as error:
            yield SettingFault(
                "broker.tls_cert_file",
                shown("broker.tls_cert_file", tls_cert_file),
                f"no certificate with its key can be read ({_openssl_reason(error)})",
                "name files in PEM that belong together, the key without a password",
            )


def _openssl_reason(error: Exception) -> str:
    """Return the reason for *error* in the words of the system or of OpenSSL."""
    if isinstance(error, ssl.SSLError):
        reason = error.reason or "PEM_LIB"
        return "not PEM" if reason in _NOT_PEM else reason.replace("_", " ").lower()
    return getattr(error, "strerror", None) or type(error).__name__


_NOT_PEM = ("PEM_LIB", "NO_START_LINE", "NO_CERTIFICATE_OR_CRL_FOUND")
"""OpenSSL's reasons, which differ by version, for a file that is not PEM."""


def _lease(settings: Settings) -> Iterator[SettingFault]:
    broker = settings.broker
    if broker.beat > broker.lease / 2:
        yield SettingFault(
            "broker.beat",
            f"{broker.beat:g}",
            "leaves a lease no second chance",
            f"give at most half of broker.lease, {broker.lease / 2:g}; 0 for a third of it",
        )
    if 0 < broker.beat < MIN_BEAT:
        yield SettingFault(
            "broker.beat",
            f"{broker.beat:g}",
            "too small",
            f"give at least {MIN_BEAT:g}; 0 for a third of broker.lease",
        )


def _workers(settings: Settings) -> Iterator[SettingFault]:
    workers = settings.node.workers
    if workers > 1 and settings.broker.kind != "redis":
        yield SettingFault(
            "node.workers",
            str(workers),
            "several workers need a broker between them",
            'use --redis URL (broker.kind = "redis", broker.url), or 1 worker',
        )


def _outbox(settings: Settings) -> Iterator[SettingFault]:
    outbox, message = settings.outbox, settings.limits.message_size
    if outbox.size < 2 * message:
        yield SettingFault(
            "outbox.size", str(outbox.size), "holds fewer than two messages", f"give at least {2 * message}"
        )
    if outbox.low_water >= outbox.high_water:
        yield SettingFault(
            "outbox.low_water",
            str(outbox.low_water),
            "not below outbox.high_water",
            f"give less than {outbox.high_water}",
        )
    if outbox.high_water > outbox.size:
        yield SettingFault(
            "outbox.high_water",
            str(outbox.high_water),
            "more than outbox.size",
            f"give at most {outbox.size}",
        )


def _costs(settings: Settings) -> Iterator[SettingFault]:
    burst, costs = settings.limits.command_burst, settings.limits.costs.of_commands()
    for command, cost in costs.items():
        if cost > burst:
            yield SettingFault(
                f"limits.costs.{command}",
                str(cost),
                "more than limits.command_burst, so that nobody could ever pay",
                f"give at most {burst}",
            )


def _descriptors(settings: Settings) -> Iterator[SettingFault]:
    plan = descriptor_plan(settings)
    if plan.most_clients < min(MIN_CLIENTS, settings.limits.connections or MIN_CLIENTS):
        yield SettingFault(
            "file descriptors",
            str(plan.limit),
            f"too few: the gateway itself needs {plan.own}, connections of backends {plan.backends}, "
            f"clients that connect {plan.spare}",
            f"raise `ulimit -n`, best to {RECOMMENDED_DESCRIPTORS} or more"
            " (docs/operations.md#file-descriptors)",
        )
    elif plan.clients > plan.most_clients:
        yield SettingFault(
            "limits.connections",
            str(plan.clients),
            f"more than the {plan.limit} file descriptors of this process allow",
            f"give at most {plan.most_clients}, or 0 for that, or raise `ulimit -n`"
            " (docs/operations.md#file-descriptors)",
        )


def _memory(settings: Settings) -> Iterator[SettingFault]:
    memory = settings.limits.memory
    if 0 < memory < MIN_NODE_MEMORY_BYTES:
        yield SettingFault(
            "limits.memory",
            str(memory),
            "too small",
            f"give at least {MIN_NODE_MEMORY_BYTES}; 0 for a quarter of the machine's memory",
        )


def _proxy_protocol(settings: Settings) -> Iterator[SettingFault]:
    public = settings.listen.public
    if public.proxy_protocol and not public.trusted_proxies:
        yield SettingFault(
            "listen.public.proxy_protocol",
            "true",
            "listen.public.trusted_proxies is empty, so that no header would be accepted",
            "list the networks of the proxies that send it",
        )


def _drain(settings: Settings) -> Iterator[SettingFault]:
    drain = settings.drain
    if drain.window > drain.timeout:
        yield SettingFault(
            "drain.window",
            f"{drain.window:g}",
            "longer than drain.timeout",
            f"give at most {drain.timeout:g}",
        )


CHECKS: tuple[Callable[[Settings], Iterator[SettingFault]], ...] = (
    _namespaces,
    _dev_loopback,
    _ports,
    _keys,
    _jwks,
    _push_keys,
    _broker,
    _tls,
    _lease,
    _workers,
    _outbox,
    _costs,
    _descriptors,
    _memory,
    _proxy_protocol,
    _drain,
)


def is_loopback(host: str) -> bool:
    """Return whether *host* is an address of this machine only; of names, only `localhost` is."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
