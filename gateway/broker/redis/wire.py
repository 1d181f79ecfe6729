"""One connection to one Redis: commands out, their answers in, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from redis import exceptions
from redis.asyncio import connection as redis_connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.broker.redis.script import Command, Script


class Wire:
    """A connection that is made when it is needed; redis-py does the handshake and the parsing, no retries.

    One `exchange` at a time. One that fails, or is cancelled, closes the connection: what came late would be
    taken for the answer to the next.
    """

    def __init__(self, url: str, *, connect_timeout: float, scripts: Sequence[Script] = ()) -> None:
        """Make Redis know *scripts* on each new connection: that it does already costs it next to nothing."""
        # A Unix socket knows neither of these two.
        tcp: dict[str, Any] = {"socket_connect_timeout": connect_timeout, "socket_keepalive": True}
        pool = redis_connection.ConnectionPool.from_url(
            url,
            decode_responses=False,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            # `exchange` bounds the whole; a timer for every answer of a pipeline costs more than to parse it.
            socket_timeout=None,
            health_check_interval=0,
            **({} if url.startswith("unix:") else tcp),
        )
        self._connection: Any = cast("Any", pool).make_connection()
        self._scripts = scripts
        self._connect_timeout = connect_timeout

    def pack(self, command: Command) -> bytes:
        """Return *command* as it travels; raises for what cannot."""
        packed: list[bytes] = self._connection.pack_command(*command)
        return packed[0] if len(packed) == 1 else b"".join(packed)

    async def exchange(self, commands: Sequence[bytes], within: float) -> list[Any]:
        """Return the answers to packed *commands*, Redis' refusals among them as exceptions.

        Raises what redis-py or asyncio raises where the connection fails, and TimeoutError after *within*
        seconds (and after the connect timeout where it has to connect first).
        """
        try:
            if not self._connection.is_connected:
                async with asyncio.timeout(min(within, self._connect_timeout)):
                    await self._connect()
            async with asyncio.timeout(within):
                return await self._converse(commands)
        except BaseException:
            await self.close(gently=False)
            raise

    async def _connect(self) -> None:
        await self._connection.connect()
        for answer in await self._converse([self.pack(script.load) for script in self._scripts]):
            if isinstance(answer, Exception):
                raise answer

    async def _converse(self, commands: Sequence[bytes]) -> list[Any]:
        connection = self._connection
        await connection.send_packed_command(commands, check_health=False)
        answers: list[Any] = []
        for _ in commands:
            try:
                answers.append(await connection.read_response(disconnect_on_error=False))
            except exceptions.ResponseError as refusal:
                answers.append(refusal)
        return answers

    async def close(self, *, gently: bool = True) -> None:
        """Close the connection; the next exchange makes another."""
        try:
            await self._connection.disconnect(nowait=not gently)
        except (exceptions.RedisError, OSError):
            return
