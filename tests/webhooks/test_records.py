"""Webhooks about records: in the writer's transaction, in each record's order, past every dead end."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lowtide.app import Lowtide
from lowtide.audit.store import Search, search
from lowtide.kernel.clock import SystemClock
from lowtide.kernel.errors import Conflict, Malformed
from lowtide.kernel.ids import SystemIds
from lowtide.settings import Settings
from lowtide.storage.db import Dialect, Query, Row, Tx
from lowtide.storage.jobs import store
from lowtide.webhooks import QUEUE, RECORDS_QUEUE, RecordChange, Tried
from lowtide.webhooks import records as outbox
from lowtide.webhooks.model import Endpoint, Trouble, Try
from lowtide.webhooks.records import AGAIN, AT_ONCE, HOLD, MAX_ATTEMPTS, MAX_BODY, WINDOW
from lowtide.webhooks.service import DISABLE_AFTER, KIND
from lowtide.webhooks.store import MAX_TROUBLES, QUERIES, listed
from tests.api.client import Client
from tests.contract.conftest import running
from tests.contract.shop import app as shop
from tests.egress.outside import OK, Outside
from tests.server_process import SECRET_KEY
from tests.webhooks.test_webhooks import FAILS, GONE, World, verify, world

pytestmark = pytest.mark.anyio

__all__ = ["world"]


COUNT = Query(
    name="count", sqlite="SELECT COUNT(*) FROM webhook_record", postgres="SELECT COUNT(*) FROM webhook_record"
)

NO_JOBS = Query(name="no_jobs", sqlite="DELETE FROM job", postgres="DELETE FROM job")
TRIES = Query(
    name="tries", sqlite="SELECT endpoint FROM webhook_try", postgres="SELECT endpoint FROM webhook_try"
)
RETRY_AT = Query(
    name="retry_at",
    sqlite="SELECT retry_at FROM webhook_endpoint",
    postgres="SELECT retry_at FROM webhook_endpoint",
)
OFF = Query(
    name="off",
    sqlite="UPDATE webhook_endpoint SET enabled = 0",
    postgres="UPDATE webhook_endpoint SET enabled = 0",
)


def change(id: str, op: int, title: str | None = "new", before: str | None = None) -> RecordChange:
    """A note that was called ``before`` and is called ``title``; None: it is not there."""
    was, now = ({"title": name} if name is not None else None for name in (before, title))
    return RecordChange("main", "note", id, op, was, now)


class Records:
    """Changes that happen, and a worker that is asked to work."""

    def __init__(self, world: World):
        self.world = world
        world.webhooks._models = frozenset({"note", "task"})

    async def add(self, **given: Any) -> tuple[Endpoint, str]:
        wanted = {"events": ["record.*"], "models": ["note"]} | given
        return await self.world.database.write(
            lambda tx: self.world.webhooks.add(tx, self.world.url, **wanted)
        )

    async def happen(self, *changes: RecordChange) -> bool:
        now = self.world.clock.now()
        return await self.world.database.write(lambda tx: self.world.webhooks.changed(tx, now, changes))

    async def work(self) -> int:
        """Run every job that is due; how many there were."""
        jobs, now = self.world.jobs, self.world.clock.now()
        found = await self.world.database.write(
            lambda tx: store.claim(
                tx, RECORDS_QUEUE, jobs.kinds, 100, now=now, until=now + 60_000, worker="w"
            )
        )
        for job in found:
            handler = jobs.handler(job.kind)
            await handler.call(job, handler.decode(job.payload))
            await self.world.database.write(lambda tx, job=job: store.complete(tx, (job.id, job.fence), now))  # type: ignore[misc]
        return len(found)

    def refuse(self, *bad: str) -> None:
        """Answer 500 to messages about these records, and to no other."""

        async def picky(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            _, body = self.world.outside.requests[-1]
            writer.write(FAILS if json.loads(body)["data"]["id"] in bad else OK)

        self.world.outside.answer = picky

    async def retry_at(self) -> int:
        """Until when the endpoint is left alone."""
        ((found,),) = await self.world.database.read(lambda tx: tx.fetch(RETRY_AT))
        return int(found)

    async def patiently(self, days: float = 3) -> None:
        """Work until nothing is left to do, or so long."""
        for _ in range(int(days * 24)):
            while await self.work():
                pass
            self.world.clock.advance(3600)

    @property
    def sent(self) -> list[tuple[str, str]]:
        """The record and version of each request, in order."""
        told = [json.loads(body)["data"] for _, body in self.world.outside.requests]
        return [(one["id"], one["version"]) for one in told]

    async def tries(self) -> list[Try]:
        one = await self.endpoint()
        return await self.world.database.read(lambda tx: self.world.webhooks.tries(tx, one.id))

    async def endpoint(self) -> Endpoint:
        (found,) = await self.world.database.read(listed)
        return found


@pytest.fixture
def records(world: World) -> Records:
    """Webhooks that know two models."""
    return Records(world)


class Counting:
    """A transaction that counts its statements."""

    def __init__(self, tx: Tx):
        self._tx = tx
        self.count = 0

    async def fetch(self, query: Query, *values: Any) -> Sequence[Row]:
        self.count += 1
        return await self._tx.fetch(query, *values)

    async def execute(self, query: Query, *values: Any) -> None:
        self.count += 1
        await self._tx.execute(query, *values)


class TestWhatIsSent:
    async def test_each_change_arrives_signed_with_its_version(self, records: Records) -> None:
        """Created, updated, deleted, in order; ids and version, and no data that nobody chose."""
        _, secret = await records.add()
        await records.happen(change("a", 1), change("b", 2))
        await records.happen(change("a", 3, "newer", "new"))
        await records.happen(change("a", 4, None, "newer"))
        await records.work()
        requests = records.world.outside.requests
        assert all(verify(secret, head, body) == [True] for head, body in requests)
        told = [json.loads(body) for _, body in requests if json.loads(body)["data"]["id"] == "a"]
        assert [(one["type"], one["data"]) for one in told] == [
            (f"record.{what}", {"space": "main", "model": "note", "id": "a", "version": version})
            for what, version in (("created", "1"), ("updated", "3"), ("deleted", "4"))
        ]
        assert (await records.endpoint()).waiting == 0

    async def test_data_is_sent_where_it_was_chosen(self, records: Records) -> None:
        """What the record is and was; one that is too large goes without."""
        await records.add(data=True)
        await records.happen(change("a", 1, "new", "old"), change("big", 2, "x" * MAX_BODY))
        await records.work()
        told = {
            one["data"]["id"]: one["data"]
            for one in (json.loads(b) for _, b in records.world.outside.requests)
        }
        assert (told["a"]["data"], told["a"]["previous"]) == ({"title": "new"}, {"title": "old"})
        assert told["big"]["too_large"] is True
        assert "data" not in told["big"]

    async def test_only_what_is_wanted_is_kept(self, records: Records) -> None:
        """By model, space and event; for nobody there is no row and no job."""
        await records.add(models=["task"])
        await records.add(spaces=["acme"])
        await records.add(events=["record.deleted"])
        assert not await records.happen(change("a", 1))
        assert await records.work() == 0
        assert await records.happen(change("a", 2, None, "x"))
        await records.work()
        assert records.sent == [("a", "2")]

    @pytest.mark.parametrize(
        "given",
        [
            {"models": []},
            {"models": ["nonesuch"]},
            {"events": ["user.create"]},
            {"events": ["record.created"], "models": []},
        ],
        ids=str,
    )
    async def test_a_wish_that_says_nothing_is_refused(self, records: Records, given: Any) -> None:
        """Records' events without a model, a model without events, a model that there is not."""
        with pytest.raises(Malformed):
            await records.add(**given)

    async def test_a_thousand_changes_cost_a_few_statements(self, records: Records) -> None:
        """For the endpoints, the messages and each endpoint's job; not one for each change."""
        await records.add()
        await records.add()
        many = [change(str(number), number) for number in range(1, 1001)]

        async def counted(tx: Tx) -> int:
            counting: Any = Counting(tx)
            await records.world.webhooks.changed(counting, 1, many)
            found: int = counting.count
            return found

        assert await records.world.database.write(counted) <= 8


