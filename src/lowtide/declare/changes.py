"""What ``evolve`` found between two schemas."""

from __future__ import annotations

from typing import Literal

import msgspec

Effect = Literal["refuse", "warn", "ok"]
"""refuse: breaks devices in the field or stored records. warn: somebody will notice. ok: nobody will."""

_ORDER: dict[Effect, int] = {"refuse": 0, "warn": 1, "ok": 2}


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One difference. ``code`` is stable; ``subject`` is ``task``, ``task.title``, ``stream team`` ..."""

    severity: Effect
    code: str
    subject: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        hint = f"\n    {self.hint}" if self.hint else ""
        return f"{self.severity}: {self.subject}: {self.message} [{self.code}]{hint}"


class Changes:
    """Collects changes while two schemas are compared."""

    def __init__(self) -> None:
        self._found: list[Difference] = []

    def refuse(self, code: str, subject: str, message: str, hint: str) -> None:
        self._found.append(
            Difference(severity="refuse", code=code, subject=subject, message=message, hint=hint)
        )

    def warn(self, code: str, subject: str, message: str, hint: str) -> None:
        self._found.append(
            Difference(severity="warn", code=code, subject=subject, message=message, hint=hint)
        )

    def ok(self, code: str, subject: str, message: str) -> None:
        self._found.append(Difference(severity="ok", code=code, subject=subject, message=message))

    def sorted(self) -> list[Difference]:
        """The gravest first, then by subject."""
        return sorted(self._found, key=lambda c: (_ORDER[c.severity], c.subject, c.code, c.message))
