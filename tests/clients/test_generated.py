"""Generated code: it is in its language, says what the app says, and asks the queue as the reference does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import tree_sitter
import tree_sitter_dart
import tree_sitter_kotlin
import tree_sitter_swift

from lowtide import App, Model, Text, anyone
from lowtide.cli import main
from lowtide.clients import PLATFORMS, describe, generate
from lowtide.kernel.errors import SetupError
from lowtide.storage.db import load_queries
from lowtide.templates import app as starter
from tests.acceptance import crew
from tests.clients import odd_app
from tests.contract import shop
from tests.docs.pages import ROOT, blocks
from tests.phones.core import open_core

APPS: dict[str, App] = {
    "odd": odd_app.app,
    "starter": starter.app,
    "crew": crew.app,
    "shop": shop.app,
}
GRAMMARS = {"swift": tree_sitter_swift, "kotlin": tree_sitter_kotlin, "dart": tree_sitter_dart}


def faults(platform: str, text: str) -> list[str]:
    """What the language's own grammar does not understand."""
    parser = tree_sitter.Parser(tree_sitter.Language(GRAMMARS[platform].language()))

    def walk(node: tree_sitter.Node) -> Iterator[str]:
        if node.is_error or node.is_missing:
            yield f"{node.start_point.row + 1}: {node.text!r}"
            return
        for child in node.children:
            yield from walk(child)

    return list(walk(parser.parse(text.encode()).root_node))


@pytest.mark.parametrize("app", APPS)
@pytest.mark.parametrize("platform", GRAMMARS)
def test_what_is_generated_is_in_its_language(platform: str, app: str) -> None:
    """Names that are keywords, quotes and dollar signs in defaults: the grammar finds no fault."""
    for name, text in generate(platform, describe(APPS[app].compile())).items():
        assert faults(platform, text) == [], name
        assert text.startswith('// Made by "lowtide client ')
        # A placeholder that was left would be a statement that no database understands.
        assert "@mutations@" not in text
        assert "@setup_insert@" not in text


