"""The sync engine as devices and scripts meet it, on both databases."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lowtide import App, Counter, Integer, Model, Text, anyone, claim, me, member, parameter
from lowtide.kernel.errors import BatchGap, BatchRepeated, Conflict, Forbidden, Malformed, NotFound
from lowtide.sync import store
from lowtide.sync.devices import AuditedBucket, AuditRequest
from lowtide.sync.retention import Retention
from tests.sync.conftest import Engine, Open

pytestmark = pytest.mark.anyio

app = App("engine")


@app.model
class Membership(Model):
    """Who is in which team."""

    user_id = Text()
    team_id = Text()
    write = anyone


@app.model(indexes=["team_id"])
class Task:
    """A team's task."""

    team_id = Text()
    title = Text(max_length=20)
    votes = Counter()
    write = member("team", "team_id")


@app.model
class City:
    """Everyone's; only the server writes it."""

    name = Text()
    size = Integer(optional=True)


app.stream("team", carries={Task: "team_id"}, keys=Membership.where(user_id=me).team_id)
app.stream("memberships", carries={Membership: "user_id"}, keys=me, priority=1)
app.stream("cities", carries=[City], on_metered="defer")
app.stream("some", carries={Task: "title"}, keys=parameter("title"), default=False)


@app.function
async def vote(ctx: Any, task: str, by: int = 1) -> str:
    """Add votes to a task that exists."""
    found = await ctx.get(Task, task)
    if found is None:
        raise LookupError(task)
    ctx.increment(Task, task, "votes", by)
    return f"{found.title} has a vote"


SCHEMA = app.compile()

bad = App("bad")


@bad.model
class Thing:
    """A thing with a short name."""

    title = Text(max_length=3)


@bad.function
async def make(ctx: Any) -> None:
    """Write what the merge will not take."""
    ctx.create(Thing, title=None)


bad.stream("things", carries={Thing: "title"}, keys=claim("x"))
BAD = bad.compile()


def join(user: str, team: str) -> dict[str, Any]:
    """A membership."""
    data = {"user_id": user, "team_id": team}
    return {"op": "put", "model": "membership", "id": f"{user}-{team}", "data": data}


def task(id: str, title: str = "t", team: str = "red", **more: Any) -> dict[str, Any]:
    """A new task."""
    return {"op": "put", "model": "task", "id": id, "data": {"team_id": team, "title": title, **more}}


async def crew(engine: Engine) -> None:
    """Ann and Bob are in the red team."""
    await engine.upload("ann", join("ann", "red"), join("bob", "red"))


async def test_what_one_device_writes_another_receives(open_engine: Open) -> None:
    """And nobody outside of the team does."""
    engine = await open_engine(SCHEMA)
    await crew(engine)
    answer = await engine.upload("ann", task("1", "milk"))
    assert [r.status for r in answer.results] == ["applied"]
    assert (await engine.rows("bob"))[("task", "1")] == {"team_id": "red", "title": "milk", "votes": 0}
    assert ("task", "1") not in await engine.rows("eve")


async def test_another_space_does_not_exist(open_engine: Open) -> None:
    """The same ids in two spaces are two records, and no request sees across."""
    engine = await open_engine(SCHEMA)
    await crew(engine)
    await engine.upload("ann", task("1", "here"))
    await engine.upload("ann@other", join("ann", "red"), client="c2")
    await engine.upload("ann@other", task("1", "there"), client="c2")
    assert (await engine.rows("ann"))[("task", "1")]["title"] == "here"
    assert (await engine.rows("ann@other"))[("task", "1")]["title"] == "there"


async def test_a_batch_sent_twice_is_applied_once(open_engine: Open) -> None:
    """The second answer equals the first, whether it comes later or at the same time."""
    engine = await open_engine(SCHEMA)
    await crew(engine)
    await engine.upload("ann", task("1"))
    change = {"n": 4, "op": "patch", "model": "task", "id": "1", "data": {"votes": 1}, "base": {"votes": 0}}
    twice = await asyncio.gather(*(engine.send("ann", "ann-phone", [[change]]) for _ in range(5)))
    assert all(answer == twice[0] for answer in twice)
    assert (await engine.send("ann", "ann-phone", [[change]])) == twice[0]
    assert (await engine.rows("ann"))[("task", "1")]["votes"] == 1


