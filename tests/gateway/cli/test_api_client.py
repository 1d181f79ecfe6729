"""URLs of a gateway's listeners, as the command line makes them."""

import pytest

from gateway.cli.api_client import Refused, http_url, is_local, websocket_url

URLS = [
    ("ws://h:1", "ws://h:1/v1/ws"),
    ("http://h:1/", "ws://h:1/v1/ws"),
    ("https://h", "wss://h/v1/ws"),
    ("wss://h/live/v1/ws", "wss://h/live/v1/ws"),
    ("http://[::1]:1", "ws://[::1]:1/v1/ws"),
]


@pytest.mark.parametrize(("url", "expected"), URLS)
def test_a_websocket_url_is_made_of_any_url_of_a_gateway(url: str, expected: str) -> None:
    assert websocket_url(url) == expected


@pytest.mark.parametrize("url", ["h:1", "ftp://h", "ws://", "localhost"])
def test_what_is_no_url_of_a_gateway_is_refused(url: str) -> None:
    with pytest.raises(Refused, match="is no URL of a gateway"):
        websocket_url(url)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:1"),
        ("0.0.0.0", "http://127.0.0.1:1"),
        ("::", "http://[::1]:1"),
        ("::1", "http://[::1]:1"),
        ("h", "http://h:1"),
    ],
)
def test_a_listener_on_all_addresses_is_reached_on_loopback(host: str, url: str) -> None:
    assert http_url(host, 1) == url


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.2:1", True),
        ("ws://[::1]:1", True),
        ("http://localhost", True),
        ("http://h", False),
        ("", False),
    ],
)
def test_a_url_of_this_machine_is_recognized(url: str, local: bool) -> None:
    assert is_local(url) is local
