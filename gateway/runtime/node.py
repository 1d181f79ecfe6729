"""The one place that wires all together: settings in, a running gateway out."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

from starlette.routing import BaseRoute

from gateway.access.admission import Admission
from gateway.access.jwks import Jwks
from gateway.access.origins import allowed, client_address
from gateway.access.permissions import Namespaces
from gateway.clock import monotonic
from gateway.console import demo
from gateway.errors import GatewayError, Rejection
from gateway.hub import dispatch
from gateway.hub.drain import drain
from gateway.hub.heartbeat import Heartbeat
from gateway.hub.hub import Hub
from gateway.hub.services import Services
from gateway.hub.session import Session
from gateway.observe import health, logs, metrics
from gateway.observe.loop_lag import LoopLag
from gateway.observe.notices import NoticeLog
from gateway.observe.worker_metrics import WorkerMetrics
from gateway.push import app as push
from gateway.push.fast_path import FastPath, FastPathHttp
from gateway.push.keys import Keys
from gateway.push.service import Service
from gateway.runtime import factory
from gateway.runtime.listeners import Binding, Listener
from gateway.settings import Settings
from gateway.tasks import Tasks
from gateway.transport.public_http import HttpOptions, PublicHttp
from gateway.transport.websocket import upgrade
from gateway.transport.websocket.options import WebSocketOptions
from gateway.transport.websocket.transport import WebSocketTransport
from gateway.transport.websocket.upgrade import UpgradeRequest
from protocol.codec import Codec
from protocol.errors import CLOSES, ErrorCode


class GatewayNode:
    """One node: both listeners and everything behind them."""

    def __init__(
        self, settings: Settings, *, shared: bool = False, crew: WorkerMetrics | None = None
    ) -> None:
        """Build every part; nothing runs yet. `GatewayError` where a listener's port cannot be had.

        *shared* says that other workers listen on the same ports; of its *crew* it shows the metrics, too.
        """
        loop = asyncio.get_running_loop()
        self.settings = settings
        self._shared = shared
        self._crew = crew
        self._log = logs.logger()
        self._draining = False
        self._tasks = Tasks(self._failed)
        self._jwks = Jwks(settings.auth.jwks_url) if settings.auth.jwks_url else None
        self._broker = factory.broker(
            settings, on_error=self._failed, on_notice=NoticeLog(self._log, settings.node_name())
        )
        self.hub = Hub(settings.node_name(), self._broker, scheduler=loop, tasks=self._tasks)
        self._admission = Admission(factory.admission_limits(settings))
        self._lag = LoopLag(loop, monotonic, self._overloaded)
        self._heartbeat = Heartbeat(
            loop, interval=settings.heartbeat.interval, grace=settings.heartbeat.grace
        )
        self._namespaces = Namespaces(settings.namespaces(), strict=settings.channels.strict)
        self._services = self._make_services()
        self.internal = self._make_internal()
        self.public = self._make_public()

    # ------------------------------------------------------------ the life of a node

    async def serve(self, stopped: asyncio.Event, started: Callable[[GatewayNode], None]) -> None:
        """Run until *stopped*, then drain; call *started* once both listeners listen."""
        async with self._running(), self._metrics.shared(), asyncio.TaskGroup() as listeners:
            for listener in (self.internal, self.public):
                listeners.create_task(listener.run_until_stopped())
            started(self)
            await stopped.wait()
            deadline = monotonic() + self.settings.drain.timeout
            await self._drain()
            for listener in (self.public, self.internal):
                listener.stop(within=max(0.0, deadline - monotonic()))

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        await self._broker.start(self.hub)
        if self._jwks is not None:
            self._jwks.start()
        self._lag.start()
        self._look_for_namesakes_later()
        try:
            yield
        finally:
            self._look.cancel()
            self._lag.close()
            self._heartbeat.close()
            await self._tasks.close()
            if self._jwks is not None:
                await self._jwks.close()
            await self._broker.close()

    def _look_for_namesakes_later(self) -> None:
        # By then, a node that this one replaces after a crash has lost its lease.
        self._look = asyncio.get_running_loop().call_later(
            self.settings.broker.lease, lambda: self._tasks.spawn(self._look_for_namesakes())
        )

    async def _look_for_namesakes(self) -> None:
        """Warn, once, where another live node has this one's name."""
        try:
            nodes = await self._broker.nodes()
        except GatewayError:
            self._look_for_namesakes_later()
            return
        if sum(each.node == self.hub.node for each in nodes) > 1:
            self._log.warning("node name taken", node=self.hub.node)

    async def _drain(self) -> None:
        """Not ready, no new connections, everybody sent away, everything sent."""
        self._draining = True
        self._log.info("draining", sessions=len(self.hub.sessions))
        self.public.stop_accepting()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(drain(self.hub, self.settings.drain.window), self.settings.drain.timeout)

    # ------------------------------------------------------------ the parts

    def _make_services(self) -> Services:
        settings = self.settings
        return Services(
            hub=self.hub,
            broker=self._broker,
            namespaces=self._namespaces,
            admission=self._admission,
            heartbeat=self._heartbeat,
            tasks=self._tasks,
            verifier=factory.verifier(settings, self._jwks),
            limits=factory.session_limits(settings),
            anonymous=settings.auth.anonymous,
            per_user_policy=settings.limits.per_user_policy,
            on_error=self._failed,
        )

    def _make_public(self) -> Listener:
        where, outbox = self.settings.listen.public, self.settings.outbox
        options = HttpOptions(
            header_timeout=where.header_timeout,
            websocket=WebSocketOptions(
                message_size=self.settings.limits.message_size,
                high_water=outbox.high_water,
                low_water=outbox.low_water,
                stall_timeout=outbox.stall_timeout,
            ),
        )
        binding = Binding(
            host=where.host,
            port=where.port,
            listeners=where.listeners,
            backlog=where.backlog,
            shared=self._shared,
            send_buffer=where.send_buffer,
            user_timeout=where.user_timeout,
        )
        app = upgrade.application(self._gate(), self._open, [health.healthz()])
        return Listener(app, binding, http=partial(PublicHttp, tasks=self._tasks, options=options))

    def _make_internal(self) -> Listener:
        where = self.settings.listen.internal
        service = Service(
            broker=self._broker,
            namespaces=self._namespaces,
            keys=Keys([key.get_secret_value() for key in self.settings.push.keys]),
            tasks=self._tasks,
            pace=self.hub.wait_for_capacity,
            body_size=where.body_size,
            message_size=self.settings.limits.message_size,
            history_limit=self.settings.limits.history_reply,
            presence_limit=self.settings.limits.presence_reply,
        )
        hot = FastPath(service)
        self._metrics = metrics.Exposition(
            {
                "hub": self.hub.statistics,
                "outbox": self.hub.flusher.statistics,
                "broker": self._broker.statistics,
                "heartbeat": self._heartbeat.statistics,
                "admission": self._admission.statistics,
                "push": hot.statistics,
                "tasks": self._tasks.statistics,
                "loop": self._lag.statistics,
            },
            closed=lambda: dict.fromkeys(CLOSES, 0) | self.hub.close_counts,
            crew=self._crew,
        )
        routes: list[BaseRoute] = [*health.routes(self._problems), self._metrics.route()]
        page = demo.routes(lambda: self.public.port) if self.settings.dev else ()
        app = push.create(service, routes=routes, demo=page)
        binding = Binding(
            where.host, where.port, listeners=where.listeners, backlog=where.backlog, shared=self._shared
        )
        return Listener(app, binding, http=partial(FastPathHttp, hot=hot), ws="none")

    def _gate(self) -> upgrade.Gate:
        where = self.settings.listen.public
        origins, dev = frozenset(where.allowed_origins), self.settings.dev

        def gate(arrival: UpgradeRequest) -> Rejection | Callable[[], None]:
            if self._draining:
                return Rejection(ErrorCode.UNAVAILABLE, "this node drains: connect to another", _soon())
            if not self._broker.ready():
                return Rejection(ErrorCode.UNAVAILABLE, "this node does not reach its broker", _soon())
            if not allowed(arrival.origin, arrival.host, origins, loopback=dev):
                return Rejection(
                    ErrorCode.PERMISSION_DENIED,
                    "this page's origin is not in listen.public.allowed_origins",
                )
            address = arrival.peer
            if where.trusted_proxies:
                address = client_address(address, arrival.forwarded_for, where.trusted_proxies)
            admitted = self._admission.admit_upgrade(address)
            return admitted if isinstance(admitted, Rejection) else admitted.release

        return gate

    def _open(
        self, link: WebSocketTransport, codec: Codec, arrival: UpgradeRequest, release: Callable[[], None]
    ) -> None:
        link.attach(
            Session(
                link,
                codec,
                self._services,
                dispatcher=dispatch,
                on_ended=release,
                header_token=arrival.token,
            )
        )

    # ------------------------------------------------------------ what they report

    def _problems(self) -> Sequence[str]:
        problems = {
            "draining": self._draining,
            "the broker takes no publishes": not self._broker.ready(),
            "the event loop lags": self._admission.overloaded,
        }
        return [problem for problem, found in problems.items() if found]

    def _overloaded(self, overloaded: bool) -> None:  # noqa: FBT001 (a callback's only argument)
        self._admission.overloaded = overloaded
        self._log.warning("overloaded" if overloaded else "no longer overloaded", lag_p99=self._lag.p99)

    def _failed(self, error: BaseException) -> None:
        self._log.error("unexpected", exc_info=error)


def _soon() -> float:
    """Return in how many seconds to come back: others than the next one, or a storm follows an outage."""
    return float(random.randint(1, 5))
