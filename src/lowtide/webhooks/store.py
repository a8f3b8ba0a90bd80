"""Endpoints as they are kept."""

from __future__ import annotations

import msgspec

from lowtide.kernel.errors import NotFound
from lowtide.storage.db import Row, Tx, load_queries
from lowtide.webhooks.model import Endpoint, Trouble

QUERIES = load_queries("lowtide.webhooks")

MAX_TROUBLES = 5
"""Messages that failed which are named of an endpoint."""


async def read_endpoint(tx: Tx, id: str) -> Endpoint:
    """One endpoint, without what waits for it. Raises ``NotFound``."""
    rows = await tx.fetch(QUERIES["endpoint"], id)
    if not rows:
        raise NotFound("There is no such webhook.")
    return _endpoint(rows[0])


async def listed(tx: Tx) -> list[Endpoint]:
    """Every endpoint, the oldest first, with what waits for it and what failed.

    Two statements, and one for each endpoint for which anything waits or is dead.
    """
    counts = {(id, dead): count for id, dead, count in await tx.fetch(QUERIES["counts"])}
    found = []
    for one in [_endpoint(row) for row in await tx.fetch(QUERIES["endpoints"])]:
        waiting, given_up = counts.get((one.id, 0), 0), counts.get((one.id, 1), 0)
        rows = await tx.fetch(QUERIES["troubles"], one.id, MAX_TROUBLES) if waiting or given_up else []
        troubles = [
            Trouble(record, event, attempt, error, bool(dead)) for record, event, attempt, error, dead in rows
        ]
        troubles.sort(key=lambda trouble: trouble.dead)
        found.append(
            msgspec.structs.replace(one, waiting=waiting, dead=given_up, troubles=troubles[:MAX_TROUBLES])
        )
    return found


def _endpoint(row: Row) -> Endpoint:
    id, url, events, _, _, _, enabled, reason, since, created, models, spaces, data = row
    return Endpoint(
        id=id,
        url=url,
        events=msgspec.json.decode(events),
        enabled=bool(enabled),
        reason=reason,
        failing_since=since,
        created_at=created,
        models=msgspec.json.decode(models),
        spaces=msgspec.json.decode(spaces),
        data=bool(data),
    )
