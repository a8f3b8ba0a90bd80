"""What a developer declared, as it was written: nothing is judged here, and every part knows its line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from lowtide.declare.place import Place, caller
from lowtide.kernel.schema import Claim, Everyone, Me, Parameter


class LookupDeclaration(msgspec.Struct, frozen=True):
    """``Membership.where(user_id=me).team_id`` as it was written."""

    model: type
    matches: dict[str, Any]
    take: str
    place: Place


class ParameterDeclaration(msgspec.Struct, frozen=True):
    """``parameter("room_id", within=...)`` as it was written."""

    name: str
    within: Any
    place: Place


Keys = Me | Everyone | Claim | Parameter | LookupDeclaration | ParameterDeclaration


class Where:
    """Records of a model, chosen by a field that holds the user's id; an attribute takes a field of them."""

    def __init__(self, model: type, matches: dict[str, Any], place: Place):
        self._model = model
        self._matches = matches
        self._place = place

    def __getattr__(self, field: str) -> LookupDeclaration:
        if field.startswith("__"):  # asked by Python's own machinery, such as copy
            raise AttributeError(field)
        return LookupDeclaration(self._model, self._matches, field, self._place)


class Model:
    """A base that tells type checkers what every model has. Deriving from it is a matter of taste."""

    id: str
    """The record's id, chosen by the device that made it."""

    @classmethod
    def where(cls, **matches: Me) -> Where:
        """The records whose given field is the user's id: ``Membership.where(user_id=me).team_id``."""
        return Where(cls, matches, caller())


class ModelDeclaration(msgspec.Struct, frozen=True):
    """One model as it was written."""

    cls: type
    name: str
    unique: Any
    indexes: Any
    on_delete: Any
    removed: bool
    place: Place


class StreamDeclaration(msgspec.Struct, frozen=True):
    """One stream as it was written."""

    name: Any
    carries: Any
    keys: Any
    priority: Any
    default: Any
    on_metered: Any
    space: Any
    place: Place


class FunctionDeclaration(msgspec.Struct, frozen=True):
    """One function as it was written."""

    name: Any
    call: Callable[..., Any]
    place: Place


class HookDeclaration(msgspec.Struct, frozen=True):
    """One hook of signing in as it was written."""

    moment: str
    call: Callable[..., Any]
    place: Place


class Declared:
    """All of an app's declaration."""

    def __init__(self, name: str, place: Place):
        self.name = name
        self.place = place
        self.models: list[ModelDeclaration] = []
        self.streams: list[StreamDeclaration] = []
        self.functions: list[FunctionDeclaration] = []
        self.hooks: list[HookDeclaration] = []
