"""The tables of a device, in the form that the client SDKs' core reads (``powersync_replace_schema``)."""

from __future__ import annotations

from typing import Any

from lowtide.kernel.schema import Field, Model, Schema


def client_schema(schema: Schema) -> dict[str, Any]:
    """``{"tables": [...]}``: what a version of the app that is built today needs.

    One table a model, with a column a field. Removed models and fields, and former names, are for the
    versions already in the field and left out. The column ``id`` is implied. The built-in tables are
    those of a schema that has them (``sync.system.with_system``).

    Every table keeps the replaced values of changed columns beside an upload, because merging needs
    them, and lets a write carry a text of metadata.
    """
    return {"tables": [_table(model) for model in schema.models.values() if not model.removed]}


def column_type(field: Field) -> str:
    """TEXT, INTEGER or REAL: how a device's SQLite holds the field."""
    if field.kind in ("integer", "boolean"):
        return "INTEGER"
    return "REAL" if field.kind == "number" else "TEXT"


def _table(model: Model) -> dict[str, Any]:
    types = {name: column_type(field) for name, field in model.fields.items() if not field.removed}
    indexed = dict.fromkeys([*model.unique, *((name,) for name in model.indexes)])
    return {
        "name": model.name,
        "columns": [{"name": name, "type": kind} for name, kind in types.items()],
        "indexes": [
            {
                "name": "_".join(names),
                "columns": [{"name": name, "ascending": True, "type": types[name]} for name in names],
            }
            for names in indexed
            if all(name in types for name in names)
        ],
        "include_old": True,
        "include_old_only_when_changed": True,
        "include_metadata": True,
    }