async def test_a_repeat_with_more_behind_it_applies_only_the_rest(open_engine: Open) -> None:
    """A device that lost the answer and wrote on meanwhile sends both in one batch."""
    engine = await open_engine(SCHEMA)
    await crew(engine)

    def more(n: int) -> dict[str, Any]:
        return {"n": n, "op": "patch", "model": "task", "id": "1", "data": {"votes": 1}, "base": {"votes": 0}}

    await engine.send("bob", "b", [[{"n": 1, **task("1")}]])
    await engine.send("bob", "b", [[more(2)]])
    answer = await engine.send("bob", "b", [[more(2)], [more(3)]])
    assert [(r.n, r.status) for r in answer.results] == [(2, "applied"), (3, "merged")]
    assert (await engine.rows("ann"))[("task", "1")]["votes"] == 2


async def test_numbers_that_skip_or_were_used_for_something_else_are_an_error(open_engine: Open) -> None:
    """A gap says which number is expected; a confirmed gap goes on; other content under used numbers
    is never taken for a repeat."""
    engine = await open_engine(SCHEMA)
    await crew(engine)
    await engine.send("ann", "x", [[{"n": 10, **task("1")}]])
    with pytest.raises(BatchGap) as gap:
        await engine.send("ann", "x", [[{"n": 13, **task("2")}]])
    assert gap.value.details == {"expected": 11}
    with pytest.raises(BatchRepeated):
        await engine.send("ann", "x", [[{"n": 10, **task("3")}]])
    with pytest.raises(BatchRepeated):
        await engine.send("ann", "x", [[{"n": 9, **task("3")}]])
    assert {key for key in await engine.rows("ann") if key[0] == "task"} == {("task", "1")}
    await engine.send("ann", "x", [[{"n": 13, **task("2")}]], gap=True)
    await engine.send("ann", "x", [[{"n": 1, **task("3")}]], lineage="new")
    assert {key[1] for key in await engine.rows("ann") if key[0] == "task"} == {"1", "2", "3"}
    assert (await engine.sync.devices.state(engine.who("ann"), "x")).gaps == 1


@pytest.mark.parametrize(
    ("client", "numbers"),
    [
        ("", [1]),
        ("a/b", [1]),
        ("c" * 65, [1]),
        ("c\n", [1]),
        ("c", []),
        ("c", [2, 1]),
        ("c", [1, 1]),
        ("c", [0]),
        ("c", [2**63]),
    ],
)
async def test_a_batch_that_cannot_be_read_is_an_error_and_changes_nothing(
    open_engine: Open, client: str, numbers: list[int]
) -> None:
    """Names that no device has, numbers that do not rise."""
    engine = await open_engine(SCHEMA)
    with pytest.raises(Malformed):
        await engine.send("ann", client, [[{"n": n, **join("ann", "red")} for n in numbers]])
    assert await engine.sync.head() == 0


