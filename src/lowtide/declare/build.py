"""From what was declared to the schema that everything else reads."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from lowtide.declare.declared import (
    Declared,
    FunctionDeclaration,
    LookupDeclaration,
    ModelDeclaration,
    ParameterDeclaration,
    StreamDeclaration,
)
from lowtide.declare.fields import declared_fields
from lowtide.kernel.schema import Function, Keys, Lookup, Model, Parameter, Schema, Stream


def build(app: Declared) -> Schema:
    """The schema of a declaration in which ``check`` finds no error."""
    streams = {stream.name: _stream(app, stream) for stream in app.streams}
    looked_up: dict[str, set[str]] = {}
    for stream in streams.values():
        keys = stream.keys.within if isinstance(stream.keys, Parameter) else stream.keys
        if isinstance(keys, Lookup):
            looked_up.setdefault(keys.model, set()).add(keys.match)
    return Schema(
        name=app.name,
        models={m.name: _model(app, m, looked_up.get(m.name, set())) for m in app.models},
        streams=streams,
        functions={f.name: _function(f) for f in app.functions},
        hooks={hook.moment: hook.call for hook in app.hooks},
    )


def model_named(app: Declared, target: object) -> ModelDeclaration | None:
    """The model that a class, a class's name or a wire name stands for."""
    for model in app.models:
        if target is model.cls or target == model.name or target == model.cls.__name__:
            return model
    return None


def hook(cls: type, name: str) -> Any:
    """A model's ``write``, ``before_write`` or ``after_commit`` as a plain callable; ``None`` without."""
    value = inspect.getattr_static(cls, name, None)
    return value.__func__ if isinstance(value, staticmethod) else value


def parameter_type(call: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """The type of one parameter. Raises what evaluating a quoted type raises."""
    names = inspect.unwrap(call).__globals__
    holder = SimpleNamespace(__annotations__={"it": parameter.annotation})
    return typing.get_type_hints(holder, names, include_extras=True)["it"]


def _model(app: Declared, declared: ModelDeclaration, looked_up: set[str]) -> Model:
    fields = {}
    for name, field in declared_fields(declared.cls).items():
        target = model_named(app, field.options.get("model"))
        fields[name] = field.compiled(name, target.name if target else None)
    return Model(
        name=declared.name,
        fields=fields,
        # In one order, whatever was written: the order would be part of the index's name.
        unique=tuple((u,) if isinstance(u, str) else tuple(sorted(set(u))) for u in declared.unique),
        indexes=tuple(sorted({*declared.indexes, *looked_up})),
        write=hook(declared.cls, "write"),
        before_write=hook(declared.cls, "before_write"),
        after_commit=hook(declared.cls, "after_commit"),
        on_delete=declared.on_delete,
        removed=declared.removed,
    )


def _stream(app: Declared, declared: StreamDeclaration) -> Stream:
    carried = declared.carries
    pairs = carried.items() if isinstance(carried, Mapping) else ((cls, None) for cls in carried)
    return Stream(
        name=declared.name,
        carries={_name(app, cls): field for cls, field in pairs},
        keys=_keys(app, declared.keys),
        priority=declared.priority,
        default=declared.default,
        on_metered=declared.on_metered,
        space=declared.space,
    )


def _keys(app: Declared, declared: Any) -> Keys:
    if isinstance(declared, LookupDeclaration):
        return Lookup(_name(app, declared.model), next(iter(declared.matches)), declared.take)
    if isinstance(declared, ParameterDeclaration):
        within = declared.within
        return Parameter(declared.name, None if within is None else _keys(app, within))  # type: ignore[arg-type]
    return declared  # type: ignore[no-any-return]


def _name(app: Declared, cls: type) -> str:
    model = model_named(app, cls)
    return cls.__name__ if model is None else model.name


def _function(declared: FunctionDeclaration) -> Function:
    parameters = list(inspect.signature(declared.call).parameters.values())[1:]
    return Function(
        name=declared.name,
        call=declared.call,
        parameters={p.name: parameter_type(declared.call, p) for p in parameters},
        required=frozenset(p.name for p in parameters if p.default is p.empty),
    )
