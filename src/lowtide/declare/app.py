"""How a developer declares an app: one ``App``, its models, streams and functions.

Declaring never raises for a mistake: what was written is kept with its line. ``check`` then finds
every mistake at once, and ``App.compile`` turns a sound declaration into a ``Schema``.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, overload

from lowtide.declare.build import build
from lowtide.declare.check import check
from lowtide.declare.declared import (
    Declared,
    FunctionDeclaration,
    HookDeclaration,
    Keys,
    LookupDeclaration,
    Model,
    ModelDeclaration,
    ParameterDeclaration,
    StreamDeclaration,
)
from lowtide.declare.findings import refusal
from lowtide.declare.place import Place, caller
from lowtide.declare.rules import everyone
from lowtide.kernel.schema import Claim, Everyone, Me, Schema

C = TypeVar("C")
F = TypeVar("F", bound=Callable[..., Awaitable[Any]])


def parameter(
    name: str, within: Me | Everyone | Claim | LookupDeclaration | None = None
) -> ParameterDeclaration:
    """In ``keys``: the key that a device asks for by name, if it is among those ``within`` gives.

    Without ``within`` a device receives the rows of every key that it can name.
    """
    return ParameterDeclaration(name, within, caller())


class App(Declared):
    """What one backend serves. ``name`` is a short identifier, such as ``"tasks"``."""

    def __init__(self, name: str):
        super().__init__(name, caller())

    @overload
    def model(self, cls: type[C], /) -> type[C]: ...
    @overload
    def model(
        self,
        /,
        *,
        name: str | None = None,
        unique: Sequence[str | tuple[str, ...]] = (),
        indexes: Sequence[str] = (),
        on_delete: Literal["delete", "revive"] = "delete",
        removed: bool = False,
    ) -> Callable[[type[C]], type[C]]: ...
    def model(
        self,
        cls: type[C] | None = None,
        /,
        *,
        name: str | None = None,
        unique: Any = (),
        indexes: Any = (),
        on_delete: Any = "delete",
        removed: bool = False,
    ) -> Any:
        """Declare a model from a class: ``@app.model`` or ``@app.model(unique=[("team_id", "slug")])``.

        ``name``: its name on devices and in addresses; the class's name in snake_case otherwise.
        ``unique``: fields whose values, together, no two records of a space share.
        ``indexes``: fields that are looked up by value.
        ``on_delete``: what a deletion does to an edit made without knowing of it: win, or be undone.
        ``removed``: no longer in the app, kept for the versions in the field that still use it.

        A class without ``write`` is closed to devices: only the server's own code writes it.
        """
        place = caller()

        def declare(cls: type[C]) -> type[C]:
            if not hasattr(cls, "where"):
                cls.where = classmethod(Model.where.__func__)  # type: ignore[attr-defined]
            declared = snake_case(cls.__name__) if name is None else name
            cls.__lowtide_model__ = declared  # type: ignore[attr-defined]
            self.models.append(ModelDeclaration(cls, declared, unique, indexes, on_delete, removed, place))
            return cls

        return declare if cls is None else declare(cls)

    def stream(
        self,
        name: str,
        *,
        carries: Mapping[type, str] | Sequence[type],
        keys: Keys = everyone,
        priority: int = 3,
        default: bool = True,
        on_metered: Literal["send", "defer"] = "send",
        space: str | None = None,
    ) -> None:
        """Say which rows devices receive.

        ``carries``: models with the field that holds each record's key, or a list of models that
        everyone in the space receives. ``keys``: which keys a user holds: ``me``, ``everyone``,
        ``claim(...)``, ``parameter(...)`` or ``Model.where(field=me).field``. ``priority``: 0 to 3, a
        lower number arrives first. ``default=False``: sent only to devices that subscribe.
        ``on_metered="defer"``: waits for a network that costs nothing. ``space``: the rows are those
        of that one space, and every space reads them.

        A user may hold 1,000 buckets over all streams.
        """
        self.streams.append(
            StreamDeclaration(name, carries, keys, priority, default, on_metered, space, caller())
        )

    @overload
    def function(self, call: F, /) -> F: ...
    @overload
    def function(self, /, *, name: str | None = None) -> Callable[[F], F]: ...
    def function(self, call: F | None = None, /, *, name: str | None = None) -> Any:
        """Declare an ``async def f(ctx, ...)`` that devices call, online or as an offline command.

        Each parameter after ``ctx`` is typed, and its argument is decoded from JSON to that type.
        """
        place = caller()

        def declare(call: F) -> F:
            self.functions.append(
                FunctionDeclaration(getattr(call, "__name__", None) if name is None else name, call, place)
            )
            return call

        return declare if call is None else declare(call)

    def before_sign_up(self, call: F, /) -> F:
        """Ask ``async def f(event)`` before a new user is made; the user waits, five seconds at most.

        It may raise ``Refused``, and may return a dict of custom claims for the user's tokens. ``event`` has
        ``user``, ``provider``, ``claims`` of the provider, ``space``, ``device`` and ``ip``. It may be
        asked more than once for one sign-up.
        """
        return self._hook("before_sign_up", call, caller())

    def before_sign_in(self, call: F, /) -> F:
        """Ask ``async def f(event)`` before a known user is let in. As ``before_sign_up``."""
        return self._hook("before_sign_in", call, caller())

    def after_sign_up(self, call: F, /) -> F:
        """Tell ``async def f(event)`` of a new user once they are kept: as a job, at least once."""
        return self._hook("after_sign_up", call, caller())

    def after_sign_in(self, call: F, /) -> F:
        """Tell ``async def f(event)`` of a known user's sign-in: as a job, at least once."""
        return self._hook("after_sign_in", call, caller())

    def _hook(self, moment: str, call: F, place: Place) -> F:
        self.hooks.append(HookDeclaration(moment, call, place))
        return call

    def compile(self) -> Schema:
        """The schema. Raises ``DeclarationError`` whose ``details["findings"]`` are all mistakes."""
        findings = check(self)
        if any(finding.severity == "error" for finding in findings):
            raise refusal(findings)
        return build(self)


def snake_case(name: str) -> str:
    """``TaskList`` -> ``task_list``, ``HTTPServer`` -> ``http_server``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