class TestFaults:
    async def test_a_record_waits_for_its_own_first(self, records: Records) -> None:
        """Others go on meanwhile; then its messages arrive in their order, the failed one as the same."""
        await records.add()
        heads: list[bytes] = []

        async def picky(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head, body = records.world.outside.requests[-1]
            refused = json.loads(body)["data"]["id"] == "bad" and len(heads) < 3
            if refused:
                heads.append(head)
            writer.write(FAILS if refused else OK)

        records.world.outside.answer = picky
        await records.happen(*(change(str(number), number) for number in range(1, 20)))
        await records.happen(change("bad", 20), change("bad", 21), change("good", 22))
        await records.patiently(1)
        assert [version for id, version in records.sent if id == "bad"] == ["20"] * 4 + ["21"]
        assert {id for id, _ in records.sent} == {str(number) for number in range(1, 20)} | {"bad", "good"}
        assert len({re.findall(rb"webhook-id: (\S+)", head)[0] for head in heads}) == 1
        assert (await records.endpoint()).waiting == 0

    async def test_a_record_that_fails_holds_up_no_other(self, records: Records) -> None:
        """Neither those behind all that waits for it, nor, where it fails alone, what comes then."""
        await records.add()
        records.refuse("bad")
        await records.happen(*(change("bad", number) for number in range(1, 2 * WINDOW)))
        await records.happen(change("good", 1000))
        await records.work()
        assert records.sent == [("bad", "1"), ("good", "1000")]
        await records.patiently(0.1)
        assert {version for id, version in records.sent if id == "bad"} == {"1"}
        tried = len(records.sent)
        await records.happen(change("better", 1001))
        await records.work()
        assert ("better", "1001") in records.sent[tried : tried + 2]

    async def test_what_failed_once_does_not_wait_for_all_that_comes_later(self, records: Records) -> None:
        """A receiver that works, but slowly: what is due again is tried in the next minute, not last."""
        await records.add()
        records.refuse("bad")
        await records.happen(change("bad", 1))
        await records.work()
        first = len(records.sent)

        async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            records.world.clock.advance(2)
            writer.write(OK)

        records.world.outside.answer = slow
        await records.happen(*(change(f"other{number}", number) for number in range(2, WINDOW)))
        records.world.clock.advance(60)
        await records.work()
        now = records.sent[first:]
        assert ("bad", "1") in now
        assert len(now) < WINDOW / 2, "the job went on beyond its minute, and proves nothing"

    async def test_records_that_fail_one_after_the_other_are_a_dead_end(self, records: Records) -> None:
        """It is left alone for a while; then what never failed goes with the first, and all is well again."""
        await records.add()
        bad = [str(number) for number in range(AT_ONCE)]
        records.refuse(*bad)
        for number, id in enumerate(bad[:-1]):
            await records.happen(change(id, number + 1))
            await records.work()
        assert await records.retry_at() == 0
        await records.happen(change(bad[-1], AT_ONCE))
        await records.work()
        tried = len(records.sent)
        assert await records.retry_at() > records.world.clock.now()
        await records.happen(change("good", 50))
        await records.work()
        assert len(records.sent) == tried, "it was not left alone"
        records.world.clock.advance(3600)
        await records.work()
        assert ("good", "50") in records.sent[tried : tried + AT_ONCE]
        assert await records.retry_at() == 0
        assert (await records.endpoint()).waiting == AT_ONCE

    async def test_what_was_given_up_goes_before_what_fails_now(self, records: Records) -> None:
        """A replay while a later message of the same record waits for its next try: the order holds."""
        endpoint, _ = await records.add()
        await records.happen(change("a", 1))
        webhooks, database = records.world.webhooks, records.world.database
        await database.write(lambda tx: webhooks._records.bury(tx, endpoint.id, "given up"))
        records.refuse("a")
        await records.happen(change("a", 2))
        await records.work()
        records.refuse()
        assert await database.write(lambda tx: webhooks.replay(tx, endpoint.id)) == 1
        records.world.clock.advance(3600)
        await records.happen(change("a", 3))
        await records.patiently(0.1)
        assert records.sent == [("a", "2"), ("a", "1"), ("a", "2"), ("a", "3")]

    async def test_an_outbox_has_an_end(self, records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
        """What waits for a record that fails is dead beyond it; a dead end, and who is too slow, are off."""
        monkeypatch.setattr(outbox, "MAX_WAITING", 20)
        monkeypatch.setattr(outbox, "MAX_BEHIND", 100)
        monkeypatch.setattr(outbox, "WINDOW", 10)
        endpoint, _ = await records.add()
        records.refuse("bad")
        await records.happen(*(change("bad", number) for number in range(1, 22)), change("good", 22))
        await records.work()
        found = await records.endpoint()
        assert (found.enabled, found.waiting, found.dead) == (True, 0, 21)
        await records.happen(*(change(str(number), number) for number in range(100, 199)))
        await records.work()
        assert ((await records.endpoint()).enabled, (await records.endpoint()).waiting) == (True, 0)
        await records.happen(*(change(str(number), number) for number in range(200, 320)))
        await records.work()
        found = await records.endpoint()
        assert (found.enabled, found.reason) == (False, "more than 100 messages waited")
        await records.world.database.write(lambda tx: records.world.webhooks.enable(tx, endpoint.id, True))
        records.world.outside.answer = FAILS
        await records.happen(*(change(str(number), number) for number in range(400, 430)))
        await records.work()
        found = await records.endpoint()
        assert (found.enabled, found.reason) == (False, "more than 20 messages waited")

    async def test_a_poisoned_message_is_given_up_and_can_be_sent_again(self, records: Records) -> None:
        """After its last try it is dead, and what follows it goes out; a replay sends it."""
        await records.add()

        async def picky(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            _, body = records.world.outside.requests[-1]
            writer.write(FAILS if json.loads(body)["data"]["version"] == "1" else OK)

        records.world.outside.answer = picky
        await records.happen(change("a", 1), change("a", 2, "y", "x"))
        # Something else arrives now and then: the endpoint is well, and its message is not.
        for number in range(MAX_ATTEMPTS + 4):
            await records.happen(change("other", 10 + number))
            await records.patiently(0.1)
        found = await records.endpoint()
        assert (found.enabled, found.waiting, found.dead) == (True, 0, 1)
        assert found.troubles == [
            Trouble("main/note/a", "record.created", MAX_ATTEMPTS, "It answered 500.", True)
        ]
        assert [version for id, version in records.sent if id == "a"] == ["1"] * MAX_ATTEMPTS + ["2"]
        records.world.outside.answer = OK
        count = await records.world.database.write(lambda tx: records.world.webhooks.replay(tx, found.id))
        await records.work()
        assert count == 1
        assert records.sent[-1] == ("a", "1")
        assert (await records.endpoint()).dead == 0

    async def test_a_dead_end_is_switched_off_and_seen(self, records: Records) -> None:
        """After days of failures; then its messages are dead, and the audit log says so."""
        endpoint, _ = await records.add()
        records.world.outside.answer = FAILS
        await records.happen(*(change(str(number), number) for number in range(1, WINDOW + 50)))
        await records.patiently(DISABLE_AFTER / 86_400 + 1)
        found = await records.endpoint()
        assert (found.enabled, found.reason) == (False, "nothing arrived for five days")
        assert (found.waiting, found.dead) == (0, WINDOW + 49)
        tries = len(records.world.outside.requests)
        assert tries < 1000, "it was hammered"
        entries = (await records.world.database.read(lambda tx: search(tx, Search()))).entries
        assert ("webhook.switch_off", f"webhook:{endpoint.id}") in [
            (one.action, one.target) for one in entries
        ]
        assert not await records.happen(change("late", 999))
        records.world.outside.answer = OK
        webhooks = records.world.webhooks

        async def again(tx: Tx) -> int:
            await webhooks.enable(tx, endpoint.id, True)
            return await webhooks.replay(tx, endpoint.id)

        assert await records.world.database.write(again) == WINDOW + 49
        await records.patiently(0.1)
        assert (await records.endpoint()).dead == (await records.endpoint()).waiting == 0
        assert len(records.world.outside.requests) == tries + WINDOW + 49

    async def test_an_endpoint_that_is_off_keeps_its_dead(self, records: Records) -> None:
        """A replay is refused while it is off, and loses nothing: switched on, every message is sent."""
        endpoint, _ = await records.add(events=["*"])
        webhooks, database = records.world.webhooks, records.world.database
        await records.world.happens("user.create")
        await records.happen(change("a", 1))

        async def die(tx: Tx) -> None:
            now = records.world.clock.now()
            (job,) = await store.claim(tx, QUEUE, [KIND], 9, now=now, until=now + 1, worker="w")
            await store.bury(tx, (job.id, job.fence), now, "It was tried for a day.")

        await database.write(die)
        await database.write(lambda tx: webhooks.enable(tx, endpoint.id, False))
        with pytest.raises(Conflict) as refused:
            await database.write(lambda tx: webhooks.replay(tx, endpoint.id))
        assert refused.value.hint == "Switch it on first."
        await records.work()
        assert await records.world.deliver() == []
        assert records.world.outside.requests == []
        await database.write(lambda tx: webhooks.enable(tx, endpoint.id, True))
        assert await database.write(lambda tx: webhooks.replay(tx, endpoint.id)) == 2
        await records.work()
        assert await records.world.deliver() == [True]
        assert len(records.world.outside.requests) == 2

    async def test_switching_on_sends_what_waits(self, records: Records) -> None:
        """A message that waits while its endpoint is off, and whose job is done, goes out."""
        endpoint, _ = await records.add()
        await records.happen(change("a", 1))
        await records.world.database.write(lambda tx: tx.execute(OFF))
        assert await records.work() == 1
        assert records.sent == []
        await records.world.database.write(lambda tx: records.world.webhooks.enable(tx, endpoint.id, True))
        await records.work()
        assert records.sent == [("a", "1")]

    async def test_what_fails_while_it_is_switched_off_stays_dead(self, records: Records) -> None:
        """Its try began before: that wakes no message up, and no hold is left when it is on again."""
        endpoint, _ = await records.add()
        webhooks, database = records.world.webhooks, records.world.database

        async def off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await database.write(lambda tx: webhooks.enable(tx, endpoint.id, False))
            writer.write(FAILS)

        records.world.outside.answer = off
        await records.happen(change("a", 1))
        await records.work()
        found = await records.endpoint()
        assert (found.enabled, found.waiting, found.dead) == (False, 0, 1)
        records.refuse()
        await database.write(lambda tx: webhooks.enable(tx, endpoint.id, True))
        await records.happen(change("b", 2))
        await records.work()
        assert records.sent == [("a", "1"), ("b", "2")]

    async def test_who_is_gone_is_asked_no_more(self, records: Records) -> None:
        """410 at once; and nothing of a deleted endpoint is left."""
        endpoint, _ = await records.add()
        records.world.outside.answer = GONE
        await records.happen(change("a", 1), change("b", 2))
        await records.patiently(0.1)
        assert not (await records.endpoint()).enabled
        await records.world.database.write(lambda tx: records.world.webhooks.delete(tx, endpoint.id))
        counted = await records.world.database.read(lambda tx: tx.fetch(COUNT))
        assert counted[0][0] == 0

    async def test_the_dead_are_forgotten(self, records: Records) -> None:
        """After 30 days, and not before; what waits stays."""
        endpoint, _ = await records.add()
        await records.happen(change("a", 1))
        await records.world.database.write(lambda tx: records.world.webhooks.enable(tx, endpoint.id, False))
        await records.world.database.write(lambda tx: records.world.webhooks.enable(tx, endpoint.id, True))
        await records.happen(change("b", 2))
        sweep = records.world.webhooks.sweep
        for days, dead in ((29, 1), (2, 0)):
            records.world.clock.advance(days * 86_400)
            await sweep()
            found = await records.endpoint()
            assert (found.waiting, found.dead) == (1, dead)

    async def test_an_admin_sees_what_fails_and_why(self, records: Records) -> None:
        """What waits before what is dead; of what arrives nothing; a few of all."""
        await records.add()
        endpoint = await records.endpoint()
        await records.happen(change("given-up", 1))
        database, messages = records.world.database, records.world.webhooks._records
        await database.write(lambda tx: messages.bury(tx, endpoint.id, "given up"))
        bad = [f"bad{number}" for number in range(AT_ONCE - 1)]
        records.refuse(*bad)
        for number, id in enumerate(bad):
            await records.happen(change(id, 10 + number), change(f"good{number}", 100 + number))
        await records.work()
        *failing, last = (await records.endpoint()).troubles
        assert {one.record for one in failing} == {f"main/note/{id}" for id in bad}
        assert {(one.attempt, one.error, one.dead) for one in failing} == {(1, "It answered 500.", False)}
        assert last == Trouble("main/note/given-up", "record.created", 0, "given up", True)
        many = [change(f"dead{number}", 200 + number) for number in range(MAX_TROUBLES)]
        await records.happen(*many)
        await database.write(lambda tx: messages.bury(tx, endpoint.id, "given up"))
        assert len((await records.endpoint()).troubles) == MAX_TROUBLES

    async def test_tries_of_nobody_are_forgotten(self, records: Records) -> None:
        """A try that ends after its endpoint was deleted leaves a row behind; a sweep takes it, no other."""
        endpoint, _ = await records.add()
        await records.happen(change("a", 1))
        await records.work()
        (tried,) = await records.tries()
        log = records.world.webhooks._log
        ended = Tried(
            message=tried.message, event=tried.event, attempt=2, status=200, failure="", took=1, at=1
        )
        await records.world.database.write(lambda tx: log(tx, "deleted", [ended]))
        await records.world.webhooks.sweep()
        left = await records.world.database.read(lambda tx: tx.fetch(TRIES))
        assert [tuple(row) for row in left] == [(endpoint.id,)]

    async def test_what_cannot_be_tried_is_tried_later(self, records: Records) -> None:
        """Where others use all of a host's places: no job fails, no try counts, all arrive once."""
        await records.add()
        await records.happen(*(change(str(number), number) for number in range(1, 9)))
        egress = records.world.webhooks._sender._egress
        egress._per_host = 0
        assert await records.work() == 1
        assert records.sent == []
        records.world.clock.advance(AGAIN[1])
        egress._per_host = 1  # One of several finds a place, and what it did is kept.
        assert await records.work() == 1
        assert sorted(records.sent) == [(str(number), str(number)) for number in range(1, 9)]
        assert [one.attempt for one in await records.tries()] == [1] * 8
        assert (await records.endpoint()).waiting == 0

    async def test_two_jobs_do_not_overtake_each_other(self, records: Records) -> None:
        """While one empties an outbox another lets it be, and the first sees what came meanwhile."""
        await records.add()
        entered, go = asyncio.Event(), asyncio.Event()

        async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            entered.set()
            await go.wait()
            writer.write(OK)

        records.world.outside.answer = slow
        await records.happen(change("a", 1))
        first = asyncio.create_task(records.work())
        async with asyncio.timeout(5):
            await entered.wait()
            await records.happen(change("a", 2, "y", "x"))
            assert await records.work() == 1
            assert records.sent == [("a", "1")]
            go.set()
            await first
        assert records.sent == [("a", "1"), ("a", "2")]

    @pytest.mark.parametrize("dialect", ["postgres"])  # SQLite has one writer: there is no such moment.
    async def test_what_comes_while_a_job_ends_is_sent(self, records: Records) -> None:
        """One job has seen that nothing is left, and has not let go: a message of that moment has its own."""
        endpoint, _ = await records.add()
        messages, database = records.world.webhooks._records, records.world.database
        seen, go = asyncio.Event(), asyncio.Event()
        await database.write(lambda tx: messages._take(tx, "first", endpoint.id, False))
        hold = QUERIES["hold"]
        until = records.world.clock.now() + HOLD
        await database.write(lambda tx: tx.execute(hold, endpoint.id, "first", 0, until))

        class Slow(Counting):
            async def execute(self, query: Query, *values: Any) -> None:
                if query.name == "let_go":
                    seen.set()
                    await go.wait()
                await super().execute(query, *values)

        async def meanwhile() -> None:
            await records.happen(change("a", 1))
            await records.work()

        async def end(tx: Tx) -> list[Any]:
            slow: Any = Slow(tx)
            return list(await messages._take(slow, "first", endpoint.id, False))

        first = asyncio.create_task(database.write(end))
        async with asyncio.timeout(10):
            await seen.wait()
            second = asyncio.create_task(meanwhile())
            await asyncio.wait([second], timeout=0.5)
            go.set()
            assert await first == []
            await second
        assert records.sent == [("a", "1")]

    async def test_a_job_that_died_holds_up_nothing_for_long(self, records: Records) -> None:
        """Whoever finds its hold comes back when that is over; and the sweep wakes what has no job at all."""
        endpoint, _ = await records.add()
        hold = QUERIES["hold"]
        now = records.world.clock.now()
        await records.world.database.write(lambda tx: tx.execute(hold, endpoint.id, "dead", now, now + HOLD))
        await records.happen(change("a", 1))
        assert await records.work() == 1
        assert records.sent == []
        records.world.clock.advance(HOLD / 1000 + 1)
        assert await records.work() == 1
        assert records.sent == [("a", "1")]
        await records.happen(change("b", 2))
        await records.world.database.write(lambda tx: tx.execute(NO_JOBS))
        assert await records.work() == 0
        await records.world.webhooks.sweep()
        await records.work()
        assert records.sent[1:] == [("b", "2")]


@pytest.fixture
async def shop_with_receiver(
    dialect: Dialect, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[Lowtide, Outside]]:
    """The shop, whose webhooks may go to this machine."""
    clock = SystemClock()
    database = str(tmp_path / "data.db") if dialect == "sqlite" else request.getfixturevalue("postgres_dsn")
    async with Outside().serving() as outside:
        settings = Settings(
            database=database,
            secret_key=SECRET_KEY,
            rate_limits=0,
            egress_allowed=(f"127.0.0.1:{outside.port}",),
        )
        # Compiling an app reads its source: not on a loop.
        lowtide = await asyncio.to_thread(Lowtide, settings, shop, clock, SystemIds(clock))
        async with running(lowtide):
            yield lowtide, outside


async def test_a_change_over_rest_reaches_who_wants_it(shop_with_receiver: tuple[Lowtide, Outside]) -> None:
    """With the version of its ETag; a refused write tells nobody; without an endpoint nothing is told."""
    lowtide, outside = shop_with_receiver
    client, token = Client(lowtide.asgi), lowtide.tokens.sign("app", server=True)
    arrived = asyncio.Event()

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        arrived.set()

    outside.answer = hear
    hook = {
        "url": f"http://127.0.0.1:{outside.port}/",
        "events": ["record.*"],
        "models": ["note"],
        "data": True,
    }
    made = await client.post("/v1/admin/webhooks", token=token, json=hook)
    assert made.status == 201, made.body
    refused = await client.post("/v1/records/note", token=token, json={"data": {"title": "x" * 500}})
    assert refused.status >= 400
    await client.post("/v1/records/city", token=token, json={"data": {"name": "Bern"}})
    note = await client.post(
        "/v1/records/note", token=token, json={"id": "n1", "data": {"owner_id": "ann", "title": "Hello"}}
    )
    assert note.status == 201, note.body
    async with asyncio.timeout(20):
        await arrived.wait()
    ((head, body),) = outside.requests
    assert verify(made.json()["secret"], head, body) == [True]
    told = json.loads(body)
    assert told["type"] == "record.created"
    assert f'"{told["data"]["version"]}"' == note.headers["etag"]
    assert (told["data"]["id"], told["data"]["data"]["title"], told["data"]["previous"]) == (
        "n1",
        "Hello",
        None,
    )
    one = f"/v1/admin/webhooks/{made.json()['webhook']['id']}"
    assert (await client.request("PATCH", one, token=token, json={"enabled": False})).status == 204

    async def nobody(*_: Any) -> bool:
        raise AssertionError("the writer tells of models that nobody watches")

    lowtide.sync.writer.changed = nobody
    later = await client.request("PATCH", "/v1/records/note/n1", token=token, json={"data": {"stars": 2}})
    assert later.status == 200, later.body
