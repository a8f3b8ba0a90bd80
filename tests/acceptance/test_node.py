"""An unmodified client SDK against a real server: what an app's developer does, and what must come of it."""

from __future__ import annotations

import base64
import json
import subprocess
from typing import Any

import pytest
from pycrdt import Doc, Text

from lowtide.declare.clientschema import client_schema
from lowtide.sync.system import with_system
from tests.acceptance import crew, crew_last_year
from tests.acceptance.conftest import STORE, Scenario
from tests.acceptance.scenarios import NODE

MODES = pytest.mark.parametrize("mode", ["legacy", "requests"])
"""The SDK's two ways to learn that what it uploaded has come back."""
TRANSPORTS = pytest.mark.parametrize("transport", ["HTTP", "WEB_SOCKET"])
"""The SDK's two ways to download."""
WAYS = pytest.mark.parametrize(
    ("mode", "transport"), [("legacy", "HTTP"), ("requests", "HTTP"), ("legacy", "WEB_SOCKET")]
)


def field(content: dict[str, Any], table: str, name: str) -> dict[str, Any]:
    """id -> the value of ``name``, of every row of ``table`` on a phone."""
    return {row["id"]: row[name] for row in content[table]}


def shared(content: dict[str, Any]) -> dict[str, Any]:
    """What every phone of the same users must hold alike."""
    own = ("membership", "lowtide_rejections", "lowtide_commands")
    return {table: rows for table, rows in content.items() if table not in own}


@pytest.mark.parametrize(("name", "app"), [("CREW", crew.app), ("CREW_LAST_YEAR", crew_last_year.app)])
def test_the_phones_have_the_tables_that_the_app_prints(name: str, app: Any) -> None:
    """The schema that the scenarios use is the one of ``lowtide schema``; there is no second truth."""
    script = f"import {{ {name} }} from './schema.mjs'; console.log(JSON.stringify({name}.toJSON()))"
    ran = subprocess.run(
        ["node", "--input-type=module", "-e", script], cwd=NODE, capture_output=True, text=True, check=True
    )
    written = {table["name"]: table for table in json.loads(ran.stdout)["tables"]}
    printed = {table["name"]: table for table in client_schema(with_system(app.compile()))["tables"]}
    assert written.keys() == printed.keys()
    for table, declared in printed.items():
        columns = {column["name"]: column["type"] for column in declared["columns"]}
        columns.pop("device", None)  # says to the server whose row it is; the device knows
        assert {column["name"]: column["type"] for column in written[table]["columns"]} == columns
        for option in ("include_old", "include_old_only_when_changed", "include_metadata"):
            assert written[table][option] is True


@TRANSPORTS
def test_a_new_phone_receives_what_its_user_may_see_and_nothing_else(
    scenario: Scenario, transport: str
) -> None:
    """The first sync brings every row of the user's teams, none of another's, and queues nothing."""
    seen = scenario("first_sync", transport=transport)
    tasks = seen["content"].pop("task")
    assert len(tasks) == 3000
    assert {task["team_id"] for task in tasks} == {"red"}
    assert tasks[7] == {
        "id": tasks[7]["id"],
        "team_id": "red",
        "title": f"Task {tasks[7]['id'].removeprefix('red-')}",
        "notes": "",
        "page": None,
        "votes": 0,
        "tags": "[]",
        "steps": "[]",
        "best": None,
        "least": None,
        "opener": None,
        "state": "todo",
        "approved": 0,
        "estimate": None,
    }
    assert seen["content"].pop("membership") == [{"id": "red-anna", "user_id": "anna", "team_id": "red"}]
    assert not any(seen["content"].values())
    assert (seen["hasSynced"], seen["queue"]) == (True, 0)


@WAYS
def test_a_change_reaches_another_phone_at_once(scenario: Scenario, mode: str, transport: str) -> None:
    """Inserts, edits and deletions arrive while both phones are connected; nothing flickers on either."""
    seen = scenario("live", mode=mode, transport=transport)
    assert sorted(seen["delays"])[5] < 1000
    titles = [f"Task {i}" for i in range(10)]
    for rows in seen["there"] + seen["here"]:
        # Each view is what was there before with more behind it, until the edit and the deletion.
        inserted = [title for title in rows if title != "Task 3b"]
        assert [t for t in titles if t in inserted or t in ("Task 3", "Task 9")][
            : len(rows)
        ] != [] or not rows
        assert set(inserted) <= set(titles)
    for history in (seen["here"], seen["there"]):
        counts = [len(rows) for rows in history]
        peak = counts.index(10)
        assert counts[: peak + 1] == sorted(counts[: peak + 1])
        assert set(counts[peak:]) <= {9, 10}
        edited = ["Task 3b" in rows for rows in history]
        assert edited == sorted(edited), "an edit was taken back and made again"
    assert sorted(task["title"] for task in seen["anna"]["task"]) == [*titles[:3], "Task 3b", *titles[4:9]]
    assert shared(seen["anna"]) == shared(seen["ben"])
    assert not seen["anna"]["lowtide_rejections"] + seen["ben"]["lowtide_rejections"]


