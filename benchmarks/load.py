"""Constant load: connections that each send the next request as soon as the last was answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import msgspec

from benchmarks.client import Answer, Wire
from benchmarks.meter import Meter

Ask = Callable[[int, int], bytes | None]
"""(connection, number of its request from 0 on) -> body."""
Path = str | Callable[[int, int], str]
"""Where to ask; a path that differs is made as a body is."""
Check = Callable[[Answer], None]

WARM_REQUESTS = 3
"""Requests of each connection before anything is measured."""


class Load(msgspec.Struct, frozen=True):
    """What the rounds gave."""

    cpu_us: list[float]
    wall_rates: list[float]


async def drive(
    pids: Sequence[int],
    wires: Sequence[Wire],
    path: Path,
    ask: Ask,
    check: Check,
    *,
    units: int,
    rounds: int,
    seconds: float,
    method: str = "POST",
) -> list[Load]:
    """Rounds of ``seconds`` each; CPU of each of ``pids`` per unit, of which a request has ``units``.

    Raises what ``check`` raises for an answer that is not as it should be.
    """
    sent = [0] * len(wires)

    async def one(i: int, until: float, most: int) -> int:
        count = 0
        while count < most and time.perf_counter() < until:
            body = ask(i, sent[i])
            where = path if isinstance(path, str) else path(i, sent[i])
            sent[i] += 1
            check(await wires[i].ask(method, where, body))
            count += 1
        return count

    async def together(until: float, most: int = 1 << 60) -> int:
        return sum(await asyncio.gather(*(one(i, until, most) for i in range(len(wires)))))

    await together(time.perf_counter() + seconds, WARM_REQUESTS)
    loads = [Load([], []) for _ in pids]
    for _ in range(rounds):
        meters = [Meter(pid) for pid in pids]
        for meter in meters:
            meter.__enter__()
        count = units * await together(time.perf_counter() + seconds)
        for meter, load in zip(meters, loads, strict=True):
            meter.__exit__(None, None, None)
            load.cpu_us.append(meter.cpu / count * 1e6)
            load.wall_rates.append(count / meter.wall)
    return loads


def created(answer: Answer) -> None:
    """Any success."""
    if answer.status not in (200, 201):
        raise RuntimeError(f"{answer.status} {answer.body[:500]!r}")
