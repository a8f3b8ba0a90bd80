"""The project in the current folder: its settings and its app."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path

from lowtide.kernel.declare import App
from lowtide.kernel.errors import SetupError
from lowtide.settings import FILE, Settings, load


def open_project() -> tuple[Settings, App]:
    """Read ``lowtide.toml`` and import the app that it names. Raises ``SetupError``."""
    folder = Path.cwd()
    settings = load(folder, os.environ)
    return settings, load_app(folder, settings.app)


def load_app(folder: Path, address: str) -> App:
    """Import ``module:name`` from ``folder``; a mistake in it is told with its line."""
    module, _, name = address.partition(":")
    parts = module.split(".")
    if not name.isidentifier() or not all(part.isidentifier() for part in parts):
        raise SetupError(
            f"'{address}' is not a module and a name.", hint='Write app = "app:app" in lowtide.toml.'
        )
    if not (folder.joinpath(*parts).is_dir() or folder.joinpath(*parts).with_suffix(".py").is_file()):
        raise SetupError(
            f"There is no {'/'.join(parts)}.py in {folder}.",
            hint=f"Go to a project's folder, make one with 'lowtide new', or set 'app' in {FILE}.",
        )
    sys.path.insert(0, str(folder))
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:
        raise SetupError(_where(folder, error), hint="Mend it, and start again.") from error
    if not isinstance(found, App):
        raise SetupError(f"'{name}' in {module} is not an App.", hint=f'Write there: {name} = App("todo").')
    return found


def _where(folder: Path, error: Exception) -> str:
    """The error and the last line of the developer's own files that led to it."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {error.msg}."
    told = f"{type(error).__name__}: {error}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).is_relative_to(folder) and ".venv" not in frame.filename:
            return f"{Path(frame.filename).relative_to(folder)}, line {frame.lineno}: {told}."
    return f"{told}."