@TRANSPORTS
def test_offline_edits_converge_by_the_rule_of_each_field(scenario: Scenario, transport: str) -> None:
    """Two phones changed every field of one task without a network: both end with the same merge."""

    def page(state: bytes | None, edit: str, at: int) -> tuple[str, bytes]:
        doc: Doc[Any] = Doc()
        text = doc.get("text", type=Text)
        if state is not None:
            doc.apply_update(state)
        text.insert(at, edit)
        return base64.b64encode(doc.get_update()).decode(), doc.get_update()

    start, state = page(None, "tide", 0)
    seen = scenario(
        "merge",
        transport=transport,
        given={"page": start, "anna": page(state, "low ", 0)[0], "ben": page(state, " rises", 4)[0]},
    )
    assert field(seen["before"]["anna"], "task", "title") == {"task": "Anna", "gone": "Edited"}
    assert field(seen["before"]["ben"], "task", "title") == {"task": "Ben"}
    assert seen["before"]["ben"]["card"] == []
    assert field(seen["anna"], "card", "body") == {"card": "Edited"}
    (task,) = seen["anna"]["task"]
    merged: Doc[Any] = Doc()
    merged.apply_update(base64.b64decode(task.pop("page")))
    assert str(merged.get("text", type=Text)) == "low tide rises"
    assert sorted(json.loads(task["tags"])) == ["b", "x", "y"]
    assert task == {
        "id": "task",
        "team_id": "red",
        "title": "Ben",  # written later, though it arrived first
        "notes": "ONE\ntwo\nTHREE\n",
        "votes": 15,
        "tags": task["tags"],
        "steps": '["zero","one","two","three"]',
        "best": 9,
        "least": 1,
        "opener": "ben",  # the first that the server heard of
        "state": "done",
        "approved": 0,
        "estimate": None,
    }
    seen["ben"]["task"][0].pop("page")
    assert shared(seen["anna"]) == shared(seen["ben"])
    assert seen["refused"] == []
    assert not seen["anna"]["lowtide_rejections"] + seen["ben"]["lowtide_rejections"]


def test_a_value_that_loses_a_conflict_is_kept_and_can_be_restored(scenario: Scenario) -> None:
    """The journal names the loser, the winner and why; only those who see the record see it."""
    seen = scenario("conflict")
    (lost,) = seen["conflicts"]  # the same estimate twice, and votes that add up, are no conflict
    assert (lost["model"], lost["record"], lost["field"]) == ("task", "task", "title")
    assert (lost["lost"], lost["lost_by"]) == ("Anna", seen["clients"]["anna"])
    assert (lost["won"], lost["won_by"]) == ("Ben", seen["clients"]["ben"])
    assert lost["lost_at"] < lost["won_at"]
    assert lost["reason"] == "latest"
    assert (seen["stranger"]["status"], seen["stranger"]["code"]) == (404, "not_found")
    assert "Anna" not in json.dumps(seen["stranger"])
    assert seen["votes"] == {"votes": 3, "estimate": 5}


@MODES
def test_a_refusal_comes_back_as_a_row_and_blocks_nothing(scenario: Scenario, mode: str) -> None:
    """Every refused change returns with its reason and content, its row is put right, the rest goes on."""
    seen = scenario("refusal", mode=mode)
    assert field(seen["optimistic"], "handle", "name")["rude"] == "rude word"
    assert field(seen["optimistic"], "task", "approved")["task"] == 1
    after = seen["after"]["anna"]
    assert field(after, "handle", "name") == {"taken": "taken", "good": "good"}
    assert field(after, "task", "title") == {"task": "Start", "last": "Behind them all"}
    assert field(after, "task", "approved") == {"task": 0, "last": 0}
    rejections = {row["record_id"] + "/" + row["model"]: row for row in after["lowtide_rejections"]}
    assert {name: row["code"] for name, row in rejections.items()} == {
        "rude/handle": "rude",
        "double/handle": "unique",
        "foreign/task": "forbidden",
        "long/task": "invalid",
        "task/task": "server_only",
        "half/task": "transaction",
        "half/handle": "rude",
    }
    rude = rejections["rude/handle"]
    assert (rude["message"], rude["hint"]) == ("Mind your language.", "Choose another name.")
    assert (rude["op"], json.loads(rude["data"]), rude["metadata"]) == (
        "put",
        {"name": "rude word"},
        "form 7",
    )
    assert json.loads(rejections["task/task"]["base"]) == {"approved": 0}
    assert all(row["message"] for row in rejections.values())
    heard = {(result["n"], result["code"]) for result in seen["heard"]}
    assert heard == {(row["n"], row["code"]) for row in rejections.values()}
    # Nobody else hears of it, neither of the rows nor of the rejections.
    assert field(seen["after"]["ben"], "handle", "name") == {"taken": "taken", "good": "good"}
    assert seen["after"]["ben"]["lowtide_rejections"] == []
    assert seen["rejections"] == {"before": 7, "after": 0}
    assert (seen["dismissed"], seen["uploadError"]) == ([], None)


