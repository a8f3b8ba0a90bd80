"""WatermelonDB's door: cursors, pages, claims; what the client does with them is in tests/acceptance."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lowtide.bridges import watermelon
from lowtide.kernel.clock import ManualClock
from lowtide.sync import store
from lowtide.sync.retention import Retention
from tests.bridges.conftest import KEPT_DAYS, Doors

pytestmark = pytest.mark.anyio

TABLES = ["membership", "task", "card", "note", "lowtide_rejections"]


class Melon:
    """A client that keeps rows as WatermelonDB does, and nothing more."""

    def __init__(self, doors: Doors, who: str, client: str | None = None):
        self.doors = doors
        self.who = who
        self.client = client or f"{who}-melon"
        self.at: int | None = None
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}
        self.pages = 0

    async def pull(self, **more: Any) -> dict[str, Any]:
        """Pull all pages, and hold what they say."""
        sent = {"client_id": self.client, "tables": TABLES, "last_pulled_at": self.at, **more}
        found: dict[tuple[str, str], dict[str, Any] | None] = {}
        page: dict[str, Any] = {}
        while True:
            answer = await self.doors.post(self.who, "watermelondb/pull", sent | {"next": page.get("next")})
            assert answer.status == 200, answer.body
            page = answer.json()
            self.pages += 1
            if page.get("restart"):
                found = {}
            for table, changes in page["changes"].items():
                assert changes["created"] == []
                for row in changes["updated"]:
                    found[(table, row["id"])] = row
                for id in changes["deleted"]:
                    found[(table, id)] = None
            if "next" not in page:
                break
        if page.get("experimentalStrategy") == "replacement":
            self.rows = {}
        self.told = found
        for name, row in found.items():
            if row is None:
                self.rows.pop(name, None)
            else:
                self.rows[name] = row
        self.at = page["timestamp"]
        return page

    def base(self, id: str, table: str = "task") -> str:
        """The content of ``lowtide_base``, as the app keeps it."""
        row = self.rows[(table, id)]
        return json.dumps(
            {name: [row["lowtide_op"], value] for name, value in row.items() if name != "lowtide_op"}
        )

    async def push(self, **changes: Any) -> dict[str, Any]:
        """``task={"updated": [...]}``: push changes of tables."""
        answer = await self.doors.post(
            self.who,
            "watermelondb/push",
            {"client_id": self.client, "last_pulled_at": self.at, "changes": changes},
        )
        assert answer.status == 200, answer.body
        found: dict[str, Any] = answer.json()
        return found

    def changed(self, id: str, **values: Any) -> dict[str, Any]:
        """The raw row of a task whose columns the user changed."""
        row = {name: value for name, value in self.rows[("task", id)].items() if name != "lowtide_op"}
        own = {"_status": "updated", "_changed": ",".join(values), "lowtide_base": self.base(id)}
        return {**row, **values, **own}


async def melon(doors: Doors, who: str = "anna", **more: Any) -> Melon:
    client = Melon(doors, who, **more)
    await client.pull()
    return client


async def test_a_counter_pushed_again_after_a_lost_answer_counts_once(doors: Doors) -> None:
    """The same push, and the same with more behind it, add only what is new."""
    await doors.put("task", "t", team_id="red", title="x", votes=5)
    anna = await melon(doors)
    sent = anna.changed("t", votes=7)
    await anna.push(task={"updated": [sent]})
    await doors.put("task", "t", votes=17)
    for votes in (7, 7, 8):
        await anna.push(task={"updated": [sent | {"votes": votes}]})
    found = await doors.task("t")
    assert found is not None
    assert found["votes"] == 18


async def test_a_value_that_comes_back_is_not_taken_for_a_repeat(doors: Doors) -> None:
    """The same two values at another version are another change."""
    await doors.put("task", "t", team_id="red", title="x", votes=5)
    anna = await melon(doors)
    await anna.push(task={"updated": [anna.changed("t", votes=6)]})
    await doors.put("task", "t", votes=5)
    await anna.pull()
    await anna.push(task={"updated": [anna.changed("t", votes=6)]})
    found = await doors.task("t")
    assert found is not None
    assert found["votes"] == 6


async def test_what_two_changed_merges_field_by_field_and_the_loser_is_kept(doors: Doors) -> None:
    """Sets and counters add up; of a plain field the later push stays, the other is in the journal."""
    await doors.put("task", "t", team_id="red", title="x", votes=1, tags=["a"])
    anna, ben = await melon(doors), await melon(doors, "ben")
    await anna.push(task={"updated": [anna.changed("t", title="Anna", tags='["a","b"]', votes=2)]})
    await ben.push(task={"updated": [ben.changed("t", title="Ben", tags="[]", votes=3, estimate=4)]})
    found = await doors.task("t")
    assert found is not None
    assert (found["title"], found["votes"], found["estimate"]) == ("Ben", 4, 4)
    assert json.loads(found["tags"]) == ["b"]
    assert await doors.lost("t") == [("title", "Anna", "Ben")]


async def test_a_new_record_that_comes_again_with_what_others_made_of_it_adds_nothing(doors: Doors) -> None:
    """Pushed, changed by others, pulled, and pushed again as new: the others' increments are not its own."""
    anna = await melon(doors)
    made = {"id": "n", "team_id": "red", "title": "x", "votes": 10, "_status": "created"}
    await anna.push(task={"created": [made]})
    await doors.put("task", "n", votes=13)
    at = anna.at
    await anna.pull()
    anna.at, now = at, anna.at
    merged = {**made, "votes": 13, "lowtide_base": anna.base("n")}
    await anna.push(task={"created": [merged]})
    assert (await doors.task("n") or {})["votes"] == 13
    # Its own change since the push has no base there: it goes on from what was pushed.
    base = {name: pair for name, pair in json.loads(anna.base("n")).items() if name != "votes"}
    await anna.push(task={"created": [{**made, "votes": 11, "lowtide_base": json.dumps(base)}]})
    assert (await doors.task("n") or {})["votes"] == 14
    anna.at = now
    await anna.pull()
    assert anna.rows[("task", "n")]["votes"] == 14


