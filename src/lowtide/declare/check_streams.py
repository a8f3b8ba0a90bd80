"""What can be wrong with streams: what they carry, under which keys, and who can give themselves a key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lowtide.declare import place as places
from lowtide.declare.build import hook, model_named
from lowtide.declare.check_models import KEY_KINDS
from lowtide.declare.declared import (
    Declared,
    LookupDeclaration,
    ModelDeclaration,
    ParameterDeclaration,
    StreamDeclaration,
    Where,
)
from lowtide.declare.fields import FieldDeclaration, declared_fields
from lowtide.declare.findings import Findings, check_name, suggestion
from lowtide.declare.place import Place
from lowtide.declare.rules import Anyone, Both, Either, Owner
from lowtide.kernel.schema import Claim, Everyone, Kind, Me

MAX_BUCKETS = 1000
"""What one user may hold; the client SDKs' protocol names every bucket in each checkpoint."""

_KEYS = "Write me, everyone, claim('name'), parameter('name') or Model.where(field=me).field."


def check_streams(found: Findings, app: Declared) -> None:
    """Report everything that is wrong with the streams of ``app``, and models that nobody receives."""
    names: dict[str, StreamDeclaration] = {}
    reached: set[type] = set()
    for stream in app.streams:
        if check_name(found, stream.place, "stream", stream.name):
            first = names.setdefault(stream.name, stream)
            if first is not stream:
                found.error(
                    stream.place,
                    "stream-twice",
                    f"there is a stream {stream.name!r} already, in line {first.place.line}",
                    "Rename one of them.",
                )
        reached |= _StreamCheck(found, app, stream).run()
    for model in app.models:
        if model.cls not in reached and not model.removed:
            found.warning(
                model.place,
                "not-in-a-stream",
                f"no device receives {model.name}: no stream carries it",
                f"Add it to a stream, such as app.stream(..., carries=[{model.cls.__name__}]).",
            )


