"""The values of webhooks: an endpoint, what became of the tries to reach it, a message on its way."""

from __future__ import annotations

import msgspec


class Message(msgspec.Struct, frozen=True):
    """A message on its way, as a job's payload."""

    endpoint: str
    id: str
    event: str
    body: str


class Trouble(msgspec.Struct, frozen=True):
    """A message about a record that failed, or was given up."""

    record: str
    """``space/model/id``: what comes later about it waits."""
    event: str
    attempt: int
    """Tries so far."""
    error: str
    """What the last one said; of a dead message why it is dead."""
    dead: bool
    """It is not tried again, unless ``replay`` sends it."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where events are sent."""

    id: str
    url: str
    events: list[str]
    """``user.create``, or ``user.*`` for all of a kind, or ``*``."""
    enabled: bool
    reason: str
    """Why it was switched off."""
    failing_since: int | None
    """Milliseconds since 1970: nothing has arrived since then."""
    created_at: int
    models: list[str] = []
    """Whose records' changes it hears of; ``*`` is all."""
    spaces: list[str] = []
    """In which spaces; empty: in all."""
    data: bool = False
    """Do messages hold the record, and what it was before?"""
    waiting: int = 0
    """Messages about records on their way."""
    dead: int = 0
    """Messages about records that were given up; ``replay`` sends them again."""
    troubles: list[Trouble] = []
    """Some of those that failed: first what waits, the longest pauses first, then the latest dead."""


class Try(msgspec.Struct, frozen=True):
    """One try to deliver a message."""

    message: str
    event: str
    attempt: int
    status: int
    """Of the answer; 0: there was none."""
    error: str
    milliseconds: int
    at: int
