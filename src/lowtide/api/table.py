"""From a method and a path to a route and its parameters.

Paths are matched in their *raw* form and the parameters decoded afterwards, so ``%2F`` inside a
parameter stays inside it. A literal segment wins over a parameter. A look-up costs a dict hit for a
path without parameters, and a walk over its segments otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec
from msgspec import inspect

from lowtide.api.limits import FIRST, LAST, MIDDLE
from lowtide.kernel.errors import DeclarationError, Malformed, MethodNotAllowed, NotFound, UnknownParameter
from lowtide.kernel.http import Rate, Route

NAME = re.compile(r"\{([a-z][a-z0-9_]*)(:rest)?\}")
MAX_PARAMETERS = 64


class QueryReader:
    """Reads a query string into a route's ``query`` type."""

    def __init__(self, kind: type[msgspec.Struct] | None):
        self._kind = kind
        self._fields: dict[str, bool] = {}
        if kind is not None:
            for field in msgspec.structs.fields(kind):
                described = inspect.type_info(field.type)
                if _unbounded(described):
                    raise DeclarationError(
                        f"The parameter {field.encode_name!r} of {kind.__name__} takes any integer.",
                        hint="Use lowtide.kernel.codec.Int64, or bounds of your own.",
                    )
                self._fields[field.encode_name] = _repeats(described)

    def read(self, raw: bytes) -> Any:
        """The decoded query, None where the route has no query.

        Raises ``UnknownParameter`` for a name that the route does not know, ``Malformed`` for a value
        that does not fit, a parameter given twice that is not a list, bad UTF-8, NUL, or more than
        64 parameters.
        """
        if not raw and self._kind is None:
            return None
        values: dict[str, Any] = {}
        for name, value in _pairs(raw):
            repeats = self._fields.get(name)
            if repeats is None:
                raise UnknownParameter(
                    f"There is no parameter {name[:64]!r} here.", known=sorted(self._fields)
                )
            if "\0" in value:
                raise Malformed(f"The parameter {name!r} holds a NUL.")
            if repeats:
                values.setdefault(name, []).append(value)
            elif name in values:
                raise Malformed(f"The parameter {name!r} is given twice.")
            else:
                values[name] = value
        if self._kind is None:
            return None
        try:
            return msgspec.convert(values, self._kind, strict=False)
        except msgspec.ValidationError as error:
            raise Malformed(f"The query does not fit: {error}.") from error


def _pairs(raw: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS
        )
    except ValueError as error:
        raise Malformed("The query string cannot be read.") from error


def _repeats(kind: inspect.Type) -> bool:
    if isinstance(kind, inspect.UnionType):
        return any(_repeats(part) for part in kind.types)
    return isinstance(kind, inspect.ListType | inspect.SetType | inspect.FrozenSetType | inspect.VarTupleType)


def _unbounded(kind: inspect.Type) -> bool:
    # Beyond 64 bits a database would raise, and the client see a fault of ours.
    match kind:
        case inspect.Metadata():
            return _unbounded(kind.type)
        case inspect.UnionType():
            return any(_unbounded(part) for part in kind.types)
        case inspect.ListType() | inspect.SetType() | inspect.FrozenSetType() | inspect.VarTupleType():
            return _unbounded(kind.item_type)
        case inspect.IntType():
            return (kind.ge is None and kind.gt is None) or (kind.le is None and kind.lt is None)
        case _:
            return False


class Served:
    """A route in the table, with what was worked out about it once."""

    __slots__ = (
        "consumes",
        "names",
        "old_apps",
        "query",
        "rank",
        "rate",
        "repeatable",
        "rest",
        "route",
        "segments",
    )

    def __init__(self, route: Route):
        self.route = route
        self.segments, self.names, self.rest = _template(route.path)
        self.query = QueryReader(route.query)
        self.consumes = frozenset(route.consumes)
        self.rate = _rate(route)
        self.rank = FIRST if route.auth == "none" else LAST if self.rate == "sync" else MIDDLE
        """When it is refused under load: see ``Load``."""
        self.repeatable = is_repeatable(route)
        """An Idempotency-Key counts here."""
        self.old_apps = (
            route.auth == "none" or self.rate == "auth" if route.old_apps is None else route.old_apps
        )
        _check(route)


def is_repeatable(route: Route) -> bool:
    """Does an Idempotency-Key count at this address? Uploads have numbers of their own."""
    return route.method == "POST" and route.key != "none" and _rate(route) != "sync"


def _rate(route: Route) -> Rate:
    if route.rate is not None:
        return route.rate
    if route.vital:
        return "none"
    if route.path.startswith(("/v1/auth/", "/v1/oauth/")):
        return "auth"
    return "read" if route.method == "GET" else "write"


