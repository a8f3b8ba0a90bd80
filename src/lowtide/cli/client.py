"""``lowtide client``: the schema, typed models and the connector of an app, in a phone's language."""

from __future__ import annotations

import argparse
from pathlib import Path

from lowtide.cli.project import open_project
from lowtide.clients import describe, generate
from lowtide.clients.platforms import MARK
from lowtide.kernel.errors import SetupError


def run(arguments: argparse.Namespace) -> None:
    """Write the files. Raises ``DeclarationError`` for an app that cannot start, and ``SetupError`` rather
    than write over a file that somebody else wrote; then nothing is written."""
    _, app = open_project()
    files = generate(arguments.platform, describe(app.compile()))
    folder = Path(arguments.output)
    try:
        for name in files:
            there = folder / name
            if there.exists() and not there.read_text("utf-8", "replace").startswith(MARK):
                raise SetupError(
                    f"{there} is there already, and was not made by this command.",
                    hint="Move it, or choose another folder with -o.",
                )
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, "utf-8")
    except OSError as error:
        raise SetupError(
            f"{folder} cannot be written: {error.strerror}.", hint="Choose another folder with -o."
        ) from error
    print(f"Wrote {', '.join(str(folder / name) for name in files)}.")
