"""The documentation does what it says: its examples run as they are written, and its links lead somewhere."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
import typer.main

from gateway.cli.commands import app
from gateway.settings import load
from tests.docs.pages import PAGES, ROOT, Block, Page
from tests.docs.terminal import Terminals

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
MAKEFILE = (ROOT / "Makefile").read_text()
RUNNABLE = [
    page for page in PAGES if any(block.marks for block in page.blocks) and page.path.parent.name != "start"
]


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.name)
async def test_examples_run_as_written(page: Page, tmp_path: Path) -> None:
    async with Terminals.open(tmp_path, page) as terminals:
        await terminals.start("make run", "fanway serve --dev")
        for block in page.blocks:
            await terminals.execute(block)


@every_page
def test_links_have_targets(page: Page) -> None:
    pages = {other.path: other for other in PAGES}
    for link in page.links():
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.path.parent / path).resolve() if path else page.path
        assert target.exists(), link
        assert not anchor or anchor in pages[target].anchors(), link


@every_page
def test_json_and_toml_blocks_are_valid(page: Page, tmp_path: Path) -> None:
    for block in page.blocks:
        if block.language == "json":
            for text in block.text.splitlines() if "output" in block.marks else [block.text]:
                json.loads(text.replace(":…", ":null"))
        if block.language == "toml":
            (tmp_path / "gateway.toml").write_text(block.text)
            load(tmp_path / "gateway.toml", complete=False)


@every_page
def test_documented_commands_exist(page: Page) -> None:
    targets = set(re.findall(r"^([a-z]+):.*##", MAKEFILE, re.MULTILINE))
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for program, name in commands_in(page):
        assert name in (targets if program == "make" else commands), f"{program} {name}"


def commands_in(page: Page) -> Iterator[tuple[str, str]]:
    """Yield what *page* tells to type, of what is ours."""
    code = re.findall(r"`((?:make|fanway) [^`]*)`", page.prose)
    shells = [line for block in page.blocks if block.language == "sh" for line in lines_of(block)]
    for line in (*code, *shells):
        yield from re.findall(r"(?:^|[\s/(])(make|fanway) ([a-z]+)", line)


def lines_of(block: Block) -> list[str]:
    return [line.partition(" #")[0] for line in block.text.splitlines()]
