"""Lists over REST: what the user receives, filtered, in order, page by page."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest

from lowtide.kernel.schema import Principal
from lowtide.records.lists import ListQuery, Lists
from lowtide.storage.db import Query, Tx
from lowtide.sync.model import Batch, Mutation, Transaction
from tests.records.conftest import Rest

pytestmark = pytest.mark.anyio


async def fill(rest: Rest, count: int = 12) -> None:
    """Tasks of both teams, each with values that tell it apart, and some that do not."""
    mutations = [
        Mutation(
            n=i + 1,
            op="put",
            model="task",
            id=f"t{i:02}",
            data={
                "team_id": "red" if i % 3 else "blue",
                "title": f"title {i % 4}",
                "estimate": None if i % 5 == 0 else i % 3,
                "price": i / 2,
                "urgent": i % 2,
                "state": "done" if i % 2 else "todo",
            },
            at=rest.engine.clock.now(),
        )
        for i in range(count)
    ]
    server = Principal(user="server", server=True)
    transaction = Transaction(principal=server, client_id="fill", mutations=mutations, online=True)
    await rest.engine.sync.apply(Batch(transactions=[transaction]))


async def listed(rest: Rest, who: str, model: str = "task", **query: Any) -> dict[str, Any]:
    answer = await rest.get(who, f"/v1/records/{model}?{urlencode(query)}")
    assert answer.status == 200, answer.body
    page: dict[str, Any] = answer.json()
    return page


async def pages(rest: Rest, who: str, **query: Any) -> AsyncIterator[dict[str, Any]]:
    """Every record of a list, page by page."""
    cursor: dict[str, str] = {}
    while True:
        page = await listed(rest, who, **query, **cursor)
        for record in page["records"]:
            yield record
        if page["cursor"] is None:
            return
        cursor = {"cursor": page["cursor"]}


async def ids_of(rest: Rest, who: str, model: str = "task", **query: Any) -> list[str]:
    return [record["id"] for record in (await listed(rest, who, model, **query))["records"]]


async def test_a_list_has_what_the_user_receives_and_nothing_else(rest: Rest) -> None:
    """A team's tasks for its members, all of the space for the server, none for another space."""
    await fill(rest)
    await rest.join("ann", "green")
    red = [f"t{i:02}" for i in range(12) if i % 3]
    blue = [f"t{i:02}" for i in range(12) if i % 3 == 0]
    assert await ids_of(rest, "bob") == await ids_of(rest, "ann") == red
    assert await ids_of(rest, "eve") == blue
    assert await ids_of(rest, "server") == sorted(red + blue)
    for other in ("ann@acme", "server@acme"):
        assert await ids_of(rest, other) == []
        assert (await listed(rest, other, count="true"))["count"] == 0
    assert (await rest.get(None, "/v1/records/task")).status == 401
    assert (await rest.get("ann", "/v1/records/relic")).status == 404
    one = (await rest.get("bob", "/v1/records/task/t01")).json()
    assert (await listed(rest, "bob", filter='id = "t01"'))["records"] == [one]


async def test_a_record_in_two_buckets_is_listed_once(rest: Rest) -> None:
    """It comes by the team and by being lent, and counts once."""
    await rest.made("server", "task", "both", team_id="red", title="x", parent_id="ann")
    await rest.made("server", "task", "lent", team_id="blue", title="x", parent_id="ann")
    await rest.made("server", "task", "team", team_id="red", title="x")
    for sort in ("id", "-updated", "title"):
        assert sorted(await ids_of(rest, "ann", sort=sort)) == ["both", "lent", "team"]
    assert (await listed(rest, "ann", count="true", limit=1))["count"] == 3
    assert await ids_of(rest, "bob") == ["both", "team"]


