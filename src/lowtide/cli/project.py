"""The project in the current folder: its settings and its app."""

from __future__ import annotations

import os
from pathlib import Path

from lowtide.declare.app import App
from lowtide.declare.load import load_app
from lowtide.kernel.errors import SetupError
from lowtide.settings import FILE, Settings, load


def open_settings() -> Settings:
    """Read ``lowtide.toml``. Raises ``SetupError`` outside of a project, too."""
    folder = Path.cwd()
    settings = load(folder, os.environ)
    place = folder.joinpath(*settings.app.partition(":")[0].split("."))
    if not (place.is_dir() or place.with_name(place.name + ".py").is_file()):
        raise SetupError(
            f"There is no {place.name}.py in {place.parent}.",
            hint=f"Go to a project's folder, make one with 'lowtide new', or set 'app' in {FILE}.",
        )
    return settings


def open_project() -> tuple[Settings, App]:
    """The settings and the app; raises ``SetupError``. The app's declaration is not checked yet."""
    settings = open_settings()
    return settings, load_app(Path.cwd(), settings.app)
