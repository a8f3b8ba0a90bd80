"""A reconnect storm: the server was restarted, and every device comes back in the same moment.

Each says what it holds, and is told that nothing is missing. A device that is answered 503 waits for the
seconds of Retry-After, as the SDKs wait before they try again.
"""

from __future__ import annotations

import asyncio
import time

import msgspec
import uvloop

from benchmarks.client import Wire, connect
from benchmarks.live import COMPLETE, stream_request
from benchmarks.meter import Meter, memory
from benchmarks.rows import Row
from benchmarks.run import Run, Server
from benchmarks.uploads import write

TEAMS = 50
TASKS = 1_000
PATIENCE = 60.0


class Evidence(msgspec.Struct, frozen=True):
    """What a device holds."""

    buckets: list[dict[str, str]]


class Storm(msgspec.Struct):
    """What one storm gave."""

    cpu_us: float
    seconds: float
    refused: int


def measure(run: Run) -> None:
    count = run.devices
    run.say(f"{count:,} devices")
    with run.server() as server:
        tokens = [server.token(f"user{i}") for i in range(count)]
        members: list[dict[str, object]] = [
            {
                "op": "put",
                "model": "membership",
                "id": f"m{i}",
                "data": {"user_id": f"user{i}", "team_id": f"t{i % TEAMS}"},
            }
            for i in range(count)
        ]
        tasks: list[dict[str, object]] = [
            {
                "op": "put",
                "model": "task",
                "id": f"k{i}",
                "data": {"team_id": f"t{i % TEAMS}", "title": f"Task {i}"},
            }
            for i in range(TASKS)
        ]
        write(server, [*members, *tasks])
        evidence = uvloop.run(_first(server, tokens))
        storms = []
        held = 0.0
        for _ in range(min(3, run.rounds)):
            server.stop()
            server.start()
            run.say(f"{count:,} devices come back")
            storm, held = uvloop.run(_storm(server, tokens, evidence))
            storms.append(storm)
    name = f"{count:,} devices at once"
    rows = (
        Row(
            area="reconnect",
            name=name,
            per="device",
            rounds=[storm.cpu_us for storm in storms],
            wall_rates=[count / storm.seconds for storm in storms],
            memory_mb=held / 1e6,
        ),
        Row(
            area="reconnect",
            name=f"{name}: all are synced",
            measure="s",
            rounds=[storm.seconds for storm in storms],
        ),
        Row(
            area="reconnect",
            name=f"{name}: answers 503",
            measure="answers",
            rounds=[float(storm.refused) for storm in storms],
        ),
    )
    for row in rows:
        run.add(row)


class _Device:
    """A connection until it is in sync."""

    def __init__(self) -> None:
        self.synced = asyncio.get_running_loop().create_future()
        self.heard = b""

    def hear(self, data: bytes) -> None:
        self.heard += data
        if COMPLETE in data and not self.synced.done():
            self.synced.set_result(None)


async def _first(server: Server, tokens: list[str]) -> list[Evidence]:
    """What each device holds after its first sync."""
    evidence = []
    for i, token in enumerate(tokens):
        wire = await connect(server.port, token)
        device = _Device()
        await wire.listen(device.hear, "POST", "/sync/stream", stream_request(f"device{i}"))
        await asyncio.wait_for(device.synced, PATIENCE)
        wire.close()
        checkpoint = msgspec.json.decode(device.heard.split(b"\n", 1)[0])["checkpoint"]
        after = checkpoint["last_op_id"]
        evidence.append(Evidence([{"name": b["bucket"], "after": after} for b in checkpoint["buckets"]]))
    return evidence


async def _storm(server: Server, tokens: list[str], evidence: list[Evidence]) -> tuple[Storm, float]:
    storm = Storm(0.0, 0.0, 0)
    wires: list[Wire] = []
    bodies = [stream_request(f"device{i}", held.buckets) for i, held in enumerate(evidence)]

    async def come_back(i: int) -> None:
        while True:
            wire = await connect(server.port, tokens[i])
            wires.append(wire)
            device = _Device()
            answer = await wire.listen(device.hear, "POST", "/sync/stream", bodies[i])
            if answer.status == 200:
                await device.synced
                if b'"data"' in device.heard:
                    raise RuntimeError(f"device {i} was sent data: {device.heard[:500]!r}")
                return
            if answer.status != 503:
                raise RuntimeError(f"device {i}: {answer.status} {answer.body[:500]!r}")
            storm.refused += 1
            wire.close()
            await asyncio.sleep(float(answer.headers.get("retry-after", "5")))

    with Meter(server.pid) as meter:
        began = time.perf_counter()
        await asyncio.wait_for(asyncio.gather(*(come_back(i) for i in range(len(tokens)))), PATIENCE)
        storm.seconds = time.perf_counter() - began
    storm.cpu_us = meter.cpu / len(tokens) * 1e6
    held = memory(server.pid)
    for wire in wires:
        wire.close()
    return storm, held
