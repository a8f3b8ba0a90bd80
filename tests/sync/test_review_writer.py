"""The writer: a batch is judged by its own content, whatever waits beside it."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import pytest

from lowtide import App, Counter, Integer, Text, anyone, everyone, me
from lowtide.kernel.errors import LowtideError, TooLarge
from lowtide.sync import uploads
from tests.sync.conftest import Open

pytestmark = pytest.mark.anyio

app = App("writer")


def lowered(me: Any, before: Any, after: Any) -> dict[str, Any] | None:
    """Addresses are kept in lower case."""
    return None if after is None else {"email": after.email.lower()}


@app.model(unique=["email"])
class Person:
    """Found by an address that a hook rewrites."""

    email = Text()
    write = anyone
    before_write = lowered


@app.model(unique=["number"])
class Ticket:
    """Its number is a counter: what a merge makes of it is neither side's value."""

    number = Counter()
    write = anyone


@app.model(unique=[("row", "seat")])
class Place:
    """Unique by two fields together."""

    row = Text()
    seat = Integer()
    write = anyone


heard: list[Any] = []


async def hear(changed: Any) -> None:
    """An ``after_commit`` hook."""
    heard.append(changed)


@app.model
class Page:
    """A large text, with a hook that hears of its changes."""

    owner_id = Text()
    body = Text()
    write = anyone
    after_commit = hear


@app.model(indexes=["tag"], unique=["slug"])
class Label:
    """Found by values without a length of their own."""

    tag = Text(optional=True)
    slug = Text(optional=True)
    owner_id = Text(optional=True)
    write = anyone


app.stream("all", carries=[Person, Ticket, Place], keys=everyone)
app.stream("mine", carries={Page: "owner_id", Label: "owner_id"}, keys=me)
SCHEMA = app.compile()


def put(model: str, id: str, **data: Any) -> dict[str, Any]:
    """A new record."""
    return {"op": "put", "model": model, "id": id, "data": data}


def patch(model: str, id: str, base: dict[str, Any], **data: Any) -> dict[str, Any]:
    """A change."""
    return {"op": "patch", "model": model, "id": id, "data": data, "base": base}


def noise(seed: int, size: int) -> str:
    """Text that no database compresses by much."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
    return "".join(random.Random(seed).choices(letters, k=size))


async def test_a_value_that_a_hook_makes_is_unique_too(open_engine: Open) -> None:
    """It is the stored value that nobody else may have, not the sent one."""
    engine = await open_engine(SCHEMA)
    await engine.upload("ann", put("person", "1", email="Ann@example.org"))
    answer = await engine.upload("bob", put("person", "2", email="ANN@example.org"))
    assert [r.code for r in answer.results] == ["unique"]
    assert [key for key in await engine.rows("ann") if key[0] == "person"] == [("person", "1")]
    both = await asyncio.gather(
        engine.upload("ann", put("person", "3", email="New@example.org")),
        engine.upload("bob", put("person", "4", email="nEw@example.org")),
    )
    assert sorted(str(answer.results[0].code) for answer in both) == ["None", "unique"]


async def test_a_value_that_a_merge_makes_is_unique_too(open_engine: Open) -> None:
    """Two increments of a unique counter end at a number that neither device sent."""
    engine = await open_engine(SCHEMA)
    await engine.upload("ann", put("ticket", "1", number=1), put("ticket", "3", number=3))
    await engine.upload("ann", patch("ticket", "1", {"number": 1}, number=2))
    answer = await engine.upload("bob", patch("ticket", "1", {"number": 1}, number=2))
    assert [r.code for r in answer.results] == ["unique"]
    assert (await engine.rows("bob"))[("ticket", "1")]["number"] == 2


async def test_values_are_handed_on_within_a_group(open_engine: Open) -> None:
    """A swap by way of a third value, and a value that its holder's deletion has freed."""
    engine = await open_engine(SCHEMA)
    await engine.upload("ann", put("place", "1", row="a", seat=1), put("place", "2", row="a", seat=2))
    swap = [
        patch("place", "1", {"seat": 1}, seat=9),
        patch("place", "2", {"seat": 2}, seat=1),
        patch("place", "1", {"seat": 9}, seat=2),
        {"op": "delete", "model": "place", "id": "2"},
        put("place", "3", row="a", seat=1),
    ]
    answer = await engine.upload("ann", *swap)
    assert {r.status for r in answer.results} == {"applied"}
    assert (await engine.upload("bob", put("place", "4", row="a", seat=1))).results[0].code == "unique"
    assert (await engine.upload("bob", put("place", "4", row="a", seat=9))).results[0].status == "applied"


