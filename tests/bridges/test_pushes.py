"""Pushes in the writer's queue: each is as large there as what it brings."""

from __future__ import annotations

import asyncio

import pytest

from lowtide.bridges.pushes import Claim
from lowtide.kernel.errors import Busy
from lowtide.sync import writer
from lowtide.sync.merge import Merge
from lowtide.sync.model import Result, Transaction
from tests.bridges.conftest import Doors, principal

pytestmark = pytest.mark.anyio


async def push(doors: Doors, who: str, count: int) -> None:
    """``count`` new tasks from a client of ``who``."""
    claims = [
        Claim(model="task", id=f"{who}-{number}", data={"team_id": "red", "title": "new"}, made=True)
        for number in range(count)
    ]
    outcome = await doors.bridges.rxdb._pushes.apply(principal(who), f"{who}-phone", claims, None)
    assert outcome.refused == {}


async def test_a_push_takes_as_much_of_a_group_as_it_brings(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that fit into one group are one; two that do not are two, so that nobody waits for both."""
    monkeypatch.setattr(writer, "MAX_GROUP_MUTATIONS", 8)
    for count, groups in ((4, 1), (5, 2)):
        before = await doors.engine.sync.head()
        await asyncio.gather(push(doors, "anna", count), push(doors, "ben", count))
        assert await doors.engine.sync.head() == before + groups


async def test_a_queue_that_is_full_takes_no_further_push(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bound counts changes, and not pushes: the second is told to come again, and is then applied."""
    monkeypatch.setattr(writer, "MAX_WAITING_MUTATIONS", 8)
    found = await asyncio.gather(push(doors, "anna", 5), push(doors, "ben", 5), return_exceptions=True)
    assert found[0] is None
    assert isinstance(found[1], Busy)
    assert await doors.task("ben-0") is None
    await push(doors, "ben", 5)
    assert await doors.task("ben-4") is not None


async def test_a_write_knows_the_request_that_brought_it(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the audit log says of a grant leads to the request, whichever protocol it came by."""
    seen: list[str] = []
    apply = Merge.apply

    def heard(merge: Merge, transaction: Transaction) -> list[Result]:
        seen.append(transaction.request)
        return apply(merge, transaction)

    monkeypatch.setattr(Merge, "apply", heard)
    row = {"id": "t1", "team_id": "red", "title": "new", "_status": "created", "_changed": ""}
    sent = {"client_id": "c", "last_pulled_at": None, "changes": {"task": {"created": [row]}}}
    answer = await doors.post("anna", "watermelondb/push", sent)
    assert (answer.status, seen) == (200, [answer.headers["x-request-id"]])
    seen.clear()
    document = {"id": "t2", "team_id": "red", "title": "new", "_deleted": False}
    address = "/v1/bridges/rxdb/task/0/push"
    sent_rows = [{"newDocumentState": document}]
    answer = await doors.client.request(
        "POST", address, json=sent_rows, headers={"x-lowtide-client": "c2"}, token="anna"
    )
    assert (answer.status, seen) == (200, [answer.headers["x-request-id"]])
