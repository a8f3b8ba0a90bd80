"""Jobs, and what is known about the kinds of them."""

from __future__ import annotations

import re
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec

from lowtide.kernel.errors import Malformed, TooLarge
from lowtide.kernel.ids import Ids

Status = Literal["waiting", "running", "done", "dead"]
"""A job waits (for its first run or another), runs under a lease, and ends done or dead."""

MAX_PAYLOAD = 1_048_576
"""Bytes of a payload's JSON: room for a record as it was and as it is."""
MAX_KEY = 500
"""Characters."""
MAX_ERROR = 4_000
"""Characters of an error's text that are kept."""
NAME = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
"""What a kind or a queue may be called."""

BACKOFF_FIRST, BACKOFF_MOST = 2.0, 3_600.0
"""Seconds: the first retry comes within the one, no retry waits longer than the other."""


class Hopeless(Exception):
    """A handler's word that no further attempt can succeed: its job is dead at once."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One job, as it was when it was read. Times are milliseconds since 1970."""

    id: str
    """The same over all attempts: what a handler gives to others as its idempotency key."""
    queue: str
    kind: str
    key: str | None
    payload: str
    """JSON."""
    status: Status
    due_at: int
    """When a worker may take it: its time if it waits, the end of its lease if it runs."""
    attempt: int
    """Runs begun; 1 during the first."""
    max_attempts: int
    fence: int
    """Grows with every lease: whoever holds an older one has lost the job."""
    worker: str | None
    """Who took it last."""
    error: str | None
    """The last failure's text."""
    created_at: int
    finished_at: int | None


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """How many jobs of a queue and kind have a status, and the earliest time that one of them is due."""

    queue: str
    kind: str
    status: Status
    count: int
    due_at: int


class Handler(msgspec.Struct, frozen=True, kw_only=True):
    """What runs the jobs of a kind."""

    kind: str
    call: Callable[[Job, Any], Awaitable[None]]
    decode: Callable[[str], Any]
    deadline: float
    """Seconds of one run."""


def backoff(attempt: int, ids: Ids) -> float:
    """Seconds until the attempt after number ``attempt``: exponential, with full jitter.

    Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    return ids.jitter(0, min(BACKOFF_MOST, BACKOFF_FIRST * 2 ** min(attempt - 1, 30)))


def encode(payload: Any) -> str:
    """A payload's JSON. ``Malformed`` for text or numbers that JSON cannot hold, or ``TooLarge``."""
    try:
        encoded = msgspec.json.encode(payload)
    except (UnicodeEncodeError, OverflowError, RecursionError) as error:
        raise Malformed(f"A job's payload cannot be written as JSON: {error}.") from error
    if len(encoded) > MAX_PAYLOAD:
        raise TooLarge(
            f"A job's payload of {len(encoded)} bytes is more than the queue takes ({MAX_PAYLOAD}).",
            hint="Store the content, and let the payload say where it is.",
            limit=MAX_PAYLOAD,
        )
    return encoded.decode()


def check_name(what: str, name: str) -> None:
    """Raise ``ValueError`` if a kind or a queue cannot be called ``name``."""
    if NAME.fullmatch(name) is None:
        raise ValueError(f"a {what} is 1 to 100 letters, digits or any of _.:- and not {name[:150]!r}")


def check_key(key: str | None) -> None:
    """Raise ``Malformed`` for a key that is empty, long, or holds characters that cannot be shown."""
    if key is not None and not (0 < len(key) <= MAX_KEY and key.isprintable()):
        raise Malformed(f"A job's key is 1 to {MAX_KEY} printable characters.")


def describe(error: BaseException) -> str:
    """What is kept of a failure: its message, and the last places it passed."""
    message = "".join(traceback.format_exception_only(error)).strip()
    places = "".join(traceback.format_tb(error.__traceback__, limit=-5))
    return clean(f"{message[: MAX_ERROR // 2]}\n{places[-MAX_ERROR // 2 + 1 :]}".strip())


def clean(text: str) -> str:
    """``text`` as every database stores it: no NUL, no lone surrogate, bounded."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()[:MAX_ERROR]
