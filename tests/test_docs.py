"""The documentation as a whole: links lead somewhere, and what it says of the code is true.

What is run (the tutorial, the merge tables, the declarations, the protocol) has tests of its own in
``tests/docs``.
"""

from __future__ import annotations

import ast
import asyncio
import doctest
import importlib
import inspect
import itertools
import json
import re
import shlex
import subprocess
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lowtide.api.limits import Limits
from lowtide.api.server import Serving
from lowtide.api.wire import WireLimits
from lowtide.cli import build_parser
from lowtide.declare.check import check
from lowtide.kernel.clock import SystemClock
from lowtide.kernel.http import MIB
from lowtide.kernel.ids import SeededIds
from lowtide.opening import open_vault
from lowtide.settings import Settings, load
from lowtide.storage.db.sqlite import SqliteDatabase
from lowtide.sync.download import KEEP_ALIVE
from lowtide.sync.uploads import MAX_BODY
from tests.docs.apps import app_of
from tests.docs.pages import DOCS, ROOT, Block, anchors, blocks, code, links, pages, prose, tables
from tests.docs.reference import holding_parts, made

PAGES = pages()
SOURCES = sorted((ROOT / "src/lowtide").rglob("*.py"))
LANGUAGES = {"sh", "python", "json", "ndjson", "js", "sql", "toml", "text", "http", "nginx"}
LANGUAGES |= {"ini", "pycon", "ts", "html"}
LANGUAGES |= {"swift", "kotlin", "dart"}  # parsed by tests/clients


def all_blocks(*languages: str) -> list[Any]:
    """Every code block in one of ``languages``, named by its place."""
    return [
        pytest.param(block, id=f"{page.relative_to(ROOT)}:{block.line}")
        for page in PAGES
        for block in blocks(page)
        if block.language in languages
    ]


class TestLinks:
    @pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
    def test_every_link_leads_somewhere(self, page: Path) -> None:
        """A link to a file, and to a heading in it, finds both; no page links to a place on the web."""
        for line, target in links(page):
            path, _, anchor = target.partition("#")
            assert "://" not in path, f"{page}:{line}: {target}"
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), f"{page}:{line}: {target}"
            assert file.is_relative_to(ROOT), f"{page}:{line}: {target}"
            if anchor:
                assert anchor in anchors(file), f"{page}:{line}: {target}"

    def test_every_page_can_be_reached(self) -> None:
        """Whoever follows the links from the README finds every page of the documentation."""
        seen: set[Path] = set()
        waiting = [ROOT / "README.md"]
        while waiting:
            page = waiting.pop()
            if page in seen or page.suffix != ".md":
                continue
            seen.add(page)
            for _, target in links(page):
                path = target.partition("#")[0]
                if path:
                    waiting.append((page.parent / path).resolve())
        assert [page for page in DOCS.rglob("*.md") if page not in seen] == []

    def test_what_the_code_points_to_is_there(self) -> None:
        """A page that a hint or a comment of the code names exists."""
        for file in SOURCES:
            for name in re.findall(r"docs/[\w/-]+\.md", file.read_text("utf-8")):
                assert (ROOT / name).is_file(), f"{file}: {name}"


class TestWords:
    @pytest.mark.parametrize(
        "page",
        [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))],
        ids=lambda page: str(page.relative_to(ROOT)),
    )
    def test_lines_can_be_read(self, page: Path) -> None:
        """Prose is broken into lines that fit a screen; tables and code are as wide as they must be."""
        for line, text in prose(page):
            assert len(text) <= 130 or text.startswith("|"), f"{page}:{line}"
            assert text == text.rstrip(), f"{page}:{line} ends with a space"

    def test_figures_of_speed_are_measured(self) -> None:
        """Speed is a matter of docs/benchmarks.md: no other page of ``docs/`` gives a rate."""
        rate = re.compile(
            r"\d[\d,. ]*(?:rows|mutations|requests|uploads|writes|changes|records) (?:a|per) second"
        )
        for page in [ROOT / "README.md", *DOCS.rglob("*.md")]:
            if page.name == "benchmarks.md":
                continue
            for line, text in prose(page):
                assert not rate.search(text), f"{page}:{line}"