@pytest.mark.parametrize(
    ("mutation", "code"),
    [
        (task("1", "x" * 21), "invalid"),
        ({**task("1"), "model": "nothing"}, "unknown_model"),
        ({**task("1"), "model": None}, "unknown_model"),
        ({**task("1"), "op": "drop"}, "invalid"),
        ({**task("1"), "id": ""}, "invalid"),
        ({**task("1"), "id": "a\x00b"}, "invalid"),
        ({**task("1"), "id": 7}, "invalid"),
        ({**task("1"), "data": [1]}, "invalid"),
        ({**task("1"), "base": "x"}, "invalid"),
        (task("1", colour="red"), "invalid"),
        (task("1", votes="many"), "invalid"),
        (task("1", votes=2**70), "invalid"),
        (task("1", team="blue"), "forbidden"),
        ({"op": "put", "model": "city", "id": "1", "data": {"name": "Oslo"}}, "closed"),
    ],
)
async def test_a_bad_mutation_comes_back_as_a_row_and_the_queue_goes_on(
    open_engine: Open, mutation: dict[str, Any], code: str
) -> None:
    """Its content and the reason arrive at the device that sent it, and at no other."""
    engine = await open_engine(SCHEMA)
    await crew(engine)
    answer = await engine.upload("ann", mutation)
    assert [(r.status, r.code) for r in answer.results] == [("refused", code)]
    assert (await engine.upload("ann", task("2"))).results[0].status == "applied"
    lines = await engine.lines("ann")
    rejected = [
        entry
        for line in lines
        for entry in line.get("data", {}).get("data", [])
        if entry.get("object_type") == "lowtide_rejections"
    ]
    assert len(rejected) == 1
    assert f'"code":"{code}"' in rejected[0]["data"]
    for other in ("ann-tablet", "bob-phone"):
        seen = await engine.lines(other.partition("-")[0], other)
        assert "lowtide_rejections" not in str(seen)
    state = await engine.sync.devices.state(engine.who("ann"), "ann-phone")
    assert state.rejections == 1
    assert state.last_rejection is not None
    assert state.last_rejection["code"] == code


async def test_a_rejection_is_dismissed_by_its_device_only(open_engine: Open) -> None:
    """Deleting the row is the dismissal."""
    engine = await open_engine(SCHEMA)
    await engine.upload("ann", task("1", team="blue"))
    (id,) = (
        entry["object_id"]
        for line in await engine.lines("ann")
        for entry in line.get("data", {}).get("data", [])
    )
    dismissal = {"op": "delete", "model": "lowtide_rejections", "id": id}
    assert (await engine.upload("bob", dismissal)).results[0].code == "forbidden"
    assert (await engine.upload("ann", dismissal)).results[0].status == "applied"
    assert (await engine.sync.devices.state(engine.who("ann"), "ann-phone")).rejections == 0


async def test_too_many_changes_at_once_are_refused_and_the_queue_goes_on(open_engine: Open) -> None:
    """10,000 operations in one transaction come back; so does one that was too large to send."""
    engine = await open_engine(SCHEMA)
    await crew(engine)
    answer = await engine.upload("ann", *(task(str(i)) for i in range(10_000)))
    assert {(r.status, r.code) for r in answer.results} == {("refused", "transaction_too_large")}
    assert (await engine.upload("ann", task("after"))).results[0].status == "applied"
    assert [key for key in await engine.rows("ann") if key[0] == "task"] == [("task", "after")]


async def test_a_conflict_is_in_the_journal_and_can_be_restored(open_engine: Open) -> None:
    """By who receives the record and may write it; for others there is no such conflict."""
    engine = await open_engine(SCHEMA)
    await crew(engine)
    await engine.upload("ann", task("1", "first"))
    for user, title in (("ann", "anns"), ("bob", "bobs")):
        engine.clock.advance(1)
        change = {
            "op": "patch",
            "model": "task",
            "id": "1",
            "data": {"title": title},
            "base": {"title": "first"},
        }
        await engine.upload(user, change)
    (entry,) = await engine.sync.journal.entries(engine.who("ann"), "task", "1")
    assert (entry.lost, entry.lost_by, entry.won, entry.won_by) == ("anns", "ann-phone", "bobs", "bob-phone")
    for user in ("eve", "ann@other"):
        with pytest.raises(NotFound):
            await engine.sync.journal.entries(engine.who(user), "task", "1")
        with pytest.raises(NotFound):
            await engine.sync.journal.restore(engine.who(user), entry.id)
    with pytest.raises(Forbidden):
        await engine.sync.journal.entries(engine.who("ann"))
    assert len(await engine.sync.journal.entries(engine.who("server"))) == 1
    await engine.sync.journal.restore(engine.who("ann"), entry.id)
    assert (await engine.rows("bob"))[("task", "1")]["title"] == "anns"


