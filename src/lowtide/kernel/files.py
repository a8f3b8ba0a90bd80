"""Files that come with the project's own packages."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def folder_of(package: str) -> Path:
    """The folder of an installed package, such as ``lowtide.sync``. ``ModuleNotFoundError`` without one.

    For packages in folders, which is how Lowtide is installed. ``importlib.resources`` reads archives too,
    and would bring zipfile, tempfile and their libraries into the memory of every server.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"there is no package {package!r}")
    return Path(spec.submodule_search_locations[0])