class _StreamCheck:
    def __init__(self, found: Findings, app: Declared, stream: StreamDeclaration):
        self._found = found
        self._app = app
        self._stream = stream
        self._reached: set[type] = set()

    def run(self) -> set[type]:
        """Report; answers the models that the stream carries or looks up."""
        self._check_options()
        kind = self._check_keys(self._stream.keys)
        self._check_carries(kind)
        return self._reached

    def _at(self, argument: str) -> Place:
        return places.argument(self._stream.place, argument)

    def _error(self, argument: str, code: str, message: str, hint: str) -> None:
        self._found.error(self._at(argument), code, message, hint)

    def _check_options(self) -> None:
        s: Any = self._stream
        if type(s.priority) is not int or not 0 <= s.priority <= 3:
            self._error(
                "priority",
                "priority",
                f"the priority is {s.priority!r}",
                "Write 0, 1, 2 or 3; 0 arrives first.",
            )
        if not isinstance(s.default, bool):
            self._error("default", "option-type", f"default is {s.default!r}", "Write True or False.")
        if s.on_metered not in ("send", "defer"):
            self._error(
                "on_metered", "option-type", f"on_metered is {s.on_metered!r}", "Write 'send' or 'defer'."
            )
        if s.space is not None and not (isinstance(s.space, str) and s.space and "/" not in s.space):
            hint = "Write the space's name as a text without '/'."
            self._error("space", "option-type", f"space is {s.space!r}", hint)

    def _check_keys(self, keys: Any) -> Kind | None:
        """Report what is wrong with ``keys``; answers the kind of the keys where it is known."""
        if isinstance(keys, Me):
            return "text"
        if isinstance(keys, Claim):
            name: Any = keys.name
            if not (isinstance(name, str) and name):
                self._error("keys", "claim", f"{name!r} names no claim", "Write claim('platform').")
        elif isinstance(keys, LookupDeclaration):
            return self._check_lookup(keys)
        elif isinstance(keys, ParameterDeclaration):
            return self._check_parameter(keys)
        elif isinstance(keys, Where):
            self._error(
                "keys",
                "keys",
                "where() does not say which field is the key",
                "Write Model.where(field=me).field.",
            )
        elif not isinstance(keys, Everyone):
            self._error("keys", "keys", f"{keys!r} gives no keys", _KEYS)
        return None

    def _check_parameter(self, keys: ParameterDeclaration) -> Kind | None:
        check_name(self._found, keys.place, "parameter", keys.name)
        if self._stream.default is True:
            self._found.error(
                keys.place,
                "parameter-default",
                "a stream whose key the device names cannot be sent unasked",
                "Write default=False: devices subscribe with the key.",
            )
        if keys.within is None:
            self._found.note(
                keys.place,
                "open-parameter",
                f"every user of the space receives the rows of any {keys.name!r} that they name",
                "Give within=... unless that is meant.",
            )
            return None
        if isinstance(keys.within, ParameterDeclaration):
            self._found.error(keys.place, "keys", "a parameter within a parameter", _KEYS)
            return None
        return self._check_keys(keys.within)

    def _check_lookup(self, keys: LookupDeclaration) -> Kind | None:
        model = model_named(self._app, keys.model)
        if model is None:
            self._found.error(
                keys.place,
                "keys-model",
                f"{keys.model.__name__} is not a model of this app",
                "Put @app.model before the class.",
            )
            return None
        self._reached.add(keys.model)
        fields = declared_fields(model.cls)
        if len(keys.matches) != 1 or not all(isinstance(v, Me) for v in keys.matches.values()):
            self._found.error(
                keys.place,
                "keys",
                "where() compares one field with me",
                "Write Model.where(user_id=me).team_id.",
            )
            return None
        (match,) = keys.matches
        self._check_field(keys.place, "keys", model, match, ("text", "reference"))
        taken = self._key_kind(keys.place, "keys", model, keys.take)
        if match in fields and _grants_itself(hook(model.cls, "write"), match):
            self._found.warning(
                keys.place,
                "grants-itself",
                f"every user can give themselves a {model.name} with any {keys.take!r} and read its rows",
                f"Let only the server, or who is in already, write {model.name}: member(...) or nobody.",
            )
        self._found.note(
            keys.place,
            "bucket-limit",
            f"each {model.name} of a user is a bucket; more than {MAX_BUCKETS} are refused",
            "Choose coarser keys if a user may come near: a team rather than a task.",
        )
        return taken

    def _key_kind(self, at: Place, code: str, model: ModelDeclaration, name: Any) -> Kind | None:
        """What a key's values are; a record's own id may be one."""
        if name == "id":
            return "text"
        field = self._check_field(at, code, model, name, KEY_KINDS)
        return None if field is None else field.kind

    def _check_field(
        self, at: Place, code: str, model: ModelDeclaration, name: Any, kinds: Iterable[str]
    ) -> FieldDeclaration[Any] | None:
        fields = declared_fields(model.cls)
        field = fields.get(name) if isinstance(name, str) else None
        if field is None:
            self._found.error(
                at, f"{code}-field", f"{model.name} has no field {name!r}", suggestion(name, fields)
            )
        elif field.kind not in kinds or field.merge in ("text", "collaborative"):
            self._found.error(
                at,
                f"{code}-kind",
                f"{name!r} cannot be a key",
                f"Choose a field of one of: {', '.join(kinds)}.",
            )
        else:
            return field
        return None

    def _check_carries(self, kind: Kind | None) -> None:
        carries = self._stream.carries
        if isinstance(carries, Mapping):
            pairs = [(cls, field) for cls, field in carries.items()]
        elif isinstance(carries, list | tuple):
            pairs = [(cls, None) for cls in carries]
        else:
            self._error(
                "carries",
                "carries",
                f"carries is {carries!r}",
                'Write {Task: "team_id"}, or [City] for everyone.',
            )
            return
        if not pairs:
            self._error("carries", "carries", "the stream carries nothing", 'Write {Task: "team_id"}.')
        for i, (cls, field) in enumerate(pairs):
            at = places.item(self._stream.place, "carries", i)
            model = model_named(self._app, cls) if isinstance(cls, type) else None
            if model is None:
                called = getattr(cls, "__name__", repr(cls))
                self._found.error(
                    at,
                    "carries-model",
                    f"{called} is not a model of this app",
                    "Name a class under @app.model.",
                )
                continue
            self._reached.add(cls)
            self._check_carried(at, model, field, kind)

    def _check_carried(self, at: Place, model: ModelDeclaration, name: Any, kind: Kind | None) -> None:
        everyone = isinstance(self._stream.keys, Everyone)
        if name is None and everyone:
            return
        if name is None:
            self._found.error(
                at,
                "carries-key",
                f"no field of {model.name} is named as the key",
                f'Write carries={{{model.cls.__name__}: "field"}}: its value is compared with the keys.',
            )
        elif everyone:
            self._found.error(
                at,
                "carries-key",
                "a field is named as the key, but everyone receives the stream",
                f"Say who holds which keys with keys=..., or write carries=[{model.cls.__name__}].",
            )
        else:
            own = self._key_kind(at, "carries", model, name)
            if own is not None and kind is not None and _json_type(own) != _json_type(kind):
                self._found.error(
                    at,
                    "carries-kind",
                    f"{name!r} holds {own} and the keys are {kind}: they are never equal",
                    "Choose a field of the keys' kind.",
                )


def _json_type(kind: Kind) -> str:
    return kind if kind in ("integer", "boolean") else "text"


def _grants_itself(rule: Any, match: str) -> bool:
    """Whether ``rule`` lets each user write records whose field ``match`` is their own id."""
    if isinstance(rule, Either):
        return any(_grants_itself(part, match) for part in rule.rules)
    if isinstance(rule, Both):
        return bool(rule.rules) and all(_grants_itself(part, match) for part in rule.rules)
    return isinstance(rule, Anyone) or (isinstance(rule, Owner) and rule.field == match)
