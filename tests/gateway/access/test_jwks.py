import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from gateway.access.jwks import MAX_RESPONSE_BYTES, Jwks
from gateway.access.keys import Key, KeysUnavailable, TokenError
from gateway.access.tokens import Verifier, mint
from gateway.clock import FakeClock
from gateway.tasks import Tasks

ONE, TWO, THREE = (ECKey.generate_key("P-256", {"kid": kid}) for kid in ("one", "two", "three"))
RSA = RSAKey.generate_key(2048, {"kid": "rsa"})
ED = OKPKey.generate_key("Ed25519", {"kid": "ed"})
AnyKey = ECKey | RSAKey | OKPKey


def jwks_of(*keys: AnyKey) -> bytes:
    return json.dumps({"keys": [key.as_dict(private=False) for key in keys]}).encode()


def minted(key: ECKey, *, kid: str | None = None) -> str:
    return mint(Key("ES256", key, kid), user="ann", ttl=60, now=FakeClock()())


class Server:
    """A web server on a free port of this machine that answers everything with one response."""

    def __init__(self) -> None:
        self.url = ""
        self.requests = 0
        self.drop_seconds = 0.0
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.serve(jwks_of(ONE))

    def serve(self, body: bytes, *, status: str = "200 OK", header: str = "X: y") -> None:
        self.response = (
            f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{header}\r\n\r\n".encode() + body
        )

    async def write(self, writer: asyncio.StreamWriter) -> None:
        if not self.drop_seconds:
            writer.write(self.response)
            return await writer.drain()
        for byte in self.response:
            writer.write(bytes([byte]))
            # A drop at a time is what is tested: no event stands for it.
            await asyncio.sleep(self.drop_seconds)
        return None

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                self.request = await reader.readuntil(b"\r\n\r\n")
                self.requests += 1
                self.asked.set()
                await self.may_answer.wait()
                await self.write(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    connections: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.get_running_loop().create_task(server.answer(reader, writer)))

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/jwks"
    yield server
    listener.close()
    await listener.wait_closed()
    for connection in connections:
        connection.cancel()
    await asyncio.gather(*connections, return_exceptions=True)


@asynccontextmanager
async def started(server: Server, **options: Any) -> AsyncIterator[Jwks]:
    jwks = Jwks(server.url, **options)
    jwks.start()
    try:
        yield jwks
    finally:
        await jwks.close()


async def rejection(attempt: Awaitable[object]) -> TokenError | KeysUnavailable:
    with pytest.raises((TokenError, KeysUnavailable)) as error:
        await attempt
    assert isinstance(error.value, TokenError | KeysUnavailable)
    return error.value


async def test_tokens_are_verified_with_the_keys_of_the_url(server: Server) -> None:
    server.serve(jwks_of(ONE, TWO, RSA, ED))
    async with started(server) as jwks:
        verifier = Verifier(jwks, audience=None, issuer=None, clock=FakeClock())
        for kid, key in (("one", ONE), ("two", TWO)):
            assert (await verifier.identity(minted(key, kid=kid))).user == "ann"
        assert (await rejection(verifier.identity(minted(ONE, kid="two")))).code == "unauthorized"
        assert [jwks.find(kid, alg) is not None for kid, alg in (("rsa", "RS256"), ("ed", "EdDSA"))] == [
            True,
            True,
        ]
        assert jwks.find("rsa", "ES256") is None
        assert server.requests == 1


async def test_a_token_that_arrives_before_the_keys_waits_for_them(server: Server) -> None:
    server.may_answer.clear()
    async with started(server) as jwks:
        assert jwks.find("one", "ES256") is None
        waiting = [asyncio.ensure_future(jwks.resolve("one", "ES256")) for _ in range(20)]
        await server.asked.wait()
        assert not any(task.done() for task in waiting)
        server.may_answer.set()
        assert {key.kid for key in await asyncio.gather(*waiting)} == {"one"}
        assert server.requests == 1


async def test_a_known_key_is_found_without_waiting(server: Server) -> None:
    async with started(server) as jwks:
        assert await jwks.wait_for_fetch()
        verifier = Verifier(jwks, audience=None, issuer=None, clock=FakeClock())
        with pytest.raises(StopIteration) as done:
            verifier.identity(minted(ONE, kid="one")).send(None)
        assert done.value.value.user == "ann"


