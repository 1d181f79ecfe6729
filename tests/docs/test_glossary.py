"""docs/glossary.md: every word has one line, and the module that it names exists."""

import re

from tests.docs.pages import ROOT, Page

GLOSSARY = Page(ROOT / "docs" / "glossary.md")
SECTIONS = re.findall(r"^## .*$", GLOSSARY.text, re.MULTILINE)
ROWS = [row for section in SECTIONS for row in GLOSSARY.table(section)]


def test_each_word_stands_once() -> None:
    words = [word.strip() for row in ROWS for word in row[0].split(",")]
    assert sorted(words) == sorted(set(words))


def test_each_word_has_a_meaning_and_a_module_that_exists() -> None:
    assert ROWS
    for word, meaning, where in ROWS:
        assert meaning, word
        path = re.fullmatch(r"`((?:gateway|protocol)/[\w/]+\.py)`", where)
        assert path is not None, word
        assert (ROOT / path[1]).is_file(), word


def test_the_decisions_are_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    index = Page(folder / "README.md")
    listed = {link for link in index.links() if link.endswith(".md") and "/" not in link}
    assert listed == {path.name for path in folder.glob("*.md")} - {"README.md"}
