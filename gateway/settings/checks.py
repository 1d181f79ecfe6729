"""What single keys cannot tell: which of them fit together."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from gateway.settings.faults import Fault, dotted, shown
from gateway.settings.model import Settings
from gateway.settings.sections import NAMESPACE

MOST_WORKERS = 256


def check(settings: Settings) -> Iterator[Fault]:
    """Yield every fault between keys that are each right alone."""
    for each in CHECKS:
        yield from each(settings)


def _namespaces(settings: Settings) -> Iterator[Fault]:
    for name in settings.channels.named():
        if not NAMESPACE.fullmatch(name):
            yield Fault(
                dotted(["channels", name]),
                "",
                "not a namespace's name",
                "use up to 64 of A-Z a-z 0-9 _ . ~ -, no colon",
            )


def _loopback(settings: Settings) -> Iterator[Fault]:
    if not settings.dev:
        return
    for key, host in (
        ("listen.public.host", settings.listen.public.host),
        ("listen.internal.host", settings.listen.internal.host),
    ):
        if not is_loopback(host):
            yield Fault(
                key, shown(key, host), "--dev lets everybody in", "bind 127.0.0.1, or leave out --dev"
            )


def _ports(settings: Settings) -> Iterator[Fault]:
    public, internal = settings.listen.public, settings.listen.internal
    same = public.host == internal.host or {public.host, internal.host} & {"0.0.0.0", "::"}  # noqa: S104 (compared)
    if public.port == internal.port != 0 and same:
        yield Fault(
            "listen.internal.port",
            str(internal.port),
            "the public listener has it too",
            "choose another port",
        )


def _keys(settings: Settings) -> Iterator[Fault]:
    auth, sources = settings.auth, settings.auth.key_sources()
    if not sources and not auth.anonymous:
        yield Fault(
            "auth.secret",
            "",
            "missing: no token could be verified",
            "set auth.secret (FANWAY_AUTH__SECRET), auth.public_key, auth.public_key_file or auth.jwks_url;"
            " or auth.anonymous = true; or try it with --dev",
        )
    for source in sources[1:]:
        yield Fault(f"auth.{source}", "", f"auth.{sources[0]} is set as well", "keep one of them")
    if len(sources) == 1:
        try:
            auth.static_keys()
        except ValueError as error:
            key = f"auth.{sources[0]}"
            yield Fault(key, "", str(error).removeprefix(key).lstrip(": "), "")


def _jwks(settings: Settings) -> Iterator[Fault]:
    url = settings.auth.jwks_url
    if url and not _fetchable(url):
        yield Fault("auth.jwks_url", shown("auth.jwks_url", url), "not a URL", "write https://host/path")


def _fetchable(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _push_keys(settings: Settings) -> Iterator[Fault]:
    if not settings.push.keys:
        yield Fault(
            "push.keys",
            "",
            "missing: no backend could push",
            'set push.keys = ["…"] (FANWAY_PUSH__KEYS), or try it with --dev',
        )


def _broker(settings: Settings) -> Iterator[Fault]:
    broker, addresses = settings.broker, settings.broker.addresses()
    where = "broker.urls" if broker.urls else "broker.url"
    if broker.kind == "redis" and not addresses:
        yield Fault(
            "broker.url",
            "",
            "missing: kind is redis",
            'set broker.url = "redis://host:6379", or use --redis URL',
        )
    if broker.kind == "memory" and addresses:
        yield Fault(
            where,
            "",
            "broker.kind is memory, which has no URL",
            'set broker.kind = "redis", or remove the URL',
        )
    if broker.urls and broker.url.get_secret_value():
        yield Fault("broker.urls", "", "broker.url is set as well", "keep one of them")
    known: set[object] = set()
    for address in addresses:
        server, unfit = _server(address, cluster=broker.cluster)
        if unfit is None and server in known:
            unfit = "named twice", "name every server once"
        if unfit is not None:
            yield Fault(where, shown(where, address), *unfit)
        known.add(server)
    if broker.cluster and broker.kind != "redis":
        yield Fault("broker.cluster", "true", f"broker.kind is {broker.kind}", 'set broker.kind = "redis"')


def _server(address: str, *, cluster: bool) -> tuple[object, tuple[str, str] | None]:
    """Return which Redis *address* names, and where that cannot be the broker's, problem and remedy."""
    # Only who has a Redis waits for its library.
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


