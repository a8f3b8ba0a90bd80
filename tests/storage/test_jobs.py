"""The job queue, on both databases: what is kept, who holds it, and what becomes of it."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from lowtide.kernel.clock import Clock, ManualClock, SystemClock
from lowtide.kernel.errors import DeclarationError, Malformed, NotFound, StorageLost, TooLarge
from lowtide.kernel.ids import SeededIds
from lowtide.storage.bus import MemoryBus
from lowtide.storage.db import Database, Dialect, Tx
from lowtide.storage.db.migrate import Component, migrate
from lowtide.storage.db.sqlite import SqliteDatabase
from lowtide.storage.jobs import Job, Jobs, Status, Worker, store
from lowtide.storage.jobs.model import BACKOFF_MOST, MAX_ERROR, MAX_PAYLOAD, backoff, clean, describe

pytestmark = pytest.mark.anyio

T = TypeVar("T")
Outcome = Callable[..., Awaitable[bool]]
COMPONENT = Component("jobs", "lowtide.storage.jobs")
SOON = 15.0
"""Seconds within which a loaded machine runs a job."""


class Mail(msgspec.Struct):
    """A payload."""

    to: str
    copies: int = 1


class Impatient(SeededIds):
    """Jitter at its least: a retry comes at once."""

    def jitter(self, low: float, high: float) -> float:
        return low


class Flaky:
    """A database that does not answer while ``down``."""

    def __init__(self, database: Database):
        self._database = database
        self.down = False
        self.refused = 0

    @property
    def dialect(self) -> Dialect:
        return self._database.dialect

    async def start(self) -> None:
        await self._database.start()

    async def close(self) -> None:
        await self._database.close()

    async def write(self, work: Callable[[Tx], Awaitable[T]]) -> T:
        self._check()
        return await self._database.write(work)

    async def read(self, work: Callable[[Tx], Awaitable[T]]) -> T:
        self._check()
        return await self._database.read(work)

    def _check(self) -> None:
        if self.down:
            self.refused += 1
            raise StorageLost


class Queue:
    """A queue on one database, with what the tests ask of it."""

    def __init__(self, database: Database, clock: Clock):
        self.flaky = Flaky(database)
        self.database = database
        self.clock = clock
        self.bus = MemoryBus()
        self.ids = Impatient(clock)
        self.jobs = Jobs(self.flaky, self.bus, clock, self.ids)
        self.workers: list[Worker] = []

    async def enqueue(self, kind: str, payload: Any = None, **options: Any) -> str:
        return await self.database.write(lambda tx: self.jobs.enqueue(tx, kind, payload, **options))

    async def requeue(self, job_id: str) -> None:
        await self.database.write(lambda tx: self.jobs.requeue(tx, job_id))

    async def end(self, job: Job, outcome: Outcome, *rest: Any) -> None:
        """Record an outcome as the holder of ``job``."""
        assert await self.database.write(lambda tx: outcome(tx, (job.id, job.fence), *rest))

    async def find(self, job_id: str) -> Job:
        job = await self.database.read(lambda tx: self.jobs.find(tx, job_id))
        assert job is not None
        return job

    async def counts(self) -> dict[str, int]:
        """Status -> number, over all kinds and queues."""
        found: dict[str, int] = {}
        for count in await self.database.read(self.jobs.counts):
            found[count.status] = found.get(count.status, 0) + count.count
        return found

    async def claim(self, kind: str = "mail", *, limit: int = 100, queue: str = "default") -> list[Job]:
        """Take due jobs as a worker does, with a lease of a minute."""
        now = self.clock.now()
        return await self.database.write(
            lambda tx: store.claim(tx, queue, [kind], limit, now=now, until=now + 60_000, worker="test")
        )

    async def worker(
        self, *, poll: float = 0.2, lease: float = 30.0, database: Database | None = None, **queues: int
    ) -> Worker:
        worker = Worker(
            database or self.flaky,
            self.bus,
            self.jobs,
            self.clock,
            self.ids,
            queues=queues or {"default": 10},
            lease=lease,
            poll=poll,
        )
        await worker.start()
        self.workers.append(worker)
        return worker

    async def become(self, job_id: str, status: Status) -> Job:
        """The job once it has this status."""

        async def reached() -> bool:
            return (await self.find(job_id)).status == status

        await eventually(reached)
        return await self.find(job_id)

    async def close(self) -> None:
        self.flaky.down = False
        for worker in self.workers:
            await worker.stop(1.0)


@pytest.fixture
async def queue(database: Database) -> AsyncIterator[Queue]:
    """A queue on the machine's clock, for tests with workers."""
    clock = SystemClock()
    await migrate(database, [COMPONENT], clock)
    queue = Queue(database, clock)
    yield queue
    await queue.close()


@pytest.fixture
async def still(database: Database) -> AsyncIterator[Queue]:
    """A queue on a clock that the test moves."""
    clock = ManualClock()
    await migrate(database, [COMPONENT], clock)
    queue = Queue(database, clock)
    yield queue
    await queue.close()


