"""What ``check`` found in an app: each finding with its place and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

import msgspec

from lowtide.declare.place import Place
from lowtide.kernel.errors import DeclarationError

Severity = Literal["error", "warning", "note"]
"""error: the app does not start. warning: it does, and something is probably not meant. note: to know."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing found. ``code`` is stable; ``str`` is two lines for a terminal."""

    file: str
    line: int
    severity: Severity
    code: str
    message: str
    hint: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.severity}: {self.message} [{self.code}]\n    {self.hint}"


class Findings:
    """Collects findings while an app is read."""

    def __init__(self) -> None:
        self._found: list[Finding] = []

    def error(self, place: Place, code: str, message: str, hint: str) -> None:
        self._add(place, "error", code, message, hint)

    def warning(self, place: Place, code: str, message: str, hint: str) -> None:
        self._add(place, "warning", code, message, hint)

    def note(self, place: Place, code: str, message: str, hint: str) -> None:
        self._add(place, "note", code, message, hint)

    def sorted(self) -> list[Finding]:
        """Each finding once, by file and line."""
        return sorted(dict.fromkeys(self._found), key=lambda f: (f.file, f.line))

    def _add(self, place: Place, severity: Severity, code: str, message: str, hint: str) -> None:
        self._found.append(
            Finding(
                file=place.file, line=place.line, severity=severity, code=code, message=message, hint=hint
            )
        )


def refusal(findings: list[Finding]) -> DeclarationError:
    """The error that carries every finding as ``details["findings"]``."""
    errors = [f for f in findings if f.severity == "error"]
    count = "one mistake" if len(errors) == 1 else f"{len(errors)} mistakes"
    lines = "\n".join(str(finding) for finding in errors)
    return DeclarationError(f"the app's declaration has {count}\n{lines}", findings=findings)


def suggestion(name: object, known: Iterable[str]) -> str:
    """A hint that names what was probably meant, or else everything that is known."""
    names = sorted(known)
    from difflib import get_close_matches

    close = get_close_matches(str(name), names, n=1)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Known here: {', '.join(names)}." if names else "Nothing of the kind is declared."


_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_RESERVED = {
    # The client SDKs and the databases keep tables of their own under these.
    "model": ("ps_", "powersync_", "sqlite_", "pg_"),
}
_TAKEN = {
    # Columns that every client table, or every PostgreSQL table, already has.
    "field": ("id", "ctid", "cmin", "cmax", "xmin", "xmax", "tableoid"),
}


def check_name(found: Findings, place: Place, what: str, name: object, longest: int = 63) -> bool:
    """Report a name that cannot name ``what``: no identifier, too long or reserved.

    63 characters is what PostgreSQL keeps of an identifier.
    """
    form = "Use ASCII letters, digits and _, and start with a letter."
    if not isinstance(name, str):
        found.error(place, "name", f"{name!r} cannot name a {what}", form)
    elif _reserved(what, name.lower()):
        found.error(place, "reserved-name", f"the name {name!r} is reserved", f"Rename the {what}.")
    elif not _IDENTIFIER.fullmatch(name):
        found.error(place, "name", f"{name!r} cannot name a {what}", form)
    elif len(name) > longest:
        found.error(place, "name", f"the name {name!r} is too long", f"Use at most {longest} characters.")
    else:
        return True
    return False


def _reserved(what: str, name: str) -> bool:
    prefixes = ("_", "lowtide_", *_RESERVED.get(what, ()))
    return name == "lowtide" or name.startswith(prefixes) or name in _TAKEN.get(what, ())
