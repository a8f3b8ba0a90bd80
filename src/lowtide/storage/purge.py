"""Forgetting what has had its time, without holding anybody up."""

from __future__ import annotations

from typing import Any

from lowtide.storage.db import Database, Query

AT_ONCE = 500
"""Rows that one transaction removes; some are 64 KiB."""


async def purge(database: Database, query: Query, *parameters: Any) -> int:
    """Run ``query`` until it finds nothing more; how many rows went. Short transactions, safe to run twice.

    It deletes as many rows as its last parameter says, and returns them. Raises as ``Database.write``.
    """
    total, removed = 0, AT_ONCE
    while removed == AT_ONCE:
        removed = len(await database.write(lambda tx: tx.fetch(query, *parameters, AT_ONCE)))
        total += removed
    return total
