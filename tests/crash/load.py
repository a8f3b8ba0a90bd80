"""The load: writers and real phones, all in one event loop of their own, so that crashing may block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from random import Random
from typing import Any, Self, TypeVar

import httpx2

from lowtide.declare.clientschema import client_schema
from lowtide.kernel.clock import SystemClock
from tests.crash.app import app
from tests.crash.writers import COMMON, REQUEST_SECONDS, Made, Writer
from tests.phones.phone import Applied, Event, Phone, Row
from tests.phones.session import PhoneSession
from tests.server_process import ServerProcess

T = TypeVar("T")
WRITER_NAMES = [f"writer{i}" for i in range(4)]
PHONE_NAMES = [f"phone{i}" for i in range(2)]
SETTLE_SECONDS = 30.0
TABLES = {
    table["name"]: {column["name"]: column["type"] for column in table["columns"]}
    for table in client_schema(app.compile())["tables"]
}
_COUNTS = """SELECT (SELECT count(*) FROM mark), (SELECT count(*) FROM half),
coalesce((SELECT total FROM tally WHERE id = ?), 0)"""
Content = dict[str, dict[str, Row]]
"""Table -> id -> the row that a device shows."""


class WatchedPhone(Phone):
    """A phone that looks at every checkpoint: is anything in it half there?"""

    half_seen: list[str]

    def receive(self, line: str | bytes) -> list[Event]:
        events = super().receive(line)
        if any(isinstance(event, Applied) for event in events) and not self.queued():
            row: Any = self.database.execute(_COUNTS, (COMMON,)).fetchone()
            marks, halves, counted = row
            if (halves, counted) != (2 * marks, marks):
                self.half_seen.append(f"{marks} marks, {halves} halves, counted as {counted}")
        return events


class Load:
    """``with Load(server, random) as load``: four writers and two phones, at rest until ``go``."""

    def __init__(self, server: ServerProcess, random: Random):
        self._server = server
        self._random = random
        self._tokens: dict[str, str] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="load")
        self._tasks: list[asyncio.Task[None]] = []
        self._sessions: list[PhoneSession] = []
        self._rows = 0
        self.writers: list[Writer] = []
        self.phones: list[WatchedPhone] = []
        self.made_on_phones: dict[str, list[str]] = {}
        """Name of a phone -> the marks that it wrote, in order."""

    def __enter__(self) -> Self:
        self.renew_tokens()
        self._thread.start()
        self.do(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.do(self._close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def renew_tokens(self) -> None:
        """Sign everybody's token anew. Once is enough for a server that does not lose its keys."""
        names = [*WRITER_NAMES, *PHONE_NAMES, "judge"]
        self._tokens = {name: self._server.token(name, ttl=86_400) for name in names}

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` in the load's loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(SETTLE_SECONDS * 4)

    # -- what a round does -----------------------------------------------------------------------------

    async def go(self) -> None:
        """Everybody writes and sends."""
        for writer in self.writers:
            writer.writing.set()
            writer.sending.set()
        for session in self._sessions:
            session.airplane(False)
        self._writing.set()

    async def rest(self) -> None:
        """Nobody writes or sends; what is on its way has been answered, or never will be."""
        self._writing.clear()
        for session in self._sessions:
            session.airplane(True)
        await asyncio.gather(*(writer.rest() for writer in self.writers))
        await asyncio.sleep(0.05)

    async def settle(self) -> None:
        """Everything is sent until it is acknowledged, and every phone has everything."""
        for writer in self.writers:
            writer.sending.set()
        for session in self._sessions:
            session.airplane(False)
        async with asyncio.timeout(SETTLE_SECONDS):
            while any(writer.pending for writer in self.writers):
                await asyncio.sleep(0.02)
        for session in self._sessions:
            await session.in_step(SETTLE_SECONDS)

    async def judge(self) -> Content:
        """What a device that starts from nothing is given now."""
        phone = self._phone("judge", Phone)
        async with PhoneSession(phone, self._server.url, self._token("judge"), self._client) as session:
            await session.until(lambda: session.applied > 0, SETTLE_SECONDS)
            assert session.mismatches == []
            content = content_of(phone)
        phone.close()
        return content

    async def phones_show(self, content: Content) -> dict[str, Content]:
        """What the phones show, once it is ``content``, or after a while of waiting for that."""
        for phone, session in zip(self.phones, self._sessions, strict=True):
            try:
                await session.until(lambda p=phone: content_of(p) == content, SETTLE_SECONDS)  # type: ignore[misc]
            except TimeoutError:
                continue
        return {phone.name: content_of(phone) for phone in self.phones}

    async def device(self, name: str) -> Any:
        """What the server knows of a writer."""
        headers = {"authorization": f"Token {self._tokens[name]}"}
        answer = await self._client.get(f"{self._server.url}/v1/sync/devices/{name}", headers=headers)
        return answer.raise_for_status().json()

    def acknowledged_on_phones(self) -> list[str]:
        """The marks that phones wrote and that were acknowledged: they have left the queue."""
        found = []
        for phone in self.phones:
            sql = "SELECT json_extract(data, '$.id') FROM ps_crud WHERE json_extract(data, '$.type') = 'mark'"
            queued = {id for (id,) in phone.database.execute(sql)}
            found += [mark for mark in self.made_on_phones[phone.name] if mark not in queued]
        return found

    def all_made(self) -> list[Made]:
        return [made for writer in self.writers for made in writer.made]

    def faults(self) -> list[str]:
        """Whatever a correct server never causes."""
        found = [fault for writer in self.writers for fault in writer.faults]
        for phone, session in zip(self.phones, self._sessions, strict=True):
            found += [f"{phone.name}: {fault}" for fault in (*phone.half_seen, *session.mismatches)]
            found += [f"{phone.name}: {code} {body!r}" for code, body in session.refusals if code != 503]
        found += [str(task.exception()) for task in self._tasks if task.done()]
        return found

    # -- how it is set up ------------------------------------------------------------------------------

    async def _open(self) -> None:
        self._client = httpx2.AsyncClient(timeout=REQUEST_SECONDS, trust_env=False)
        self._writing = asyncio.Event()
        for name in WRITER_NAMES:
            writer = Writer(name, Random(self._random.random()))
            self.writers.append(writer)
            run = writer.run(self._client, self._server.url, lambda n=name: self._tokens[n])  # type: ignore[misc]
            self._tasks.append(asyncio.create_task(run))
        await self._tallies(WRITER_NAMES)
        for name in PHONE_NAMES:
            phone = self._phone(name, WatchedPhone)
            phone.half_seen = []
            self.phones.append(phone)
            self.made_on_phones[name] = []
            session = PhoneSession(phone, self._server.url, self._token(name), self._client)
            self._sessions.append(await session.__aenter__())
            self._tasks.append(asyncio.create_task(self._use(phone, session, Random(self._random.random()))))
        # A server that acknowledges too early may not have the tallies yet, and who lacks one counts nothing.
        for phone, session in zip(self.phones, self._sessions, strict=True):
            await session.until(lambda p=phone: COMMON in p.rows("tally"))  # type: ignore[misc]

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for session in self._sessions:
            await session.__aexit__(None, None, None)
        await self._client.aclose()

    async def _tallies(self, names: list[str]) -> None:
        mutations = [
            {"n": n, "op": "put", "model": "tally", "id": id, "data": {}}
            for n, id in enumerate([COMMON, *names], 1)
        ]
        answer = await self._client.post(
            f"{self._server.url}/v1/sync/batches",
            json={"client_id": "setup", "transactions": [{"mutations": mutations}]},
            headers={"authorization": f"Token {self._tokens['judge']}"},
        )
        answer.raise_for_status()

    async def _use(self, phone: Phone, session: PhoneSession, random: Random) -> None:
        """Somebody at a phone: a mark, its halves and a count, in one local transaction."""
        while True:
            await self._writing.wait()
            marks = self.made_on_phones[phone.name]
            mark = f"{phone.name}-{len(marks) + 1}"
            marks.append(mark)
            await session.write(
                phone.insert("mark", mark, writer=phone.name, number=len(marks)),
                phone.insert("half", f"{mark}-a", mark=mark),
                phone.insert("half", f"{mark}-b", mark=mark),
                ("UPDATE tally SET total = total + 1 WHERE id = ?", [COMMON]),
            )
            await asyncio.sleep(random.uniform(0.01, 0.05))

    def _phone(self, name: str, kind: type[Any]) -> Any:
        random = Random(self._random.random())
        return kind(name, TABLES, now=SystemClock().now, token=lambda: f"{random.getrandbits(128):032x}")

    def _token(self, name: str) -> Any:
        async def fetch() -> str:
            return self._tokens[name]

        return fetch


def content_of(phone: Phone) -> Content:
    """Every row that the phone shows."""
    return {table: phone.rows(table) for table in TABLES}


def half_there(content: Content) -> list[str]:
    """What must not be: a mark without both its halves, and a count that is not that of the marks."""
    halves: dict[str, int] = {}
    for half in content["half"].values():
        halves[half["mark"]] = halves.get(half["mark"], 0) + 1
    found = [f"{mark} has {count} halves" for mark, count in halves.items() if count != 2]
    found += [f"{mark} has no halves" for mark in content["mark"] if mark not in halves]
    found += [f"the halves of {mark} have no mark" for mark in halves if mark not in content["mark"]]
    common = content["tally"].get(COMMON)
    if common is not None and common["total"] != len(content["mark"]):
        found.append(f"{len(content['mark'])} marks were counted as {common['total']}")
    return found
