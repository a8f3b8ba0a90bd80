"""kill -9 under load: what was acknowledged is there exactly once, and nothing is there in parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.rounds import Broken, Dialect, World

ROUNDS = 5


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_what_was_acknowledged_survives_exactly_once(database: Dialect, tmp_path: Path) -> None:
    """Five crashes under load, of the server or of PostgreSQL: no loss, no double, no half, no difference."""
    with World(tmp_path, database, seed=7) as world:
        rounds = [world.round() for _ in range(ROUNDS)]
    assert rounds[-1].acknowledged > 100
    assert rounds[-1].refused > 10
    assert sum(round.unknown for round in rounds) > 0
    if database == "postgres":
        assert {round.crash for round in rounds} == {"server", "database", "both"}


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("forgets", "were counted as|batch_gap"),
        ("hurries", "was acknowledged and is gone"),
        ("tears", "refused and is there"),
    ],
)
def test_the_rounds_find_a_planted_fault(fault: str, told: str, tmp_path: Path) -> None:
    """A server that applies twice, that answers too early or that tears transactions is caught."""
    with World(tmp_path, "sqlite", seed=3, fault=fault) as world, pytest.raises(Broken, match=told):
        all(world.round() for _ in range(6))
