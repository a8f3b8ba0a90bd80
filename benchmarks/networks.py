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
DAY = 86_400


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
        link = Link(network, self.port, seed=len(name) + len(network.name))
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
        run.say(f"{AREA}, {system.name}, {network.name}")
        tag = network.name.split(":")[0]
        async with AsyncExitStack() as stack:
            near = Network("as it comes", rate=1e9, delay=0.0)
            writer = await stack.enter_async_context(system.phone(f"writer-{tag}", near))
            await writer.do("online")
            await writer.do("holds", n=TASKS)
            reader = await stack.enter_async_context(system.phone(f"reader-{tag}", network))
            await _first(run, system, network, reader)
            writer.link.network = network
            await _offline(run, system, network, writer, reader)
            if network is EDGE:
                await _live(run, system, network, writer, reader)
                await _idle(run, system, network, reader)


async def _first(run: Run, system: System, network: Network, reader: Phone) -> None:
    began = time.monotonic()
    reader.link.depart()
    await reader.do("online")
    await reader.do("holds", n=TASKS)
    _add(run, system, network, f"first sync of {TASKS:,}", time.monotonic() - began, reader.link.snapshot())


async def _offline(run: Run, system: System, network: Network, writer: Phone, reader: Phone) -> None:
    await writer.do("offline")
    ids = [f"task{n:05}" for n in range(EDITS)]
    title = f"made before {network.name}"
    await writer.do("write", ids=ids, title=title)
    before, began = _both(writer, reader), time.monotonic()
    writer.link.depart()
    await writer.do("online")
    await reader.do("shows", title=title, n=EDITS)
    took = time.monotonic() - began
    _add(
        run,
        system,
        network,
        f"{EDITS} offline edits, until another has them",
        took,
        _both(writer, reader).since(before),
    )


async def _live(run: Run, system: System, network: Network, writer: Phone, reader: Phone) -> None:
    await asyncio.sleep(5)
    before, waited = _both(writer, reader), 0.0
    for n in range(LIVE):
        began = time.monotonic()
        await writer.do("write", ids=[f"task{n:05}"], title=f"live {n}")
        await reader.do("shows", title=f"live {n}", n=1)
        waited += time.monotonic() - began
        await asyncio.sleep(PAUSE)
    crossed = _both(writer, reader).since(before)
    _add(run, system, network, "one live edit, until another has it", waited / LIVE, crossed, LIVE)


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


def _add(
    run: Run, system: System, network: Network, what: str, seconds: float, crossed: Traffic, times: int = 1
) -> None:
    name = f"{network.name.split(':')[0]}, {what}"
    for measure, value in (
        ("s", seconds),
        ("KB", (crossed.up + crossed.down) / 1e3 / times),
        ("turns", crossed.turns / times),
    ):
        run.add(Row(area=AREA, name=name, subject=system.name, measure=measure, rounds=[value]))
