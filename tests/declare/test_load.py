"""``load_app`` finds the app in a developer's files, and says where they cannot be read."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from lowtide.declare.findings import Finding
from lowtide.declare.load import check_path, load_app
from lowtide.kernel.errors import DeclarationError

APP = "from lowtide import App\napp = App('todo')\n"


@pytest.fixture(autouse=True)
def _modules() -> Iterator[None]:
    """What a test imported is forgotten after it."""
    path, modules = list(sys.path), dict(sys.modules)
    yield
    sys.path[:] = path
    for name in sys.modules.keys() - modules.keys():
        del sys.modules[name]


def write(folder: Path, **files: str) -> Path:
    """Each file in the folder; ``shop_in_parts`` is ``shop/parts.py``."""
    for name, text in files.items():
        file = folder / (name.replace("_in_", "/") + ".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text), "utf-8")
    return folder


def only(path: Path, address: str = "app") -> Finding:
    (finding,) = check_path(path, address)
    with pytest.raises(DeclarationError) as raised:
        load_app(path, address)
    assert raised.value.details["findings"] == [finding]
    return finding


def test_the_app_of_a_folder_is_found(tmp_path: Path) -> None:
    """A folder stands for its app.py, and a file for itself."""
    write(tmp_path, app=APP, other=APP.replace("todo", "other"))
    assert load_app(tmp_path).name == "todo"
    assert load_app(str(tmp_path)).name == "todo"
    assert load_app(tmp_path / "other.py").name == "other"


def test_an_address_names_a_module_and_an_app(tmp_path: Path) -> None:
    """Modules may lie in packages, and hold several apps."""
    write(
        tmp_path,
        app="from lowtide import App\na = App('a')\nb = App('b')\n",
        shop_in___init__="from .parts import shop\n",
        shop_in_parts="from lowtide import App\nshop = App('shop')\n",
    )
    assert load_app(tmp_path, "app:b").name == "b"
    assert load_app(tmp_path, "shop").name == "shop"
    assert load_app(tmp_path, "shop.parts:shop").name == "shop"


def test_modules_beside_the_app_are_imported_and_may_import_it(tmp_path: Path) -> None:
    """A declaration may be spread over files, and there is one App however it is imported."""
    write(
        tmp_path,
        app="from lowtide import App\napp = App('todo')\nimport todo_models\n",
        todo_models="""
            from app import app
            from lowtide import Text
            @app.model
            class Task:
                title = Text(default=5)
        """,
    )
    findings = check_path(tmp_path)
    assert [m.name for m in load_app(tmp_path).models] == ["task"]
    (mistake,) = [f for f in findings if f.severity == "error"]
    assert (mistake.file, mistake.line, mistake.code) == (str(tmp_path / "todo_models.py"), 6, "default")


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    """Loading twice in one process sees what was written in between, also in modules beside the app."""
    write(tmp_path, app="import todo_parts\nfrom todo_parts import app\n", todo_parts=APP)
    assert load_app(tmp_path).name == "todo"
    write(tmp_path, todo_parts=APP.replace("todo", "changed"))
    assert load_app(tmp_path).name == "changed"


def test_loading_forgets_nothing_that_is_not_the_apps(tmp_path: Path) -> None:
    """Packages of an environment inside the folder, and Lowtide itself, are imported once."""
    write(tmp_path, app="import lib_env\n" + APP)
    environment = write(tmp_path / "env" / "site-packages", lib_env="")
    sys.path.append(str(environment))
    load_app(tmp_path)
    library, lowtide = sys.modules["lib_env"], sys.modules["lowtide"]
    load_app(tmp_path)
    assert sys.modules["lib_env"] is library
    assert sys.modules["lowtide"] is lowtide


@pytest.mark.parametrize(
    ("text", "line", "code", "message"),
    [
        ("x = 1\ndef broken(:\n    pass\n", 2, "syntax", "invalid syntax"),
        ("x = 1\n  y = 2\n", 2, "syntax", "unexpected indent"),
        ("x = 'never ends\n", 1, "syntax", "unterminated string"),
        ("\nimport no_such_package_at_all\n", 2, "import", "no_such_package_at_all"),
        ("from lowtide import Txt\n", 1, "import", "Txt"),
        ("def f():\n    return 1 / 0\n\nf()\n", 2, "import", "ZeroDivisionError"),
        ("import sys\nsys.exit(3)\n", 2, "import", "SystemExit"),
        (APP + "from lowtide import Text\nclass T:\n    a = Text('title')\n", 5, "import", "TypeError"),
        (APP + "@app.model(uniqe=[])\nclass T: ...\n", 3, "import", "uniqe"),
        (APP + "class T: ...\napp.stream('s', carries=[T],\n  keys=T.where(a=1).b)\n", 5, "import", "where"),
        ("x = 1\n", 1, "no-app", "no App"),
        ("from lowtide import App\na = App('a')\nb = App('b')\n", 1, "many-apps", "several"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_finding_with_its_line(
    tmp_path: Path, text: str, line: int, code: str, message: str
) -> None:
    """What Python raises is shown in the app's own line, with what to do; it raises nothing else."""
    write(tmp_path, app=text)
    finding = only(tmp_path)
    assert (finding.file, finding.line, finding.code) == (str(tmp_path / "app.py"), line, code)
    assert message in finding.message
    assert finding.hint
    assert "app" not in sys.modules or code in ("no-app", "many-apps")


def test_a_mistake_in_a_module_beside_is_shown_there(tmp_path: Path) -> None:
    """The innermost of the app's own files is named."""
    write(tmp_path, app="import todo_broken\n" + APP, todo_broken="\n\nx = [\n")
    finding = only(tmp_path)
    assert (finding.file, finding.line, finding.code) == (str(tmp_path / "todo_broken.py"), 3, "syntax")
    write(tmp_path, todo_broken="\nimport json\njson.loads('[')\n")
    finding = only(tmp_path)
    assert (finding.file, finding.line, finding.code) == (str(tmp_path / "todo_broken.py"), 3, "import")


@pytest.mark.parametrize("address", ["app", "app:app", "no.such", "../app", "a b", "", ":", "app/../app"])
def test_no_file_is_one_finding(tmp_path: Path, address: str) -> None:
    """A folder without the module is not a crash, and no address leaves the folder."""
    write(tmp_path / "inner", other="raise SystemExit('imported')")
    assert only(tmp_path / "inner", address).code == "not-found"
    assert only(tmp_path / "nowhere", address).code == "not-found"


def test_a_name_of_another_module_is_refused(tmp_path: Path) -> None:
    """An app in json.py would hide Python's own json from every package."""
    write(tmp_path, json=APP)
    before = sys.modules["json"]
    assert only(tmp_path / "json.py").code == "file-name"
    assert sys.modules["json"] is before


def test_a_name_that_is_no_app_is_refused(tmp_path: Path) -> None:
    """An address names an App and nothing else."""
    write(tmp_path, app=APP + "other = 5\n")
    assert only(tmp_path, "app:other").code == "no-app"
    assert only(tmp_path, "app:missing").code == "no-app"
