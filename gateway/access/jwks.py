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

from gateway.access.keys import HMAC, Key, KeysUnavailable, TokenError, index, jwk_key, no_key, serving

RESPONSE_SIZE = 1024 * 1024
"""Bytes of a JWKS; a large provider's has some ten thousand."""
KEYS = 100
"""Keys of a JWKS that are looked at; each takes some 50 µs to import."""

_log = logging.getLogger(__name__)


class Jwks:
    """The keys that a JWKS URL serves: a `KeySource`.

    One task owns every fetch, from `start` to `close`; who needs a key that is not here waits for it on a
    future, and all share one fetch. Keys are replaced whole when a fetch succeeds, every *max_age* seconds
    and on demand: for a `kid` that is not among them at most every *min_interval* seconds, since anyone can
    make one up. When a fetch fails, the keys stay as they are, and it is tried again after *retry* seconds,
    doubling to ten times that.
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
        """Serve the keys at *url*; `ValueError` where it is not https:. The *clock* is monotonic, in seconds.

        Plain http: is for an address of this machine only: who can change the response can sign any token.
        """
        self._url = _checked(url)
        self._clock = clock
        self._max_age = max_age
        self._min_interval = min_interval
        self._timeout = timeout
        self._retry = retry
        self._keys, self._sole = index(())
        self._withdrawn: tuple[tuple[str | None, str], ...] = ()
        """Names of keys that were here, and are served no more: nobody need look again for those."""
        self._task: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self._fetching = False
        self._asked_at: float | None = None
        self._fetched_at: float | None = None
        self._fetches = 0
        self._failures = 0
        self._failures_in_a_row = 0
        self._fault = "not fetched yet"

    def __repr__(self) -> str:
        return (
            f"<Jwks {_shown(self._url)} {len(self._keys)} keys{f' ({self._fault})' if self._fault else ''}>"
        )

    def start(self) -> None:
        """Start to fetch, at once and then in the background; needs a running loop."""
        if self._task is None:
            self._fetching = True
            self._task = asyncio.get_running_loop().create_task(self._run(), name="jwks")

    async def close(self) -> None:
        """Stop fetching, and let those who wait for a key know; keys that are here go on serving."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def find(self, kid: str | None, alg: str) -> Key | None:
        """Return the key for *kid* and *alg* that is here; without a *kid*, the only one for *alg*."""
        return self._keys.get((kid, alg)) or serving(self._sole.get(alg), kid)

    async def resolve(self, kid: str | None, alg: str) -> Key:
        """Return the key for *kid* and *alg*, after a fetch where that may bring it.

        `TokenError` where the URL serves no such key, `KeysUnavailable` where the last fetch failed, or was
        too short a time ago for another: the key may be newer.
        """
        key = self.find(kid, alg)
        if key is None and alg not in HMAC:
            if self._may_fetch():
                self._ask()
                await self.fetched()
                key = self.find(kid, alg)
            elif kid is not None and not self._fault and (kid, alg) not in self._withdrawn:
                raise _too_soon(self._until_fetch())
        if key is None:
            raise self._absent(kid, alg)
        return key

    async def fetched(self) -> bool:
        """Wait for the fetch that is under way, else for the next one; return whether it brought keys.

        A plain future, so that this may be run outside of any task; the deadline is the fetching task's.
        """
        if self._task is None:
            return False
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        await waiter
        return not self._fault

    def statistics(self) -> dict[str, float]:
        """Return the keys, their age in seconds (-1: none yet), fetches, failures, and those in a row."""
        return {
            "keys": len(self._keys),
            "age": -1.0 if self._fetched_at is None else self._clock() - self._fetched_at,
            "fetches": self._fetches,
            "failures": self._failures,
            "failures_in_a_row": self._failures_in_a_row,
        }

    def _may_fetch(self) -> bool:
        if self._task is None or self._fetching:
            return self._fetching
        return self._asked_at is None or self._clock() - self._asked_at >= self._min_interval

    def _until_fetch(self) -> float:
        """Seconds until one may be asked for."""
        asked_at = self._clock() if self._asked_at is None else self._asked_at
        return max(self._retry, asked_at + self._min_interval - self._clock())

    def _ask(self) -> None:
        if not self._fetching:
            self._fetching = True
            self._asked_at = self._clock()
            self._wanted.set()

    def _absent(self, kid: str | None, alg: str) -> TokenError | KeysUnavailable:
        if alg in HMAC or not self._fault:
            return no_key(kid, alg)
        return KeysUnavailable(
            "the keys that verify tokens cannot be fetched now: try again",
            retry_after_ms=int(self._backoff() * 1000),
        )

    async def _run(self) -> None:
        secure = self._url.scheme == "https"
        try:
            # A proxy of the environment is for the world outside, not for this machine.
            async with httpx.AsyncClient(timeout=self._timeout, trust_env=secure) as client:
                while True:
                    await self._refresh(client)
                    await self._until_wanted()
        finally:
            self._fault = self._fault or "closed"
            self._settle()

    async def _until_wanted(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pause()):
                await self._wanted.wait()
        self._wanted.clear()
        self._fetching = True

    def _pause(self) -> float:
        """Return the seconds until the next fetch that nobody asks for."""
        return min(self._max_age, self._backoff()) if self._failures_in_a_row else self._max_age

    def _backoff(self) -> float:
        return self._retry * (1.0, 1.0, 2.0, 4.0, 8.0, 10.0)[min(self._failures_in_a_row, 5)]

    async def _refresh(self, client: httpx.AsyncClient) -> None:
        self._fetches += 1
        try:
            async with asyncio.timeout(self._timeout):
                body = await _download(client, self._url)
            self._replace(_keys_of(body))
        except Exception as error:  # noqa: BLE001 (whatever comes back, the next fetch must happen)
            self._failures += 1
            self._failures_in_a_row += 1
            self._fault = str(error) or type(error).__name__
            _log.warning("keys of %s not fetched: %s", _shown(self._url), self._fault)
        else:
            self._failures_in_a_row = 0
            self._fault = ""
            self._fetched_at = self._clock()
        self._settle()

    def _replace(self, keys: list[Key]) -> None:
        before = self._keys
        self._keys, self._sole = index(keys)
        gone = (name for name in (*before, *self._withdrawn) if name not in self._keys)
        self._withdrawn = tuple(dict.fromkeys(gone))[:KEYS]

    def _settle(self) -> None:
        self._fetching = False
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)


