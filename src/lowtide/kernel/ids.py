"""Ids and randomness, injected so that a seed replays a run."""

from __future__ import annotations

import os
import random
import secrets
import threading
from typing import Protocol

from lowtide.kernel.clock import Clock


class Ids(Protocol):
    """Where ids and random numbers come from."""

    def uuid(self) -> str:
        """A version 7 UUID (RFC 9562): its order is its time, to the millisecond."""
        ...

    def token(self) -> str:
        """128 random bits as 32 hexadecimal digits."""
        ...

    def jitter(self, low: float, high: float) -> float:
        """A number between ``low`` and ``high``; not for secrets."""
        ...


class SystemIds:
    """Ids from the operating system's random source. Safe to call from several threads."""

    def __init__(self, clock: Clock):
        self._clock = clock

    def uuid(self) -> str:
        return uuid7(self._clock.now(), int.from_bytes(os.urandom(10)) >> 6)

    def token(self) -> str:
        return secrets.token_hex(16)

    def jitter(self, low: float, high: float) -> float:
        return random.uniform(low, high)  # noqa: S311 - spreads retries, guards nothing


class SeededIds:
    """The same ids for the same seed: for tests and replays only."""

    def __init__(self, clock: Clock, seed: int = 0):
        self._clock = clock
        self._random = random.Random(seed)  # noqa: S311
        self._lock = threading.Lock()

    def uuid(self) -> str:
        with self._lock:
            return uuid7(self._clock.now(), self._random.getrandbits(74))

    def token(self) -> str:
        with self._lock:
            return f"{self._random.getrandbits(128):032x}"

    def jitter(self, low: float, high: float) -> float:
        with self._lock:
            return self._random.uniform(low, high)


def uuid7(milliseconds: int, bits: int) -> str:
    """RFC 9562 section 5.7: 48 bits of time, version 7, 74 random ``bits``."""
    value = (milliseconds & 0xFFFF_FFFF_FFFF) << 80 | 0x7 << 76 | (bits >> 62 & 0xFFF) << 64
    value |= 0b10 << 62 | (bits & 0x3FFF_FFFF_FFFF_FFFF)
    h = f"{value:032x}"
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"
