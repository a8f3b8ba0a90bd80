"""Finding the ``App`` in a developer's files."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from lowtide.declare.app import App
from lowtide.declare.check import check
from lowtide.declare.findings import Finding, Findings, refusal
from lowtide.declare.place import Place
from lowtide.kernel.errors import DeclarationError


def load_app(path: Path | str, address: str = "app") -> App:
    """Import an app's module from a folder and answer its ``App``; the declaration is not checked yet.

    ``path``: the folder, or a Python file in it. ``address``: ``module`` or ``module:name``; the name
    is needed only where a module holds several apps and none is called ``app``. The folder becomes the
    first of ``sys.path``, as if Python ran the file, and what was imported from it is imported anew.

    Raises ``DeclarationError`` with one finding: no such module, what Python raised and in which line
    of the app's files, no ``App`` or several.
    """
    folder = Path(path).resolve()
    name, _, attribute = address.partition(":")
    if folder.is_file():
        folder, name = folder.parent, folder.stem
    if not all(part.isidentifier() for part in name.split(".")):
        raise _error(
            Place(str(folder), 1), "not-found", f"{name!r} is no module", "Write 'app' or 'app:name'."
        )
    file = _file(folder, name)
    place = Place(str(file), 1)
    if not file.is_file():
        raise _error(place, "not-found", f"there is no file {file}", "Name the folder that holds app.py.")
    if name == "lowtide" or name in sys.stdlib_module_names:
        raise _error(place, "file-name", f"{name!r} is a module of Python or of Lowtide", "Rename the file.")
    return _app_in(_import(folder, name, place), attribute, place)


def check_path(path: Path | str, address: str = "app") -> list[Finding]:
    """``load_app`` and ``check`` in one: every finding, also of an app that cannot be imported."""
    try:
        return check(load_app(path, address))
    except DeclarationError as error:
        return list(error.details["findings"])


def _file(folder: Path, name: str) -> Path:
    inside = folder.joinpath(*name.split("."))
    package = inside / "__init__.py"
    return package if package.is_file() else inside.with_name(inside.name + ".py")


def _import(folder: Path, name: str, place: Place) -> ModuleType:
    for known, module in list(sys.modules.items()):
        if known == name.partition(".")[0] or _comes_from(folder, known, module):
            del sys.modules[known]
    sys.path[:] = [str(folder), *(entry for entry in sys.path if entry != str(folder))]
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise _raised(error, folder, place) from error


def _comes_from(folder: Path, name: str, module: ModuleType) -> bool:
    """Whether a module is the folder's own, and not of an environment that lies inside it."""
    file = getattr(module, "__file__", None)
    if not file or not Path(file).resolve().is_relative_to(folder):
        return False
    top = name.partition(".")[0]
    return (folder / f"{top}.py").is_file() or (folder / top).is_dir()


def _raised(error: BaseException, folder: Path, fallback: Place) -> DeclarationError:
    """What Python raised while importing, at the innermost line that belongs to the app."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        place = Place(error.filename, error.lineno)
        return _error(place, "syntax", f"Python cannot read this: {error.msg}", "Mend the line.")
    place = fallback
    for frame in traceback.extract_tb(error.__traceback__):
        file = Path(frame.filename)
        if file.is_relative_to(folder) and "site-packages" not in file.parts and frame.lineno:
            place = Place(frame.filename, frame.lineno)
    hint = "Importing the app must only declare. Mend the line."
    if isinstance(error, ModuleNotFoundError):
        hint = f"Install the package that holds {error.name!r} beside lowtide, or correct the name."
    return _error(place, "import", f"{type(error).__name__}: {error}", hint)


def _app_in(module: ModuleType, name: str, place: Place) -> App:
    apps = {id(value): value for value in vars(module).values() if isinstance(value, App)}
    chosen = getattr(module, name or "app", None)
    if isinstance(chosen, App):
        return chosen
    if name:
        raise _error(place, "no-app", f"{name!r} is not an App here", f'Write {name} = App("todo").')
    if len(apps) == 1:
        return next(iter(apps.values()))
    if apps:
        raise _error(place, "many-apps", "the file holds several apps", "Name one of them 'app'.")
    raise _error(place, "no-app", "the file holds no App", 'Write app = App("todo").')


def _error(place: Place, code: str, message: str, hint: str) -> DeclarationError:
    found = Findings()
    found.error(place, code, message, hint)
    return refusal(found.sorted())