async def test_what_has_left_is_not_listed(rest: Rest) -> None:
    """Deleted, moved to another team, or the membership gone: at once."""
    await fill(rest)
    await rest.delete("ann", "/v1/records/task/t01")
    await rest.patch("server", "/v1/records/task/t02", {"data": {"team_id": "blue"}})
    assert await ids_of(rest, "ann") == ["t04", "t05", "t07", "t08", "t10", "t11"]
    assert "t02" in await ids_of(rest, "eve")
    await rest.delete("server", "/v1/records/membership/ann-red")
    for sort in ("id", "-updated", "title"):
        assert await ids_of(rest, "ann", sort=sort) == []


async def test_streams_without_a_fixed_key_are_listed(rest: Rest) -> None:
    """Any topic is listed to all of the space; a mounted space's catalogue to every space."""
    await rest.made("server", "article", "a", topic="sea", body="x")
    await rest.made("server", "article", "b", body="x")
    await rest.made("server", "minute", "m", team_id="red", body="x")
    await rest.made("server@atlas", "city", "oslo", name="Oslo", people=7)
    await rest.made("server", "city", "mine", name="Mine")
    assert await ids_of(rest, "eve", "article") == ["a"]
    assert await ids_of(rest, "eve@acme", "article") == []
    assert await ids_of(rest, "eve", "minute") == []
    assert await ids_of(rest, "ann", "minute") == ["m"]
    assert await ids_of(rest, "eve@acme", "city", sort="-people") == ["oslo"]
    assert await ids_of(rest, "eve", "city", filter="people > 7") == []
    assert await ids_of(rest, "server", "city") == ["mine"]


@pytest.mark.parametrize("who", ["bob", "server", "ann"])
@pytest.mark.parametrize(
    "sort",
    ["id", "-id", "created", "-updated", "updated", "title", "-title,estimate", "estimate,-price",
     "-estimate", "urgent,-title", "due", "-created,title,id"],
)  # fmt: skip
async def test_pages_are_one_list_cut_in_pieces(rest: Rest, who: str, sort: str) -> None:
    """In the order that was asked for, missing values first, each record once, whatever the page's size."""
    await fill(rest)
    if who == "ann":
        await rest.join("ann", "blue")
    everything = (await listed(rest, who, sort=sort, limit=200))["records"]
    assert len(everything) == (8 if who == "bob" else 12)
    for limit in (1, 3, 7):
        assert [record async for record in pages(rest, who, sort=sort, limit=limit)] == everything

    def key(record: dict[str, Any], name: str) -> Any:
        if name == "updated":
            return int(record["etag"])
        value = record.get(name, record["data"].get(name))
        return (value is not None, value if value is not None else 0)

    expected = sorted(everything, key=lambda record: record["id"])
    for part in reversed(sort.split(",")):
        name = part.removeprefix("-")
        expected.sort(key=lambda record, name=name: key(record, name), reverse=part.startswith("-"))  # type: ignore[misc]
    assert everything == expected


async def test_a_filter_goes_with_pages_and_counts(rest: Rest) -> None:
    """The count is of all that the filter lets through, on every page."""
    await fill(rest)
    query: dict[str, Any] = {
        "filter": 'urgent = true and (estimate != 1 or title ~ "LE 3")',
        "sort": "-price",
        "limit": 2,
    }
    expected = [i for i in range(11, -1, -1) if i % 3 and i % 2]
    expected = [i for i in expected if (i % 5 == 0 or i % 3 != 1) or i % 4 == 3]
    found = [record async for record in pages(rest, "bob", **query)]
    assert [record["id"] for record in found] == [f"t{i:02}" for i in expected]
    page = await listed(rest, "bob", count="true", **query)
    assert page["count"] == len(expected)
    assert "count" not in await listed(rest, "bob", **query)