def advance(queue: Queue, seconds: float) -> None:
    assert isinstance(queue.clock, ManualClock)
    queue.clock.advance(seconds)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return when ``condition`` holds; fail when it does not soon."""
    async with asyncio.timeout(SOON):
        while not await condition():
            await asyncio.sleep(0.01)


async def happens(condition: Callable[[], bool]) -> None:
    """The same for what this process knows."""

    async def asked() -> bool:
        return condition()

    await eventually(asked)


class TestEnqueue:
    async def test_a_job_is_kept_as_it_was_given(self, still: Queue) -> None:
        """What is enqueued waits, with its payload, time, key and queue, under a new id."""
        job_id = await still.enqueue("mail", Mail("ann@example.com"), key="ann", max_attempts=3, queue="slow")
        job = await still.find(job_id)
        assert msgspec.json.decode(job.payload, type=Mail) == Mail("ann@example.com")
        assert (job.queue, job.kind, job.key, job.status) == ("slow", "mail", "ann", "waiting")
        assert (job.attempt, job.max_attempts, job.fence, job.worker, job.error) == (0, 3, 0, None, None)
        assert job.due_at == job.created_at == still.clock.now()
        assert job.finished_at is None

    async def test_a_rolled_back_transaction_leaves_no_job(self, still: Queue) -> None:
        """A job exists exactly if the transaction that enqueued it has committed."""

        async def work(tx: Tx) -> None:
            await still.jobs.enqueue(tx, "mail", Mail("ann@example.com"))
            await still.jobs.enqueue(tx, "mail", Mail("bob@example.com"), key="bob")
            assert len(await still.jobs.counts(tx)) == 1
            raise NotFound

        with pytest.raises(NotFound):
            await still.database.write(work)
        assert await still.counts() == {}
        assert await still.claim() == []

    async def test_what_cannot_be_kept_is_refused(self, still: Queue) -> None:
        """What not every database holds is refused, names, keys, numbers and payloads; nothing is kept."""
        cases: list[tuple[dict[str, Any], type[Exception]]] = [
            ({"kind": ""}, ValueError),
            ({"kind": "a b"}, ValueError),
            ({"kind": "k" * 101}, ValueError),
            ({"kind": "mail\n"}, ValueError),
            ({"queue": "a/b"}, ValueError),
            ({"max_attempts": 0}, ValueError),
            ({"key": ""}, Malformed),
            ({"key": "k" * 501}, Malformed),
            ({"key": "a\0b"}, Malformed),
            ({"key": "\ud800"}, Malformed),
            ({"payload": "\ud800"}, Malformed),
            ({"payload": "x" * MAX_PAYLOAD}, TooLarge),
            ({"run_at": 2**70}, Malformed),
        ]
        for options, error in cases:
            with pytest.raises(error):
                await still.enqueue(**{"kind": "mail", **options})
        assert await still.counts() == {}

    async def test_a_payload_may_be_as_large_as_the_limit_and_hold_anything(self, still: Queue) -> None:
        """NUL, quotes and astral characters come back as they went in, up to 1 MiB."""
        text = "\0'\"\\$1?\U0001f30a"
        await still.enqueue("mail", text)
        await still.enqueue("mail", "x" * (MAX_PAYLOAD - 2))
        payloads = {msgspec.json.decode(job.payload) for job in await still.claim()}
        assert payloads == {text, "x" * (MAX_PAYLOAD - 2)}

    async def test_a_job_is_not_taken_before_its_time(self, still: Queue) -> None:
        """A job with a time waits for it, to the millisecond."""
        job_id = await still.enqueue("mail", run_at=still.clock.now() + 1_500)
        advance(still, 1.499)
        assert await still.claim() == []
        advance(still, 0.001)
        assert [job.id for job in await still.claim()] == [job_id]


class TestKeys:
    async def test_one_waiting_job_stands_for_all_of_its_key(self, still: Queue) -> None:
        """While a job waits, another of its kind and key is not added, and the first keeps its payload."""
        first = await still.enqueue("mail", 1, key="ann")
        assert await still.enqueue("mail", 2, key="ann") == first
        others = {await still.enqueue("mail", 3, key="bob"), await still.enqueue("call", 4, key="ann")}
        assert len(others | {first}) == 3
        assert (await still.find(first)).payload == "1"
        assert await still.counts() == {"waiting": 3}

    async def test_jobs_without_a_key_are_all_kept(self, still: Queue) -> None:
        """Without a key every job is its own, however equal."""
        assert await still.enqueue("mail", 1) != await still.enqueue("mail", 1)
        assert await still.counts() == {"waiting": 2}

    async def test_the_earlier_time_counts(self, still: Queue) -> None:
        """A job that is wanted earlier becomes due earlier; one that is wanted later does not wait longer."""
        now = still.clock.now()
        job_id = await still.enqueue("mail", key="ann", run_at=now + 5_000)
        await still.enqueue("mail", key="ann", run_at=now + 9_000)
        assert (await still.find(job_id)).due_at == now + 5_000
        await still.enqueue("mail", key="ann", run_at=now + 1_000)
        assert (await still.find(job_id)).due_at == now + 1_000

    async def test_a_running_or_finished_job_absorbs_nothing(self, still: Queue) -> None:
        """What a run has begun without cannot stand for what comes later: a new job is added."""
        first = await still.enqueue("mail", key="ann")
        [run] = await still.claim()
        second = await still.enqueue("mail", key="ann")
        assert second != first
        await still.end(run, store.complete, 0)
        [run] = await still.claim()
        assert run.id == second
        await still.end(run, store.bury, 0, "x")
        assert await still.enqueue("mail", key="ann") not in {first, second}

    async def test_a_failing_job_absorbs_but_keeps_its_pause(self, still: Queue) -> None:
        """A job that waits for a retry stands for its key too, and is not hurried by what it absorbs."""
        first = await still.enqueue("mail", key="ann")
        [run] = await still.claim()
        later = still.clock.now() + 60_000
        await still.end(run, store.retry, later, "x")
        assert await still.enqueue("mail", key="ann") == first
        assert (await still.find(first)).due_at == later
        assert await still.claim() == []

    async def test_a_failed_run_waits_again_beside_a_newer_job(self, still: Queue) -> None:
        """A retry never fails because its key was enqueued meanwhile; both are run."""
        first = await still.enqueue("mail", key="ann")
        [run] = await still.claim()
        second = await still.enqueue("mail", key="ann")
        now = still.clock.now()
        await still.end(run, store.retry, now, "x")
        assert {job.id for job in await still.claim()} == {first, second}

    async def test_racing_nodes_add_one_job(self, still: Queue) -> None:
        """Two that enqueue one key at once get one id, whoever commits first, and one job is kept."""
        later = still.clock.now() + 60_000
        async with self._uncommitted(still, run_at=later) as first:
            second = asyncio.create_task(still.enqueue("mail", 2, key="ann"))
            await asyncio.sleep(0.2)
        assert await second == await first
        job = await still.find(await first)
        assert job.due_at == still.clock.now()
        assert await still.counts() == {"waiting": 1}

    async def test_an_absorbing_job_does_not_start_before_the_commit(self, still: Queue) -> None:
        """A job that absorbed another starts after the other's transaction, and so sees its writes."""
        job_id = await still.enqueue("mail", key="ann")
        async with self._uncommitted(still) as absorbed:
            early = [] if still.database.dialect == "sqlite" else await still.claim()
        assert early == []
        assert await absorbed == job_id
        assert [job.id for job in await still.claim()] == [job_id]

    @asynccontextmanager
    async def _uncommitted(self, queue: Queue, **options: Any) -> AsyncIterator[asyncio.Task[str]]:
        """An enqueue that commits after the block; on SQLite, where writers take turns, before it."""
        enqueued, commit = asyncio.Event(), asyncio.Event()

        async def work(tx: Tx) -> str:
            job_id = await queue.jobs.enqueue(tx, "mail", 1, key="ann", **options)
            if tx.dialect == "postgres":
                enqueued.set()
                await commit.wait()
            return job_id

        task = asyncio.create_task(queue.database.write(work))
        await (enqueued.wait() if queue.database.dialect == "postgres" else task)
        try:
            yield task
        finally:
            commit.set()


