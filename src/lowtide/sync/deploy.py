"""Putting an app's schema into force: what would break a device in the field is refused.

Each model is also a read-only view with typed columns, for ``sqlite3``, ``psql`` and BI tools.
"""

from __future__ import annotations

import hashlib

import msgspec

from lowtide.audit import Audit, Entry
from lowtide.declare.evolve import Difference, compare, snapshot
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import DeclarationError
from lowtide.kernel.schema import Field, Model, Schema
from lowtide.storage.db import Database, Dialect, Tx
from lowtide.sync.renewal import Progress, check_turn, renew
from lowtide.sync.store import QUERIES


async def read_deployed(database: Database) -> bytes | None:
    """The snapshot of the schema that was deployed last; None before the first."""
    rows = await database.read(lambda tx: tx.fetch(QUERIES["deployed_schema"]))
    return rows[0][0].encode() if rows else None


async def deploy(
    database: Database, schema: Schema, clock: Clock, progress: Progress, audit: Audit | None = None
) -> list[Difference]:
    """Make ``schema`` the deployed one: compare, renew the stored records that it changes, renew the views.

    Returns what changed since the one before. Raises ``DeclarationError`` with all changes that would
    break a device; then nothing has changed. Run it before anybody writes under ``schema``; a crash
    on the way is made good by running it again, with this schema or another, the one before among them.
    ``audit`` is told in the same transaction. Raises ``SetupError`` when another version is deployed at the
    same time.
    """
    fresh = snapshot(schema)
    old = await read_deployed(database)
    rows = await database.read(lambda tx: tx.fetch(QUERIES["begun_schemas"]))
    begun = [text.encode() for (text,) in rows]
    if old == fresh and not begun:
        return []
    changes = [] if old is None else compare(old, schema)
    refused = [change for change in changes if change.severity == "refuse"]
    if refused:
        raise DeclarationError(
            "; ".join(f"{change.subject}: {change.message}" for change in refused),
            hint=refused[0].hint,
            changes=[change.message for change in refused],
        )
    if old is not None:
        digest = hashlib.sha256(fresh).hexdigest()
        await database.write(lambda tx: tx.execute(QUERIES["begin_schema"], digest, fresh.decode()))
        await renew(database, [old, *begun], schema, clock, progress)

    entry = Entry(
        action="schema.deploy",
        actor="system",
        via="start",
        target="schema",
        before=None if old is None else msgspec.json.decode(old),
        after=msgspec.json.decode(fresh),
    )

    async def work(tx: Tx) -> None:
        if old is not None:
            # There is no head yet where no server ever got beyond its first deployment.
            await tx.fetch(QUERIES["lock_head"])
            await check_turn(tx, fresh)
        if audit is not None:
            await audit.write(tx, entry)
        await tx.execute(QUERIES["set_deployed_schema"], fresh.decode(), clock.now())
        await tx.execute(QUERIES["end_schemas"])
        for model in schema.models.values():
            await tx.script(view(model, tx.dialect))

    await database.write(work)
    return changes


def view(model: Model, dialect: Dialect) -> str:
    """The SQL that makes ``model`` a view: its space, its id, a column for each field, and its times.

    A field that is called as one of those gets an underscore at its end.
    """
    fixed = ("space", "id", "created_at", "updated_at")
    columns = [
        f"{_column(field, dialect)} AS {_quoted(name + '_' if name in fixed else name)}"
        for name, field in model.fields.items()
    ]
    moment = (
        "strftime('%Y-%m-%dT%H:%M:%fZ', {0} / 1000.0, 'unixepoch')"
        if dialect == "sqlite"
        else "to_timestamp({0} / 1000.0)"
    )
    columns += [f"{moment.format(f'r.{name}')} AS {name}_at" for name in ("created", "updated")]
    name = _quoted(f"{model.name}_view")
    return (
        f"DROP VIEW IF EXISTS {name};\n"
        f"CREATE VIEW {name} AS SELECT r.space, r.id, {', '.join(columns)} "
        f"FROM record r WHERE r.model = '{model.name}' AND r.deleted = 0;"
    )


def _column(field: Field, dialect: Dialect) -> str:
    if dialect == "sqlite":
        value = f"json_extract(r.data, '$.{field.name}')"
        return f"CAST({value} AS {_SQLITE[field.kind]})" if field.kind in _SQLITE else value
    value = f"((r.data::jsonb)->>'{field.name}')"
    if field.merge in ("set", "list"):
        return f"{value}::jsonb"
    if field.kind == "boolean":
        return f"{value}::integer::boolean"
    return f"{value}::{_POSTGRES[field.kind]}"


_SQLITE = {"integer": "INTEGER", "boolean": "INTEGER", "number": "REAL"}
_POSTGRES = {
    "text": "text",
    "reference": "text",
    "attachment": "text",
    "integer": "bigint",
    "number": "double precision",
    "timestamp": "timestamptz",
    "json": "jsonb",
}


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