async def test_pages_stay_whole_while_others_write(rest: Rest) -> None:
    """What stays is neither skipped nor shown twice when records come and go between two pages."""
    await fill(rest)
    seen = []
    async for record in pages(rest, "server", sort="title", limit=2):
        seen.append(record["id"])
        new = f"n{len(seen):02}"
        await rest.made("server", "task", new, team_id="red", title=f"title {len(seen) % 4}")
        if len(seen) == 5:
            await rest.delete("server", f"/v1/records/task/{seen[-1]}")
            await rest.delete("server", "/v1/records/task/t11")
    assert len(seen) == len(set(seen))
    assert {id for id in seen if id.startswith("t")} >= {f"t{i:02}" for i in range(11)}


async def test_only_the_wanted_fields_are_answered(rest: Rest) -> None:
    """In their order, with their types; id, etag and times are always there."""
    await fill(rest, 2)
    page = await listed(rest, "server", fields="urgent, title,urgent,remark", limit=1)
    assert page["records"][0]["data"] == {"urgent": False, "title": "title 0", "remark": ""}
    assert page["records"][0].keys() == {"id", "etag", "created", "updated", "data"}
    for fields in ("", "nope", "id", "title,,urgent", "*"):
        answer = await rest.get("server", f"/v1/records/task?{urlencode({'fields': fields})}")
        assert (answer.status, answer.code) == (400, "malformed")


async def test_references_are_followed_where_the_user_may_look(rest: Rest) -> None:
    """Each record once, by model and id; what is not received is absent, as what is not there."""
    await rest.made("server", "team", "red", name="Red")
    await rest.made("server", "team", "blue", name="Blue")
    await rest.made("server", "task", "root", team_id="blue", title="root")
    await rest.made("server", "task", "mid", team_id="red", title="mid", parent_id="root")
    await rest.made("server", "task", "a", team_id="red", title="a", parent_id="mid")
    await rest.made("server", "task", "b", team_id="red", title="b", parent_id="mid")
    await rest.made("server", "task", "c", team_id="red", title="c", parent_id="gone")
    query: dict[str, Any] = {"expand": "team_id,parent_id.parent_id.team_id"}
    page = await listed(rest, "bob", filter='id in ("a", "b", "c")', **query)
    assert {model: sorted(found) for model, found in page["included"].items()} == {
        "team": ["red"],
        "task": ["mid"],
    }
    assert page["included"]["task"]["mid"] == (await rest.get("bob", "/v1/records/task/mid")).json()
    page = await listed(rest, "server", filter='id = "a"', **query)
    assert {model: sorted(found) for model, found in page["included"].items()} == {
        "team": ["blue", "red"],
        "task": ["mid", "root"],
    }
    assert (await listed(rest, "eve@acme", **query))["included"] == {}
    for expand in (
        "",
        "title",
        "nope",
        "team_id.nope",
        "team_id,",
        ".",
        "parent_id." * 4,
        ",".join(["team_id"] * 11),
    ):
        answer = await rest.get("bob", f"/v1/records/task?{urlencode({'expand': expand})}")
        assert (answer.status, answer.code) == (400, "malformed"), expand


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"filter": "title = "}, "bad_filter"),
        ({"filter": "secret = 1"}, "bad_filter"),
        ({"filter": "title = 'x' or 1=1"}, "bad_filter"),
        ({"filter": "title = 'a' -- "}, "bad_filter"),
        ({"filter": "(" * 3000}, "bad_filter"),
        ({"sort": "nope"}, "malformed"),
        ({"sort": "extra"}, "malformed"),
        ({"sort": "tags"}, "malformed"),
        ({"sort": "title,title"}, "malformed"),
        ({"sort": "title,price,due,urgent"}, "malformed"),
        ({"sort": "title;drop table record"}, "malformed"),
        ({"sort": ""}, "malformed"),
        ({"limit": "0"}, "malformed"),
        ({"limit": "201"}, "malformed"),
        ({"limit": "x"}, "malformed"),
        ({"count": "maybe"}, "malformed"),
        ({"offset": "1"}, "unknown_parameter"),
    ],
)
async def test_a_list_that_cannot_be_read_is_refused(rest: Rest, query: dict[str, str], code: str) -> None:
    """400, for those who hold nothing of the model, too."""
    if query == {"sort": ""}:
        assert (await listed(rest, "ann", **query))["records"] == []
        return
    for who in ("ann", "eve@acme", "server"):
        answer = await rest.get(who, f"/v1/records/task?{urlencode(query)}")
        assert (answer.status, answer.code) == (400, code)