@TRANSPORTS
def test_a_revoked_grant_takes_the_rows_away_at_the_next_checkpoint(
    scenario: Scenario, transport: str
) -> None:
    """Membership and rows leave together, from the disk too; a later grant brings all back, up to date."""
    seen = scenario("revocation", transport=transport)
    assert seen["revoked"]["seen"] == [
        [{"teams": "blue,red", "red": 5, "blue": 5}],
        [{"teams": "blue", "red": 0, "blue": 5}],
    ]
    assert [row["id"] for row in seen["revoked"]["stored"]] == [f"blue-{i}" for i in range(5)]
    assert seen["oplog"] == [], "a change made after the revocation was sent"
    assert seen["granted"] == [{"title": "Secret"}]
    titles = field(seen["anna"], "task", "title")
    assert set(titles) == {f"blue-{i}" for i in range(5)}
    assert titles["blue-1"] == "In time"
    (refused,) = seen["anna"]["lowtide_rejections"]
    assert (refused["code"], refused["record_id"]) == ("forbidden", "red-1")
    assert json.loads(refused["data"]) == {"title": "Too late"}
    assert field(seen["ben"], "task", "title")["red-1"] == "Task"


def test_a_transaction_is_seen_whole_or_not_at_all(scenario: Scenario) -> None:
    """At no moment does another phone show one side of a booking; a refused side takes the other along."""
    seen = scenario("atomic")
    assert len(seen["seen"]) >= 2
    for view in seen["seen"]:
        for booking in view:
            assert (booking["sides"], booking["sum"]) == (2, 0), view
    assert len(seen["anna"]["entry"]) == 60
    assert not [entry for entry in seen["anna"]["entry"] if entry["booking"] == "bad"]
    assert shared(seen["anna"]) == shared(seen["ben"])
    codes = {row["record_id"]: row["code"] for row in seen["anna"]["lowtide_rejections"]}
    assert codes == {"bad-debit": "transaction", "bad-credit": "forbidden"}


def test_a_stream_on_request_comes_and_goes(scenario: Scenario) -> None:
    """A subscription brings its key's rows and no other's, never another team's, and ends after its time."""
    seen = scenario("subscriptions")
    assert seen["unasked"] == []
    assert seen["asked"] == [{"topic": "sea", "body": "Tides"}]
    assert [row["body"] for row in seen["both"]] == ["Tides", "Clouds", "Waves", "Rain"]
    assert seen["minutes"] == [{"body": "We met."}]
    assert seen["left"] == [{"id": "b"}, {"id": "d"}]


def test_what_matters_arrives_first(scenario: Scenario) -> None:
    """Rows of an urgent stream are shown while a large one is still on its way, and not the other way."""
    urgent, team, everything = scenario("priorities")
    assert (urgent["what"], urgent["alarms"], urgent["cities"], urgent["all"]) == (0, 1, 0, False)
    assert (team["what"], team["tasks"], team["cities"], team["all"]) == (2, 1, 0, False)
    assert everything == {"what": "all", "alarms": 1, "tasks": 1, "cities": 8000, "all": True}


def test_what_can_wait_waits_on_a_metered_network(scenario: Scenario) -> None:
    """A stream that defers does not come while the network is metered, and everything else does."""
    seen = scenario("metered")
    assert seen["metered"] == {"cities": 0, "tasks": 2, "synced": True}
    assert seen["free"] == {"cities": 50, "tasks": 2, "synced": True}


