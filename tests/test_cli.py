"""The command line as its user meets it."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from lowtide.cli import build_parser, main
from lowtide.kernel.errors import SetupError


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, and the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestParsing:
    def test_without_a_command_the_help_is_shown(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Whoever types 'lowtide' alone wants to know what it can do."""
        assert main([]) == 0
        assert "lowtide new app" in capsys.readouterr().out

    @pytest.mark.parametrize(
        "words", [["srve"], ["new"], ["dev", "--port", "x"], ["dev", "--port", "65536"], ["check", "--loud"]]
    )
    def test_a_wrong_command_line_exits_with_2(
        self, words: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Usage errors are told apart from failures, and point to the help."""
        with pytest.raises(SystemExit) as ended:
            main(words)
        told = capsys.readouterr()
        assert ended.value.code == 2
        assert told.err.startswith("error: ")
        assert "--help" in told.err
        assert told.out == ""

    @pytest.mark.parametrize(("words", "meant"), [(["srve"], "serve"), (["audit", "lst"], "list")])
    def test_an_unknown_command_is_told_with_what_was_meant(
        self, words: list[str], meant: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Without the list of all, in which there are some of Lowtide's own."""
        with pytest.raises(SystemExit):
            main(words)
        told = capsys.readouterr().err
        assert f"There is no command '{words[-1]}'." in told
        assert f"Did you mean '{meant}'?" in told
        assert "dev-child" not in told

    def test_every_command_is_explained(self) -> None:
        """Each listed command has a text, and so has each of its options."""
        help_text = build_parser().format_help()
        names = "new dev check schema token export import backup restore serve db jobs devices"
        for name in names.split():
            assert f"\n    {name} " in help_text
        assert "dev-child" not in help_text.split("commands:")[1].split("first steps")[0]


class TestErrors:
    def test_an_error_is_two_lines_and_exit_code_1(
        self, empty: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """What went wrong and what to do about it, on stderr, without a traceback."""
        assert main(["check"]) == 1
        told = capsys.readouterr()
        assert told.err.splitlines()[0].startswith("error: There is no app.py")
        assert told.err.splitlines()[1].startswith("hint:  ")
        assert len(told.err.splitlines()) == 2
        assert told.out == ""

    def test_debug_shows_the_traceback(self, empty: Path) -> None:
        """With --debug the error is raised as it is."""
        with pytest.raises(SetupError):
            main(["check", "--debug"])

    def test_a_fault_of_lowtide_is_told_without_a_traceback(
        self, empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """What nobody foresaw is told in a line, with the way to the whole story."""

        def broken(*_: object) -> None:
            raise RuntimeError("nobody foresaw this")

        monkeypatch.setattr("lowtide.cli.new.run", broken)
        assert main(["new", "x"]) == 1
        told = capsys.readouterr().err
        assert "nobody foresaw this" in told
        assert "--debug" in told
        assert "Traceback" not in told


class TestNew:
    def test_it_writes_an_app_that_can_start(self, empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The example is complete: it passes the check as it is, and says what comes next."""
        assert main(["new", "my-app"]) == 0
        assert sorted(path.name for path in (empty / "my-app").iterdir()) == [
            ".gitignore",
            "README.md",
            "app.py",
            "lowtide.toml",
        ]
        assert "cd my-app" in capsys.readouterr().out

    def test_the_app_has_the_folders_name(self, project: Path) -> None:
        """No trace of the template's own name is left."""
        for path in project.iterdir():
            assert "starter" not in path.read_text()
        assert 'App("todo")' in (project / "app.py").read_text()

    def test_the_current_folder_can_be_used_when_it_is_empty(
        self, empty: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """'lowtide new .' takes the name of the folder that it fills."""
        (empty / "notes").mkdir()
        monkeypatch.chdir(empty / "notes")
        assert main(["new", "."]) == 0
        assert 'App("notes")' in (empty / "notes/app.py").read_text()

    def test_a_file_that_is_there_is_never_touched(
        self, empty: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A folder that holds anything is refused whole."""
        (empty / "mine").mkdir()
        (empty / "mine/diary.txt").write_text("dear diary")
        assert main(["new", "mine"]) == 1
        assert [path.name for path in (empty / "mine").iterdir()] == ["diary.txt"]
        assert "not empty" in capsys.readouterr().err

    def test_a_file_in_the_way_is_told(self, empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A file of that name is an error and stays."""
        (empty / "mine").write_text("x")
        assert main(["new", "mine"]) == 1
        assert (empty / "mine").read_text() == "x"
        assert "error: " in capsys.readouterr().err

    @pytest.mark.parametrize("name", ["Big", "1st", "a b", "a" * 64, "ünder", '"quoted"', "/"])
    def test_a_name_that_cannot_name_an_app_is_refused(
        self, empty: Path, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Nothing is written under a name that the app's declaration would refuse."""
        assert main(["new", name]) == 1
        assert list(empty.iterdir()) == []
        assert "cannot be an app's name" in capsys.readouterr().err


class TestCheck:
    def test_the_example_has_no_mistake(self, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """What 'lowtide new' writes has neither errors nor warnings."""
        assert main(["check"]) == 0
        told = capsys.readouterr().out
        assert "0 errors, 0 warnings: the app can start.\n" in told

    def test_every_mistake_is_told_at_once_with_its_line(
        self, project: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Two mistakes and what follows from one of them, each at a line of the developer's file."""
        source = (project / "app.py").read_text()
        source = source.replace("TodoList: ", "None: ").replace("max_length=200", "max_length=-1", 1)
        (project / "app.py").write_text(source)
        assert main(["check"]) == 1
        told = capsys.readouterr().out
        assert told.count("\napp.py:") + told.startswith("app.py:") >= 2
        assert told.endswith("2 errors, 1 warning: the app cannot start.\n")

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("1 +", "app.py:1: error: "),
            ("import lowtide\nx = nobody_knows", "app.py:2: error: NameError"),
            ("import nothing_of_this_name", "app.py:1: error: ModuleNotFoundError"),
            ("app = 1", "app.py:1: error: 'app' is not an App"),
            ("", "app.py:1: error: 'app' is not an App"),
        ],
    )
    def test_an_app_that_cannot_be_read_is_told_with_its_line(
        self, project: Path, source: str, message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A mistake of Python itself names the developer's own line, not one of Lowtide's."""
        (project / "app.py").write_text(source)
        assert main(["check"]) == 1
        assert message in capsys.readouterr().out

    @pytest.mark.parametrize("address", ["app:application", "", ":app", "../x:app", "a b:c", "app:app.x"])
    def test_an_address_that_names_nothing_is_refused(
        self, project: Path, address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """'app' in the settings is a module and a name, and no path."""
        monkeypatch.setenv("LOWTIDE_APP", address)
        assert main(["check"]) == 1
        told = capsys.readouterr()
        assert "error: " in told.out + told.err
        assert "--debug" not in told.err

    def test_a_setting_that_cannot_be_is_a_mistake(
        self, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """What would end the start is told before it; to look makes neither a key nor a folder."""
        monkeypatch.setenv("LOWTIDE_SMTP_URL", "mail.example.com")
        assert main(["check"]) == 1
        told = capsys.readouterr()
        assert "'smtp_url'" in told.err
        assert "can start" not in told.out
        monkeypatch.delenv("LOWTIDE_SMTP_URL")
        for ca_file in ("nofile.pem", "app.py"):
            monkeypatch.setenv("LOWTIDE_EGRESS_CA_FILE", ca_file)
            assert main(["check"]) == 1
            assert f"certificates {ca_file} cannot be read" in capsys.readouterr().err
        monkeypatch.delenv("LOWTIDE_EGRESS_CA_FILE")
        monkeypatch.setenv("LOWTIDE_SMTP_URL", "smtp://mail.example.com")
        monkeypatch.setenv("LOWTIDE_MAIL_FROM", "Notes <no-reply@example.com>")
        assert main(["check"]) == 0
        assert not (project / "data").exists()


class TestServe:
    def test_an_address_of_another_machine_is_told(
        self, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The hint is about the host, where the port is not what is wrong."""
        monkeypatch.setenv("LOWTIDE_HOST", "192.0.2.1")
        assert main(["serve"]) == 1
        told = capsys.readouterr().err
        assert "192.0.2.1" in told
        assert "'host'" in told
        assert "another 'port'" not in told


class TestSchema:
    def test_it_prints_the_tables_of_a_device(
        self, project: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Each model is a table, with the built-in ones, in types that SQLite has."""
        assert main(["schema"]) == 0
        tables = {table["name"]: table for table in json.loads(capsys.readouterr().out)["tables"]}
        assert set(tables) == {
            "membership",
            "todo_list",
            "todo",
            "note",
            "lowtide_rejections",
            "lowtide_commands",
        }
        columns = {column["name"]: column["type"] for column in tables["todo"]["columns"]}
        assert columns["title"] == "TEXT"
        assert columns["done"] == "INTEGER"
        assert columns["labels"] == "TEXT"
        assert "id" not in columns
        assert all(table["include_old"] for table in tables.values())


def test_the_example_is_explained() -> None:
    """The example is documentation: at least a third of its lines says why."""
    source = (Path(__file__).parent.parent / "src/lowtide/templates/app.py").read_text()
    comments = [line for line in source.splitlines() if line.strip().startswith("#")]
    assert ast.get_docstring(ast.parse(source))
    assert len(comments) >= 10
