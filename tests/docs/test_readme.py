"""README.md repeats figures of docs/performance.md as they stand there."""

import re

from tests.docs.pages import ROOT, Page

README = Page(ROOT / "README.md")
PERFORMANCE = Page(ROOT / "docs" / "performance.md")
RANGE = re.compile(r"\d[\d.,]* \u2013 \d[\d.,]*\d(?: million)?")


def test_figures_are_those_of_the_comparison() -> None:
    comparison = PERFORMANCE.text.partition("## The comparison")[2].partition("## Many nodes")[0]
    figures = [
        row.split("|")[3].strip()
        for row in re.findall(r"^\| (?:fan|max|many|idle) .*$", comparison, re.MULTILINE)
    ]
    quoted = RANGE.findall(README.text)
    assert len(quoted) == 3
    assert [figure for figure in quoted if figure not in figures] == []
