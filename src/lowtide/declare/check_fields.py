"""What can be wrong with one field."""

from __future__ import annotations

from lowtide.declare import place as places
from lowtide.declare.build import model_named
from lowtide.declare.check_calls import check_call
from lowtide.declare.declared import Declared
from lowtide.declare.fields import FieldDeclaration
from lowtide.declare.findings import Findings, check_name, suggestion
from lowtide.declare.place import Place
from lowtide.kernel.schema import Kind
from lowtide.kernel.values import MAX_RECORD_BYTES

_COMMON = {"default", "merge", "optional", "renamed_from", "server_only"}
_LENGTH = {"max_length"}
_OPTIONS = {
    "Text": _COMMON | _LENGTH,
    "Json": _COMMON | _LENGTH,
    "Reference": _COMMON | {"model"},
    "Counter": {"default", "renamed_from"},
    "Set": {"default", "renamed_from"} | _LENGTH,
    "List": {"default", "renamed_from"} | _LENGTH,
}

_ORDERED = {"latest", "max", "min", "first"}
_MERGES: dict[Kind, set[str]] = {
    "text": _ORDERED | {"text", "collaborative"},
    "integer": _ORDERED | {"counter"},
    "number": _ORDERED | {"counter"},
    "boolean": _ORDERED,
    "timestamp": _ORDERED,
    "json": {"latest", "first"},
    "reference": {"latest", "first"},
    "attachment": {"latest", "first"},
}
_EVERY_MERGE = set().union(*_MERGES.values())
_OTHER_WORDS = {
    "set": "Declare the field as Set().",
    "list": "Declare the field as List().",
    "server": "Write server_only=True.",
    "custom": "Give the function itself: merge=resolve_title.",
}


def check_field(
    found: Findings, app: Declared, name: str, field: FieldDeclaration[object], at: Place
) -> None:
    """Report everything that is wrong with the field ``name``, whose line is ``at``."""
    check_name(found, at, "field", name)
    known = _OPTIONS.get(field.maker, _COMMON)
    for option in field.options:
        if option not in known:
            found.error(
                places.argument(field.place, option),
                "unknown-option",
                f"{field.maker}() has no option {option!r}",
                suggestion(option, known - {"model"}),
            )
    sound = all([_check_options(found, field), _check_merge(found, field)])
    target = None
    if field.maker == "Reference":
        target = _check_reference(found, app, field, at)
    if sound:
        _check_default(found, name, field, target)


def _check_options(found: Findings, field: FieldDeclaration[object]) -> bool:
    sound = True
    for option in ("optional", "server_only"):
        if not isinstance(field.options.get(option, False), bool):
            found.error(
                places.argument(field.place, option),
                "option-type",
                f"{option} is {field.options[option]!r}",
                "Write True or False.",
            )
            sound = False
    length = field.options.get("max_length")
    if length is not None and not (type(length) is int and 0 < length <= MAX_RECORD_BYTES):
        found.error(
            places.argument(field.place, "max_length"),
            "option-type",
            f"max_length is {length!r}",
            f"Write a whole number from 1 to {MAX_RECORD_BYTES}, which is what a record may hold.",
        )
        sound = False
    former = field.options.get("renamed_from")
    if former is not None:
        check_name(found, places.argument(field.place, "renamed_from"), "field", former)
    return sound


def _check_merge(found: Findings, field: FieldDeclaration[object]) -> bool:
    merge = field.options.get("merge")
    if merge is None or field.maker in ("Counter", "Set", "List"):
        return True
    at = places.argument(field.place, "merge")
    if field.options.get("server_only"):
        found.error(
            at,
            "merge-server-only",
            "a server-only field has no conflicts to merge",
            "Remove merge or server_only.",
        )
    elif callable(merge):
        return check_call(
            found, at, "resolve function", merge, ("base", "mine", "theirs", "context"), code="resolve"
        )
    elif not isinstance(merge, str) or merge not in _EVERY_MERGE:
        hint = _OTHER_WORDS.get(str(merge)) or suggestion(merge, _MERGES[field.kind])
        found.error(at, "merge-unknown", f"there is no merge {merge!r}", hint)
    elif merge not in _MERGES[field.kind]:
        fits = ", ".join(sorted(_MERGES[field.kind]))
        found.error(
            at,
            "merge-kind",
            f"{field.maker}() does not merge by {merge!r}",
            f"Choose one of {fits}, or a function.",
        )
    else:
        return True
    return False


def _check_reference(
    found: Findings, app: Declared, field: FieldDeclaration[object], at: Place
) -> str | None:
    target = field.options["model"]
    model = model_named(app, target)
    if model is None:
        called = getattr(target, "__name__", target)
        found.error(
            at,
            "reference-unknown",
            f"there is no model {called!r}",
            suggestion(called, (m.cls.__name__ for m in app.models)),
        )
    return None if model is None else model.name


def _check_default(found: Findings, name: str, field: FieldDeclaration[object], target: str | None) -> None:
    default = field.options.get("default")
    if "default" in field.options and default is None and not field.options.get("optional"):
        problem = "the default is None", "Write optional=True for a field that may be empty."
    elif default is not None and field.merge == "collaborative":
        problem = "a collaborative text starts empty", "Remove the default and write optional=True."
    else:
        try:
            field.compiled(name, target)
            return
        except (ValueError, TypeError) as error:
            problem = f"the default does not fit: {error}", "Change the default or the field."
    found.error(places.argument(field.place, "default"), "default", *problem)
