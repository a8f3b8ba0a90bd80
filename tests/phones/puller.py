"""Who follows the server without a client core: a script by plain pulls, and apps of other databases."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import msgspec

from lowtide.bridges.rxdb import NO_RECORD
from lowtide.bridges.store import VIEW_NUMBERS
from tests.phones.checker import Seat
from tests.phones.history import OPS_PER_GROUP


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


class Watermelon:
    """An app with WatermelonDB, as far as it pulls: all tables at once, in pages that it puts together."""

    def __init__(self, seat: Seat, tables: list[str]):
        self.seat = seat
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}
        self.head = 0
        self._tables = tables
        self._pulled: int | None = None
        self._next: str | None = None
        self._changes: dict[tuple[str, str], dict[str, Any] | None] = {}

    def ask(self) -> bytes:
        """The body to post to ``/v1/bridges/watermelondb/pull``."""
        body = {"client_id": "melon", "tables": self._tables, "last_pulled_at": self._pulled}
        return msgspec.json.encode({**body, "next": self._next})

    def take(self, answer: bytes) -> bool:
        """Apply a page; whether it was the last."""
        page = msgspec.json.decode(answer)
        if page.get("restart"):
            self._changes = {}
        for table, changes in page["changes"].items():
            for row in changes["updated"]:
                data = {name: value for name, value in row.items() if name not in ("id", "lowtide_op")}
                self._changes[(table, row["id"])] = data
            self._changes.update(((table, id), None) for id in changes["deleted"])
        self._next = page.get("next")
        if self._next is not None:
            return False
        kept = {} if page.get("experimentalStrategy") == "replacement" else self.rows
        rows = {**kept, **self._changes}
        self.rows = {key: data for key, data in rows.items() if data is not None}
        self._changes = {}
        self._pulled = page["timestamp"]
        self.head = (page["timestamp"] - 1) // VIEW_NUMBERS
        return True


class Rx:
    """An app with RxDB, as far as it pulls one collection: each page is kept at once, with its checkpoint."""

    def __init__(self, seat: Seat, model: str):
        self.seat = seat
        self.model = model
        self.versions: dict[str, int] = {}
        """By id, the group that wrote what it has."""
        self.head = 0
        self._checkpoint: dict[str, Any] = {}

    def ask(self, limit: int) -> str:
        """The path to get; with the header ``X-Lowtide-Client``."""
        query = urlencode({**self._checkpoint, "limit": limit})
        return f"/v1/bridges/rxdb/{self.model}/0/pull?{query}"

    def take(self, answer: bytes, limit: int) -> bool:
        """Apply a page; whether it was the last."""
        page = msgspec.json.decode(answer)
        for document in page["documents"]:
            if document["_deleted"]:
                self.versions.pop(document["id"], None)
            elif document["id"] != NO_RECORD:
                self.versions[document["id"]] = int(document["lowtide_version"]) // OPS_PER_GROUP
        if page["documents"]:
            self._checkpoint = page["checkpoint"]
        self.head = (page["checkpoint"]["lwt"] - 1) // VIEW_NUMBERS
        return len(page["documents"]) < limit

    def begin_anew(self) -> None:
        """The server cannot go on from the checkpoint: all is pulled again into an empty collection."""
        self.versions, self._checkpoint = {}, {}