def forged(*parts: Any) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(parts)).decode().rstrip("=")


async def test_a_hostile_cursor_is_refused(rest: Rest) -> None:
    """Cut, grown, of another list, with values of another type: 400, never a fault of the server."""
    await fill(rest)
    query: dict[str, Any] = {"sort": "estimate,title", "limit": 2}
    cursor = (await listed(rest, "ann", **query))["cursor"]
    mark, values = msgspec.json.decode(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    hostile = [
        "", "x", "é", "%", cursor[:-3], cursor + "AAAA", "A" * 9_000, forged(mark), forged(mark, [], 1),
        forged(mark, values[:2]), forged(mark, [*values, "x"]), forged("other", values),
        forged(mark, ["1", *values[1:]]), forged(mark, [2**70, *values[1:]]),
        forged(mark, [True, *values[1:]]), forged(mark, [1, 5, "t01"]), forged(mark, [1, "x" * 201, "t01"]),
        forged(mark, [1, "x\0", "t01"]), forged(mark, [1, "x", None]), forged(mark, [1, "x", "y" * 129]),
        forged(mark, [[1], "x", "t"]), forged(mark, [{"a": 1}, "x", "t"]), forged({"a": 1}, values),
    ]  # fmt: skip
    for text in hostile:
        answer = await rest.get("ann", f"/v1/records/task?{urlencode({**query, 'cursor': text})}")
        assert (answer.status, answer.code) == (400, "malformed"), text
    for other in ({"sort": "title,estimate"}, {"sort": "estimate,title", "filter": "price > 1"}):
        answer = await rest.get("ann", f"/v1/records/task?{urlencode({**other, 'cursor': cursor})}")
        assert (answer.status, answer.code) == (400, "malformed")
    stranger = await listed(rest, "eve@acme", **query, cursor=cursor)
    assert stranger["records"] == [], "a cursor grants nothing"


async def test_a_forged_number_in_a_cursor_is_harmless(rest: Rest) -> None:
    """It is a place in the order like any other."""
    await fill(rest)
    cursor = (await listed(rest, "ann", sort="price", limit=1))["cursor"]
    mark, _ = msgspec.json.decode(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    for value, count in ((-1, 8), (1e300, 0), (1.7e308, 0), (None, 8), (0, 8)):
        page = await listed(rest, "ann", sort="price", cursor=forged(mark, [value, ""]))
        assert len(page["records"]) == count
    answer = await rest.get(
        "ann", f"/v1/records/task?{urlencode({'sort': 'price', 'cursor': forged(mark, [10**309, ''])})}"
    )
    assert answer.status == 400


async def test_the_greatest_numbers_are_listed_page_by_page(rest: Rest) -> None:
    """A cursor that was given out is taken back, up to the last number that a double holds."""
    prices = (1.0e308, -1.7976931348623157e308, 1.7976931348623157e308)
    for n, price in enumerate(prices):
        await rest.made("ann", "task", f"p{n}", team_id="red", title="t", price=price)
    seen: list[float] = []
    cursor: dict[str, str] = {}
    while True:
        page = await listed(rest, "ann", sort="price", limit=1, **cursor)
        seen += [record["data"]["price"] for record in page["records"]]
        if page["cursor"] is None:
            break
        cursor = {"cursor": page["cursor"]}
    assert seen == sorted(prices)


async def test_a_page_of_large_records_ends_early(rest: Rest) -> None:
    """About a megabyte of records is a page; the cursor leads through all of them."""
    for i in range(9):
        await rest.made("ann", "task", f"t{i}", team_id="red", title="x", extra="x" * 240_000)
    page = await listed(rest, "ann", limit=50)
    assert len(page["records"]) == 5
    assert [record["id"] async for record in pages(rest, "ann", limit=50)] == [f"t{i}" for i in range(9)]


async def test_long_texts_are_ordered_by_their_beginning(rest: Rest) -> None:
    """Beyond 200 characters the id decides, and every page still ends."""
    for i in (3, 1, 2):
        await rest.made("ann", "draft", f"d{i}", owner_id="ann", body="x" * 300 + str(9 - i))
    await rest.made("ann", "draft", "d0", owner_id="ann", body="é" * 300)
    found = [record["id"] async for record in pages(rest, "ann", model="draft", sort="body", limit=1)]
    assert found == ["d1", "d2", "d3", "d0"]


async def test_an_index_is_used_where_it_is_the_shorter_way(
    rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the server always, by a user with many records when few have the value; the answer is the same."""
    await fill(rest)
    lists = Lists(rest.records)
    used: list[str | None] = []
    original = lists._plan

    def spy(wanted: Any, shape: Any) -> Any:
        used.append(shape.index)
        return original(wanted, shape)

    monkeypatch.setattr(lists, "_plan", spy)
    server, ann = rest.engine.who("server"), rest.engine.who("ann")
    done = ListQuery(filter='state = "done" and price > 1')
    found = [r.id for r in (await lists.page(server, "task", done)).records]
    assert (found, used) == (["t03", "t05", "t07", "t09", "t11"], ["state"])
    small = [r.id for r in (await lists.page(ann, "task", done)).records]
    assert used[-1] is None, "few records are read as they are"
    monkeypatch.setattr("lowtide.records.lists.WIDE", 1)
    assert [r.id for r in (await lists.page(ann, "task", done)).records] == small == ["t05", "t07", "t11"]
    assert used[-1] == "state"
    await lists.page(ann, "task", ListQuery(filter='state = "done" or price > 1'))
    await lists.page(ann, "task", ListQuery(filter='not state = "done"'))
    assert used[-2:] == [None, None]


@pytest.mark.parametrize("dialect", ["sqlite"])
@pytest.mark.parametrize("query", ["", "?sort=-updated", "?sort=title", "?filter=price>3", "?count=true"])
async def test_a_users_list_reads_the_users_buckets_alone(rest: Rest, query: str) -> None:
    """SQLite's plan searches entries by bucket and records by key: nobody pays for the space's size."""
    await fill(rest)
    database = rest.engine.sync.database
    statements: list[tuple[Query, tuple[Any, ...]]] = []

    class Spied:
        def __init__(self, tx: Tx):
            self._tx = tx
            self.dialect = tx.dialect

        async def fetch(self, query: Query, *params: Any) -> Any:
            statements.append((query, params))
            return await self._tx.fetch(query, *params)

    original = database.read
    lists = Lists(rest.records)
    lists._database = type(
        "Database",
        (),
        {
            "dialect": "sqlite",
            "read": staticmethod(lambda work: original(lambda tx: work(Spied(tx)))),
        },
    )()
    asked = dict(pair.split("=", 1) for pair in query[1:].split("&")) if query else {}
    await lists.page(rest.engine.who("ann"), "task", msgspec.convert(asked, ListQuery, strict=False))
    shown = [(q, p) for q, p in statements if q.name == "list"]
    assert shown
    for statement, parameters in shown:
        explain = Query("explain", "EXPLAIN QUERY PLAN " + statement.sqlite, "")
        rows = await original(lambda tx, e=explain, p=parameters: tx.fetch(e, *p))  # type: ignore[misc]
        plan = [str(row[3]) for row in rows]
        assert not any(step.startswith(("SCAN r", "SCAN e")) for step in plan), plan
        assert any("id=?" in step or "rowid=?" in step for step in plan if " r " in f"{step} "), plan
