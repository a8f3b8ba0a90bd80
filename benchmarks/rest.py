"""The REST API: one user reads, lists and writes records over HTTP, and sessions are refreshed.

What is written is durable (synchronous=FULL) before the answer. The readers' records lie among a thousand of
their team; a list is the first thirty by id, all fields.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import uvloop

from benchmarks.client import Answer, connect, post
from benchmarks.load import Load, created, drive
from benchmarks.meter import memory
from benchmarks.rows import Row
from benchmarks.run import Run, Server
from benchmarks.uploads import NOTES, prepare
from tests.postgres_server import PostgresServer

CONNECTIONS = 16
RECORDS = 1_000
LISTED = 30
BATCH = 50
LIMITS = {"read one": 250.0, "list 30": 500.0, "create": 350.0, "batch of 50": 6_000.0, "refresh": None}
"""Of a request, in microseconds of CPU; DESIGN's budgets."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.decode


def measure(run: Run) -> None:
    run.say("REST on SQLite")
    with run.server() as server:
        _measure(run, server, "")
    run.say("REST on PostgreSQL")
    try:
        postgres = PostgresServer(fsync=True)
    except FileNotFoundError as error:
        run.add(Row(area="rest", name="on PostgreSQL", per="request", note=str(error)))
        return
    with postgres, run.server(postgres=postgres.create_database()) as server:
        _measure(run, server, ", PostgreSQL")


def _measure(run: Run, server: Server, where: str) -> None:
    prepare(server)
    token = server.token("admin", server=True)
    for first in range(0, RECORDS, BATCH):
        writes = [
            {"op": "create", "model": "task", "id": f"task{first + i}", "data": task(first + i)}
            for i in range(BATCH)
        ]
        uvloop.run(post(server.port, token, "/v1/records", _encode({"writes": writes})))
    for name, limit in LIMITS.items():
        run.say(f"REST, {name}{where}")
        load = uvloop.run(_drive(run, server, name))
        run.add(
            Row(
                area="rest",
                name=name + where,
                per="request",
                rounds=load.cpu_us,
                limit=limit,
                wall_rates=load.wall_rates,
                memory_mb=memory(server.pid) / 1e6,
            )
        )


def task(number: int) -> dict[str, object]:
    """A record like any other."""
    return {"team_id": "t", "title": f"Task {number}", "notes": NOTES, "votes": 0, "done": False}


async def _drive(run: Run, server: Server, name: str) -> Load:
    tokens = [server.token(f"user{i}") for i in range(CONNECTIONS)]
    if name == "refresh":
        return await _refresh(run, server)
    wires = [await connect(server.port, token) for token in tokens]
    method, path, ask, check = request(name)
    try:
        loads = await drive(
            [server.pid],
            wires,
            path,
            ask,
            check,
            units=1,
            rounds=run.rounds,
            seconds=run.seconds,
            method=method,
        )
    finally:
        for wire in wires:
            wire.close()
    return loads[0]


Ask = Callable[[int, int], bytes | None]
Path = Callable[[int, int], str]


def request(name: str) -> tuple[str, Path, Ask, Callable[[Answer], None]]:
    """Method, path, body and what the answer must be, for one kind of request."""

    def whole(answer: Answer) -> None:
        if answer.status != 200 or NOTES.encode() not in answer.body:
            raise RuntimeError(f"{answer.status} {answer.body[:500]!r}")

    def listed(answer: Answer) -> None:
        if answer.status != 200 or answer.body.count(b'"etag"') != LISTED:
            raise RuntimeError(f"not {LISTED} records: {answer.body[:500]!r}")

    def one(wire: int, number: int) -> bytes:
        return _encode({"data": task(number)})

    def many(wire: int, number: int) -> bytes:
        return _encode(
            {"writes": [{"op": "create", "model": "task", "data": task(number)} for _ in range(BATCH)]}
        )

    match name:
        case "read one":
            return "GET", lambda i, n: f"/v1/records/task/task{(i * 61 + n * 7) % RECORDS}", _nothing, whole
        case "list 30":
            return "GET", lambda i, n: f"/v1/records/task?limit={LISTED}", _nothing, listed
        case "create":
            return "POST", lambda i, n: "/v1/records/task", one, created
        case _:
            return "POST", lambda i, n: "/v1/records", many, created


def _nothing(wire: int, number: int) -> None:
    return None


async def _refresh(run: Run, server: Server) -> Load:
    """Each connection is a device that exchanges its refresh token for the next, again and again."""
    held: list[str] = []
    devices: dict[str, int] = {}
    for _ in range(CONNECTIONS):
        answer = await post(server.port, None, "/v1/auth/anonymous", b"{}")
        body = _decode(answer.body)
        devices[body["session_id"]] = len(held)
        held.append(body["refresh_token"])

    def ask(wire: int, number: int) -> bytes:
        return _encode({"refresh_token": held[wire], "rotation_id": f"rotation-{wire:04}-{number:08}"})

    wires = [await connect(server.port) for _ in range(CONNECTIONS)]

    def check(answer: Answer) -> None:
        created(answer)
        # Which device it was stands in the answer: its session.
        body = _decode(answer.body)
        held[devices[body["session_id"]]] = body["refresh_token"]

    try:
        loads = await drive(
            [server.pid],
            wires,
            lambda i, n: "/v1/auth/token/refresh",
            ask,
            check,
            units=1,
            rounds=run.rounds,
            seconds=run.seconds,
        )
    finally:
        for one in wires:
            one.close()
    return loads[0]
