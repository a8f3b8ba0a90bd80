"""The server of a simulation: the product's sync engine behind its HTTP edge, in this process.

Requests go in as ASGI messages and come out as bytes, so that nothing between the socket and the
database is left out. ``kill`` is a power cut: every task ends where it stands.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from importlib import resources
from random import Random
from typing import Any

import msgspec

from lowtide.api.edge import Edge
from lowtide.api.logs import AccessLog
from lowtide.api.origins import Hosts
from lowtide.audit import Audit
from lowtide.audit.trail import Trail
from lowtide.bridges import Bridges, bridge_routes
from lowtide.kernel.errors import TokenExpired, Unauthorized
from lowtide.kernel.ids import SeededIds
from lowtide.kernel.schema import Principal, Schema
from lowtide.storage.bus import MemoryBus
from lowtide.storage.jobs import Jobs, Worker
from lowtide.sync.deploy import deploy
from lowtide.sync.model import Applied, Batch, Mutation, Transaction
from lowtide.sync.retention import Retention
from lowtide.sync.routes import routes
from lowtide.sync.service import Sync
from lowtide.sync.store import begin_epoch
from tests.phones.world import InlineDatabase, World

LEASE = 60.0
"""Seconds after which a command that died with the server is taken up again."""
JOURNAL_DAYS = 36_500


def new_database(world: World, random: Random) -> InlineDatabase:
    """An empty database with the product's tables."""
    return InlineDatabase(world.clock, random, _migrated())


@functools.cache
def _migrated() -> bytes:
    import apsw

    database = apsw.Connection(":memory:")
    for package in ("lowtide.sync", "lowtide.storage.jobs", "lowtide.audit", "lowtide.bridges"):
        folder = resources.files(package) / "migrations"
        for file in sorted(folder.iterdir(), key=lambda file: file.name):
            if file.name.endswith(".sql") and not file.name.endswith(".postgres.sql"):
                database.execute(file.read_text("utf-8"))
    return database.serialize("main")


class Alarm(logging.Handler):
    """Hears what the server logs as an error: none of it has a place in a run."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(self.format(record))

    def __enter__(self) -> Alarm:
        logging.getLogger("lowtide").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("lowtide").removeHandler(self)


class Exchange:
    """One HTTP request inside the server, and its answer as far as it has come."""

    def __init__(self, body: bytes, cut: bool, window: int):
        self.status = 0
        self.headers: dict[str, str] = {}
        self.ended = False
        """The answer is whole, or will never be."""
        self.whole = False
        self._body = body
        self._cut = cut
        self._window = window
        self._buffer = bytearray()
        self._room = asyncio.Event()
        self._left = asyncio.Event()
        self._asked = False

    @property
    def waiting(self) -> int:
        """Bytes that were sent and not taken yet."""
        return len(self._buffer)

    def take(self, count: int) -> bytes:
        """The next bytes of the answer."""
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        self._room.set()
        return taken

    def leave(self) -> None:
        """The client has gone, and the server hears of it."""
        self._left.set()

    async def receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self._body, "more_body": self._cut}
        if not self._cut:
            await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
            return
        self._buffer += message.get("body", b"")
        self.whole = not message.get("more_body", False)
        while len(self._buffer) > self._window and not self._left.is_set():
            self._room.clear()
            await self._room.wait()


class Hints(MemoryBus):
    """One node's bus. ``passed`` takes what it publishes to the others, or loses it."""

    def __init__(self, passed: Callable[[Hints, str, bytes], None]):
        super().__init__()
        self._passed = passed

    def publish(self, topic: str, payload: bytes = b"") -> None:
        super().publish(topic, payload)
        self._passed(self, topic, payload)

    def hear(self, topic: str, payload: bytes) -> None:
        """Another node has published it."""
        super().publish(topic, payload)


