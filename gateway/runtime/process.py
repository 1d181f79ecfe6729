"""A gateway as a process, or as several workers: signals, ports, what is printed at the start."""

from __future__ import annotations

import asyncio
import gc
import sys
from functools import partial
from multiprocessing.sharedctypes import Synchronized

import uvloop

from gateway.errors import GatewayError
from gateway.observe import logs
from gateway.observe.worker_metrics import WorkerMetrics
from gateway.runtime.listeners import Binding, reserved
from gateway.runtime.node import GatewayNode
from gateway.runtime.supervisor import Pulse, Supervisor, stop_signals
from gateway.settings import Settings
from gateway.transport.websocket.upgrade import PATH


def run(settings: Settings) -> int:
    """Run a gateway until one of `stop_signals`; return the exit status."""
    logs.configure(settings.log.level, settings.log.format)
    try:
        if settings.node.workers > 1:
            return _run_workers(settings)
        calm_collector()
        uvloop.run(_serve(settings))
    except GatewayError as error:
        logs.logger().error("cannot start", reason=str(error))
        return 1
    return 0


def _run_workers(settings: Settings) -> int:
    public, internal = settings.listen.public, settings.listen.internal
    with reserved(Binding(public.host, public.port), Binding(internal.host, internal.port)) as ports:
        shared = _with_ports(settings, *ports)
        supervisor = Supervisor(
            partial(work, shared),
            settings.node.workers,
            grace=settings.drain.timeout + 5.0,
            report=_report,
            ready=partial(_announce, shared, *ports),
        )
        return supervisor.run()


def _report(event: str, **fields: object) -> None:
    """Log what the supervisor says: that a worker starts is how it should be, all else is not."""
    log = logs.logger()
    (log.info if event in _CALM else log.warning)(event, **fields)


_CALM = ("worker started", "each worker shows its own metrics alone")


def work(settings: Settings, number: int, crew: WorkerMetrics | None, beat: Synchronized[float]) -> None:
    """Run the worker of that *number* until it is told to end: a node of its own, on ports that all share."""
    logs.configure(settings.log.level, settings.log.format)
    calm_collector()
    try:
        uvloop.run(_serve_as_worker(settings, number, crew, beat))
    except GatewayError as error:
        logs.logger().error("cannot start", worker=number, reason=str(error))
        sys.exit(1)


async def _serve(settings: Settings) -> None:
    await GatewayNode(settings).serve(_told_to_stop(), announce)


async def _serve_as_worker(
    settings: Settings, number: int, crew: WorkerMetrics | None, beat: Synchronized[float]
) -> None:
    stopped = _told_to_stop()
    pulse = Pulse(beat, asyncio.get_running_loop(), stopped.set)
    name = f"{settings.node_name()}-{number}"
    own = settings.model_copy(update={"node": settings.node.model_copy(update={"name": name})})
    await GatewayNode(own, shared=True, crew=crew).serve(stopped, lambda _: pulse.start())


def _told_to_stop() -> asyncio.Event:
    """Return what a signal to stop sets."""
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


def calm_collector() -> None:
    """Let Python look for reference cycles seldom: a connection makes none, and each look walks them all.

    CPython's default, every 700 allocations, took 13 % of a connect storm's CPU (docs/performance.md).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def announce(gateway: GatewayNode) -> None:
    """Print where the gateway listens, and in dev mode what to try."""
    _announce(gateway.settings, gateway.public.port, gateway.internal.port)


def _announce(settings: Settings, public_port: int, internal_port: int) -> None:
    internal = _url("http", settings.listen.internal.host, internal_port)
    lines = [
        f"clients   {_url('ws', settings.listen.public.host, public_port)}{PATH}",
        f"backends  {internal}/v1/publish   (docs: {internal}/docs)",
    ]
    if settings.dev:
        lines += [f"demo page {internal}/", f"try       {_example(internal)}"]
    sys.stdout.write("\n".join([*lines, ""]))
    sys.stdout.flush()


def _example(internal: str) -> str:
    message = '{"channel": "demo", "data": {"text": "hello"}}'
    headers = "-H 'Authorization: Bearer dev' -H 'Content-Type: application/json'"
    return f"curl -s {internal}/v1/publish {headers} -d '{message}'"


def _url(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
