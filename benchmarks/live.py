"""Live delivery: a change reaches a thousand connected devices.

Shared: all hold the same bucket, so a change is read, encoded and compressed once. Own: each user holds
a bucket of her own, and one batch changes all of them, so that nothing can be shared.
"""

from __future__ import annotations

import asyncio

import msgspec
import uvloop

from benchmarks.client import connect, post
from benchmarks.crowd import Crowd, percentiles
from benchmarks.meter import Meter, memory
from benchmarks.rows import Row
from benchmarks.run import Run, Server
from benchmarks.uploads import write

LIMIT = 50.0
CONNECTION_KIB = 20.0
WRITES = 20
PAUSE = 0.03
WARM = 50
COMPLETE = b"checkpoint_complete"

_encode = msgspec.json.Encoder().encode


class Heard(msgspec.Struct):
    """What the rounds gave."""

    cpu_us: list[float]
    p50: list[float]
    p99: list[float]
    connect_us: float = 0.0
    connection_kib: float = 0.0
    writing_us: float = 0.0


def measure(run: Run) -> None:
    count = run.devices
    _measure_shared(run, count, "", sockets=False)
    _measure_shared(run, count, ", over WebSockets", sockets=True)
    run.say(f"{count:,} listeners, each its own bucket")
    with run.server() as server:
        tokens = [server.token(f"user{i}") for i in range(count)]
        write(server, [_draft(i, 0, "put") for i in range(count)])
        heard = uvloop.run(_own(run, server, tokens, server.token("admin", server=True)))
    report(
        run,
        "each its own bucket",
        count,
        heard,
        f"without the {heard.writing_us:.0f} µs a mutation that writing the batch costs when nobody listens",
    )


def _measure_shared(run: Run, count: int, how: str, *, sockets: bool) -> None:
    run.say(f"{count:,} listeners, one bucket{how}")
    with run.server() as server:
        tokens = [server.token(f"user{i}") for i in range(count)]
        members: list[dict[str, object]] = [
            {
                "op": "put",
                "model": "membership",
                "id": f"m{i}",
                "data": {"user_id": f"user{i}", "team_id": "t"},
            }
            for i in range(count)
        ]
        data = {"team_id": "t", "title": "Hello"}
        task: dict[str, object] = {"op": "put", "model": "task", "id": "k", "data": data}
        write(server, [*members, task])
        heard = uvloop.run(_shared(run, server, tokens, sockets=sockets))
    report(run, f"one bucket{how}", count, heard)
    run.add(
        Row(
            area="live",
            name=f"memory of an idle listener{how}",
            measure="KiB",
            per="connection",
            rounds=[heard.connection_kib],
            limit=CONNECTION_KIB,
        )
    )
    run.add(
        Row(area="live", name=f"connecting, up to date{how}", per="connection", rounds=[heard.connect_us])
    )


def report(run: Run, name: str, count: int, heard: Heard, note: str = "", subject: str = "lowtide") -> None:
    """The three rows of a fan-out."""
    limit = LIMIT if subject == "lowtide" else None
    work = f"{count:,} listeners, {name}"
    run.add(
        Row(
            area="live",
            name=work,
            subject=subject,
            per="delivery",
            rounds=heard.cpu_us,
            limit=limit,
            note=note,
        )
    )
    for percentile, values in (("p50", heard.p50), ("p99", heard.p99)):
        run.add(
            Row(
                area="live",
                name=f"{work}: arrival {percentile}",
                subject=subject,
                measure="ms",
                rounds=values,
            )
        )


def stream_request(client_id: str, buckets: list[dict[str, str]] | None = None) -> bytes:
    """What a device's client core sends."""
    return _encode({"client_id": client_id, "raw_data": True, "buckets": buckets or []})


async def _join(crowd: Crowd, server: Server, tokens: list[str], sockets: bool = False) -> None:
    crowd.expect(len(tokens))
    if sockets:
        await crowd.join_sockets(server.port, tokens, lambda i: stream_request(f"device{i}"))
        await crowd.heard()
        return
    await crowd.join(
        server.port,
        tokens,
        lambda i: ("POST", "/sync/stream", stream_request(f"device{i}"), "accept-encoding: gzip\r\n"),
        gzip=True,
    )
    await crowd.heard()


async def _shared(run: Run, server: Server, tokens: list[str], *, sockets: bool) -> Heard:
    heard = Heard([], [], [])
    crowd = Crowd(COMPLETE)
    # The first connections pay for what every later one shares.
    await _join(crowd, server, tokens[:WARM], sockets)
    crowd.leave()
    await asyncio.sleep(0.5)
    before = memory(server.pid)
    with Meter(server.pid) as meter:
        await _join(crowd, server, tokens, sockets)
    await asyncio.sleep(0.5)
    heard.connect_us = meter.cpu / len(crowd) * 1e6
    heard.connection_kib = (memory(server.pid) - before) / len(crowd) / 1024
    writer = await connect(server.port, tokens[0])
    number = 0
    for _ in range(run.rounds):
        crowd.delays.clear()
        with Meter(server.pid) as meter:
            for _ in range(WRITES):
                number += 1
                mutation = {
                    "n": number,
                    "op": "patch",
                    "model": "task",
                    "id": "k",
                    "data": {"title": f"Change {number}"},
                    "base": {"title": f"Change {number - 1}" if number > 1 else "Hello"},
                }
                body = _encode({"client_id": "writer", "transactions": [{"mutations": [mutation]}]})
                crowd.expect(len(crowd))
                answer = await writer.ask("POST", "/v1/sync/batches", body)
                if answer.status != 200 or b'"applied"' not in answer.body:
                    raise RuntimeError(f"{answer.status} {answer.body[:500]!r}")
                await crowd.heard()
                await asyncio.sleep(PAUSE)
        _note(heard, crowd, meter, len(crowd) * WRITES)
    writer.close()
    crowd.leave()
    return heard


async def _own(run: Run, server: Server, tokens: list[str], admin: str) -> Heard:
    heard = Heard([], [], [])
    crowd = Crowd(COMPLETE)
    number = 0

    async def change() -> None:
        nonlocal number
        mutations = [{"n": number + i + 1, **_draft(i, number, "patch")} for i in range(len(tokens))]
        number += len(tokens)
        body = _encode({"client_id": "writer", "transactions": [{"mutations": mutations}]})
        await post(server.port, admin, "/v1/sync/batches", body)

    writes = 3
    await change()
    with Meter(server.pid) as meter:
        for _ in range(writes):
            await change()
    heard.writing_us = meter.cpu / writes / len(tokens) * 1e6
    await _join(crowd, server, tokens)
    for _ in range(run.rounds):
        crowd.delays.clear()
        with Meter(server.pid) as meter:
            for _ in range(writes):
                crowd.expect(len(crowd))
                await change()
                await crowd.heard()
                await asyncio.sleep(PAUSE)
        _note(heard, crowd, meter, len(crowd) * writes)
    heard.cpu_us = [cpu - heard.writing_us for cpu in heard.cpu_us]
    crowd.leave()
    return heard


def _note(heard: Heard, crowd: Crowd, meter: Meter, deliveries: int) -> None:
    delays = percentiles(crowd.delays)
    heard.cpu_us.append(meter.cpu / deliveries * 1e6)
    heard.p50.append(delays.p50)
    heard.p99.append(delays.p99)


def _draft(user: int, number: int, op: str) -> dict[str, object]:
    data: dict[str, object] = {"body": f"Draft {number} of user{user}"}
    if op == "put":
        data["owner_id"] = f"user{user}"
    return {"op": op, "model": "draft", "id": f"draft{user}", "data": data}
