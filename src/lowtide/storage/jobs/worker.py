"""The worker: takes due jobs under a lease, runs their handlers, records what became of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from itertools import chain

from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import Unavailable
from lowtide.kernel.ids import Ids
from lowtide.storage.bus import Bus
from lowtide.storage.db import Database, Tx
from lowtide.storage.jobs import store
from lowtide.storage.jobs.model import Hopeless, Job, backoff, clean, describe
from lowtide.storage.jobs.service import DAY, TOPIC, Jobs
from lowtide.storage.jobs.store import Lease

Outcome = Callable[[Tx], Awaitable[bool]]
"""Records what became of a run; False if its lease is lost."""

REST = (0.02, 0.05)
"""Seconds between two looks of which the first found nothing, however many hints come."""

BEAT = 1 / 6
"""Of a lease: the longest time between two extensions, and what one of them may take."""
RESERVE = 0.4
"""Of a lease: a run ends when less than this is left, which is more than the time to the next look at it."""

log = logging.getLogger("lowtide.jobs")


class Run:
    """A job that this worker holds."""

    def __init__(self, job: Job, until: float):
        self.job = job
        self.held: Lease = (job.id, job.fence)
        self.until = until
        """When the lease ends, on this node's monotonic clock and at the earliest."""
        self.ended_by: str | None = None
        """Why the handler was cancelled."""
        self.settling = False
        """The handler is over and its outcome is being recorded."""
        self.task: asyncio.Task[None]


