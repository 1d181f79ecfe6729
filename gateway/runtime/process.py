"""A gateway as one process, or as several workers: signals, ports, what is printed at the start."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Sequence
from functools import partial

import uvloop

from gateway.errors import GatewayError
from gateway.observe import logs
from gateway.observe.worker_metrics import WorkerMetricsExchange
from gateway.runtime import factory, standard_streams
from gateway.runtime.listeners import reserve_ports
from gateway.runtime.node import GatewayNode
from gateway.runtime.stop_signals import stop_signals
from gateway.runtime.supervisor import Supervisor
from gateway.runtime.worker_heartbeat import WorkerHeartbeat, WorkerStatus
from gateway.settings import Settings
from gateway.transport.websocket.upgrade import PATH

WORKER_STOP_MARGIN_SECONDS = 5.0
"""Time that a worker has to end beyond `drain.timeout`, before the supervisor kills it."""

_INFO_EVENTS = ("worker started", "each worker shows its own metrics alone")
"""Events of the supervisor that need nobody's attention."""


def run(settings: Settings, notes: Sequence[str] = ()) -> int:
    """Print *notes* on stderr, and run a gateway until one of `stop_signals`; return the exit status."""
    logs.configure(standard_streams.replace(), settings.log.level, settings.log.format)
    for note in notes:
        sys.stderr.write(f"fanway: {note}\n")
    try:
        if settings.node.workers > 1:
            return _run_workers(settings)
        tune_garbage_collector()
        uvloop.run(_serve(settings))
    except GatewayError as error:
        logs.logger().error("cannot start", reason=str(error))
        return 1
    return 0


def _run_workers(settings: Settings) -> int:
    public = factory.public_binding(settings, shares_ports=True)
    internal = factory.internal_binding(settings, shares_ports=True)
    with reserve_ports(public, internal) as ports:
        with_ports = _with_ports(settings, *ports)
        supervisor = Supervisor(
            partial(run_worker, with_ports),
            settings.node.workers,
            stop_timeout=settings.drain.timeout + WORKER_STOP_MARGIN_SECONDS,
            log_event=_log_event,
            on_all_serving=partial(print_addresses, with_ports, ports[0], ports[1]),
            on_all_ready=partial(print_ready, with_ports, ports[1]),
        )
        return supervisor.run()


def _log_event(event: str, **fields: object) -> None:
    log = logs.logger()
    (log.info if event in _INFO_EVENTS else log.warning)(event, **fields)


def run_worker(
    settings: Settings,
    number: int,
    metrics: WorkerMetricsExchange | None,
    status: WorkerStatus,
) -> None:
    """Run worker *number* until a signal stops it: a node of its own, on ports that all workers share."""
    logs.configure(standard_streams.replace(), settings.log.level, settings.log.format)
    tune_garbage_collector()
    try:
        uvloop.run(_serve_as_worker(settings, number, metrics, status))
    except GatewayError as error:
        logs.logger().error("cannot start", worker=number, reason=str(error))
        sys.exit(1)


async def _serve(settings: Settings) -> None:
    await GatewayNode(settings).serve(_stop_event(), _print_node_addresses)


async def _serve_as_worker(
    settings: Settings,
    number: int,
    metrics: WorkerMetricsExchange | None,
    status: WorkerStatus,
) -> None:
    stopped = _stop_event()
    name = f"{settings.node_name()}-{number}"
    own = settings.model_copy(update={"node": settings.node.model_copy(update={"name": name})})
    node = GatewayNode(own, shares_ports=True, worker_metrics=metrics)
    heartbeat = WorkerHeartbeat(status, asyncio.get_running_loop(), lambda: node.broker_ready, stopped.set)
    await node.serve(stopped, lambda _: heartbeat.start())


def _stop_event() -> asyncio.Event:
    """Return an event that is set by each of `stop_signals`."""
    stopped = asyncio.Event()
    for number in stop_signals():
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    return stopped


def _with_ports(settings: Settings, public: int, internal: int) -> Settings:
    listen = settings.listen
    update = {
        "public": listen.public.model_copy(update={"port": public}),
        "internal": listen.internal.model_copy(update={"port": internal}),
    }
    return settings.model_copy(update={"listen": listen.model_copy(update=update)})


def tune_garbage_collector() -> None:
    """Make garbage collections rare: connections create no reference cycles, and each collection visits them.

    CPython's default, every 700 allocations, cost 13 % of a connect storm's CPU (docs/performance.md).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _print_node_addresses(node: GatewayNode) -> None:
    """Print the addresses of *node*; where its Redis is not reachable yet, say so, and print when it is."""
    settings, ports = node.settings, (node.public.port, node.internal.port)
    ready = node.broker_ready
    print_addresses(settings, *ports, ready)
    if not ready:
        node.call_when_broker_ready(partial(print_ready, settings, ports[1]))


def print_addresses(settings: Settings, public_port: int, internal_port: int, ready: bool) -> None:  # noqa: FBT001 (the supervisor's callback)
    """Print the addresses on which a gateway listens, and in dev mode a command to try.

    If its broker is not *ready*, say so; `print_ready` prints the rest later.
    """
    addresses = _addresses(settings, public_port, internal_port)
    if ready:
        _print_lines([*addresses, *_suggestions(settings, internal_port)])
    else:
        waiting = "waiting   Redis is not reachable yet: clients and publishes get 503 until it is"
        _print_lines([waiting, *addresses])


def print_ready(settings: Settings, internal_port: int) -> None:
    """Print that Redis is reachable, and in dev mode a command to try."""
    _print_lines(["ready     Redis is reachable", *_suggestions(settings, internal_port)])


def _addresses(settings: Settings, public_port: int, internal_port: int) -> list[str]:
    internal = _url("http", settings.listen.internal.host, internal_port)
    return [
        f"clients   {_url('ws', settings.listen.public.host, public_port)}{PATH}",
        f"backends  {internal}/v1/publish   (docs: {internal}/docs)",
    ]


def _suggestions(settings: Settings, internal_port: int) -> list[str]:
    """Return what one may open and type in dev mode."""
    internal = _url("http", settings.listen.internal.host, internal_port)
    return [f"demo page {internal}/", f"try       {_example(internal)}"] if settings.dev else []


def _print_lines(lines: list[str]) -> None:
    sys.stdout.write("\n".join([*lines, ""]))
    sys.stdout.flush()


def _example(internal: str) -> str:
    message = '{"channel": "demo", "data": {"text": "hello"}}'
    headers = "-H 'Authorization: Bearer dev' -H 'Content-Type: application/json'"
    return f"curl -s {internal}/v1/publish {headers} -d '{message}'"


def _url(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
