"""Rounds of crashes: under load something is killed, started again, and everything is counted."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Literal, Self

import msgspec

from tests.crash.load import Content, Load, half_there
from tests.crash.writers import COMMON, Writer
from tests.postgres_server import PostgresServer
from tests.server_process import ServerProcess

APP = Path(__file__).with_name("app.py")
Dialect = Literal["sqlite", "postgres"]
Crash = Literal["server", "database", "both"]


class Broken(AssertionError):
    """A promise was broken."""


class Round(msgspec.Struct, frozen=True):
    """What happened in one round."""

    crash: Crash
    after: float
    """Seconds under load before the crash."""
    acknowledged: int
    """Transactions, over all rounds, when the crash came."""
    unknown: int
    """Transactions that were made and not acknowledged; those that had got through: ``applied``."""
    applied: int
    refused: int
    seconds: float


class World:
    """A server, its database and its load. ``with World(...) as world: world.round()``."""

    def __init__(self, folder: Path, dialect: Dialect, seed: int, *, fault: str | None = None):
        """``fault`` is one of ``planted.FAULTS``, which the rounds must find."""
        self.random = Random(seed)
        self._command = ("-m", "lowtide", "serve") if fault is None else ("-m", "tests.crash.planted", fault)
        self._postgres = PostgresServer() if dialect == "postgres" else None
        self._folder = folder
        self._kinds: list[Crash] = []
        self._undo: list[Callable[[], None]] = []
        self._server: ServerProcess
        self._load: Load

    def __enter__(self) -> Self:
        try:
            dsn = None
            if self._postgres is not None:
                self._enter(self._postgres)
                dsn = self._postgres.create_database()
            self._server = ServerProcess(self._folder, APP, "crash", postgres=dsn, command=self._command)
            self._enter(self._server)
            self._load = Load(self._server, self.random)
            self._enter(self._load)
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def _enter(self, part: PostgresServer | ServerProcess | Load) -> None:
        part.__enter__()
        self._undo.append(lambda: part.__exit__(None, None, None))

    def _leave(self) -> None:
        while self._undo:
            self._undo.pop()()

    def round(self) -> Round:
        """One crash at a random moment. Raises ``Broken`` with everything that is wrong afterwards."""
        started = time.monotonic()
        load = self._load
        if not self._kinds:
            kinds: list[Crash] = ["server"] if self._postgres is None else ["server", "database", "both"]
            self._kinds = self.random.sample(kinds, len(kinds))
        crash, after = self._kinds.pop(), self.random.uniform(0.1, 0.9)
        load.do(load.go())
        time.sleep(after)
        self._crash(crash)
        load.do(load.rest())
        promised = [made for writer in load.writers for made in writer.acknowledged]
        promised_by_phones = load.acknowledged_on_phones()
        self._restart(crash)

        before = load.do(load.judge())
        wrong = list(
            missing(before, [made.mark for made in promised if not made.refused] + promised_by_phones)
        )
        wrong += half_there(before)
        unknown = [made for writer in load.writers for made in writer.pending]
        applied = sum(made.mark in before["mark"] for made in unknown)

        load.do(load.settle())
        after_all = load.do(load.judge())
        wrong += half_there(after_all)
        for writer in load.writers:
            wrong += miscounted(after_all, writer)
            refused = sum(len(made.mutations) for made in writer.made if made.refused)
            rejections = load.do(load.device(writer.name))["rejections"]
            if rejections != refused:
                wrong.append(f"{writer.name}: {refused} changes were refused, {rejections} came back")
        for phone, marks in load.made_on_phones.items():
            wrong += [f"{phone}: {mark} is gone" for mark in marks if mark not in after_all["mark"]]
        total = sum(not made.refused for made in load.all_made()) + sum(
            map(len, load.made_on_phones.values())
        )
        if after_all["tally"][COMMON]["total"] != total:
            wrong.append(f"{total} transactions were counted as {after_all['tally'][COMMON]['total']}")
        for name, content in load.do(load.phones_show(after_all)).items():
            wrong += [
                f"{name} shows another {table}" for table in content if content[table] != after_all[table]
            ]
        wrong += load.faults() + self._faults()
        if wrong:
            raise Broken("\n".join(wrong[:40]))
        return Round(
            crash,
            after,
            len(promised) + len(promised_by_phones),
            len(unknown),
            applied,
            sum(made.refused for made in load.all_made()),
            time.monotonic() - started,
        )

    def _crash(self, crash: Crash) -> None:
        if crash in ("database", "both"):
            assert self._postgres is not None
            self._postgres.kill()
        if crash in ("server", "both"):
            self._server.kill()

    def _restart(self, crash: Crash) -> None:
        if crash in ("database", "both"):
            assert self._postgres is not None
            self._postgres.start()
        if crash in ("server", "both"):
            self._server.start()
        elif not self._server.running:
            raise Broken("the server did not survive its database's crash:\n" + self._server.log()[-4000:])

    def _faults(self) -> list[str]:
        # 503 is the right answer while the database is away.
        return [line for line in self._server.faults() if '"status":503' not in line]


def missing(content: Content, marks: list[str]) -> Iterator[str]:
    """Acknowledged marks that are not there."""
    for mark in marks:
        if mark not in content["mark"]:
            yield f"{mark} was acknowledged and is gone"


def miscounted(content: Content, writer: Writer) -> Iterator[str]:
    """Where a writer's own tally is not exactly what it made."""
    good = [made.number for made in writer.made if not made.refused]
    tally = content["tally"][writer.name]
    if tally["total"] != len(good):
        yield f"{writer.name}: {len(good)} transactions were counted as {tally['total']}"
    for name in ("bag", "line"):
        items = json.loads(str(tally[name]))
        if sorted(items) != good:
            odd = sorted(set(items) ^ set(good))
            yield f"{writer.name}: its {name} holds {len(items)} of {len(good)} numbers, other are {odd[:10]}"
    for made in writer.made:
        if made.refused and made.mark in content["mark"]:
            yield f"{made.mark} was refused and is there"
        if not made.refused and made.mark not in content["mark"]:
            yield f"{made.mark} is gone"