_HEADERS: Final = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}


async def _download(client: httpx.AsyncClient, url: httpx.URL) -> bytes:
    """Return the body at *url*, as it is on the wire: uncompressed, it cannot grow past the bound at once."""
    async with client.stream("GET", url, headers=_HEADERS, follow_redirects=False) as response:
        if response.status_code != httpx.codes.OK:
            raise ValueError(f"status {response.status_code}, expected 200 at this very URL")
        body = bytearray()
        async for part in response.aiter_raw():
            body += part
            if len(body) > RESPONSE_SIZE:
                raise ValueError(f"more than {RESPONSE_SIZE} bytes, expected a JWKS")
        return bytes(body)


def _keys_of(body: bytes) -> list[Key]:
    """Return the keys in a JWKS that we can use; others are passed over (RFC 7517 section 5)."""
    jwks: Any = orjson.loads(body)
    members = jwks.get("keys") if isinstance(jwks, dict) else None
    if not isinstance(members, list):
        raise ValueError("no JWKS, expected an object with a list of keys")  # noqa: TRY004 (it came from afar)
    usable: dict[tuple[str | None, str], Key] = {}
    for member in members[:KEYS]:
        with suppress(ValueError):
            key = jwk_key(member if isinstance(member, dict) else {})
            usable.setdefault((key.kid, key.alg), key)
    if not usable:
        raise ValueError("no usable key, expected one for signatures with RS256, ES256 or EdDSA")
    return list(usable.values())


def _too_soon(seconds: float) -> KeysUnavailable:
    return KeysUnavailable(
        "the token's key was not among those that were fetched last: try again after the next fetch",
        retry_after_ms=int(seconds * 1000),
    )


def _shown(url: httpx.URL) -> str:
    """Return *url* without user, password and query: a log is no place for what they may hold."""
    return str(url.copy_with(username=None, password=None, query=None, fragment=None))


def _checked(url: str) -> httpx.URL:
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
