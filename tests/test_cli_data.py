"""The commands that touch data, on a project whose server is stopped or running."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from lowtide.app import Lowtide
from lowtide.cli import backup as cli_backup
from lowtide.cli import main
from lowtide.cli.opened import with_backend
from lowtide.cli.project import open_project
from lowtide.kernel.schema import Principal
from lowtide.storage.db import Tx
from lowtide.storage.jobs import store as job_store
from lowtide.sync.store import read_head
from lowtide.sync.uploads import SentBatch, SentMutation, SentTransaction
from tests.conftest import Told


@pytest.fixture
def project(project: Path) -> Path:
    """The app of 'lowtide new' with an empty database."""
    assert main(["db", "migrate"]) == 0
    return project


def in_backend(work: Callable[[Lowtide], Awaitable[Any]]) -> Any:
    """What ``work`` returns, on a backend over the current project's database."""
    return with_backend(*open_project(), work)


class TestToken:
    def test_the_server_knows_whom_it_stands_for(self, told: Told) -> None:
        """User, space and claims arrive as they were asked for, and nothing else is printed."""
        code, token, err = told(
            "token", "--user", "ann", "--space", "acme", "--role", "developer",
            "--claim", "plan=gold", "--claim", 'teams=["a", "b"]',
        )  # fmt: skip

        async def verify(lowtide: Lowtide) -> Principal:
            return lowtide.tokens.verify(token.strip())

        who = in_backend(verify)
        assert (code, err) == (0, "")
        assert (who.user, who.space, who.server) == ("ann", "acme", False)
        assert who.claims == {"plan": "gold", "teams": ["a", "b"], "roles": ["developer"]}
        assert (who.roles, who.admin) == (("developer",), False)

    @pytest.mark.parametrize(
        "words",
        [
            ["--ttl", "2d"],
            ["--ttl", "0"],
            ["--ttl", "48h"],
            ["--ttl", "-1"],
            ["--claim", "x"],
            ["--claim", "=x"],
            ["--claim", "sub=eve"],
            ["--space", ""],
            ["--role", ""],
        ],
    )
    def test_a_token_that_cannot_be_is_refused(self, told: Told, words: list[str]) -> None:
        """No token is printed for a wrong time, claim or name, and no traceback either."""
        code, out, err = told("token", "--user", "ann", *[f"{words[0]}={words[1]}"])
        assert (code, out) == (1, "")
        assert err.startswith("error: ")
        assert "--debug" not in err

    def test_it_works_while_the_server_runs(self, told: Told) -> None:
        """Asking for a token neither needs nor disturbs the process that has the database."""

        async def beside(lowtide: Lowtide) -> int:
            return await asyncio.to_thread(main, ["token", "--user", "ann"])

        assert in_backend(beside) == 0

    @pytest.mark.parametrize("words", [["token", "--user", "ann"], ["jobs"], ["keys"], ["export", "todo"]])
    def test_an_empty_postgres_is_told_as_a_missing_file_is(
        self, told: Told, monkeypatch: pytest.MonkeyPatch, postgres_dsn: str, words: list[str]
    ) -> None:
        """Not with the name of a statement that finds no table; and a check has nothing to compare with."""
        monkeypatch.setenv("LOWTIDE_DATABASE", postgres_dsn)
        monkeypatch.setenv("LOWTIDE_SECRET_KEY", "A" * 43)
        code, out, err = told(*words)
        assert (code, out) == (1, "")
        assert "Start the app once" in err
        code, out, _ = told("check")
        assert code == 0
        assert "No version is deployed yet" in out

    def test_before_the_first_start_it_says_what_to_do(self, project: Path, told: Told) -> None:
        """Without a database there are no keys; none is made on the way."""
        for file in (project / "data").iterdir():
            file.unlink()
        code, out, err = told("token", "--user", "ann")
        assert (code, out) == (1, "")
        assert "lowtide dev" in err
        assert list((project / "data").iterdir()) == []