async def test_a_key_can_be_waited_for_outside_a_task(server: Server) -> None:
    """Commands start eagerly: what they do before their first wait belongs to no task."""
    server.may_answer.clear()
    tasks = Tasks(on_error=lambda error: pytest.fail(repr(error)))
    outcome: asyncio.Future[asyncio.Task[Key]] = asyncio.get_running_loop().create_future()
    async with started(server) as jwks:

        def outside() -> None:
            assert asyncio.current_task() is None
            task = tasks.start(jwks.resolve("one", "ES256"))
            assert isinstance(task, asyncio.Task)
            outcome.set_result(task)

        asyncio.get_running_loop().call_soon(outside)
        task = await outcome
        server.may_answer.set()
        assert (await task).kid == "one"
    await tasks.close()


async def test_an_unknown_kid_starts_a_fetch(server: Server) -> None:
    async with started(server, clock=FakeClock()) as jwks:
        assert await jwks.wait_for_fetch()
        server.serve(jwks_of(TWO))
        assert (await jwks.resolve("two", "ES256")).kid == "two"
        assert jwks.find("one", "ES256") is None
        assert server.requests == 2


async def test_invented_kids_cause_one_fetch_in_half_a_minute(server: Server) -> None:
    clock = FakeClock()
    async with started(server, clock=clock) as jwks:
        assert await jwks.wait_for_fetch()
        assert (await rejection(jwks.resolve("made up", "ES256"))).code == "unauthorized"
        for n in range(50):
            # What nobody has looked for yet may be there: only the next fetch will tell.
            error = await rejection(jwks.resolve(f"made up {n}", "ES256"))
            assert (error.code, error.retry_after_ms) == ("unavailable", 30_000)
        assert server.requests == 2
        clock.advance(29.9)
        assert (await rejection(jwks.resolve("made up", "ES256"))).retry_after_ms == 1_000
        assert server.requests == 2
        clock.advance(0.1)
        server.serve(jwks_of(TWO))
        assert (await jwks.resolve("two", "ES256")).kid == "two"
        assert server.requests == 3


async def test_a_key_newer_than_the_last_fetch_is_answered_with_a_retry_time(server: Server) -> None:
    clock = FakeClock()
    async with started(server, clock=clock) as jwks:
        verifier = Verifier(jwks, audience=None, issuer=None, clock=FakeClock())
        assert await jwks.wait_for_fetch()
        await rejection(jwks.resolve("made up", "ES256"))
        server.serve(jwks_of(ONE, TWO))
        clock.advance(10.0)
        error = await rejection(verifier.identity(minted(TWO, kid="two")))
        assert (error.code, error.retry_after_ms) == ("unavailable", 20_000)
        clock.advance(20.0)
        assert (await verifier.identity(minted(TWO, kid="two"))).user == "ann"


async def test_a_withdrawn_key_starts_no_fetch(server: Server) -> None:
    async with started(server, clock=FakeClock()) as jwks:
        assert await jwks.wait_for_fetch()
        server.serve(jwks_of(TWO))
        assert (await jwks.resolve("two", "ES256")).kid == "two"
        assert (await rejection(jwks.resolve("one", "ES256"))).code == "unauthorized"
        assert server.requests == 2


async def test_concurrent_invented_kids_share_one_fetch(server: Server) -> None:
    async with started(server, clock=FakeClock()) as jwks:
        assert await jwks.wait_for_fetch()
        attempts = [rejection(jwks.resolve(f"made up {n}", "ES256")) for n in range(50)]
        assert {error.code for error in await asyncio.gather(*attempts)} == {"unauthorized"}
        assert server.requests == 2


async def test_a_cancelled_waiter_leaves_the_others_waiting(server: Server) -> None:
    server.may_answer.clear()
    async with started(server) as jwks:
        one, other = (asyncio.ensure_future(jwks.resolve("one", "ES256")) for _ in range(2))
        await server.asked.wait()
        one.cancel()
        await asyncio.gather(one, return_exceptions=True)
        server.may_answer.set()
        assert (await other).kid == "one"


async def test_symmetric_keys_of_a_url_are_ignored(server: Server) -> None:
    secret = OctKey.generate_key(256).as_dict() | {"kid": "one", "alg": "HS256"}
    server.serve(json.dumps({"keys": [secret, ONE.as_dict(private=False)]}).encode())
    async with started(server) as jwks:
        assert await jwks.wait_for_fetch()
        for alg in ("HS256", "HS384", "HS512"):
            assert (await rejection(jwks.resolve("one", alg))).code == "unauthorized"
        assert server.requests == 1


