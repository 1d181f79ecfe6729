"""The command `fanway`: run a gateway, check its configuration, mint tokens, talk to a gateway that runs.

Modules that only one command needs are imported by that command: `fanway token` in a script need not wait for
the import of a server.
"""
# ruff: noqa: PLC0415

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from pydantic_core import PydanticCustomError

from gateway import __version__, defaults
from gateway.errors import GatewayError
from gateway.settings import FILES, ConfigError, Settings, load, units
from gateway.settings.setting_warnings import warnings

if TYPE_CHECKING:
    from gateway.cli.listen import TokenSource

INTERRUPTED_STATUS = 128 + signal.SIGINT
"""The exit status of a command that Ctrl-C ended, as shells report it."""

NODES_PATH, STATS_PATH, PUBLISH_PATH = "/v1/nodes", "/v1/stats", "/v1/publish"

LISTEN_USER = "fanway-listen"
"""The user in the tokens that `fanway listen` makes for itself."""

LISTEN_TOKEN_SECONDS = 600.0
"""How long such a token is valid; `fanway listen` makes another before it expires."""

DEV_NOTE = (
    "DEV MODE: everybody who reaches this machine's loopback may connect without a token, subscribe, "
    "publish, and push with the key dev. Never put it where others can reach it."
)

app = typer.Typer(
    name="fanway",
    help="A real-time WebSocket gateway.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)

Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="The configuration; else fanway.toml or gateway.toml, where it exists."
    ),
]
Dev = Annotated[bool, typer.Option("--dev", help="Let everybody in, on loopback only.")]
Url = Annotated[str | None, typer.Option(envvar="FANWAY_URL", help="The public listener, ws://host:port.")]
InternalUrl = Annotated[
    str | None, typer.Option(envvar="FANWAY_INTERNAL_URL", help="The internal listener, http://host:port.")
]
Key = Annotated[str | None, typer.Option(envvar="FANWAY_KEY", help="A push key; the first one configured.")]
Token = Annotated[
    str | None,
    typer.Option(envvar="FANWAY_TOKEN", help="A token; one is made where a secret is configured."),
]


class CommandFailed(GatewayError):
    """A command cannot be carried out; the message says why, in one line."""


def _print_version(given: bool) -> None:  # noqa: FBT001 (the signature of a callback of typer)
    if given:
        version()
        raise typer.Exit


@app.callback()
def _options(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def run_command() -> None:
    """Run the command that the arguments name; print expected errors without a traceback, and exit with 1."""
    try:
        app()
    except GatewayError as error:
        prefix = "" if isinstance(error, ConfigError) else "fanway: "
        typer.echo(f"{prefix}{error}", err=True)
        sys.exit(1)


@app.command()
def serve(
    *,
    config: Config = None,
    dev: Dev = False,
    host: Annotated[str | None, typer.Option(help="listen.public.host")] = None,
    port: Annotated[int | None, typer.Option(help="listen.public.port")] = None,
    internal_host: Annotated[str | None, typer.Option(help="listen.internal.host")] = None,
    internal_port: Annotated[int | None, typer.Option(help="listen.internal.port")] = None,
    workers: Annotated[int | None, typer.Option(help="node.workers")] = None,
    redis: Annotated[str | None, typer.Option(metavar="URL", help="broker.url, with kind = redis")] = None,
    node: Annotated[str | None, typer.Option(metavar="NAME", help="node.name")] = None,
) -> None:
    """Run a gateway."""
    flags: dict[str, object] = {
        "listen.public.host": host,
        "listen.public.port": port,
        "listen.internal.host": internal_host,
        "listen.internal.port": internal_port,
        "node.workers": workers,
        "node.name": node,
    }
    if redis is not None:
        flags |= {"broker.kind": "redis", "broker.url": redis, "broker.urls": []}
    settings = load(_config_file(config), dev=dev, flags=flags)
    notes = [f"warning: {warning}" for warning in warnings(settings)]
    if settings.dev:
        notes.append(DEV_NOTE)
    from gateway.runtime.process import run

    raise typer.Exit(run(settings, notes))


@app.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")] = FILES[0],
) -> None:
    """Write a small configuration with a new secret and a new push key."""
    from gateway.cli.init import new_configuration, write_new_file

    try:
        write_new_file(file, new_configuration())
    except FileExistsError:
        raise CommandFailed(
            f"{file} exists, and is not overwritten; name another file: fanway init FILE"
        ) from None
    except OSError as error:
        raise CommandFailed(f"{file}: {error.strerror}; name a file that can be written") from None
    option = "" if file in FILES else f" --config {file}"
    typer.echo(f"wrote {file}, with a new secret and a new push key: keep it out of version control")
    typer.echo(f"next: fanway check{option}, then fanway serve{option}")


