"""Where in an app's files something was declared: what a finding points at.

A declaration remembers the line of its call. The syntax tree then gives the exact line of an
argument or of a class attribute, so that a mistake in a long call is shown on its own line.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import msgspec


class Place(msgspec.Struct, frozen=True, order=True):
    """A line of a file; line numbers start at 1."""

    file: str
    line: int


def caller() -> Place:
    """The line outside ``lowtide.kernel`` that is running now."""
    frame = sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).startswith("lowtide.kernel."):
        frame = frame.f_back
    return Place(frame.f_code.co_filename, frame.f_lineno)


def argument(call: Place, name: str) -> Place:
    """The line of argument ``name`` in the call at ``call``; the call itself if that is unknown."""
    for node in _calls(call):
        for keyword in node.keywords:
            if keyword.arg == name:
                return Place(call.file, keyword.value.lineno)
    return call


def item(call: Place, name: str, position: int) -> Place:
    """The line of item ``position`` of the list or dict that is argument ``name`` in the call at ``call``."""
    for node in _calls(call):
        for keyword in node.keywords:
            if keyword.arg != name:
                continue
            items = _items(keyword.value)
            where = items[position] if position < len(items) else keyword.value
            return Place(call.file, where.lineno)
    return call


def class_at(decorated: Place) -> ast.ClassDef | None:
    """The class whose decorator or own line is at ``decorated``; ``None`` without its source."""
    for node in ast.walk(_tree(decorated.file)):
        if isinstance(node, ast.ClassDef):
            lines = [node.lineno, *(d.lineno for d in node.decorator_list)]
            if decorated.line in lines:
                return node
    return None


def attributes(node: ast.ClassDef) -> Iterator[tuple[str, int]]:
    """Each name that the body of a class binds or annotates, with its line, in order."""
    for statement in node.body:
        if isinstance(statement, ast.Assign):
            for target in statement.targets:
                if isinstance(target, ast.Name):
                    yield target.id, target.lineno
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            yield statement.target.id, statement.lineno
        elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            yield statement.name, statement.lineno


def defined(call: Callable[..., Any]) -> Place | None:
    """Where a function was written, its first decorator if it has one; ``None`` for what has no code."""
    code = getattr(inspect.unwrap(call), "__code__", None)
    return None if code is None else Place(code.co_filename, code.co_firstlineno)


def parameters(defined: Place) -> dict[str, int]:
    """The line of each parameter of the function whose ``def`` or first decorator is at ``defined``."""
    for node in ast.walk(_tree(defined.file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = [node.lineno, *(d.lineno for d in node.decorator_list)]
            if defined.line in lines:
                a = node.args
                every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, [a.vararg, a.kwarg])]
                return {arg.arg: arg.lineno for arg in every}
    return {}


def _calls(place: Place) -> Iterator[ast.Call]:
    # Two calls may start on one line; the outer one comes first in a walk, and it is the declaration.
    for node in ast.walk(_tree(place.file)):
        if isinstance(node, ast.Call) and node.lineno == place.line:
            yield node


def _items(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.Dict):
        return [key or value for key, value in zip(node.keys, node.values, strict=True)]
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return node.elts
    return []


def _tree(file: str) -> ast.Module:
    linecache.checkcache(file)
    return _parsed("".join(linecache.getlines(file)))


@lru_cache(maxsize=32)
def _parsed(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError):  # a file that changed while it was running: lines of calls remain
        return ast.Module(body=[], type_ignores=[])
