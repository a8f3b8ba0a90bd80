"""Finding the ``App`` in a developer's files."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from lowtide.kernel.check import check
from lowtide.kernel.declare import App
from lowtide.kernel.errors import DeclarationError
from lowtide.kernel.findings import Finding, Findings, refusal
from lowtide.kernel.place import Place

FILE = "app.py"
"""Where an app is in its folder."""


def load_app(path: Path | str) -> App:
    """Import an app's file and answer its ``App``; the declaration is not checked yet.

    ``path``: a folder with ``app.py``, a Python file, either of them with ``:name`` behind it where the
    file holds several apps, or ``package.module:name``. The file's folder joins ``sys.path``, as if
    Python ran the file, and what was imported from it earlier is imported anew.

    Raises ``DeclarationError`` with one finding: no such file, what Python raised and in which line of
    the app's files, no ``App`` or several.
    """
    target, name = _parts(str(path))
    file = target / FILE if target.is_dir() else target
    if file.is_file():
        module = _run(file.resolve())
    elif name and all(part.isidentifier() for part in str(target).split(".")):
        module = _import(str(target))
    else:
        raise _error(
            Place(str(file), 1), "not-found", f"there is no file {file}", "Name the folder that holds app.py."
        )
    return _app_in(module, name)


def check_path(path: Path | str) -> list[Finding]:
    """``load_app`` and ``check`` in one: every finding, also of an app that cannot be imported."""
    try:
        return check(load_app(path))
    except DeclarationError as error:
        return list(error.details["findings"])


def _parts(path: str) -> tuple[Path, str]:
    before, colon, after = path.rpartition(":")
    if colon and after.isidentifier() and not Path(path).exists():
        return Path(before), after
    return Path(path), ""


def _run(file: Path) -> ModuleType:
    folder, name = file.parent, file.stem
    if name == "lowtide" or name in sys.stdlib_module_names:
        raise _error(Place(str(file), 1), "file-name", f"{name!r} is a module of its own", "Rename the file.")
    for known, module in list(sys.modules.items()):
        if known == name or _lies_in(folder, known, module):
            del sys.modules[known]
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise _error(
            Place(str(file), 1), "not-found", f"{file.name} is not Python", "Name a file that ends in .py."
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        raise _raised(error, folder, Place(str(file), 1)) from error
    return module


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        spec = _found_spec(name)
        file = Path(spec) if spec else Path(name)
        raise _raised(error, file.parent, Place(str(file), 1)) from error


def _found_spec(name: str) -> str | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return None if spec is None else spec.origin


def _raised(error: BaseException, folder: Path, fallback: Place) -> DeclarationError:
    """What Python raised while importing, at the innermost line that belongs to the app."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return _error(
            Place(error.filename, error.lineno),
            "syntax",
            f"Python cannot read this: {error.msg}",
            "Mend the line.",
        )
    place = fallback
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.lineno is not None and _is_in(folder, frame.filename):
            place = Place(frame.filename, frame.lineno)
    hint = "Importing the app must only declare; mend the line."
    if isinstance(error, ModuleNotFoundError):
        hint = f"Install the package that holds {error.name!r} beside lowtide, or correct the name."
    return _error(place, "import", f"{type(error).__name__}: {error}", hint)


def _app_in(module: ModuleType, name: str) -> App:
    place = Place(module.__file__ or module.__name__, 1)
    if name:
        app = getattr(module, name, None)
        if isinstance(app, App):
            return app
        raise _error(place, "no-app", f"{name!r} is not an App here", "Write app = App('name') in the file.")
    apps = {id(value): value for value in vars(module).values() if isinstance(value, App)}
    if len(apps) == 1:
        return next(iter(apps.values()))
    if isinstance(getattr(module, "app", None), App):
        return module.app  # type: ignore[no-any-return]
    if apps:
        raise _error(
            place, "many-apps", "the file holds several apps", "Name one of them 'app', or add ':name'."
        )
    raise _error(place, "no-app", "the file holds no App", "Write app = App('name').")


def _lies_in(folder: Path, name: str, module: ModuleType) -> bool:
    """Whether a module was imported from the folder itself, and not from an environment inside it."""
    file = getattr(module, "__file__", None)
    if not file or not Path(file).resolve().is_relative_to(folder):
        return False
    top = name.partition(".")[0]
    return (folder / f"{top}.py").is_file() or (folder / top).is_dir()


def _is_in(folder: Path, file: str) -> bool:
    inside = Path(file).resolve()
    return inside.is_relative_to(folder) and "site-packages" not in inside.relative_to(folder).parts


def _error(place: Place, code: str, message: str, hint: str) -> DeclarationError:
    found = Findings()
    found.error(place, code, message, hint)
    return refusal(found.sorted())
