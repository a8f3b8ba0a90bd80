"""Nobody reads, changes or guesses what is not theirs: spaces, people, devices."""

from __future__ import annotations

from typing import Any

import pytest

from lowtide import App, Integer, Model, Text, claim, everyone, me, member, owner
from lowtide.kernel.clock import ManualClock
from lowtide.kernel.errors import Malformed
from lowtide.kernel.schema import Principal
from lowtide.sync.devices import AuditedBucket, AuditRequest
from tests.sync.conftest import Engine, Open

pytestmark = pytest.mark.anyio

app = App("tenants")


@app.model
class Note:
    """Its owner's."""

    owner_id = Text()
    title = Text()
    pin = Integer(optional=True)
    credit = Integer(optional=True, server_only=True)
    write = owner("owner_id")


@app.model
class Price:
    """Everyone reads it, no device writes it."""

    title = Text()


app.stream("mine", carries={Note: "owner_id"}, keys=me)
app.stream("prices", carries=[Price], keys=everyone)

SCHEMA = app.compile()


def note(id: str, owner_id: str, **more: Any) -> dict[str, Any]:
    """A new note."""
    return {"op": "put", "model": "note", "id": id, "data": {"owner_id": owner_id, "title": "t", **more}}


def patch(model: str, id: str, base: dict[str, Any] | None = None, **data: Any) -> dict[str, Any]:
    """A change."""
    change = {"op": "patch", "model": model, "id": id, "data": data}
    return change if base is None else {**change, "base": base}


