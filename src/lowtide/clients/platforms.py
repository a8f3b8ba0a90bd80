"""Which platforms code is generated for, and what each gets."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib import resources

from lowtide.clients import dart, kotlin, swift, typescript
from lowtide.clients.described import Described
from lowtide.storage.db import load_queries

MARK = '// Made by "lowtide'
"""How each file begins: what begins otherwise is somebody's own, and is not written over."""

PLATFORMS: Mapping[str, Callable[[Described], dict[str, str]]] = {
    "typescript": lambda app: {
        "schema.ts": typescript.schema(app),
        "lowtide.js": runtime("typescript", "lowtide.js"),
        "lowtide.d.ts": runtime("typescript", "lowtide.d.ts"),
    },
    "swift": lambda app: {
        "LowtideSchema.swift": swift.schema(app),
        "LowtideConnector.swift": connector("swift", "swift"),
    },
    "kotlin": lambda app: {
        "LowtideSchema.kt": kotlin.schema(app),
        "LowtideConnector.kt": connector("kotlin", "kt").replace("@package@", kotlin.package(app)),
    },
    "dart": lambda app: {
        "lowtide_schema.dart": dart.schema(app),
        "lowtide_connector.dart": connector("dart", "dart"),
    },
}
"""Platform -> what makes its files, by name."""


def generate(platform: str, app: Described) -> dict[str, str]:
    """The files of one of ``PLATFORMS``, by name. The same app gives the same bytes."""
    return PLATFORMS[platform](app)


def connector(platform: str, suffix: str) -> str:
    """The connector in the language of ``suffix``, with the queue's SQL in its place."""
    queries = load_queries("lowtide.clients", "queue.sql")
    text = runtime(platform, f"connector.{suffix}")
    for name in queries.names():
        sql = queries[name].sqlite
        # On a line of its own it stands as deep as the line: Swift takes the depth off again.
        text = re.sub(
            rf"^( *)@{name}@$",
            lambda found, sql=sql: "\n".join(found[1] + line for line in sql.splitlines()),  # type: ignore[misc]
            text,
            flags=re.MULTILINE,
        )
        text = text.replace(f"@{name}@", sql)
    return text


def runtime(platform: str, name: str) -> str:
    """A file that every app of a platform gets alike, with the mark at its beginning."""
    text = resources.files("lowtide.clients.runtime").joinpath(name).read_text("utf-8")
    return f'{MARK} client {platform}". Run it again after an update of the server.\n{text}'
