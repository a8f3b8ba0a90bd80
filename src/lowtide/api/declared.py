"""What an app declared, as JSON Schema: its models' records and its functions' arguments.

The schemas say the canonical form of each value. The server takes a few more (a number as text, a former
name), for the sake of SDKs that know no better; a client that keeps to the schema is always understood.
"""

from __future__ import annotations

import copy
import inspect
import re
import typing
from collections.abc import Callable
from typing import Any

import msgspec

from lowtide.api.schemas import REF, Json, Schemas
from lowtide.kernel.schema import Field, Function, MergeRule, Model
from lowtide.kernel.values import decode

MERGES: dict[MergeRule, str] = {
    "counter": "Increments of all who change it add up.",
    "set": "An array without order; an add wins over a concurrent remove.",
    "list": "An array with order; insertions of all are kept.",
    "text": "Edits of all are kept.",
    "collaborative": "A Yjs document, base64.",
    "max": "The greatest value stays.",
    "min": "The least value stays.",
    "first": "The first value that is not empty stays.",
    "server": "Only the app's servers write it.",
    "custom": "The app decides between concurrent values.",
}
_I64 = 2**63


def content(model: Model) -> Json:
    """A record's fields as they are answered: all of them, also under their former names."""
    properties: dict[str, Json] = {}
    for field in model.fields.values():
        properties[field.name] = _field(field)
        if field.renamed_from:
            former = f"The former name of `{field.name}`."
            properties[field.renamed_from] = _field(field) | {"deprecated": True, "description": former}
    return _object(model, properties, list(properties))


def part(model: Model) -> Json:
    """As ``content``, where the one who asks says which fields are wanted."""
    return content(model) | {"required": []}


def new(model: Model) -> Json:
    """A record's fields as they are given to create it. One with a default may be left out."""
    fields = [field for field in model.fields.values() if not field.removed]
    needed = [field.name for field in fields if not field.optional and field.default is None]
    return _object(model, {field.name: _field(field) for field in fields}, needed, strict=True)


def changes(model: Model) -> Json:
    """Some of a record's fields, with new values."""
    fields = [field for field in model.fields.values() if not field.removed]
    properties = {}
    for field in fields:
        properties[field.name] = {key: value for key, value in _field(field).items() if key != "default"}
    return _object(model, properties, [], strict=True)


def _object(model: Model, properties: dict[str, Json], needed: list[str], *, strict: bool = False) -> Json:
    made: Json = {"title": model.name, "type": "object", "properties": properties, "required": needed}
    return made | {"additionalProperties": False} if strict else made


def _field(field: Field) -> Json:
    schema = _kind(field)
    if (field.optional or field.removed) and schema:
        schema["type"] = [schema["type"], "null"]
    about = [f"The id of a `{field.model}`."] if field.model else []
    about += [MERGES[field.merge]] if field.merge in MERGES else []
    about += ["No longer used by the app."] if field.removed else []
    if about:
        schema["description"] = " ".join(about)
    if field.removed:
        schema["deprecated"] = True
    if field.default is not None:
        schema["default"] = msgspec.to_builtins(decode(field, field.default))
    return schema


def _kind(field: Field) -> Json:
    if field.merge in ("set", "list"):
        return {"type": "array"} | ({"uniqueItems": True} if field.merge == "set" else {})
    match field.kind:
        case "integer":
            return {"type": "integer", "minimum": -_I64, "maximum": _I64 - 1}
        case "number":
            return {"type": "number"}
        case "boolean":
            return {"type": "boolean"}
        case "timestamp":
            return {"type": "string", "format": "date-time"}
        case "json":
            return {}
        case _:
            return {"type": "string"} | ({"maxLength": field.max_length} if field.max_length else {})


def arguments(function: Function) -> type[msgspec.Struct]:
    """What a function is called with, as a type."""
    fields: list[Any] = []
    defaults = inspect.signature(function.call).parameters
    for name, kind in function.parameters.items():
        fields.append((name, kind) if name in function.required else (name, kind, defaults[name].default))
    return msgspec.defstruct(
        f"{function.name}_arguments", fields, kw_only=True, forbid_unknown_fields=True, module=__name__
    )


def result(function: Function) -> Any:
    """What a function says that it returns, as a type; anything, where it says nothing that JSON knows."""
    try:
        kind = typing.get_type_hints(function.call, include_extras=True).get("return", Any)
        msgspec.json.schema_components([kind])
    except (NameError, TypeError):
        return Any  # it names what only a type checker sees, or what JSON cannot say
    return kind


def specialised(schema: Json, schemas: Schemas, declared: Callable[[str], Json], suffix: str) -> Json:
    """``schema`` with the declared types in place of markers, in copies of the components that hold any."""

    def of(piece: Any) -> Any:
        if isinstance(piece, list):
            return [of(item) for item in piece]
        if not isinstance(piece, dict):
            return piece
        if "x-declared" in piece:
            return declared(piece["x-declared"])
        target = piece.get("$ref")
        if isinstance(target, str) and target.startswith(REF):
            name = target.removeprefix(REF)
            if not _holds_marker(schemas, name, set()):
                return piece
            if name + suffix not in schemas.components:
                mine: Json = {}
                schemas.components[name + suffix] = mine
                mine.update(of(copy.deepcopy(schemas.components[name])))
                mine["title"] = name + suffix
                _need_what_is_needed(mine, schemas)
            return piece | {"$ref": target + suffix}
        return {key: of(value) for key, value in piece.items()}

    found: Json = of(schema)
    return found


def _need_what_is_needed(schema: Json, schemas: Schemas) -> None:
    """A new record's fields must be given where one of them has no default."""
    for name, field in schema.get("properties", {}).items():
        target = field.get("$ref", "").removeprefix(REF)
        if target.endswith(".new") and schemas.components[target]["required"]:
            schema["required"] = sorted({*schema.get("required", []), name})


def _holds_marker(schemas: Schemas, name: str, seen: set[str]) -> bool:
    seen.add(name)
    text = msgspec.json.encode(schemas.components[name]).decode()
    if '"x-declared"' in text:
        return True
    inner = set(re.findall(rf'"\$ref":"{REF}([^"]+)"', text)) - seen
    return any(_holds_marker(schemas, one, seen) for one in inner)
