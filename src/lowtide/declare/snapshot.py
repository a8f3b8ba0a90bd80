"""A schema as bytes: what was deployed, kept beside the data, to compare the next schema with."""

from __future__ import annotations

from typing import Any

import msgspec

from lowtide.declare.rules import Anyone, Both, Either, Member, Nobody, Owner
from lowtide.kernel.errors import NewerDatabase, SetupError
from lowtide.kernel.schema import (
    Claim,
    Everyone,
    Field,
    Function,
    Kind,
    Lookup,
    Me,
    MergeRule,
    Model,
    OwnDevice,
    Parameter,
    Schema,
    Stream,
    Wire,
)

FORMAT = 1
CLOSED = "closed"
"""The text of no rule: devices do not write."""


class FieldState(msgspec.Struct, frozen=True, kw_only=True):
    """A field without its functions."""

    kind: Kind
    merge: MergeRule
    optional: bool
    default: Wire
    max_length: int | None
    model: str | None
    renamed_from: str | None
    removed: bool

    @property
    def may_be_left_out(self) -> bool:
        """Whether a record can be made without giving it a value."""
        return self.optional or self.default is not None


class ModelState(msgspec.Struct, frozen=True, kw_only=True):
    """A model; ``write`` is its rule in words, because code cannot be compared."""

    fields: dict[str, FieldState]
    unique: list[list[str]]
    indexes: list[str]
    on_delete: str
    write: str
    removed: bool


class StreamState(msgspec.Struct, frozen=True, kw_only=True):
    """A stream."""

    carries: dict[str, str | None]
    keys: Me | Everyone | Claim | OwnDevice | Lookup | Parameter
    priority: int
    default: bool
    on_metered: str
    space: str | None


class FunctionState(msgspec.Struct, frozen=True, kw_only=True):
    """A function; each parameter as a JSON Schema."""

    parameters: dict[str, Any]
    required: list[str]


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A whole schema."""

    format: int
    name: str
    models: dict[str, ModelState]
    streams: dict[str, StreamState]
    functions: dict[str, FunctionState]


class _Envelope(msgspec.Struct):
    format: int


_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder(Snapshot)


def snapshot(schema: Schema) -> bytes:
    """``schema`` as canonical JSON: the same bytes for the same schema, in whatever order it was declared."""
    return _encoder.encode(state_of(schema))


def read_snapshot(data: bytes) -> Snapshot:
    """What ``snapshot`` wrote. Raises ``NewerDatabase`` for a later format, else ``SetupError``."""
    try:
        written = msgspec.json.decode(data, type=_Envelope).format
        if written > FORMAT:
            raise NewerDatabase(f"the deployed schema has format {written}; this version reads {FORMAT}")
        return _decoder.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise SetupError(
            f"the deployed schema cannot be read: {error}", hint="Restore the database from a backup."
        ) from error


def state_of(schema: Schema) -> Snapshot:
    """``schema`` without its functions."""
    return Snapshot(
        format=FORMAT,
        name=schema.name,
        models={name: _model(model) for name, model in schema.models.items()},
        streams={name: _stream(stream) for name, stream in schema.streams.items()},
        functions={name: _function(function) for name, function in schema.functions.items()},
    )


def rule_text(rule: Any) -> str:
    """A write rule in words: ``closed``, ``owner(user_id)``, ``either(...)``, or ``function`` for code."""
    if rule is None or isinstance(rule, Nobody):
        return CLOSED
    if isinstance(rule, Anyone):
        return "anyone"
    if isinstance(rule, Owner):
        return f"owner({rule.field})"
    if isinstance(rule, Member):
        return f"member({rule.stream}, {rule.field})"
    if isinstance(rule, Either | Both):
        name = type(rule).__name__.lower()
        return f"{name}({', '.join(sorted(map(rule_text, rule.rules)))})"
    return "function"


def _model(model: Model) -> ModelState:
    return ModelState(
        fields={name: _field(field) for name, field in model.fields.items()},
        unique=sorted(sorted(names) for names in model.unique),
        indexes=sorted(model.indexes),
        on_delete=model.on_delete,
        write=rule_text(model.write),
        removed=model.removed,
    )


def _field(field: Field) -> FieldState:
    return FieldState(**{name: getattr(field, name) for name in FieldState.__struct_fields__})


def _stream(stream: Stream) -> StreamState:
    return StreamState(
        carries=dict(stream.carries),
        **{name: getattr(stream, name) for name in StreamState.__struct_fields__ if name != "carries"},
    )


def _function(function: Function) -> FunctionState:
    return FunctionState(
        parameters={name: msgspec.json.schema(kind) for name, kind in function.parameters.items()},
        required=sorted(function.required),
    )
