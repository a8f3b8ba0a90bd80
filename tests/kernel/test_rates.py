"""GCRA: what a limit lets through, and what nobody can wash away."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowtide.kernel.clock import ManualClock
from lowtide.kernel.rates import Gcra, Limit

TEN = Limit(10, 60)


def test_a_burst_then_an_even_flow(clock: ManualClock) -> None:
    """All at once, then one for each interval; nothing more."""
    rates = Gcra(clock)
    assert [rates.take("a", "k", TEN).remaining for _ in range(10)] == list(range(9, -1, -1))
    refused = rates.take("a", "k", TEN)
    assert (refused.allowed, refused.remaining) == (False, 0)
    assert refused.retry_after == pytest.approx(6)
    assert refused.reset == pytest.approx(60)
    clock.advance(5.9)
    assert not rates.take("a", "k", TEN).allowed
    clock.advance(0.1)
    assert rates.take("a", "k", TEN).allowed
    assert not rates.take("a", "k", TEN).allowed


def test_a_refusal_takes_nothing(clock: ManualClock) -> None:
    """Who hammers waits no longer than who does not."""
    rates = Gcra(clock)
    decisions = [rates.take("a", "k", TEN) for _ in range(1_000)]
    assert decisions[-1].retry_after == pytest.approx(6)


def test_keys_and_names_are_apart(clock: ManualClock) -> None:
    """One key's use is not another's, nor the same key's under another name."""
    rates = Gcra(clock)
    for _ in range(10):
        rates.take("a", "k", TEN)
    assert not rates.take("a", "k", TEN).allowed
    assert rates.take("a", "l", TEN).allowed
    assert rates.take("b", "k", TEN).allowed


def test_a_burst_smaller_than_the_count(clock: ManualClock) -> None:
    """``burst`` bounds what passes at once; the long-run rate stays."""
    rates = Gcra(clock)
    limit = Limit(60, 60, burst=2)
    assert [rates.take("a", "k", limit).allowed for _ in range(3)] == [True, True, False]
    clock.advance(1)
    assert [rates.take("a", "k", limit).allowed for _ in range(2)] == [True, False]


def test_costs_count(clock: ManualClock) -> None:
    """A cost takes as many; one beyond the burst takes all there is, and needs all of it."""
    rates = Gcra(clock)
    assert rates.take("a", "k", TEN, 4).remaining == 6
    refused = rates.take("a", "k", TEN, 7)
    assert not refused.allowed
    assert refused.retry_after == pytest.approx(6)
    assert refused.remaining == 6
    assert not rates.take("a", "k", TEN, 1_000).allowed
    assert rates.take("a", "other", TEN, 1_000).allowed


@pytest.mark.parametrize(("count", "seconds", "burst"), [(0, 1, None), (1, 0, None), (1, 1, 0), (-1, 1, 1)])
def test_a_limit_that_cannot_be_is_refused(count: int, seconds: float, burst: int | None) -> None:
    """A limit of nothing is a mistake, not a lock."""
    with pytest.raises(ValueError, match="a limit is"):
        Limit(count, seconds, burst)


@given(
    count=st.integers(1, 50),
    seconds=st.floats(0.5, 100),
    burst=st.none() | st.integers(1, 50),
    steps=st.lists(st.tuples(st.floats(0, 30), st.integers(1, 5)), max_size=60),
)
def test_no_window_passes_more_than_the_limit(
    count: int, seconds: float, burst: int | None, steps: list[tuple[float, int]]
) -> None:
    """In any span of time at most the burst and the flow of that span pass; what is told comes true."""
    clock = ManualClock()
    limit = Limit(count, seconds, burst)
    rates = Gcra(clock)
    passed: list[tuple[float, int]] = []
    for pause, cost in steps:
        clock.advance(pause)
        decision = rates.take("a", "k", limit, cost)
        if decision.allowed:
            passed.append((clock.monotonic(), min(cost, limit.most)))
        else:
            assert 0 < decision.retry_after <= limit.most * limit.interval * 1.001
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            span = passed[last][0] - passed[first][0]
            taken = sum(cost for _, cost in passed[first : last + 1])
            assert taken <= limit.most + span / limit.interval + 0.01


def test_waiting_as_told_is_enough(clock: ManualClock) -> None:
    """After ``retry_after`` seconds the same request passes."""
    rates = Gcra(clock)
    for cost in (3, 5, 7, 10):
        while (decision := rates.take("a", f"k{cost}", TEN, cost)).allowed:
            pass
        clock.advance(decision.retry_after + 1e-9)
        assert rates.take("a", f"k{cost}", TEN, cost).allowed


class TestCapacity:
    def test_memory_is_bounded(self, clock: ManualClock) -> None:
        """However many keys ask, no more than the capacity are kept."""
        rates = Gcra(clock, 100)
        for number in range(5_000):
            rates.take("a", str(number), TEN)
        assert len(rates) == 100

    def test_a_flood_of_keys_resets_no_limit(self, clock: ManualClock) -> None:
        """A key that used its limit up stays refused, whatever else is asked for meanwhile."""
        rates = Gcra(clock, 100)
        for _ in range(10):
            rates.take("a", "attacker", TEN)
        for number in range(5_000):
            rates.take("a", str(number), TEN)
        assert not rates.take("a", "attacker", TEN).allowed

    def test_a_key_without_room_is_limited_too(self, clock: ManualClock) -> None:
        """When the table is full of keys in use, a new key still gets its limit and no more."""
        rates = Gcra(clock, 100, cells=1024)
        for number in range(100):
            rates.take("a", str(number), TEN)
        allowed = [rates.take("a", "late", TEN).allowed for _ in range(50)]
        assert allowed == [True] * 10 + [False] * 40
        # Nor does it begin anew when there is room again.
        clock.advance(6)
        assert [rates.take("a", "late", TEN).allowed for _ in range(3)] == [True, False, False]

    def test_keys_out_of_use_make_room(self, clock: ManualClock) -> None:
        """What is as good as new is forgotten, so that a day's visitors do not fill the table."""
        rates = Gcra(clock, 100)
        for number in range(100):
            rates.take("a", str(number), TEN)
        clock.advance(60)
        for number in range(1_000, 1_060):
            rates.take("a", str(number), TEN)
            clock.advance(0.01)
        assert len(rates) <= 100
        assert rates.take("a", "new", TEN).remaining == 9

    def test_an_idle_table_shrinks(self, clock: ManualClock) -> None:
        """Each new key forgets two old ones."""
        rates = Gcra(clock, 1_000)
        for number in range(900):
            rates.take("a", str(number), TEN)
        clock.advance(3_600)
        for number in range(1_000):
            rates.take("a", f"new {number}", Limit(10, 0.001))
            clock.advance(1)
        assert len(rates) < 10