async def test_a_deleted_record_is_restored_with_what_it_lost(open_engine: Open) -> None:
    """The edit that a deletion overruled brings the record back."""
    engine = await open_engine(SCHEMA)
    await crew(engine)
    await engine.upload("ann", task("1", "first", votes=3))
    await engine.upload("bob", {"op": "delete", "model": "task", "id": "1"})
    change = {
        "op": "patch",
        "model": "task",
        "id": "1",
        "data": {"title": "late"},
        "base": {"title": "first"},
    }
    await engine.upload("ann", change)
    assert ("task", "1") not in await engine.rows("ann")
    (entry,) = await engine.sync.journal.entries(engine.who("ann"), "task", "1")
    await engine.sync.journal.restore(engine.who("ann"), entry.id)
    assert (await engine.rows("bob"))[("task", "1")] == {"team_id": "red", "title": "late", "votes": 3}


async def test_a_grant_brings_rows_and_a_revocation_takes_them(open_engine: Open) -> None:
    """At the next checkpoint of a stream, and at the next page of a pull."""
    engine = await open_engine(SCHEMA)
    await crew(engine)
    await engine.upload("ann", task("1"))
    page = await engine.pull("bob")
    assert ("task", "1") in {(row.model, row.id) for row in page.rows}
    await engine.upload("ann", {"op": "delete", "model": "membership", "id": "bob-red"})
    after = await engine.pull("bob", page.cursor)
    assert [name.partition("[")[0] for name in after.removed_buckets] == ["team"]
    assert ("task", "1") not in await engine.rows("bob")
    lines = await engine.lines("bob")
    assert "team" not in {b["bucket"].partition("[")[0] for b in lines[0]["checkpoint"]["buckets"]}


async def test_a_pull_in_small_pages_gets_everything_once(open_engine: Open) -> None:
    """The cursor carries on, through changes in between; removals arrive as rows without data."""
    engine = await open_engine(SCHEMA)
    await crew(engine)
    await engine.upload("ann", *(task(str(i)) for i in range(20)))
    seen: dict[str, bool] = {}
    cursor = None
    for page in range(50):
        answer = await engine.pull("bob", cursor, limit=3)
        cursor = answer.cursor
        for row in answer.rows:
            if row.model == "task":
                seen[row.id] = row.data is not None
        if page == 2:
            await engine.upload("ann", {"op": "delete", "model": "task", "id": "0"}, task("new"))
        if answer.complete:
            break
    assert {id for id, there in seen.items() if there} == {*map(str, range(1, 20)), "new"}
    assert (await engine.pull("bob", cursor)).rows == []
    for bad in ("!", "e30", "bm9wZQ=="):
        with pytest.raises(Malformed):
            await engine.pull("bob", bad + "=" if bad == "e30x" else bad)