async def test_without_bases_an_untouched_record_is_changed_as_it_is_and_a_touched_one_is_kept(
    doors: Doors,
) -> None:
    """Of a table without ``lowtide_base`` the cursor says what the user saw: nothing is lost silently."""
    await doors.put("task", "t", team_id="red", title="x", votes=5)
    anna = await melon(doors)
    bare = {name: v for name, v in anna.changed("t", votes=6).items() if name != "lowtide_base"}
    await anna.push(task={"updated": [bare]})
    assert await doors.lost("t") == []
    await doors.put("task", "t", votes=16, title="Server")
    await anna.push(task={"updated": [bare | {"votes": 7}]})
    assert (await doors.task("t") or {})["votes"] == 17
    await anna.push(task={"updated": [bare | {"votes": 7, "title": "Anna", "_changed": "votes,title"}]})
    assert ("title", "Server", "Anna") in await doors.lost("t")
    # Without _changed nobody knows what was changed: as WatermelonDB's rules say, pull and push again.
    blind = {name: value for name, value in bare.items() if name != "_changed"}
    await doors.put("task", "t", title="Again")
    answer = await doors.post(
        "anna",
        "watermelondb/push",
        {
            "client_id": anna.client,
            "last_pulled_at": anna.at,
            "changes": {"task": {"updated": [blind]}},
        },
    )
    assert (answer.status, answer.code) == (409, "conflict")


async def test_a_refused_change_is_told_comes_back_as_a_row_and_holds_up_nothing(doors: Doors) -> None:
    """The others are made, the server's state returns, and the same refusal twice is one row."""
    await doors.put("task", "t", team_id="red", title="x")
    await doors.put("task", "u", team_id="red", title="x")
    anna = await melon(doors)
    bad = anna.changed("t", team_id="blue")
    made = {"id": "n", "team_id": "blue", "title": "mine", "_status": "created"}
    for _ in range(2):
        answer = await anna.push(task={"created": [made], "updated": [bad, anna.changed("u", title="good")]})
        assert {(one["id"], one["code"]) for one in answer["refused"]} == {
            ("t", "forbidden"),
            ("n", "forbidden"),
        }
        assert answer["experimentalRejectedIds"] == {}
    anna.rows[("task", "n")] = made
    anna.rows[("task", "t")]["team_id"] = "blue"
    await anna.pull()
    assert ("task", "n") not in anna.rows
    assert anna.rows[("task", "t")]["team_id"] == "red"
    assert anna.rows[("task", "u")]["title"] == "good"
    rejected = [row for (table, _), row in anna.rows.items() if table == "lowtide_rejections"]
    assert sorted(row["record_id"] for row in rejected) == ["n", "t"]
    assert all(row["code"] == "forbidden" for row in rejected)
    kept = await doors.post(
        "anna",
        "watermelondb/push",
        {"client_id": anna.client, "changes": {"task": {"created": [made]}}, "keep_refused": True},
    )
    assert kept.json()["experimentalRejectedIds"] == {"task": ["n"]}


