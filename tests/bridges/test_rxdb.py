"""RxDB's door: checkpoints, pushes, the stream; what the client does with them is in tests/acceptance."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest

from lowtide.bridges import rxdb, walk
from lowtide.bridges.live import PullStream
from lowtide.bridges.versions import read_oldest
from lowtide.kernel.clock import ManualClock
from lowtide.kernel.errors import SetupError
from lowtide.sync import segments, store
from lowtide.sync.retention import Retention
from tests.api.client import Answer
from tests.bridges.conftest import KEPT_DAYS, Doors, principal

pytestmark = pytest.mark.anyio

NOTHING = {"id": rxdb.NO_RECORD, "_deleted": True}


class Fork:
    """A client that keeps documents as RxDB does: what it has, and what it believes the server to have."""

    def __init__(self, doors: Doors, who: str = "anna", client: str | None = None, model: str = "task"):
        self.doors = doors
        self.who = who
        self.headers = {"X-Lowtide-Client": client or f"{who}-rx"}
        self.address = f"/v1/bridges/rxdb/{model}/0"
        self.checkpoint: dict[str, Any] = {"lwt": 0, "id": ""}
        self.documents: dict[str, dict[str, Any]] = {}
        self.master: dict[str, dict[str, Any]] = {}
        self.pages = 0

    async def pull_once(self, limit: int = 100) -> list[dict[str, Any]]:
        at = f"lwt={self.checkpoint['lwt']}&id={quote(self.checkpoint['id'])}&limit={limit}"
        answer = await self.ask("GET", f"/pull?{at}")
        assert answer.status == 200, answer.body
        found: list[dict[str, Any]] = answer.json()["documents"]
        self.apply(found)
        if found:
            self.checkpoint = answer.json()["checkpoint"]
        return found

    async def pull(self, limit: int = 100) -> None:
        """As RxDB: until a page has fewer documents than were asked for."""
        self.pages = 1
        while len(await self.pull_once(limit)) >= limit:
            self.pages += 1

    def apply(self, documents: list[dict[str, Any]]) -> None:
        for one in documents:
            if self.documents.get(one["id"]) == self.master.get(one["id"]):
                self.documents[one["id"]] = one
                self.master[one["id"]] = one

    def row(self, id: str, **values: Any) -> dict[str, Any]:
        """The row of a push in which the user changed a document."""
        self.documents[id] = {**self.documents.get(id, {"id": id, "_deleted": False}), **values}
        row = {"newDocumentState": self.documents[id]}
        return row | ({"assumedMasterState": self.master[id]} if id in self.master else {})

    async def push(self, *rows: dict[str, Any], lost: bool = False) -> list[dict[str, Any]]:
        """Push; the conflicts, which the default handler takes as they are."""
        answer = await self.ask("POST", "/push", list(rows))
        assert answer.status == 200, answer.body
        conflicts: list[dict[str, Any]] = answer.json()
        if not lost:
            for row in rows:
                self.master[row["newDocumentState"]["id"]] = row["newDocumentState"]
            for one in conflicts:
                self.master[one["id"]] = self.documents[one["id"]] = one
        return conflicts

    async def ask(self, method: str, path: str, sent: Any = None, **headers: str) -> Answer:
        self.doors.engine.clock.advance(1)
        return await self.doors.client.request(
            method, self.address + path, json=sent, token=self.who, headers={**self.headers, **headers}
        )

    def live(self) -> dict[str, dict[str, Any]]:
        return {id: one for id, one in sorted(self.documents.items()) if not one["_deleted"]}


async def fork(doors: Doors, who: str = "anna", **more: Any) -> Fork:
    one = Fork(doors, who, **more)
    await one.pull()
    return one


async def test_a_document_has_values_as_json_has_them_and_no_nulls(doors: Doors) -> None:
    """Booleans, arrays, and a field that is empty is absent."""
    await doors.put("task", "t", team_id="red", title="x", tags=["a"])
    anna = await fork(doors)
    found = anna.documents["t"]
    assert (found["tags"], found["approved"], found["_deleted"]) == (["a"], False, False)
    assert None not in found.values()
    assert "estimate" not in found
    await anna.push(anna.row("t", estimate=4))
    emptied = {name: value for name, value in anna.documents["t"].items() if name != "estimate"}
    await anna.push({"assumedMasterState": anna.documents["t"], "newDocumentState": emptied})
    assert (await doors.task("t") or {})["estimate"] is None


async def test_what_comes_again_after_a_lost_answer_counts_once(doors: Doors) -> None:
    """The same push, and the same with more behind it, add only what is new; a creation, too."""
    await doors.put("task", "t", team_id="red", title="x", votes=5)
    anna = await fork(doors)
    await anna.push(anna.row("t", votes=7), lost=True)
    await doors.put("task", "t", votes=17)
    await anna.push(anna.row("t", votes=7), lost=True)
    (conflict,) = await anna.push(anna.row("t", votes=8))
    assert conflict["votes"] == (await doors.task("t") or {})["votes"] == 18
    await anna.push(anna.row("n", team_id="red", title="new", votes=2), lost=True)
    await doors.put("task", "n", votes=12)
    (conflict,) = await anna.push(anna.row("n", votes=3))
    assert conflict["votes"] == (await doors.task("n") or {})["votes"] == 13


async def test_a_copy_that_was_replaced_without_a_note_of_it_counts_nothing_twice(doors: Doors) -> None:
    """RxDB writes a received document and what it assumes one after the other; a crash came in between."""
    await doors.put("task", "t", team_id="red", title="x", votes=5)
    anna = await fork(doors)
    before = anna.master["t"]
    await doors.put("task", "t", votes=9)
    await anna.pull()
    assert await anna.push({"assumedMasterState": before, "newDocumentState": anna.documents["t"]}) == []
    assert (await doors.task("t") or {})["votes"] == 9
    # The same with the answer to a push, after which the record changed once more, and an edit on top.
    await doors.put("task", "t", votes=10)
    (answer,) = await anna.push(anna.row("t", votes=11))
    assert answer["votes"] == 12
    await doors.put("task", "t", votes=112)
    edited = {**answer, "votes": 13}
    await anna.push({"assumedMasterState": before, "newDocumentState": edited})
    assert (await doors.task("t") or {})["votes"] == 113


async def test_a_state_that_comes_back_is_not_taken_for_a_repeat(doors: Doors) -> None:
    """The same content at another version is another change; so is what is made anew after a deletion."""
    await doors.put("task", "t", team_id="red", title="x", votes=5)
    anna = await fork(doors)
    await anna.push(anna.row("t", votes=6))
    await doors.put("task", "t", votes=5)
    await anna.pull()
    await anna.push(anna.row("t", votes=6))
    assert (await doors.task("t") or {})["votes"] == 6
    for title in ("again", "and again"):
        await anna.push(anna.row("t", _deleted=True))
        assert await doors.task("t") is None
        await anna.push(anna.row("t", _deleted=False, title=title))
        assert (await doors.task("t") or {})["title"] == title


async def test_what_two_changed_merges_field_by_field_and_the_loser_is_kept(doors: Doors) -> None:
    """The answer has what came of it; the other hears of it by its next pull, and who wrote it does not."""
    await doors.put("task", "t", team_id="red", title="x", votes=1, tags=["a"])
    anna, ben = await fork(doors), await fork(doors, "ben")
    assert await anna.push(anna.row("t", title="Anna", tags=["a", "b"], votes=2)) == []
    (conflict,) = await ben.push(ben.row("t", title="Ben", tags=[], votes=3, estimate=4))
    assert (conflict["title"], conflict["tags"], conflict["votes"]) == ("Ben", ["b"], 4)
    assert await doors.lost("t") == [("title", "Anna", "Ben")]
    assert [one["votes"] for one in await anna.pull_once()] == [4]
    # What a client wrote itself is not sent to it again.
    await anna.push(anna.row("t", state="done"))
    assert await anna.pull_once() == []
    assert [one["state"] for one in await ben.pull_once()] == ["done"]
    assert anna.live()["t"]["votes"] == ben.live()["t"]["votes"]


async def test_a_refused_change_is_answered_with_what_is_there(doors: Doors) -> None:
    """The document returns to what it was, or is gone; the rejection is a document of its own."""
    await doors.put("task", "t", team_id="red", title="x")
    anna = await fork(doors)
    conflicts = await anna.push(
        anna.row("t", team_id="blue"), anna.row("n", team_id="blue", title="x"), anna.row("u", team_id="red")
    )
    assert {one["id"]: one["_deleted"] for one in conflicts} == {"t": False, "n": True, "u": True}
    assert [one["team_id"] for one in anna.live().values()] == ["red"]
    rejected = await fork(doors, model="lowtide_rejections")
    assert sorted((one["record_id"], one["code"]) for one in rejected.live().values()) == [
        ("n", "forbidden"),
        ("t", "forbidden"),
        ("u", "invalid"),
    ]
    await rejected.push(rejected.row(next(iter(rejected.documents)), _deleted=True))
    assert len((await fork(doors, model="lowtide_rejections", client="anna-rx")).live()) == 2


async def test_pages_fit_together_and_are_full_until_the_last(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client stops at a page that is not full: whatever else ends a page, it is filled up, with little."""
    for n in range(23):
        await doors.put("task", f"t{n:02}", team_id="red", title="x", notes="y" * 500)
    anna = await fork(doors)
    assert len(anna.live()) == 23
    one = Fork(doors, "ben")
    monkeypatch.setattr(rxdb, "BATCH_BYTES", 1_000)
    monkeypatch.setattr(walk, "PAGE_BYTES", 1_000)
    monkeypatch.setattr(segments, "PAGE_BYTES", 1_000)
    real, turn = one.pull_once, 0
    filled: list[int] = []

    async def meddle(limit: int = 100) -> list[dict[str, Any]]:
        nonlocal turn
        found = await real(limit)
        filling = found[found.index(NOTHING) :] if NOTHING in found else []
        assert filling == [NOTHING] * len(filling)
        filled.append(len(filling))
        turn += 1
        if turn == 1:
            await doors.delete("task", "t00")
            await doors.put("task", "t22", title="changed")
            await doors.join("ben", "blue")
            await doors.put("task", "b", team_id="blue", title="x")
        if turn == 2:
            await doors.leave("ben", "blue")
        return found

    monkeypatch.setattr(one, "pull_once", meddle)
    await one.pull(limit=5)
    await one.pull(limit=5)
    fresh = await fork(doors, "ben", client="other")
    assert turn > 5
    assert max(filled) > 0
    assert one.live() == fresh.live()
    assert sorted(one.live()) == [f"t{n:02}" for n in range(1, 23)]


