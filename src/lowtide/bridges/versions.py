"""The oldest schema of an app that the bridges still serve."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from lowtide.kernel.errors import AppTooOld, SetupError

_SETTING = re.compile(r"(watermelondb|rxdb/[a-z][a-z0-9_]{0,62}) +([0-9]{1,9})")

WATERMELONDB = "watermelondb"


def read_oldest(settings: Iterable[str]) -> dict[str, int]:
    """The setting ``bridge_schemas``: ``watermelondb 3`` or ``rxdb/task 1`` each. Raises ``SetupError``."""
    found: dict[str, int] = {}
    for text in settings:
        match = _SETTING.fullmatch(text.strip())
        if match is None or match[1] in found:
            raise SetupError(
                f"Setting 'bridge_schemas': {text!r} cannot be read, or is there twice.",
                hint='Write: bridge_schemas = ["watermelondb 3", "rxdb/task 1"].',
            )
        found[match[1]] = int(match[2])
    return found


def check_schema(oldest: Mapping[str, int], name: str, version: int) -> None:
    """Raises ``AppTooOld`` for a schema that is no longer served."""
    least = oldest.get(name, 0)
    if version < least:
        raise AppTooOld(
            f"This app's schema has version {version}; the oldest that is served is {least}.",
            minimum=str(least),
        )
