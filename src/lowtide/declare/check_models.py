"""What can be wrong with models: their names, options, hooks and rules."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from lowtide.declare import place as places
from lowtide.declare.build import hook
from lowtide.declare.check_calls import check_call
from lowtide.declare.check_fields import check_field
from lowtide.declare.declared import Declared, Model, ModelDeclaration
from lowtide.declare.fields import FieldDeclaration, Maker, declared_fields
from lowtide.declare.findings import Findings, check_name, suggestion
from lowtide.declare.place import Place
from lowtide.declare.rules import Both, Either, Member, Owner

HOOKS = ("write", "before_write", "after_commit")
KEY_KINDS = ("text", "reference", "integer", "boolean")
"""Kinds whose values can be a bucket's key."""

_MAKERS: tuple[str, ...] = Maker.__args__  # type: ignore[attr-defined]
_LONGEST = 50
"""Of a model's name: tables and indexes put words around it, and PostgreSQL keeps 63 characters."""


def check_models(found: Findings, app: Declared) -> None:
    """Report everything that is wrong with the models of ``app``."""
    names: dict[str, ModelDeclaration] = {}
    for model in app.models:
        if check_name(found, model.place, "model", model.name, _LONGEST):
            first = names.setdefault(model.name.lower(), model)
            if first is not model:
                found.error(
                    model.place,
                    "model-twice",
                    f"there is a model {first.name!r} already, in line {first.place.line}",
                    "Rename the class, or give name='...'. On devices, case does not tell names apart.",
                )
        _ModelCheck(found, app, model).run()


