"""A new version of the app over the data of the old one, on both databases."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from lowtide import App, Boolean, Integer, Json, Model, Number, Set, Text, Timestamp, anyone, me, removed
from lowtide.kernel.clock import ManualClock
from lowtide.kernel.errors import DeclarationError, SetupError
from lowtide.kernel.schema import Schema
from lowtide.storage.db import Database, Query
from lowtide.sync import renewal
from lowtide.sync.deploy import deploy
from tests.sync.conftest import Engine, Open

pytestmark = pytest.mark.anyio


def first() -> Schema:
    """Version 1."""
    app = App("evolving")

    @app.model
    class Note(Model):
        owner_id = Text()
        name = Text()
        colour = Text(optional=True)
        write = anyone

    app.stream("mine", carries={Note: "owner_id"}, keys=me)
    return app.compile()


def second() -> Schema:
    """Version 2: a field renamed, one removed, one added; unique names; another stream."""
    app = App("evolving")

    @app.model(unique=["title"], indexes=["title"])
    class Note(Model):
        owner_id = Text()
        title = Text(renamed_from="name")
        colour = removed(Text(optional=True))
        done = Boolean()
        write = anyone

    app.stream("all", carries=[Note])
    return app.compile()


def broken() -> Schema:
    """A version that devices in the field would not survive."""
    app = App("evolving")

    @app.model
    class Note(Model):
        owner_id = Text()
        write = anyone

    app.stream("mine", carries={Note: "owner_id"}, keys=me)
    return app.compile()


V1, V2, BROKEN = first(), second(), broken()

_COUNTED = (
    "SELECT b.name, b.live, (SELECT count(*) FROM bucket_entry e WHERE e.bucket = b.id AND e.removed = 0) "
    "FROM bucket b"
)
BUCKETS = Query("buckets", _COUNTED, _COUNTED)


def note(id: str, **data: Any) -> dict[str, Any]:
    """A new note of version 1."""
    return {"op": "put", "model": "note", "id": id, "data": {"owner_id": "ann", **data}}


async def started(open_engine: Open, database: Database, clock: ManualClock, schema: Schema) -> Engine:
    """The engine under ``schema``, deployed as a server does."""
    engine = await open_engine(schema)
    await deploy(database, schema, clock, lambda model, records: None)
    return engine


async def test_an_old_app_and_a_new_one_work_on_the_same_records(
    open_engine: Open, database: Database, clock: ManualClock
) -> None:
    """Both names are served and accepted; what was stored before gets its new field and name."""
    engine = await started(open_engine, database, clock, V1)
    await engine.upload("ann", note("1", name="old", colour="red"), note("2", name="gone"))
    await engine.upload("ann", {"op": "delete", "model": "note", "id": "2"})
    engine = await started(open_engine, database, clock, V2)
    rows = await engine.rows("bob")
    assert rows == {
        ("note", "1"): {"owner_id": "ann", "title": "old", "name": "old", "colour": "red", "done": 0}
    }
    patch = {"op": "patch", "model": "note", "id": "1"}
    await engine.upload("ann", {**patch, "data": {"name": "by old"}, "base": {"name": "old"}}, client="o")
    assert (await engine.rows("bob"))[("note", "1")]["title"] == "by old"
    await engine.upload(
        "ann", {**patch, "data": {"title": "by new"}, "base": {"title": "by old"}}, client="n"
    )
    row = (await engine.rows("bob"))[("note", "1")]
    assert (row["title"], row["name"], row["colour"]) == ("by new", "by new", "red")


async def test_rows_move_to_the_new_streams_and_leave_the_old(
    open_engine: Open, database: Database, clock: ManualClock
) -> None:
    """A stream that comes back later has no ghosts of what was deleted meanwhile."""
    engine = await started(open_engine, database, clock, V1)
    await engine.upload("ann", note("1", name="a"), note("2", name="b"))
    engine = await started(open_engine, database, clock, V2)
    await engine.upload("ann", {"op": "delete", "model": "note", "id": "1"})
    engine = await open_engine(V1)
    assert await engine.rows("ann") == {}


async def test_uniqueness_holds_for_what_was_there_before(
    open_engine: Open, database: Database, clock: ManualClock
) -> None:
    """A value that an old record has is taken."""
    engine = await started(open_engine, database, clock, V1)
    await engine.upload("ann", note("1", name="taken"))
    engine = await started(open_engine, database, clock, V2)
    answer = await engine.upload("ann", note("2", title="taken"))
    assert answer.results[0].code == "unique"


async def test_a_schema_that_would_break_devices_is_refused_and_nothing_changes(
    open_engine: Open, database: Database, clock: ManualClock
) -> None:
    """The deployed schema stays, and so do the records."""
    engine = await started(open_engine, database, clock, V1)
    await engine.upload("ann", note("1", name="kept"))
    with pytest.raises(DeclarationError) as refused:
        await deploy(database, BROKEN, clock, lambda model, records: None)
    assert len(refused.value.details["changes"]) == 2
    assert await deploy(database, V1, clock, lambda model, records: None) == []
    assert (await engine.rows("ann"))[("note", "1")]["name"] == "kept"


def typed() -> Schema:
    """A field of each kind, and names that a view has already."""
    app = App("typed")

    @app.model
    class Order(Model):
        name = Text()
        count = Integer()
        price = Number()
        paid = Boolean()
        due = Timestamp(optional=True)
        extra = Json(optional=True)
        tags = Set()
        space = Text(optional=True)
        write = anyone

    app.stream("all", carries=[Order])
    return app.compile()


TYPED = typed()


async def test_each_model_is_a_view_with_typed_columns(
    open_engine: Open, database: Database, clock: ManualClock
) -> None:
    """For people with SQL: deleted records are not in it, and its columns have SQL's types."""
    engine = await started(open_engine, database, clock, TYPED)
    data = {"name": "tea", "count": 3, "price": 2.5, "paid": True, "due": "2026-01-02T03:04:05Z"}
    order = {"op": "put", "model": "order", "id": "1", "data": {**data, "extra": {"a": 1}, "tags": ["x"]}}
    await engine.upload("ann", order, {**order, "id": "2"})
    await engine.upload("ann", {"op": "delete", "model": "order", "id": "2"})
    sql = "SELECT id, name, count + 1, price * 2, paid, due, extra, tags FROM order_view"
    rows = await database.read(lambda tx: tx.fetch(Query("view", sql, sql)))
    ((id, name, count, price, paid, due, extra, tags),) = rows
    assert (id, name, count, price, bool(paid)) == ("1", "tea", 4, 5.0, True)
    assert str(due).startswith("2026-01-02")
    assert msgspec.json.decode(extra) == {"a": 1}
    assert msgspec.json.decode(tags) == ["x"]


