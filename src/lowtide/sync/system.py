"""The models that every device has: its rejections, and the commands that it gave."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from lowtide.kernel.errors import Refused
from lowtide.kernel.schema import Data, Field, Lookup, Model, OwnDevice, Parameter, Schema, Stream
from lowtide.kernel.values import coerce_fields, complete
from lowtide.sync.model import Rejection
from lowtide.sync.streams import DEVICE_STREAM

REJECTIONS = "lowtide_rejections"
COMMANDS = "lowtide_commands"

MAX_ARGUMENTS = 60_000
"""Characters of a command's arguments: whatever they are, an outcome has room beside them."""

_encode = msgspec.json.Encoder().encode


def with_system(schema: Schema) -> Schema:
    """``schema`` with the built-in models and the device's stream, and an index for every lookup."""
    models = {name: _indexed(schema, model) for name, model in schema.models.items()}
    models[REJECTIONS] = _REJECTIONS
    models[COMMANDS] = _COMMANDS
    stream = Stream(
        name=DEVICE_STREAM,
        carries={REJECTIONS: "device", COMMANDS: "device"},
        keys=OwnDevice(),
        priority=0,
    )
    return msgspec.structs.replace(schema, models=models, streams={DEVICE_STREAM: stream, **schema.streams})


def is_pending(command: Data | None) -> bool:
    """Is it a command that is to be run?"""
    return command is not None and command["status"] == "pending"


def rejection_id(rejection: Rejection) -> str:
    """The id of a refused mutation's row. Nobody else's row has it: a client_id is not a secret, and two
    people may use one device."""
    whose = f"{rejection.user}/{rejection.client_id}/{rejection.lineage}"
    return f"{hashlib.blake2b(whose.encode(), digest_size=16).hexdigest()}:{rejection.n}"


def rejection_data(model: Model, rejection: Rejection, now: int) -> Data:
    """The row that tells a device what was refused, with its content. Its size has no bound of its own:
    what the device sent was bounded at the door, and nothing of it may be dropped."""
    return complete(
        model,
        coerce_fields(
            model,
            {
                "device": f"{rejection.user}/{rejection.client_id}",
                "at": now,
                "n": rejection.n,
                "code": rejection.refusal.code,
                "message": _clean(rejection.refusal.message),
                "hint": rejection.refusal.hint,
                "op": _clean(rejection.op),
                "model": _clean(rejection.model),
                "record_id": _clean(rejection.record),
                "data": _encode(rejection.sent.get("data")).decode(),
                "base": _encode(rejection.sent.get("base")).decode(),
                "metadata": _clean(rejection.sent.get("metadata")),
            },
        ),
    )


def _clean(text: Any) -> str | None:
    """What a device sent, as text that every database and device can hold."""
    if text is None:
        return None
    return str(text).encode("utf-8", "replace").decode().replace("\x00", "\ufffd")


def _indexed(schema: Schema, model: Model) -> Model:
    looked_up: dict[str, None] = {}
    for stream in schema.streams.values():
        keys = stream.keys.within if isinstance(stream.keys, Parameter) else stream.keys
        if isinstance(keys, Lookup) and keys.model == model.name:
            looked_up[keys.match] = None
    return msgspec.structs.replace(model, indexes=tuple({**dict.fromkeys(model.indexes), **looked_up}))


def _text(name: str, optional: bool = True) -> Field:
    return Field(name=name, kind="text", optional=optional)


def _dismiss(me: Any, before: Any, after: Any) -> bool:
    return before is not None and after is None and before.device == me.device


def _command(me: Any, before: Any, after: Any) -> bool:
    if before is None or before.device != me.device:
        return before is None
    # Its device may delete it, and send it again: that changes nothing.
    return after is None or all(before[name] == after[name] for name in _COMMANDS.fields)


def _accept_command(me: Any, before: Any, after: Any) -> dict[str, Any] | None:
    if before is not None or after is None or me.server:
        return None
    if after.status is not None:
        raise Refused("a command starts without a status", code="invalid", hint="Set name and args only.")
    return {"device": me.device, "status": "pending"}


_REJECTIONS = Model(
    name=REJECTIONS,
    fields={
        field.name: field
        for field in (
            _text("device", optional=False),
            Field(name="at", kind="timestamp"),
            Field(name="n", kind="integer"),
            *map(
                _text,
                ("code", "message", "hint", "op", "model", "record_id", "data", "base", "metadata"),
            ),
        )
    },
    write=_dismiss,
)

_COMMANDS = Model(
    name=COMMANDS,
    fields={
        field.name: field
        for field in (
            _text("device"),
            _text("name", optional=False),
            Field(name="args", kind="text", optional=True, max_length=MAX_ARGUMENTS),
            *map(_text, ("status", "result", "error")),
        )
    },
    write=_command,
    before_write=_accept_command,
)
