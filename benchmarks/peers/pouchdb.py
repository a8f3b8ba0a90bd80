"""PouchDB Server: CouchDB's protocol on Node, the server nearest to ours in what it does.

``_bulk_docs`` pushes documents without merging them, ``_changes`` is a database's log, live or not. It
stores in LevelDB, without waiting for the disk (``sync`` is off).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from benchmarks import networks
from benchmarks.cities import load
from benchmarks.client import Answer, connect
from benchmarks.crowd import Crowd, percentiles
from benchmarks.live import Heard
from benchmarks.live import report as report_live
from benchmarks.load import Load, created, drive
from benchmarks.meter import Meter, memory
from benchmarks.peers.peer import HOME, ROWS, Peer, Served, run_quietly
from benchmarks.rows import Row
from benchmarks.run import Run
from benchmarks.uploads import NOTES, SIZES

VERSION = "4.2.0"
CLIENT = [
    f"{name}@9.0.0"
    for name in ("pouchdb-core", "pouchdb-adapter-http", "pouchdb-adapter-memory", "pouchdb-replication")
]
BATCH = 1_000
WRITES = 3
HEARTBEAT = 2_000
"""Milliseconds. Its answer's head comes with the first one."""

_encode = msgspec.json.Encoder().encode


class PouchDb(Peer):
    name = "PouchDB"

    def installed(self) -> bool:
        return self._program.exists() and (HOME / "pouchdb" / "node_modules" / "pouchdb-core").exists()

    @property
    def _program(self) -> Path:
        return HOME / "pouchdb" / "node_modules" / "pouchdb-server" / "bin" / "pouchdb-server"

    def install(self) -> None:
        folder = HOME / "pouchdb"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"private": true}')
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        run_quietly(["npm", "install", *options, f"pouchdb-server@{VERSION}", *CLIENT], folder)

    def command(self, folder: Path, port: int) -> Sequence[str]:
        settings = folder / "config.json"
        settings.write_text(json.dumps({"log": {"level": "error", "file": str(folder / "requests.log")}}))
        options = ["--port", str(port), "--dir", str(folder), "--config", str(settings)]
        return ["node", str(self._program), *options, "--no-stdout-logs"]

    def upload(self, run: Run) -> None:
        with self.serving(run.folder / "pouchdb-upload") as served:
            _put(served, "/tasks")
            for size, devices in SIZES.items():
                load = uvloop.run(_push(run, served, size, devices))
                run.add(
                    Row(
                        area="upload",
                        name=f"{size} a batch",
                        subject=self.name,
                        per="mutation",
                        rounds=load.cpu_us,
                        wall_rates=load.wall_rates,
                        memory_mb=memory(served.pid) / 1e6,
                    )
                )

    def first_sync(self, run: Run) -> None:
        folder = run.folder / "pouchdb-first"
        rows = min(ROWS, run.table_rows)
        with self.serving(folder) as served:
            _put(served, "/cities")
            with Meter(served.pid) as meter:
                _fill(served, "/cities", load(rows))
            cpu = [meter.cpu / rows * 1e6]
            run.add(
                Row(
                    area="first sync",
                    name="import, 5,000 a batch",
                    subject=self.name,
                    per="row",
                    rounds=cpu,
                    note=f"{BATCH:,} a batch",
                )
            )
        with self.serving(folder) as served:
            for name in ("as it is, cold", "as it is, warm"):
                with Meter(served.pid) as meter:
                    size = uvloop.run(_changes(served, "/cities/_changes?include_docs=true", rows))
                run.add(
                    Row(
                        area="first sync",
                        name=name,
                        subject=self.name,
                        per="row",
                        rounds=[meter.cpu / rows * 1e6],
                        wall_rates=[rows / meter.wall],
                        memory_mb=memory(served.pid) / 1e6,
                        note=f"{rows:,} rows, {size / 1e6:.1f} MB" if "cold" in name else "",
                    )
                )

    def live(self, run: Run) -> None:
        with self.serving(run.folder / "pouchdb-live") as served:
            _put(served, "/tasks")
            heard = uvloop.run(_follow(run, served))
        report_live(run, "one bucket", run.devices, heard, subject=self.name)
        run.add(
            Row(
                area="live",
                name="memory of an idle listener",
                subject=self.name,
                measure="KiB",
                per="connection",
                rounds=[heard.connection_kib],
            )
        )

    def networks(self, run: Run) -> None:
        folder = run.folder / "pouchdb-networks"
        with self.serving(folder) as served:
            _put(served, "/tasks")
            _fill(served, "/tasks", networks.tasks())
            program = networks.placed("pouchdb.mjs", HOME / "pouchdb")
            system = networks.System(self.name, served.port, program, folder)
            asyncio.run(networks.measure_system(run, system))

    def reconnect(self, run: Run) -> None:
        folder = run.folder / "pouchdb-reconnect"
        with self.serving(folder) as served:
            _put(served, "/tasks")
            _put(served, "/tasks/k", b'{"title": "Hello"}')
        with self.serving(folder) as served:
            with Meter(served.pid) as meter:
                uvloop.run(_come_back(served, run.devices))
            name = f"{run.devices:,} devices at once"
            cpu = [meter.cpu / run.devices * 1e6]
            run.add(
                Row(
                    area="reconnect",
                    name=name,
                    subject=self.name,
                    per="device",
                    rounds=cpu,
                    wall_rates=[run.devices / meter.wall],
                    memory_mb=memory(served.pid) / 1e6,
                )
            )
            run.add(
                Row(
                    area="reconnect",
                    name=f"{name}: all are synced",
                    subject=self.name,
                    measure="s",
                    rounds=[meter.wall],
                )
            )


