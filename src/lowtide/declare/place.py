"""Where in an app's files something was declared: what a finding points at.

A declaration remembers the line of its call. The syntax tree then gives the exact line of an
argument or of a class attribute, so that a mistake in a long call is shown on its own line.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import os
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
    """The line outside ``lowtide.declare`` that is running now."""
    frame = sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).startswith(
        "lowtide.declare."
    ):
        frame = frame.f_back
    return Place(frame.f_code.co_filename, frame.f_lineno)


def argument(call: Place, name: str) -> Place:
    """The line of argument ``name`` in the call at ``call``; the call itself if that is unknown."""
    value = _argument(call, name)
    return call if value is None else Place(call.file, value.lineno)


def item(call: Place, name: str, position: int) -> Place:
    """The line of item ``position`` of the list or dict that is argument ``name`` in the call at ``call``."""
    value = _argument(call, name)
    if value is None:
        return call
    items: list[Any] = []
    if isinstance(value, ast.Dict):
        items = [key or at for key, at in zip(value.keys, value.values, strict=True)]
    elif isinstance(value, ast.List | ast.Tuple):
        items = value.elts
    return Place(call.file, (items[position] if position < len(items) else value).lineno)


def attributes(decorated: Place) -> Iterator[tuple[str, int]]:
    """Each name that the body of a class binds or annotates, with its line, in order.

    ``decorated``: a line of the class's decorators, or its own. Nothing without its source.
    """
    node = _source(decorated.file).classes.get(decorated.line)
    for statement in node.body if node else ():
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
    node = _source(defined.file).functions.get(defined.line)
    if node is None:
        return {}
    a = node.args
    every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, [a.vararg, a.kwarg])]
    return {arg.arg: arg.lineno for arg in every}


class _Source:
    """A file's declarations by their lines. Where several start in one line, the outermost comes first."""

    def __init__(self, tree: ast.Module):
        self.calls: dict[int, list[ast.Call]] = {}
        self.classes: dict[int, ast.ClassDef] = {}
        self.functions: dict[int, ast.FunctionDef | ast.AsyncFunctionDef] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                self.calls.setdefault(node.lineno, []).append(node)
            elif isinstance(node, ast.ClassDef):
                for line in _lines(node):
                    self.classes.setdefault(line, node)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for line in _lines(node):
                    self.functions.setdefault(line, node)


def _lines(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> list[int]:
    return [node.lineno, *(decorator.lineno for decorator in node.decorator_list)]


def _argument(call: Place, name: str) -> ast.expr | None:
    for node in _source(call.file).calls.get(call.line, ()):
        for keyword in node.keywords:
            if keyword.arg == name:
                return keyword.value
    return None


def _source(file: str) -> _Source:
    try:
        stat = os.stat(file)
    except OSError:  # code that came from no file
        return _read(file, None)
    return _read(file, (stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=64)
def _read(file: str, version: tuple[int, int] | None) -> _Source:
    linecache.checkcache(file)
    try:
        return _Source(ast.parse("".join(linecache.getlines(file))))
    except (SyntaxError, ValueError):  # a file that changed while it was running: lines of calls remain
        return _Source(ast.Module(body=[], type_ignores=[]))
