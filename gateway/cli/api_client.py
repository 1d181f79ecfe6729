"""The internal HTTP API of a running gateway, for the command line; and the URLs of its listeners."""

from __future__ import annotations

import ipaddress
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx

from gateway.errors import GatewayError

TIMEOUT_SECONDS = 10.0
"""How long a gateway may take to answer; its own deadlines are far below."""

_LOOPBACK_OF_WILDCARD = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (nothing is bound to it here)
_WEBSOCKET_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


class Unreachable(GatewayError):
    """No gateway listens at a URL, or it does not answer."""

    def __init__(self, url: str, reason: object) -> None:
        super().__init__(f"no gateway at {url}: {reason or 'no answer'}; is it running (fanway serve)?")


class Refused(GatewayError):
    """A gateway rejected what it was asked for, or a URL or an answer is not a gateway's."""


class ApiClient:
    """The push API of the gateway at *url*, called with a push *key*."""

    def __init__(self, url: str, key: str) -> None:
        self._url = url.rstrip("/")
        self._key = key

    def __repr__(self) -> str:
        return f"<ApiClient {self._url}>"

    def get(self, path: str) -> Any:
        """Return the body of the response to GET *path*, decoded.

        Raises:
            Unreachable: No gateway answered.
            Refused: The answer was an error.
        """
        return self._call("GET", path, None)

    def post(self, path: str, body: object) -> Any:
        """Return the body of the response to POST *path* with *body* as JSON, decoded; raises as `get`."""
        return self._call("POST", path, body)

    def _call(self, method: str, path: str, body: object) -> Any:
        headers = {"Authorization": f"Bearer {self._key}"}
        # A proxy that the environment names cannot reach the loopback of this machine.
        with httpx.Client(
            timeout=TIMEOUT_SECONDS, trust_env=not is_local(self._url), headers=headers
        ) as client:
            try:
                response = client.request(method, self._url + path, json=body)
            except (httpx.TransportError, httpx.InvalidURL) as error:
                raise Unreachable(self._url, error) from None
        if response.is_success:
            return _decoded(response)
        raise Refused(describe_refusal(response.status_code, response.content))


def _decoded(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        raise Refused(f"{response.url} answered no JSON; is it the internal listener of a gateway?") from None


def describe_refusal(status: int, body: bytes | bytearray | None) -> str:
    """Return a line about an HTTP response that is not 2xx, with the error in its body."""
    try:
        error = httpx.Response(status, content=bytes(body or b"")).json()["error"]
        return f"the gateway rejected it: {error['code']}: {error['message']}"
    except (ValueError, LookupError, TypeError):
        return f"the gateway rejected it: HTTP {status}"


def http_url(host: str, port: int) -> str:
    """Return the URL at which a listener bound to *host* and *port* is reached on this machine."""
    host = _LOOPBACK_OF_WILDCARD.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def websocket_url(url: str) -> str:
    """Return *url* with the scheme of a WebSocket, and with `/v1/ws` where it has no path.

    Raises:
        Refused: *url* is not a URL of a gateway.
    """
    parts = urlsplit(url)
    if parts.scheme not in _WEBSOCKET_SCHEMES or not parts.hostname:
        raise Refused(f"{url} is no URL of a gateway: expected ws://host:port, wss://… or http(s)://…")
    path = parts.path if parts.path.strip("/") else "/v1/ws"
    return urlunsplit((_WEBSOCKET_SCHEMES[parts.scheme], parts.netloc, path, "", ""))


def is_local(url: str) -> bool:
    """Return whether the host of *url* is this machine's loopback."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