@pytest.mark.parametrize("platform", GRAMMARS)
def test_the_grammar_would_find_a_fault(platform: str) -> None:
    """The control: a file cut in its middle is not in the language."""
    for text in generate(platform, describe(odd_app.app.compile())).values():
        assert faults(platform, text[: len(text) // 2])


@pytest.mark.parametrize("platform", GRAMMARS)
def test_the_examples_on_the_page_are_in_their_language(platform: str) -> None:
    """What readers copy from docs/platforms.md has no slip of the pen."""
    found = [one.text for one in blocks(ROOT / "docs" / "platforms.md") if one.language == platform]
    assert len(found) == 3
    for text in found:
        assert faults(platform, text) == []


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_same_app_gives_the_same_bytes(platform: str) -> None:
    """A generated file changes in a repository only when the app does."""
    first, second = (generate(platform, describe(odd_app.app.compile())) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_new_record_has_no_field_that_only_the_server_writes(platform: str) -> None:
    """A device that sent one would be refused; it may read it all the same."""
    text = "".join(generate(platform, describe(odd_app.app.compile())).values())
    assert "price" in text
    inserts = [line for line in text.splitlines() if "INSERT INTO" in line and "votes" in line]
    if platform == "typescript":
        inserts = [line for line in text.splitlines() if line.startswith("  ['owner_id'")]
        assert "price" not in text.split("export interface NewRecord")[1].split("}")[0]
    assert inserts
    assert not any("price" in line for line in inserts)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_what_devices_may_not_write_has_no_insert(platform: str) -> None:
    """City is read only: nothing is made that would be refused."""
    text = "".join(generate(platform, describe(odd_app.app.compile())).values())
    assert '"city"(' not in text.replace("\\", "")
    assert "NewCity" not in text


@pytest.mark.parametrize("platform", GRAMMARS)
def test_a_field_that_is_called_like_our_own_is_what_is_written(platform: str) -> None:
    """``writer`` is the database in an insert, and ``arguments`` a list in a call: the app's come first."""
    text = next(iter(generate(platform, describe(odd_app.app.compile())).values()))
    mine = {"swift": "self.", "kotlin": "this.", "dart": "this."}[platform]
    insert = text.split("INSERT INTO")[1].split("VALUES")[1].split("\n\n")[0]
    for name in ("id", "writer", "row", "uuid", "veryLongName"):
        assert f"{mine}{name}," in insert
        assert f" {name}," not in insert
    assert 'INSERT INTO "package"(id) VALUES (?)' in text.replace("\\", "")
    assert ("DateRecord" in text) is (platform == "swift")  # Foundation has a Date
    given = {
        "swift": "in writer_: any ConnectionContext",
        "kotlin": "fun import(writer_: ConnectionContext",
        "dart": "import_(SqliteWriteContext writer_",
    }[platform]
    assert given in text


@pytest.mark.parametrize("platform", GRAMMARS)
def test_a_proxys_page_judges_no_change(platform: str) -> None:
    """400, 422 and a small 413 count only with a code of ours: else a page would spoil what waits."""
    connector = list(generate(platform, describe(odd_app.app.compile())).values())[1]
    rules = {
        "swift": (
            "(413, _) where !answer.code.isEmpty || batch.body.count > Self.small",
            "(400, _) where !answer.code.isEmpty",
            "(422, _) where !answer.code.isEmpty",
        ),
        "kotlin": (
            "(status in listOf(400, 413, 422) && code.isNotEmpty())",
            "(status == 413 && batch.body.length > SMALL)",
        ),
        "dart": (
            "const [400, 413, 422].contains(status) && code is String",
            "(status == 413 && batch.body.length > _small)",
        ),
    }[platform]
    assert [rule for rule in rules if rule not in connector] == []


def test_two_names_that_are_one_elsewhere_are_told() -> None:
    """``due_on`` and ``dueOn`` are two columns, and one property."""
    app = App("twins")

    @app.model
    class Task(Model):
        due_on = Text(optional=True)
        dueOn = Text(optional=True)  # noqa: N815
        write = anyone

    with pytest.raises(SetupError, match="'due_on' and 'dueOn'"):
        describe(app.compile())


class TestQueue:
    """The statements that every connector sends to the device's database."""

    TABLES = (
        {
            "name": "task",
            "columns": [{"name": n, "type": t} for n, t in (("title", "TEXT"), ("votes", "INTEGER"))],
            "include_old": True,
            "include_old_only_when_changed": True,
            "include_metadata": True,
        },
    )

    def test_changes_are_told_exactly(self) -> None:
        """Numbers, nulls, quotes and metadata arrive as they were written; what is not there is left out."""
        queries = load_queries("lowtide.clients", "queue.sql")
        core = open_core()
        with core:
            core.execute(
                "SELECT powersync_replace_schema(?)", (json.dumps({"tables": self.TABLES}),)
            ).fetchall()
        for name in ("setup_stamp", "setup_upload", "setup_insert", "setup_delete"):
            core.execute(queries[name].sqlite)
        with core:
            core.execute(
                "INSERT INTO task(id, title, votes) VALUES ('a', 'quo\"te \\ ü 🌊', 9007199254740993)"
            )
            core.execute("UPDATE task SET title = NULL, _metadata = 'why \"so\"' WHERE id = 'a'")
            core.execute("DELETE FROM task WHERE id = 'a'")
        sent = [json.loads(row[0]) for row in core.execute(queries["mutations"].sqlite, (1, 3))]
        assert all(isinstance(one.pop("at"), int) for one in sent)
        assert sent[:2] == [
            {
                "n": 1,
                "op": "put",
                "model": "task",
                "id": "a",
                "data": {"title": 'quo"te \\ ü 🌊', "votes": 9007199254740993},
            },
            {
                "n": 2,
                "op": "patch",
                "model": "task",
                "id": "a",
                "data": {"title": None},
                "base": {"title": 'quo"te \\ ü 🌊'},
                "metadata": 'why "so"',
            },
        ]
        assert (sent[2]["op"], "data" in sent[2]) == ("delete", False)
        (members,) = core.execute(queries["identity"].sqlite).fetchone() or ("",)
        told = json.loads("{" + members + "}")
        assert told.keys() == {"client_id", "sent_at"}
        core.execute(queries["lineage"].sqlite)
        (members,) = core.execute(queries["identity"].sqlite).fetchone() or ("",)
        assert len(json.loads("{" + members + "}")["lineage"]) == 32
        # What leaves the queue leaves nothing behind.
        core.execute("DELETE FROM ps_crud")
        assert core.execute("SELECT count(*) FROM lowtide_stamp").fetchone() == (0,)

    def test_what_the_server_cannot_read_goes_as_one_text(self) -> None:
        """Half a surrogate pair and a NUL in an id: the change is whole, inside a text that can be read."""
        queries = load_queries("lowtide.clients", "queue.sql")
        core = open_core()
        for name in ("setup_stamp", "setup_upload"):
            core.execute(queries[name].sqlite)
        change = '{"op":"PUT","type":"task","id":"a\\u0000b","data":{"title":"half \\ud83d"}}'
        with core:
            core.execute("INSERT INTO ps_crud(tx_id, data) VALUES (1, ?)", (change,))
        (text,) = core.execute(queries["unreadable"].sqlite, (1, 1)).fetchone() or ("",)
        sent = json.loads(text)
        assert (sent["id"], sent["data"]) == ("a\ufffdb", change)


class TestCommand:
    @pytest.fixture
    def project(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        assert main(["new", str(tmp_path / "todo")]) == 0
        monkeypatch.chdir(tmp_path / "todo")
        return tmp_path / "todo"

    @pytest.mark.parametrize("platform", PLATFORMS)
    def test_it_writes_the_files_and_again_over_its_own(
        self, project: Path, platform: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Run twice, it says both times what it wrote."""
        for _ in range(2):
            assert main(["client", platform, "-o", "phone"]) == 0
            told = capsys.readouterr().out
            for path in (project / "phone").iterdir():
                assert str(path.relative_to(project)) in told
        assert any("todo_list" in path.read_text() for path in (project / "phone").iterdir())

    def test_it_never_writes_over_what_somebody_else_wrote(
        self, project: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Not a single file is written then."""
        mine = project / "LowtideConnector.swift"
        mine.write_text("// mine")
        assert main(["client", "swift"]) == 1
        assert "LowtideConnector.swift is there already" in capsys.readouterr().err
        assert mine.read_text() == "// mine"
        assert not (project / "LowtideSchema.swift").exists()