def downloaded(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries of a stream."""
    return [entry for line in lines for entry in line.get("data", {}).get("data", [])]


def test_the_name_of_a_space_has_no_slash() -> None:
    """Topics are ``space/stream[key]``: with one, records of ``acme`` would be read for ``acme/x``."""
    with pytest.raises(Malformed):
        Principal(user="eve", space="acme/x")


async def test_two_people_whose_devices_have_one_name_get_their_own_rejections(open_engine: Open) -> None:
    """A client_id is not a secret: who uses another's sees nothing of the other's refused changes."""
    engine = await open_engine(SCHEMA)
    await engine.send("eve", "phone", [[{"n": 1, **note("e", "someone")}]])
    await engine.send("ann", "phone", [[{"n": 1, **note("a", "someone", title="ann-secret")}]])
    assert "ann-secret" not in str(await engine.lines("eve", "phone"))
    assert "ann-secret" in str(await engine.lines("ann", "phone"))
    assert [e["op"] for e in downloaded(await engine.lines("eve", "phone"))] == ["PUT"]
    assert (await engine.sync.devices.state(engine.who("ann"), "phone")).rejections == 1


@pytest.mark.parametrize("guess", [{"pin": 1234}, {"pin": 4321}, {"credit": 50}, {"credit": 1}])
async def test_a_value_cannot_be_guessed_by_writing_it(open_engine: Open, guess: dict[str, Any]) -> None:
    """Who may not write a record is told so, whether the guess is right or wrong."""
    engine = await open_engine(SCHEMA)
    await engine.upload("ann", note("1", "ann", pin=1234))
    await engine.upload("server", patch("note", "1", credit=50), client="server")
    for base in (None, guess, dict.fromkeys(guess)):
        answer = await engine.upload("eve", patch("note", "1", base, **guess))
        assert [(r.status, r.code) for r in answer.results] == [("refused", "forbidden")]


async def test_who_may_not_write_a_record_cannot_write_into_its_journal(open_engine: Open) -> None:
    """Not by an edit that is too old to win, not of a model that no device writes."""
    engine = await open_engine(SCHEMA)
    await engine.upload("ann", note("1", "ann"))
    price = {"op": "put", "model": "price", "id": "p", "data": {"title": "1"}}
    await engine.upload("server", price, client="server")
    engine.clock.advance(60)
    old = {"at": engine.clock.now() - 3_600_000}
    for model, id in (("note", "1"), ("price", "p")):
        change = {**patch(model, id, {"title": "before"}, title="free Viagra"), **old}
        answer = await engine.upload("eve", change, sent_at=engine.clock.now())
        assert answer.results[0].status == "refused"
    assert await engine.sync.journal.entries(engine.who("server")) == []


async def test_an_edit_that_changes_nothing_needs_no_complete_record(
    open_engine: Open, clock: ManualClock
) -> None:
    """Its owner is told that nothing changed."""
    engine = await open_engine(SCHEMA)
    await engine.upload("ann", note("1", "ann"))
    answer = await engine.upload("ann", patch("note", "1", title="t"))
    assert answer.results[0].status == "unchanged"


async def test_a_command_sent_again_under_another_lineage_is_no_refusal(open_engine: Open) -> None:
    """A restored device repeats what it had sent: the command is there, and nothing changes."""
    engine = await open_engine(SCHEMA)
    command = {"op": "put", "model": "lowtide_commands", "id": "c", "data": {"name": "nothing"}}
    await engine.send("ann", "phone", [[{"n": 1, **command}]])
    again = await engine.send("ann", "phone", [[{"n": 1, **command}]], lineage="restored")
    assert again.results[0].status == "unchanged"
    other = await engine.send("eve", "phone", [[{"n": 1, **command}]])
    assert other.results[0].code == "forbidden"


async def test_an_audit_says_nothing_of_buckets_that_the_user_does_not_hold(open_engine: Open) -> None:
    """Not even whether they are there."""
    engine = await open_engine(SCHEMA)
    await engine.upload("ann", note("1", "ann"))
    lines = await engine.lines("ann")
    after = lines[0]["checkpoint"]["last_op_id"]
    held = [b["bucket"] for b in lines[0]["checkpoint"]["buckets"]]
    asked = AuditRequest("phone", [AuditedBucket(name, after, 0, 0, 0, 0) for name in held])
    assert (await engine.sync.devices.audit(engine.who("eve"), asked)).checked == 0
    assert (await engine.sync.devices.audit(engine.who("ann"), asked)).diverged == held


shared = App("shared")


@shared.model
class City:
    """A catalogue's."""

    name = Text()


@shared.model
class Member(Model):
    """Who is in which team."""

    user_id = Text()
    team_id = Text()


@shared.model
class Task:
    """A team's."""

    team_id = Text()
    write = member("team", "team_id")


shared.stream("cities", carries=[City], keys=everyone, space="catalogue")
shared.stream("team", carries={Task: "team_id"}, keys=Member.where(user_id=me).team_id)
shared.stream("badge", carries={Member: "team_id"}, keys=claim("badge"))
SHARED = shared.compile()


async def test_an_audit_covers_what_comes_from_another_space_and_the_device_itself(
    open_engine: Open,
) -> None:
    """Whatever a device holds by default can be compared and healed."""
    engine: Engine = await open_engine(SHARED)
    city = {"op": "put", "model": "city", "id": "1", "data": {"name": "Oslo"}}
    await engine.upload("server@catalogue", city, client="server")
    grant = {"op": "put", "model": "member", "id": "m", "data": {"user_id": "ann", "team_id": "red"}}
    await engine.upload("server", grant, client="server2")
    task = {"op": "put", "model": "task", "id": "1", "data": {"team_id": "red"}}
    await engine.upload("ann", task, {**task, "id": "2"})
    await engine.upload("ann", {**task, "id": "3", "data": {"team_id": "blue"}})
    lines = await engine.lines("ann")
    after = lines[0]["checkpoint"]["last_op_id"]
    held = {b["bucket"] for b in lines[0]["checkpoint"]["buckets"]}
    assert {name.partition("[")[0] for name in held} == {"cities", "team", "lowtide"}
    asked = AuditRequest("ann-phone", [AuditedBucket(name, after, 99, 0, 0, 0) for name in held])
    answer = await engine.sync.devices.audit(engine.who("ann"), asked)
    assert (answer.checked, set(answer.diverged)) == (3, held)