@app.command()
def check(*, config: Config = None, dev: Dev = False) -> None:
    """Validate the configuration, and print every fault and every warning with its key."""
    file = _config_file(config)
    settings = load(file, dev=dev)
    _print_warnings(settings)
    listen, rules = settings.listen, settings.namespaces()
    typer.echo(f"{file or 'defaults and environment'}: no faults")
    typer.echo(f"public listener    {listen.public.host}:{listen.public.port}")
    typer.echo(f"internal listener  {listen.internal.host}:{listen.internal.port}")
    typer.echo(f"tokens             {', '.join(settings.auth.key_sources()) or 'none: anonymous only'}")
    typer.echo(f"broker             {settings.broker.kind}")
    typer.echo(f"namespaces         {', '.join(sorted(rules))}")


@app.command()
def token(
    name: Annotated[str | None, typer.Argument(metavar="USER", help="Whose token: its sub.")] = None,
    *,
    user: Annotated[str | None, typer.Option(help="The same as USER.")] = None,
    ttl: Annotated[str, typer.Option(help="How long it holds: 90s, 15m, 1h30m.")] = "1h",
    channel: Annotated[str | None, typer.Option(help="A token to subscribe to this channel.")] = None,
    info: Annotated[str | None, typer.Option(metavar="JSON", help="What presence shows.")] = None,
    config: Config = None,
) -> None:
    """Print a token, signed with the configured secret."""
    whose = name if user is None else user
    if whose is None or None not in (name, user):
        raise CommandFailed("name one user: fanway token USER, or fanway token --user USER")
    settings = load(_config_file(config), complete=False)
    typer.echo(
        _mint_token(
            settings,
            user=whose,
            ttl=_parse_duration("--ttl", ttl),
            channel=channel,
            info=None if info is None else _parse_json("--info", info),
        )
    )


@app.command()
def publish(
    channel: str,
    data: Annotated[str, typer.Argument(metavar="JSON", help="The message; - reads it from stdin.")],
    *,
    internal_url: InternalUrl = None,
    key: Key = None,
    config: Config = None,
) -> None:
    """Publish a message through the push API."""
    body = {"channel": channel, "data": _parse_json("JSON", sys.stdin.read() if data == "-" else data)}
    _print_answer(
        config, internal_url, key, lambda api: api.post(PUBLISH_PATH, body), orjson.OPT_APPEND_NEWLINE
    )


@app.command()
def nodes(*, internal_url: InternalUrl = None, key: Key = None, config: Config = None) -> None:
    """Print the nodes of the cluster, as JSON."""
    _print_answer(config, internal_url, key, lambda api: api.get(NODES_PATH))


@app.command()
def stats(*, internal_url: InternalUrl = None, key: Key = None, config: Config = None) -> None:
    """Print the totals of the cluster, as JSON."""
    _print_answer(config, internal_url, key, lambda api: api.get(STATS_PATH))


