"""The page on declaring an app: its app has no mistakes, its changes are judged as it says."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

from lowtide import App
from lowtide.declare import fields
from lowtide.declare.check import check
from lowtide.declare.clientschema import client_schema
from lowtide.declare.evolve import compare, snapshot
from lowtide.declare.rules import Caller
from lowtide.kernel.schema import Schema
from lowtide.sync.functions import Context
from lowtide.sync.system import with_system
from tests.docs.apps import app_of
from tests.docs.pages import DOCS, ROOT, Block, blocks, code, tables

PAGE = DOCS / "declaring.md"
BLOCKS = blocks(PAGE)
SMALL = 'from lowtide import *\n\napp = App("notes")\n\n\n{}\n\napp.stream("all", carries=[Note])\n'


def test_the_pages_app_has_no_mistakes() -> None:
    """Put together, the pieces are an app that can start, without a warning."""
    app = app_of("".join(block.text for block in BLOCKS if block.words == ("app",)))
    assert [str(f) for f in check(app) if f.severity != "note"] == []
    tables_of_devices = {table["name"] for table in client_schema(with_system(app.compile()))["tables"]}
    assert {"customer", "visit", "lowtide_rejections", "lowtide_commands"} <= tables_of_devices


def schema_of(source: str) -> Schema:
    """A small app with the page's model in it."""
    app: App = app_of(SMALL.format(source))
    assert [str(f) for f in check(app) if f.severity == "error"] == []
    return app.compile()


def changes() -> list[tuple[Block, Block]]:
    """Each (before, after) of the page."""
    found = []
    before = None
    for block in BLOCKS:
        if block.words == ("before",):
            before = block
        elif block.words[:1] == ("after",):
            assert before is not None
            found.append((before, block))
    return found


@pytest.mark.parametrize(("before", "after"), changes(), ids=lambda block: f"line {block.line}")
def test_a_change_is_judged_as_the_page_says(before: Block, after: Block) -> None:
    """The example gives that one verdict and code, and no other."""
    _, verdict, expected = after.words
    found = compare(snapshot(schema_of(before.text)), schema_of(after.text))
    assert [(change.severity, change.code) for change in found] == [(verdict, expected)]


def test_every_change_that_is_told_apart_is_listed() -> None:
    """The table has each code of the comparison with its verdicts, and none that is not there."""
    found: set[tuple[str, str]] = set()
    for name in ("evolve.py", "evolve_fields.py"):
        for node in ast.walk(ast.parse(Path(ROOT, "src/lowtide/declare", name).read_text("utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            if node.func.attr not in ("refuse", "warn", "ok"):
                continue
            for constant in ast.walk(node.args[0]):
                if isinstance(constant, ast.Constant) and "-" in str(constant.value):
                    found.add((node.func.attr, str(constant.value)))
    (table,) = [table for table in tables(PAGE) if "verdict" in table.columns]
    listed = [(cells["verdict"], code(cells["code"])) for _, cells in table.rows]
    assert set(listed) == found
    assert len(listed) == len(found)
    verdicts = [verdict for verdict, _ in listed]
    assert verdicts == sorted(verdicts, key=["refuse", "warn", "ok"].index)


def test_every_word_of_a_declaration_is_explained() -> None:
    """Each field constructor, option, rule and kind of keys is in a table, and each method of ctx."""
    by_column: dict[str, list[str]] = {}
    for table in tables(PAGE):
        for _, cells in table.rows:
            by_column.setdefault(table.columns[0], []).append(cells[table.columns[0]])
    constructors = {cell.strip("`").partition("(")[0] for cell in by_column["constructor"]}
    assert constructors == set(fields.Maker.__args__)  # type: ignore[attr-defined]
    options = {code(cell).partition("=")[0] for cell in by_column["option"]}
    models = set(inspect.signature(App.model).parameters) - {"self", "cls"}
    assert options >= models | {"optional", "default", "max_length", "merge", "server_only", "renamed_from"}
    context = " ".join(by_column["on `ctx`"])
    public = {name for name in vars(Context) if not name.startswith("_")} - {"mutations"}
    assert all(f"ctx.{name}(" in context for name in public)
    text = PAGE.read_text("utf-8")
    asked = {name for name in vars(Caller) if not name.startswith("_")}
    assert all(f"me.{name}" in text for name in asked)
