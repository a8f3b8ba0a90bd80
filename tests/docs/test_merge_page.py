"""The tables of the page on merging, row by row against the merge."""

from __future__ import annotations

import base64
import json
import re
from typing import Any, get_args

import msgspec
import pytest
from pycrdt import Doc, Text

from lowtide.declare.check import check
from lowtide.kernel.schema import Data, MergeRule, Principal
from lowtide.kernel.values import coerce, coerce_fields, complete
from lowtide.sync.merge import Merge
from lowtide.sync.model import Mutation, Result, StoredRecord, Transaction
from lowtide.sync.state import State
from lowtide.sync.streams import Streams
from lowtide.sync.system import with_system
from tests.docs.apps import app_of
from tests.docs.pages import DOCS, Table, blocks, code, tables
from tests.sync.test_collaborative import text_of

PAGE = DOCS / "merge.md"
ANN = Principal(user="ann")
NOW = 1_000
THEIRS_AT = 50

APP = app_of("".join(b.text for b in blocks(PAGE) if b.words == ("merge-app",)))
SCHEMA = with_system(APP.compile())
STREAMS = Streams(SCHEMA)
ITEM = SCHEMA.models["item"]
FIELD = re.compile(r"`(\w+)`")


def _doc(text: str, state: bytes | None = None) -> Doc[Any]:
    """A Yjs document that says ``text``; on top of ``state``, as somebody who typed would have it."""
    doc: Doc[Any] = Doc()
    shared = doc.get("text", type=Text)
    if state is None:
        shared += text
        return doc
    doc.apply_update(state)
    before = str(shared)
    at = text.index(before)
    shared.insert(len(before), text[at + len(before) :])
    shared.insert(0, text[:at])
    return doc


class Row:
    """One row of a table on fields: three values, and what becomes of them."""

    def __init__(self, table: Table, line: int, cells: dict[str, str]):
        self.name = f"line {line}"
        (own,) = FIELD.findall(cells["field"]) if "field" in cells else FIELD.findall(table.heading)
        self.field = ITEM.fields[own]
        self.later = cells["later"]
        self.result, self.journal = cells["result"], cells["journal"]
        self._state: bytes | None = None
        self.base = None if cells["base"] == "not sent" else {own: self.value(cells["base"])}
        self.mine, self.theirs = self.value(cells["mine"]), self.value(cells["theirs"])

    def value(self, cell: str) -> Any:
        """What a cell says, as devices hold it."""
        if not cell.startswith("yjs "):
            return coerce(self.field, json.loads(code(cell)))
        doc = _doc(code(cell[4:]), self._state)
        self._state = self._state or doc.get_update()
        return base64.b64encode(doc.get_update()).decode()

    def shows(self, cell: str, value: Any) -> bool:
        """Is ``value`` what a cell says?"""
        if cell.startswith("yjs "):
            return text_of(value) == code(cell[4:])
        return bool(value == coerce(self.field, json.loads(code(cell))))


def rows() -> list[Row]:
    """Every row of a table on fields."""
    fields = [table for table in tables(PAGE) if {"base", "mine", "theirs"} <= set(table.columns)]
    return [Row(table, line, cells) for table in fields for line, cells in table.rows]


def run(
    stored: dict[str, StoredRecord], *writes: tuple[str, Mutation]
) -> tuple[Merge, list[list[Result]], dict[str, Any]]:
    """Apply each write as a transaction of its own device; the merge, the results, what is stored then."""
    keys = {("main", write.model, write.id) for _, write in writes}
    found: dict[tuple[str, str, str], StoredRecord | None] = {key: stored.get(key[2]) for key in keys}
    merge = Merge(SCHEMA, STREAMS, State(found, {}, {}), NOW)
    results = [
        merge.apply(Transaction(principal=ANN, client_id=device, mutations=[write]))
        for device, write in writes
    ]
    after = dict(stored)
    for key, change in merge.changes():
        after[key[2]] = change.after
    return merge, results, after