@app.command()
def listen(
    channels: Annotated[list[str], typer.Argument(metavar="CHANNEL...")],
    *,
    rewind: Annotated[int | None, typer.Option(metavar="N", help="Begin with the last N messages.")] = None,
    url: Url = None,
    token: Token = None,
    config: Config = None,
) -> None:
    """Print every message of some channels, a JSON line each, until interrupted."""
    from gateway.cli.api_client import http_url, websocket_url
    from gateway.cli.listen import ChannelListener, as_line

    settings = load(_config_file(config), complete=False)
    public = settings.listen.public
    # Not KeyboardInterrupt: raised while the connection holds a lock, it would keep the connection open.
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED_STATUS))
    ChannelListener(
        websocket_url(url or http_url(public.host, public.port)),
        channels,
        rewind=rewind,
        tokens=_listen_tokens(settings, token),
        on_message=lambda message: typer.echo(as_line(message)),
        on_note=_print_note,
    ).run()


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(f"fanway {__version__}")


def _config_file(config: Path | None) -> Path | None:
    """Return the file *config*, else the first of `FILES` that exists; None where there is none."""
    return config or next((file for file in FILES if file.exists()), None)


def _print_answer(
    config: Path | None,
    url: str | None,
    key: str | None,
    call: Callable[[Any], Any],
    option: int = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE,
) -> None:
    """Print the answer of the push API to *call*, as JSON."""
    from gateway.cli.api_client import ApiClient, http_url

    settings = load(_config_file(config), complete=False)
    internal = settings.listen.internal
    configured = [each.get_secret_value() for each in settings.push.keys]
    api = ApiClient(
        url or http_url(internal.host, internal.port), key or next(iter(configured), defaults.DEV_PUSH_KEY)
    )
    sys.stdout.write(orjson.dumps(call(api), option=option).decode())


def _listen_tokens(settings: Settings, given: str | None) -> TokenSource:
    """Return the tokens of `fanway listen`: the *given* one, else new ones if a secret is configured."""
    from gateway.cli.listen import TokenSource

    if given is not None or not settings.auth.secret.get_secret_value():
        return TokenSource(lambda: given)
    return TokenSource(
        lambda: _mint_token(settings, user=LISTEN_USER, ttl=LISTEN_TOKEN_SECONDS),
        can_fetch_token=True,
        get_channel_token=partial(_channel_token, settings),
    )


def _channel_token(settings: Settings, channel: str) -> str | None:
    """Return a token for *channel* if the configuration says that it wants one."""
    from gateway.access.permissions import Namespaces, UnknownChannel

    try:
        rules = Namespaces(settings.namespaces(), strict=settings.channels.strict).rules(channel)
    except UnknownChannel:
        return None
    if rules.subscribe != "token":
        return None
    return _mint_token(settings, user=LISTEN_USER, ttl=LISTEN_TOKEN_SECONDS, channel=channel)


def _mint_token(
    settings: Settings, *, user: str, ttl: float, channel: str | None = None, info: object = None
) -> str:
    from gateway.access.tokens import mint

    auth = settings.auth
    if not auth.secret.get_secret_value():
        raise CommandFailed(
            "auth.secret is missing, which signs tokens; set it (FANWAY_AUTH__SECRET), "
            "for fanway serve as well: without it, --dev makes up one of its own at every start"
        )
    if ttl > auth.max_ttl:
        raise CommandFailed(
            f"--ttl is {ttl:g} s, more than auth.max_ttl allows; give at most {auth.max_ttl:g}s"
        )
    try:
        return mint(
            auth.static_keys()[0],
            user=user,
            ttl=ttl,
            now=float(int(time.time())),
            channel=channel,
            info=info,
            audience=auth.audience or None,
            issuer=auth.issuer or None,
        )
    except ValueError as error:
        raise CommandFailed(str(error)) from None


def _parse_duration(name: str, text: str) -> float:
    try:
        return units.seconds(text)
    except PydanticCustomError as error:
        raise CommandFailed(f"{name} {text!r}: {error}; {(error.context or {}).get('remedy')}") from None


def _parse_json(name: str, text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise CommandFailed(f"{name} is no JSON: {error}; text needs its quotes, too: '\"hello\"'") from None


def _print_warnings(settings: Settings) -> None:
    for warning in warnings(settings):
        _print_note(f"warning: {warning}")


def _print_note(line: str) -> None:
    typer.echo(f"fanway: {line}", err=True)
