"""The rules that hold for the whole repository, each checked where it is cheap to break."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lowtide
from lowtide.kernel import errors
from lowtide.kernel.errors import LowtideError
from tests.docs.reference import error_classes

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
RUNTIME: list[str] = PROJECT["project"]["dependencies"]
DEVELOPMENT: list[str] = PROJECT["dependency-groups"]["dev"]

# In pieces, so that this file does not break the rule that it checks.
REGISTRIES = ("pypi" + ".org", "python" + "hosted.org", "npm" + "js.org", "npm" + "js.com")
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:ro{2}t|wo[r]k|home/\w+|User[s]/\w+)/")


def project_files() -> list[Path]:
    """Every file in git; in a copy without git, every file that no tool made."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    if (ROOT / ".git").exists() and shutil.which("git"):
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]
    found = []
    for place, folders, files in os.walk(ROOT):
        made = {"node_modules", "__pycache__", "dist", "build"}
        folders[:] = [name for name in folders if name not in made and (name[0] != "." or name == ".ci")]
        found += [Path(place, name) for name in files]
    return found


def pins(lock: str) -> dict[str, tuple[str, int]]:
    """Package name -> (version, number of hashes) in a lock file."""
    text = (ROOT / lock).read_text("utf-8")
    found: dict[str, tuple[str, int]] = {}
    for block in re.split(r"\n(?=[a-z0-9])", text):
        pin = re.match(r"([a-zA-Z0-9._-]+)==(\S+)", block)
        if pin is not None:
            found[canonicalize_name(pin[1])] = (pin[2], block.count("--hash=sha256:"))
    return found


