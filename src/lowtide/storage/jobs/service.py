"""The queue as the rest of Lowtide sees it: enqueue, declare handlers, look after the dead."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, TypeVar

import msgspec

from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import Conflict, DeclarationError, NotFound
from lowtide.kernel.ids import Ids
from lowtide.storage.bus import Bus
from lowtide.storage.db import Database, Tx
from lowtide.storage.jobs import store
from lowtide.storage.jobs.model import Count, Handler, Job, check_key, check_name, encode
from lowtide.storage.purge import purge

P = TypeVar("P")

TOPIC = "lowtide.jobs"
"""Of the hint that some queue has something new."""

DAY = 86_400.0


class Jobs:
    """Work that is kept with the data it belongs to and done later, at least once.

    Handlers are registered before the first ``Worker`` starts. A node may enqueue kinds that it
    does not run.
    """

    def __init__(self, database: Database, bus: Bus, clock: Clock, ids: Ids):
        self._database, self._bus, self._clock, self._ids = database, bus, clock, ids
        self._handlers: dict[str, Handler] = {}
        self.periods: dict[str, int] = {}
        """Milliseconds, by the kind that is enqueued once in each period of so many."""

    async def enqueue(
        self,
        tx: Tx,
        kind: str,
        payload: Any = None,
        *,
        run_at: int | None = None,
        key: str | None = None,
        max_attempts: int = 20,
        queue: str = "default",
    ) -> str:
        """Add a job in the caller's transaction: it exists exactly if that commits. Returns its id.

        It runs at least once, at or after ``run_at`` (milliseconds since 1970; None: now), until a
        run succeeds or ``max_attempts`` have failed. Two jobs of one ``kind`` and ``key`` do the
        same work: while one waits, another is not added, and the waiting one's id is returned.
        That one keeps its payload; if it never ran and this one is due earlier, so is that one.
        It starts after this transaction, and so sees what this wrote.

        ``payload`` is anything that msgspec writes as JSON. Raises ``TooLarge`` beyond 1 MiB of
        it, ``Malformed`` for a key that is not 1 to 500 printable characters, ``ValueError`` for a
        kind, queue or number of attempts that cannot be. Costs one statement, two with a key.

        Call ``wake`` after the commit; without it the job waits for a worker's next look.
        """
        return await store.insert(tx, self._job(kind, payload, run_at, key, max_attempts, queue))

    async def enqueue_all(
        self,
        tx: Tx,
        kind: str,
        payloads: Sequence[Any],
        *,
        max_attempts: int = 20,
        queue: str = "default",
    ) -> None:
        """``enqueue`` for each of ``payloads``, to run now, in one statement."""
        jobs = [self._job(kind, payload, None, None, max_attempts, queue) for payload in payloads]
        await store.insert_all(tx, jobs)

    def _job(
        self, kind: str, payload: Any, run_at: int | None, key: str | None, max_attempts: int, queue: str
    ) -> Job:
        check_name("kind", kind)
        check_name("queue", queue)
        check_key(key)
        if max_attempts < 1:
            raise ValueError("a job has at least one attempt")
        now = self._clock.now()
        return Job(
            id=self._ids.uuid(),
            queue=queue,
            kind=kind,
            key=key,
            payload=encode(payload),
            status="waiting",
            due_at=now if run_at is None else run_at,
            attempt=0,
            max_attempts=max_attempts,
            fence=0,
            worker=None,
            error=None,
            created_at=now,
            finished_at=None,
        )

    def wake(self) -> None:
        """Tell every worker, on all nodes, to look. Once after a commit that enqueued; never waits."""
        self._bus.publish(TOPIC)

    async def complete(self, tx: Tx, job: Job) -> None:
        """For a handler: mark ``job`` done in the transaction that does its work.

        Then its writes happen exactly once: they commit together with the job's end, or neither
        does. Raises ``Conflict`` when the lease is lost, which must roll the transaction back.
        """
        if not await store.complete(tx, (job.id, job.fence), self._clock.now()):
            raise Conflict("The job's lease is lost: another worker may run it.", hint="Let this run end.")

    async def requeue(self, tx: Tx, job_id: str) -> None:
        """Let a dead job wait again, with all its attempts. ``NotFound`` if no dead job has this id."""
        if not await store.requeue(tx, job_id, self._clock.now()):
            raise NotFound("No dead job has this id.", hint="It may run already, or its retention is over.")

    async def find(self, tx: Tx, job_id: str) -> Job | None:
        """The job with this id, as long as it is kept."""
        return await store.find(tx, job_id)

    async def dead(self, tx: Tx, limit: int = 100) -> list[Job]:
        """The jobs that died last, each with the text of its last error; the latest first."""
        return await store.dead(tx, max(0, min(limit, 1_000)))

    async def counts(self, tx: Tx) -> list[Count]:
        """How many jobs there are by queue, kind and status. Reads every job that is kept."""
        return await store.counts(tx)

    def register(
        self,
        kind: str,
        payload: type[P],
        handler: Callable[[Job, P], Awaitable[None]],
        *,
        deadline: float = 60.0,
    ) -> None:
        """Run jobs of ``kind`` with ``handler``, their payloads decoded as ``payload``.

        A run that returns is done. One that raises, or lasts longer than ``deadline`` seconds, has
        failed and is retried. ``Hopeless``, and a payload that does not decode, make a job dead at once. The
        handler may run more than once for one job, so what it does outside the database carries
        ``job.id``; see ``complete`` for what it does inside. It must neither block the event loop nor
        swallow cancellation. ``DeclarationError`` for a kind that has one.
        """
        check_name("kind", kind)
        if deadline <= 0:
            raise ValueError("a deadline is a positive number of seconds")
        if kind in self._handlers:
            raise DeclarationError(f"Two handlers are registered for jobs of kind {kind!r}.")
        decode = msgspec.json.Decoder(payload).decode
        self._handlers[kind] = Handler(kind=kind, call=handler, decode=decode, deadline=deadline)

    def every(
        self, seconds: float, kind: str, work: Callable[[], Awaitable[object]], *, deadline: float = 60.0
    ) -> None:
        """Do ``work`` once in each period of ``seconds``, however many nodes say so: a job of ``kind``.

        Periods are counted from 1970 UTC. A period in which no node was up is left out. A run that still
        waits when its period ends stands for the next one too. ``deadline``, and what is raised, are as in
        ``register``.
        """
        if seconds < 1:
            raise ValueError("a period lasts at least a second")

        async def run(_job: Job, _payload: None) -> None:
            await work()

        self.register(kind, type(None), run, deadline=deadline)
        self.periods[kind] = int(seconds * 1000)

    async def forget(self, *, done: float = DAY, dead: float = 30 * DAY) -> None:
        """Forget the jobs that have been done or dead for so many seconds."""
        now = self._clock.now()
        await self.purge("done", now - int(done * 1000))
        await self.purge("dead", now - int(dead * 1000))

    async def purge(self, status: Literal["done", "dead"], before: int) -> int:
        """Forget the jobs that ended with ``status`` before ``before``; how many. Short transactions."""
        return await purge(self._database, store.FORGET_ENDED, status, before)

    @property
    def kinds(self) -> list[str]:
        """The kinds that this node can run."""
        return sorted(self._handlers)

    def handler(self, kind: str) -> Handler:
        """What runs jobs of ``kind``; ``KeyError`` if nothing here does."""
        return self._handlers[kind]
