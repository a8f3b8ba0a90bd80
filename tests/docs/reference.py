"""The parts of the reference that are made from the code. ``python -m tests.docs.reference`` writes them.

A page holds ``<!-- made from ... -->`` and ``<!-- end -->``; what stands between is made here, the rest is
written by hand.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lowtide.cli import build_parser
from lowtide.kernel import errors
from lowtide.kernel.errors import LowtideError, SetupError
from lowtide.settings import PREFIX, Settings
from tests.docs.pages import DOCS

PARTS: dict[str, Callable[[], str]] = {}
_PART = re.compile(r"(<!-- made from ([\w./ ]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def part(source: str) -> Callable[[Callable[[], str]], Callable[[], str]]:
    """Declare what makes the part that is ``made from source``."""

    def declare(make: Callable[[], str]) -> Callable[[], str]:
        PARTS[source] = make
        return make

    return declare


def made(page: Path) -> str:
    """The page as it should be."""
    return _PART.sub(lambda found: f"{found[1]}\n{PARTS[found[2]]()}\n{found[4]}", page.read_text("utf-8"))


def holding_parts() -> Iterator[Path]:
    """The pages with a part that is made."""
    for page in sorted(DOCS.rglob("*.md")):
        if _PART.search(page.read_text("utf-8")):
            yield page


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(columns)} |", f"|{'|'.join('---' for _ in columns)}|"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


# -- errors --------------------------------------------------------------------------------------------


def error_classes(parent: type[LowtideError] = LowtideError) -> list[type[LowtideError]]:
    """Every class of the tree that the error module defines, in the order of the tree."""
    found = [parent]
    for child in parent.__subclasses__():
        if child.__module__ == errors.__name__:
            found += error_classes(child)
    return found


@part("kernel/errors.py")
def http_errors() -> str:
    """The errors that an address may answer."""
    rows = [
        (str(kind.status), f"`{kind.code}`", (kind.__doc__ or "").splitlines()[0], kind.hint)
        for kind in error_classes()
        if kind.status != 500 and not issubclass(kind, SetupError)
    ]
    return table(("status", "code", "what it says", "what to do"), sorted(rows, key=lambda row: row[0]))


@part("kernel/errors.py at start")
def setup_errors() -> str:
    """The errors that keep a server or a command from starting."""
    rows = [
        (f"`{kind.code}`", (kind.__doc__ or "").splitlines()[0], kind.hint)
        for kind in error_classes(SetupError)
    ]
    return table(("code", "what it says", "what to do"), rows)


# -- the command line ----------------------------------------------------------------------------------


@part("cli/__init__.py")
def commands() -> str:
    """Every command with its words, as ``--help`` lists them."""
    return "\n".join(_command(parser, path) for path, parser in every_command())


def every_command() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Each command for people, such as ``lowtide keys rotate``."""
    yield from _commands(build_parser(), ("lowtide",))


def _commands(
    parser: argparse.ArgumentParser, path: tuple[str, ...]
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                if child.description is None:  # a command of Lowtide's own
                    continue
                if child.get_default("command"):
                    yield " ".join((*path, name)), child
                yield from _commands(child, (*path, name))


def _command(parser: argparse.ArgumentParser, path: str) -> str:
    options = [
        action
        for action in parser._actions
        if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction)
        and action.dest != "debug"
    ]
    words = "".join(f" {_usage(action)}" for action in options)
    text = f"### `{path}{words}`\n\n{parser.description}\n"
    rows = [(f"`{_name(action)}`", (action.help or "").strip()) for action in options if action.help]
    return text + ("\n" + table(("word", "meaning"), rows) if rows else "")


def _name(action: argparse.Action) -> str:
    if not action.option_strings:
        return action.dest
    value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
    return ", ".join(action.option_strings) + value


def _usage(action: argparse.Action) -> str:
    name = _name(action)
    if not action.option_strings:
        return f"[{name}]" if action.nargs == "?" else name
    return name if action.required else f"[{name}]"


# -- settings ------------------------------------------------------------------------------------------


@part("settings.py")
def settings() -> str:
    """Every key with its default and its meaning."""
    meanings = attribute_texts(Settings)
    rows = []
    for field in msgspec.structs.fields(Settings):
        default = _shown(field.default)
        rows.append((f"`{field.name}`", f"`{PREFIX}{field.name.upper()}`", default, meanings[field.name]))
    return table(("key", "in the environment", "default", "meaning"), rows)


def attribute_texts(kind: type) -> dict[str, str]:
    """The docstring behind each attribute of a class, in one line."""
    (body,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for attribute, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(attribute, ast.AnnAssign) and isinstance(attribute.target, ast.Name):
            assert isinstance(text, ast.Expr), attribute.target.id
            assert isinstance(text.value, ast.Constant), attribute.target.id
            found[attribute.target.id] = " ".join(str(text.value.value).replace("``", "`").split())
    return found


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return f"`{list(value)!r}`".replace("'", '"') if value else "none"
    return f"`{value}`"


if __name__ == "__main__":
    for stale in holding_parts():
        stale.write_text(made(stale), "utf-8")
