"""What the pages have their readers save in the checkout, or write there, does not become a part of it."""

from pathlib import Path

import pytest

from gateway.settings import FILES
from tests.docs.pages import PAGES, ROOT

IGNORED = (ROOT / ".gitignore").read_text().splitlines()
SAVED = sorted({name for page in PAGES for block in page.blocks if (name := block.marks.get("file"))})


def test_some_files_are_saved() -> None:
    assert "client.py" in SAVED


@pytest.mark.parametrize("name", sorted({*SAVED, str(FILES[0])}))
def test_a_saved_file_is_ignored_by_git_and_so_by_the_linters(name: str) -> None:
    folder = Path(name).parts[0]
    assert (f"/{name}" if folder == name else f"/{folder}/") in IGNORED