def test_odd_values_arrive_as_they_are_or_come_back(scenario: Scenario) -> None:
    """Whatever an app may write is the same on another phone, or is refused; the queue never stops."""
    seen = scenario("odd_values")
    titles = field(seen["anna"], "task", "title")
    assert titles == field(seen["ben"], "task", "title")
    expected = {name: value for name, value in seen["titles"].items() if name != "nul"}
    assert {name: value for name, value in titles.items() if name in seen["titles"]} == expected
    assert titles["last"] == "Behind them all"
    numbers = field(seen["ben"], "task", "estimate")
    assert {name: numbers[name] for name in seen["numbers"]} == seen["numbers"]
    assert {row["id"] for row in seen["ben"]["task"]} >= set(seen["ids"])
    refused = {row["record_id"]: row for row in seen["anna"]["lowtide_rejections"]}
    assert set(refused) == {"nul", "", "control\nid", "x" * 128}
    assert {row["code"] for row in refused.values()} == {"invalid"}
    assert json.loads(refused["nul"]["data"])["title"] == "a\0b"
    assert seen["uploadError"] is None


@TRANSPORTS
def test_an_expired_token_is_renewed_in_mid_stream(scenario: Scenario, transport: str) -> None:
    """Tokens of one second do not lose a change; a phone that can get none keeps its data and its queue."""
    seen = scenario("tokens", transport=transport)
    assert all(3 <= count < 20 for count in seen["refreshed"].values())
    assert seen["failures"] > 0
    assert seen["rows"] == 25, "a failing network signed the user out"
    assert shared(seen["anna"]) == shared(seen["ben"])
    assert len(seen["ben"]["task"]) == 25
    assert field(seen["ben"], "task", "title")["0"] == "Meanwhile"


def test_a_command_made_offline_runs_once_and_answers_with_a_row(scenario: Scenario) -> None:
    """The call's result comes as data, its writes reach everybody, and what cannot run says why."""
    seen = scenario("command")
    assert [row["status"] for row in seen["offline"]] == [None] * 4
    commands = {row["id"]: row for row in seen["commands"]}
    assert {id: row["status"] for id, row in commands.items()} == {
        "good": "done",
        "missing": "failed",
        "unknown": "failed",
        "wrong": "failed",
    }
    assert json.loads(commands["good"]["result"]) == {"was": "todo", "by": "anna"}
    assert commands["good"]["error"] is None
    errors = {id: json.loads(row["error"])["code"] for id, row in commands.items() if row["error"]}
    assert errors == {"missing": "no_task", "unknown": "not_found", "wrong": "malformed"}
    (task,) = seen["ben"]["task"]
    assert (task["state"], task["votes"]) == ("done", 1)
    assert {view["votes"] for view in seen["votes"]} <= {0, 1}
    assert seen["ben"]["lowtide_commands"] == []


@WAYS
def test_a_killed_server_loses_and_doubles_nothing(own_scenario: Scenario, mode: str, transport: str) -> None:
    """Two phones write while the server is killed twice: every change is there once, on both."""
    seen = own_scenario("restart", mode=mode, transport=transport)
    votes = field(seen["anna"], "task", "votes")
    assert votes.pop("shared") == 300
    assert set(votes) == {f"{name}-{i}" for name in ("anna", "ben") for i in range(150)}
    assert set(votes.values()) == {0}
    assert shared(seen["anna"]) == shared(seen["ben"])
    assert not seen["anna"]["lowtide_rejections"] + seen["ben"]["lowtide_rejections"]


def test_a_large_download_survives_connections_that_are_cut_in_mid_frame(scenario: Scenario) -> None:
    """50,000 rows over a WebSocket that breaks five times: all arrive, once, and the phone goes on live."""
    seen = scenario("torn", transport="WEB_SOCKET")
    assert seen["first"] == {"n": 50_000, "sum": sum(range(50_000))}
    assert seen["changed"] == [{"title": "Changed"}, {"title": "Answered"}]
    assert seen["cut"] == 5
    assert seen["sockets"] == 6, "the SDK gave a sound connection up"
    assert seen["rejections"] == []


def test_a_phone_whose_storage_changed_by_itself_is_healed(scenario: Scenario) -> None:
    """The connector's daily digest differs from the server's, and what differs is downloaded anew."""
    seen = scenario("audit")
    assert seen["sound"] == []
    assert seen["broken"] == [{"title": "Tusk"}]
    assert seen["again"] == []
    assert shared(seen["anna"]) == shared(seen["ben"])
    assert len(seen["anna"]["task"]) == 20


