"""``lowtide new``: a small app that runs as it is, to be changed line by line."""

from __future__ import annotations

import argparse
import re
from importlib import resources
from pathlib import Path

from lowtide.kernel.errors import SetupError

FILES = {
    "app.py": "app.py",
    "lowtide.toml": "lowtide.toml",
    "README.md": "README.md",
    # Under its own name it would hide files of this package from git and from the wheel.
    "gitignore": ".gitignore",
}
PLACEHOLDER = "starter"
"""The app's name in the templates, which are files that work as they are."""


def run(arguments: argparse.Namespace) -> None:
    """Write the example. Raises ``SetupError`` rather than touch a file that is there."""
    folder = Path(arguments.folder)
    name = folder.resolve().name
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", name):
        raise SetupError(
            f"'{name}' cannot be an app's name.",
            hint="Start with a small letter, and use small letters, digits, '-' and '_' only.",
        )
    try:
        if folder.exists() and any(folder.iterdir()):
            raise SetupError(f"The folder {folder} is not empty.", hint="Choose another name.")
        folder.mkdir(parents=True, exist_ok=True)
        for source, target in FILES.items():
            text = resources.files("lowtide.templates").joinpath(source).read_text("utf-8")
            (folder / target).write_text(text.replace(PLACEHOLDER, name), "utf-8")
    except OSError as error:
        raise SetupError(
            f"{folder} cannot be written: {error.strerror}.", hint="Choose another folder."
        ) from error
    print(f"Wrote {folder}: {', '.join(FILES.values())}.\n\nNext:\n  cd {folder}\n  lowtide dev")