class _ModelCheck:
    def __init__(self, found: Findings, app: Declared, model: ModelDeclaration):
        self._found = found
        self._app = app
        self._model = model
        self._fields = declared_fields(model.cls)
        self._lines: dict[str, Place] = {}
        for name, line in places.attributes(model.place):
            place = Place(model.place.file, line)
            if name in self._lines and not name.startswith("_"):
                found.error(
                    place, "field-twice", f"{name!r} is declared twice", "Python keeps the second only."
                )
            self._lines[name] = place

    def run(self) -> None:
        for name, field in self._fields.items():
            at = self._at(name)
            if name in (*HOOKS, "where"):
                self._found.error(at, "reserved-name", f"the name {name!r} is reserved", "Rename the field.")
            check_field(self._found, self._app, name, field, at)
        self._check_names()
        self._check_attributes()
        self._check_indexes()
        self._check_unique()
        if self._model.on_delete not in ("delete", "revive"):
            self._option_error(
                "on_delete", f"on_delete is {self._model.on_delete!r}", "Write 'delete' or 'revive'."
            )
        if not isinstance(self._model.removed, bool):
            self._option_error("removed", f"removed is {self._model.removed!r}", "Write True or False.")
        self._check_hooks()

    def _at(self, name: str) -> Place:
        """The line of an attribute; of its constructor where the class inherits it."""
        if name in self._lines:
            return self._lines[name]
        field = self._fields.get(name)
        return self._model.place if field is None else field.place

    def _option_error(self, option: str, message: str, hint: str) -> None:
        self._found.error(places.argument(self._model.place, option), "option-type", message, hint)

    def _check_names(self) -> None:
        if not self._fields:
            self._found.error(
                self._model.place,
                "no-fields",
                f"{self._model.name} has no fields",
                "Declare one, such as Text().",
            )
        seen: dict[str, str] = {}
        for name in self._fields:
            other = seen.setdefault(name.lower(), name)
            if other != name:
                self._found.error(
                    self._at(name),
                    "field-twice",
                    f"{name!r} and {other!r} are one column to SQLite",
                    "Rename one: case does not tell columns apart.",
                )
        for name, field in self._fields.items():
            former = field.options.get("renamed_from")
            if not isinstance(former, str):
                continue
            other = seen.setdefault(former.lower(), name)
            if other != name or former == name:
                self._found.error(
                    places.argument(field.place, "renamed_from"),
                    "renamed-twice",
                    f"{former!r} is already the name, or the former name, of {other!r}",
                    "A name can stand for one field only; declare the old one as removed() instead.",
                )

    def _check_attributes(self) -> None:
        for base in self._model.cls.__mro__:
            if base in (object, Model) or base.__module__ in ("typing", "abc"):
                continue
            values = {**dict.fromkeys(inspect.get_annotations(base)), **vars(base)}
            for name, value in values.items():
                if name.startswith("_") or name in HOOKS or isinstance(value, FieldDeclaration):
                    continue
                if name == "id" and "id" not in vars(base):  # an annotation for type checkers
                    continue
                if name == "where" and getattr(value, "__func__", None) is vars(Model)["where"].__func__:
                    continue
                self._found.error(
                    self._at(name),
                    "not-a-field",
                    f"{name!r} is neither a field nor a hook",
                    _meant(name, value),
                )

    def _check_indexes(self) -> None:
        if not _is_list(self._model.indexes):
            self._option_error("indexes", f"indexes is {self._model.indexes!r}", 'Write a list: ["team_id"].')
            return
        for i, name in enumerate(self._model.indexes):
            self._check_indexed("index", "indexes", i, name)

    def _check_unique(self) -> None:
        unique = self._model.unique
        if not _is_list(unique) or (isinstance(unique, tuple) and any(isinstance(u, str) for u in unique)):
            self._option_error(
                "unique",
                f"unique is {unique!r}",
                'Write a list: ["slug"], or [("team_id", "slug")] for a pair.',
            )
            return
        for i, names in enumerate(unique):
            for name in (names,) if isinstance(names, str) else names if _is_list(names) else (names,):
                self._check_indexed("unique", "unique", i, name)

    def _check_indexed(self, code: str, option: str, position: int, name: Any) -> None:
        at = places.item(self._model.place, option, position)
        field = self._fields.get(name) if isinstance(name, str) else None
        if field is None:
            message = f"{self._model.name} has no field {name!r}"
            self._found.error(at, f"{code}-unknown", message, suggestion(name, self._fields))
        elif field.kind == "json" or field.merge in ("text", "collaborative"):
            self._found.error(
                at, f"{code}-kind", f"{name!r} cannot be looked up by value", "Choose a field of scalars."
            )

    def _check_hooks(self) -> None:
        cls, arguments = self._model.cls, ("me", "before", "after")
        write = hook(cls, "write")
        if write is None:
            if not self._model.removed:
                self._found.note(
                    self._model.place,
                    "closed-model",
                    f"{self._model.name} has no write rule: devices only read it",
                    "Write 'write = nobody' to say so, or give a rule such as owner('user_id').",
                )
        elif not isinstance(write, FieldDeclaration):
            self._check_rule(write, arguments)
        before, after = hook(cls, "before_write"), hook(cls, "after_commit")
        if before is not None and not isinstance(before, FieldDeclaration):
            check_call(
                self._found, self._at("before_write"), "hook before_write", before, arguments, code="hook"
            )
        if after is not None and not isinstance(after, FieldDeclaration):
            at = self._at("after_commit")
            check_call(self._found, at, "hook after_commit", after, ("event",), code="hook", awaited=True)
        if write is not None and before is None:
            self._check_creatable()

    def _check_creatable(self) -> None:
        for name, field in self._fields.items():
            if field.merge == "server" and not field.may_be_left_out:
                self._found.warning(
                    self._at(name),
                    "never-created",
                    f"no device can make a {self._model.name}: only the server gives {name!r} its value",
                    "Give it a default or optional=True, or fill it in before_write.",
                )

    def _check_rule(self, rule: Any, arguments: tuple[str, ...]) -> None:
        at = self._at("write")
        if isinstance(rule, Either | Both):
            if not rule.rules:
                self._found.error(at, "rule-empty", "a rule of no rules", "Name the rules that it joins.")
            for part in rule.rules:
                self._check_rule(part, arguments)
        elif isinstance(rule, Owner):
            self._check_rule_field(at, rule.field, ("text", "reference"))
        elif isinstance(rule, Member):
            self._check_rule_field(at, rule.field, KEY_KINDS)
            streams = [s.name for s in self._app.streams if isinstance(s.name, str)]
            if rule.stream not in streams:
                message = f"there is no stream {rule.stream!r}"
                self._found.error(at, "rule-stream", message, suggestion(rule.stream, streams))
        else:
            check_call(self._found, at, "write rule", rule, arguments, code="rule")

    def _check_rule_field(self, at: Place, name: Any, kinds: Iterable[str]) -> None:
        field = self._fields.get(name) if isinstance(name, str) else None
        if field is None:
            message = f"{self._model.name} has no field {name!r}"
            self._found.error(at, "rule-field", message, suggestion(name, self._fields))
        elif field.kind not in kinds:
            self._found.error(
                at,
                "rule-field",
                f"{name!r} cannot hold what the rule compares",
                f"Choose a {' or '.join(kinds)}.",
            )


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _meant(name: str, value: Any) -> str:
    if getattr(value, "__name__", None) in _MAKERS and callable(value):
        return f"Write brackets: {name} = {value.__name__}()."
    if isinstance(value, tuple) and value and isinstance(value[0], FieldDeclaration):
        return "Remove the comma behind the bracket."
    if callable(value):
        return suggestion(name, HOOKS) + " Write other functions outside the class."
    return f"Write a constructor: {name} = Text()."
