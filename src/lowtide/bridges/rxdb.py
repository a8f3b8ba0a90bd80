"""RxDB: the pull, push and pull stream of its HTTP replication.

A checkpoint is a cursor's number (``lwt``) and, between two pages, a place (``id``): the two values that
every client of that protocol sends back. A push brings the state that the client assumed the record to have:
the base.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from lowtide.bridges import store
from lowtide.bridges.documents import DELETED, Documents
from lowtide.bridges.pushes import Pushes
from lowtide.bridges.versions import check_schema
from lowtide.bridges.walk import Cursor, Outdated, WalkPage, WalkPlace, Walks, cursor_of, place_of, token_of
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import Malformed, NotFound, ResyncRequired, TooLarge
from lowtide.kernel.schema import Principal
from lowtide.sync import Sync
from lowtide.sync.uploads import MAX_SENT

MAX_BATCH = 1_000
"""Documents of one pull."""

BATCH_BYTES = 8 * 1024 * 1024
"""A pull ends early beyond this."""

MAX_NUMBER = 2**53 - 1

STALE = 86_400_000
"""Milliseconds after which a quiet client is given a newer checkpoint, so that its own is never too old."""

_encode = msgspec.json.Encoder().encode

NO_RECORD = "\u200blowtide"
"""An id that no record can have."""

NOTHING = msgspec.Raw(_encode({"id": NO_RECORD, DELETED: True}))
"""A document that never was. A client keeps it once, as one that is gone: it tells the app of no change, and
pushes nothing."""


class PullQuery(msgspec.Struct, frozen=True):
    """The client's checkpoint; empty, or 0, to begin."""

    lwt: Annotated[str, msgspec.Meta(max_length=16, pattern=r"^[0-9]*$")] = ""
    id: str = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_BATCH)] = 100


class RxdbCheckpoint(msgspec.Struct, frozen=True):
    """Where a client stands. Opaque."""

    id: str
    lwt: int


class Pulled(msgspec.Struct, frozen=True):
    """What is new, and where the client stands with it. Fewer documents than were asked for: that is all."""

    documents: list[msgspec.Raw]
    checkpoint: RxdbCheckpoint


class PushedRow(msgspec.Struct, frozen=True, rename="camel"):
    """A document as the user left it, and as the client believed the server to have it."""

    new_document_state: dict[str, Any]
    assumed_master_state: dict[str, Any] | None = None


class Rxdb:
    """Answers RxDB's calls."""

    def __init__(self, sync: Sync, walks: Walks, pushes: Pushes, clock: Clock, oldest: Mapping[str, int]):
        self._clock = clock
        self.sync = sync
        self.walks = walks
        self._pushes = pushes
        self._oldest = oldest
        self._documents = {name: Documents(model) for name, model in sync.schema.models.items()}

    def documents(self, model: str) -> Documents:
        """The model that an address names. Raises ``NotFound``."""
        found = self._documents.get(model)
        if found is None:
            raise NotFound(f"this app has no model {model[:64]!r}")
        return found

    def check(self, model: str, version: str) -> Documents:
        """As ``documents``, of a schema that is still served. Raises ``AppTooOld``, ``NotFound``."""
        documents = self.documents(model)
        if not version.isdecimal() or len(version) > 9:
            raise NotFound("a schema's version is a number")
        check_schema(self._oldest, f"rxdb/{model}", int(version))
        return documents

    async def pull(
        self, principal: Principal, client: str, model: str, version: str, asked: PullQuery
    ) -> Pulled:
        """What is new since the checkpoint. Raises ``ResyncRequired`` where that cannot be told any more, and
        as ``check`` and ``Walks.page``."""
        documents = self.check(model, version)
        begin = _begin(asked)
        found: list[msgspec.Raw] = []
        size = 0
        while True:
            page = await self.page(principal, client, model, begin, asked.limit - len(found))
            found += [documents.document(id, row) for (_, id), row in page.rows.items()]
            size += sum(len(bytes(one)) for one in found[len(found) - len(page.rows) :])
            if page.place is None or len(found) >= asked.limit or size > BATCH_BYTES:
                break
            begin = page.place
        if not found and isinstance(begin, Cursor) and await self._is_old(begin):
            # A client keeps a checkpoint only with a document. This one says that nothing is gone.
            found = [NOTHING]
        if page.place is not None:
            # Fewer than were asked for would say that nothing is left: the client counts, and takes the same
            # document twice without harm.
            found += [NOTHING] * (asked.limit - len(found))
        return Pulled(found, checkpoint_of(page))

    async def _is_old(self, cursor: Cursor) -> bool:
        at = await self.sync.database.read(lambda tx: store.group_at(tx, cursor.group))
        return at is None or at < self._clock.now() - STALE

    async def page(
        self, principal: Principal, client: str, model: str, begin: Cursor | WalkPlace | None, limit: int
    ) -> WalkPage:
        """A page of one model. Raises ``ResyncRequired``, and as ``Walks.page``."""
        try:
            return await self.walks.page(principal, client, [model], begin, limit, echo=False)
        except Outdated:
            raise ResyncRequired from None

    async def push(
        self, principal: Principal, client: str, model: str, rows: list[PushedRow], request: str
    ) -> list[msgspec.Raw]:
        """Apply what the user did; the documents that are not as the client has them now.

        Those are what others' changes made of them, or what a refusal left, which is a row of
        ``lowtide_rejections``, too. Raises ``Malformed``, ``NotFound``, ``TooLarge``, as ``Pushes.apply``.
        """
        documents = self.documents(model)
        if len(rows) > MAX_SENT:
            raise TooLarge(f"{len(rows)} changes at once; {MAX_SENT} are allowed", limit=MAX_SENT)
        # A client that was killed while it wrote a page may push what it had not noted as pulled.
        rows = [row for row in rows if row.new_document_state.get("id") != NO_RECORD]
        claims = [documents.claim(row.assumed_master_state, row.new_document_state) for row in rows]
        outcome = await self._pushes.apply(principal, client, claims, None, self.walks.rows, request=request)
        conflicts: dict[str, msgspec.Raw] = {}
        for row, claim in zip(rows, claims, strict=True):
            name = (claim.model, claim.id)
            now = outcome.rows.get(name)
            if name in outcome.refused or not documents.agrees(row.new_document_state, now):
                conflicts[name[1]] = documents.document(name[1], now)
        return list(conflicts.values())


def checkpoint_of(page: WalkPage) -> RxdbCheckpoint:
    """Where a client stands that has ``page``."""
    return RxdbCheckpoint("" if page.place is None else token_of(page.place), page.cursor.number)


def _begin(asked: PullQuery) -> Cursor | WalkPlace | None:
    if asked.id:
        return place_of(asked.id)
    number = int(asked.lwt or "0")
    if number > MAX_NUMBER:
        raise Malformed("This is no checkpoint that was given out.")
    return cursor_of(number) if number else None