class TestLayers:
    def test_imports_go_downwards(self) -> None:
        """No module imports one of a layer above it."""
        lint = subprocess.run(
            [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert lint.returncode == 0, lint.stdout

    def test_the_kernel_does_no_io(self) -> None:
        """Nothing in the kernel imports what talks to disks or networks."""
        forbidden = {"asyncio", "socket", "sqlite3", "apsw", "asyncpg", "starlette", "uvicorn", "subprocess"}
        for file in (ROOT / "src/lowtide/kernel").glob("*.py"):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not forbidden & {name.split(".")[0] for name in names}, file


class TestPackage:
    @pytest.mark.parametrize("name", lowtide.__all__)
    def test_every_public_name_is_there(self, name: str) -> None:
        """Each name of ``lowtide.__all__`` can be imported."""
        assert getattr(lowtide, name) is not None

    def test_type_checkers_see_the_same_names(self) -> None:
        """The imports for type checkers name what is loaded at run time, no less and no more."""
        tree = ast.parse(Path(lowtide.__file__).read_text("utf-8"))
        block = next(node for node in tree.body if isinstance(node, ast.If))
        seen = [alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names]
        assert sorted(seen) == lowtide.__all__

    def test_an_unknown_name_is_an_attribute_error(self) -> None:
        """A misspelt import fails as in any other package."""
        with pytest.raises(AttributeError, match="Txet"):
            _ = lowtide.Txet

    def test_the_version_is_one(self) -> None:
        """The package says the version that the distribution has."""
        assert lowtide.__version__ == PROJECT["project"]["version"]

    def test_help_imports_nothing_heavy(self) -> None:
        """``lowtide --help`` loads neither server, database, cryptography nor the app's words."""
        script = "import sys; sys.argv = ['lowtide', '--help']\nfrom lowtide.cli import main\n"
        script += "try: main()\nexcept SystemExit: pass\nprint('\\n', *sys.modules, file=sys.stderr)"
        ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        loaded = {name.split(".")[0] for name in ran.stderr.split()}
        heavy = {"apsw", "asyncio", "asyncpg", "cryptography", "httptools", "joserfc", "msgspec"}
        heavy |= {"pycrdt", "rich", "starlette", "uvicorn", "uvloop", "tomllib", "subprocess"}
        assert "lowtide" in loaded
        assert loaded & heavy == set()
        assert "usage: lowtide" in ran.stdout

    def test_every_module_says_what_it_is(self) -> None:
        """Each module of the package starts with a docstring."""
        for file in (ROOT / "src/lowtide").rglob("*.py"):
            tree = ast.parse(file.read_text("utf-8"))
            assert not tree.body or ast.get_docstring(tree), file


class TestErrors:
    def test_every_error_is_drawn_in_the_tree(self) -> None:
        """The tree at the top of the module shows each class, under its parent, with its status."""
        drawn: dict[str, str] = {}
        above: list[str] = []
        for line in (errors.__doc__ or "").splitlines():
            found = re.match(r"( {4}[│├└─ ]*)(\w+)(?: {2,}(\d{3})\b)?", line)
            if found is None or not hasattr(errors, found[2]):
                continue
            above[(len(found[1]) - 4) // 4 :] = [found[2]]
            drawn[found[2]] = above[-2] if len(above) > 1 else "Exception"
            if found[3]:
                assert getattr(errors, found[2]).status == int(found[3]), found[2]
        assert drawn == {cls.__name__: cls.__base__.__name__ for cls in error_classes() if cls.__base__}

    def test_codes_are_unique(self) -> None:
        """No two errors have the same code, and none inherits its parent's."""
        codes = [cls.__dict__["code"] for cls in error_classes()]
        assert len(set(codes)) == len(codes)
        assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)

    @pytest.mark.parametrize("cls", error_classes())
    def test_every_error_can_be_told(self, cls: type[LowtideError]) -> None:
        """An error without arguments has a sentence, a hint and a status that HTTP knows."""
        error = cls()
        assert error.message.endswith(".")
        assert error.hint.endswith(".")
        assert 400 <= error.status <= 599


class TestFiles:
    def test_no_registry_and_no_machine_is_named(self) -> None:
        """No file names a package registry's host or a path of somebody's machine."""
        checked = 0
        for file in project_files():
            try:
                text = file.read_text("utf-8")
            except UnicodeDecodeError:
                continue
            checked += 1
            assert not [host for host in REGISTRIES if host in text], file
            assert MACHINE_PATH.findall(text) == [], file
        assert checked > 20

    def test_the_readme_has_the_two_commands(self) -> None:
        """Whoever opens the repository finds at once what to run."""
        text = (ROOT / "README.md").read_text("utf-8")
        assert "make demo" in text
        assert "make test" in text
        assert "lowtide new" in text

    @pytest.mark.parametrize(
        ("lock", "wanted"), [("requirements.lock", RUNTIME), ("requirements-dev.lock", RUNTIME + DEVELOPMENT)]
    )
    def test_the_lock_files_fit_the_project(self, lock: str, wanted: list[str]) -> None:
        """Each dependency is pinned to a version that pyproject.toml allows, and each pin has a hash."""
        pinned = pins(lock)
        for text in wanted:
            requirement = Requirement(text)
            version, _ = pinned[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version), text
        assert all(hashes > 0 for _, hashes in pinned.values())

    def test_the_server_is_tested_with_the_versions_that_it_pins(self) -> None:
        """Both lock files pin the same versions."""
        development = pins("requirements-dev.lock")
        assert {n: development[n] for n in pins("requirements.lock")} == pins("requirements.lock")

    def test_the_node_lock_fits_its_package(self) -> None:
        """The Node lock file is of the packages in here, and says nothing of where others come from."""
        lock = json.loads((ROOT / "package-lock.json").read_text("utf-8"))["packages"]
        ours = json.loads((ROOT / "package.json").read_text("utf-8"))["workspaces"]
        for place in ours:
            package = json.loads((ROOT / place / "package.json").read_text("utf-8"))
            for kind in ("dependencies", "devDependencies", "peerDependencies"):
                assert lock[place].get(kind) == package.get(kind), place
        for name, entry in lock.items():
            if name in ("", *ours):
                continue
            if entry.get("link"):
                assert entry["resolved"] in ours, name
            else:
                assert entry["integrity"].startswith("sha512-"), name
                assert "resolved" not in entry, name

    def test_no_dependency_forbids_a_use(self) -> None:
        """No pinned package has a licence that binds who runs a server or forbids some use."""
        forbidden = re.compile(
            r"AGPL|Affero|SSPL|Server Side Public|Business Source|BUSL|\bFSL\b", re.IGNORECASE
        )
        for name in pins("requirements.lock"):
            try:
                about = importlib.metadata.metadata(name)
            except importlib.metadata.PackageNotFoundError:
                continue  # for another platform
            fields = [str(about[key])[:200] for key in ("License-Expression", "License") if key in about]
            licence = fields + [c for c in about.get_all("Classifier") or [] if c.startswith("License")]
            assert not forbidden.search(" ".join(licence)), name