class _Node:
    __slots__ = ("by_literal", "by_parameter", "here", "rest")

    def __init__(self) -> None:
        self.by_literal: dict[str, _Node] = {}
        self.by_parameter: _Node | None = None
        self.here: dict[str, Served] = {}
        self.rest: dict[str, Served] = {}


class Table:
    """Every route of the server. Raises ``DeclarationError`` for two routes of one method and path."""

    def __init__(self, routes: Iterable[Route]):
        self.routes: tuple[Route, ...] = tuple(routes)
        self._exact: dict[str, dict[str, Served]] = {}
        self._root = _Node()
        for route in self.routes:
            self._add(Served(route))

    def _add(self, served: Served) -> None:
        route = served.route
        if not served.names:
            methods = self._exact.setdefault(route.path, {})
        else:
            node = self._root
            for segment in served.segments[: -1 if served.rest else None]:
                if segment is None:
                    node.by_parameter = node.by_parameter or _Node()
                    node = node.by_parameter
                else:
                    node = node.by_literal.setdefault(segment, _Node())
            methods = node.rest if served.rest else node.here
        if route.method in methods:
            raise DeclarationError(f"Two routes answer {route.method} {route.path}.")
        methods[route.method] = served
        if route.method == "GET":
            methods["HEAD"] = served

    def methods(self, path: str) -> tuple[Mapping[str, Served], Sequence[str]]:
        """What answers at a raw ``path``, by method, and the raw parameters. Raises ``NotFound``."""
        methods = self._exact.get(path)
        if methods is not None:
            return methods, ()
        if path.startswith("/"):
            found = _walk(self._root, path[1:].split("/"), 0, ())
            if found is not None:
                return found
        raise NotFound("There is nothing at this address.")

    def find(self, method: str, path: str) -> tuple[Served, dict[str, str]]:
        """The route for ``method`` at a raw ``path``, and its decoded parameters.

        Raises ``NotFound``, ``MethodNotAllowed``, and ``Malformed`` for a parameter that is not UTF-8 or
        holds a control character.
        """
        methods, raw = self.methods(path)
        served = methods.get(method)
        if served is None:
            raise MethodNotAllowed(f"This address does not know {method[:16]}.", allowed=allowed(methods))
        return served, {name: _decoded(value) for name, value in zip(served.names, raw, strict=True)}


def allowed(methods: Mapping[str, Served]) -> list[str]:
    """The value of an Allow header."""
    return [*sorted(methods), "OPTIONS"]


def _walk(
    node: _Node, segments: list[str], at: int, raw: tuple[str, ...]
) -> tuple[Mapping[str, Served], Sequence[str]] | None:
    if at == len(segments):
        return (node.here, raw) if node.here else None
    segment = segments[at]
    literal = node.by_literal.get(segment)
    if literal is not None and (found := _walk(literal, segments, at + 1, raw)) is not None:
        return found
    if segment and node.by_parameter is not None:
        found = _walk(node.by_parameter, segments, at + 1, (*raw, segment))
        if found is not None:
            return found
    if node.rest and segment:
        return node.rest, (*raw, "/".join(segments[at:]))
    return None


def _decoded(value: str) -> str:
    if "%" in value:
        try:
            value = unquote_to_bytes(value).decode("utf-8")
        except UnicodeDecodeError as error:
            raise Malformed("The address is not UTF-8.") from error
    if not value.isprintable() and any(ord(c) < 32 or ord(c) == 127 for c in value):
        raise Malformed("The address holds a control character.")
    return value


def _template(path: str) -> tuple[list[str | None], list[str], bool]:
    """The segments (None for a parameter), the parameters' names, whether the last takes the rest."""
    if not path.startswith("/"):
        raise DeclarationError(f"A path starts with a slash: {path!r}.")
    segments: list[str | None] = []
    names: list[str] = []
    rest = False
    for segment in path[1:].split("/"):
        match = NAME.fullmatch(segment)
        if rest or (match is None and ("{" in segment or "}" in segment)):
            raise DeclarationError(f"This path cannot be read: {path!r}.")
        if match is None:
            segments.append(segment)
            continue
        if match[1] in names:
            raise DeclarationError(f"The path {path!r} has two parameters named {match[1]!r}.")
        names.append(match[1])
        segments.append(None)
        rest = match[2] is not None
    return segments, names, rest


def _check(route: Route) -> None:
    if route.body is not None and route.method == "GET":
        raise DeclarationError(f"GET {route.path} cannot have a body.")
    if route.max_body < 1 or route.deadline <= 0:
        raise DeclarationError(f"{route.method} {route.path} needs a positive max_body and deadline.")
