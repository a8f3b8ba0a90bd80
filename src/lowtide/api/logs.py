"""What the edge writes to the log: JSON, one line an event, never a token, a query or a body.

The access log names the route's *template* and not the path, which may hold ids. Errors of the server
and slow answers are always written, successes are sampled, and refusals are written up to a number a
second, so that an attack cannot fill the disk; the next line says how many were left out.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from lowtide.kernel.clock import Clock
from lowtide.kernel.ids import Ids

ACCESS = logging.getLogger("lowtide.access")
ERRORS = logging.getLogger("lowtide.api")

REFUSALS_A_SECOND = 50


class JsonLines(logging.Formatter):
    """A log record as one line of JSON: time, level, logger, message, ``extra["fields"]``, traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode("utf-8", "replace")


class AccessLog:
    """Says which requests were answered, how, and in what time."""

    def __init__(self, clock: Clock, ids: Ids, *, sample: float = 0.01, slow: float = 1.0):
        """``sample``: the share of successes that is written. ``slow``: seconds that always earn a line."""
        self._clock = clock
        self._ids = ids
        self._sample = sample
        self._slow = slow
        self._second = 0
        self._refusals = 0
        self._left_out = 0

    def wants(self, status: int, seconds: float) -> bool:
        """Whether an answer deserves a line; counts it when not."""
        if status >= 500 or seconds >= self._slow:
            return True
        if status >= 400:
            second = self._clock.now() // 1000
            if second != self._second:
                self._second, self._refusals = second, 0
            self._refusals += 1
            if self._refusals <= REFUSALS_A_SECOND:
                return True
            self._left_out += 1
            return False
        return self._sample >= 1 or (self._sample > 0 and self._ids.jitter(0, 1) < self._sample)

    def write(self, fields: Mapping[str, Any]) -> None:
        """Write one line."""
        if self._left_out:
            fields = {**fields, "left_out": self._left_out}
            self._left_out = 0
        ACCESS.info("request", extra={"fields": fields})
