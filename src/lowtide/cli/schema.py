"""``lowtide schema``: the tables of a device, in the form that the client SDKs' core reads."""

from __future__ import annotations

import argparse
import json
from typing import Any

from lowtide.cli.project import open_project
from lowtide.kernel.schema import Field, Schema
from lowtide.sync.system import with_system


def run(arguments: argparse.Namespace) -> None:
    """Print them. Raises ``DeclarationError`` for an app that cannot start."""
    _, app = open_project()
    print(json.dumps({"tables": tables(with_system(app.compile()))}, indent=2))


def tables(schema: Schema) -> list[dict[str, Any]]:
    """One table a model. The replaced values are kept beside an upload: merging needs them."""
    return [
        {
            "name": model.name,
            "columns": [
                {"name": name, "type": _type(field)}
                for field in model.fields.values()
                for name in filter(None, (field.name, field.renamed_from))
            ],
            "include_old": True,
            "include_old_only_when_changed": True,
            "include_metadata": True,
        }
        for model in schema.models.values()
    ]


def _type(field: Field) -> str:
    return {"integer": "INTEGER", "boolean": "INTEGER", "number": "REAL"}.get(field.kind, "TEXT")