async def test_what_never_was_can_be_pushed_and_is_nothing(doors: Doors) -> None:
    """A phone that was killed at the wrong moment sends it back: no conflict and no rejection."""
    anna = await fork(doors)
    assert await anna.push({"newDocumentState": NOTHING}) == []
    assert await anna.push({"newDocumentState": NOTHING, "assumedMasterState": NOTHING}) == []
    assert (await fork(doors, model="lowtide_rejections", client="anna-rx")).live() == {}


async def test_who_leaves_a_team_loses_its_documents_and_who_joins_gets_them(doors: Doors) -> None:
    """Gone without their content; back whatever their age."""
    await doors.put("task", "t", team_id="red", title="secret")
    anna = await fork(doors)
    await doors.leave("anna", "red")
    assert await anna.pull_once() == [{"id": "t", "_deleted": True}]
    assert (await anna.push(anna.row("t", _deleted=False, title="mine")))[0] == {"id": "t", "_deleted": True}
    await doors.join("anna", "red")
    await anna.pull()
    assert anna.live()["t"]["title"] == "secret"


@pytest.mark.parametrize("before", [0, 1])
async def test_who_leaves_a_team_loses_what_it_made_itself_since_it_pulled(doors: Doors, before: int) -> None:
    """Its own are no secret to it; what others made since stays one. Else it would keep them for ever."""
    for n in range(before):
        await doors.put("task", f"t{n}", team_id="red", title="pulled")
    anna = await fork(doors)
    await anna.push(anna.row("own", _deleted=False, team_id="red", title="mine"))
    await doors.put("task", "others", team_id="red", title="secret")
    await doors.leave("anna", "red")
    told = {one["id"]: one["_deleted"] for one in await anna.pull_once()}
    assert told == {"own": True, **{f"t{n}": True for n in range(before)}}
    await doors.delete("task", "own")
    await doors.join("anna", "red")
    await anna.pull()
    assert list(anna.live()) == ["others", *(f"t{n}" for n in range(before))]


