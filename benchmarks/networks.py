"""What a phone's network costs: the same work over EDGE, on a train and in a basement.

Two phones with a real client each, and a link of its own to the server each. Time is that of a clock on the
wall, because waiting is what a bad network makes people do; bytes, turns and wakes are counted by the link.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks import cities
from benchmarks.rows import LOWTIDE, Row
from benchmarks.run import Run
from benchmarks.slow import BASEMENT, EDGE, TRAIN, Link, Network, Traffic
from benchmarks.uploads import write

PROGRAMS = Path(__file__).parent / "phones"
AREA = "networks"
TASKS = 1_000
"""That each phone holds."""
EDITS = 50
"""Made without a network, in one go."""
LIVE = 10
"""Edits made one after the other, each ``PAUSE`` seconds after the last has arrived, as people do."""
PAUSE = 2.0
IDLE = 60.0
"""Seconds in which nobody does anything."""
PATIENCE = 300.0
JOURNEYS = 3
"""How often each is done: where packets are lost and cuts fall, chance decides much."""
DAY = 86_400

Cost = tuple[float, float, float]
"""Of a piece of work: seconds, kilobytes, turns."""


def tasks() -> list[dict[str, str]]:
    """Some 250 bytes each, of real text."""
    return [
        {
            "id": f"task{n:05}",
            "team_id": "red",
            "title": town["name"],
            "notes": f"{town['region']}: {town['names']}",
        }
        for n, town in enumerate(cities.load(TASKS))
    ]


def placed(name: str, home: Path) -> Path:
    """The program ``name``, with what it needs of ours, where its packages are installed."""
    for source in ("program.mjs", "rxdb_schema.mjs", "rxdb_server.mjs", name):
        shutil.copy(PROGRAMS / source, home / source)
    return home / name


class Phone:
    """A program with a real client, behind a link of its own."""

    def __init__(self, process: asyncio.subprocess.Process, link: Link, log: Path):
        self._process = process
        self._log = log
        self.link = link

    async def do(self, step: str, **details: Any) -> None:
        """Have it done. Raises ``RuntimeError`` for what failed, ``TimeoutError`` after ``PATIENCE``."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": step, **details}).encode() + b"\n")
        await self.answer(b"done")

    async def answer(self, wanted: bytes) -> None:
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            async for line in self._process.stdout:
                if line.split()[:1] == [wanted]:
                    return
                if line.startswith(b"failed"):
                    raise RuntimeError(line.decode())
        raise RuntimeError(f"the phone's program ended: {self._log.read_text('utf-8')[-500:]}")


