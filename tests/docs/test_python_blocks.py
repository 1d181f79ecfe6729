"""The Python of the documentation: all of it parses, and what uses the library has its types."""

import ast
import re
import sys
import textwrap
from pathlib import Path

import pytest

from tests.clients.npm import run
from tests.docs.pages import PAGES, ROOT, Block, Page

LIBRARY = Page(ROOT / "docs" / "python.md")
SOURCES = [*PAGES, *map(Page, sorted((ROOT / "clients").glob("*/README.md")))]
BLOCKS = [
    pytest.param(block, id=f"{page.name}:{block.line}")
    for page in SOURCES
    for block in page.blocks
    if block.language == "python"
]
# What the blocks use without saying where it comes from: an earlier block of the page, or the application.
SURROUNDINGS = """
from typing import Any

from fanway_client import Fanway
from fanway_client.admin import AsyncFanwayAdmin, FanwayAdmin, mint_token
from fanway_client.tokens import GetToken

fanway: Fanway
get_token: GetToken
secret: str
push_key: str
token_of_ben: str


def handle(data: Any) -> None: ...
"""
# Fails if the types of the library are not found, and everything is `Any`.
CONTROL = """
fanway.channel(1)
Fanway("wss://host", tokens=get_token)
"""
ERRORS_OF_CONTROL = 2


def test_there_are_blocks() -> None:
    assert BLOCKS


@pytest.mark.parametrize("block", BLOCKS)
def test_block_parses(block: Block) -> None:
    compile(block.text, "block", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)


def test_blocks_with_the_library_have_its_types(tmp_path: Path) -> None:
    for page in SOURCES:
        for block in page.blocks:
            if block.language == "python" and (page == LIBRARY or "fanway_client" in block.text):
                name = re.sub(r"\W", "_", page.name.removesuffix(".md"))
                (tmp_path / f"{name}_line_{block.line}.py").write_text(as_function(block.text))
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "models.py").write_text("from typing import Any\n\nOrder: Any\n")
    (tmp_path / "control.py").write_text(as_function(CONTROL))
    # Celery and Django have no types.
    untyped = ("--disable-error-code", "import-untyped")
    options = ("--config-file=", "--check-untyped-defs", "--cache-dir", "cache", *untyped)
    with pytest.raises(AssertionError) as failed:
        run(sys.executable, "-m", "mypy", *options, ".", cwd=tmp_path)
    lines = [line for line in str(failed.value).splitlines() if ": error:" in line]
    assert [line for line in lines if "control.py" not in line] == []
    assert len(lines) == ERRORS_OF_CONTROL


def as_function(text: str) -> str:
    """Return *text* in a function, where `await` is allowed."""
    return f"{SURROUNDINGS}\nasync def block() -> None:\n{textwrap.indent(text, '    ')}"