def test_every_format_and_coding_brings_the_same(scenario: Scenario) -> None:
    """BSON and JSON lines, plain and compressed, give the same rows; what is compressed is much smaller."""
    seen = scenario("wire")
    types = {"bson": "application/vnd.powersync.bson-stream", "json": "application/x-ndjson"}
    tasks = [download["tasks"] for download in seen["seen"].values()]
    assert len(tasks) == 4
    assert len(tasks[0]) == 500
    assert tasks[0][0]["title"].endswith("🌊")
    assert all(other == tasks[0] for other in tasks)
    for name, download in seen["seen"].items():
        kind, encoding = name.split()
        expected = {"type": types[kind], "encoding": "gzip" if encoding == "gzip" else None}
        assert download["answers"] == [expected]
    assert ["/sync/stream", "gzip"] in seen["asked"], "the SDK's own requests are not compressed"
    assert (seen["plain"]["encoding"], seen["gzip"]["encoding"]) == (None, "gzip")
    assert seen["gzip"]["bytes"] * 5 < seen["plain"]["bytes"]


@pytest.mark.parametrize("app", ["crew_last_year"])
def test_last_years_app_goes_on_working(own_scenario: Scenario, app: str) -> None:
    """A version that has a field's old name, and a field that is gone, syncs with the new one both ways."""
    seen = own_scenario("old_client")
    old, new = seen["before"]["old"], seen["before"]["ben"]
    assert field(old, "task", "remark") == field(new, "task", "notes")
    assert field(old, "task", "remark") == {
        "first": "ONE\ntwo\nTHREE\n",
        "late": "written before",
        "new": "from the past",
    }
    assert field(old, "task", "votes") == field(new, "task", "votes") == {"first": 2, "late": 0, "new": 0}
    assert field(old, "task", "title") == {"first": "First", "late": "Later", "new": "New"}
    # The new version never touches the field that it does not know, and the old not what is new.
    assert field(old, "task", "colour") == {"first": "red", "late": "green", "new": "grey"}
    assert field(new, "task", "estimate") == {"first": 8, "late": None, "new": None}
    upgraded = seen["after"]["upgraded"]
    assert shared(upgraded) == shared(seen["after"]["ben"])
    assert field(upgraded, "task", "notes")["late"] == "goodbye"
    assert field(upgraded, "task", "estimate")["first"] == 8
    assert field(upgraded, "handle", "name") == {"ben": "ben"}
    for phone in (old, new, upgraded):
        assert phone["lowtide_rejections"] == []


def test_two_phones_from_one_backup_both_go_on(scenario: Scenario) -> None:
    """A copied database uses the same numbers for other changes: nothing is lost, nothing counts twice."""
    seen = scenario("copied")
    assert len(set(seen["names"])) == 1
    assert field(seen["first"], "task", "votes") == field(seen["second"], "task", "votes") == {"task": 7}
    assert field(seen["first"], "task", "title") == {"task": "From the copy"}
    assert not seen["first"]["lowtide_rejections"] + seen["second"]["lowtide_rejections"]


def test_signing_out_discards_the_queue_and_blocks_nobody(scenario: Scenario) -> None:
    """What was thrown away at signing out never arrives; the same user and the next one go on uploading."""
    seen = scenario("signed_out")
    assert not any(seen["cleared"].values())
    assert set(field(seen["again"], "task", "title")) == {"kept", "again"}
    assert set(field(seen["ben"], "task", "title")) == {"kept", "again", "ben"}


def test_a_transaction_beyond_every_limit_is_reported_and_passed_by(scenario: Scenario) -> None:
    """What is too large to send comes back as a rejection that says how large; all behind it arrives."""
    seen = scenario("oversized")
    assert seen["counts"] == {"before": 1, "most": 5000, "after": 1}
    codes = sorted((row["code"], row["op"]) for row in seen["rejections"])
    assert codes == [
        ("record_too_large", "put"),
        ("transaction_too_large", "transaction"),
        ("transaction_too_large", "transaction"),
    ]
    assert any("5001 changes" in row["message"] for row in seen["rejections"])
    assert any(row["size"] > 300_000 for row in seen["rejections"]), "the content did not come back"
    assert sorted(result["code"] for result in seen["heard"]) == [code for code, _ in codes]


@WAYS
def test_an_app_that_is_too_old_gives_up_what_it_holds(scenario: Scenario, mode: str, transport: str) -> None:
    """Its uploads are taken, also later ones; its downloads are refused until it is updated."""
    seen = scenario("outdated", mode=mode, transport=transport)
    assert seen["before"] == {"connected": False, "hasSynced": False, "refused": True}
    assert seen["outdated"] == [{"minimum": "2.1.0", "store": STORE}], "told once, and with the address"
    assert seen["statuses"] == [200]
