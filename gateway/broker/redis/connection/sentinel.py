"""Where the primary is that sentinels watch: what all of them say, and what one announces."""

from __future__ import annotations

import asyncio
import contextlib

from redis import exceptions

from gateway.broker.redis import timeouts
from gateway.broker.redis.connection.servers import Address, Server, asked, connected, shown
from gateway.clock import Clock, monotonic

Seen = tuple[int, Address]
"""The epoch in which the sentinels last agreed upon a primary, and where it is."""

SWITCHED = "+switch-master"
"""Where sentinels announce another primary: its name, then the former address and the present one."""


class SentinelPrimary:
    """A primary that sentinels watch, and replace when it fails (Redis' guidelines for Sentinel clients)."""

    def __init__(self, server: Server, clock: Clock = monotonic) -> None:
        """Ask the sentinels of *server*."""
        if server.sentinels is None:
            raise ValueError("this server has no sentinels")
        self.server = server
        self.first = ""
        self._master = server.sentinels.master
        self._sentinels = server.sentinels.addresses
        self._clock = clock
        self._address: Address | None = None
        self._sure = False
        self._doubts = 0
        self._look_at = 0.0
        self._looking = asyncio.Lock()

    def settled(self, address: Address | None, *, watchful: bool) -> bool:
        """Return whether *address* is what the sentinels said; to the watchful, some seconds ago at most."""
        return self._sure and address == self._address and not (watchful and self._stale)

    async def locate(self, *, watchful: bool) -> Address | None:
        """Return what the sentinels say; all of them are asked at once."""
        async with self._looking:
            if not self._sure or (watchful and self._stale):
                await self._look()
        return self._address

    def doubt(self) -> None:
        """Ask the sentinels again."""
        self._sure = False
        self._doubts += 1

    async def watch(self) -> None:
        """Listen to one sentinel after the other.

        A primary that is replaced on purpose goes on for seconds, and what it takes then is lost: its answers
        do not show it.
        """
        while True:
            for address in self._sentinels:
                with contextlib.suppress(exceptions.RedisError, OSError):
                    await self._listen(address)
                await asyncio.sleep(timeouts.LISTEN)

    async def _listen(self, address: Address) -> None:
        async with connected(self.server.to_sentinel(address, timeouts.SENTINEL)) as sentinel:
            async with asyncio.timeout(timeouts.SENTINEL):
                await asked(sentinel, "SUBSCRIBE", SWITCHED)
            # Whatever was said while nobody listened.
            self.doubt()
            while True:
                *_, told = await sentinel.read_response()
                if told.split(b" ")[0].decode() == self._master:
                    self.doubt()

    @property
    def _stale(self) -> bool:
        return self._clock() >= self._look_at

    async def _look(self) -> None:
        doubts = self._doubts
        told, silent = await self._ask_all()
        if told:
            # A sentinel that has not heard of a failover yet tells of the former primary, in an older epoch.
            self._address = max(told)[1]
        elif self._address is None:
            why = "; ".join(f"{' and '.join(where)}: {what}" for what, where in silent.items())
            raise exceptions.ConnectionError(f"no sentinel knows {self._master!r}: {why}")
        # Also where none has answered: a primary that goes on must not suffer from that. But not for long.
        self._look_at = self._clock() + (timeouts.RECHECK if told else timeouts.UNKNOWN)
        self._sure = doubts == self._doubts

    async def _ask_all(self) -> tuple[list[Seen], dict[str, list[str]]]:
        """Return what was said soon after the first one to know; and who said nothing, by the reason."""
        told: list[Seen] = []
        silent: dict[str, list[str]] = {}
        async with asyncio.TaskGroup() as group:
            asking = {group.create_task(self._ask(address)): address for address in self._sentinels}
            waiting = set(asking)
            while waiting:
                within = timeouts.SECOND_OPINION if told else None
                done, waiting = await asyncio.wait(
                    waiting, timeout=within, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    break
                for task in done:
                    seen = task.result()
                    if isinstance(seen, str):
                        silent.setdefault(seen, []).append(shown(asking[task]))
                    else:
                        told.append(seen)
            for task in waiting:
                task.cancel()
        return told, silent

    async def _ask(self, address: Address) -> Seen | str:
        """Return what the sentinel at *address* says of the primary, or why that is of no use."""
        try:
            async with (
                asyncio.timeout(timeouts.SENTINEL),
                connected(self.server.to_sentinel(address, timeouts.SENTINEL)) as sentinel,
            ):
                fields = await asked(sentinel, "SENTINEL", "MASTER", self._master)
        except (exceptions.RedisError, OSError) as error:
            return _why(error)
        state = {name.decode(): value.decode() for name, value in zip(fields[::2], fields[1::2], strict=True)}
        flags = state["flags"].split(",")
        if "master" not in flags or {"s_down", "o_down"} & set(flags):
            return "takes it for down"
        return int(state.get("config-epoch", 0)), (state["ip"], int(state["port"]))

    def __repr__(self) -> str:
        return f"<BehindSentinels of {self._master}, now {self._address}>"


def _why(error: Exception) -> str:
    """Return *error* in a few words, without the address: redis-py puts it into some of its own."""
    if isinstance(error, TimeoutError | exceptions.TimeoutError):
        return "no answer in time"
    if isinstance(error.__context__, OSError) and error.__context__.strerror:
        return error.__context__.strerror
    return str(error) or type(error).__name__