class Crash(Exception):
    """The server's end, in the middle of a deployment."""


def crash(model: str, records: int) -> None:
    if records == 6:
        raise Crash


async def cut_off(
    open_engine: Open, database: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten notes, of which six are under version 2 already."""
    monkeypatch.setattr(renewal, "CHUNK", 3)
    engine = await started(open_engine, database, clock, V1)
    await engine.upload("ann", *(note(f"n{i}", name=f"note {i}") for i in range(10)))
    with pytest.raises(Crash):
        await deploy(database, V2, clock, crash)


async def test_a_renewal_that_was_cut_off_is_made_good(
    open_engine: Open, database: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun again it ends as if it had never stopped: what buckets say that they hold is what they hold."""
    await cut_off(open_engine, database, clock, monkeypatch)
    engine = await started(open_engine, database, clock, V2)
    assert await counted(database) == {('main/mine["ann"]', 0, 0), ("main/all[]", 10, 10)}
    assert len(await engine.rows("bob")) == 10


async def test_a_deployment_that_failed_is_taken_back_by_the_version_before(
    open_engine: Open, database: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its streams carry what they carried, and nothing is left of the other's; the next try works, too."""
    await cut_off(open_engine, database, clock, monkeypatch)
    engine = await started(open_engine, database, clock, V1)
    assert await counted(database) == {('main/mine["ann"]', 10, 10), ("main/all[]", 0, 0)}
    assert {row["name"] for row in (await engine.rows("ann")).values()} == {f"note {i}" for i in range(10)}
    assert await engine.rows("bob") == {}
    same = await engine.upload("ann", note("n10", name="note 1"))
    assert same.results[0].status == "applied", "names are unique in version 2 only"
    assert await deploy(database, V1, clock, crash) == []
    engine = await started(open_engine, database, clock, V2)
    assert len(await engine.rows("bob")) == 11


class Interrupted:
    """A database where something else happens before the third write."""

    def __init__(self, inner: Database, meanwhile: Callable[[], Awaitable[object]]):
        self._inner = inner
        self._meanwhile = meanwhile
        self._writes = 0
        self.read = inner.read

    async def write(self, work: Any) -> Any:
        self._writes += 1
        if self._writes == 3:
            await self._meanwhile()
        return await self._inner.write(work)


async def test_of_two_versions_that_are_deployed_at_once_one_is_deployed_whole(
    open_engine: Open, database: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old node starts in the middle of a deployment: the new one hears of it, and is whole next time."""
    await cut_off(open_engine, database, clock, monkeypatch)
    between: Any = Interrupted(database, lambda: deploy(database, V1, clock, lambda model, records: None))
    with pytest.raises(SetupError):
        await deploy(between, V2, clock, lambda model, records: None)
    assert await counted(database) == {('main/mine["ann"]', 10, 10), ("main/all[]", 0, 0)}
    same: Any = Interrupted(database, lambda: deploy(database, V2, clock, lambda model, records: None))
    await deploy(same, V2, clock, lambda model, records: None)
    assert await counted(database) == {('main/mine["ann"]', 0, 0), ("main/all[]", 10, 10)}


async def counted(database: Database) -> set[tuple[Any, ...]]:
    """(bucket, the rows that it says, the rows that it has)"""
    return {tuple(row) for row in await database.read(lambda tx: tx.fetch(BUCKETS))}