def _tls(settings: Settings) -> Iterator[Fault]:
    broker = settings.broker
    files = {key: getattr(broker, key) for key in ("tls_ca_file", "tls_cert_file", "tls_key_file")}
    encrypted = any(each.lower().startswith("rediss") for each in broker.addresses())
    faults = []
    for key, file in files.items():
        if file and not Path(file).is_file():
            faults.append(
                Fault(f"broker.{key}", shown(key, file), "there is no such file", "name a file in PEM")
            )
        elif file and not encrypted:
            faults.append(
                Fault(
                    f"broker.{key}",
                    shown(key, file),
                    "no connection is encrypted",
                    "write rediss:// in broker.url",
                )
            )
    yield from faults or _certificates(**files)


def _certificates(tls_ca_file: str, tls_cert_file: str, tls_key_file: str) -> Iterator[Fault]:
    """Yield what is wrong inside of files that are there."""
    context = ssl.create_default_context()
    if tls_ca_file:
        try:
            context.load_verify_locations(tls_ca_file)
        except OSError as error:
            yield Fault(
                "broker.tls_ca_file",
                shown("broker.tls_ca_file", tls_ca_file),
                f"no certificates can be read from it ({_reason(error)})",
                "name a file in PEM",
            )
    if tls_key_file and not tls_cert_file:
        yield Fault("broker.tls_key_file", "", "broker.tls_cert_file is missing", "set both")
    elif tls_cert_file:
        try:
            # Without a password of ours, OpenSSL would ask for one at the terminal.
            context.load_cert_chain(tls_cert_file, tls_key_file or None, password="")
        except (OSError, ValueError) as error:
            yield Fault(
                "broker.tls_cert_file",
                shown("broker.tls_cert_file", tls_cert_file),
                f"no certificate with its key can be read ({_reason(error)})",
                "name files in PEM that belong together, the key without a password",
            )


def _reason(error: Exception) -> str:
    """Return the system's word for *error*, or OpenSSL's."""
    if isinstance(error, ssl.SSLError):
        reason = error.reason or "PEM_LIB"
        return "not PEM" if reason in _NOT_PEM else reason.replace("_", " ").lower()
    return getattr(error, "strerror", None) or type(error).__name__


_NOT_PEM = ("PEM_LIB", "NO_START_LINE", "NO_CERTIFICATE_OR_CRL_FOUND")
"""What OpenSSL, by its version, says of files that hold something else."""


def _beat(settings: Settings) -> Iterator[Fault]:
    broker = settings.broker
    if broker.beat > broker.lease / 2:
        yield Fault(
            "broker.beat",
            f"{broker.beat:g}",
            "leaves a lease no second chance",
            f"give at most half of broker.lease, {broker.lease / 2:g}; 0 for a third of it",
        )


def _workers(settings: Settings) -> Iterator[Fault]:
    workers = settings.node.workers
    if workers > 1 and settings.broker.kind != "redis":
        yield Fault(
            "node.workers",
            str(workers),
            "several workers need a broker between them",
            'set broker.kind = "redis", or 1 worker',
        )
    if workers > MOST_WORKERS:
        yield Fault(
            "node.workers",
            str(workers),
            "more processes than a machine has cores for",
            f"give at most {MOST_WORKERS}, and as many as there are cores",
        )


def _outbox(settings: Settings) -> Iterator[Fault]:
    outbox, message = settings.outbox, settings.limits.message_size
    if outbox.size < 2 * message:
        yield Fault(
            "outbox.size", str(outbox.size), "holds fewer than two messages", f"give at least {2 * message}"
        )
    if outbox.low_water >= outbox.high_water:
        yield Fault(
            "outbox.low_water",
            str(outbox.low_water),
            "not below outbox.high_water",
            f"give less than {outbox.high_water}",
        )
    if outbox.high_water > outbox.size:
        yield Fault(
            "outbox.high_water",
            str(outbox.high_water),
            "more than outbox.size",
            f"give at most {outbox.size}",
        )


def _costs(settings: Settings) -> Iterator[Fault]:
    burst, costs = settings.limits.command_burst, settings.limits.costs.model_dump()
    for command, cost in costs.items():
        if cost > burst:
            yield Fault(
                f"limits.costs.{command}",
                str(cost),
                "more than limits.command_burst, so that nobody could ever pay",
                f"give at most {burst}",
            )


def _drain(settings: Settings) -> Iterator[Fault]:
    drain = settings.drain
    if drain.window > drain.timeout:
        yield Fault(
            "drain.window",
            f"{drain.window:g}",
            "longer than drain.timeout",
            f"give at most {drain.timeout:g}",
        )


CHECKS: tuple[Callable[[Settings], Iterator[Fault]], ...] = (
    _namespaces,
    _loopback,
    _ports,
    _keys,
    _jwks,
    _push_keys,
    _broker,
    _tls,
    _beat,
    _workers,
    _outbox,
    _costs,
    _drain,
)


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches *host*; a name other than `localhost` may be anything."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