class TestLeases:
    async def test_a_leased_job_is_nobody_elses(self, still: Queue) -> None:
        """A job is not taken again until its lease ends; then its fence and its attempt are one more."""
        await still.enqueue("mail")
        [first] = await still.claim()
        assert (first.status, first.attempt, first.fence, first.worker) == ("running", 1, 1, "test")
        advance(still, 59.999)
        assert await still.claim() == []
        advance(still, 0.001)
        [second] = await still.claim()
        assert (second.id, second.attempt, second.fence) == (first.id, 2, 2)

    async def test_who_lost_the_lease_changes_nothing(self, still: Queue) -> None:
        """With an old fence a job cannot be completed, failed, buried, released or extended."""
        await still.enqueue("mail")
        [first] = await still.claim()
        advance(still, 60)
        [second] = await still.claim()
        old, now = (first.id, first.fence), still.clock.now()
        works: list[Callable[[Tx], Awaitable[object]]] = [
            lambda tx: store.complete(tx, old, now),
            lambda tx: store.retry(tx, old, now, "late"),
            lambda tx: store.bury(tx, old, now, "late"),
            lambda tx: store.release(tx, old, now),
            lambda tx: store.extend(tx, [old], now + 999_000),
        ]
        for work in works:
            assert not await still.database.write(work)
            assert await still.find(second.id) == second
        assert await still.database.write(lambda tx: store.complete(tx, (second.id, second.fence), now))
        assert (await still.find(second.id)).status == "done"

    async def test_a_finished_job_stays_finished(self, still: Queue) -> None:
        """An outcome is recorded once: its own holder cannot change it afterwards."""
        await still.enqueue("mail")
        [job] = await still.claim()
        held, now = (job.id, job.fence), still.clock.now()
        assert await still.database.write(lambda tx: store.complete(tx, held, now))
        done = await still.find(job.id)
        # The same again is no error, as an answer may have been lost, and no change.
        assert await still.database.write(lambda tx: store.complete(tx, held, now + 5))
        assert not await still.database.write(lambda tx: store.retry(tx, held, now, "x"))
        assert not await still.database.write(lambda tx: store.release(tx, held, now))
        assert await still.find(job.id) == done
        advance(still, 3_600)
        assert await still.claim() == []

    async def test_who_gave_a_job_back_cannot_end_it(self, still: Queue) -> None:
        """After a retry or a death is recorded, the same holder's run cannot become done."""
        ends: list[tuple[Outcome, str]] = [
            (store.retry, "waiting"),
            (store.bury, "dead"),
            (store.release, "waiting"),
        ]
        for outcome, status in ends:
            job_id = await still.enqueue("mail")
            [job] = await still.claim()
            rest = [] if outcome is store.release else ["x"]
            await still.end(job, outcome, still.clock.now() + 3_600_000, *rest)
            held = (job.id, job.fence)
            assert not await still.database.write(lambda tx: store.complete(tx, held, 0))  # noqa: B023
            assert (await still.find(job_id)).status == status

    async def test_an_extended_lease_lasts_longer(self, still: Queue) -> None:
        """The end of a lease moves for those that hold one, and only for them."""
        for _ in range(2):
            await still.enqueue("mail")
        [one] = await still.claim(limit=1)
        [two] = await still.claim(limit=1)
        until = still.clock.now() + 120_000
        held = [(one.id, one.fence), (two.id, two.fence - 1), ("nobody", 1)]
        assert await still.database.write(lambda tx: store.extend(tx, held, until)) == {(one.id, one.fence)}
        advance(still, 60)
        assert [job.id for job in await still.claim()] == [two.id]
        advance(still, 60)
        assert {job.id for job in await still.claim()} == {one.id, two.id}

    async def test_a_job_whose_workers_vanish_dies(self, still: Queue) -> None:
        """A job that takes its worker down in every attempt is dead after the last, and says so."""
        job_id = await still.enqueue("mail", max_attempts=2)
        for attempt in (1, 2):
            assert [job.attempt for job in await still.claim()] == [attempt]
            advance(still, 60)
        assert await still.claim() == []
        job = await still.find(job_id)
        assert (job.status, job.attempt, job.error) == ("dead", 2, store.VANISHED)

    async def test_no_two_claims_take_one_job(self, still: Queue) -> None:
        """Claims that run at once share the jobs: each is taken exactly once."""
        wanted = {await still.enqueue("mail", n) for n in range(60)}
        taken: list[str] = []

        async def take() -> None:
            while jobs := await still.claim(limit=3):
                taken.extend(job.id for job in jobs)

        await asyncio.gather(*(still.counts() for _ in range(6)))  # so that there are six connections
        await asyncio.gather(*(take() for _ in range(6)))
        # A claim may find all that is left locked by others; what they gave back is found again.
        await take()
        assert sorted(taken) == sorted(wanted)


