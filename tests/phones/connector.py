"""The upload connector: what an app puts between an SDK's queue and Lowtide. The reference for all platforms.

It turns ``ps_crud`` into numbered batches and removes entries only after a 200. It has no timers and
no network: ask ``batch`` what to send, tell ``answered`` or nothing at all. A batch that got no
answer is asked for again and comes out with the same numbers, so that sending it twice is harmless.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from typing import Any

import apsw
import msgspec

MAX_MUTATIONS = 5_000
"""Mutations that the server takes in one batch, and in one transaction."""
MAX_BYTES = 16 * 1024 * 1024
"""Bytes of a body that the server takes."""
_ENVELOPE = 4096
"""Bytes left free for everything in a body that is not a transaction."""

SETUP = """
CREATE TABLE IF NOT EXISTS lowtide_stamp(crud_id INTEGER PRIMARY KEY, at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS lowtide_upload(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS lowtide_stamp_insert AFTER INSERT ON ps_crud BEGIN
    INSERT OR REPLACE INTO lowtide_stamp(crud_id, at) VALUES (NEW.id, {now});
END;
CREATE TRIGGER IF NOT EXISTS lowtide_stamp_delete AFTER DELETE ON ps_crud BEGIN
    DELETE FROM lowtide_stamp WHERE crud_id = OLD.id;
END;
"""
"""Run once after the schema is set. The trigger notes when each change was written: the queue itself
does not say. ``{now}`` is ``CAST(unixepoch('subsec') * 1000 AS INTEGER)`` in an app; a test sets a clock."""

_QUEUE = """
SELECT c.id, c.tx_id, CAST(c.data AS BLOB), s.at
FROM ps_crud c LEFT JOIN lowtide_stamp s ON s.crud_id = c.id
ORDER BY c.id
"""


class Verdict(enum.Enum):
    """What the caller does next."""

    DONE = "the entries are gone from the queue; ask for the next batch"
    AGAIN = "the batch was changed; send it now"
    LATER = "send the same batch after a pause that grows and has a random part"
    TOKEN = "fetch a new token, then send the same batch"


class Upload(msgspec.Struct, frozen=True):
    """One batch, ready to send."""

    first: int
    last: int
    body: bytes
    transactions: int


class Connector:
    """The upload queue of one device database, as batches."""

    def __init__(
        self,
        database: apsw.Connection,
        *,
        now: Callable[[], int],
        lineage: Callable[[], str],
        max_mutations: int = MAX_MUTATIONS,
        max_bytes: int = MAX_BYTES,
    ):
        """``now`` is the device's clock in ms, ``lineage`` gives a random name. Never raise the limits."""
        self._database = database
        self._now = now
        self._new_lineage = lineage
        self._max_mutations = max_mutations
        self._max_bytes = max_bytes
        self._transactions = max_mutations
        self._gap = False
        self._unreadable: set[int] = set()

    def batch(self) -> Upload | None:
        """The next batch; None when the queue is empty. The same again until ``answered`` says otherwise
        (new local writes may join at its end: the numbers keep that harmless)."""
        client_id, lineage = self._identity()
        transactions: list[msgspec.Raw] = []
        mutations = size = first = last = 0
        for entries in self._queued():
            one = self._transaction(entries)
            over = mutations + len(entries) > self._max_mutations or size + len(one) > self._max_bytes
            if transactions and (over or len(transactions) >= self._transactions):
                break
            transactions.append(one)
            mutations += len(entries)
            size += len(one) + 1
            first, last = first or entries[0][0], entries[-1][0]
        if not transactions:
            return None
        body: dict[str, Any] = {"client_id": client_id, "sent_at": self._now(), "transactions": transactions}
        if lineage:
            body["lineage"] = lineage
        if self._gap:
            body["gap"] = True
        return Upload(first, last, msgspec.json.encode(body), len(transactions))

    def answered(self, upload: Upload, status: int, body: bytes) -> Verdict:
        """Take the server's answer to ``upload``. Entries leave the queue only here, and only for a 200."""
        if status == 200 and _field(body, "last", 0) >= upload.last:
            with self._database:
                self._database.execute("DELETE FROM ps_crud WHERE id <= ?", (upload.last,))
                # Holds downloads back until a checkpoint that has this batch in it.
                self._database.execute(
                    "SELECT powersync_control('target_checkpoint_request_id', ?)", (str(2**63 - 1),)
                ).fetchall()
            self._gap = False
            self._transactions = min(self._max_mutations, self._transactions * 2)
            self._unreadable.clear()
            return Verdict.DONE
        code = _field(body, "code", "")
        if status == 401:
            return Verdict.TOKEN
        if status == 409 and code == "batch_gap" and _field(body, "expected", 0) < upload.first:
            # The entries between were discarded on this device, by signing out for example.
            self._gap = True
            return Verdict.AGAIN
        if status == 409 and code == "batch_repeated":
            # This database was copied or restored: its numbers have meant something else before. What it
            # held then may have been uploaded by the other, and is not sent again.
            with self._database:
                self._database.execute("DELETE FROM ps_crud WHERE id <= ?", (_field(body, "known", 0),))
                self._set_lineage(self._new_lineage())
            return Verdict.AGAIN
        if status in (400, 413, 422):
            # Something in here is beyond the server. Halve, until the one transaction at fault is alone;
            # then report that one as refused instead of blocking all that wait behind it.
            if upload.transactions > 1:
                self._transactions = upload.transactions // 2
            elif upload.first in self._unreadable:
                return Verdict.LATER
            else:
                self._unreadable.add(upload.first)
            return Verdict.AGAIN
        return Verdict.LATER

    def _identity(self) -> tuple[str, str]:
        row = self._database.execute(
            "SELECT powersync_client_id(), (SELECT value FROM lowtide_upload WHERE key = 'lineage')"
        ).fetchone()
        assert row is not None
        return str(row[0]), str(row[1] or "")

    def _set_lineage(self, lineage: str) -> None:
        with self._database:
            self._database.execute("INSERT OR REPLACE INTO lowtide_upload VALUES ('lineage', ?)", (lineage,))

    def _queued(self) -> Iterator[list[_Entry]]:
        """The queue, one local transaction after the other."""
        entries: list[_Entry] = []
        for n, transaction, data, at in self._database.execute(_QUEUE):
            entry = (int(n), transaction, bytes(data), at)
            if entries and entries[-1][1] != transaction:
                yield entries
                entries = []
            entries.append(entry)
        if entries:
            yield entries

    def _transaction(self, entries: list[_Entry]) -> msgspec.Raw:
        first, size = entries[0][0], sum(len(data) for _, _, data, _ in entries)
        if len(entries) <= MAX_MUTATIONS and size < MAX_BYTES and first not in self._unreadable:
            encoded = msgspec.json.encode({"mutations": [_mutation(entry) for entry in entries]})
            if len(encoded) < MAX_BYTES - _ENVELOPE:
                return msgspec.Raw(encoded)
        return msgspec.Raw(
            msgspec.json.encode({"oversized": {"n": entries[-1][0], "count": len(entries), "bytes": size}})
        )


_Entry = tuple[int, Any, bytes, Any]
"""n, the local transaction's id, the change as JSON text, when it was written."""


def _mutation(entry: _Entry) -> dict[str, Any]:
    n, _, data, at = entry
    change = msgspec.json.decode(data.decode("utf-8", "replace"))
    mutation: dict[str, Any] = {
        "n": n,
        "op": change["op"].lower(),
        "model": change["type"],
        "id": change["id"],
    }
    if "data" in change:
        mutation["data"] = change["data"]
    if change.get("old") is not None:
        mutation["base"] = change["old"]
    if at is not None:
        mutation["at"] = at
    if change.get("metadata") is not None:
        mutation["metadata"] = change["metadata"]
    return mutation


def _field(body: bytes, name: str, default: Any) -> Any:
    try:
        value = msgspec.json.decode(body).get(name, default)
    except (msgspec.DecodeError, AttributeError):
        return default
    return value if isinstance(value, type(default)) else default
