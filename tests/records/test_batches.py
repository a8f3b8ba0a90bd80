"""Several writes in one request: all or none, in their order."""

from __future__ import annotations

from typing import Any

import pytest

from lowtide.records.model import MAX_WRITES
from tests.records.conftest import Rest

pytestmark = pytest.mark.anyio

TASK = {"team_id": "red", "title": "Mend the roof"}


def create(id: str | None, **data: Any) -> dict[str, Any]:
    return {"op": "create", "model": "task", "id": id, "data": {**TASK, **data}}


def update(id: str, **data: Any) -> dict[str, Any]:
    return {"op": "update", "model": "task", "id": id, "data": data}


def delete(id: str) -> dict[str, Any]:
    return {"op": "delete", "model": "task", "id": id}


async def send(rest: Rest, who: str, *writes: dict[str, Any]) -> Any:
    return await rest.post(who, "/v1/records", {"writes": list(writes)})


async def test_writes_happen_together_and_in_order(rest: Rest) -> None:
    """A later one sees what an earlier one did; each result has the record as it stands at the end."""
    await rest.made("ann", "task", "old", **TASK)
    draft = {"op": "create", "model": "draft", "data": {"owner_id": "ann", "body": "b"}}
    answer = await send(rest, "ann", create("a"), update("a", title="New"), delete("old"), draft)
    assert answer.status == 200
    results = answer.json()["results"]
    assert [(r["id"], r["status"]) for r in results[:3]] == [
        ("a", "created"),
        ("a", "changed"),
        ("old", "deleted"),
    ]
    assert (
        results[0]["record"] == results[1]["record"] == (await rest.get("ann", "/v1/records/task/a")).json()
    )
    assert results[1]["record"]["data"]["title"] == "New"
    assert results[2]["record"] is None
    assert results[3]["record"]["data"]["body"] == "b"
    assert (await rest.get("ann", "/v1/records/task/old")).status == 404


@pytest.mark.parametrize(
    ("bad", "status", "code"),
    [
        (create("bad", title=None), 422, "invalid"),
        (create("bad", team_id="blue"), 403, "forbidden"),
        (create("mine"), 409, "conflict"),
        (create("a", title="Other"), 409, "conflict"),
        (update("theirs", title="x"), 404, "not_found"),
        (update("nope", title="x"), 404, "not_found"),
        (delete("theirs"), 404, "not_found"),
        (update("mine", title="x") | {"if_match": "1"}, 412, "precondition_failed"),
        (delete("mine") | {"if_match": "1"}, 412, "precondition_failed"),
        ({"op": "create", "model": "handle", "data": {"name": "rude"}}, 409, "conflict"),
    ],
)
async def test_one_refused_write_refuses_all(rest: Rest, bad: dict[str, Any], status: int, code: str) -> None:
    """The error is that write's own and says which it was; nothing of the others is left."""
    await rest.made("ann", "task", "mine", **TASK)
    await rest.made("server", "task", "theirs", team_id="blue", title="x")
    before = [(await rest.get("server", f"/v1/records/task/{id}")).json() for id in ("mine", "theirs")]
    answer = await send(rest, "ann", create("a"), update("mine", votes=5), bad, create("b"))
    assert (answer.status, answer.code, answer.json()["index"]) == (status, code, 2), answer.body
    for id in ("a", "b", "bad"):
        assert (await rest.get("server", f"/v1/records/task/{id}")).status == 404
    after = [(await rest.get("server", f"/v1/records/task/{id}")).json() for id in ("mine", "theirs")]
    assert after == before


async def test_an_exact_change_is_exact_in_a_batch(rest: Rest) -> None:
    """With the present etag it happens, and two records move from one state to the next together."""
    one = await rest.made("ann", "task", "one", **TASK, votes=5)
    two = await rest.made("ann", "task", "two", **TASK, votes=0)
    moves = [
        update("one", votes=4) | {"if_match": one["etag"]},
        update("two", votes=1) | {"if_match": two["etag"]},
    ]
    first = await send(rest, "ann", *moves)
    assert [r["record"]["data"]["votes"] for r in first.json()["results"]] == [4, 1]
    again = await send(rest, "bob", *moves)
    assert (again.status, again.json()["index"]) == (412, 0)
    assert (await rest.get("ann", "/v1/records/task/two")).json()["data"]["votes"] == 1


async def test_creations_are_sent_again_as_a_whole(rest: Rest) -> None:
    """The same again changes nothing and says so; one that differs is a conflict, and nothing is created."""
    writes = [create("a"), create("b", title="B")]
    first = await send(rest, "ann", *writes)
    again = await send(rest, "ann", *writes)
    assert (again.status, [r["status"] for r in again.json()["results"]]) == (200, ["unchanged"] * 2)
    assert [r["record"] for r in again.json()["results"]] == [r["record"] for r in first.json()["results"]]
    for other in ([create("a"), create("b", title="C")], [create("a"), create("c")]):
        assert (await send(rest, "ann", *other)).status == 409
    assert (await rest.get("ann", "/v1/records/task/c")).status == 404


@pytest.mark.parametrize(
    ("write", "status"),
    [
        ({"op": "replace", "model": "task"}, 400),
        ({"op": "create"}, 400),
        ({"op": "create", "model": "task", "extra": 1}, 400),
        ({"op": "create", "model": "task", "data": TASK, "if_match": "1"}, 422),
        ({"op": "create", "model": "task", "data": TASK, "base": {}}, 422),
        ({"op": "create", "model": "task", "id": "", "data": TASK}, 422),
        ({"op": "create", "model": "lowtide_commands", "data": {"name": "x"}}, 404),
        ({"op": "update", "model": "task", "data": {}}, 422),
        ({"op": "update", "model": "task", "id": "mine", "data": {"nope": 1}}, 422),
        ({"op": "update", "model": "task", "id": "mine", "data": {}, "if_match": 'a"b'}, 400),
        ({"op": "update", "model": "task", "id": "mine", "data": {}, "if_match": "*"}, 412),
        ({"op": "delete", "model": "task"}, 422),
        ({"op": "delete", "model": "task", "id": "mine", "data": {"title": "x"}}, 422),
    ],
)
async def test_a_write_that_cannot_be_read_is_refused(rest: Rest, write: dict[str, Any], status: int) -> None:
    """Before anything of the request happens."""
    made = await rest.made("ann", "task", "mine", **TASK)
    answer = await send(rest, "ann", create("a"), write)
    assert answer.status == status, answer.body
    assert (await rest.get("ann", "/v1/records/task/a")).status == 404
    assert (await rest.get("ann", "/v1/records/task/mine")).json() == made


async def test_a_request_has_a_bounded_number_of_writes(rest: Rest) -> None:
    """As many as allowed are written; none, or one more, is refused."""
    most = [create(f"t{i}") for i in range(MAX_WRITES)]
    assert (await send(rest, "ann", *most, create("one-more"))).status == 400
    assert (await send(rest, "ann")).status == 400
    assert (await rest.get("ann", "/v1/records/task/t0")).status == 404
    answer = await send(rest, "ann", *most)
    assert len(answer.json()["results"]) == MAX_WRITES
    assert (await rest.get("bob", f"/v1/records/task/t{MAX_WRITES - 1}")).status == 200
