"""Time, from one place, so that a test can set it.

``Stamp`` is the hybrid logical time of a write: what orders two writes of one field that did not
know of each other (Kulkarni et al., "Logical Physical Clocks", 2014). A device's clock may be
wrong by decades; ``corrected`` brings its times onto the server's clock.
"""

from __future__ import annotations

import time
from typing import Protocol

Stamp = tuple[int, str]
"""(milliseconds since 1970 on the server's clock, client_id that breaks ties). Later compares greater."""

FIRST: Stamp = (0, "")
"""Before every stamp."""

TRAVEL = 10_000
"""Milliseconds that an upload may be on its way: a connection, its TLS and a few lost packets over EDGE.
A phone's network sets its clock more exactly than that."""


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> int:
        """Milliseconds since 1970-01-01 UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards; for deadlines and intervals."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that a test moves by hand; it only moves when told."""

    def __init__(self, now: int = 1_790_000_000_000):
        self._now = now
        self._monotonic = 0.0

    def now(self) -> int:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Move both clocks on by ``seconds``."""
        self._now += int(seconds * 1000)
        self._monotonic += seconds


def corrected(written: int | None, sent: int | None, now: int) -> int:
    """When a device's write happened, on the server's clock.

    ``written`` and ``sent`` are the device's own clock at the write and at the upload, ``now`` the
    server's at the arrival, all in milliseconds. An upload that seems to come from up to ``TRAVEL``
    ago is one that travelled so long, and the device's clock is believed as it is; else two phones
    side by side would be ordered by whose network was slower. For any other only the difference of
    the device's two times is believed: a phone that thinks it is 1970 or 2100 orders its writes as
    well as any other. The result is never later than ``now``, and a write without a time happened now.
    """
    if written is None:
        return now
    if sent is None:
        return max(0, min(written, now))
    arrived = sent if 0 <= now - sent <= TRAVEL else now
    return max(0, arrived - max(0, sent - written))