class System:
    """A server that runs, and the program of its phones."""

    def __init__(self, name: str, port: int, program: Path, folder: Path, token: str = ""):
        self.name = name
        self.port = port
        self._program = program
        self._folder = folder
        self._token = token

    @asynccontextmanager
    async def phone(self, name: str, network: Network) -> AsyncIterator[Phone]:
        link = Link(network, self.port, seed=zlib.crc32(name.encode()))
        await link.open()
        told = {
            "url": f"http://127.0.0.1:{link.port}",
            "name": name,
            "folder": str(self._folder),
            "token": self._token,
        }
        said = self._folder / f"{name}.log"
        with said.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                "node",
                str(self._program),
                cwd=self._program.parent,
                env={**os.environ, "PHONE": json.dumps(told)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        phone = Phone(process, link, said)
        try:
            await phone.answer(b"ready")
            yield phone
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            await link.close()


def measure(run: Run) -> None:
    """Lowtide's rows. The server is as its operator runs it, over SQLite."""
    with run.server() as server:
        membership = {"user_id": "ann", "team_id": "red"}
        rows: list[tuple[str, str, dict[str, str]]] = [("membership", "red-ann", membership)]
        rows += [("task", one.pop("id"), one) for one in tasks()]
        write(server, [{"op": "put", "model": model, "id": id, "data": data} for model, id, data in rows])
        system = System(LOWTIDE, server.port, PROGRAMS / "lowtide.mjs", server.folder, server.token("ann"))
        asyncio.run(measure_system(run, system))


async def measure_system(run: Run, system: System) -> None:
    """Every row of one system."""
    for network in (EDGE,) if run.quick else (EDGE, TRAIN, BASEMENT):
        journeys = []
        for n in range(1 if run.quick else JOURNEYS):
            run.say(f"{AREA}, {system.name}, {network.name}, journey {n + 1}")
            journeys.append(await _journey(run, system, network, n))
        for what in journeys[0]:
            name = f"{network.name.split(':')[0]}, {what}"
            for i, measure in enumerate(("s", "KB", "turns")):
                rounds = [one[what][i] for one in journeys]
                run.add(Row(area=AREA, name=name, subject=system.name, measure=measure, rounds=rounds))


async def _journey(run: Run, system: System, network: Network, n: int) -> dict[str, Cost]:
    """Each piece of work once, with phones that begin with nothing; what it cost."""
    tag = f"{network.name.split(':')[0]}-{n}"
    async with AsyncExitStack() as stack:
        near = Network("as it comes", rate=1e9, delay=0.0)
        writer = await stack.enter_async_context(system.phone(f"writer-{tag}", near))
        await writer.do("online")
        await writer.do("holds", n=TASKS)
        reader = await stack.enter_async_context(system.phone(f"reader-{tag}", network))
        costs = {f"first sync of {TASKS:,}": await _first(reader)}
        writer.link.network = network
        costs[f"{EDITS} offline edits, until another has them"] = await _offline(tag, writer, reader)
        if network is EDGE:
            costs["one live edit, until another has it"] = await _live(tag, writer, reader)
            if n == 0:
                await _idle(run, system, network, reader)
        return costs


async def _first(reader: Phone) -> Cost:
    began = time.monotonic()
    reader.link.depart()
    await reader.do("online")
    await reader.do("holds", n=TASKS)
    return _cost(time.monotonic() - began, reader.link.snapshot())


async def _offline(tag: str, writer: Phone, reader: Phone) -> Cost:
    await writer.do("offline")
    ids = [f"task{n:05}" for n in range(EDITS)]
    title = f"made before {tag}"
    await writer.do("write", ids=ids, title=title)
    before, began = _both(writer, reader), time.monotonic()
    writer.link.depart()
    await writer.do("online")
    await reader.do("shows", title=title, n=EDITS)
    return _cost(time.monotonic() - began, _both(writer, reader).since(before))


async def _live(tag: str, writer: Phone, reader: Phone) -> Cost:
    await asyncio.sleep(5)
    before, waited = _both(writer, reader), 0.0
    for n in range(LIVE):
        began = time.monotonic()
        title = f"live {n} on {tag}"
        await writer.do("write", ids=[f"task{n:05}"], title=title)
        await reader.do("shows", title=title, n=1)
        waited += time.monotonic() - began
        await asyncio.sleep(PAUSE)
    return _cost(waited, _both(writer, reader).since(before), LIVE)


async def _idle(run: Run, system: System, network: Network, reader: Phone) -> None:
    await asyncio.sleep(10)
    before = reader.link.snapshot()
    await asyncio.sleep(IDLE)
    crossed = reader.link.snapshot().since(before)
    name = f"{network.name.split(':')[0]}, connected and idle"
    share = DAY / IDLE
    for measure, value in (
        ("KB", (crossed.up + crossed.down) / 1e3 * share),
        ("wakes", crossed.wakes * share),
    ):
        run.add(Row(area=AREA, name=name, subject=system.name, measure=measure, per="day", rounds=[value]))


def _both(writer: Phone, reader: Phone) -> Traffic:
    one, other = writer.link.traffic, reader.link.traffic
    return Traffic(**{name: getattr(one, name) + getattr(other, name) for name in Traffic.__struct_fields__})


def _cost(seconds: float, crossed: Traffic, times: int = 1) -> Cost:
    return seconds / times, (crossed.up + crossed.down) / 1e3 / times, crossed.turns / times
