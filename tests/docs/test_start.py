"""The pages of docs/start do what they say, with packages that are built and installed, and a browser.

In a file of their own, because the tests of a file run one after the other.
"""

from pathlib import Path

import pytest

from tests.docs.pages import PAGES, Page
from tests.docs.terminal import Terminals

START = [page for page in PAGES if page.path.parent.name == "start"]


@pytest.mark.parametrize("page", START, ids=lambda page: page.name)
async def test_examples_run_as_written(page: Page, tmp_path: Path) -> None:
    async with Terminals.open(tmp_path, page) as terminals:
        await terminals.start("make run", "fanway serve --dev")
        for block in page.blocks:
            await terminals.execute(block)
