"""Faults to plant into the server, each a mistake that somebody could make. The checker must catch them all.

A checker that has never seen a broken server proves nothing. The faults change the product's code in
memory, for the length of one run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import msgspec

from lowtide.storage.db import Query
from lowtide.sync import attempt, download, fields, hub, merge, receipts, store, streams, view, writer
from lowtide.sync.buckets import BucketPlace
from lowtide.sync.fields import Merged

FAULTS: dict[str, Callable[[], Any]] = {}
"""Name -> a context manager that plants it."""


def planted(name: str) -> Any:
    """The fault of that name; the empty name is none."""
    return FAULTS[name]() if name else contextlib.nullcontext()


def fault(plant: Callable[[], Iterator[None]]) -> Callable[[], Iterator[None]]:
    FAULTS[plant.__name__] = contextlib.contextmanager(plant)
    return plant


@contextlib.contextmanager
def _statement(name: str, before: str, after: str) -> Iterator[None]:
    query = store.QUERIES[name]
    assert before in query.sqlite, f"{name} has changed: {query.sqlite}"
    changed = Query(query.name, query.sqlite.replace(before, after), query.postgres)
    with mock.patch.dict(store.QUERIES._queries, {name: changed}):
        yield


@fault
def skipping_cursor() -> Iterator[None]:
    """A page that goes on after another begins one entry too late."""
    with _statement("page", "LIMIT ?4", "LIMIT ?4 OFFSET (?3 > 0)"):
        yield


@fault
def dropped_tombstone() -> Iterator[None]:
    """A removal is not sent to devices that hold the row."""
    with _statement("page", "e.op > ?3", "e.op > ?3 AND e.removed = 0"):
        yield


@fault
def baseline_in_server_state() -> Iterator[None]:
    """The server goes on where it stopped sending, whatever the device says that it received."""
    sent: dict[tuple[str, str], BucketPlace] = {}
    settle, send_data = view.Views._settle, download.Download._send_data

    async def remember(self: Any, outlet: Any, changed: Any, alone: bool) -> bool:
        try:
            return await send_data(self, outlet, changed, alone)
        finally:
            for topic, place in self._view.places.items():
                sent[(self._request.client_id, topic)] = place

    async def recall(self: Any, tx: Any, view: Any, before: Any) -> Any:
        places = await settle(self, tx, view, before)
        if before is None:
            for topic in places:
                place = sent.get((self._request.client_id, topic))
                places[topic] = place if place is not None and place.last else places[topic]
        return places

    with (
        mock.patch.object(view.Views, "_settle", recall),
        mock.patch.object(download.Download, "_send_data", remember),
    ):
        yield


@fault
def lost_dedupe_row() -> Iterator[None]:
    """What was applied of a device is not kept, so that a repeat is applied again."""
    with _statement("upsert_answer", "answers = excluded.answers", "answers = device.answers"):
        yield


@fault
def forgotten_lineage() -> Iterator[None]:
    """Only the latest lineage of a device is remembered: a late batch of an older one is applied again."""
    with mock.patch.object(receipts, "MAX_LINEAGES", 1):
        yield


@fault
def silent_loser() -> Iterator[None]:
    """A value that loses a conflict does not reach the journal."""
    with mock.patch.object(attempt.Attempt, "_lose", return_value=None):
        yield


@fault
def ignored_revocation() -> Iterator[None]:
    """A connected device is not told that its user holds other keys now."""
    with mock.patch.object(writer, "lookup_topic", return_value="nobody listens"):
        yield


@fault
def early_checkpoint() -> Iterator[None]:
    """A checkpoint is called complete when the first bucket is."""
    send_data = download.Download._send_data

    async def hasty(self: Any, outlet: Any, changed: Any, alone: bool) -> bool:
        now = self._view
        behind = [t for t in now.held if t in now.places and now.places[t].last != now.buckets[t].last]
        only = {topic: now.buckets[topic] for topic in behind[:1]}
        return await send_data(self, outlet, only, alone)

    with mock.patch.object(download.Download, "_send_data", hasty):
        yield


@fault
def early_write_checkpoint() -> Iterator[None]:
    """A device is told that a checkpoint has its uploads before that is so."""
    with mock.patch.object(download.Download, "_write_checkpoint", return_value=str(2**62)):
        yield


@fault
def counter_takes_the_latest() -> Iterator[None]:
    """An increment overwrites those that it did not know of."""

    def latest(field: Any, base: Any, mine: Any, theirs: Any, later: bool, context: Any) -> Merged:
        return Merged(mine)

    with mock.patch.dict(fields._RULES, {"counter": latest}):
        yield


@fault
def split_transaction() -> Iterator[None]:
    """The mutations of a local transaction become separate ones, in groups of their own."""
    apply = writer.Writer.apply

    async def one_by_one(self: Any, batch: Any) -> Any:
        if batch.upload is None:
            return await apply(self, batch)
        digests = dict(zip(batch.upload.numbers, batch.upload.digests, strict=True))
        applied = []
        for transaction in batch.transactions:
            for mutation in transaction.mutations:
                upload = msgspec.structs.replace(
                    batch.upload, numbers=[mutation.n], digests=[digests[mutation.n]]
                )
                alone = msgspec.structs.replace(transaction, mutations=[mutation])
                part = msgspec.structs.replace(batch, transactions=[alone], upload=upload)
                applied.append(await apply(self, part))
        results = [result for part in applied for result in part.results]
        return msgspec.structs.replace(applied[-1], results=results)

    with mock.patch.object(writer.Writer, "apply", one_by_one):
        yield


@fault
def forgotten_rejection() -> Iterator[None]:
    """A refused mutation is dropped without a word."""
    with mock.patch.object(merge.Merge, "reject", return_value=None):
        yield


@fault
def stale_listener() -> Iterator[None]:
    """A stream that sleeps through several commits hears of the last one only."""

    def poke(self: Any, group: int, topic: Any, bucket: Any) -> None:
        self.group = max(self.group, group)
        self.buckets = {}
        if topic is not None and bucket is not None:
            self.buckets[topic] = bucket
        else:
            self.full = True
        self.wake()

    with mock.patch.object(hub.Listener, "poke", poke):
        yield


@fault
def leaking_stream() -> Iterator[None]:
    """A stream that asks for a parameter does not look whether the user holds that key."""
    keys = streams.Streams._keys

    def unguarded(self: Any, principal: Any, wanted: Any, holdings: Any, *rest: Any) -> Any:
        if hasattr(wanted, "within"):
            wanted = msgspec.structs.replace(wanted, within=None)
        return keys(self, principal, wanted, holdings, *rest)

    with mock.patch.object(streams.Streams, "_keys", unguarded):
        yield


@fault
def unraised_floor() -> Iterator[None]:
    """Removals are forgotten, but who has not heard of them keeps the bucket."""
    with _statement("raise_floor", "WHERE ", "WHERE FALSE AND "):
        yield


@fault
def restored_without_an_epoch() -> Iterator[None]:
    """After a restoration, devices that saw what is gone go on as if it were not."""
    with _statement("begin_epoch", "WHERE ", "WHERE FALSE AND "):
        yield


@fault
def spaces_leak() -> Iterator[None]:
    """A row is looked up without its space."""
    with _statement("page", "r.space = ?1 AND", "?1 = ?1 AND"):
        yield


@fault
def floor_that_comes_with_news() -> Iterator[None]:
    """What was forgotten while a stream stood still is not looked for when news of the bucket come."""
    with mock.patch.object(download.Download, "_forgotten", return_value=False):
        yield
