"""Exactly once, also for a device whose database was copied or put back."""

from __future__ import annotations

from typing import Any

import pytest

from lowtide import App, Counter, anyone, everyone
from lowtide.kernel.errors import BatchRepeated
from lowtide.sync import receipts, store
from tests.sync.conftest import Engine, Open

pytestmark = pytest.mark.anyio

app = App("tallies")


@app.model
class Tally:
    """Whatever is applied twice counts twice."""

    votes = Counter()
    write = anyone


app.stream("all", carries=[Tally], keys=everyone)
SCHEMA = app.compile()


def vote(n: int, by: int = 1) -> list[dict[str, Any]]:
    """A transaction that adds ``by``."""
    return [{"n": n, "op": "patch", "model": "tally", "id": "t", "data": {"votes": by}, "base": {"votes": 0}}]


async def votes(engine: Engine) -> int:
    rows = await engine.rows("ann")
    return int(rows[("tally", "t")]["votes"])


async def start(open_engine: Open) -> Engine:
    engine = await open_engine(SCHEMA)
    await engine.send("bob", "other", [[{"n": 1, "op": "put", "model": "tally", "id": "t", "data": {}}]])
    return engine


async def test_a_batch_of_an_older_lineage_that_arrives_late_is_applied_once(open_engine: Open) -> None:
    """The network held a copy back while the device was restored and went on under a new lineage."""
    engine = await start(open_engine)
    first = await engine.send("ann", "phone", [vote(1), vote(2)])
    await engine.send("ann", "phone", [vote(2)], lineage="restored")
    late = await engine.send("ann", "phone", [vote(1), vote(2)])
    assert late == first
    again = await engine.send("ann", "phone", [vote(2)], lineage="restored")
    assert [result.n for result in again.results] == [2]
    assert await votes(engine) == 3


async def test_copies_of_one_device_do_not_disturb_each_other(open_engine: Open) -> None:
    """Two phones from one backup take turns and repeat what got no answer: each change counts once."""
    engine = await start(open_engine)
    for n in (1, 2, 3):
        for lineage in ("", "copy"):
            answers = [await engine.send("ann", "phone", [vote(n)], lineage=lineage) for _ in range(2)]
            assert answers[0] == answers[1]
        assert (await engine.send("ann", "phone", [vote(n)])).last == n
    assert await votes(engine) == 6


async def test_a_repeat_may_be_cut_into_other_batches(open_engine: Open) -> None:
    """An app that was updated between two tries sends smaller batches: the same numbers, each once."""
    engine = await start(open_engine)
    await engine.send("ann", "phone", [vote(1), vote(2), vote(3)])
    assert [r.n for r in (await engine.send("ann", "phone", [vote(1)])).results] == [1]
    assert [r.n for r in (await engine.send("ann", "phone", [vote(2)])).results] == [2]
    assert [r.n for r in (await engine.send("ann", "phone", [vote(3), vote(4)])).results] == [3, 4]
    assert await votes(engine) == 4
    with pytest.raises(BatchRepeated):
        await engine.send("ann", "phone", [vote(2)])
    with pytest.raises(BatchRepeated):
        await engine.send("ann", "phone", [vote(3, by=9)])


@pytest.mark.parametrize("differs", [{"at": 5}, {"base": {"votes": 1}}, {"metadata": "mine"}])
async def test_an_equal_value_written_by_another_copy_is_no_repeat(
    open_engine: Open, differs: dict[str, Any]
) -> None:
    """Two phones from one backup each count one up: the same number, the same value, two votes."""
    engine = await start(open_engine)
    (first,) = vote(1)
    await engine.send("ann", "phone", [[first | {"at": 4}]])
    with pytest.raises(BatchRepeated) as caught:
        await engine.send("ann", "phone", [[first | {"at": 4} | differs]])
    assert caught.value.details == {"expected": 2, "known": 0}
    assert await votes(engine) == 1


async def test_a_copy_hears_which_of_its_changes_the_other_has_uploaded(open_engine: Open) -> None:
    """What stood in the queue when the phone was copied counts once, whole transactions only."""
    engine = await start(open_engine)
    pair = [*vote(3), *vote(4)]
    await engine.send("ann", "phone", [vote(1), vote(2), pair])
    for sent, known in (
        ([vote(1), vote(2), vote(3, by=9)], 2),
        ([vote(2), [*vote(3), *vote(4, by=9)], vote(5)], 2),
        ([vote(2), [*vote(3), *vote(4), *vote(5)]], 2),
        ([vote(2, by=9), pair], 0),
    ):
        with pytest.raises(BatchRepeated) as caught:
            await engine.send("ann", "phone", sent)
        assert caught.value.details["known"] == known
    assert await votes(engine) == 4


async def test_lineages_that_are_kept_are_bounded(open_engine: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that invents lineages without end costs a bounded row."""
    monkeypatch.setattr(receipts, "MAX_LINEAGES", 3)
    engine = await start(open_engine)
    for number in range(6):
        await engine.send("ann", "phone", [vote(1)], lineage=str(number))
    key = ("main", "ann", "phone")
    devices = await engine.sync.database.write(lambda tx: store.lock_devices(tx, [key]))
    assert list(devices[key].answers) == ["3", "4", "5"]


async def test_copies_that_use_the_same_checkpoint_number_do_not_hear_of_each_others_uploads(
    open_engine: Open,
) -> None:
    """A number that was heard for one copy's upload is not said to the other before its own is there."""
    engine = await start(open_engine)
    ask = engine.sync.request_checkpoint
    await engine.send("ann", "phone", [vote(1)])
    first = await ask(engine.who("ann"), "phone", 50)
    assert first == 50
    assert await ask(engine.who("ann"), "phone", 50) == 50
    await engine.send("ann", "phone", [vote(1)], lineage="copy")
    second = await ask(engine.who("ann"), "phone", 50)
    assert second > 50
    assert await ask(engine.who("ann"), "phone", second) == second


async def test_a_device_that_begins_to_count_its_checkpoint_requests_goes_on_from_the_groups(
    open_engine: Open,
) -> None:
    """An updated app was told numbers of the other kind, and may still wait for one: the first of the new
    kind is greater, so that none of the old is taken for it."""
    engine = await start(open_engine)
    applied = await engine.send("ann", "phone", [vote(1)])
    waits_for = await engine.sync.write_checkpoint(engine.who("ann"), "phone")
    assert waits_for == int(applied.head)
    await engine.send("bob", "other", [vote(2)])
    lines = await engine.lines("ann", "phone")
    told = int(lines[0]["checkpoint"]["write_checkpoint"])
    assert told > waits_for
    assert await engine.sync.request_checkpoint(engine.who("ann"), "phone", 1) > told
