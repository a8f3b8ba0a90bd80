"""Peers: other servers that do the nearest same work, in the same run."""

from __future__ import annotations

from typing import Protocol

from benchmarks.run import Run


class Peer(Protocol):
    """One peer, installed."""

    def measure(self, run: Run, area: str) -> None: ...


def prepare(run: Run) -> list[Peer]:
    """The peers that could be installed; for the others a row says why not."""
    return []