class TestPictures:
    @pytest.mark.parametrize("picture", sorted(DOCS.glob("*.svg")), ids=lambda path: path.name)
    def test_a_picture_can_be_read_by_everybody(self, picture: Path) -> None:
        """It is well-formed, fits a small screen, has a text for those who do not see it, loads nothing."""
        text = picture.read_text("utf-8")
        root = ET.fromstring(text)
        space = "{http://www.w3.org/2000/svg}"
        assert root.find(f"{space}title") is not None
        assert root.find(f"{space}desc") is not None
        assert root.get("role") == "img"
        _, _, width, _ = map(float, (root.get("viewBox") or "").split())
        assert width <= 1200
        assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
        assert "<script" not in text
        sizes = [float(size) for size in re.findall(r"font-size[:=]\"?\s*([\d.]+)", text)]
        # On a screen of 360 points letters can be read, those of a terminal with good eyes.
        assert min(sizes) * 360 / width >= (6 if picture.name == "demo.svg" else 10)

    def test_every_picture_is_shown(self) -> None:
        """No picture lies about that no page shows."""
        shown = {target for page in PAGES for _, target in links(page) if target.endswith(".svg")}
        assert {Path(target).name for target in shown} == {path.name for path in DOCS.glob("*.svg")}


class TestReference:
    @pytest.mark.parametrize("page", list(holding_parts()), ids=lambda page: page.name)
    def test_what_is_made_from_the_code_is_fresh(self, page: Path) -> None:
        """Errors, commands and settings are those of the code. Stale: ``python -m tests.docs.reference``."""
        assert page.read_text("utf-8") == made(page)

    def test_there_are_such_parts(self) -> None:
        """Errors, commands and settings each have their page."""
        assert {page.name for page in holding_parts()} == {"errors.md", "cli.md", "settings.md"}

    def test_every_refusal_has_its_line(self) -> None:
        """The table of refusals has each code that the code knows, and none that it does not."""
        found = {"refused"}  # the default of ``Refused``
        for file in SOURCES:
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if not isinstance(node, ast.Call):
                    continue
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                place = {"Refusal": 0, "_refused": 1}.get(name)
                if place is not None and len(node.args) > place:
                    argument = node.args[place]
                    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                        found.add(argument.value)
                for keyword in node.keywords:
                    if (
                        name == "Refused"
                        and keyword.arg == "code"
                        and isinstance(keyword.value, ast.Constant)
                    ):
                        found.add(str(keyword.value.value))
        (table,) = [t for t in tables(DOCS / "reference/errors.md") if t.heading == "Refusals"]
        listed = [code(cells["code"]) for _, cells in table.rows]
        assert set(listed) == found
        assert len(listed) == len(found)


