"""The plain pull: pages of rows for servers and scripts that have no client core.

The cursor holds all evidence of what the caller has, as a device's request does, so the server keeps
nothing. Rows are those that the user receives; a page that is ``complete`` ends at one consistent head.
"""

from __future__ import annotations

import base64

import msgspec

from lowtide.kernel.errors import Malformed
from lowtide.kernel.schema import Principal, Schema
from lowtide.storage.db import Database, Row, Tx
from lowtide.sync import buckets, store
from lowtide.sync.model import Bucket
from lowtide.sync.segments import PAGE_BYTES, read_page
from lowtide.sync.streams import Streams

MAX_ROWS = 1_000
MAX_CURSOR = 3 * 1024 * 1024
"""Characters: the names of as many buckets as a user may hold, each as long as one may be."""

NO_DEVICE = ""
"""A pull is of no device: it receives no device's own rows."""


class PullRequest(msgspec.Struct, frozen=True):
    """``cursor``: of the page before; None to begin."""

    cursor: str | None = None
    limit: int = 500


class PulledRow(msgspec.Struct, frozen=True):
    bucket: str
    model: str
    id: str
    data: msgspec.Raw | None
    """None: the row has left the bucket."""


class PullAnswer(msgspec.Struct, frozen=True):
    """A page. Apply its rows, drop the rows of ``removed_buckets``, keep the cursor."""

    rows: list[PulledRow]
    removed_buckets: list[str]
    cursor: str
    complete: bool
    """Nothing is missing at ``head``. False: ask again at once."""
    head: str


_Cursor = dict[str, int]
_decode_cursor = msgspec.json.Decoder(_Cursor).decode


async def pull(
    database: Database, schema: Schema, streams: Streams, principal: Principal, request: PullRequest
) -> PullAnswer:
    """The page after ``request.cursor``. Raises ``Malformed`` for a cursor that is not ours."""
    evidence = _read_cursor(request.cursor)
    by_stem: dict[str, list[str]] = {}
    for name in evidence:
        by_stem.setdefault(name.rpartition("@")[0], []).append(name)
    limit = max(1, min(request.limit, MAX_ROWS))

    async def read(tx: Tx) -> PullAnswer:
        head = await store.read_head(tx)
        who = (principal.space, principal.user)
        holdings = await store.read_holdings(tx, schema, streams.lookups, [who])
        held = streams.held(principal, NO_DEVICE, holdings[who], True, ())
        found = await store.read_buckets(tx, [h.topic for h in held])
        rows: list[PulledRow] = []
        after: _Cursor = {}
        complete = True
        size = 0
        for one in held:
            bucket = found.get(one.topic)
            if bucket is None:
                continue
            names = by_stem.get(one.topic.partition("/")[2], [])
            name, place = _place(evidence, names, one.topic, bucket, head)
            room = limit - len(rows) if size < PAGE_BYTES else 0
            page: list[Row] = []
            if room:
                space = one.topic.partition("/")[0]
                page = await read_page(tx, space, bucket.id, place, room)
            size += sum(len(row[4] or "") for row in page)
            rows.extend(
                PulledRow(name, model, id, None if removed else msgspec.Raw(data.encode()))
                for _, model, id, removed, data in page
            )
            if (page and page[-1][0] < bucket.last) or (not page and not room and place < bucket.last):
                complete = False
                after[name] = page[-1][0] if page else place
            else:
                after[name] = head.op
        gone = [name for name in evidence if name not in after]
        return PullAnswer(rows, gone, _write_cursor(after), complete, str(head.group))

    return await database.read(read)


def _place(
    evidence: _Cursor, names: list[str], topic: str, bucket: Bucket, head: store.Head
) -> tuple[str, int]:
    for name in names:
        if buckets.keeps(name, evidence[name], topic, bucket, head.epoch, 0, head.op):
            return name, evidence[name]
    return buckets.name_of(topic, bucket, head.epoch, 0), 0


def _read_cursor(cursor: str | None) -> _Cursor:
    if cursor is None:
        return {}
    if len(cursor) > MAX_CURSOR:
        raise Malformed("the cursor is longer than any that was given out")
    try:
        return _decode_cursor(base64.urlsafe_b64decode(cursor.encode()))
    except (ValueError, msgspec.DecodeError):
        raise Malformed("this is not a cursor that was given out") from None


def _write_cursor(after: _Cursor) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(after)).decode()