async def test_unusable_keys_are_ignored(server: Server) -> None:
    keys: list[Any] = [
        7,
        {},
        {"kty": "AKP", "alg": "ML-DSA-65", "pub": "AA"},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "RSA", "key_ops": 7},
        ECKey.generate_key("P-384").as_dict(private=False),
        {**ONE.as_dict(private=False), "kid": "enc", "use": "enc"},
        {**ONE.as_dict(private=False), "x5c": ["AA"], "use": "sig", "alg": "ES256", "more": {}},
        {**TWO.as_dict(private=False), "kid": "one"},
    ]
    server.serve(json.dumps({"keys": keys, "more": 1}).encode())
    async with started(server) as jwks:
        verifier = Verifier(jwks, audience=None, issuer=None, clock=FakeClock())
        assert (await verifier.identity(minted(ONE, kid="one"))).user == "ann"
        assert jwks.statistics()["keys"] == 1


async def test_a_token_without_a_kid_selects_the_only_key_of_its_algorithm(server: Server) -> None:
    server.serve(jwks_of(ONE, RSA))
    clock = FakeClock()
    async with started(server, clock=clock) as jwks:
        assert (await jwks.resolve(None, "ES256")).kid == "one"
        server.serve(jwks_of(ONE, TWO))
        assert (await jwks.resolve("two", "ES256")).kid == "two"
        assert "no kid" in (await rejection(jwks.resolve(None, "ES256"))).message