class TestOrder:
    async def test_what_was_due_first_is_taken_first(self, still: Queue) -> None:
        """Jobs are taken by the time they became due, not by the time they were enqueued."""
        now = still.clock.now()
        times = [500, 100, 400, 200, 300]
        ids = {time: await still.enqueue("mail", run_at=now + time) for time in times}
        advance(still, 1)
        taken = [job.id for _ in range(3) for job in await still.claim(limit=2)]
        assert taken == [ids[time] for time in sorted(times)]

    async def test_a_failing_job_goes_behind_those_that_wait(self, still: Queue) -> None:
        """A retry is due after its pause, so that a job that always fails does not hold up others."""
        failing = await still.enqueue("mail")
        [job] = await still.claim(limit=1)
        due_at = still.clock.now() + 1_000
        await still.end(job, store.retry, due_at, "x")
        other = await still.enqueue("mail")
        advance(still, 2)
        assert [job.id for _ in range(2) for job in await still.claim(limit=1)] == [other, failing]

    async def test_only_known_kinds_of_the_queue_are_taken(self, still: Queue) -> None:
        """A node that does not know a kind leaves its jobs to those that do."""
        await still.enqueue("new-kind")
        await still.enqueue("mail", queue="slow")
        mine = await still.enqueue("mail")
        assert [job.id for job in await still.claim()] == [mine]
        assert await still.counts() == {"running": 1, "waiting": 2}

    async def test_a_full_queue_does_not_hold_up_another(self, queue: Queue) -> None:
        """Each queue has its own places: one full of stuck jobs leaves the others theirs."""
        stuck, ran = asyncio.Event(), asyncio.Event()

        async def wait(job: Job, payload: None) -> None:
            await stuck.wait()

        async def run(job: Job, payload: None) -> None:
            ran.set()

        queue.jobs.register("stuck", type(None), wait)
        queue.jobs.register("quick", type(None), run)
        for _ in range(20):
            await queue.enqueue("stuck", queue="bulk")
        worker = await queue.worker(bulk=2, default=1)
        await happens(lambda: worker.running == 2)
        await queue.enqueue("quick")
        queue.jobs.wake()
        async with asyncio.timeout(SOON):
            await ran.wait()
        assert (await queue.counts())["waiting"] == 18
        stuck.set()


