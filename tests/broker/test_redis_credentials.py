"""Credentials and TLS: ACL users, passwords and certificates, in the URL or beside it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.broker.redis import Credentials, Server
from tests.broker.recording_node import publish
from tests.broker.redis_fleet import Fleet, eventually, wait_until_rejected
from tests.broker.redis_server import RedisServer, running_redis
from tests.broker.redis_tls import CertificateAuthority, TlsServer

USER, PASSWORD = "gateway", "p@ss:w/rd?#%41"
ESCAPED = "p%40ss%3Aw%2Frd%3F%23%2541"

RIGHTS = ("~fanway:*", "+@all", "-@admin", "-@dangerous")
"""The ACL of docs/redis.md: all that the gateway needs, and no more."""


@pytest.fixture
def server_with_acl(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path) as server:
        server.execute("ACL", "SETUSER", USER, "on", f">{PASSWORD}", *RIGHTS)
        yield server


def url_with(server: RedisServer, userinfo: str) -> str:
    return server.url.replace("://", f"://{userinfo}@")


def users(server: RedisServer) -> set[str]:
    """Return the ACL users of all connections."""
    with server.client() as client:
        return {each["user"] for each in client.client_list()}


async def check_publish_is_delivered(fleet: Fleet) -> None:
    one = await fleet.launch()
    await one.broker.subscribe("room", None)
    await publish(one.broker, "room", 1, retention=None)
    await one.node.messages(1)


async def check_rejected(fleet: Fleet, reason: str) -> None:
    await wait_until_rejected(await fleet.launch(start_timeout=0.0), reason)


async def test_an_acl_user_in_the_url(server_with_acl: RedisServer) -> None:
    async with Fleet(url_with(server_with_acl, f"{USER}:{ESCAPED}")) as fleet:
        await check_publish_is_delivered(fleet)
        assert USER in users(server_with_acl)


async def test_an_acl_user_beside_the_url(server_with_acl: RedisServer) -> None:
    async with Fleet(server_with_acl.url, credentials=Credentials(USER, PASSWORD)) as fleet:
        await check_publish_is_delivered(fleet)
        assert USER in users(server_with_acl)


async def test_credentials_in_the_url_win(server_with_acl: RedisServer) -> None:
    wrong = Credentials(USER, "wrong")
    async with Fleet(url_with(server_with_acl, f"{USER}:{ESCAPED}"), credentials=wrong) as fleet:
        await check_publish_is_delivered(fleet)


async def test_a_wrong_password_is_reported_and_not_repeated(server_with_acl: RedisServer) -> None:
    async with Fleet(server_with_acl.url, credentials=Credentials(USER, "not-this-one")) as fleet:
        await check_rejected(fleet, "refuses this user")
        assert "not-this-one" not in repr(
            Server.from_url(server_with_acl.url, Credentials(USER, "not-this-one"))
        )


async def test_a_missing_password_is_reported(tmp_path: Path) -> None:
    with running_redis(tmp_path, "--requirepass", PASSWORD) as server:
        async with Fleet(server.url) as fleet:
            await check_rejected(fleet, "Redis wants a password")
        async with Fleet(url_with(server, f":{ESCAPED}")) as fleet:
            one = await fleet.launch()
            await publish(one.broker, "room", 1)


async def test_a_password_for_a_redis_without_one_is_reported(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        async with Fleet(server.url, credentials=Credentials(password=PASSWORD)) as fleet:
            await check_rejected(fleet, f"this Redis has no password: .* \\(127.0.0.1:{server.port}: ")


async def test_a_command_that_the_acl_forbids_is_reported(server_with_acl: RedisServer) -> None:
    server_with_acl.execute("ACL", "SETUSER", USER, "-evalsha")
    async with Fleet(server_with_acl.url, credentials=Credentials(USER, PASSWORD)) as fleet:
        await check_rejected(fleet, "ACL forbids")
        server_with_acl.execute("ACL", "SETUSER", USER, "+evalsha")
        (one,) = fleet.members
        await eventually(one.broker.ready)


# ---------------------------------------------------------------- TLS


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority(tmp_path)


@pytest.fixture
def tls(tmp_path: Path, authority: CertificateAuthority) -> Iterator[TlsServer]:
    server = TlsServer(tmp_path, authority)
    server.start()
    yield server
    server.kill()


async def test_certificates_beside_the_url(tls: TlsServer, authority: CertificateAuthority) -> None:
    certificate, key = authority.issue("gateway")
    files = Credentials(ca_file=str(authority.certificate), cert_file=str(certificate), key_file=str(key))
    async with Fleet(tls.url, credentials=files) as fleet:
        await check_publish_is_delivered(fleet)


async def test_certificates_in_the_url(tls: TlsServer, authority: CertificateAuthority) -> None:
    certificate, key = authority.issue("gateway")
    query = f"?ssl_ca_certs={authority.certificate}&ssl_certfile={certificate}&ssl_keyfile={key}"
    async with Fleet(tls.url + query) as fleet:
        await check_publish_is_delivered(fleet)


async def test_a_certificate_of_another_authority_is_rejected(
    tls: TlsServer, authority: CertificateAuthority, tmp_path: Path
) -> None:
    folder = tmp_path / "another"
    folder.mkdir()
    certificate, key = authority.issue("gateway")
    files = Credentials(
        ca_file=str(CertificateAuthority(folder).certificate), cert_file=str(certificate), key_file=str(key)
    )
    async with Fleet(tls.url, credentials=files) as fleet:
        await check_rejected(fleet, "CERTIFICATE_VERIFY_FAILED")


async def test_a_certificate_for_another_host_name_is_rejected(
    tls: TlsServer, authority: CertificateAuthority
) -> None:
    certificate, key = authority.issue("gateway")
    files = Credentials(ca_file=str(authority.certificate), cert_file=str(certificate), key_file=str(key))
    async with Fleet(tls.url.replace("localhost", "127.0.0.1"), credentials=files) as fleet:
        await check_rejected(fleet, "not valid for '127.0.0.1'")


async def test_a_server_that_demands_a_client_certificate_rejects_a_connection_without_one(
    tls: TlsServer, authority: CertificateAuthority
) -> None:
    async with Fleet(tls.url, credentials=Credentials(ca_file=str(authority.certificate))) as fleet:
        await check_rejected(fleet, "connection to Redis failed")


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    with running_redis(tmp_path, "--unixsocket", str(path)) as server:
        async with Fleet(f"unix://{path}?db=3") as fleet:
            await check_publish_is_delivered(fleet)
        assert server.execute("INFO", "keyspace").keys() == {"db3"}