def value_of(place: str) -> Any:
    """What the code has at ``module.NAME``, ``module.Class.field`` or ``module.function(parameter)``."""
    path, _, parameter = place.rstrip(")").partition("(")
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(["lowtide", *parts[:length]]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            if isinstance(found, type) and issubclass(found, msgspec.Struct):
                (field,) = [field for field in msgspec.structs.fields(found) if field.name == part]
                found = field.default
            else:
                found = getattr(found, part)
        return inspect.signature(found).parameters[parameter].default if parameter else found
    raise AssertionError(f"there is no {place}")


UNITS = {"": 1, "KiB": 1024, "MiB": 1024**2, "s": 1, "min": 60, "h": 3600, "days": 1}


def number_of(cell: str) -> int:
    """``16 MiB`` as bytes, ``5 min`` as seconds, ``5,000`` as it is."""
    number, _, unit = cell.partition(" ")
    return int(number.replace(",", "")) * UNITS[unit]


LIMITS = [row for table in tables(DOCS / "reference/limits.md") for row in table.rows]


class TestLimits:
    def test_each_number_is_that_of_the_code(self) -> None:
        """The page says what the code does."""
        checked = 0
        for line, cells in LIMITS:
            if cells["in the code"]:
                place = code(cells["in the code"])
                value = value_of(place)
                assert isinstance(value, int | float), place
                assert value == number_of(cells["number"]), f"line {line}: {place} is {value}"
                checked += 1
        assert checked > 50

    def test_no_limit_is_left_out(self) -> None:
        """Every constant that is called a maximum, and every bound of the edge, is on the page."""
        listed = {code(cells["in the code"]) for _, cells in LIMITS}
        for file in SOURCES:
            module = ".".join(file.relative_to(ROOT / "src/lowtide").with_suffix("").parts)
            for name in re.findall(r"^(MAX_\w+) =", file.read_text("utf-8"), re.MULTILINE):
                if isinstance(value_of(f"{module}.{name}"), int):
                    assert f"{module}.{name}" in listed, file
        for kind, place in ((Limits, "api.limits.Limits"), (WireLimits, "api.wire.WireLimits")):
            for field in msgspec.structs.fields(kind):
                assert f"{place}.{field.name}" in listed


class TestCode:
    def test_every_block_says_its_language(self) -> None:
        """A block without a known language cannot be checked, and is not highlighted."""
        for page in PAGES:
            for block in blocks(page):
                assert block.language in LANGUAGES, f"{page}:{block.line}: {block.language!r}"

    @pytest.mark.parametrize("block", all_blocks("python"))
    def test_python_can_be_read(self, block: Block) -> None:
        """Every piece of Python is Python."""
        compile(block.text, "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)

    @pytest.mark.parametrize("block", all_blocks("json", "ndjson"))
    def test_json_can_be_read(self, block: Block) -> None:
        """Every piece of JSON is JSON."""
        for text in block.text.splitlines() if block.language == "ndjson" else [block.text]:
            if text.strip():
                json.loads(text)

    @pytest.mark.parametrize("block", all_blocks("toml"))
    def test_settings_are_settings(self, block: Block, tmp_path: Path) -> None:
        """Every piece of a settings file is understood."""
        (tmp_path / "lowtide.toml").write_text(block.text, "utf-8")
        assert tomllib.loads(block.text)
        load(tmp_path, {})

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
    def test_what_python_answers_is_what_is_shown(self, page: Path) -> None:
        """Each dialogue with Python, in the order of the page, gives what stands there."""
        text = "".join(block.text for block in blocks(page) if block.language == "pycon")
        test = doctest.DocTestParser().get_doctest(text, {}, str(page), str(page), 0)
        told: list[str] = []
        doctest.DocTestRunner(verbose=False).run(test, out=told.append)
        assert not told, "".join(told)

    def test_javascript_can_be_read(self, tmp_path: Path) -> None:
        """Every piece of JavaScript is JavaScript."""
        for page in PAGES:
            for block in blocks(page):
                if block.language == "js":
                    file = tmp_path / f"block{block.line}.mjs"
                    file.write_text(block.text, "utf-8")
                    ran = subprocess.run(
                        ["node", "--check", file], capture_output=True, text=True, check=False
                    )
                    assert ran.returncode == 0, f"{page}:{block.line}: {ran.stderr}"

    def test_every_command_can_be_typed(self) -> None:
        """Every ``lowtide ...`` in a shell block is a command line that is understood."""
        parser = build_parser()
        seen = set()
        for page in PAGES:
            for block in blocks(page):
                if block.language != "sh":
                    continue
                text = re.sub(r"\$\((?!lowtide)[^)]*\)", "x", block.text)
                for command in re.findall(r"(?:^|&& |\$\(|[;|] )(lowtide [^&|;)\n#>]+)", text, re.MULTILINE):
                    words = shlex.split(command)[1:]
                    try:
                        parser.parse_args(words)
                    except SystemExit:
                        pytest.fail(f"{page}:{block.line}: {command}")
                    seen.add(words[0])
        assert {"new", "dev", "check", "token", "backup", "restore", "serve"} <= seen


def test_the_files_that_a_section_names_are_there() -> None:
    """Each section of the page on sync opens with the modules that it explains; they exist."""
    named = 0
    for line, text in prose(DOCS / "how-sync-works.md"):
        for name in re.findall(r"\b(\w+\.py)\b", text) if text.startswith("*") else ():
            assert (ROOT / "src/lowtide/sync" / name).is_file(), f"line {line}: {name}"
            named += 1
    assert named > 12


class TestOperating:
    PAGE = DOCS / "operating.md"

    def test_the_proxy_lets_through_what_the_server_takes(self) -> None:
        """The example's body size is that of an upload, and its timeout outlives the silence of a stream."""
        (proxy,) = [block.text for block in blocks(self.PAGE) if block.language == "nginx"]
        size = re.search(r"client_max_body_size (\d+)m;", proxy)
        patience = re.search(r"proxy_read_timeout (\d+)s;", proxy)
        assert size is not None
        assert int(size[1]) * MIB == MAX_BODY
        assert patience is not None
        assert int(patience[1]) > 3 * KEEP_ALIVE

    def test_the_unit_waits_for_the_end(self) -> None:
        """The service manager is more patient than the server needs."""
        (unit,) = [block.text for block in blocks(self.PAGE) if block.language == "ini"]
        patience = re.search(r"TimeoutStopSec=(\d+)", unit)
        assert patience is not None
        assert int(patience[1]) > Serving().grace

    def test_each_line_of_the_log_can_be_written(self) -> None:
        """What an operator is told to watch for is what the code says."""
        said = "".join(file.read_text("utf-8") for file in SOURCES)
        (table,) = [table for table in tables(self.PAGE) if "logger" in table.columns]
        for line, cells in table.rows:
            assert f'getLogger("{code(cells["logger"])}")' in said, line
            parts = [re.escape(part.strip()) for part in code(cells["line"]).split("...")]
            assert re.search(r" ?%s ?".join(parts), said), line

    def test_the_files_are_those_that_a_server_makes(self, tmp_path: Path) -> None:
        """After a start the folder holds what the table names, and nothing else."""
        (table,) = [table for table in tables(self.PAGE) if table.columns == ("file", "is")]
        named = {name for _, cells in table.rows for name in re.findall(r"`([^`]+)`", cells["file"])}
        found: set[str] = set()

        async def open_once() -> None:
            database = SqliteDatabase(tmp_path / "data.db", clock=SystemClock())
            await database.start()
            found.update(path.name for path in tmp_path.iterdir())
            await database.close()

        clock = SystemClock()
        settings = Settings(database=str(tmp_path / "data.db"))
        open_vault(settings, SqliteDatabase(tmp_path / "data.db", clock=clock), clock, SeededIds(clock))
        asyncio.run(open_once())
        assert found == named


def test_the_readmes_app_has_no_mistakes() -> None:
    """The first code that anybody sees can be copied."""
    (source,) = [block.text for block in blocks(ROOT / "README.md") if block.language == "python"]
    assert [str(finding) for finding in check(app_of(source)) if finding.severity != "note"] == []


def test_the_layers_are_those_of_the_house() -> None:
    """What contributors read of the layers is what import-linter keeps, from the top to the bottom."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    (contract,) = project["tool"]["importlinter"]["contracts"]
    layers = [layer.removeprefix("lowtide.") for layer in contract["layers"]]
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    listed = re.findall(r"^ {4}([a-z, ]+?)  +\S", text.split("## The house")[1], re.MULTILINE)
    named = [name for line in listed for name in line.split(", ")]
    assert [name for name in named if name != "settings"] == layers


def test_the_rooms_that_a_component_names_are_there() -> None:
    """A component's README speaks of modules that exist."""
    for page in (ROOT / "src").rglob("README.md"):
        for table in tables(page):
            if table.columns[0] == "room":
                for line, cells in table.rows:
                    for name in re.findall(r"`([^`]+)`", cells["room"]):
                        places = [page.parent / name, page.parent / f"{name}.py"]
                        assert any(place.exists() for place in places), f"{page}:{line}: {name}"


class TestPromises:
    def test_each_promise_names_tests_that_exist(self) -> None:
        """The README's eight promises point to tests; each is there under that name."""
        text = (ROOT / "README.md").read_text("utf-8")
        promises = re.findall(r"^\d\. \*\*.*?(?=^\d\. \*\*|^\n)", text, re.MULTILINE | re.DOTALL)
        assert len(promises) == 8
        named = [re.findall(r"\[([^\]]+)\]\((tests/[\w/]+\.py)\)", promise) for promise in promises]
        assert all(named)
        for title, file in itertools.chain(*named, re.findall(r"\[(a planted [^\]]+)\]\(([^)]+)\)", text)):
            test = "test_" + re.sub(r"\s+", "_", title)
            assert re.search(rf"def {test}\b", (ROOT / file).read_text("utf-8")), f"{file}: {test}"