class TestRecords:
    LINES = (
        '{"id": "t1", "team_id": "ann", "list_id": "l1", "title": "Milk, \\"fresh\\"\\nand cold", '
        '"done": true, "notes": "", "labels": ["a", "b"], "steps": ["boil"], "votes": 3}\n'
    )

    @pytest.mark.parametrize("name", ["todo.ndjson", "todo.csv"])
    def test_what_was_exported_can_be_imported(self, project: Path, told: Told, name: str) -> None:
        """Both formats carry every value there and back."""
        Path("in.ndjson").write_text(self.LINES)
        assert told("import", "todo", "in.ndjson")[0] == 0
        _, before, _ = told("export", "todo")
        assert told("export", "todo", "-o", name)[0] == 0
        assert told("import", "todo", name, "--space", "other")[0] == 0
        _, after, _ = told("export", "todo", "--space", "other")
        assert json.loads(after) == json.loads(before) == json.loads(self.LINES)

    @pytest.mark.parametrize("name", ["todo.ndjson", "todo.csv"])
    def test_an_export_holds_every_text(self, project: Path, told: Told, name: str) -> None:
        """Whatever ends a line somewhere, and as long as a record may be."""
        odd = {"title": "old\rMac \u2028 \u0085", "notes": "\r\n;", "labels": ["x" * 140_000]}
        sent = json.loads(self.LINES) | odd
        Path("in.ndjson").write_text(json.dumps(sent) + "\n")
        assert told("import", "todo", "in.ndjson")[0] == 0
        assert told("export", "todo", "-o", name)[0] == 0
        code, _, err = told("import", "todo", name, "--space", "other")
        assert (code, err) == (0, "1 records imported, 0 lines refused.\n")
        assert json.loads(told("export", "todo", "--space", "other")[1]) == sent

    def test_a_cell_beyond_all_limits_is_one_line_that_is_refused(self, project: Path, told: Told) -> None:
        """The lines behind it are imported."""
        cells = [f"t{n},ann,l1,{title}" for n, title in enumerate(["Milk", "x" * 2**21, "Bread"])]
        Path("in.csv").write_text("\n".join(["id,team_id,list_id,title", *cells, ""]))
        code, _, err = told("import", "todo", "in.csv")
        assert code == 1
        assert err.startswith("line 3: ")
        assert err.endswith("2 records imported, 1 lines refused.\n")

    def test_a_line_that_cannot_be_imported_is_told_and_the_others_are(
        self, project: Path, told: Told
    ) -> None:
        """One bad line costs itself only, is named by its number, and makes the exit code 1."""
        bad = ["not json", "[1]", '{"id": "t2", "nix": 1}', '{"id": "t3", "votes": "many"}']
        Path("in.ndjson").write_text("\n".join([*bad, self.LINES]))
        code, _, err = told("import", "todo", "in.ndjson")
        assert code == 1
        assert [line.split(":")[0] for line in err.splitlines()[:4]] == [
            "line 1",
            "line 2",
            "line 3",
            "line 4",
        ]
        assert err.endswith("1 records imported, 4 lines refused.\n")
        assert len(told("export", "todo")[1].splitlines()) == 1

    @pytest.mark.parametrize("words", [[], ["--csv"]])
    def test_a_file_that_is_no_text_is_told(self, told: Told, words: list[str]) -> None:
        """Such as one of a spreadsheet in UTF-16: its name and what it must be."""
        Path("notes.csv").write_bytes("id,text\n".encode("utf-16"))
        code, _, err = told("import", "todo", "notes.csv", *words)
        assert code == 1
        assert "notes.csv is not UTF-8 text" in err

    def test_an_export_does_not_replace_a_file(self, project: Path, told: Told) -> None:
        """A file that is there stays as it is; half an export leaves none."""
        Path("mine.csv").write_text("dear diary")
        assert told("export", "todo", "-o", "mine.csv")[0] == 1
        assert Path("mine.csv").read_text() == "dear diary"
        assert told("export", "nobody", "-o", "new.csv")[0] == 1
        assert not Path("new.csv").exists()

    def test_an_import_needs_the_database_for_itself(self, project: Path, told: Told) -> None:
        """While a server has a SQLite file open, an import is refused and says by whom it is held."""
        Path("in.ndjson").write_text(self.LINES)

        async def beside(lowtide: Lowtide) -> tuple[int, str, str]:
            return await asyncio.to_thread(told, "import", "todo", "in.ndjson")

        code, _, err = in_backend(beside)
        assert code == 1
        assert "has" in err
        assert "open" in err
        assert told("export", "todo")[1] == ""


