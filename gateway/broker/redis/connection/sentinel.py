"""Finds a primary that sentinels watch: asks all sentinels, and subscribes to failovers at all of them.

Follows Redis' guidelines for Sentinel clients
(https://redis.io/docs/latest/develop/reference/sentinel-clients/).
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from redis import exceptions

from gateway.broker.redis import timeouts
from gateway.broker.redis.connection.server import (
    Address,
    Server,
    execute_command,
    format_address,
    opened,
)
from gateway.clock import Clock, monotonic

PrimaryReport = tuple[int, Address]
"""The answer of one sentinel: the epoch of its last known failover, and the address of the primary."""

SWITCH_MASTER = "+switch-master"
"""The channel on which sentinels announce a failover: name of the primary, old address, new address."""


class SentinelPrimary:
    """The locator of a primary that sentinels watch, and replace if it fails; a `PrimaryLocator`."""

    def __init__(self, server: Server, clock: Clock = monotonic) -> None:
        """Ask the sentinels of *server*."""
        if server.sentinels is None:
            raise ValueError("this server has no sentinels")
        self.server = server
        self.description = ""
        self._master = server.sentinels.master
        self._sentinels = server.sentinels.addresses
        self._clock = clock
        self._address: Address | None = None
        self._valid = False
        self._invalidations = 0
        self._recheck_at = 0.0
        self._refreshing = asyncio.Lock()

    def is_current(self, address: Address | None, *, recheck: bool) -> bool:
        """Return whether *address* is the primary's; with *recheck*, False if the last lookup is too old."""
        return self._valid and address == self._address and not (recheck and self._recheck_due)

    async def locate(self, *, recheck: bool) -> Address | None:
        """Return the primary's address; ask the sentinels if the address is unknown or the lookup too old."""
        async with self._refreshing:
            if not self._valid or (recheck and self._recheck_due):
                await self._refresh()
        return self._address

    def invalidate(self) -> None:
        """Ask the sentinels again before the address is used next."""
        self._valid = False
        self._invalidations += 1

    async def watch_failovers(self) -> None:
        """Stay subscribed to every sentinel, so that the first announcement of any counts. Never returns.

        After a planned failover the former primary accepts writes for seconds, and these writes are lost; its
        answers do not show that it was replaced. A sentinel on the other side of a partition announces
        nothing, so one subscription is not enough.
        """
        async with asyncio.TaskGroup() as group:
            for address in self._sentinels:
                group.create_task(self._watch(address))

    async def _watch(self, address: Address) -> None:
        while True:
            with contextlib.suppress(exceptions.RedisError, OSError):
                await self._subscribe(address)
            await asyncio.sleep(timeouts.SENTINEL_RESUBSCRIBE_SECONDS)

    async def _subscribe(self, address: Address) -> None:
        """Invalidate at each announcement of the sentinel at *address*, until its connection is lost."""
        async with opened(self._connection(address)) as sentinel:
            async with asyncio.timeout(timeouts.PRIMARY_LOOKUP_TIMEOUT_SECONDS):
                await execute_command(sentinel, "SUBSCRIBE", SWITCH_MASTER)
            # A failover may have been announced before this subscription.
            self.invalidate()
            while True:
                message = await self._next_message(sentinel)
                if message[0] == b"message" and message[2].split(b" ")[0].decode() == self._master:
                    self.invalidate()

    async def _next_message(self, sentinel: Any) -> list[bytes]:
        """Return the next message of a subscription; ask for one if *sentinel* is silent for too long.

        Raises:
            TimeoutError: the connection is dead, for example because a middlebox has forgotten it.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeouts.SENTINEL_PING_SECONDS):
                return await _read_message(sentinel)
        async with asyncio.timeout(timeouts.PRIMARY_LOOKUP_TIMEOUT_SECONDS):
            await sentinel.send_command("PING")
            return await _read_message(sentinel)

    @property
    def _recheck_due(self) -> bool:
        return self._clock() >= self._recheck_at

    async def _refresh(self) -> None:
        invalidations = self._invalidations
        reports, failures = await self._ask_all()
        if reports:
            # A sentinel that does not know of a failover yet returns the former primary, with an older epoch.
            self._address = max(reports)[1]
        elif self._address is None:
            reasons = "; ".join(f"{' and '.join(where)}: {why}" for why, where in failures.items())
            raise exceptions.ConnectionError(f"no sentinel knows {self._master!r}: {reasons}")
        # If no sentinel answered, the last known address counts as valid, but for a shorter time: calls to a
        # working primary still succeed.
        seconds = timeouts.SENTINEL_RECHECK_SECONDS if reports else timeouts.SENTINEL_SILENT_RECHECK_SECONDS
        self._recheck_at = self._clock() + seconds
        self._valid = invalidations == self._invalidations

    async def _ask_all(self) -> tuple[list[PrimaryReport], dict[str, list[str]]]:
        """Return the reports that arrive soon after the first one, and the failed sentinels, by reason."""
        reports: list[PrimaryReport] = []
        failures: dict[str, list[str]] = {}
        async with asyncio.TaskGroup() as group:
            tasks = {group.create_task(self._ask(address)): address for address in self._sentinels}
            waiting = set(tasks)
            while waiting:
                timeout = timeouts.SENTINEL_CONFIRM_SECONDS if reports else None
                done, waiting = await asyncio.wait(
                    waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    break
                for task in done:
                    report = task.result()
                    if isinstance(report, str):
                        failures.setdefault(report, []).append(format_address(tasks[task]))
                    else:
                        reports.append(report)
            for task in waiting:
                task.cancel()
        return reports, failures

    async def _ask(self, address: Address) -> PrimaryReport | str:
        """Return the report of the sentinel at *address*, or the reason why it failed."""
        try:
            async with (
                asyncio.timeout(timeouts.PRIMARY_LOOKUP_TIMEOUT_SECONDS),
                opened(self._connection(address)) as sentinel,
            ):
                fields = await execute_command(sentinel, "SENTINEL", "MASTER", self._master)
        except (exceptions.RedisError, OSError) as error:
            return _reason(error)
        state = {name.decode(): value.decode() for name, value in zip(fields[::2], fields[1::2], strict=True)}
        flags = state["flags"].split(",")
        if "master" not in flags or {"s_down", "o_down"} & set(flags):
            return "considers it down"
        return int(state.get("config-epoch", 0)), (state["ip"], int(state["port"]))

    def _connection(self, address: Address) -> object:
        return self.server.sentinel_connection(address, timeouts.PRIMARY_LOOKUP_TIMEOUT_SECONDS)

    def __repr__(self) -> str:
        return f"<SentinelPrimary {self._master} at {self._address}>"


async def _read_message(sentinel: Any) -> list[bytes]:
    # Without disconnecting: a read that is interrupted by a timeout is continued later.
    message: list[bytes] = await sentinel.read_response(disconnect_on_error=False)
    return message


def _reason(error: Exception) -> str:
    """Return *error* in a few words, without the address, which redis-py adds to some of its errors."""
    if isinstance(error, TimeoutError | exceptions.TimeoutError):
        return "no answer in time"
    if isinstance(error.__context__, OSError) and error.__context__.strerror:
        return error.__context__.strerror
    return str(error) or type(error).__name__
