"""What one process takes on at a time, and for how long.

``Load`` counts; what is beyond it is refused at once with 503 and never queued, because a queue only
makes the same refusal later and dearer. ``Deadlines`` ends work that takes too long: one timer for the
whole process that looks four times a second, since a timer per request costs more than the request's
routing (measured: 3 to 9 µs with uvloop).
"""

from __future__ import annotations

import asyncio
import math
from typing import cast

import msgspec

from lowtide.kernel.errors import Busy
from lowtide.kernel.http import MIB

TICK = 0.25
"""Seconds between two looks: a deadline fires this much late at most."""

LAST, MIDDLE, FIRST = 0, 1, 2
"""Which requests are refused first: FIRST those without a token, LAST the sync of who is signed in."""
SHARES = (1.0, 0.85, 0.6)
"""How much of each bound the three may use up."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The edge's bounds; ``docs/reference/limits.md`` lists them."""

    requests: int = 4_000
    """Handlers running at a time; health checks and open streams do not count. As many devices may come
    back at once after a restart: 25 KiB and 1 ms of CPU each (measured)."""
    streams: int = 10_000
    """Open streams."""
    user_streams: int = 500
    """Open streams of one user, over all devices; the app's own servers have no such bound."""
    buffered: int = 256 * MIB
    """Bytes of bodies that are being read or worked on, decompressed, over all requests."""
    body_start: float = 15.0
    """Seconds in which a body may come as slowly as it likes ..."""
    body_rate: int = 1024
    """... and bytes a second that it must reach afterwards, on average, or it is answered 408."""
    body_time: float = 300.0
    """Seconds after which a body must be there, however fast it came."""
    depth: int = 32
    """Nesting of JSON."""
    late: float = 2.0
    """Seconds by which the event loop may run late before requests without a token are refused."""


class Load:
    """How much is going on now, and who is refused when it is too much.

    The last part of every bound is kept for those who are signed in, and the very last for their sync: a
    flood of requests without a token is refused while devices go on. It is also refused when the event loop
    runs late, because then the processor is the bound.
    """

    __slots__ = (
        "_buffers",
        "_requests",
        "buffered",
        "draining",
        "late",
        "limits",
        "refused",
        "requests",
        "streams",
    )

    def __init__(self, limits: Limits | None = None):
        self.limits = limits or Limits()
        self.draining = False
        """The server is stopping: not ready, and every stream is asked to end."""
        self.requests = 0
        self.streams = 0
        self.buffered = 0
        self.refused = 0
        self.late = 0.0
        """Seconds by which the event loop ran late, of the last looks."""
        self._requests = tuple(math.ceil(self.limits.requests * share) for share in SHARES)
        self._buffers = tuple(math.ceil(self.limits.buffered * share) for share in SHARES)

    def check(self, rank: int = LAST) -> None:
        """Raises ``Busy`` when no further request of ``rank`` can be worked on now."""
        if self.requests >= self._requests[rank] or (rank == FIRST and self.late > self.limits.late):
            self.refuse("requests")

    def check_streams(self) -> None:
        """Raises ``Busy`` when no further stream can be opened."""
        if self.streams >= self.limits.streams:
            self.refuse("streams")

    def buffer(self, size: int, rank: int) -> None:
        """Take ``size`` bytes of the room for bodies. Raises ``Busy``. Give them back with ``release``."""
        if self.buffered + size > self._buffers[rank]:
            self.refuse("bodies")
        self.buffered += size

    def release(self, size: int) -> None:
        """Give back what ``buffer`` took."""
        self.buffered -= size

    def refuse(self, what: str) -> None:
        """Count a refusal and raise ``Busy``."""
        self.refused += 1
        raise Busy(f"The server has too many {what} at the moment.")


class Deadline:
    """A time by which a task must have moved on. ``due`` may be set anew at any time, at no cost."""

    __slots__ = ("due", "passed", "task")

    def __init__(self, task: asyncio.Task[object], due: float):
        self.task = task
        self.due = due
        self.passed = False


class Deadlines:
    """Cancels the tasks whose deadline has passed.

    The owner of a ``Deadline`` sees ``CancelledError`` with ``passed`` set, and must then call
    ``task.uncancel()`` and go on; or, with ``passed`` not set, let it through.
    """

    def __init__(self, load: Load):
        """``load`` is told by how much the event loop runs late."""
        self._live: set[Deadline] = set()
        self._ticking = False
        self._load = load
        self._planned = 0.0

    def begin(self, seconds: float) -> Deadline:
        """Start a deadline for the current task. End it with ``end``, always."""
        loop = asyncio.get_running_loop()
        task = cast("asyncio.Task[object]", asyncio.current_task())
        deadline = Deadline(task, loop.time() + seconds)
        self._live.add(deadline)
        if not self._ticking:
            self._ticking = True
            self._plan(loop)
        return deadline

    def again(self, deadline: Deadline, seconds: float) -> None:
        """Move ``deadline`` to ``seconds`` from now."""
        deadline.due = asyncio.get_running_loop().time() + seconds

    def end(self, deadline: Deadline) -> None:
        """The task has moved on. A second call does nothing."""
        self._live.discard(deadline)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for deadline in [one for one in self._live if one.due <= now]:
            self._live.discard(deadline)
            deadline.passed = True
            deadline.task.cancel()
        self._ticking = bool(self._live)
        # Halved with each look: one long pause is forgotten within a second or two.
        late = (self._load.late + now - self._planned) / 2
        self._load.late = late if self._ticking else 0.0
        if self._ticking:
            self._plan(loop)

    def _plan(self, loop: asyncio.AbstractEventLoop) -> None:
        self._planned = loop.time() + TICK
        loop.call_later(TICK, self._tick, loop)
