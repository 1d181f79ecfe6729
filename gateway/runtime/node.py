"""One node of the gateway: all parts, built from the settings and connected with each other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial

from starlette.routing import BaseRoute

from gateway import defaults
from gateway.access.admission import Admission
from gateway.access.jwks import Jwks
from gateway.access.permissions import Namespaces
from gateway.broker.notices import Notice
from gateway.clock import monotonic
from gateway.console import demo
from gateway.hub import dispatch
from gateway.hub.drain import drain
from gateway.hub.heartbeat import Heartbeat
from gateway.hub.hub import Hub
from gateway.hub.services import Services
from gateway.hub.session import Session
from gateway.memory import NodeMemory
from gateway.observe import health, logs
from gateway.observe.loop_lag import LoopLag
from gateway.observe.metrics import Exposition
from gateway.observe.notices import NoticeLog
from gateway.observe.refusals import RefusalLog
from gateway.observe.worker_metrics import WorkerMetricsExchange
from gateway.push import app as push
from gateway.push.context import PushContext
from gateway.push.fast_path import FastPath, FastPathHttp
from gateway.push.http import keep_alive_options
from gateway.push.push_keys import PushKeys
from gateway.push.request_limits import RequestLimits
from gateway.runtime import factory
from gateway.runtime.clock_watch import ClockWatch
from gateway.runtime.listeners import Listener
from gateway.runtime.node_name_check import NodeNameCheck
from gateway.runtime.upgrade_gate import UpgradeGate
from gateway.settings import Settings
from gateway.tasks import Slicer, Tasks
from gateway.transport.public_http import ProxiedHttp, PublicHttp
from gateway.transport.websocket import upgrade
from gateway.transport.websocket.transport import WebSocketTransport
from gateway.transport.websocket.upgrade import UpgradeRequest
from protocol.codec import Codec
from protocol.errors import CLOSES


class GatewayNode:
    """One node: the public and the internal listener, and all parts that they need."""

    def __init__(
        self,
        settings: Settings,
        *,
        shares_ports: bool = False,
        worker_metrics: WorkerMetricsExchange | None = None,
    ) -> None:
        """Build all parts and bind the ports; nothing runs until `serve`.

        Args:
            settings: the complete settings of this node.
            shares_ports: whether other workers listen on the same ports.
            worker_metrics: collects the metrics of the other workers; None without workers.

        Raises:
            GatewayError: a listener's port cannot be bound.

        """
        loop = asyncio.get_running_loop()
        self.settings = settings
        self._log = logs.logger()
        self._log_notice = NoticeLog(self._log, settings.node_name())
        self._on_broker_ready: Callable[[], None] | None = None
        self._refusals = RefusalLog(self._log)
        self._tasks = Tasks(self._log_error)
        self._slicer = Slicer()
        self._jwks = Jwks(settings.auth.jwks_url) if settings.auth.jwks_url else None
        self._memory = NodeMemory(settings.memory())
        self._broker = factory.broker(
            settings, slicer=self._slicer, on_error=self._log_error, on_notice=self._on_broker_notice
        )
        self.hub = Hub(
            settings.node_name(), self._broker, scheduler=loop, tasks=self._tasks, memory=self._memory
        )
        self._namespaces = Namespaces(settings.namespaces(), strict=settings.channels.strict)
        self._admission = Admission(factory.admission_limits(settings))
        self._command_rates = factory.command_rates(settings)
        self._loop_lag = LoopLag(loop, monotonic, self._on_overload_change)
        self._clock_watch = ClockWatch(loop, self._on_clock_step)
        self._heartbeat = Heartbeat(
            loop,
            interval=settings.heartbeat.interval,
            grace=settings.heartbeat.grace,
            stall_timeout=settings.outbox.stall_timeout,
        )
        self._name_check = NodeNameCheck(
            self.hub.node,
            self._broker.nodes,
            scheduler=loop,
            tasks=self._tasks,
            delay=settings.broker.lease,
            on_duplicate=lambda: self._log.warning("node name taken", node=self.hub.node),
        )
        self._gate = self._make_gate()
        self._services = self._make_services()
        self._push_context = self._make_push_context()
        self._fast_path = FastPath(self._push_context)
        bound_reached = self._refusals.on_connections_exhausted
        self._public_connections = factory.public_connections(settings, partial(bound_reached, "public"))
        self._internal_connections = factory.internal_connections(
            settings, partial(bound_reached, "internal")
        )
        self._metrics = self._make_metrics(worker_metrics)
        self.internal = self._make_internal_listener(shares_ports=shares_ports)
        self.public = self._make_public_listener(shares_ports=shares_ports)

    # ------------------------------------------------------------ running

    @property
    def broker_ready(self) -> bool:
        """Whether the broker takes publishes; until then, clients get 503."""
        return self._broker.ready()

    def call_when_broker_ready(self, callback: Callable[[], None]) -> None:
        """Call *callback* once, as soon as the broker takes publishes, which it does not now."""
        self._on_broker_ready = callback

    async def serve(self, stopped: asyncio.Event, on_started: Callable[[GatewayNode], None]) -> None:
        """Run until *stopped* is set, then drain; call *on_started* once both listeners listen."""
        async with self._running(), self._metrics.serving_workers(), asyncio.TaskGroup() as listeners:
            for listener in (self.internal, self.public):
                listeners.create_task(listener.run_until_stopped())
            on_started(self)
            await stopped.wait()
            deadline = monotonic() + self.settings.drain.timeout
            await self._drain()
            for listener in (self.public, self.internal):
                listener.stop(grace=max(0.0, deadline - monotonic()))

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        """Start the parts that run beside the listeners, and close them in reverse order of their use."""
        await self._broker.start(self.hub)
        if self._jwks is not None:
            self._jwks.start()
        self._loop_lag.start()
        self._clock_watch.start()
        self._name_check.start()
        try:
            yield
        finally:
            self._name_check.close()
            self._clock_watch.close()
            self._loop_lag.close()
            self._heartbeat.close()
            await self._tasks.close()
            if self._jwks is not None:
                await self._jwks.close()
            await self._broker.close()

    async def _drain(self) -> None:
        """Become not ready, accept no connections, send all clients away (docs/operations.md#draining)."""
        self._gate.draining = True
        self._log.info("draining", sessions=len(self.hub.sessions))
        self.public.stop_accepting()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(drain(self.hub, self.settings.drain.window), self.settings.drain.timeout)

    # ------------------------------------------------------------ the public listener

    def _make_public_listener(self, *, shares_ports: bool) -> Listener:
        options = factory.http_options(self.settings, self._memory, self._refusals.on_proxy_header_refused)
        protocol = ProxiedHttp if self.settings.listen.public.proxy_protocol else PublicHttp
        return Listener(
            upgrade.application(self._gate, self._open_session, [health.liveness_route()]),
            factory.public_binding(self.settings, shares_ports=shares_ports),
            http=partial(protocol, tasks=self._tasks, options=options),
            open_connections=self._public_connections,
            on_exhausted=partial(self._on_descriptors_exhausted, "public"),
        )

    def _make_gate(self) -> UpgradeGate:
        public = self.settings.listen.public
        return UpgradeGate(
            self._admission,
            broker_ready=self._broker.ready,
            allowed_origins=frozenset(public.allowed_origins),
            trusted_proxies=public.trusted_proxies,
            allow_loopback=self.settings.dev,
            on_origin_refused=self._refusals.on_origin_refused,
        )

    def _make_services(self) -> Services:
        settings = self.settings
        return Services(
            hub=self.hub,
            broker=self._broker,
            namespaces=self._namespaces,
            admission=self._admission,
            rates=self._command_rates,
            heartbeat=self._heartbeat,
            tasks=self._tasks,
            slicer=self._slicer,
            verifier=factory.verifier(settings, self._jwks),
            limits=factory.session_limits(settings),
            anonymous=settings.auth.anonymous,
            per_user_policy=settings.limits.per_user_policy,
            on_error=self._log_error,
            on_token_refused=self._refusals.on_token_refused,
        )

    def _open_session(
        self,
        transport: WebSocketTransport,
        codec: Codec,
        request: UpgradeRequest,
        release: Callable[[], None],
    ) -> None:
        session = Session(
            transport,
            codec,
            self._services,
            dispatcher=dispatch,
            on_ended=release,
            header_token=request.token,
            address=self._gate.client_address(request),
        )
        transport.attach(session)

    # ------------------------------------------------------------ the internal listener

    def _make_internal_listener(self, *, shares_ports: bool) -> Listener:
        app = push.create_app(
            self._push_context,
            routes=[*health.routes(self._gate.problems), self._metrics.route()],
            demo=self._demo_routes() if self.settings.dev else (),
            dev_key=defaults.DEV_PUSH_KEY if self.settings.dev else "",
        )
        return Listener(
            app,
            factory.internal_binding(self.settings, shares_ports=shares_ports),
            http=partial(FastPathHttp, fast_path=self._fast_path),
            ws="none",
            open_connections=self._internal_connections,
            on_exhausted=partial(self._on_descriptors_exhausted, "internal"),
            **keep_alive_options(self.settings.listen.internal.keep_alive),
        )

    def _demo_routes(self) -> list[BaseRoute]:
        return demo.routes(lambda: self.public.port, factory.demo_token(self.settings))

    def _make_push_context(self) -> PushContext:
        settings = self.settings
        return PushContext(
            broker=self._broker,
            namespaces=self._namespaces,
            keys=PushKeys([key.get_secret_value() for key in settings.push.keys]),
            tasks=self._tasks,
            wait_for_capacity=self.hub.backpressure.wait_for_capacity,
            loopback_hosts_only=settings.dev,
            body_size=settings.listen.internal.body_size,
            bodies=self._memory.bodies,
            message_size=settings.limits.message_size,
            history_limit=settings.limits.history_reply,
            presence_limit=settings.limits.presence_reply,
            limits=RequestLimits(concurrency=settings.push.concurrency, rate=settings.push.rate),
            on_key_refused=self._refusals.on_push_key_refused,
            on_host_refused=self._refusals.on_host_refused,
        )

    def _make_metrics(self, worker_metrics: WorkerMetricsExchange | None) -> Exposition:
        return Exposition(
            {
                "hub": self.hub.statistics,
                "outbox": self.hub.flusher.statistics,
                "backpressure": self.hub.backpressure.statistics,
                "history_cache": self.hub.history_cache.statistics,
                "broker": self._broker.statistics,
                "heartbeat": self._heartbeat.statistics,
                "admission": self._admission.statistics,
                "public_connections": self._public_connections.statistics,
                "internal_connections": self._internal_connections.statistics,
                "rates": self._command_rates.statistics,
                "push": self._fast_path.statistics,
                "tasks": self._tasks.statistics,
                "slices": self._slicer.statistics,
                "loop": self._loop_lag.statistics,
                "clock": self._clock_watch.statistics,
                "log": logs.statistics,
                "memory": self._memory.statistics,
                **({} if self._jwks is None else {"jwks": self._jwks.statistics}),
            },
            close_counts=lambda: dict.fromkeys(CLOSES, 0) | self.hub.close_counts,
            workers=worker_metrics,
        )

    # ------------------------------------------------------------ called by the parts

    def _on_overload_change(self, overloaded: bool) -> None:  # noqa: FBT001 (a callback's only argument)
        self._admission.overloaded = overloaded
        self._log.warning("overloaded" if overloaded else "no longer overloaded", lag_p99=self._loop_lag.p99)

    def _on_descriptors_exhausted(self, listener: str, error: OSError) -> None:
        """Log *error*, and close a connection: a stranger's first, else an idle one of a backend."""
        self._refusals.on_descriptors_exhausted(listener, error)
        if not self._public_connections.close_oldest():
            self._internal_connections.close_oldest()

    def _on_clock_step(self, step: float, suspended: float) -> None:
        self._log.warning("clock stepped", by=round(step, 3), suspended=round(suspended, 3))
        self._tasks.spawn(self.hub.on_clock_step())

    def _on_broker_notice(self, shard: int, notice: Notice) -> None:
        self._log_notice(shard, notice)
        if self._on_broker_ready is not None and self.broker_ready:
            callback, self._on_broker_ready = self._on_broker_ready, None
            callback()

    def _log_error(self, error: BaseException) -> None:
        self._log.error("unexpected", exc_info=error)