class Worker:
    """Runs the jobs of ``queues``, a name and how many at once for each.

    A queue has its own places, so a full one does not hold up another. Within one the job that was due
    first starts first. ``lease`` seconds after a worker was last heard of, another may take its
    jobs; ``poll`` is the longest time in seconds that a lost hint delays a job.
    """

    def __init__(
        self,
        database: Database,
        bus: Bus,
        jobs: Jobs,
        clock: Clock,
        ids: Ids,
        *,
        queues: Mapping[str, int],
        lease: float = 60.0,
        poll: float = 5.0,
    ):
        if not all(places > 0 for places in queues.values()) or lease <= 0 or poll <= 0:
            raise ValueError("places, lease and poll are positive numbers")
        self._database, self._bus, self._jobs, self._clock, self._ids = database, bus, jobs, clock, ids
        self._queues, self._lease, self._poll = dict(queues), lease, poll
        self._name = ids.token()[:12]
        self._begun: dict[str, int] = {}
        self._running: dict[str, dict[Lease, Run]] = {queue: {} for queue in queues}
        self._stop = asyncio.Event()
        self._due = asyncio.Event()
        self._wakes = {queue: asyncio.Event() for queue in queues}
        self._looking: list[asyncio.Task[None]] = []
        self._beside: list[asyncio.Task[None]] = []

    @property
    def running(self) -> int:
        """How many jobs this worker holds now."""
        return sum(map(len, self._running.values()))

    async def start(self) -> None:
        """Begin to take jobs."""
        self._beside = [
            asyncio.create_task(self._listen(), name="jobs: hints"),
            asyncio.create_task(self._beat(), name="jobs: leases"),
            asyncio.create_task(self._repeat(self._schedule, self._due), name="jobs: periods"),
        ]
        for queue, wake in self._wakes.items():
            looking = self._repeat(partial(self._look, queue), wake)
            self._looking.append(asyncio.create_task(looking, name=f"jobs: {queue}"))

    async def stop(self, within: float = 10.0) -> None:
        """Take no more jobs, let those that run finish, and release the rest; in ``within`` seconds.

        A released job waits again at once and loses no attempt. A handler that does not end when it
        is cancelled is left behind with its lease, which no one extends.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + within
        self._stop.set()
        self._wake()
        await _wait(self._looking, within)
        await asyncio.sleep(0)  # what was taken last begins, so that it can be released
        await _wait(self._tasks(), (end - loop.time()) * 0.7)
        for run in self._runs():
            if not run.settling:
                self._end(run, "the worker stops")
        await _wait(self._tasks(), end - loop.time())
        for run in self._runs():
            log.error("job %s of kind %s did not end; its lease will", run.job.id, run.job.kind)
            run.task.cancel()
        owned = [*self._looking, *self._beside]
        for task in owned:
            task.cancel()
        await asyncio.gather(*owned, return_exceptions=True)

    def _runs(self) -> Iterator[Run]:
        return chain.from_iterable([list(runs.values()) for runs in self._running.values()])

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [run.task for run in self._runs()]

    # -- what goes on beside the handlers ------------------------------------------------------------

    async def _listen(self) -> None:
        async with self._bus.subscribe(TOPIC) as hints:
            async for _ in hints:
                self._wake()

    def _wake(self) -> None:
        self._due.set()
        for wake in self._wakes.values():
            wake.set()

    async def _repeat(self, step: Callable[[], Awaitable[float]], wake: asyncio.Event) -> None:
        """Run ``step``, wait for the seconds that it says or until woken, and again until the stop.

        After an error only the time counts: hints must not hurry a database that is in trouble.
        """
        failures = 0
        while not self._stop.is_set():
            wake.clear()
            try:
                pause, until = await step(), wake
                failures = 0
            except Exception as error:
                failures += 1
                pause, until = self._ids.jitter(0, min(30.0, 0.2 * 2 ** min(failures, 10))), self._stop
                _report("the job queue does not answer", error)
            if not self._stop.is_set():
                await _wait_event(until, pause)

    async def _look(self, queue: str) -> float:
        """Take what is due and fits; seconds until the next look is worth it."""
        places = self._queues[queue] - len(self._running[queue])
        wait = self._ids.jitter(self._poll / 2, self._poll)
        if places == 0:
            return wait
        kinds = self._jobs.kinds
        due = await self._database.read(lambda tx: store.next_due(tx, queue, kinds))
        now = self._clock.now()
        if due is not None and due <= now:
            since = self._clock.monotonic()
            until = now + int(self._lease * 1000)
            taken = await self._database.write(
                lambda tx: store.claim(tx, queue, kinds, places, now=now, until=until, worker=self._name)
            )
            for job in taken:
                self._begin(Run(job, since + self._lease))
            if taken:
                return 0.0
            wait = 0.0  # others were faster, or it died
        elif due is not None:
            wait = min(wait, (due - now) / 1000)
        await asyncio.sleep(self._ids.jitter(*REST))
        return wait

    async def _schedule(self) -> float:
        """Enqueue the periodic jobs whose period has begun; seconds until the next one does."""
        now = self._clock.now()
        starts = {kind: now - now % period for kind, period in self._jobs.periods.items()}
        new = {kind: start for kind, start in starts.items() if self._begun.get(kind) != start}

        async def work(tx: Tx) -> bool:
            enqueued = False
            for kind, start in new.items():
                if await store.begin_period(tx, kind, start, now + int(DAY * 1000)):
                    await self._jobs.enqueue(tx, kind, key="every")
                    enqueued = True
            return enqueued

        if new:
            enqueued = await self._database.write(work)
            self._begun.update(new)
            if enqueued:
                self._jobs.wake()
        if not starts:
            return self._poll
        end, period = min(
            (start + self._jobs.periods[kind], self._jobs.periods[kind]) for kind, start in starts.items()
        )
        return (end - now) / 1000 + self._ids.jitter(0, min(1.0, period / 10_000))

    async def _beat(self) -> None:
        """Extend the leases of all that runs, in one transaction; end what has lost its own."""
        while True:
            await asyncio.sleep(self._lease * self._ids.jitter(0.8 * BEAT, BEAT))
            runs = [run for run in self._runs() if run.ended_by is None]
            if not runs:
                continue
            since = self._clock.monotonic()
            held = [run.held for run in runs]
            until = self._clock.now() + int(self._lease * 1000)
            try:
                async with asyncio.timeout(self._lease * BEAT):
                    kept = await self._database.write(lambda tx: store.extend(tx, held, until))  # noqa: B023
            except Exception as error:
                _report("leases cannot be extended", error)
                kept = set()
                reserve = self._clock.monotonic() + self._lease * RESERVE
                lost = {run.held for run in runs if run.until < reserve}
            else:
                lost = set(held) - kept
            for run in runs:
                if run.held in kept:
                    run.until = since + self._lease
                elif run.held in lost and not run.settling and not run.task.done():
                    log.error("job %s of kind %s lost its lease and is ended", run.job.id, run.job.kind)
                    self._end(run, "the lease is lost")

    # -- one job -------------------------------------------------------------------------------------

    def _begin(self, run: Run) -> None:
        queue = run.job.queue

        def over(_: asyncio.Task[None]) -> None:
            del self._running[queue][run.held]
            self._wakes[queue].set()

        self._running[queue][run.held] = run
        run.task = asyncio.create_task(self._run(run), name=f"job {run.job.kind} {run.job.id}")
        run.task.add_done_callback(over)

    def _end(self, run: Run, why: str) -> None:
        run.ended_by = why
        run.task.cancel()

    async def _run(self, run: Run) -> None:
        outcome = await self._perform(run)
        run.settling = True
        try:
            await self._settle(run, outcome)
        except Exception:
            log.exception("what became of job %s of kind %s is not recorded", run.job.id, run.job.kind)

    async def _perform(self, run: Run) -> Outcome:
        """Run the handler, and say how to record what became of it."""
        job = run.job
        handler = self._jobs.handler(job.kind)
        try:
            payload = handler.decode(job.payload)
        except Exception as error:
            log.error("job %s of kind %s has a payload that does not decode: %s", job.id, job.kind, error)
            return self._bury(run, clean(f"The payload does not decode. {describe(error)}"))
        deadline = asyncio.timeout(handler.deadline)
        try:
            async with deadline:
                await handler.call(job, payload)
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if run.ended_by is not None:
                while task is not None and task.cancelling():
                    task.uncancel()
                return lambda tx: store.release(tx, run.held, self._clock.now())
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            if deadline.expired():
                error = TimeoutError(f"the run lasted longer than its deadline of {handler.deadline:g} s")
            return self._fail(run, error)
        return lambda tx: store.complete(tx, run.held, self._clock.now())

    def _fail(self, run: Run, error: BaseException) -> Outcome:
        job, text = run.job, describe(error)
        log.warning(
            "attempt %d of %d of job %s of kind %s failed: %s",
            job.attempt,
            job.max_attempts,
            job.id,
            job.kind,
            text.partition("\n")[0],
            exc_info=error,
        )
        if job.attempt >= job.max_attempts or isinstance(error, Hopeless):
            return self._bury(run, text)
        due_at = self._clock.now() + int(backoff(job.attempt, self._ids) * 1000)
        return lambda tx: store.retry(tx, run.held, due_at, text)

    def _bury(self, run: Run, text: str) -> Outcome:
        return lambda tx: store.bury(tx, run.held, self._clock.now(), text)

    async def _settle(self, run: Run, outcome: Outcome) -> None:
        """Record the outcome, again and again as long as the lease is this worker's."""
        failures = 0
        while True:
            try:
                if not await self._database.write(outcome):
                    log.error("job %s of kind %s ended after its lease was lost", run.job.id, run.job.kind)
                return
            except Unavailable:
                failures += 1
                pause = self._ids.jitter(0, min(5.0, 0.1 * 2 ** min(failures, 10)))
                if self._clock.monotonic() + pause > run.until:
                    raise
                await asyncio.sleep(pause)


async def _wait(tasks: list[asyncio.Task[None]], seconds: float) -> None:
    if tasks:
        await asyncio.wait(tasks, timeout=max(0.0, seconds))


async def _wait_event(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


def _report(what: str, error: Exception) -> None:
    defect = None if isinstance(error, (Unavailable, TimeoutError)) else error
    log.warning("%s: %s", what, str(error) or type(error).__name__, exc_info=defect)