async def test_who_leaves_a_team_loses_its_rows_and_who_joins_gets_them(doors: Doors) -> None:
    """Revoked rows leave, granted ones arrive whatever their age, and nobody else's id is told."""
    await doors.put("task", "old", team_id="blue", title="x")
    await doors.put("task", "t", team_id="red", title="x")
    anna = await melon(doors)
    await doors.leave("anna", "red")
    await doors.join("anna", "blue")
    await doors.engine.sync.database.read(store.read_head)
    await anna.pull()
    assert sorted(id for table, id in anna.rows if table == "task") == ["old"]
    await doors.leave("anna", "blue")
    await doors.put("task", "later", team_id="blue", title="secret")
    await anna.pull()
    assert [id for table, id in anna.rows if table == "task"] == []


async def test_a_row_that_moves_between_two_teams_of_the_user_stays(doors: Doors) -> None:
    """It leaves one bucket and is in another: the client keeps it, changed."""
    await doors.put("task", "t", team_id="red", title="x")
    await doors.join("anna", "blue")
    anna = await melon(doors)
    await doors.put("task", "t", team_id="blue")
    await anna.pull()
    assert anna.rows[("task", "t")]["team_id"] == "blue"
    await doors.leave("anna", "red")
    await anna.pull()
    assert anna.rows[("task", "t")]["team_id"] == "blue"


async def test_nothing_new_is_an_empty_page(doors: Doors) -> None:
    """A client that has everything is told nothing, not even what it has."""
    await doors.put("task", "t", team_id="red", title="x")
    anna = await melon(doors)
    page = await anna.pull()
    assert anna.told == {}
    assert "experimentalStrategy" not in page


