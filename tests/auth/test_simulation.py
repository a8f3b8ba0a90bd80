"""Months of refreshes over bad networks: nobody is signed out by the network, and no thief rides along."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from lowtide.auth.refresh import Rotation, Verdict, judge
from lowtide.auth.sessions import Judge
from lowtide.kernel.clock import ManualClock
from lowtide.kernel.ids import SeededIds
from lowtide.storage.db import Database
from tests.auth.simulation import Report, live
from tests.auth.world import World, opened

pytestmark = pytest.mark.anyio

Run = Callable[..., Awaitable[Report]]


@pytest.fixture
async def run(sqlite_database: Database, clock: ManualClock, ids: SeededIds) -> Run:
    """Phones with these seeds, refreshes judged by this rule."""

    async def phones(
        seeds: range, *, loss: float, thief: bool, rule: Judge = judge, ids_sent: bool = True
    ) -> Report:
        report = Report(wronged=[], unnoticed=[])
        async with opened(sqlite_database, clock, ids, judge=rule) as world:
            assert isinstance(world, World)
            for seed in seeds:
                await live(world, seed, report, loss=loss, rounds=40, thief=thief, ids=ids_sent)
        return report

    return phones


@pytest.mark.parametrize("loss", [0.01, 0.1, 0.3])
async def test_no_network_signs_a_user_out(run: Run, loss: float) -> None:
    """Lost requests, lost answers, late copies, restarts, long pauses: not one wrong sign-out."""
    report = await run(range(12), loss=loss, thief=False)
    assert report.wronged == []
    assert report.refreshes >= 12 * 40
    assert loss < 0.1 or report.repeats > 10


@pytest.mark.parametrize("loss", [0.01, 0.1])
async def test_a_thief_is_caught_at_once(run: Run, loss: float) -> None:
    """Once both have used a copied token the session is over, whoever was first."""
    report = await run(range(40), loss=loss, thief=True)
    assert report.thefts == 40
    assert report.unnoticed == []
    assert report.wronged == []


def strict(kept: Rotation, counter: int, rotation: str | None, now: int) -> Verdict:
    """As many servers do: a token is good once."""
    return "rotate" if counter == kept.counter else "reuse"


def ten_minutes(kept: Rotation, counter: int, rotation: str | None, now: int) -> Verdict:
    """A grace of time, which a phone in a pocket outlasts."""
    if counter == kept.counter - 1 and now - kept.at <= 600_000:
        return "repeat"
    return strict(kept, counter, rotation, now)


def lenient(kept: Rotation, counter: int, rotation: str | None, now: int) -> Verdict:
    """The parent is good until its child was used, for everybody."""
    return "repeat" if counter == kept.counter - 1 else strict(kept, counter, rotation, now)


@pytest.mark.parametrize("rule", [strict, ten_minutes])
async def test_the_checker_finds_who_is_wronged(run: Run, rule: Judge) -> None:
    """A rule that signs users out for a lost answer is found out."""
    report = await run(range(10), loss=0.1, thief=False, rule=rule)
    assert report.wronged != []


async def test_the_checker_finds_a_thief_who_rides_along(run: Run) -> None:
    """A rule that repeats for everybody is found out, although it wrongs nobody."""
    assert (await run(range(5), loss=0.1, thief=False, rule=lenient)).wronged == []
    assert (await run(range(15), loss=0.1, thief=True, rule=lenient)).unnoticed != []


async def test_without_rotation_ids_the_checker_says_so(run: Run) -> None:
    """What a plain OAuth client risks on a bad network, and why phones send rotation ids."""
    assert (await run(range(10), loss=0.1, thief=False, ids_sent=False)).wronged != []