async def test_who_left_a_team_while_it_was_away_for_long_begins_anew(
    doors: Doors, clock: ManualClock
) -> None:
    """The server has forgotten when its checkpoint was, and with that which records are younger."""
    await doors.put("task", "t", team_id="red", title="then")
    away = await fork(doors)
    clock.advance((KEPT_DAYS + 1) * 86_400_000)
    await doors.put("membership", "other", user_id="zoe", team_id="blue")
    clock.advance(KEPT_DAYS * 86_400_000)
    await doors.put("task", "t", team_id="red", title="now")
    await doors.leave("anna", "red")
    await Retention(doors.engine.sync.database, clock, KEPT_DAYS + 1, KEPT_DAYS).trim()
    answer = await away.ask("GET", f"/pull?lwt={away.checkpoint['lwt']}")
    assert (answer.status, answer.code) == (410, "resync_required")
    fresh = await fork(doors, client="anna-fresh")
    assert fresh.live() == {}


async def test_a_checkpoint_that_is_too_old_or_of_another_epoch_is_told_to_begin_anew(
    doors: Doors, clock: ManualClock
) -> None:
    """410 with a code of its own; a client that is only quiet keeps a fresh checkpoint."""
    await doors.put("task", "t", team_id="red", title="x")
    await doors.put("task", "u", team_id="red", title="x")
    away, quiet = await fork(doors), await fork(doors, "ben")
    assert await quiet.pull_once() == []
    await doors.delete("task", "t")
    await quiet.pull()
    clock.advance((KEPT_DAYS - 1) * 86_400_000)
    await doors.put("membership", "other", user_id="zoe", team_id="blue")
    (nothing,) = await quiet.pull_once()
    assert (nothing["_deleted"], nothing["id"].isprintable()) == (True, False)
    clock.advance(2 * 86_400_000)
    await doors.put("membership", "another", user_id="zoe", team_id="green")
    clock.advance(1)
    await Retention(doors.engine.sync.database, clock, KEPT_DAYS, KEPT_DAYS).trim()
    path = f"/pull?lwt={away.checkpoint['lwt']}"
    answer = await away.ask("GET", path)
    assert (answer.status, answer.code) == (410, "resync_required")
    assert len(await quiet.pull_once()) <= 1
    await doors.engine.sync.database.write(lambda tx: store.begin_epoch(tx, "restored", 0))
    assert (await quiet.ask("GET", f"/pull?lwt={quiet.checkpoint['lwt']}")).code == "resync_required"


