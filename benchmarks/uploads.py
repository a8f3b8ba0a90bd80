"""Uploads through HTTP: mutations merged, durable (synchronous=FULL) and answered.

The devices write into one team. Without conflicts each edits what it made, every second mutation a new
task, every other one a patch with its right base. With conflicts all patch the same 200 tasks, each with
a base that the server does not have, so that every mutation loses a value to the journal.
"""

from __future__ import annotations

import msgspec
import uvloop

from benchmarks.client import Answer, connect, post
from benchmarks.load import Load, drive
from benchmarks.meter import memory
from benchmarks.rows import Row
from benchmarks.run import Run, Server
from tests.postgres_server import PostgresServer

SIZES = {1: 64, 50: 16, 500: 4}
"""Mutations of a batch -> devices that send at a time."""
LIMIT = 1e6 / 15_000
ONE_LIMIT = 350.0
"""A batch of one is one durable record: the budget of a create."""
SHARED = 200
NOTES = "Bring the boat up before the tide turns, then tell the others."

_encode = msgspec.json.Encoder().encode


def measure(run: Run) -> None:
    run.say("uploads on SQLite")
    with run.server() as server:
        _measure(run, server, "", None)
    run.say("uploads on PostgreSQL")
    try:
        postgres = PostgresServer(fsync=True)
    except FileNotFoundError as error:
        run.add(Row(area="upload", name="on PostgreSQL", per="mutation", note=str(error)))
        return
    with postgres, run.server(postgres=postgres.create_database()) as server:
        _measure(run, server, ", PostgreSQL", postgres)


def _measure(run: Run, server: Server, where: str, postgres: PostgresServer | None) -> None:
    prepare(server)
    tokens = [server.token(f"user{i}") for i in range(max(SIZES.values()))]
    pids = [server.pid]
    if postgres is not None:
        pids.append(postgres._process.pid)  # type: ignore[union-attr]
    for conflicts in (False, True):
        for size, devices in SIZES.items():
            if postgres is not None and conflicts and size != 50:
                continue
            name = f"{size} a batch{', all in conflict' if conflicts else ''}{where}"
            run.say(f"upload, {name}")
            loads = uvloop.run(_drive(run, server, pids, tokens[:devices], size, conflicts))
            run.add(
                Row(
                    area="upload",
                    name=name,
                    per="mutation",
                    rounds=loads[0].cpu_us,
                    limit=ONE_LIMIT if size == 1 else LIMIT,
                    wall_rates=loads[0].wall_rates,
                    memory_mb=memory(server.pid) / 1e6,
                )
            )
            if postgres is not None:
                run.add(
                    Row(
                        area="upload",
                        name=f"{name}: the database's own",
                        per="mutation",
                        rounds=loads[1].cpu_us,
                    )
                )


def prepare(server: Server) -> None:
    """Everybody is in the team, and the shared tasks are there."""
    members: list[dict[str, object]] = [
        {"op": "put", "model": "membership", "id": f"m{i}", "data": {"user_id": f"user{i}", "team_id": "t"}}
        for i in range(max(SIZES.values()))
    ]
    tasks: list[dict[str, object]] = [
        {"op": "put", "model": "task", "id": f"shared{i}", "data": {"team_id": "t", "title": "Shared"}}
        for i in range(SHARED)
    ]
    write(server, [*members, *tasks])


def write(server: Server, mutations: list[dict[str, object]]) -> None:
    """Write as the app's own server, in one batch."""
    numbered = [{"n": n, **mutation} for n, mutation in enumerate(mutations, 1)]
    body = _encode({"client_id": "prepare", "transactions": [{"mutations": numbered}]})
    token = server.token("admin", server=True)
    answer = uvloop.run(post(server.port, token, "/v1/sync/batches", body))
    if b'"refused"' in answer.body:
        raise RuntimeError(f"refused: {answer.body[:500]!r}")


async def _drive(
    run: Run, server: Server, pids: list[int], tokens: list[str], size: int, conflicts: bool
) -> list[Load]:
    wires = [await connect(server.port, token) for token in tokens]
    kind = f"{size}{'c' if conflicts else 'p'}"

    def ask(device: int, number: int) -> bytes:
        first = number * size + 1
        make = _conflicting if conflicts else _peaceful
        mutations = [make(f"{kind}-{device}", device, first + i) for i in range(size)]
        return _encode({"client_id": f"{kind}-{device}", "transactions": [{"mutations": mutations}]})

    def check(answer: Answer) -> None:
        wrong = b'"merged"' if not conflicts else b'"unchanged"'
        if answer.status != 200 or b'"refused"' in answer.body or wrong in answer.body:
            raise RuntimeError(f"{answer.status} {answer.body[:500]!r}")

    try:
        return await drive(
            pids,
            wires,
            "/v1/sync/batches",
            ask,
            check,
            units=size,
            rounds=run.rounds if not pids[1:] else min(3, run.rounds),
            seconds=run.seconds,
        )
    finally:
        for wire in wires:
            wire.close()


def _peaceful(name: str, device: int, n: int) -> dict[str, object]:
    if n % 2:
        data = {"team_id": "t", "title": f"Task {n} of {name}", "notes": NOTES, "votes": 0, "done": 0}
        return {"n": n, "op": "put", "model": "task", "id": f"{name}-{n}", "data": data}
    return {
        "n": n,
        "op": "patch",
        "model": "task",
        "id": f"{name}-{n - 1}",
        "data": {"title": f"Task {n - 1} of {name}, done", "done": 1, "votes": 1},
        "base": {"title": f"Task {n - 1} of {name}", "done": 0, "votes": 0},
    }


def _conflicting(name: str, device: int, n: int) -> dict[str, object]:
    return {
        "n": n,
        "op": "patch",
        "model": "task",
        "id": f"shared{(n * 7 + device * 13) % SHARED}",
        "data": {"title": f"{name} says {n}"},
        "base": {"title": "What nobody wrote"},
    }
