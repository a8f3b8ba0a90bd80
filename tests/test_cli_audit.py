"""The audit log on the command line: commands stand in it, and it can be read and proved."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from lowtide.app import Lowtide
from lowtide.audit.archive import Archive
from lowtide.audit.keys import parse_key
from lowtide.cli import main
from lowtide.cli.opened import by_hand, with_backend
from lowtide.cli.project import open_project
from lowtide.kernel.clock import ManualClock
from tests.conftest import Told
from tests.docs.reference import every_command


@pytest.fixture
def project(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The app of 'lowtide new' after its first start."""
    monkeypatch.setenv("LOWTIDE_AUDIT_CHECKPOINTS", "notes")
    (project / "notes").mkdir()
    assert main(["audit", "checkpoint"]) == 0
    return project


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
    assert "No checkpoint was looked at" in told("audit", "verify")[1]
    (project / "notes" / "misnamed.txt").write_text(note)
    code, _, err = told("audit", "verify", "--checkpoints", "notes")
    assert (code, "no checkpoint in notes" in err) == (1, True), "what proves nothing is not called whole"
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


def test_archived_entries_are_listed_exported_and_proved(told: Told, project: Path) -> None:
    """What left the table is read from its archive, and the log verifies; without the archive it does not."""
    told("token", "--user", "ann")
    told("token", "--user", "bob")
    assert told("audit", "checkpoint")[0] == 0
    before = told("audit", "list")[1].splitlines()
    settings, app = open_project()

    async def archive(lowtide: Lowtide) -> int:
        later = ManualClock(lowtide.clock.now() + 2 * 86_400_000)
        return await Archive(
            lowtide.database, lowtide.blobs, lowtide.audit_keys, lowtide.audit, later, 1
        ).run()

    assert with_backend(settings, app, archive) == len(before)
    assert told("audit", "checkpoint")[0] == 0
    code, out, _ = told("audit", "list")
    assert (code, out.splitlines()[-len(before) :]) == (0, before)
    assert len(told("audit", "list", "--action", "token.", "--limit", "1")[1].splitlines()) == 1
    code, out, err = told("audit", "export", "-o", "log.ndjson")
    assert (code, out, "entries exported." in err) == (0, "", True)
    lines = [json.loads(line) for line in (project / "log.ndjson").read_text().splitlines()]
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert {line["target"] for line in lines if line["archived"]} >= {"user:ann", "user:bob"}
    assert "audit.export" in told("audit", "list")[1]
    assert told("audit", "export", "-o", "log.ndjson")[0] == 1  # it is never overwritten
    assert told("audit", "verify")[0] == 0
    [segment] = (project / "data/blobs/audit").iterdir()
    segment.rename(project / "elsewhere")
    code, out, _ = told("audit", "verify")
    assert (code, "archive: entry 1: " in out) == (1, True)
    code, _, err = told("audit", "export", "-o", "short.ndjson")
    assert (code, "lowtide audit verify" in err, (project / "short.ndjson").exists()) == (1, True, False)


WRITES = {
    "token": ("token.issue", "token --user ann"),
    "export": ("records.export", "export todo_list -o out.ndjson"),
    "import": ("records.import", "import todo_list lists.ndjson"),
    "backup": ("backup.make", "backup copy.db"),
    "keys rotate": ("key.rotate", "keys rotate"),
    "keys revoke": ("key.revoke", "keys revoke {key}"),
    "secrets rotate": ("secrets.rotate", "secrets rotate"),
    "jobs requeue": ("job.requeue", "jobs requeue j1"),
    "audit export": ("audit.export", "audit export -o log.ndjson"),
    "audit key": ("audit.rotate_key", "audit key --rotate"),
    "users admin": ("user.change", "users admin root@example.com"),
    "webhooks replay": ("webhook.replay", "webhooks replay w1"),
    "restore": ("backup.restore", "restore copy.db"),
}
"""Commands that change something, or hand out what only operators may see: the entry, and the words."""
READS = (
    *("check", "schema", "outbox", "db status", "keys", "jobs", "devices", "webhooks"),
    *("audit list", "audit verify"),
)
"""Commands that look at what the account that runs them may read anyway."""
ELSEWHERE = {
    **dict.fromkeys(("new", "client", "passwords build", "secrets new"), "it writes files, no database"),
    **dict.fromkeys(("dev", "serve", "db migrate"), "a start: it is written down as such"),
    "doctor": "it reads; its exit code is that of its findings",
    "webhooks test": "it sends a message about itself, and changes nothing",
    "audit checkpoint": "it signs what is there, as the server does each hour",
}


def test_every_command_says_what_it_writes_down() -> None:
    """A new command fails here until somebody has said what it writes into the log, or why nothing."""
    named = [path.removeprefix("lowtide ") for path, _ in every_command()]
    assert sorted(named) == sorted([*WRITES, *READS, *ELSEWHERE])


def test_each_command_that_changes_something_is_written_down(told: Told, project: Path) -> None:
    """Each leaves its entry, by the account that ran it; one that only looks leaves none."""

    def sql(text: str) -> list[tuple[Any, ...]]:
        database = sqlite3.connect(project / "data/data.db")
        with database:
            rows = database.execute(text).fetchall()
        database.close()
        return rows

    def entries() -> list[tuple[str, str, str]]:
        return sql("SELECT action, actor, via FROM audit_entry WHERE via = 'cli' ORDER BY rowid")

    assert sql("SELECT action FROM audit_entry WHERE via = 'start' AND target = 'database'") != []
    (project / "lists.ndjson").write_text('{"id": "l1", "team_id": "t", "title": "x"}\n')
    # A key that every node knows by now, and a job that died.
    sql("UPDATE signing_key SET created_at = created_at - 3600000")
    sql("INSERT INTO job VALUES ('j1', 'q', 'k', NULL, 'null', 'dead', 0, 1, 1, 1, NULL, 'x', 0, 0)")
    sql(
        "INSERT INTO webhook_endpoint (id, url, events, secret, enabled, created_at)"
        " VALUES ('w1', 'https://example.com/', '[]', '', 1, 0)"
    )
    for name, (action, words) in WRITES.items():
        before = len(entries())
        [(key,)] = sql("SELECT kid FROM signing_key WHERE state = 'next'")
        code, _, err = told(*words.format(key=key).split())
        assert code == 0, (name, err)
        assert entries()[-1] == (action, by_hand("x").actor, "cli"), name
        assert len(entries()) > before or name == "restore"
    before = len(entries())
    for words in READS:
        assert told(*words.split())[0] == 0, words
    assert len(entries()) == before