async def test_many_values_of_one_record_cost_what_they_are_and_not_their_combinations(
    open_engine: Open,
) -> None:
    """2,000 rows and 2,000 seats of one record are 4,000 values, not four million."""
    engine = await open_engine(SCHEMA)
    await engine.upload("ann", put("place", "1", row="a", seat=1))
    moves = [patch("place", "1", {}, row=str(i)) for i in range(2_000)]
    moves += [patch("place", "1", {}, seat=i) for i in range(2_000)]
    began = time.monotonic()
    answer = await engine.upload("ann", *moves)
    assert {r.status for r in answer.results} <= {"applied", "unchanged"}
    assert time.monotonic() - began < 5
    assert (await engine.rows("bob"))[("place", "1")] == {"row": "1999", "seat": 1999}


async def test_refusals_that_depend_on_each_other_come_to_an_end(open_engine: Open) -> None:
    """Each transaction takes a value that is free only if the one before it is refused."""
    engine = await open_engine(SCHEMA)
    taken = [put("place", f"t{i}", row=f"r{i}", seat=i) for i in range(40)]
    await engine.upload("ann", put("place", "x", row="r0", seat=-1), *taken)
    chain = [
        [{"n": i + 1, "op": "patch", "model": "place", "id": "x", "data": {"row": f"r{i}", "seat": i}}]
        for i in range(40)
    ]
    answer = await engine.send("bob", "b", chain)
    assert {r.code for r in answer.results} == {"unique"}
    assert (await engine.rows("bob"))[("place", "x")] == {"row": "r0", "seat": -1}


@pytest.mark.parametrize("field", ["tag", "slug", "owner_id"])
async def test_a_value_too_long_to_be_found_by_is_refused_and_the_queue_goes_on(
    open_engine: Open, field: str
) -> None:
    """A key, a unique value, an indexed one: on both databases alike."""
    engine = await open_engine(SCHEMA)
    answer = await engine.upload("ann", put("label", "1", **{field: noise(1, 20_000)}))
    assert [r.code for r in answer.results] == ["value_too_long"]
    assert (await engine.upload("ann", put("label", "2", **{field: noise(2, 400)}))).results[0].code is None


async def test_a_change_too_large_to_be_told_is_told_without_its_content(open_engine: Open) -> None:
    """An ``after_commit`` hook hears of it all the same, and the upload is no error."""
    heard.clear()
    engine = await open_engine(SCHEMA)
    await engine.upload("ann", put("page", "1", owner_id="ann", body=noise(1, 200_000)))
    answer = await engine.upload("ann", patch("page", "1", {}, body=noise(2, 200_000)))
    assert [r.status for r in answer.results] == ["applied"]
    for _ in range(500):
        if len(heard) == 2:
            break
        await asyncio.sleep(0.01)
    assert len(heard) == 2
    assert {change.after.body for change in heard} == {noise(1, 200_000), noise(2, 200_000)}


async def test_a_batch_that_the_database_refuses_fails_alone(
    open_engine: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its neighbours in the group are applied: an error of one is never another's."""
    engine = await open_engine(SCHEMA)
    enqueue = engine.sync.writer._enqueue

    async def refuse(tx: Any, kind: str, payload: Any) -> None:
        if payload.id == "poison":
            raise TooLarge("more than the queue takes")
        await enqueue(tx, kind, payload)

    monkeypatch.setattr(engine.sync.writer, "_enqueue", refuse)
    answers = await asyncio.gather(
        engine.upload("ann", put("page", "1", owner_id="ann", body="x")),
        engine.upload("eve", put("page", "poison", owner_id="eve", body="x")),
        engine.upload("bob", put("page", "2", owner_id="bob", body="x")),
        return_exceptions=True,
    )
    assert isinstance(answers[1], LowtideError)
    for answer in (answers[0], answers[2]):
        assert not isinstance(answer, BaseException)
        assert answer.results[0].status == "applied"


async def test_a_batch_beyond_all_limits_is_refused_before_it_costs_anything(open_engine: Open) -> None:
    """A connector never sends it; reading a million changes would hold everybody up."""
    engine = await open_engine(SCHEMA)
    many: list[dict[str, Any]] = [{"n": i} for i in range(1, 4 * uploads.MAX_MUTATIONS + 2)]
    with pytest.raises(TooLarge):
        await engine.send("ann", "a", [many])
    with pytest.raises(TooLarge):
        await engine.send("ann", "a", [[one] for one in many])
    assert await engine.sync.head() == 0
