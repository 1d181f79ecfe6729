"""Connections to the push API that stay open between requests, as the setting and the answers say."""

from pathlib import Path

from tests.e2e.gateway import gateway_on_loop


async def test_answers_announce_the_configured_time(tmp_path: Path) -> None:
    async with gateway_on_loop(tmp_path, listen__internal__keep_alive=30) as gateway:
        health = await gateway.request("GET", "/healthz")
        published = await gateway.request("POST", "/v1/publish", {"channel": "news", "data": 1})
        assert [each.headers["keep-alive"] for each in (health, published)] == ["timeout=30"] * 2


async def test_an_idle_connection_is_kept_for_75_seconds_by_default(tmp_path: Path) -> None:
    async with gateway_on_loop(tmp_path) as gateway:
        answer = await gateway.request("GET", "/healthz")
        assert answer.headers["keep-alive"] == "timeout=75"
        assert gateway.gateway.internal.config.timeout_keep_alive > 75
