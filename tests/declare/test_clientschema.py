"""The client's tables, as the real client core takes them."""

from __future__ import annotations

import json
from typing import Any

import apsw
import pytest

from lowtide.declare.clientschema import client_schema
from lowtide.kernel.schema import Schema
from lowtide.sync.system import with_system
from tests.declare import whole_app
from tests.phones.core import open_core


@pytest.fixture(scope="module")
def schema() -> Schema:
    return with_system(whole_app.app.compile())


@pytest.fixture
def device(schema: Schema) -> apsw.Connection:
    database = open_core()
    with database:
        database.execute(
            "SELECT powersync_replace_schema(?)", (json.dumps(client_schema(schema)),)
        ).fetchall()
    return database


def test_the_core_makes_a_table_of_every_model(device: apsw.Connection, schema: Schema) -> None:
    """Each model that is not removed, and the built-in ones, are tables with the declared columns."""
    tables = {row[0] for row in device.execute("SELECT name FROM sqlite_master WHERE type = 'view'")}
    assert tables == {name for name, model in schema.models.items() if not model.removed}
    assert {"task", "town", "lowtide_rejections", "lowtide_commands"} <= tables
    assert "badge" not in tables
    # SQLite reports a CAST in a view by its affinity.
    columns = {row[1]: row[2] for row in device.execute("PRAGMA table_info(task)")}
    fields = {n: f for n, f in schema.models["task"].fields.items() if not f.removed}
    assert columns.keys() - {"_metadata", "_deleted"} == {"id", *fields}
    assert "caption" not in columns
    assert (columns["done"], columns["votes"], columns["best"]) == ("INT", "INT", "REAL")
    assert (columns["tags"], columns["made_at"], columns["team_id"]) == ("TEXT", "TEXT", "TEXT")


def test_the_built_in_tables_have_the_columns_of_the_protocol(device: apsw.Connection) -> None:
    """Apps show rejections, and call functions, by these columns."""
    rejections = {row[1] for row in device.execute("PRAGMA table_info(lowtide_rejections)")}
    commands = {row[1] for row in device.execute("PRAGMA table_info(lowtide_commands)")}
    assert {
        "id",
        "at",
        "code",
        "message",
        "hint",
        "model",
        "record_id",
        "op",
        "data",
        "base",
        "n",
    } <= rejections
    assert {"id", "name", "args", "status", "result", "error"} <= commands


def test_an_upload_carries_the_replaced_values_of_changed_columns(device: apsw.Connection) -> None:
    """The server merges by what a write replaced; columns that did not change cost nothing."""
    with device:
        device.execute("INSERT INTO task (id, title, votes) VALUES ('t1', 'Milk', 2)")
        device.execute("DELETE FROM ps_crud")
    with device:
        device.execute("UPDATE task SET votes = votes + 1, _metadata = 'from the list' WHERE id = 't1'")
        device.execute("DELETE FROM task WHERE id = 't1'")
    uploads: list[dict[str, Any]] = [json.loads(row[0]) for row in device.execute("SELECT data FROM ps_crud")]
    assert uploads[0]["data"] == {"votes": 3}
    assert uploads[0]["old"] == {"votes": 2}
    assert uploads[0]["metadata"] == "from the list"
    assert uploads[1]["op"] == "DELETE"
    assert uploads[1]["old"]["title"] == "Milk"


def test_declared_indexes_are_used_on_the_device(device: apsw.Connection) -> None:
    """What is looked up by value on the server is on the device too."""
    plan = [row[3] for row in device.execute("EXPLAIN QUERY PLAN SELECT * FROM task WHERE status = 'done'")]
    assert any("USING INDEX" in step and "status" in step for step in plan)
    plan = [row[3] for row in device.execute("EXPLAIN QUERY PLAN SELECT * FROM task WHERE title = 'x'")]
    assert not any("USING INDEX" in step for step in plan)