async def test_the_checkpoint_of_another_user_is_none(doors: Doors) -> None:
    """410: the client pulls everything, and keeps nothing of who was there before."""
    await doors.put("task", "r", team_id="red", title="x")
    await doors.put("task", "b", team_id="blue", title="y")
    await doors.join("zoe", "blue")
    await fork(doors)
    zoe = await fork(doors, "zoe")
    zoe.who = "anna"
    assert (await zoe.ask("GET", f"/pull?lwt={zoe.checkpoint['lwt']}")).code == "resync_required"


async def test_the_stream_tells_what_is_new_and_whose_it_is_not(doors: Doors) -> None:
    """Documents and a checkpoint for each change; nothing of one's own, of other models and teams."""
    anna, ben = await fork(doors), await fork(doors, "ben")
    async with doors.client.open(
        "GET", f"{anna.address}/pullStream", token="anna", headers=anna.headers
    ) as call:
        assert (await call.next())["status"] == 200
        assert await call.line() == b":\n\n"
        await doors.put("task", "t", team_id="red", title="x")
        event = _event(await call.line())
        assert [one["id"] for one in event["documents"]] == ["t"]
        anna.apply(event["documents"])
        anna.checkpoint = event["checkpoint"]
        assert await anna.pull_once() == []
        await doors.put("card", "c", team_id="red", body="x")
        await doors.put("task", "b", team_id="blue", title="secret")
        await anna.push(anna.row("t", state="doing"))
        await ben.pull()
        await ben.push(ben.row("t", title="Ben"))
        event = _event(await call.line())
        assert [(one["title"], one["state"]) for one in event["documents"]] == [("Ben", "doing")]
        await doors.leave("anna", "red")
        assert _event(await call.line())["documents"] == [{"id": "t", "_deleted": True}]


def _event(line: bytes) -> Any:
    assert line.startswith(b"data: ")
    return json.loads(line.removeprefix(b"data: "))


