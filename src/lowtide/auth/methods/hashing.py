"""Argon2id, off the event loop and never more of it than this machine can do.

A hash is meant to be dear: about 26 ms of one core and 19 MiB (OWASP's parameters, RFC 9106). So hashes
have threads of their own, as many as there are cores, at a lower priority than what serves everybody
else; behind them waits a bounded queue. What does not fit is refused at once.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from lowtide.kernel.errors import Busy
from lowtide.kernel.ids import Ids

MEMORY = 19 * 1024
"""KiB of one hash."""
PASSES = 2
LANES = 1
SALT = 16
"""Bytes."""
LENGTH = 32
"""Bytes of the hash itself."""
MAX_WAITING = 16
"""Hashes that wait for each thread: under half a second of work."""
NICE = 10
"""Added to the threads' niceness, where threads have one of their own."""

T = TypeVar("T")


class Hasher:
    """Hashes passwords. ``close`` it."""

    def __init__(self, ids: Ids, *, threads: int | None = None, waiting: int = MAX_WAITING):
        """``threads``: None for one a core. ``waiting``: for each of them."""
        self._ids = ids
        self._threads = threads or os.cpu_count() or 1
        self._most = self._threads * (1 + waiting)
        self._under_way = 0
        self._pool: ThreadPoolExecutor | None = None
        self.begun = 0
        """Hashes computed since the start, those of passwords that nobody has among them."""

    def check(self) -> None:
        """Raise ``Busy`` if a hash would be refused now: before anything else is done for it."""
        if self._under_way >= self._most:
            raise Busy("Too many passwords are being checked.", retry_after=1 + self._ids.jitter(0, 2))

    async def hash(self, password: str) -> str:
        """A hash to keep, in the PHC string format, with a salt of its own. Raises ``Busy``."""
        salt = bytes.fromhex(self._ids.token())[:SALT]
        return await self._run(lambda: _hash(password, salt))

    async def verify(self, kept: str | None, password: str) -> bool:
        """Was ``kept`` made from ``password``? With None: the same work, and never. Raises ``Busy``."""
        salt = bytes.fromhex(self._ids.token())[:SALT]

        def work() -> bool:
            if kept is not None:
                return _verify(kept, password)
            _hash(password, salt)
            return False

        return await self._run(work)

    def stale(self, kept: str) -> bool:
        """Was ``kept`` made with other parameters than those of today?"""
        return not kept.startswith(f"$argon2id$v=19$m={MEMORY},t={PASSES},p={LANES}$")

    def close(self) -> None:
        """Let what runs finish; what waits is not begun."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        self.check()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, "lowtide-hash", initializer=_step_back)
        self._under_way += 1
        self.begun += 1
        # A caller that is gone gives its place back; what has not begun then never does.
        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        future.add_done_callback(self._over)
        return await future

    def _over(self, _: object) -> None:
        self._under_way -= 1


def _hash(password: str, salt: bytes) -> str:
    from argon2.low_level import Type, hash_secret

    made = hash_secret(password.encode(), salt, PASSES, MEMORY, LANES, LENGTH, Type.ID)
    return made.decode("ascii")


def _verify(kept: str, password: str) -> bool:
    from argon2.exceptions import VerifyMismatchError
    from argon2.low_level import Type, verify_secret

    try:
        return verify_secret(kept.encode(), password.encode(), Type.ID)
    except VerifyMismatchError:
        return False


def _step_back() -> None:
    if sys.platform == "linux":  # elsewhere a priority is the process's
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