async def test_a_device_away_for_longer_than_removals_are_kept_does_not_resurrect(open_engine: Open) -> None:
    """Its bucket comes back under another name; one that was here since keeps its name."""
    engine = await open_engine(SCHEMA)
    await crew(engine)
    await engine.upload("ann", task("1"), task("2"))
    lines = await engine.lines("bob")
    held = {b["bucket"]: lines[0]["checkpoint"]["last_op_id"] for b in lines[0]["checkpoint"]["buckets"]}
    retention = Retention(engine.sync.database, engine.clock, removals_days=30, journal_days=30)
    await engine.upload("ann", {"op": "delete", "model": "task", "id": "1"})
    engine.clock.advance(20 * 86_400)
    await engine.upload("ann", task("3"))
    lines = await engine.lines("ann")
    fresh = {b["bucket"]: lines[0]["checkpoint"]["last_op_id"] for b in lines[0]["checkpoint"]["buckets"]}
    assert await retention.trim() == 0
    engine.clock.advance(20 * 86_400)
    assert await retention.trim() > 0
    assert await retention.trim() == 0

    def request(names: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": name, "after": after} for name, after in names.items()]

    team = next(name for name in held if name.startswith("team"))
    back = await engine.lines("bob", buckets=request(held))
    names = {b["bucket"] for b in back[0]["checkpoint"]["buckets"]}
    assert team not in names
    data = [entry for line in back for entry in line.get("data", {}).get("data", [])]
    assert {entry.get("object_id") for entry in data if entry["op"] == "PUT"} == {"2", "3"}
    assert not [entry for entry in data if entry["op"] == "REMOVE"]
    same = await engine.lines("ann", buckets=request(fresh))
    assert {b["bucket"] for b in same[0]["checkpoint"]["buckets"]} == set(fresh)
    assert not [line for line in same if "data" in line]


async def test_an_audit_finds_a_device_that_diverged_and_heals_it(open_engine: Open) -> None:
    """A device that holds what it should keeps its buckets; one that does not gets new ones."""
    engine = await open_engine(SCHEMA)
    await crew(engine)
    await engine.upload("ann", task("1", "Blåbær 🍇"), task("2"))
    lines = await engine.lines("bob")
    after = lines[0]["checkpoint"]["last_op_id"]

    def audited(line: dict[str, Any], tamper: int = 0) -> AuditedBucket:
        entries = [e for e in line["data"]["data"] if e["op"] == "PUT"]
        ops = [int(e["op_id"]) for e in entries]
        texts = [e["data"] for e in entries]
        sample = sum(
            ord(text[op % len(text)]) + 31 * ord(text[op // 7 % len(text)])
            for op, text in zip(ops, texts, strict=True)
        )
        sums = sum(op % 1000000007 for op in ops)
        return AuditedBucket(
            line["data"]["bucket"], after, len(ops) + tamper, sums, sum(map(len, texts)), sample
        )

    sound = [audited(line) for line in lines if "data" in line]
    who = engine.who("bob")
    answer = await engine.sync.devices.audit(who, AuditRequest("bob-phone", sound))
    assert (answer.checked, answer.diverged) == (len(sound), [])
    held = [{"name": bucket.name, "after": after} for bucket in sound]
    assert not [line for line in await engine.lines("bob", buckets=held) if "data" in line]

    broken = [audited(line, tamper=1) for line in lines if "data" in line]
    answer = await engine.sync.devices.audit(who, AuditRequest("bob-phone", broken))
    assert set(answer.diverged) == {bucket.name for bucket in broken}
    healed = await engine.lines("bob", buckets=held)
    assert not {b["bucket"] for b in healed[0]["checkpoint"]["buckets"]} & {b["name"] for b in held}
    assert len([line for line in healed if "data" in line]) == len(sound)


async def test_a_function_writes_through_the_merge(open_engine: Open) -> None:
    """Online: its result and its writes; its failures are the caller's answer and write nothing."""
    engine = await open_engine(SCHEMA)
    await crew(engine)
    await engine.upload("ann", task("1", "milk"))
    call = engine.sync.functions.call
    assert await call(engine.who("bob"), "vote", {"task": "1", "by": 3}) == "milk has a vote"
    assert (await engine.rows("ann"))[("task", "1")]["votes"] == 3
    with pytest.raises(NotFound):
        await call(engine.who("bob"), "nothing", {})
    for wrong in ({}, {"task": 1}, {"task": "1", "of": 2}, {"task": "1", "by": "x"}):
        with pytest.raises(Malformed):
            await call(engine.who("bob"), "vote", wrong)
    assert (await engine.rows("ann"))[("task", "1")]["votes"] == 3


async def settled(engine: Engine, id: str) -> dict[str, Any]:
    """The command's row once it is no longer pending."""
    for _ in range(500):
        for line in await engine.lines("ann"):
            for entry in line.get("data", {}).get("data", []):
                if entry.get("object_id") == id and '"pending"' not in entry["data"]:
                    return dict(entry)
        await asyncio.sleep(0.01)
    raise AssertionError("the command is still pending")


async def test_a_command_runs_once_and_its_result_comes_back(open_engine: Open) -> None:
    """A command is a row; its function's writes and its result arrive together."""
    engine = await open_engine(SCHEMA)
    await crew(engine)
    await engine.upload("ann", task("1", "milk"))

    def command(id: str, args: str) -> dict[str, Any]:
        return {"op": "put", "model": "lowtide_commands", "id": id, "data": {"name": "vote", "args": args}}

    await engine.upload("ann", command("c1", '{"task":"1"}'))
    row = await settled(engine, "c1")
    assert '"status":"done","result":"\\"milk has a vote\\""' in row["data"]
    await engine.upload("ann", command("c2", '{"task":"none"}'))
    assert '"status":"failed"' in (await settled(engine, "c2"))["data"]
    await engine.upload("ann", command("c3", "{"))
    assert "malformed" in (await settled(engine, "c3"))["data"]
    assert (await engine.rows("bob"))[("task", "1")]["votes"] == 1
    forged = {
        "op": "put",
        "model": "lowtide_commands",
        "id": "c4",
        "data": {"name": "vote", "status": "done"},
    }
    assert (await engine.upload("ann", forged)).results[0].status == "refused"


async def test_an_opt_in_stream_comes_only_when_asked_for(open_engine: Open) -> None:
    """By its parameters; a subscription to a stream that does not exist is told so."""
    engine = await open_engine(SCHEMA)
    await crew(engine)
    await engine.upload("ann", task("1", "milk"), task("2", "tea"))
    default = await engine.lines("eve")
    assert default[0]["checkpoint"]["buckets"] == []
    asked = [
        {"stream": "some", "parameters": {"title": "milk"}, "override_priority": 2},
        {"stream": "nowhere", "parameters": None, "override_priority": None},
    ]
    lines = await engine.lines("eve", streams={"include_defaults": True, "subscriptions": asked})
    (bucket,) = lines[0]["checkpoint"]["buckets"]
    assert bucket["bucket"].startswith('some["milk"]@')
    assert (bucket["priority"], bucket["subscriptions"]) == (2, [{"sub": 0}])
    errors = {s["name"]: s["errors"] for s in lines[0]["checkpoint"]["streams"]}
    assert errors["some"] == []
    assert errors["nowhere"][0]["subscription"] == 1


async def test_a_deferred_stream_waits_on_a_metered_network(open_engine: Open) -> None:
    """Its first download does; what a device already follows goes on."""
    engine = await open_engine(SCHEMA)
    city = {"op": "put", "model": "city", "id": "1", "data": {"name": "Oslo"}}
    await engine.upload("server", city, client="server")
    metered = await engine.lines("ann", parameters={"metered": True})
    assert metered[0]["checkpoint"]["buckets"] == []
    free = await engine.lines("ann")
    (bucket,) = free[0]["checkpoint"]["buckets"]
    held = [{"name": bucket["bucket"], "after": free[0]["checkpoint"]["last_op_id"]}]
    again = await engine.lines("ann", parameters={"metered": True}, buckets=held)
    assert [b["bucket"] for b in again[0]["checkpoint"]["buckets"]] == [bucket["bucket"]]


async def test_checkpoint_numbers_never_go_back(open_engine: Open) -> None:
    """In both ways of asking, and when a device changes from one to the other."""
    engine = await open_engine(SCHEMA)
    who = engine.who("ann")
    await crew(engine)
    assert await engine.sync.write_checkpoint(who, "ann-phone") == await engine.sync.head()
    assert await engine.sync.write_checkpoint(who, "p") == 0
    assert await engine.sync.request_checkpoint(who, "p", 500) == 500
    assert await engine.sync.request_checkpoint(who, "p", 20) == 500
    lines = await engine.lines("ann", "p")
    assert lines[0]["checkpoint"]["write_checkpoint"] == "500"
    later = await engine.sync.write_checkpoint(who, "p")
    assert later > 500
    assert (await engine.lines("ann", "p"))[0]["checkpoint"]["write_checkpoint"] == str(later)
    assert await engine.sync.write_checkpoint(engine.who("bob"), "p") < 500
    for bad in (0, -1, 2**63):
        with pytest.raises(Malformed):
            await engine.sync.request_checkpoint(who, "p", bad)


async def test_no_number_is_given_out_again_after_a_backup_was_put_back(open_engine: Open) -> None:
    """However many groups were committed since it was made: a device that waits for one would wait on."""
    engine = await open_engine(SCHEMA)
    await crew(engine)
    made = await engine.sync.head()
    engine.clock.advance(30 * 86_400)
    lost = made + 30 * 86_400 * 500
    await engine.sync.database.write(lambda tx: store.begin_epoch(tx, "restored", engine.clock.now()))
    assert await engine.sync.head() > lost


@pytest.mark.parametrize(
    "name",
    ["", "x" * 5000, 'team["red"]@', "team[]@a.b.c.d", "@@@", 'team["red"]@e.1.0.99999999999999999999'],
)
@pytest.mark.parametrize("after", ["", "-1", "x", "9" * 30, "9223372036854775807", "12"])
async def test_evidence_that_is_not_ours_costs_a_download_and_nothing_else(
    open_engine: Open, name: str, after: str
) -> None:
    """A device may claim what it likes: it gets what it may see, whole."""
    engine = await open_engine(SCHEMA)
    await crew(engine)
    await engine.upload("ann", task("1"))
    lines = await engine.lines("bob", buckets=[{"name": name, "after": after}])
    data = [entry for line in lines for entry in line.get("data", {}).get("data", [])]
    assert {entry["object_id"] for entry in data} == {"bob-red", "1"}


async def test_clocks_that_are_wrong_by_decades_order_writes_as_well(open_engine: Open) -> None:
    """Only how long ago a device wrote counts: the later of two conflicting edits wins."""
    engine = await open_engine(SCHEMA)
    await crew(engine)
    await engine.upload("ann", task("1", "first"))
    engine.clock.advance(100)
    year_1970, year_2100 = 1_000, 4_102_444_800_000
    base = {"op": "patch", "model": "task", "id": "1", "base": {"title": "first"}}
    early = {**base, "data": {"title": "60 s ago"}, "at": year_2100}
    late = {**base, "data": {"title": "5 s ago"}, "at": year_1970}
    await engine.upload("bob", late, sent_at=year_1970 + 5_000)
    await engine.upload("ann", early, sent_at=year_2100 + 60_000)
    assert (await engine.rows("ann"))[("task", "1")]["title"] == "5 s ago"


@pytest.mark.parametrize("sent_at", [1_790_000_000_000.5, -1, 1e300, 2**62, 0.0])
async def test_no_clock_stops_a_queue_and_fractions_count(open_engine: Open, sent_at: float) -> None:
    """Some platforms tell time in fractions: they order writes as whole numbers do, and 1e300 is no error."""
    engine = await open_engine(SCHEMA)
    await crew(engine)
    await engine.upload("ann", task("1"))
    engine.clock.advance(60)
    base = {"op": "patch", "model": "task", "id": "1", "base": {"title": "Task"}}
    late = {**base, "data": {"title": "later"}, "at": sent_at - 1_000.25}
    early = {**base, "data": {"title": "earlier"}, "at": sent_at - 5_000.75}
    for user, change in (("ann", late), ("bob", early)):
        answer = await engine.upload(user, change, sent_at=sent_at)
        assert answer.results[0].status in ("applied", "merged")
    title = (await engine.rows("bob"))[("task", "1")]["title"]
    assert title == ("earlier" if sent_at == 1e300 else "later"), "1e300 less five seconds is 1e300"


async def test_a_slow_network_makes_no_write_later(open_engine: Open) -> None:
    """Two phones whose clocks are right: the later edit wins, although the other one's upload took longer."""
    engine = await open_engine(SCHEMA)
    await crew(engine)
    await engine.upload("ann", task("1", "first"))
    base = {"op": "patch", "model": "task", "id": "1", "base": {"title": "first"}}
    engine.clock.advance(60)
    wrote = engine.clock.now()
    engine.clock.advance(9)
    await engine.upload("ann", {**base, "data": {"title": "earlier"}, "at": wrote}, sent_at=wrote)
    await engine.upload("bob", {**base, "data": {"title": "later"}, "at": wrote + 50}, sent_at=wrote + 8_900)
    assert (await engine.rows("ann"))[("task", "1")]["title"] == "later"


async def test_a_refused_function_says_so(open_engine: Open) -> None:
    """What the merge will not take is the caller's conflict."""
    engine = await open_engine(BAD)
    with pytest.raises(Conflict):
        await engine.sync.functions.call(engine.who("ann"), "make", {})
