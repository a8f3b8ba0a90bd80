"""Rate limits: GCRA, one number a key (ITU-T I.371 annex A, "generic cell rate algorithm").

A key's *arrival* is the time at which it would be unused again. What is asked for moves it on by its share
of the limit; a request that would move it further ahead of now than the burst allows is refused and moves
nothing. So a limit of 60 in 60 seconds gives 60 at once and then one a second, without windows at whose
edges twice as many pass.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from lowtide.kernel.clock import Clock

SLACK = 5e-4
"""Of one request: a sum of intervals is rarely exact."""
CELLS = 4096
"""Of the table that stands in for keys when there is no room for more; a power of two."""


class Limit(msgspec.Struct, frozen=True):
    """``count`` in ``seconds``, of which ``burst`` (None: all) at once. All are above zero."""

    count: int
    seconds: float
    burst: int | None = None

    def __post_init__(self) -> None:
        if self.count < 1 or self.seconds <= 0 or (self.burst is not None and self.burst < 1):
            raise ValueError("a limit is at least one in more than no time")

    @property
    def interval(self) -> float:
        """Seconds after which one more is free."""
        return self.seconds / self.count

    @property
    def most(self) -> int:
        """What may be taken at once when nothing was taken before."""
        return self.count if self.burst is None else self.burst

    def judge(self, ahead: float, cost: int, allowed: bool) -> Decision:
        """What is told of an arrival that is ``ahead`` seconds from now, after taking if ``allowed``."""
        interval, most = self.interval, self.most
        remaining = max(0, int(most + SLACK - ahead / interval))
        wait = 0.0 if allowed else max(0.0, ahead + (min(cost, most) - most) * interval)
        return Decision(allowed, remaining, wait, max(0.0, ahead))


class Decision(msgspec.Struct, frozen=True):
    """Whether something may happen now, and what is left."""

    allowed: bool
    remaining: int
    """How many more would be allowed now."""
    retry_after: float
    """Seconds until the same would be allowed; 0 when it was."""
    reset: float
    """Seconds until the limit is as good as new."""


class Gcra:
    """Limits of one process, in memory. Not for several threads.

    It keeps ``capacity`` keys, about 200 bytes each, and forgets only those whose time has passed, which is
    the same as new. When all of them are in use, *further* keys share ``CELLS`` cells, two each, and the
    lesser of the two counts: a flood of keys can then slow other new keys down, but it never makes a known
    key forgotten, so nobody can wash a limit away by asking under many names. A decision costs about 1 µs.
    """

    def __init__(self, clock: Clock, capacity: int = 100_000, *, cells: int = CELLS):
        """``cells``: a power of two."""
        self._monotonic = clock.monotonic
        self._capacity = capacity
        self._arrivals: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._cells = [0.0] * cells

    def __len__(self) -> int:
        return len(self._arrivals)

    def take(self, name: str, key: str, limit: Limit, cost: int = 1) -> Decision:
        """Take ``cost`` of ``limit`` for ``key``. ``name`` tells limits apart that see the same keys.

        A ``cost`` beyond the burst counts as the whole burst: it is allowed when nothing was taken.
        """
        now = self._monotonic()
        whose = (name, key)
        arrival = self._arrivals.get(whose)
        if arrival is None:
            return self._first(whose, limit, cost, now)
        interval = limit.seconds / limit.count
        most = limit.burst or limit.count
        ahead = arrival - now if arrival > now else 0.0
        taken = ahead + (cost if cost < most else most) * interval
        left = most + SLACK - taken / interval
        if left < 0:
            return limit.judge(ahead, cost, False)
        self._arrivals[whose] = now + taken
        return Decision(True, int(left), 0.0, taken)

    def _first(self, whose: tuple[str, str], limit: Limit, cost: int, now: float) -> Decision:
        """``take`` for a key that is not known: it is new, or there was no room for it."""
        cells = self._cells
        one, other = self._places(whose)
        ahead = max(0.0, min(cells[one], cells[other]) - now)
        step = min(cost, limit.most) * limit.interval
        taken = ahead + step
        if limit.most + SLACK < taken / limit.interval:
            return limit.judge(ahead, cost, False)
        if self._room(now):
            self._arrivals[whose] = now + taken
        else:
            cells[one] = max(cells[one], now + taken)
            cells[other] = max(cells[other], now + taken)
        return limit.judge(taken, cost, True)

    def _room(self, now: float) -> bool:
        """Forget a few keys whose time has passed, the oldest first; is there room for one more?"""
        arrivals = self._arrivals
        for _ in range(2 if len(arrivals) < self._capacity else 8):
            if not arrivals:
                break
            whose, arrival = next(iter(arrivals.items()))
            if arrival <= now:
                del arrivals[whose]
            else:
                arrivals.move_to_end(whose)
        return len(arrivals) < self._capacity

    def _places(self, whose: tuple[str, str]) -> tuple[int, int]:
        mask = len(self._cells) - 1
        # Python's hash of text is keyed anew in each process: nobody outside can aim at a cell.
        mixed = hash(whose)
        return mixed & mask, (mixed >> 24) & mask
