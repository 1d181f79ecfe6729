"""Fixtures: a browser with the demo page in a channel of its own; each test file defines its `gateway`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.browser import Browser, Page, chromium
from tests.e2e.demo.kit import names, open_page
from tests.e2e.gateway import GatewayProcess


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def browser(home: Path) -> Iterator[Browser]:
    with chromium(home / "profile") as running:
        yield running


@pytest.fixture
def channel() -> str:
    return next(names)


@pytest.fixture
def page(gateway: GatewayProcess, browser: Browser, channel: str) -> Iterator[Page]:
    """The page, connected, in a channel that no other test uses; it must log no errors."""
    with browser.page() as tab:
        open_page(tab, gateway, channel)
        yield tab
        assert tab.problems() == []