class Server:
    """One process of the server. ``database`` outlives it."""

    def __init__(self, world: World, schema: Schema, database: InlineDatabase, bus: Hints, seed: int):
        ids = SeededIds(world.clock, seed)
        jobs = Jobs(database, bus, world.clock, ids)
        self.database = database
        self.bus = bus
        self.world = world
        self.sync = Sync(schema, database, bus, jobs, world.clock, ids)
        self._schema = schema
        self._ids = ids
        self._worker = Worker(
            database, bus, jobs, world.clock, ids, queues={"default": 2}, lease=LEASE, poll=LEASE
        )
        self._edge = Edge(
            [
                *routes(self.sync, Trail(Audit(world.clock, ids), database), lambda _: None),
                *bridge_routes(Bridges(self.sync, world.clock), world.clock),
            ],
            authenticate=self._who,
            clock=world.clock,
            ids=ids,
            hosts=Hosts(["phone"]),
            access=AccessLog(world.clock, ids, sample=0),
        )

    async def start(self) -> None:
        """Begin to serve, with the schema in force."""
        await deploy(self.database, self._schema, self.world.clock, lambda model, records: None)
        await self.sync.start()
        await self._worker.start()
        await self.world.settle()

    async def begin_epoch(self) -> None:
        """What ``lowtide restore`` does after the database was put back; before ``start``."""
        epoch = self._ids.token()[:8]
        await self.database.write(lambda tx: begin_epoch(tx, epoch, self.world.clock.now()))

    async def trim(self) -> int:
        """Forget every removal that is older than this moment."""
        return await Retention(self.database, self.world.clock, 0, JOURNAL_DAYS).trim()

    async def kill(self) -> None:
        """Power off."""
        self.database.off = True
        me = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not me]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def resync(self, user: str, space: str, client_id: str) -> None:
        """Make a device download everything anew."""
        await self.sync.devices.resync(Principal(user=user, space=space), client_id)

    def token(self, user: str, space: str, seconds: float) -> str:
        """A token that is valid for ``seconds``."""
        return f"{user}|{space}|{self.world.clock.now() + int(seconds * 1000)}"

    def _who(self, token: str) -> Principal:
        user, space, expires = token.split("|") if token.count("|") == 2 else ("", "", "0")
        if not user:
            raise Unauthorized
        if int(expires) <= self.world.clock.now():
            raise TokenExpired
        return Principal(user=user, space=space, expires_at=int(expires))

    def request(
        self,
        method: str,
        path: str,
        token: str,
        body: bytes = b"",
        *,
        headers: dict[str, str] | None = None,
        cut: bool = False,
        window: int = 1 << 30,
    ) -> Exchange:
        """Hand a request to the server; nothing happens before the next ``settle``.

        ``cut``: the client goes away before the body's end. ``window``: bytes that the client's socket
        takes before the server must wait.
        """
        exchange = Exchange(body, cut, window)
        target, _, query = path.partition("?")
        fields = {"host": "phone", "authorization": f"Token {token}", **(headers or {})}
        if body:
            fields |= {"content-type": "application/json"}
        scope = {
            "type": "http",
            "method": method,
            "path": target,
            "raw_path": target.encode(),
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in fields.items()],
            "client": ("10.0.0.1", 1),
        }
        asyncio.create_task(self._serve(scope, exchange)).set_name(f"{method} {target}")
        return exchange

    async def _serve(self, scope: dict[str, Any], exchange: Exchange) -> None:
        try:
            await self._edge(scope, exchange.receive, exchange.send)
        finally:
            exchange.ended = True

    async def write(self, space: str, *mutations: Mutation) -> Applied:
        """The app's own code changes records, in one transaction."""
        principal = Principal(user="server", space=space, server=True)
        transaction = Transaction(principal=principal, client_id="server", online=True, mutations=mutations)
        return await self.sync.apply(Batch(transactions=[transaction]))


def journal(database: InlineDatabase) -> dict[tuple[str, str, str], list[tuple[str, Any]]]:
    """(space, model, id) -> (field, value that lost): the server's conflict journal."""
    entries: dict[tuple[str, str, str], list[tuple[str, Any]]] = {}
    for space, model, record, field, lost in database.ask(
        "SELECT space, model, record, field, lost FROM journal ORDER BY id"
    ):
        entries.setdefault((space, model, record), []).append((field, msgspec.json.decode(lost)))
    return entries
