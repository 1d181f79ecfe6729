"""Keys that tokens are verified with: in a file, or at a URL and replaced while the gateway runs."""

import http.server
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from gateway.access.keys import Key, private_key
from gateway.access.tokens import mint
from tests.e2e.clients import Client, Closed, RawConnection
from tests.e2e.gateway import GatewayProcess, gateway_process
from tests.gateway.access.signing import PRIVATE, PUBLIC, forged

CONFIG = """
[push]
keys = ["dev"]
"""


def signing(alg: str, kid: str) -> Key:
    return private_key(PRIVATE[alg], kid=kid)


def signed_by(key: Key) -> str:
    return mint(key, user="alice", ttl=60, now=time.time())


async def refusal(gateway: GatewayProcess, token: str) -> tuple[str, Closed]:
    """Return the error that answers a `connect` with *token*, and how the connection ends."""
    with await RawConnection.websocket(gateway.public) as client:
        error = await client.call(type="connect", id=1, token=token)
        return error["code"], await client.expect_close()


@pytest.mark.parametrize("alg", sorted(PUBLIC))
async def test_public_key_in_a_file_verifies_tokens_of_its_algorithm(tmp_path: Path, alg: str) -> None:
    (tmp_path / "key.pem").write_text(PUBLIC[alg])
    settings = {"AUTH__SECRET": "", "AUTH__PUBLIC_KEY_FILE": str(tmp_path / "key.pem")}
    with gateway_process(tmp_path, CONFIG, dev=False, **settings) as gateway:
        async with Client.open(gateway.public, token=signed_by(signing(alg, "any"))) as client:
            assert client.connected["user"] == "alice"
        claims = {"sub": "alice", "exp": time.time() + 60}
        # Signed with the public key as if it were a secret: the oldest trick against JWT.
        code, closed = await refusal(gateway, forged({"alg": "HS256"}, claims, secret=PUBLIC[alg]))
        assert (code, closed.code) == ("unauthorized", 4003)


async def test_rotated_keys_of_a_jwks_are_loaded(tmp_path: Path) -> None:
    old, new = (signing("RS256", "2024"), signing("ES256", "2025"))
    with (
        publishing_keys(old) as keys,
        gateway_process(tmp_path, CONFIG, dev=False, AUTH__SECRET="", AUTH__JWKS_URL=keys.url) as gateway,
    ):
        async with Client.open(gateway.public, token=signed_by(old)) as client:
            assert client.connected["user"] == "alice"
        figures = await gateway.metrics()
        assert (figures["jwks_keys"], figures["jwks_fetches_total"], figures["jwks_failures_total"]) == (
            1,
            1,
            0,
        )
        assert figures["jwks_age_seconds"] >= 0
        keys.publish(new)
        async with Client.open(gateway.public, token=signed_by(new)) as client:
            assert client.connected["user"] == "alice"
        code, closed = await refusal(gateway, signed_by(old))
        assert (code, closed.code) == ("unauthorized", 4003)
        assert keys.requests == 2


async def test_unavailable_keys_close_with_a_code_that_is_retried(tmp_path: Path) -> None:
    with publishing_keys(signing("ES256", "soon")) as keys:
        keys.status = 503
        settings = {"AUTH__SECRET": "", "AUTH__JWKS_URL": keys.url}
        with gateway_process(tmp_path, CONFIG, dev=False, **settings) as gateway:
            code, closed = await refusal(gateway, signed_by(signing("ES256", "soon")))
            # 4011: reconnect with backoff, where 4003 would mean to stop.
            assert (code, closed.code) == ("unavailable", 4011)
            figures = await gateway.metrics()
            assert figures["jwks_failures_total"] >= figures["jwks_failures_in_a_row"] >= 1


class PublishedKeys:
    """A JWKS on a free port of loopback."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/keys"
        self.status = 200
        self.requests = 0
        self.body = b""

    def publish(self, *keys: Key) -> None:
        """Serve the public halves of *keys* from now on."""
        described = [{**key.jwk.as_dict(private=False), "kid": key.kid} for key in keys]
        self.body = json.dumps({"keys": described}).encode()


@contextmanager
def publishing_keys(*keys: Key) -> Iterator[PublishedKeys]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            published.requests += 1
            self.send_response(published.status)
            self.send_header("Content-Length", str(len(published.body)))
            self.end_headers()
            self.wfile.write(published.body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        published = PublishedKeys(server.server_port)
        published.publish(*keys)
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield published
        finally:
            server.shutdown()
            thread.join()