class TestBackup:
    def test_a_backup_holds_what_was_there_and_starts_a_new_epoch(self, project: Path, told: Told) -> None:
        """Restoring brings the records back, keeps what was there aside, and tells devices to start anew."""
        Path("in.ndjson").write_text(TestRecords.LINES)
        assert told("import", "todo", "in.ndjson")[0] == 0
        assert told("backup", "copy.db")[0] == 0
        Path("more.ndjson").write_text(TestRecords.LINES.replace("t1", "t2"))
        assert told("import", "todo", "more.ndjson")[0] == 0

        async def head(lowtide: Lowtide) -> tuple[int, str]:
            async def work(tx: Tx) -> tuple[int, str]:
                found = await read_head(tx)
                return found.group, found.epoch

            return await lowtide.database.read(work)

        group, epoch = in_backend(head)
        code, out, _ = told("restore", "copy.db")
        assert code == 0
        assert [json.loads(line)["id"] for line in told("export", "todo")[1].splitlines()] == ["t1"]
        later_group, later_epoch = in_backend(head)
        assert later_epoch != epoch
        assert later_group > group
        aside = [path for path in (project / "data").iterdir() if ".before-" in path.name]
        assert len(aside) == 1
        assert str(aside[0]) in out
        assert [path.name for path in project.glob("copy.db*")] == ["copy.db"]

    def test_a_restored_database_never_stands_without_its_new_epoch(
        self, project: Path, told: Told, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A restoration that is cut off once the file is in place leaves one that devices start anew with."""
        assert told("backup", "copy.db")[0] == 0

        async def head(lowtide: Lowtide) -> tuple[int, str]:
            found = await lowtide.database.read(read_head)
            return found.group, found.epoch

        group, epoch = in_backend(head)

        def cut_off(*_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(cli_backup, "with_backend", cut_off)
            with contextlib.suppress(KeyboardInterrupt):
                told("restore", "copy.db")
        assert [path for path in (project / "data").iterdir() if ".before-" in path.name]
        later_group, later_epoch = in_backend(head)
        assert later_epoch != epoch
        assert later_group > group

    def test_a_backup_can_be_made_while_the_server_runs(self, project: Path, told: Told) -> None:
        """What was acknowledged before the backup began is in it."""
        Path("in.ndjson").write_text(TestRecords.LINES)
        assert told("import", "todo", "in.ndjson")[0] == 0

        async def beside(lowtide: Lowtide) -> int:
            return await asyncio.to_thread(main, ["backup", "copy.db"])

        assert in_backend(beside) == 0
        assert told("restore", "copy.db")[0] == 0
        assert len(told("export", "todo")[1].splitlines()) == 1

    def test_a_place_that_cannot_be_written_is_told(self, told: Told) -> None:
        """Even one that may not be looked at."""
        code, _, err = told("backup", "x" * 300)
        assert code == 1
        assert "cannot be written" in err
        assert "--debug" not in err

    def test_a_backup_does_not_replace_a_file(self, project: Path, told: Told) -> None:
        """The only backup is not overwritten by a command typed twice."""
        Path("copy.db").write_text("precious")
        assert told("backup", "copy.db")[0] == 1
        assert Path("copy.db").read_text() == "precious"

    @pytest.mark.parametrize("content", [b"", b"not a database" * 100, None])
    def test_what_is_no_backup_is_not_restored(
        self, project: Path, told: Told, content: bytes | None
    ) -> None:
        """A wrong, damaged or missing file changes nothing."""
        Path("in.ndjson").write_text(TestRecords.LINES)
        assert told("import", "todo", "in.ndjson")[0] == 0
        if content is not None:
            Path("wrong.db").write_bytes(content)
        code, _, err = told("restore", "wrong.db")
        assert code == 1
        assert err.startswith("error: ")
        assert "--debug" not in err
        assert len(told("export", "todo")[1].splitlines()) == 1
        assert not [path for path in (project / "data").iterdir() if ".before-" in path.name]

    def test_nothing_is_restored_under_a_running_server(self, project: Path, told: Told) -> None:
        """The files of a database that is open stay where they are."""
        assert told("backup", "copy.db")[0] == 0

        async def beside(lowtide: Lowtide) -> int:
            return await asyncio.to_thread(main, ["restore", "copy.db"])

        assert in_backend(beside) == 1
        assert not [path for path in (project / "data").iterdir() if ".before-" in path.name]


class TestOperation:
    def test_status_lists_the_migrations_and_says_if_one_is_missing(self, project: Path, told: Told) -> None:
        """0 when all are applied, 1 when one is to do."""
        code, out, _ = told("db", "status")
        assert code == 0
        assert "sync" in out
        assert "to do" not in out

        async def forget(lowtide: Lowtide) -> None:
            await lowtide.database.write(
                lambda tx: tx.script("DELETE FROM lowtide_migration WHERE component = 'sync'")
            )

        in_backend(forget)
        code, out, _ = told("db", "status")
        assert code == 1
        assert "to do" in out

    @pytest.mark.parametrize(
        ("words", "hint"),
        [
            (["keys", "revoke", "zzz"], "'lowtide keys' lists"),
            (["webhooks", "test", "zzz"], "'lowtide webhooks' lists"),
            (["jobs", "requeue", "zzz"], "retention"),
            (["users", "admin", "zzz"], "'lowtide users --help'"),
        ],
    )
    def test_what_is_not_there_is_told_to_who_types(self, told: Told, words: list[str], hint: str) -> None:
        """The hint is for a terminal: it speaks of no address, no token and no API."""
        code, out, err = told(*words)
        assert (code, out) == (1, "")
        assert hint in err
        assert "API" not in err
        assert "token" not in err

    def test_a_dead_job_is_told_with_its_error_and_can_run_again(self, told: Told) -> None:
        """The list names the job, why it died, and the command that lets it run again."""
        assert "no jobs" in told("jobs")[1]

        async def die(lowtide: Lowtide) -> str:
            async def work(tx: Tx) -> str:
                id = await lowtide.jobs.enqueue(tx, "mail", {"to": "ann"})
                now = lowtide.clock.now()
                jobs = await job_store.claim(
                    tx, "default", ["mail"], 1, now=now, until=now + 1000, worker="w"
                )
                await job_store.bury(tx, (jobs[0].id, jobs[0].fence), now, "the mail server said no")
                return id

            return str(await lowtide.database.write(work))

        id = in_backend(die)
        _, out, _ = told("jobs")
        assert id in out
        assert "the mail server said no" in out
        assert "requeue" in out
        assert told("jobs", "requeue", id)[0] == 0
        assert "the mail server said no" not in told("jobs")[1]
        assert told("jobs", "requeue", id)[0] == 1

    def test_devices_are_listed_with_what_they_did_last(self, told: Told) -> None:
        """A line for each device of the space, and none of another's."""

        async def upload(lowtide: Lowtide) -> None:
            mutation = SentMutation(
                n=1, op="put", model="membership", id="m", data={"team_id": "ann", "user_id": "ann"}
            )
            sent = SentBatch("phone-1", [SentTransaction([mutation])])
            await lowtide.sync.upload(Principal(user="ann"), sent)

        in_backend(upload)
        _, out, _ = told("devices")
        assert out.splitlines()[1].split()[:2] == ["ann", "phone-1"]
        assert len(told("devices", "--space", "other")[1].splitlines()) == 1


class TestCheckAgainstTheDeployed:
    def change(self, project: Path, old: str, new: str) -> None:
        """Edit the app, as a developer between two versions."""
        app = project / "app.py"
        text = app.read_text()
        assert old in text
        app.write_text(text.replace(old, new))
        sys.modules.pop("app", None)

    def test_nothing_changed(self, told: Told) -> None:
        """The deployed version passes its own check."""
        code, out, _ = told("check")
        assert (code, out.splitlines()[-1][:9]) == (0, "0 changes")

    def test_what_devices_survive_is_listed_and_passes(self, project: Path, told: Told) -> None:
        """A new field is no harm."""
        self.change(project, "    votes = Counter()", "    votes = Counter()\n    stars = Counter()")
        code, out, _ = told("check")
        assert code == 0
        assert "ok: todo.stars" in out

    def test_what_would_break_a_device_is_refused_with_the_way_out(self, project: Path, told: Told) -> None:
        """A field that versions in the field still use cannot just go; nothing was changed by asking."""
        self.change(project, "    votes = Counter()\n", "")
        code, out, _ = told("check")
        assert code == 1
        assert "refuse: todo.votes" in out
        assert "removed(" in out
        assert told("check")[0] == 1
