"""Who a broker is to Redis, and how it knows that it is Redis: ACL users, TLS, in the URL and beside it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.broker.redis import Credentials, Server
from gateway.errors import GatewayError
from tests.broker.node import publish
from tests.broker.redis_fleet import Fleet, eventually, refuses
from tests.broker.redis_server import RedisServer, serving
from tests.broker.redis_tls import Authority, TlsServer

USER, PASSWORD = "gateway", "p@ss:w/rd?#%41"
ESCAPED = "p%40ss%3Aw%2Frd%3F%23%2541"

RIGHTS = ("~fanway:*", "+@all", "-@admin", "-@dangerous")
"""All that the gateway needs: the rest of Redis is out of its reach."""


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[RedisServer]:
    with serving(tmp_path) as server:
        server.execute("ACL", "SETUSER", USER, "on", f">{PASSWORD}", *RIGHTS)
        yield server


def named(server: RedisServer, userinfo: str) -> str:
    return server.url.replace("://", f"://{userinfo}@")


def users(server: RedisServer) -> set[str]:
    """Return as whom anybody is connected."""
    with server.client() as client:
        return {each["user"] for each in client.client_list()}


async def works(fleet: Fleet) -> None:
    one = await fleet.launch()
    await one.broker.subscribe("room", None)
    await publish(one.broker, "room", 1, retention=None)
    await one.node.messages(1)


async def refused(fleet: Fleet, why: str) -> None:
    await refuses(await fleet.launch(start_timeout=0.0), why)


async def test_an_acl_user_stands_in_the_url(guarded: RedisServer) -> None:
    async with Fleet(named(guarded, f"{USER}:{ESCAPED}")) as fleet:
        await works(fleet)
        assert USER in users(guarded)


async def test_an_acl_user_stands_beside_the_url(guarded: RedisServer) -> None:
    async with Fleet(guarded.url, credentials=Credentials(USER, PASSWORD)) as fleet:
        await works(fleet)
        assert USER in users(guarded)


async def test_the_url_wins(guarded: RedisServer) -> None:
    wrong = Credentials(USER, "wrong")
    async with Fleet(named(guarded, f"{USER}:{ESCAPED}"), credentials=wrong) as fleet:
        await works(fleet)


async def test_a_wrong_password_is_told_and_not_repeated(guarded: RedisServer) -> None:
    async with Fleet(guarded.url, credentials=Credentials(USER, "not-this-one")) as fleet:
        await refused(fleet, "refuses this user")
        assert "not-this-one" not in repr(Server.from_url(guarded.url, Credentials(USER, "not-this-one")))


async def test_a_password_that_is_missing_is_told(tmp_path: Path) -> None:
    with serving(tmp_path, "--requirepass", PASSWORD) as server:
        async with Fleet(server.url) as fleet:
            await refused(fleet, "Redis wants a password")
        async with Fleet(named(server, f":{ESCAPED}")) as fleet:
            one = await fleet.launch()
            await publish(one.broker, "room", 1)


async def test_a_password_that_nobody_wants_is_told(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        async with Fleet(server.url, credentials=Credentials(password=PASSWORD)) as fleet:
            await refused(fleet, f"this Redis has no password: .* \\(127.0.0.1:{server.port}: ")


async def test_a_user_who_may_not_is_told(guarded: RedisServer) -> None:
    guarded.execute("ACL", "SETUSER", USER, "-evalsha")
    async with Fleet(guarded.url, credentials=Credentials(USER, PASSWORD)) as fleet:
        await refused(fleet, "ACL forbids")
        guarded.execute("ACL", "SETUSER", USER, "+evalsha")
        (one,) = fleet.members
        await eventually(one.broker.ready)


# ---------------------------------------------------------------- TLS


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def tls(tmp_path: Path, authority: Authority) -> Iterator[TlsServer]:
    server = TlsServer(tmp_path, authority)
    server.start()
    yield server
    server.kill()


async def test_certificates_stand_beside_the_url(tls: TlsServer, authority: Authority) -> None:
    certificate, key = authority.issue("gateway")
    files = Credentials(ca_file=str(authority.certificate), cert_file=str(certificate), key_file=str(key))
    async with Fleet(tls.url, credentials=files) as fleet:
        await works(fleet)


async def test_certificates_stand_in_the_url(tls: TlsServer, authority: Authority) -> None:
    certificate, key = authority.issue("gateway")
    query = f"?ssl_ca_certs={authority.certificate}&ssl_certfile={certificate}&ssl_keyfile={key}"
    async with Fleet(tls.url + query) as fleet:
        await works(fleet)


async def test_a_server_that_somebody_else_vouches_for_is_not_talked_to(
    tls: TlsServer, authority: Authority, tmp_path: Path
) -> None:
    folder = tmp_path / "another"
    folder.mkdir()
    certificate, key = authority.issue("gateway")
    files = Credentials(
        ca_file=str(Authority(folder).certificate), cert_file=str(certificate), key_file=str(key)
    )
    async with Fleet(tls.url, credentials=files) as fleet:
        await refused(fleet, "CERTIFICATE_VERIFY_FAILED")


async def test_a_server_under_another_name_is_not_talked_to(tls: TlsServer, authority: Authority) -> None:
    certificate, key = authority.issue("gateway")
    files = Credentials(ca_file=str(authority.certificate), cert_file=str(certificate), key_file=str(key))
    async with Fleet(tls.url.replace("localhost", "127.0.0.1"), credentials=files) as fleet:
        await refused(fleet, "not valid for '127.0.0.1'")


async def test_who_shows_no_certificate_is_refused(tls: TlsServer, authority: Authority) -> None:
    async with Fleet(tls.url, credentials=Credentials(ca_file=str(authority.certificate))) as fleet:
        await refused(fleet, "connection to Redis failed")


# ---------------------------------------------------------------- URLs


@pytest.mark.parametrize(
    ("url", "addresses", "master", "database"),
    [
        ("redis+sentinel://a/m", (("a", 26379),), "m", 0),
        ("redis+sentinel://a:1,b,[::1]:3/m/2", (("a", 1), ("b", 26379), ("::1", 3)), "m", 2),
        ("rediss+sentinel://u:p@a:1,b:2/m", (("a", 1), ("b", 2)), "m", 0),
        ("redis+sentinel://a/m%20n?sentinel_username=s&sentinel_password=t", (("a", 26379),), "m n", 0),
    ],
)
def test_sentinels_are_read_out_of_a_url(
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


def test_a_connection_is_made_as_its_url_says() -> None:
    url = f"rediss://{USER}:{ESCAPED}@[::1]:7/5?ssl_ca_certs=/etc/ca.pem&ssl_check_hostname=no"
    connection = Server.from_url(url, Credentials("another", "another")).connection(1.5)
    assert (connection.host, connection.port, connection.db) == ("::1", 7, 5)
    assert (connection.username, connection.password) == (USER, PASSWORD)
    assert (connection.ca_certs, connection.check_hostname) == ("/etc/ca.pem", False)


async def test_a_socket_is_reached_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    with serving(tmp_path, "--unixsocket", str(path)) as server:
        async with Fleet(f"unix://{path}?db=3") as fleet:
            await works(fleet)
        assert server.execute("INFO", "keyspace").keys() == {"db3"}


@pytest.mark.parametrize(
    "url", ["http://a", "redis+sentinel://a", "redis+sentinel:///m", "a:6379", "redis://"]
)
def test_what_names_no_server_is_refused(url: str) -> None:
    with pytest.raises(GatewayError, match="a Redis URL"):
        Server.from_url(url)


@pytest.mark.parametrize("url", ["redis://u:{}/x@h/0", "redis://u:{}", "redis://h?{}=1", "redis://h/{}"])
def test_what_is_refused_is_not_repeated(url: str) -> None:
    with pytest.raises(GatewayError) as refused:
        Server.from_url(url.format("Secret-1"))
    assert "Secret-1" not in f"{refused.value!r} {refused.value}"


def test_no_password_is_shown() -> None:
    for url in (f"redis://u:{PASSWORD}@h", f"redis+sentinel://u:{PASSWORD}@h/m?sentinel_password={PASSWORD}"):
        server = Server.from_url(url.replace(PASSWORD, ESCAPED), Credentials("u", PASSWORD))
        assert PASSWORD not in repr(server)
        assert ESCAPED not in repr(server)
