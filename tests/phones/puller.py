"""A script that follows the server by plain pulls, for the user whom it stands for."""

from __future__ import annotations

from typing import Any

import msgspec

from tests.phones.checker import Seat


class Puller:
    """Keeps what the pages said, bucket by bucket."""

    def __init__(self, seat: Seat):
        self.seat = seat
        self.head = 0
        """The head of the last page that was complete."""
        self._cursor: str | None = None
        self._buckets: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}

    def ask(self, limit: int) -> bytes:
        """The body to post to ``/v1/sync/pull``."""
        return msgspec.json.encode({"cursor": self._cursor, "limit": limit})

    def take(self, answer: bytes) -> bool:
        """Apply a page; whether nothing is missing at its head."""
        page = msgspec.json.decode(answer)
        for row in page["rows"]:
            rows = self._buckets.setdefault(row["bucket"], {})
            if row["data"] is None:
                rows.pop((row["model"], row["id"]), None)
            else:
                rows[(row["model"], row["id"])] = row["data"]
        for name in page["removed_buckets"]:
            self._buckets.pop(name, None)
        self._cursor = page["cursor"]
        if page["complete"]:
            self.head = int(page["head"])
        return bool(page["complete"])

    def rows(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Every row, by (model, id)."""
        return {key: row for rows in self._buckets.values() for key, row in rows.items()}
