from ipaddress import ip_network

import pytest

from gateway.access.origins import allowed, client_address, invalid_origin

APP = frozenset({"https://app.example.com", "http://localhost:3000", "capacitor://localhost"})
NONE: frozenset[str] = frozenset()


@pytest.mark.parametrize(
    ("origin", "may"),
    [
        (None, True),
        ("https://app.example.com", True),
        ("HTTPS://App.Example.COM", True),
        ("https://app.example.com:443", True),
        ("http://localhost:3000", True),
        ("capacitor://localhost", True),
        ("http://app.example.com", False),
        ("https://app.example.com:8443", False),
        ("https://app.example.com:80", False),
        ("https://example.com", False),
        ("https://app.example.com.evil.com", False),
        ("https://evil.com#https://app.example.com", False),
        ("https://evil.com/https://app.example.com", False),
        ("https://app.example.com@evil.com", False),
        ("https://app.example.com:443@evil.com", False),
        ("https://evilapp.example.com", False),
        ("https://app.example.co", False),
        ("https://app.example.com.", False),
        ("https://app.example.com/", False),
        ("https://app.example.com evil.com", False),
        (" https://app.example.com", False),
        ("https://app.example.com\n", False),
        ("https://app.example.com\\.evil.com", False),
        ("http://localhost:3001", False),
        ("http://localhost", False),
        ("localhost:3000", False),
        ("null", False),
        ("", False),
    ],
)
def test_a_listed_origin_is_matched_with_scheme_host_and_port(origin: str | None, may: bool) -> None:
    assert allowed(origin, "app.example.com", APP) is may


@pytest.mark.parametrize(
    ("origin", "host", "may"),
    [
        (None, None, True),
        ("https://app.example.com", "app.example.com", True),
        ("http://app.example.com", "app.example.com:80", True),
        ("https://app.example.com", "APP.example.com:443", True),
        ("http://127.0.0.1:8000", "127.0.0.1:8000", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("https://app.example.com", "app.example.com:80", False),
        ("https://app.example.com:8443", "app.example.com", False),
        ("http://127.0.0.1:8001", "127.0.0.1:8000", False),
        ("http://localhost:8000", "127.0.0.1:8000", False),
        ("https://evil.com", "app.example.com", False),
        ("https://app.example.com.evil.com", "app.example.com", False),
        ("https://app.example.com", None, False),
        ("https://app.example.com", "", False),
        ("https://app.example.com", "app.example.com/", False),
        ("null", "null", False),
        ("*", "app.example.com", False),
    ],
)
def test_without_a_list_a_page_may_connect_to_its_own_host(
    origin: str | None, host: str | None, may: bool
) -> None:
    assert allowed(origin, host, NONE) is may


def test_null_and_any_origin_are_allowed_only_where_listed() -> None:
    assert allowed("null", "a", frozenset({"null"}))
    assert allowed("null", "a", frozenset({"*"}))
    assert allowed("https://evil.com", "a", frozenset({"*", "https://app.example.com"}))
    assert not allowed("https://evil.com", "a", frozenset({"https://*"}))


@pytest.mark.parametrize(
    ("origin", "may"),
    [
        ("http://localhost:5173", True),
        ("https://127.0.0.1:1", True),
        ("http://[::1]:3000", True),
        ("http://localhost", True),
        ("http://localhost.evil.com", False),
        ("http://127.0.0.1.evil.com", False),
        ("http://evil.com?localhost", False),
        ("http://localhost@evil.com", False),
        ("file://localhost", False),
        ("null", False),
    ],
)
def test_in_dev_mode_pages_of_this_machine_may_connect(origin: str, may: bool) -> None:
    assert allowed(origin, "127.0.0.1:8000", NONE, loopback=True) is may
    assert not allowed("http://evil.com:8000", "evil.com:8000", NONE, loopback=True)
    assert allowed(origin, "127.0.0.1:8000", frozenset({"https://app.example.com"}), loopback=True) is may
    assert not allowed(origin, "127.0.0.1:8000", NONE)


@pytest.mark.parametrize(
    "entry", ["*", "null", "https://app.example.com", "http://localhost:3000", "https://[2001:db8::1]:8443"]
)
def test_valid_entries_of_the_list_are_accepted(entry: str) -> None:
    assert invalid_origin(entry) is None


@pytest.mark.parametrize("entry", ["", "app.example.com", "https://app.example.com/", "https://a b", "//a"])
def test_invalid_entries_of_the_list_are_reported(entry: str) -> None:
    assert f"{entry!r} is no origin" in (invalid_origin(entry) or "")


PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "address"),
    [
        # Nobody whom we trust wrote it.
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
        ("203.0.113.9", ["10.0.0.1"], "203.0.113.9"),
        ("11.0.0.1", ["198.51.100.1"], "11.0.0.1"),
        # One proxy, two, and what the client made up before them.
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.1,10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["10.9.9.9, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["127.0.0.1", "198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1", "10.0.0.3", "10.0.0.2"], "198.51.100.1"),
        # A client inside the trusted network; none reported.
        ("10.0.0.1", ["10.0.0.7, 10.0.0.2"], "10.0.0.7"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        # What is no address ends the reading.
        ("10.0.0.1", ["198.51.100.1, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1, nonsense, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["198.51.100.1, 10.0.0.2, "], "10.0.0.1"),
        ("10.0.0.1", ["<script>, 10.0.0.2"], "10.0.0.2"),
        # Ports, brackets, IPv6 and IPv4 inside it.
        ("10.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("10.0.0.1", ["[2001:db8::5]:4711"], "2001:db8::5"),
        ("10.0.0.1", ["[2001:db8::5]"], "2001:db8::5"),
        ("10.0.0.1", ["2001:DB8:0::5"], "2001:db8::5"),
        ("fd00::1", ["2001:db8::5"], "2001:db8::5"),
        ("::ffff:10.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1"),
        ("::ffff:203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
        ("fe80::1%eth0", ["198.51.100.1"], "fe80::1%eth0"),
        ("10.0.0.1", ["198.51.100.1:"], "10.0.0.1"),
        ("10.0.0.1", ["[]:80"], "10.0.0.1"),
        # A Unix socket has no address.
        ("", ["198.51.100.1"], ""),
    ],
)
def test_the_client_address_is_the_peer_of_the_last_trusted_proxy(
    peer: str, forwarded_for: list[str], address: str
) -> None:
    assert client_address(peer, forwarded_for, PROXIES) == address


def test_without_trusted_proxies_the_client_address_is_the_peer() -> None:
    assert client_address("10.0.0.1", ["198.51.100.1"], ()) == "10.0.0.1"
