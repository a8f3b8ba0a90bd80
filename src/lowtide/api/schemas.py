"""JSON Schemas of the types that routes take and give, with the words that stand in the source.

msgspec knows the schema of a type. The meaning of a field stands in the text behind it, which Python
forgets, so the source is read once, when the reference is asked for.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

REF = "#/components/schemas/"
Json = dict[str, Any]


class Schemas:
    """The schemas of ``kinds``, which must be hashable types that msgspec knows.

    Costs about a millisecond a type, and the parsing of the modules in which they stand.
    """

    def __init__(self, kinds: Iterable[Any]):
        wanted = list(dict.fromkeys(kinds))
        schemas, components = msgspec.json.schema_components(wanted, ref_template=REF + "{name}")
        self._of = dict(zip(wanted, schemas, strict=True))
        self.components: dict[str, Json] = components
        """Every named type by its name."""
        for name, kind in _named(wanted, components).items():
            _say(components[name], kind)

    def of(self, kind: Any) -> Json:
        """The schema of one of ``kinds``; of a named type, a reference to its component."""
        schema: Json = self._of[kind]
        return schema

    def fields(self, kind: type[msgspec.Struct]) -> tuple[Mapping[str, Json], frozenset[str]]:
        """The schemas of a struct's fields by name, and the names that must be given."""
        component = self.components[self._of[kind]["$ref"].removeprefix(REF)]
        return component["properties"], frozenset(component["required"])


def words(text: str | None) -> str:
    """A docstring as CommonMark: no indentation, single backticks."""
    return re.sub(r"``(.+?)``", r"`\1`", inspect.cleandoc(text or ""))


def _named(kinds: Iterable[Any], components: Mapping[str, Json]) -> dict[str, type]:
    found: dict[str, type] = {}
    seen: set[type] = set()
    waiting = list(msgspec.inspect.multi_type_info(kinds))
    while waiting:
        info = waiting.pop()
        kind = getattr(info, "cls", None)
        if kind is not None:
            if kind in seen:
                continue
            seen.add(kind)
            full = re.sub(r"[^a-zA-Z0-9.\-_]", "_", f"{kind.__module__}.{kind.__qualname__}")
            for name in (full, kind.__name__):
                if name in components:
                    found[name] = kind
                    break
        for name in info.__struct_fields__:
            value = getattr(info, name)
            for part in value if isinstance(value, tuple) else (value,):
                if isinstance(part, msgspec.inspect.Field):
                    waiting.append(part.type)
                elif isinstance(part, msgspec.inspect.Type):
                    waiting.append(part)
    return found


def _say(schema: Json, kind: type) -> None:
    """Write what the source says of ``kind`` and of its fields into its schema."""
    if "description" in schema:
        schema["description"] = words(schema["description"])
    sent = {}
    if issubclass(kind, msgspec.Struct):
        sent = {field.name: field.encode_name for field in msgspec.structs.fields(kind)}
    for base in reversed(kind.__mro__):
        for name, text in _texts(base).items():
            field = schema.get("properties", {}).get(sent.get(name, name))
            if field is not None and "description" not in field:
                field["description"] = words(textwrap.dedent(text))


def _texts(kind: type) -> Mapping[str, str]:
    if kind.__module__ in ("builtins", "msgspec", "typing"):
        return {}
    return _module_texts(kind.__module__).get(kind.__qualname__, {})


@lru_cache(maxsize=256)
def _module_texts(name: str) -> Mapping[str, Mapping[str, str]]:
    """Class by qualified name -> field -> the text behind it; empty where there is no source."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[name]))
    except (OSError, TypeError, KeyError):
        return {}
    found: dict[str, dict[str, str]] = {}
    _gather(tree, "", found)
    return found


def _gather(node: ast.AST, inside: str, found: dict[str, dict[str, str]]) -> None:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            _gather(child, f"{inside}{child.name}.<locals>.", found)
        elif isinstance(child, ast.ClassDef):
            texts = found[inside + child.name] = {}
            for attribute, text in zip(child.body, child.body[1:], strict=False):
                match attribute, text:
                    case (
                        ast.AnnAssign(target=ast.Name(id=name)),
                        ast.Expr(value=ast.Constant(value=str(said))),
                    ):
                        texts[name] = said
            _gather(child, f"{inside}{child.name}.", found)
