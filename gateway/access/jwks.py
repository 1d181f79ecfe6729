"""Keys from a JWKS URL (RFC 7517 section 5): fetched in the background, kept when a fetch fails."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, Final

import httpx
import orjson

from gateway.access.keys import (
    HMAC,
    Key,
    KeysUnavailable,
    TokenError,
    index_keys,
    jwk_key,
    no_key_error,
    sole_key_for,
)

MAX_RESPONSE_BYTES = 1024 * 1024
"""Bytes of a JWKS; the JWKS of a large provider has about 10,000."""
MAX_KEYS = 100
"""Keys of a JWKS that are read; importing a key costs about 50 µs."""

_log = logging.getLogger(__name__)


class Jwks:
    """The keys that a JWKS URL serves: a `KeySource`.

    One task makes every fetch, from `start` to `close`. Callers that need an unknown key wait on futures and
    share one fetch. A successful fetch replaces all keys. Fetches are made every *max_age* seconds and on
    demand: for an unknown `kid` at most every *min_interval* seconds, because a client can invent one. A
    failed fetch changes no keys and is repeated after *retry* seconds, doubling to ten times that.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_age: float = 300.0,
        min_interval: float = 30.0,
        timeout: float = 5.0,
        retry: float = 1.0,
    ) -> None:
        """Serve the keys at *url*; `ValueError` if it is not https. *clock* returns monotonic seconds.

        Plain http is accepted only for addresses of this machine: an attacker who changes the response
        can sign tokens.
        """
        self._url = _checked_url(url)
        self._clock = clock
        self._max_age = max_age
        self._min_interval = min_interval
        self._timeout = timeout
        self._retry = retry
        self._keys, self._sole_by_alg = index_keys(())
        self._withdrawn: tuple[tuple[str | None, str], ...] = ()
        """Keys, by kid and algorithm, that are no longer served: a token that names one needs no fetch."""
        self._task: asyncio.Task[None] | None = None
        self._fetch_requested = asyncio.Event()
        self._waiters: list[asyncio.Future[None]] = []
        self._fetching = False
        self._requested_at: float | None = None
        self._fetched_at: float | None = None
        self._fetches = 0
        self._failures = 0
        self._failures_in_a_row = 0
        self._last_error = "not fetched yet"

    def __repr__(self) -> str:
        error = f" ({self._last_error})" if self._last_error else ""
        return f"<Jwks {_without_secrets(self._url)} {len(self._keys)} keys{error}>"

    def start(self) -> None:
        """Start fetching in the background; needs a running event loop."""
        if self._task is None:
            self._fetching = True
            self._task = asyncio.get_running_loop().create_task(self._run(), name="jwks")

    async def close(self) -> None:
        """Stop fetching, and wake callers that wait for a key; known keys can still be found."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def find(self, kid: str | None, alg: str) -> Key | None:
        """Return the known key for *kid* and *alg*; without a *kid*, the only one for *alg*."""
        return self._keys.get((kid, alg)) or sole_key_for(self._sole_by_alg.get(alg), kid)

    async def resolve(self, kid: str | None, alg: str) -> Key:
        """Return the key for *kid* and *alg*; if it is not known, fetch the keys first.

        Raises:
            TokenError: The URL serves no such key.
            KeysUnavailable: The last fetch failed, or was so recent that no other is allowed yet: the key may
                have been added since.
        """
        key = self.find(kid, alg)
        if key is None and alg not in HMAC:
            if self._may_fetch():
                self._request_fetch()
                await self.wait_for_fetch()
                key = self.find(kid, alg)
            elif kid is not None and not self._last_error and (kid, alg) not in self._withdrawn:
                raise _fetched_too_recently(self._seconds_until_fetch())
        if key is None:
            raise self._missing_key_error(kid, alg)
        return key

    async def wait_for_fetch(self) -> bool:
        """Wait for the current fetch, else for the next one; return whether it succeeded.

        This waits on a plain future, so it may run outside a task; the timeout is that of the fetching task.
        """
        if self._task is None:
            return False
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter
        return not self._last_error

    def statistics(self) -> dict[str, float]:
        """Return the keys, their age in seconds (-1: none yet), fetches, failures, and those in a row."""
        return {
            "keys": len(self._keys),
            "age_seconds": -1.0 if self._fetched_at is None else self._clock() - self._fetched_at,
            "fetches": self._fetches,
            "failures": self._failures,
            "failures_in_a_row": self._failures_in_a_row,
        }

    def _may_fetch(self) -> bool:
        if self._task is None or self._fetching:
            return self._fetching
        return self._requested_at is None or self._clock() - self._requested_at >= self._min_interval

    def _seconds_until_fetch(self) -> float:
        """Return the seconds until the next fetch on demand is possible."""
        requested_at = self._clock() if self._requested_at is None else self._requested_at
        return max(self._retry, requested_at + self._min_interval - self._clock())

    def _request_fetch(self) -> None:
        if not self._fetching:
            self._fetching = True
            self._requested_at = self._clock()
            self._fetch_requested.set()

    def _missing_key_error(self, kid: str | None, alg: str) -> TokenError | KeysUnavailable:
        if alg in HMAC or not self._last_error:
            return no_key_error(kid, alg)
        return KeysUnavailable(
            "the keys that verify tokens cannot be fetched now: try again",
            retry_after_ms=int(self._backoff() * 1000),
        )

    async def _run(self) -> None:
        secure = self._url.scheme == "https"
        try:
            # A proxy from the environment is for other machines, not for this one.
            async with httpx.AsyncClient(timeout=self._timeout, trust_env=secure) as client:
                while True:
                    await self._fetch(client)
                    await self._wait_for_next_fetch()
        finally:
            self._last_error = self._last_error or "closed"
            self._wake_waiters()

    async def _wait_for_next_fetch(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._refresh_interval()):
                await self._fetch_requested.wait()
        self._fetch_requested.clear()
        self._fetching = True

    def _refresh_interval(self) -> float:
        """Return the seconds until the next fetch that is not on demand."""
        return min(self._max_age, self._backoff()) if self._failures_in_a_row else self._max_age

    def _backoff(self) -> float:
        return self._retry * (1.0, 1.0, 2.0, 4.0, 8.0, 10.0)[min(self._failures_in_a_row, 5)]

    async def _fetch(self, client: httpx.AsyncClient) -> None:
        self._fetches += 1
        try:
            async with asyncio.timeout(self._timeout):
                body = await _download(client, self._url)
            self._replace(_parse_jwks(body))
        except Exception as error:  # noqa: BLE001 (whatever the error, the next fetch must happen)
            self._failures += 1
            self._failures_in_a_row += 1
            self._last_error = str(error) or type(error).__name__
            _log.warning("keys of %s not fetched: %s", _without_secrets(self._url), self._last_error)
        else:
            self._failures_in_a_row = 0
            self._last_error = ""
            self._fetched_at = self._clock()
        self._wake_waiters()

    def _replace(self, keys: list[Key]) -> None:
        before = self._keys
        self._keys, self._sole_by_alg = index_keys(keys)
        gone = (name for name in (*before, *self._withdrawn) if name not in self._keys)
        self._withdrawn = tuple(dict.fromkeys(gone))[:MAX_KEYS]

    def _wake_waiters(self) -> None:
        self._fetching = False
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


_HEADERS: Final = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}


async def _download(client: httpx.AsyncClient, url: httpx.URL) -> bytes:
    """Return the raw body at *url*: decompression could exceed the limit in one step."""
    async with client.stream("GET", url, headers=_HEADERS, follow_redirects=False) as response:
        if response.status_code != httpx.codes.OK:
            raise ValueError(f"status {response.status_code}, expected 200 at this very URL")
        body = bytearray()
        async for part in response.aiter_raw():
            body += part
            if len(body) > MAX_RESPONSE_BYTES:
                raise ValueError(f"more than {MAX_RESPONSE_BYTES} bytes, expected a JWKS")
        return bytes(body)


def _parse_jwks(body: bytes) -> list[Key]:
    """Return the keys of a JWKS that can be used; others are ignored (RFC 7517 section 5)."""
    jwks: Any = orjson.loads(body)
    members = jwks.get("keys") if isinstance(jwks, dict) else None
    if not isinstance(members, list):
        raise ValueError("no JWKS, expected an object with a list of keys")  # noqa: TRY004 (the value is from a response)
    usable: dict[tuple[str | None, str], Key] = {}
    for member in members[:MAX_KEYS]:
        with suppress(ValueError):
            key = jwk_key(member if isinstance(member, dict) else {})
            usable.setdefault((key.kid, key.alg), key)
    if not usable:
        raise ValueError("no usable key, expected one for signatures with RS256, ES256 or EdDSA")
    return list(usable.values())


def _fetched_too_recently(seconds: float) -> KeysUnavailable:
    return KeysUnavailable(
        "the token's key was not among those that were fetched last: try again after the next fetch",
        retry_after_ms=int(seconds * 1000),
    )


def _without_secrets(url: httpx.URL) -> str:
    """Return *url* without user, password and query, which must not be logged."""
    return str(url.copy_with(username=None, password=None, query=None, fragment=None))


def _checked_url(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"auth.jwks_url {url!r} is no URL: {error}") from None
    if parsed.host and (parsed.scheme == "https" or (parsed.scheme == "http" and _is_loopback(parsed.host))):
        return parsed
    raise ValueError(
        f"auth.jwks_url {url!r}, expected https://…; http:// is for addresses of this machine only"
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
