"""The audit log on the command line: commands stand in it, and it can be read and proved."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lowtide.audit.keys import parse_key
from lowtide.cli import main

Told = Callable[..., tuple[int, str, str]]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The app of 'lowtide new' after its first start."""
    monkeypatch.chdir(tmp_path)
    assert main(["new", "todo"]) == 0
    monkeypatch.chdir(tmp_path / "todo")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("LOWTIDE_AUDIT_CHECKPOINTS", "notes")
    (tmp_path / "todo/notes").mkdir()
    assert main(["audit", "checkpoint"]) == 0
    yield tmp_path / "todo"
    sys.modules.pop("app", None)


@pytest.fixture
def told(project: Path, capsys: pytest.CaptureFixture[str]) -> Told:
    """Run a command: exit code, stdout, stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(list(words))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_commands_stand_in_the_log(told: Told, project: Path) -> None:
    """A token, an export, a backup and a new key are entries, by the account that ran the command."""
    assert told("token", "--user", "ann")[0] == 0
    assert told("token", "--user", "app", "--server")[0] == 0
    assert told("export", "note")[0] in (0, 1)
    assert told("backup", "copy.db")[0] == 0
    assert told("audit", "key", "--rotate")[0] == 0
    code, out, _ = told("audit", "list")
    lines = out.splitlines()
    assert code == 0
    for action, target in (
        ("token.issue", "user:ann"),
        ("token.issue", "server:app"),
        ("backup.make", "file:copy.db"),
        ("audit.rotate_key", "audit"),
        ("schema.deploy", "schema"),
    ):
        [line] = [line for line in lines if action in line and line.endswith(target)]
        assert "via cli" in line or "via start" in line
    assert len(told("audit", "list", "--action", "token.", "--limit", "1")[1].splitlines()) == 1
    assert told("audit", "list", "--since", "soon")[0] == 1


def test_a_log_is_proved_and_a_forged_one_is_not(told: Told, project: Path) -> None:
    """Whole: exit code 0. With an edited entry, or behind a checkpoint: 1, the place and the reason."""
    told("token", "--user", "ann")
    code, note, _ = told("audit", "checkpoint")
    assert code == 0
    (project / "notes" / "20261122T000000Z-1.note").write_text(note)
    code, key, _ = told("audit", "key")
    assert parse_key(key.strip()).name == "lowtide/todo"
    code, out, err = told("audit", "verify", "--key", key.strip())
    assert (code, err) == (0, "")
    assert "1 checkpoints agree" in out
    assert "The log is whole." in out
    assert told("audit", "verify", "--key", "rubbish")[0] == 1
    stranger = "lowtide/todo+00000000+" + key.strip().split("+", 2)[2]
    assert told("audit", "verify", "--key", stranger)[0] == 1

    database = sqlite3.connect(project / "data/data.db")
    with database:
        database.execute("DROP TRIGGER audit_entry_keeps")
        database.execute("UPDATE audit_entry SET actor = 'user:innocent' WHERE seq = 2")
    database.close()
    code, out, _ = told("audit", "verify")
    assert code == 1
    assert "changed: entry 2: " in out
    assert "audit_entry_keeps is missing" in out
