"""A plugin of pytest: the fixtures `fanway_server` and `start_fanway_server`, a real gateway for your tests.

It is a module of its own, beside `fanway_client`, because every run of pytest imports it, and the client
takes a fifth of a second: what the fixtures need is imported by those that are used.
"""
# ruff: noqa: PLC0415

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from fanway_client.local_server import LocalServer


class StartServer(Protocol):
    """Starts a gateway with settings of its own."""

    def __call__(
        self, config: str | Path = "", *, dev: bool = True, environment: Mapping[str, str] | None = None
    ) -> LocalServer:
        """Return a gateway that ends with the test; the arguments are those of `LocalServer.start`."""
        ...


@pytest.fixture(scope="session")
def fanway_config() -> str | Path:
    """The configuration of `fanway_server`, as text or as a file; define this fixture to set it."""
    return ""


@pytest.fixture(scope="session")
def session_fanway_server(fanway_config: str | Path) -> Iterator[LocalServer]:
    """The gateway of this process's tests, in dev mode, for fixtures whose scope is wider than a test."""
    with _started(fanway_config) as server:
        yield server


@pytest.fixture
def fanway_server(session_fanway_server: LocalServer) -> Iterator[LocalServer]:
    """A gateway, in dev mode: one process for all tests, started by the first that asks for it.

    It has `url`, `push_url`, `push_key`, `admin`, `async_admin()`, `mint_token()` and `new_channel()`.
    """
    with session_fanway_server.borrow() as server:
        yield server


@pytest.fixture
def start_fanway_server() -> Iterator[StartServer]:
    """Starts gateways with settings of their own, which end with the test."""
    with ExitStack() as stack:

        def start(
            config: str | Path = "", *, dev: bool = True, environment: Mapping[str, str] | None = None
        ) -> LocalServer:
            server = stack.enter_context(_started(config, dev=dev, environment=environment))
            return stack.enter_context(server.borrow())

        yield start


@contextmanager
def _started(
    config: str | Path, *, dev: bool = True, environment: Mapping[str, str] | None = None
) -> Iterator[LocalServer]:
    from fanway_client.local_server import LocalServer, ServerNotInstalled, ServerNotStarted

    with ExitStack() as stack:
        try:
            server = stack.enter_context(LocalServer.start(config, dev=dev, environment=environment))
        except (ServerNotInstalled, ServerNotStarted) as error:
            pytest.fail(str(error), pytrace=False)
        yield server