def record(model: str, **fields: Any) -> StoredRecord:
    """A record that another device wrote."""
    declared = SCHEMA.models[model]
    data = complete(declared, coerce_fields(declared, fields))
    return StoredRecord(data, {"": (THEIRS_AT, "theirs")}, False, 1, 1)


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row.field.name}, {row.name}")
def test_a_field_merges_as_the_table_says(row: Row) -> None:
    """Three values in; the result and the journal are what the page shows."""
    stored = record("item", **{row.field.name: row.theirs})
    write = Mutation(
        n=1,
        op="patch",
        model="item",
        id="x",
        data={row.field.name: row.mine},
        base=row.base,
        at=THEIRS_AT + 10 if row.later == "mine" else THEIRS_AT - 10,
    )
    merge, ((result,),), after = run({"x": stored}, ("mine", write))
    if row.result.startswith("refused "):
        assert (result.status, result.code) == ("refused", code(row.result.removeprefix("refused ")))
        assert after["x"] is stored
        return
    assert result.status != "refused", result
    assert row.shows(row.result, after["x"].data[row.field.name]), after["x"].data
    lost = [json.loads(loss.lost) for loss in merge.losses]
    if row.journal == "-":
        assert lost == []
    else:
        assert len(lost) == 1
        assert row.shows(row.journal, coerce(row.field, lost[0]))


def test_every_kind_of_merge_has_its_table() -> None:
    """No way in which fields merge is left out, with and without a conflict."""
    shown = rows()
    assert {row.field.merge for row in shown} == set(get_args(MergeRule))
    for kind in {"latest", "list", "first", "custom"}:
        journals = {row.journal == "-" for row in shown if row.field.merge == kind}
        assert journals == {True, False}, kind
    assert len(shown) > 35


TOLD = re.compile(r'(edit to|delete, having seen|create with) "(\w+)"')


def deletion(model: str, said: str, at: int) -> Mutation:
    """What a device did, as the table tells it."""
    told = TOLD.fullmatch(said)
    assert told is not None, said
    what, title = told[1], {"title": told[2]}
    if what == "delete, having seen":
        return Mutation(n=1, op="delete", model=model, id="x", base=title, at=at)
    if what == "create with":
        return Mutation(n=1, op="put", model=model, id="x", data=title, at=at)
    return Mutation(n=1, op="patch", model=model, id="x", data=title, base={"title": "A"}, at=at)


def test_deletions_end_as_the_table_says() -> None:
    """Deletions and edits in both orders, under both policies: what is left, and what the journal keeps."""
    (table,) = [t for t in tables(PAGE) if t.heading == "Deletions"]
    policies = set()
    for line, cells in table.rows:
        model = code(cells["model"]).lower()
        policies.add(SCHEMA.models[model].on_delete)
        said = [one for one in (cells["first"], cells["then"]) if one != "-"]
        writes = [
            (f"device{i}", deletion(model, one, THEIRS_AT + 10 * (i + 1))) for i, one in enumerate(said)
        ]
        merge, results, after = run({"x": record(model, title="A")}, *writes)
        assert all(result.status != "refused" for (result,) in results), line
        title = cells["afterwards"].strip('"')
        assert after["x"].deleted == (title == "deleted"), line
        if title != "deleted":
            assert after["x"].data["title"] == title, line
        lost = [json.loads(loss.lost) for loss in merge.losses]
        assert lost == ([] if cells["journal"] == "-" else [json.loads(code(cells["journal"]))]), line
    assert policies == {"delete", "revive"}
    assert len(table.rows) >= 9


def test_uniqueness_holds_as_the_table_says() -> None:
    """The first to arrive has the value, the second is refused and changes nothing."""
    (table,) = [t for t in tables(PAGE) if t.heading == "Uniqueness"]
    for line, cells in table.rows:
        writes = []
        for at, said in enumerate((cells["first"], cells["then"])):
            told = re.fullmatch(r'create (\w) with (?:slug "(\w)"|no slug)', said)
            assert told is not None, line
            data: Data = {"slug": told[2]} if told[2] else {"title": "no slug"}
            write = Mutation(n=1, op="put", model="item", id=told[1], data=data, at=at)
            writes.append((f"device{at}", write))
        _, (_, (second,)), after = run({}, *writes)
        if cells["afterwards"] == "applied":
            assert second.status == "applied", line
            assert "y" in after
        else:
            assert f"refused `{second.code}`" == cells["afterwards"], line
            assert "y" not in after


def test_the_pages_app_has_no_mistakes() -> None:
    """What the page declares is what a developer may copy."""
    assert [str(f) for f in check(APP) if f.severity != "note"] == []
    assert msgspec.structs.asdict(SCHEMA.models["diary"])["on_delete"] == "revive"