FAILURES: dict[str, dict[str, Any]] = {
    "an error": {"body": jwks_of(TWO), "status": "500 Internal Server Error"},
    "nothing there": {"body": jwks_of(TWO), "status": "404 Not Found"},
    "a redirect": {"body": jwks_of(TWO), "status": "302 Found", "header": "Location: /jwks"},
    "no JSON": {"body": b"<html>"},
    "no object": {"body": b"[]"},
    "no list": {"body": b'{"keys":{}}'},
    "no keys": {"body": b'{"keys":[]}'},
    "no end": {"body": b"[" * 100_000},
    "no bound": {"body": jwks_of(TWO)[:-1] + b" " * MAX_RESPONSE_BYTES + b"}"},
    "compressed": {"body": gzip.compress(jwks_of(TWO)), "header": "Content-Encoding: gzip"},
    "no HTTP": {"body": b"", "status": "nonsense"},
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_failed_fetch_keeps_the_old_keys(server: Server, failure: str) -> None:
    clock = FakeClock()
    async with started(server, clock=clock) as jwks:
        assert await jwks.wait_for_fetch()
        server.serve(**FAILURES[failure])
        error = await rejection(jwks.resolve("two", "ES256"))
        assert isinstance(error, KeysUnavailable)
        assert server.requests == 2
        assert (await jwks.resolve("one", "ES256")).kid == "one"
        clock.advance(86_400.0)
        assert (await jwks.resolve("one", "ES256")).kid == "one"
        counts = jwks.statistics()
        assert (counts["keys"], counts["failures"], counts["failures_in_a_row"]) == (1, 1, 1)
        assert counts["age_seconds"] == 86_400.0


async def test_without_any_keys_clients_get_a_retry_time(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.serve(b"", status="503 Service Unavailable")
    async with started(server, clock=FakeClock()) as jwks:
        error = await rejection(jwks.resolve("one", "ES256"))
        assert isinstance(error, KeysUnavailable)
        assert (error.code, error.retry_after_ms) == ("unavailable", 1_000)
        assert "503" in repr(jwks)
        assert f"keys of {server.url} not fetched: status 503" in caplog.text


async def test_a_failed_fetch_is_repeated_until_it_succeeds(server: Server) -> None:
    server.serve(b"", status="503 Service Unavailable")
    async with started(server, retry=0.001) as jwks:
        while server.requests < 8:
            assert not await jwks.wait_for_fetch()
        server.serve(jwks_of(ONE))
        while not await jwks.wait_for_fetch():
            pass
        assert jwks.find("one", "ES256") is not None
        assert jwks.statistics()["failures_in_a_row"] == 0


async def test_keys_are_fetched_again_after_max_age(server: Server) -> None:
    async with started(server, max_age=0.01) as jwks:
        assert await jwks.wait_for_fetch()
        server.serve(jwks_of(TWO))
        while jwks.find("two", "ES256") is None:
            assert await jwks.wait_for_fetch()
        assert jwks.find("one", "ES256") is None


async def test_a_fetch_without_an_answer_times_out(server: Server) -> None:
    server.may_answer.clear()
    async with started(server, timeout=0.05) as jwks:
        assert isinstance(await rejection(jwks.resolve("one", "ES256")), KeysUnavailable)
        server.may_answer.set()


async def test_a_fetch_with_a_slow_answer_times_out(server: Server) -> None:
    server.drop_seconds = 0.005
    async with started(server, timeout=0.1) as jwks:
        assert isinstance(await rejection(jwks.resolve("one", "ES256")), KeysUnavailable)
        assert jwks.statistics()["failures"] == 1


async def test_no_proxy_is_used_for_this_machine(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with started(server) as jwks:
        assert (await jwks.resolve("one", "ES256")).kid == "one"


async def test_a_missing_server_is_a_failed_fetch(server: Server) -> None:
    async with started(server) as jwks:
        assert await jwks.wait_for_fetch()
    async with started(server_gone(server)) as jwks:
        assert isinstance(await rejection(jwks.resolve("one", "ES256")), KeysUnavailable)


def server_gone(server: Server) -> Server:
    # Port 0 is never listened on.
    server.url = "http://127.0.0.1:0/"
    return server


async def test_close_wakes_waiters(server: Server) -> None:
    server.may_answer.clear()
    jwks = Jwks(server.url)
    jwks.start()
    waiting = asyncio.ensure_future(rejection(jwks.resolve("one", "ES256")))
    await server.asked.wait()
    await jwks.close()
    assert isinstance(await waiting, KeysUnavailable)
    assert isinstance(await rejection(jwks.resolve("one", "ES256")), KeysUnavailable)
    assert not await jwks.wait_for_fetch()
    await jwks.close()


async def test_close_keeps_the_keys_and_ends_fetching(server: Server) -> None:
    async with started(server) as jwks:
        assert await jwks.wait_for_fetch()
    assert (await jwks.resolve("one", "ES256")).kid == "one"
    assert isinstance(await rejection(jwks.resolve("two", "ES256")), KeysUnavailable)
    assert server.requests == 1


async def test_before_start_no_key_is_known(server: Server) -> None:
    jwks = Jwks(server.url)
    error = await rejection(jwks.resolve("one", "ES256"))
    assert isinstance(error, KeysUnavailable)
    assert server.requests == 0


async def test_the_request_accepts_a_jwks_and_no_compression(server: Server) -> None:
    async with started(server) as jwks:
        assert await jwks.wait_for_fetch()
        head = server.request.lower()
        assert head.startswith(b"get /jwks http/1.1\r\n")
        assert b"accept-encoding: identity\r\n" in head


@pytest.mark.parametrize(
    "url",
    [
        "https://id.example.com/.well-known/jwks.json",
        "http://localhost:8080/jwks",
        "http://127.0.0.1/jwks",
        "http://127.9.9.9/jwks",
        "http://[::1]:8080/jwks",
    ],
)
def test_https_and_loopback_urls_are_accepted(url: str) -> None:
    assert url in repr(Jwks(url))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "id.example.com/jwks",
        "http://id.example.com/jwks",
        "http://localhost.example.com/jwks",
        "http://127.0.0.1.example.com/jwks",
        "http://10.0.0.1/jwks",
        "http://127.0.0.1@example.com/jwks",
        "file:///etc/passwd",
        "ftp://127.0.0.1/jwks",
        "https://",
        "https:///jwks",
        "https://id.example.com:port/",
    ],
)
def test_any_other_url_is_an_error(url: str) -> None:
    with pytest.raises(ValueError, match=r"auth\.jwks_url"):
        Jwks(url)


async def test_secrets_in_the_url_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    keys = Jwks("http://me:hunter2@127.0.0.1:9/jwks?apikey=topsecret")
    keys.start()
    assert not await keys.wait_for_fetch()
    await keys.close()
    assert "keys of http://127.0.0.1:9/jwks not fetched" in caplog.text
    for text in (caplog.text, repr(keys)):
        assert "hunter2" not in text
        assert "topsecret" not in text
