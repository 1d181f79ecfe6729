import pytest

from gateway.access.origins import host_is_loopback, hosts_are_loopback, invalid_origin, origin_allowed

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
    assert origin_allowed(origin, "app.example.com", APP) is may


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
    assert origin_allowed(origin, host, NONE) is may


def test_null_and_any_origin_are_allowed_only_where_listed() -> None:
    assert origin_allowed("null", "a", frozenset({"null"}))
    assert origin_allowed("null", "a", frozenset({"*"}))
    assert origin_allowed("https://evil.com", "a", frozenset({"*", "https://app.example.com"}))
    assert not origin_allowed("https://evil.com", "a", frozenset({"https://*"}))


APPLICATIONS = [
    "file://",
    "app://.",
    "app://",
    "ionic://localhost",
    "tauri://localhost",
    "chrome-extension://abcd",
]


@pytest.mark.parametrize("origin", APPLICATIONS)
def test_pages_of_applications_are_allowed_if_listed_exactly(origin: str) -> None:
    assert invalid_origin(origin) is None
    assert origin_allowed(origin, "gateway.example.com", frozenset({origin}))
    assert origin_allowed(origin.upper(), "gateway.example.com", frozenset({origin}))
    assert not origin_allowed(origin, "gateway.example.com", NONE)
    assert not origin_allowed(origin, "", NONE)
    assert not origin_allowed(origin, "localhost", frozenset({"https://app.example.com"}), loopback=True)
    others = frozenset(APPLICATIONS) - {origin}
    assert not origin_allowed(origin, "gateway.example.com", others)
    assert not origin_allowed(f"{origin}evil.com", "gateway.example.com", frozenset({origin}))


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
    assert origin_allowed(origin, "127.0.0.1:8000", NONE, loopback=True) is may
    assert not origin_allowed("http://evil.com:8000", "evil.com:8000", NONE, loopback=True)
    assert (
        origin_allowed(origin, "127.0.0.1:8000", frozenset({"https://app.example.com"}), loopback=True) is may
    )
    assert not origin_allowed(origin, "127.0.0.1:8000", NONE)


@pytest.mark.parametrize(
    "entry", ["*", "null", "https://app.example.com", "http://localhost:3000", "https://[2001:db8::1]:8443"]
)
def test_valid_entries_of_the_list_are_accepted(entry: str) -> None:
    assert invalid_origin(entry) is None


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "app.example.com",
        "https://app.example.com/",
        "https://a b",
        "//a",
        "http://",
        "WSS://",
        "file:",
        "file:///",
        "://",
    ],
)
def test_invalid_entries_of_the_list_are_reported(entry: str) -> None:
    assert f"{entry!r} is not an origin" in (invalid_origin(entry) or "")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("LOCALHOST:8001", True),
        ("app.localhost", True),
        ("127.0.0.1:8001", True),
        ("127.1.2.3", True),
        ("[::1]:8001", True),
        ("evil.example", False),
        ("evil.example:8001", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("notlocalhost", False),
        ("10.0.0.1", False),
        ("0.0.0.0", False),
        ("", False),
        ("localhost, evil.example", False),
    ],
)
def test_a_host_is_loopback_by_its_whole_name(host: str, *, loopback: bool) -> None:
    assert host_is_loopback(host) is loopback


def test_every_host_header_must_be_loopback() -> None:
    assert hosts_are_loopback([])
    assert hosts_are_loopback([b"localhost"])
    assert not hosts_are_loopback([b"localhost", b"evil.example"])