def _put(served: Served, path: str, body: bytes | None = None) -> None:
    async def put() -> None:
        wire = await connect(served.port)
        answer = await wire.ask("PUT", path, body or b"{}")
        wire.close()
        created(answer)

    uvloop.run(put())


async def _push(run: Run, served: Served, size: int, devices: int) -> Load:
    wires = [await connect(served.port) for _ in range(devices)]

    def ask(device: int, number: int) -> bytes:
        docs = [
            {
                "_id": f"{size}-{device}-{number}-{i}",
                "team_id": "t",
                "title": f"Task {i} of {device}",
                "notes": NOTES,
                "votes": 0,
                "done": 0,
            }
            for i in range(size)
        ]
        return _encode({"docs": docs})

    def check(answer: Answer) -> None:
        created(answer)
        if b'"error"' in answer.body:
            raise RuntimeError(f"{answer.body[:300]!r}")

    try:
        loads = await drive(
            [served.pid],
            wires,
            "/tasks/_bulk_docs",
            ask,
            check,
            units=size,
            rounds=min(3, run.rounds),
            seconds=run.seconds,
        )
        return loads[0]
    finally:
        for wire in wires:
            wire.close()


def _fill(served: Served, database: str, records: list[dict[str, Any]]) -> None:
    docs = [{"_id": record.pop("id"), **record} for record in records]

    async def work() -> None:
        wire = await connect(served.port)
        for first in range(0, len(docs), BATCH):
            body = _encode({"docs": docs[first : first + BATCH]})
            created(await wire.ask("POST", f"{database}/_bulk_docs", body))
        wire.close()

    uvloop.run(work())


async def _changes(served: Served, path: str, rows: int) -> int:
    """Bytes of the whole log."""
    wire = await connect(served.port)
    answer = await wire.ask("GET", path)
    wire.close()
    found = answer.body.count(b'"changes":[')
    if answer.status != 200 or found != rows:
        raise RuntimeError(f"{answer.status}: {found} changes, {rows} were expected")
    return len(answer.body)


async def _come_back(served: Served, devices: int) -> None:
    """Every device asks what came after the one change that it holds."""

    async def one() -> None:
        wire = await connect(served.port)
        answer = await wire.ask("GET", "/tasks/_changes?since=1")
        wire.close()
        if answer.status != 200 or b'"results":[]' not in answer.body.replace(b"\n", b""):
            raise RuntimeError(f"{answer.status} {answer.body[:300]!r}")

    await asyncio.gather(*(one() for _ in range(devices)))


async def _follow(run: Run, served: Served) -> Heard:
    heard = Heard([], [], [])
    writer = await connect(served.port)
    crowd = Crowd(b'"changes"')
    before = memory(served.pid)
    path = f"/tasks/_changes?feed=continuous&since=now&include_docs=true&heartbeat={HEARTBEAT}"
    with Meter(served.pid) as meter:
        await crowd.join(served.port, [None] * run.devices, lambda i: ("GET", path, None, ""), at_a_time=500)
    heard.connect_us = meter.cpu / len(crowd) * 1e6
    heard.connection_kib = (memory(served.pid) - before) / len(crowd) / 1024
    number = 0
    for _ in range(min(3, run.rounds)):
        crowd.delays.clear()
        with Meter(served.pid) as meter:
            for _ in range(WRITES):
                number += 1
                crowd.expect(len(crowd))
                created(await writer.ask("PUT", f"/tasks/k{number}", _encode({"title": f"Change {number}"})))
                await crowd.heard()
        delays = percentiles(crowd.delays)
        heard.cpu_us.append(meter.cpu / len(crowd) / WRITES * 1e6)
        heard.p50.append(delays.p50)
        heard.p99.append(delays.p99)
    writer.close()
    crowd.leave()
    return heard
