"""Servers and their URLs: addresses, credentials, sentinels, and that no password is shown."""

import pytest

from gateway.broker.redis import Credentials, Server
from gateway.errors import GatewayError

USER, PASSWORD = "gateway", "p@ss:w/rd?#%41"
ESCAPED = "p%40ss%3Aw%2Frd%3F%23%2541"


@pytest.mark.parametrize(
    ("url", "addresses", "master", "database"),
    [
        ("redis+sentinel://a/m", (("a", 26379),), "m", 0),
        ("redis+sentinel://a:1,b,[::1]:3/m/2", (("a", 1), ("b", 26379), ("::1", 3)), "m", 2),
        ("rediss+sentinel://u:p@a:1,b:2/m", (("a", 1), ("b", 2)), "m", 0),
        ("redis+sentinel://a/m%20n?sentinel_username=s&sentinel_password=t", (("a", 26379),), "m n", 0),
    ],
)
def test_the_url_of_sentinels_names_them_and_their_primary(
    url: str, addresses: tuple[tuple[str, int], ...], master: str, database: int
) -> None:
    server = Server.from_url(url)
    assert server.sentinels is not None
    assert (server.sentinels.addresses, server.sentinels.master) == (addresses, master)
    assert server.url.database == database
    if "sentinel_username" in url:
        assert (server.sentinels.username, server.sentinels.password) == ("s", "t")
        sentinel = server.sentinel_connection(("a", 1), 1.0)
        assert (sentinel.username, sentinel.password) == ("s", "t")


def test_the_url_wins_over_credentials_and_sets_tls() -> None:
    url = f"rediss://{USER}:{ESCAPED}@[::1]:7/5?ssl_ca_certs=/etc/ca.pem&ssl_check_hostname=no"
    connection = Server.from_url(url, Credentials("another", "another")).connection(1.5)
    assert (connection.host, connection.port, connection.db) == ("::1", 7, 5)
    assert (connection.username, connection.password) == (USER, PASSWORD)
    assert (connection.ca_certs, connection.check_hostname) == ("/etc/ca.pem", False)


@pytest.mark.parametrize(
    "url", ["http://a", "redis+sentinel://a", "redis+sentinel:///m", "a:6379", "redis://"]
)
def test_a_url_without_a_server_is_rejected(url: str) -> None:
    with pytest.raises(GatewayError, match="a Redis URL"):
        Server.from_url(url)


@pytest.mark.parametrize("url", ["redis://u:{}/x@h/0", "redis://u:{}", "redis://h?{}=1", "redis://h/{}"])
def test_the_error_for_a_url_does_not_repeat_it(url: str) -> None:
    with pytest.raises(GatewayError) as raised:
        Server.from_url(url.format("Secret-1"))
    assert "Secret-1" not in f"{raised.value!r} {raised.value}"


def test_a_repr_shows_no_password() -> None:
    for url in (f"redis://u:{PASSWORD}@h", f"redis+sentinel://u:{PASSWORD}@h/m?sentinel_password={PASSWORD}"):
        server = Server.from_url(url.replace(PASSWORD, ESCAPED), Credentials("u", PASSWORD))
        assert PASSWORD not in repr(server)
        assert ESCAPED not in repr(server)