class TestRuns:
    async def test_a_handler_gets_its_job_and_typed_payload(self, queue: Queue) -> None:
        """A job runs once with its decoded payload, and is done."""
        calls: list[tuple[Job, Mail]] = []

        async def send(job: Job, mail: Mail) -> None:
            calls.append((job, mail))

        queue.jobs.register("mail", Mail, send)
        await queue.worker()
        job_id = await queue.enqueue("mail", Mail("ann@example.com", copies=2))
        queue.jobs.wake()
        job = await queue.become(job_id, "done")
        [(seen, mail)] = calls
        assert mail == Mail("ann@example.com", copies=2)
        assert (seen.id, seen.attempt, seen.status) == (job_id, 1, "running")
        assert job.finished_at is not None
        assert job.error is None

    async def test_a_hint_starts_a_job_at_once(self, queue: Queue) -> None:
        """A woken worker does not wait for its poll, and a job with a time starts at that time."""
        started: list[str] = []
        queue.jobs.register("mail", type(None), _collect(started))
        await queue.worker(poll=600)
        await asyncio.sleep(0.1)
        now = await queue.enqueue("mail")
        queue.jobs.wake()
        await queue.become(now, "done")
        later = await queue.enqueue("mail", run_at=queue.clock.now() + 300)
        queue.jobs.wake()
        job = await queue.become(later, "done")
        assert started == [now, later]
        assert job.finished_at is not None
        assert job.finished_at >= job.created_at + 300

    async def test_a_lost_hint_only_delays(self, queue: Queue) -> None:
        """Without any hint the worker finds a job by itself."""
        queue.jobs.register("mail", type(None), _collect([]))
        await queue.worker(poll=0.1)
        await asyncio.sleep(0.1)
        await queue.become(await queue.enqueue("mail"), "done")

    async def test_no_more_run_at_once_than_there_are_places(self, queue: Queue) -> None:
        """Concurrency is bounded for each queue, and all of the bound is used."""
        now, most = 0, 0

        async def count(job: Job, payload: None) -> None:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.02)
            now -= 1

        queue.jobs.register("mail", type(None), count)
        ids = [await queue.enqueue("mail") for _ in range(15)]
        await queue.worker(default=3)
        for job_id in ids:
            await queue.become(job_id, "done")
        assert most == 3

    async def test_two_workers_never_run_one_job_at_once(self, queue: Queue) -> None:
        """Workers that compete for many jobs run each exactly once."""
        runs: list[str] = []
        queue.jobs.register("mail", int, _collect(runs, pause=0.005))
        ids = [await queue.enqueue("mail", n) for n in range(60)]
        for _ in range(3):
            await queue.worker(default=4, poll=0.02)
        for job_id in ids:
            assert (await queue.become(job_id, "done")).attempt == 1
        assert sorted(runs) == sorted(ids)

    async def test_failures_are_retried_and_end_dead(self, queue: Queue) -> None:
        """A job that always fails runs as often as it may, then is dead with its last error's text."""
        attempts: list[int] = []

        async def fail(job: Job, payload: None) -> None:
            attempts.append(job.attempt)
            raise RuntimeError(f"attempt {job.attempt} met \0 and \ud800")

        queue.jobs.register("mail", type(None), fail)
        job_id = await queue.enqueue("mail", max_attempts=3)
        await queue.worker(poll=0.02)
        job = await queue.become(job_id, "dead")
        assert attempts == [1, 2, 3]
        assert job.error is not None
        assert job.error.startswith("RuntimeError: attempt 3 met \\0 and \\ud800")
        assert "test_jobs.py" in job.error
        [listed] = await queue.database.read(queue.jobs.dead)
        assert listed == job

    async def test_a_retry_waits_its_pause(self, still: Queue) -> None:
        """A failed job is not run again before its pause is over."""
        attempts: list[str] = []

        async def fail(job: Job, payload: None) -> None:
            attempts.append(job.id)
            raise RuntimeError("no")

        still.jobs.register("mail", type(None), fail)
        still.ids.jitter = lambda low, high: high if low == 0 else low  # type: ignore[method-assign]
        job_id = await still.enqueue("mail")
        worker = await still.worker(poll=0.02)
        await happens(lambda: len(attempts) == 1 and worker.running == 0)
        assert (await still.find(job_id)).due_at == still.clock.now() + 2_000
        await asyncio.sleep(0.2)
        assert len(attempts) == 1
        advance(still, 2)
        await happens(lambda: len(attempts) == 2 and worker.running == 0)
        assert (await still.find(job_id)).due_at == still.clock.now() + 4_000

    async def test_the_last_success_counts(self, queue: Queue) -> None:
        """A job that fails and then succeeds is done, and keeps no error."""

        async def second_time(job: Job, payload: None) -> None:
            if job.attempt == 1:
                raise RuntimeError("not yet")

        queue.jobs.register("mail", type(None), second_time)
        await queue.worker(poll=0.02)
        job = await queue.become(await queue.enqueue("mail"), "done")
        assert (job.attempt, job.error) == (2, None)

    async def test_an_undecodable_payload_is_dead_at_once(self, queue: Queue) -> None:
        """A payload of another shape is dead after one attempt with a clear text; the worker goes on."""
        sent: list[str] = []
        queue.jobs.register("mail", Mail, _collect(sent))
        bad = await queue.enqueue("mail", {"to": 5})
        good = await queue.enqueue("mail", Mail("ann@example.com"))
        await queue.worker()
        await queue.become(good, "done")
        job = await queue.become(bad, "dead")
        assert job.attempt == 1
        assert job.error is not None
        assert job.error.startswith("The payload does not decode. ")
        assert "Expected `str`, got `int` - at `$.to`" in job.error
        assert sent == [good]

    async def test_a_run_has_a_deadline(self, queue: Queue) -> None:
        """A handler that takes too long is cancelled, and its attempt has failed."""
        cancelled: list[str] = []

        async def hang(job: Job, payload: None) -> None:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                cancelled.append(job.id)
                raise

        queue.jobs.register("mail", type(None), hang, deadline=0.05)
        await queue.worker()
        job_id = await queue.enqueue("mail", max_attempts=1)
        queue.jobs.wake()
        job = await queue.become(job_id, "dead")
        assert cancelled == [job_id]
        assert job.error is not None
        assert "longer than its deadline of 0.05 s" in job.error

    @pytest.mark.parametrize(
        "error", [TimeoutError("mine"), asyncio.CancelledError("mine"), KeyError("mine")]
    )
    async def test_whatever_a_handler_raises_is_its_failure(self, queue: Queue, error: BaseException) -> None:
        """An error of the handler, even one that looks like a cancellation, fails the attempt and no more."""

        async def fail(job: Job, payload: None) -> None:
            raise error

        queue.jobs.register("mail", type(None), fail)
        worker = await queue.worker()
        job = await queue.become(await queue.enqueue("mail", max_attempts=1), "dead")
        assert job.error is not None
        assert "mine" in job.error
        assert worker.running == 0

    async def test_work_and_end_can_be_one_transaction(self, queue: Queue) -> None:
        """A handler that ends its job itself writes exactly once; without its lease it writes nothing."""
        done: list[str] = []

        async def run(job: Job, payload: None) -> None:
            if job.attempt == 1:
                # Another worker has taken it since.
                later = queue.clock.now() + 600_000
                [other] = await queue.database.write(
                    lambda tx: store.claim(tx, "default", ["mail"], 1, now=later, until=0, worker="other")
                )
                assert other.id == job.id

            async def work(tx: Tx) -> None:
                await queue.jobs.enqueue(tx, "effect", job.attempt)
                await queue.jobs.complete(tx, job)

            await queue.database.write(work)
            done.append(job.id)

        queue.jobs.register("mail", type(None), run)
        worker = await queue.worker(poll=0.02)
        job_id = await queue.enqueue("mail")
        job = await queue.become(job_id, "done")
        await happens(lambda: worker.running == 0)
        assert (job.attempt, done) == (3, [job_id])
        assert [effect.payload for effect in await queue.claim("effect")] == ["3"]

    async def test_a_dead_job_can_be_requeued(self, queue: Queue) -> None:
        """A requeued job runs again with all its attempts; one that is not dead cannot be requeued."""
        healthy = False
        attempts: list[int] = []

        async def run(job: Job, payload: None) -> None:
            attempts.append(job.attempt)
            if not healthy:
                raise RuntimeError("broken")

        queue.jobs.register("mail", type(None), run)
        await queue.worker(poll=0.02)
        job_id = await queue.enqueue("mail", max_attempts=2, key="ann")
        await queue.become(job_id, "dead")
        healthy = True
        # Its key is taken by a newer job meanwhile; the dead one comes back all the same.
        newer = await queue.enqueue("mail", key="ann", run_at=queue.clock.now() + 60_000)
        await queue.requeue(job_id)
        assert (await queue.become(job_id, "done")).attempt == 1
        assert attempts == [1, 2, 1]
        for other in (job_id, newer, "nobody"):
            with pytest.raises(NotFound):
                await queue.requeue(other)
        assert (await queue.find(newer)).status == "waiting"


