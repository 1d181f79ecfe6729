"""A running gateway as the command line sees it: where it is, and its internal API."""

from __future__ import annotations

import ipaddress
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx

from gateway.errors import GatewayError

TIMEOUT = 10.0
"""Seconds that a gateway has for an answer; its own deadlines are far below."""

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (what is bound to all answers here)
_PLAIN = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


class Unreachable(GatewayError):
    """There is no gateway at a URL, or none that answers."""

    def __init__(self, url: str, reason: object) -> None:
        super().__init__(f"no gateway at {url}: {reason or 'no answer'}; is it running (fanway serve)?")


class Refused(GatewayError):
    """A gateway answered that it will not."""


class Api:
    """The internal API of the gateway at *url*, called with a push *key*."""

    def __init__(self, url: str, key: str) -> None:
        self._url = url.rstrip("/")
        self._key = key

    def __repr__(self) -> str:
        return f"<Api {self._url}>"

    def get(self, path: str) -> Any:
        """Return what the gateway answers to GET; `Unreachable`, `Refused`."""
        return self._call("GET", path, None)

    def post(self, path: str, body: object) -> Any:
        """Return what the gateway answers to POST with *body* as JSON; `Unreachable`, `Refused`."""
        return self._call("POST", path, body)

    def _call(self, method: str, path: str, body: object) -> Any:
        headers = {"Authorization": f"Bearer {self._key}"}
        # A proxy of the environment does not reach this machine's loopback.
        with httpx.Client(timeout=TIMEOUT, trust_env=not is_local(self._url), headers=headers) as client:
            try:
                response = client.request(method, self._url + path, json=body)
            except (httpx.TransportError, httpx.InvalidURL) as error:
                raise Unreachable(self._url, error) from None
        if response.is_success:
            return _json(response)
        raise Refused(refusal(response.status_code, response.content))


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        raise Refused(f"{response.url} answered no JSON; is it the internal listener of a gateway?") from None


def refusal(status: int, body: bytes | bytearray | None) -> str:
    """Return a line about an HTTP answer that is no success, with the error that it carries."""
    try:
        error = httpx.Response(status, content=bytes(body or b"")).json()["error"]
        return f"the gateway refused: {error['code']}: {error['message']}"
    except (ValueError, LookupError, TypeError):
        return f"the gateway refused: HTTP {status}"


def http_url(host: str, port: int) -> str:
    """Return where what listens on *host* and *port* answers on this machine."""
    host = _EVERYWHERE.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def websocket_url(url: str) -> str:
    """Return *url* as a WebSocket's, with `/v1/ws` where it names no path; `Refused` where it is no URL."""
    parts = urlsplit(url)
    if parts.scheme not in _PLAIN or not parts.hostname:
        raise Refused(f"{url} is no URL of a gateway: expected ws://host:port, wss://… or http(s)://…")
    path = parts.path if parts.path.strip("/") else "/v1/ws"
    return urlunsplit((_PLAIN[parts.scheme], parts.netloc, path, "", ""))


def is_local(url: str) -> bool:
    """Return whether *url* is on this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
