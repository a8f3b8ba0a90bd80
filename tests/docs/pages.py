"""Reading a Markdown page: its code blocks, tables and links. As much of Markdown as these pages use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"

_FENCE = re.compile(r"^```(\S*)[ ]?(.*)$")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^()\s]+(?:\([^()]*\))?)\)")
_CELL = re.compile(r"(?<!\\)\|")


class Block(msgspec.Struct, frozen=True):
    """A fenced code block. ``words``: what stands behind the language and says what a test does with it."""

    language: str
    words: tuple[str, ...]
    text: str
    line: int
    heading: str


class Table(msgspec.Struct, frozen=True):
    """A table: its rows as dicts by column, each with the line that it stands in."""

    heading: str
    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]


def pages() -> list[Path]:
    """Every page that a reader is meant to find: the README, ``docs/``, and each component's README."""
    return [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted(DOCS.rglob("*.md")),
        *sorted((ROOT / "src").rglob("README.md")),
    ]


def blocks(page: Path) -> list[Block]:
    """The page's code blocks, in order. Raises ``AssertionError`` for one that is never closed."""
    found: list[Block] = []
    opened: tuple[int, str, tuple[str, ...]] | None = None
    heading = ""
    lines: list[str] = []
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is None and fence:
            opened = (number, fence[1], tuple(fence[2].split()))
            lines = []
        elif opened is not None and line == "```":
            found.append(Block(opened[1], opened[2], "\n".join(lines) + "\n", opened[0], heading))
            opened = None
        elif opened is not None:
            lines.append(line)
        elif line.startswith("#"):
            heading = line.lstrip("#").strip()
    assert opened is None, f"{page}:{opened} is never closed"
    return found


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """The lines outside of code blocks, with their numbers."""
    inside = False
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        if line.startswith("```"):
            inside = not inside
        elif not inside:
            yield number, line


def links(page: Path) -> Iterator[tuple[int, str]]:
    """Every link and picture of the page, outside of code."""
    for number, line in prose(page):
        for target in _LINK.findall(re.sub(r"`[^`]*`", "", line)):
            yield number, target


def anchors(page: Path) -> set[str]:
    """What a link to a heading of the page may say behind its ``#``."""
    found = set()
    for _, line in prose(page):
        if line.startswith("#"):
            title = re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower())
            found.add(title.replace(" ", "-"))
    return found


def tables(page: Path) -> list[Table]:
    """The page's tables, in order."""
    found: list[Table] = []
    heading = ""
    columns: tuple[str, ...] = ()
    rows: list[tuple[int, dict[str, str]]] = []

    def end() -> None:
        nonlocal columns, rows
        if columns:
            found.append(Table(heading, columns, tuple(rows)))
        columns, rows = (), []

    for number, line in prose(page):
        if not line.startswith("|"):
            end()
            if line.startswith("#"):
                heading = line.lstrip("#").strip()
            continue
        cells = tuple(cell.strip().replace("\\|", "|") for cell in _CELL.split(line)[1:-1])
        if not columns:
            columns = cells
        elif not set(line) <= set("|-: "):
            assert len(cells) == len(columns), f"{page}:{number} has {len(cells)} cells of {len(columns)}"
            rows.append((number, dict(zip(columns, cells, strict=True))))
    end()
    return found


def code(cell: str) -> str:
    """What stands between backticks in a cell; the cell itself where nothing does."""
    found = re.fullmatch(r"(`+) ?(.*?) ?\1", cell)
    return cell if found is None else found[2]


def like(pattern: str, text: str) -> bool:
    """Is ``text`` as ``pattern`` shows it, where ``…`` stands for anything?"""
    parts = [re.escape(part) for part in pattern.split("…")]
    return re.fullmatch(".*?".join(parts), text, re.DOTALL) is not None


def same(shown: Any, found: Any) -> bool:
    """Is ``found`` the JSON that the page shows, where ``…`` stands for any value?"""
    if shown == "…":
        return True
    if isinstance(shown, dict):
        return (
            isinstance(found, dict)
            and shown.keys() == found.keys()
            and all(same(value, found[name]) for name, value in shown.items())
        )
    if isinstance(shown, list):
        return isinstance(found, list) and len(shown) == len(found) and all(map(same, shown, found))
    if isinstance(shown, str) and isinstance(found, str):
        return like(shown, found)
    return bool(shown == found)
