"""What was measured: a row is one number, how it was reached and what it is held against."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import msgspec

LOWTIDE = "lowtide"
CPU = "µs CPU"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One number of one subject. Rows of the same ``area`` and ``name`` are the same work."""

    area: str
    name: str
    subject: str = LOWTIDE
    measure: str = CPU
    """What the number counts: ``µs CPU`` of the server and its children, ``ms``, ``MB``, ``KiB``, …"""
    per: str = ""
    """The unit of work: ``mutation``, ``row``, ``delivery``; nothing for a whole."""
    rounds: Sequence[float] = ()
    """The number in each round; none when it could not be measured."""
    limit: float | None = None
    """The budget: at most this, in the same measure."""
    wall_rates: Sequence[float] = ()
    """Units a second by the clock on the wall, in each round: a floor on a shared machine."""
    memory_mb: float | None = None
    """What the process holds afterwards."""
    note: str = ""

    @property
    def value(self) -> float | None:
        """The median of the rounds."""
        return statistics.median(self.rounds) if self.rounds else None

    @property
    def spread(self) -> float | None:
        """Half the distance between the best and the worst round, as a share of the median."""
        if len(self.rounds) < 2 or not self.value:
            return None
        return (max(self.rounds) - min(self.rounds)) / 2 / self.value

    @property
    def per_core(self) -> float | None:
        """Units a second that one core serves if it does nothing else."""
        return 1e6 / self.value if self.value and self.measure == CPU else None

    @property
    def wall_rate(self) -> float | None:
        return statistics.median(self.wall_rates) if self.wall_rates else None

    @property
    def missed_by(self) -> float | None:
        """How far beyond the budget, as a share of it; negative when it holds. None without a budget."""
        if self.limit is None or self.value is None:
            return None
        return self.value / self.limit - 1


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows with what follows from them; Lowtide's name their peers' figures."""
    out = []
    for row in rows:
        built = msgspec.to_builtins(row) | {
            "value": row.value,
            "spread": row.spread,
            "per_core": row.per_core,
            "wall_rate": row.wall_rate,
        }
        if row.subject == LOWTIDE:
            built["holds"] = None if row.missed_by is None else row.missed_by <= 0
            built["missed_by"] = row.missed_by
            built["peers"] = {
                peer.subject: peer.value for peer in rows if peer.subject != LOWTIDE and same(row, peer)
            }
        out.append(built)
    return out


def same(row: Row, other: Row) -> bool:
    """Is it the same work?"""
    return (row.area, row.name, row.measure) == (other.area, other.name, other.measure)