async def test_an_old_schema_is_told_so_and_may_still_push(doors: Doors) -> None:
    """426 at the pull and the stream, by collection; a setting that cannot be read stops the start."""
    doors.bridges.rxdb._oldest = {"rxdb/task": 2}
    doors.bridges.watermelon._oldest = {"watermelondb": 2}
    anna = Fork(doors)
    for path in ("/pull", "/pullStream"):
        answer = await anna.ask("GET", path)
        assert (answer.status, answer.code) == (426, "app_too_old")
    await anna.push(anna.row("t", team_id="red", title="x"))
    assert await doors.task("t") is not None
    await fork(doors, model="card")
    melon = {"client_id": "c", "tables": [], "schema_version": 1}
    assert (await doors.post("anna", "watermelondb/pull", melon)).code == "app_too_old"
    assert (await doors.post("anna", "watermelondb/pull", melon | {"schema_version": 2})).status == 200
    assert read_oldest(["watermelondb 3", "rxdb/task 1"]) == {"watermelondb": 3, "rxdb/task": 1}
    for wrong in (["watermelondb"], ["rxdb 1"], ["watermelondb 1", "watermelondb 2"]):
        with pytest.raises(SetupError):
            read_oldest(wrong)


HOSTILE: list[tuple[str, str, Any, int]] = [
    ("GET", "/pull?lwt=x", None, 400),
    ("GET", "/pull?lwt=-1", None, 400),
    ("GET", "/pull?lwt=9999999999999999", None, 400),
    ("GET", "/pull?lwt=9007199254740991", None, 410),
    ("GET", "/pull?id=x", None, 400),
    ("GET", "/pull?id=WzEsMl0", None, 410),
    ("GET", "/pull?limit=0", None, 400),
    ("GET", "/pull?limit=1001", None, 400),
    ("GET", "/pull?other=1", None, 400),
    ("POST", "/push", {}, 400),
    ("POST", "/push", [{}], 400),
    ("POST", "/push", [{"newDocumentState": {}}], 400),
    ("POST", "/push", [{"newDocumentState": {"id": 7}}], 400),
    ("POST", "/push", [{"newDocumentState": {"id": "a"}, "assumedMasterState": {"id": "b"}}], 400),
    ("POST", "/push", [{"newDocumentState": {"id": "a"}}] * 20_001, 413),
    ("POST", "/push", [{"newDocumentState": {"id": "\0", "title": "\0"}}], 200),
    ("POST", "/push", [{"newDocumentState": {"id": "x" * 999, "nothing": {"a": [1]}}}], 200),
    ("POST", "/push", [{"newDocumentState": {"id": "z", "title": [], "lowtide_version": [], "_x": 1}}], 200),
    ("POST", "/push", [], 200),
]


async def test_hostile_input_is_answered_and_changes_nothing(doors: Doors) -> None:
    """Malformed, huge, forged, without a name, from a server, of no model: a 4xx, or a conflict."""
    await doors.put("task", "b", team_id="blue", title="secret")
    anna = Fork(doors)
    for method, path, sent, status in HOSTILE:
        answer = await anna.ask(method, path, sent)
        assert answer.status == status, (path, sent, answer.body)
        assert b"secret" not in answer.body
        if status == 200 and sent:
            assert [one["_deleted"] for one in answer.json()] == [True]
    for address in ("/v1/bridges/rxdb/nothing/0", "/v1/bridges/rxdb/task/x"):
        anna.address = address
        assert (await anna.ask("GET", "/pull")).status == 404
        assert (await anna.ask("GET", "/pullStream")).status == 404
    anna.address = "/v1/bridges/rxdb/task/0"
    for name in ("", "a/b", "x" * 65):
        anna.headers = {"X-Lowtide-Client": name}
        assert (await anna.ask("GET", "/pull")).status == 400
        assert (await anna.ask("GET", "/pullStream")).status == 400
        assert (await anna.ask("POST", "/push", [])).status == 400
    anna.headers = {}
    assert (await anna.ask("GET", "/pull")).status == 400
    anna.who, anna.headers = "server", {"X-Lowtide-Client": "x"}
    assert (await anna.ask("GET", "/pull")).status == 403
    assert (await anna.ask("POST", "/push", [])).status == 403
    assert (await anna.ask("GET", "/pullStream")).status == 403


async def test_what_others_commit_while_a_stream_looks_makes_it_look_once_more_at_most(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy server something is always committed meanwhile: only what may concern it is looked at."""
    stream = PullStream(doors.bridges.rxdb, doors.engine.clock, principal("anna"), "phone", "task")
    database = doors.engine.sync.database
    read, reads = database.read, 0

    async def busy(work: Any) -> Any:
        nonlocal reads
        found, reads = await read(work), reads + 1
        if reads < 20:
            await doors.join("zoe", f"blue{reads}")
        return found

    monkeypatch.setattr(database, "read", busy)
    await stream.open()
    begun = reads
    while stream._listener.waiting:
        await stream._look()
    assert reads == begun + 1
    stream.forget()
