"""The pages of the documentation as the tests read them: fenced blocks, headings, links.

Marks after the language of a block say what the tests do with it; GitHub does not show them:

- `file=NAME`: save it in the working directory;
- `run`: run it; it must exit with 0;
- `start=NAME`: start it in a terminal of its own, where it keeps running;
- `in=FOLDER`: run or start it in that folder of the working directory;
- `output=NAME`: what that terminal then prints, line by line; `…` stands for any text;
- `shows=ADDRESS`: each line is on the page at that address, in a browser;
- `types=ADDRESS`: type it into the field of that page, and press Enter;
- `answer`: what the `run` before it printed, as JSON, where `…` in a string stands for any text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(\w*)([^\n`]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")
_CODE = re.compile(r"`[^`\n]*`")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; *line* is that of its fence."""

    language: str
    marks: dict[str, str]
    text: str
    line: int


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def blocks(self) -> list[Block]:
        return [
            Block(
                found[1],
                {name: value for name, _, value in (word.partition("=") for word in found[2].split())},
                found[3],
                self.text.count("\n", 0, found.start()) + 1,
            )
            for found in _BLOCK.finditer(self.text)
        ]

    @property
    def prose(self) -> str:
        """The text without its fenced blocks."""
        return _BLOCK.sub("", self.text)

    def links(self) -> Iterator[str]:
        """Yield the targets of the links of the page, as written there."""
        for inline, attribute in _LINK.findall(_CODE.sub("", self.prose)):
            yield inline or attribute

    def anchors(self) -> set[str]:
        """Return what `#…` may name here: headings, as GitHub spells them."""
        headings = re.findall(r"^#+ (.*)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    def table(self, heading: str) -> list[list[str]]:
        """Return the cells of the first table below *heading*, without its head."""
        _, found, below = self.text.partition(f"\n{heading}\n")
        table = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
        assert found, f"{self.name}: no heading {heading!r}"
        assert table is not None, f"{self.name}: no table below {heading!r}"
        return [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip("|"))]
            for row in table[0].splitlines()[2:]
        ]


PAGES = [
    *map(Page, (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md")),
    *map(Page, sorted((ROOT / "docs").rglob("*.md"))),
]
