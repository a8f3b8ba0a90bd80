"""What belongs to a user: handed out whole, and deleted whole, however much it is."""

from __future__ import annotations

from typing import Any

import pytest

from lowtide import App, Model, Refused, Text, anyone, me, owner
from lowtide.kernel.errors import FunctionFailed
from lowtide.sync import ownership as module
from tests.sync.conftest import Engine, Open

pytestmark = pytest.mark.anyio

app = App("ownership")


@app.model
class Note(Model):
    """Found by the bucket that it is in; an invoice has to be kept."""

    owner_id = Text()
    text = Text(optional=True)
    write = anyone

    def before_write(me, before, after):  # type: ignore[no-untyped-def]  # noqa: N805 - me, as the docs have it
        if after is None and before.text == "invoice":
            raise Refused("the law wants it", code="kept")
        if after is None and before.text == "broken":
            raise RuntimeError("boom")


@app.model
class Membership(Model):
    """Found by its index."""

    user_id = Text()
    team_id = Text()
    write = anyone


@app.model
class Photo(Model):
    """Found by its rule only."""

    author_id = Text()
    write = owner("author_id")


@app.model
class Task(Model):
    """Nobody's."""

    team_id = Text()


app.stream("mine", carries={Note: "owner_id"}, keys=me)
app.stream("team", carries={Task: "team_id"}, keys=Membership.where(user_id=me).team_id)
app.stream("all", carries=[Photo])
SCHEMA = app.compile()


def put(model: str, id: str, **data: Any) -> dict[str, Any]:
    return {"op": "put", "model": model, "id": id, "data": data}


async def lived(open_engine: Open) -> Engine:
    """Ann has seven of each, and one change that was refused; bob has one of each."""
    engine = await open_engine(SCHEMA)
    for user, count in (("ann", 7), ("bob", 1)):
        for n in range(count):
            await engine.upload(
                user,
                put("note", f"{user}{n}", owner_id=user),
                put("membership", f"{user}{n}", user_id=user, team_id=str(n)),
                put("photo", f"{user}{n}", author_id=user),
            )
    refused = await engine.upload("ann", put("task", "t", team_id="secret"))
    assert refused.results[0].status == "refused"
    return engine


async def owned(engine: Engine, user: str) -> list[tuple[str, str]]:
    """What is handed out to a user: (model, id)."""
    return sorted([key[1:] async for key, _ in engine.sync.ownership.records(user, ["main"])])


async def test_all_that_a_user_has_is_handed_out_once(
    open_engine: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond what one reading takes, and what the server refused, too; nothing of others."""
    monkeypatch.setattr(module, "BATCH", 3)
    monkeypatch.setattr(module, "MAX_OWNED", 3)
    engine = await lived(open_engine)
    found = await owned(engine, "ann")
    models = [model for model, _ in found]
    assert [models.count(model) for model in ("note", "membership", "photo")] == [7, 7, 7]
    assert models.count("lowtide_rejections") == 1
    assert len(found) == 22
    assert all(id.startswith("ann") for model, id in found if not model.startswith("lowtide_"))


async def test_all_that_a_user_has_is_deleted(open_engine: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """In small steps, what the server refused and gave back among it; others keep theirs."""
    monkeypatch.setattr(module, "BATCH", 3)
    engine = await lived(open_engine)
    assert await engine.sync.ownership.delete("ann", ["main"]) == 22
    assert await owned(engine, "ann") == []
    assert len(await owned(engine, "bob")) == 3
    assert await engine.sync.ownership.delete("ann", ["main"]) == 0


async def test_what_the_app_wants_to_keep_is_kept_and_the_rest_goes(
    open_engine: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hook's no ends nothing and is not asked for ever; the log names the record."""
    monkeypatch.setattr(module, "BATCH", 3)
    engine = await lived(open_engine)
    await engine.upload("ann", put("note", "a", owner_id="ann", text="invoice"))
    assert await engine.sync.ownership.delete("ann", ["main"]) == 22
    assert await owned(engine, "ann") == [("note", "a")]


async def test_a_hook_that_fails_is_not_taken_for_a_no(open_engine: Open) -> None:
    """The deletion says so, and is tried again: the record is the user's still."""
    engine = await lived(open_engine)
    await engine.upload("ann", put("note", "a", owner_id="ann", text="broken"))
    with pytest.raises(FunctionFailed):
        await engine.sync.ownership.delete("ann", ["main"])
    assert ("note", "a") in await owned(engine, "ann")