class TestCrashes:
    async def test_a_crash_before_the_outcome_runs_the_job_again(self, queue: Queue) -> None:
        """A run whose outcome cannot be recorded before its lease ends is run again, by another worker."""
        runs: list[tuple[str, int]] = []

        async def run(job: Job, payload: None) -> None:
            runs.append((job.id, job.attempt))
            queue.flaky.down = True

        queue.jobs.register("mail", type(None), run)
        job_id = await queue.enqueue("mail")
        await queue.worker(lease=0.4)
        await happens(lambda: queue.flaky.refused > 0)
        assert runs == [(job_id, 1)]
        await queue.worker(database=queue.database)
        job = await queue.become(job_id, "done")
        assert runs == [(job_id, 1), (job_id, 2)]
        assert (job.attempt, job.fence) == (2, 2)

    async def test_a_killed_process_loses_no_job(self, tmp_path: Path) -> None:
        """A job that was running when its process was killed runs again when its lease is over."""
        process = subprocess.run(
            [sys.executable, "-c", KILLED, str(tmp_path)],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": "."},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert process.returncode == -signal.SIGKILL, process.stderr
        database = SqliteDatabase(tmp_path / "data.db", clock=SystemClock())
        await database.start()
        queue = Queue(database, SystemClock())
        attempts: list[int] = []

        async def run(job: Job, payload: None) -> None:
            attempts.append(job.attempt)

        queue.jobs.register("mail", type(None), run)
        assert await queue.counts() == {"running": 1}
        await queue.worker(poll=0.05)
        await happens(lambda: attempts == [2])
        await queue.close()
        assert await queue.counts() == {"done": 1}
        await database.close()

    async def test_a_long_run_keeps_its_lease(self, queue: Queue) -> None:
        """A handler that outlasts its lease several times keeps it, while another worker looks for work."""
        runs: list[str] = []
        queue.jobs.register("mail", type(None), _collect(runs, pause=3.5))
        for _ in range(2):
            await queue.worker(lease=1.5, poll=0.05)
        job = await queue.become(await queue.enqueue("mail"), "done")
        assert runs == [job.id]
        assert (job.attempt, job.fence) == (1, 1)

    async def test_a_lost_lease_ends_the_run(self, queue: Queue) -> None:
        """A worker that learns that its job is another's ends the handler and records nothing."""
        began, ended = asyncio.Event(), asyncio.Event()
        queue.jobs.register("mail", type(None), _hang(began, ended))
        worker = await queue.worker(lease=0.4, poll=600)
        job_id = await queue.enqueue("mail")
        queue.jobs.wake()
        async with asyncio.timeout(SOON):
            await began.wait()
        later = queue.clock.now() + 10_000
        [other] = await queue.database.write(
            lambda tx: store.claim(tx, "default", ["mail"], 1, now=later, until=later * 2, worker="other")
        )
        async with asyncio.timeout(SOON):
            await ended.wait()
        await happens(lambda: worker.running == 0)
        assert other.id == job_id
        assert await queue.find(job_id) == other

    async def test_a_run_ends_before_a_lease_that_cannot_be_extended(self, queue: Queue) -> None:
        """While the database does not answer, a handler is ended before anyone else may begin its job."""
        began, ended = asyncio.Event(), asyncio.Event()
        queue.jobs.register("mail", type(None), _hang(began, ended))
        await queue.worker(lease=2.0, poll=600)
        job_id = await queue.enqueue("mail")
        queue.jobs.wake()
        async with asyncio.timeout(SOON):
            await began.wait()
        queue.flaky.down = True
        async with asyncio.timeout(SOON):
            await ended.wait()
        assert queue.clock.now() < (await queue.find(job_id)).due_at
        assert queue.flaky.refused > 0

    async def test_a_worker_survives_its_database(self, queue: Queue) -> None:
        """When the database answers again the worker goes on; hints do not hurry it meanwhile."""
        ran: list[str] = []
        queue.jobs.register("mail", type(None), _collect(ran))
        queue.ids.jitter = lambda low, high: high  # type: ignore[method-assign]
        queue.flaky.down = True
        await queue.worker(poll=0.1)
        job_id = await queue.enqueue("mail")
        for _ in range(100):
            queue.jobs.wake()
            await asyncio.sleep(0.002)
        assert 1 <= queue.flaky.refused <= 4
        assert ran == []
        queue.flaky.down = False
        await queue.become(job_id, "done")
        assert ran == [job_id]

    async def test_hints_are_gathered(self, queue: Queue) -> None:
        """However many hints come, a worker without work looks at most fifty times a second."""
        looks = 0
        read = queue.flaky.read

        async def count(work: Callable[[Tx], Awaitable[T]]) -> T:
            nonlocal looks
            looks += 1
            return await read(work)

        queue.flaky.read = count  # type: ignore[method-assign]
        await queue.worker(poll=600)
        loop = asyncio.get_running_loop()
        start = loop.time()
        while loop.time() < start + 0.5:
            queue.jobs.wake()
            await asyncio.sleep(0.001)
        assert 2 <= looks <= 50 * (loop.time() - start) + 2


class TestStop:
    async def test_a_stopping_worker_lets_jobs_finish(self, queue: Queue) -> None:
        """What runs when the stop comes is finished, and nothing else is begun."""
        began, ran = asyncio.Event(), list[str]()

        async def run(job: Job, payload: None) -> None:
            began.set()
            await asyncio.sleep(0.3)
            ran.append(job.id)

        queue.jobs.register("mail", type(None), run)
        worker = await queue.worker(default=1, poll=0.02)
        first = await queue.enqueue("mail")
        async with asyncio.timeout(SOON):
            await began.wait()
        second = await queue.enqueue("mail")
        await worker.stop(SOON)
        assert ran == [first]
        assert (await queue.find(first)).status == "done"
        queue.jobs.wake()
        await asyncio.sleep(0.1)
        assert (await queue.find(second)).fence == 0

    async def test_what_does_not_finish_is_released(self, queue: Queue) -> None:
        """A job that outlasts the stop's limit waits again at once with all its attempts, for another."""
        began, ended = asyncio.Event(), asyncio.Event()
        queue.jobs.register("mail", type(None), _hang(began, ended))
        worker = await queue.worker()
        job_id = await queue.enqueue("mail", max_attempts=1, key="ann")
        queue.jobs.wake()
        async with asyncio.timeout(SOON):
            await began.wait()
        start = asyncio.get_running_loop().time()
        await worker.stop(1.0)
        assert asyncio.get_running_loop().time() - start < 2.0
        assert ended.is_set()
        job = await queue.find(job_id)
        assert (job.status, job.attempt, job.error) == ("waiting", 0, None)
        assert worker.running == 0
        [again] = await queue.claim()
        assert (again.id, again.attempt, again.fence) == (job_id, 1, 2)

    async def test_a_stop_without_patience_releases_too(self, queue: Queue) -> None:
        """A job that was taken a moment before the stop is not left leased."""
        queue.jobs.register("mail", type(None), _collect([], pause=600))
        ids = [await queue.enqueue("mail") for _ in range(5)]
        worker = await queue.worker(poll=0.02)
        await happens(lambda: worker.running > 0)
        await worker.stop(0.5)
        assert {(await queue.find(job_id)).status for job_id in ids} == {"waiting"}

    async def test_a_handler_that_will_not_end_does_not_stop_the_stop(self, queue: Queue) -> None:
        """A handler that swallows its cancellation is left behind, and its job is not given to another."""
        began, let_go = asyncio.Event(), asyncio.Event()

        async def stubborn(job: Job, payload: None) -> None:
            began.set()
            while not let_go.is_set():
                try:
                    await let_go.wait()
                except asyncio.CancelledError:
                    continue

        queue.jobs.register("mail", type(None), stubborn)
        worker = await queue.worker()
        job_id = await queue.enqueue("mail")
        queue.jobs.wake()
        async with asyncio.timeout(SOON):
            await began.wait()
        async with asyncio.timeout(SOON):
            await worker.stop(0.3)
        assert (await queue.find(job_id)).status == "running"
        assert await queue.claim() == []
        let_go.set()
        await happens(lambda: worker.running == 0)


class TestPeriods:
    async def test_one_run_a_period_over_all_workers(self, still: Queue) -> None:
        """Workers that share a period run its job once, in each period that any of them sees."""
        runs: list[int] = []
        still.jobs.every(60, "tick", _count(runs))
        for _ in range(3):
            await still.worker(poll=0.02)
        for period in range(1, 4):
            await happens(lambda: len(runs) >= period)  # noqa: B023
            await asyncio.sleep(0.15)
            assert len(runs) == period
            advance(still, 60)
            still.jobs.wake()

    async def test_a_restart_within_a_period_runs_nothing_again(self, still: Queue) -> None:
        """What a period has had is known to workers that start later."""
        runs: list[int] = []
        still.jobs.every(60, "tick", _count(runs))
        worker = await still.worker(poll=0.02)
        await happens(lambda: len(runs) == 1)
        await worker.stop()
        await still.worker(poll=0.02)
        await asyncio.sleep(0.2)
        assert len(runs) == 1

    async def test_a_waiting_run_stands_for_the_next_period(self, still: Queue) -> None:
        """Runs that nobody gets to do not pile up."""
        still.jobs.every(60, "tick", _count([]))
        worker = await still.worker(poll=0.02, elsewhere=1)
        for _ in range(3):
            await asyncio.sleep(0.1)
            advance(still, 60)
            still.jobs.wake()
        assert await still.counts() == {"waiting": 1}
        await worker.stop()  # what it holds locked cannot be claimed
        advance(still, 60)  # whichever period it is of, it is due
        assert len(await still.claim("tick")) == 1

    async def test_a_clock_that_was_wrong_is_forgotten(self, still: Queue) -> None:
        """A period recorded by a clock years ahead does not silence the job until then."""
        now = still.clock.now()
        day = 86_400_000

        async def begin(started: int) -> bool:
            return await still.database.write(lambda tx: store.begin_period(tx, "tick", started, now + day))

        assert await begin(now + 1_000 * day)
        assert await begin(now)
        assert not await begin(now)
        assert not await begin(now - 60_000)
        # A clock that is a little ahead has had the period.
        assert await begin(now + 60_000)
        assert not await begin(now)

    async def test_mistakes_are_told_at_the_start(self, still: Queue) -> None:
        """Two handlers, two periods and senseless numbers are refused."""
        still.jobs.every(60, "tick", _count([]))
        with pytest.raises(DeclarationError, match="Two handlers"):
            still.jobs.every(30, "tick", _count([]))
        with pytest.raises(DeclarationError, match="Two handlers"):
            still.jobs.register("tick", type(None), _collect([]))
        mistakes: list[Callable[[], None]] = [
            lambda: still.jobs.every(0.5, "tock", _count([])),
            lambda: still.jobs.register("a b", type(None), _collect([])),
            lambda: still.jobs.register("tock", type(None), _collect([]), deadline=0),
        ]
        for mistake in mistakes:
            with pytest.raises(ValueError, match=r" (is|lasts) "):
                mistake()
        with pytest.raises(ValueError, match="positive"):
            await still.worker(default=0)


class TestKeeping:
    async def test_counts_tell_queue_kind_and_status(self, still: Queue) -> None:
        """Jobs are counted by queue, kind and status, with the earliest time that one of them is due."""
        now = still.clock.now()
        await still.enqueue("mail")
        await still.claim()
        for later in (3_000, 2_000):
            await still.enqueue("mail", run_at=now + later)
        await still.enqueue("call", queue="slow")
        counts = await still.database.read(still.jobs.counts)
        assert [(c.queue, c.kind, c.status, c.count, c.due_at) for c in counts] == [
            ("default", "mail", "running", 1, now + 60_000),
            ("default", "mail", "waiting", 2, now + 2_000),
            ("slow", "call", "waiting", 1, now),
        ]

    async def test_the_dead_are_listed_latest_first_and_bounded(self, still: Queue) -> None:
        """Dead jobs come latest first, no more than asked for, and nothing else is among them."""
        ids = [await still.enqueue("mail") for _ in range(3)]
        await still.enqueue("call")
        for job in sorted(await still.claim(), key=lambda job: ids.index(job.id)):
            advance(still, 1)
            await still.end(job, store.bury, still.clock.now(), job.id)
        dead = await still.database.read(lambda tx: still.jobs.dead(tx, 2))
        assert [(job.id, job.error) for job in dead] == [(ids[2], ids[2]), (ids[1], ids[1])]
        assert await still.database.read(lambda tx: still.jobs.dead(tx, -1)) == []

    async def test_finished_jobs_are_forgotten_after_their_time(self, still: Queue) -> None:
        """Done and dead jobs go when their own retention is over; what waits or runs never does."""
        forget = functools.partial(still.jobs.forget, done=100_000, dead=200_000)
        still.jobs.every(3600, "forget", forget)
        done, dead = await still.enqueue("mail"), await still.enqueue("mail")
        for job in await still.claim():
            if job.id == done:
                await still.end(job, store.complete, still.clock.now())
            else:
                await still.end(job, store.bury, still.clock.now(), "x")
        waiting = await still.enqueue("mail", run_at=0)
        running = await still.enqueue("call")
        await still.claim("call")
        await still.worker(poll=0.02)
        ids = kept = {done, dead, waiting, running}

        async def as_expected() -> bool:
            return {i for i in ids if await still.database.read(lambda tx: store.find(tx, i))} == kept  # noqa: B023

        for seconds, gone in [(0, ""), (99_000, ""), (5_000, done), (95_000, ""), (5_000, dead)]:
            advance(still, seconds)
            still.jobs.wake()
            kept = kept - {gone}
            await eventually(as_expected)
            await asyncio.sleep(0.1)
            assert await as_expected()

    async def test_a_purge_goes_through_however_many_there_are(self, still: Queue) -> None:
        """A purge of thousands works in parts and leaves none of them."""

        async def fill(tx: Tx) -> None:
            for _ in range(2_050):
                await still.jobs.enqueue(tx, "mail")

        await still.database.write(fill)
        jobs = await still.claim(limit=2_050)

        async def finish(tx: Tx) -> None:
            for job in jobs:
                await store.complete(tx, (job.id, job.fence), still.clock.now())

        await still.database.write(finish)
        assert await still.jobs.purge("dead", still.clock.now() + 1) == 0
        assert await still.jobs.purge("done", still.clock.now()) == 0
        assert await still.jobs.purge("done", still.clock.now() + 1) == 2_050
        assert await still.counts() == {}


class TestValues:
    def test_the_pause_grows_has_full_jitter_and_a_bound(self) -> None:
        """The pause before a retry is anywhere between nothing and a bound that doubles up to an hour."""
        seen: list[tuple[float, float]] = []

        class Recording(SeededIds):
            def jitter(self, low: float, high: float) -> float:
                seen.append((low, high))
                return high

        ids = Recording(ManualClock())
        assert [backoff(attempt, ids) for attempt in (1, 2, 3, 10)] == [2, 4, 8, 1024]
        assert backoff(13, ids) == backoff(1_000_000, ids) == BACKOFF_MOST
        assert {low for low, _ in seen} == {0}

    def test_an_errors_text_is_bounded_and_fits_any_database(self) -> None:
        """However long, deep or strange an error is, its text is short and plain."""

        class Rude(Exception):
            def __str__(self) -> str:
                raise RuntimeError("no text")

        def deep(levels: int) -> None:
            if levels:
                deep(levels - 1)
            raise ValueError("x\0\ud800" * 100_000)

        for error in (_caught(lambda: deep(100)), _caught(_raise(Rude())), asyncio.CancelledError()):
            text = describe(error)
            assert 0 < len(text) <= MAX_ERROR
            assert "\0" not in text
            text.encode()
            assert type(error).__name__ in text
        assert len(clean("\ud800" * 100_000)) == MAX_ERROR


def _collect(into: list[str], pause: float = 0.0) -> Callable[[Job, Any], Awaitable[None]]:
    async def run(job: Job, payload: Any) -> None:
        into.append(job.id)
        await asyncio.sleep(pause)

    return run


def _count(runs: list[int]) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        runs.append(len(runs))

    return run


def _hang(began: asyncio.Event, ended: asyncio.Event) -> Callable[[Job, Any], Awaitable[None]]:
    async def run(job: Job, payload: Any) -> None:
        began.set()
        try:
            await asyncio.sleep(600)
        finally:
            ended.set()

    return run


def _raise(error: Exception) -> Callable[[], None]:
    def run() -> None:
        raise error

    return run


def _caught(run: Callable[[], None]) -> BaseException:
    try:
        run()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from lowtide.kernel.clock import SystemClock
from lowtide.kernel.ids import SystemIds
from lowtide.storage.bus import MemoryBus
from lowtide.storage.db.migrate import Component, migrate
from lowtide.storage.db.sqlite import SqliteDatabase
from lowtide.storage.jobs import Jobs, Worker

async def main(folder):
    clock = SystemClock()
    ids = SystemIds(clock)
    database = SqliteDatabase(folder / "data.db", clock=clock)
    await database.start()
    await migrate(database, [Component("jobs", "lowtide.storage.jobs")], clock)
    jobs = Jobs(database, MemoryBus(), clock, ids)

    async def run(job, payload):
        os.kill(os.getpid(), signal.SIGKILL)

    jobs.register("mail", type(None), run)
    await database.write(lambda tx: jobs.enqueue(tx, "mail"))
    worker = Worker(database, MemoryBus(), jobs, clock, ids, queues={"default": 1}, lease=1.0, poll=0.05)
    await worker.start()
    await asyncio.sleep(60)

asyncio.run(main(Path(sys.argv[1])))
"""