async def test_pages_fit_together_whatever_is_written_between_them(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that change, go and come, and a team that is left and joined, between any two pages."""
    monkeypatch.setattr(watermelon, "MAX_PULLED", 3)
    for n in range(12):
        await doors.put("task", f"t{n:02}", team_id="red", title="x")
    await doors.join("anna", "blue")
    await doors.put("task", "b", team_id="blue", title="x")
    anna = await melon(doors)
    assert anna.pages > 4
    real = doors.post
    turn = 0

    async def meddle(who: str, path: str, sent: Any) -> Any:
        nonlocal turn
        answer = await real(who, path, sent)
        turn += 1
        if turn == 1:
            await doors.delete("task", "t00")
            await doors.put("task", "t11", title="changed")
            await doors.put("task", "t05", team_id="blue")
        if turn == 2:
            await doors.leave("anna", "blue")
            await doors.put("task", "new", team_id="red", title="x")
        if turn == 3:
            await doors.join("anna", "green")
            await doors.put("task", "g", team_id="green", title="x")
        return answer

    for at in (None, anna.at):
        turn, anna.at = 0, at
        anna.rows = {} if at is None else anna.rows
        monkeypatch.setattr(doors, "post", meddle)
        await anna.pull()
        monkeypatch.setattr(doors, "post", real)
        await anna.pull()
        fresh = await melon(doors, client="other")
        assert anna.rows == fresh.rows
        assert ("task", "t00") not in anna.rows
        assert ("task", "t05") not in anna.rows
        await doors.join("anna", "blue")
        await doors.leave("anna", "green")
        for n in range(12):
            await doors.put("task", f"t{n:02}", team_id="red", title="again")


async def test_after_a_restored_backup_everything_is_replaced(doors: Doors) -> None:
    """A cursor of another epoch is not believed, whatever its numbers."""
    await doors.put("task", "t", team_id="red", title="x")
    anna = await melon(doors)
    await doors.engine.sync.database.write(lambda tx: store.begin_epoch(tx, "restored", 0))
    anna.rows[("task", "ghost")] = {}
    page = await anna.pull()
    assert page["experimentalStrategy"] == "replacement"
    assert ("task", "ghost") not in anna.rows
    assert ("task", "t") in anna.rows
    assert "experimentalStrategy" not in await anna.pull()


async def test_who_was_away_for_longer_than_removals_are_kept_replaces_everything(
    doors: Doors, clock: ManualClock
) -> None:
    """A removal that is forgotten cannot be told: what is not sent anew is gone."""
    await doors.put("task", "t", team_id="red", title="x")
    await doors.put("task", "u", team_id="red", title="x")
    anna = await melon(doors)
    await anna.push(task={"updated": [anna.changed("t", title="y")]})
    clock.advance(86_400_000)
    await doors.delete("task", "t")
    clock.advance((KEPT_DAYS + 1) * 86_400_000)
    await doors.put("task", "u", title="z")
    clock.advance(1)
    database = doors.engine.sync.database
    await Retention(database, clock, KEPT_DAYS, KEPT_DAYS).trim()
    assert await doors.bridges.trim() == 1
    page = await anna.pull()
    assert page["experimentalStrategy"] == "replacement"
    assert sorted(id for table, id in anna.rows if table == "task") == ["u"]


async def test_what_became_of_a_push_is_told_for_as_long_as_its_cursor_is_good(
    doors: Doors, clock: ManualClock
) -> None:
    """Whichever is trimmed first: pushes are never forgotten before the groups that cursors name."""
    await doors.put("task", "t", team_id="red", title="x")
    anna = await melon(doors)
    await anna.push(task={"updated": [anna.changed("t", title="y")]})
    clock.advance((KEPT_DAYS + 1) * 86_400_000)
    await doors.put("membership", "other", user_id="zoe", team_id="blue")
    clock.advance((KEPT_DAYS + 1) * 86_400_000)
    assert await doors.bridges.trim() == 0
    page = await anna.pull()
    assert "experimentalStrategy" not in page
    assert [row["id"] for row in page["changes"]["task"]["updated"]] == ["t"]


async def test_the_cursor_of_another_user_is_none(doors: Doors) -> None:
    """Who signs in on another's database replaces everything: nothing of theirs is missing, nothing stays."""
    await doors.put("task", "r", team_id="red", title="x")
    await doors.put("task", "b", team_id="blue", title="y")
    await doors.join("zoe", "blue")
    anna, zoe = await melon(doors), await melon(doors, "zoe")
    assert [id for table, id in zoe.rows if table == "task"] == ["b"]
    zoe.who = "anna"
    assert (await zoe.pull())["experimentalStrategy"] == "replacement"
    assert zoe.rows == anna.rows
    assert "experimentalStrategy" not in await zoe.pull()


async def test_a_migration_brings_all_rows_of_the_tables_that_it_names(doors: Doors) -> None:
    """New tables and new columns are filled; others are told what is new, and no more."""
    await doors.put("task", "t", team_id="red", title="x")
    await doors.put("card", "c", team_id="red", body="x")
    anna = await melon(doors)
    await doors.put("card", "d", team_id="red", body="x")
    await anna.pull(migration={"from": 1, "tables": [], "columns": [{"table": "task", "columns": []}]})
    assert sorted(anna.told) == [("card", "d"), ("task", "t")]


async def test_a_deletion_that_did_not_know_of_an_edit_keeps_the_edit_in_the_journal(doors: Doors) -> None:
    """Deletion wins by default; a model that says so is revived, and comes back to who deleted it."""
    await doors.put("task", "t", team_id="red", title="x")
    await doors.put("card", "c", team_id="red", body="x")
    anna = await melon(doors)
    await doors.put("task", "t", title="Edited")
    await doors.put("card", "c", body="Edited")
    await anna.push(task={"deleted": ["t"]}, card={"deleted": ["c"]})
    anna.rows = {}
    assert ("title", "Edited", None) in await doors.lost("t")
    await anna.pull()
    assert [name for name in anna.rows if name[0] in ("task", "card")] == [("card", "c")]
    # An edit of what is gone is kept, too.
    ben = await melon(doors, "ben")
    await doors.put("task", "u", team_id="red", title="x")
    await ben.pull()
    await doors.delete("task", "u")
    await ben.push(task={"updated": [ben.changed("u", title="Late")]})
    assert [(field, lost) for field, lost, _ in await doors.lost("u")] == [("title", "Late")]


async def test_times_are_numbers_and_former_names_are_understood(doors: Doors) -> None:
    """A row has what the tables of this and of last year's app hold."""
    await doors.put("task", "t", team_id="red", title="x", notes="one")
    anna = await melon(doors)
    row = anna.rows[("task", "t")]
    assert (row["notes"], row["remark"], row["approved"]) == ("one", "one", 0)
    old = {name: value for name, value in anna.changed("t", remark="two").items() if name != "notes"}
    await anna.push(task={"updated": [old]})
    assert (await doors.task("t") or {})["notes"] == "two"
    assert watermelon.milliseconds("2026-03-01T08:00:00.250Z") == 1_772_352_000_250


HOSTILE: list[tuple[str, Any, int]] = [
    ("pull", {}, 400),
    ("pull", {"client_id": "", "tables": []}, 400),
    ("pull", {"client_id": "a/b", "tables": []}, 400),
    ("pull", {"client_id": "c", "tables": ["task"], "last_pulled_at": 0}, 400),
    ("pull", {"client_id": "c", "tables": ["task"], "last_pulled_at": 2**60}, 400),
    ("pull", {"client_id": "c", "tables": ["task"], "last_pulled_at": 1.5}, 400),
    ("pull", {"client_id": "c", "tables": ["task"] * 1001}, 400),
    ("pull", {"client_id": "c", "tables": ["task"], "next": "x"}, 400),
    ("pull", {"client_id": "c", "tables": ["task"], "next": "A" * 9999}, 400),
    ("pull", {"client_id": "c", "tables": ["task"], "next": "WzEsMiwzXQ"}, 400),
    ("pull", {"client_id": "c", "tables": ["nothing", "lowtide_commands"], "last_pulled_at": 2**52}, 200),
    ("push", {"client_id": "c", "changes": {"task": {"updated": [{}]}}}, 400),
    ("push", {"client_id": "c", "changes": {"task": {"deleted": [7]}}}, 400),
    ("push", {"client_id": "c", "changes": {"task": {"updated": [{"id": "t", "lowtide_base": "{"}]}}}, 400),
    ("push", {"client_id": "c", "changes": {"task": []}}, 400),
    ("push", {"client_id": "c", "changes": {"task": {"deleted": ["x"] * 20_001}}}, 413),
    ("push", {"client_id": "c", "changes": {"nothing": {"created": [{"id": "x"}]}}}, 200),
    ("push", {"client_id": "c", "changes": {"task": {"created": [{"id": "\n"}, {"id": "x" * 999}]}}}, 200),
    ("push", {"client_id": "c", "changes": {"task": {"created": [{"id": "z", "title": "\0"}]}}}, 200),
    ("push", {"client_id": "c", "changes": {"task": {"created": [{"id": "z\0", "title": [[]]}]}}}, 200),
    ("push", {"client_id": "c", "changes": {}}, 200),
]


async def test_hostile_input_is_answered_and_changes_nothing(doors: Doors) -> None:
    """Malformed, huge, of the wrong kind, forged: a 4xx, or a refusal that the client is told of."""
    await doors.put("task", "t", team_id="red", title="x", votes=1)
    await doors.put("task", "b", team_id="blue", title="secret")
    for what, sent, status in HOSTILE:
        answer = await doors.post("anna", f"watermelondb/{what}", sent)
        assert answer.status == status, (what, sent, answer.body)
        assert b"secret" not in answer.body
        if what == "push" and status == 200:
            assert len(answer.json()["refused"]) == sum(
                len(table["created"]) for table in sent["changes"].values()
            )
    assert (await doors.post("server", "watermelondb/pull", {"client_id": "c", "tables": []})).status == 403
    assert (await doors.post("server", "watermelondb/push", {"client_id": "c", "changes": {}})).status == 403
    anna = await melon(doors)
    for forged in (1, anna.at or 1, (anna.at or 1) + 1, (anna.at or 1) + 2**20, 2**53 - 1):
        zoe = Melon(doors, "zoe", "forged")
        zoe.at = forged
        await zoe.pull()
        assert {name for name in zoe.rows if name[0] == "task"} == set()
        other = Melon(doors, "anna@acme", "forged")
        other.at = forged
        await other.pull()
        assert other.rows == {}
    assert (await doors.task("t") or {})["votes"] == 1
